/* journal.c - the resume record. See journal.h. */
#include "job/journal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define JOURNAL_MAX_BYTES (1u << 30)
#define SUM_LEN 19 /* " #" + 16 hex digits + newline */

static void add_line(fqi_str *out, uint64_t *chain, const char *line)
{
    *chain = XXH3_64bits_withSeed(line, strlen(line), *chain);
    fqi_str_printf(out, "%s #%016" PRIx64 "\n", line, *chain);
}

static fq_status flush_lines(fqi_journal *j, fqi_str *text, fq_err *e)
{
    fq_status s = text->failed ? fqi_fail_nomem(e, "journal") : FQ_OK;
    if (s == FQ_OK && text->len > 0) s = fqi_writer_put(&j->w, text->s, text->len, e);
    if (s == FQ_OK) s = fqi_writer_sync(&j->w, e);
    fqi_str_free(text);
    return s;
}

static void key_line(char *line, size_t n, const fqi_journal_key *k) { snprintf(line, n, "K %s %s", k->name, k->value); }

static fq_status start(fqi_journal *j, const char *path, const fqi_journal_key *key, size_t n_key, fq_err *e)
{
    *j = (fqi_journal){ 0 };
    FQI_TRY(fqi_remove_tree(path, e));
    FQI_TRY(fqi_writer_open(&j->w, path, 0, 0, FQ_IO_BUFFERED, e));
    fqi_str text = { 0 };
    for (size_t i = 0; i < n_key; i++) {
        char line[2048];
        key_line(line, sizeof line, &key[i]);
        add_line(&text, &j->chain, line);
    }
    fq_status s = flush_lines(j, &text, e);
    if (s != FQ_OK) fqi_journal_close(j);
    return s;
}

/* ---- reading back ---- */

typedef struct reader {
    const char *path;
    char *at, *end;          /* unread text */
    uint64_t chain;
    size_t line, used;       /* lines and bytes read */
    bool damaged;            /* the line at `at` does not check */
} reader;

static fq_status damaged(const reader *r, const char *what, fq_err *e)
{
    return fqi_fail(e, FQ_E_RESUME, FQI_FILE(r->path), "journal", "found %s in line %zu, expected the record of an interrupted run; delete the unfinished output to start again", what, r->line);
}

/* Next whole line without its checksum, NUL-terminated; NULL at the end, at a torn last line, or at one that does not check. */
static char *next_line(reader *r)
{
    char *nl = r->at < r->end ? memchr(r->at, '\n', (size_t)(r->end - r->at)) : NULL, want[17];
    if (!nl) return NULL;
    r->line++;
    char *line = r->at;
    r->damaged = nl + 1 - line < SUM_LEN || memcmp(nl + 1 - SUM_LEN, " #", 2) != 0;
    if (r->damaged) return NULL;
    char *sum = nl + 1 - SUM_LEN;
    uint64_t chain = XXH3_64bits_withSeed(line, (size_t)(sum - line), r->chain);
    snprintf(want, sizeof want, "%016" PRIx64, chain);
    r->damaged = memcmp(want, sum + 2, 16) != 0;
    if (r->damaged) return NULL;
    *sum = '\0';
    r->chain = chain;
    r->used += (size_t)(nl + 1 - line);
    r->at = nl + 1;
    return line;
}

static size_t count_lines(const reader *r)
{
    size_t n = 0;
    for (const char *p = r->at; p < r->end && (p = memchr(p, '\n', (size_t)(r->end - p))) != NULL; p++) n++;
    return n;
}

static fq_status read_keys(reader *r, const fqi_journal_key *key, size_t n_key, bool *torn, fq_err *e)
{
    size_t n_line = count_lines(r);
    for (size_t i = 0; i < n_key; i++) {
        char *line = next_line(r), want[2048];
        if (!line && r->damaged && n_line > n_key) return damaged(r, "a wrong checksum", e);
        if (!line) { *torn = true; return FQ_OK; }   /* stopped while the keys were written: nothing was done yet */
        key_line(want, sizeof want, &key[i]);
        if (strcmp(line, want) == 0) continue;
        size_t n = strlen(key[i].name);
        const char *found = strncmp(line, "K ", 2) == 0 && strncmp(line + 2, key[i].name, n) == 0 ? line + 3 + n : "another record";
        return fqi_fail(e, FQ_E_RESUME, FQI_FILE(r->path), "resume-differs", "found %s %s in the unfinished output, expected %s; finish it with the same request, or delete it", key[i].name, found, key[i].value);
    }
    return FQ_OK;
}

static bool parse_hash(const char *s, fqi_hash128 *h)
{
    return sscanf(s, "%16" SCNx64 "%16" SCNx64, &h->hi, &h->lo) == 2;
}

static fq_status read_records(reader *r, fqi_hash128 *source, fqi_hash128 *out, size_t n_tensor, size_t *n_done, fq_err *e)
{
    for (;;) {
        char *line = next_line(r), src[33], dst[33];
        size_t k;
        /* What was appended after the last fsync may be anything after a power cut. Nothing is lost by not believing it, nor
         * by believing less than there is: what is not on record is written again. */
        if (!line) return FQ_OK;
        if (sscanf(line, "T %zu %32s %32s", &k, src, dst) != 3 || k != *n_done || k >= n_tensor) return damaged(r, "an unexpected record", e);
        if (!parse_hash(src, &source[k]) || !parse_hash(dst, &out[k])) return damaged(r, "a bad hash", e);
        ++*n_done;
    }
}

fq_status fqi_journal_open(fqi_journal *j, const char *path, const fqi_journal_key *key, size_t n_key, bool resume,
                           fqi_hash128 *source_hash, fqi_hash128 *out_hash, size_t n_tensor, fq_err *e)
{
    if (!resume || !fqi_path_exists(path)) return start(j, path, key, n_key, e);
    char *text;
    size_t n, n_done = 0;
    bool torn = false;
    FQI_TRY(fqi_file_slurp(path, JOURNAL_MAX_BYTES, &text, &n, e));
    reader r = { .path = path, .at = text, .end = text + n };
    fq_status s = read_keys(&r, key, n_key, &torn, e);
    if (s == FQ_OK && !torn) s = read_records(&r, source_hash, out_hash, n_tensor, &n_done, e);
    const uint64_t valid = torn ? 0 : r.used;
    free(text);
    if (s != FQ_OK) return s;
    if (valid == 0) return start(j, path, key, n_key, e);
    *j = (fqi_journal){ .chain = r.chain, .n_done = n_done };
    return fqi_writer_open(&j->w, path, 0, valid, FQ_IO_BUFFERED, e);
}

fq_status fqi_journal_rewind(fqi_journal *j, const char *path, const fqi_journal_key *key, size_t n_key, size_t keep,
                             const fqi_hash128 *source_hash, const fqi_hash128 *out_hash, fq_err *e)
{
    fqi_journal_close(j);
    FQI_TRY(start(j, path, key, n_key, e));
    return fqi_journal_record(j, keep, source_hash, out_hash, e);
}

fq_status fqi_journal_record(fqi_journal *j, size_t upto, const fqi_hash128 *source_hash, const fqi_hash128 *out_hash, fq_err *e)
{
    fqi_str text = { 0 };
    for (size_t i = j->n_done; i < upto; i++) {
        char line[128];
        snprintf(line, sizeof line, "T %zu %016" PRIx64 "%016" PRIx64 " %016" PRIx64 "%016" PRIx64, i, source_hash[i].hi,
                 source_hash[i].lo, out_hash[i].hi, out_hash[i].lo);
        add_line(&text, &j->chain, line);
    }
    FQI_TRY(flush_lines(j, &text, e));
    j->n_done = upto;
    return FQ_OK;
}

void fqi_journal_close(fqi_journal *j)
{
    if (!j) return;
    fqi_writer_abandon(&j->w);
    *j = (fqi_journal){ 0 };
}
