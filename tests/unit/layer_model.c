/* layer_model.c - random layers of every kind, and twins of them with zeros inserted and heads repeated. See layer_model.h. */
#include "layer_model.h"
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WEIGHTS(d) .dtype = FQ_DTYPE_##d

/* What each family brings, at sizes that fit no vector. */
const fqt_shape fqt_shapes[] = {
    { "one head", 24, 1, 1, 6, 20, WEIGHTS(F32) },
    { "llama: groups of 4", 32, 8, 2, 8, 48, WEIGHTS(BF16) },
    { "every head its own keys", 40, 5, 5, 8, 33, WEIGHTS(F16) },
    { "all heads share one KV head", 48, 7, 1, 16, 40, WEIGHTS(BF16) },
    { "qwen2: biases on q, k, v; heads * head_dim > hidden", 28, 14, 2, 4, 31, .qkv_bias = true, WEIGHTS(BF16) },
    { "qwen3: q and k norms, explicit head_dim", 30, 4, 2, 80, 35, .qk_norm = true, WEIGHTS(BF16) },
    { "biases everywhere", 36, 6, 3, 6, 29, .qkv_bias = true, .o_bias = true, .mlp_bias = true, WEIGHTS(F32) },
    { "mistral: window", 32, 4, 2, 12, 40, .window = 5, WEIGHTS(BF16) },
    { "window wider than a tile of keys", 32, 6, 2, 10, 24, .window = 45, WEIGHTS(F16) },
    { "window of one key", 16, 2, 1, 8, 24, .window = 1, WEIGHTS(F32) },
    { "part of a head is rotated", 32, 4, 4, 12, 24, .rope_dim = 6, WEIGHTS(BF16) },
    { "wide heads", 64, 3, 1, 128, 72, WEIGHTS(BF16) },
    { "mixtral: 2 of 8", 32, 4, 2, 8, 0, 8, 2, 24, .norm_topk = true, WEIGHTS(BF16) },
    { "qwen3_moe: 3 of 5, norms", 32, 4, 2, 8, 0, 5, 3, 17, .norm_topk = true, .qk_norm = true, WEIGHTS(BF16) },
    { "qwen2_moe: gated shared expert, weights as they are", 32, 4, 4, 8, 0, 6, 2, 18, 37, .shared_gate = true, .qkv_bias = true, WEIGHTS(BF16) },
    { "shared expert without a gate", 32, 4, 2, 8, 0, 4, 1, 18, 22, .norm_topk = true, WEIGHTS(F16) },
    { "all experts are chosen", 24, 2, 1, 12, 0, 4, 4, 16, .norm_topk = true, WEIGHTS(F32) },
    { "one expert", 24, 2, 2, 12, 0, 1, 1, 16, WEIGHTS(F32) },
    { "biases of experts", 24, 2, 2, 12, 0, 3, 2, 16, 12, .mlp_bias = true, .shared_gate = true, WEIGHTS(F32) },
    { "equal experts: the lower index", 32, 4, 2, 8, 0, 6, 2, 16, .equal_experts = 3, .norm_topk = true, WEIGHTS(BF16) },
};
const size_t fqt_n_shape = sizeof fqt_shapes / sizeof fqt_shapes[0];

/* ---- random numbers -------------------------------------------------------------------------------------------- */

uint64_t fqt_state = 1;

static uint64_t next(void) { return fqt_random(&fqt_state); }

double fqt_uniform(double low, double high) { return low + (high - low) * ((double)(next() >> 11) * 0x1p-53); }
size_t fqt_below(size_t n) { return (size_t)(next() >> 16) % n; }

static void *need(fqi_arena *a, size_t bytes)
{
    void *p = fqi_arena_alloc(a, bytes ? bytes : 1);
    if (!p) {
        fprintf(stderr, "layer_model: out of memory\n");
        abort();
    }
    return p;
}

/* ---- random layers --------------------------------------------------------------------------------------------- */

/* x has at most 11 significant bits and is no denormal of the type, so that storing is exact. */
static uint16_t half_bits(float x)
{
    int exponent;
    float m = frexpf(fabsf(x), &exponent);
    if (m == 0) return 0;
    return (uint16_t)((x < 0 ? 0x8000 : 0) | (exponent + 14) << 10 | ((int)ldexpf(m, 11) - 1024));
}

/* A multiple of 2^-9 between -1 and 1, times a power of two; bf16 drops the bits that it has no room for. */
static void store(void *at, fq_dtype dtype, size_t i, double x, int scale)
{
    uint32_t bits;
    uint16_t h;
    float f = (float)ldexp(rint(x * 512), scale - 9);
    memcpy(&bits, &f, sizeof bits);
    h = dtype == FQ_DTYPE_F16 ? half_bits(f) : (uint16_t)(bits >> 16);
    if (dtype == FQ_DTYPE_F32)
        memcpy((float *)at + i, &f, sizeof f);
    else
        memcpy((uint16_t *)at + i, &h, sizeof h);
}

static size_t dtype_bytes(fq_dtype dtype) { return dtype == FQ_DTYPE_F32 ? 4 : 2; }

/* Outputs about as large as inputs, so that no layer's activations vanish or grow. */
static fqi_matrix matrix(fqt_layer *m, const fqt_shape *s, int64_t rows, int64_t cols)
{
    size_t n = (size_t)(rows * cols);
    void *data = need(&m->arena, n * dtype_bytes(s->dtype));
    int scale = -(int)floor(log2(sqrt((double)cols / 3)));
    for (size_t i = 0; i < n; i++) store(data, s->dtype, i, fqt_uniform(-1, 1), scale);
    if (cols > m->max_cols) m->max_cols = cols;
    return (fqi_matrix){ .data = data, .rows = rows, .cols = cols, .dtype = s->dtype };
}

static const float *vector(fqt_layer *m, bool wanted, int64_t n, double low, double high)
{
    if (!wanted) return NULL;
    float *v = need(&m->arena, (size_t)n * sizeof *v);
    for (int64_t i = 0; i < n; i++) v[i] = (float)(rint(fqt_uniform(low, high) * 64) / 64);   /* 7 bits: exact in every type */
    return v;
}

static fqi_mlp_weights mlp(fqt_layer *m, const fqt_shape *s, int64_t width)
{
    fqi_mlp_weights w = { .gate = matrix(m, s, width, s->hidden), .up = matrix(m, s, width, s->hidden), .down = matrix(m, s, s->hidden, width) };
    w.gate_bias = vector(m, s->mlp_bias, width, -1, 1);
    w.up_bias = vector(m, s->mlp_bias, width, -1, 1);
    w.down_bias = vector(m, s->mlp_bias, s->hidden, -1, 1);
    return w;
}

static void mixture(fqt_layer *m, const fqt_shape *s)
{
    fqi_mlp_weights *expert = need(&m->arena, (size_t)s->experts * sizeof *expert);
    for (int64_t e = 0; e < s->experts; e++) expert[e] = mlp(m, s, s->moe_inter);
    m->w.expert = expert;
    m->w.router = matrix(m, s, s->experts, s->hidden);
    unsigned char *row = (unsigned char *)(uintptr_t)m->w.router.data;
    size_t row_bytes = (size_t)s->hidden * dtype_bytes(s->dtype);
    for (int64_t e = 2; e <= s->equal_experts; e++) memcpy(row + (size_t)e * row_bytes, row + row_bytes, row_bytes);
    m->w.has_shared = s->shared_inter > 0;
    if (m->w.has_shared) m->w.shared = mlp(m, s, s->shared_inter);
    if (s->shared_gate) m->w.shared_gate = matrix(m, s, 1, s->hidden);
}

static void decoder(const fqt_shape *s, fqt_layer *m)
{
    const bool sparse = s->experts > 0;
    m->d = (fqi_decoder){ .rms_norm_eps = 1e-6, .norm_topk_prob = s->norm_topk };
    m->d.model = (fq_model){ .hidden_size = s->hidden, .vocab_size = 1, .num_hidden_layers = FQT_N_LAYER, .intermediate_size = s->inter,
                             .moe_intermediate_size = s->moe_inter, .shared_expert_intermediate_size = s->shared_inter, .num_experts = s->experts,
                             .num_experts_per_tok = s->top_k, .n_dense_layer = sparse ? 0 : FQT_N_LAYER, .n_moe_layer = sparse ? FQT_N_LAYER : 0,
                             .num_attention_heads = s->heads, .num_key_value_heads = s->kv, .head_dim = s->head_dim };
    m->d.rope = (fqi_rope){ .kind = FQI_ROPE_DEFAULT, .dim = s->rope_dim ? s->rope_dim : s->head_dim, .theta = 10000, .factor = 1,
                            .max_position = 1024, .original_max = 1024 };
    m->d.window = need(&m->arena, FQT_N_LAYER * sizeof *m->d.window);
    m->d.sparse = need(&m->arena, FQT_N_LAYER * sizeof *m->d.sparse);
    m->d.window[FQT_LAYER] = s->window;   /* the others attend to everything: using another layer's window is seen */
    for (size_t i = 0; i < FQT_N_LAYER; i++) m->d.sparse[i] = sparse;
}

void fqt_layer_random(const fqt_shape *s, fqt_layer *m)
{
    *m = (fqt_layer){ .max_cols = 1 };
    decoder(s, m);
    const int64_t q = s->heads * s->head_dim, kv = s->kv * s->head_dim;
    m->w.input_norm = vector(m, true, s->hidden, 0.5, 1.5);
    m->w.post_attention_norm = vector(m, true, s->hidden, 0.5, 1.5);
    m->w.q_norm = vector(m, s->qk_norm, s->head_dim, 0.5, 2);
    m->w.k_norm = vector(m, s->qk_norm, s->head_dim, 0.5, 2);
    m->w.q = matrix(m, s, q, s->hidden);
    m->w.k = matrix(m, s, kv, s->hidden);
    m->w.v = matrix(m, s, kv, s->hidden);
    m->w.o = matrix(m, s, s->hidden, q);
    m->w.q_bias = vector(m, s->qkv_bias, q, -1, 1);
    m->w.k_bias = vector(m, s->qkv_bias, kv, -1, 1);
    m->w.v_bias = vector(m, s->qkv_bias, kv, -1, 1);
    m->w.o_bias = vector(m, s->o_bias, s->hidden, -1, 1);
    m->w.sparse = s->experts > 0;
    if (m->w.sparse)
        mixture(m, s);
    else
        m->w.mlp = mlp(m, s, s->inter);
}

void fqt_layer_free(fqt_layer *m) { fqi_arena_free(&m->arena); }

/* ---- twins ----------------------------------------------------------------------------------------------------- */

/* from[i]: index in the original, -1 = zero. */
typedef struct map { int64_t *from, n; } map;

static map width_map(fqt_layer *m, int64_t n, int64_t more, fqt_spread spread)
{
    map out = { .from = need(&m->arena, (size_t)(n + more) * sizeof(int64_t)), .n = n + more };
    int64_t next_real = 0;
    for (int64_t i = 0; i < n + more; i++) {
        int64_t rest = n + more - i, real = n - next_real;
        bool take = spread == FQT_TAIL ? real > 0 : spread == FQT_FRONT ? i >= more : spread == FQT_ALTERNATE ? real > 0 && (i % 2 == 0 || rest == real)
                                                                                  : (int64_t)fqt_below((size_t)rest) < real;
        out.from[i] = take ? next_real++ : -1;
    }
    return out;
}

static map channels_of(fqt_layer *m, map heads, int64_t head_dim)
{
    map out = { .from = need(&m->arena, (size_t)(heads.n * head_dim) * sizeof(int64_t)), .n = heads.n * head_dim };
    for (int64_t i = 0; i < out.n; i++) out.from[i] = heads.from[i / head_dim] < 0 ? -1 : heads.from[i / head_dim] * head_dim + i % head_dim;
    return out;
}

/* Every KV head `copies` times, its query heads dealt to the copies in order, with heads of zeros at random places of each group. */
static void head_maps(fqt_layer *m, const fq_model *f, const fqt_padding *p, map *query, map *kv)
{
    const int64_t group = f->num_attention_heads / f->num_key_value_heads, per_copy = (group + p->copies - 1) / p->copies, wide = per_copy + p->more_heads;
    *kv = (map){ .n = f->num_key_value_heads * p->copies };
    *query = (map){ .n = kv->n * wide };
    kv->from = need(&m->arena, (size_t)kv->n * sizeof(int64_t));
    query->from = need(&m->arena, (size_t)query->n * sizeof(int64_t));
    for (int64_t h = 0; h < kv->n; h++) {
        int64_t copy = h % p->copies, left = group - copy * per_copy, real = left < 0 ? 0 : left < per_copy ? left : per_copy;
        map place = width_map(m, real, wide - real, FQT_RANDOM);
        kv->from[h] = h / p->copies;
        for (int64_t i = 0; i < wide; i++)
            query->from[h * wide + i] = place.from[i] < 0 ? -1 : kv->from[h] * group + copy * per_copy + place.from[i];
    }
}

static fqi_matrix remap(fqt_layer *m, const fqi_matrix *a, const map *rows, const map *cols)
{
    const size_t bytes = dtype_bytes(a->dtype);
    fqi_matrix out = { .rows = rows ? rows->n : a->rows, .cols = cols ? cols->n : a->cols, .dtype = a->dtype };
    unsigned char *to = need(&m->arena, (size_t)(out.rows * out.cols) * bytes);   /* zeroed */
    for (int64_t r = 0; r < out.rows; r++)
        for (int64_t c = 0; c < out.cols; c++) {
            int64_t i = rows ? rows->from[r] : r, j = cols ? cols->from[c] : c;
            if (i >= 0 && j >= 0)
                memcpy(to + (size_t)(r * out.cols + c) * bytes, (const unsigned char *)a->data + (size_t)(i * a->cols + j) * bytes, bytes);
        }
    out.data = to;
    if (out.cols > m->max_cols) m->max_cols = out.cols;
    return out;
}

static const float *remap_vector(fqt_layer *m, const float *v, const map *rows)
{
    if (!v) return NULL;
    float *to = need(&m->arena, (size_t)rows->n * sizeof *to);
    for (int64_t i = 0; i < rows->n; i++) to[i] = rows->from[i] < 0 ? 0 : v[rows->from[i]];
    return to;
}

static fqi_mlp_weights pad_mlp(fqt_layer *m, const fqi_mlp_weights *a, const fqt_padding *p)
{
    map wide = width_map(m, a->gate.rows, p->more_width, p->spread);
    return (fqi_mlp_weights){ .gate = remap(m, &a->gate, &wide, NULL), .up = remap(m, &a->up, &wide, NULL), .down = remap(m, &a->down, NULL, &wide),
                              .gate_bias = remap_vector(m, a->gate_bias, &wide), .up_bias = remap_vector(m, a->up_bias, &wide),
                              .down_bias = a->down_bias };
}

static void pad_mlps(const fqt_layer *m, const fqt_padding *p, fqt_layer *out)
{
    fq_model *f = &out->d.model;
    if (!m->w.sparse) {
        out->w.mlp = pad_mlp(out, &m->w.mlp, p);
        f->intermediate_size += p->more_width;
        return;
    }
    fqi_mlp_weights *expert = need(&out->arena, (size_t)f->num_experts * sizeof *expert);
    for (int64_t e = 0; e < f->num_experts; e++) expert[e] = pad_mlp(out, &m->w.expert[e], p);
    out->w.expert = expert;
    f->moe_intermediate_size += p->more_width;
    if (!m->w.has_shared) return;
    out->w.shared = pad_mlp(out, &m->w.shared, p);
    f->shared_expert_intermediate_size += p->more_width;
}

void fqt_layer_pad(const fqt_layer *m, const fqt_padding *p, fqt_layer *out)
{
    *out = *m;                  /* what does not change is the original's, which must outlive the twin */
    out->arena = (fqi_arena){ 0 };
    map heads, kv_heads;
    head_maps(out, &m->d.model, p, &heads, &kv_heads);
    map q = channels_of(out, heads, m->d.model.head_dim), kv = channels_of(out, kv_heads, m->d.model.head_dim);
    out->d.model.num_attention_heads = heads.n;
    out->d.model.num_key_value_heads = kv_heads.n;
    out->w.q = remap(out, &m->w.q, &q, NULL);
    out->w.k = remap(out, &m->w.k, &kv, NULL);
    out->w.v = remap(out, &m->w.v, &kv, NULL);
    out->w.o = remap(out, &m->w.o, NULL, &q);
    out->w.q_bias = remap_vector(out, m->w.q_bias, &q);
    out->w.k_bias = remap_vector(out, m->w.k_bias, &kv);
    out->w.v_bias = remap_vector(out, m->w.v_bias, &kv);
    pad_mlps(m, p, out);
}
