/* The file `log`: a header, then one record an entry. A record is whole or it is the torn end. */
#include "format.h"
#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADER_BYTES 64
#define RECORD_BYTES 24 /* length, CRC, index, epoch */

uint64_t log_first(const log_file *log) { return log->before_index + 1; }

uint64_t log_last(const log_file *log) { return log->before_index + log->count; }

uint64_t log_last_epoch(const log_file *log) {
    return log->count > 0 ? log->places[log->count - 1].epoch : log->before_epoch;
}

const place *log_place(const log_file *log, uint64_t index) {
    return index < log_first(log) || index > log_last(log) ? NULL : &log->places[index - log_first(log)];
}

int log_point(const log_file *log, uint64_t index, uint64_t *epoch, uint8_t chain[16]) {
    const place *found = log_place(log, index);
    if (found == NULL && index != log->before_index) return 0;
    *epoch = found != NULL ? found->epoch : log->before_epoch;
    memcpy(chain, found != NULL ? found->chain : log->before_chain, 16);
    return 1;
}

void log_close(log_file *log) {
    if (log->fd >= 0) close(log->fd);
    free(log->places);
    memset(log, 0, sizeof *log);
    log->fd = -1;
}

static int push(store *store, uint64_t epoch, const uint8_t *data, uint32_t length) {
    log_file *log = &store->log;
    if (log->count == log->room) {
        size_t room = log->room > 0 ? 2 * log->room : 1024;
        place *places = realloc(log->places, room * sizeof *places);
        if (places == NULL) return store_fail(store, "no memory");
        log->places = places;
        log->room = room;
    }
    place *next = &log->places[log->count];
    memcpy(next->chain, log->count > 0 ? log->places[log->count - 1].chain : log->before_chain, 16);
    chain_link(next->chain, epoch, data, length);
    next->offset = log->end + RECORD_BYTES;
    next->length = length;
    next->epoch = epoch;
    log->count++;
    log->end += RECORD_BYTES + length;
    return 0;
}

/* Whether there is a whole record at the front of `rest`. */
static int is_record(const uint8_t *rest, size_t left) {
    if (left < RECORD_BYTES) return 0;
    uint32_t length = get32(rest);
    if (length > ENTRY_BYTES || left - RECORD_BYTES < length) return 0;
    return crc32_of(crc32_of(0, rest, 4), rest + 8, 16 + length) == get32(rest + 4);
}

/* A writer that died leaves the beginning of a record. Whatever is followed by a whole one is damage. */
static int is_torn_end(const uint8_t *rest, size_t left, uint64_t last) {
    for (size_t skipped = 1; skipped + RECORD_BYTES <= left; skipped++) {
        if (get64(rest + skipped + 8) > last && is_record(rest + skipped, left - skipped)) return 0;
    }
    return 1;
}

static int sync_log(store *store) { return fdatasync(store->log.fd) ? store_fail(store, "a sync of the log failed") : 0; }

static int read_all(int fd, uint8_t *bytes, size_t length, uint64_t offset) {
    for (size_t done = 0; done < length;) {
        ssize_t found = pread(fd, bytes + done, length - done, (off_t)(offset + done));
        if (found < 0 && errno == EINTR) continue;
        if (found <= 0) return -1;
        done += (size_t)found;
    }
    return 0;
}

int log_read(const log_file *log, const place *at, uint8_t *data) { return read_all(log->fd, data, at->length, at->offset); }

/* Takes in what `bytes` hold from the log's end on. */
static int take_in(store *store, const uint8_t *bytes, size_t length) {
    log_file *log = &store->log;
    size_t at = 0;
    while (is_record(bytes + at, length - at) && get64(bytes + at + 8) == log_last(log) + 1) {
        uint32_t data = get32(bytes + at);
        if (push(store, get64(bytes + at + 16), bytes + at + RECORD_BYTES, data)) return -1;
        at += RECORD_BYTES + data;
    }
    errno = 0;
    if (at < length && !is_torn_end(bytes + at, length - at, log_last(log))) {
        return store_fail(store, "the file 'log' is damaged in the middle");
    }
    if (at < length && ftruncate(log->fd, (off_t)log->end)) return store_fail(store, "the torn end of the log");
    /* Whoever wrote it may have died before it was synced. */
    return sync_log(store);
}

int log_refresh(store *store) {
    struct stat found;
    log_file *log = &store->log;
    if (fstat(log->fd, &found)) return store_fail(store, "the file 'log'");
    uint64_t size = (uint64_t)found.st_size;
    if (size == log->end) return 0;
    errno = 0;
    if (size < log->end) return store_fail(store, "the file 'log' has become shorter");
    size_t length = (size_t)(size - log->end);
    uint8_t *bytes = malloc(length);
    if (bytes == NULL || read_all(log->fd, bytes, length, log->end)) {
        free(bytes);
        return store_fail(store, "the file 'log' cannot be read");
    }
    int failed = take_in(store, bytes, length);
    free(bytes);
    return failed;
}

int log_open(store *store) {
    log_file *log = &store->log;
    uint8_t header[HEADER_BYTES];
    char path[PATH_MAX];
    struct stat found;
    memset(log, 0, sizeof *log);
    log->fd = store_path(store, "log", path) ? -1 : open(path, O_RDWR | O_CLOEXEC);
    if (log->fd < 0) return errno == ENOENT ? 0 : store_fail(store, "the file 'log'");
    if (fstat(log->fd, &found)) return store_fail(store, "the file 'log'");
    errno = 0;
    if (read_all(log->fd, header, sizeof header, 0) || memcmp(header, "QSFLOG_1", 8) != 0 || !is_sealed(header, sizeof header)) {
        return store_fail(store, "the header of the file 'log' is damaged");
    }
    log->inode = (uint64_t)found.st_ino;
    memcpy(log->id, header + 8, 16);
    log->before_index = get64(header + 24);
    log->before_epoch = get64(header + 32);
    memcpy(log->before_chain, header + 40, 16);
    log->end = HEADER_BYTES;
    return log_refresh(store) ? -1 : 1;
}

int log_create(store *store, const uint8_t id[16], uint64_t index, uint64_t epoch, const uint8_t chain[16],
               const uint8_t *records, size_t length) {
    uint8_t *content = malloc(HEADER_BYTES + length);
    if (content == NULL) return store_fail(store, "no memory");
    memcpy(content, "QSFLOG_1", 8);
    memcpy(content + 8, id, 16);
    put64(content + 24, index);
    put64(content + 32, epoch);
    memcpy(content + 40, chain, 16);
    seal(content, HEADER_BYTES);
    if (length > 0) memcpy(content + HEADER_BYTES, records, length);
    int failed = store_replace(store, "log", content, HEADER_BYTES + length);
    free(content);
    return failed;
}

int log_append(store *store, uint64_t epoch, const qc_bytes *entries, size_t count) {
    log_file *log = &store->log;
    size_t total = 0, at = 0, done = 0;
    for (size_t i = 0; i < count; i++) total += RECORD_BYTES + entries[i].len;
    uint8_t *records = malloc(total);
    if (records == NULL) return store_fail(store, "no memory");
    for (size_t i = 0; i < count; i++) {
        uint8_t *record = records + at;
        put32(record, (uint32_t)entries[i].len);
        put64(record + 8, log_last(log) + 1 + i);
        put64(record + 16, epoch);
        if (entries[i].len > 0) memcpy(record + RECORD_BYTES, entries[i].ptr, entries[i].len);
        put32(record + 4, crc32_of(crc32_of(0, record, 4), record + 8, 16 + entries[i].len));
        at += RECORD_BYTES + entries[i].len;
    }
    while (done < total) {
        ssize_t written = pwrite(log->fd, records + done, total - done, (off_t)(log->end + done));
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) break;
        done += (size_t)written;
    }
    int failed = 0;
    if (done < total) {
        /* Nothing of it may be found by the next transaction. */
        int full = errno == ENOSPC || errno == EDQUOT;
        failed = store_fail(store, "the log cannot be written");
        if (ftruncate(log->fd, (off_t)log->end)) full = 0;
        store->out_of_space = full;
    } else if (!(failed = sync_log(store))) {
        for (size_t i = 0; i < count && !failed; i++) failed = push(store, epoch, entries[i].ptr, (uint32_t)entries[i].len);
    }
    free(records);
    return failed;
}

int log_forget(store *store, uint64_t index) {
    log_file *log = &store->log;
    uint64_t epoch;
    uint8_t chain[16], id[16];
    if (!log_point(log, index, &epoch, chain)) return 0;
    const place *next = log_place(log, index + 1);
    uint64_t from = next != NULL ? next->offset - RECORD_BYTES : log->end;
    size_t length = (size_t)(log->end - from);
    uint8_t *records = malloc(length + 1);
    if (records == NULL || read_all(log->fd, records, length, from)) {
        free(records);
        return store_fail(store, "the file 'log' cannot be read");
    }
    memcpy(id, log->id, 16);
    int failed = log_create(store, id, index, epoch, chain, records, length);
    free(records);
    if (failed) return -1;
    log_close(log);
    return log_open(store) == 1 ? 0 : -1;
}
