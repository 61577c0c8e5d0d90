/* One node: the entry points queue what is asked, and one thread does it. */
#ifndef ENGINE_H
#define ENGINE_H

#include "config.h"
#include "store.h"

#include <pthread.h>

/* What is asked for. */
typedef enum asked {
    ASKED_START,
    ASKED_LEADER,
    ASKED_COMMITTED,
    ASKED_SNAPSHOT,
    ASKED_DROP,
    ASKED_PROPOSE,
    ASKED_BARRIER,
    ASKED_COMPACT_BEGIN,
    ASKED_COMPACT_CHUNK,
    ASKED_COMPACT_FINISH,
    ASKED_RESIGN,
    ASKED_SHUTDOWN
} asked;

typedef struct request {
    asked asked;
    uint64_t token;
    uint64_t a, b; /* the call's numbers, in their order */
    qc_resume resume;
    qc_snapshot_meta meta;
    struct request *next;
    size_t length;
    uint8_t bytes[]; /* the call's bytes, copied */
} request;

/* A list that is added to at its end. */
typedef struct requests {
    request *first, **last;
} requests;

/* What the thread last announced. */
typedef struct event {
    uint64_t seq, epoch, index;
    uint32_t kind;
    int32_t node;
} event;

/* What `status` says; the only thing that two threads share beside the queue. */
typedef struct said {
    int known; /* whether the log is open */
    uint8_t log_id[16];
    uint64_t epoch, committed, first, reached;
    char fatal[256];
} said;

struct qc_node {
    const qc_host *host;
    void *ctx;
    config config;
    pthread_t thread;
    int has_thread;

    pthread_mutex_t lock; /* of what follows, up to the blank line */
    pthread_cond_t changed;
    requests queue;
    size_t proposals; /* in the queue */
    int quit;         /* destroy was called */
    int stopped;      /* shut down, or failed */
    said said;

    /* The thread's own. */
    store store;
    requests polls; /* those that wait for something to happen */
    event event;
    int leads;
    leadership led;
    uint64_t opened_at;
    uint64_t campaign_at; /* not before; after it has resigned */
    uint64_t look_at;
    snapshot *reading, *writing;
    uint64_t last_name;
};

/* Runs until destroy. */
void *engine_run(void *node);

void requests_add(requests *list, request *one);
void answer(qc_node *node, uint64_t token, qc_reply *reply);
void answer_status(qc_node *node, uint64_t token, int32_t status, const char *why);

#endif
