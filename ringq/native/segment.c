/* The segment as a whole: its shape, its header and canaries, receipts as bytes, clocks and futexes. */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define STATUS_MIN 10 /* completed .. */
#define STATUS_MAX 13 /* .. cancelled: all that a worker may say of an attempt */

/* -- shape ------------------------------------------------------------------------------------------------------- */

static bool refuse(char why[RQ_WHY_BYTES], const char *name, const char *expected, uint64_t got)
{
    snprintf(why, RQ_WHY_BYTES, "%s: expected %s, got %" PRIu64, name, expected, got);
    return false;
}

static bool check_shape(const struct rq_geometry *g, char why[RQ_WHY_BYTES])
{
    if (g->slots < RQ_SLOTS_MIN || g->slots > RQ_SLOTS_MAX || (g->slots & (g->slots - 1)) != 0) {
        return refuse(why, "slots", "a power of two, 8 to 65536", g->slots);
    }
    if (g->workers < 1 || g->workers > RQ_WORKERS_MAX) {
        return refuse(why, "workers", "1 to 256", g->workers);
    }
    if (g->result_ring_bytes < RQ_RESULT_RING_BYTES_MIN || g->result_ring_bytes > RQ_RESULT_RING_BYTES_MAX ||
        g->result_ring_bytes % RQ_LINE_BYTES != 0) {
        return refuse(why, "result_ring_bytes", "a multiple of 64, 4096 to 2**30", g->result_ring_bytes);
    }
    if (g->block_classes > RQ_BLOCK_CLASSES_MAX) {
        return refuse(why, "blocks", "at most 8 classes", g->block_classes);
    }
    for (uint32_t i = 0; i < g->block_classes; i++) {
        uint32_t bytes = g->blocks[i].bytes;
        if (bytes < RQ_LINE_BYTES || bytes > RQ_BLOCK_BYTES_MAX || bytes % RQ_LINE_BYTES != 0 ||
            (i > 0 && bytes <= g->blocks[i - 1].bytes)) {
            return refuse(why, "blocks", "ascending sizes, multiples of 64, at most 2**30", bytes);
        }
        if (g->blocks[i].count < 1 || g->blocks[i].count >= RQ_BLOCKS_MAX) {
            return refuse(why, "blocks", "1 to 2**24 - 1 blocks in a class", g->blocks[i].count);
        }
    }
    return true;
}

/* Appends a region and the guard line behind it; returns where the region begins. */
static uint64_t append(struct rq_geometry *g, uint32_t *regions, uint64_t bytes)
{
    assert(*regions < RQ_REGIONS);
    uint64_t at = g->size;
    g->guard_at[(*regions)++] = at + rq_line_up(bytes);
    g->size = at + rq_line_up(bytes) + RQ_LINE_BYTES;
    return at;
}

bool rq_geometry_plan(struct rq_geometry *g, char why[RQ_WHY_BYTES])
{
    if (!check_shape(g, why)) {
        return false;
    }
    uint32_t regions = 0;
    g->size = 0;
    g->cells = g->slots * RQ_CELLS_PER_SLOT;
    append(g, &regions, sizeof(struct rq_header));
    g->control_at = append(g, &regions, sizeof(struct rq_control));
    g->records_at = append(g, &regions, (uint64_t)g->workers * sizeof(struct rq_record));
    g->cells_at = append(g, &regions, (uint64_t)g->cells * sizeof(uint64_t));
    g->hints_at = append(g, &regions, (uint64_t)g->workers * g->slots * sizeof(uint32_t));
    g->slots_at = append(g, &regions, (uint64_t)g->slots * RQ_SLOT_BYTES);
    g->rings_at = append(g, &regions, (uint64_t)g->workers * g->result_ring_bytes);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < g->block_classes; i++) {
        g->block_class_at[i] = g->size + bytes;
        bytes += (uint64_t)g->blocks[i].bytes * g->blocks[i].count;
    }
    g->blocks_at = append(g, &regions, bytes);
    assert(regions == RQ_REGIONS && g->size % RQ_LINE_BYTES == 0);
    return true;
}

/* -- header ------------------------------------------------------------------------------------------------------ */

static uint32_t header_crc(const struct rq_header *header)
{
    return rq_crc32c(0, header, offsetof(struct rq_header, crc));
}

void rq_segment_format(unsigned char *segment, const struct rq_geometry *g, const struct rq_identity *id)
{
    struct rq_header header = {
        .magic = RQ_MAGIC,
        .layout_version = RQ_LAYOUT_VERSION,
        .header_bytes = sizeof(struct rq_header),
        .epoch = id->epoch,
        .nonce = id->nonce,
        .size = g->size,
        .slots = g->slots,
        .workers = g->workers,
        .result_ring_bytes = g->result_ring_bytes,
        .block_classes = g->block_classes,
        .canary = rq_canary(id->nonce, 0),
    };
    memcpy(header.uuid, id->uuid, sizeof header.uuid);
    memcpy(header.blocks, g->blocks, g->block_classes * sizeof header.blocks[0]);
    header.crc = header_crc(&header);
    for (uint32_t i = 0; i < RQ_REGIONS; i++) {
        uint64_t canary = rq_canary(id->nonce, g->guard_at[i]);
        memcpy(segment + g->guard_at[i], &canary, sizeof canary);
    }
    for (uint32_t i = 0; i < g->workers; i++) {
        struct rq_record *record = rq_record_of(segment, g, i);
        record->canary_before = rq_canary(id->nonce, 2 * i + 1);
        record->canary_after = rq_canary(id->nonce, 2 * i + 2);
    }
    rq_copy(segment, &header, sizeof header, "format.header");
}

bool rq_segment_check(const unsigned char *segment, uint64_t size, const struct rq_identity *id,
                      struct rq_geometry *g, char why[RQ_WHY_BYTES])
{
    struct rq_header header;
    if (size < sizeof header) {
        return refuse(why, "segment size", "a whole header", size);
    }
    memcpy(&header, segment, sizeof header);
    if (header.magic != RQ_MAGIC) {
        snprintf(why, RQ_WHY_BYTES, "not a ringq segment");
        return false;
    }
    if (header.layout_version != RQ_LAYOUT_VERSION || header.header_bytes != sizeof header) {
        snprintf(why, RQ_WHY_BYTES, "layout version: expected %u, got %" PRIu32, RQ_LAYOUT_VERSION,
                 header.layout_version);
        return false;
    }
    if (header.crc != header_crc(&header) || header.canary != rq_canary(header.nonce, 0)) {
        snprintf(why, RQ_WHY_BYTES, "the segment's header is damaged");
        return false;
    }
    if (memcmp(header.uuid, id->uuid, sizeof header.uuid) != 0) {
        snprintf(why, RQ_WHY_BYTES, "uuid: the segment belongs to another database");
        return false;
    }
    if (header.epoch != id->epoch) {
        snprintf(why, RQ_WHY_BYTES, "epoch: expected %" PRIu64 ", got %" PRIu64, id->epoch, header.epoch);
        return false;
    }
    if (header.nonce != id->nonce) {
        snprintf(why, RQ_WHY_BYTES, "nonce: the segment belongs to another copy of the database");
        return false;
    }
    *g = (struct rq_geometry){
        .slots = header.slots,
        .workers = header.workers,
        .result_ring_bytes = header.result_ring_bytes,
        .block_classes = header.block_classes,
    };
    memcpy(g->blocks, header.blocks, sizeof g->blocks);
    char reason[RQ_WHY_BYTES];
    if (!rq_geometry_plan(g, reason) || g->size != header.size || g->size > size) {
        snprintf(why, RQ_WHY_BYTES, "geometry: the segment needs %" PRIu64 " bytes and has %" PRIu64, header.size,
                 size);
        return false;
    }
    return true;
}

bool rq_canaries_intact(unsigned char *segment, const struct rq_geometry *g, uint64_t nonce)
{
    bool intact = true;
    for (uint32_t i = 0; i < RQ_REGIONS; i++) {
        uint64_t canary;
        memcpy(&canary, segment + g->guard_at[i], sizeof canary);
        intact &= canary == rq_canary(nonce, g->guard_at[i]);
    }
    for (uint32_t i = 0; i < g->workers; i++) {
        const struct rq_record *record = rq_record_of(segment, g, i);
        intact &= record->canary_before == rq_canary(nonce, 2 * i + 1);
        intact &= record->canary_after == rq_canary(nonce, 2 * i + 2);
    }
    return intact;
}

/* -- receipts as bytes ------------------------------------------------------------------------------------------- */

uint32_t rq_task_header_crc(const struct rq_task_header *task, uint64_t generation)
{
    uint32_t crc = rq_crc32c(0, &generation, sizeof generation);
    return rq_crc32c(crc, task, offsetof(struct rq_task_header, crc));
}

uint32_t rq_receipt_crc(const struct rq_receipt *receipt, const void *body)
{
    uint32_t crc = rq_crc32c(0, receipt, offsetof(struct rq_receipt, crc));
    return receipt->body_bytes > 0 ? rq_crc32c(crc, body, receipt->body_bytes) : crc;
}

size_t rq_scratch_bytes(const struct rq_geometry *g)
{
    return g->result_ring_bytes > RQ_RESULT_INLINE_BYTES_MAX ? g->result_ring_bytes : RQ_RESULT_INLINE_BYTES_MAX;
}

/* Copies the body the (private) receipt speaks of; false: it speaks of a place where no body can be. */
static bool copy_body(const unsigned char *segment, const struct rq_geometry *g, const struct rq_slot *slot,
                      const struct rq_receipt *receipt, uint32_t worker, unsigned char *scratch, struct rq_span *span)
{
    uint32_t bytes = receipt->body_bytes;
    switch ((enum rq_body)receipt->body) {
    case RQ_BODY_NONE:
    case RQ_BODY_SPILLED:
        return bytes == 0;
    case RQ_BODY_INLINE:
        if (bytes > RQ_RESULT_INLINE_BYTES_MAX) {
            return false;
        }
        memcpy(scratch, slot->area.ended.body, bytes);
        return true;
    case RQ_BODY_RING: {
        uint64_t at = receipt->ring_start % g->result_ring_bytes;
        uint64_t taken = receipt->ring_skip + rq_line_up(bytes);
        bool wraps = receipt->ring_skip > 0; /* then the body begins at offset 0 */
        if (receipt->ring_start % RQ_LINE_BYTES != 0 || taken > g->result_ring_bytes ||
            (wraps ? at + receipt->ring_skip != g->result_ring_bytes : at + taken > g->result_ring_bytes)) {
            return false;
        }
        const unsigned char *ring = segment + g->rings_at + (size_t)worker * g->result_ring_bytes;
        memcpy(scratch, ring + (wraps ? 0 : at), bytes);
        *span = (struct rq_span){.start = receipt->ring_start, .bytes = (uint32_t)taken};
        return true;
    }
    }
    return false;
}

bool rq_receipt_read(const unsigned char *segment, const struct rq_geometry *g, uint32_t slot,
                     const struct rq_expected *expected, unsigned char *scratch, struct rq_row *row,
                     struct rq_span *span)
{
    const struct rq_slot *shared = (const struct rq_slot *)(const void *)(segment + g->slots_at) + slot;
    struct rq_receipt receipt;
    assert(slot < g->slots && expected->worker < g->workers);
    memcpy(&receipt, &shared->area.ended.receipt, sizeof receipt); /* once: below only the copy is read (I9) */
    *span = (struct rq_span){0};
    if (receipt.task_id != expected->task_id || receipt.lease != expected->lease ||
        receipt.generation != expected->generation || receipt.kind != expected->kind ||
        receipt.attempt != expected->attempt || receipt.status < STATUS_MIN || receipt.status > STATUS_MAX) {
        return false;
    }
    if (!copy_body(segment, g, shared, &receipt, expected->worker, scratch, span) ||
        receipt.crc != rq_receipt_crc(&receipt, scratch)) {
        *span = (struct rq_span){0};
        return false;
    }
    *row = (struct rq_row){
        .task_id = expected->task_id,
        .lease = expected->lease,
        .kind = expected->kind,
        .attempt = expected->attempt,
        .worker = expected->worker,
        .status = receipt.status,
        .reason = receipt.reason,
        .ended_us = receipt.ended_us,
        .duration_us = receipt.duration_us,
        .cpu_us = receipt.cpu_us >= 0 ? receipt.cpu_us : -1,
        .rss_kib = receipt.rss_kib >= 0 ? receipt.rss_kib : -1,
        .body = (const char *)scratch,
        .body_bytes = receipt.body_bytes,
        .has_body = receipt.body == RQ_BODY_INLINE || receipt.body == RQ_BODY_RING,
        .spilled = receipt.body == RQ_BODY_SPILLED,
    };
    return true;
}

/* -- clocks, processes, futexes ---------------------------------------------------------------------------------- */

uint64_t rq_monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int64_t rq_realtime_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

uint64_t rq_start_ticks(int64_t pid)
{
    char path[64];
    char text[1024];
    snprintf(path, sizeof path, "/proc/%" PRId64 "/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return 0;
    }
    ssize_t bytes = read(fd, text, sizeof text - 1);
    close(fd);
    if (bytes <= 0) {
        return 0;
    }
    text[bytes] = '\0';
    char *at = strrchr(text, ')'); /* the name before it may hold anything, also ") " */
    for (int field = 2; at != NULL && field < 22; field++) {
        at = strchr(at + 1, ' ');
    }
    return at != NULL ? strtoull(at, NULL, 10) : 0;
}

long rq_futex_wake(_Atomic uint32_t *word, uint32_t count)
{
    return syscall(SYS_futex, word, FUTEX_WAKE, count > INT32_MAX ? INT32_MAX : (int)count, NULL, NULL, 0);
}

int rq_futex_wait(_Atomic uint32_t *word, uint32_t seen, uint64_t timeout_ns)
{
    struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / 1000000000u),
                               .tv_nsec = (long)(timeout_ns % 1000000000u)};
    return syscall(SYS_futex, word, FUTEX_WAIT, seen, &timeout, NULL, 0) == 0 ? 0 : errno;
}
