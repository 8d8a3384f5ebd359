/* index.c - see index.h. Duplicates are found by sorting, so that a map of millions of entries needs no table beside it. */
#include "checkpoint/index.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "format/json_scan.h"

typedef struct reader {
    fqi_json_scan scan;
    const char *file;
    fqi_index *x;
    bool seen_map, seen_metadata;
} reader;

static fq_status fail_at(const reader *r, const char *rule, const char *found, const char *expected, fq_err *e)
{
    return fqi_fail(e, FQ_E_INPUT, FQI_AT(r->file, NULL, r->scan.begin), rule, "found %s, expected %s", found, expected);
}

static const char *kind_name(fqi_json_kind k)
{
    switch (k) {
    case FQI_JSON_OBJECT: return "an object";
    case FQI_JSON_ARRAY: return "an array";
    case FQI_JSON_KEY:
    case FQI_JSON_STRING: return "a string";
    case FQI_JSON_NUMBER: return "a number";
    case FQI_JSON_TRUE:
    case FQI_JSON_FALSE: return "true or false";
    case FQI_JSON_NULL: return "null";
    case FQI_JSON_OBJECT_END:
    case FQI_JSON_ARRAY_END:
    case FQI_JSON_END: break;
    }
    return "nothing";
}

/* ---- sorting ---------------------------------------------------------------------------------------------------- */

static int by_file(const void *a, const void *b)
{
    const fqi_index_entry *x = a, *y = b;
    return x->file == y->file ? 0 : strcmp(x->file, y->file);
}

/* Equal names in the order of the text, so that a duplicate is reported with its first place first. */
static int by_name(const void *a, const void *b)
{
    const fqi_index_entry *x = a, *y = b;
    int c = strcmp(x->name, y->name);
    return c != 0 ? c : (x->name > y->name) - (x->name < y->name);
}

static fq_status refuse_duplicates(const reader *r, fq_err *e)
{
    fqi_index *x = r->x;
    qsort(x->entry, x->n_entry, sizeof *x->entry, by_name);
    for (size_t i = 1; i < x->n_entry; i++) {
        if (strcmp(x->entry[i - 1].name, x->entry[i].name) != 0) continue;
        return fqi_fail(e, FQ_E_INPUT, FQI_AT(r->file, x->entry[i].name, x->entry[i].at), "duplicate-key",
                        "found a second entry, the first one is at byte %llu", (unsigned long long)x->entry[i - 1].at);
    }
    return FQ_OK;
}

/* Numbers the distinct file names; `at` changes its meaning from byte to number. */
static fq_status number_files(const reader *r, fq_err *e)
{
    fqi_index *x = r->x;
    qsort(x->entry, x->n_entry, sizeof *x->entry, by_file);
    for (size_t i = 0; i < x->n_entry; i++) {
        if (x->n_file == 0 || strcmp(x->file[x->n_file - 1], x->entry[i].file) != 0) {
            if (x->n_file == FQI_INDEX_MAX_SHARD)
                return fqi_fail(e, FQ_E_INPUT, FQI_FILE(r->file), "index-files", "found more than %zu different files", FQI_INDEX_MAX_SHARD);
            if (!fqi_grow((void **)&x->file, &x->cap_file, x->n_file + 1, sizeof *x->file)) return fqi_fail_nomem(e, "file names of the index");
            x->file[x->n_file++] = x->entry[i].file;
        }
        x->entry[i].at = x->n_file - 1;
    }
    qsort(x->entry, x->n_entry, sizeof *x->entry, by_name);
    return FQ_OK;
}

/* ---- reading ------------------------------------------------------------------------------------------------------ */

static fq_status read_map(reader *r, fq_err *e)
{
    if (r->scan.kind != FQI_JSON_OBJECT) return fail_at(r, "weight-map", kind_name(r->scan.kind), "an object of tensor name: file", e);
    for (;;) {
        FQI_TRY(fqi_json_next(&r->scan, e));
        if (r->scan.kind == FQI_JSON_OBJECT_END) return FQ_OK;
        fqi_index_entry entry = { .name = r->scan.str, .at = r->scan.begin };
        FQI_TRY(fqi_json_next(&r->scan, e));
        if (r->scan.kind != FQI_JSON_STRING)
            return fqi_fail(e, FQ_E_INPUT, FQI_AT(r->file, entry.name, r->scan.begin), "weight-map", "found %s, expected a file name",
                            kind_name(r->scan.kind));
        entry.file = r->scan.str;
        fqi_index *x = r->x;
        if (x->n_entry == FQI_INDEX_MAX_ENTRY)
            return fqi_fail(e, FQ_E_INPUT, FQI_AT(r->file, NULL, entry.at), "weight-map", "found more than %zu entries", FQI_INDEX_MAX_ENTRY);
        if (!fqi_grow((void **)&x->entry, &x->cap_entry, x->n_entry + 1, sizeof *x->entry)) return fqi_fail_nomem(e, "weight_map");
        x->entry[x->n_entry++] = entry;
    }
}

/* Nobody verifies total_size and writers disagree on what it counts, so only its form is looked at. */
static fq_status read_metadata(reader *r, fq_err *e)
{
    if (r->scan.kind != FQI_JSON_OBJECT) return fqi_json_skip(&r->scan, e);
    for (;;) {
        FQI_TRY(fqi_json_next(&r->scan, e));
        if (r->scan.kind == FQI_JSON_OBJECT_END) return FQ_OK;
        bool total = strcmp(r->scan.str, "total_size") == 0;
        if (total && (r->x->has_total || r->x->total_odd))
            return fail_at(r, "duplicate-key", "a second total_size", "one", e);
        FQI_TRY(fqi_json_next(&r->scan, e));
        if (!total) {
            FQI_TRY(fqi_json_skip(&r->scan, e));
            continue;
        }
        r->x->has_total = r->scan.kind == FQI_JSON_NUMBER && fqi_json_u63(&r->scan, "total_size", &r->x->total, NULL) == FQ_OK;
        r->x->total_odd = !r->x->has_total;
        FQI_TRY(fqi_json_skip(&r->scan, e));
    }
}

static fq_status read_member(reader *r, fq_err *e)
{
    bool map = strcmp(r->scan.str, "weight_map") == 0, metadata = strcmp(r->scan.str, "metadata") == 0;
    if ((map && r->seen_map) || (metadata && r->seen_metadata))
        return fail_at(r, "duplicate-key", map ? "a second weight_map" : "a second metadata", "one", e);
    r->seen_map |= map;
    r->seen_metadata |= metadata;
    FQI_TRY(fqi_json_next(&r->scan, e));
    if (map) return read_map(r, e);
    return metadata ? read_metadata(r, e) : fqi_json_skip(&r->scan, e);
}

static fq_status read_all(reader *r, fq_err *e)
{
    FQI_TRY(fqi_json_next(&r->scan, e));
    if (r->scan.kind != FQI_JSON_OBJECT) return fail_at(r, "index-object", kind_name(r->scan.kind), "an object with weight_map", e);
    for (;;) {
        FQI_TRY(fqi_json_next(&r->scan, e));
        if (r->scan.kind == FQI_JSON_OBJECT_END) break;
        FQI_TRY(read_member(r, e));
    }
    FQI_TRY(fqi_json_next(&r->scan, e));   /* nothing may follow */
    if (!r->seen_map) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(r->file), "weight-map", "found no weight_map, expected an object of tensor name: file");
    if (r->x->n_entry == 0) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(r->file), "weight-map", "found an empty weight_map, expected tensor names");
    FQI_TRY(refuse_duplicates(r, e));
    return number_files(r, e);
}

fq_status fqi_index_parse(char *text, size_t n, const char *file, fqi_index *out, fq_err *e)
{
    fqi_index x = { 0 };
    reader r = { .file = file, .x = &x };
    fqi_json_init(&r.scan, text, n, file, 0, false);
    fq_status s = read_all(&r, e);
    if (s != FQ_OK) fqi_index_free(&x);
    else *out = x;
    return s;
}

void fqi_index_free(fqi_index *x)
{
    if (x == NULL) return;
    free(x->entry);
    free(x->file);
    *x = (fqi_index){ 0 };
}

const fqi_index_entry *fqi_index_find(const fqi_index *x, const char *name)
{
    size_t lo = 0, hi = x->n_entry;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = strcmp(x->entry[mid].name, name);
        if (c == 0) return &x->entry[mid];
        if (c < 0) lo = mid + 1;
        else hi = mid;
    }
    return NULL;
}
