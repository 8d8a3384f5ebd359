/* quant_config.c - what engines and fitq itself are told about a model that fq_quantize wrote: quantization_config in config.json and
 * quantize_config.json (in the words of quant_text.h), and the record in fitq.json. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "job/fitconfig.h"
#include "job/quant_text.h"
#include "job/quantize_private.h"

/* Name of a module inside its layer: "self_attn.q_proj". */
static const char *inside(const fqi_module *m)
{
    const char *p = strncmp(m->name, "layers.", 7) == 0 ? strchr(m->name + 7, '.') : NULL;
    return p ? p + 1 : m->name;
}

static int compare_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* Distinct names inside a layer of the modules that share input `point`, sorted. */
static fq_status names_of(const fqi_quantize *q, fqi_tap_point point, const char ***out, size_t *n, fq_err *e)
{
    const char **name = fqi_calloc(q->modules.n + 1, sizeof *name);
    size_t count = 0;
    if (!name) return fqi_fail_nomem(e, "names of modules");
    for (size_t i = 0; i < q->modules.n; i++)
        if (q->modules.at[i].layer >= 0 && q->modules.at[i].input == point) name[count++] = inside(&q->modules.at[i]);
    qsort(name, count, sizeof *name, compare_text);
    *n = 0;
    for (size_t i = 0; i < count; i++)
        if (*n == 0 || strcmp(name[*n - 1], name[i]) != 0) name[(*n)++] = name[i];
    *out = name;
    return FQ_OK;
}

static bool has_experts(const fqi_quantize *q) { return q->decoder.model.n_moe_layer > 0; }

/* Linears that stay as they are, as regular expressions of names that engines use for them. */
static size_t left_alone(const fqi_quantize *q, const char *out[6])
{
    size_t n = 0;
    if (has_experts(q)) {
        out[n++] = ".*\\.(mlp|block_sparse_moe)\\.gate$";
        out[n++] = ".*\\.shared_expert_gate$";
    }
    if (q->decoder.model.vision_tower) out[n++] = ".*(visual|vision_tower|merger).*";
    return n;
}

#define N_BLOCK (FQI_TAP_SHARED_DOWN - FQI_TAP_ATTENTION + 1)

static fq_status put(const fqi_quantize *q, const char *pad, fqi_str *s, fq_err *e)
{
    const fqi_quant_settings *t = &q->settings;
    const char *rule[6], **name[N_BLOCK] = { NULL };
    fqi_quant_block block[N_BLOCK] = { [FQI_TAP_EXPERT_MLP - FQI_TAP_ATTENTION] = { .experts = true } };
    const fqi_quant_text w = {
        .bits = t->grid.bits, .group_size = t->group_size, .sym = t->grid.sym, .lm_head = q->o->lm_head, .format = "gptq", .solved = true, .damp = t->damp,
        .static_groups = t->scales == FQI_SCALES_STATIC, .plain = rule, .n_plain = left_alone(q, rule), .block = block, .n_block = N_BLOCK,
    };
    fq_status status = FQ_OK;
    for (int i = 0; i < N_BLOCK && status == FQ_OK; i++) {
        status = names_of(q, (fqi_tap_point)(FQI_TAP_ATTENTION + i), &name[i], &block[i].n, e);
        block[i].name = name[i];
    }
    if (status == FQ_OK) (q->o->packing == FQ_PACKING_GPTQ ? fqi_quant_text_gptq : fqi_quant_text_ct)(&w, pad, s);
    for (int i = 0; i < N_BLOCK; i++) free(name[i]);
    return status == FQ_OK && s->failed ? fqi_fail_nomem(e, "quantization_config") : status;
}

fq_status fqi_quant_config(fqi_quantize *q, fq_err *e)
{
    fqi_str in = { 0 }, own = { 0 };
    char *fitted = NULL;
    size_t n = 0;
    fq_status s = put(q, "  ", &in, e);
    if (s == FQ_OK) s = put(q, "", &own, e);
    if (s == FQ_OK) fqi_str_puts(&own, "\n");
    if (s == FQ_OK && own.failed) s = fqi_fail_nomem(e, "quantize_config.json");
    if (s == FQ_OK) s = fqi_fit_config(&q->fitting.ckpt->config, q->o->pad.source, &q->fitting.fitted, q->fitting.as_llama, 0, &fitted, &n, e);
    if (s == FQ_OK) {
        const fqi_edit edit = { .path = "quantization_config", .value = in.s };
        s = fqi_json_edit(fitted, n, q->o->pad.source, &edit, 1, &q->config, &q->n_config, e);
    }
    free(fitted);
    fqi_str_free(&in);
    if (s == FQ_OK && q->o->packing == FQ_PACKING_GPTQ) {   /* compressed-tensors has no file of its own */
        q->quantize_config = own.s;
        q->n_quantize_config = own.len;
        return FQ_OK;
    }
    fqi_str_free(&own);
    return s;
}

/* ---- fitq.json ------------------------------------------------------------------------------------------------------------------ */

/* No times: the same request gives the same bytes. */
static json_t *module_record(const fq_module_report *m)
{
    json_t *o = json_pack("{s:s, s:f, s:f, s:f, s:I}", "method", m->method, "error", m->error, "relative", m->relative, "damp", m->damp, "tokens", (json_int_t)m->n_token);
    if (o && m->n_silent && json_object_set_new(o, "silent_inputs", json_integer((json_int_t)m->n_silent)) != 0) {
        json_decref(o);
        return NULL;
    }
    if (o && m->why[0] && json_object_set_new(o, "why", json_string(m->why)) != 0) {
        json_decref(o);
        return NULL;
    }
    return o;
}

fq_status fqi_quant_record(const fqi_quantize *q, json_t **out, fq_err *e)
{
    const fqi_quant_settings *t = &q->settings;
    char hash[17];
    snprintf(hash, sizeof hash, "%016" PRIx64, q->calib.hash);
    json_t *modules = json_object();
    bool ok = modules != NULL;
    for (size_t i = 0; ok && i < q->modules.n; i++)
        if (q->reported[i]) ok = json_object_set_new(modules, q->report[i].name, module_record(&q->report[i])) == 0;
    json_t *o = json_pack("{s:s, s:s, s:i, s:I, s:b, s:b, s:f, s:b, s:b, s:i, s:f}", "method", t->method == FQ_METHOD_GPTQ ? "gptq" : "rtn", "packing",
                          q->o->packing == FQ_PACKING_GPTQ ? "gptq" : "compressed-tensors", "bits", t->grid.bits, "group_size", (json_int_t)t->group_size, "sym", t->grid.sym,
                          "signed_scale", t->grid.signed_scale, "damp", t->damp, "act_order", t->act_order, "fold", t->fold, "refit", t->n_refit, "shift", t->shift);
    json_t *calib = json_pack("{s:s, s:I, s:I, s:s}", "source", q->calib.source, "samples", (json_int_t)q->calib.n_window, "seqlen", (json_int_t)q->calib.seqlen, "ids_xxh3", hash);
    ok = ok && o && calib && json_object_set(o, "calibration", calib) == 0 && json_object_set(o, "modules", modules) == 0;
    json_decref(calib);
    json_decref(modules);
    if (!ok) {
        json_decref(o);
        return fqi_fail_nomem(e, "fitq.json");
    }
    *out = o;
    return FQ_OK;
}
