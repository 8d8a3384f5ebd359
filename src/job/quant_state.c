/* quant_state.c - what the next layer needs of the finished ones, on the disk for a resume.
 *
 *     fitq.state.0, fitq.state.1:   magic, key, layer, rows, columns, XXH3-128 of the rows | rows as fp32
 *     fitq.plain.0, fitq.plain.1:   the same, of the unquantized model
 *     fitq.state.modules:           what is reported of every finished module, one record each
 *
 * A file is believed only if all of that checks. It is written before the journal records its layer, and the next layer's goes to the
 * other file: whatever the last record says, its state is whole. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/fs.h"
#include "job/quantize_private.h"

#define MAGIC UINT64_C(0x3165746174737166)   /* "fqstate1" */
#define PIECE_BYTES ((size_t)4 << 20)

typedef struct head { uint64_t magic, key, rows, cols; int64_t layer; uint64_t hash[2]; uint64_t head_hash; } head;

static const char *const state_file[][2] = { [FQI_STATE_QUANTIZED] = { "fitq.state.0", "fitq.state.1" }, [FQI_STATE_PLAIN] = { "fitq.plain.0", "fitq.plain.1" } };
static char *path_of(const char *dir, fqi_state_of of, int64_t layer) { return fqi_path_join(dir, state_file[of][layer % 2]); }

static void seal(head *h) { h->head_hash = XXH3_64bits(h, offsetof(head, head_hash)); }

typedef struct rows { fqi_acts *x; float *buf; size_t n_piece; XXH3_state_t *hash; } rows;

static fq_status rows_begin(rows *r, fqi_acts *x, fq_err *e)
{
    size_t row_bytes = x->cols * sizeof(float);
    *r = (rows){ .x = x, .n_piece = PIECE_BYTES / row_bytes > 0 ? PIECE_BYTES / row_bytes : 1 };
    r->buf = fqi_calloc(r->n_piece, row_bytes);
    r->hash = XXH3_createState();
    if (!r->buf || !r->hash) return fqi_fail_nomem(e, "hidden states");
    XXH3_128bits_reset(r->hash);
    return FQ_OK;
}

static void rows_end(rows *r)
{
    free(r->buf);
    XXH3_freeState(r->hash);
}

static size_t piece(const rows *r, size_t at) { return r->x->n_row - at < r->n_piece ? r->x->n_row - at : r->n_piece; }

static fq_status hash_rows(rows *r, uint64_t out[2], fq_err *e)
{
    for (size_t at = 0; at < r->x->n_row; at += piece(r, at)) {
        float *p;
        FQI_TRY(fqi_acts_get(r->x, at, piece(r, at), r->buf, &p, e));
        XXH3_128bits_update(r->hash, p, piece(r, at) * r->x->cols * sizeof(float));
    }
    XXH128_hash_t h = XXH3_128bits_digest(r->hash);
    out[0] = h.high64;
    out[1] = h.low64;
    return FQ_OK;
}

static fq_status write_rows(rows *r, fqi_writer *w, fq_err *e)
{
    for (size_t at = 0; at < r->x->n_row; at += piece(r, at)) {
        float *p;
        FQI_TRY(fqi_acts_get(r->x, at, piece(r, at), r->buf, &p, e));
        FQI_TRY(fqi_writer_put(w, p, piece(r, at) * r->x->cols * sizeof(float), e));
    }
    return FQ_OK;
}

fq_status fqi_quant_state_save(const char *dir, fqi_state_of of, fqi_acts *x, int64_t layer, uint64_t key, fq_err *e)
{
    head h = { .magic = MAGIC, .key = key, .rows = x->n_row, .cols = x->cols, .layer = layer };
    char *path = path_of(dir, of, layer);
    rows r = { 0 };
    fqi_writer w = { 0 };
    bool open = false;
    if (!path) return fqi_fail_nomem(e, "path");
    fq_status s = rows_begin(&r, x, e);
    if (s == FQ_OK) s = hash_rows(&r, h.hash, e);
    seal(&h);
    if (s == FQ_OK) s = fqi_remove_tree(path, e);
    if (s == FQ_OK) s = fqi_writer_open(&w, path, sizeof h + (uint64_t)x->n_row * x->cols * sizeof(float), 0, FQ_IO_AUTO, e);
    open = s == FQ_OK;
    if (s == FQ_OK) s = fqi_writer_put(&w, &h, sizeof h, e);
    if (s == FQ_OK) s = write_rows(&r, &w, e);
    if (s == FQ_OK) s = fqi_writer_close(&w, e);
    else if (open) fqi_writer_abandon(&w);
    rows_end(&r);
    free(path);
    return s;
}

/* Rows are read into x before their hash is known: a state that does not check leaves x undefined, and the caller begins anew. */
static fq_status read_rows(rows *r, const fqi_file *f, const head *h, bool *same, fq_err *e)
{
    uint64_t off = sizeof *h;
    for (size_t at = 0; at < r->x->n_row; at += piece(r, at)) {
        size_t n = piece(r, at), bytes = n * r->x->cols * sizeof(float);
        FQI_TRY(fqi_file_read(f, r->buf, bytes, off, e));
        XXH3_128bits_update(r->hash, r->buf, bytes);
        if (r->x->memory) memcpy(r->x->memory + at * r->x->cols, r->buf, bytes);
        FQI_TRY(fqi_acts_put(r->x, at, n, r->buf, e));
        off += bytes;
    }
    XXH128_hash_t found = XXH3_128bits_digest(r->hash);
    *same = found.high64 == h->hash[0] && found.low64 == h->hash[1];
    return FQ_OK;
}

fq_status fqi_quant_state_load(const char *dir, fqi_state_of of, fqi_acts *x, int64_t layer, uint64_t key, bool *found, fq_err *e)
{
    char *path = path_of(dir, of, layer);
    fqi_file f = FQI_FILE_NONE;
    head h = { 0 }, want = { .magic = MAGIC, .key = key, .rows = x->n_row, .cols = x->cols, .layer = layer };
    rows r = { 0 };
    *found = false;
    if (!path) return fqi_fail_nomem(e, "path");
    if (!fqi_path_exists(path)) {
        free(path);
        return FQ_OK;
    }
    fq_status s = fqi_file_open(&f, path, FQ_IO_AUTO, e);
    bool fits = s == FQ_OK && f.bytes == sizeof h + (uint64_t)x->n_row * x->cols * sizeof(float);
    if (fits) s = fqi_file_read(&f, &h, sizeof h, 0, e);
    memcpy(want.hash, h.hash, sizeof want.hash);
    seal(&want);
    fits = fits && s == FQ_OK && memcmp(&h, &want, sizeof h) == 0;
    if (fits) s = rows_begin(&r, x, e);
    if (fits && s == FQ_OK) s = read_rows(&r, &f, &h, found, e);
    rows_end(&r);
    fqi_file_close(&f);
    free(path);
    return s;
}

/* ---- reports ----------------------------------------------------------------------------------------------------------------- */

typedef struct record {
    uint64_t key, index, n_token, n_silent, order;   /* hash of the layer's part of the channel orders */
    double error, relative, damp, seconds;
    char method[32], why[200];
    uint64_t hash;
} record;

fq_status fqi_quant_reports_save(const fqi_quantize *q, const char *dir, size_t first, size_t n, uint64_t key, fq_err *e)
{
    char *path = fqi_path_join(dir, FQI_REPORTS_FILE);
    record *all = fqi_calloc(n + 1, sizeof *all);
    fqi_writer w = { 0 };
    uint64_t order = 0;
    fq_status s = path && all ? FQ_OK : fqi_fail_nomem(e, "reports");
    if (s == FQ_OK && n > 0) s = fqi_quant_order_hash(q, dir, q->modules.at[first].layer, &order, e);
    for (size_t i = 0; s == FQ_OK && i < n; i++) {
        const fq_module_report *m = &q->report[first + i];
        record *r = &all[i];
        *r = (record){ .key = key, .index = first + i, .n_token = m->n_token, .n_silent = m->n_silent, .order = order, .error = m->error, .relative = m->relative, .damp = m->damp, .seconds = m->seconds };
        snprintf(r->method, sizeof r->method, "%s", m->method);
        snprintf(r->why, sizeof r->why, "%s", m->why);
        r->hash = XXH3_64bits(r, offsetof(record, hash));
    }
    if (s == FQ_OK && first == 0) s = fqi_remove_tree(path, e);
    if (s == FQ_OK) s = fqi_writer_open(&w, path, 0, first * sizeof *all, FQ_IO_BUFFERED, e);
    const bool open = s == FQ_OK;
    if (s == FQ_OK) s = fqi_writer_put(&w, all, n * sizeof *all, e);
    if (s == FQ_OK) s = fqi_writer_close(&w, e);
    else if (open) fqi_writer_abandon(&w);
    free(all);
    free(path);
    return s;
}

static bool take_record(fqi_quantize *q, const record *r, size_t i, uint64_t key, uint64_t order)
{
    static const char *const known[] = { "gptq", "weighted rounding", "rounding" };
    const fqi_module *m = &q->modules.at[i];
    if (r->hash != XXH3_64bits(r, offsetof(record, hash)) || r->key != key || r->index != i || r->order != order) return false;
    fq_module_report out = { .name = m->name, .layer = m->layer, .role = m->role, .rows = m->rows, .cols = m->cols, .bits = q->settings.grid.bits, .group_size = q->settings.group_size,
                             .error = r->error, .relative = r->relative, .damp = r->damp, .n_token = r->n_token, .n_silent = r->n_silent, .seconds = r->seconds, .why = "" };
    for (size_t k = 0; k < sizeof known / sizeof known[0]; k++)
        if (strcmp(r->method, known[k]) == 0) out.method = known[k];
    if (r->why[0]) out.why = fqi_arena_strdup(&q->arena, r->why);
    if (!out.method || !out.why) return false;
    q->report[i] = out;
    q->reported[i] = true;
    return true;
}

fq_status fqi_quant_reports_load(fqi_quantize *q, const char *dir, size_t n, uint64_t key, bool *found, fq_err *e)
{
    char *path = fqi_path_join(dir, FQI_REPORTS_FILE);
    fqi_file f = FQI_FILE_NONE;
    record r;
    uint64_t order = 0;
    *found = false;
    if (!path) return fqi_fail_nomem(e, "path");
    if (!fqi_path_exists(path)) {
        free(path);
        return FQ_OK;
    }
    fq_status s = fqi_file_open(&f, path, FQ_IO_BUFFERED, e);
    bool good = s == FQ_OK && f.bytes >= n * sizeof r;
    for (size_t i = 0; s == FQ_OK && good && i < n; i++) {
        if (i == 0 || q->modules.at[i].layer != q->modules.at[i - 1].layer) s = fqi_quant_order_hash(q, dir, q->modules.at[i].layer, &order, e);
        if (s == FQ_OK) s = fqi_file_read(&f, &r, sizeof r, i * sizeof r, e);
        good = s == FQ_OK && take_record(q, &r, i, key, order);
    }
    *found = good;
    fqi_file_close(&f);
    free(path);
    return s;
}

fq_status fqi_quant_state_remove(const char *dir, fq_err *e)
{
    for (size_t i = 0; i < 2 * sizeof state_file / sizeof state_file[0]; i++) {
        char *path = path_of(dir, (fqi_state_of)(i / 2), (int64_t)i);
        fq_status s = path ? fqi_remove_tree(path, e) : fqi_fail_nomem(e, "path");
        free(path);
        if (s != FQ_OK) return s;
    }
    return FQ_OK;
}
