/*
 * The worker: claims one slot at a time, runs it, leaves the receipt.
 *
 *   idle --rq_claim: READY to CLAIMED--> claimed --rq_start: to RUNNING--> running --rq_finish: to DONE--> idle
 *                                                                        running --rq_call: next call--> running
 *
 * A worker may be killed between any two stores; INVARIANTS.md says for each what the parent makes of it.
 */
#include "internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MEASURED_FROM_NS 1000000u /* shorter attempts are not worth the system call that measures them */
/* A look at the CPU clock costs a system call (0.2 us); for an attempt that starts sooner after the last one it is
 * taken to have gone with the wall since. That is wrong by no more than this, a twentieth of what is measured at all. */
#define CPU_SAMPLE_NS 50000u

enum step { STEP_IDLE, STEP_CLAIMED, STEP_RUNNING };

struct rq_worker {
    unsigned char *segment;
    struct rq_geometry g;
    struct rq_record *record;
    uint32_t index;
    int eventfd;
    struct stat eventfd_stat; /* what the descriptor was: a handler may have put a file in its place */

    bool woken; /* it has waited since it last took a task: it owes the next sleeper a wake-up (I13) */
    enum step step;
    uint32_t slot;
    uint64_t generation;
    struct rq_task_header task; /* private copy, checked by its CRC */
    uint64_t started_ns;        /* of the attempt; the record has that of the present call */
    uint64_t started_cpu_us;
    uint64_t sampled_ns;        /* when the CPU clock was last read, and what it said */
    uint64_t sampled_cpu_us;
    uint64_t ended_ns; /* 0: the handler has not ended */
    uint64_t call;     /* the one that runs, 0: none was begun */
    bool interrupted;  /* it has been told of its cancel */
    int64_t ended_us;
    int64_t cpu_us, rss_kib;

    uint64_t hint_tail;
    uint64_t ring_tail; /* of the result ring: where the next body goes */
    uint64_t progress[RQ_PROGRESS_WORDS]; /* as they are in the record */
};

struct rq_worker *rq_worker_new(unsigned char *segment, const struct rq_geometry *g, uint32_t index, int eventfd,
                                char why[RQ_WHY_BYTES])
{
    uint64_t nobody = 0;
    uint64_t identity = rq_start_ticks(getpid()) << 24 | (uint64_t)getpid();
    struct rq_worker *w = calloc(1, sizeof *w);
    if (!w) {
        snprintf(why, RQ_WHY_BYTES, "out of memory");
        return NULL;
    }
    w->segment = segment;
    w->g = *g;
    w->record = rq_record_of(segment, g, index);
    w->index = index;
    w->eventfd = eventfd;
    if (fstat(eventfd, &w->eventfd_stat) != 0) {
        snprintf(why, RQ_WHY_BYTES, "eventfd: descriptor %d is not open", eventfd);
        free(w);
        return NULL;
    }
    /* E10: acquire, pairs with the parent's reset of this record; the creation of the segment came before our exec */
    if (!atomic_compare_exchange_strong_explicit(&w->record->identity, &nobody, identity, memory_order_acquire,
                                                 memory_order_relaxed)) {
        snprintf(why, RQ_WHY_BYTES, "index: %" PRIu32 " belongs to process %" PRIu64, index, nobody & 0xffffff);
        free(w);
        return NULL;
    }
    RQ_POINT("attach.identity");
    w->hint_tail = atomic_load_explicit(&w->record->hint_tail, memory_order_relaxed);
    w->ring_tail = atomic_load_explicit(&w->record->ring_start, memory_order_relaxed) & ~(uint64_t)(RQ_LINE_BYTES - 1);
    return w;
}

void rq_worker_delete(struct rq_worker *w)
{
    free(w); /* the record stays: only the parent may declare a worker gone */
}

static void beat(struct rq_worker *w, uint64_t now_ns)
{
    atomic_store_explicit(&w->record->heartbeat_ns, now_ns, memory_order_relaxed); /* a sample, orders nothing */
}

/* -- claim ------------------------------------------------------------------------------------------------------- */

/* Takes the slot a cell names, if it is still READY under that generation. */
static bool take(struct rq_worker *w, uint64_t cell)
{
    uint32_t slot = rq_cell_slot(cell);
    uint64_t generation = rq_cell_generation(cell);
    uint64_t expected = rq_word(RQ_READY, 0, generation);
    if (slot >= w->g.slots || cell != rq_cell(slot, generation)) {
        return false;
    }
    _Atomic uint64_t *word = &rq_slot_of(w->segment, &w->g, slot)->word;
    /* looking first keeps the line shared when there is nothing to take; relaxed: the CAS decides */
    if (atomic_load_explicit(word, memory_order_relaxed) != expected) {
        return false;
    }
    /* E1: acquire, pairs with the parent's CAS to READY: header and payload */
    if (!atomic_compare_exchange_strong_explicit(word, &expected, rq_word(RQ_CLAIMED, rq_owner(w->index), generation),
                                                 memory_order_acquire, memory_order_relaxed)) {
        RQ_POINT("claim.lost");
        return false;
    }
    RQ_POINT("claim.word");
    w->slot = slot;
    w->generation = generation;
    w->step = STEP_CLAIMED;
    /* relaxed: a hint for the parent, which checks it against the word */
    atomic_store_explicit(&w->record->current, rq_cell(slot, generation), memory_order_relaxed);
    RQ_POINT("claim.current");
    return true;
}

/* True when there is no cell to look at. More cells than there are is a scribbled tail or head: the parent puts them
 * right, a worker that followed them would only run in circles. */
static bool is_empty(const struct rq_worker *w, uint64_t head, uint64_t tail)
{
    return head >= tail || tail - head > w->g.cells;
}

/* The parent wakes two; who was woken and has taken a task wakes one more while cells from `head` on are left (I13).
 * work_seq stays: who is about to sleep on its present value sees these cells (E7, E8). */
static void pass_on(struct rq_worker *w, uint64_t head, uint64_t tail)
{
    if (w->woken && head < tail) {
        rq_futex_wake(&rq_control_of(w->segment, &w->g)->work_seq, 1);
        RQ_POINT("claim.pass");
    }
    w->woken = false;
}

/* Walks from head to the first slot that can be taken. */
static bool take_next(struct rq_worker *w)
{
    struct rq_control *control = rq_control_of(w->segment, &w->g);
    for (uint32_t steps = 0; steps < w->g.cells; steps++) {
        uint64_t head = atomic_load_explicit(&control->head, memory_order_acquire); /* E4 */
        /* E2: acquire, pairs with the parent's store of tail: cells and words up to it */
        uint64_t tail = atomic_load_explicit(&control->tail, memory_order_acquire);
        if (is_empty(w, head, tail)) {
            return false;
        }
        /* relaxed: published by tail (E2). Overwritten already? Then head has moved and the CAS below fails. */
        uint64_t cell = atomic_load_explicit(&rq_cells_of(w->segment, &w->g)[head & (w->g.cells - 1)],
                                             memory_order_relaxed);
        RQ_POINT("claim.look");
        bool taken = take(w, cell);
        /* E4: release, pairs with the parent's load of head: our look at the cell precedes its reuse. Taken or dead,
         * the cell is of no use to anybody; if another one was faster so much the better (I4). */
        bool moved = atomic_compare_exchange_strong_explicit(&control->head, &head, head + 1, memory_order_acq_rel,
                                                             memory_order_relaxed);
        RQ_POINT("claim.head");
        if (taken) {
            pass_on(w, moved ? head + 1 : head, tail); /* not moved: head is where others have moved it to */
            return true;
        }
    }
    return false;
}

enum rq_outcome rq_claim(struct rq_worker *w, struct rq_claimed *claimed)
{
    if (w->step != STEP_IDLE) {
        return RQ_MISUSED;
    }
    if (rq_stopping(w) || !take_next(w)) {
        return RQ_NOTHING;
    }
    w->task = rq_slot_of(w->segment, &w->g, w->slot)->task; /* once: below only the copy is read (I9) */
    const struct rq_task_header *task = &w->task;
    uint64_t blocks_end = w->g.guard_at[RQ_REGIONS - 1];
    bool inside = task->payload_at == 0 ? task->payload_bytes <= RQ_PAYLOAD_INLINE_BYTES_MAX
                                        : task->payload_at >= w->g.blocks_at && task->payload_at <= blocks_end &&
                                              task->payload_bytes <= blocks_end - task->payload_at;
    if (task->crc != rq_task_header_crc(task, w->generation) || !inside) {
        return RQ_DAMAGED;
    }
    *claimed = (struct rq_claimed){
        .task_id = task->task_id,
        .lease = task->lease,
        .run_limit_ms = task->run_limit_ms,
        .kind = task->kind,
        .attempt = task->attempt,
        .payload_bytes = task->payload_bytes,
    };
    return RQ_OK;
}

enum rq_outcome rq_claim_payload(struct rq_worker *w, void *payload)
{
    if (w->step != STEP_CLAIMED) {
        return RQ_MISUSED;
    }
    const unsigned char *from = w->task.payload_at != 0
                                    ? w->segment + w->task.payload_at
                                    : rq_slot_of(w->segment, &w->g, w->slot)->area.payload;
    memcpy(payload, from, w->task.payload_bytes);
    return rq_crc32c(0, payload, w->task.payload_bytes) == w->task.payload_crc ? RQ_OK : RQ_DAMAGED;
}

bool rq_claim_wait(struct rq_worker *w, uint64_t timeout_ns)
{
    struct rq_control *control = rq_control_of(w->segment, &w->g);
    beat(w, rq_monotonic_ns());
    RQ_POINT("wait.begin");
    /* E7: seq_cst, before the look at tail; pairs with the parent's store of tail before its load of the flag */
    atomic_store_explicit(&w->record->waiting, 1, memory_order_seq_cst);
    RQ_POINT("wait.flag");
    /* E8: seq_cst, before the look; pairs with the parent's increment after it has seen the flag */
    uint32_t seen = atomic_load_explicit(&control->work_seq, memory_order_seq_cst);
    uint64_t tail = atomic_load_explicit(&control->tail, memory_order_seq_cst);
    bool stop = atomic_load_explicit(&w->record->stop, memory_order_seq_cst) != 0;
    bool undisturbed = true;
    RQ_POINT("wait.look");
    if (!stop && is_empty(w, atomic_load_explicit(&control->head, memory_order_acquire), tail)) {
        undisturbed = rq_futex_wait(&control->work_seq, seen, timeout_ns) != EINTR;
    }
    /* relaxed: read too late it costs the parent one needless wake */
    atomic_store_explicit(&w->record->waiting, 0, memory_order_relaxed);
    w->woken = true; /* whatever ended the wait: a wake-up too many costs a look, one too few a sleeper beside a task */
    RQ_POINT("wait.over");
    return undisturbed;
}

bool rq_stopping(const struct rq_worker *w)
{
    return atomic_load_explicit(&w->record->stop, memory_order_relaxed) != 0; /* carries nothing but itself */
}

/* -- run --------------------------------------------------------------------------------------------------------- */

static uint64_t cpu_us(void)
{
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (uint64_t)used.tv_sec * 1000000u + (uint64_t)used.tv_nsec / 1000u;
}

/* The CPU clock at started_ns, to CPU_SAMPLE_NS. */
static uint64_t started_cpu_us(struct rq_worker *w)
{
    uint64_t since_ns = w->started_ns - w->sampled_ns;
    if (w->sampled_ns != 0 && since_ns < CPU_SAMPLE_NS) {
        return w->sampled_cpu_us + since_ns / 1000u;
    }
    w->sampled_ns = w->started_ns;
    w->sampled_cpu_us = cpu_us();
    return w->sampled_cpu_us;
}

enum rq_outcome rq_start(struct rq_worker *w)
{
    if (w->step != STEP_CLAIMED) {
        return RQ_MISUSED;
    }
    uint64_t expected = rq_word(RQ_CLAIMED, rq_owner(w->index), w->generation);
    w->started_ns = rq_monotonic_ns();
    w->started_cpu_us = started_cpu_us(w);
    w->ended_ns = 0;
    w->call = 0;
    w->interrupted = false;
    beat(w, w->started_ns);
    atomic_store_explicit(&w->record->started_ns, w->started_ns, memory_order_relaxed); /* published by RUNNING (E3) */
    RQ_POINT("start.time");
    /* E13: release, as for every call; a parent that sees this 0 sees that the attempt before has ended, too */
    atomic_store_explicit(&w->record->call, 0, memory_order_release);
    RQ_POINT("start.call");
    /* E3: release, pairs with the parent's load of the word: the start time, and that no call has begun */
    if (!atomic_compare_exchange_strong_explicit(&rq_slot_of(w->segment, &w->g, w->slot)->word, &expected,
                                                 rq_word(RQ_RUNNING, rq_owner(w->index), w->generation),
                                                 memory_order_release, memory_order_relaxed)) {
        return RQ_DAMAGED;
    }
    RQ_POINT("start.word");
    w->step = STEP_RUNNING;
    /* relaxed: read by this process only, in the signal handler that follows a cancel (E11) */
    atomic_store_explicit(&w->record->in_handler, rq_cell(w->slot, w->generation), memory_order_relaxed);
    RQ_POINT("start.in_handler");
    return RQ_OK;
}

enum rq_outcome rq_call(struct rq_worker *w, uint64_t index)
{
    if (w->step != STEP_RUNNING) {
        return RQ_MISUSED;
    }
    assert(index <= RQ_CALL_MAX);
    uint64_t now_ns = rq_monotonic_ns();
    beat(w, now_ns);
    atomic_store_explicit(&w->record->started_ns, now_ns, memory_order_relaxed); /* published by the call (E13) */
    RQ_POINT("call.time");
    /* E13: release, after its start time; pairs with the parent's load: it never sees this call as old as the last */
    atomic_store_explicit(&w->record->call, index, memory_order_release);
    RQ_POINT("call.word");
    w->call = index;
    w->interrupted = false;
    w->ended_ns = 0;
    atomic_store_explicit(&w->record->in_handler, rq_cell(w->slot, w->generation), memory_order_relaxed);
    RQ_POINT("call.in_handler");
    return RQ_OK;
}

/* Two system calls, for attempts long enough to be worth them. */
static void measure(struct rq_worker *w)
{
    struct rusage usage;
    w->cpu_us = w->rss_kib = -1;
    if (w->ended_ns - w->started_ns >= MEASURED_FROM_NS) {
        uint64_t now_us = cpu_us();
        w->cpu_us = now_us > w->started_cpu_us ? (int64_t)(now_us - w->started_cpu_us) : 0;
        w->rss_kib = getrusage(RUSAGE_SELF, &usage) == 0 ? usage.ru_maxrss : -1;
    }
}

void rq_leave(struct rq_worker *w)
{
    if (w->step != STEP_RUNNING || w->ended_ns != 0) {
        return;
    }
    atomic_store_explicit(&w->record->in_handler, 0, memory_order_relaxed);
    RQ_POINT("leave.in_handler");
    w->ended_ns = rq_monotonic_ns();
    if (w->call == 0) { /* else by rq_finish: after each of a million short calls it would cost more than they do */
        w->ended_us = rq_realtime_us();
        measure(w);
    }
}

uint32_t rq_cancel_requested(const struct rq_worker *w)
{
    uint64_t mine = rq_cell(w->slot, w->generation);
    uint64_t in_handler = atomic_load_explicit(&w->record->in_handler, memory_order_relaxed);
    /* E11: acquire, before the look at cancel_call; pairs with the parent's store after it */
    uint64_t cancel = atomic_load_explicit(&w->record->cancel, memory_order_acquire);
    uint64_t cancel_call = atomic_load_explicit(&w->record->cancel_call, memory_order_relaxed);
    if (w->step != STEP_RUNNING || in_handler != mine || cancel != mine) {
        return 0;
    }
    return cancel_call >> 8 == w->call ? (uint32_t)(cancel_call & 0xff) : 0;
}

uint32_t rq_interrupt(struct rq_worker *w)
{
    uint32_t reason = w->interrupted ? 0 : rq_cancel_requested(w);
    w->interrupted = w->interrupted || reason != 0;
    return reason;
}

/* -- progress ---------------------------------------------------------------------------------------------------- */

/* The words of this attempt, to be changed and shown; NULL if it is not the one with this lease. */
static uint64_t *own_words(struct rq_worker *w, uint64_t lease, uint32_t *first, uint32_t *count)
{
    uint64_t mine = rq_cell(w->slot, w->generation);
    if (w->step != STEP_RUNNING || w->task.lease != lease) {
        return NULL;
    }
    if (w->progress[RQ_PROGRESS_ATTEMPT] != mine) { /* I14: those of the attempt before go with its name */
        memset(w->progress, 0, sizeof w->progress);
        w->progress[RQ_PROGRESS_ATTEMPT] = mine;
        w->progress[RQ_PROGRESS_TOTAL] = RQ_BYTES_UNKNOWN;
        *first = 0;
        *count = RQ_PROGRESS_WORDS;
    }
    return w->progress;
}

static void show_words(struct rq_worker *w, uint32_t first, uint32_t count)
{
    struct rq_record *record = w->record;
    uint64_t seq = atomic_load_explicit(&record->progress_seq, memory_order_relaxed) | 1;
    atomic_store_explicit(&record->progress_seq, seq, memory_order_relaxed);
    RQ_POINT("progress.odd");
    for (uint32_t i = first; i < first + count; i++) {
        /* E12: release, after the odd sequence; pairs with the parent's acquire of each word */
        atomic_store_explicit(&record->progress[i], w->progress[i], memory_order_release);
        RQ_POINT("progress.word");
    }
    /* E12: release, after the words; pairs with the parent's first load of the sequence */
    atomic_store_explicit(&record->progress_seq, seq + 1, memory_order_release);
    RQ_POINT("progress.even");
}

void rq_set_progress(struct rq_worker *w, uint64_t lease, double fraction, const char *message, uint32_t bytes)
{
    uint32_t first = RQ_PROGRESS_SAID_NS, count = RQ_PROGRESS_WORDS - RQ_PROGRESS_SAID_NS;
    uint64_t *words = own_words(w, lease, &first, &count);
    char text[RQ_MESSAGE_BYTES_MAX + 1] = {0};
    if (words == NULL) {
        return;
    }
    assert(bytes <= RQ_MESSAGE_BYTES_MAX);
    memcpy(text, message, bytes);
    text[RQ_MESSAGE_BYTES_MAX] = (char)bytes;
    words[RQ_PROGRESS_SAID_NS] = rq_monotonic_ns();
    memcpy(&words[RQ_PROGRESS_FRACTION], &fraction, sizeof fraction);
    memcpy(&words[RQ_PROGRESS_MESSAGE], text, sizeof text);
    show_words(w, first, count);
    beat(w, words[RQ_PROGRESS_SAID_NS]);
}

/* One word of them; the time is not taken, so it costs a tenth of a message. */
static void set_word(struct rq_worker *w, uint64_t lease, uint32_t word, uint64_t value, bool is_added)
{
    uint32_t first = word, count = 1;
    uint64_t *words = own_words(w, lease, &first, &count);
    if (words == NULL) {
        return;
    }
    uint64_t room = RQ_BYTES_MAX - words[word];
    words[word] = !is_added ? value : words[word] + (value < room ? value : room);
    show_words(w, first, count);
}

void rq_set_bytes(struct rq_worker *w, uint64_t lease, uint64_t bytes)
{
    assert(bytes <= RQ_BYTES_MAX);
    set_word(w, lease, RQ_PROGRESS_BYTES, bytes, false);
}

void rq_add_bytes(struct rq_worker *w, uint64_t lease, uint64_t bytes)
{
    set_word(w, lease, RQ_PROGRESS_BYTES, bytes, true);
}

void rq_set_total(struct rq_worker *w, uint64_t lease, uint64_t total)
{
    assert(total <= RQ_BYTES_MAX || total == RQ_BYTES_UNKNOWN);
    set_word(w, lease, RQ_PROGRESS_TOTAL, total, false);
}

/* -- finish ------------------------------------------------------------------------------------------------------ */

/* Room for a body in the result ring, in one piece. Fills where and how much of the ring it takes. */
static bool reserve_span(struct rq_worker *w, size_t bytes, struct rq_receipt *receipt, uint64_t *end)
{
    uint64_t size = w->g.result_ring_bytes;
    if (bytes > size) {
        return false;
    }
    uint64_t at = w->ring_tail % size;
    uint64_t taken = rq_line_up(bytes);
    uint64_t skip = at + taken > size ? size - at : 0;
    /* E6: acquire, pairs with the parent's store: it has read what lay there */
    uint64_t freed = atomic_load_explicit(&w->record->ring_freed, memory_order_acquire);
    uint64_t used = w->ring_tail - freed;
    if (used > size || skip + taken > size - used) {
        return false;
    }
    if (skip > 0) {
        RQ_POINT("finish.skip");
    }
    receipt->ring_start = w->ring_tail;
    receipt->ring_skip = (uint32_t)skip;
    *end = w->ring_tail + skip + taken;
    return true;
}

/* Puts the body where the receipt will say; false: it fits nowhere. */
static bool place_body(struct rq_worker *w, struct rq_receipt *receipt, const void *body, size_t bytes, bool spilled,
                       uint64_t *ring_end)
{
    *ring_end = w->ring_tail;
    if (spilled || body == NULL) {
        receipt->body = spilled ? RQ_BODY_SPILLED : RQ_BODY_NONE;
        return true;
    }
    if (bytes <= RQ_RESULT_INLINE_BYTES_MAX) {
        receipt->body = RQ_BODY_INLINE;
        receipt->body_bytes = (uint32_t)bytes;
        rq_copy(rq_slot_of(w->segment, &w->g, w->slot)->area.ended.body, body, bytes, "finish.inline");
        return true;
    }
    if (!reserve_span(w, bytes, receipt, ring_end)) {
        return false;
    }
    receipt->body = RQ_BODY_RING;
    receipt->body_bytes = (uint32_t)bytes;
    uint64_t at = (receipt->ring_start + receipt->ring_skip) % w->g.result_ring_bytes;
    rq_copy(rq_ring_of(w->segment, &w->g, w->index) + at, body, bytes, "finish.ring");
    return true;
}

/* Tells the parent where to look, and wakes it if it sleeps. All of it a hint: the word is the receipt (I6). */
static void hint(struct rq_worker *w)
{
    struct rq_control *control = rq_control_of(w->segment, &w->g);
    atomic_store_explicit(&w->record->current, 0, memory_order_relaxed);
    RQ_POINT("finish.current");
    /* relaxed: published by hint_tail (E5) */
    atomic_store_explicit(&rq_hints_of(w->segment, &w->g, w->index)[w->hint_tail & (w->g.slots - 1)], w->slot,
                          memory_order_relaxed);
    RQ_POINT("finish.hint");
    /* E5, and E9: seq_cst, before the look at sleeping */
    atomic_store_explicit(&w->record->hint_tail, ++w->hint_tail, memory_order_seq_cst);
    RQ_POINT("finish.hint_tail");
    /* E9: seq_cst, pairs with the parent's store of sleeping: it sees our hint, or we see that it sleeps */
    if (atomic_load_explicit(&control->sleeping, memory_order_seq_cst) == 0 ||
        atomic_exchange_explicit(&control->sleeping, 0, memory_order_seq_cst) == 0) {
        return;
    }
    RQ_POINT("finish.sleeping");
    uint64_t one = 1;
    struct stat now;
    if (fstat(w->eventfd, &now) == 0 && now.st_dev == w->eventfd_stat.st_dev &&
        now.st_ino == w->eventfd_stat.st_ino && now.st_mode == w->eventfd_stat.st_mode) {
        ssize_t written = write(w->eventfd, &one, sizeof one);
        (void)written; /* full or closed: the parent's sleep is bounded */
    }
    RQ_POINT("finish.wake");
}

enum rq_outcome rq_finish(struct rq_worker *w, uint32_t status, uint32_t reason, const void *body, size_t bytes,
                          bool spilled)
{
    if (w->step != STEP_RUNNING) {
        return RQ_MISUSED;
    }
    rq_leave(w);
    if (w->call != 0) {
        w->ended_us = rq_realtime_us() - (int64_t)((rq_monotonic_ns() - w->ended_ns) / 1000u);
        measure(w);
    }
    struct rq_slot *slot = rq_slot_of(w->segment, &w->g, w->slot);
    struct rq_receipt receipt = {
        .task_id = w->task.task_id,
        .lease = w->task.lease,
        .generation = w->generation,
        .ended_us = w->ended_us,
        .duration_us = (int64_t)((w->ended_ns - w->started_ns) / 1000u),
        .cpu_us = w->cpu_us,
        .rss_kib = w->rss_kib,
        .kind = w->task.kind,
        .attempt = w->task.attempt,
        .status = (uint8_t)status,
        .reason = (uint8_t)reason,
    };
    uint64_t ring_end;
    if (!place_body(w, &receipt, body, bytes, spilled, &ring_end)) {
        return RQ_NOTHING;
    }
    receipt.crc = rq_receipt_crc(&receipt, body);
    rq_copy(&slot->area.ended.receipt, &receipt, sizeof receipt, "finish.receipt");
    uint64_t expected = rq_word(RQ_RUNNING, rq_owner(w->index), w->generation);
    /* E3: release, pairs with the parent's load of the word: receipt and body. The only commit point (I6). */
    if (!atomic_compare_exchange_strong_explicit(&slot->word, &expected,
                                                 rq_word(RQ_DONE, rq_owner(w->index), w->generation),
                                                 memory_order_release, memory_order_relaxed)) {
        return RQ_DAMAGED;
    }
    RQ_POINT("finish.word");
    w->ring_tail = ring_end;
    w->step = STEP_IDLE;
    beat(w, w->ended_ns);
    hint(w);
    return RQ_OK;
}
