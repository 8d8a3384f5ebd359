/* dense.c - rows of quantized modules as numbers, by the readers of weights_readers.c. See dense.h. */
#include "model/dense.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/pipeline.h"
#include "model/weights_table.h"

#define CHUNK ((size_t)1 << 16)   /* numbers that are rounded and summed together */
#define STEP ((size_t)1024)       /* of those, in cache twice */

struct fqi_dense {
    const fq_ckpt *ckpt;
    fqi_weights_options o;
    fqi_weights_table table;      /* sizes of buffers only */
    fqi_open_shards open;
    fqi_materialiser caller;
    fqi_readers readers;
};

static fqi_weights_table table_for(const fq_ckpt *c, int64_t cols)
{
    fqi_weights_table t = { .n_module = 1, .module_cols = cols, .chunk = FQI_WEIGHTS_CHUNK };
    for (size_t i = 0; i < c->n_tensor && !t.gathers; i++) t.gathers = c->tensor[i].stride || c->tensor[i].byteswap;
    return t;
}

uint64_t fqi_dense_bytes(const fq_ckpt *c, int64_t cols)
{
    const fqi_weights_table t = table_for(c, cols);
    return sizeof(fqi_dense) + fqi_materialiser_bytes(&t) + fqi_readers_bytes(&t);
}

fq_status fqi_dense_create(const fq_ckpt *c, int64_t cols, const fq_run *run, fqi_dense **out, fq_err *e)
{
    fqi_dense *d = fqi_calloc(1, sizeof *d);
    if (!d) return fqi_fail_nomem(e, "buffers for weights");
    d->ckpt = c;
    d->o = (fqi_weights_options){ .n_slot = 1, .served = FQ_DTYPE_F32, .run = run };
    d->table = table_for(c, cols);
    fqi_open_shards_init(&d->open);
    fq_status s = fqi_materialiser_init(&d->caller, c, &d->o, &d->table, &d->open, e);
    if (s == FQ_OK) s = fqi_readers_init(&d->readers, c, &d->o, &d->table, &d->open, e);
    if (s == FQ_OK) *out = d;
    else fqi_dense_free(d);
    return s;
}

void fqi_dense_free(fqi_dense *d)
{
    if (!d) return;
    fqi_readers_free(&d->readers);
    fqi_materialiser_free(&d->caller);
    fqi_open_shards_free(&d->open);
    free(d);
}

static void want_rows(const void *user, size_t i, fqi_weight_want *out)
{
    (void)i;
    *out = *(const fqi_weight_want *)user;
}

fq_status fqi_dense_rows(fqi_dense *d, const fqi_quant_module *q, int64_t row, int64_t n, float *out, fq_err *e)
{
    const fqi_quant_size *z = &q->size;
    const fqi_cut whole = { .rank = 2, .dim = { { .first = 0, .n = z->rows }, { .first = 0, .n = z->cols } }, .parts = { 1, 1 }, .whole = { z->rows, z->cols } };
    const fqi_weight_want want = { .cut = &whole, .tensor = (size_t)(q->part[FQI_PART_CODES] - d->ckpt->tensor), .module = q, .row = row, .n = n, .out = out };
    fqi_load load = { .n = 1, .want = want_rows, .user = &want, .together = 1 };
    return fqi_readers_run(&d->readers, FQI_WAITER_CALLER, &d->caller, &load, e);
}

/* ---- rounding ---- */

static void count_step(const float *x, const float *rounded, size_t n, uint64_t at, fqi_rounding *cost)
{
    for (size_t i = 0; i < n; i++) {
        const double w = (double)x[i], d = (double)rounded[i] - w;
        cost->weight2 += w * w;
        if (d == 0) continue;
        if (!isfinite(rounded[i])) {
            if (cost->n_beyond++ == 0) cost->beyond = at + i;
            continue;
        }
        cost->n_changed++;
        cost->error2 += d * d;
        if (fabs(d) > cost->worst * fabs(w)) cost->worst = fabs(d) / fabs(w);
    }
}

static void round_chunk(const fqi_dense *d, float *x, size_t n, uint64_t at, fq_dtype dtype, uint16_t *out, fqi_rounding *cost)
{
    float before[STEP];
    for (size_t i = 0; i < n; i += STEP) {
        const size_t k = n - i < STEP ? n - i : STEP;
        memcpy(before, x + i, k * sizeof *before);
        d->caller.kernel->round_to(x + i, dtype, k);
        count_step(before, x + i, k, at + i, cost);
        fqi_weights_narrow(x + i, dtype, out + i, k);
    }
    cost->n += n;
}

static void add_up(fqi_rounding *sum, const fqi_rounding *part)
{
    if (part->n_beyond > 0 && sum->n_beyond == 0) sum->beyond = part->beyond;
    sum->n += part->n;
    sum->n_changed += part->n_changed;
    sum->n_beyond += part->n_beyond;
    sum->error2 += part->error2;
    sum->weight2 += part->weight2;
    if (part->worst > sum->worst) sum->worst = part->worst;
}

typedef struct rounding { const fqi_dense *d; float *x; size_t n; fq_dtype dtype; uint16_t *out; fqi_rounding *part; } rounding;

static void round_job(void *user, size_t i)
{
    const rounding *r = user;
    const size_t at = i * CHUNK;
    round_chunk(r->d, r->x + at, r->n - at < CHUNK ? r->n - at : CHUNK, at, r->dtype, r->out + at, &r->part[i]);
}

fq_status fqi_dense_round(const fqi_dense *d, float *x, size_t n, fq_dtype dtype, int n_thread, void *out, fqi_rounding *cost, fq_err *e)
{
    const size_t n_chunk = (n + CHUNK - 1) / CHUNK;
    if (dtype == FQ_DTYPE_F32) {
        memcpy(out, x, n * sizeof *x);
        cost->n += n;
        return FQ_OK;
    }
    fqi_rounding *part = fqi_calloc(n_chunk + 1, sizeof *part);
    if (!part) return fqi_fail_nomem(e, "sums of rounding");
    rounding r = { d, x, n, dtype, out, part };
    fqi_parallel(n_chunk > 4 ? n_thread : 1, n_chunk, round_job, &r);
    for (size_t i = 0; i < n_chunk; i++) add_up(cost, &part[i]);
    free(part);
    return FQ_OK;
}
