/* config.c - config.json -> fq_model.
 *
 * A configuration is a claim about tensors that may be 145 GB away, and everything after this file trusts it. So each number is
 * checked against the others (heads against hidden_size, experts against top-k, layers against layer_types), a missing number is
 * an error that names it, and the product of all of them must stay far from overflow. What is read from a default is only what a
 * family's own configuration class leaves out of the files that it writes (biases, window flags, head_dim). How a family spells
 * its fields is a table (table.h, foreign.c). Not checked here: whether the tensors agree. */
#include "arch/config.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arch/reader.h"
#include "base/checked.h"
#include "base/fs.h"
#include "base/mem.h"

#define CONFIG_MAX_BYTES (UINT64_C(16) << 20)   /* the largest published one is under 1 MB */

/* ---- numbers --------------------------------------------------------------------------------------------------- */

static fq_status get_int(const fqi_reader *r, const char *key, int64_t min, int64_t max, int64_t *out, fq_err *e)
{
    FQI_TRY(fqi_reader_copies(r, key, e));
    fqi_json_int want = { .key = key, .min = min, .max = max };
    return fqi_json_get_int(fqi_reader_holder(r, key), &want, r->file, out, e);
}

static fq_status get_int_or(const fqi_reader *r, const char *key, int64_t min, int64_t max, int64_t def, int64_t *out, fq_err *e)
{
    FQI_TRY(fqi_reader_copies(r, key, e));
    fqi_json_int want = { .key = key, .min = min, .max = max, .has_default = true, .def = def };
    return fqi_json_get_int(fqi_reader_holder(r, key), &want, r->file, out, e);
}

static fq_status get_bool(const fqi_reader *r, const char *key, bool def, bool *out, fq_err *e)
{
    return fqi_json_get_bool(fqi_reader_holder(r, key), key, def, r->file, out, e);
}

/* ---- heads ---------------------------------------------------------------------------------------------------- */

static fq_status read_head_dim(const fqi_reader *r, fq_err *e)
{
    fq_model *m = r->m;
    const char *key = r->rules->head_dim ? r->rules->head_dim : "head_dim";
    if (r->rules->latent) {
        int64_t nope, rope;
        FQI_TRY(get_int(r, "qk_nope_head_dim", 1, FQI_MAX_HEAD, &nope, e));
        FQI_TRY(get_int(r, "qk_rope_head_dim", 1, FQI_MAX_HEAD, &rope, e));
        m->head_dim = nope + rope;
        return FQ_OK;
    }
    m->head_dim_explicit = fqi_reader_find(r, key) != NULL;
    if (m->head_dim_explicit) return get_int(r, key, 1, FQI_MAX_HEAD, &m->head_dim, e);
    if (r->rules->head_dim_default > 0) {
        m->head_dim = r->rules->head_dim_default;
        return FQ_OK;
    }
    if (m->hidden_size % m->num_attention_heads != 0)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(r->file), "config-heads",
                        "num_attention_heads: found %" PRId64 ", expected a divisor of hidden_size %" PRId64 " (there is no head_dim)",
                        m->num_attention_heads, m->hidden_size);
    m->head_dim = m->hidden_size / m->num_attention_heads;
    if (m->head_dim > FQI_MAX_HEAD)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(r->file), "config-heads",
                        "head_dim: found hidden_size / num_attention_heads = %" PRId64 ", expected at most %d", m->head_dim, FQI_MAX_HEAD);
    return FQ_OK;
}

static fq_status read_heads(const fqi_reader *r, fq_err *e)
{
    fq_model *m = r->m;
    FQI_TRY(get_int(r, "num_attention_heads", 1, FQI_MAX_HEAD, &m->num_attention_heads, e));
    if (r->rules->kv_is_heads)
        FQI_TRY(get_int_or(r, "num_key_value_heads", 1, FQI_MAX_HEAD, m->num_attention_heads, &m->num_key_value_heads, e));
    else
        FQI_TRY(get_int(r, "num_key_value_heads", 1, FQI_MAX_HEAD, &m->num_key_value_heads, e));
    if (m->num_attention_heads % m->num_key_value_heads != 0)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(r->file), "config-heads",
                        "num_key_value_heads: found %" PRId64 ", expected a divisor of num_attention_heads %" PRId64,
                        m->num_key_value_heads, m->num_attention_heads);
    return read_head_dim(r, e);
}

/* ---- dense and sparse layers ----------------------------------------------------------------------------------- */

static fq_status mark_step(const fqi_reader *r, fq_err *e)
{
    int64_t step, n_layer = r->m->num_hidden_layers;
    FQI_TRY(get_int_or(r, "decoder_sparse_step", 1, FQI_MAX_LAYER, 1, &step, e));
    for (int64_t i = 0; i < n_layer; i++) r->sparse[i] = (i + 1) % step == 0;
    const json_t *dense = fqi_reader_find(r, "mlp_only_layers");
    if (!dense) return FQ_OK;
    if (!json_is_array(dense)) return fqi_reader_fail(r, "mlp_only_layers", dense, "a list of layer numbers", e);
    for (size_t k = 0; k < json_array_size(dense); k++) {
        const json_t *v = json_array_get(dense, k);
        json_int_t i = json_is_integer(v) ? json_integer_value(v) : -1;
        if (i < 0 || i >= n_layer) return fqi_reader_fail(r, "mlp_only_layers", v, "layer numbers below num_hidden_layers", e);
        r->sparse[i] = false;
    }
    return FQ_OK;
}

static fq_status mark_from(const fqi_reader *r, fq_err *e)
{
    int64_t first, freq;
    FQI_TRY(get_int_or(r, "first_k_dense_replace", 0, FQI_MAX_LAYER, 0, &first, e));
    FQI_TRY(get_int_or(r, "moe_layer_freq", 1, FQI_MAX_LAYER, 1, &freq, e));
    for (int64_t i = 0; i < r->m->num_hidden_layers; i++) r->sparse[i] = i >= first && i % freq == 0;
    return FQ_OK;
}

static fq_status mark_interleaved(const fqi_reader *r, fq_err *e)
{
    int64_t step;
    FQI_TRY(get_int(r, "interleave_moe_layer_step", 1, FQI_MAX_LAYER, &step, e));
    for (int64_t i = 0; i < r->m->num_hidden_layers; i++) r->sparse[i] = (i + 1) % step == 0;
    return FQ_OK;
}

static const char *expert_key(const fqi_reader *r)
{
    static const char *const key[] = { "num_experts", "n_routed_experts", "num_local_experts" };
    for (size_t i = 0; i < FQI_COUNT(key); i++)
        if (fqi_reader_find(r, key[i])) return key[i];
    return key[0];
}

/* num_experts under its three names; two of them must agree (transformers 5 writes both). */
static fq_status read_expert_count(const fqi_reader *r, int64_t min, fq_err *e)
{
    static const char *const other[] = { "n_routed_experts", "num_local_experts" };
    const char *key = expert_key(r);
    FQI_TRY(get_int(r, key, min, FQI_MAX_EXPERT, &r->m->num_experts, e));
    for (size_t i = 0; i < FQI_COUNT(other); i++) {
        int64_t n;
        if (strcmp(other[i], key) == 0 || !fqi_reader_find(r, other[i])) continue;
        FQI_TRY(get_int(r, other[i], min, FQI_MAX_EXPERT, &n, e));
        if (n != r->m->num_experts)
            return fqi_fail(e, FQ_E_INPUT, FQI_FILE(r->file), "config-experts", "%s: found %" PRId64 ", expected %s %" PRId64,
                            other[i], n, key, r->m->num_experts);
    }
    return FQ_OK;
}

static fq_status read_top_k(const fqi_reader *r, fq_err *e)
{
    fq_model *m = r->m;
    const char *key = fqi_reader_find(r, "num_experts_per_tok") ? "num_experts_per_tok" : "experts_per_token";
    if (!fqi_reader_find(r, key)) key = "num_experts_per_tok";
    FQI_TRY(get_int(r, key, 1, FQI_MAX_EXPERT, &m->num_experts_per_tok, e));
    if (m->num_experts_per_tok > m->num_experts)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(r->file), "config-experts",
                        "%s: found %" PRId64 ", expected at most %" PRId64 " (the experts)", key, m->num_experts_per_tok, m->num_experts);
    return FQ_OK;
}

static fq_status mark_layers(const fqi_reader *r, fq_err *e)
{
    uint8_t rule = r->rules->sparse;
    if (rule == FQI_SPARSE_ANY) rule = fqi_reader_find(r, "first_k_dense_replace") ? FQI_SPARSE_FROM : FQI_SPARSE_STEP;
    if (rule == FQI_SPARSE_STEP) return mark_step(r, e);
    if (rule == FQI_SPARSE_FROM) return mark_from(r, e);
    if (rule == FQI_SPARSE_INTERLEAVE) return mark_interleaved(r, e);
    for (int64_t i = 0; i < r->m->num_hidden_layers; i++) r->sparse[i] = rule == FQI_SPARSE_ALL;
    return FQ_OK;
}

static fq_status read_sparse(const fqi_reader *r, fq_err *e)
{
    fq_model *m = r->m;
    const uint8_t rule = r->rules->sparse;
    bool any = rule == FQI_SPARSE_ANY;
    m->n_dense_layer = m->num_hidden_layers;
    if (rule == FQI_SPARSE_NONE || (any && !fqi_reader_find(r, expert_key(r)))) return FQ_OK;
    FQI_TRY(read_expert_count(r, any ? 0 : 1, e));
    if (m->num_experts == 0) return FQ_OK;
    FQI_TRY(read_top_k(r, e));
    FQI_TRY(mark_layers(r, e));
    for (int64_t i = 0; i < m->num_hidden_layers; i++) m->n_moe_layer += r->sparse[i];
    m->n_dense_layer -= m->n_moe_layer;
    return FQ_OK;
}

/* ---- widths --------------------------------------------------------------------------------------------------- */

/* The key of an expert's width in this file. Strangers that have no key of their own for it mean intermediate_size. */
static const char *expert_width_key(const fqi_reader *r)
{
    if (r->rules->expert_width) return r->rules->expert_width;
    bool own = r->rules->sparse != FQI_SPARSE_ANY || fqi_reader_find(r, "moe_intermediate_size");
    return own ? "moe_intermediate_size" : "intermediate_size";
}

static fq_status read_shared(const fqi_reader *r, fq_err *e)
{
    static const char key[] = "shared_expert_intermediate_size";
    fq_model *m = r->m;
    int64_t n;
    switch ((fqi_shared_rule)r->rules->shared) {
    case FQI_SHARED_NONE: break;
    case FQI_SHARED_KEY: return get_int(r, key, 1, FQI_MAX_WIDTH, &m->shared_expert_intermediate_size, e);
    case FQI_SHARED_OPTIONAL: return get_int_or(r, key, 0, FQI_MAX_WIDTH, 0, &m->shared_expert_intermediate_size, e);
    case FQI_SHARED_COUNT:
        FQI_TRY(get_int_or(r, "n_shared_experts", 0, 1024, 0, &n, e));
        m->shared_expert_intermediate_size = n * m->moe_intermediate_size;
        break;
    case FQI_SHARED_ONE: m->shared_expert_intermediate_size = m->moe_intermediate_size; break;
    }
    return FQ_OK;
}

static fq_status read_widths(const fqi_reader *r, fq_err *e)
{
    fq_model *m = r->m;
    const char *dense = r->rules->dense_width ? r->rules->dense_width : "intermediate_size";
    if (m->n_moe_layer > 0) {
        FQI_TRY(get_int(r, expert_width_key(r), 1, FQI_MAX_WIDTH, &m->moe_intermediate_size, e));
        FQI_TRY(read_shared(r, e));
    }
    if (m->n_dense_layer == 0) return FQ_OK;
    FQI_TRY(get_int(r, dense, 1, FQI_MAX_WIDTH, &m->intermediate_size, e));
    if (!r->rules->halved_width) return FQ_OK;
    if (m->intermediate_size % 2 != 0)
        return fqi_reader_fail(r, dense, fqi_reader_find(r, dense), "an even number: this family counts both halves of its gated MLP", e);
    m->intermediate_size /= 2;
    return FQ_OK;
}

/* n += product of the factors; false on overflow. */
static bool add_product(int64_t *n, const int64_t factor[4])
{
    int64_t p = 1;
    for (int i = 0; i < 4; i++)
        if (!fqi_mul_i64(p, factor[i], &p)) return false;
    return fqi_add_i64(*n, p, n);
}

static fq_status check_size(const fqi_reader *r, fq_err *e)
{
    const fq_model *m = r->m;
    const int64_t q = m->num_attention_heads * m->head_dim, kv = m->num_key_value_heads * m->head_dim;   /* 2^32 each at most */
    const int64_t term[][4] = {
        { 2, m->vocab_size, m->hidden_size, 1 },
        { 2, m->num_hidden_layers, m->hidden_size, q + kv },
        { 3, m->n_dense_layer, m->hidden_size, m->intermediate_size },
        { 3, m->n_moe_layer, m->hidden_size, m->shared_expert_intermediate_size },
        { 3 * m->n_moe_layer, m->num_experts, m->hidden_size, m->moe_intermediate_size },
    };
    int64_t n = 0;
    bool fits = true;
    for (size_t i = 0; i < FQI_COUNT(term); i++) fits = fits && add_product(&n, term[i]);
    if (fits && n <= FQI_MAX_PARAM) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(r->file), "model-size",
                    "found lengths that multiply to more than 2^56 parameters (hidden_size %" PRId64 ", %" PRId64 " layers, %" PRId64
                    " experts), expected a model",
                    m->hidden_size, m->num_hidden_layers, m->num_experts);
}

/* ---- flags and the rest ---------------------------------------------------------------------------------------- */

static fq_status read_bias(const fqi_reader *r, fq_err *e)
{
    fq_model *m = r->m;
    bool attention, qkv;
    FQI_TRY(get_bool(r, "attention_bias", false, &attention, e));
    FQI_TRY(get_bool(r, "qkv_bias", true, &qkv, e));
    switch ((fqi_bias_rule)r->rules->bias) {
    case FQI_BIAS_NONE: break;
    case FQI_BIAS_QKV: m->q_bias = m->kv_bias = true; break;
    case FQI_BIAS_QKV_KEY: m->q_bias = m->kv_bias = qkv; break;
    case FQI_BIAS_ATTENTION: m->q_bias = m->kv_bias = m->o_bias = attention; break;
    case FQI_BIAS_ATTENTION_QKV: m->q_bias = m->kv_bias = attention; break;
    }
    return r->rules->mlp_bias ? get_bool(r, "mlp_bias", false, &m->mlp_bias, e) : FQ_OK;
}

/* Sets *known when layer_types decides. */
static fq_status read_layer_types(const fqi_reader *r, bool *known, fq_err *e)
{
    const json_t *list = fqi_reader_find(r, "layer_types");
    *known = list != NULL;
    if (!list) return FQ_OK;
    if (!json_is_array(list) || json_array_size(list) != (size_t)r->m->num_hidden_layers) {
        char found[64] = "no list";
        if (json_is_array(list)) (void)snprintf(found, sizeof found, "%zu entries", json_array_size(list));
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(r->file), FQI_RULE_FIELD, "layer_types: found %s, expected %" PRId64 " (num_hidden_layers)",
                        found, r->m->num_hidden_layers);
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_string(v)) return fqi_reader_fail(r, "layer_types", v, "strings", e);
        const char *kind = json_string_value(v);
        if (strcmp(kind, "sliding_attention") == 0 || strcmp(kind, "chunked_attention") == 0) r->m->sliding_window = true;
    }
    return FQ_OK;
}

static fq_status read_window(const fqi_reader *r, fq_err *e)
{
    bool known, use;
    int64_t window, from;
    FQI_TRY(get_int_or(r, "sliding_window", 0, INT64_MAX, 0, &window, e));
    FQI_TRY(get_bool(r, "use_sliding_window", r->rules->window == FQI_WINDOW_ANY, &use, e));
    FQI_TRY(get_int_or(r, "max_window_layers", 0, INT64_MAX, r->rules->max_window_layers, &from, e));
    FQI_TRY(read_layer_types(r, &known, e));
    if (known) return FQ_OK;
    switch ((fqi_window_rule)r->rules->window) {
    case FQI_WINDOW_NONE: break;
    case FQI_WINDOW_KEY: r->m->sliding_window = window > 0; break;
    case FQI_WINDOW_UNLESS_NULL: r->m->sliding_window = window > 0 || !fqi_reader_has(r, "sliding_window"); break;
    case FQI_WINDOW_USE: r->m->sliding_window = use; break;
    case FQI_WINDOW_USE_FROM: r->m->sliding_window = use && from < r->m->num_hidden_layers; break;
    case FQI_WINDOW_USE_BELOW: r->m->sliding_window = use && from > 0; break;
    case FQI_WINDOW_ANY: r->m->sliding_window = use && window > 0; break;
    }
    return FQ_OK;
}

/* A number that fitq does not use but an engine divides or raises to powers by: absent, or finite and above 0. */
static fq_status check_positive(const fqi_reader *r, const json_t *obj, const char *in, const char *key, fq_err *e)
{
    char label[FQI_NAME_MAX + 1];
    const json_t *v = fqi_reader_member(obj, key);
    if (!v || (json_is_number(v) && isfinite(json_number_value(v)) && json_number_value(v) > 0)) return FQ_OK;
    return fqi_reader_fail(r, fqi_reader_label(in, key, label), v, "a number above 0", e);
}

static fq_status check_numbers(const fqi_reader *r, fq_err *e)
{
    static const char *const key[] = { "rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "rope_theta", "rotary_emb_base",
        "max_position_embeddings" };
    static const char *const rope[] = { "rope_scaling", "rope_parameters" };
    const json_t *level[] = { r->root, r->sub };
    for (size_t l = 0; l < 2; l++) {
        for (size_t i = 0; i < FQI_COUNT(key); i++) FQI_TRY(check_positive(r, level[l], NULL, key[i], e));
        for (size_t i = 0; i < FQI_COUNT(rope); i++) {
            const json_t *v = fqi_reader_member(level[l], rope[i]);
            if (v && !json_is_object(v)) return fqi_reader_fail(r, rope[i], v, "an object or null", e);
            FQI_TRY(check_positive(r, v, rope[i], "rope_theta", e));
            FQI_TRY(check_positive(r, v, rope[i], "factor", e));
        }
    }
    return FQ_OK;
}

/* Advice only (how long a context the planner promises), so a number that check_numbers let pass is never refused here. */
static int64_t max_positions(const fqi_reader *r)
{
    static const int64_t cap = INT64_C(1) << 40;
    const json_t *v = fqi_reader_find(r, "max_position_embeddings");
    if (!v) return 0;
    if (json_is_integer(v)) return json_integer_value(v) < cap ? json_integer_value(v) : cap;
    double d = json_number_value(v);
    return d < (double)cap ? (int64_t)d : cap;
}

static fq_status get_name(const fqi_reader *r, const char *key, char *out, size_t n_out, fq_err *e)
{
    const json_t *v = fqi_reader_find(r, key);
    if (!v) return FQ_OK;
    if (!json_is_string(v) || json_string_length(v) >= n_out || strlen(json_string_value(v)) != json_string_length(v))
        return fqi_reader_fail(r, key, v, "a short string", e);
    memcpy(out, json_string_value(v), json_string_length(v) + 1);
    return FQ_OK;
}

static fq_status read_architecture(const fqi_reader *r, fq_err *e)
{
    const json_t *list = fqi_reader_member(r->root, "architectures");
    if (!list || (json_is_array(list) && json_array_size(list) == 0)) return FQ_OK;
    const json_t *v = json_array_get(list, 0);   /* NULL if it is no array */
    if (!json_is_string(v) || json_string_length(v) >= sizeof r->m->architecture)
        return fqi_reader_fail(r, "architectures", list, "a list of class names", e);
    (void)snprintf(r->m->architecture, sizeof r->m->architecture, "%s", json_string_value(v));
    return FQ_OK;
}

static fq_status read_flags(const fqi_reader *r, bool family_norm, fq_err *e)
{
    bool norm;
    FQI_TRY(read_bias(r, e));
    FQI_TRY(read_window(r, e));
    FQI_TRY(get_bool(r, "use_qk_norm", false, &norm, e));
    /* Llama 4 says use_qk_norm of a norm without weights. */
    r->m->qk_norm = family_norm || r->rules->qk_norm || (norm && !r->m->family[0] && r->rules->sparse != FQI_SPARSE_INTERLEAVE);
    /* transformers ties by the flag at the top of a multimodal config. */
    const json_t *top = fqi_reader_member(r->root, "tie_word_embeddings");
    FQI_TRY(fqi_json_get_bool(top ? r->root : fqi_reader_holder(r, "tie_word_embeddings"), "tie_word_embeddings", false, r->file,
                              &r->m->tie_word_embeddings, e));
    FQI_TRY(get_name(r, "dtype", r->m->torch_dtype, sizeof r->m->torch_dtype, e));   /* transformers 5 */
    return get_name(r, "torch_dtype", r->m->torch_dtype, sizeof r->m->torch_dtype, e);
}

/* ---- the whole ------------------------------------------------------------------------------------------------- */

static fq_status read_model(fqi_reader *r, fqi_config *c, fq_err *e)
{
    fq_model *m = r->m;
    FQI_TRY(read_architecture(r, e));
    FQI_TRY(get_int(r, "hidden_size", 1, FQI_MAX_WIDTH, &m->hidden_size, e));
    FQI_TRY(get_int(r, "vocab_size", 1, FQI_MAX_WIDTH, &m->vocab_size, e));
    FQI_TRY(get_int(r, "num_hidden_layers", 1, FQI_MAX_LAYER, &m->num_hidden_layers, e));
    c->layer_is_sparse = fqi_calloc((size_t)m->num_hidden_layers, sizeof *c->layer_is_sparse);
    if (!c->layer_is_sparse) return fqi_fail_nomem(e, "table of layers");
    r->sparse = c->layer_is_sparse;
    FQI_TRY(read_heads(r, e));
    FQI_TRY(read_sparse(r, e));
    FQI_TRY(read_widths(r, e));
    FQI_TRY(check_size(r, e));
    FQI_TRY(read_flags(r, c->family && c->family->qk_norm, e));
    FQI_TRY(check_numbers(r, e));
    m->max_position_embeddings = max_positions(r);
    m->vision_tower = fqi_reader_member(r->root, "vision_config") || fqi_reader_member(r->root, "audio_config");
    return fqi_reader_quant(r, e);
}

/* Where the text fields are: a family with a vision tower, or a stranger, may have moved them down. */
static fq_status find_text(fqi_reader *r, fqi_config *c, fq_err *e)
{
    const char *key = c->family ? c->family->text_config : "text_config";
    const json_t *sub = key[0] ? fqi_reader_member(c->root, key) : NULL;
    if (!sub) return FQ_OK;
    if (!json_is_object(sub)) return fqi_reader_fail(r, key, sub, "an object", e);
    if (!fqi_reader_member(sub, "hidden_size")) return FQ_OK;
    r->sub = sub;
    c->text_in_sub = true;
    return FQ_OK;
}

static fq_status parse_into(fqi_config *c, const char *file, fq_err *e)
{
    fqi_reader r = { .file = file, .m = &c->model };
    FQI_TRY(fqi_json_parse(c->text, c->n_text, file, &c->root, e));
    r.root = c->root;
    if (!json_is_object(c->root)) return fqi_reader_fail(&r, "config.json", c->root, "an object", e);
    const json_t *type = fqi_reader_member(c->root, "model_type");
    if (!type) return fqi_reader_fail(&r, "model_type", NULL, "the name of a model family", e);
    FQI_TRY(get_name(&r, "model_type", c->model.model_type, sizeof c->model.model_type, e));
    c->family = fqi_family_find(c->model.model_type);
    if (c->family) (void)snprintf(c->model.family, sizeof c->model.family, "%s", c->family->name);
    r.rules = c->family ? c->family->rules : fqi_foreign_rules(c->model.model_type);
    FQI_TRY(find_text(&r, c, e));
    return read_model(&r, c, e);
}

fq_status fqi_config_parse(const char *text, size_t n, const char *file, fqi_config *out, fq_err *e)
{
    fqi_config c = { .n_text = n };
    c.text = fqi_calloc(n + 1, 1);
    if (!c.text) return fqi_fail_nomem(e, "config.json");
    if (n > 0) memcpy(c.text, text, n);
    fq_status s = parse_into(&c, file, e);
    if (s == FQ_OK)
        *out = c;
    else
        fqi_config_free(&c);
    return s;
}

fq_status fqi_config_load(const char *path, fqi_config *out, fq_err *e)
{
    char *joined = NULL, *text = NULL;
    size_t n = 0;
    if (fqi_path_is_dir(path)) {
        joined = fqi_path_join(path, "config.json");
        if (!joined) return fqi_fail_nomem(e, "path");
    }
    const char *file = joined ? joined : path;
    fq_status s = fqi_file_slurp(file, CONFIG_MAX_BYTES, &text, &n, e);
    if (s == FQ_OK) s = fqi_config_parse(text, n, file, out, e);
    free(text);
    free(joined);
    return s;
}

void fqi_config_free(fqi_config *c)
{
    if (!c) return;
    json_decref(c->root);
    free(c->layer_is_sparse);
    free(c->text);
    *c = (fqi_config){ .family = NULL };
}

fq_status fq_model_read(const char *path, fq_model *out, fq_err *e)
{
    fqi_config c;
    if (!path || !out) return fqi_fail(e, FQ_E_USAGE, NULL, "argument", "found NULL, expected a path and a model");
    FQI_TRY(fqi_config_load(path, &c, e));
    *out = c.model;
    fqi_config_free(&c);
    return FQ_OK;
}

/* ---- where a member stands -------------------------------------------------------------------------------------- */

size_t fqi_config_paths(const fqi_config *c, const char *field, char path[2][FQI_CONFIG_PATH_MAX])
{
    const char *sub_name = c->family && c->family->text_config[0] ? c->family->text_config : "text_config";
    fqi_reader r = { .root = c->root, .sub = c->text_in_sub ? json_object_get(c->root, sub_name) : NULL };
    r.rules = c->family ? c->family->rules : fqi_foreign_rules(c->model.model_type);
    const char *key = field;
    if (strcmp(field, "intermediate_size") == 0 && r.rules->dense_width) key = r.rules->dense_width;
    if (strcmp(field, "moe_intermediate_size") == 0) key = expert_width_key(&r);
    if (strcmp(field, "head_dim") == 0 && r.rules->head_dim) key = r.rules->head_dim;
    if (strcmp(field, "num_experts") == 0) key = expert_key(&r);
    size_t n = 0;
    if (r.sub && json_object_get(r.sub, key)) (void)snprintf(path[n++], FQI_CONFIG_PATH_MAX, "%s.%s", sub_name, key);
    if (json_object_get(r.root, key)) (void)snprintf(path[n++], FQI_CONFIG_PATH_MAX, "%s", key);
    if (n == 0) (void)snprintf(path[0], FQI_CONFIG_PATH_MAX, "%s%s%s", r.sub ? sub_name : "", r.sub ? "." : "", key);
    return n;
}
