/* layer_reference.c - a decoder layer in double precision, as a textbook has it: no cache, no tiles, every sum in one loop.
 *
 * Shares no code with src: weights are read bit by bit, the rotary embedding is recomputed, and rounding to half types is done
 * with rint. So it is an independent judge of the numbers and of the list of roundings in layer.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "layer_model.h"

static double element(const fqi_matrix *a, int64_t r, int64_t c)
{
    const size_t i = (size_t)(r * a->cols + c);
    float f;
    uint16_t h;
    if (a->dtype == FQ_DTYPE_F32) {
        memcpy(&f, (const float *)a->data + i, sizeof f);
        return (double)f;
    }
    memcpy(&h, (const uint16_t *)a->data + i, sizeof h);
    const int exponent_bits = a->dtype == FQ_DTYPE_F16 ? 5 : 8, fraction_bits = 15 - exponent_bits;
    const int exponent = h >> fraction_bits & ((1 << exponent_bits) - 1), bias = (1 << (exponent_bits - 1)) - 1;
    const double fraction = h & ((1 << fraction_bits) - 1);
    const double x = exponent ? ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits) : ldexp(fraction, 1 - bias - fraction_bits);
    return h & 0x8000 ? -x : x;
}

/* To the nearest number of the type, ties to even. */
static double rounded(fq_dtype dtype, double x)
{
    if (dtype == FQ_DTYPE_F32 || x == 0) return x;
    int exponent, digits = dtype == FQ_DTYPE_F16 ? 11 : 8, lowest = dtype == FQ_DTYPE_F16 ? -24 : -133;
    frexp(x, &exponent);
    int unit = exponent - digits < lowest ? lowest : exponent - digits;
    return ldexp(rint(ldexp(x, -unit)), unit);
}

typedef struct run {
    const fqt_layer *m;
    const fqi_layer_weights *w;
    const fq_model *f;
    fq_dtype served;
} run;

static double *doubles(int64_t n)
{
    double *p = calloc((size_t)n + 1, sizeof *p);
    if (!p) abort();
    return p;
}

static void linear(const run *r, const fqi_matrix *a, const float *bias, const double *x, double *y)
{
    for (int64_t i = 0; i < a->rows; i++) {
        double sum = 0;
        for (int64_t k = 0; k < a->cols; k++) sum += element(a, i, k) * x[k];
        y[i] = rounded(r->served, sum + (bias ? (double)bias[i] : 0));
    }
}

static void norm(const run *r, const float *weight, const double *x, double *y, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    double scale = 1 / sqrt(sum / (double)n + r->m->d.rms_norm_eps);
    for (int64_t i = 0; i < n; i++) y[i] = rounded(r->served, rounded(r->served, x[i] * scale) * (double)weight[i]);
}

static void head(const run *r, const float *weight, double *x, int64_t position)
{
    const int64_t half = r->m->d.rope.dim / 2;
    if (weight) norm(r, weight, x, x, r->f->head_dim);
    for (int64_t j = 0; j < half; j++) {
        double angle = (double)position * pow(r->m->d.rope.theta, -2.0 * (double)j / (double)r->m->d.rope.dim);
        double c = rounded(r->served, cos(angle)), s = rounded(r->served, sin(angle)), a = x[j], b = x[j + half];
        x[j] = rounded(r->served, a * c - b * s);
        x[j + half] = rounded(r->served, b * c + a * s);
    }
}

/* One query head at `position` over keys and values of one KV head at stride `stride`. */
static void attend(const run *r, const double *q, const double *k, const double *v, int64_t stride, int64_t position, double *out)
{
    const int64_t hd = r->f->head_dim, window = r->m->d.window[FQT_LAYER];
    double *weight = doubles(position + 1), max = -INFINITY, sum = 0;
    for (int64_t p = 0; p <= position; p++) {
        if (window && p + window <= position) continue;
        for (int64_t i = 0; i < hd; i++) weight[p] += q[i] * k[p * stride + i] / sqrt((double)hd);
        if (weight[p] > max) max = weight[p];
    }
    for (int64_t p = 0; p <= position; p++) {
        bool seen = !window || p + window > position;
        weight[p] = seen ? exp(weight[p] - max) : 0;
        sum += weight[p];
    }
    for (int64_t i = 0; i < hd; i++) {
        double value = 0;
        for (int64_t p = 0; p <= position; p++) value += rounded(r->served, weight[p] / sum) * v[p * stride + i];
        out[i] = rounded(r->served, value);
    }
    free(weight);
}

static void attention(const run *r, double *x, int64_t n)
{
    const int64_t hidden = r->f->hidden_size, hd = r->f->head_dim, heads = r->f->num_attention_heads, kv = r->f->num_key_value_heads;
    double *in = doubles(hidden), *q = doubles(n * heads * hd), *k = doubles(n * kv * hd), *v = doubles(n * kv * hd), *out = doubles(heads * hd);
    for (int64_t t = 0; t < n; t++) {
        norm(r, r->w->input_norm, x + t * hidden, in, hidden);
        linear(r, &r->w->q, r->w->q_bias, in, q + t * heads * hd);
        linear(r, &r->w->k, r->w->k_bias, in, k + t * kv * hd);
        linear(r, &r->w->v, r->w->v_bias, in, v + t * kv * hd);
        for (int64_t h = 0; h < heads; h++) head(r, r->w->q_norm, q + (t * heads + h) * hd, t);
        for (int64_t h = 0; h < kv; h++) head(r, r->w->k_norm, k + (t * kv + h) * hd, t);
    }
    for (int64_t t = 0; t < n; t++) {
        for (int64_t h = 0; h < heads; h++) {
            int64_t g = h * kv / heads;
            attend(r, q + (t * heads + h) * hd, k + g * hd, v + g * hd, kv * hd, t, out + h * hd);
        }
        linear(r, &r->w->o, r->w->o_bias, out, in);
        for (int64_t i = 0; i < hidden; i++) x[t * hidden + i] = rounded(r->served, x[t * hidden + i] + in[i]);
    }
    free(in); free(q); free(k); free(v); free(out);
}

static void mlp(const run *r, const fqi_mlp_weights *w, const double *x, double *y)
{
    double *gate = doubles(w->gate.rows), *up = doubles(w->up.rows);
    linear(r, &w->gate, w->gate_bias, x, gate);
    linear(r, &w->up, w->up_bias, x, up);
    for (int64_t i = 0; i < w->gate.rows; i++) gate[i] = rounded(r->served, rounded(r->served, gate[i] / (1 + exp(-gate[i]))) * up[i]);
    linear(r, &w->down, w->down_bias, gate, y);
    free(gate); free(up);
}

/* Softmax over all experts, the largest top_k (the lower index of equals), divided by their sum if the model does that. */
static void route(const run *r, const double *x, double *weight)
{
    const int64_t n = r->f->num_experts;
    double *p = doubles(n), max = -INFINITY, sum = 0, chosen = 0;
    linear(r, &r->w->router, NULL, x, p);
    for (int64_t e = 0; e < n; e++) max = p[e] > max ? p[e] : max;
    for (int64_t e = 0; e < n; e++) sum += p[e] = exp(p[e] - max);
    for (int64_t i = 0; i < r->f->num_experts_per_tok; i++) {
        int64_t best = 0;
        for (int64_t e = 1; e < n; e++) best = p[e] > p[best] ? e : best;
        chosen += weight[best] = p[best] / sum;
        p[best] = -1;
    }
    for (int64_t e = 0; e < n; e++) weight[e] = rounded(r->served, r->m->d.norm_topk_prob ? weight[e] / chosen : weight[e]);
    free(p);
}

static void add(const run *r, double factor, const double *y, double *out)
{
    for (int64_t i = 0; i < r->f->hidden_size; i++) out[i] = rounded(r->served, out[i] + rounded(r->served, factor * y[i]));
}

static void mixture(const run *r, const double *x, double *out, double *weight)
{
    double *y = doubles(r->f->hidden_size), factor = 1;
    route(r, x, weight);
    memset(out, 0, (size_t)r->f->hidden_size * sizeof *out);
    for (int64_t e = 0; e < r->f->num_experts; e++) {
        if (weight[e] == 0) continue;
        mlp(r, &r->w->expert[e], x, y);
        add(r, weight[e], y, out);
    }
    if (r->w->has_shared) {
        mlp(r, &r->w->shared, x, y);
        if (r->w->shared_gate.data) {
            linear(r, &r->w->shared_gate, NULL, x, &factor);
            factor = rounded(r->served, 1 / (1 + exp(-factor)));
        }
        add(r, factor, y, out);
    }
    free(y);
}

void fqt_reference(const fqt_layer *m, fq_dtype served, const float *x, size_t n, double *out, double *weights)
{
    const run r = { .m = m, .w = &m->w, .f = &m->d.model, .served = served };
    const int64_t hidden = r.f->hidden_size, experts = r.f->num_experts;
    double *in = doubles(hidden), *y = doubles(hidden), *weight = doubles(experts);
    for (size_t i = 0; i < n * (size_t)hidden; i++) out[i] = (double)x[i];
    attention(&r, out, (int64_t)n);
    for (size_t t = 0; t < n; t++) {
        double *row = out + t * (size_t)hidden;
        norm(&r, r.w->post_attention_norm, row, in, hidden);
        memset(weight, 0, (size_t)experts * sizeof *weight);
        if (r.w->sparse)
            mixture(&r, in, y, weight);
        else
            mlp(&r, &r.w->mlp, in, y);
        for (int64_t i = 0; i < hidden; i++) row[i] = rounded(served, row[i] + y[i]);
        if (weights) memcpy(weights + t * (size_t)experts, weight, (size_t)experts * sizeof *weight);
    }
    free(in); free(y); free(weight);
}
