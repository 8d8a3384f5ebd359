/* unpad.c - fq_unpad: the checkpoint as it was before fq_pad, from the maps in fitq.json.
 *
 * The inverse maps run through the same writer. Nothing is committed unless every tensor's hash is the one that fq_pad took
 * of the original. */
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "job/fitconfig.h"
#include "job/write.h"

typedef struct unpad_job {
    const fq_unpad_options *o;
    const fq_run *run;
    fq_ckpt *ckpt;
    fqi_prov prov;
    fqi_maps back;
    fqi_fold fold;
    fqi_fit_quant quant;         /* as it was */
    fqi_parts parts;
    fqi_outplan plan;
    char *config; size_t n_config;
    char *quantize_config; size_t n_quantize_config;
    fq_model restored;
} unpad_job;

static fq_status check_source(const unpad_job *j, fq_err *e)
{
    if (j->prov.quantized)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->source), "quantized", "found a model that fitq quantized, expected one that it padded: the original weights are not in it");
    FQI_TRY(fq_ckpt_check(j->ckpt, e));
    if (!j->ckpt->bound || !j->ckpt->has_config)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->source), "unknown-family", "found no model that fitq knows, expected what fitq pad wrote");
    return FQ_OK;
}

/* As fitq wrote it: the original text comes back whole. Edited since (a template added, a dtype changed): only the lengths go
 * back, the edits stay. */
static fq_status choose_config(unpad_job *j, fq_err *e)
{
    const fqi_config *now = &j->ckpt->config;
    if (XXH3_64bits(now->text, now->n_text) == j->prov.config_hash) {
        j->n_config = j->prov.n_config_source;
        j->config = strndup(j->prov.config_source, j->n_config);
        return j->config ? FQ_OK : fqi_fail_nomem(e, "config.json");
    }
    fqi_config before;
    FQI_TRY(fqi_config_parse(j->prov.config_source, j->prov.n_config_source, FQI_PROV_FILE, &before, e));
    fq_status s = FQ_OK;
    if (strcmp(before.model.model_type, now->model.model_type) != 0)
        s = fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->source), "config-changed", "found a config.json that was edited after fitq wrote it as another architecture, expected it unchanged");
    else
        s = fqi_fit_config(now, j->o->source, &before.model, false, &j->quant, &j->config, &j->n_config, e);
    if (s == FQ_OK && j->run->log)
        j->run->log(j->run->user, FQ_LOG_WARN, "config.json was edited after fitq wrote it: the lengths are set back, the edits are kept");
    fqi_config_free(&before);
    return s;
}

static fq_status check_hashes(void *user, const fqi_hash128 *out_hash, fq_err *e)
{
    const unpad_job *j = user;
    for (size_t i = 0; i < j->plan.n_tensor; i++) {
        const fqi_out_tensor *t = &j->plan.tensor[i];
        const fqi_prov_tensor *p = fqi_prov_find(&j->prov, t->src->name);
        char shown[FQI_NAME_MAX + 1];
        if (!p) return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(j->o->source, fqi_escape(shown, t->src->name)), "fitq-json", "found no hash of this tensor, expected one");
        if (p->source_hash.hi != out_hash[i].hi || p->source_hash.lo != out_hash[i].lo)
            return fqi_fail(e, FQ_E_DIFFERS, FQI_TENSOR(j->o->source, fqi_escape(shown, t->src->name)), "tensor-hash", "found weights that differ from the original after unpadding, expected the same bytes");
    }
    return FQ_OK;
}

/* A tensor that was in the original and is gone now would otherwise be missing silently. */
static fq_status check_complete(const unpad_job *j, fq_err *e)
{
    for (size_t i = 0; i < j->prov.n_tensor; i++) {
        char shown[FQI_NAME_MAX + 1];
        const fqi_prov_tensor *p = &j->prov.tensor[i];
        size_t at = fqi_ckpt_find(j->ckpt, p->name);
        if (at != SIZE_MAX && j->ckpt->tensor[at].dtype != p->dtype)
            return fqi_fail(e, FQ_E_DIFFERS, FQI_TENSOR(j->o->source, fqi_escape(shown, p->name)), "dtype", "found %s, expected %s as in the original", fq_dtype_name((fq_dtype)j->ckpt->tensor[at].dtype), fq_dtype_name(p->dtype));
        if (at == SIZE_MAX)
            return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(j->o->source, fqi_escape(shown, j->prov.tensor[i].name)), "tensor-missing", "found no such tensor, expected every tensor that fitq wrote");
    }
    return FQ_OK;
}

static fq_status read_model(unpad_job *j, fq_err *e)
{
    fqi_config c;
    FQI_TRY(fqi_config_parse(j->config, j->n_config, "config.json", &c, e));
    j->restored = c.model;
    fqi_config_free(&c);
    return FQ_OK;
}

/* What the original said of its quantization. */
static fq_status choose_quant(unpad_job *j, fq_err *e)
{
    fqi_config before;
    j->quant.group = j->prov.group_old;
    if (!j->prov.n_folded) return FQ_OK;
    FQI_TRY(fqi_config_parse(j->prov.config_source, j->prov.n_config_source, FQI_PROV_FILE, &before, e));
    if (before.model.quant_desc_act && !j->ckpt->info.model.quant_desc_act) j->quant.desc_act = "true";
    fqi_config_free(&before);
    return FQ_OK;
}

static fq_status prepare(unpad_job *j, fq_err *e)
{
    FQI_TRY(fq_ckpt_open(j->o->source, j->run, &j->ckpt, e));
    FQI_TRY(fqi_prov_load(j->ckpt->dir, &j->prov, e));
    FQI_TRY(check_source(j, e));
    FQI_TRY(check_complete(j, e));
    FQI_TRY(fqi_maps_inverse(&j->prov.maps, &j->back, e));
    if (j->prov.n_folded) FQI_TRY(fqi_fold_open(j->ckpt, j->prov.order_hash, &j->fold, e));
    FQI_TRY(choose_quant(j, e));
    FQI_TRY(fqi_parts_create(j->ckpt, &(fqi_parts_request){ .maps = &j->back, .forward = &j->prov.maps, .regroup = j->prov.group_old, .fold = &j->fold }, &j->parts, e));
    if (j->quant.group || j->quant.desc_act) FQI_TRY(fqi_fit_quantize_config(j->ckpt->dir, &j->quant, &j->quantize_config, &j->n_quantize_config, e));
    FQI_TRY(choose_config(j, e));
    fqi_outplan_request r = {
        .ckpt = j->ckpt, .maps = &j->back, .parts = &j->parts, .from = &j->prov.to, .to = &j->prov.from,
        .skip = j->prov.added, .n_skip = j->prov.n_added, .shard_bytes = fqi_shard_bytes(j->o->shard_bytes),
        .restore = &j->prov,
    };
    FQI_TRY(fqi_outplan_create(&r, &j->plan, e));
    return read_model(j, e);
}

static fq_layout layout_of(const char *name)
{
    if (strcmp(name, "tail") == 0) return FQ_LAYOUT_TAIL;
    return strcmp(name, "interleave") == 0 ? FQ_LAYOUT_INTERLEAVE : FQ_LAYOUT_SPREAD;
}

static fq_status run_job(unpad_job *j, fq_pad_report *out, fq_err *e)
{
    double start = fqi_now_seconds();
    FQI_TRY(prepare(j, e));
    fqi_write_result result = { 0 };
    const fqi_extra_file extra = { "quantize_config.json", j->quantize_config, j->n_quantize_config };
    fqi_write_request w = {
        .extra = &extra, .n_extra = j->quantize_config != NULL, .ckpt = j->ckpt, .plan = &j->plan, .parts = &j->parts, .target = j->o->target, .overwrite = j->o->overwrite, .resume = j->o->resume,
        .run = j->run, .phase = "unpad", .config = j->config, .n_config = j->n_config, .check = check_hashes, .user = j,
    };
    FQI_TRY(fqi_write_checkpoint(&w, &result, e));
    if (!out) return FQ_OK;
    *out = (fq_pad_report){
        .model = j->ckpt->info.model, .model_pad = j->restored, .layout = layout_of(j->prov.layout),
        .n_tensor = j->plan.n_tensor, .n_tensor_changed = j->plan.n_changed, .n_shard = j->plan.n_shard,
        .bytes = j->plan.bytes, .bytes_pad = j->plan.bytes_pad, .file_bytes = result.file_bytes,
        .peak_memory_bytes = result.peak_memory_bytes, .resumed_bytes = result.resumed_bytes, .exact_bits = true,
        .seconds = fqi_now_seconds() - start,
    };
    return FQ_OK;
}

fq_status fq_unpad(const fq_unpad_options *o, const fq_run *run, fq_pad_report *report, fq_err *e)
{
    static const fq_run default_run = { 0 };
    unpad_job j = { .o = o, .run = run ? run : &default_run };
    if (!o->source || !o->target) return fqi_fail(e, FQ_E_USAGE, NULL, "paths", "found no %s", o->source ? "target" : "source");
    fq_status s = run_job(&j, report, e);
    free(j.config);
    free(j.quantize_config);
    fqi_outplan_free(&j.plan);
    fqi_parts_free(&j.parts);
    fqi_fold_free(&j.fold);
    fqi_maps_free(&j.back);
    fqi_prov_free(&j.prov);
    fq_ckpt_close(j.ckpt);
    return s;
}
