/* options.c - the ways to make one entry run, with their prices.
 *
 * An alternative is a group size (the format's, or a half or a quarter of it, since a group can be split exactly but never merged), whole
 * experts per GPU or split ones, and a plan for the heads. Every alternative gets the smallest legal lengths, is judged
 * again by the rules that it is meant to satisfy, and is dropped if they are not satisfied: hidden_size or head_dim cannot be
 * changed, so some rules no length can meet. A smaller group is only worth naming if it saves padding. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "plan/options.h"

/* ---- lengths ---------------------------------------------------------------------------------------------------- */

/* Can the model be written as llama, and does the engine read head_dim there? */
static bool llama_helps(const fqi_case *c)
{
    const fq_model *m = c->shape->m;
    const fqi_family *f = fqi_family_find(m->family);
    const fqi_head_dim *h = fqi_head_dim_of(1u << c->engine, "llama");
    return f && f->can_be_llama && !m->sliding_window && !(h && h->ignored); /* Llama has no window */
}

void fqi_units_priced(const fqi_case *c, const fqi_ask *ask, fqi_units *out)
{
    fqi_units_of(c, out);
    uint64_t q, kv;
    fqi_head_bytes(c, &q, &kv);
    double cache = (double)fqi_kv_head_token_bytes(c->shape, ask->kv_cache_bits) * (double)ask->context;
    out->heads.q_bytes = (double)q;
    out->heads.kv_bytes = (double)kv + cache;
    const fqi_head_dim *h = fqi_head_dim_of(1u << c->engine, c->shape->m->family);
    out->heads.keep_heads = h && h->ignored && !llama_helps(c);
}

bool fqi_runs_fitted(const fqi_case *c, const fqi_dims *d, bool *as_llama)
{
    fqi_case a = *c;
    a.as_llama = fqi_misreads(c, d) && llama_helps(c);
    if (as_llama) *as_llama = a.as_llama;
    return fqi_judge(&a, d, NULL);
}

bool fqi_fit_changes(const fq_fit *f)
{
    static const fq_fit none;
    return memcmp(f, &none, sizeof none) != 0;
}

/* One axis: the smallest multiple of all units that holds the real length; 0 when it stays. */
static bool pad_length(int64_t real, int64_t unit, int64_t *pad)
{
    *pad = 0;
    if (real == 0 || real % unit == 0) return true;
    return fqi_round_up_i64(real, unit, pad) && *pad <= (int64_t)1 << 32;
}

static bool join(int64_t *unit, int64_t of) { return fqi_lcm_i64(*unit, of, unit) && *unit <= (int64_t)1 << 32; }

static bool pad_axes(const fqi_dims *real, const fqi_units *u, size_t n, fq_fit *fit)
{
    int64_t ff = 1, moe = 1, shared = 1;
    for (size_t i = 0; i < n; i++)
        if (u[i].overflow || !join(&ff, u[i].ff) || !join(&moe, u[i].moe_ff) || !join(&shared, u[i].shared_ff)) return false;
    return pad_length(real->ff, ff, &fit->intermediate_size_pad) && pad_length(real->moe_ff, moe, &fit->moe_intermediate_size_pad)
        && pad_length(real->shared_ff, shared, &fit->shared_expert_intermediate_size_pad);
}

/* Engines round the vocabulary up themselves, so only counts that the rounded length fails ask for more. */
static bool pad_vocab(const fqi_dims *real, const fqi_units *u, size_t n, fq_fit *fit)
{
    int64_t unit = 1;
    bool fails = false;
    for (size_t i = 0; i < n; i++) {
        if (!join(&unit, u[i].vocab)) return false;
        if (!u[i].vocab_legal) fails = true;
    }
    return fails ? pad_length(real->vocab, unit, &fit->vocab_size_pad) : true;
}

size_t fqi_fits_of(const fqi_case *c, const fqi_units *u, size_t n_unit, fq_fit *out, size_t max)
{
    const fqi_shape *s = c->shape;
    fq_fit base = { 0 };
    if (!pad_axes(&s->dims, u, n_unit, &base) || !pad_vocab(&s->dims, u, n_unit, &base)) return 0;
    fqi_head_plan plan[FQI_MAX_HEAD_PLAN] = { { .heads_pad = s->dims.heads, .kv_pad = s->dims.kv, .rep = 1 } };
    size_t n = 1;
    if (s->attention == FQI_ATT_PLAIN) { /* the others keep their heads; if a rule minds, judging again drops the fit */
        fqi_head_rule *rule = fqi_calloc(n_unit, sizeof *rule);
        if (!rule) return 0;
        for (size_t i = 0; i < n_unit; i++) rule[i] = u[i].heads;
        n = fqi_heads_solve(s->dims.heads, s->dims.kv, rule, n_unit, plan, FQI_MAX_HEAD_PLAN);
        free(rule);
    }
    if (n > max) n = max;
    for (size_t i = 0; i < n; i++) {
        out[i] = base;
        if (plan[i].heads_pad != s->dims.heads) out[i].num_attention_heads_pad = plan[i].heads_pad;
        if (plan[i].kv_pad != s->dims.kv) out[i].num_key_value_heads_pad = plan[i].kv_pad;
        if (plan[i].rep > 1) out[i].kv_replication = plan[i].rep;
    }
    return n;
}

/* ---- words ------------------------------------------------------------------------------------------------------ */

static void say_pad(fqi_str *text, const char *axis, int64_t real, int64_t pad)
{
    if (pad) fqi_str_printf(text, "%spad %s %lld -> %lld", text->len ? ", " : "", axis, (long long)real, (long long)pad);
}

static void say(fqi_str *text, const char *part) { fqi_str_printf(text, "%s%s", text->len ? ", " : "", part); }

static void say_heads(const fqi_shape *s, const fq_fit *f, fqi_str *text)
{
    if (!f->num_attention_heads_pad && !f->num_key_value_heads_pad) return;
    if (f->kv_replication > 1) fqi_str_printf(text, "%sstore KV heads %lldx", text->len ? ", " : "", (long long)f->kv_replication);
    fqi_str_printf(text, "%spad heads %lld/%lld -> %lld/%lld", text->len ? ", " : "", (long long)s->dims.heads, (long long)s->dims.kv,
                   (long long)(f->num_attention_heads_pad ? f->num_attention_heads_pad : s->dims.heads),
                   (long long)(f->num_key_value_heads_pad ? f->num_key_value_heads_pad : s->dims.kv));
}

static void describe(const fqi_case *real, const fq_option *o, fqi_str *text)
{
    const fqi_shape *s = real->shape;
    const fq_fit *f = &o->fit;
    say_pad(text, "intermediate_size", s->dims.ff, f->intermediate_size_pad);
    say_pad(text, "moe_intermediate_size", s->dims.moe_ff, f->moe_intermediate_size_pad);
    say_pad(text, "shared_expert_intermediate_size", s->dims.shared_ff, f->shared_expert_intermediate_size_pad);
    say_heads(s, f, text);
    say_pad(text, "vocab_size", s->dims.vocab, f->vocab_size_pad);
    if (o->group_size && real->own) /* there are groups already */
        fqi_str_printf(text, "%sregroup %d -> %d", text->len ? ", " : "", real->group, o->group_size);
    else if (o->group_size)
        fqi_str_printf(text, "%squantize in groups of %d", text->len ? ", " : "", o->group_size);
    if (o->expert_parallel) say(text, "expert parallel");
    if (o->reexpress_as[0] && !f->num_attention_heads_pad) fqi_str_printf(text, "%swrite as %s", text->len ? ", " : "", o->reexpress_as);
    if (text->len == 0) say(text, "as it is");
}

/* ---- prices ------------------------------------------------------------------------------------------------------ */

static double percent(uint64_t after, uint64_t before)
{
    return before ? ((double)after - (double)before) * 100.0 / (double)before : 0;
}

/* An option with its parameter count, which ties are broken by. */
typedef struct priced { fq_option o; uint64_t params; size_t order; } priced;

static void price(const fqi_case *real, const fqi_case *c, const fqi_ask *ask, const fq_fit *fit, priced *out)
{
    const fqi_shape *s = c->shape;
    fqi_dims d;
    fqi_dims_apply(&s->dims, fit, &d);
    fqi_price before, after;
    fqi_price_of(real, &s->dims, ask->kv_cache_bits, &before);
    fqi_price_of(c, &d, ask->kv_cache_bits, &after);
    fq_option *o = &out->o;
    *o = (fq_option){ .fit = *fit, .group_size = c->group != real->group ? c->group : 0, .expert_parallel = c->expert_parallel && !real->expert_parallel };
    out->params = after.params;
    o->param_percent = percent(after.params, before.params);
    o->byte_percent = percent(after.bytes, before.bytes);
    o->weight_bytes_per_gpu = after.rank_bytes;
    o->kv_bytes_per_token_per_gpu = after.kv_token_bytes;
    o->cost = (double)after.rank_bytes + (double)after.kv_token_bytes * (double)ask->context;
}

static int by_cost(const void *a, const void *b)
{
    const priced *x = a, *y = b;
    if (x->o.cost != y->o.cost) return x->o.cost < y->o.cost ? -1 : 1;
    if (x->params != y->params) return x->params < y->params ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

/* ---- alternatives ------------------------------------------------------------------------------------------------ */

typedef struct gather { priced at[FQI_MAX_OPTION]; size_t n; } gather;

/* Adds the legal fits of one alternative. below: only fits with fewer parameters than this. Returns the fewest that were added. */
static uint64_t add_alternative(const fqi_case *real, const fqi_case *c, const fqi_ask *ask, uint64_t below, gather *g)
{
    fqi_units u;
    fqi_units_priced(c, ask, &u);
    fq_fit fit[FQI_MAX_HEAD_PLAN];
    size_t n = fqi_fits_of(c, &u, 1, fit, FQI_MAX_HEAD_PLAN);
    uint64_t fewest = UINT64_MAX;
    for (size_t i = 0; i < n && g->n < FQI_MAX_OPTION; i++) {
        fqi_dims d;
        fqi_dims_apply(&c->shape->dims, &fit[i], &d);
        bool as_llama;
        if (!fqi_runs_fitted(c, &d, &as_llama)) continue;
        priced *p = &g->at[g->n];
        price(real, c, ask, &fit[i], p);
        if (as_llama) snprintf(p->o.reexpress_as, sizeof p->o.reexpress_as, "llama");
        if (p->params >= below) continue;
        p->order = g->n++;
        if (p->params < fewest) fewest = p->params;
    }
    return fewest;
}

static bool broken_axis(const fqi_broken_list *l, fqi_axis a)
{
    for (size_t i = 0; i < l->n; i++)
        if (l->at[i].axis == a) return true;
    return false;
}

/* With and without expert parallelism, at the group size and at its halves down to 32. */
static void gather_all(const fqi_case *c, const fqi_ask *ask, const fqi_broken_list *broken, gather *g)
{
    const fqi_engine *en = fqi_engine_at(c->engine);
    const fqi_shape *s = c->shape;
    bool ep = en->expert_parallel && !c->expert_parallel && c->tp > 1 && s->experts > 0 && s->experts % c->tp == 0 && broken_axis(broken, FQI_AX_MOE_FF);
    /* channels that are stored in another order than their groups have no neighbours to share a smaller group with */
    bool ordered = c->own && s->m->quant_desc_act;
    bool regroup = fqi_format_at(c->format)->info.group_size == -1 && c->group > 32 && broken->n > 0 && !ordered;
    for (int with_ep = 0; with_ep <= (ep ? 1 : 0); with_ep++) {
        fqi_case a = *c;
        a.expert_parallel = c->expert_parallel || with_ep;
        uint64_t fewest = add_alternative(c, &a, ask, UINT64_MAX, g);
        for (int group = 64; regroup && group >= 32; group /= 2) {
            if (group >= c->group || c->group % group != 0) continue;
            a.group = group;
            uint64_t n = add_alternative(c, &a, ask, fewest, g);
            if (n < fewest) fewest = n;
        }
    }
}

/* The text of an option, in the arena. */
static fq_status name_option(const fqi_case *c, fqi_arena *arena, fq_option *o, fq_err *e)
{
    fqi_str text = { 0 };
    describe(c, o, &text);
    o->what = text.failed ? NULL : fqi_arena_strdup(arena, text.s);
    fqi_str_free(&text);
    return o->what ? FQ_OK : fqi_fail_nomem(e, "options");
}

fq_status fqi_option_as_is(const fqi_case *c, const fqi_ask *ask, fqi_arena *arena, const fq_option **out, fq_err *e)
{
    priced p;
    price(c, c, ask, &(fq_fit){ 0 }, &p);
    fq_option *o = fqi_arena_alloc(arena, sizeof *o);
    if (!o) return fqi_fail_nomem(e, "options");
    *o = p.o;
    FQI_TRY(name_option(c, arena, o, e));
    *out = o;
    return FQ_OK;
}

fq_status fqi_options_of(const fqi_case *c, const fqi_ask *ask, const fqi_broken_list *broken, fqi_arena *arena, const fq_option **out,
                         size_t *n, fq_err *e)
{
    gather g = { .n = 0 };
    gather_all(c, ask, broken, &g);
    *n = 0;
    if (g.n == 0) return FQ_OK;
    qsort(g.at, g.n, sizeof *g.at, by_cost);
    fq_option *list = fqi_arena_alloc(arena, g.n * sizeof *list);
    if (!list) return fqi_fail_nomem(e, "options");
    for (size_t i = 0; i < g.n; i++) {
        list[i] = g.at[i].o;
        FQI_TRY(name_option(c, arena, &list[i], e));
    }
    *out = list;
    *n = g.n;
    return FQ_OK;
}
