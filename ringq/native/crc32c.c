/* CRC32C (Castagnoli): the processor's instruction where there is one, else eight tables. */
#include "ring.h"

#include <string.h>

#define POLYNOMIAL UINT32_C(0x82f63b78) /* reflected */

static uint32_t table[8][256];
static uint32_t (*update)(uint32_t, const unsigned char *, size_t);

static uint32_t update_by_tables(uint32_t crc, const unsigned char *at, size_t count)
{
    for (; count >= 8; count -= 8, at += 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        word ^= crc;
        crc = table[7][word & 0xff] ^ table[6][word >> 8 & 0xff] ^ table[5][word >> 16 & 0xff] ^
              table[4][word >> 24 & 0xff] ^ table[3][word >> 32 & 0xff] ^ table[2][word >> 40 & 0xff] ^
              table[1][word >> 48 & 0xff] ^ table[0][word >> 56];
    }
    for (; count > 0; count--, at++) {
        crc = crc >> 8 ^ table[0][(crc ^ *at) & 0xff];
    }
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t update_by_sse42(uint32_t crc, const unsigned char *at, size_t count)
{
    uint64_t wide = crc;
    for (; count >= 8; count -= 8, at += 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        wide = __builtin_ia32_crc32di(wide, word);
    }
    crc = (uint32_t)wide;
    for (; count > 0; count--, at++) {
        crc = __builtin_ia32_crc32qi(crc, *at);
    }
    return crc;
}
#endif

/* Runs when the library is loaded, before any thread of ours: no lazy initialisation to race on. */
__attribute__((constructor)) static void prepare(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
        }
        table[0][byte] = crc;
    }
    for (uint32_t byte = 0; byte < 256; byte++) {
        for (int k = 1; k < 8; k++) {
            table[k][byte] = table[k - 1][byte] >> 8 ^ table[0][table[k - 1][byte] & 0xff];
        }
    }
    update = update_by_tables;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse4.2")) {
        update = update_by_sse42;
    }
#endif
}

uint32_t rq_crc32c(uint32_t seed, const void *bytes, size_t count)
{
    return ~update(~seed, bytes, count);
}
