/*
 * The ring: what the binding and the test harness may call. Pure C11 on Linux, no Python.
 *
 * Three objects, each with its own private memory and one mapping of the segment that it does not own: the parent
 * (publishes, drains, frees, sweeps), a worker (claims, runs, leaves receipts) and the recovery (reads the segment of a
 * dead parent). An object belongs to one thread at a time. The protocol, its invariants (I..) and its memory-order
 * edges (E..) are in INVARIANTS.md.
 */
#ifndef RQ_RING_H
#define RQ_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"

#define RQ_REGIONS 8u
#define RQ_WHY_BYTES 160u

/* The private copy of the segment's shape: nobody reads the shared one after attaching (I9). */
struct rq_geometry {
    uint64_t size;
    uint32_t slots;
    uint32_t workers;
    uint32_t cells; /* a power of two */
    uint32_t result_ring_bytes;
    uint32_t block_classes;
    struct rq_block_class blocks[RQ_BLOCK_CLASSES_MAX];
    uint64_t control_at, records_at, cells_at, hints_at, slots_at, rings_at, blocks_at;
    uint64_t block_class_at[RQ_BLOCK_CLASSES_MAX];
    uint64_t guard_at[RQ_REGIONS];
};

struct rq_identity {
    uint8_t uuid[16];
    uint64_t epoch;
    uint64_t nonce;
};

/* Fills `g` from slots, workers, result_ring_bytes, block_classes and blocks; false: `why` says what is wrong. */
bool rq_geometry_plan(struct rq_geometry *g, char why[RQ_WHY_BYTES]);
/* Writes the header, canaries and worker records of a zeroed segment. */
void rq_segment_format(unsigned char *segment, const struct rq_geometry *g, const struct rq_identity *id);
/* Checks a segment of `size` mapped bytes against `id` and fills `g`; false: `why` names the mismatch. */
bool rq_segment_check(const unsigned char *segment, uint64_t size, const struct rq_identity *id,
                      struct rq_geometry *g, char why[RQ_WHY_BYTES]);

uint32_t rq_crc32c(uint32_t seed, const void *bytes, size_t count);
uint64_t rq_monotonic_ns(void);
int64_t rq_realtime_us(void);
/* Field 22 of /proc/<pid>/stat; 0: no such process. With the pid it names a process for the whole uptime. */
uint64_t rq_start_ticks(int64_t pid);

/* -- parent ------------------------------------------------------------------------------------------------------ */
struct rq_parent;

struct rq_task {
    int64_t task_id;
    const char *payload;
    uint32_t payload_bytes;
    uint32_t run_limit_ms;
    uint32_t kind;
    uint32_t attempt;
};

struct rq_row { /* one receipt, validated; `body` points into private memory until the next call */
    int64_t task_id;
    uint64_t lease;
    int64_t ended_us;
    int64_t duration_us;
    int64_t cpu_us;  /* -1: not measured */
    int64_t rss_kib; /* -1: not measured */
    const char *body;
    uint32_t body_bytes;
    uint32_t kind;
    uint32_t attempt;
    uint32_t worker;
    uint8_t status;
    uint8_t reason;
    bool has_body;
    bool spilled;
};

struct rq_held { /* a slot that is not FREE, from the parent's private table */
    int64_t task_id;
    uint64_t lease;
    uint64_t started_ns; /* of `call` */
    uint64_t call;       /* index of the call it runs, 0: a plain task, or before the first call */
    uint32_t kind;
    uint32_t attempt;
    uint32_t run_limit_ms;
    uint32_t worker;
    bool started;
};

struct rq_shown { /* by a running attempt */
    uint64_t since_ns; /* when the attempt began: within a quarter of a second for one with calls */
    uint64_t said_ns;  /* when it last said a fraction, 0: never */
    double fraction;
    uint64_t bytes; /* done */
    uint64_t total; /* RQ_BYTES_UNKNOWN: not known */
    uint32_t message_bytes;
    char message[RQ_MESSAGE_BYTES_MAX + 1];
};

struct rq_counters {
    uint64_t published, drained, freed, revoked, swept, found, wakes, damaged, stale, recelled, retired;
};

enum rq_taken { RQ_TAKEN_NOTHING, RQ_TAKEN_ROW, RQ_TAKEN_DAMAGED };

/* NULL: out of memory. The segment must be formatted, zeroed otherwise, and stay mapped until rq_parent_delete. */
struct rq_parent *rq_parent_new(unsigned char *segment, const struct rq_geometry *g, int eventfd);
void rq_parent_delete(struct rq_parent *p);
uint32_t rq_payload_bytes_max(const struct rq_parent *p);
/* How many of the tasks were published, from the front. Every payload must be <= rq_payload_bytes_max. */
uint32_t rq_publish(struct rq_parent *p, const struct rq_task *tasks, uint32_t count, uint64_t first_lease);
/* One drain: begin, then next until nothing is left. `row` is filled for RQ_TAKEN_ROW; its ids for a damaged one. */
void rq_drain_begin(struct rq_parent *p);
enum rq_taken rq_drain_next(struct rq_parent *p, struct rq_row *row);
/* Takes back everything handed out since the last begin or sweep: it comes again. For callers out of memory. */
void rq_hand_back(struct rq_parent *p);
void rq_count_damaged(struct rq_parent *p);
uint32_t rq_free(struct rq_parent *p);
/* Both fill at most `g.slots` entries of `held`, mark them as handed out and return their number. */
uint32_t rq_sweep(struct rq_parent *p, uint32_t worker, struct rq_held *held);
uint32_t rq_abandon(struct rq_parent *p, struct rq_held *held);
void rq_reset_record(struct rq_parent *p, uint32_t worker);
uint32_t rq_revoke_all(struct rq_parent *p, struct rq_held *held);
/* RQ_HELD: a worker has claimed the task, or what it left of it is not freed yet. */
enum rq_revoked { RQ_ABSENT, RQ_REVOKED, RQ_HELD };
enum rq_revoked rq_revoke(struct rq_parent *p, int64_t task_id);
uint32_t rq_scan(struct rq_parent *p);
/* At most `g.workers` entries. */
uint32_t rq_running(struct rq_parent *p, struct rq_held *held);
/* False: the attempt has ended, or runs another call than `call` (at most RQ_CALL_MAX) by now. */
bool rq_request_cancel(struct rq_parent *p, uint32_t worker, uint64_t lease, uint32_t reason, uint64_t call);
void rq_stop_worker(struct rq_parent *p, uint32_t worker);
void rq_stop_all(struct rq_parent *p);
/* What each of the attempts that run has shown; fills as many of both as it returns, at most `g.workers`. */
uint32_t rq_progress(struct rq_parent *p, struct rq_held *held, struct rq_shown *shown);
uint64_t rq_heartbeat_ns(const struct rq_parent *p, uint32_t worker);
uint32_t rq_ready(struct rq_parent *p);
uint32_t rq_in_flight(const struct rq_parent *p);
bool rq_min_task_id(const struct rq_parent *p, int64_t *task_id);
bool rq_healthy(struct rq_parent *p);
bool rq_prepare_sleep(struct rq_parent *p);
void rq_awake(struct rq_parent *p);
const struct rq_counters *rq_counters(const struct rq_parent *p);
const struct rq_geometry *rq_parent_geometry(const struct rq_parent *p);

/* -- worker ------------------------------------------------------------------------------------------------------ */
struct rq_worker;

struct rq_claimed {
    int64_t task_id;
    uint64_t lease;
    uint32_t run_limit_ms;
    uint32_t kind;
    uint32_t attempt;
    uint32_t payload_bytes;
};

enum rq_outcome {
    RQ_OK,
    RQ_NOTHING, /* no task within the time, or stopping; a body that does not fit */
    RQ_DAMAGED, /* what the segment says cannot be true */
    RQ_MISUSED, /* not in this order */
};

struct rq_worker *rq_worker_new(unsigned char *segment, const struct rq_geometry *g, uint32_t index, int eventfd,
                                char why[RQ_WHY_BYTES]);
void rq_worker_delete(struct rq_worker *w);
/* Claim without waiting; RQ_OK fills `claimed`, then rq_claim_payload copies its payload_bytes and checks them. */
enum rq_outcome rq_claim(struct rq_worker *w, struct rq_claimed *claimed);
enum rq_outcome rq_claim_payload(struct rq_worker *w, void *payload);
/* Sleep until something may be there, at most `timeout_ns`. False: a signal interrupted it. */
bool rq_claim_wait(struct rq_worker *w, uint64_t timeout_ns);
enum rq_outcome rq_start(struct rq_worker *w);
/* The next call of the running attempt, each `index` (up to RQ_CALL_MAX) once: a cancel tells calls apart by it. */
enum rq_outcome rq_call(struct rq_worker *w, uint64_t index);
void rq_leave(struct rq_worker *w);
/* `body` may be NULL. RQ_NOTHING: it does not fit; spill it and come again with spilled. */
enum rq_outcome rq_finish(struct rq_worker *w, uint32_t status, uint32_t reason, const void *body, size_t bytes,
                          bool spilled);
uint32_t rq_cancel_requested(const struct rq_worker *w);
uint32_t rq_interrupt(struct rq_worker *w); /* the same, but once for each call */
/* Nothing happens unless the attempt of this lease runs: a thread may outlive the attempt that has started it. */
void rq_set_progress(struct rq_worker *w, uint64_t lease, double fraction, const char *message, uint32_t bytes);
void rq_set_bytes(struct rq_worker *w, uint64_t lease, uint64_t bytes);
void rq_add_bytes(struct rq_worker *w, uint64_t lease, uint64_t bytes);
void rq_set_total(struct rq_worker *w, uint64_t lease, uint64_t total);
bool rq_stopping(const struct rq_worker *w);

/* -- recovery ---------------------------------------------------------------------------------------------------- */
struct rq_recovery;

struct rq_member {
    uint32_t index;
    uint32_t pid;
    uint64_t start_ticks;
};

struct rq_recovery *rq_recovery_new(const unsigned char *segment, const struct rq_geometry *g);
void rq_recovery_delete(struct rq_recovery *r);
uint32_t rq_recovery_members(const struct rq_recovery *r, struct rq_member *members);
void rq_recovery_begin(struct rq_recovery *r);
enum rq_taken rq_recovery_next(struct rq_recovery *r, struct rq_row *row);
uint32_t rq_recovery_running(const struct rq_recovery *r, struct rq_held *held);

#endif
