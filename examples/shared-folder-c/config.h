/* The configuration that `create` is given. */
#ifndef CONFIG_H
#define CONFIG_H

#include "quorate_consensus.h"

#include <limits.h>

typedef struct config {
    int32_t node;
    char store[PATH_MAX]; /* option "store": the folder that all nodes share */
    uint64_t lease_ns;    /* option "lease.ms" */
    uint64_t tail;        /* option "tail": entries that are kept behind a snapshot */
    char *voters;         /* JSON, as status has them */
    char *peers;
} config;

/* Reads the text. 0, or -1 with a sentence. */
int config_read(config *config, qc_bytes text, char problem[256]);
void config_free(config *config);

#endif
