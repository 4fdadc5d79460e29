/*
 * A handler gone wild writes anywhere in the segment. Whatever it does, the parent must not crash, hang, or believe
 * something about another task: every lease is accounted for exactly once, and a body is the one its worker gave.
 * Usage: scribble <corruptions> <seed>
 */
#include "harness.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#define WORKERS 2u
#define SLOTS 16u
#define LEASES_MAX 4096u
#define HANG_S 20u

enum fate { FATE_NONE, FATE_OUT, FATE_ENDED };

struct world {
    struct rq_geometry g;
    unsigned char *segment;
    struct rq_parent *parent;
    struct rq_worker *workers[WORKERS];
    struct rq_claimed claimed[WORKERS];
    bool holds[WORKERS]; /* an attempt is open there */
    enum fate fate[LEASES_MAX];
    uint32_t leases;
    uint64_t state;
    int eventfd;
};

static uint64_t totals[4]; /* rows, damaged, worker faults, leases */

static void end(struct world *w, int64_t task_id, uint64_t lease)
{
    CHECK(lease >= 1 && lease <= w->leases && task_id == (int64_t)lease * 3); /* private truth, never the shared copy */
    CHECK(w->fate[lease] == FATE_OUT);
    w->fate[lease] = FATE_ENDED;
}

static void drain(struct world *w, uint32_t limit)
{
    struct rq_row row;
    enum rq_taken taken = RQ_TAKEN_NOTHING;
    rq_drain_begin(w->parent);
    while (limit-- > 0 && (taken = rq_drain_next(w->parent, &row)) != RQ_TAKEN_NOTHING) {
        end(w, row.task_id, row.lease);
        CHECK(row.worker < WORKERS && row.kind == 5 && row.attempt == (uint32_t)row.lease);
        if (taken == RQ_TAKEN_ROW) {
            CHECK(row.status == 10 && row.duration_us >= 0 && row.ended_us <= rq_realtime_us());
            CHECK(!row.has_body || token_matches(row.body, row.body_bytes, row.task_id, 'r'));
        }
        totals[taken == RQ_TAKEN_DAMAGED]++;
    }
}

/* The worker's process ends (its fault, or ours) and a new one takes its record. */
static void bury(struct world *w, uint32_t i)
{
    char why[RQ_WHY_BYTES];
    struct rq_held held[SLOTS];
    rq_worker_delete(w->workers[i]);
    w->holds[i] = false;
    uint32_t count = rq_sweep(w->parent, i, held);
    for (uint32_t k = 0; k < count; k++) {
        end(w, held[k].task_id, held[k].lease);
        for (uint32_t other = 0; other < WORKERS; other++) { /* a task that somebody runs is not begun again */
            CHECK(!w->holds[other] || w->claimed[other].lease != held[k].lease);
        }
    }
    rq_reset_record(w->parent, i);
    w->workers[i] = rq_worker_new(w->segment, &w->g, i, w->eventfd, why);
    while (!w->workers[i]) { /* the identity was scribbled between the two lines above */
        rq_reset_record(w->parent, i);
        w->workers[i] = rq_worker_new(w->segment, &w->g, i, w->eventfd, why);
    }
}

static void work(struct world *w, uint32_t i)
{
    char bytes[4096];
    enum rq_outcome outcome;
    if (!w->holds[i]) {
        outcome = rq_claim(w->workers[i], &w->claimed[i]);
        if (outcome == RQ_OK) {
            outcome = w->claimed[i].payload_bytes <= sizeof bytes ? rq_claim_payload(w->workers[i], bytes) : RQ_DAMAGED;
        }
        if (outcome == RQ_OK) {
            CHECK(token_matches(bytes, w->claimed[i].payload_bytes, w->claimed[i].task_id, 'p'));
            outcome = rq_start(w->workers[i]);
            w->holds[i] = true;
        }
        if (outcome == RQ_NOTHING) {
            return;
        }
    } else {
        uint32_t size = (uint32_t)(chance(&w->state) % 1500);
        token_fill(bytes, size, w->claimed[i].task_id, 'r');
        rq_set_progress(w->workers[i], w->claimed[i].lease, 0.25, bytes, size < 63 ? size : 63);
        rq_add_bytes(w->workers[i], w->claimed[i].lease, size);
        CHECK(rq_call(w->workers[i], 1 + chance(&w->state) % 3) == RQ_OK);
        rq_cancel_requested(w->workers[i]);
        outcome = rq_finish(w->workers[i], 10, 0, bytes, size, false);
        if (outcome == RQ_NOTHING) {
            outcome = rq_finish(w->workers[i], 10, 0, NULL, 0, true);
        }
        w->holds[i] = false;
    }
    if (outcome != RQ_OK) {
        totals[2]++;
        bury(w, i);
    }
}

static void publish(struct world *w)
{
    char payload[2000];
    if (w->leases + 1 >= LEASES_MAX) {
        return;
    }
    uint64_t lease = w->leases + 1;
    uint32_t bytes = (uint32_t)(chance(&w->state) % sizeof payload);
    token_fill(payload, bytes, (int64_t)lease * 3, 'p');
    struct rq_task task = {
        .task_id = (int64_t)lease * 3,
        .payload = payload,
        .payload_bytes = bytes,
        .kind = 5,
        .attempt = (uint32_t)lease,
    };
    if (rq_publish(w->parent, &task, 1, lease) == 1) {
        w->fate[lease] = FATE_OUT;
        w->leases++;
        totals[3]++;
    }
}

static void ask(struct world *w)
{
    struct rq_held held[SLOTS];
    struct rq_shown shown[WORKERS];
    int64_t lowest;
    uint32_t running = rq_running(w->parent, held);
    CHECK(running <= WORKERS);
    for (uint32_t i = 0; i < running; i++) {
        CHECK(held[i].lease <= w->leases && w->fate[held[i].lease] == FATE_OUT);
        CHECK(held[i].started_ns <= rq_monotonic_ns() && held[i].call <= RQ_CALL_MAX);
        rq_request_cancel(w->parent, held[i].worker, held[i].lease, 2, held[i].call);
    }
    running = rq_progress(w->parent, held, shown);
    CHECK(running <= WORKERS);
    for (uint32_t i = 0; i < running; i++) {
        CHECK(shown[i].fraction >= 0 && shown[i].fraction <= 1 && shown[i].message_bytes <= RQ_MESSAGE_BYTES_MAX);
        CHECK(shown[i].bytes <= RQ_BYTES_MAX && shown[i].said_ns <= rq_monotonic_ns());
        CHECK(shown[i].total <= RQ_BYTES_MAX || shown[i].total == RQ_BYTES_UNKNOWN);
    }
    CHECK(rq_heartbeat_ns(w->parent, 0) <= rq_monotonic_ns());
    CHECK(rq_ready(w->parent) <= w->g.cells && rq_in_flight(w->parent) <= SLOTS);
    rq_min_task_id(w->parent, &lowest);
    rq_healthy(w->parent);
    rq_scan(w->parent);
    rq_prepare_sleep(w->parent);
    rq_awake(w->parent);
}

static void take_back(struct world *w)
{
    struct rq_held held[SLOTS];
    uint32_t count = rq_revoke_all(w->parent, held);
    for (uint32_t i = 0; i < count; i++) {
        end(w, held[i].task_id, held[i].lease);
    }
}

/* One wild store. Half of them aim at the words the protocol lives on, the rest anywhere. */
static void corrupt(unsigned char *segment, const struct rq_geometry *g, uint64_t *state)
{
    uint64_t at = chance(state) % g->size, dice = chance(state);
    uint64_t value = chance(state) % 4 == 0 ? chance(state) : chance(state) % 64;
    switch (dice % 8) {
    case 0:
        at = g->control_at + chance(state) % (g->records_at - g->control_at);
        break;
    case 1:
        at = g->records_at + chance(state) % (g->cells_at - g->records_at);
        break;
    case 2:
        at = g->slots_at + chance(state) % SLOTS * RQ_SLOT_BYTES;
        break;
    case 3:
        at = g->slots_at + chance(state) % SLOTS * RQ_SLOT_BYTES + chance(state) % 192;
        break;
    case 4: /* lengths and places: these words with wild values, the rest of the receipt as it was */
        at = g->slots_at + chance(state) % SLOTS * RQ_SLOT_BYTES + RQ_LINE_BYTES;
        at += offsetof(struct rq_receipt, ring_start) + chance(state) % 3 * 8;
        value = chance(state) >> chance(state) % 64;
        dice = 8;
        break;
    default:
        break;
    }
    at &= ~UINT64_C(7);
    switch (dice / 8 % 4) {
    case 0:
        segment[at + chance(state) % 8] ^= (unsigned char)(1u << chance(state) % 8);
        break;
    case 1:
        memcpy(segment + at, &value, 8);
        break;
    case 2:
        memset(segment + at, (int)(chance(state) % 2 * 255), (g->size - at < 96 ? g->size - at : 96));
        break;
    default: /* words from elsewhere: the most plausible lies */
        memmove(segment + at, segment + (chance(state) % (g->size - 64) & ~UINT64_C(7)), g->size - at < 64 ? 8 : 64);
        break;
    }
}

static void open_world(struct world *w, uint64_t seed)
{
    char why[RQ_WHY_BYTES];
    memset(w, 0, sizeof *w);
    w->state = seed * 0x9e3779b97f4a7c15u + 1;
    w->g = harness_shape(SLOTS, WORKERS, 4096);
    w->segment = harness_segment(&w->g);
    w->eventfd = harness_eventfd();
    w->parent = rq_parent_new(w->segment, &w->g, w->eventfd);
    for (uint32_t i = 0; i < WORKERS; i++) {
        w->workers[i] = rq_worker_new(w->segment, &w->g, i, w->eventfd, why);
        CHECK(w->workers[i]);
    }
}

/* What a pool does that replaces a damaged segment: every worker is dead, every lease must come back exactly once. */
static void close_world(struct world *w)
{
    struct rq_held held[SLOTS];
    for (uint32_t i = 0; i < WORKERS; i++) {
        rq_worker_delete(w->workers[i]);
        uint32_t count = rq_sweep(w->parent, i, held);
        for (uint32_t k = 0; k < count; k++) {
            end(w, held[k].task_id, held[k].lease);
        }
        rq_reset_record(w->parent, i);
    }
    for (int turn = 0; turn < 3; turn++) {
        drain(w, UINT32_MAX);
        take_back(w);
        uint32_t count = rq_abandon(w->parent, held);
        for (uint32_t k = 0; k < count; k++) {
            end(w, held[k].task_id, held[k].lease);
        }
    }
    rq_free(w->parent);
    CHECK(rq_in_flight(w->parent) == 0);
    for (uint64_t lease = 1; lease <= w->leases; lease++) {
        CHECK(w->fate[lease] == FATE_ENDED);
    }
    struct rq_geometry g;
    char why[RQ_WHY_BYTES];
    if (rq_segment_check(w->segment, w->g.size, &harness_identity, &g, why)) { /* the next parent may look, too */
        struct rq_recovery *recovery = rq_recovery_new(w->segment, &g);
        struct rq_member members[RQ_WORKERS_MAX];
        struct rq_row row;
        rq_recovery_begin(recovery);
        while (rq_recovery_next(recovery, &row) != RQ_TAKEN_NOTHING) {
        }
        rq_recovery_running(recovery, held);
        rq_recovery_members(recovery, members);
        rq_recovery_delete(recovery);
    }
    close(w->eventfd);
    rq_parent_delete(w->parent);
    harness_drop(w->segment, &w->g);
}

static void step(struct world *w)
{
    switch (chance(&w->state) % 16) {
    case 0: case 1: case 2: case 3:
        publish(w);
        break;
    case 4: case 5: case 6: case 7: case 8: case 9:
        work(w, (uint32_t)(chance(&w->state) % WORKERS));
        break;
    case 10: case 11:
        drain(w, (uint32_t)(chance(&w->state) % 8));
        break;
    case 12:
        rq_free(w->parent);
        break;
    case 13:
        ask(w);
        break;
    case 14:
        if (chance(&w->state) % 4 == 0) {
            bury(w, (uint32_t)(chance(&w->state) % WORKERS));
        }
        break;
    default:
        if (chance(&w->state) % 8 == 0) {
            take_back(w);
        }
        break;
    }
}

/* -- one after the other: between any two calls ------------------------------------------------------------------ */

static void scribble_between_calls(uint64_t corruptions)
{
    static struct world w;
    const uint32_t each = 10;
    for (uint64_t done = 0; done < corruptions; done += each) {
        alarm(HANG_S); /* SIGALRM ends a run that hangs */
        open_world(&w, harness_seed + done);
        for (uint32_t i = 0; i < each; i++) {
            for (uint64_t steps = chance(&w.state) % 24; steps > 0; steps--) {
                step(&w);
            }
            corrupt(w.segment, &w.g, &w.state);
        }
        for (int i = 0; i < 24; i++) {
            step(&w);
        }
        close_world(&w);
    }
    printf("scribbles between calls: %llu; rows %llu, damaged %llu, worker faults %llu, leases %llu\n",
           (unsigned long long)corruptions, (unsigned long long)totals[0], (unsigned long long)totals[1],
           (unsigned long long)totals[2], (unsigned long long)totals[3]);
    CHECK(totals[1] > 0 && totals[2] > 0);
}

/* -- at the same time: between any two instructions of a call ---------------------------------------------------- */

struct vandal {
    unsigned char *segment;
    struct rq_geometry g;
    _Atomic bool enough;
    _Atomic uint64_t done;
};

static void *vandalise(void *argument)
{
    struct vandal *vandal = argument;
    uint64_t state = harness_seed * 31 + 7;
    while (!atomic_load(&vandal->enough)) {
        corrupt(vandal->segment, &vandal->g, &state);
        atomic_fetch_add(&vandal->done, 1);
        for (volatile int i = 0; i < 2000; i++) {
        }
    }
    return NULL;
}

static void scribble_during_calls(uint32_t worlds)
{
    static struct world w;
    uint64_t done = 0;
    for (uint32_t i = 0; i < worlds; i++) {
        pthread_t thread;
        alarm(HANG_S);
        open_world(&w, harness_seed + i);
        struct vandal vandal = {.segment = w.segment, .g = w.g};
        CHECK(pthread_create(&thread, NULL, vandalise, &vandal) == 0);
        for (int k = 0; k < 1500; k++) {
            step(&w);
        }
        atomic_store(&vandal.enough, true);
        pthread_join(thread, NULL);
        done += atomic_load(&vandal.done);
        close_world(&w);
    }
    printf("scribbles during calls: %llu in %u segments\n", (unsigned long long)done, worlds);
}

int main(int count, char **arguments)
{
    uint64_t corruptions = count > 1 ? strtoull(arguments[1], NULL, 10) : 20000;
    harness_seed = count > 2 ? strtoull(arguments[2], NULL, 10) : 1;
    scribble_between_calls(corruptions);
    scribble_during_calls((uint32_t)(corruptions / 200));
    return 0;
}
