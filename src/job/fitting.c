/* fitting.c - what a request comes to: lengths, maps, names, architecture. See fitting.h.
 *
 *     open and check -> fit (asked, or planned) -> names -> architecture -> maps */
#include "job/fitting.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

#define DEFAULT_GROUP 128

const char *const fqi_layout_name[] = { [FQ_LAYOUT_SPREAD] = "spread", [FQ_LAYOUT_TAIL] = "tail", [FQ_LAYOUT_INTERLEAVE] = "interleave" };

typedef struct asking {
    const fq_pad_options *o;
    const fq_run *run;
    fqi_fitting_mode mode;
    fqi_fitting *f;
} asking;

static void say(const fq_run *run, fq_log_level level, const char *line)
{
    if (run->log) run->log(run->user, level, line);
}

/* ---- what is asked ---- */

static fq_status check_source(const asking *j, fq_err *e)
{
    const fq_ckpt_info *i = &j->f->ckpt->info;
    FQI_TRY(fq_ckpt_check(j->f->ckpt, e));
    if (j->f->ckpt->partial)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->source), "partial-checkpoint", "found one weight file of several, expected the folder or its index");
    if (!j->f->ckpt->has_config)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->source), "config-missing", "found no config.json beside the weights, expected one");
    if (!j->f->ckpt->config.family || !j->f->ckpt->has_naming || !j->f->ckpt->bound)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->source), "unknown-family", "found model_type \"%s\", expected one of the families that `fitq pad --help` lists", i->model.model_type);
    if (i->model.quant != FQ_QUANT_NONE && j->mode == FQI_FITTING_QUANTIZE)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->source), "already-quantized", "found quantization_config with quant_method \"%s\", expected bf16, fp16 or fp32 weights", i->model.quant_name);
    if (i->fitted && i->model.quant != FQ_QUANT_NONE)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->source), "already-fitted", "found fitq.json beside quantized weights, expected another program's: `fitq quantize --tp` with all GPU counts makes one that fits");
    if (i->fitted)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->source), "already-fitted", "found fitq.json, expected an unfitted checkpoint: `fitq unpad` gives the original back");
    return FQ_OK;
}

static bool same_or_zero(int64_t pad, int64_t real) { return pad == 0 || pad == real; }

static bool fit_is_identity(const fq_model *m, const fq_fit *f)
{
    return same_or_zero(f->intermediate_size_pad, m->intermediate_size) &&
           same_or_zero(f->moe_intermediate_size_pad, m->moe_intermediate_size) &&
           same_or_zero(f->shared_expert_intermediate_size_pad, m->shared_expert_intermediate_size) &&
           same_or_zero(f->num_attention_heads_pad, m->num_attention_heads) &&
           same_or_zero(f->num_key_value_heads_pad, m->num_key_value_heads) && f->kv_replication <= 1 &&
           same_or_zero(f->vocab_size_pad, m->vocab_size);
}

static void override(int64_t *planned, int64_t asked) { if (asked != 0) *planned = asked; }

static fq_status plan_fit(asking *j, fq_err *e)
{
    static const char *const gptq[] = { "gptq-marlin" };
    const fq_pad_options *o = j->o;
    const bool quantized = j->f->ckpt->info.model.quant != FQ_QUANT_NONE;   /* the planner knows its format */
    fq_plan_request r = {
        .tp = o->tp, .n_tp = o->n_tp, .engine = o->engine, .n_engine = o->n_engine,
        .format = o->n_format > 0 || quantized ? o->format : gptq, .n_format = o->n_format > 0 || quantized ? o->n_format : 1,
        .group_size = o->group_size, .context = o->context,
    };
    fq_plan *p = NULL;
    fq_model m = j->f->ckpt->info.model;
    if (j->f->group_new) m.quant_group_size = (int)j->f->group_new;
    if (j->f->quant.desc_act) m.quant_desc_act = false;
    FQI_TRY(fq_plan_create(&m, &r, &p, e));
    fq_status s = fq_plan_joint_fit(p, &j->f->fit, e);
    fq_plan_free(p);
    return s;
}

static fq_status common_multiple(const fq_pad_options *o, int64_t *out, fq_err *e)
{
    *out = 1;
    for (size_t i = 0; i < o->n_tp; i++)
        if (o->tp[i] < 1 || !fqi_lcm_i64(*out, o->tp[i], out))
            return fqi_fail(e, FQ_E_USAGE, NULL, "gpu-count", "found counts without a common multiple of 63 bits, expected fewer of them");
    return FQ_OK;
}

/* Smaller groups that larger ones are made of. */
static fq_status choose_group(asking *j, fq_err *e)
{
    const fq_model *m = &j->f->ckpt->info.model;
    const int g = j->o->regroup, old = m->quant_group_size;
    fqi_quant_scheme s;
    if (g == 0) return FQ_OK;
    if (g != 32 && g != 64 && g != 128) return fqi_fail(e, FQ_E_USAGE, NULL, "regroup", "found %d, expected 32, 64 or 128", g);
    FQI_TRY(fqi_quant_scheme_read(j->f->ckpt, &s, e));
    if (s.layouts == 0 || s.block[0] != 0 || s.varies || (m->quant != FQ_QUANT_GPTQ && m->quant != FQ_QUANT_AWQ && m->quant != FQ_QUANT_COMPRESSED_TENSORS))
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->source), "regroup", "found weights that are not integers in groups of one size, expected GPTQ, AWQ or compressed-tensors");
    if (old > 0 && old % g != 0) return fqi_fail(e, FQ_E_USAGE, FQI_FILE(j->o->source), "regroup", "found groups of %d, which groups of %d do not divide: a smaller group never holds two scales", old, g);
    if (old <= 0 && m->quant == FQ_QUANT_COMPRESSED_TENSORS)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->source), "regroup", "found one scale for each channel, expected groups");
    if (old == g) return FQ_OK;
    j->f->group_old = old > 0 ? old : -1;
    j->f->group_new = g;
    return FQ_OK;
}

/* What engines are told is for all modules: desc_act stays while any of them has an order. compressed-tensors says by "actorder" that g_idx is stored, which
 * it still is. */
static fq_status choose_fold(asking *j, fq_err *e)
{
    const fq_model *m = &j->f->ckpt->info.model;
    if (!j->o->fold_order || j->mode != FQI_FITTING_PAD) return FQ_OK;
    FQI_TRY(fqi_fold_find(j->f->ckpt, j->run, &j->f->fold, e));
    if (j->f->fold.n_mlp == 0) say(j->run, FQ_LOG_WARN, "no down_proj has a g_idx out of the order of its channels: --fold-order changes nothing");
    else if (j->f->fold.n_left == 0 && m->quant == FQ_QUANT_GPTQ && m->quant_desc_act) j->f->quant.desc_act = "false";
    return FQ_OK;
}

static fq_status choose_fit(asking *j, fq_err *e)
{
    const fq_pad_options *o = j->o;
    const fq_model *m = &j->f->ckpt->info.model;
    fq_fit asked = o->fit;
    fqi_fit_normalize(m, &asked);
    FQI_TRY(choose_group(j, e));
    j->f->quant.group = j->f->group_new;
    FQI_TRY(choose_fold(j, e));
    if (o->n_tp > 0) FQI_TRY(plan_fit(j, e));
    override(&j->f->fit.intermediate_size_pad, asked.intermediate_size_pad);
    override(&j->f->fit.moe_intermediate_size_pad, asked.moe_intermediate_size_pad);
    override(&j->f->fit.shared_expert_intermediate_size_pad, asked.shared_expert_intermediate_size_pad);
    override(&j->f->fit.num_attention_heads_pad, asked.num_attention_heads_pad);
    override(&j->f->fit.num_key_value_heads_pad, asked.num_key_value_heads_pad);
    override(&j->f->fit.kv_replication, asked.kv_replication);
    override(&j->f->fit.vocab_size_pad, asked.vocab_size_pad);
    if (!same_or_zero(j->f->fit.vocab_size_pad, m->vocab_size) && asked.vocab_size_pad == 0 && !o->vocab)
        return fqi_fail(e, FQ_E_USAGE, FQI_FILE(o->source), "vocab", "found vocab_size %lld, expected %lld for these GPU counts; --vocab allows it (the added logits are exactly 0)", (long long)m->vocab_size, (long long)j->f->fit.vocab_size_pad);
    fqi_model_fitted(m, &j->f->fit, &j->f->fitted);
    if (j->f->quant.desc_act) j->f->fitted.quant_desc_act = false;
    j->f->layout = (fqi_layout){ .kind = o->layout, .group = o->group_size > 0 ? o->group_size : DEFAULT_GROUP };
    fqi_quant_scheme scheme;
    FQI_TRY(fqi_quant_scheme_read(j->f->ckpt, &scheme, e));
    fqi_parts_units(&scheme, &j->f->layout.unit, &j->f->layout.grain);
    if (j->f->group_new) j->f->layout.unit = j->f->group_new;
    return common_multiple(o, &j->f->layout.ranks, e);
}

/* ---- names ---- */

static fq_status set_prefix(char *to, size_t n, const char *prefix, fq_err *e)
{
    size_t len = strlen(prefix);
    if (len >= n) return fqi_fail(e, FQ_E_USAGE, NULL, "prefix", "found %zu bytes, expected fewer than %zu", len, n);
    memcpy(to, prefix, len + 1);
    return FQ_OK;
}

static fq_status choose_naming(asking *j, fq_err *e)
{
    const char *p = j->o->prefix;
    const fqi_family *f = j->f->ckpt->config.family;
    j->f->to = j->f->ckpt->naming;
    if (!p || strcmp(p, "keep") == 0) return FQ_OK;
    j->f->to.wrapper[0] = '\0';
    if (strcmp(p, "add") != 0 && strcmp(p, "strip") != 0) return set_prefix(j->f->to.body_prefix, sizeof j->f->to.body_prefix, p, e);
    /* both mean: the names that engines expect of this family */
    for (size_t i = 0; f->body_prefix[i]; i++)
        if (strcmp(f->body_prefix[i], j->f->to.body_prefix) == 0) return FQ_OK;
    j->f->to.head_prefix[0] = '\0';
    return set_prefix(j->f->to.body_prefix, sizeof j->f->to.body_prefix, f->body_prefix[0], e);
}

/* ---- another architecture ---- */

static fq_status add_zero_biases(asking *j, fq_err *e)
{
    const fq_ckpt *c = j->f->ckpt;
    for (size_t i = 0; i < c->n_tensor && !j->f->zeros_like; i++)
        if (c->bound[i].row && c->bound[i].row->scope == FQI_BODY && strcmp(c->bound[i].row->role, "norm") == 0) j->f->zeros_like = &c->tensor[i];
    if (!j->f->zeros_like) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->source), "tensor-missing", "found no final norm, expected one");
    j->f->n_zeros = (size_t)c->info.model.num_hidden_layers;
    j->f->zeros = fqi_calloc(j->f->n_zeros, sizeof *j->f->zeros);
    if (!j->f->zeros) return fqi_fail_nomem(e, "tensor table");
    for (size_t i = 0; i < j->f->n_zeros; i++) {
        fqi_str s = { 0 };
        fqi_str_printf(&s, "%s%slayers.%zu.self_attn.o_proj.bias", j->f->to.wrapper, j->f->to.body_prefix, i);
        if (s.failed) { fqi_str_free(&s); return fqi_fail_nomem(e, "tensor table"); }
        j->f->zeros[i] = s.s;
    }
    return FQ_OK;
}

static fq_status choose_architecture(asking *j, fq_err *e)
{
    const fq_model *m = &j->f->ckpt->info.model;
    const char *as = j->o->reexpress_as;
    if (!as || strcmp(m->model_type, as) == 0) return FQ_OK;
    if (strcmp(as, "llama") != 0) return fqi_fail(e, FQ_E_USAGE, NULL, "reexpress", "found \"%s\", expected llama", as);
    if (!j->f->ckpt->config.family->can_be_llama || m->sliding_window || j->f->ckpt->config.text_in_sub)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->source), "reexpress", "found model_type \"%s\"%s, expected qwen2 or mistral without one", m->model_type, m->sliding_window ? " with a sliding window" : "");
    j->f->as_llama = true;
    j->f->fitted.head_dim_explicit = true;
    return m->q_bias && !m->o_bias ? add_zero_biases(j, e) : FQ_OK;
}

static bool same_naming(const fqi_naming *a, const fqi_naming *b)
{
    return strcmp(a->wrapper, b->wrapper) == 0 && strcmp(a->body_prefix, b->body_prefix) == 0 && strcmp(a->head_prefix, b->head_prefix) == 0;
}

static fq_status check_change(const asking *j, fq_err *e)
{
    j->f->changes = true;
    if (!fit_is_identity(&j->f->ckpt->info.model, &j->f->fit) || j->f->as_llama || j->f->group_new || j->f->fold.n_mlp > 0 || !same_naming(&j->f->ckpt->naming, &j->f->to)) return FQ_OK;
    j->f->changes = false;
    if (j->mode == FQI_FITTING_QUANTIZE) return FQ_OK;
    return fqi_fail(e, FQ_E_USAGE, FQI_FILE(j->o->source), "nothing-to-pad", "found lengths and names that fit as they are, expected something to change");
}

/* An engine of the request that computes head_dim from hidden_size instead of reading it would misread this model. */
typedef struct misreader { char engine[32]; bool llama_helps; } misreader;

static fq_status find_misreader(const asking *j, misreader *out, fq_err *e)
{
    static const char *const bf16[] = { "bf16" };
    fq_plan_request r = { .tp = (const int[]){ 1 }, .n_tp = 1, .engine = j->o->engine, .n_engine = j->o->n_engine, .format = bf16, .n_format = 1 };
    fq_plan *p = NULL;
    *out = (misreader){ .engine = "" };
    FQI_TRY(fq_plan_create(&j->f->fitted, &r, &p, e));
    for (size_t i = 0; i < fq_plan_n_entry(p) && out->engine[0] == '\0'; i++) {
        const fq_plan_entry *x = fq_plan_get_entry(p, i);
        for (size_t k = 0; k < x->n_violation; k++)
            if (strcmp(x->violation[k].rule, "head-dim-ignored") == 0) snprintf(out->engine, sizeof out->engine, "%s", x->engine->id);
        for (size_t k = 0; k < x->n_option; k++) out->llama_helps = out->llama_helps || x->option[k].reexpress_as[0] != '\0';
    }
    fq_plan_free(p);
    return FQ_OK;
}

/* Heads that hidden_size / heads does not give need an engine that honours head_dim. Planned for engines that do not, the result
 * would load and compute nonsense: refused. With lengths that were asked for, the engine is not known: said. */
static fq_status check_head_dim(const asking *j, fq_err *e)
{
    misreader m;
    char line[256];
    const fq_model *f = &j->f->fitted;
    if (j->f->as_llama || f->num_attention_heads * f->head_dim == f->hidden_size) return FQ_OK;
    FQI_TRY(find_misreader(j, &m, e));
    if (m.engine[0] == '\0') return FQ_OK;
    const char *way = m.llama_helps ? "--as llama (the same function in the form it honours) or other engines" : "other engines";
    if (j->o->n_tp > 0)
        return fqi_fail(e, FQ_E_USAGE, FQI_FILE(j->o->source), "head-dim-ignored", "found %s among the engines, which ignores head_dim for %s, expected %s", m.engine, f->family, way);
    snprintf(line, sizeof line, "%s ignores head_dim for %s and would misread these heads; it takes %s", m.engine, f->family, way);
    say(j->run, FQ_LOG_WARN, line);
    return FQ_OK;
}

/* ---- the whole ---- */

fq_status fqi_fitting_make(const fq_pad_options *o, fqi_fitting_mode mode, const fq_run *run, fqi_fitting *out, fq_err *e)
{
    asking j = { .o = o, .run = run, .mode = mode, .f = out };
    FQI_TRY(fq_ckpt_open(o->source, run, &out->ckpt, e));
    FQI_TRY(check_source(&j, e));
    FQI_TRY(choose_fit(&j, e));
    FQI_TRY(choose_naming(&j, e));
    FQI_TRY(choose_architecture(&j, e));
    FQI_TRY(check_change(&j, e));
    FQI_TRY(check_head_dim(&j, e));
    FQI_TRY(fqi_maps_create(&out->ckpt->info.model, &out->fit, &out->layout, &out->maps, e));
    return fqi_parts_create(out->ckpt, &(fqi_parts_request){ .maps = &out->maps, .regroup = out->group_new, .fold = &out->fold }, &out->parts, e);
}

void fqi_fitting_free(fqi_fitting *f)
{
    for (size_t i = 0; i < f->n_zeros && f->zeros; i++) free(f->zeros[i]);
    free(f->zeros);
    fqi_parts_free(&f->parts);
    fqi_fold_free(&f->fold);
    fqi_maps_free(&f->maps);
    fq_ckpt_close(f->ckpt);
    *f = (fqi_fitting){ 0 };
}

fq_status fqi_fitting_check_names(const fqi_fitting *f, const fq_pad_options *o, const fqi_outplan *p, fq_err *e)
{
    if (same_naming(&f->ckpt->naming, &f->to)) return FQ_OK;
    const fqi_family *family = f->as_llama ? fqi_family_find("llama") : f->ckpt->config.family;
    const char **name = fqi_calloc(p->n_tensor + 1, sizeof *name);
    if (!name) return fqi_fail_nomem(e, "tensor table");
    for (size_t i = 0; i < p->n_tensor; i++) name[i] = p->tensor[i].name;
    fqi_naming found;
    fq_status s = fqi_naming_detect(family, name, p->n_tensor, o->source, &found, NULL);
    free(name);
    char shown[FQI_NAME_MAX + 1];
    if (s == FQ_OK && same_naming(&found, &f->to)) return FQ_OK;
    return fqi_fail(e, FQ_E_USAGE, FQI_FILE(o->source), "prefix", "found \"%s\", expected one that readers of %s know, such as \"%s\"", fqi_escape(shown, o->prefix), family->name, family->body_prefix[0]);
}
