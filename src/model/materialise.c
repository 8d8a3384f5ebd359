/* materialise.c - a weight from the elements of one dense tensor, as stored or rounded to the type an engine would hold. Those that are
 * made from codes are in unpack.c, which reads its tensors here.
 *
 * Bytes come through the gatherer, which knows containers, strides and byte orders. Every element is checked: a NaN or infinity in a
 * weight makes everything that is computed from it meaningless, so it is an error with its place, not a result. */
#include "model/weights_table.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t size_of(fq_dtype d) { return fq_dtype_bits(d) / 8; }

/* ---- files ---- */

void fqi_open_shards_init(fqi_open_shards *s)
{
    *s = (fqi_open_shards){ 0 };
    (void)pthread_mutex_init(&s->lock, NULL);
}

void fqi_open_shards_free(fqi_open_shards *s) { (void)pthread_mutex_destroy(&s->lock); }

/* Lock held. */
static void leave_shard(fqi_materialiser *m)
{
    if (m->file && --m->open->entry[m->entry].users == 0) fqi_file_close(&m->open->entry[m->entry].file);
    m->file = NULL;
}

/* Lock held. The entry that holds the shard, or else one that nobody uses: there are as many as readers. */
static size_t entry_of(const fqi_open_shards *s, size_t shard)
{
    size_t unused = 0;
    for (size_t i = 0; i < sizeof s->entry / sizeof *s->entry; i++) {
        if (s->entry[i].users == 0) unused = i;
        else if (s->entry[i].shard == shard) return i;
    }
    return unused;
}

static fq_status open_shard(fqi_materialiser *m, size_t shard, fq_err *e)
{
    fqi_open_shards *s = m->open;
    fq_status status = FQ_OK;
    if (m->file && m->shard == shard) return FQ_OK;
    pthread_mutex_lock(&s->lock);
    leave_shard(m);
    const size_t i = entry_of(s, shard);
    if (s->entry[i].users == 0) status = fqi_ckpt_open_shard(m->ckpt, shard, m->io, &s->entry[i].file, e);
    if (status == FQ_OK) {
        s->entry[i].shard = m->shard = shard;
        s->entry[i].users++;
        m->entry = i;
        m->file = &s->entry[i].file;
    }
    pthread_mutex_unlock(&s->lock);
    return status;
}

/* ---- life ---- */

uint64_t fqi_materialiser_bytes(const fqi_weights_table *t)
{
    return (t->gathers ? fqi_slot_memory(t->chunk) : fqi_slot_memory_plain(t->chunk)) + FQI_WEIGHTS_BLOCK * sizeof(float) + fqi_unpacker_bytes(t);
}

fq_status fqi_materialiser_init(fqi_materialiser *m, const fq_ckpt *c, const fqi_weights_options *o, const fqi_weights_table *t, fqi_open_shards *open, fq_err *e)
{
    *m = (fqi_materialiser){ .ckpt = c, .served = o->served, .io = o->run->io, .open = open };
    FQI_TRY(fqi_kernels_choose(&m->kernel, e));
    FQI_TRY(fqi_unpacker_init(&m->unpacker, t, e));
    FQI_TRY(t->gathers ? fqi_slot_init(&m->slot, t->chunk, e) : fqi_slot_init_plain(&m->slot, t->chunk, e));
    m->wide = malloc(FQI_WEIGHTS_BLOCK * sizeof *m->wide);
    return m->wide ? FQ_OK : fqi_fail_nomem(e, "buffer for weights");
}

void fqi_materialiser_free(fqi_materialiser *m)
{
    if (m->file) {
        pthread_mutex_lock(&m->open->lock);
        leave_shard(m);
        pthread_mutex_unlock(&m->open->lock);
    }
    fqi_slot_free(&m->slot);
    fqi_unpacker_free(&m->unpacker);
    free(m->wide);
    m->wide = NULL;
}

/* ---- weights that cannot be used ---- */

enum { NOT_FINITE, OUT_OF_RANGE, N_KIND };   /* of fqi_weight_faults */

/* Where element `at` is, in the words of its rank. */
static void say_place(const fqi_tensor *t, uint64_t at, char *out, size_t n)
{
    const uint64_t cols = t->rank > 1 ? (uint64_t)t->shape[t->rank - 1] : 1, row = at / cols;
    if (t->rank == 3)
        (void)snprintf(out, n, "expert %" PRIu64 ", row %" PRIu64 ", column %" PRIu64, row / (uint64_t)t->shape[1], row % (uint64_t)t->shape[1], at % cols);
    else if (t->rank == 2)
        (void)snprintf(out, n, "row %" PRIu64 ", column %" PRIu64, row, at % cols);
    else
        (void)snprintf(out, n, "of %" PRIu64, t->bytes / size_of((fq_dtype)t->dtype));
}

fq_status fqi_weight_faults_report(const fqi_materialiser *m, size_t tensor, const fqi_cut *cut, const fqi_weight_faults *f, fq_err *e)
{
    const fqi_tensor *t = &m->ckpt->tensor[tensor];
    const uint64_t bad = f->kind[NOT_FINITE].count, beyond = f->kind[OUT_OF_RANGE].count;
    if (bad == 0 && beyond == 0) return FQ_OK;
    const bool finite = bad == 0 || (beyond > 0 && f->kind[OUT_OF_RANGE].first < f->kind[NOT_FINITE].first);
    const uint64_t at = fqi_cut_origin(cut, f->kind[finite].first), count = f->kind[finite].count;
    const float value = f->kind[finite].value;
    char found[64], place[96];
    say_place(t, at, place, sizeof place);
    if (finite)
        (void)snprintf(found, sizeof found, "%.9g", (double)value);
    else
        (void)snprintf(found, sizeof found, "%s", isnan(value) ? "NaN" : value > 0 ? "infinity" : "-infinity");
    return fqi_fail(e, FQ_E_NUMERIC, FQI_TENSOR(m->ckpt->shard[t->shard].path, t->name), finite ? "served-range" : "non-finite",
                    "element %" PRIu64 " (%s): found %s, %" PRIu64 " such value%s in all, expected %s%s", at, place, found, count, count == 1 ? "" : "s",
                    finite ? "what fits into " : "finite weights", finite ? fq_dtype_name(m->served) : "");
}

static void note(fqi_weight_faults *f, size_t kind, uint64_t first, uint64_t count, float value)
{
    if (count > 0 && (f->kind[kind].count == 0 || first < f->kind[kind].first)) {
        f->kind[kind].first = first;
        f->kind[kind].value = value;
    }
    f->kind[kind].count += count;
}

void fqi_weight_faults_add(fqi_weight_faults *f, const fqi_weight_faults *more)
{
    for (size_t k = 0; k < N_KIND; k++) note(f, k, more->kind[k].first, more->kind[k].count, more->kind[k].value);
}

/* ---- types ---- */

static inline uint16_t bf16_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (uint16_t)(u >> 16);
}

static inline uint16_t f16_bits(float x)
{
    uint32_t u, v;
    memcpy(&u, &x, sizeof u);
    const uint32_t a = u & 0x7fffffffu, small = 0u - (uint32_t)(a < 0x38800000u), huge = 0u - (uint32_t)(a >= 0x7f800000u);
    const float shifted = fabsf(x) + 0.5f;   /* subnormals of F16 are multiples of the last place of a float from 0.5 on */
    memcpy(&v, &shifted, sizeof v);
    const uint32_t half = (((a - 0x38000000u) >> 13) & ~small & ~huge) | ((v - 0x3f000000u) & small) | (0x7c00u & huge);
    return (uint16_t)((u >> 16 & 0x8000u) | half);
}

/* Without branches and by a number that is known, so that compilers make vectors of it. */
void fqi_weights_narrow(const float *restrict x, fq_dtype type, uint16_t *restrict out, size_t n)
{
    enum { STEP = 32 };
    size_t i = 0;
    if (type == FQ_DTYPE_BF16) {
        for (; i + STEP <= n; i += STEP)
            for (size_t k = 0; k < STEP; k++) out[i + k] = bf16_bits(x[i + k]);
        for (; i < n; i++) out[i] = bf16_bits(x[i]);
        return;
    }
    for (; i + STEP <= n; i += STEP)
        for (size_t k = 0; k < STEP; k++) out[i + k] = f16_bits(x[i + k]);
    for (; i < n; i++) out[i] = f16_bits(x[i]);
}

/* At most FQI_WEIGHTS_BLOCK elements, number `at0` of the tensor and those behind it. A value that is not finite is told from one that the
 * served type cannot hold. */
static void convert(fqi_materialiser *m, fq_dtype stored, fq_dtype held, const void *data, size_t n, uint64_t at0, unsigned char *to, fqi_weight_faults *f)
{
    const bool rounds = m->served != FQ_DTYPE_F32 && m->served != stored;
    size_t at = 0, count = 0;
    float value;
    if (!m->kernel->all_finite(data, stored, n, &at, &count)) {
        m->kernel->widen((const unsigned char *)data + at * size_of(stored), stored, &value, 1);
        note(f, NOT_FINITE, at0 + at, count, value);
        return;
    }
    if (stored == held && !rounds) {
        memcpy(to, data, n * size_of(held));
        return;
    }
    m->kernel->widen(data, stored, m->wide, n);
    if (rounds) m->kernel->round_to(m->wide, m->served, n);
    if (rounds && !m->kernel->all_finite(m->wide, FQ_DTYPE_F32, n, &at, &count)) {
        m->kernel->widen((const unsigned char *)data + at * size_of(stored), stored, &value, 1);
        note(f, OUT_OF_RANGE, at0 + at, count, value);
        return;
    }
    if (held == FQ_DTYPE_F32) memcpy(to, m->wide, n * sizeof(float));
    else fqi_weights_narrow(m->wide, held, (uint16_t *)(void *)to, n);
}

/* The tensor with only some rows of its first dimension. */
static fqi_tensor rows_of(const fqi_tensor *t, int64_t row, int64_t n, int64_t shape[FQ_MAX_RANK])
{
    fqi_tensor v = *t;
    const uint64_t elements = t->bytes / size_of((fq_dtype)t->dtype), each = t->shape[0] ? elements / (uint64_t)t->shape[0] : 0;
    const uint64_t step = t->stride ? (uint64_t)t->stride[0] : each;
    memcpy(shape, t->shape, t->rank * sizeof *shape);
    shape[0] = n;
    v.shape = shape;
    v.off += (uint64_t)row * step * size_of((fq_dtype)t->dtype);
    v.bytes = (uint64_t)n * each * size_of((fq_dtype)t->dtype);
    return v;
}

static bool stopped(const fqi_materialiser *m)
{
    return (m->stop && __atomic_load_n(m->stop, __ATOMIC_RELAXED)) || (m->run && m->run->cancelled && m->run->cancelled(m->run->user));
}

/* A message of the file layer knows the file only. */
static fq_status name_tensor(const fqi_tensor *t, const char *path, fq_status s, fq_err *e)
{
    fq_err file;
    if (!e) return s;
    const fq_err plain = *e;
    (void)fqi_fail(&file, s, FQI_FILE(path), NULL, "%s", "");
    const size_t n = strlen(file.text);
    if (strncmp(plain.text, file.text, n) != 0) return s;
    (void)fqi_fail(e, s, FQI_TENSOR(path, t->name), NULL, "%s", plain.text + n);
    memcpy(e->rule, plain.rule, sizeof e->rule);
    e->sys_errno = plain.sys_errno;
    return s;
}

/* The tensor `t`, which is all or a part of `whole`, as it is stored. */
static fq_status read_run(fqi_materialiser *m, const fqi_tensor *whole, const fqi_tensor *t, unsigned char *out, fq_err *e)
{
    fqi_gather g;
    if (t->bytes == 0) return FQ_OK;
    FQI_TRY(fqi_gather_begin(&g, m->file, t, NULL, t->bytes, e));
    do {
        if (stopped(m)) return fqi_fail(e, FQ_E_CANCELLED, NULL, NULL, "stopped");
        const fq_status s = fqi_gather_fill(&g, &m->slot, e);
        if (s != FQ_OK) return name_tensor(whole, m->file->path, s, e);
        fqi_slot_assemble(&m->slot);
        memcpy(out, m->slot.data, m->slot.bytes);
        out += m->slot.bytes;
        __atomic_fetch_add(&m->bytes_read, m->slot.bytes, __ATOMIC_RELAXED);
    } while (!m->slot.last);
    return FQ_OK;
}

fq_status fqi_materialiser_read(fqi_materialiser *m, const fqi_view *v, void *out, fq_err *e)
{
    const fqi_tensor *whole = v->tensor;
    const uint64_t size = size_of((fq_dtype)whole->dtype);
    const int64_t step = whole->rank < 2 ? 1 : whole->shape[1];
    int64_t shape[2] = { v->n_row, v->n_col };
    fqi_tensor t = *whole;
    t.shape = shape;
    t.bytes = (uint64_t)v->n_row * (uint64_t)v->n_col * size;
    FQI_TRY(open_shard(m, t.shard, e));
    if (t.stride) {
        t.off += (uint64_t)(v->row * t.stride[0] + (t.rank < 2 ? 0 : v->col * t.stride[1])) * size;
        return read_run(m, whole, &t, out, e);
    }
    if (v->n_col == step) {
        t.off += (uint64_t)(v->row * step) * size;
        return read_run(m, whole, &t, out, e);
    }
    t.rank = 1;
    shape[0] = v->n_col;
    t.bytes = (uint64_t)v->n_col * size;
    for (int64_t r = 0; r < v->n_row; r++) {
        t.off = whole->off + (uint64_t)((v->row + r) * step + v->col) * size;
        FQI_TRY(read_run(m, whole, &t, (unsigned char *)out + (uint64_t)r * t.bytes, e));
    }
    return FQ_OK;
}

/* Maps of the dimensions behind the first, of which something is left out. */
typedef struct inner { fqi_run run[3][2]; fqi_map map[3]; const fqi_map *use[FQ_MAX_RANK]; } inner;

static const fqi_map *const *maps_of(const fqi_cut *c, inner *in)
{
    if (!fqi_cut_inner(c)) return NULL;
    *in = (inner){ 0 };
    for (int d = 1; d < c->rank; d++) {
        if (fqi_cut_length(c, d) == c->whole[d]) continue;
        for (int p = 0; p < c->parts[d] && p < 2; p++) in->run[d][p] = (fqi_run){ c->whole[d] / c->parts[d] * p + c->dim[d].first, c->dim[d].n };
        in->map[d] = (fqi_map){ .n_old = c->whole[d], .n_new = fqi_cut_length(c, d), .run = in->run[d], .n_run = c->parts[d], .cap = 2 };
        in->use[d] = &in->map[d];
    }
    return in->use;
}

fq_status fqi_materialise_rows(fqi_materialiser *m, size_t tensor, const fqi_cut *cut, int64_t row, int64_t n, bool as_float, void *out, fqi_weight_faults *f, fq_err *e)
{
    const fqi_tensor *whole = &m->ckpt->tensor[tensor];
    int64_t shape[FQ_MAX_RANK];
    inner in;
    const fqi_tensor t = rows_of(whole, cut->dim[0].first + row, n, shape);
    const fq_dtype stored = (fq_dtype)t.dtype, held = as_float ? FQ_DTYPE_F32 : fqi_weight_held(stored, m->served);
    const uint64_t each = (uint64_t)fqi_cut_length(cut, 1) * (uint64_t)fqi_cut_length(cut, 2), bytes = each * (uint64_t)n * size_of(stored);
    unsigned char *to = out;
    fqi_gather g;
    if (bytes == 0) return FQ_OK;
    uint64_t at = each * (uint64_t)row;
    FQI_TRY(open_shard(m, t.shard, e));
    FQI_TRY(fqi_gather_begin(&g, m->file, &t, maps_of(cut, &in), bytes, e));
    do {
        if (stopped(m)) return fqi_fail(e, FQ_E_CANCELLED, NULL, NULL, "stopped");
        const fq_status s = fqi_gather_fill(&g, &m->slot, e);
        if (s != FQ_OK) return name_tensor(whole, m->file->path, s, e);
        fqi_slot_assemble(&m->slot);
        const size_t in_chunk = m->slot.bytes / size_of(stored);
        for (size_t i = 0, k; i < in_chunk; i += k, at += k, to += k * size_of(held)) {
            k = in_chunk - i < FQI_WEIGHTS_BLOCK ? in_chunk - i : FQI_WEIGHTS_BLOCK;
            convert(m, stored, held, m->slot.data + i * size_of(stored), k, at, to, f);
        }
        __atomic_fetch_add(&m->bytes_read, m->slot.bytes, __ATOMIC_RELAXED);
    } while (!m->slot.last);
    return FQ_OK;
}

fq_status fqi_materialise(fqi_materialiser *m, size_t tensor, const fqi_cut *cut, int64_t row, int64_t n, bool as_float, void *out, fq_err *e)
{
    fqi_weight_faults f = { 0 };
    FQI_TRY(fqi_materialise_rows(m, tensor, cut, row, n, as_float, out, &f, e));
    return fqi_weight_faults_report(m, tensor, cut, &f, e);
}
