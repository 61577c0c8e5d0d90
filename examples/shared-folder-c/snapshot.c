/* The file `snapshot`: a header, the state, the state's CRC. */
#include "format.h"
#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define HEADER_BYTES 72

static int write_all(int fd, const uint8_t *bytes, size_t length) {
    for (size_t done = 0; done < length;) {
        ssize_t written = write(fd, bytes + done, length - done);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return -1;
        done += (size_t)written;
    }
    return 0;
}

static int read_all(int fd, uint8_t *bytes, size_t length, uint64_t offset) {
    for (size_t done = 0; done < length;) {
        ssize_t found = pread(fd, bytes + done, length - done, (off_t)(offset + done));
        if (found < 0 && errno == EINTR) continue;
        if (found <= 0) return -1;
        done += (size_t)found;
    }
    return 0;
}

int snapshot_begin(store *store, snapshot *writing, const qc_snapshot_meta *meta) {
    uint8_t header[HEADER_BYTES] = "QSFSNAP1";
    uint64_t random;
    errno = 0;
    if (random_bytes(&random, sizeof random)) return store_fail(store, "no random bytes");
    snprintf(writing->path, sizeof writing->path, "%.3000s/snapshot.%016llx", store->folder, (unsigned long long)random);
    writing->meta = *meta;
    writing->done = writing->crc = 0;
    memcpy(header + 8, store->log.id, 16);
    put64(header + 24, meta->index);
    put64(header + 32, meta->epoch);
    put64(header + 40, meta->bytes);
    memcpy(header + 48, meta->chain, 16);
    seal(header, sizeof header);
    writing->fd = open(writing->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (writing->fd < 0) return store_fail(store, "a new snapshot");
    if (write_all(writing->fd, header, sizeof header) == 0) return 0;
    int failed = store_fail(store, "a new snapshot");
    snapshot_forget(writing);
    return failed;
}

int snapshot_push(store *store, snapshot *writing, const uint8_t *chunk, size_t length) {
    writing->done += length;
    writing->crc = crc32_of(writing->crc, chunk, length);
    return write_all(writing->fd, chunk, length) ? store_fail(store, "a new snapshot") : 0;
}

int snapshot_keep(store *store, snapshot *writing, uint64_t tail) {
    snapshot newest;
    uint64_t epoch;
    uint8_t sum[4], chain[16];
    char path[PATH_MAX];
    const qc_snapshot_meta *meta = &writing->meta;
    int kept = snapshot_newest(store, &newest);
    if (kept < 0) return QC_STORAGE;
    if (kept) close(newest.fd);
    if (kept && newest.meta.index >= meta->index) return QC_OK;
    if (!log_point(&store->log, meta->index, &epoch, chain) || epoch != meta->epoch || memcmp(chain, meta->chain, 16) != 0) {
        return QC_FOREIGN;
    }
    put32(sum, writing->crc);
    if (write_all(writing->fd, sum, sizeof sum) || fsync(writing->fd) || store_path(store, "snapshot", path) ||
        rename(writing->path, path)) {
        store_fail(store, "a new snapshot");
        return QC_STORAGE;
    }
    writing->path[0] = 0;
    if (store_sync_folder(store)) return QC_STORAGE;
    uint64_t behind = meta->index > tail ? meta->index - tail : 0;
    if (behind >= log_first(&store->log) && log_forget(store, behind)) return QC_STORAGE;
    return QC_OK;
}

void snapshot_forget(snapshot *writing) {
    if (writing->fd >= 0) close(writing->fd);
    if (writing->path[0] != 0) unlink(writing->path);
    writing->fd = -1;
    writing->path[0] = 0;
}

int snapshot_newest(store *store, snapshot *reading) {
    uint8_t header[HEADER_BYTES];
    char path[PATH_MAX];
    memset(reading, 0, sizeof *reading);
    reading->fd = store_path(store, "snapshot", path) ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (reading->fd < 0) return errno == ENOENT ? 0 : store_fail(store, "the file 'snapshot'");
    errno = 0;
    if (read_all(reading->fd, header, sizeof header, 0) || memcmp(header, "QSFSNAP1", 8) != 0 || !is_sealed(header, sizeof header)) {
        close(reading->fd);
        return store_fail(store, "the file 'snapshot' is damaged");
    }
    reading->meta.index = get64(header + 24);
    reading->meta.epoch = get64(header + 32);
    reading->meta.bytes = get64(header + 40);
    memcpy(reading->meta.chain, header + 48, 16);
    return 1;
}

int snapshot_read(store *store, snapshot *reading, uint8_t *chunk, size_t *length) {
    uint64_t left = reading->meta.bytes - reading->done;
    *length = left < QC_CHUNK_BYTES ? (size_t)left : QC_CHUNK_BYTES;
    if (*length == 0) return 0;
    uint8_t sum[4];
    if (read_all(reading->fd, chunk, *length, HEADER_BYTES + reading->done)) return store_fail(store, "the file 'snapshot'");
    reading->done += *length;
    reading->crc = crc32_of(reading->crc, chunk, *length);
    if (reading->done < reading->meta.bytes) return 0;
    errno = 0;
    if (read_all(reading->fd, sum, sizeof sum, HEADER_BYTES + reading->meta.bytes) || get32(sum) != reading->crc) {
        return store_fail(store, "the file 'snapshot' is damaged");
    }
    return 0;
}
