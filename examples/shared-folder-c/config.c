/* As much JSON as the configuration is made of. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A part of the text. */
typedef struct span {
    const char *at, *end;
} span;

static void skip_blank(span *text) {
    while (text->at < text->end && strchr(" \t\r\n", *text->at) != NULL) text->at++;
}

static int take(span *text, char wanted) {
    skip_blank(text);
    if (text->at == text->end || *text->at != wanted) return 0;
    text->at++;
    return 1;
}

/* A string between its quotes, escapes as they stand. */
static int take_string(span *text, span *string) {
    if (!take(text, '"')) return 0;
    string->at = text->at;
    while (text->at < text->end && *text->at != '"') text->at += *text->at == '\\' && text->end - text->at > 1 ? 2 : 1;
    if (text->at == text->end) return 0;
    string->end = text->at++;
    return 1;
}

/* Any value, not looked into; nested values are skipped by their brackets. */
static int take_value(span *text, span *value) {
    int depth = 0;
    span string;
    skip_blank(text);
    value->at = text->at;
    while (text->at < text->end) {
        char next = *text->at;
        if (next == '"') {
            if (!take_string(text, &string)) return 0;
        } else if (depth == 0 && (next == ',' || next == '}' || next == ']')) {
            break;
        } else {
            depth += (next == '{' || next == '[') - (next == '}' || next == ']');
            text->at++;
        }
    }
    value->end = text->at;
    return depth == 0 && value->at < value->end;
}

/* The next member of an object whose bracket was taken: 1, 0 at its end, -1 if it is malformed. */
static int take_member(span *object, span *name, span *value) {
    if (take(object, '}')) return 0;
    take(object, ',');
    return take_string(object, name) && take(object, ':') && take_value(object, value) ? 1 : -1;
}

static int is(span text, const char *wanted) {
    return (size_t)(text.end - text.at) == strlen(wanted) && memcmp(text.at, wanted, strlen(wanted)) == 0;
}

static void put_utf8(char *to, size_t *length, unsigned code) {
    if (code < 0x80) {
        to[(*length)++] = (char)code;
    } else if (code < 0x800) {
        to[(*length)++] = (char)(0xc0 | code >> 6);
        to[(*length)++] = (char)(0x80 | (code & 63));
    } else {
        to[(*length)++] = (char)(0xe0 | code >> 12);
        to[(*length)++] = (char)(0x80 | (code >> 6 & 63));
        to[(*length)++] = (char)(0x80 | (code & 63));
    }
}

/* The text of a value that is a string. Code points above 0xffff stand unescaped in what the host writes. */
static int text_of(span value, char *to, size_t room) {
    static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    span string;
    size_t length = 0;
    if (!take_string(&value, &string)) return -1;
    while (string.at < string.end && length + 4 < room) {
        if (*string.at != '\\') {
            to[length++] = *string.at++;
            continue;
        }
        unsigned code;
        const char *escape = string.at[1] != 0 ? strchr(escapes, string.at[1]) : NULL;
        if (escape != NULL) {
            to[length++] = meanings[escape - escapes];
            string.at += 2;
        } else if (string.end - string.at >= 6 && sscanf(string.at + 1, "u%4x", &code) == 1 && code != 0) {
            put_utf8(to, &length, code);
            string.at += 6;
        } else {
            return -1;
        }
    }
    to[length] = 0;
    return string.at == string.end ? 0 : -1;
}

static int number_of(span value, uint64_t least, uint64_t most, uint64_t *number) {
    char text[32], *end;
    size_t length = (size_t)(value.end - value.at);
    if (length == 0 || length >= sizeof text || *value.at < '0' || *value.at > '9') return -1;
    memcpy(text, value.at, length);
    text[length] = 0;
    *number = strtoull(text, &end, 10);
    while (*end != 0 && strchr(" \t\r\n", *end) != NULL) end++;
    return *end == 0 && *number >= least && *number <= most ? 0 : -1;
}

static int read_options(config *config, span options, char problem[256]) {
    span name, value;
    char text[PATH_MAX];
    uint64_t number;
    int more = 0;
    if (!take(&options, '{')) return snprintf(problem, 256, "options is not an object"), -1;
    while ((more = take_member(&options, &name, &value)) == 1) {
        if (text_of(value, text, sizeof text)) return snprintf(problem, 256, "options has a value that is no text"), -1;
        span digits = {text, text + strlen(text)};
        if (is(name, "store")) {
            strcpy(config->store, text);
        } else if (is(name, "lease.ms")) {
            if (number_of(digits, 100, 60000, &number)) {
                return snprintf(problem, 256, "consensus.plugin.lease.ms must be 100 to 60000"), -1;
            }
            config->lease_ns = number * 1000000;
        } else if (is(name, "tail")) {
            if (number_of(digits, 0, UINT64_MAX, &config->tail)) {
                return snprintf(problem, 256, "consensus.plugin.tail must be a number"), -1;
            }
        }
    }
    return more < 0 ? snprintf(problem, 256, "options is malformed"), -1 : 0;
}

/* The other voters, as status has its peers. */
static int read_peers(config *config, span peers, char problem[256]) {
    size_t length = (size_t)(peers.end - peers.at), room = 8 * length + 64, at = 1;
    span name, value, rest = peers;
    uint64_t node;
    int more = 0;
    free(config->voters);
    free(config->peers);
    config->voters = malloc(length + 1);
    config->peers = malloc(room);
    if (config->voters == NULL || config->peers == NULL) return snprintf(problem, 256, "no memory"), -1;
    memcpy(config->voters, peers.at, length);
    config->voters[length] = 0;
    config->peers[0] = '[';
    if (!take(&rest, '{')) return snprintf(problem, 256, "peers is not an object"), -1;
    while ((more = take_member(&rest, &name, &value)) == 1) {
        if (number_of(name, 0, INT32_MAX, &node)) return snprintf(problem, 256, "peers has a name that is no id"), -1;
        if (node == (uint64_t)config->node) continue;
        /* One member is at least 6 characters long, and the template has 24 beside it. */
        at += (size_t)snprintf(config->peers + at, room - at, "%s{\"node\":%d,\"endpoint\":%.*s}", at > 1 ? "," : "",
                               (int)node, (int)(value.end - value.at), value.at);
    }
    strcpy(config->peers + at, "]");
    return more < 0 ? snprintf(problem, 256, "peers is malformed"), -1 : 0;
}

int config_read(config *config, qc_bytes text, char problem[256]) {
    span all = {(const char *)text.ptr, (const char *)text.ptr + text.len}, members, name, value;
    span peers = {"{}", NULL}, options = {"{}", NULL};
    uint64_t node = UINT64_MAX;
    int more = 0;
    peers.end = peers.at + 2;
    options.end = options.at + 2;
    memset(config, 0, sizeof *config);
    config->lease_ns = 1500000000;
    config->tail = 10000;
    members = all;
    if (!take(&members, '{')) return snprintf(problem, 256, "the configuration is not an object"), -1;
    while ((more = take_member(&members, &name, &value)) == 1) {
        if (is(name, "node") && number_of(value, 0, INT32_MAX, &node)) {
            return snprintf(problem, 256, "node must be a number from 0"), -1;
        }
        if (is(name, "peers")) peers = value;
        if (is(name, "options")) options = value;
    }
    if (more < 0 || node == UINT64_MAX) return snprintf(problem, 256, "the configuration is malformed"), -1;
    config->node = (int32_t)node;
    if (read_options(config, options, problem) || read_peers(config, peers, problem)) return -1;
    if (config->store[0] != '/') {
        return snprintf(problem, 256, "consensus.plugin.store must name a folder that all nodes share, absolute"), -1;
    }
    return 0;
}

void config_free(config *config) {
    free(config->voters);
    free(config->peers);
    config->voters = config->peers = NULL;
}
