/*
 * The binary interface between the broker (the host) and a consensus backend in a shared library.
 *
 * Version 0. Until version 1 is declared, every change of the major number breaks every library; a change of the minor
 * number only appends to the end of a struct, and struct_size says how much of it there is.
 *
 * What a backend promises is written down once, in the documentation of the port, core/src/consensus/mod.rs of the
 * broker's sources; the entry points below say which promise is theirs. docs/writing-a-backend.md shows the way.
 *
 * The rules that hold for every call:
 *
 *  1. Every entry point returns at once and may be called from any thread, also by several at the same time. What takes
 *     time is answered later, by host->complete(ctx, token, reply), from any thread, also before the call returns.
 *     `create` and `status` are answered before they return. Each token is answered exactly once.
 *  2. No memory changes its owner. Whatever a pointer refers to is borrowed until the call that it was passed to
 *     returns; who needs it longer copies it. Nobody frees what the other side allocated.
 *  3. The library has its own threads. The host lends none.
 *  4. next_leader, next_committed and read_snapshot are long polls: one request, one answer, and no queue between.
 *  5. Nothing unwinds across the boundary, in either direction. Who catches an exception answers QC_PANIC.
 *  6. The library is never unloaded.
 *  7. `shutdown` is answered when every other token has been. After `destroy` has returned the library calls nothing
 *     of the host; if it does, it is ignored, as are unknown tokens and those that were answered before.
 *  8. `create`, then `start`, then anything but these two, then `shutdown`, then `destroy`. `destroy` may come at any
 *     time after `create` and without a `shutdown`: that is a crash, and must be as safe as one. After `shutdown`
 *     only `status` and `destroy` are called. One library serves several nodes at the same time.
 *
 * Numbers are in the machine's byte order. Texts are UTF-8 without a terminating zero. A 64-bit machine is assumed.
 */
#ifndef QUORATE_CONSENSUS_H
#define QUORATE_CONSENSUS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#define QC_ASSERT_SIZE(type, size) static_assert(sizeof(type) == (size), #type " has another size in the host")
#else
#define QC_ASSERT_SIZE(type, size) _Static_assert(sizeof(type) == (size), #type " has another size in the host")
#endif

#define QC_ABI_MAJOR 0
#define QC_ABI_MINOR 0

/* No chunk of a snapshot is larger. */
#define QC_CHUNK_BYTES (1u << 20)

/* No node: where there is no hint. */
#define QC_NO_NODE (-1)

/* Borrowed bytes. ptr may be NULL where len is 0. */
typedef struct qc_bytes {
    const uint8_t *ptr;
    size_t len;
} qc_bytes;
QC_ASSERT_SIZE(qc_bytes, 16);

/* What a backend can do, as bits of qc_plugin.capabilities. What is not declared is not asked for: the broker refuses
 * it, and the conformance suite skips it with that reason. */
#define QC_CAN_FOUNDERS (1ull << 0)   /* a fresh cluster is founded by all its voters, which wait for each other */
#define QC_CAN_VOTES (1ull << 1)      /* the nodes vote: a leader needs a majority of them */
#define QC_CAN_HAND_OVER (1ull << 2)  /* a leader that shuts down or resigns hands over */
#define QC_CAN_PRE_VOTE (1ull << 3)   /* a node that was cut off does not disturb a healthy leader when it returns */
#define QC_CAN_FOLDER (1ull << 4)     /* a node keeps files in its folder */
#define QC_CAN_EXTERNAL (1ull << 5)   /* there is a quorum outside of the nodes */
#define QC_CAN_MEMBERSHIP (1ull << 6) /* voters can be added and removed while it runs */

/* How a call ended. Whatever is not QC_OK may carry a sentence for the operator in qc_reply.data. */
typedef enum qc_status {
    QC_OK = 0,
    QC_NOT_LEADER = 1,   /* not done and never will be; qc_reply.node may say who leads */
    QC_TOO_LARGE = 2,    /* not done: the entry is empty or above max_entry_bytes */
    QC_BUSY = 3,         /* not done: a queue is full; worth a retry */
    QC_UNKNOWN = 4,      /* done or not; if it is, the entry arrives through next_committed */
    QC_STOPPED = 5,      /* not done: the backend has stopped */
    QC_UNSUPPORTED = 6,  /* this backend cannot do that */
    QC_UNAVAILABLE = 7,  /* no quorum, or no space: worth a retry later */
    QC_CONFIG = 8,       /* create, start: the configuration must be changed */
    QC_STORAGE = 9,      /* the disk failed, or its contents are damaged */
    QC_FOREIGN = 10,     /* start: the folder or the log is of another history; compact: the snapshot is */
    QC_IN_PROGRESS = 11, /* change_membership: another change is under way */
    QC_SNAPSHOT = 12,    /* the chunks of a snapshot cannot be read, or are not what its head says */
    QC_PANIC = 13        /* something was caught that should not have been thrown; the host ends the backend */
} qc_status;

/* One entry of the log. data is empty for the backend's own entries (the opening of an epoch, a change of voters). */
typedef struct qc_entry {
    uint64_t index; /* dense, from 1 */
    uint64_t epoch; /* never decreases along the log */
    qc_bytes data;
} qc_entry;
QC_ASSERT_SIZE(qc_entry, 32);

/* The head of a snapshot: it replaces everything up to and including the entry at index. */
typedef struct qc_snapshot_meta {
    uint64_t index;
    uint64_t epoch; /* that entry's */
    uint64_t bytes; /* all chunks together */
    uint8_t chain[16]; /* the history at that entry, see qc_resume */
} qc_snapshot_meta;
QC_ASSERT_SIZE(qc_snapshot_meta, 40);

/* Where the host stands in the log when it starts the backend. */
typedef struct qc_resume {
    uint32_t struct_size;
    uint32_t has_log_id; /* 0: a fresh node, which learns the log's id from `status` */
    uint8_t log_id[16];  /* the log that the host's state came from */
    uint64_t applied;    /* durable at the host: entries up to here are never asked for again */
    /* The history at `applied`: chain(0) is the log's id, and chain(n) is the first 16 bytes of SHA-256 of
     * chain(n - 1), the entry's epoch as 8 bytes big-endian, and the entry's data. Where `applied` is 0 it says
     * nothing. A backend whose log says otherwise answers QC_FOREIGN, or becomes fatal (see `status`) where it can see its log only later. */
    uint8_t chain[16];
} qc_resume;
QC_ASSERT_SIZE(qc_resume, 48);

/* qc_reply.kind of next_leader: who leads qc_reply.epoch. */
#define QC_LEADER_UNKNOWN 0u /* nobody, or this node is cut off from whoever does */
#define QC_LEADER_OTHER 1u   /* qc_reply.node */
#define QC_LEADER_ME 2u      /* this node, in an epoch that the entry at qc_reply.index opened */

/* qc_reply.kind of next_committed: what comes next. */
#define QC_COMMITTED_ENTRIES 0u
#define QC_COMMITTED_SNAPSHOT 1u

/* The answer to one call. Set it to zero, then struct_size, status and what the call is documented to answer. */
typedef struct qc_reply {
    uint32_t struct_size; /* sizeof(qc_reply) */
    int32_t status;       /* a qc_status */
    uint64_t index;
    uint64_t epoch;
    uint64_t seq;
    int32_t node;
    uint32_t kind;
    uint64_t snapshot; /* names a snapshot that is read or written in chunks; not 0 */
    const qc_entry *entries;
    size_t entries_len;
    const qc_snapshot_meta *meta;
    qc_bytes data;
} qc_reply;
QC_ASSERT_SIZE(qc_reply, 88);

/* The host. The struct and its functions stay valid for ever; both functions may be called from any thread, do not
 * block and do not unwind. */
typedef struct qc_host {
    uint32_t struct_size;
    uint16_t abi_major;
    uint16_t abi_minor;
    void (*complete)(void *ctx, uint64_t token, const qc_reply *reply);
    /* level: 1 error, 2 warning, 3 information, 4 and above nothing that an operator reads. */
    void (*log)(void *ctx, uint32_t level, qc_bytes target, qc_bytes message);
} qc_host;
QC_ASSERT_SIZE(qc_host, 24);

/* A node of the library's own; the host never looks inside. */
typedef struct qc_node qc_node;

/* What a change of voters does. */
#define QC_VOTER_ADD 0u
#define QC_VOTER_REMOVE 1u

/* The library. */
typedef struct qc_plugin {
    uint32_t struct_size;
    uint16_t abi_major;
    uint16_t abi_minor;
    uint64_t capabilities;
    uint64_t max_entry_bytes; /* the largest entry that propose takes: 64 KiB to 16 MiB */
    qc_bytes name;            /* 1 to 64 of a-z, 0-9 and '-'; recorded in a node's folders as plugin:NAME */
    qc_bytes version;         /* 1 to 64 printable ASCII characters */

    /* Makes a node. Parses the configuration and no more: no disk, no network, no thread, no waiting.
     * config: a JSON object
     *   {"node":1,"directory_id":"…uuid…","folder":"/absolute","listener":"127.0.0.1:7001",
     *    "peers":{"1":"127.0.0.1:7001",…},"options":{…the backend's own, text to text…}}
     *   folder need not exist; nobody else uses it. listener is where the node's peers reach it, or null where the
     *   operator sets none. peers are the voters, this node among them.
     * Answers, before it returns, QC_OK with *out set, or QC_CONFIG with a sentence that names the key. */
    void (*create)(qc_bytes config, const qc_host *host, void *ctx, uint64_t token, qc_node **out);

    /* Ends the node, started or not, shut down or not: joins its threads, closes its files, frees it. */
    void (*destroy)(qc_node *node);

    /* Recovers what is local, starts the engine, answers. Waits for no peer, no quorum, no leader: with every peer
     * dead it still answers QC_OK. Once in the life of a node. QC_CONFIG, QC_STORAGE, QC_FOREIGN. */
    void (*start)(qc_node *node, uint64_t token, const qc_resume *resume);

    /* The newest event that is newer than `seen` (0 at first), as soon as there is one: seq, epoch, kind, node or
     * index. seq and epoch never decrease, an epoch has one leader in the whole cluster. QC_STOPPED at the end. */
    void (*next_leader)(qc_node *node, uint64_t token, uint64_t seen);

    /* Committed entries after `after`, as soon as there is one: QC_COMMITTED_ENTRIES with as many as there are, but no
     * more data than max_bytes (one entry may be larger), without holes. Or QC_COMMITTED_SNAPSHOT with meta and the
     * snapshot's name, where the log begins later. Entries are durable on a quorum. Several readers may ask at the
     * same time, each with its own place. QC_STOPPED at the end. */
    void (*next_committed)(qc_node *node, uint64_t token, uint64_t after, uint32_t max_bytes);

    /* The chunk at `offset` of a snapshot that next_committed named: data, 1 to QC_CHUNK_BYTES, or nothing where the
     * snapshot ends. The host reads from the beginning on, one chunk after the other. QC_SNAPSHOT. */
    void (*read_snapshot)(qc_node *node, uint64_t token, uint64_t snapshot, uint64_t offset);

    /* The host reads no more of it. No answer. */
    void (*drop_snapshot)(qc_node *node, uint64_t snapshot);

    /* Commits the entry if and only if this node leads `epoch` when it commits, then answers its index. Concurrent
     * calls commit in the order in which they were made. Never repeats an entry unless it is provably the same.
     * QC_NOT_LEADER, QC_TOO_LARGE, QC_BUSY, QC_UNKNOWN, QC_STOPPED. */
    void (*propose)(qc_node *node, uint64_t token, uint64_t epoch, qc_bytes entry);

    /* An index at or above every entry whose propose was answered, anywhere, before this call. Asks a quorum; trusts
     * no lease and no clock. QC_UNAVAILABLE. */
    void (*read_barrier)(qc_node *node, uint64_t token);

    /* A snapshot for the backend to keep, so that it may forget entries up to its index (keeping a tail for slow
     * readers). Begin answers the snapshot's name, or 0 where one as new is kept already and nothing is to follow.
     * Chunks follow one by one, each when the one before was answered. Finish with keep 1 is answered when the
     * snapshot is durable; with keep 0 it forgets what came. QC_UNAVAILABLE, QC_FOREIGN, QC_SNAPSHOT, QC_STORAGE. */
    void (*compact_begin)(qc_node *node, uint64_t token, const qc_snapshot_meta *meta);
    void (*compact_chunk)(qc_node *node, uint64_t token, uint64_t snapshot, qc_bytes chunk);
    void (*compact_finish)(qc_node *node, uint64_t token, uint64_t snapshot, uint32_t keep);

    /* Adds (QC_VOTER_ADD, with its endpoint host:port) or removes one voter; the leader only, idempotent.
     * QC_UNSUPPORTED, QC_NOT_LEADER, QC_IN_PROGRESS, QC_UNAVAILABLE. */
    void (*change_membership)(qc_node *node, uint64_t token, uint32_t change, int32_t voter, qc_bytes endpoint);

    /* Gives up the leadership of `epoch` if it is held, and does not campaign again for a while. Idempotent. */
    void (*resign)(qc_node *node, uint64_t token, uint64_t epoch);

    /* What the node says of itself, at once: data is a JSON object
     *   {"log_id":"32 hex digits" or null while the cluster is not founded,
     *    "epoch":0,"committed":0,"first":1,             the newest epoch, the last committed and the first kept index
     *    "quorum_contact_age_ms":0 or null,             since a quorum last answered
     *    "voters":{"1":"host:port",…},
     *    "peers":[{"node":2 or null,"endpoint":"…","contact_age_ms":0 or null,"matched":0 or null,
     *              "problem":"why it does not take part" or null},…],
     *    "founding":{"have":[1],"awaited":[a peer,…]} or null,
     *    "max_entry_bytes":1048576,
     *    "fatal":"why the node has failed for good" or null}
     * A node that has failed says so in "fatal" and answers every token with QC_STOPPED; the process then ends. */
    void (*status)(qc_node *node, uint64_t token);

    /* Gives up leadership if it is held, stops, flushes, answers every outstanding token, and this one last. */
    void (*shutdown)(qc_node *node, uint64_t token);
} qc_plugin;
QC_ASSERT_SIZE(qc_plugin, 184);

/* The only symbol that the host looks for. The table must stay valid for ever. */
#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
const qc_plugin *quorate_consensus_v0(void);

#ifdef __cplusplus
}
#endif
#endif
