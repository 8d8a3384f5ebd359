/* family.c - the registry of families, and binding names to their tables.
 *
 * A stored name is taken apart from the left:
 *
 *     module._orig_mod. | model.language_model. | layers. 17 .self_attn.q_proj.weight
 *     wrapper             body prefix             canonical name
 *
 * The wrapper is any run of the words that trainers put in front, the body prefix any run of "model." and "language_model."; what
 * follows must be "layers.<number>." for a name to count as a layer of the decoder. All layers of one checkpoint must agree, since
 * an engine that renames one style reads the other as missing weights. Not found here: whether shapes are right, and tensors of
 * packed formats (qweight, scales, ...), which the tables do not list. Every step is a bounded look at one name, so a checkpoint
 * of n names costs n. */
#include <stdio.h>
#include <string.h>

#include "arch/table.h"
#include "base/checked.h"

const char *const fqi_body_model[] = { "model.", NULL };
const char *const fqi_no_pass_prefix[] = { NULL };
const char *const fqi_stray_buffer[] = { "rotary_emb.inv_freq", "rotary_emb.original_inv_freq", "rotary_emb.cos_cached",
    "rotary_emb.sin_cached", "self_attn.masked_bias", NULL };

/* Table order: what users are shown, and the order of fq_family_name. */
static const fqi_family *const registry[] = { &fqi_family_qwen2, &fqi_family_qwen3, &fqi_family_qwen2_moe,
    &fqi_family_qwen3_moe, &fqi_family_llama, &fqi_family_mistral, &fqi_family_mixtral, &fqi_family_qwen2_vl,
    &fqi_family_qwen2_5_vl, &fqi_family_qwen3_vl };

/* ---- registry ------------------------------------------------------------------------------------------------- */

const fqi_family *fqi_family_at(size_t i)
{
    return i < FQI_COUNT(registry) ? registry[i] : NULL;
}

const fqi_family *fqi_family_find(const char *model_type)
{
    for (size_t i = 0; i < FQI_COUNT(registry); i++)
        if (strcmp(registry[i]->name, model_type) == 0) return registry[i];
    return NULL;
}

const char *fq_family_name(size_t i)
{
    const fqi_family *f = fqi_family_at(i);
    return f ? f->name : NULL;
}

fq_status fqi_family_unknown(const char *model_type, const char *file, fq_err *e)
{
    char known[512] = "", name[FQI_NAME_MAX + 1];
    size_t used = 0;
    for (size_t i = 0; i < FQI_COUNT(registry) && used < sizeof known; i++) {
        int n = snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", registry[i]->name);
        if (n < 0) break;
        used += (size_t)n;
    }
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "unknown-family", "found model_type \"%s\", expected one of %s",
                    fqi_escape(name, model_type), known);
}

bool fqi_family_experts_say_intermediate(const fqi_family *f)
{
    return f->rules->expert_width && strcmp(f->rules->expert_width, "intermediate_size") == 0;
}

/* ---- taking a name apart -------------------------------------------------------------------------------------- */

static const char *skip_word(const char *s, const char *word)
{
    size_t n = strlen(word);
    return strncmp(s, word, n) == 0 ? s + n : NULL;
}

/* Past the longest run of the words. */
static const char *skip_words(const char *s, const char *const *word)
{
    for (bool again = true; again;) {
        again = false;
        for (size_t i = 0; word[i] && !again; i++) {
            const char *t = skip_word(s, word[i]);
            if (t) { s = t; again = true; }
        }
    }
    return s;
}

static const char *skip_wrapper(const char *name)
{
    /* DistributedDataParallel, torch.compile, PEFT; a run of them is common ("module._orig_mod."). */
    static const char *const word[] = { "module.", "_orig_mod.", "base_model.model.", NULL };
    return skip_words(name, word);
}

static const char *skip_body_words(const char *s)
{
    static const char *const word[] = { "model.", "language_model.", NULL };
    return skip_words(s, word);
}

/* "17." -> 17. At most 9 digits, and no leading zero: "layers.01." would be a second name for layer 1. */
static const char *skip_number(const char *s, int64_t *out)
{
    int64_t v = 0;
    int n = 0;
    while (s[n] >= '0' && s[n] <= '9') {
        if (n == 9) return NULL;
        v = v * 10 + (s[n] - '0');
        n++;
    }
    if (n == 0 || (n > 1 && s[0] == '0') || s[n] != '.') return NULL;
    *out = v;
    return s + n + 1;
}

/* ---- naming --------------------------------------------------------------------------------------------------- */

/* Where the parts of one name begin. */
typedef struct parts { const char *name, *body, *canonical; } parts;

static bool find_layer(const char *name, parts *out)
{
    int64_t layer;
    out->name = name;
    out->body = skip_wrapper(name);
    out->canonical = skip_body_words(out->body);
    const char *s = skip_word(out->canonical, "layers.");
    return s && skip_number(s, &layer);
}

static bool find_head(const char *name, parts *out)
{
    out->name = name;
    out->body = skip_wrapper(name);
    out->canonical = skip_body_words(out->body);
    return strncmp(out->canonical, "lm_head.", 8) == 0;
}

static bool span_is(const char *begin, const char *end, const char *text)
{
    size_t n = (size_t)(end - begin);
    return strlen(text) == n && memcmp(begin, text, n) == 0;
}

static fq_status copy_span(char out[128], const char *begin, const char *end, const char *name, const char *file, fq_err *e)
{
    size_t n = (size_t)(end - begin);
    if (n >= 128)
        return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(file, name), "prefix", "found a prefix of %zu bytes, expected at most 127", n);
    memcpy(out, begin, n);
    out[n] = '\0';
    return FQ_OK;
}

static fq_status fail_mixed(const char *first, const char *name, const char *file, fq_err *e)
{
    char shown[FQI_NAME_MAX + 1];
    return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(file, name), "prefix",
                    "found another prefix than that of \"%s\", expected one for all layers", fqi_escape(shown, first));
}

/* The prefix a head has beside this body when none is stored: the body's without its own last module ("model." -> "",
 * "language_model.model." -> "language_model.", "model.language_model." -> ""). */
static void guess_head_prefix(const char *body, char out[128])
{
    size_t n = strlen(body);
    static const char lm[] = "language_model.", m[] = "model.";
    const size_t n_lm = sizeof lm - 1, n_m = sizeof m - 1;
    if (n >= n_lm && strcmp(body + n - n_lm, lm) == 0) {
        n -= n_lm;
        if (n >= n_m && strcmp(body + n, lm) == 0 && strncmp(body + n - n_m, m, n_m) == 0) n -= n_m;
    } else if (n >= n_m && strcmp(body + n - n_m, m) == 0) {
        n -= n_m;
    }
    memcpy(out, body, n);
    out[n] = '\0';
}

static bool is_listed(const char *const *list, const char *s)
{
    for (size_t i = 0; list[i]; i++)
        if (strcmp(list[i], s) == 0) return true;
    return false;
}

fq_status fqi_naming_detect(const fqi_family *f, const char *const *name, size_t n, const char *file, fqi_naming *out, fq_err *e)
{
    fqi_naming got = { .usual = false };
    const char *first = NULL, *head = NULL;
    parts p;
    for (size_t i = 0; i < n; i++) {
        if (!find_layer(name[i], &p)) {
            if (!head && find_head(name[i], &p)) head = name[i];
            continue;
        }
        if (!first) {
            first = name[i];
            FQI_TRY(copy_span(got.wrapper, p.name, p.body, first, file, e));
            FQI_TRY(copy_span(got.body_prefix, p.body, p.canonical, first, file, e));
        } else if (!span_is(p.name, p.body, got.wrapper) || !span_is(p.body, p.canonical, got.body_prefix)) {
            return fail_mixed(first, name[i], file, e);
        }
    }
    if (!first)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "prefix",
                        "found no tensor that is a layer of a decoder, expected names like \"%slayers.0.%s\"", f->body_prefix[0],
                        "self_attn.q_proj.weight");
    guess_head_prefix(got.body_prefix, got.head_prefix);
    if (head) {
        (void)find_head(head, &p);
        if (!span_is(p.name, p.body, got.wrapper)) return fail_mixed(first, head, file, e);
        FQI_TRY(copy_span(got.head_prefix, p.body, p.canonical, head, file, e));
    }
    got.usual = got.wrapper[0] == '\0' && got.head_prefix[0] == '\0' && is_listed(f->body_prefix, got.body_prefix);
    *out = got;
    return FQ_OK;
}

/* ---- binding -------------------------------------------------------------------------------------------------- */

static const fqi_row *find_row(const fqi_family *f, fqi_scope scope, const char *suffix)
{
    for (size_t i = 0; i < f->n_row; i++)
        if (f->row[i].scope == scope && strcmp(f->row[i].suffix, suffix) == 0) return &f->row[i];
    return NULL;
}

static bool has_prefix(const char *const *list, const char *s)
{
    for (size_t i = 0; list[i]; i++)
        if (skip_word(s, list[i])) return true;
    return false;
}

/* The suffix must follow a dot or be all there is: "xrotary_emb.inv_freq" is another name. */
static bool has_suffix(const char *const *list, const char *s)
{
    size_t n = strlen(s);
    for (size_t i = 0; list[i]; i++) {
        size_t k = strlen(list[i]);
        if (k <= n && strcmp(s + n - k, list[i]) == 0 && (k == n || s[n - k - 1] == '.')) return true;
    }
    return false;
}

/* The expert first: in a large mixture nearly every name is one. A fused tensor has no number behind the infix. */
static bool bind_layer(const fqi_family *f, const char *canonical, fqi_bound *out)
{
    const char *s = skip_word(canonical, "layers.");
    int64_t layer, expert = -1;
    if (!s || !(s = skip_number(s, &layer))) return false;
    const char *suffix = f->expert_infix ? skip_word(s, f->expert_infix) : NULL;
    if (suffix) suffix = skip_number(suffix, &expert);
    const fqi_row *row = suffix ? find_row(f, FQI_EXPERT, suffix) : find_row(f, FQI_LAYER, s);
    if (!row) return false;
    *out = (fqi_bound){ .row = row, .layer = layer, .expert = suffix ? expert : -1, .canonical = canonical };
    return true;
}

static bool bind_body(const fqi_family *f, const char *canonical, fqi_bound *out)
{
    if (bind_layer(f, canonical, out)) return true;
    const fqi_row *row = find_row(f, FQI_BODY, canonical);
    if (!row && !has_suffix(f->pass_suffix, canonical)) return false;
    *out = (fqi_bound){ .row = row, .layer = -1, .expert = -1, .canonical = canonical };
    return true;
}

bool fqi_bind_name(const fqi_family *f, const fqi_naming *naming, const char *name, fqi_bound *out)
{
    const char *inner = skip_word(name, naming->wrapper);
    if (!inner) return false;
    const char *body = skip_word(inner, naming->body_prefix), *head = skip_word(inner, naming->head_prefix);
    if (body && bind_body(f, body, out)) return true;
    const fqi_row *row = head ? find_row(f, FQI_HEAD, head) : NULL;
    if (row) {
        *out = (fqi_bound){ .row = row, .layer = -1, .expert = -1, .canonical = head };
        return true;
    }
    if (!has_prefix(f->pass_prefix, inner) && !(head && has_prefix(f->pass_prefix, head))) return false;
    *out = (fqi_bound){ .row = NULL, .layer = -1, .expert = -1, .canonical = inner };
    return true;
}

/* ---- biases that no model has ---- */

#define EXTRA(scope, axis) [axis] = { scope, "", "extra_bias", FQI_BESIDE_CODES, 1, { { axis, 1 } } }
static const fqi_row extra_bias[] = { EXTRA(FQI_LAYER, FQI_AX_HIDDEN), EXTRA(FQI_LAYER, FQI_AX_FF), EXTRA(FQI_LAYER, FQI_AX_SHARED_FF), EXTRA(FQI_LAYER, FQI_AX_Q), EXTRA(FQI_LAYER, FQI_AX_KV) };
static const fqi_row extra_expert_bias[] = { EXTRA(FQI_EXPERT, FQI_AX_HIDDEN), EXTRA(FQI_EXPERT, FQI_AX_MOE_FF) };
#undef EXTRA

bool fqi_bind_extra_bias(const fqi_family *f, const fqi_naming *naming, const char *name, fqi_bound *out)
{
    static const char bias[] = ".bias", weight[] = ".weight";
    char plain[1024];
    const size_t n = strlen(name), n_module = n - (sizeof bias - 1);
    fqi_bound b;
    if (n < sizeof bias || strcmp(name + n_module, bias) != 0 || n_module + sizeof weight > sizeof plain) return false;
    memcpy(plain, name, n_module);
    memcpy(plain + n_module, weight, sizeof weight);
    if (!fqi_bind_name(f, naming, plain, &b) || !b.row || b.row->rank != 2 || b.row->dim[0].parts > 1) return false;
    const bool expert = b.row->scope == FQI_EXPERT;
    const size_t axis = b.row->dim[0].axis;
    if (b.row->scope != FQI_LAYER && !expert) return false;
    if (axis >= (expert ? sizeof extra_expert_bias / sizeof *extra_expert_bias : sizeof extra_bias / sizeof *extra_bias)) return false;
    const fqi_row *row = expert ? &extra_expert_bias[axis] : &extra_bias[axis];
    if (!row->role) return false;
    *out = (fqi_bound){ .row = row, .layer = b.layer, .expert = b.expert, .canonical = name + (b.canonical - plain) };
    return true;
}

/* ---- axes ----------------------------------------------------------------------------------------------------- */

int64_t fqi_axis_length(const fq_model *m, fqi_axis a)
{
    int64_t n = 0;
    switch (a) {
    case FQI_AX_HIDDEN: return m->hidden_size;
    case FQI_AX_FF: return m->intermediate_size;
    case FQI_AX_MOE_FF: return m->moe_intermediate_size;
    case FQI_AX_SHARED_FF: return m->shared_expert_intermediate_size;
    /* A model filled by hand may hold anything; 0 is "has none", which no caller takes for a length. */
    case FQI_AX_Q: return fqi_mul_i64(m->num_attention_heads, m->head_dim, &n) ? n : 0;
    case FQI_AX_KV: return fqi_mul_i64(m->num_key_value_heads, m->head_dim, &n) ? n : 0;
    case FQI_AX_HEAD_DIM: return m->head_dim;
    case FQI_AX_VOCAB: return m->vocab_size;
    case FQI_AX_EXPERT: return m->num_experts;
    case FQI_AX_ONE: return 1;
    case FQI_AX_FIXED:
    case FQI_N_AXIS: break;
    }
    return 0;
}

const char *fqi_axis_name(fqi_axis a)
{
    switch (a) {
    case FQI_AX_FIXED: return "fixed";
    case FQI_AX_HIDDEN: return "hidden_size";
    case FQI_AX_FF: return "intermediate_size";
    case FQI_AX_MOE_FF: return "moe_intermediate_size";
    case FQI_AX_SHARED_FF: return "shared_expert_intermediate_size";
    case FQI_AX_Q: return "query heads x head_dim";
    case FQI_AX_KV: return "key-value heads x head_dim";
    case FQI_AX_HEAD_DIM: return "head_dim";
    case FQI_AX_VOCAB: return "vocab_size";
    case FQI_AX_EXPERT: return "num_experts";
    case FQI_AX_ONE: return "1";
    case FQI_N_AXIS: break;
    }
    return "?";
}
