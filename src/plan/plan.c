/* plan.c - fq_plan: the request resolved into cases, each case judged, each verdict with its way out.
 *
 * A plan copies the model, so that it outlives what it was made from. It holds one entry per (engine, format, GPU count) in that
 * order. What it is not: a promise. An engine that changes its rules after the version named in its row changes the answer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "plan/options.h"

enum { MAX_TP = 64, MAX_ENTRY = 1 << 20, MAX_GROUP = 1 << 20 };
static const int64_t default_context = 8192, max_context = (int64_t)1 << 40;

struct fq_plan {
    fqi_arena arena;
    fq_model model;
    fqi_shape shape;
    fqi_ask ask;
    fqi_case *cases;
    fq_plan_entry *entries;
    size_t n_entry;
};

/* ---- the request -------------------------------------------------------------------------------------------------- */

/* The formats that a checkpoint of this kind is already in; [0] is the one that it is judged in by default. */
static const char *const *own_formats(const fq_model *m)
{
    static const char *const gptq_marlin[] = { "gptq-marlin", "gptq", NULL }, *const gptq[] = { "gptq", "gptq-marlin", NULL };
    static const char *const awq[] = { "awq-marlin", "awq", NULL }, *const int8[] = { "ct-int8", NULL };
    static const char *const int4[] = { "ct-int4", NULL }, *const fp8[] = { "fp8", NULL }, *const block[] = { "fp8-block", NULL };
    static const char *const mx[] = { "mxfp4", NULL }, *const nv[] = { "nvfp4", NULL }, *const none[] = { NULL };
    switch (m->quant) {
    case FQ_QUANT_GPTQ: return m->quant_sym && (m->quant_bits == 4 || m->quant_bits == 8) ? gptq_marlin : gptq;
    case FQ_QUANT_AWQ: return awq;
    case FQ_QUANT_COMPRESSED_TENSORS: return m->quant_bits == 8 ? int8 : int4;
    case FQ_QUANT_FP8: return m->quant_group_size > 0 ? block : fp8;
    case FQ_QUANT_OTHER:
        if (strstr(m->quant_name, "mxfp4")) return mx;
        if (strstr(m->quant_name, "nvfp4") || strstr(m->quant_name, "modelopt")) return nv;
        return none;
    default: return none;
    }
}

static bool is_own(const fq_model *m, const char *id)
{
    for (const char *const *f = own_formats(m); *f; f++)
        if (strcmp(*f, id) == 0) return true;
    return false;
}

static fq_status unknown_id(const char *what, const char *id, bool engine, fq_err *e)
{
    char name[FQI_NAME_MAX + 1];
    fqi_str known = { 0 };
    for (size_t i = 0;; i++) {
        const char *k;
        if (engine) k = fqi_engine_at(i) ? fqi_engine_at(i)->info.id : NULL;
        else k = fqi_format_at(i) ? fqi_format_at(i)->info.id : NULL;
        if (!k) break;
        fqi_str_printf(&known, "%s%s", i ? ", " : "", k);
    }
    fq_status s = fqi_fail(e, FQ_E_USAGE, NULL, engine ? "unknown-engine" : "unknown-format", "%s: found \"%s\", expected one of %s",
                           what, fqi_escape(name, id), known.s && !known.failed ? known.s : "the known ones");
    fqi_str_free(&known);
    return s;
}

/* The chosen engines (table indices); memory from the plan's arena. */
static fq_status pick_engines(fq_plan *p, const fq_plan_request *r, size_t **out, size_t *n, fq_err *e)
{
    size_t n_known = 0;
    while (fqi_engine_at(n_known)) n_known++;
    bool asked = r->engine && r->n_engine;
    size_t want = asked ? r->n_engine : n_known, bytes;
    if (!fqi_mul_size(want, sizeof **out, &bytes) || !(*out = fqi_arena_alloc(&p->arena, bytes))) return fqi_fail_nomem(e, "engine list");
    *n = 0;
    for (size_t i = 0; i < want; i++) {
        size_t at = i;
        if (asked && !fqi_engine_find(r->engine[i], &at)) return unknown_id("engine", r->engine[i], true, e);
        if (asked || fqi_engine_at(i)->info.is_default) (*out)[(*n)++] = at;
    }
    return FQ_OK;
}

static fq_status pick_formats(fq_plan *p, const fq_plan_request *r, size_t **out, size_t *n, fq_err *e)
{
    static const char *const usual[] = { "bf16", "gptq-marlin" };
    const char *const *id = r->format, *const *own = own_formats(&p->model);
    size_t want = r->n_format, bytes;
    if (!id || want == 0) {
        id = *own ? own : usual;
        want = *own ? 1 : 2;
    }
    if (!fqi_mul_size(want, sizeof **out, &bytes) || !(*out = fqi_arena_alloc(&p->arena, bytes))) return fqi_fail_nomem(e, "format list");
    for (*n = 0; *n < want; (*n)++)
        if (!fqi_format_find(id[*n], &(*out)[*n])) return unknown_id("format", id[*n], false, e);
    return FQ_OK;
}

static fq_status check_request(const fq_plan_request *r, fqi_ask *ask, fq_err *e)
{
    if (!r->tp || r->n_tp == 0) return fqi_fail(e, FQ_E_USAGE, NULL, "gpu-count", "found no GPU count, expected at least one");
    for (size_t i = 0; i < r->n_tp; i++)
        if (r->tp[i] < 1 || r->tp[i] > MAX_TP)
            return fqi_fail(e, FQ_E_USAGE, NULL, "gpu-count", "found %d GPUs, expected 1 to %d", r->tp[i], MAX_TP);
    if (r->group_size < -1 || r->group_size > MAX_GROUP)
        return fqi_fail(e, FQ_E_USAGE, NULL, "group-size", "found %d, expected -1 (one per row) or 1 to %d", r->group_size, MAX_GROUP);
    if (r->context < 0 || r->context > max_context)
        return fqi_fail(e, FQ_E_USAGE, NULL, "context", "found %lld tokens, expected 1 to %lld", (long long)r->context,
                        (long long)max_context);
    if (r->kv_cache_bits < 0 || r->kv_cache_bits > 32)
        return fqi_fail(e, FQ_E_USAGE, NULL, "kv-cache-bits", "found %d, expected 1 to 32", r->kv_cache_bits);
    ask->context = r->context ? r->context : default_context;
    ask->kv_cache_bits = r->kv_cache_bits ? r->kv_cache_bits : 16;
    ask->gpu_memory_bytes = r->gpu_memory_bytes;
    return FQ_OK;
}

static void case_init(const fq_plan *p, const fq_plan_request *r, size_t engine, size_t format, int tp, fqi_case *c)
{
    const fqi_format *f = fqi_format_at(format);
    const fq_model *m = &p->model;
    *c = (fqi_case){ .shape = &p->shape, .engine = engine, .format = format, .tp = tp, .own = is_own(m, f->info.id),
                    .expert_parallel = r->expert_parallel && tp > 1 && fqi_engine_at(engine)->expert_parallel };
    c->bits = c->own && m->quant_bits > 0 && f->info.group_size == -1 ? m->quant_bits : (int)f->info.bits_per_weight;
    c->group = f->info.group_size;
    if (f->block && c->own && m->quant_group_size > 0) c->group = m->quant_group_size;
    if (c->group != -1) return; /* the format's own */
    if (r->group_size) c->group = r->group_size;
    else c->group = c->own && m->quant_group_size ? m->quant_group_size : 128;
}

/* ---- one entry ------------------------------------------------------------------------------------------------------ */

/* An entry in the making: its note grows, and goes to the arena at the end. */
typedef struct draft { fq_plan_entry *x; fqi_str text; } draft;

static void note(draft *t, const char *text) { fqi_str_printf(&t->text, "%s%s", t->text.len ? "; " : "", text); }

/* The first hard rule that no length mends; one that a smaller group might mend only if there is no other. */
static const fqi_broken *lasting(const fqi_case *c, const fqi_broken_list *l)
{
    const fqi_broken *of_group = NULL;
    bool chosen = fqi_format_at(c->format)->info.group_size == -1;
    for (size_t i = 0; i < l->n; i++) {
        const fqi_broken *b = &l->at[i];
        if (b->axis != FQI_AX_FIXED || b->rule->soft) continue;
        if (!chosen || b->rule->divisor >= 0) return b;
        if (!of_group) of_group = b;
    }
    return of_group;
}

/* Why no fit was found: the first hard rule that is still broken, or the heads. */
static void note_impossible(const fqi_case *c, const fqi_broken_list *l, draft *t)
{
    const fqi_shape *s = c->shape;
    const char *family = s->m->family;
    const fqi_head_dim *h = fqi_head_dim_of(1u << c->engine, family);
    const fqi_broken *b = lasting(c, l);
    bool heads = false;
    for (size_t i = 0; i < l->n; i++)
        if (l->at[i].axis == FQI_AX_Q || l->at[i].axis == FQI_AX_KV) heads = true;
    if (b) {
        fqi_str_printf(&t->text, "no length that fitq can change mends %s: %s", b->v.rule, b->v.text);
        if (b->rule->check == FQI_CK_HEAD_DIM_READ) note(t, "writing it as llama is no way out for this engine and model");
        return;
    }
    if (heads && s->attention != FQI_ATT_PLAIN)
        fqi_str_printf(&t->text, "the heads of %s attention cannot be padded", s->attention == FQI_ATT_LATENT ? "latent" : "hybrid linear");
    else if (heads && h && h->ignored)
        fqi_str_printf(&t->text, "padded heads need head_dim, which this engine ignores for %s (%s), and writing it as llama is no way out",
                       family, h->source);
    else
        note(t, "no length satisfies all rules");
}

/* An engine that is in no row for the family, and a head_dim that it must read. */
static void note_head_dim(const fqi_case *c, draft *t)
{
    const fqi_shape *s = c->shape;
    const char *family = s->m->family;
    if (!family[0] || s->attention != FQI_ATT_PLAIN || fqi_head_dim_of(1u << c->engine, family)) return;
    int64_t heads = s->dims.heads;
    if (t->x->n_option && t->x->option[0].fit.num_attention_heads_pad) heads = t->x->option[0].fit.num_attention_heads_pad;
    if (heads * s->head_dim == s->hidden) return;
    fqi_str_printf(&t->text, "%snot known whether %s honours head_dim for %s", t->text.len ? "; " : "",
                   fqi_engine_at(c->engine)->info.name, family);
}

static void note_model(const fqi_case *c, draft *t)
{
    const fqi_shape *s = c->shape;
    const fq_plan_entry *x = t->x;
    bool changes = x->n_option && x->verdict == FQ_NEEDS_FIT && fqi_fit_changes(&x->option[0].fit);
    if (x->n_option && x->option[0].reexpress_as[0]) note(t, "this engine ignores head_dim for the family: write it as llama");
    note_head_dim(c, t);
    if (changes && s->m->family[0] == '\0') note(t, "fitq cannot pad this family yet: the options are for information");
    if (changes && c->own) note(t, "already quantized: `fitq pad` moves its codes and scales as they are");
    if (c->own && c->tp > 1 && c->shape->m->quant_desc_act) note(t, "activation order: `fitq pad --fold-order` stores MLP channels in the order of their groups, the other layers keep theirs");
    if (s->attention == FQI_ATT_LATENT) note(t, "latent attention: its weights and KV cache are not in the prices");
    if (s->attention == FQI_ATT_HYBRID)
        note(t, "hybrid attention: the KV cache is not in the prices, linear-attention layers are not judged");
    if (s->m->vision_tower) note(t, "the vision or audio tower is not judged, and not in the prices");
    if (s->m->sliding_window && s->attention == FQI_ATT_PLAIN)
        note(t, "sliding window: the KV cache is priced as if every layer kept all tokens");
    if (s->m->quant == FQ_QUANT_OTHER && !*own_formats(s->m)) note(t, "the checkpoint's own quantization is not known");
}

static fq_status copy_violations(fq_plan *p, const fqi_broken_list *l, fq_plan_entry *x, fq_err *e)
{
    if (l->n == 0) return FQ_OK;
    fq_violation *v = fqi_arena_alloc(&p->arena, l->n * sizeof *v);
    if (!v) return fqi_fail_nomem(e, "violations");
    for (size_t i = 0; i < l->n; i++) v[i] = l->at[i].v;
    x->violation = v;
    x->n_violation = l->n;
    return FQ_OK;
}

static bool option_changes(const fq_option *o)
{
    return fqi_fit_changes(&o->fit) || o->group_size || o->expert_parallel || o->reexpress_as[0];
}

/* What every format shares (heads, vocabulary) is judged all the same, and listed. */
static fq_status not_judged(fq_plan *p, const fqi_case *c, draft *t, fq_err *e)
{
    fq_plan_entry *x = t->x;
    FQI_TRY(fqi_option_as_is(c, &p->ask, &p->arena, &x->option, e));
    x->n_option = 1;
    x->verdict = FQ_UNKNOWN;
    fqi_str_printf(&t->text, "not judged: the tables have no rules of %s for %s", x->engine->id, x->format->id);
    if (x->n_violation) note(t, "what does not depend on the format is listed");
    return FQ_OK;
}

/* The verdict. Rules that are only costly (soft) ask for a fit where a length can mend them, and stay listed where none can. */
static fq_status decide(fq_plan *p, const fqi_case *c, const fqi_broken_list *broken, bool runs, draft *t, fq_err *e)
{
    fq_plan_entry *x = t->x;
    FQI_TRY(copy_violations(p, broken, x, e));
    if (!(fqi_engine_at(c->engine)->judged & (1u << c->format))) return not_judged(p, c, t, e);
    FQI_TRY(fqi_options_of(c, &p->ask, broken, &p->arena, &x->option, &x->n_option, e));
    if (x->n_option == 0) {
        x->verdict = FQ_IMPOSSIBLE;
        note_impossible(c, broken, t);
        return FQ_OK;
    }
    x->verdict = option_changes(&x->option[0]) ? FQ_NEEDS_FIT : FQ_RUNS;
    if (runs && broken->n) note(t, x->verdict == FQ_RUNS ? "runs, but some tensors fall back to a larger type that no padding avoids"
                                                         : "runs as it is too, with a larger type for the tensors listed");
    return FQ_OK;
}

/* What the answer assumes, and what an engine's own default makes of it. */
static void note_memory(const fq_plan *p, const fqi_case *c, draft *t)
{
    const fqi_engine *en = fqi_engine_at(c->engine);
    const fq_plan_entry *x = t->x;
    int64_t longest = p->model.max_position_embeddings;
    if (!x->memory_known) {
        note(t, "not known whether it fits into the memory");
        return;
    }
    note(t, "memory includes 1.5 GiB for context, communication and activations, and counts on the whole GPU");
    if (en->memory_share > 0) {
        double need = (double)x->memory_need_bytes / (double)p->ask.gpu_memory_bytes;
        fqi_str_printf(&t->text, ", of which %s takes %g unless %s says otherwise", en->info.name, en->memory_share, en->memory_setting);
        if (x->memory_fits && need > en->memory_share) fqi_str_printf(&t->text, ": here it must be at least %.3f", need);
    }
    if (longest && p->ask.context > longest)
        fqi_str_printf(&t->text, "; the context asked for is longer than the model's %lld tokens", (long long)longest);
}

static void fill_memory(const fq_plan *p, const fqi_case *c, draft *t)
{
    const fq_plan_entry *x = t->x;
    fqi_case chosen = *c;
    fqi_dims d = p->shape.dims;
    if (x->n_option) {
        fqi_dims_apply(&p->shape.dims, &x->option[0].fit, &d);
        chosen.expert_parallel = x->option[0].expert_parallel;
        if (x->option[0].group_size) chosen.group = x->option[0].group_size;
    }
    fqi_memory_fill(&chosen, &d, &p->ask, t->x);
    note_memory(p, c, t);
}

static fq_status entry_fill(fq_plan *p, const fqi_case *c, draft *t, fq_err *e)
{
    const fqi_engine *en = fqi_engine_at(c->engine);
    const fqi_format *f = fqi_format_at(c->format);
    if (!(en->loads & (1u << c->format))) {
        t->x->verdict = FQ_IMPOSSIBLE;
        fqi_str_printf(&t->text, "%s does not load %s checkpoints", en->info.name, f->info.id);
        return FQ_OK;
    }
    fqi_broken_list broken = { 0 };
    bool runs = fqi_judge(c, &p->shape.dims, &broken);
    fq_status s = broken.failed ? fqi_fail_nomem(e, "violations") : decide(p, c, &broken, runs, t, e);
    fqi_broken_free(&broken);
    FQI_TRY(s);
    note_model(c, t);
    if (p->ask.gpu_memory_bytes) fill_memory(p, c, t);
    return FQ_OK;
}

static fq_status entry_init(fq_plan *p, const fqi_case *c, fq_plan_entry *x, fq_err *e)
{
    *x = (fq_plan_entry){ .engine = &fqi_engine_at(c->engine)->info, .format = &fqi_format_at(c->format)->info, .tp = c->tp,
                          .group_size = c->group, .note = "" };
    draft t = { .x = x };
    fq_status s = entry_fill(p, c, &t, e);
    if (s == FQ_OK && (t.text.failed || (t.text.len && !(x->note = fqi_arena_strdup(&p->arena, t.text.s)))))
        s = fqi_fail_nomem(e, "note");
    fqi_str_free(&t.text);
    return s;
}

/* ---- public --------------------------------------------------------------------------------------------------------- */

static fq_status build(fq_plan *p, const fq_model *m, const fq_plan_request *r, fq_err *e)
{
    p->model = *m;
    FQI_TRY(check_request(r, &p->ask, e));
    FQI_TRY(fqi_shape_init(&p->model, &p->shape, e));
    size_t *engine, *format, n_engine = 0, n_format = 0, n;
    FQI_TRY(pick_engines(p, r, &engine, &n_engine, e));
    FQI_TRY(pick_formats(p, r, &format, &n_format, e));
    if (!fqi_mul_size(n_engine, n_format, &n) || !fqi_mul_size(n, r->n_tp, &n) || n > MAX_ENTRY)
        return fqi_fail(e, FQ_E_USAGE, NULL, "plan-size", "found more than %d combinations, expected fewer", MAX_ENTRY);
    p->cases = fqi_arena_alloc(&p->arena, n * sizeof *p->cases);
    p->entries = fqi_arena_alloc(&p->arena, n * sizeof *p->entries);
    if (!p->cases || !p->entries) return fqi_fail_nomem(e, "plan");
    for (size_t i = 0; i < n; i++) {
        fqi_case *c = &p->cases[i];
        case_init(p, r, engine[i / r->n_tp / n_format], format[i / r->n_tp % n_format], r->tp[i % r->n_tp], c);
        FQI_TRY(entry_init(p, c, &p->entries[i], e));
        p->n_entry = i + 1;
    }
    return FQ_OK;
}

fq_status fq_plan_create(const fq_model *m, const fq_plan_request *r, fq_plan **out, fq_err *e)
{
    fq_plan *p = fqi_calloc(1, sizeof *p);
    if (!p) return fqi_fail_nomem(e, "plan");
    fq_status s = build(p, m, r, e);
    if (s != FQ_OK) {
        fq_plan_free(p);
        return s;
    }
    *out = p;
    return FQ_OK;
}

void fq_plan_free(fq_plan *p)
{
    if (!p) return;
    fqi_arena_free(&p->arena);
    free(p);
}

size_t fq_plan_n_entry(const fq_plan *p) { return p->n_entry; }

const fq_plan_entry *fq_plan_get_entry(const fq_plan *p, size_t i) { return i < p->n_entry ? &p->entries[i] : NULL; }

void fqi_plan_memory(const fq_plan *p, size_t i, const fq_fit *fit, fq_plan_entry *out, uint64_t *weight_bytes)
{
    fqi_dims d;
    fqi_price price;
    fqi_dims_apply(&p->shape.dims, fit, &d);
    fqi_memory_fill(&p->cases[i], &d, &p->ask, out);
    fqi_price_of(&p->cases[i], &d, p->ask.kv_cache_bits, &price);
    *weight_bytes = price.rank_bytes;
}

/* ---- one fit for all entries ------------------------------------------------------------------------------------------ */

static fq_status joint_refused(const fq_plan *p, size_t i, const char *why, fq_err *e)
{
    const fq_plan_entry *x = &p->entries[i];
    return fqi_fail(e, FQ_E_INPUT, NULL, "no-fit", "%s, %s, %d GPUs: %s", x->engine->id, x->format->id, x->tp, why);
}

/* Does every entry run with these lengths, by padding alone? *bad: the first that does not. */
static bool all_run(const fq_plan *p, const fq_fit *fit, size_t *bad)
{
    fqi_dims d;
    fqi_dims_apply(&p->shape.dims, fit, &d);
    for (size_t i = 0; i < p->n_entry; i++) {
        if (!fqi_runs_fitted(&p->cases[i], &d, NULL)) {
            *bad = i;
            return false;
        }
    }
    return true;
}

/* Cheapest first, so the first fit that all entries run with is the answer. Expert parallelism and other group sizes are not in
 * question here: they are settings of the engine and of the quantizer, and this is about weights. */
fq_status fq_plan_joint_fit(const fq_plan *p, fq_fit *out, fq_err *e)
{
    for (size_t i = 0; i < p->n_entry; i++)
        if (p->entries[i].verdict == FQ_IMPOSSIBLE || p->entries[i].verdict == FQ_UNKNOWN) return joint_refused(p, i, p->entries[i].note, e);
    fqi_units *u = fqi_calloc(p->n_entry, sizeof *u);
    if (!u) return fqi_fail_nomem(e, "units");
    for (size_t i = 0; i < p->n_entry; i++) fqi_units_priced(&p->cases[i], &p->ask, &u[i]);
    fq_fit fit[FQI_MAX_HEAD_PLAN];
    size_t n = fqi_fits_of(&p->cases[0], u, p->n_entry, fit, FQI_MAX_HEAD_PLAN), bad = 0;
    free(u);
    if (n == 0) return fqi_fail(e, FQ_E_INPUT, NULL, "no-fit", "found no lengths that satisfy all entries at once; plan fewer together");
    for (size_t i = 0; i < n; i++) {
        if (!all_run(p, &fit[i], &bad)) continue;
        *out = fit[i];
        return FQ_OK;
    }
    return joint_refused(p, bad, "no padding alone makes it run (see the plan for another group size or expert parallelism)", e);
}
