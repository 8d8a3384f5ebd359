/* pad.c - fq_pad: a fitted copy of a checkpoint.
 *
 *     fitting (lengths, maps, names: fitting.c) -> output table -> [dry run ends here]
 *       -> staging folder -> shards -> index, config.json, fitq.json, everything else -> one rename
 *
 * Everything that can be refused is refused before the staging folder is made. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "job/fitconfig.h"
#include "job/fitting.h"
#include "job/write.h"

typedef struct pad_job {
    const fq_pad_options *o;
    const fq_run *run;
    fqi_fitting f;
    fqi_outplan plan;
    char *config; size_t n_config;
    char *quantize_config; size_t n_quantize_config;   /* with another group_size or desc_act; NULL: none, or copied like other files */
    uint64_t order_hash;           /* of fitq.order */
} pad_job;

/* ---- doing it ---- */

static fq_status prepare(pad_job *j, fq_err *e)
{
    FQI_TRY(fqi_fitting_make(j->o, FQI_FITTING_PAD, j->run, &j->f, e));
    fqi_outplan_request r = {
        .ckpt = j->f.ckpt, .maps = &j->f.maps, .parts = &j->f.parts, .from = &j->f.ckpt->naming, .to = &j->f.to,
        .zeros = (const char *const *)j->f.zeros, .n_zeros = j->f.n_zeros, .zeros_like = j->f.zeros_like,
        .shard_bytes = fqi_shard_bytes(j->o->shard_bytes),
    };
    FQI_TRY(fqi_outplan_create(&r, &j->plan, e));
    FQI_TRY(fqi_fitting_check_names(&j->f, j->o, &j->plan, e));
    if (j->f.group_new || j->f.quant.desc_act) FQI_TRY(fqi_fit_quantize_config(j->f.ckpt->dir, &j->f.quant, &j->quantize_config, &j->n_quantize_config, e));
    return fqi_fit_config(&j->f.ckpt->config, j->o->source, &j->f.fitted, j->f.as_llama, &j->f.quant, &j->config, &j->n_config, e);
}

static const fqi_map *axis_map(void *user, uint8_t axis)
{
    const fqi_map *m = &((const pad_job *)user)->f.maps.map[axis];
    return m->n_run > 0 ? m : NULL;
}

static fq_status write_order(void *user, const char *dir, fq_err *e)
{
    pad_job *j = user;
    return j->f.fold.n_mlp > 0 ? fqi_fold_write(&j->f.fold, dir, j->run, axis_map, j, &j->order_hash, e) : FQ_OK;
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
        .layout = fqi_layout_name[j->f.layout.kind], .group_size = j->f.layout.group, .model = &j->f.ckpt->info.model, .fit = &j->f.fit,
        .maps = &j->f.maps, .group_old = j->f.group_old, .group_new = j->f.group_new, .n_folded = (int64_t)j->f.fold.n_mlp, .order_hash = j->order_hash, .from = &j->f.ckpt->naming, .to = &j->f.to, .added = (const char *const *)j->f.zeros, .n_added = j->f.n_zeros,
        .shard = j->f.ckpt->shard, .n_shard = j->f.ckpt->n_shard,
        .config_source = j->f.ckpt->config.text, .config_target = j->config, .tensor = t, .n_tensor = n_tensor,
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
        .model = j->f.ckpt->info.model, .model_pad = j->f.fitted, .fit = j->f.fit, .layout = j->f.layout.kind,
        .n_tensor = j->plan.n_tensor, .n_tensor_changed = j->plan.n_changed, .n_tensor_added = j->plan.n_added,
        .n_shard = j->plan.n_shard, .bytes = j->plan.bytes, .bytes_pad = j->plan.bytes_pad,
        .file_bytes = w->file_bytes, .peak_memory_bytes = w->peak_memory_bytes, .resumed_bytes = w->resumed_bytes,
        .exact_bits = j->f.fold.n_mlp == 0 && keeps_indices(&j->f.maps),
        .n_folded = j->f.fold.n_mlp, .n_order_left = j->f.fold.n_left,
        .seconds = seconds,
    };
}

static fq_status run_job(pad_job *j, fq_pad_report *out, fq_err *e)
{
    double start = fqi_now_seconds();
    FQI_TRY(prepare(j, e));
    fqi_write_result result = { 0 };
    const fqi_extra_file extra = { "quantize_config.json", j->quantize_config, j->n_quantize_config };
    fqi_write_request w = {
        .extra = &extra, .n_extra = j->quantize_config != NULL, .ckpt = j->f.ckpt, .plan = &j->plan, .parts = &j->f.parts, .target = j->o->target, .overwrite = j->o->overwrite, .resume = j->o->resume,
        .run = j->run, .phase = "pad", .config = j->config, .n_config = j->n_config,
        .files = write_order, .provenance = print_provenance, .user = j,
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
    free(j->config);
    free(j->quantize_config);
    fqi_outplan_free(&j->plan);
    fqi_fitting_free(&j->f);
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
