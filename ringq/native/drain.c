/*
 * The parent, second half: receipts and deaths. Drain (peek; the caller commits, then rq_free), scan, sweep, and the
 * look at what runs. Everything read from the segment is checked against the private table (I9).
 */
#include "parent.h"

#define HINTS_PER_TURN 64u /* of one worker before the next one has its turn */
#define MEASURE_MAX (INT64_C(1) << 50)

/* -- result rings: spans come back in any order, the ring is released up to the oldest one that is not back ------ */

static bool span_is_possible(const struct rq_parent *p, uint32_t worker, struct rq_span span)
{
    uint64_t freed = p->berths[worker].ring_freed;
    return span.start >= freed && span.start - freed <= p->g.result_ring_bytes &&
           span.bytes <= p->g.result_ring_bytes - (span.start - freed) && span.start % RQ_LINE_BYTES == 0;
}

static void mark(uint64_t *bits, uint32_t lines, struct rq_span span, bool set)
{
    for (uint32_t i = 0; i < span.bytes / RQ_LINE_BYTES; i++) {
        uint32_t line = (uint32_t)((span.start / RQ_LINE_BYTES + i) % lines);
        uint64_t bit = UINT64_C(1) << (line & 63);
        bits[line >> 6] = set ? bits[line >> 6] | bit : bits[line >> 6] & ~bit;
    }
}

void rq_span_return(struct rq_parent *p, uint32_t worker, struct rq_span span)
{
    if (span_is_possible(p, worker, span)) {
        mark(p->berths[worker].returned, p->g.result_ring_bytes / RQ_LINE_BYTES, span, true);
    }
}

void rq_span_publish(struct rq_parent *p, uint32_t worker)
{
    struct berth *berth = &p->berths[worker];
    uint32_t lines = p->g.result_ring_bytes / RQ_LINE_BYTES;
    uint64_t before = berth->ring_freed;
    for (uint32_t i = 0; i < lines; i++) {
        uint32_t line = (uint32_t)(berth->ring_freed / RQ_LINE_BYTES % lines);
        uint64_t bit = UINT64_C(1) << (line & 63);
        if ((berth->returned[line >> 6] & bit) == 0) {
            break;
        }
        berth->returned[line >> 6] &= ~bit;
        berth->ring_freed += RQ_LINE_BYTES;
    }
    if (berth->ring_freed != before) {
        /* E6: release, pairs with the worker's load: our reads of the bytes precede its writes */
        atomic_store_explicit(&rq_record_of(p->segment, &p->g, worker)->ring_freed, berth->ring_freed,
                              memory_order_release);
        RQ_POINT("free.ring");
    }
}

/* A new life of the record begins behind everything the old one can have written; what no receipt that is still to be
 * committed needs is given back at once, the rest as those are freed (I8). */
static void renew_ring(struct rq_parent *p, uint32_t worker)
{
    struct berth *berth = &p->berths[worker];
    struct rq_record *record = rq_record_of(p->segment, &p->g, worker);
    uint32_t lines = p->g.result_ring_bytes / RQ_LINE_BYTES;
    uint64_t start = berth->ring_freed + p->g.result_ring_bytes;
    mark(berth->returned, lines, (struct rq_span){berth->ring_freed, p->g.result_ring_bytes}, true);
    for (uint32_t slot = p->oldest; slot != RQ_NONE; slot = p->entries[slot].next) {
        const struct entry *entry = &p->entries[slot];
        struct rq_span span = entry->span;
        uint32_t owner;
        if (entry->phase == PHASE_FOUND && rq_observe(p, slot, &owner) == RQ_DONE && owner == worker) {
            struct rq_receipt receipt;
            memcpy(&receipt, &rq_slot_of(p->segment, &p->g, slot)->area.ended.receipt, sizeof receipt);
            uint64_t taken = receipt.ring_skip + rq_line_up(receipt.body_bytes);
            if (receipt.body == RQ_BODY_RING && taken <= p->g.result_ring_bytes) {
                span = (struct rq_span){receipt.ring_start, (uint32_t)rq_line_up(taken)};
            }
        } else if (entry->phase != PHASE_HANDED || entry->worker != worker) {
            continue;
        }
        if (span.bytes > 0 && span_is_possible(p, worker, span)) {
            mark(berth->returned, lines, span, false);
        }
    }
    rq_span_publish(p, worker);
    atomic_store_explicit(&record->ring_freed, berth->ring_freed, memory_order_relaxed); /* E10 publishes both */
    atomic_store_explicit(&record->ring_start, start, memory_order_relaxed);
}

/* -- drain ------------------------------------------------------------------------------------------------------- */

void rq_push_found(struct rq_parent *p, uint32_t slot)
{
    assert(p->entries[slot].phase == PHASE_PUBLISHED && p->found_count < p->g.slots);
    p->entries[slot].phase = PHASE_FOUND;
    p->found[(p->found_first + p->found_count++) & (p->g.slots - 1)] = slot;
}

void rq_hand_out(struct rq_parent *p, uint32_t slot)
{
    assert(p->handed_count < p->g.slots);
    p->entries[slot].phase = PHASE_HANDED;
    p->handed[p->handed_count++] = slot;
}

void rq_hand_back(struct rq_parent *p)
{
    while (p->handed_count > p->handed_mark) {
        uint32_t slot = p->handed[--p->handed_count];
        uint32_t worker;
        p->entries[slot].phase = PHASE_PUBLISHED;
        if (rq_observe(p, slot, &worker) == RQ_DONE) {
            rq_push_found(p, slot);
        }
    }
}

void rq_drain_begin(struct rq_parent *p)
{
    p->handed_mark = p->handed_count;
    for (uint32_t i = 0; i < p->g.workers; i++) {
        struct berth *berth = &p->berths[i];
        /* E5: acquire, pairs with the worker's store of hint_tail: the hints up to it */
        berth->hint_end = atomic_load_explicit(&rq_record_of(p->segment, &p->g, i)->hint_tail, memory_order_acquire);
        if (berth->hint_end - berth->hint_read > p->g.slots) { /* impossible, or lapped: what is lost a scan finds */
            berth->hint_read = berth->hint_end - p->g.slots;
        }
    }
}

/* The next slot that is DONE: found ones first, then the workers' hints in turn. False: no more in this drain. */
static bool next_done(struct rq_parent *p, uint32_t *slot, uint32_t *worker)
{
    while (p->found_count > 0) {
        *slot = p->found[p->found_first];
        p->found_first = (p->found_first + 1) & (p->g.slots - 1);
        p->found_count--;
        if (rq_observe(p, *slot, worker) == RQ_DONE) {
            return true;
        }
        p->entries[*slot].phase = PHASE_PUBLISHED; /* scribbled since */
        p->damaged = true;
    }
    for (uint32_t idle = 0; idle < p->g.workers;) {
        struct berth *berth = &p->berths[p->turn];
        if (berth->hint_read == berth->hint_end || p->turn_left == 0) {
            idle = berth->hint_read == berth->hint_end ? idle + 1 : 0;
            p->turn = (p->turn + 1) % p->g.workers;
            p->turn_left = HINTS_PER_TURN;
            continue;
        }
        p->turn_left--;
        idle = 0;
        /* relaxed: published by hint_tail (E5); a lapped one is refused below */
        *slot = atomic_load_explicit(
            &rq_hints_of(p->segment, &p->g, p->turn)[berth->hint_read++ & (p->g.slots - 1)], memory_order_relaxed);
        if (*slot < p->g.slots && p->entries[*slot].phase == PHASE_PUBLISHED &&
            rq_observe(p, *slot, worker) == RQ_DONE) {
            return true;
        }
        p->counters.stale++;
    }
    return false;
}

/* Times are evidence for people, not for decisions: what cannot be is replaced by what can. */
static void clamp_times(const struct entry *entry, struct rq_row *row)
{
    int64_t now_us = rq_realtime_us();
    int64_t possible_us = (int64_t)((rq_monotonic_ns() - entry->published_ns) / 1000) + 1;
    if (row->duration_us < 0 || row->duration_us > possible_us) {
        row->duration_us = possible_us;
    }
    if (row->ended_us > now_us || row->ended_us < now_us - possible_us - 1000000) { /* also after a jump of the clock */
        row->ended_us = now_us;
    }
    row->cpu_us = row->cpu_us < MEASURE_MAX ? row->cpu_us : -1;
    row->rss_kib = row->rss_kib < MEASURE_MAX ? row->rss_kib : -1;
}

enum rq_taken rq_drain_next(struct rq_parent *p, struct rq_row *row)
{
    uint32_t slot, worker;
    if (!next_done(p, &slot, &worker)) {
        return RQ_TAKEN_NOTHING;
    }
    struct entry *entry = &p->entries[slot];
    struct rq_expected expected = {
        .task_id = entry->task_id,
        .lease = entry->lease,
        .generation = entry->generation,
        .kind = entry->kind,
        .attempt = entry->attempt,
        .worker = worker,
    };
    bool valid = rq_receipt_read(p->segment, &p->g, slot, &expected, p->scratch, row, &entry->span);
    entry->worker = worker;
    rq_hand_out(p, slot);
    if (!valid) {
        *row = (struct rq_row){
            .task_id = entry->task_id,
            .lease = entry->lease,
            .kind = entry->kind,
            .attempt = entry->attempt,
            .worker = worker,
        };
        rq_count_damaged(p);
        return RQ_TAKEN_DAMAGED;
    }
    clamp_times(entry, row);
    p->counters.drained++;
    return RQ_TAKEN_ROW;
}

void rq_count_damaged(struct rq_parent *p)
{
    p->counters.damaged++;
    p->damaged = true;
}

/* -- looking at every slot --------------------------------------------------------------------------------------- */

static void note_running(struct rq_parent *p, uint32_t slot, uint32_t worker)
{
    struct entry *entry = &p->entries[slot];
    entry->worker = worker;
    p->berths[worker].running = slot;
    if (entry->seen_running_ns == 0) {
        entry->seen_running_ns = rq_monotonic_ns();
    }
}

uint32_t rq_scan(struct rq_parent *p)
{
    struct rq_control *control = rq_control_of(p->segment, &p->g);
    uint32_t found = 0;
    uint32_t ready = rq_ready(p); /* also brings p->head up to date */
    uint32_t passed_over = 0;
    for (uint32_t slot = p->oldest; slot != RQ_NONE; slot = p->entries[slot].next) {
        struct entry *entry = &p->entries[slot];
        uint32_t worker;
        if (entry->phase != PHASE_PUBLISHED) {
            continue;
        }
        switch (rq_observe(p, slot, &worker)) {
        case RQ_DONE:
            rq_push_found(p, slot);
            found++;
            break;
        case RQ_RUNNING:
            note_running(p, slot, worker);
            break;
        case RQ_READY:
            if (entry->cell_at < p->head && rq_cell_room(p)) { /* I5: its cell is gone, no claimer can find it */
                rq_push_cell(p, slot);
                passed_over++;
            }
            break;
        case RQ_GARBAGE:
            p->damaged = true; /* nobody knows who holds it: it waits for a sweep or rq_abandon */
            break;
        default:
            break;
        }
    }
    bool tail_wrong = atomic_load_explicit(&control->tail, memory_order_relaxed) != p->tail;
    p->damaged |= tail_wrong;
    if (tail_wrong || passed_over > 0) {
        atomic_store_explicit(&control->tail, p->tail, memory_order_seq_cst); /* E2, E7 */
    }
    if (ready + passed_over > 0) {
        rq_wake(p, ready + passed_over); /* whoever should have woken the next one may be stopped (I13) */
    }
    p->counters.recelled += passed_over;
    p->counters.found += found;
    return found;
}

static struct rq_held held_of(const struct entry *entry, uint32_t worker, bool started)
{
    return (struct rq_held){
        .task_id = entry->task_id,
        .lease = entry->lease,
        .kind = entry->kind,
        .attempt = entry->attempt,
        .run_limit_ms = entry->run_limit_ms,
        .worker = worker,
        .started = started,
    };
}

uint32_t rq_sweep(struct rq_parent *p, uint32_t worker, struct rq_held *held)
{
    uint64_t current = atomic_load_explicit(&rq_record_of(p->segment, &p->g, worker)->current, memory_order_relaxed);
    uint32_t count = 0;
    p->handed_mark = p->handed_count;
    for (uint32_t slot = p->oldest; slot != RQ_NONE; slot = p->entries[slot].next) {
        struct entry *entry = &p->entries[slot];
        uint32_t owner;
        if (entry->phase != PHASE_PUBLISHED) {
            continue;
        }
        uint32_t state = rq_observe(p, slot, &owner);
        if (state == RQ_GARBAGE && (entry->worker == worker || current == rq_cell(slot, entry->generation))) {
            owner = worker; /* the word says nothing, but we saw it run there or the dead one's record says so */
            p->damaged = true;
        }
        if (state == RQ_READY || owner != worker) {
            continue;
        }
        if (state == RQ_DONE) {
            rq_push_found(p, slot); /* finished and published before it died: a receipt like any other */
            continue;
        }
        held[count++] = held_of(entry, worker, state != RQ_CLAIMED);
        entry->worker = worker;
        rq_hand_out(p, slot);
    }
    p->counters.swept += count;
    return count;
}

uint32_t rq_abandon(struct rq_parent *p, struct rq_held *held)
{
    uint32_t count = 0;
    p->handed_mark = p->handed_count;
    for (uint32_t slot = p->oldest; slot != RQ_NONE; slot = p->entries[slot].next) {
        struct entry *entry = &p->entries[slot];
        uint32_t owner;
        if (entry->phase != PHASE_PUBLISHED) {
            continue;
        }
        uint32_t state = rq_observe(p, slot, &owner);
        if (state == RQ_DONE) {
            rq_push_found(p, slot);
        } else {
            uint32_t holder = owner != RQ_NONE ? owner : entry->worker;
            held[count++] = held_of(entry, holder, state != RQ_READY && state != RQ_CLAIMED);
            rq_hand_out(p, slot);
        }
    }
    p->counters.swept += count;
    return count;
}

void rq_reset_record(struct rq_parent *p, uint32_t worker)
{
    struct rq_record *record = rq_record_of(p->segment, &p->g, worker);
    struct berth *berth = &p->berths[worker];
    renew_ring(p, worker);
    RQ_POINT("sweep.ring");
    atomic_store_explicit(&record->waiting, 0, memory_order_relaxed);
    atomic_store_explicit(&record->current, 0, memory_order_relaxed);
    atomic_store_explicit(&record->in_handler, 0, memory_order_relaxed);
    atomic_store_explicit(&record->started_ns, 0, memory_order_relaxed);
    atomic_store_explicit(&record->call, 0, memory_order_relaxed);
    atomic_store_explicit(&record->heartbeat_ns, 0, memory_order_relaxed);
    atomic_store_explicit(&record->hint_tail, 0, memory_order_relaxed);
    atomic_store_explicit(&record->cancel, 0, memory_order_relaxed);
    atomic_store_explicit(&record->cancel_call, 0, memory_order_relaxed);
    atomic_store_explicit(&record->stop, 0, memory_order_relaxed);
    atomic_store_explicit(&record->progress_seq, 0, memory_order_relaxed);
    for (uint32_t i = 0; i < RQ_PROGRESS_WORDS; i++) {
        atomic_store_explicit(&record->progress[i], 0, memory_order_relaxed);
    }
    berth->hint_read = berth->hint_end = 0;
    berth->running = RQ_NONE;
    memset(berth->progress, 0, sizeof berth->progress);
    RQ_POINT("sweep.record");
    /* E10: release, pairs with the next worker's CAS of identity: everything above is in place when it attaches */
    atomic_store_explicit(&record->identity, 0, memory_order_release);
    RQ_POINT("sweep.identity");
    if (rq_ready(p) > 0) {
        rq_wake(p, 1); /* the dead one may have taken a wake-up with it */
    }
}

/* -- what runs --------------------------------------------------------------------------------------------------- */

/* True if `slot` is RUNNING at `worker` under the present generation; notes it. */
static bool is_running(struct rq_parent *p, uint32_t slot, uint32_t worker)
{
    uint32_t owner;
    if (slot >= p->g.slots || p->entries[slot].phase != PHASE_PUBLISHED ||
        rq_observe(p, slot, &owner) != RQ_RUNNING || owner != worker) {
        return false;
    }
    note_running(p, slot, worker);
    return true;
}

/* The slot `worker` runs: where its record points, or where a scan saw it when the record is wrong. */
static uint32_t running_slot(struct rq_parent *p, uint32_t worker)
{
    struct rq_record *record = rq_record_of(p->segment, &p->g, worker);
    uint64_t current = atomic_load_explicit(&record->current, memory_order_relaxed); /* a hint, checked below */
    uint32_t slot = rq_cell_slot(current);
    if (current != 0 && is_running(p, slot, worker)) {
        return slot;
    }
    slot = p->berths[worker].running;
    return slot != RQ_NONE && is_running(p, slot, worker) ? slot : RQ_NONE;
}

/* Masked, so that a scribbled one is still an argument for rq_request_cancel (I9). */
static uint64_t present_call(const struct rq_record *record)
{
    /* E13: acquire, pairs with the worker's store: the start time of this call */
    return atomic_load_explicit(&record->call, memory_order_acquire) & RQ_CALL_MAX;
}

uint32_t rq_running(struct rq_parent *p, struct rq_held *held)
{
    uint32_t count = 0;
    for (uint32_t worker = 0; worker < p->g.workers; worker++) {
        uint32_t slot = running_slot(p, worker);
        if (slot == RQ_NONE) {
            continue;
        }
        const struct entry *entry = &p->entries[slot];
        const struct rq_record *record = rq_record_of(p->segment, &p->g, worker);
        uint64_t before = present_call(record);
        /* E13: of this call, or of the next one that is just beginning; acquire keeps the look below behind it */
        uint64_t started = atomic_load_explicit(&record->started_ns, memory_order_acquire);
        uint64_t call = present_call(record);
        if (!is_running(p, slot, worker)) {
            continue; /* it ended meanwhile: the start time may be the next attempt's */
        }
        uint64_t now = rq_monotonic_ns();
        if (started < entry->published_ns || started > now) {
            started = entry->seen_running_ns;
        }
        held[count] = held_of(entry, worker, true);
        held[count].call = call;
        held[count++].started_ns = call == before ? started : now; /* begun between the two looks */
    }
    return count;
}

bool rq_request_cancel(struct rq_parent *p, uint32_t worker, uint64_t lease, uint32_t reason, uint64_t call)
{
    struct rq_record *record = rq_record_of(p->segment, &p->g, worker);
    uint32_t slot = running_slot(p, worker);
    if (slot == RQ_NONE || p->entries[slot].lease != lease || present_call(record) != call) {
        return false;
    }
    /* relaxed: published by cancel (E11). It names the call: if the worker has gone on, nobody answers to it. */
    atomic_store_explicit(&record->cancel_call, rq_cancel_call(call, reason), memory_order_relaxed);
    RQ_POINT("cancel.call");
    /* E11: release, pairs with the worker's load. The word names slot and generation: it cannot hit the next task. */
    atomic_store_explicit(&record->cancel, rq_cell(slot, p->entries[slot].generation), memory_order_release);
    RQ_POINT("cancel.word");
    return true;
}

/* E8: seq_cst, before work_seq; pairs with the worker's load of stop between its load of work_seq and its wait */
static void ask_to_stop(struct rq_parent *p, uint32_t worker)
{
    atomic_store_explicit(&rq_record_of(p->segment, &p->g, worker)->stop, 1, memory_order_seq_cst);
}

/* All of them: a futex word does not tell its sleepers apart. */
static void wake_all(struct rq_parent *p)
{
    struct rq_control *control = rq_control_of(p->segment, &p->g);
    atomic_fetch_add_explicit(&control->work_seq, 1, memory_order_seq_cst);
    rq_futex_wake(&control->work_seq, RQ_WORKERS_MAX);
}

void rq_stop_worker(struct rq_parent *p, uint32_t worker)
{
    ask_to_stop(p, worker);
    wake_all(p);
}

void rq_stop_all(struct rq_parent *p)
{
    for (uint32_t worker = 0; worker < p->g.workers; worker++) {
        ask_to_stop(p, worker);
    }
    wake_all(p);
}

/* Whether these can be an attempt's words (I9). */
static bool is_progress(const uint64_t words[RQ_PROGRESS_WORDS])
{
    double fraction;
    memcpy(&fraction, &words[RQ_PROGRESS_FRACTION], sizeof fraction);
    uint64_t length = words[RQ_PROGRESS_WORDS - 1] >> 56;
    uint64_t total = words[RQ_PROGRESS_TOTAL];
    return fraction >= 0 && fraction <= 1 /* refuses NaN too */ && length <= RQ_MESSAGE_BYTES_MAX &&
           words[RQ_PROGRESS_BYTES] <= RQ_BYTES_MAX && (total <= RQ_BYTES_MAX || total == RQ_BYTES_UNKNOWN);
}

/* The last coherent progress: a writer that died or is just writing costs four tries, never a wait. */
static void look_at_progress(struct rq_parent *p, uint32_t worker)
{
    struct rq_record *record = rq_record_of(p->segment, &p->g, worker);
    for (int tries = 0; tries < 4; tries++) {
        uint64_t words[RQ_PROGRESS_WORDS];
        /* E12: acquire on all but the last load, pairs with the writer's release of each word: a later word makes the
         * odd sequence before it visible */
        uint64_t seq = atomic_load_explicit(&record->progress_seq, memory_order_acquire);
        for (uint32_t i = 0; i < RQ_PROGRESS_WORDS; i++) {
            words[i] = atomic_load_explicit(&record->progress[i], memory_order_acquire);
        }
        if (seq % 2 == 0 && atomic_load_explicit(&record->progress_seq, memory_order_relaxed) == seq) {
            if (is_progress(words)) {
                memcpy(p->berths[worker].progress, words, sizeof words);
            }
            return;
        }
    }
}

/* What the attempt in `slot` has shown; nothing, if the words are those of another one (I14). */
static struct rq_shown shown_by(struct rq_parent *p, uint32_t worker, uint32_t slot, uint64_t now)
{
    const uint64_t *words = p->berths[worker].progress;
    struct rq_shown shown = {.total = RQ_BYTES_UNKNOWN};
    look_at_progress(p, worker);
    if (words[RQ_PROGRESS_ATTEMPT] != rq_cell(slot, p->entries[slot].generation)) {
        return shown;
    }
    shown.said_ns = words[RQ_PROGRESS_SAID_NS] < now ? words[RQ_PROGRESS_SAID_NS] : now;
    memcpy(&shown.fraction, &words[RQ_PROGRESS_FRACTION], sizeof shown.fraction);
    shown.bytes = words[RQ_PROGRESS_BYTES];
    shown.total = words[RQ_PROGRESS_TOTAL];
    memcpy(shown.message, &words[RQ_PROGRESS_MESSAGE], sizeof shown.message);
    shown.message_bytes = (uint8_t)shown.message[RQ_MESSAGE_BYTES_MAX];
    return shown;
}

uint32_t rq_progress(struct rq_parent *p, struct rq_held *held, struct rq_shown *shown)
{
    uint32_t count = rq_running(p, held);
    uint64_t now = rq_monotonic_ns();
    for (uint32_t i = 0; i < count; i++) {
        uint32_t slot = p->berths[held[i].worker].running;
        const struct entry *entry = &p->entries[slot];
        shown[i] = shown_by(p, held[i].worker, slot, now);
        shown[i].since_ns = held[i].call == 0 ? held[i].started_ns : entry->seen_running_ns;
    }
    return count;
}

uint64_t rq_heartbeat_ns(const struct rq_parent *p, uint32_t worker)
{
    uint64_t heartbeat = atomic_load_explicit(&rq_record_of(p->segment, &p->g, worker)->heartbeat_ns,
                                              memory_order_relaxed);
    uint64_t now = rq_monotonic_ns();
    return heartbeat < now ? heartbeat : now;
}
