/*
 * A consensus backend for processes of one machine, whose quorum is a folder that they share. See store.h for how it
 * works, and quorate_consensus.h for what every function here promises.
 *
 * What it lacks: a process that is stopped in the middle of a transaction keeps the lock until it goes on or dies, and
 * whoever loses the disk loses everything.
 */
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROPOSALS 256 /* that wait; more are refused as busy */

void answer(qc_node *node, uint64_t token, qc_reply *reply) {
    reply->struct_size = sizeof *reply;
    node->host->complete(node->ctx, token, reply);
}

void answer_status(qc_node *node, uint64_t token, int32_t status, const char *why) {
    qc_reply reply = {.status = status, .node = QC_NO_NODE, .data = {(const uint8_t *)why, strlen(why)}};
    answer(node, token, &reply);
}

static void create(qc_bytes text, const qc_host *host, void *ctx, uint64_t token, qc_node **out) {
    char problem[256] = "no memory";
    pthread_condattr_t clock;
    qc_node *node = calloc(1, sizeof *node);
    if (node == NULL) return;
    node->host = host;
    node->ctx = ctx;
    if (config_read(&node->config, text, problem)) {
        answer_status(node, token, QC_CONFIG, problem);
        config_free(&node->config);
        free(node);
        return;
    }
    node->store.lock_fd = node->store.lease_fd = node->store.log.fd = -1;
    pthread_mutex_init(&node->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&node->changed, &clock);
    pthread_condattr_destroy(&clock);
    *out = node;
    answer_status(node, token, QC_OK, "");
}

static void destroy(qc_node *node) {
    pthread_mutex_lock(&node->lock);
    node->quit = 1;
    pthread_cond_signal(&node->changed);
    pthread_mutex_unlock(&node->lock);
    if (node->has_thread) pthread_join(node->thread, NULL);
    for (request *one; (one = node->queue.first) != NULL; free(one)) node->queue.first = one->next;
    store_close(&node->store);
    config_free(&node->config);
    pthread_cond_destroy(&node->changed);
    pthread_mutex_destroy(&node->lock);
    free(node);
}

/* A request with room for a copy of what the host lends; answered at once if there is no memory. */
static request *ask(qc_node *node, asked asked, uint64_t token, qc_bytes bytes) {
    request *one = calloc(1, sizeof *one + bytes.len);
    if (one == NULL) {
        if (token != 0) answer_status(node, token, QC_STOPPED, "no memory");
        return NULL;
    }
    one->asked = asked;
    one->token = token;
    one->length = bytes.len;
    if (bytes.len > 0) memcpy(one->bytes, bytes.ptr, bytes.len);
    return one;
}

static void queue(qc_node *node, request *one) {
    pthread_mutex_lock(&node->lock);
    int refused = one->asked == ASKED_PROPOSE && node->proposals >= PROPOSALS;
    if (!refused) {
        node->proposals += one->asked == ASKED_PROPOSE;
        requests_add(&node->queue, one);
        pthread_cond_signal(&node->changed);
    }
    pthread_mutex_unlock(&node->lock);
    if (!refused) return;
    answer_status(node, one->token, QC_BUSY, "");
    free(one);
}

static void ask_numbers(qc_node *node, asked asked, uint64_t token, uint64_t a, uint64_t b) {
    request *one = ask(node, asked, token, (qc_bytes){NULL, 0});
    if (one == NULL) return;
    one->a = a;
    one->b = b;
    queue(node, one);
}

static void start(qc_node *node, uint64_t token, const qc_resume *resume) {
    if (node->has_thread) return answer_status(node, token, QC_CONFIG, "started a second time");
    request *one = ask(node, ASKED_START, token, (qc_bytes){NULL, 0});
    if (one == NULL) return;
    one->resume = *resume;
    /* Nothing to look at before the start has opened the folder. */
    node->look_at = UINT64_MAX;
    queue(node, one);
    node->has_thread = pthread_create(&node->thread, NULL, engine_run, node) == 0;
    if (!node->has_thread) answer_status(node, token, QC_STORAGE, "no thread to run on");
}

static void next_leader(qc_node *node, uint64_t token, uint64_t seen) { ask_numbers(node, ASKED_LEADER, token, seen, 0); }

static void next_committed(qc_node *node, uint64_t token, uint64_t after, uint32_t max_bytes) {
    ask_numbers(node, ASKED_COMMITTED, token, after, max_bytes);
}

static void read_snapshot(qc_node *node, uint64_t token, uint64_t snapshot, uint64_t offset) {
    ask_numbers(node, ASKED_SNAPSHOT, token, snapshot, offset);
}

static void drop_snapshot(qc_node *node, uint64_t snapshot) { ask_numbers(node, ASKED_DROP, 0, snapshot, 0); }

static void propose(qc_node *node, uint64_t token, uint64_t epoch, qc_bytes entry) {
    if (entry.len == 0 || entry.len > ENTRY_BYTES) return answer_status(node, token, QC_TOO_LARGE, "");
    request *one = ask(node, ASKED_PROPOSE, token, entry);
    if (one == NULL) return;
    one->a = epoch;
    queue(node, one);
}

static void read_barrier(qc_node *node, uint64_t token) { ask_numbers(node, ASKED_BARRIER, token, 0, 0); }

static void compact_begin(qc_node *node, uint64_t token, const qc_snapshot_meta *meta) {
    request *one = ask(node, ASKED_COMPACT_BEGIN, token, (qc_bytes){NULL, 0});
    if (one == NULL) return;
    one->meta = *meta;
    queue(node, one);
}

static void compact_chunk(qc_node *node, uint64_t token, uint64_t snapshot, qc_bytes chunk) {
    request *one = ask(node, ASKED_COMPACT_CHUNK, token, chunk);
    if (one == NULL) return;
    one->a = snapshot;
    queue(node, one);
}

static void compact_finish(qc_node *node, uint64_t token, uint64_t snapshot, uint32_t keep) {
    ask_numbers(node, ASKED_COMPACT_FINISH, token, snapshot, keep);
}

/* Not declared, so that the host does not ask. */
static void change_membership(qc_node *node, uint64_t token, uint32_t change, int32_t voter, qc_bytes endpoint) {
    (void)change, (void)voter, (void)endpoint;
    answer_status(node, token, QC_UNSUPPORTED, "");
}

static void resign(qc_node *node, uint64_t token, uint64_t epoch) { ask_numbers(node, ASKED_RESIGN, token, epoch, 0); }

static void status(qc_node *node, uint64_t token) {
    char id[40] = "null", age[24] = "null", fatal[600] = "null";
    size_t room = strlen(node->config.voters) + strlen(node->config.peers) + 1200, at = 0;
    char *text = malloc(room);
    if (text == NULL) return answer_status(node, token, QC_STOPPED, "no memory");
    pthread_mutex_lock(&node->lock);
    said said = node->said;
    pthread_mutex_unlock(&node->lock);
    if (said.known) {
        id[0] = '"';
        for (int i = 0; i < 16; i++) snprintf(id + 1 + 2 * i, 3, "%02x", said.log_id[i]);
        strcpy(id + 33, "\"");
        uint64_t silent = (monotonic() - said.reached) / 1000000;
        snprintf(age, sizeof age, "%llu", (unsigned long long)(silent < 100 ? 0 : silent));
    }
    if (said.fatal[0] != 0) {
        fatal[at++] = '"';
        for (const char *from = said.fatal; *from != 0; from++) {
            if (*from == '"' || *from == '\\') fatal[at++] = '\\';
            fatal[at++] = (unsigned char)*from < ' ' ? ' ' : *from;
        }
        strcpy(fatal + at, "\"");
    }
    int length = snprintf(text, room,
                          "{\"log_id\":%s,\"epoch\":%llu,\"committed\":%llu,\"first\":%llu,\"quorum_contact_age_ms\":%s,"
                          "\"voters\":%s,\"peers\":%s,\"founding\":null,\"max_entry_bytes\":%u,\"fatal\":%s}",
                          id, (unsigned long long)said.epoch, (unsigned long long)said.committed,
                          (unsigned long long)said.first, age, node->config.voters, node->config.peers, ENTRY_BYTES, fatal);
    qc_reply reply = {.status = QC_OK, .node = QC_NO_NODE, .data = {(const uint8_t *)text, (size_t)length}};
    answer(node, token, &reply);
    free(text);
}

static void shut_down(qc_node *node, uint64_t token) { ask_numbers(node, ASKED_SHUTDOWN, token, 0, 0); }

#define TEXT(literal) {(const uint8_t *)(literal), sizeof(literal) - 1}

static const qc_plugin PLUGIN = {
    .struct_size = sizeof(qc_plugin),
    .abi_major = QC_ABI_MAJOR,
    .abi_minor = QC_ABI_MINOR,
    .capabilities = QC_CAN_HAND_OVER | QC_CAN_PRE_VOTE,
    .max_entry_bytes = ENTRY_BYTES,
    .name = TEXT("shared-folder-c"),
    .version = TEXT("0.1.0"),
    .create = create,
    .destroy = destroy,
    .start = start,
    .next_leader = next_leader,
    .next_committed = next_committed,
    .read_snapshot = read_snapshot,
    .drop_snapshot = drop_snapshot,
    .propose = propose,
    .read_barrier = read_barrier,
    .compact_begin = compact_begin,
    .compact_chunk = compact_chunk,
    .compact_finish = compact_finish,
    .change_membership = change_membership,
    .resign = resign,
    .status = status,
    .shutdown = shut_down,
};

const qc_plugin *quorate_consensus_v0(void) { return &PLUGIN; }
