/* Shared by the C files of the ring, not by its callers: typed access to the regions, and the test harness's points. */
#ifndef RQ_INTERNAL_H
#define RQ_INTERNAL_H

#include <string.h>

#include "ring.h"

/* A place between two stores of the protocol where the harness may kill the process; nothing in the product. */
#ifdef RQ_HARNESS
void rq_point(const char *name);
#define RQ_POINT(name) rq_point(name)
#else
#define RQ_POINT(name) ((void)0)
#endif

/* memcpy in the product; in the harness with a point after every line of 64 bytes, so that a copy can be cut short. */
static inline void rq_copy(void *to, const void *from, size_t bytes, const char *point)
{
#ifdef RQ_HARNESS
    for (size_t done = 0; done < bytes; done += RQ_LINE_BYTES) {
        size_t part = bytes - done < RQ_LINE_BYTES ? bytes - done : RQ_LINE_BYTES;
        memcpy((unsigned char *)to + done, (const unsigned char *)from + done, part);
        RQ_POINT(point);
    }
#else
    (void)point;
    if (bytes > 0) {
        memcpy(to, from, bytes);
    }
#endif
}

static inline struct rq_control *rq_control_of(unsigned char *segment, const struct rq_geometry *g)
{
    return (struct rq_control *)(void *)(segment + g->control_at);
}

static inline struct rq_record *rq_record_of(unsigned char *segment, const struct rq_geometry *g, uint32_t worker)
{
    assert(worker < g->workers);
    return (struct rq_record *)(void *)(segment + g->records_at) + worker;
}

static inline _Atomic uint64_t *rq_cells_of(unsigned char *segment, const struct rq_geometry *g)
{
    return (_Atomic uint64_t *)(void *)(segment + g->cells_at);
}

/* One hint ring per worker, as long as there are slots. */
static inline _Atomic uint32_t *rq_hints_of(unsigned char *segment, const struct rq_geometry *g, uint32_t worker)
{
    assert(worker < g->workers);
    return (_Atomic uint32_t *)(void *)(segment + g->hints_at) + (size_t)worker * g->slots;
}

static inline struct rq_slot *rq_slot_of(unsigned char *segment, const struct rq_geometry *g, uint32_t slot)
{
    assert(slot < g->slots);
    return (struct rq_slot *)(void *)(segment + g->slots_at) + slot;
}

static inline unsigned char *rq_ring_of(unsigned char *segment, const struct rq_geometry *g, uint32_t worker)
{
    assert(worker < g->workers);
    return segment + g->rings_at + (size_t)worker * g->result_ring_bytes;
}

static inline uint64_t rq_line_up(uint64_t bytes)
{
    return (bytes + RQ_LINE_BYTES - 1) & ~(uint64_t)(RQ_LINE_BYTES - 1);
}

/* What a guard line or canary must hold: depends on the segment and the place, so that no memset forges it. */
static inline uint64_t rq_canary(uint64_t nonce, uint64_t place)
{
    return (nonce ^ UINT64_C(0x9e3779b97f4a7c15)) * (place * 2 + 1) ^ UINT64_C(0xa5a5c3c35a5a3c3c);
}

uint32_t rq_task_header_crc(const struct rq_task_header *task, uint64_t generation);
uint32_t rq_receipt_crc(const struct rq_receipt *receipt, const void *body);
bool rq_canaries_intact(unsigned char *segment, const struct rq_geometry *g, uint64_t nonce);

/* Who a receipt must belong to. */
struct rq_expected {
    int64_t task_id;
    uint64_t lease;
    uint64_t generation;
    uint32_t kind;
    uint32_t attempt;
    uint32_t worker;
};

struct rq_span { /* of a worker's result ring; bytes 0: none */
    uint64_t start;
    uint32_t bytes;
};

/* Copies the receipt and body of `slot` once into private memory (`scratch`, large enough for a whole result ring or
 * an inline body) and validates the copy; fills the row but for clamping its times. */
bool rq_receipt_read(const unsigned char *segment, const struct rq_geometry *g, uint32_t slot,
                     const struct rq_expected *expected, unsigned char *scratch, struct rq_row *row,
                     struct rq_span *span);
size_t rq_scratch_bytes(const struct rq_geometry *g);

long rq_futex_wake(_Atomic uint32_t *word, uint32_t count);
/* 0 or an errno: EAGAIN, EINTR, ETIMEDOUT. */
int rq_futex_wait(_Atomic uint32_t *word, uint32_t seen, uint64_t timeout_ns);

#endif
