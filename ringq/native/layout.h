/*
 * The shared segment, byte by byte: what parent and workers agree on. No code but packing of words.
 *
 *   header | control | worker records | cells | hint rings | slots | result rings | blocks
 *
 * Regions are separated by guard lines (canaries). Every field says who writes it; "parent" is the one process that
 * created the segment, "worker" the one process that attached to that record, "holder" whoever the slot word names.
 * Sizes, offsets and codes are checked below at compile time; a change of any of them is a new RQ_LAYOUT_VERSION.
 */
#ifndef RQ_LAYOUT_H
#define RQ_LAYOUT_H

#include <assert.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define RQ_MAGIC UINT64_C(0x31676e71676e6972) /* "ringqng1" in memory order */
#define RQ_LAYOUT_VERSION 3u

#define RQ_LINE_BYTES 64u
#define RQ_SLOT_BYTES 512u
#define RQ_SLOTS_MIN 8u
#define RQ_SLOTS_MAX 65536u /* a slot number is 16 bits in cells and cancel words */
#define RQ_WORKERS_MAX 256u
#define RQ_BLOCK_CLASSES_MAX 8u
#define RQ_BLOCK_BYTES_MAX (UINT32_C(1) << 30)
#define RQ_BLOCKS_MAX (UINT32_C(1) << 24)
#define RQ_RESULT_RING_BYTES_MIN 4096u
#define RQ_RESULT_RING_BYTES_MAX (UINT32_C(1) << 30)
#define RQ_CELLS_PER_SLOT 4u
#define RQ_GENERATION_MAX ((UINT64_C(1) << 40) - 1)
#define RQ_PAYLOAD_INLINE_BYTES_MAX 448u
#define RQ_RESULT_INLINE_BYTES_MAX 352u
#define RQ_MESSAGE_BYTES_MAX 63u
#define RQ_CALL_MAX ((UINT64_C(1) << 56) - 1)

/* -- the slot word: [63:56] state, [55:40] owner, [39:0] generation -------------------------------------------------
 * Any two states differ in four bits: no flip of one, two or three bits turns one state into another. FREE is 0, so
 * that a fresh segment is all free. An owner is a worker's index and its complement, 0 is nobody: no flip of one bit
 * turns one owner into another. */
enum rq_state {
    RQ_FREE = 0x00,
    RQ_READY = 0x0f,
    RQ_CLAIMED = 0x33,
    RQ_RUNNING = 0x55,
    RQ_DONE = 0x69,
};

#define RQ_NONE UINT32_MAX /* no slot, no worker, no block */

static inline uint32_t rq_owner(uint32_t worker)
{
    return worker << 8 | (~worker & 0xff);
}

/* RQ_NONE: that is no owner. */
static inline uint32_t rq_owner_worker(uint32_t owner)
{
    return owner == rq_owner(owner >> 8) ? owner >> 8 : RQ_NONE;
}

static inline uint64_t rq_word(enum rq_state state, uint32_t owner, uint64_t generation)
{
    return (uint64_t)state << 56 | (uint64_t)(owner & 0xffff) << 40 | (generation & RQ_GENERATION_MAX);
}

static inline uint32_t rq_word_state(uint64_t word)
{
    return (uint32_t)(word >> 56);
}

static inline uint32_t rq_word_owner(uint64_t word)
{
    return (uint32_t)(word >> 40) & 0xffff;
}

static inline uint64_t rq_word_generation(uint64_t word)
{
    return word & RQ_GENERATION_MAX;
}

/* -- cell, "current" and cancel words: [63:24] generation, [23:8] slot, [7:0] 1 (it is set) -------------------------
 * The slot is part of the cancel word: generations count per slot, so two slots share them. */
static inline uint64_t rq_cell(uint32_t slot, uint64_t generation)
{
    return generation << 24 | (uint64_t)slot << 8 | 1;
}

static inline uint32_t rq_cell_slot(uint64_t cell)
{
    return (uint32_t)(cell >> 8) & 0xffff;
}

static inline uint64_t rq_cell_generation(uint64_t cell)
{
    return cell >> 24;
}

/* -- what a cancel is for: [63:8] call, [7:0] reason. In one word, so that no call sees another one's reason ------ */
static inline uint64_t rq_cancel_call(uint64_t call, uint32_t reason)
{
    return call << 8 | (reason & 0xff);
}

/* -- header: written by the parent before any worker exists, then read only -------------------------------------- */
struct rq_block_class {
    uint32_t bytes; /* of one block, a multiple of RQ_LINE_BYTES */
    uint32_t count;
};

struct rq_header {
    uint64_t magic;
    uint32_t layout_version;
    uint32_t header_bytes;
    uint8_t uuid[16]; /* of the database */
    uint64_t epoch;
    uint64_t nonce; /* committed in the database: tells a copy of it from the original */
    uint64_t size;  /* of the whole segment */
    uint32_t slots;
    uint32_t workers;
    uint32_t result_ring_bytes; /* per worker */
    uint32_t block_classes;
    struct rq_block_class blocks[RQ_BLOCK_CLASSES_MAX];
    uint32_t reserved[27];
    uint32_t crc; /* CRC32C over everything above */
    uint64_t canary;
};

/* -- control: one line for each word that another party writes --------------------------------------------------- */
struct rq_control {
    alignas(RQ_LINE_BYTES) _Atomic uint64_t tail;     /* parent: cells ever published */
    alignas(RQ_LINE_BYTES) _Atomic uint64_t head;     /* anyone, by CAS: a hint, see I4 */
    alignas(RQ_LINE_BYTES) _Atomic uint32_t work_seq; /* parent: futex the workers sleep on */
    alignas(RQ_LINE_BYTES) _Atomic uint32_t sleeping; /* parent sets; who takes it to 0 writes the eventfd */
};

/* -- worker record ----------------------------------------------------------------------------------------------- */
/* What an attempt has shown of itself. The first word names it, so the words of the one before are nobody's: an attempt
 * that shows nothing costs nothing. */
enum rq_progress_word {
    RQ_PROGRESS_ATTEMPT,  /* its cell word */
    RQ_PROGRESS_SAID_NS,  /* CLOCK_MONOTONIC, when it said a fraction last; 0: never */
    RQ_PROGRESS_FRACTION, /* a double, 0 to 1 */
    RQ_PROGRESS_BYTES,    /* done so far, at most RQ_BYTES_MAX */
    RQ_PROGRESS_TOTAL,    /* bytes in all, RQ_BYTES_UNKNOWN: nobody knows */
    RQ_PROGRESS_MESSAGE,  /* 64 bytes: the message and, in the last one, its length */
    RQ_PROGRESS_WORDS = RQ_PROGRESS_MESSAGE + 8,
};
#define RQ_BYTES_MAX (UINT64_MAX >> 1)
#define RQ_BYTES_UNKNOWN UINT64_MAX

struct rq_record {
    /* line 0: worker, about once a task, or once a call of a chunk */
    alignas(RQ_LINE_BYTES) uint64_t canary_before;
    _Atomic uint64_t identity;     /* worker by CAS from 0: start ticks << 24 | pid; the parent clears it in a sweep */
    _Atomic uint64_t heartbeat_ns; /* CLOCK_MONOTONIC */
    _Atomic uint64_t current;      /* cell word of the slot it holds, 0: none */
    _Atomic uint64_t started_ns;   /* CLOCK_MONOTONIC, of the present call, valid while the slot is RUNNING */
    _Atomic uint64_t in_handler;   /* cell word while the handler's code runs, else 0 */
    _Atomic uint64_t call;         /* index of the call that runs, 0 before the first and for a plain task */
    /* line 1: worker, polled by the parent */
    alignas(RQ_LINE_BYTES) _Atomic uint32_t waiting; /* 1 around a futex wait; the parent clears it in a sweep */
    _Atomic uint64_t hint_tail;                      /* hints ever written */
    /* line 2: parent */
    alignas(RQ_LINE_BYTES) _Atomic uint64_t cancel; /* cell word of the attempt that cancel_call is about, 0: none */
    _Atomic uint64_t cancel_call;                   /* which of its calls, and the reason */
    _Atomic uint64_t ring_start;                    /* where the next life of this record begins in its result ring */
    _Atomic uint64_t ring_freed;                    /* bytes of the result ring given back so far */
    _Atomic uint32_t stop;
    /* lines 3 and 4: worker */
    alignas(RQ_LINE_BYTES) _Atomic uint64_t progress_seq; /* odd while being written */
    _Atomic uint64_t progress[RQ_PROGRESS_WORDS];
    uint64_t canary_after;
};

/* -- slot -------------------------------------------------------------------------------------------------------- */
enum rq_body { /* where a receipt's body lies */
    RQ_BODY_NONE = 0x5a,
    RQ_BODY_INLINE = 0x66,
    RQ_BODY_RING = 0x3c,
    RQ_BODY_SPILLED = 0x0f,
};

struct rq_receipt { /* the holder, over the payload, between RUNNING and DONE */
    int64_t task_id;
    uint64_t lease;
    uint64_t generation;
    int64_t ended_us; /* CLOCK_REALTIME */
    int64_t duration_us;
    int64_t cpu_us; /* -1: not measured */
    int64_t rss_kib;
    uint64_t ring_start; /* RQ_BODY_RING: position of the taken span, a multiple of RQ_LINE_BYTES */
    uint32_t ring_skip;  /* bytes of the span before the body: bodies do not wrap */
    uint32_t body_bytes;
    uint32_t kind;
    uint32_t attempt;
    uint8_t status;
    uint8_t reason;
    uint8_t body; /* enum rq_body */
    uint8_t reserved[9];
    uint32_t crc; /* CRC32C over everything above, then the body */
};

struct rq_task_header { /* the parent, before READY */
    int64_t task_id;
    uint64_t lease;
    uint64_t payload_at; /* offset in the segment; 0: inline */
    uint32_t payload_bytes;
    uint32_t run_limit_ms;
    uint32_t kind;
    uint32_t attempt;
    uint32_t reserved;
    uint32_t payload_crc;
    uint32_t crc; /* CRC32C over the generation, then everything above */
    uint32_t spare;
};

struct rq_slot {
    alignas(RQ_LINE_BYTES) _Atomic uint64_t word; /* parent and workers, by CAS only */
    struct rq_task_header task;
    union {
        unsigned char payload[RQ_PAYLOAD_INLINE_BYTES_MAX]; /* parent */
        struct {
            struct rq_receipt receipt;
            unsigned char body[RQ_RESULT_INLINE_BYTES_MAX];
        } ended; /* holder */
    } area;
};

static_assert(sizeof(_Atomic uint64_t) == 8 && sizeof(_Atomic uint32_t) == 4, "atomics must be plain words");
static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2, "atomics must be lock-free between processes");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the layout is little endian");
static_assert(sizeof(struct rq_header) == 256, "header");
static_assert(offsetof(struct rq_header, crc) == 244 && offsetof(struct rq_header, canary) == 248, "header");
static_assert(sizeof(struct rq_control) == 4 * RQ_LINE_BYTES, "control");
static_assert(sizeof(struct rq_record) == 5 * RQ_LINE_BYTES, "worker record");
static_assert(offsetof(struct rq_record, waiting) == RQ_LINE_BYTES, "worker record: polled line");
static_assert(offsetof(struct rq_record, cancel) == 2 * RQ_LINE_BYTES, "worker record: the parent's line");
static_assert(offsetof(struct rq_record, progress_seq) == 3 * RQ_LINE_BYTES, "worker record: progress");
static_assert(offsetof(struct rq_record, canary_after) < 5 * RQ_LINE_BYTES, "worker record: progress fits two lines");
static_assert(sizeof(struct rq_receipt) == 96 && offsetof(struct rq_receipt, crc) == 92, "receipt");
static_assert(sizeof(struct rq_task_header) == 56 && offsetof(struct rq_task_header, crc) == 48, "task header");
static_assert(sizeof(struct rq_slot) == RQ_SLOT_BYTES && offsetof(struct rq_slot, area) == RQ_LINE_BYTES, "slot");
static_assert(sizeof(struct rq_receipt) + RQ_RESULT_INLINE_BYTES_MAX == RQ_PAYLOAD_INLINE_BYTES_MAX, "slot area");
static_assert(RQ_WORKERS_MAX <= 0x100, "an owner is 8 bits and their complement");
static_assert(RQ_SLOTS_MAX - 1 <= 0xffff, "a slot number is 16 bits");

#endif
