/* materialise.c - what a weight is made from: today the elements of one dense tensor, as stored or rounded to the type an engine would
 * hold. Packed modules will be unpacked here, and nowhere else.
 *
 * Bytes come through the gatherer, which knows containers, strides and byte orders. Every element is checked: a NaN or infinity in a
 * weight makes everything that is computed from it meaningless, so it is an error with its place, not a result. */
#include "model/weights_table.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t size_of(fq_dtype d) { return fq_dtype_bits(d) / 8; }

/* Bytes of a plain tensor are read to the front of one buffer; the tables of pieces and the second buffer are for the others. */
uint64_t fqi_materialiser_bytes(size_t chunk, bool gathers)
{
    return (gathers ? fqi_slot_memory(chunk) : chunk + 3 * FQI_IO_ALIGN) + FQI_WEIGHTS_BLOCK * sizeof(float);
}

fq_status fqi_materialiser_init(fqi_materialiser *m, const fq_ckpt *c, fq_dtype served, fq_io io, size_t chunk, fq_err *e)
{
    *m = (fqi_materialiser){ .ckpt = c, .served = served, .io = io, .file = FQI_FILE_NONE, .shard = SIZE_MAX };
    FQI_TRY(fqi_kernels_choose(&m->kernel, e));
    FQI_TRY(fqi_slot_init(&m->slot, chunk, e));
    m->wide = malloc(FQI_WEIGHTS_BLOCK * sizeof *m->wide);
    return m->wide ? FQ_OK : fqi_fail_nomem(e, "buffer for weights");
}

void fqi_materialiser_free(fqi_materialiser *m)
{
    fqi_file_close(&m->file);
    fqi_slot_free(&m->slot);
    free(m->wide);
    m->wide = NULL;
}

static fq_status open_shard(fqi_materialiser *m, size_t shard, fq_err *e)
{
    if (m->shard == shard) return FQ_OK;
    if (m->shard != SIZE_MAX) fqi_file_close(&m->file);
    m->shard = SIZE_MAX;
    FQI_TRY(fqi_ckpt_open_shard(m->ckpt, shard, m->io, &m->file, e));
    m->shard = shard;
    return FQ_OK;
}

/* What is not finite in the tensor so far. */
typedef struct faults { uint64_t first, count; float value; const char *rule; } faults;

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

static fq_status report(const fqi_materialiser *m, const fqi_tensor *t, int64_t row0, const faults *f, fq_err *e)
{
    const uint64_t at = f->first + (uint64_t)row0 * (t->bytes / size_of((fq_dtype)t->dtype) / (uint64_t)t->shape[0]);
    char found[64], place[96];
    say_place(t, at, place, sizeof place);
    if (isfinite(f->value))
        (void)snprintf(found, sizeof found, "%.9g", (double)f->value);
    else
        (void)snprintf(found, sizeof found, "%s", isnan(f->value) ? "NaN" : f->value > 0 ? "infinity" : "-infinity");
    return fqi_fail(e, FQ_E_NUMERIC, FQI_TENSOR(m->ckpt->shard[t->shard].path, t->name), f->rule,
                    "element %" PRIu64 " (%s): found %s, %" PRIu64 " such value%s in all, expected %s%s", at, place, found, f->count, f->count == 1 ? "" : "s",
                    isfinite(f->value) ? "what fits into " : "finite weights", isfinite(f->value) ? fq_dtype_name(m->served) : "");
}

static void note(faults *f, const char *rule, uint64_t first, uint64_t count, float value)
{
    if (f->count == 0) *f = (faults){ .first = first, .value = value, .rule = rule };
    f->count += count;
}

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

/* Exact: x holds numbers of the type, or infinities. Without branches and by a number that is known, so that compilers make vectors of it. */
static void narrow(const float *restrict x, fq_dtype type, uint16_t *restrict out, size_t n)
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

/* At most FQI_WEIGHTS_BLOCK elements, `done` before them. A value that is not finite is told from one that the served type cannot hold:
 * the first kind found is the one that is counted. */
static void convert(fqi_materialiser *m, fq_dtype stored, fq_dtype held, const void *data, size_t n, uint64_t done, void *out, faults *f)
{
    unsigned char *to = (unsigned char *)out + done * size_of(held);
    const bool rounds = m->served != FQ_DTYPE_F32 && m->served != stored;
    size_t at = 0, count = 0;
    float value;
    if (!m->kernel->all_finite(data, stored, n, &at, &count)) {
        m->kernel->widen((const unsigned char *)data + at * size_of(stored), stored, &value, 1);
        if (f->count == 0 || !isfinite(f->value)) note(f, "non-finite", done + at, count, value);
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
        if (f->count == 0 || isfinite(f->value)) note(f, "served-range", done + at, count, value);
        return;
    }
    if (held == FQ_DTYPE_F32) memcpy(to, m->wide, n * sizeof(float));
    else narrow(m->wide, held, (uint16_t *)(void *)to, n);
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

fq_status fqi_materialise(fqi_materialiser *m, size_t tensor, int64_t row, int64_t n, bool as_float, void *out, fq_err *e)
{
    const fqi_tensor *whole = &m->ckpt->tensor[tensor];
    int64_t shape[FQ_MAX_RANK];
    const fqi_tensor t = rows_of(whole, row, n, shape);
    const fq_dtype stored = (fq_dtype)t.dtype, held = as_float ? FQ_DTYPE_F32 : fqi_weight_held(stored, m->served);
    faults f = { 0 };
    fqi_gather g;
    uint64_t done = 0;
    if (t.bytes == 0) return FQ_OK;
    FQI_TRY(open_shard(m, t.shard, e));
    FQI_TRY(fqi_gather_begin(&g, &m->file, &t, NULL, t.bytes, e));
    do {
        if (stopped(m)) return fqi_fail(e, FQ_E_CANCELLED, NULL, NULL, "stopped");
        FQI_TRY(fqi_gather_fill(&g, &m->slot, e));
        fqi_slot_assemble(&m->slot);
        const size_t in_chunk = m->slot.bytes / size_of(stored);
        for (size_t i = 0, k; i < in_chunk; i += k, done += k) {
            k = in_chunk - i < FQI_WEIGHTS_BLOCK ? in_chunk - i : FQI_WEIGHTS_BLOCK;
            convert(m, stored, held, m->slot.data + i * size_of(stored), k, done, out, &f);
        }
        __atomic_fetch_add(&m->bytes_read, m->slot.bytes, __ATOMIC_RELAXED);
    } while (!m->slot.last);
    return f.count ? report(m, whole, row, &f, e) : FQ_OK;
}
