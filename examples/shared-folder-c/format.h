/* Bytes on the disk: numbers, seals, CRC-32, SHA-256. */
#ifndef FORMAT_H
#define FORMAT_H

#include <stddef.h>
#include <stdint.h>

/* Little-endian numbers. */
void put32(uint8_t *at, uint32_t value);
void put64(uint8_t *at, uint64_t value);
uint32_t get32(const uint8_t *at);
uint64_t get64(const uint8_t *at);

/* CRC-32 as zip and PNG have it; begin with 0 and go on with what it returned. */
uint32_t crc32_of(uint32_t before, const void *bytes, size_t length);

/* The last 8 bytes of a sealed record are its CRC and four zeros. */
void seal(uint8_t *record, size_t length);
int is_sealed(const uint8_t *record, size_t length);

/* The history after one more entry, see qc_resume.chain. */
void chain_link(uint8_t chain[16], uint64_t epoch, const void *data, size_t length);

#endif
