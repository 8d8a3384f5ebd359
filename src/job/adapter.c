/* adapter.c - fq_adapt: a LoRA adapter carried to the fitted model, or back. See adapter.h.
 *
 *     adapter's tensors + maps of the model's fitq.json -> output table -> staging folder -> adapter_config.json, the rest -> one rename
 *
 * The writer is the one of checkpoints. What base model the adapter's settings name is set to the one that it fits now. */
#include "job/adapter.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "job/write.h"

#define SETTINGS "adapter_config.json"
#define MAX_SETTINGS ((uint64_t)16 << 20)

typedef struct adapt {
    const fq_adapter_options *o;
    const fq_run *run;
    fq_ckpt *ckpt;
    fqi_lora lora;
    fqi_outplan plan;
    char *settings; size_t n_settings;
    uint64_t n_dropped;
} adapt;

/* ---- the adapter ---- */

static fq_status open_weights(adapt *j, fq_err *e)
{
    static const char *const name[] = { "adapter_model.safetensors", "adapter_model.bin" };
    for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
        char *path = fqi_path_join(j->o->adapter, name[i]);
        if (!path) return fqi_fail_nomem(e, "path");
        const bool there = fqi_path_exists(path);
        const fq_status s = there ? fq_ckpt_open(path, j->run, &j->ckpt, e) : FQ_OK;
        free(path);
        if (there) return s;
    }
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->o->adapter), "adapter-files", "found no adapter_model.safetensors and no adapter_model.bin, expected a folder as PEFT saves it");
}

static bool is_lora(const json_t *root)
{
    const char *type = json_string_value(json_object_get(root, "peft_type"));
    return type && strcmp(type, "LORA") == 0;
}

/* Names of a model as JSON text. Owned; NULL: no memory. */
static char *quoted(const char *s)
{
    json_t *text = json_string(s);
    char *out = text ? json_dumps(text, JSON_ENCODE_ANY) : NULL;
    json_decref(text);
    return out;
}

static fq_status edit_settings(adapt *j, const char *text, size_t n, const char *path, json_t *root, fq_err *e)
{
    const json_t *source = json_object_get(j->lora.source.root, "_name_or_path");
    const char *base = j->o->back ? json_string_value(source) : j->o->like;
    if (!base || !json_object_get(root, "base_model_name_or_path")) {
        j->settings = strndup(text, n);
        j->n_settings = n;
        return j->settings ? FQ_OK : fqi_fail_nomem(e, SETTINGS);
    }
    char *value = quoted(base);
    if (!value) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(path), "base-model", "found a path that is no UTF-8, expected one that JSON can hold");
    const fqi_edit edit = { .path = "base_model_name_or_path", .value = value };
    const fq_status s = fqi_json_edit(text, n, path, &edit, 1, &j->settings, &j->n_settings, e);
    free(value);
    return s;
}

static fq_status read_settings(adapt *j, fq_err *e)
{
    char *path = fqi_path_join(j->o->adapter, SETTINGS), *text = NULL, shown[FQI_NAME_MAX + 1];
    size_t n;
    json_t *root = NULL;
    if (!path) return fqi_fail_nomem(e, "path");
    fq_status s = fqi_file_slurp(path, MAX_SETTINGS, &text, &n, e);
    if (s == FQ_OK) s = fqi_json_parse(text, n, path, &root, e);
    const char *type = json_string_value(json_object_get(root, "peft_type"));
    if (s == FQ_OK && !is_lora(root)) s = fqi_fail(e, FQ_E_INPUT, FQI_FILE(path), "adapter-type", "found peft_type %s, expected LORA", type ? fqi_escape(shown, type) : "missing");
    if (s == FQ_OK) s = edit_settings(j, text, n, path, root, e);
    json_decref(root);
    free(text);
    free(path);
    return s;
}

/* ---- doing it ---- */

static fq_status prepare(adapt *j, fq_err *e)
{
    static const fqi_maps none;
    static const fqi_naming as_is;
    FQI_TRY(open_weights(j, e));
    FQI_TRY(fq_ckpt_check(j->ckpt, e));
    j->lora.ckpt = j->ckpt;
    j->lora.like = j->o->like;
    j->lora.back = j->o->back;
    FQI_TRY(fqi_lora_open(&j->lora, e));
    FQI_TRY(read_settings(j, e));
    if (j->o->back) FQI_TRY(fqi_lora_check_back(&j->lora, j->run, j->o->drop, &j->n_dropped, e));
    const fqi_outplan_request r = {
        .ckpt = j->ckpt, .maps = &none, .parts = &j->lora.parts, .from = &as_is, .to = &as_is, .shard_bytes = UINT64_MAX, .stem = "adapter_model",
    };
    return fqi_outplan_create(&r, &j->plan, e);
}

static fq_status run_job(adapt *j, fq_adapter_report *out, fq_err *e)
{
    const double start = fqi_now_seconds();
    FQI_TRY(prepare(j, e));
    fqi_write_result result = { 0 };
    const fqi_extra_file extra = { SETTINGS, j->settings, j->n_settings };
    const fqi_write_request w = {
        .extra = &extra, .n_extra = 1, .ckpt = j->ckpt, .plan = &j->plan, .parts = &j->lora.parts, .target = j->o->target, .overwrite = j->o->overwrite, .run = j->run, .phase = "adapter",
    };
    FQI_TRY(j->o->dry_run ? fqi_write_estimate(&w, &result, e) : fqi_write_checkpoint(&w, &result, e));
    if (out)
        *out = (fq_adapter_report){ .n_tensor = j->plan.n_tensor, .n_tensor_changed = j->plan.n_changed, .bytes = j->plan.bytes, .bytes_pad = j->plan.bytes_pad, .peak_memory_bytes = result.peak_memory_bytes, .n_dropped = j->n_dropped, .seconds = fqi_now_seconds() - start };
    return FQ_OK;
}

fq_status fq_adapt(const fq_adapter_options *o, const fq_run *run, fq_adapter_report *report, fq_err *e)
{
    static const fq_run default_run = { 0 };
    adapt j = { .o = o, .run = run ? run : &default_run };
    if (!o->adapter || !o->like || (!o->target && !o->dry_run))
        return fqi_fail(e, FQ_E_USAGE, NULL, "paths", "found no %s", !o->adapter ? "adapter" : !o->like ? "fitted model" : "target");
    const fq_status s = run_job(&j, report, e);
    free(j.settings);
    fqi_outplan_free(&j.plan);
    fqi_lora_free(&j.lora);
    fq_ckpt_close(j.ckpt);
    return s;
}
