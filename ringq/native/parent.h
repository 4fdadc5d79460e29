/* The parent's private memory: what it believes, whatever the shared segment says (I9). Never in the segment. */
#ifndef RQ_PARENT_H
#define RQ_PARENT_H

#include "internal.h"

enum phase {
    PHASE_FREE,      /* in the free list */
    PHASE_PUBLISHED, /* may be READY, CLAIMED, RUNNING or DONE */
    PHASE_FOUND,     /* seen DONE by a scan or sweep, waits in `found` for the next drain */
    PHASE_HANDED,    /* given to the caller, who commits; the next rq_free frees it */
    PHASE_RETIRED,   /* its word was scribbled while it was FREE: never used again */
};

struct entry { /* one per slot */
    int64_t task_id;
    uint64_t lease;
    uint64_t generation;
    uint64_t published_ns;
    uint64_t seen_running_ns; /* 0: not yet seen RUNNING */
    uint64_t cell_at;         /* position of its newest cell */
    struct rq_span span;      /* of the worker's result ring, known once drained */
    uint32_t kind;
    uint32_t attempt;
    uint32_t run_limit_ms;
    uint32_t block;           /* class << 24 | number, RQ_NONE: inline */
    uint32_t previous, next;  /* list of the slots in flight, in order of publication */
    uint32_t worker;          /* who was last seen to hold it, RQ_NONE: nobody */
    enum phase phase;
};

struct berth { /* one per worker */
    uint64_t hint_read; /* hints taken */
    uint64_t hint_end;  /* as of the last rq_drain_begin */
    uint64_t ring_freed;
    uint64_t *returned; /* bit per line of the result ring: given back, but something older is not */
    uint32_t running;   /* slot it was last seen RUNNING, RQ_NONE */
    uint64_t progress[RQ_PROGRESS_WORDS]; /* the last coherent words, checked */
};

struct rq_parent {
    unsigned char *segment;
    struct rq_geometry g;
    struct rq_header header;
    int eventfd;
    bool damaged; /* something was seen that no worker can cause by the protocol; sticky */

    uint64_t tail; /* cells ever published; the shared word is only a copy */
    uint64_t head; /* last value seen of the shared head */
    struct entry *entries;
    uint32_t oldest, newest; /* ends of the list in flight */
    uint32_t in_flight;

    uint32_t *free_slots; /* stack */
    uint32_t free_count;
    uint32_t *free_blocks[RQ_BLOCK_CLASSES_MAX]; /* stacks */
    uint32_t free_block_count[RQ_BLOCK_CLASSES_MAX];

    uint32_t *found; /* circular, a slot is in it at most once */
    uint32_t found_first, found_count;
    uint32_t *handed; /* in order of handing out */
    uint32_t handed_count, handed_mark;

    struct berth *berths;
    uint32_t turn;      /* the worker whose hints are taken next */
    uint32_t turn_left; /* how many before the turn moves on */
    unsigned char *scratch;
    struct rq_counters counters;
};

/* parent.c */
void rq_list_remove(struct rq_parent *p, uint32_t slot);
void rq_release(struct rq_parent *p, uint32_t slot);
void rq_wake(struct rq_parent *p, uint32_t count);
void rq_push_cell(struct rq_parent *p, uint32_t slot);
bool rq_cell_room(struct rq_parent *p);

/* drain.c */
void rq_push_found(struct rq_parent *p, uint32_t slot);
void rq_hand_out(struct rq_parent *p, uint32_t slot);
void rq_span_return(struct rq_parent *p, uint32_t worker, struct rq_span span);
void rq_span_publish(struct rq_parent *p, uint32_t worker);

/* The state of a published slot as far as it is possible, and who holds it; else RQ_GARBAGE and RQ_NONE. */
#define RQ_GARBAGE 0xffu
static inline uint32_t rq_observe(struct rq_parent *p, uint32_t slot, uint32_t *worker)
{
    /* E3: acquire, pairs with the holder's CAS to RUNNING (its start time) and DONE (receipt and body) */
    uint64_t word = atomic_load_explicit(&rq_slot_of(p->segment, &p->g, slot)->word, memory_order_acquire);
    uint32_t state = rq_word_state(word);
    *worker = RQ_NONE;
    if (rq_word_generation(word) != p->entries[slot].generation) {
        return RQ_GARBAGE;
    }
    if (state == RQ_READY) {
        return rq_word_owner(word) == 0 ? RQ_READY : RQ_GARBAGE;
    }
    uint32_t holder = rq_owner_worker(rq_word_owner(word));
    if ((state != RQ_CLAIMED && state != RQ_RUNNING && state != RQ_DONE) || holder >= p->g.workers) {
        return RQ_GARBAGE;
    }
    *worker = holder;
    return state;
}

#endif
