/* What the harness programs share: a segment, a source of chance, checks, and the points of the ring (RQ_POINT). */
#ifndef HARNESS_H
#define HARNESS_H

#include <stdio.h>
#include <stdlib.h>

#include "parent.h"

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: failed: %s (seed %llu)\n", __FILE__, __LINE__, #condition, harness_seed);          \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

extern unsigned long long harness_seed;
extern const struct rq_identity harness_identity;

/* The geometry of this shape; two small block classes beside it. */
struct rq_geometry harness_shape(uint32_t slots, uint32_t workers, uint32_t ring_bytes);
/* A segment shared with forked children: zeroed, or formatted too. */
unsigned char *harness_memory(const struct rq_geometry *g);
unsigned char *harness_segment(const struct rq_geometry *g);
void harness_drop(unsigned char *segment, const struct rq_geometry *g);
int harness_eventfd(void);

uint64_t chance(uint64_t *state); /* xorshift */

/* A text only `task_id` has, of `bytes`, for payloads and bodies. */
void token_fill(char *text, uint32_t bytes, int64_t task_id, char salt);
bool token_matches(const char *text, uint32_t bytes, int64_t task_id, char salt);

/* -- points: names are those in the C files -- */
#define POINTS_MAX 64
struct point_counts { /* lies in memory shared with forked children */
    struct {
        char name[32];
        uint64_t passed;
    } points[POINTS_MAX];
    uint64_t total;
};
extern struct point_counts *counts; /* NULL: nothing is counted */
extern uint64_t kill_at;            /* SIGKILL at this pass, 0: never */
extern int kill_with;               /* or another signal */
extern bool yield_at_points;        /* threads: give the others a turn now and then */
extern const char *linger_at;       /* threads: and a long one at this point; set while no other thread runs */
struct point_counts *shared_counts(void);
uint64_t passed(const char *name);
/* Adds what was passed to the list of points reached, and writes that list, one name a line. */
void points_collect(void);
void points_write(const char *path);

#endif
