/* rope.c - rotary position embedding (see rope.h).
 *
 * The frequency of pair j is theta^(-2j/dim); each kind changes it in its own way, and only yarn changes the length of the
 * rotated vector as well. Parameters are taken as fqi_decoder_read left them: checked, so that nothing here divides by zero. Not
 * done here: deciding which dimensions of a checkpoint are stored interleaved (all families of the table store halves).
 *
 * Sources: transformers modeling_rope_utils.py; for the factor of yarn vLLM rotary_embedding/yarn_scaling_rope.py as well, which like
 * it takes the written factor and never max_position_embeddings / original. */
#include "model/rope.h"

#include <math.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/mem.h"
#include "kernel/scalar.h"

#define PI 3.14159265358979323846

/* ---- frequencies ----------------------------------------------------------------------------------------------- */

static void plain(double theta, int64_t dim, double *inv)
{
    for (int64_t j = 0; j < dim / 2; j++) inv[j] = pow(theta, -2.0 * (double)j / (double)dim);
}

/* Positions are squeezed by the factor. */
static void linear(const fqi_rope *r, double *inv)
{
    plain(r->theta, r->dim, inv);
    for (int64_t j = 0; j < r->dim / 2; j++) inv[j] /= r->factor;
}

/* A sequence longer than the model was trained for gets a larger base; the others are as they were. */
static void dynamic(const fqi_rope *r, int64_t n_position, double *inv)
{
    double theta = r->theta;
    if (n_position > r->max_position) {
        double longer = (double)n_position / (double)r->max_position, dim = (double)r->dim;
        theta *= pow(r->factor * longer - (r->factor - 1), dim / (dim - 2));
    }
    plain(theta, r->dim, inv);
}

/* By wavelength: long ones are squeezed, short ones kept, between them a straight line in the number of turns that the
 * original length holds. */
static void llama3(const fqi_rope *r, double *inv)
{
    plain(r->theta, r->dim, inv);
    for (int64_t j = 0; j < r->dim / 2; j++) {
        double turns = (double)r->original_max * inv[j] / (2 * PI), share;
        if (turns > r->high_freq_factor) continue;
        share = turns < r->low_freq_factor ? 0 : (turns - r->low_freq_factor) / (r->high_freq_factor - r->low_freq_factor);
        inv[j] = (1 - share) * inv[j] / r->factor + share * inv[j];
    }
}

/* The pair, as a real number, whose frequency makes `turns` turns in the original length; in dimensions, not pairs: that is how the
 * reference counts, and its bound dim - 1 belongs to it. */
static double yarn_dimension(const fqi_rope *r, double turns)
{
    return (double)r->dim * log((double)r->original_max / (turns * 2 * PI)) / (2 * log(r->theta));
}

static void yarn(const fqi_rope *r, double *inv)
{
    double low = yarn_dimension(r, r->beta_fast), high = yarn_dimension(r, r->beta_slow);
    if (r->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, (double)(r->dim - 1));
    if (low == high) high += 0.001;   /* a step */
    plain(r->theta, r->dim, inv);
    for (int64_t j = 0; j < r->dim / 2; j++) {
        double ramp = fmin(fmax(((double)j - low) / (high - low), 0), 1);
        inv[j] = inv[j] / r->factor * ramp + inv[j] * (1 - ramp);
    }
}

static double yarn_mscale(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static double yarn_scale(const fqi_rope *r)
{
    if (r->attention_factor > 0) return r->attention_factor;
    if (r->mscale > 0 && r->mscale_all_dim > 0) return yarn_mscale(r->factor, r->mscale) / yarn_mscale(r->factor, r->mscale_all_dim);
    return yarn_mscale(r->factor, 1);
}

void fqi_rope_frequencies(const fqi_rope *r, int64_t n_position, double *inv, double *scale)
{
    *scale = 1;
    switch (r->kind) {
    case FQI_ROPE_DEFAULT: plain(r->theta, r->dim, inv); break;
    case FQI_ROPE_LINEAR: linear(r, inv); break;
    case FQI_ROPE_DYNAMIC: dynamic(r, n_position, inv); break;
    case FQI_ROPE_LLAMA3: llama3(r, inv); break;
    case FQI_ROPE_YARN:
        yarn(r, inv);
        *scale = yarn_scale(r);
        break;
    }
}

/* ---- table ----------------------------------------------------------------------------------------------------- */

fq_status fqi_rope_table_create(const fqi_rope *r, int64_t n_position, fq_dtype served, fqi_rope_table *out, fq_err *e)
{
    fqi_rope_table t = { .n_position = n_position, .half = (size_t)(r->dim / 2) };
    size_t n;
    double scale, *inv = fqi_calloc(t.half, sizeof *inv);
    if (inv && n_position >= 0 && fqi_mul_size((size_t)n_position, t.half, &n)) {
        t.cos = fqi_calloc(n, sizeof *t.cos);
        t.sin = fqi_calloc(n, sizeof *t.sin);
    }
    if (!t.cos || !t.sin) {
        fqi_rope_table_free(&t);
        free(inv);
        return fqi_fail_nomem(e, "table of cosines and sines");
    }
    fqi_rope_frequencies(r, n_position, inv, &scale);
    for (int64_t p = 0; p < n_position; p++) {
        float *c = t.cos + (size_t)p * t.half, *s = t.sin + (size_t)p * t.half;
        for (size_t j = 0; j < t.half; j++) {
            double angle = (double)p * inv[j];
            c[j] = fqi_scalar_round((float)(cos(angle) * scale), served);
            s[j] = fqi_scalar_round((float)(sin(angle) * scale), served);
        }
    }
    free(inv);
    *out = t;
    return FQ_OK;
}

void fqi_rope_table_free(fqi_rope_table *t)
{
    if (!t) return;
    free(t->cos);
    free(t->sin);
    *t = (fqi_rope_table){ 0 };
}

void fqi_rope_apply(const fqi_rope_table *t, int64_t position, float *x, size_t n_head, size_t head_dim)
{
    const size_t half = t->half;
    const float *restrict c = t->cos + (size_t)position * half, *restrict s = t->sin + (size_t)position * half;
    for (size_t h = 0; h < n_head; h++) {
        float *restrict a = x + h * head_dim, *restrict b = a + half;
        for (size_t j = 0; j < half; j++) {
            float x0 = a[j], x1 = b[j];
            a[j] = x0 * c[j] - x1 * s[j];
            b[j] = x1 * c[j] + x0 * s[j];
        }
    }
}
