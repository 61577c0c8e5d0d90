/* The thread of a node: it looks at the folder, leads, follows, and does what is asked. */
#include "engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MS 1000000ull
#define LOOK (20 * MS) /* how often a follower looks, at most */
#define BATCH 120      /* entries of one transaction */
#define ENTRIES 1024   /* of one answer */

void requests_add(requests *list, request *one) {
    one->next = NULL;
    if (list->first == NULL) list->last = &list->first;
    *list->last = one;
    list->last = &one->next;
}

static request *take_first(requests *list) {
    request *first = list->first;
    if (first != NULL) list->first = first->next;
    return first;
}

static void say(qc_node *node) {
    const log_file *log = &node->store.log;
    pthread_mutex_lock(&node->lock);
    node->said.known = log->fd >= 0;
    memcpy(node->said.log_id, log->id, 16);
    node->said.epoch = node->event.epoch;
    node->said.committed = log_last(log);
    node->said.first = log_first(log);
    node->said.reached = monotonic();
    pthread_mutex_unlock(&node->lock);
}

/* From now on everything is answered with QC_STOPPED. */
static void stop(qc_node *node, const char *fatal) {
    pthread_mutex_lock(&node->lock);
    node->stopped = 1;
    if (fatal != NULL) strncpy(node->said.fatal, fatal, sizeof node->said.fatal - 1);
    pthread_mutex_unlock(&node->lock);
    for (request *poll; (poll = take_first(&node->polls)) != NULL; free(poll)) answer_status(node, poll->token, QC_STOPPED, "");
}

static void announce(qc_node *node, uint64_t epoch, uint32_t kind, int32_t who, uint64_t index) {
    event *last = &node->event;
    if (last->seq > 0 && last->epoch == epoch && last->kind == kind && last->node == who && last->index == index) return;
    if (epoch < last->epoch) return;
    *last = (event){.seq = last->seq + 1, .epoch = epoch, .index = index, .kind = kind, .node = who};
}

/* Takes the lock, but waits no longer than a leader may be silent: 1, 0 if somebody else has it, -1. */
static int lock_store(qc_node *node) {
    uint64_t patience = monotonic() + node->config.lease_ns / 2;
    for (;;) {
        int locked = store_lock(&node->store);
        if (locked != 0 || monotonic() >= patience) return locked;
        nanosleep(&(struct timespec){.tv_nsec = MS}, NULL);
    }
}

static int campaign(qc_node *node, uint64_t now) {
    if (store_campaign(&node->store, node->config.node, &node->led, &node->opened_at)) return -1;
    node->leads = 1;
    node->campaign_at = 0;
    announce(node, node->led.epoch, QC_LEADER_ME, QC_NO_NODE, node->opened_at);
    return store_extend(&node->store, &node->led, now + node->config.lease_ns);
}

/* With the lock. */
static int look_at_leader(qc_node *node) {
    leadership found;
    int lasts;
    uint64_t now = monotonic();
    if (store_leadership(&node->store, &found, &lasts)) return -1;
    node->leads = node->leads && memcmp(found.token, node->led.token, 16) == 0;
    if (node->leads) {
        announce(node, found.epoch, QC_LEADER_ME, QC_NO_NODE, node->opened_at);
        return store_extend(&node->store, &node->led, now + node->config.lease_ns);
    }
    if (lasts && found.node != node->config.node) {
        node->campaign_at = 0;
        announce(node, found.epoch, QC_LEADER_OTHER, found.node, 0);
        return 0;
    }
    if (found.epoch > 0) announce(node, found.epoch, QC_LEADER_UNKNOWN, QC_NO_NODE, 0);
    /* Whoever looks first after the lease has run out wins; the lock sees to it that there is one. */
    return !lasts && now >= node->campaign_at ? campaign(node, now) : 0;
}

static void look(qc_node *node) {
    int locked = lock_store(node);
    if (locked == 0) {
        /* Somebody was stopped in the middle of a transaction: as far as can be seen, nobody leads. */
        announce(node, node->event.epoch, QC_LEADER_UNKNOWN, QC_NO_NODE, 0);
    } else if (locked < 0) {
        return stop(node, node->store.problem);
    } else {
        int failed = look_at_leader(node);
        store_unlock(&node->store);
        if (failed) return stop(node, node->store.problem);
        say(node);
    }
    uint64_t often = LOOK < node->config.lease_ns / 30 ? LOOK : node->config.lease_ns / 30;
    node->look_at = monotonic() + (node->leads ? node->config.lease_ns / 4 : often);
}

static void start(qc_node *node, const request *one) {
    int status = store_open(&node->store, node->config.store, &one->resume);
    if (status == QC_OK) {
        say(node);
        answer_status(node, one->token, QC_OK, "");
        return look(node);
    }
    stop(node, node->store.problem);
    answer_status(node, one->token, status, node->store.problem);
}

static void refuse_leader(qc_node *node, uint64_t token) {
    qc_reply reply = {.status = QC_NOT_LEADER, .node = QC_NO_NODE};
    if (node->event.kind == QC_LEADER_OTHER) reply.node = node->event.node;
    answer(node, token, &reply);
}

/* Commits the proposals of one batch: those of this node's own epoch. */
static void propose(qc_node *node, requests *batch) {
    qc_bytes entries[BATCH];
    uint64_t tokens[BATCH], before = 0;
    size_t count = 0;
    leadership found = {0};
    int lasts, locked = lock_store(node), failed = locked < 0;
    if (locked > 0) {
        failed = store_leadership(&node->store, &found, &lasts);
        int leads = !failed && node->leads && memcmp(found.token, node->led.token, 16) == 0;
        for (request *one = batch->first; one != NULL && !failed; one = one->next) {
            if (!leads || one->a != node->led.epoch) {
                refuse_leader(node, one->token);
            } else {
                tokens[count] = one->token;
                entries[count++] = (qc_bytes){one->bytes, one->length};
            }
        }
        before = log_last(&node->store.log);
        if (!failed && count > 0) failed = log_append(&node->store, node->led.epoch, entries, count);
        store_unlock(&node->store);
    }
    int full = failed && locked > 0 && node->store.out_of_space;
    if (locked == 0 || (failed && count == 0)) {
        for (request *one = batch->first; one != NULL; one = one->next) {
            answer_status(node, one->token, failed ? QC_UNKNOWN : QC_BUSY, "");
        }
    }
    for (size_t i = 0; i < count; i++) {
        qc_reply reply = {.status = !failed ? QC_OK : full ? QC_BUSY : QC_UNKNOWN, .index = before + 1 + i, .node = QC_NO_NODE};
        answer(node, tokens[i], &reply);
    }
    if (failed && !full) return stop(node, node->store.problem);
    if (locked > 0) say(node);
}

static void barrier(qc_node *node, uint64_t token) {
    int locked = lock_store(node);
    if (locked == 0) return answer_status(node, token, QC_UNAVAILABLE, "another node holds the lock");
    if (locked < 0) {
        answer_status(node, token, QC_UNAVAILABLE, node->store.problem);
        return stop(node, node->store.problem);
    }
    store_unlock(&node->store);
    qc_reply reply = {.status = QC_OK, .index = log_last(&node->store.log), .node = QC_NO_NODE};
    answer(node, token, &reply);
    say(node);
}

static void resign(qc_node *node, uint64_t epoch, int any_epoch) {
    leadership found;
    int lasts;
    if (!node->leads || !(any_epoch || epoch == node->led.epoch)) return;
    int locked = lock_store(node), failed = locked < 0;
    if (locked > 0) {
        failed = store_leadership(&node->store, &found, &lasts);
        if (!failed && memcmp(found.token, node->led.token, 16) == 0) failed = store_extend(&node->store, &node->led, 0);
        store_unlock(&node->store);
    }
    node->leads = 0;
    node->campaign_at = monotonic() + node->config.lease_ns;
    announce(node, node->led.epoch, QC_LEADER_UNKNOWN, QC_NO_NODE, 0);
    node->look_at = 0;
    if (failed) stop(node, node->store.problem);
}

static snapshot **find_snapshot(snapshot **list, uint64_t name) {
    while (*list != NULL && (*list)->name != name) list = &(*list)->next;
    return list;
}

static snapshot *add_snapshot(qc_node *node, snapshot **list, const snapshot *one) {
    snapshot *added = malloc(sizeof *added);
    if (added == NULL) return NULL;
    *added = *one;
    added->name = ++node->last_name;
    added->next = *list;
    *list = added;
    return added;
}

static void remove_snapshot(snapshot **at) {
    snapshot *one = *at;
    if (one == NULL) return;
    *at = one->next;
    snapshot_forget(one);
    free(one);
}

static void compact_begin(qc_node *node, const request *one) {
    snapshot fresh = {.fd = -1};
    qc_reply reply = {.status = QC_OK, .node = QC_NO_NODE};
    if (snapshot_begin(&node->store, &fresh, &one->meta)) {
        return answer_status(node, one->token, node->store.out_of_space ? QC_UNAVAILABLE : QC_STORAGE, node->store.problem);
    }
    snapshot *added = add_snapshot(node, &node->writing, &fresh);
    if (added == NULL) {
        snapshot_forget(&fresh);
        return answer_status(node, one->token, QC_UNAVAILABLE, "no memory");
    }
    reply.snapshot = added->name;
    answer(node, one->token, &reply);
}

static void compact_chunk(qc_node *node, const request *one) {
    snapshot *writing = *find_snapshot(&node->writing, one->a);
    if (writing == NULL) return answer_status(node, one->token, QC_SNAPSHOT, "there is no such snapshot");
    if (one->length > writing->meta.bytes - writing->done) {
        return answer_status(node, one->token, QC_SNAPSHOT, "larger than it says");
    }
    int failed = snapshot_push(&node->store, writing, one->bytes, one->length);
    answer_status(node, one->token, failed ? QC_STORAGE : QC_OK, failed ? node->store.problem : "");
}

static void compact_finish(qc_node *node, const request *one) {
    snapshot **at = find_snapshot(&node->writing, one->a);
    if (*at == NULL) return answer_status(node, one->token, QC_SNAPSHOT, "there is no such snapshot");
    int32_t status = QC_OK;
    const char *why = "";
    if (one->b != 0 && (*at)->done != (*at)->meta.bytes) {
        status = QC_SNAPSHOT;
        why = "shorter than it says";
    } else if (one->b != 0) {
        int locked = lock_store(node);
        status = locked > 0 ? snapshot_keep(&node->store, *at, node->config.tail) : locked == 0 ? QC_UNAVAILABLE : QC_STORAGE;
        why = locked == 0 ? "another node holds the lock" : node->store.problem;
        if (locked > 0) store_unlock(&node->store);
    }
    remove_snapshot(at);
    answer_status(node, one->token, status, why);
    if (status == QC_STORAGE) return stop(node, node->store.problem);
    say(node);
}

static void read_snapshot(qc_node *node, const request *one) {
    snapshot *reading = *find_snapshot(&node->reading, one->a);
    if (reading == NULL || reading->done != one->b) return answer_status(node, one->token, QC_SNAPSHOT, "there is no such chunk");
    uint8_t *chunk = malloc(QC_CHUNK_BYTES);
    size_t length = 0;
    if (chunk == NULL || snapshot_read(&node->store, reading, chunk, &length)) {
        answer_status(node, one->token, QC_SNAPSHOT, chunk == NULL ? "no memory" : node->store.problem);
    } else {
        qc_reply reply = {.status = QC_OK, .node = QC_NO_NODE, .data = {chunk, length}};
        answer(node, one->token, &reply);
    }
    free(chunk);
}

/* Answers a reader that has come to `after` if there is something for it. */
static int serve_snapshot(qc_node *node, uint64_t token) {
    snapshot newest;
    int found = snapshot_newest(&node->store, &newest);
    if (found == 0) return 0;
    snapshot *added = found > 0 ? add_snapshot(node, &node->reading, &newest) : NULL;
    if (added == NULL) {
        answer_status(node, token, QC_STOPPED, "");
        stop(node, found < 0 ? node->store.problem : "no memory");
        return 1;
    }
    qc_reply reply = {.status = QC_OK, .kind = QC_COMMITTED_SNAPSHOT, .node = QC_NO_NODE};
    reply.snapshot = added->name;
    reply.meta = &added->meta;
    answer(node, token, &reply);
    return 1;
}

static int serve_committed(qc_node *node, const request *poll) {
    const log_file *log = &node->store.log;
    qc_entry entries[ENTRIES];
    size_t count = 0, bytes = 0, at = 0;
    uint64_t next = poll->a + 1;
    if (next < log_first(log)) return serve_snapshot(node, poll->token);
    for (const place *found; count < ENTRIES && (found = log_place(log, next + count)) != NULL; count++) {
        if (count > 0 && bytes + found->length > poll->b) break;
        bytes += found->length;
    }
    if (count == 0) return 0;
    uint8_t *data = malloc(bytes + 1);
    int failed = data == NULL;
    for (size_t i = 0; i < count && !failed; i++) {
        const place *found = log_place(log, next + i);
        failed = log_read(log, found, data + at);
        entries[i] = (qc_entry){.index = next + i, .epoch = found->epoch, .data = {data + at, found->length}};
        at += found->length;
    }
    qc_reply reply = {.status = failed ? QC_STOPPED : QC_OK, .node = QC_NO_NODE};
    reply.entries = failed ? NULL : entries;
    reply.entries_len = failed ? 0 : count;
    answer(node, poll->token, &reply);
    free(data);
    if (failed) stop(node, "the log cannot be read");
    return 1;
}

static int serve_leader(qc_node *node, const request *poll) {
    const event *last = &node->event;
    if (last->seq <= poll->a) return 0;
    qc_reply reply = {.status = QC_OK, .seq = last->seq, .epoch = last->epoch, .kind = last->kind, .node = last->node, .index = last->index};
    answer(node, poll->token, &reply);
    return 1;
}

static void serve_polls(qc_node *node) {
    requests waiting = node->polls;
    node->polls.first = NULL;
    for (request *poll; (poll = take_first(&waiting)) != NULL;) {
        if (node->stopped) {
            answer_status(node, poll->token, QC_STOPPED, "");
        } else if (!(poll->asked == ASKED_LEADER ? serve_leader(node, poll) : serve_committed(node, poll))) {
            requests_add(&node->polls, poll);
            continue;
        }
        free(poll);
    }
}

/* Does one thing that was asked for; 0 if it waits for something to happen. */
static int carry_out(qc_node *node, request *one) {
    if (node->stopped && one->asked != ASKED_SHUTDOWN && one->asked != ASKED_DROP) {
        answer_status(node, one->token, QC_STOPPED, "the backend has stopped");
        return 1;
    }
    switch (one->asked) {
    case ASKED_START: start(node, one); break;
    case ASKED_LEADER:
    case ASKED_COMMITTED: requests_add(&node->polls, one); return 0;
    case ASKED_SNAPSHOT: read_snapshot(node, one); break;
    case ASKED_DROP: remove_snapshot(find_snapshot(&node->reading, one->a)); break;
    case ASKED_BARRIER: barrier(node, one->token); break;
    case ASKED_COMPACT_BEGIN: compact_begin(node, one); break;
    case ASKED_COMPACT_CHUNK: compact_chunk(node, one); break;
    case ASKED_COMPACT_FINISH: compact_finish(node, one); break;
    case ASKED_RESIGN:
        resign(node, one->a, 0);
        answer_status(node, one->token, QC_OK, "");
        break;
    case ASKED_SHUTDOWN:
        resign(node, 0, 1);
        stop(node, NULL);
        answer_status(node, one->token, QC_OK, "");
        break;
    case ASKED_PROPOSE: break; /* see below */
    }
    return 1;
}

static void carry_out_all(qc_node *node, requests *queue) {
    for (request *one; (one = take_first(queue)) != NULL;) {
        if (one->asked != ASKED_PROPOSE || node->stopped) {
            if (carry_out(node, one)) free(one);
            continue;
        }
        requests batch = {0};
        requests_add(&batch, one);
        for (int count = 1; count < BATCH && queue->first != NULL && queue->first->asked == ASKED_PROPOSE; count++) {
            requests_add(&batch, take_first(queue));
        }
        propose(node, &batch);
        while ((one = take_first(&batch)) != NULL) free(one);
    }
}

/* Waits for something to do; 0 when the node is to be destroyed. */
static int wait_for_work(qc_node *node, requests *queue) {
    pthread_mutex_lock(&node->lock);
    while (!node->quit && node->queue.first == NULL && (node->stopped || monotonic() < node->look_at)) {
        if (node->stopped) {
            pthread_cond_wait(&node->changed, &node->lock);
        } else {
            struct timespec until = {.tv_sec = (time_t)(node->look_at / 1000000000u), .tv_nsec = (long)(node->look_at % 1000000000u)};
            pthread_cond_timedwait(&node->changed, &node->lock, &until);
        }
    }
    *queue = node->queue;
    node->queue.first = NULL;
    node->proposals = 0;
    int goes_on = !node->quit;
    pthread_mutex_unlock(&node->lock);
    return goes_on;
}

void *engine_run(void *argument) {
    qc_node *node = argument;
    requests queue;
    while (wait_for_work(node, &queue)) {
        carry_out_all(node, &queue);
        if (!node->stopped && monotonic() >= node->look_at) look(node);
        serve_polls(node);
    }
    for (request *one; (one = take_first(&queue)) != NULL;) free(one);
    for (request *poll; (poll = take_first(&node->polls)) != NULL;) free(poll);
    while (node->reading != NULL) remove_snapshot(&node->reading);
    while (node->writing != NULL) remove_snapshot(&node->writing);
    return NULL;
}
