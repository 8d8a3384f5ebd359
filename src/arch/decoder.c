/* decoder.c - what running a model needs beyond its lengths (see decoder.h).
 *
 * Reads the same tree as config.c, by the same rules of the family's table. What is looked for and refused here is what would make the
 * forward pass compute another function than the engines do: an activation that is not SiLU, layers that are not attention,
 * soft caps, multipliers. A key that is not known is not one of them: configs are full of keys that change nothing.
 * The rotary embedding is in decoder_rope.c. */
#include "arch/decoder.h"

#include <stdlib.h>
#include <string.h>

#include "arch/reader.h"
#include "base/mem.h"

/* ---- what is not computed --------------------------------------------------------------------------------------- */

/* Keys that change the function of a decoder. null, false, the neutral number and an empty list change nothing. */
static const struct { const char *key; double neutral; } foreign_key[] = {
    { "attn_logit_softcapping", 0 }, { "final_logit_softcapping", 0 }, { "query_pre_attn_scalar", 0 },       /* gemma2 */
    { "attention_multiplier", 0 }, { "residual_multiplier", 1 }, { "embedding_multiplier", 1 }, { "logits_scaling", 1 },   /* granite */
    { "logit_scale", 1 }, { "clip_qkv", 0 },                                                                  /* cohere, dbrx */
    { "scale_emb", 1 }, { "scale_depth", 0 }, { "dim_model_base", 0 },                                        /* minicpm */
    { "kv_lora_rank", 0 }, { "q_lora_rank", 0 },                                                              /* latent attention */
    { "linear_num_value_heads", 0 }, { "full_attention_interval", 1 }, { "attention_chunk_size", 0 },         /* qwen3_next, llama4 */
    { "no_rope_layers", 0 }, { "no_rope_layer_interval", 0 }, { "attn_temperature_tuning", 0 },
    { "routed_scaling_factor", 1 }, { "n_group", 1 }, { "topk_group", 1 },                                    /* deepseek routing */
    { "rotary_pct", 1 }, { "rope_ratio", 1 }, { "alibi", 0 }, { "parallel_attn", 0 }, { "rope_interleave", 0 },
};

static bool changes_nothing(const json_t *v, double neutral)
{
    if (json_is_false(v)) return true;
    if (json_is_array(v)) return json_array_size(v) == 0;
    return json_is_number(v) && json_number_value(v) == neutral;
}

static fq_status refuse_foreign(const fqi_reader *r, const fq_model *m, fq_err *e)
{
    const json_t *level[] = { r->sub, r->root };
    for (size_t l = 0; l < FQI_COUNT(level); l++) {
        for (size_t i = 0; i < FQI_COUNT(foreign_key); i++) {
            const json_t *v = fqi_reader_member(level[l], foreign_key[i].key);
            if (v && !changes_nothing(v, foreign_key[i].neutral))
                return fqi_reader_fail(r, foreign_key[i].key, v, "nothing (the forward pass does not compute it)", e);
        }
        const json_t *norm = fqi_reader_member(level[l], "use_qk_norm"), *score = fqi_reader_member(level[l], "scoring_func");
        if (norm && !m->qk_norm && !json_is_false(norm))
            return fqi_reader_fail(r, "use_qk_norm", norm, "false (this family has no such norm)", e);
        if (score && !(json_is_string(score) && strcmp(json_string_value(score), "softmax") == 0))
            return fqi_reader_fail(r, "scoring_func", score, "\"softmax\" (the forward pass computes no other)", e);
    }
    return FQ_OK;
}

/* Every class of the table has silu where the key is absent; "swish" is the same function. */
static fq_status check_activation(const fqi_reader *r, fq_err *e)
{
    FQI_TRY(fqi_reader_copies(r, "hidden_act", e));
    const json_t *v = fqi_reader_find(r, "hidden_act");
    if (!v || (json_is_string(v) && (strcmp(json_string_value(v), "silu") == 0 || strcmp(json_string_value(v), "swish") == 0))) return FQ_OK;
    return fqi_reader_fail(r, "hidden_act", v, "\"silu\" (the forward pass computes no other activation)", e);
}

/* ---- numbers and flags ------------------------------------------------------------------------------------------ */

static fq_status read_eps(const fqi_reader *r, double *out, fq_err *e)
{
    /* Below, a float would make it 0 or lose its bits; above, nothing is left of the norm. */
    static const fqi_reader_real eps = { .key = "rms_norm_eps", .min = 1e-30, .max = 1, .required = true };
    FQI_TRY(fqi_reader_copies(r, eps.key, e));
    return fqi_reader_number(r, fqi_reader_holder(r, eps.key), NULL, &eps, out, e);
}

static fq_status read_max_position(const fqi_reader *r, int64_t *out, fq_err *e)
{
    static const fqi_json_int want = { .key = "max_position_embeddings", .min = 1, .max = FQI_MAX_POSITION, .has_default = true };
    return fqi_json_get_int(fqi_reader_holder(r, want.key), &want, r->file, out, e);
}

static fq_status read_topk(const fqi_reader *r, bool *out, fq_err *e)
{
    FQI_TRY(fqi_reader_copies(r, "norm_topk_prob", e));
    FQI_TRY(fqi_json_get_bool(fqi_reader_holder(r, "norm_topk_prob"), "norm_topk_prob", false, r->file, out, e));
    if (r->rules->always_norm_topk) *out = true;
    return FQ_OK;
}

static fq_status add_eos(const fqi_reader *r, const json_t *v, fqi_decoder *d, fq_err *e)
{
    char expected[96];
    json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;
    if (id < 0 || id >= d->model.vocab_size) {
        (void)snprintf(expected, sizeof expected, "an id, or a list of ids, below vocab_size %lld", (long long)d->model.vocab_size);
        return fqi_reader_fail(r, "eos_token_id", v, expected, e);
    }
    if (d->n_eos == FQI_COUNT(d->eos)) return fqi_reader_fail(r, "eos_token_id", v, "at most 16 ids", e);
    d->eos[d->n_eos++] = (uint32_t)id;
    return FQ_OK;
}

/* The one at the top goes before: that is the one by which transformers makes a generation config. */
static fq_status read_eos(const fqi_reader *r, fqi_decoder *d, fq_err *e)
{
    const json_t *top = fqi_reader_member(r->root, "eos_token_id"), *v = top ? top : fqi_reader_find(r, "eos_token_id");
    if (!v) return FQ_OK;
    if (!json_is_array(v)) return add_eos(r, v, d, e);
    for (size_t i = 0; i < json_array_size(v); i++) FQI_TRY(add_eos(r, json_array_get(v, i), d, e));
    return FQ_OK;
}

/* ---- windows ---------------------------------------------------------------------------------------------------- */

typedef struct windows {
    const json_t *types;     /* layer_types, or NULL */
    bool use;                /* use_sliding_window */
    int64_t from;            /* max_window_layers */
} windows;

static bool by_flag(const fqi_reader *r)
{
    const uint8_t w = r->rules->window;
    return w == FQI_WINDOW_USE || w == FQI_WINDOW_USE_FROM || w == FQI_WINDOW_USE_BELOW;
}

static fq_status by_type(const fqi_reader *r, const windows *w, int64_t layer, bool *out, fq_err *e)
{
    const json_t *v = json_array_get(w->types, (size_t)layer);
    const char *kind = json_is_string(v) ? json_string_value(v) : "";
    *out = strcmp(kind, "sliding_attention") == 0;
    if (!*out && strcmp(kind, "full_attention") != 0)
        return fqi_reader_fail(r, "layer_types", v, "\"full_attention\" or \"sliding_attention\" (the forward pass computes no other)", e);
    /* transformers drops the window then, others keep it. */
    if (*out && by_flag(r) && !w->use)
        return fqi_reader_fail(r, "use_sliding_window", fqi_reader_find(r, "use_sliding_window"), "true, as layer_types has \"sliding_attention\"", e);
    return FQ_OK;
}

static bool by_rule(const fqi_reader *r, const windows *w, int64_t layer)
{
    switch ((fqi_window_rule)r->rules->window) {
    case FQI_WINDOW_NONE:
    case FQI_WINDOW_ANY: break;
    case FQI_WINDOW_KEY: return fqi_reader_find(r, "sliding_window") != NULL;
    case FQI_WINDOW_UNLESS_NULL: return fqi_reader_find(r, "sliding_window") || !fqi_reader_has(r, "sliding_window");
    case FQI_WINDOW_USE: return w->use;
    case FQI_WINDOW_USE_FROM: return w->use && layer >= w->from;
    case FQI_WINDOW_USE_BELOW: return w->use && layer < w->from && layer % 2 == 0;
    }
    return false;
}

/* The length is asked for only where a layer has a window: files without any carry all sorts of them. */
static fq_status read_length(const fqi_reader *r, int64_t *out, fq_err *e)
{
    fqi_json_int want = { .key = "sliding_window", .min = 1, .max = FQI_MAX_POSITION, .def = r->rules->sliding_window };
    want.has_default = want.def > 0 && !fqi_reader_has(r, want.key);
    FQI_TRY(fqi_reader_copies(r, want.key, e));
    return fqi_json_get_int(fqi_reader_holder(r, want.key), &want, r->file, out, e);
}

static fq_status read_windows(const fqi_reader *r, fqi_decoder *d, fq_err *e)
{
    windows w = { .types = fqi_reader_find(r, "layer_types") };
    int64_t length = 0;
    fqi_json_int from = { .key = "max_window_layers", .min = 0, .max = INT64_MAX, .has_default = true, .def = r->rules->max_window_layers };
    FQI_TRY(fqi_reader_copies(r, "layer_types", e));
    FQI_TRY(fqi_reader_copies(r, "use_sliding_window", e));
    FQI_TRY(fqi_json_get_bool(fqi_reader_holder(r, "use_sliding_window"), "use_sliding_window", false, r->file, &w.use, e));
    FQI_TRY(fqi_json_get_int(fqi_reader_holder(r, from.key), &from, r->file, &w.from, e));
    for (int64_t i = 0; i < d->model.num_hidden_layers; i++) {
        bool slides = false;
        if (w.types) FQI_TRY(by_type(r, &w, i, &slides, e));
        else slides = by_rule(r, &w, i);
        if (slides && length == 0) FQI_TRY(read_length(r, &length, e));
        d->window[i] = slides ? length : 0;
    }
    return FQ_OK;
}

/* ---- the whole -------------------------------------------------------------------------------------------------- */

static fq_status read_into(const fqi_reader *r, const fqi_config *c, fqi_decoder *d, fq_err *e)
{
    const size_t n_layer = (size_t)c->model.num_hidden_layers;
    int64_t max_position;
    d->window = fqi_calloc(n_layer, sizeof *d->window);
    d->sparse = fqi_calloc(n_layer, sizeof *d->sparse);
    if (!d->window || !d->sparse) return fqi_fail_nomem(e, "table of layers");
    memcpy(d->sparse, c->layer_is_sparse, n_layer * sizeof *d->sparse);
    FQI_TRY(refuse_foreign(r, &c->model, e));
    FQI_TRY(check_activation(r, e));
    FQI_TRY(read_eps(r, &d->rms_norm_eps, e));
    FQI_TRY(read_max_position(r, &max_position, e));
    FQI_TRY(fqi_reader_rope(r, c->model.head_dim, max_position, &d->rope, e));
    FQI_TRY(read_windows(r, d, e));
    FQI_TRY(read_topk(r, &d->norm_topk_prob, e));
    return read_eos(r, d, e);
}

fq_status fqi_decoder_read(const fqi_config *c, const char *file, fqi_decoder *out, fq_err *e)
{
    if (!c->family) return fqi_family_unknown(c->model.model_type, file, e);
    fqi_decoder d = { .model = c->model, .family = c->family };
    const fqi_reader r = { .root = c->root, .rules = c->family->rules, .file = file,
                           .sub = c->text_in_sub ? json_object_get(c->root, c->family->text_config) : NULL };
    fq_status s = read_into(&r, c, &d, e);
    if (s == FQ_OK) *out = d;
    else fqi_decoder_free(&d);
    return s;
}

void fqi_decoder_free(fqi_decoder *d)
{
    if (!d) return;
    free(d->window);
    free(d->sparse);
    *d = (fqi_decoder){ 0 };
}
