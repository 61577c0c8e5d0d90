#include "format.h"

#include <string.h>

void put32(uint8_t *at, uint32_t value) {
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> (8 * i));
}

void put64(uint8_t *at, uint64_t value) {
    for (int i = 0; i < 8; i++) at[i] = (uint8_t)(value >> (8 * i));
}

uint32_t get32(const uint8_t *at) {
    uint32_t value = 0;
    for (int i = 3; i >= 0; i--) value = value << 8 | at[i];
    return value;
}

uint64_t get64(const uint8_t *at) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--) value = value << 8 | at[i];
    return value;
}

/* Sixteen values instead of 256: four bits at a time. */
uint32_t crc32_of(uint32_t before, const void *bytes, size_t length) {
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    const uint8_t *at = bytes;
    uint32_t crc = ~before;
    for (size_t i = 0; i < length; i++) {
        crc ^= at[i];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

void seal(uint8_t *record, size_t length) {
    put32(record + length - 8, crc32_of(0, record, length - 8));
    put32(record + length - 4, 0);
}

int is_sealed(const uint8_t *record, size_t length) {
    return get32(record + length - 8) == crc32_of(0, record, length - 8);
}

/* SHA-256 (FIPS 180-4). */
typedef struct sha256 {
    uint32_t state[8];
    uint8_t block[64];
    uint64_t length;
} sha256;

static uint32_t rotate(uint32_t value, int by) { return value >> by | value << (32 - by); }

static void sha256_block(sha256 *hash, const uint8_t *block) {
    static const uint32_t k[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
        0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
        0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
        0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
        0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
        0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
    };
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++) {
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    }
    for (int i = 16; i < 64; i++) {
        uint32_t a = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t b = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + a + w[i - 7] + b;
    }
    memcpy(s, hash->state, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t e = rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25);
        uint32_t t1 = s[7] + e + ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
        uint32_t a = rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22);
        uint32_t t2 = a + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) hash->state[i] += s[i];
}

static void sha256_add(sha256 *hash, const void *bytes, size_t length) {
    const uint8_t *at = bytes;
    while (length > 0) {
        size_t used = hash->length % 64, take = 64 - used < length ? 64 - used : length;
        memcpy(hash->block + used, at, take);
        hash->length += take;
        at += take;
        length -= take;
        if (hash->length % 64 == 0) sha256_block(hash, hash->block);
    }
}

void chain_link(uint8_t chain[16], uint64_t epoch, const void *data, size_t length) {
    sha256 hash = {.state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}};
    uint8_t big_endian[8], zeros[64] = {0x80};
    for (int i = 0; i < 8; i++) big_endian[i] = (uint8_t)(epoch >> (56 - 8 * i));
    sha256_add(&hash, chain, 16);
    sha256_add(&hash, big_endian, 8);
    sha256_add(&hash, data, length);
    uint64_t bits = hash.length * 8;
    sha256_add(&hash, zeros, (hash.length % 64 < 56 ? 56 : 120) - hash.length % 64);
    for (int i = 0; i < 8; i++) big_endian[i] = (uint8_t)(bits >> (56 - 8 * i));
    sha256_add(&hash, big_endian, 8);
    for (int i = 0; i < 16; i++) chain[i] = (uint8_t)(hash.state[i / 4] >> (24 - 8 * (i % 4)));
}
