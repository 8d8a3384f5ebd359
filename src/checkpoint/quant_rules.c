/* quant_rules.c - see quant_rules.h. */
#include "checkpoint/quant_rules.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define NAME_MAX_BYTES 1024
#define BUDGET ((uint64_t)1 << 26)   /* comparisons of a name with an entry */
#define REGEX_COST 64
#define MATCH_LIMIT 20000u

typedef enum kind { PART, REGEX, WHOLE } kind;   /* anywhere in the name; from its beginning; all of it */

typedef struct rule {
    kind kind;
    fqi_quant_says says;
    const char *key, *text;      /* text is the config's */
    pcre2_code *code;
} rule;

struct fqi_quant_rules {
    rule *rule; size_t n, cap;
    pcre2_match_data *data;
    pcre2_match_context *context;
    uint64_t work;
    fqi_quant_says silence, head;   /* of a layer, of the head, that no rule is about */
    bool chosen;                    /* a list names the layers that are quantized: others are not */
};

static const json_t *not_null(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return v && !json_is_null(v) ? v : NULL;
}

/* ---- making ---- */

static fq_status add(fqi_quant_rules *r, rule x, fq_err *e)
{
    if (x.kind == REGEX) {
        int error;
        size_t at;
        x.code = pcre2_compile((PCRE2_SPTR)x.text, strlen(x.text), PCRE2_ANCHORED | PCRE2_UTF, &error, &at, NULL);
        if (!x.code) return FQ_OK;
    }
    if (!fqi_grow((void **)&r->rule, &r->cap, r->n + 1, sizeof *r->rule)) {
        pcre2_code_free(x.code);
        return fqi_fail_nomem(e, "rules of quantization_config");
    }
    r->rule[r->n++] = x;
    return FQ_OK;
}

/* Strings of a list, or of lists in it. */
static fq_status add_list(fqi_quant_rules *r, const json_t *q, const char *key, fqi_quant_says says, fq_err *e)
{
    size_t i, k;
    json_t *v, *w;
    json_array_foreach(not_null(q, key), i, v) {
        if (json_is_string(v)) FQI_TRY(add(r, (rule){ PART, says, key, json_string_value(v), NULL }, e));
        json_array_foreach(v, k, w)
            if (json_is_string(w)) FQI_TRY(add(r, (rule){ PART, says, key, json_string_value(w), NULL }, e));
    }
    return FQ_OK;
}

/* GPTQModel asks "-:" rules first, whatever their place. */
static fq_status add_dynamic(fqi_quant_rules *r, const json_t *q, bool negative, fq_err *e)
{
    const char *pattern;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)not_null(q, "dynamic"), pattern, value) {
        const bool minus = strncmp(pattern, "-:", 2) == 0, plus = strncmp(pattern, "+:", 2) == 0;
        if (minus == negative) FQI_TRY(add(r, (rule){ REGEX, minus ? FQI_SAYS_PLAIN : FQI_SAYS_CODES, "dynamic", pattern + (minus || plus ? 2 : 0), NULL }, e));
    }
    return FQ_OK;
}

static fq_status make_gptq(fqi_quant_rules *r, const json_t *q, fq_err *e)
{
    r->silence = FQI_SAYS_CODES;
    r->head = json_is_true(not_null(q, "lm_head")) ? FQI_SAYS_CODES : FQI_SAYS_PLAIN;
    FQI_TRY(add_dynamic(r, q, true, e));
    const size_t before = r->n;
    FQI_TRY(add_list(r, q, "modules_in_block_to_quantize", FQI_SAYS_CODES, e));
    r->chosen = r->n > before;
    return add_dynamic(r, q, false, e);
}

static fq_status make_skipped(fqi_quant_rules *r, const json_t *q, fq_err *e)
{
    r->silence = FQI_SAYS_CODES;
    r->head = json_is_true(not_null(q, "lm_head")) ? FQI_SAYS_CODES : FQI_SAYS_PLAIN;
    FQI_TRY(add_list(r, q, "modules_to_not_convert", FQI_SAYS_PLAIN, e));
    return add_list(r, q, "ignored_layers", FQI_SAYS_PLAIN, e);
}

static fq_status add_ct_list(fqi_quant_rules *r, const json_t *o, const char *key, fqi_quant_says says, fq_err *e)
{
    size_t i;
    json_t *v;
    json_array_foreach(not_null(o, key), i, v) {
        const char *text = json_string_value(v);
        if (!text) continue;
        const bool regex = strncmp(text, "re:", 3) == 0;
        if (!regex && strcmp(text, "Linear") == 0) r->silence = r->head = says;
        else FQI_TRY(add(r, (rule){ regex ? REGEX : WHOLE, says, key, text + (regex ? 3 : 0), NULL }, e));
    }
    return FQ_OK;
}

static fq_status make_ct(fqi_quant_rules *r, const json_t *q, fq_err *e)
{
    const char *name;
    json_t *group;
    FQI_TRY(add_ct_list(r, q, "ignore", FQI_SAYS_PLAIN, e));
    json_object_foreach((json_t *)(uintptr_t)not_null(q, "config_groups"), name, group)
        if (not_null(group, "weights")) FQI_TRY(add_ct_list(r, group, "targets", FQI_SAYS_CODES, e));
    return FQ_OK;
}

static fq_status make(fqi_quant_rules *r, const fqi_config *c, fq_err *e)
{
    const json_t *q = fqi_config_quant(c);
    r->data = pcre2_match_data_create(1, NULL);
    r->context = pcre2_match_context_create(NULL);
    if (!r->data || !r->context) return fqi_fail_nomem(e, "rules of quantization_config");
    (void)pcre2_set_match_limit(r->context, MATCH_LIMIT);
    (void)pcre2_set_depth_limit(r->context, MATCH_LIMIT);
    switch (c->model.quant) {
    case FQ_QUANT_GPTQ: return make_gptq(r, q, e);
    case FQ_QUANT_AWQ: return make_skipped(r, q, e);
    case FQ_QUANT_FP8: return not_null(q, "config_groups") ? make_ct(r, q, e) : make_skipped(r, q, e);
    case FQ_QUANT_COMPRESSED_TENSORS: return make_ct(r, q, e);
    case FQ_QUANT_NONE: case FQ_QUANT_OTHER: break;
    }
    return FQ_OK;
}

fq_status fqi_quant_rules_make(const fqi_config *c, fqi_quant_rules **out, fq_err *e)
{
    fqi_quant_rules *r = fqi_calloc(1, sizeof *r);
    if (!r) return fqi_fail_nomem(e, "rules of quantization_config");
    const fq_status s = make(r, c, e);
    if (s == FQ_OK) *out = r;
    else fqi_quant_rules_free(r);
    return s;
}

void fqi_quant_rules_free(fqi_quant_rules *r)
{
    if (!r) return;
    for (size_t i = 0; i < r->n; i++) pcre2_code_free(r->rule[i].code);
    free(r->rule);
    pcre2_match_data_free(r->data);
    pcre2_match_context_free(r->context);
    free(r);
}

/* ---- asking ---- */

typedef enum answer { NO, PERHAPS, YES } answer;

static bool at_boundary(const char *name, const char *at, size_t n)
{
    return (at == name || at[-1] == '.') && (at[n] == '\0' || at[n] == '.');
}

/* A part of the name surely matches if it is whole components of it; one that cuts a component ("mlp.gate" in "mlp.gate_proj") does to some. */
static answer match_part(const char *name, const char *text)
{
    const size_t n = strlen(text);
    const char *at = n > 0 ? strstr(name, text) : NULL;
    if (!at) return NO;
    for (; at; at = strstr(at + 1, text))
        if (at_boundary(name, at, n)) return YES;
    return PERHAPS;
}

static answer match(fqi_quant_rules *r, const rule *x, const char *name)
{
    r->work += x->kind == REGEX ? REGEX_COST : 1;
    if (x->kind == PART) return match_part(name, x->text);
    if (x->kind == WHOLE) return strcmp(name, x->text) == 0 ? YES : match_part(name, x->text) != NO ? PERHAPS : NO;
    const int found = pcre2_match(x->code, (PCRE2_SPTR)name, strlen(name), 0, 0, r->data, r->context);
    return found >= 0 ? YES : found == PCRE2_ERROR_NOMATCH ? NO : PERHAPS;
}

/* The name that engines give the layer after they have fused it with its neighbours. */
static bool fused_name(const char *name, char *out, size_t n)
{
    static const struct { const char *from, *to; } fused[] = { { "q_proj", "qkv_proj" }, { "k_proj", "qkv_proj" }, { "v_proj", "qkv_proj" }, { "gate_proj", "gate_up_proj" }, { "up_proj", "gate_up_proj" } };
    const char *last = strrchr(name, '.'), *experts = strstr(name, ".experts.");
    if (experts) return snprintf(out, n, "%.*s", (int)(experts - name + (int)strlen(".experts")), name) < (int)n;
    for (size_t i = 0; last && i < sizeof fused / sizeof *fused; i++)
        if (strcmp(last + 1, fused[i].from) == 0) return snprintf(out, n, "%.*s%s", (int)(last + 1 - name), name, fused[i].to) < (int)n;
    return false;
}

fqi_quant_says fqi_quant_rules_ask(fqi_quant_rules *r, const char *name, bool head, const char **key)
{
    char other[NAME_MAX_BYTES];
    bool doubt = false;
    const bool has_other = fused_name(name, other, sizeof other);
    *key = "";
    for (size_t i = 0; i < r->n; i++) {
        const rule *x = &r->rule[i];
        const answer a = match(r, x, name);
        if (r->work > BUDGET) return FQI_SAYS_NOTHING;
        if (a == YES) {
            *key = x->key;
            return doubt ? FQI_SAYS_NOTHING : x->says;
        }
        doubt = doubt || a == PERHAPS || (has_other && match(r, x, other) != NO);
    }
    if (doubt) return FQI_SAYS_NOTHING;
    if (head) return r->head;
    if (r->chosen) {
        *key = "modules_in_block_to_quantize";
        return FQI_SAYS_PLAIN;
    }
    return r->silence;
}
