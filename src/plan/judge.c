/* judge.c - applying the rule rows to lengths.
 *
 * A row speaks of in_features or out_features of a tensor, of the heads, or of the model as a whole. The same small function that
 * says which length a row looks at serves the check and the unit, so that the two cannot drift apart. */
#include "plan/judge.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

void fqi_broken_free(fqi_broken_list *l)
{
    free(l->at);
    *l = (fqi_broken_list){ 0 };
}

/* ---- which rows, which divisor -------------------------------------------------------------------------------- */

static bool rule_applies(const fqi_case *c, const fqi_rule *r)
{
    if (!(r->engines & (1u << c->engine)) || !(r->formats & (1u << c->format))) return false;
    return !r->only_desc_act || (c->own && c->shape->m->quant_desc_act);
}

/* 1 = nothing to check. */
static int64_t divisor_of(const fqi_case *c, const fqi_rule *r)
{
    switch (r->divisor) {
    case FQI_DIV_GROUP: return c->group > 0 ? c->group : 1;
    case FQI_DIV_GROUP_64: return c->group > 64 ? c->group : 64;
    case FQI_DIV_PACK: return c->bits > 0 && 32 % c->bits == 0 ? 32 / c->bits : 32;
    default: return r->divisor > 0 ? r->divisor : 1;
    }
}

static bool group_listed(const fqi_rule *r, int group)
{
    if (r->divisor == FQI_LIST_128) return group == 128;
    return group == -1 || group == 32 || group == 64 || group == 128;
}

static const char *divisor_name(const fqi_case *c, const fqi_rule *r)
{
    switch (r->divisor) {
    case FQI_DIV_GROUP: return fqi_format_at(c->format)->block ? "the block, " : "group_size ";
    case FQI_DIV_PACK: return "the values in a word, ";
    case FQI_DIV_GROUP_64: return "the kernel's step, ";
    default: return "";
    }
}

static int effective_tp(const fqi_case *c, const fqi_linear *l)
{
    if (!fqi_engine_at(c->engine)->splits) return 1;
    return (l->bit & FQI_L_EXPERT) && c->expert_parallel ? 1 : c->tp;
}

/* Does a row about K or N look at this linear at all? */
static bool looks_at(const fqi_case *c, const fqi_rule *r, const fqi_linear *l)
{
    int tp = effective_tp(c, l);
    switch (r->check) {
    case FQI_CK_K_RANK: case FQI_CK_K_TILE: case FQI_CK_N_RANK: case FQI_CK_K_WHOLE: return true;
    case FQI_CK_K_ROW: return l->cut == FQI_CUT_ROW && tp > 1;
    case FQI_CK_N_PART: return (l->cut == FQI_CUT_COLUMN && tp > 1) || l->merged;
    default: return false;
    }
}

/* Axis and length that the row looks at in this linear. */
static fqi_axis axis_of(const fqi_rule *r, const fqi_linear *l)
{
    return r->check == FQI_CK_N_RANK || r->check == FQI_CK_N_PART ? l->n : l->k;
}

static bool cut_of(const fqi_rule *r, const fqi_linear *l)
{
    return r->check != FQI_CK_K_WHOLE && fqi_cuts(l, axis_of(r, l));
}

/* ---- violations ------------------------------------------------------------------------------------------------ */

static fqi_broken *broken_add(fqi_broken_list *out, const fqi_rule *r, fqi_axis axis, const char *tensor)
{
    if (!out || out->failed) return NULL;
    if (!fqi_grow((void **)&out->at, &out->cap, out->n + 1, sizeof *out->at)) {
        out->failed = true;
        return NULL;
    }
    fqi_broken *b = &out->at[out->n++];
    *b = (fqi_broken){ .rule = r, .axis = axis,
                       .v = { .rule = r->name, .source = r->source, .engine_text = r->engine_text, .silent = r->silent } };
    snprintf(b->v.tensor, sizeof b->v.tensor, "%s", tensor);
    return b;
}

static void say_length(fqi_broken *b, const fqi_case *c, const fqi_dims *d, const fqi_linear *l, int64_t per_rank, int64_t div)
{
    const fqi_rule *r = b->rule;
    fqi_axis a = axis_of(r, l);
    int64_t whole = fqi_dims_axis(c->shape, d, a);
    const char *what = a == l->k ? "in_features" : "out_features";
    char split[64] = "", parts[32] = "";
    if (per_rank != whole && a == FQI_AX_KV && d->kv < c->tp)
        snprintf(split, sizeof split, ", one KV head per GPU = %lld,", (long long)per_rank);
    else if (per_rank != whole)
        snprintf(split, sizeof split, " / %d GPUs = %lld", c->tp, (long long)per_rank);
    if (r->parts > 1 && r->check != FQI_CK_K_TILE) snprintf(parts, sizeof parts, " x %d parts", r->parts);
    if (r->soft)
        snprintf(b->v.text, sizeof b->v.text, "%s %lld%s is not a multiple of %lld: the tensor falls back from q4_K to q5_0", what,
                 (long long)whole, split, (long long)div);
    else
        snprintf(b->v.text, sizeof b->v.text, "%s %lld%s%s is not a multiple of %s%lld%s", what, (long long)whole, split, parts,
                 divisor_name(c, r), (long long)div, r->check == FQI_CK_K_TILE ? ", or of 64 beside 128 out_features" : "");
}

/* Tiles of div x N, or of half of div and 2 N: K of one GPU fits one of them. */
static bool tiles(const fqi_case *c, const fqi_dims *d, const fqi_linear *l, int64_t k, int64_t div, int64_t parts)
{
    if (k % div == 0) return true;
    const int64_t n = fqi_rank_length(c, d, l, l->n, fqi_cuts(l, l->n));
    return k % (div / 2) == 0 && (n < 0 || n * parts % 128 == 0);   /* one that cannot be cut is refused by another rule */
}

static bool judge_linear(const fqi_case *c, const fqi_dims *d, const fqi_rule *r, const fqi_linear *l, fqi_broken_list *out)
{
    if (!(r->linears & l->bit) || !looks_at(c, r, l) || fqi_linear_count(c->shape, l) == 0) return true;
    fqi_axis a = axis_of(r, l);
    int64_t n = fqi_rank_length(c, d, l, a, cut_of(r, l));
    if (n < 0) return true; /* the rule about splitting says it already */
    int64_t div = divisor_of(c, r);
    const int64_t parts = r->parts > 1 ? r->parts : 1;
    if (r->check == FQI_CK_K_TILE ? tiles(c, d, l, n, div, parts) : n * parts % div == 0) return true;
    fqi_broken *b = broken_add(out, r, a == FQI_AX_HIDDEN ? FQI_AX_FIXED : a, l->tensor);
    if (b) say_length(b, c, d, l, n, div);
    return false;
}

static bool judge_split(const fqi_case *c, const fqi_dims *d, const fqi_rule *r, const fqi_linear *l, fqi_broken_list *out)
{
    if (!(r->linears & l->bit) || fqi_linear_count(c->shape, l) == 0) return true;
    if (fqi_rank_length(c, d, l, l->k, true) >= 0) return true;
    fqi_broken *b = broken_add(out, r, l->k, l->tensor);
    if (b) snprintf(b->v.text, sizeof b->v.text, "in_features %lld is not a multiple of %d GPUs",
                    (long long)fqi_dims_axis(c->shape, d, l->k), c->tp);
    return false;
}

static bool judge_heads(const fqi_case *c, const fqi_dims *d, const fqi_rule *r, fqi_broken_list *out)
{
    if (d->heads % c->tp == 0) return true;
    fqi_broken *b = broken_add(out, r, FQI_AX_Q, "self_attn.q_proj");
    if (b) snprintf(b->v.text, sizeof b->v.text, "num_attention_heads %lld is not a multiple of %d GPUs", (long long)d->heads, c->tp);
    return false;
}

static bool judge_kv(const fqi_case *c, const fqi_dims *d, const fqi_rule *r, fqi_broken_list *out)
{
    if (c->shape->attention == FQI_ATT_LATENT || d->kv % c->tp == 0) return true;
    bool copy = r->check == FQI_CK_KV_COPY;
    if (copy && d->kv < c->tp && c->tp % d->kv == 0) return true;
    fqi_broken *b = broken_add(out, r, FQI_AX_KV, "self_attn.k_proj, v_proj");
    if (!b) return false;
    if (copy && d->kv < c->tp)
        snprintf(b->v.text, sizeof b->v.text, "%d GPUs are not a multiple of num_key_value_heads %lld", c->tp, (long long)d->kv);
    else
        snprintf(b->v.text, sizeof b->v.text, "num_key_value_heads %lld is not a multiple of %d GPUs", (long long)d->kv, c->tp);
    return false;
}

static int64_t vocab_rounded(const fqi_rule *r, int64_t vocab)
{
    int64_t up = vocab;
    return fqi_round_up_i64(vocab, r->divisor, &up) ? up : vocab;
}

static bool judge_vocab(const fqi_case *c, const fqi_dims *d, const fqi_rule *r, fqi_broken_list *out)
{
    int64_t up = vocab_rounded(r, d->vocab);
    if (up % c->tp == 0) return true;
    fqi_broken *b = broken_add(out, r, FQI_AX_VOCAB, "embed_tokens, lm_head");
    char padded[64] = "";
    if (up != d->vocab) snprintf(padded, sizeof padded, ", which the engine pads to %lld,", (long long)up);
    if (b) snprintf(b->v.text, sizeof b->v.text, "vocab_size %lld%s is not a multiple of %d GPUs", (long long)d->vocab, padded, c->tp);
    return false;
}

/* The engine computes hidden_size / heads, rounded down. One that asserts wants it to divide as well. */
bool fqi_misreads(const fqi_case *c, const fqi_dims *d)
{
    const fqi_shape *s = c->shape;
    if (c->as_llama || s->attention != FQI_ATT_PLAIN) return false;
    const fqi_head_dim *h = fqi_head_dim_of(1u << c->engine, s->m->family);
    if (!h || !h->ignored) return false;
    return s->hidden / d->heads != s->head_dim || (h->refusal && s->hidden % d->heads != 0);
}

static bool judge_head_dim(const fqi_case *c, const fqi_dims *d, const fqi_rule *r, fqi_broken_list *out)
{
    if (!fqi_misreads(c, d)) return true;
    const fqi_shape *s = c->shape;
    const fqi_head_dim *h = fqi_head_dim_of(1u << c->engine, s->m->family);
    fqi_broken *b = broken_add(out, r, FQI_AX_FIXED, "self_attn.q_proj");
    if (!b) return false;
    b->v.source = h->source;
    b->v.silent = h->refusal == NULL;
    b->v.engine_text = h->refusal;
    snprintf(b->v.text, sizeof b->v.text, "head_dim %lld is ignored: the engine computes hidden_size %lld / %lld heads = %lld%s",
             (long long)s->head_dim, (long long)s->hidden, (long long)d->heads, (long long)(s->hidden / d->heads),
             s->hidden % d->heads ? ", rounded down" : "");
    return false;
}

/* Rows about the model or the checkpoint, which no length changes. */
static bool judge_whole(const fqi_case *c, const fqi_rule *r, fqi_broken_list *out)
{
    const fqi_shape *s = c->shape;
    const fq_model *m = s->m;
    char text[128] = "";
    const char *tensor = "";
    switch (r->check) {
    case FQI_CK_HEAD_DIM:
        if (s->head_dim % r->divisor == 0) return true;
        tensor = "self_attn.q_proj";
        snprintf(text, sizeof text, "head_dim %lld is not a multiple of %d", (long long)s->head_dim, r->divisor);
        break;
    case FQI_CK_GROUP_LIST:
        if (group_listed(r, c->group)) return true;
        snprintf(text, sizeof text, "group_size %d is not %s", c->group, r->divisor == FQI_LIST_128 ? "128" : "-1, 32, 64 or 128");
        break;
    case FQI_CK_EXPERTS:
        if (!c->expert_parallel || s->experts % c->tp == 0) return true;
        tensor = "mlp.experts.*";
        snprintf(text, sizeof text, "num_experts %lld is not a multiple of %d GPUs", (long long)s->experts, c->tp);
        break;
    case FQI_CK_NO_MOE:
        if (s->dims.moe_ff == 0) return true;
        tensor = "mlp.experts.*";
        snprintf(text, sizeof text, "experts in this format are refused");
        break;
    case FQI_CK_GPTQ_TYPE:
        if (!c->own || (m->quant_sym && (c->bits == 4 || c->bits == 8))) return true;
        snprintf(text, sizeof text, "%d bits, sym %s: only symmetric 4 and 8 bits load", c->bits, m->quant_sym ? "true" : "false");
        break;
    case FQI_CK_ACT_ORDER:
        if (!c->own || !m->quant_desc_act || c->tp == 1) return true;
        tensor = "self_attn.o_proj, mlp.down_proj";
        snprintf(text, sizeof text, "desc_act and %d GPUs: every GPU needs the scales of all groups", c->tp);
        break;
    default: return true;
    }
    fqi_broken *b = broken_add(out, r, FQI_AX_FIXED, tensor);
    if (b) snprintf(b->v.text, sizeof b->v.text, "%s", text);
    return false;
}

static bool judge_rule(const fqi_case *c, const fqi_dims *d, const fqi_rule *r, fqi_broken_list *out)
{
    switch (r->check) {
    case FQI_CK_HEADS: return judge_heads(c, d, r, out);
    case FQI_CK_KV_COPY: case FQI_CK_KV_WHOLE: return judge_kv(c, d, r, out);
    case FQI_CK_VOCAB: return judge_vocab(c, d, r, out);
    case FQI_CK_HEAD_DIM_READ: return judge_head_dim(c, d, r, out);
    case FQI_CK_HEAD_DIM: case FQI_CK_GROUP_LIST: case FQI_CK_EXPERTS: case FQI_CK_NO_MOE: case FQI_CK_GPTQ_TYPE: case FQI_CK_ACT_ORDER:
        return judge_whole(c, r, out);
    default: break;
    }
    bool good = true;
    const fqi_linear *l;
    for (size_t i = 0; (l = fqi_linear_at(i)); i++) {
        bool g = r->check == FQI_CK_SPLIT ? judge_split(c, d, r, l, out) : judge_linear(c, d, r, l, out);
        good = good && g;
    }
    return good;
}

bool fqi_judge(const fqi_case *c, const fqi_dims *d, fqi_broken_list *out)
{
    bool runs = true;
    const fqi_rule *r;
    for (size_t i = 0; (r = fqi_rule_at(i)); i++) {
        if (!rule_applies(c, r)) continue;
        if (!judge_rule(c, d, r, out) && !r->soft) runs = false;
    }
    return runs;
}

/* ---- units ------------------------------------------------------------------------------------------------------ */

static void take(fqi_units *u, int64_t *unit, int64_t of)
{
    if (of < 1 || !fqi_lcm_i64(*unit, of, unit) || *unit > (int64_t)1 << 32) {
        *unit = 1;
        u->overflow = true;
    }
}

/* A row about K or N: per GPU the length is a multiple of m. */
static void units_of_linear(const fqi_case *c, const fqi_rule *r, const fqi_linear *l, fqi_units *u)
{
    if (!(r->linears & l->bit) || !looks_at(c, r, l) || fqi_linear_count(c->shape, l) == 0) return;
    fqi_axis a = axis_of(r, l);
    int64_t m = divisor_of(c, r);
    if (r->parts > 1 && r->check != FQI_CK_K_TILE) m /= fqi_gcd_i64(m, r->parts);   /* of a tile the larger, which fits always */
    int64_t tp = cut_of(r, l) ? effective_tp(c, l) : 1;
    int64_t head_unit = m / fqi_gcd_i64(m, c->shape->head_dim);
    switch (a) {
    case FQI_AX_FF: take(u, &u->ff, tp * m); break;
    case FQI_AX_MOE_FF: take(u, &u->moe_ff, tp * m); break;
    case FQI_AX_SHARED_FF: take(u, &u->shared_ff, tp * m); break;
    case FQI_AX_Q: take(u, &u->heads.unit_q, head_unit); break;
    case FQI_AX_KV: take(u, &u->heads.unit_kv, head_unit); break;
    default: break; /* hidden_size is what it is: fqi_judge speaks */
    }
}

static void units_of_split(const fqi_case *c, const fqi_rule *r, const fqi_linear *l, fqi_units *u)
{
    if (!(r->linears & l->bit) || fqi_linear_count(c->shape, l) == 0) return;
    int64_t tp = effective_tp(c, l);
    if (l->k == FQI_AX_FF) take(u, &u->ff, tp);
    if (l->k == FQI_AX_MOE_FF) take(u, &u->moe_ff, tp);
    if (l->k == FQI_AX_SHARED_FF) take(u, &u->shared_ff, tp);
}

void fqi_units_of(const fqi_case *c, fqi_units *out)
{
    *out = (fqi_units){ .ff = 1, .moe_ff = 1, .shared_ff = 1, .vocab = 1, .heads = { .tp = 1, .unit_q = 1, .unit_kv = 1, .kv_copy = true },
                       .vocab_legal = true };
    if (fqi_engine_at(c->engine)->splits) out->heads.tp = c->tp;
    const fqi_rule *r;
    for (size_t i = 0; (r = fqi_rule_at(i)); i++) {
        if (!rule_applies(c, r)) continue;
        if (r->check == FQI_CK_KV_WHOLE) out->heads.kv_copy = false;
        if (r->check == FQI_CK_VOCAB) {
            int64_t unit = r->divisor;
            if (vocab_rounded(r, c->shape->dims.vocab) % c->tp != 0) out->vocab_legal = false;
            if (!fqi_lcm_i64(unit, c->tp, &unit)) out->overflow = true;
            else take(out, &out->vocab, unit);
        }
        const fqi_linear *l;
        for (size_t k = 0; (l = fqi_linear_at(k)); k++) {
            if (r->check == FQI_CK_SPLIT) units_of_split(c, r, l, out);
            else units_of_linear(c, r, l, out);
        }
    }
}
