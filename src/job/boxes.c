/* boxes.c - see boxes.h. */
#include "job/boxes.h"

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define SCRATCH ((size_t)2 << 20)
#define BULK ((size_t)64 << 10)   /* of one run from which on it is read past the page cache where that does not have it, as pad reads */
#define STRIP 2048        /* bytes from which on a strip is read by itself: a call costs about as much as copying that many through scratch */
#define MAX_OPEN 256

/* Of a source tensor: hashed as far as it was read front to back. */
typedef struct fqi_boxes_hash { XXH3_state_t *state; uint64_t pos; fqi_hash128 value; bool done, broken; } source_hash;

/* A box as rows of bytes: row (i, j) of `rows` outer and `each` inner ones. */
typedef struct rows {
    const fqi_box *box;
    uint64_t outer, inner, bytes;          /* how many, and of how many bytes */
    uint64_t src, src_outer, src_inner;    /* from the tensor's first byte */
    uint64_t to, to_outer, to_inner;
} rows;

static uint64_t u(int64_t v) { return (uint64_t)v; }

/* Dimensions that are whole on both sides become one row. */
static rows rows_of(const fqi_boxed *t, const fqi_box *b)
{
    const uint64_t entry = t->entry_bytes, src_row = u(b->whole[2]) * entry, to_row = u(t->shape[2]) * entry;
    rows r = {
        .box = b, .outer = u(b->n[0]), .inner = u(b->n[1]), .bytes = u(b->n[2]) * entry,
        .src_inner = src_row, .src_outer = u(b->whole[1]) * src_row, .to_inner = to_row, .to_outer = u(t->shape[1]) * to_row,
    };
    r.src = u(b->from[0]) * r.src_outer + u(b->from[1]) * r.src_inner + u(b->from[2]) * entry;
    r.to = u(b->to[0]) * r.to_outer + u(b->to[1]) * r.to_inner + u(b->to[2]) * entry;
    if (r.bytes != src_row || r.bytes != to_row) return r;
    r.bytes *= r.inner;
    r.inner = 1;
    if (r.bytes != r.src_outer || r.bytes != r.to_outer) return r;
    r.bytes *= r.outer;
    r.outer = 1;
    return r;
}

static uint64_t n_row(const rows *r) { return r->outer * r->inner; }
static uint64_t src_at(const rows *r, uint64_t i) { return r->src + i / r->inner * r->src_outer + i % r->inner * r->src_inner; }
static uint64_t to_at(const rows *r, uint64_t i) { return r->to + i / r->inner * r->to_outer + i % r->inner * r->to_inner; }

fqi_box fqi_box_whole(const fqi_tensor *x, bool same, fqi_boxed *out)
{
    const int64_t n = (int64_t)x->bytes;
    out->shape[0] = out->shape[1] = 1;
    out->shape[2] = n;
    out->entry_bytes = 1;
    return (fqi_box){ .src = x, .whole = { 1, 1, n }, .n = { 1, 1, n }, .same = same };
}

/* ---- files ---- */

fq_status fqi_boxes_open(fqi_boxes *b, fq_err *e)
{
    const size_t n = b->ckpt->n_shard;
    b->file = fqi_calloc(n + 1, sizeof *b->file);
    b->is_open = fqi_calloc(n + 1, sizeof *b->is_open);
    b->scratch = aligned_alloc(FQI_IO_ALIGN, SCRATCH + 2 * FQI_IO_ALIGN);
    if (b->hashes) b->hash = fqi_calloc(b->ckpt->n_tensor + 1, sizeof *b->hash);
    return b->file && b->is_open && b->scratch && (b->hash || !b->hashes) ? FQ_OK : fqi_fail_nomem(e, "I/O buffers");
}

static void close_files(fqi_boxes *b)
{
    for (size_t i = 0; b->is_open && i < b->ckpt->n_shard; i++) {
        if (b->is_open[i]) fqi_file_close(&b->file[i]);
        b->is_open[i] = false;
    }
    b->n_open = 0;
}

void fqi_boxes_close(fqi_boxes *b)
{
    if (b->ckpt && b->file) close_files(b);
    for (size_t i = 0; b->hash && i < b->ckpt->n_tensor; i++) XXH3_freeState(b->hash[i].state);
    free(b->hash);
    free(b->file);
    free(b->is_open);
    free(b->scratch);
    *b = (fqi_boxes){ 0 };
}

uint64_t fqi_boxes_bytes(const fqi_boxes *b) { return SCRATCH + (b->hashes ? b->ckpt->n_tensor * sizeof *b->hash : 0) + b->ckpt->n_shard * sizeof *b->file; }

static fq_status file_of(fqi_boxes *b, const fqi_tensor *t, fqi_file **out, fq_err *e)
{
    *out = &b->file[t->shard];
    if (b->is_open[t->shard]) return FQ_OK;
    if (b->n_open == MAX_OPEN) close_files(b);
    FQI_TRY(fqi_ckpt_open_shard(b->ckpt, t->shard, b->io, *out, e));
    b->is_open[t->shard] = true;
    b->n_open++;
    return FQ_OK;
}

/* ---- hashes ---- */

static size_t index_of(const fqi_boxes *b, const fqi_tensor *t) { return (size_t)(t - b->ckpt->tensor); }

static fq_status start_hash(source_hash *h, fq_err *e)
{
    if (h->state) return FQ_OK;
    h->state = XXH3_createState();
    if (!h->state) return fqi_fail_nomem(e, "hash state");
    XXH3_128bits_reset(h->state);
    h->pos = 0;
    return FQ_OK;
}

/* Bytes [at, at + n) of a source were read. */
static fq_status track(fqi_boxes *b, const fqi_tensor *t, uint64_t at, const unsigned char *bytes, size_t n, fq_err *e)
{
    if (!b->hash || n == 0) return FQ_OK;
    source_hash *h = &b->hash[index_of(b, t)];
    if (h->done || h->broken) return FQ_OK;
    FQI_TRY(start_hash(h, e));
    if (at > h->pos) {
        h->broken = true;   /* a part was written by an earlier run: all of it is read again at the end */
        return FQ_OK;
    }
    const uint64_t skip = h->pos - at;
    if (skip >= n) return FQ_OK;
    XXH3_128bits_update(h->state, bytes + skip, (size_t)(n - skip));
    h->pos = at + n;
    if (h->pos < t->bytes) return FQ_OK;
    const XXH128_hash_t v = XXH3_128bits_digest(h->state);
    h->value = (fqi_hash128){ .hi = v.high64, .lo = v.low64 };
    h->done = true;
    XXH3_freeState(h->state);
    h->state = NULL;
    return FQ_OK;
}

/* Front to back, in one go. */
static fq_status hash_whole(fqi_boxes *b, const fqi_tensor *t, fq_err *e)
{
    fqi_file *f;
    source_hash *h = &b->hash[index_of(b, t)];
    if (h->done) return FQ_OK;
    XXH3_freeState(h->state);
    *h = (source_hash){ 0 };
    FQI_TRY(file_of(b, t, &f, e));
    for (uint64_t at = 0; at < t->bytes;) {
        const size_t n = t->bytes - at < SCRATCH ? (size_t)(t->bytes - at) : SCRATCH;
        FQI_TRY(fqi_file_read(f, b->scratch, n, t->off + at, e));
        FQI_TRY(track(b, t, at, b->scratch, n, e));
        at += n;
    }
    if (t->bytes > 0) return FQ_OK;
    const XXH128_hash_t v = XXH3_128bits(NULL, 0);
    h->value = (fqi_hash128){ .hi = v.high64, .lo = v.low64 };
    h->done = true;
    return FQ_OK;
}

fq_status fqi_boxes_hash(fqi_boxes *b, size_t t, fqi_hash128 *out, fq_err *e)
{
    FQI_TRY(hash_whole(b, &b->ckpt->tensor[t], e));
    *out = b->hash[t].value;
    return FQ_OK;
}

/* Strips of rows do not come front to back: the whole is read for its hash first, which leaves it where the strips are read from. */
static fq_status hash_strips(fqi_boxes *b, const fqi_boxed *t, fq_err *e)
{
    for (size_t i = 0; i < t->n_box && b->hash; i++) {
        const rows r = rows_of(t, &t->box[i]);
        if (n_row(&r) > 1) FQI_TRY(hash_whole(b, r.box->src, e));
    }
    return FQ_OK;
}

/* ---- filling ---- */

typedef struct window { const fqi_boxed *t; uint64_t off; unsigned char *to; size_t n; } window;

static fq_status differs(const fqi_boxes *b, const window *w, const fqi_tensor *t, fq_err *e)
{
    char shown[FQI_NAME_MAX + 1];
    return fqi_fail(e, b->differs.code, FQI_TENSOR(b->ckpt->shard[t->shard].path, fqi_escape(shown, w->t->name)), b->differs.rule, "%s", b->differs.says);
}

/* Bytes of a source belong at `at` of the window. */
static fq_status put(fqi_boxes *b, const window *w, const fqi_box *box, uint64_t at, const unsigned char *bytes, size_t n, fq_err *e)
{
    if (!box->same) memcpy(w->to + at, bytes, n);
    else if (memcmp(w->to + at, bytes, n) != 0) return differs(b, w, box->src, e);
    return FQ_OK;
}

/* n <= SCRATCH bytes of a source from `src` on; *data is in the scratch. */
static fq_status read_run(fqi_boxes *b, const fqi_file *f, const fqi_tensor *t, uint64_t src, size_t n, unsigned char **data, fq_err *e)
{
    *data = b->scratch;
    if (n >= BULK) FQI_TRY(fqi_file_read_bulk(f, b->scratch, n, t->off + src, data, e));
    else FQI_TRY(fqi_file_read(f, b->scratch, n, t->off + src, e));
    return track(b, t, src, *data, n, e);
}

/* One run of bytes: row i from `skip` on. */
static fq_status one_run(fqi_boxes *b, const window *w, const rows *r, const fqi_file *f, uint64_t i, uint64_t skip, uint64_t n, fq_err *e)
{
    uint64_t src = src_at(r, i) + skip, at = to_at(r, i) + skip - w->off;
    const fqi_tensor *t = r->box->src;
    if (n < BULK && !r->box->same) {
        FQI_TRY(fqi_file_read(f, w->to + at, (size_t)n, t->off + src, e));
        return track(b, t, src, w->to + at, (size_t)n, e);
    }
    while (n > 0) {
        const size_t step = n > SCRATCH ? SCRATCH : (size_t)n;
        unsigned char *data;
        FQI_TRY(read_run(b, f, t, src, step, &data, e));
        FQI_TRY(put(b, w, r->box, at, data, step, e));
        src += step;
        at += step;
        n -= step;
    }
    return FQ_OK;
}

/* Do the rows follow one another in the source, as those of a tensor that is taken whole do? */
static bool adjacent(const rows *r) { return r->src_inner == r->bytes && (r->outer == 1 || r->src_outer == r->inner * r->bytes); }

/* Whole rows [i, end), with what stands between them if that is little. *next: where it stopped. */
static fq_status several_rows(fqi_boxes *b, const window *w, const rows *r, const fqi_file *f, uint64_t i, uint64_t end, uint64_t *next, fq_err *e)
{
    const uint64_t first = src_at(r, i);
    uint64_t last = i;
    while (last + 1 < end && src_at(r, last + 1) + r->bytes - first <= SCRATCH) last++;
    unsigned char *data;
    FQI_TRY(read_run(b, f, r->box->src, first, (size_t)(src_at(r, last) + r->bytes - first), &data, e));
    for (uint64_t k = i; k <= last; k++) FQI_TRY(put(b, w, r->box, to_at(r, k) - w->off, data + (src_at(r, k) - first), (size_t)r->bytes, e));
    *next = last + 1;
    return FQ_OK;
}

/* The first row that ends behind `off`: rows ascend on both sides. */
static uint64_t first_row(const rows *r, uint64_t off)
{
    uint64_t lo = 0, hi = n_row(r);
    while (lo < hi) {
        const uint64_t mid = lo + (hi - lo) / 2;
        if (to_at(r, mid) + r->bytes <= off) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

static fq_status fill_box(fqi_boxes *b, const window *w, const fqi_box *box, fq_err *e)
{
    const rows r = rows_of(w->t, box);
    const uint64_t n = n_row(&r), stop = w->off + w->n;
    fqi_file *f;
    if (r.bytes == 0 || n == 0) return FQ_OK;
    uint64_t i = first_row(&r, w->off), end = i;
    if (i == n || to_at(&r, i) >= stop) return FQ_OK;
    FQI_TRY(file_of(b, box->src, &f, e));
    end = first_row(&r, stop - 1) + 1;   /* the row that the last byte is in, or the one behind it */
    while (end > i && (end > n || to_at(&r, end - 1) >= stop)) end--;
    const bool several = r.bytes < STRIP || (adjacent(&r) && r.bytes <= SCRATCH);
    if (end - i > 1 && !several) fqi_file_expect(f, box->src->off + src_at(&r, i), src_at(&r, end - 1) + r.bytes - src_at(&r, i));
    while (i < end) {
        const uint64_t at = to_at(&r, i), skip = at < w->off ? w->off - at : 0, left = r.bytes - skip, room = stop - at - skip;
        const bool whole = skip == 0 && left <= room;
        if (whole && several) {
            uint64_t last = to_at(&r, end - 1) + r.bytes <= stop ? end : end - 1;
            FQI_TRY(several_rows(b, w, &r, f, i, last, &i, e));
            continue;
        }
        FQI_TRY(one_run(b, w, &r, f, i, skip, left < room ? left : room, e));
        i++;
    }
    return FQ_OK;
}

fq_status fqi_boxes_fill(fqi_boxes *b, size_t i, uint64_t off, unsigned char *to, size_t n, fq_err *e)
{
    const window w = { .t = &b->now, .off = off, .to = to, .n = n };
    if (off == 0 || i != b->i) {
        FQI_TRY(b->describe(b->user, i, &b->now, e));
        b->i = i;
        FQI_TRY(hash_strips(b, &b->now, e));
    }
    if (w.t->gaps) memset(to, 0, n);
    for (size_t k = 0; k < w.t->n_box && n > 0; k++) FQI_TRY(fill_box(b, &w, &w.t->box[k], e));
    return FQ_OK;
}
