/* compare.c - reading two checkpoints side by side. See compare.h.
 *
 * A is read through a window that slides over the file. It doubles while the walk goes forward and shrinks to a page when the
 * walk jumps, so that ordinary maps are read in large pieces, and a transposed tensor or a hostile permutation costs one small read
 * per element instead of a window. The window is kept in file positions: the next tensor usually begins where the last one ended.
 *
 * Memory: slots x 2 chunks + two windows of 2 chunks; the rest is small and does not depend on the checkpoint. */
#include "job/compare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "axis/segments.h"
#include "base/pipeline.h"

#define N_SLOT 4
#define CHUNK_MAX ((size_t)4 << 20)
#define CHUNK_MIN ((size_t)64 << 10)
#define N_CHUNK (2 * N_SLOT + 4)    /* chunks that a run holds: see above */
#define READ_MIN ((size_t)4096)
#define READ_BULK ((size_t)64 << 10)
#define N_OPEN (N_SLOT + 1)         /* files of B that slots in flight may still read, and the next one */
#define SHOWN 16                    /* bytes of an element in a message: all of the widest type */

typedef struct window {
    const fqi_file *file;           /* borrowed; NULL = nothing read yet */
    uint64_t begin, end;            /* file positions held */
    const unsigned char *data;
    unsigned char *buf;
    size_t cap, ahead;
} window;

/* A tensor being turned into its output bytes. */
typedef struct walk {
    const fqi_tensor *tensor;       /* NULL: zeros */
    fqi_segments seg;
    unsigned char fill[4];
} walk;

typedef struct slot {
    unsigned char *want, *buf;
    unsigned char *got;
    const fqi_file *file;           /* of B; NULL: got is there already */
    size_t item, bytes;
    uint64_t at;                    /* position in B's tensor, as bytes of the contiguous form */
    walk start;                     /* A's walk at the first byte, to tell zeros from copies when something differs */
    uint64_t zero_bytes;
    /* found */
    uint64_t wrong, wrong_zero;     /* elements */
    uint64_t bad_at, bad_src;       /* of the first: byte in the slot, byte in A's tensor or FQI_ZERO_SEGMENT */
} slot;

typedef struct job {
    fqi_compare *c;
    size_t chunk;
    slot slot[N_SLOT];
    window a, b;                    /* b: only for strided tensors of B */
    fqi_file file_a, file_b[N_OPEN];
    size_t shard_a, shard_b, turn_b;
    /* the producer's position */
    size_t item;
    uint64_t at;
    bool begun;
    walk walk_a, walk_b;
    /* the consumer's */
    fq_progress progress;
} job;

static unsigned elem_bytes(const fqi_tensor *t)
{
    unsigned bits = fq_dtype_bits((fq_dtype)t->dtype);
    return bits < 8 ? 1 : bits / 8;
}

/* ---- reading ---- */

static fq_status window_get(window *w, uint64_t off, size_t n, const unsigned char **out, fq_err *e)
{
    if (off >= w->begin && off + n <= w->end) {
        *out = w->data + (off - w->begin);
        return FQ_OK;
    }
    bool forward = off >= w->begin && off <= w->end + w->ahead && w->end > 0;
    w->ahead = forward ? w->ahead * 2 : READ_MIN;
    if (w->ahead > w->cap) w->ahead = w->cap;
    size_t want = n > w->ahead ? n : w->ahead;
    if (off < w->file->bytes && want > w->file->bytes - off && n <= w->file->bytes - off) want = (size_t)(w->file->bytes - off);
    unsigned char *data = w->buf;
    w->begin = w->end = 0;
    /* a small read past the page cache is a trip to the disk each time, and small ones come in millions or not at all */
    if (want < READ_BULK) FQI_TRY(fqi_file_read(w->file, w->buf, want, off, e));
    else FQI_TRY(fqi_file_read_bulk(w->file, w->buf, want, off, &data, e));
    w->data = data;
    w->begin = off;
    w->end = off + want;
    *out = data;
    return FQ_OK;
}

static void window_turn(window *w, const fqi_file *file)
{
    w->file = file;
    w->begin = w->end = 0;
    w->ahead = READ_MIN;
}

/* Reverses the bytes of every number; a complex element is two of them. */
static void swap_bytes(unsigned char *p, size_t n, const fqi_tensor *t)
{
    unsigned size = t->dtype == FQ_DTYPE_C64 ? 4 : elem_bytes(t);
    for (size_t i = 0; i + size <= n; i += size)
        for (unsigned lo = 0, hi = size - 1; lo < hi; lo++, hi--) {
            unsigned char x = p[i + lo];
            p[i + lo] = p[i + hi];
            p[i + hi] = x;
        }
}

/* A tensor that no map touches and that lies together is a run of bytes, also when its elements are smaller than one. */
static fq_status walk_begin(walk *w, const fqi_tensor *t, const fqi_map *const *map, const char *file, fq_err *e)
{
    bool plain = true;
    *w = (walk){ .tensor = t };
    if (!t) return FQ_OK;
    for (int d = 0; d < t->rank; d++) plain = plain && (!map || !map[d]);
    if (plain && !t->stride) {
        int64_t n = (int64_t)t->bytes;
        return fqi_segments_init(&w->seg, 1, &n, NULL, 1, NULL, e);
    }
    if (fq_dtype_bits((fq_dtype)t->dtype) < 8)
        return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(file, t->name), "packed-dtype", "found dtype %s on an axis that changes, expected whole bytes",
                        fq_dtype_name((fq_dtype)t->dtype));
    return fqi_segments_init(&w->seg, t->rank, t->shape, t->stride, elem_bytes(t), map, e);
}

static bool walk_next(walk *w, uint64_t most, fqi_segment *out)
{
    if (w->tensor) return fqi_segments_next(&w->seg, most, out);
    *out = (fqi_segment){ .src = FQI_ZERO_SEGMENT, .bytes = most };
    return true;
}

static void fill_bytes(const unsigned char fill[4], unsigned char *to, size_t n)
{
    for (size_t i = 0; i < n; i++) to[i] = fill[i % 4];
}

/* The next n bytes of a walk's output. */
static fq_status walk_read(walk *w, window *from, unsigned char *out, size_t n, uint64_t *zero_bytes, fq_err *e)
{
    fqi_segment x;
    for (size_t at = 0; at < n; at += (size_t)x.bytes) {
        const unsigned char *data;
        if (!walk_next(w, n - at, &x))
            return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(from->file->path, w->tensor->name), "tensor-size", "found fewer bytes than its shape, expected %zu more", n - at);
        if (x.src == FQI_ZERO_SEGMENT) {
            fill_bytes(w->fill, out + at, (size_t)x.bytes);
            *zero_bytes += x.bytes;
            continue;
        }
        FQI_TRY(window_get(from, w->tensor->off + x.src, (size_t)x.bytes, &data, e));
        memcpy(out + at, data, (size_t)x.bytes);
    }
    if (w->tensor && w->tensor->byteswap) swap_bytes(out, n, w->tensor);
    return FQ_OK;
}

/* ---- producer ---- */

static fq_status turn_to_files(job *j, const fqi_compare_item *i, fq_err *e)
{
    if (i->a && j->shard_a != i->a->shard) {
        fqi_file_close(&j->file_a);
        FQI_TRY(fqi_ckpt_open_shard(j->c->ckpt_a, i->a->shard, j->c->run->io, &j->file_a, e));
        j->shard_a = i->a->shard;
        window_turn(&j->a, &j->file_a);
    }
    if (j->shard_b != i->b->shard) {
        /* slots in flight hold at most N_SLOT files, so the one that is closed here is in nobody's hands */
        j->turn_b = (j->turn_b + 1) % N_OPEN;
        fqi_file *f = &j->file_b[j->turn_b];
        fqi_file_close(f);
        FQI_TRY(fqi_ckpt_open_shard(j->c->ckpt_b, i->b->shard, j->c->run->io, f, e));
        j->shard_b = i->b->shard;
        window_turn(&j->b, f);
    }
    return FQ_OK;
}

static fq_status begin_item(job *j, fqi_compare_item *i, fq_err *e)
{
    FQI_TRY(turn_to_files(j, i, e));
    FQI_TRY(walk_begin(&j->walk_a, i->a, i->map, j->file_a.path, e));
    memcpy(j->walk_a.fill, i->fill, sizeof i->fill);
    if (i->b->stride) FQI_TRY(walk_begin(&j->walk_b, i->b, NULL, j->file_b[j->turn_b].path, e));
    j->at = 0;
    j->begun = true;
    return FQ_OK;
}

static fq_status produce(void *user, void *p, bool *done, fq_err *e)
{
    job *j = user;
    slot *s = p;
    while (j->item < j->c->n_item && !j->begun && j->c->item[j->item].b->bytes == 0) j->item++;
    if (j->item == j->c->n_item) {
        *done = true;
        return FQ_OK;
    }
    fqi_compare_item *i = &j->c->item[j->item];
    if (!j->begun) FQI_TRY(begin_item(j, i, e));
    uint64_t left = i->b->bytes - j->at, ignored = 0;
    s->bytes = left < j->chunk ? (size_t)left : j->chunk;
    s->item = j->item;
    s->at = j->at;
    s->start = j->walk_a;
    s->zero_bytes = 0;
    s->file = i->b->stride ? NULL : &j->file_b[j->turn_b];
    s->got = s->buf;
    if (i->computed) FQI_TRY(j->c->make(j->c->user, i, s->at, s->want, s->bytes, e));
    else FQI_TRY(walk_read(&j->walk_a, &j->a, s->want, s->bytes, &s->zero_bytes, e));
    if (i->b->stride) FQI_TRY(walk_read(&j->walk_b, &j->b, s->buf, s->bytes, &ignored, e));
    j->at += s->bytes;
    if (j->at == i->b->bytes) {
        j->item++;
        j->begun = false;
    }
    return FQ_OK;
}

/* ---- workers ---- */

/* One segment that differs somewhere. */
static void count_wrong(slot *s, size_t at, const fqi_segment *x, unsigned size)
{
    for (size_t k = 0; k < x->bytes; k += size) {
        if (memcmp(s->want + at + k, s->got + at + k, size) == 0) continue;
        if (s->wrong == 0) {
            s->bad_at = at + k;
            s->bad_src = x->src == FQI_ZERO_SEGMENT ? FQI_ZERO_SEGMENT : x->src + k;
        }
        s->wrong++;
        s->wrong_zero += x->src == FQI_ZERO_SEGMENT;
    }
}

static fq_status compare(void *user, void *p, fq_err *e)
{
    const job *j = user;
    slot *s = p;
    const fqi_tensor *b = j->c->item[s->item].b;
    s->wrong = s->wrong_zero = 0;
    if (s->file) {
        FQI_TRY(fqi_file_read_bulk(s->file, s->buf, s->bytes, b->off + s->at, &s->got, e));
        if (b->byteswap) swap_bytes(s->got, s->bytes, b);
    }
    if (memcmp(s->want, s->got, s->bytes) == 0) return FQ_OK;
    walk w = s->start;
    fqi_segment x = { .src = 0, .bytes = s->bytes };
    if (j->c->item[s->item].computed) {
        count_wrong(s, 0, &x, elem_bytes(b));
        return FQ_OK;
    }
    for (size_t at = 0; at < s->bytes && walk_next(&w, s->bytes - at, &x); at += (size_t)x.bytes)
        if (memcmp(s->want + at, s->got + at, (size_t)x.bytes) != 0) count_wrong(s, at, &x, elem_bytes(b));
    return FQ_OK;
}

/* ---- consumer ---- */

static void show_bytes(char out[3 * SHOWN + 1], const unsigned char *p, unsigned n)
{
    static const char digit[] = "0123456789abcdef";
    size_t k = 0;
    for (unsigned i = 0; i < n && i < SHOWN; i++) {
        if (i > 0) out[k++] = ' ';
        out[k++] = digit[p[i] >> 4];
        out[k++] = digit[p[i] & 15];
    }
    out[k] = '\0';
}

static void say_first(job *j, const slot *s)
{
    const fqi_compare_item *i = &j->c->item[s->item];
    const fqi_tensor *b = i->b;
    unsigned size = elem_bytes(b);
    uint64_t byte = s->at + s->bad_at;
    char found[3 * SHOWN + 1], expected[3 * SHOWN + 1], name[FQI_NAME_MAX + 1], source[FQI_NAME_MAX + 64] = "a zero of the padding";
    static const char computed[] = "it follows from the new lengths";
    show_bytes(found, s->got + s->bad_at, size);
    show_bytes(expected, s->want + s->bad_at, size);
    if (i->computed)
        memcpy(source, computed, sizeof computed);
    else if (s->bad_src != FQI_ZERO_SEGMENT)
        snprintf(source, sizeof source, "element %llu of %s", (unsigned long long)(s->bad_src / size), fqi_escape(name, i->a->name));
    fqi_where where = { .file = j->c->ckpt_b->shard[b->shard].path, .tensor = b->name, .offset = b->stride ? FQI_NO_OFFSET : b->off + byte };
    fqi_fail(&j->c->first, FQ_E_DIFFERS, &where, "element-differs", "found bytes %s in element %llu, expected %s (%s)", found,
             (unsigned long long)(byte / size), expected, source);
    j->c->differs = true;
}

static fq_status consume(void *user, void *p, fq_err *e)
{
    job *j = user;
    const slot *s = p;
    const fq_run *run = j->c->run;
    fqi_compare_item *i = &j->c->item[s->item];
    unsigned size = elem_bytes(i->b);
    i->n_zero += s->zero_bytes / size - s->wrong_zero;
    i->n_same += (s->bytes - s->zero_bytes) / size - (s->wrong - s->wrong_zero);
    i->n_wrong += s->wrong;
    if (s->wrong > 0 && !j->c->differs) say_first(j, s);
    j->progress.done_bytes += s->bytes;
    j->progress.done_items = s->item + (s->at + s->bytes == i->b->bytes);
    if (run->progress) {
        char name[FQI_NAME_MAX + 1];
        j->progress.item = fqi_escape(name, i->b->name);
        run->progress(run->user, &j->progress);
    }
    if (run->cancelled && run->cancelled(run->user)) return fqi_fail(e, FQ_E_CANCELLED, NULL, "cancelled", "stopped on request");
    return FQ_OK;
}

/* Counted so far: bytes. All elements that share one are right or wrong with it. */
static void count_packed(fqi_compare_item *i)
{
    unsigned bits = fq_dtype_bits((fq_dtype)i->b->dtype);
    if (bits >= 8) return;
    i->n_same = i->n_same * 8 / bits;
    i->n_zero = i->n_zero * 8 / bits;
    i->n_wrong = (i->n_wrong * 8 + bits - 1) / bits;
}

/* ---- the run ---- */

static size_t chunk_of(const fq_run *run)
{
    uint64_t chunk = run->memory_bytes / N_CHUNK / CHUNK_MIN * CHUNK_MIN;
    return run->memory_bytes == 0 || chunk > CHUNK_MAX ? CHUNK_MAX : (size_t)chunk;
}

static void *aligned(size_t n) { return aligned_alloc(FQI_IO_ALIGN, n + 2 * (size_t)FQI_IO_ALIGN); }

static bool allocate(job *j)
{
    bool ok = true;
    for (size_t k = 0; k < N_SLOT; k++) {
        j->slot[k].want = aligned(j->chunk);
        j->slot[k].buf = aligned(j->chunk);
        ok = ok && j->slot[k].want && j->slot[k].buf;
    }
    j->a = (window){ .cap = 2 * j->chunk, .ahead = READ_MIN, .buf = aligned(2 * j->chunk) };
    j->b = (window){ .cap = 2 * j->chunk, .ahead = READ_MIN, .buf = aligned(2 * j->chunk) };
    return ok && j->a.buf && j->b.buf;
}

static void release(job *j)
{
    for (size_t k = 0; k < N_SLOT; k++) {
        free(j->slot[k].want);
        free(j->slot[k].buf);
    }
    free(j->a.buf);
    free(j->b.buf);
    fqi_file_close(&j->file_a);
    for (size_t k = 0; k < N_OPEN; k++) fqi_file_close(&j->file_b[k]);
}

fq_status fqi_compare_run(fqi_compare *c, fq_err *e)
{
    char found[FQI_BUDGET_MAX + 1];
    job j = { .c = c, .chunk = chunk_of(c->run), .shard_a = SIZE_MAX, .shard_b = SIZE_MAX, .file_a = FQI_FILE_NONE };
    if (j.chunk < CHUNK_MIN)
        return fqi_fail(e, FQ_E_NOMEM, NULL, "memory-budget", "found %s, expected at least %zu KiB for buffers", fqi_show_budget(found, c->run->memory_bytes),
                        N_CHUNK * CHUNK_MIN / 1024);
    for (size_t k = 0; k < N_OPEN; k++) j.file_b[k] = FQI_FILE_NONE;
    j.progress = (fq_progress){ .phase = "verify", .item = "", .total_items = c->n_item };
    for (size_t k = 0; k < c->n_item; k++) j.progress.total_bytes += c->item[k].b->bytes;
    void *slots[N_SLOT];
    for (size_t k = 0; k < N_SLOT; k++) slots[k] = &j.slot[k];
    int n_thread = fqi_n_thread(c->run->n_thread);
    fqi_pipeline p = { .user = &j, .slot = slots, .n_slot = N_SLOT, .n_worker = n_thread < N_SLOT ? n_thread : N_SLOT,
                       .produce = produce, .work = compare, .consume = consume };
    fq_status s = allocate(&j) ? fqi_pipeline_run(&p, e) : fqi_fail_nomem(e, "I/O buffers");
    release(&j);
    for (size_t k = 0; k < c->n_item; k++) count_packed(&c->item[k]);
    return s;
}
