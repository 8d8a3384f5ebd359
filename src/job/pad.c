/* pad.c - fq_pad: a fitted copy of a checkpoint.
 *
 *     open and check -> fit (asked, or planned) -> maps -> output table -> [dry run ends here]
 *       -> staging folder -> shards -> index, config.json, fitq.json, everything else -> one rename
 *
 * Everything that can be refused is refused before the staging folder is made. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/fs.h"
#include "job/fitconfig.h"
#include "job/write.h"

#define DEFAULT_GROUP 128

typedef struct pad_job {
    const fq_pad_options *o;
    const fq_run *run;
    fq_ckpt *ckpt;
    fq_fit fit;
    fq_model fitted;
    fqi_layout layout;
    fqi_maps maps;
    fqi_naming to;
    bool as_llama;
    char **zeros; size_t n_zeros;        /* names of added o_proj.bias tensors */
    const fqi_tensor *zeros_like;
    fqi_outplan plan;
    char *config; size_t n_config;
} pad_job;

static const char *const layout_name[] = { [FQ_LAYOUT_SPREAD] = "spread", [FQ_LAYOUT_TAIL] = "tail", [FQ_LAYOUT_INTERLEAVE] = "interleave" };

static void say(const fq_run *run, fq_log_level level, const char *line)
{
    if (run->log) run->log(run->user, level, line);
}

/* ---- what is asked ---- */

static fq_status check_source(const pad_job *j, fq_err *e)
{
    const fq_ckpt_info *i = &j->ckpt->info;
    FQI_TRY(fq_ckpt_check(j->ckpt, e));
    if (j->ckpt->partial)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->source), "partial-checkpoint", "found one weight file of several, expected the folder or its index");
    if (!j->ckpt->has_config)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->source), "config-missing", "found no config.json beside the weights, expected one");
    if (!j->ckpt->config.family || !j->ckpt->has_naming || !j->ckpt->bound)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->source), "unknown-family", "found model_type \"%s\", expected one of the families that `fitq pad --help` lists", i->model.model_type);
    if (i->model.quant != FQ_QUANT_NONE)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->source), "already-quantized", "found quantization_config with quant_method \"%s\", expected bf16, fp16 or fp32 weights", i->model.quant_name);
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

static fq_status plan_fit(pad_job *j, fq_err *e)
{
    static const char *const gptq[] = { "gptq-marlin" };
    const fq_pad_options *o = j->o;
    fq_plan_request r = {
        .tp = o->tp, .n_tp = o->n_tp, .engine = o->engine, .n_engine = o->n_engine,
        .format = o->n_format > 0 ? o->format : gptq, .n_format = o->n_format > 0 ? o->n_format : 1,
        .group_size = o->group_size, .context = o->context,
    };
    fq_plan *p = NULL;
    FQI_TRY(fq_plan_create(&j->ckpt->info.model, &r, &p, e));
    fq_status s = fq_plan_joint_fit(p, &j->fit, e);
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

static fq_status choose_fit(pad_job *j, fq_err *e)
{
    const fq_pad_options *o = j->o;
    const fq_model *m = &j->ckpt->info.model;
    fq_fit asked = o->fit;
    fqi_fit_normalize(m, &asked);
    if (o->n_tp > 0) FQI_TRY(plan_fit(j, e));
    override(&j->fit.intermediate_size_pad, asked.intermediate_size_pad);
    override(&j->fit.moe_intermediate_size_pad, asked.moe_intermediate_size_pad);
    override(&j->fit.shared_expert_intermediate_size_pad, asked.shared_expert_intermediate_size_pad);
    override(&j->fit.num_attention_heads_pad, asked.num_attention_heads_pad);
    override(&j->fit.num_key_value_heads_pad, asked.num_key_value_heads_pad);
    override(&j->fit.kv_replication, asked.kv_replication);
    override(&j->fit.vocab_size_pad, asked.vocab_size_pad);
    if (!same_or_zero(j->fit.vocab_size_pad, m->vocab_size) && asked.vocab_size_pad == 0 && !o->vocab)
        return fqi_fail(e, FQ_E_USAGE, FQI_FILE(o->source), "vocab", "found vocab_size %lld, expected %lld for these GPU counts; --vocab allows it (the added logits are exactly 0)", (long long)m->vocab_size, (long long)j->fit.vocab_size_pad);
    fqi_model_fitted(m, &j->fit, &j->fitted);
    j->layout = (fqi_layout){ .kind = o->layout, .group = o->group_size > 0 ? o->group_size : DEFAULT_GROUP };
    return common_multiple(o, &j->layout.ranks, e);
}

/* ---- names ---- */

static fq_status set_prefix(char *to, size_t n, const char *prefix, fq_err *e)
{
    size_t len = strlen(prefix);
    if (len >= n) return fqi_fail(e, FQ_E_USAGE, NULL, "prefix", "found %zu bytes, expected fewer than %zu", len, n);
    memcpy(to, prefix, len + 1);
    return FQ_OK;
}

static fq_status choose_naming(pad_job *j, fq_err *e)
{
    const char *p = j->o->prefix;
    const fqi_family *f = j->ckpt->config.family;
    j->to = j->ckpt->naming;
    if (!p || strcmp(p, "keep") == 0) return FQ_OK;
    j->to.wrapper[0] = '\0';
    if (strcmp(p, "add") != 0 && strcmp(p, "strip") != 0) return set_prefix(j->to.body_prefix, sizeof j->to.body_prefix, p, e);
    /* both mean: the names that engines expect of this family */
    for (size_t i = 0; f->body_prefix[i]; i++)
        if (strcmp(f->body_prefix[i], j->to.body_prefix) == 0) return FQ_OK;
    j->to.head_prefix[0] = '\0';
    return set_prefix(j->to.body_prefix, sizeof j->to.body_prefix, f->body_prefix[0], e);
}

/* ---- another architecture ---- */

static fq_status add_zero_biases(pad_job *j, fq_err *e)
{
    const fq_ckpt *c = j->ckpt;
    for (size_t i = 0; i < c->n_tensor && !j->zeros_like; i++)
        if (c->bound[i].row && c->bound[i].row->scope == FQI_BODY && strcmp(c->bound[i].row->role, "norm") == 0) j->zeros_like = &c->tensor[i];
    if (!j->zeros_like) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->source), "tensor-missing", "found no final norm, expected one");
    j->n_zeros = (size_t)c->info.model.num_hidden_layers;
    j->zeros = fqi_calloc(j->n_zeros, sizeof *j->zeros);
    if (!j->zeros) return fqi_fail_nomem(e, "tensor table");
    for (size_t i = 0; i < j->n_zeros; i++) {
        fqi_str s = { 0 };
        fqi_str_printf(&s, "%s%slayers.%zu.self_attn.o_proj.bias", j->to.wrapper, j->to.body_prefix, i);
        if (s.failed) { fqi_str_free(&s); return fqi_fail_nomem(e, "tensor table"); }
        j->zeros[i] = s.s;
    }
    return FQ_OK;
}

static fq_status choose_architecture(pad_job *j, fq_err *e)
{
    const fq_model *m = &j->ckpt->info.model;
    const char *as = j->o->reexpress_as;
    if (!as || strcmp(m->model_type, as) == 0) return FQ_OK;
    if (strcmp(as, "llama") != 0) return fqi_fail(e, FQ_E_USAGE, NULL, "reexpress", "found \"%s\", expected llama", as);
    if (!j->ckpt->config.family->can_be_llama || m->sliding_window || j->ckpt->config.text_in_sub)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->source), "reexpress", "found model_type \"%s\"%s, expected qwen2 or mistral without one", m->model_type, m->sliding_window ? " with a sliding window" : "");
    j->as_llama = true;
    j->fitted.head_dim_explicit = true;
    return m->q_bias && !m->o_bias ? add_zero_biases(j, e) : FQ_OK;
}

static bool same_naming(const fqi_naming *a, const fqi_naming *b)
{
    return strcmp(a->wrapper, b->wrapper) == 0 && strcmp(a->body_prefix, b->body_prefix) == 0 && strcmp(a->head_prefix, b->head_prefix) == 0;
}

static fq_status check_change(const pad_job *j, fq_err *e)
{
    if (!fit_is_identity(&j->ckpt->info.model, &j->fit) || j->as_llama || !same_naming(&j->ckpt->naming, &j->to)) return FQ_OK;
    return fqi_fail(e, FQ_E_USAGE, FQI_FILE(j->o->source), "nothing-to-pad", "found lengths and names that fit as they are, expected something to change");
}

/* Names under a prefix of the user's choice must lead back to it, or nobody, unpad included, could read the result. */
static fq_status check_names(const pad_job *j, fq_err *e)
{
    if (same_naming(&j->ckpt->naming, &j->to)) return FQ_OK;
    const fqi_family *f = j->as_llama ? fqi_family_find("llama") : j->ckpt->config.family;
    const char **name = fqi_calloc(j->plan.n_tensor + 1, sizeof *name);
    if (!name) return fqi_fail_nomem(e, "tensor table");
    for (size_t i = 0; i < j->plan.n_tensor; i++) name[i] = j->plan.tensor[i].name;
    fqi_naming found;
    fq_status s = fqi_naming_detect(f, name, j->plan.n_tensor, j->o->source, &found, NULL);
    free(name);
    char shown[FQI_NAME_MAX + 1];
    if (s == FQ_OK && same_naming(&found, &j->to)) return FQ_OK;
    return fqi_fail(e, FQ_E_USAGE, FQI_FILE(j->o->source), "prefix", "found \"%s\", expected one that readers of %s know, such as \"%s\"", fqi_escape(shown, j->o->prefix), f->name, f->body_prefix[0]);
}

/* An engine of the request that computes head_dim from hidden_size instead of reading it would misread this model. */
typedef struct misreader { char engine[32]; bool llama_helps; } misreader;

static fq_status find_misreader(const pad_job *j, misreader *out, fq_err *e)
{
    static const char *const bf16[] = { "bf16" };
    fq_plan_request r = { .tp = (const int[]){ 1 }, .n_tp = 1, .engine = j->o->engine, .n_engine = j->o->n_engine, .format = bf16, .n_format = 1 };
    fq_plan *p = NULL;
    *out = (misreader){ .engine = "" };
    FQI_TRY(fq_plan_create(&j->fitted, &r, &p, e));
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
static fq_status check_head_dim(const pad_job *j, fq_err *e)
{
    misreader m;
    char line[256];
    const fq_model *f = &j->fitted;
    if (j->as_llama || f->num_attention_heads * f->head_dim == f->hidden_size) return FQ_OK;
    FQI_TRY(find_misreader(j, &m, e));
    if (m.engine[0] == '\0') return FQ_OK;
    const char *way = m.llama_helps ? "--as llama (the same function in the form it honours) or other engines" : "other engines";
    if (j->o->n_tp > 0)
        return fqi_fail(e, FQ_E_USAGE, FQI_FILE(j->o->source), "head-dim-ignored", "found %s among the engines, which ignores head_dim for %s, expected %s", m.engine, f->family, way);
    snprintf(line, sizeof line, "%s ignores head_dim for %s and would misread these heads; it takes %s", m.engine, f->family, way);
    say(j->run, FQ_LOG_WARN, line);
    return FQ_OK;
}

/* ---- doing it ---- */

static fq_status prepare(pad_job *j, fq_err *e)
{
    FQI_TRY(fq_ckpt_open(j->o->source, j->run, &j->ckpt, e));
    FQI_TRY(check_source(j, e));
    FQI_TRY(choose_fit(j, e));
    FQI_TRY(choose_naming(j, e));
    FQI_TRY(choose_architecture(j, e));
    FQI_TRY(check_change(j, e));
    FQI_TRY(check_head_dim(j, e));
    FQI_TRY(fqi_maps_create(&j->ckpt->info.model, &j->fit, &j->layout, &j->maps, e));
    fqi_outplan_request r = {
        .ckpt = j->ckpt, .maps = &j->maps, .from = &j->ckpt->naming, .to = &j->to,
        .zeros = (const char *const *)j->zeros, .n_zeros = j->n_zeros, .zeros_like = j->zeros_like,
        .shard_bytes = fqi_shard_bytes(j->o->shard_bytes),
    };
    FQI_TRY(fqi_outplan_create(&r, &j->plan, e));
    FQI_TRY(check_names(j, e));
    return fqi_fit_config(&j->ckpt->config, j->o->source, &j->fitted, j->as_llama, &j->config, &j->n_config, e);
}

static fq_status print_provenance(void *user, const fqi_hash128 *source_hash, char **text, size_t *n, fq_err *e)
{
    const pad_job *j = user;
    fqi_prov_tensor *t = fqi_calloc(j->plan.n_tensor + 1, sizeof *t);
    if (!t) return fqi_fail_nomem(e, "fitq.json");
    size_t n_tensor = 0;
    for (size_t i = 0; i < j->plan.n_tensor; i++)
        if (j->plan.tensor[i].src) t[n_tensor++] = (fqi_prov_tensor){ .name = j->plan.tensor[i].name, .source_hash = source_hash[i], .source_shard = j->plan.tensor[i].src->shard, .dtype = (fq_dtype)j->plan.tensor[i].dtype };
    fqi_prov_write w = {
        .layout = layout_name[j->layout.kind], .group_size = j->layout.group, .model = &j->ckpt->info.model, .fit = &j->fit,
        .maps = &j->maps, .from = &j->ckpt->naming, .to = &j->to, .added = (const char *const *)j->zeros, .n_added = j->n_zeros,
        .shard = j->ckpt->shard, .n_shard = j->ckpt->n_shard,
        .config_source = j->ckpt->config.text, .config_target = j->config, .tensor = t, .n_tensor = n_tensor,
    };
    fq_status s = fqi_prov_print(&w, text, n, e);
    free(t);
    return s;
}

static fq_status dry_run(const pad_job *j)
{
    for (size_t i = 0; i < j->plan.n_tensor && j->o->on_tensor; i++) {
        const fqi_out_tensor *t = &j->plan.tensor[i];
        fq_tensor_change c = {
            .name = t->name, .source_name = t->src ? t->src->name : NULL, .dtype = (fq_dtype)t->dtype, .rank = t->rank,
            .bytes = t->src ? t->src->bytes : 0, .bytes_pad = t->bytes_pad, .shard = j->plan.shard[t->shard].name,
        };
        for (int d = 0; d < t->rank; d++) {
            c.shape[d] = t->src ? t->src->shape[d] : 0;
            c.shape_pad[d] = t->shape_pad[d];
        }
        j->o->on_tensor(j->o->user, &c);
    }
    return FQ_OK;
}

/* The axes that a linear layer sums over: the inputs of down_proj and o_proj. */
static const fqi_axis summed_axis[] = { FQI_AX_FF, FQI_AX_MOE_FF, FQI_AX_SHARED_FF, FQI_AX_Q };

/* Every real term keeps its index in its sum. Replicated KV heads and a longer vocabulary are outputs, and reorder nothing. */
static bool keeps_indices(const fqi_maps *m)
{
    for (size_t i = 0; i < sizeof summed_axis / sizeof summed_axis[0]; i++) {
        const fqi_map *x = &m->map[summed_axis[i]];
        if (x->n_run == 0) continue;
        if (x->run[0].src != 0 || x->run[0].count != x->n_old) return false;
    }
    return true;
}

static void report(const pad_job *j, const fqi_write_result *w, double seconds, fq_pad_report *out)
{
    *out = (fq_pad_report){
        .model = j->ckpt->info.model, .model_pad = j->fitted, .fit = j->fit, .layout = j->layout.kind,
        .n_tensor = j->plan.n_tensor, .n_tensor_changed = j->plan.n_changed, .n_tensor_added = j->plan.n_added,
        .n_shard = j->plan.n_shard, .bytes = j->plan.bytes, .bytes_pad = j->plan.bytes_pad,
        .file_bytes = w->file_bytes, .peak_memory_bytes = w->peak_memory_bytes, .resumed_bytes = w->resumed_bytes,
        .exact_bits = keeps_indices(&j->maps),
        .seconds = seconds,
    };
}

static fq_status run_job(pad_job *j, fq_pad_report *out, fq_err *e)
{
    double start = fqi_now_seconds();
    FQI_TRY(prepare(j, e));
    fqi_write_result result = { 0 };
    fqi_write_request w = {
        .ckpt = j->ckpt, .plan = &j->plan, .target = j->o->target, .overwrite = j->o->overwrite, .resume = j->o->resume,
        .run = j->run, .phase = "pad", .config = j->config, .n_config = j->n_config,
        .provenance = print_provenance, .user = j,
    };
    if (j->o->dry_run) {
        FQI_TRY(fqi_write_estimate(&w, &result, e));
        FQI_TRY(dry_run(j));
    } else {
        FQI_TRY(fqi_write_checkpoint(&w, &result, e));
    }
    if (out) report(j, &result, fqi_now_seconds() - start, out);
    return FQ_OK;
}

static void free_job(pad_job *j)
{
    for (size_t i = 0; i < j->n_zeros && j->zeros; i++) free(j->zeros[i]);
    free(j->zeros);
    free(j->config);
    fqi_outplan_free(&j->plan);
    fqi_maps_free(&j->maps);
    fq_ckpt_close(j->ckpt);
}

fq_status fq_pad(const fq_pad_options *o, const fq_run *run, fq_pad_report *report_out, fq_err *e)
{
    static const fq_run default_run = { 0 };
    pad_job j = { .o = o, .run = run ? run : &default_run };
    if (!o->source || (!o->target && !o->dry_run)) return fqi_fail(e, FQ_E_USAGE, NULL, "paths", "found no %s", o->source ? "target" : "source");
    fq_status s = run_job(&j, report_out, e);
    free_job(&j);
    return s;
}
