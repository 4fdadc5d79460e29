/* See harness.h. */
#include "harness.h"

#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

unsigned long long harness_seed = 1;
const struct rq_identity harness_identity = {.uuid = "0123456789abcde", .epoch = 7, .nonce = 0x1234567890abcdef};
struct point_counts *counts;
uint64_t kill_at;
int kill_with = SIGKILL;
bool yield_at_points;
const char *linger_at;

struct rq_geometry harness_shape(uint32_t slots, uint32_t workers, uint32_t ring_bytes)
{
    char why[RQ_WHY_BYTES];
    struct rq_geometry g = {
        .slots = slots,
        .workers = workers,
        .result_ring_bytes = ring_bytes,
        .block_classes = 2,
        .blocks = {{1024, slots / 2}, {4096, slots / 4}},
    };
    CHECK(rq_geometry_plan(&g, why));
    return g;
}

unsigned char *harness_memory(const struct rq_geometry *g)
{
    void *memory = mmap(NULL, g->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

unsigned char *harness_segment(const struct rq_geometry *g)
{
    unsigned char *memory = harness_memory(g);
    rq_segment_format(memory, g, &harness_identity);
    return memory;
}

void harness_drop(unsigned char *segment, const struct rq_geometry *g)
{
    munmap(segment, g->size);
}

int harness_eventfd(void)
{
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

uint64_t chance(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static char token(uint32_t at, int64_t task_id, char salt)
{
    uint64_t mixed = ((uint64_t)task_id * 0x9e3779b97f4a7c15u) ^ ((uint64_t)at * 0xbf58476d1ce4e5b9u);
    return (char)('a' + ((mixed >> 33) + (uint64_t)salt) % 26);
}

void token_fill(char *text, uint32_t bytes, int64_t task_id, char salt)
{
    for (uint32_t i = 0; i < bytes; i++) {
        text[i] = token(i, task_id, salt);
    }
}

bool token_matches(const char *text, uint32_t bytes, int64_t task_id, char salt)
{
    for (uint32_t i = 0; i < bytes; i++) {
        if (text[i] != token(i, task_id, salt)) {
            return false;
        }
    }
    return true;
}

struct point_counts *shared_counts(void)
{
    void *memory = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

uint64_t passed(const char *name)
{
    for (int i = 0; counts && i < POINTS_MAX && counts->points[i].name[0]; i++) {
        if (strcmp(counts->points[i].name, name) == 0) {
            return counts->points[i].passed;
        }
    }
    return 0;
}

static struct point_counts reached;

void points_collect(void)
{
    for (int i = 0; i < POINTS_MAX && counts->points[i].name[0]; i++) {
        int k = 0;
        while (reached.points[k].name[0] && strcmp(reached.points[k].name, counts->points[i].name) != 0) {
            k++;
        }
        memcpy(reached.points[k].name, counts->points[i].name, sizeof reached.points[k].name);
    }
}

void points_write(const char *path)
{
    FILE *file = fopen(path, "w");
    CHECK(file);
    for (int i = 0; reached.points[i].name[0]; i++) {
        fprintf(file, "%s\n", reached.points[i].name);
    }
    fclose(file);
}

/* Counting is for one thread; with threads only yielding is on. */
void rq_point(const char *name)
{
    static _Thread_local uint64_t turns = 88172645463325252u;
    if (yield_at_points && chance(&turns) % 128 == 0) {
        sched_yield();
    }
    if (linger_at && strcmp(linger_at, name) == 0 && chance(&turns) % 4 == 0) {
        nanosleep(&(struct timespec){.tv_nsec = (long)(chance(&turns) % 100000)}, NULL);
    }
    if (!counts) {
        return;
    }
    int i = 0;
    while (counts->points[i].name[0] && strcmp(counts->points[i].name, name) != 0) {
        CHECK(++i < POINTS_MAX);
    }
    strncpy(counts->points[i].name, name, sizeof counts->points[i].name - 1);
    counts->points[i].passed++;
    if (++counts->total == kill_at) {
        kill(getpid(), kill_with);
    }
}
