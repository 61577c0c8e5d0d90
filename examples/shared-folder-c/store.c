#include "store.h"

#include "format.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LEADER_BYTES 48
#define LEASE_BYTES 48
#define START_PATIENCE_MS 5000

int store_fail(store *store, const char *what) {
    store->out_of_space = 0;
    if (errno != 0) {
        snprintf(store->problem, sizeof store->problem, "%.120s: %s: %s", store->folder, what, strerror(errno));
    } else {
        snprintf(store->problem, sizeof store->problem, "%.120s: %s", store->folder, what);
    }
    return -1;
}

int store_path(const store *store, const char *name, char path[PATH_MAX]) {
    return snprintf(path, PATH_MAX, "%s/%s", store->folder, name) < PATH_MAX ? 0 : -1;
}

int store_sync_folder(store *store) {
    int fd = open(store->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return store_fail(store, "the folder");
    int failed = fsync(fd);
    close(fd);
    return failed ? store_fail(store, "a sync of the folder failed") : 0;
}

int store_replace(store *store, const char *name, const uint8_t *content, size_t length) {
    char path[PATH_MAX], fresh[PATH_MAX];
    if (store_path(store, name, path) || snprintf(fresh, PATH_MAX, "%s/%s.new", store->folder, name) >= PATH_MAX) {
        errno = ENAMETOOLONG;
        return store_fail(store, name);
    }
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) return store_fail(store, fresh);
    size_t done = 0;
    while (done < length) {
        ssize_t written = write(fd, content + done, length - done);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) break;
        done += (size_t)written;
    }
    int failed = done < length || fsync(fd);
    close(fd);
    if (failed || rename(fresh, path)) return store_fail(store, name);
    return store_sync_folder(store);
}

uint64_t monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int random_bytes(void *bytes, size_t length) { return getrandom(bytes, length, 0) == (ssize_t)length ? 0 : -1; }

static int make_folder(store *store) {
    char path[PATH_MAX];
    strcpy(path, store->folder);
    for (char *slash = strchr(path + 1, '/');; slash = strchr(slash + 1, '/')) {
        if (slash != NULL) *slash = 0;
        if (mkdir(path, 0755) && errno != EEXIST) return store_fail(store, "it cannot be made");
        if (slash == NULL) return 0;
        *slash = '/';
    }
}

static int open_file(store *store, const char *name) {
    char path[PATH_MAX];
    if (store_path(store, name, path)) {
        errno = ENAMETOOLONG;
        return store_fail(store, name);
    }
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    return fd < 0 ? store_fail(store, name) : fd;
}

/* The clock begins anew with each boot, and so do leases. */
static int read_boot(store *store) {
    char text[64] = {0};
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC), digits = 0;
    if (fd < 0) return store_fail(store, "the machine does not say when it was started");
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    for (ssize_t i = 0; i < length && digits < 32; i++) {
        const char *hex = "0123456789abcdef", *found = text[i] ? strchr(hex, text[i]) : NULL;
        if (found == NULL) continue;
        store->boot[digits / 2] = (uint8_t)(store->boot[digits / 2] << 4 | (found - hex));
        digits++;
    }
    errno = 0;
    return digits == 32 ? 0 : store_fail(store, "the machine does not say when it was started");
}

static int check_history(store *store, const qc_resume *resume) {
    const log_file *log = &store->log;
    uint64_t epoch;
    uint8_t chain[16];
    errno = 0;
    if (resume->has_log_id && memcmp(log->id, resume->log_id, 16) != 0) {
        return store_fail(store, "this is another log than the one that this node's metadata is of");
    }
    if (resume->applied > log_last(log)) return store_fail(store, "the log ends before what this node has applied");
    if (resume->applied > 0 && log_point(log, resume->applied, &epoch, chain) && memcmp(chain, resume->chain, 16) != 0) {
        return store_fail(store, "the log has another history than this node");
    }
    return 0;
}

/* With the lock. */
static int open_all(store *store, const qc_resume *resume) {
    int there = log_open(store);
    if (there < 0) return QC_STORAGE;
    if (!there && resume->has_log_id) {
        errno = 0;
        store_fail(store, "there is no log, but this node has been part of one");
        return QC_FOREIGN;
    }
    if (!there) {
        uint8_t id[16];
        errno = 0;
        if (random_bytes(id, sizeof id)) return store_fail(store, "no random bytes"), QC_STORAGE;
        /* A UUID of version 4, as ids of clusters are. */
        id[6] = (id[6] & 0x0f) | 0x40;
        id[8] = (id[8] & 0x3f) | 0x80;
        if (log_create(store, id, 0, 0, id, NULL, 0) || log_open(store) != 1) return QC_STORAGE;
    }
    snapshot newest;
    int kept = snapshot_newest(store, &newest);
    if (kept < 0) return QC_STORAGE;
    if (kept) close(newest.fd);
    return check_history(store, resume) ? QC_FOREIGN : QC_OK;
}

int store_open(store *store, const char *folder, const qc_resume *resume) {
    store->lock_fd = store->lease_fd = store->log.fd = -1;
    snprintf(store->folder, sizeof store->folder, "%s", folder);
    if (make_folder(store) || read_boot(store)) return QC_STORAGE;
    if ((store->lock_fd = open_file(store, "lock")) < 0) return QC_STORAGE;
    if ((store->lease_fd = open_file(store, "lease")) < 0) return QC_STORAGE;
    for (int waited = 0; flock(store->lock_fd, LOCK_EX | LOCK_NB); waited++) {
        if (errno != EWOULDBLOCK || waited == START_PATIENCE_MS) {
            return store_fail(store, "another process holds the lock and does not go on"), QC_STORAGE;
        }
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    int status = open_all(store, resume);
    store_unlock(store);
    return status;
}

void store_close(store *store) {
    log_close(&store->log);
    if (store->lock_fd >= 0) close(store->lock_fd);
    if (store->lease_fd >= 0) close(store->lease_fd);
}

int store_lock(store *store) {
    if (flock(store->lock_fd, LOCK_EX | LOCK_NB)) {
        return errno == EWOULDBLOCK || errno == EINTR ? 0 : store_fail(store, "the lock");
    }
    struct stat found;
    char path[PATH_MAX];
    int failed = 0;
    if (store_path(store, "log", path) || stat(path, &found)) {
        failed = store_fail(store, "the file 'log' has gone");
    } else if ((uint64_t)found.st_ino != store->log.inode) {
        log_close(&store->log);
        failed = log_open(store) == 1 ? 0 : -1;
    } else {
        failed = log_refresh(store);
    }
    if (!failed) return 1;
    store_unlock(store);
    return -1;
}

void store_unlock(store *store) { flock(store->lock_fd, LOCK_UN); }

static int lease_lasts(store *store, const leadership *led) {
    uint8_t record[LEASE_BYTES];
    if (pread(store->lease_fd, record, sizeof record, 0) != sizeof record) return 0;
    return is_sealed(record, sizeof record) && memcmp(record, led->token, 16) == 0 &&
           memcmp(record + 24, store->boot, 16) == 0 && monotonic() < get64(record + 16);
}

int store_leadership(store *store, leadership *found, int *lasts) {
    uint8_t record[LEADER_BYTES];
    char path[PATH_MAX];
    memset(found, 0, sizeof *found);
    *lasts = 0;
    int fd = store_path(store, "leader", path) ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT ? 0 : store_fail(store, "the file 'leader'");
    ssize_t length = read(fd, record, sizeof record);
    close(fd);
    errno = 0;
    if (length != sizeof record || memcmp(record, "QSFLEAD1", 8) != 0 || !is_sealed(record, sizeof record)) {
        return store_fail(store, "the file 'leader' is damaged");
    }
    found->epoch = get64(record + 8);
    found->node = (int32_t)get64(record + 16);
    memcpy(found->token, record + 24, 16);
    *lasts = lease_lasts(store, found);
    return 0;
}

int store_campaign(store *store, int32_t node, leadership *won, uint64_t *opened_at) {
    leadership before;
    int lasts;
    uint8_t record[LEADER_BYTES] = "QSFLEAD1";
    if (store_leadership(store, &before, &lasts)) return -1;
    uint64_t last = log_last_epoch(&store->log);
    won->epoch = (before.epoch > last ? before.epoch : last) + 1;
    won->node = node;
    errno = 0;
    if (random_bytes(won->token, 16)) return store_fail(store, "no random bytes");
    put64(record + 8, won->epoch);
    put64(record + 16, (uint64_t)node);
    memcpy(record + 24, won->token, 16);
    seal(record, sizeof record);
    /* The epoch is durable before anything is written in it, so that none is used twice. */
    if (store_replace(store, "leader", record, sizeof record)) return -1;
    const qc_bytes opening = {NULL, 0};
    if (log_append(store, won->epoch, &opening, 1)) return -1;
    *opened_at = log_last(&store->log);
    return 0;
}

int store_extend(store *store, const leadership *led, uint64_t until) {
    uint8_t record[LEASE_BYTES];
    memcpy(record, led->token, 16);
    put64(record + 16, until);
    memcpy(record + 24, store->boot, 16);
    seal(record, sizeof record);
    /* Not synced: a machine that loses it has lost the leader too. */
    if (pwrite(store->lease_fd, record, sizeof record, 0) != sizeof record) return store_fail(store, "the file 'lease'");
    return 0;
}
