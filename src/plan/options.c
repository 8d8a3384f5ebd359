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

static bool can_be_llama(const fq_model *m)
{
    const fqi_family *f = fqi_family_find(m->family);
    return f && f->can_be_llama && !m->sliding_window; /* Llama has no window */
}

void fqi_units_priced(const fqi_case *c, const fqi_ask *ask, fqi_units *out)
{
    fqi_units_of(c, out);
    uint64_t q, kv;
    fqi_head_bytes(c, &q, &kv);
    double cache = (double)fqi_kv_head_token_bytes(c->shape, ask->kv_cache_bits) * (double)ask->context;
    out->heads.q_bytes = (double)q;
    out->heads.kv_bytes = (double)kv + cache;
    const fq_model *m = c->shape->m;
    out->heads.keep_heads = fqi_head_dim_ignored(1u << c->engine, m->family) && !can_be_llama(m);
}

bool fqi_needs_reexpress(const fqi_case *c, const fq_fit *fit)
{
    return fit->num_attention_heads_pad && fqi_head_dim_ignored(1u << c->engine, c->shape->m->family);
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

static void say(char *text, size_t cap, const char *part)
{
    size_t n = strlen(text);
    snprintf(text + n, cap - n, "%s%s", n ? ", " : "", part);
}

static void say_pad(char *text, size_t cap, const char *axis, int64_t real, int64_t pad)
{
    if (!pad) return;
    char part[96];
    snprintf(part, sizeof part, "pad %s %lld -> %lld", axis, (long long)real, (long long)pad);
    say(text, cap, part);
}

static void describe(const fqi_shape *s, const fq_option *o, int group, char *text, size_t cap)
{
    const fq_fit *f = &o->fit;
    text[0] = '\0';
    say_pad(text, cap, "intermediate_size", s->dims.ff, f->intermediate_size_pad);
    say_pad(text, cap, "moe_intermediate_size", s->dims.moe_ff, f->moe_intermediate_size_pad);
    say_pad(text, cap, "shared_expert_intermediate_size", s->dims.shared_ff, f->shared_expert_intermediate_size_pad);
    char part[96];
    if (f->num_attention_heads_pad || f->num_key_value_heads_pad) {
        if (f->kv_replication > 1) {
            snprintf(part, sizeof part, "store KV heads %lldx", (long long)f->kv_replication);
            say(text, cap, part);
        }
        snprintf(part, sizeof part, "pad heads %lld/%lld -> %lld/%lld", (long long)s->dims.heads, (long long)s->dims.kv,
                 (long long)(f->num_attention_heads_pad ? f->num_attention_heads_pad : s->dims.heads),
                 (long long)(f->num_key_value_heads_pad ? f->num_key_value_heads_pad : s->dims.kv));
        say(text, cap, part);
    }
    say_pad(text, cap, "vocab_size", s->dims.vocab, f->vocab_size_pad);
    if (o->group_size) {
        snprintf(part, sizeof part, "regroup %d -> %d", group, o->group_size);
        say(text, cap, part);
    }
    if (o->expert_parallel) say(text, cap, "expert parallel");
    if (!text[0]) snprintf(text, cap, "as it is");
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
    *o = (fq_option){ .fit = *fit, .group_size = c->group != real->group ? c->group : 0, .expert_parallel = c->expert_parallel };
    out->params = after.params;
    o->param_percent = percent(after.params, before.params);
    o->byte_percent = percent(after.bytes, before.bytes);
    o->weight_bytes_per_gpu = after.rank_bytes;
    o->kv_bytes_per_token_per_gpu = after.kv_token_bytes;
    o->cost = (double)after.rank_bytes + (double)after.kv_token_bytes * (double)ask->context;
    if (fqi_needs_reexpress(c, fit)) snprintf(o->reexpress_as, sizeof o->reexpress_as, "llama");
    describe(s, o, real->group, o->what, sizeof o->what);
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
        if (!fqi_judge(c, &d, NULL)) continue;
        priced *p = &g->at[g->n];
        price(real, c, ask, &fit[i], p);
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
    bool ep = en->expert_parallel && c->tp > 1 && s->experts > 0 && s->experts % c->tp == 0 && broken_axis(broken, FQI_AX_MOE_FF);
    bool regroup = fqi_format_at(c->format)->info.group_size == -1 && c->group > 32 && broken->n > 0;
    for (int with_ep = 0; with_ep <= (ep ? 1 : 0); with_ep++) {
        fqi_case a = *c;
        a.expert_parallel = with_ep;
        uint64_t fewest = add_alternative(c, &a, ask, UINT64_MAX, g);
        for (int group = 64; regroup && group >= 32; group /= 2) {
            if (group >= c->group || c->group % group != 0) continue;
            a.group = group;
            uint64_t n = add_alternative(c, &a, ask, fewest, g);
            if (n < fewest) fewest = n;
        }
    }
}

size_t fqi_options_of(const fqi_case *c, const fqi_ask *ask, const fqi_broken_list *broken, fq_option *out, size_t max)
{
    gather g = { .n = 0 };
    gather_all(c, ask, broken, &g);
    qsort(g.at, g.n, sizeof *g.at, by_cost);
    size_t n = g.n < max ? g.n : max;
    for (size_t i = 0; i < n; i++) out[i] = g.at[i].o;
    return n;
}
