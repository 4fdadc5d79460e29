/*
 * SIGKILL at every store of the protocol, in forked processes over one segment: a worker's death and what the parent's
 * sweep makes of it, a parent's death and what the recovery finds, and kills at random times.
 * Usage: kills <scale> <seed> [file for the names of the points at which something was killed]
 *
 * The oracle is exact: the victim counts the points it passes in shared memory, and each point stands behind its store.
 */
#include "harness.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TASKS 6u
#define BODY_MAX 8192u

static const uint32_t body_sizes[] = {0, 1, 63, 64, 65, RQ_RESULT_INLINE_BYTES_MAX,
                                      RQ_RESULT_INLINE_BYTES_MAX + 1, 1500, 3000};
static const uint32_t payload_sizes[TASKS] = {0, 64, RQ_PAYLOAD_INLINE_BYTES_MAX,
                                                RQ_PAYLOAD_INLINE_BYTES_MAX + 1, 1024, 3000};

/* -- the victim: a worker that does everything a worker does ----------------------------------------------------- */

static void run_some(struct rq_worker *worker, uint32_t most, uint32_t body_bytes)
{
    struct rq_claimed claimed;
    char payload[4096], body[BODY_MAX];
    for (uint32_t i = 0; i < most && rq_claim(worker, &claimed) == RQ_OK; i++) {
        CHECK(rq_claim_payload(worker, payload) == RQ_OK);
        CHECK(token_matches(payload, claimed.payload_bytes, claimed.task_id, 'p'));
        CHECK(rq_start(worker) == RQ_OK);
        rq_set_progress(worker, claimed.lease, 0.5, "half", 4);
        rq_add_bytes(worker, claimed.lease, 7);
        CHECK(rq_call(worker, 1) == RQ_OK);
        rq_leave(worker);
        CHECK(rq_call(worker, 2) == RQ_OK);
        rq_leave(worker);
        token_fill(body, body_bytes, claimed.task_id, 'r');
        enum rq_outcome outcome = rq_finish(worker, 10, 0, body, body_bytes, false);
        CHECK(outcome == RQ_OK || (outcome == RQ_NOTHING && rq_finish(worker, 10, 0, NULL, 0, true) == RQ_OK));
    }
}

static struct rq_worker *attach(unsigned char *segment, const struct rq_geometry *g, int eventfd)
{
    char why[RQ_WHY_BYTES];
    struct rq_worker *worker = rq_worker_new(segment, g, 0, eventfd, why);
    CHECK(worker);
    return worker;
}

static void publish(struct rq_parent *parent, const int64_t *ids, uint32_t count, uint64_t first_lease)
{
    struct rq_task tasks[TASKS];
    static char payload[TASKS][4096];
    for (uint32_t i = 0; i < count; i++) {
        uint32_t bytes = payload_sizes[(uint64_t)ids[i] % TASKS];
        token_fill(payload[i], bytes, ids[i], 'p');
        tasks[i] = (struct rq_task){
            .task_id = ids[i], .payload = payload[i], .payload_bytes = bytes, .kind = 3, .attempt = 1};
    }
    CHECK(rq_publish(parent, tasks, count, first_lease) == count);
}

/* Drains and frees; counts each task's receipts. Returns how many there were. */
static uint32_t collect(struct rq_parent *parent, uint32_t *receipts, uint32_t body_bytes)
{
    struct rq_row row;
    enum rq_taken taken;
    uint32_t count = 0;
    rq_drain_begin(parent);
    while ((taken = rq_drain_next(parent, &row)) != RQ_TAKEN_NOTHING) {
        CHECK(taken == RQ_TAKEN_ROW); /* a torn receipt would be damaged */
        CHECK(row.task_id >= 1 && row.task_id <= TASKS);
        CHECK(row.spilled || row.body_bytes == body_bytes);
        CHECK(row.spilled || token_matches(row.body, row.body_bytes, row.task_id, 'r'));
        receipts[row.task_id]++;
        count++;
    }
    rq_free(parent);
    return count;
}

/* Everything is back where it was before the first task: no slot, block or byte of the result ring has leaked. */
static void check_nothing_leaked(struct rq_parent *parent, unsigned char *segment)
{
    const struct rq_geometry *g = rq_parent_geometry(parent);
    CHECK(rq_in_flight(parent) == 0 && rq_ready(parent) == 0 && parent->free_count == g->slots);
    for (uint32_t i = 0; i < g->block_classes; i++) {
        CHECK(parent->free_block_count[i] == g->blocks[i].count);
    }
    struct rq_worker *worker = attach(segment, g, parent->eventfd);
    struct rq_record *record = rq_record_of(segment, g, 0);
    CHECK(record->ring_start == record->ring_freed);
    rq_worker_delete(worker);
    CHECK(rq_healthy(parent));
}

/* -- a worker dies at its k-th store ----------------------------------------------------------------------------- */

/* Runs the victim with a kill at pass `at` (0: none); false when it ended by itself. */
static bool kill_worker(unsigned char *segment, struct rq_parent *parent, uint64_t at, uint32_t body_bytes)
{
    int status;
    memset(counts, 0, sizeof *counts);
    pid_t child = fork();
    if (child == 0) {
        kill_at = at;
        struct rq_worker *worker = attach(segment, rq_parent_geometry(parent), parent->eventfd);
        rq_claim_wait(worker, 1); /* so that it passes a wake-up on */
        run_some(worker, 3, body_bytes);
        rq_claim_wait(worker, 1);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    points_collect();
    CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0) || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
    return WIFSIGNALED(status);
}

/* An earlier life of the record, so that the victim's large bodies wrap around the end of the result ring. */
static void warm_up(unsigned char *segment, struct rq_parent *parent)
{
    uint32_t receipts[TASKS + 1] = {0};
    struct rq_held held[8];
    struct rq_worker *worker = attach(segment, rq_parent_geometry(parent), parent->eventfd);
    publish(parent, (int64_t[]){1}, 1, 1);
    run_some(worker, 1, 3000);
    CHECK(collect(parent, receipts, 3000) == 1);
    rq_worker_delete(worker);
    CHECK(rq_sweep(parent, 0, held) == 0);
    rq_reset_record(parent, 0);
}

static bool worker_dies(uint64_t at, uint32_t body_bytes)
{
    static const int64_t ids[TASKS] = {1, 2, 3, 4, 5, 6};
    struct rq_geometry g = harness_shape(8, 1, BODY_MAX);
    unsigned char *segment = harness_segment(&g);
    struct rq_parent *parent = rq_parent_new(segment, &g, harness_eventfd());
    struct rq_held held[8];
    uint32_t receipts[TASKS + 1] = {0};
    warm_up(segment, parent);
    publish(parent, ids, TASKS, 100);
    rq_prepare_sleep(parent); /* so that the victim passes the wake-up too */
    bool killed = kill_worker(segment, parent, at, body_bytes);
    uint64_t claims = passed("claim.word"), starts = passed("start.word"), ends = passed("finish.word");

    CHECK(rq_running(parent, held) == starts - ends);
    CHECK(starts == ends || held[0].call == passed("call.word") - 2 * ends); /* the one it died in */
    uint32_t count = rq_sweep(parent, 0, held);
    rq_reset_record(parent, 0);
    CHECK(count == claims - ends); /* held and not finished: at most one */
    CHECK(count <= 1 && (count == 0 || held[0].started == (starts > ends)));
    CHECK(rq_ready(parent) == TASKS - claims);
    struct rq_worker *next = attach(segment, &g, parent->eventfd); /* a new process takes the record ... */
    run_some(next, 1, body_bytes);                                 /* ... and must leave the old bodies alone (I8) */
    uint64_t all = passed("finish.word");
    CHECK(collect(parent, receipts, body_bytes) == all); /* exactly the published receipts, none torn, none lost */
    for (uint32_t i = 0; i < count; i++) {
        CHECK(receipts[held[i].task_id] == 0);
        publish(parent, &held[i].task_id, 1, 200);
    }
    while (rq_in_flight(parent) > 0) {
        run_some(next, 2, body_bytes);
        collect(parent, receipts, body_bytes);
    }
    for (uint32_t id = 1; id <= TASKS; id++) {
        CHECK(receipts[id] == 1);
    }
    rq_worker_delete(next);
    CHECK(rq_sweep(parent, 0, held) == 0);
    rq_reset_record(parent, 0);
    check_nothing_leaked(parent, segment);
    close(parent->eventfd);
    rq_parent_delete(parent);
    harness_drop(segment, &g);
    return killed;
}

static void test_worker_deaths(void)
{
    uint32_t deaths = 0;
    for (size_t i = 0; i < sizeof body_sizes / sizeof body_sizes[0]; i++) {
        for (uint64_t at = 1; worker_dies(at, body_sizes[i]); at++) {
            deaths++;
        }
    }
    printf("worker deaths: %u, at every store, %zu body sizes\n", deaths, sizeof body_sizes / sizeof body_sizes[0]);
    CHECK(deaths > 200);
}

/* -- a parent dies at its k-th store ----------------------------------------------------------------------------- */

struct ledger { /* the database of this test, in memory shared with the victim */
    uint32_t committed[TASKS + 1];
    uint32_t freed;
};

/* Parent and worker in one process, one after the other: publish, run, drain, COMMIT, free, publish again, revoke. */
static void live(unsigned char *segment, const struct rq_geometry *g, struct ledger *ledger, uint32_t body_bytes)
{
    static const int64_t first[] = {1, 2, 3}, second[] = {4, 5, 6};
    struct rq_row rows[8];
    struct rq_held held[8];
    rq_segment_format(segment, g, &harness_identity);
    struct rq_parent *parent = rq_parent_new(segment, g, harness_eventfd());
    for (uint32_t cells = 0; cells < g->cells; cells += 3) { /* the next publish finds them full of dead ones */
        publish(parent, first, 3, 1);
        CHECK(rq_revoke(parent, 2) == RQ_REVOKED && rq_revoke(parent, 2) == RQ_ABSENT);
        CHECK(rq_revoke_all(parent, held) == 2);
    }
    struct rq_worker *worker = attach(segment, g, parent->eventfd);
    rq_record_of(segment, g, 0)->waiting = 1; /* as if another worker slept: the publish wakes */
    publish(parent, first, 3, 100);
    run_some(worker, 2, body_bytes);
    for (int turn = 0; turn < 2; turn++) {
        uint32_t count = 0;
        rq_drain_begin(parent);
        while (rq_drain_next(parent, &rows[count]) == RQ_TAKEN_ROW) {
            count++;
        }
        if (turn == 0) {
            run_some(worker, 1, body_bytes); /* must not touch what is drained and not committed (I7, I8) */
        }
        rq_point("test.drained");
        for (uint32_t i = 0; i < count; i++) {
            ledger->committed[rows[i].task_id]++;
        }
        rq_point("test.commit");
        ledger->freed += rq_free(parent);
        if (turn == 0) {
            publish(parent, second, 3, 103);
            run_some(worker, 2, body_bytes);
        }
    }
    CHECK(rq_revoke_all(parent, held) == 1);
    struct rq_claimed claimed;
    CHECK(rq_claim(worker, &claimed) == RQ_NOTHING);
    publish(parent, (int64_t[]){held[0].task_id}, 1, 106);
    CHECK(rq_claim(worker, &claimed) == RQ_OK && rq_start(worker) == RQ_OK);
    CHECK(!rq_request_cancel(parent, 0, claimed.lease, 2, 7) && rq_call(worker, 7) == RQ_OK);
    rq_point("test.running");
    CHECK(!rq_request_cancel(parent, 0, claimed.lease, 2, 0) && rq_cancel_requested(worker) == 0);
    CHECK(rq_request_cancel(parent, 0, claimed.lease, 2, 7) && rq_cancel_requested(worker) == 2);
    rq_worker_delete(worker);
    CHECK(rq_sweep(parent, 0, held) == 1);
    rq_point("test.swept");
    rq_free(parent);
    rq_point("test.freed");
    rq_reset_record(parent, 0);
    _exit(0);
}

static bool parent_dies(uint64_t at, uint32_t body_bytes)
{
    struct rq_geometry g = harness_shape(8, 1, BODY_MAX);
    unsigned char *segment = harness_memory(&g);
    struct ledger *ledger = mmap(NULL, sizeof *ledger, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct rq_geometry found;
    char why[RQ_WHY_BYTES];
    int status;
    memset(counts, 0, sizeof *counts);
    pid_t child = fork();
    if (child == 0) {
        kill_at = at;
        live(segment, &g, ledger, body_bytes);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0) || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));

    points_collect();
    bool formatted = passed("format.header") == sizeof(struct rq_header) / RQ_LINE_BYTES;
    CHECK(rq_segment_check(segment, g.size, &harness_identity, &found, why) == formatted);
    if (!formatted) {
        harness_drop(segment, &g);
        return true;
    }
    struct rq_recovery *recovery = rq_recovery_new(segment, &found);
    struct rq_row row;
    enum rq_taken taken;
    uint32_t recovered[TASKS + 1] = {0}, total = 0, both = 0;
    rq_recovery_begin(recovery);
    while ((taken = rq_recovery_next(recovery, &row)) != RQ_TAKEN_NOTHING) {
        CHECK(taken == RQ_TAKEN_ROW && row.task_id >= 1 && row.task_id <= TASKS);
        CHECK(row.spilled || row.body_bytes == body_bytes);
        CHECK(row.lease == (uint64_t)row.task_id + 99 && row.kind == 3 && row.attempt == 1 && row.worker == 0);
        CHECK(row.spilled || token_matches(row.body, row.body_bytes, row.task_id, 'r'));
        CHECK(recovered[row.task_id]++ == 0);
    }
    for (uint32_t id = 1; id <= TASKS; id++) {
        CHECK(ledger->committed[id] <= 1);
        total += recovered[id] + ledger->committed[id] > 0;
        both += recovered[id] + ledger->committed[id] > 1;
    }
    CHECK(total == passed("finish.word")); /* nothing lost, nothing invented; the key makes two of one one */
    CHECK(passed("test.commit") < 2 || both <= 3);
    struct rq_held held[8];
    struct rq_member members[1];
    uint64_t ends = passed("finish.word"), starts = passed("start.word");
    bool gone = passed("test.swept") > 0 && passed("free.word") == ends + 1; /* the last one was freed as swept */
    CHECK(rq_recovery_running(recovery, held) == (gone ? 0 : starts - ends));
    if (starts > ends && !gone) { /* five tasks make two calls each, the last is in call 7 until its record is swept */
        uint64_t calls = passed("call.word") - 2 * ends, swept = passed("sweep.ring");
        CHECK(swept > 0 || held[0].call == (ends < 5 ? calls : calls * 7));
    }
    CHECK(rq_recovery_members(recovery, members) == (passed("attach.identity") > 0 && passed("sweep.identity") == 0));
    rq_recovery_delete(recovery);
    munmap(ledger, sizeof *ledger);
    harness_drop(segment, &g);
    return WIFSIGNALED(status);
}

static void test_parent_deaths(void)
{
    static const uint32_t sizes[] = {0, 65, 1500, 3000};
    uint32_t deaths = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (uint64_t at = 1; parent_dies(at, sizes[i]); at++) {
            deaths++;
        }
    }
    printf("parent deaths: %u, at every store\n", deaths);
    CHECK(deaths > 200);
}

/* -- kills at random times: real processes, two at a time, until every task is recorded ---------------------------- */

#define CROWD 2u

struct crowd {
    struct rq_geometry g;
    unsigned char *segment;
    struct rq_parent *parent;
    int eventfd;
    pid_t pids[CROWD];
    uint32_t total;
    int64_t *runs;       /* by task: who runs it now, in memory shared with the workers */
    unsigned char *seen; /* by task: how often it was recorded */
    int64_t again[64];
    uint32_t again_count, recorded, swept;
    int64_t next;
    uint64_t lease;
};

static uint32_t crowd_bytes(int64_t task_id, uint32_t factor)
{
    return (uint32_t)task_id * factor % 3000;
}

static void worker_process(struct crowd *c, uint32_t index)
{
    char why[RQ_WHY_BYTES], payload[4096], body[BODY_MAX];
    struct rq_claimed claimed;
    struct rq_worker *worker = rq_worker_new(c->segment, &c->g, index, c->eventfd, why);
    CHECK(worker);
    while (!rq_stopping(worker)) {
        if (rq_claim(worker, &claimed) != RQ_OK) {
            rq_claim_wait(worker, 20000000);
            continue;
        }
        CHECK(rq_claim_payload(worker, payload) == RQ_OK && rq_start(worker) == RQ_OK);
        CHECK(__atomic_exchange_n(&c->runs[claimed.task_id], index + 1, __ATOMIC_SEQ_CST) == 0);
        uint32_t bytes = crowd_bytes(claimed.task_id, 7);
        token_fill(body, bytes, claimed.task_id, 'r');
        nanosleep(&(struct timespec){.tv_nsec = claimed.task_id % 4 == 0 ? 100000 : 0}, NULL);
        __atomic_store_n(&c->runs[claimed.task_id], 0, __ATOMIC_SEQ_CST);
        if (rq_finish(worker, 10, 0, body, bytes, false) == RQ_NOTHING) {
            CHECK(rq_finish(worker, 10, 0, NULL, 0, true) == RQ_OK);
        }
    }
    _exit(0);
}

static void crowd_hire(struct crowd *c, uint32_t index)
{
    c->pids[index] = fork();
    if (c->pids[index] == 0) {
        worker_process(c, index);
    }
}

static void crowd_publish(struct crowd *c)
{
    char payload[3000];
    while (c->again_count > 0 || c->next <= c->total) {
        int64_t id = c->again_count > 0 ? c->again[c->again_count - 1] : c->next;
        token_fill(payload, crowd_bytes(id, 11), id, 'p');
        struct rq_task task = {.task_id = id, .payload = payload, .payload_bytes = crowd_bytes(id, 11)};
        if (rq_publish(c->parent, &task, 1, c->lease) == 0) {
            return;
        }
        c->lease++;
        if (c->again_count > 0) {
            c->again_count--;
        } else {
            c->next++;
        }
    }
}

static void crowd_kill(struct crowd *c, uint32_t victim)
{
    struct rq_held held[64];
    kill(c->pids[victim], SIGKILL);
    CHECK(waitpid(c->pids[victim], NULL, 0) == c->pids[victim]);
    uint32_t count = rq_sweep(c->parent, victim, held);
    rq_reset_record(c->parent, victim);
    CHECK(count <= 1); /* the bound that is promised: one task for each killed worker */
    for (uint32_t i = 0; i < count; i++) {
        c->runs[held[i].task_id] = 0; /* its death is confirmed */
        c->again[c->again_count++] = held[i].task_id;
    }
    c->swept += count;
    crowd_hire(c, victim);
}

static void crowd_drain(struct crowd *c)
{
    struct rq_row row;
    enum rq_taken taken;
    rq_drain_begin(c->parent);
    while ((taken = rq_drain_next(c->parent, &row)) != RQ_TAKEN_NOTHING) {
        CHECK(taken == RQ_TAKEN_ROW && c->seen[row.task_id]++ == 0);
        CHECK(row.spilled || row.body_bytes == crowd_bytes(row.task_id, 7));
        CHECK(row.spilled || token_matches(row.body, row.body_bytes, row.task_id, 'r'));
        c->recorded++;
    }
    rq_free(c->parent);
}

static void test_random_kills(uint32_t kills)
{
    struct crowd c = {.g = harness_shape(64, CROWD, 16384), .total = 60 * kills, .next = 1, .lease = 1};
    size_t bytes = (c.total + 1) * sizeof *c.runs;
    uint32_t killed = 0;
    uint64_t state = harness_seed * 77 + 5;
    c.segment = harness_segment(&c.g);
    c.runs = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    c.eventfd = harness_eventfd();
    c.parent = rq_parent_new(c.segment, &c.g, c.eventfd);
    c.seen = calloc(c.total + 1, 1);
    for (uint32_t i = 0; i < CROWD; i++) {
        crowd_hire(&c, i);
    }
    while (c.recorded < c.total) {
        crowd_publish(&c);
        if (killed < kills && chance(&state) % 4 == 0) {
            nanosleep(&(struct timespec){.tv_nsec = (long)(chance(&state) % 300000)}, NULL);
            crowd_kill(&c, (uint32_t)(chance(&state) % CROWD));
            killed++;
        }
        crowd_drain(&c);
    }
    rq_stop_all(c.parent);
    for (uint32_t i = 0; i < CROWD; i++) {
        int status;
        struct rq_held held[64];
        CHECK(waitpid(c.pids[i], &status, 0) == c.pids[i] && WIFEXITED(status) && WEXITSTATUS(status) == 0);
        CHECK(rq_sweep(c.parent, i, held) == 0);
    }
    CHECK(rq_in_flight(c.parent) == 0 && rq_healthy(c.parent) && c.parent->free_count == c.g.slots);
    printf("random kills: %u, %u attempts swept, %u tasks recorded once each\n", killed, c.swept, c.recorded);
    free(c.seen);
    close(c.eventfd);
    rq_parent_delete(c.parent);
    munmap(c.runs, bytes);
    harness_drop(c.segment, &c.g);
}

/* -- a woken worker that never wakes the next one (I13) ---------------------------------------------------------- */

#define SLEEPERS 3u
#define VICTIMS 2u /* as many as one publish wakes */
#define BOUND_NS UINT64_C(10000000000)

/* Sleeps until it is woken, and stays in its first task until all tasks have begun. */
static void sleeper_process(unsigned char *segment, const struct rq_geometry *g, uint32_t index, int eventfd,
                            uint32_t *begun)
{
    char why[RQ_WHY_BYTES];
    struct rq_claimed claimed;
    struct rq_worker *worker = rq_worker_new(segment, g, index, eventfd, why);
    CHECK(worker);
    while (!rq_stopping(worker)) {
        if (rq_claim(worker, &claimed) != RQ_OK) {
            rq_claim_wait(worker, 2 * BOUND_NS);
            continue;
        }
        CHECK(rq_start(worker) == RQ_OK);
        __atomic_add_fetch(begun, 1, __ATOMIC_SEQ_CST);
        while (__atomic_load_n(begun, __ATOMIC_SEQ_CST) < SLEEPERS && !rq_stopping(worker)) {
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
        }
        CHECK(rq_finish(worker, 10, 0, NULL, 0, false) == RQ_OK);
    }
    _exit(0);
}

static void hire_sleepers(unsigned char *segment, const struct rq_geometry *g, int eventfd, uint32_t *begun,
                          uint64_t at, pid_t *pids)
{
    for (uint32_t i = 0; i < VICTIMS + SLEEPERS; i++) { /* the victims sleep first, and are woken first */
        pids[i] = fork();
        if (pids[i] == 0) {
            kill_at = i < VICTIMS ? at : 0;
            counts = shared_counts(); /* of its own */
            sleeper_process(segment, g, i, eventfd, begun);
        }
        while (rq_record_of(segment, g, i)->waiting == 0) {
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
        }
    }
}

/* The victims are woken and killed, or stopped, at their `at`-th point. What they held is published again, and everybody
 * else must begin. True: a victim was hit. */
static bool chain_breaks(uint64_t at, int with)
{
    struct rq_geometry g = harness_shape(8, VICTIMS + SLEEPERS, 4096);
    unsigned char *segment = harness_segment(&g);
    struct rq_parent *parent = rq_parent_new(segment, &g, harness_eventfd());
    uint32_t *begun = mmap(NULL, sizeof *begun, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pids[VICTIMS + SLEEPERS];
    struct rq_held held[8];
    uint32_t hit = 0;
    bool gone[VICTIMS] = {false};
    kill_with = with;
    hire_sleepers(segment, &g, parent->eventfd, begun, at, pids);
    publish(parent, (int64_t[]){6, 6, 6}, SLEEPERS, 1); /* 6: without a payload */
    const uint64_t end = rq_monotonic_ns() + BOUND_NS;
    while (__atomic_load_n(begun, __ATOMIC_SEQ_CST) < SLEEPERS) {
        int status;
        CHECK(rq_monotonic_ns() < end);
        for (uint32_t i = 0; i < VICTIMS; i++) {
            if (gone[i] || waitpid(pids[i], &status, WNOHANG | WUNTRACED) != pids[i]) {
                continue;
            }
            gone[i] = true;
            hit++;
            if (WIFSTOPPED(status)) {
                rq_scan(parent); /* the look-around of a parent that knows of no death */
                continue;
            }
            uint32_t count = rq_sweep(parent, i, held);
            rq_free(parent);
            rq_reset_record(parent, i); /* nothing is published here: this alone must wake the next one */
            for (uint32_t k = 0; k < count; k++) {
                publish(parent, &held[k].task_id, 1, 100 + i);
            }
        }
    }
    rq_stop_all(parent);
    for (uint32_t i = 0; i < VICTIMS + SLEEPERS; i++) {
        int status;
        if (i < VICTIMS && gone[i] && with == SIGKILL) {
            continue;
        }
        kill(pids[i], SIGCONT);
        do { /* a slow victim is hit only now, woken by the stop */
            CHECK(waitpid(pids[i], &status, WUNTRACED) == pids[i]);
        } while (WIFSTOPPED(status) && kill(pids[i], SIGCONT) == 0);
    }
    kill_with = SIGKILL;
    munmap(begun, sizeof *begun);
    close(parent->eventfd);
    rq_parent_delete(parent);
    harness_drop(segment, &g);
    return hit > 0;
}

static void test_broken_chains(void)
{
    uint32_t broken = 0;
    for (uint64_t at = 5; at <= 12; at++) { /* from "wait.over" to beyond "claim.pass" */
        broken += chain_breaks(at, SIGKILL);
    }
    broken += chain_breaks(5, SIGSTOP);
    printf("broken wake chains: %u\n", broken);
    CHECK(broken >= 5);
}

int main(int count, char **arguments)
{
    uint32_t scale = count > 1 ? (uint32_t)atoi(arguments[1]) : 1;
    harness_seed = count > 2 ? strtoull(arguments[2], NULL, 10) : 1;
    counts = shared_counts();
    test_worker_deaths();
    test_parent_deaths();
    counts = NULL;
    if (count > 3) {
        points_write(arguments[3]);
    }
    test_broken_chains();
    test_random_kills(150 * scale);
    return 0;
}
