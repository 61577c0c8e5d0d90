/*
 * The folder that all nodes share.
 *
 * Every transaction has the lock on the file `lock`, so that transactions come one after the other. `leader` holds the
 * newest leadership with its random token, `lease` says until when nobody replaces it, `log` the entries, `snapshot`
 * what stands for those that are gone. The formats are those of ../shared-folder-rust: nodes of both share a folder.
 *
 * Functions return 0, or -1 with a sentence in the store's `problem`.
 */
#ifndef STORE_H
#define STORE_H

#include "quorate_consensus.h"

#include <limits.h>

#define ENTRY_BYTES (1u << 20)

/* Where an entry lies in the file, and the history at it. */
typedef struct place {
    uint64_t offset;
    uint32_t length;
    uint64_t epoch;
    uint8_t chain[16];
} place;

/* The log as far as this process has read it; everything in it is synced. */
typedef struct log_file {
    int fd;
    uint64_t inode;
    uint8_t id[16];
    uint64_t before_index, before_epoch; /* what comes before the first entry of the file */
    uint8_t before_chain[16];
    place *places;
    size_t count, room;
    uint64_t end; /* where the next record goes */
} log_file;

typedef struct leadership {
    uint64_t epoch;
    int32_t node;
    uint8_t token[16];
} leadership;

typedef struct store {
    char folder[PATH_MAX];
    int lock_fd, lease_fd;
    uint8_t boot[16];
    log_file log;
    int out_of_space; /* whether the last problem was that, and nothing was written */
    char problem[256];
} store;

int store_fail(store *store, const char *what);
int store_path(const store *store, const char *name, char path[PATH_MAX]);
int store_sync_folder(store *store);
int store_replace(store *store, const char *name, const uint8_t *content, size_t length);

/* Opens the folder, making what is missing. QC_OK, QC_STORAGE or QC_FOREIGN. */
int store_open(store *store, const char *folder, const qc_resume *resume);
void store_close(store *store);

/* Takes the lock and reads what has happened since: 1, or 0 if somebody else has it. */
int store_lock(store *store);
void store_unlock(store *store);

/* With the lock: */
int store_leadership(store *store, leadership *found, int *lasts);
int store_campaign(store *store, int32_t node, leadership *won, uint64_t *opened_at);
int store_extend(store *store, const leadership *led, uint64_t until);

uint64_t monotonic(void); /* nanoseconds, the same for all processes of the machine */
int random_bytes(void *bytes, size_t length);

/* log.c */
int log_open(store *store); /* 1, or 0 if there is none */
int log_create(store *store, const uint8_t id[16], uint64_t index, uint64_t epoch, const uint8_t chain[16],
               const uint8_t *records, size_t length);
int log_refresh(store *store);
int log_append(store *store, uint64_t epoch, const qc_bytes *entries, size_t count);
int log_forget(store *store, uint64_t index);
uint64_t log_first(const log_file *log);
uint64_t log_last(const log_file *log);
uint64_t log_last_epoch(const log_file *log);
const place *log_place(const log_file *log, uint64_t index);
/* The epoch and chain at an index of the file or just before it; 0 if it is neither. */
int log_point(const log_file *log, uint64_t index, uint64_t *epoch, uint8_t chain[16]);
int log_read(const log_file *log, const place *at, uint8_t *data);
void log_close(log_file *log);

/* snapshot.c: one that is written or read. */
typedef struct snapshot {
    uint64_t name;
    int fd;
    qc_snapshot_meta meta;
    uint64_t done; /* bytes of the state */
    uint32_t crc;
    char path[PATH_MAX]; /* of one that is written */
    struct snapshot *next;
} snapshot;

int snapshot_begin(store *store, snapshot *writing, const qc_snapshot_meta *meta);
int snapshot_push(store *store, snapshot *writing, const uint8_t *chunk, size_t length);
/* With the lock: makes it the newest and forgets entries behind it. A qc_status. */
int snapshot_keep(store *store, snapshot *writing, uint64_t tail);
void snapshot_forget(snapshot *writing);
int snapshot_newest(store *store, snapshot *reading); /* 1, or 0 if there is none */
/* The next chunk into a buffer of QC_CHUNK_BYTES: its length. */
int snapshot_read(store *store, snapshot *reading, uint8_t *chunk, size_t *length);

#endif
