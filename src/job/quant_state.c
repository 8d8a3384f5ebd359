/* quant_state.c - what the next layer needs of the finished ones, on the disk for a resume.
 *
 *     fitq.state.0, fitq.state.1:   magic, key, layer, rows, columns | rows as fp32, in the order of the tokens | XXH3-128 of the rows
 *     fitq.plain.0, fitq.plain.1:   the same, of the unquantized model
 *     fitq.state.modules:           what is reported of every finished module, one record each
 *
 * Rank 0 writes and reads for all, so the files do not depend on the number of ranks. A file is believed only if all of that checks. It is written before the journal records its layer, and the next layer's goes to the
 * other file: whatever the last record says, its state is whole. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/fs.h"
#include "job/quantize_private.h"

#define MAGIC UINT64_C(0x3265746174737166)   /* "fqstate2" */

typedef struct head { uint64_t magic, key, rows, cols; int64_t layer; uint64_t head_hash; } head;

static const char *const state_file[][2] = { [FQI_STATE_QUANTIZED] = { "fitq.state.0", "fitq.state.1" }, [FQI_STATE_PLAIN] = { "fitq.plain.0", "fitq.plain.1" } };
static char *path_of(const char *dir, fqi_state_of of, int64_t layer) { return fqi_path_join(dir, state_file[of][layer % 2]); }

static void seal(head *h) { h->head_hash = XXH3_64bits(h, offsetof(head, head_hash)); }

/* Rows on their way between the ranks that have them and rank 0. */
typedef struct rows { const fqi_state *t; fqi_quant_share share; float *buf, *piece; size_t *bytes; XXH3_state_t *hash; } rows;

static bool is_root(const fqi_state *t) { return fqi_comm_rank(t->comm) == 0; }

static fq_status rows_begin(rows *r, const fqi_state *t, fq_err *e)
{
    *r = (rows){ .t = t, .share = fqi_quant_share_of(t->comm, t->calib->n_window, t->calib->seqlen) };
    r->buf = fqi_calloc(r->share.batch_rows, t->x->cols * sizeof(float));
    r->piece = fqi_calloc(r->share.batch_rows, t->x->cols * sizeof(float));
    r->bytes = fqi_calloc((size_t)fqi_comm_size(t->comm), sizeof *r->bytes);
    r->hash = XXH3_createState();
    if (!r->buf || !r->piece || !r->bytes || !r->hash) return fqi_fail_nomem(e, "hidden states");
    XXH3_128bits_reset(r->hash);
    return FQ_OK;
}

static void rows_end(rows *r)
{
    free(r->buf);
    free(r->piece);
    free(r->bytes);
    XXH3_freeState(r->hash);
}

static size_t bytes_of(const rows *r, size_t batch) { return fqi_quant_batch_rows(&r->share, batch) * r->t->x->cols * sizeof(float); }
static int rank_of(const rows *r, size_t batch) { return (int)(batch % (size_t)fqi_comm_size(r->t->comm)); }

/* One batch from a rank to another. */
static fq_status move(rows *r, size_t batch, int from, int to, const float *mine, float *there, fq_err *e)
{
    memset(r->bytes, 0, (size_t)fqi_comm_size(r->t->comm) * sizeof *r->bytes);
    r->bytes[from] = bytes_of(r, batch);
    return fqi_comm_gather_to(r->t->comm, to, mine, r->bytes, there, e);
}

/* Batch by batch, in order, to rank 0. */
static fq_status write_rows(rows *r, fqi_writer *w, fq_err *e)
{
    fqi_acts *x = r->t->x;
    for (size_t b = 0; b < r->share.n_batch; b++) {
        const int owner = rank_of(r, b);
        float *p = r->piece;
        if (owner == fqi_comm_rank(r->t->comm)) FQI_TRY(fqi_acts_get(x, fqi_quant_batch_at(&r->share, r->t->comm, b), fqi_quant_batch_rows(&r->share, b), r->buf, &p, e));
        if (owner != 0) FQI_TRY(move(r, b, owner, 0, p, r->piece, e));
        if (!is_root(r->t)) continue;
        XXH3_128bits_update(r->hash, p, bytes_of(r, b));
        FQI_TRY(fqi_writer_put(w, p, bytes_of(r, b), e));
    }
    return FQ_OK;
}

static uint64_t file_bytes(const rows *r) { return sizeof(head) + (uint64_t)r->share.all_rows * r->t->x->cols * sizeof(float) + sizeof(uint64_t[2]); }

static head head_of(const rows *r)
{
    const fqi_state *t = r->t;
    head h = { .magic = MAGIC, .key = t->key, .rows = r->share.all_rows, .cols = t->x->cols, .layer = t->layer };
    seal(&h);
    return h;
}

static void digest(const rows *r, uint64_t out[2])
{
    const XXH128_hash_t h = XXH3_128bits_digest(r->hash);
    out[0] = h.high64;
    out[1] = h.low64;
}

static fq_status save_file(rows *r, const char *path, fq_err *e)
{
    const head h = head_of(r);
    uint64_t hash[2];
    fqi_writer w = { 0 };
    FQI_TRY(fqi_remove_tree(path, e));
    FQI_TRY(fqi_writer_open(&w, path, file_bytes(r), 0, FQ_IO_AUTO, e));
    fq_status s = fqi_writer_put(&w, &h, sizeof h, e);
    if (s == FQ_OK) s = write_rows(r, &w, e);
    digest(r, hash);
    if (s == FQ_OK) s = fqi_writer_put(&w, hash, sizeof hash, e);
    if (s == FQ_OK) return fqi_writer_close(&w, e);
    fqi_writer_abandon(&w);
    return s;
}

fq_status fqi_quant_state_save(const char *dir, fqi_state_of of, const fqi_state *t, fq_err *e)
{
    rows r = { 0 };
    char *path = path_of(dir, of, t->layer);
    fq_status s = path ? rows_begin(&r, t, e) : fqi_fail_nomem(e, "path");
    if (s == FQ_OK) s = is_root(t) ? save_file(&r, path, e) : write_rows(&r, NULL, e);
    rows_end(&r);
    free(path);
    return s;
}

/* Rows are read into x before their hash is known: a state that does not check leaves x undefined, and the caller begins anew. */
static fq_status read_rows(rows *r, const fqi_file *f, fq_err *e)
{
    fqi_acts *x = r->t->x;
    uint64_t off = sizeof(head);
    for (size_t b = 0; b < r->share.n_batch; off += bytes_of(r, b++)) {
        const size_t at = fqi_quant_batch_at(&r->share, r->t->comm, b);
        const int owner = rank_of(r, b);
        const float *got = owner == 0 ? r->piece : r->buf;
        if (is_root(r->t)) {
            FQI_TRY(fqi_file_read(f, r->piece, bytes_of(r, b), off, e));
            XXH3_128bits_update(r->hash, r->piece, bytes_of(r, b));
        }
        if (owner != 0) FQI_TRY(move(r, b, 0, owner, r->piece, r->buf, e));
        if (owner != fqi_comm_rank(r->t->comm)) continue;
        if (x->memory) memcpy(x->memory + at * x->cols, got, bytes_of(r, b));
        FQI_TRY(fqi_acts_put(x, at, fqi_quant_batch_rows(&r->share, b), got, e));
    }
    return FQ_OK;
}

/* Rank 0: is there a file that could be it? */
static fq_status open_state(const rows *r, const char *path, fqi_file *f, bool *fits, fq_err *e)
{
    const head want = head_of(r);
    head h = { 0 };
    if (!fqi_path_exists(path)) return FQ_OK;
    FQI_TRY(fqi_file_open(f, path, FQ_IO_AUTO, e));
    if (f->bytes != file_bytes(r)) return FQ_OK;
    FQI_TRY(fqi_file_read(f, &h, sizeof h, 0, e));
    *fits = memcmp(&h, &want, sizeof h) == 0;
    return FQ_OK;
}

static fq_status load(rows *r, const char *path, fqi_file *f, bool *found, fq_err *e)
{
    uint64_t want[2], got[2];
    bool fits = false;
    if (is_root(r->t)) FQI_TRY(open_state(r, path, f, &fits, e));
    FQI_TRY(fqi_comm_broadcast(r->t->comm, 0, &fits, sizeof fits, e));
    if (!fits) return FQ_OK;
    FQI_TRY(read_rows(r, f, e));
    if (is_root(r->t)) {
        FQI_TRY(fqi_file_read(f, want, sizeof want, file_bytes(r) - sizeof want, e));
        digest(r, got);
        *found = memcmp(got, want, sizeof got) == 0;
    }
    return fqi_comm_broadcast(r->t->comm, 0, found, sizeof *found, e);
}

fq_status fqi_quant_state_load(const char *dir, fqi_state_of of, const fqi_state *t, bool *found, fq_err *e)
{
    rows r = { 0 };
    fqi_file f = FQI_FILE_NONE;
    char *path = path_of(dir, of, t->layer);
    *found = false;
    fq_status s = path ? rows_begin(&r, t, e) : fqi_fail_nomem(e, "path");
    if (s == FQ_OK) s = load(&r, path, &f, found, e);
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
