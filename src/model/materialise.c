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

uint64_t fqi_materialiser_bytes(void) { return fqi_slot_memory(FQI_WEIGHTS_CHUNK) + FQI_WEIGHTS_CHUNK / 2 * sizeof(float); }

fq_status fqi_materialiser_init(fqi_materialiser *m, const fq_ckpt *c, fq_dtype served, fq_io io, fq_err *e)
{
    *m = (fqi_materialiser){ .ckpt = c, .served = served, .io = io, .file = FQI_FILE_NONE, .shard = SIZE_MAX };
    FQI_TRY(fqi_kernels_choose(&m->kernel, e));
    FQI_TRY(fqi_slot_init(&m->slot, FQI_WEIGHTS_CHUNK, e));
    m->wide = malloc(FQI_WEIGHTS_CHUNK / 2 * sizeof *m->wide);   /* not zeroed: most runs touch none of it */
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

static fq_status report(const fqi_materialiser *m, const fqi_tensor *t, int64_t row0, const faults *f, fq_err *e)
{
    const uint64_t cols = t->rank > 1 ? (uint64_t)t->shape[t->rank - 1] : 1;
    const uint64_t at = f->first + (uint64_t)row0 * (t->bytes / size_of((fq_dtype)t->dtype) / (uint64_t)t->shape[0]);
    char found[64];
    if (isfinite(f->value))
        (void)snprintf(found, sizeof found, "%.9g", (double)f->value);
    else
        (void)snprintf(found, sizeof found, "%s", isnan(f->value) ? "NaN" : f->value > 0 ? "infinity" : "-infinity");
    return fqi_fail(e, FQ_E_NUMERIC, FQI_TENSOR(m->ckpt->shard[t->shard].path, t->name), f->rule,
                    "element %" PRIu64 " (row %" PRIu64 ", column %" PRIu64 "): found %s, %" PRIu64 " such values in all, expected %s", at,
                    at / cols, at % cols, found, f->count,
                    isfinite(f->value) ? fq_dtype_name(m->served) : "finite weights");
}

static void note(faults *f, const char *rule, uint64_t first, uint64_t count, float value)
{
    if (f->count == 0) *f = (faults){ .first = first, .value = value, .rule = rule };
    f->count += count;
}

/* Exact: x is a number that the type holds. */
static uint16_t half_bits(float x, fq_dtype type)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if (type == FQ_DTYPE_BF16) return (uint16_t)(u >> 16);
    uint32_t sign = (u >> 16) & 0x8000, a = u & 0x7fffffffu;
    if (a >= 0x7f800000u) return (uint16_t)(sign | 0x7c00);
    if (a >= 0x38800000u) return (uint16_t)(sign | ((a - 0x38000000u) >> 13));
    return (uint16_t)(sign | (uint32_t)(fabsf(x) * 0x1p24f));
}

/* n elements of a chunk, `done` before them, to their place. */
static void convert(fqi_materialiser *m, const fqi_tensor *t, bool as_float, const void *data, size_t n, uint64_t done, void *out, faults *f)
{
    const fq_dtype stored = (fq_dtype)t->dtype, held = as_float ? FQ_DTYPE_F32 : fqi_weight_held(stored, m->served);
    unsigned char *to = (unsigned char *)out + done * size_of(held);
    size_t at = 0, count = 0;
    if (!m->kernel->all_finite(data, stored, n, &at, &count)) {
        float value;
        m->kernel->widen((const unsigned char *)data + at * size_of(stored), stored, &value, 1);
        note(f, "non-finite", done + at, count, value);
    }
    if (stored == held && m->served == FQ_DTYPE_F32) {
        memcpy(to, data, n * size_of(held));
        return;
    }
    for (size_t i = 0; i < n;) {   /* a chunk of the smallest type fits */
        size_t k = n - i < FQI_WEIGHTS_CHUNK / 2 ? n - i : FQI_WEIGHTS_CHUNK / 2;
        m->kernel->widen((const unsigned char *)data + i * size_of(stored), stored, m->wide, k);
        m->kernel->round_to(m->wide, m->served, k);
        if (f->count == 0 && !m->kernel->all_finite(m->wide, FQ_DTYPE_F32, k, &at, &count)) {
            float value;
            m->kernel->widen((const unsigned char *)data + (i + at) * size_of(stored), stored, &value, 1);
            note(f, "served-range", done + i + at, count, value);
        }
        if (held == FQ_DTYPE_F32) memcpy(to + i * sizeof(float), m->wide, k * sizeof(float));
        else
            for (size_t j = 0; j < k; j++) {
                uint16_t h = half_bits(m->wide[j], held);
                memcpy(to + (i + j) * sizeof h, &h, sizeof h);
            }
        i += k;
    }
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

fq_status fqi_materialise(fqi_materialiser *m, size_t tensor, int64_t row, int64_t n, bool as_float, void *out, fq_err *e)
{
    const fqi_tensor *whole = &m->ckpt->tensor[tensor];
    int64_t shape[FQ_MAX_RANK];
    const fqi_tensor t = rows_of(whole, row, n, shape);
    faults f = { 0 };
    fqi_gather g;
    uint64_t done = 0;
    if (t.bytes == 0) return FQ_OK;
    FQI_TRY(open_shard(m, t.shard, e));
    FQI_TRY(fqi_gather_begin(&g, &m->file, &t, NULL, t.bytes, e));
    do {
        if (m->stop && __atomic_load_n(m->stop, __ATOMIC_RELAXED)) return fqi_fail(e, FQ_E_CANCELLED, NULL, NULL, "stopped");
        FQI_TRY(fqi_gather_fill(&g, &m->slot, e));
        fqi_slot_assemble(&m->slot);
        size_t k = m->slot.bytes / size_of((fq_dtype)t.dtype);
        convert(m, &t, as_float, m->slot.data, k, done, out, &f);
        done += k;
        m->bytes_read += m->slot.bytes;
    } while (!m->slot.last);
    return f.count ? report(m, whole, row, &f, e) : FQ_OK;
}
