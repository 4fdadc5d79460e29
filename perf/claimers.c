/*
 * Many claimers on one ring, in C: what the protocol itself costs, without Python around it. `perf scaling` builds it
 * from the shipped files, also with another layout, and with -DRQ_HARNESS to count looks and lost claims.
 *
 *   claimers WORKERS TASKS  ->  "NS PARENT_CPU_NS WORKERS_CPU_NS LOOKS LOST SLEEPS"
 */
#include "parent.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

#define SLOTS 4096u
#define PUBLISH_MAX 256u
#define GATHER_MS 1
#define LOOK_MS 250

static const struct rq_identity identity = {.uuid = "perf", .epoch = 1, .nonce = 1};

static struct counts { /* in memory shared with the workers, who add what they have counted when they leave */
    _Atomic uint64_t looks, lost, sleeps;
} *counts;
static uint64_t looks, lost, sleeps;

#ifdef RQ_HARNESS
void rq_point(const char *name)
{
    looks += strcmp(name, "claim.look") == 0;
    lost += strcmp(name, "claim.lost") == 0;
}
#endif

static void require(bool holds, const char *what)
{
    if (!holds) {
        perror(what);
        exit(1);
    }
}

static uint64_t cpu_ns(int who)
{
    struct rusage used;
    getrusage(who, &used);
    return (uint64_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000000u +
           (uint64_t)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1000u;
}

static void work(unsigned char *segment, const struct rq_geometry *g, uint32_t index, int eventfd)
{
    char why[RQ_WHY_BYTES], payload[RQ_PAYLOAD_INLINE_BYTES_MAX];
    struct rq_claimed claimed;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct rq_worker *worker = rq_worker_new(segment, g, index, eventfd, why);
    require(worker != NULL, why);
    while (!rq_stopping(worker)) {
        if (rq_claim(worker, &claimed) != RQ_OK) {
            sleeps++;
            rq_claim_wait(worker, UINT64_C(1000000000));
            continue;
        }
        require(rq_claim_payload(worker, payload) == RQ_OK && rq_start(worker) == RQ_OK, "claim");
        require(rq_finish(worker, 10, 0, payload, claimed.payload_bytes, false) == RQ_OK, "finish");
    }
    atomic_fetch_add(&counts->looks, looks);
    atomic_fetch_add(&counts->lost, lost);
    atomic_fetch_add(&counts->sleeps, sleeps);
    _exit(0);
}

/* Publish, drain and free `tasks` no-ops as perf/claimer.py does: receipts gather while enough is READY. */
static void cycle(struct rq_parent *parent, uint64_t tasks, int eventfd)
{
    struct pollfd ready = {.fd = eventfd, .events = POLLIN};
    struct rq_task batch[PUBLISH_MAX];
    uint64_t sent = 0, ended = 0;
    while (ended < tasks) {
        struct rq_row row;
        uint64_t before = ended;
        rq_drain_begin(parent);
        while (rq_drain_next(parent, &row) == RQ_TAKEN_ROW) {
            ended++;
        }
        rq_free(parent);
        uint32_t wanted, published = PUBLISH_MAX;
        while (sent < tasks && published == PUBLISH_MAX) {
            wanted = tasks - sent < PUBLISH_MAX ? (uint32_t)(tasks - sent) : PUBLISH_MAX;
            for (uint32_t i = 0; i < wanted; i++) {
                batch[i] = (struct rq_task){.task_id = (int64_t)(sent + i + 1), .payload = "{\"number\":1}",
                                            .payload_bytes = 12, .kind = 1, .attempt = 1};
            }
            published = rq_publish(parent, batch, wanted, (UINT64_C(1) << 32) + sent);
            sent += published;
        }
        if (rq_ready(parent) > SLOTS / 4) {
            poll(&ready, 1, GATHER_MS);
        } else if (ended == before && rq_prepare_sleep(parent)) {
            poll(&ready, 1, LOOK_MS);
            rq_awake(parent);
        }
    }
}

int main(int argc, char **argv)
{
    require(argc == 3, "usage: claimers WORKERS TASKS");
    struct rq_geometry g = {.slots = SLOTS, .workers = (uint32_t)atoi(argv[1]), .result_ring_bytes = 4096};
    uint64_t tasks = strtoull(argv[2], NULL, 10);
    char why[RQ_WHY_BYTES];
    require(rq_geometry_plan(&g, why), why);
    int share = MAP_SHARED | MAP_ANONYMOUS;
    unsigned char *segment = mmap(NULL, g.size, PROT_READ | PROT_WRITE, share, -1, 0);
    counts = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, share, -1, 0);
    int eventfd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    require(segment != MAP_FAILED && counts != MAP_FAILED && eventfd_ >= 0, "memory");
    rq_segment_format(segment, &g, &identity);
    struct rq_parent *parent = rq_parent_new(segment, &g, eventfd_);
    require(parent != NULL, "parent");
    for (uint32_t i = 0; i < g.workers; i++) {
        pid_t pid = fork();
        require(pid >= 0, "fork");
        if (pid == 0) {
            work(segment, &g, i, eventfd_);
        }
    }
    uint64_t cpu = cpu_ns(RUSAGE_SELF), begun = rq_monotonic_ns();
    cycle(parent, tasks, eventfd_);
    uint64_t ns = rq_monotonic_ns() - begun;
    cpu = cpu_ns(RUSAGE_SELF) - cpu;
    rq_stop_all(parent);
    while (wait(NULL) > 0) {
    }
    printf("%llu %llu %llu %llu %llu %llu\n", (unsigned long long)ns, (unsigned long long)cpu,
           (unsigned long long)cpu_ns(RUSAGE_CHILDREN), (unsigned long long)counts->looks,
           (unsigned long long)counts->lost, (unsigned long long)counts->sleeps);
    return 0;
}
