/*
 * The parent, first half: its private memory, publishing, freeing, revoking, waking.
 *
 * A slot's way, seen from here (phases of parent.h):
 *
 *   FREE --rq_publish--> PUBLISHED --drain: DONE and valid, or damaged--> HANDED --rq_free, after COMMIT--> FREE
 *                         |  |  '---scan, sweep: DONE--> FOUND --drain--> HANDED
 *                         |  '------sweep, abandon: the owner is dead---> HANDED
 *                         '---------rq_revoke, _all: still READY--------> FREE
 */
#include "parent.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#define WAKES_MAX 2u /* so that what was published goes on when one of the woken is killed before it wakes the next */

/* -- life -------------------------------------------------------------------------------------------------------- */

static bool allocate(struct rq_parent *p)
{
    const struct rq_geometry *g = &p->g;
    size_t words = (g->result_ring_bytes / RQ_LINE_BYTES + 63) / 64;
    p->entries = calloc(g->slots, sizeof *p->entries);
    p->free_slots = calloc(g->slots, sizeof *p->free_slots);
    p->found = calloc(g->slots, sizeof *p->found);
    p->handed = calloc(g->slots, sizeof *p->handed);
    p->berths = calloc(g->workers, sizeof *p->berths);
    p->scratch = malloc(rq_scratch_bytes(g));
    if (!p->entries || !p->free_slots || !p->found || !p->handed || !p->berths || !p->scratch) {
        return false;
    }
    for (uint32_t i = 0; i < g->workers; i++) {
        p->berths[i].running = RQ_NONE;
        p->berths[i].returned = calloc(words, sizeof *p->berths[i].returned);
        if (!p->berths[i].returned) {
            return false;
        }
    }
    for (uint32_t i = 0; i < g->block_classes; i++) {
        p->free_blocks[i] = calloc(g->blocks[i].count, sizeof *p->free_blocks[i]);
        if (!p->free_blocks[i]) {
            return false;
        }
    }
    return true;
}

struct rq_parent *rq_parent_new(unsigned char *segment, const struct rq_geometry *g, int eventfd)
{
    struct rq_parent *p = calloc(1, sizeof *p);
    if (!p) {
        return NULL;
    }
    p->segment = segment;
    p->g = *g;
    p->eventfd = eventfd;
    p->oldest = p->newest = RQ_NONE;
    if (!allocate(p)) {
        rq_parent_delete(p);
        return NULL;
    }
    memcpy(&p->header, segment, sizeof p->header);
    while (p->free_count < g->slots) { /* a stack: the lowest slot is taken first */
        p->free_slots[p->free_count] = g->slots - 1 - p->free_count;
        p->free_count++;
    }
    for (uint32_t i = 0; i < g->block_classes; i++) {
        for (uint32_t k = 0; k < g->blocks[i].count; k++) {
            p->free_blocks[i][p->free_block_count[i]++] = g->blocks[i].count - 1 - k;
        }
    }
    return p;
}

void rq_parent_delete(struct rq_parent *p)
{
    if (!p) {
        return;
    }
    for (uint32_t i = 0; p->berths && i < p->g.workers; i++) {
        free(p->berths[i].returned);
    }
    for (uint32_t i = 0; i < p->g.block_classes; i++) {
        free(p->free_blocks[i]);
    }
    free(p->entries);
    free(p->free_slots);
    free(p->found);
    free(p->handed);
    free(p->berths);
    free(p->scratch);
    free(p);
}

/* -- list of slots in flight, in order of publication ------------------------------------------------------------ */

static void list_append(struct rq_parent *p, uint32_t slot)
{
    struct entry *entry = &p->entries[slot];
    entry->previous = p->newest;
    entry->next = RQ_NONE;
    if (p->newest != RQ_NONE) {
        p->entries[p->newest].next = slot;
    } else {
        p->oldest = slot;
    }
    p->newest = slot;
    p->in_flight++;
}

void rq_list_remove(struct rq_parent *p, uint32_t slot)
{
    struct entry *entry = &p->entries[slot];
    assert(p->in_flight > 0);
    if (entry->previous != RQ_NONE) {
        p->entries[entry->previous].next = entry->next;
    } else {
        p->oldest = entry->next;
    }
    if (entry->next != RQ_NONE) {
        p->entries[entry->next].previous = entry->previous;
    } else {
        p->newest = entry->previous;
    }
    p->in_flight--;
}

/* -- cells ------------------------------------------------------------------------------------------------------- */

/* Every cell before the present head is gone: READY slots whose cell was passed over get a new one (I5). */
static void recell(struct rq_parent *p)
{
    for (uint32_t slot = p->oldest; slot != RQ_NONE; slot = p->entries[slot].next) {
        uint32_t worker;
        struct entry *entry = &p->entries[slot];
        if (entry->phase == PHASE_PUBLISHED && entry->cell_at < p->head && p->tail - p->head < p->g.cells &&
            rq_observe(p, slot, &worker) == RQ_READY) {
            rq_push_cell(p, slot);
            p->counters.recelled++;
            p->damaged = true;
        }
    }
}

/* Reads head; one that no claimer can have left is put right, and what it passed over is published again. */
static void read_head(struct rq_parent *p)
{
    struct rq_control *control = rq_control_of(p->segment, &p->g);
    /* E4: acquire, pairs with the claimer's CAS of head: its look at the cell came before we overwrite that cell */
    uint64_t head = atomic_load_explicit(&control->head, memory_order_acquire);
    if (head > p->tail || p->tail - head > p->g.cells) {
        p->damaged = true;
        atomic_compare_exchange_strong_explicit(&control->head, &head, p->tail, memory_order_acq_rel,
                                                memory_order_relaxed);
        p->head = p->tail; /* whoever else moved it is looked at by the next call */
        recell(p);
        atomic_store_explicit(&control->tail, p->tail, memory_order_seq_cst); /* E2, E7 */
        rq_wake(p, WAKES_MAX);
        return;
    }
    p->head = head;
}

static bool cell_is_dead(struct rq_parent *p, uint64_t position)
{
    uint32_t worker;
    /* relaxed: only this thread writes cells */
    uint64_t cell = atomic_load_explicit(&rq_cells_of(p->segment, &p->g)[position & (p->g.cells - 1)],
                                         memory_order_relaxed);
    uint32_t slot = rq_cell_slot(cell);
    return slot >= p->g.slots || p->entries[slot].phase != PHASE_PUBLISHED ||
           p->entries[slot].generation != rq_cell_generation(cell) || rq_observe(p, slot, &worker) != RQ_READY;
}

/* Advances head past dead cells, as claimers do (I4). */
static void advance_head(struct rq_parent *p)
{
    struct rq_control *control = rq_control_of(p->segment, &p->g);
    read_head(p);
    for (uint32_t steps = 0; steps < p->g.cells && p->head < p->tail && cell_is_dead(p, p->head); steps++) {
        uint64_t head = p->head;
        /* E4: release, so that claimers' and our own looks at the cell precede its reuse */
        if (atomic_compare_exchange_strong_explicit(&control->head, &head, p->head + 1, memory_order_acq_rel,
                                                    memory_order_acquire)) {
            p->head++;
        } else {
            read_head(p);
        }
    }
}

bool rq_cell_room(struct rq_parent *p)
{
    if (p->tail - p->head < p->g.cells) {
        return true;
    }
    read_head(p);
    if (p->tail - p->head >= p->g.cells) {
        RQ_POINT("publish.cells_full");
        advance_head(p);
    }
    return p->tail - p->head < p->g.cells;
}

/* Needs rq_cell_room. The caller makes the tail visible. */
void rq_push_cell(struct rq_parent *p, uint32_t slot)
{
    struct entry *entry = &p->entries[slot];
    assert(p->tail - p->head < p->g.cells);
    entry->cell_at = p->tail;
    /* relaxed: the store of tail publishes it (E2) */
    atomic_store_explicit(&rq_cells_of(p->segment, &p->g)[p->tail & (p->g.cells - 1)],
                          rq_cell(slot, entry->generation), memory_order_relaxed);
    p->tail++;
}

uint32_t rq_ready(struct rq_parent *p)
{
    advance_head(p);
    return (uint32_t)(p->tail - p->head);
}

/* -- publish ----------------------------------------------------------------------------------------------------- */

uint32_t rq_payload_bytes_max(const struct rq_parent *p)
{
    const struct rq_geometry *g = &p->g;
    uint32_t largest = g->block_classes > 0 ? g->blocks[g->block_classes - 1].bytes : 0;
    return largest > RQ_PAYLOAD_INLINE_BYTES_MAX ? largest : RQ_PAYLOAD_INLINE_BYTES_MAX;
}

/* A block for `bytes`: of the smallest class that holds it, else of the next larger one. */
static bool take_block(struct rq_parent *p, uint32_t bytes, uint32_t *block)
{
    *block = RQ_NONE;
    if (bytes <= RQ_PAYLOAD_INLINE_BYTES_MAX) {
        return true;
    }
    uint32_t fit = 0;
    while (fit < p->g.block_classes && p->g.blocks[fit].bytes < bytes) {
        fit++;
    }
    for (uint32_t class = fit; class < p->g.block_classes && class <= fit + 1; class++) {
        if (p->free_block_count[class] > 0) {
            *block = class << 24 | p->free_blocks[class][--p->free_block_count[class]];
            return true;
        }
    }
    return false;
}

static void give_back_block(struct rq_parent *p, uint32_t block)
{
    if (block != RQ_NONE) {
        uint32_t class = block >> 24;
        assert(p->free_block_count[class] < p->g.blocks[class].count);
        p->free_blocks[class][p->free_block_count[class]++] = block & 0xffffff;
    }
}

/* Fills the header and payload of a FREE slot that nobody else touches (I1). */
static void fill(struct rq_parent *p, uint32_t slot, const struct rq_task *task, uint32_t block, uint64_t generation)
{
    struct rq_slot *shared = rq_slot_of(p->segment, &p->g, slot);
    uint64_t at = 0;
    if (block != RQ_NONE) {
        uint32_t class = block >> 24;
        at = p->g.block_class_at[class] + (uint64_t)(block & 0xffffff) * p->g.blocks[class].bytes;
    }
    rq_copy(at ? p->segment + at : shared->area.payload, task->payload, task->payload_bytes, "publish.payload");
    struct rq_task_header header = {
        .task_id = task->task_id,
        .lease = p->entries[slot].lease,
        .payload_at = at,
        .payload_bytes = task->payload_bytes,
        .run_limit_ms = task->run_limit_ms,
        .kind = task->kind,
        .attempt = task->attempt,
        .payload_crc = rq_crc32c(0, task->payload, task->payload_bytes),
    };
    header.crc = rq_task_header_crc(&header, generation);
    shared->task = header;
    RQ_POINT("publish.header");
}

/* Takes a FREE slot and makes it READY with the next generation. False: its word is not what we left: retired. */
static bool publish_in(struct rq_parent *p, uint32_t slot, const struct rq_task *task, uint32_t block, uint64_t lease,
                       uint64_t now_ns)
{
    struct entry *entry = &p->entries[slot];
    uint64_t generation = entry->generation + 1;
    uint64_t expected = rq_word(RQ_FREE, 0, entry->generation);
    if (generation <= RQ_GENERATION_MAX) { /* I2: a generation never comes twice; 2^40 of one slot are years */
        entry->lease = lease;
        fill(p, slot, task, block, generation);
        /* E1: release, pairs with the claimer's CAS to CLAIMED: header and payload */
        if (atomic_compare_exchange_strong_explicit(&rq_slot_of(p->segment, &p->g, slot)->word, &expected,
                                                    rq_word(RQ_READY, 0, generation), memory_order_release,
                                                    memory_order_relaxed)) {
            RQ_POINT("publish.word");
            *entry = (struct entry){
                .task_id = task->task_id,
                .lease = lease,
                .generation = generation,
                .published_ns = now_ns,
                .kind = task->kind,
                .attempt = task->attempt,
                .run_limit_ms = task->run_limit_ms,
                .block = block,
                .worker = RQ_NONE,
                .phase = PHASE_PUBLISHED,
            };
            list_append(p, slot);
            rq_push_cell(p, slot);
            RQ_POINT("publish.cell");
            return true;
        }
        p->damaged = true;
    }
    entry->phase = PHASE_RETIRED;
    p->counters.retired++;
    return false;
}

uint32_t rq_publish(struct rq_parent *p, const struct rq_task *tasks, uint32_t count, uint64_t first_lease)
{
    struct rq_control *control = rq_control_of(p->segment, &p->g);
    uint64_t now_ns = rq_monotonic_ns();
    uint32_t published = 0;
    uint32_t block;
    while (published < count && p->free_count > 0 && rq_cell_room(p) &&
           take_block(p, tasks[published].payload_bytes, &block)) {
        uint32_t slot = p->free_slots[--p->free_count];
        if (!publish_in(p, slot, &tasks[published], block, first_lease + published, now_ns)) {
            give_back_block(p, block);
            continue;
        }
        published++;
        if (published % 16 == 0) { /* workers begin while the rest is filled */
            /* E2: release, pairs with the claimer's load of tail: words and cells up to it */
            atomic_store_explicit(&control->tail, p->tail, memory_order_release);
            RQ_POINT("publish.tail");
        }
    }
    if (published > 0) {
        /* E2, and E7: seq_cst, before the load of the waiting flags in rq_wake */
        atomic_store_explicit(&control->tail, p->tail, memory_order_seq_cst);
        RQ_POINT("publish.tail");
        rq_wake(p, published);
        p->counters.published += published;
    }
    return published;
}

/* Wakes at most `count` and at most two of the workers that sleep, and everyone just about to; if there is more to take
 * than that, the woken wake the rest (I13). All at once, those on few cores find that others were faster: with 64 of them
 * on two cores they slept 248 times per 1000 tasks and cost 1.03 us a task, with two woken 12 times and 0.33 us. */
void rq_wake(struct rq_parent *p, uint32_t count)
{
    struct rq_control *control = rq_control_of(p->segment, &p->g);
    bool sleeps = false;
    for (uint32_t i = 0; i < p->g.workers && !sleeps; i++) {
        /* E7: seq_cst, pairs with the worker's store of the flag: it sees our tail, or we see its flag */
        sleeps = atomic_load_explicit(&rq_record_of(p->segment, &p->g, i)->waiting, memory_order_seq_cst) != 0;
    }
    if (sleeps) {
        /* E8: seq_cst, pairs with the worker's load of work_seq: who read the old value does not fall asleep */
        atomic_fetch_add_explicit(&control->work_seq, 1, memory_order_seq_cst);
        RQ_POINT("publish.seq");
        rq_futex_wake(&control->work_seq, count < WAKES_MAX ? count : WAKES_MAX);
        p->counters.wakes++;
    }
}

/* -- free, revoke ------------------------------------------------------------------------------------------------ */

/* Returns a slot whose word the caller has set FREE to the free list. */
void rq_release(struct rq_parent *p, uint32_t slot)
{
    struct entry *entry = &p->entries[slot];
    rq_list_remove(p, slot);
    give_back_block(p, entry->block);
    entry->block = RQ_NONE;
    entry->phase = PHASE_FREE;
    assert(p->free_count < p->g.slots);
    p->free_slots[p->free_count++] = slot;
}

/* Sets the word of a slot that nobody holds any more to FREE, whatever it says now; false: it keeps changing. */
static bool set_free(struct rq_parent *p, uint32_t slot)
{
    _Atomic uint64_t *word = &rq_slot_of(p->segment, &p->g, slot)->word;
    uint64_t seen = atomic_load_explicit(word, memory_order_relaxed);
    for (int tries = 0; tries < 4; tries++) {
        /* relaxed: nothing is handed over; the next publish of this slot is a release of its own (E1) */
        if (atomic_compare_exchange_strong_explicit(word, &seen, rq_word(RQ_FREE, 0, p->entries[slot].generation),
                                                    memory_order_relaxed, memory_order_relaxed)) {
            RQ_POINT("free.word");
            return true;
        }
    }
    return false;
}

uint32_t rq_free(struct rq_parent *p)
{
    uint32_t freed = p->handed_count;
    for (uint32_t i = 0; i < freed; i++) {
        uint32_t slot = p->handed[i];
        struct entry *entry = &p->entries[slot];
        assert(entry->phase == PHASE_HANDED);
        if (entry->span.bytes > 0) {
            rq_span_return(p, entry->worker, entry->span);
        }
        if (set_free(p, slot)) {
            rq_release(p, slot);
            continue;
        }
        rq_list_remove(p, slot);
        give_back_block(p, entry->block);
        entry->phase = PHASE_RETIRED;
        p->counters.retired++;
        p->damaged = true;
    }
    for (uint32_t i = 0; freed > 0 && i < p->g.workers; i++) {
        rq_span_publish(p, i);
    }
    p->handed_count = p->handed_mark = 0;
    p->counters.freed += freed;
    return freed;
}

/* Takes a slot back that no worker has claimed; false: one has. */
static bool take_back(struct rq_parent *p, uint32_t slot)
{
    struct entry *entry = &p->entries[slot];
    uint64_t expected = rq_word(RQ_READY, 0, entry->generation);
    /* relaxed: whoever wins, nothing but the word is handed over; a claimer that loses reads nothing (I3) */
    if (entry->phase != PHASE_PUBLISHED ||
        !atomic_compare_exchange_strong_explicit(&rq_slot_of(p->segment, &p->g, slot)->word, &expected,
                                                 rq_word(RQ_FREE, 0, entry->generation), memory_order_relaxed,
                                                 memory_order_relaxed)) {
        return false;
    }
    RQ_POINT("revoke.word");
    rq_release(p, slot);
    p->counters.revoked++;
    return true;
}

uint32_t rq_revoke_all(struct rq_parent *p, struct rq_held *held)
{
    uint32_t count = 0;
    uint32_t next;
    for (uint32_t slot = p->oldest; slot != RQ_NONE; slot = next) {
        const struct entry *entry = &p->entries[slot];
        next = entry->next;
        held[count] = (struct rq_held){
            .task_id = entry->task_id,
            .lease = entry->lease,
            .kind = entry->kind,
            .attempt = entry->attempt,
            .run_limit_ms = entry->run_limit_ms,
        };
        count += take_back(p, slot);
    }
    return count;
}

enum rq_revoked rq_revoke(struct rq_parent *p, int64_t task_id)
{
    for (uint32_t slot = p->newest; slot != RQ_NONE; slot = p->entries[slot].previous) {
        if (p->entries[slot].task_id == task_id) { /* the newest: an older one may wait for its rq_free */
            return take_back(p, slot) ? RQ_REVOKED : RQ_HELD;
        }
    }
    return RQ_ABSENT;
}

/* -- the parent's own sleep -------------------------------------------------------------------------------------- */

bool rq_prepare_sleep(struct rq_parent *p)
{
    struct rq_control *control = rq_control_of(p->segment, &p->g);
    /* E9: seq_cst, before the look at the hints; pairs with the worker's store of hint_tail and exchange of sleeping */
    atomic_store_explicit(&control->sleeping, 1, memory_order_seq_cst);
    bool pending = p->found_count > 0;
    for (uint32_t i = 0; i < p->g.workers && !pending; i++) {
        struct rq_record *record = rq_record_of(p->segment, &p->g, i);
        pending = atomic_load_explicit(&record->hint_tail, memory_order_seq_cst) != p->berths[i].hint_read;
    }
    if (pending) {
        atomic_store_explicit(&control->sleeping, 0, memory_order_relaxed); /* a worker may still write: harmless */
    }
    return !pending;
}

void rq_awake(struct rq_parent *p)
{
    uint64_t count;
    struct pollfd ready = {.fd = p->eventfd, .events = POLLIN};
    atomic_store_explicit(&rq_control_of(p->segment, &p->g)->sleeping, 0, memory_order_relaxed);
    /* we are its only reader: readable means that read does not block, whatever flags a handler has set on it */
    while (poll(&ready, 1, 0) == 1 && (ready.revents & POLLIN) != 0) {
        if (read(p->eventfd, &count, sizeof count) >= 0 || errno != EINTR) {
            break;
        }
    }
}

/* -- what the caller may ask ------------------------------------------------------------------------------------- */

uint32_t rq_in_flight(const struct rq_parent *p)
{
    return p->in_flight;
}

bool rq_min_task_id(const struct rq_parent *p, int64_t *task_id)
{
    bool any = false;
    for (uint32_t slot = p->oldest; slot != RQ_NONE; slot = p->entries[slot].next) {
        if (!any || p->entries[slot].task_id < *task_id) {
            *task_id = p->entries[slot].task_id;
            any = true;
        }
    }
    return any;
}

const struct rq_counters *rq_counters(const struct rq_parent *p)
{
    return &p->counters;
}

const struct rq_geometry *rq_parent_geometry(const struct rq_parent *p)
{
    return &p->g;
}

bool rq_healthy(struct rq_parent *p)
{
    struct rq_control *control = rq_control_of(p->segment, &p->g);
    uint64_t head = atomic_load_explicit(&control->head, memory_order_relaxed);
    return !p->damaged && memcmp(&p->header, p->segment, sizeof p->header) == 0 &&
           rq_canaries_intact(p->segment, &p->g, p->header.nonce) &&
           atomic_load_explicit(&control->tail, memory_order_relaxed) == p->tail && head <= p->tail &&
           p->tail - head <= p->g.cells;
}
