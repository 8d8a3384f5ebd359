/* linears.c - the list of linear layers, their lengths on one GPU, and prices.
 *
 * The price of an entry is counted from the same list that the rules are checked on: weights of quantized linears in the format,
 * everything else (embeddings, router, norms, biases) in 16 bits. It is an estimate of what the engine allocates for weights, not of
 * its workspace; memory.c adds that. Parameter counts, in contrast, are exact for the families that fitq can pad, and tests hold
 * them against the published numbers. */
#include "plan/linears.h"

#include <string.h>

enum { MAX_LENGTH = 1 << 28, MAX_LAYER = 1 << 16, MAX_HEAD = 1 << 16, MAX_EXPERT = 1 << 20 };

static const fqi_linear linears[] = {
    { FQI_L_Q, "self_attn.q_proj", FQI_AX_HIDDEN, FQI_AX_Q, FQI_CUT_COLUMN, true },
    { FQI_L_KV, "self_attn.k_proj, v_proj", FQI_AX_HIDDEN, FQI_AX_KV, FQI_CUT_COLUMN, true },
    { FQI_L_O, "self_attn.o_proj", FQI_AX_Q, FQI_AX_HIDDEN, FQI_CUT_ROW, false },
    { FQI_L_GATE_UP, "mlp.gate_proj, up_proj", FQI_AX_HIDDEN, FQI_AX_FF, FQI_CUT_COLUMN, true },
    { FQI_L_DOWN, "mlp.down_proj", FQI_AX_FF, FQI_AX_HIDDEN, FQI_CUT_ROW, false },
    { FQI_L_SHARED_GATE_UP, "mlp.shared_expert.gate_proj, up_proj", FQI_AX_HIDDEN, FQI_AX_SHARED_FF, FQI_CUT_COLUMN, true },
    { FQI_L_SHARED_DOWN, "mlp.shared_expert.down_proj", FQI_AX_SHARED_FF, FQI_AX_HIDDEN, FQI_CUT_ROW, false },
    { FQI_L_EXPERT_GATE_UP, "mlp.experts.*.gate_proj, up_proj", FQI_AX_HIDDEN, FQI_AX_MOE_FF, FQI_CUT_COLUMN, true },
    { FQI_L_EXPERT_DOWN, "mlp.experts.*.down_proj", FQI_AX_MOE_FF, FQI_AX_HIDDEN, FQI_CUT_ROW, false },
};
enum { N_LINEAR = sizeof linears / sizeof *linears };

const fqi_linear *fqi_linear_at(size_t i) { return i < N_LINEAR ? &linears[i] : NULL; }

/* ---- shapes --------------------------------------------------------------------------------------------------- */

static bool starts_with(const char *s, const char *with) { return strncmp(s, with, strlen(with)) == 0; }

static fqi_attention attention_of(const char *model_type)
{
    static const char *const latent[] = { "deepseek_v2", "deepseek_v3", "deepseek_v4", "kimi_k2", "glm_moe_dsa", "glm4_moe_lite", "longcat",
        "minicpm3", "kimi_vl", "deepseek_vl_v2" };
    static const char *const hybrid[] = { "qwen3_next", "qwen3_5", "qwen3_6", "qwen3_8", "nemotron_h", "jamba", "bamba", "falcon_h1",
        "minimax_text", "granitemoehybrid", "kimi_linear", "bailing_hybrid", "lfm2", "mamba", "falcon_mamba", "zamba", "plamo2", "olmo_hybrid",
        "rwkv" };
    for (size_t i = 0; i < sizeof latent / sizeof *latent; i++)
        if (starts_with(model_type, latent[i])) return FQI_ATT_LATENT;
    for (size_t i = 0; i < sizeof hybrid / sizeof *hybrid; i++)
        if (starts_with(model_type, hybrid[i])) return FQI_ATT_HYBRID;
    return FQI_ATT_PLAIN;
}

static fq_status check_length(const char *field, int64_t found, int64_t min, int64_t max, fq_err *e)
{
    if (found >= min && found <= max) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, NULL, "model-field", "%s: found %lld, expected %lld to %lld", field, (long long)found,
                    (long long)min, (long long)max);
}

fq_status fqi_shape_init(const fq_model *m, fqi_shape *out, fq_err *e)
{
    FQI_TRY(check_length("hidden_size", m->hidden_size, 1, MAX_LENGTH, e));
    FQI_TRY(check_length("num_hidden_layers", m->num_hidden_layers, 1, MAX_LAYER, e));
    FQI_TRY(check_length("num_attention_heads", m->num_attention_heads, 1, MAX_HEAD, e));
    FQI_TRY(check_length("num_key_value_heads", m->num_key_value_heads, 0, MAX_HEAD, e));
    FQI_TRY(check_length("head_dim", m->head_dim, 0, MAX_HEAD, e));
    FQI_TRY(check_length("vocab_size", m->vocab_size, 0, MAX_LENGTH, e));
    FQI_TRY(check_length("intermediate_size", m->intermediate_size, 0, MAX_LENGTH, e));
    FQI_TRY(check_length("moe_intermediate_size", m->moe_intermediate_size, 0, MAX_LENGTH, e));
    FQI_TRY(check_length("shared_expert_intermediate_size", m->shared_expert_intermediate_size, 0, MAX_LENGTH, e));
    FQI_TRY(check_length("num_experts", m->num_experts, 0, MAX_EXPERT, e));
    FQI_TRY(check_length("n_dense_layer", m->n_dense_layer, 0, m->num_hidden_layers, e));
    FQI_TRY(check_length("n_moe_layer", m->n_moe_layer, 0, m->num_hidden_layers, e));
    FQI_TRY(check_length("group_size", m->quant_group_size, -1, MAX_LENGTH, e));
    FQI_TRY(check_length("bits", m->quant_bits, 0, 32, e));

    fqi_shape s = { .m = m, .hidden = m->hidden_size, .layers = m->num_hidden_layers, .experts = m->num_experts,
                    .attention = attention_of(m->model_type), .shared_gate = starts_with(m->model_type, "qwen") };
    s.head_dim = m->head_dim ? m->head_dim : m->hidden_size / m->num_attention_heads;
    FQI_TRY(check_length("hidden_size / num_attention_heads", s.head_dim, 1, MAX_HEAD, e));
    s.dense_layers = m->n_dense_layer;
    s.moe_layers = m->n_moe_layer;
    if (s.dense_layers + s.moe_layers == 0) { /* filled by hand: all layers of the kind that has a width */
        if (m->moe_intermediate_size && m->num_experts) s.moe_layers = s.layers;
        else s.dense_layers = s.layers;
    }
    s.dims.heads = m->num_attention_heads;
    s.dims.kv = m->num_key_value_heads ? m->num_key_value_heads : m->num_attention_heads;
    s.dims.vocab = m->vocab_size;
    s.dims.ff = s.dense_layers ? m->intermediate_size : 0;
    s.dims.moe_ff = s.moe_layers && s.experts ? m->moe_intermediate_size : 0;
    s.dims.shared_ff = s.moe_layers ? m->shared_expert_intermediate_size : 0;
    if (s.attention != FQI_ATT_LATENT && s.dims.heads % s.dims.kv != 0)
        return fqi_fail(e, FQ_E_INPUT, NULL, "model-field", "num_key_value_heads: found %lld, expected a divisor of the %lld heads",
                        (long long)s.dims.kv, (long long)s.dims.heads);
    *out = s;
    return FQ_OK;
}

void fqi_dims_apply(const fqi_dims *real, const fq_fit *fit, fqi_dims *out)
{
    *out = *real;
    if (fit->intermediate_size_pad) out->ff = fit->intermediate_size_pad;
    if (fit->moe_intermediate_size_pad) out->moe_ff = fit->moe_intermediate_size_pad;
    if (fit->shared_expert_intermediate_size_pad) out->shared_ff = fit->shared_expert_intermediate_size_pad;
    if (fit->num_attention_heads_pad) out->heads = fit->num_attention_heads_pad;
    if (fit->num_key_value_heads_pad) out->kv = fit->num_key_value_heads_pad;
    if (fit->vocab_size_pad) out->vocab = fit->vocab_size_pad;
}

int64_t fqi_dims_axis(const fqi_shape *s, const fqi_dims *d, fqi_axis a)
{
    switch (a) {
    case FQI_AX_HIDDEN: return s->hidden;
    case FQI_AX_FF: return d->ff;
    case FQI_AX_MOE_FF: return d->moe_ff;
    case FQI_AX_SHARED_FF: return d->shared_ff;
    case FQI_AX_Q: return d->heads * s->head_dim;
    case FQI_AX_KV: return d->kv * s->head_dim;
    case FQI_AX_VOCAB: return d->vocab;
    default: return 0;
    }
}

uint64_t fqi_linear_count(const fqi_shape *s, const fqi_linear *l)
{
    uint64_t layers = (uint64_t)s->layers, dense = (uint64_t)s->dense_layers, moe = (uint64_t)s->moe_layers;
    switch (l->bit) {
    case FQI_L_Q: case FQI_L_O: return s->attention == FQI_ATT_LATENT ? 0 : layers;
    case FQI_L_KV: return s->attention == FQI_ATT_LATENT ? 0 : 2 * layers;
    case FQI_L_GATE_UP: return s->dims.ff ? 2 * dense : 0;
    case FQI_L_DOWN: return s->dims.ff ? dense : 0;
    case FQI_L_SHARED_GATE_UP: return s->dims.shared_ff ? 2 * moe : 0;
    case FQI_L_SHARED_DOWN: return s->dims.shared_ff ? moe : 0;
    case FQI_L_EXPERT_GATE_UP: return s->dims.moe_ff ? 2 * moe * (uint64_t)s->experts : 0;
    case FQI_L_EXPERT_DOWN: return s->dims.moe_ff ? moe * (uint64_t)s->experts : 0;
    default: return 0;
    }
}

int64_t fqi_rank_length(const fqi_case *c, const fqi_dims *d, const fqi_linear *l, fqi_axis a, bool cut)
{
    int64_t whole = fqi_dims_axis(c->shape, d, a);
    if (!cut || !fqi_engine_at(c->engine)->splits || ((l->bit & FQI_L_EXPERT) && c->expert_parallel)) return whole;
    if (a == FQI_AX_Q) return d->heads % c->tp ? -1 : whole / c->tp;
    if (a == FQI_AX_KV) {
        if (d->kv % c->tp == 0) return whole / c->tp;
        return c->tp % d->kv == 0 ? c->shape->head_dim : -1;
    }
    return whole % c->tp ? -1 : whole / c->tp;
}

/* ---- prices --------------------------------------------------------------------------------------------------- */

static uint64_t ceil_div(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }

uint64_t fqi_weight_bytes(const fqi_case *c, int bits, int64_t n, int64_t k)
{
    const fqi_format *f = fqi_format_at(c->format);
    uint64_t rows = (uint64_t)n, cols = (uint64_t)k;
    uint64_t total = fqi_sat_mul(fqi_sat_mul(rows, cols), (uint64_t)bits);
    if (f->group_overhead_bits) {
        uint64_t g = c->group > 0 ? (uint64_t)c->group : cols;
        uint64_t groups = fqi_sat_mul(f->block && g ? ceil_div(rows, g) : rows, g ? ceil_div(cols, g) : 0);
        total = fqi_sat_add(total, fqi_sat_mul(groups, (uint64_t)f->group_overhead_bits));
    }
    return total == UINT64_MAX ? total : ceil_div(total, 8);
}

static uint64_t mul3(uint64_t a, uint64_t b, uint64_t c) { return fqi_sat_mul(fqi_sat_mul(a, b), c); }

/* Norms, router, biases: what every GPU holds whole or nearly so. Parameters. */
static uint64_t small_params(const fqi_shape *s, const fqi_dims *d)
{
    const fq_model *m = s->m;
    uint64_t hidden = (uint64_t)s->hidden, layers = (uint64_t)s->layers, hd = (uint64_t)s->head_dim;
    uint64_t moe = (uint64_t)s->moe_layers, experts = (uint64_t)s->experts;
    uint64_t n = 2 * hidden * layers + hidden; /* two norms per layer, one at the end */
    n = fqi_sat_add(n, mul3(moe, experts, hidden));
    if (s->dims.shared_ff && s->shared_gate) n = fqi_sat_add(n, moe * hidden);
    if (s->attention == FQI_ATT_LATENT) return n;
    if (m->qk_norm) n = fqi_sat_add(n, 2 * hd * layers);
    if (m->q_bias) n = fqi_sat_add(n, mul3((uint64_t)d->heads, hd, layers));
    if (m->kv_bias) n = fqi_sat_add(n, mul3(2 * (uint64_t)d->kv, hd, layers));
    if (m->o_bias) n = fqi_sat_add(n, hidden * layers);
    if (m->mlp_bias) {
        n = fqi_sat_add(n, fqi_sat_mul((uint64_t)s->dense_layers, 2 * (uint64_t)d->ff + hidden));
        n = fqi_sat_add(n, mul3(moe, experts, d->moe_ff ? 2 * (uint64_t)d->moe_ff + hidden : 0));
    }
    return n;
}

static uint64_t n_embedding(const fqi_shape *s) { return s->m->tie_word_embeddings ? 1 : 2; }

uint64_t fqi_param_count(const fqi_shape *s, const fqi_dims *d)
{
    uint64_t n = fqi_sat_mul(n_embedding(s), (uint64_t)d->vocab * (uint64_t)s->hidden);
    for (size_t i = 0; i < N_LINEAR; i++) {
        uint64_t one = fqi_sat_mul((uint64_t)fqi_dims_axis(s, d, linears[i].k), (uint64_t)fqi_dims_axis(s, d, linears[i].n));
        n = fqi_sat_add(n, fqi_sat_mul(fqi_linear_count(s, &linears[i]), one));
    }
    return fqi_sat_add(n, small_params(s, d));
}

/* Length on one GPU for a price: also where the axis cannot be cut evenly (an estimate for the unfitted model). */
static int64_t priced_length(const fqi_case *c, const fqi_dims *d, const fqi_linear *l, fqi_axis a)
{
    int64_t n = fqi_rank_length(c, d, l, a, fqi_cuts(l, a));
    if (n >= 0) return n;
    int64_t whole = fqi_dims_axis(c->shape, d, a);
    return (whole + c->tp - 1) / c->tp;
}

void fqi_price_of(const fqi_case *c, const fqi_dims *d, int kv_cache_bits, fqi_price *out)
{
    const fqi_shape *s = c->shape;
    const fqi_engine *en = fqi_engine_at(c->engine);
    const fqi_format *f = fqi_format_at(c->format);
    uint64_t tp = (uint64_t)c->tp, all = 0, rank = 0;
    for (size_t i = 0; i < N_LINEAR; i++) {
        const fqi_linear *l = &linears[i];
        uint64_t count = fqi_linear_count(s, l);
        if (count == 0) continue;
        uint64_t one = fqi_weight_bytes(c, c->bits, fqi_dims_axis(s, d, l->n), fqi_dims_axis(s, d, l->k));
        all = fqi_sat_add(all, fqi_sat_mul(count, one));
        uint64_t part = fqi_weight_bytes(c, c->bits, priced_length(c, d, l, l->n), priced_length(c, d, l, l->k));
        uint64_t of_rank = fqi_sat_mul(count, part);
        /* Whole experts per GPU, or (no tensor parallelism) whole layers per GPU. */
        if (!en->splits || (c->expert_parallel && (l->bit & FQI_L_EXPERT))) of_rank = ceil_div(of_rank, tp);
        rank = fqi_sat_add(rank, of_rank);
    }
    int embed_bits = f->embeddings ? c->bits : 16;
    uint64_t embed = fqi_sat_mul(n_embedding(s), f->embeddings ? fqi_weight_bytes(c, embed_bits, d->vocab, s->hidden)
                                                               : 2 * (uint64_t)d->vocab * (uint64_t)s->hidden);
    uint64_t small = fqi_sat_mul(2, small_params(s, d));
    out->params = fqi_param_count(s, d);
    out->bytes = fqi_sat_add(all, fqi_sat_add(embed, small));
    out->rank_bytes = fqi_sat_add(rank, fqi_sat_add(ceil_div(embed, tp), en->splits ? small : ceil_div(small, tp)));
    out->kv_token_bytes = 0;
    if (s->attention != FQI_ATT_PLAIN) return;
    uint64_t head = fqi_kv_head_token_bytes(s, kv_cache_bits);
    uint64_t kv_rank = ceil_div((uint64_t)d->kv, tp); /* fewer KV heads than GPUs: one copy on each */
    out->kv_token_bytes = en->splits ? fqi_sat_mul(head, kv_rank) : ceil_div(fqi_sat_mul(head, (uint64_t)d->kv), tp);
}

void fqi_head_bytes(const fqi_case *c, uint64_t *q, uint64_t *kv)
{
    const fqi_shape *s = c->shape;
    uint64_t one = fqi_weight_bytes(c, c->bits, s->head_dim, s->hidden);
    *q = fqi_sat_mul(2 * (uint64_t)s->layers, one);
    *kv = fqi_sat_mul(2 * (uint64_t)s->layers, one);
}

uint64_t fqi_kv_head_token_bytes(const fqi_shape *s, int kv_cache_bits)
{
    if (s->attention != FQI_ATT_PLAIN) return 0;
    return 2 * (uint64_t)s->layers * ceil_div((uint64_t)s->head_dim * (uint64_t)kv_cache_bits, 8);
}
