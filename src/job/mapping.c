/* mapping.c - which layout makes which map on which axis. See mapping.h.
 *
 * A layout is a choice per axis, not per tensor: every tensor that has the axis gets the same map, which is what makes the
 * input side and the output side cancel (docs/padding.md). */
#include "job/mapping.h"

#include <string.h>

#include "base/checked.h"

/* The axes whose channels may be dealt freely. Head axes follow head structure and the vocabulary keeps its ids. */
static const fqi_axis channel_axis[] = { FQI_AX_FF, FQI_AX_MOE_FF, FQI_AX_SHARED_FF };
#define N_CHANNEL_AXIS (sizeof channel_axis / sizeof channel_axis[0])

static int64_t fit_or(int64_t pad, int64_t real) { return pad != 0 ? pad : real; }

void fqi_model_fitted(const fq_model *m, const fq_fit *fit, fq_model *out)
{
    *out = *m;
    out->intermediate_size = fit_or(fit->intermediate_size_pad, m->intermediate_size);
    out->moe_intermediate_size = fit_or(fit->moe_intermediate_size_pad, m->moe_intermediate_size);
    out->shared_expert_intermediate_size =
        fit_or(fit->shared_expert_intermediate_size_pad, m->shared_expert_intermediate_size);
    out->num_attention_heads = fit_or(fit->num_attention_heads_pad, m->num_attention_heads);
    out->num_key_value_heads = fit_or(fit->num_key_value_heads_pad, m->num_key_value_heads);
    out->vocab_size = fit_or(fit->vocab_size_pad, m->vocab_size);
    /* heads * head_dim no longer says hidden_size, so the key must be there from now on */
    if (out->num_attention_heads != m->num_attention_heads) out->head_dim_explicit = true;
}

int64_t fqi_axis_length_pad(const fq_model *m, const fq_fit *fit, fqi_axis a)
{
    fq_model fitted;
    fqi_model_fitted(m, fit, &fitted);
    return fqi_axis_length(&fitted, a);
}

void fqi_fit_normalize(const fq_model *m, fq_fit *fit)
{
    const fqi_family *f = fqi_family_find(m->family);
    if (!f || !fqi_family_experts_say_intermediate(f) || m->intermediate_size != 0 || fit->intermediate_size_pad == 0) return;
    if (fit->moe_intermediate_size_pad != 0 && fit->moe_intermediate_size_pad != fit->intermediate_size_pad) return;   /* two wishes for one axis: refused with the maps */
    fit->moe_intermediate_size_pad = fit->intermediate_size_pad;
    fit->intermediate_size_pad = 0;
}

/* ---- refusing ---- */

/* Maps know lengths, not what they are lengths of: the axis is put before what they say. */
static fq_status fail_axis(fqi_axis a, int64_t n, int64_t n_pad, fq_status s, const fq_err *why, fq_err *e)
{
    const char *text = why->text;
    size_t n_rule = strlen(why->rule);
    if (n_rule > 0 && strncmp(text, why->rule, n_rule) == 0 && strncmp(text + n_rule, ": ", 2) == 0) text += n_rule + 2;
    if (s == FQ_E_NOMEM) return fqi_fail_nomem(e, fqi_axis_name(a));
    return fqi_fail(e, s, NULL, why->rule, "%s %lld -> %lld: %s", fqi_axis_name(a), (long long)n, (long long)n_pad, text);
}

static fq_status check_length(fqi_axis a, int64_t n, int64_t n_pad, fq_err *e)
{
    if (n_pad >= n) return FQ_OK;
    return fqi_fail(e, FQ_E_USAGE, NULL, "map-length", "%s: found padded length %lld, expected at least the real length %lld", fqi_axis_name(a), (long long)n_pad, (long long)n);
}

/* ---- axes ---- */

/* The group in which spread deals: the largest divisor of `group` such that whole groups make up every rank. A width that no
 * group divides (bf16, no quantization) is then still balanced over the ranks. */
static int64_t deal_group(int64_t n_pad, const fqi_layout *l)
{
    int64_t ranks = l->ranks > 0 ? l->ranks : 1;
    int64_t per_rank = n_pad % ranks == 0 ? n_pad / ranks : n_pad;
    return fqi_gcd_i64(per_rank, l->group > 0 ? l->group : 1);
}

/* Whole blocks dealt like channels. */
static fq_status map_of_blocks(int64_t n, int64_t n_pad, int64_t unit, const fqi_layout *l, fqi_map *out, fq_err *e)
{
    fqi_map blocks = { 0 };
    const int64_t ranks = l->ranks > 0 && n_pad / unit % l->ranks == 0 ? l->ranks : 1;
    FQI_TRY(l->kind == FQ_LAYOUT_INTERLEAVE ? fqi_map_interleave(&blocks, n / unit, n_pad / unit, e) : fqi_map_spread(&blocks, n / unit, n_pad / unit, ranks, e));
    const fq_status s = fqi_map_scale(&blocks, unit, out, e);
    fqi_map_free(&blocks);
    return s;
}

/* Channels whose scales are stored: an equal share for every GPU if blocks may be split for it within this length, else whole blocks. */
static fq_status quantized_map(int64_t n, int64_t n_pad, const fqi_layout *l, fqi_map *out, fq_err *e)
{
    const int64_t unit = l->unit, grain = l->grain > 0 ? l->grain : 1, ranks = l->ranks > 0 ? l->ranks : 1;
    if (l->kind == FQ_LAYOUT_TAIL) return fqi_map_tail(out, n, n_pad, e);
    if (l->kind == FQ_LAYOUT_SPREAD && ranks > 1 && fqi_map_split(out, n, n_pad, ranks, unit, grain, NULL) == FQ_OK) return FQ_OK;
    if (n % unit == 0 && n_pad % unit == 0) return map_of_blocks(n, n_pad, unit, l, out, e);
    if (l->kind == FQ_LAYOUT_SPREAD) return fqi_map_tail(out, n, n_pad, e);   /* a short last block can only be filled up */
    return fqi_fail(e, FQ_E_USAGE, NULL, "layout", "found blocks of %lld, expected multiples of that to interleave", (long long)unit);
}

static fq_status channel_map(int64_t n, int64_t n_pad, const fqi_layout *l, fqi_map *out, fq_err *e)
{
    if (l->unit > 1) return quantized_map(n, n_pad, l, out, e);
    switch (l->kind) {
    case FQ_LAYOUT_TAIL: return fqi_map_tail(out, n, n_pad, e);
    case FQ_LAYOUT_INTERLEAVE: return fqi_map_interleave(out, n, n_pad, e);
    case FQ_LAYOUT_SPREAD: return fqi_map_spread(out, n, n_pad, n_pad / deal_group(n_pad, l), e);
    }
    return fqi_fail(e, FQ_E_USAGE, NULL, "layout", "found layout %d, expected tail, interleave or spread", (int)l->kind);
}

static fq_status make_channel_axes(const fq_model *m, const fq_fit *fit, const fqi_layout *l, fqi_maps *out, fq_err *e)
{
    for (size_t i = 0; i < N_CHANNEL_AXIS; i++) {
        fqi_axis a = channel_axis[i];
        int64_t n = fqi_axis_length(m, a), n_pad = fqi_axis_length_pad(m, fit, a);
        if (n == n_pad) continue;
        if (n == 0)
            return fqi_fail(e, FQ_E_USAGE, NULL, "fit", "found a length %lld for %s, expected none: the model has no such axis", (long long)n_pad, fqi_axis_name(a));
        FQI_TRY(check_length(a, n, n_pad, e));
        fq_err why;
        fq_status s = channel_map(n, n_pad, l, &out->map[a], &why);
        if (s != FQ_OK) return fail_axis(a, n, n_pad, s, &why, e);
    }
    return FQ_OK;
}

static fq_status make_head_axes(const fq_model *m, const fq_fit *fit, const fqi_layout *l, fqi_maps *out, fq_err *e)
{
    fqi_heads h = {
        .h = m->num_attention_heads,
        .kv = m->num_key_value_heads,
        .h_pad = fit_or(fit->num_attention_heads_pad, m->num_attention_heads),
        .kv_pad = fit_or(fit->num_key_value_heads_pad, m->num_key_value_heads),
        .kv_rep = fit->kv_replication > 1 ? fit->kv_replication : 1,
        .block = l->unit > 1 && m->head_dim > 0 && l->unit % m->head_dim == 0 ? l->unit / m->head_dim : 1,
        .spread = l->kind == FQ_LAYOUT_SPREAD,
    };
    if (h.h == h.h_pad && h.kv == h.kv_pad && h.kv_rep == 1) return FQ_OK;
    fqi_map q = { 0 }, kv = { 0 };
    fq_err why;
    FQI_TRY(fqi_map_heads(&h, &q, &kv, e));
    fq_status s = fqi_map_scale(&q, m->head_dim, &out->map[FQI_AX_Q], &why);
    if (s != FQ_OK) s = fail_axis(FQI_AX_Q, h.h, h.h_pad, s, &why, e);
    else if ((s = fqi_map_scale(&kv, m->head_dim, &out->map[FQI_AX_KV], &why)) != FQ_OK) s = fail_axis(FQI_AX_KV, h.kv, h.kv_pad, s, &why, e);
    fqi_map_free(&q);
    fqi_map_free(&kv);
    return s;
}

fq_status fqi_maps_finish(fqi_maps *m, fq_err *e)
{
    for (int a = 0; a < FQI_N_AXIS; a++) {
        const fqi_map *one = &m->map[a];
        fq_err why;
        if (one->n_run == 0) continue;
        fq_status s = fqi_map_stack(one, 2, &m->stacked[a], &why);
        if (s != FQ_OK) return fail_axis((fqi_axis)a, one->n_old, one->n_new, s, &why, e);
    }
    return FQ_OK;
}

static fq_status make_all(const fq_model *m, const fq_fit *fit, const fqi_layout *l, fqi_maps *out, fq_err *e)
{
    FQI_TRY(make_channel_axes(m, fit, l, out, e));
    FQI_TRY(make_head_axes(m, fit, l, out, e));
    int64_t vocab_pad = fit_or(fit->vocab_size_pad, m->vocab_size);
    /* token ids are row numbers: new rows can only stand at the end, whatever the layout */
    FQI_TRY(check_length(FQI_AX_VOCAB, m->vocab_size, vocab_pad, e));
    if (vocab_pad != m->vocab_size) FQI_TRY(fqi_map_tail(&out->map[FQI_AX_VOCAB], m->vocab_size, vocab_pad, e));
    return fqi_maps_finish(out, e);
}

fq_status fqi_maps_create(const fq_model *m, const fq_fit *fit, const fqi_layout *layout, fqi_maps *out, fq_err *e)
{
    fqi_maps maps = { 0 };
    fq_status s = make_all(m, fit, layout, &maps, e);
    if (s != FQ_OK) { fqi_maps_free(&maps); return s; }
    *out = maps;
    return FQ_OK;
}

fq_status fqi_maps_inverse(const fqi_maps *in, fqi_maps *out, fq_err *e)
{
    fqi_maps maps = { 0 };
    fq_status s = FQ_OK;
    for (int a = 0; a < FQI_N_AXIS && s == FQ_OK; a++)
        if (in->map[a].n_run != 0) s = fqi_map_inverse(&in->map[a], &maps.map[a], e);
    if (s == FQ_OK) s = fqi_maps_finish(&maps, e);
    if (s != FQ_OK) { fqi_maps_free(&maps); return s; }
    *out = maps;
    return FQ_OK;
}

void fqi_maps_free(fqi_maps *m)
{
    if (!m) return;
    for (int a = 0; a < FQI_N_AXIS; a++) {
        fqi_map_free(&m->map[a]);
        fqi_map_free(&m->stacked[a]);
    }
    *m = (fqi_maps){ 0 };
}

bool fqi_maps_of_row(const fqi_maps *m, const fqi_row *row, const fqi_map *map[FQ_MAX_RANK])
{
    bool any = false;
    for (int d = 0; d < FQ_MAX_RANK; d++) map[d] = NULL;
    if (!row) return false;
    for (int d = 0; d < row->rank && d < 3; d++) {
        const fqi_axis_use *use = &row->dim[d];
        const fqi_map *one = use->parts == 2 ? &m->stacked[use->axis] : &m->map[use->axis];
        if (one->n_run == 0) continue;
        map[d] = one;
        any = true;
    }
    return any;
}
