/*
 * Parent and workers as threads over one mapping, for ThreadSanitizer: exactly-once accounting under load with revokes,
 * and litmus tests that list the outcomes the protocol forbids. Usage: threads <scale> <seed>
 */
#include "harness.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

#define WORKERS 3u
#define CHAIN 8u /* sleepers that wake each other */
#define LONG_NS UINT64_C(20000000000) /* nobody may ever wait this long */

static uint32_t scale = 1;

struct crew {
    unsigned char *segment;
    struct rq_geometry g;
    struct rq_parent *parent;
    int eventfd;
    pthread_t threads[CHAIN];
    _Atomic uint64_t timeouts; /* waits that ran into their bound */
    _Atomic uint64_t wrong;
    _Atomic uint64_t begun; /* attempts, of all rounds */
    _Atomic uint64_t needed; /* how many must have begun before one may end */
};

struct seat {
    struct crew *crew;
    uint32_t index;
    struct rq_worker *worker;
};

static void crew_open(struct crew *crew, uint32_t slots, uint32_t workers, uint32_t ring_bytes)
{
    *crew = (struct crew){.g = harness_shape(slots, workers, ring_bytes), .eventfd = harness_eventfd()};
    crew->segment = harness_segment(&crew->g);
    crew->parent = rq_parent_new(crew->segment, &crew->g, crew->eventfd);
    CHECK(crew->parent);
}

static void crew_start(struct crew *crew, struct seat *seats, uint32_t workers, void *(*body)(void *))
{
    char why[RQ_WHY_BYTES];
    for (uint32_t i = 0; i < workers; i++) {
        seats[i] = (struct seat){crew, i, rq_worker_new(crew->segment, &crew->g, i, crew->eventfd, why)};
        CHECK(seats[i].worker);
        CHECK(pthread_create(&crew->threads[i], NULL, body, &seats[i]) == 0);
    }
}

static void crew_close(struct crew *crew, struct seat *seats, uint32_t workers)
{
    rq_stop_all(crew->parent);
    for (uint32_t i = 0; i < workers; i++) {
        pthread_join(crew->threads[i], NULL);
        rq_worker_delete(seats[i].worker);
    }
    CHECK(rq_in_flight(crew->parent) == 0);
    CHECK(rq_healthy(crew->parent));
    CHECK(rq_counters(crew->parent)->damaged == 0 && rq_counters(crew->parent)->recelled == 0);
    rq_parent_delete(crew->parent);
    harness_drop(crew->segment, &crew->g);
}

static bool next_task(struct seat *seat, struct rq_claimed *claimed)
{
    for (;;) {
        enum rq_outcome outcome = rq_claim(seat->worker, claimed);
        if (outcome == RQ_OK) {
            return true;
        }
        CHECK(outcome == RQ_NOTHING);
        if (rq_stopping(seat->worker)) {
            return false;
        }
        uint64_t before = rq_monotonic_ns();
        rq_claim_wait(seat->worker, LONG_NS);
        if (rq_monotonic_ns() - before >= LONG_NS) {
            atomic_fetch_add(&seat->crew->timeouts, 1);
        }
    }
}

/* Sleeps as the parent's loop does, until receipts are there. */
static void parent_wait(struct crew *crew)
{
    if (rq_prepare_sleep(crew->parent)) {
        struct pollfd ready = {.fd = crew->eventfd, .events = POLLIN};
        if (poll(&ready, 1, (int)(LONG_NS / 1000000)) == 0) {
            atomic_fetch_add(&crew->timeouts, 1);
        }
    }
    rq_awake(crew->parent);
}

/* -- accounting: every task recorded exactly once, with its own body, whatever is revoked on the way ------------- */

static uint32_t size_of(int64_t task_id, uint32_t most)
{
    static const uint32_t sizes[] = {0, 1, 63, 64, 65, 351, 352, 353, 447, 448, 449, 1024, 1025, 3000};
    uint32_t bytes = sizes[(uint64_t)task_id % (sizeof sizes / sizeof sizes[0])];
    return bytes < most ? bytes : most;
}

static void *run_tasks(void *argument)
{
    struct seat *seat = argument;
    struct rq_claimed claimed;
    char payload[4096], body[4096];
    while (next_task(seat, &claimed)) {
        CHECK(rq_claim_payload(seat->worker, payload) == RQ_OK);
        CHECK(claimed.payload_bytes == size_of(claimed.task_id, 4096));
        CHECK(token_matches(payload, claimed.payload_bytes, claimed.task_id, 'p'));
        CHECK(rq_start(seat->worker) == RQ_OK);
        rq_set_progress(seat->worker, claimed.lease, 0.5, "half", 4);
        uint32_t bytes = size_of(claimed.task_id * 5 + 3, 3000);
        token_fill(body, bytes, claimed.task_id, 'r');
        enum rq_outcome outcome = rq_finish(seat->worker, 10, 0, body, bytes, false);
        if (outcome == RQ_NOTHING) {
            outcome = rq_finish(seat->worker, 10, 0, body, bytes, true);
        }
        CHECK(outcome == RQ_OK);
    }
    return NULL;
}

struct backlog { /* revoked tasks first, then new ones up to total */
    int64_t ids[64];
    uint32_t revoked;
    int64_t next, total;
};

static uint32_t peek(const struct backlog *backlog, struct rq_task *tasks, char (*payload)[4096], uint32_t most)
{
    uint32_t count = 0;
    int64_t next = backlog->next;
    while (count < most && (count < backlog->revoked || next <= backlog->total)) {
        int64_t id = count < backlog->revoked ? backlog->ids[count] : next++;
        uint32_t bytes = size_of(id, 4096);
        token_fill(payload[count], bytes, id, 'p');
        tasks[count] = (struct rq_task){.task_id = id, .payload = payload[count], .payload_bytes = bytes, .kind = 3};
        count++;
    }
    return count;
}

static void take(struct backlog *backlog, uint32_t published)
{
    uint32_t old = published < backlog->revoked ? published : backlog->revoked;
    backlog->revoked -= old;
    memmove(backlog->ids, backlog->ids + old, backlog->revoked * sizeof backlog->ids[0]);
    backlog->next += published - old;
}

/* What a parent does besides: revoke, look at every slot, ask for cancels. */
static void disturb(struct crew *crew, struct backlog *backlog, struct rq_held *held, uint64_t dice)
{
    if (dice == 0 && backlog->revoked == 0) {
        backlog->revoked = rq_revoke_all(crew->parent, held);
        for (uint32_t i = 0; i < backlog->revoked; i++) {
            backlog->ids[i] = held[i].task_id;
        }
    } else if (dice == 1) {
        rq_scan(crew->parent);
    } else if (dice == 2) {
        uint32_t running = rq_running(crew->parent, held);
        for (uint32_t i = 0; i < running; i++) {
            rq_request_cancel(crew->parent, held[i].worker, held[i].lease, 2, held[i].call);
        }
    } else if (dice == 3) {
        CHECK(rq_ready(crew->parent) <= crew->g.cells);
    }
}

static void test_accounting(void)
{
    struct crew crew;
    struct seat seats[WORKERS];
    const int64_t total = 6000 * (int64_t)scale;
    int64_t recorded = 0;
    uint64_t lease = 1, state = harness_seed * 2654435761u + 1, spilled = 0;
    unsigned char *seen = calloc((size_t)total + 1, 1);
    struct rq_held *held = calloc(64, sizeof *held);
    struct backlog backlog = {.next = 1, .total = total};
    char payload[16][4096];
    crew_open(&crew, 64, WORKERS, 8192);
    crew_start(&crew, seats, WORKERS, run_tasks);
    while (recorded < total) {
        struct rq_task tasks[16];
        uint32_t count = peek(&backlog, tasks, payload, (uint32_t)(chance(&state) % 16));
        uint32_t published = rq_publish(crew.parent, tasks, count, lease);
        take(&backlog, published);
        lease += published;
        disturb(&crew, &backlog, held, chance(&state) % 64);
        struct rq_row row;
        uint32_t limit = 1 + (uint32_t)(chance(&state) % 32);
        rq_drain_begin(crew.parent);
        while (limit-- > 0 && rq_drain_next(crew.parent, &row) == RQ_TAKEN_ROW) {
            CHECK(row.task_id >= 1 && row.task_id <= total && seen[row.task_id]++ == 0);
            CHECK(row.status == 10 && row.kind == 3);
            spilled += row.spilled;
            if (!row.spilled) {
                CHECK(row.body_bytes == size_of(row.task_id * 5 + 3, 3000));
                CHECK(token_matches(row.body, row.body_bytes, row.task_id, 'r'));
            }
            recorded++;
        }
        if (chance(&state) % 4 != 0) {
            rq_free(crew.parent);
        }
        if (published == 0 && backlog.revoked == 0 && rq_in_flight(crew.parent) > 0) {
            rq_free(crew.parent);
            if (rq_in_flight(crew.parent) > 0) {
                parent_wait(&crew);
            }
        }
    }
    rq_free(crew.parent);
    CHECK(atomic_load(&crew.timeouts) == 0);
    printf("accounting: %lld tasks, %llu spilled, %llu revoked, %llu wakes, %llu found by scans\n", (long long)total,
           (unsigned long long)spilled, (unsigned long long)rq_counters(crew.parent)->revoked,
           (unsigned long long)rq_counters(crew.parent)->wakes, (unsigned long long)rq_counters(crew.parent)->found);
    CHECK(rq_counters(crew.parent)->revoked > 0);
    crew_close(&crew, seats, WORKERS);
    free(seen);
    free(held);
}

/* -- E7, E8, E9. Forbidden: work is there and the worker sleeps; a receipt is there and the parent sleeps -------- */

static void *finish_empty(void *argument)
{
    struct seat *seat = argument;
    struct rq_claimed claimed;
    while (next_task(seat, &claimed)) {
        CHECK(rq_start(seat->worker) == RQ_OK && rq_finish(seat->worker, 10, 0, NULL, 0, false) == RQ_OK);
    }
    return NULL;
}

static void test_sleep_and_wake(const char *point, uint32_t rounds)
{
    struct crew crew;
    struct seat seats[2];
    struct rq_row row;
    linger_at = point;
    crew_open(&crew, 8, 2, 4096);
    crew_start(&crew, seats, 2, finish_empty);
    for (uint32_t round = 1; round <= rounds; round++) {
        if (round % 8 == 0 && point) { /* otherwise the workers always sleep already */
            nanosleep(&(struct timespec){.tv_nsec = (long)(round * 7919 % 100000)}, NULL);
        }
        struct rq_task task = {.task_id = round, .payload = "", .payload_bytes = 0};
        CHECK(rq_publish(crew.parent, &task, 1, round) == 1);
        for (bool there = false; !there;) {
            parent_wait(&crew);
            rq_drain_begin(crew.parent);
            there = rq_drain_next(crew.parent, &row) == RQ_TAKEN_ROW;
        }
        CHECK(row.task_id == round && rq_free(crew.parent) == 1);
        CHECK(atomic_load(&crew.timeouts) == 0);
    }
    printf("sleep and wake, lingering at %s: %u rounds, %llu wakes, forbidden outcomes: 0\n",
           point ? point : "no point", rounds, (unsigned long long)rq_counters(crew.parent)->wakes);
    crew_close(&crew, seats, 2);
    linger_at = NULL;
}

/* -- I13. Forbidden: a task waits beside a sleeper while the others are in their handlers ----------------------- */

/* A handler that lasts until as many have begun as the round has tasks. */
static void *finish_together(void *argument)
{
    struct seat *seat = argument;
    struct crew *crew = seat->crew;
    struct rq_claimed claimed;
    uint64_t state = harness_seed * 17 + seat->index;
    while (next_task(seat, &claimed)) {
        CHECK(rq_start(seat->worker) == RQ_OK);
        atomic_fetch_add(&crew->begun, 1);
        const uint64_t end = rq_monotonic_ns() + LONG_NS / 4;
        while (atomic_load(&crew->begun) < atomic_load(&crew->needed)) {
            CHECK(rq_monotonic_ns() < end);
            sched_yield();
        }
        CHECK(rq_finish(seat->worker, 10, 0, NULL, 0, false) == RQ_OK);
        if (chance(&state) % 4 == 0) { /* awake when the next tasks come: it takes one and owes nobody a wake-up */
            nanosleep(&(struct timespec){.tv_nsec = (long)(chance(&state) % 200000)}, NULL);
        }
    }
    return NULL;
}

static void test_wake_chain(const char *point, uint32_t rounds)
{
    struct crew crew;
    struct seat seats[CHAIN];
    struct rq_row row;
    uint64_t state = harness_seed * 31 + 7;
    linger_at = point;
    crew_open(&crew, 16, CHAIN, 4096);
    crew_start(&crew, seats, CHAIN, finish_together);
    for (uint32_t round = 1; round <= rounds; round++) {
        struct rq_task tasks[CHAIN];
        uint32_t count = 2 + (uint32_t)(chance(&state) % (CHAIN - 1)), sent = 0;
        for (uint32_t i = 0; i < count; i++) {
            tasks[i] = (struct rq_task){.task_id = i + 1, .payload = "", .payload_bytes = 0};
        }
        atomic_fetch_add(&crew.needed, count);
        while (sent < count) { /* one call wakes two; what more calls wake is in the way of that */
            uint32_t some = chance(&state) % 4 != 0 ? count - sent : 1;
            CHECK(rq_publish(crew.parent, tasks + sent, some, round * CHAIN + sent) == some);
            sent += some;
        }
        for (uint32_t ended = 0; ended < count; rq_free(crew.parent)) {
            parent_wait(&crew);
            rq_drain_begin(crew.parent);
            while (rq_drain_next(crew.parent, &row) == RQ_TAKEN_ROW) {
                ended++;
            }
        }
        if (round % 4 == 0) { /* time to fall asleep; else some are awake, and some about to sleep */
            nanosleep(&(struct timespec){.tv_nsec = (long)(chance(&state) % 500000)}, NULL);
        }
    }
    CHECK(atomic_load(&crew.timeouts) == 0);
    printf("wake chain, lingering at %s: %llu tasks, %llu wakes by the parent, forbidden outcomes: 0\n",
           point ? point : "no point", (unsigned long long)atomic_load(&crew.begun),
           (unsigned long long)rq_counters(crew.parent)->wakes);
    crew_close(&crew, seats, CHAIN);
    linger_at = NULL;
}

/* -- E3 without E5. Forbidden: a receipt found by a scan before its hint that is not whole ----------------------- */

static void *finish_with_body(void *argument)
{
    struct seat *seat = argument;
    struct rq_claimed claimed;
    char body[1500];
    while (next_task(seat, &claimed)) {
        token_fill(body, sizeof body, claimed.task_id, 'r');
        CHECK(rq_start(seat->worker) == RQ_OK);
        while (rq_finish(seat->worker, 10, 0, body, sizeof body, false) != RQ_OK) {
            sched_yield(); /* E6: the span it waits for is freed after its claim */
        }
    }
    return NULL;
}

static void test_found_before_the_hint(void)
{
    struct crew crew;
    struct seat seats[1];
    struct rq_row row;
    const uint32_t total = 1500 * scale;
    uint32_t recorded = 0, next = 1;
    linger_at = "finish.word";
    crew_open(&crew, 8, 1, 4096);
    crew_start(&crew, seats, 1, finish_with_body);
    while (recorded < total) {
        for (struct rq_task task; next <= total; next++) {
            task = (struct rq_task){.task_id = next, .payload = "", .payload_bytes = 0};
            if (rq_publish(crew.parent, &task, 1, next) == 0) {
                break;
            }
        }
        rq_scan(crew.parent);
        rq_drain_begin(crew.parent);
        while (rq_drain_next(crew.parent, &row) == RQ_TAKEN_ROW) {
            CHECK(row.body_bytes == 1500 && token_matches(row.body, row.body_bytes, row.task_id, 'r'));
            recorded++;
        }
        rq_free(crew.parent);
    }
    printf("found before the hint: %llu of %u, forbidden outcomes: 0\n",
           (unsigned long long)rq_counters(crew.parent)->found, total);
    CHECK(rq_counters(crew.parent)->found > total / 100);
    crew_close(&crew, seats, 1);
    linger_at = NULL;
}

/* -- I3. Forbidden: a task both revoked and claimed, or neither -------------------------------------------------- */

static void test_revoke_against_claim(void)
{
    struct crew crew;
    struct seat seats[2];
    struct rq_row row;
    struct rq_held held[8];
    const uint32_t rounds = 4000 * scale;
    uint32_t revoked = 0, run = 0;
    crew_open(&crew, 8, 2, 4096);
    crew_start(&crew, seats, 2, finish_empty);
    for (uint32_t round = 1; round <= rounds; round++) {
        struct rq_task tasks[4];
        uint32_t got = 0;
        for (uint32_t i = 0; i < 4; i++) {
            tasks[i] = (struct rq_task){.task_id = round * 4 + i, .payload = "", .payload_bytes = 0};
        }
        CHECK(rq_publish(crew.parent, tasks, 4, round * 4) == 4);
        uint32_t back = 0;
        if (round % 2) {
            back = rq_revoke_all(crew.parent, held);
        } else { /* one by one, the last first: workers claim from the front */
            for (uint32_t i = 4; i-- > 0;) {
                held[back].task_id = tasks[i].task_id;
                back += rq_revoke(crew.parent, tasks[i].task_id) == RQ_REVOKED;
            }
        }
        while (got < 4 - back) {
            parent_wait(&crew);
            rq_drain_begin(crew.parent);
            while (rq_drain_next(crew.parent, &row) == RQ_TAKEN_ROW) {
                for (uint32_t i = 0; i < back; i++) {
                    CHECK(held[i].task_id != row.task_id);
                }
                got++;
            }
        }
        CHECK(got + back == 4 && rq_free(crew.parent) == got && rq_in_flight(crew.parent) == 0);
        revoked += back;
        run += got;
    }
    CHECK(atomic_load(&crew.timeouts) == 0);
    printf("revoke against claim: %u revoked, %u run, forbidden outcomes: 0\n", revoked, run);
    crew_close(&crew, seats, 2);
}

/* -- E11. Forbidden: an attempt sees a cancel that was meant for another one ------------------------------------- */

static void *watch_cancels(void *argument)
{
    struct seat *seat = argument;
    struct rq_claimed claimed;
    while (next_task(seat, &claimed)) {
        uint32_t reason = 0;
        CHECK(rq_start(seat->worker) == RQ_OK);
        for (int i = 0; i < 50 && reason == 0; i++) {
            reason = rq_cancel_requested(seat->worker);
        }
        if (reason != 0 && claimed.lease % 255 + 1 != reason) {
            atomic_fetch_add(&seat->crew->wrong, 1);
        }
        rq_leave(seat->worker);
        CHECK(rq_cancel_requested(seat->worker) == 0);
        CHECK(rq_finish(seat->worker, 11, (uint8_t)(reason != 0), NULL, 0, false) == RQ_OK);
    }
    return NULL;
}

static void test_cancel_hits_its_attempt(void)
{
    struct crew crew;
    struct seat seats[2];
    struct rq_row row;
    struct rq_held held[2];
    const uint32_t total = 6000 * scale;
    uint32_t recorded = 0, next = 1, asked = 0, seen = 0;
    crew_open(&crew, 8, 2, 4096);
    crew_start(&crew, seats, 2, watch_cancels);
    while (recorded < total) {
        struct rq_task task = {.task_id = next, .payload = "", .payload_bytes = 0};
        next += next <= total ? rq_publish(crew.parent, &task, 1, next) : 0;
        uint32_t running = rq_running(crew.parent, held);
        for (uint32_t i = 0; i < running; i++) {
            asked += rq_request_cancel(crew.parent, held[i].worker, held[i].lease, held[i].lease % 255 + 1, 0);
        }
        rq_drain_begin(crew.parent);
        while (rq_drain_next(crew.parent, &row) == RQ_TAKEN_ROW) {
            recorded++;
            seen += row.reason;
        }
        rq_free(crew.parent);
    }
    CHECK(atomic_load(&crew.wrong) == 0 && atomic_load(&crew.timeouts) == 0);
    printf("cancel: %u asked, %u seen, forbidden outcomes: 0\n", asked, seen);
    crew_close(&crew, seats, 2);
}

/* -- E11 with calls, E13. Forbidden: a call sees a cancel that was meant for another one; a start time older than its
 *    call's ------------------------------------------------------------------------------------------------------- */

#define CALLS 8u

static _Atomic uint64_t *begun; /* by lease and call: a time before it was begun */

static uint32_t reason_for(uint64_t lease, uint64_t call)
{
    return (uint32_t)((lease * (CALLS + 1) + call) % 255 + 1); /* another one for each of 255 calls in a row */
}

static void *run_calls(void *argument)
{
    struct seat *seat = argument;
    struct rq_claimed claimed;
    while (next_task(seat, &claimed)) {
        uint32_t cancelled = 0;
        CHECK(rq_start(seat->worker) == RQ_OK);
        for (uint32_t call = 0; call <= CALLS; call++) {
            uint32_t reason = 0;
            if (call > 0) {
                atomic_store_explicit(&begun[claimed.lease * (CALLS + 1) + call], rq_monotonic_ns(),
                                      memory_order_relaxed);
                CHECK(rq_call(seat->worker, call) == RQ_OK);
            }
            for (int i = 0; i < 20 && reason == 0; i++) {
                reason = rq_cancel_requested(seat->worker);
            }
            cancelled += reason != 0;
            if (reason != 0 && reason != reason_for(claimed.lease, call)) {
                atomic_fetch_add(&seat->crew->wrong, 1);
            }
            if (call % 2 == 0) {
                rq_leave(seat->worker);
                CHECK(rq_cancel_requested(seat->worker) == 0);
            }
        }
        CHECK(rq_finish(seat->worker, 11, (uint8_t)cancelled, NULL, 0, false) == RQ_OK);
    }
    return NULL;
}

static void test_cancel_hits_its_call(const char *point)
{
    struct crew crew;
    struct seat seats[2];
    struct rq_row row;
    struct rq_held held[2];
    const uint32_t total = 1200 * scale;
    uint32_t recorded = 0, next = 1, asked = 0, seen = 0;
    begun = calloc(((size_t)total + 1) * (CALLS + 1), sizeof *begun);
    linger_at = point;
    crew_open(&crew, 8, 2, 4096);
    crew_start(&crew, seats, 2, run_calls);
    while (recorded < total) {
        struct rq_task task = {.task_id = next, .payload = "", .payload_bytes = 0};
        next += next <= total ? rq_publish(crew.parent, &task, 1, next) : 0;
        uint32_t running = rq_running(crew.parent, held);
        for (uint32_t i = 0; i < running; i++) {
            uint64_t lease = held[i].lease, call = held[i].call;
            CHECK(call <= CALLS);
            CHECK(held[i].started_ns >= atomic_load_explicit(&begun[lease * (CALLS + 1) + call], memory_order_relaxed));
            asked += rq_request_cancel(crew.parent, held[i].worker, lease, reason_for(lease, call), call);
        }
        rq_drain_begin(crew.parent);
        while (rq_drain_next(crew.parent, &row) == RQ_TAKEN_ROW) {
            recorded++;
            seen += row.reason;
        }
        rq_free(crew.parent);
    }
    CHECK(atomic_load(&crew.wrong) == 0 && atomic_load(&crew.timeouts) == 0);
    printf("cancel of a call, lingering at %s: %u asked, %u seen, forbidden outcomes: 0\n",
           point ? point : "no point", asked, seen);
    CHECK(seen > 0);
    crew_close(&crew, seats, 2);
    free(begun);
    linger_at = NULL;
}

/* -- E12, I14. Forbidden: progress of which parts come from two writes, or from an attempt before ------------------ */

#define SHOWN_TIMES 40u

static void *write_progress(void *argument)
{
    struct seat *seat = argument;
    struct rq_claimed claimed;
    char message[RQ_MESSAGE_BYTES_MAX];
    while (next_task(seat, &claimed)) {
        uint64_t lease = claimed.lease;
        CHECK(rq_start(seat->worker) == RQ_OK);
        memset(message, 'a' + (int)(lease % 26), sizeof message);
        for (uint32_t i = 0; i < SHOWN_TIMES && lease % 3 > 0; i++) { /* every third one shows nothing */
            rq_set_progress(seat->worker, lease + 1, 1, "another", 7);
            rq_set_progress(seat->worker, lease, (double)(i % 26) / 26, message, 1 + i % 26);
            rq_set_bytes(seat->worker, lease, lease);
            rq_set_total(seat->worker, lease, lease + 1);
        }
        CHECK(rq_finish(seat->worker, 10, 0, NULL, 0, false) == RQ_OK);
    }
    return NULL;
}

static uint32_t check_shown(const struct rq_held *held, const struct rq_shown *shown)
{
    uint64_t lease = held->lease;
    if (shown->said_ns == 0) {
        CHECK(shown->message_bytes == 0 && shown->bytes == 0 && shown->total == RQ_BYTES_UNKNOWN);
        return 0;
    }
    CHECK(lease % 3 > 0 && shown->message_bytes > 0);
    CHECK(shown->fraction == (double)(shown->message_bytes - 1) / 26);
    for (uint32_t k = 0; k < shown->message_bytes; k++) {
        CHECK(shown->message[k] == (char)('a' + (int)(lease % 26)));
    }
    CHECK(shown->bytes == 0 || shown->bytes == lease);
    CHECK(shown->total == RQ_BYTES_UNKNOWN || (shown->total == lease + 1 && shown->bytes == lease));
    return 1;
}

static void test_progress_is_whole_and_its_own(const char *point)
{
    struct crew crew;
    struct seat seats[2];
    struct rq_row row;
    struct rq_held held[2];
    struct rq_shown shown[2];
    const uint32_t total = 1000 * scale;
    uint32_t recorded = 0, next = 1, seen = 0;
    linger_at = point;
    crew_open(&crew, 8, 2, 4096);
    crew_start(&crew, seats, 2, write_progress);
    while (recorded < total) {
        struct rq_task task = {.task_id = next, .payload = "", .payload_bytes = 0};
        next += next <= total ? rq_publish(crew.parent, &task, 1, next) : 0;
        uint32_t running = rq_progress(crew.parent, held, shown);
        for (uint32_t i = 0; i < running; i++) {
            seen += check_shown(&held[i], &shown[i]);
        }
        rq_drain_begin(crew.parent);
        while (rq_drain_next(crew.parent, &row) == RQ_TAKEN_ROW) {
            recorded++;
        }
        rq_free(crew.parent);
    }
    printf("progress, lingering at %s: %u looks, forbidden outcomes: 0\n", point ? point : "no point", seen);
    CHECK(seen > 10);
    crew_close(&crew, seats, 2);
    linger_at = NULL;
}

int main(int count, char **arguments)
{
    scale = count > 1 ? (uint32_t)atoi(arguments[1]) : 1;
    harness_seed = count > 2 ? strtoull(arguments[2], NULL, 10) : 1;
    yield_at_points = true;
    test_accounting();
    test_sleep_and_wake(NULL, 3000 * scale);
    test_sleep_and_wake("wait.begin", 1500 * scale);
    test_sleep_and_wake("wait.flag", 1500 * scale);
    test_sleep_and_wake("wait.look", 1500 * scale);
    test_sleep_and_wake("publish.tail", 1500 * scale);
    test_sleep_and_wake("finish.hint_tail", 1500 * scale);
    test_wake_chain(NULL, 300 * scale);
    test_wake_chain("wait.look", 150 * scale);
    test_wake_chain("wait.over", 150 * scale);
    test_wake_chain("claim.word", 400 * scale);
    test_wake_chain("claim.head", 150 * scale);
    test_found_before_the_hint();
    test_revoke_against_claim();
    test_cancel_hits_its_attempt();
    test_cancel_hits_its_call(NULL);
    test_cancel_hits_its_call("cancel.call");
    test_cancel_hits_its_call("cancel.word");
    test_cancel_hits_its_call("call.time");
    test_cancel_hits_its_call("call.word");
    test_progress_is_whole_and_its_own(NULL);
    test_progress_is_whole_and_its_own("start.in_handler");
    return 0;
}
