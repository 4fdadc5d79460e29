/*
 * Recovery: reads the segment of a dead parent, whose workers are dead too. Writes nothing. There is no private table
 * any more: a slot is believed when its task header's CRC (over ids, generation, payload) and its receipt's CRC agree.
 */
#include "internal.h"

#include <stdlib.h>

struct rq_recovery {
    const unsigned char *segment;
    struct rq_geometry g;
    uint32_t next; /* slot the next look begins at */
    unsigned char *scratch;
};

struct rq_recovery *rq_recovery_new(const unsigned char *segment, const struct rq_geometry *g)
{
    struct rq_recovery *r = calloc(1, sizeof *r);
    if (r) {
        r->segment = segment;
        r->g = *g;
        r->scratch = malloc(rq_scratch_bytes(g));
        if (!r->scratch) {
            free(r);
            r = NULL;
        }
    }
    return r;
}

void rq_recovery_delete(struct rq_recovery *r)
{
    if (r) {
        free(r->scratch);
        free(r);
    }
}

/* The segment is mapped read-only: the accessors' pointers are only read through. */
static unsigned char *view(const struct rq_recovery *r)
{
    return (unsigned char *)(uintptr_t)r->segment;
}

uint32_t rq_recovery_members(const struct rq_recovery *r, struct rq_member *members)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < r->g.workers; i++) {
        /* relaxed, here and below: the writers are dead, nothing changes any more */
        uint64_t identity = atomic_load_explicit(&rq_record_of(view(r), &r->g, i)->identity, memory_order_relaxed);
        if (identity != 0) {
            members[count++] = (struct rq_member){
                .index = i, .pid = (uint32_t)(identity & 0xffffff), .start_ticks = identity >> 24};
        }
    }
    return count;
}

/* Fills what the slot's task header says if the slot is in `state` and header and word can be believed. */
static bool expect(const struct rq_recovery *r, uint32_t number, uint32_t state, struct rq_expected *expected)
{
    const struct rq_slot *slot = rq_slot_of(view(r), &r->g, number);
    uint64_t word = atomic_load_explicit(&slot->word, memory_order_relaxed);
    uint32_t worker = rq_owner_worker(rq_word_owner(word));
    struct rq_task_header task = slot->task;
    if (rq_word_state(word) != state || worker >= r->g.workers ||
        task.crc != rq_task_header_crc(&task, rq_word_generation(word))) {
        return false;
    }
    *expected = (struct rq_expected){
        .task_id = task.task_id,
        .lease = task.lease,
        .generation = rq_word_generation(word),
        .kind = task.kind,
        .attempt = task.attempt,
        .worker = worker,
    };
    return true;
}

void rq_recovery_begin(struct rq_recovery *r)
{
    r->next = 0;
}

enum rq_taken rq_recovery_next(struct rq_recovery *r, struct rq_row *row)
{
    while (r->next < r->g.slots) {
        struct rq_expected expected;
        struct rq_span span;
        uint32_t slot = r->next++;
        if (!expect(r, slot, RQ_DONE, &expected)) {
            continue;
        }
        if (rq_receipt_read(r->segment, &r->g, slot, &expected, r->scratch, row, &span)) {
            int64_t now_us = rq_realtime_us();
            int64_t uptime_us = (int64_t)(rq_monotonic_ns() / 1000);
            row->ended_us = row->ended_us > 0 && row->ended_us <= now_us ? row->ended_us : now_us;
            row->duration_us = row->duration_us >= 0 && row->duration_us <= uptime_us ? row->duration_us : 0;
            return RQ_TAKEN_ROW;
        }
        *row = (struct rq_row){
            .task_id = expected.task_id,
            .lease = expected.lease,
            .kind = expected.kind,
            .attempt = expected.attempt,
            .worker = expected.worker,
        };
        return RQ_TAKEN_DAMAGED;
    }
    return RQ_TAKEN_NOTHING;
}

/* The call this slot's attempt was in: its worker's record says so, unless the record has begun another life. */
static uint64_t call_of(const struct rq_recovery *r, uint32_t slot, const struct rq_expected *expected)
{
    const struct rq_record *record = rq_record_of(view(r), &r->g, expected->worker);
    uint64_t current = atomic_load_explicit(&record->current, memory_order_relaxed);
    bool same_life = current == rq_cell(slot, expected->generation);
    return same_life ? atomic_load_explicit(&record->call, memory_order_relaxed) & RQ_CALL_MAX : 0;
}

uint32_t rq_recovery_running(const struct rq_recovery *r, struct rq_held *held)
{
    uint32_t count = 0;
    for (uint32_t slot = 0; slot < r->g.slots; slot++) {
        struct rq_expected expected;
        if (expect(r, slot, RQ_RUNNING, &expected)) {
            held[count++] = (struct rq_held){
                .task_id = expected.task_id,
                .lease = expected.lease,
                .kind = expected.kind,
                .attempt = expected.attempt,
                .worker = expected.worker,
                .call = call_of(r, slot, &expected),
                .started = true,
            };
        }
    }
    return count;
}
