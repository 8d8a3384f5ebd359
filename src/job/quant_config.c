/* quant_config.c - what engines and fitq itself are told about the quantization: quantization_config in config.json, quantize_config.json, and
 * the record in fitq.json.
 *
 * Readers disagree on which file, which key and which names they read, so everything is said in each of their ways: GPTQModel and the engines
 * look at `dynamic`, transformers and vLLM at `modules_in_block_to_quantize`, and an engine that knows neither sees that routers and the head
 * have plain weights. Sources: GPTQModel quantization/config.py; vLLM model_executor/layers/quantization/gptq_marlin.py and utils/gptq_utils.py;
 * SGLang layers/quantization/gptq.py; transformers utils/quantization_config.py; compressed-tensors quantization/quant_config.py. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "job/fitconfig.h"
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

/* A list for each input. The experts' own list also holds their common part: vLLM asks whether an entry is part of "...mlp.experts". */
static fq_status put_block_list(const fqi_quantize *q, const char *pad, fqi_str *s, fq_err *e)
{
    fqi_str_printf(s, ",\n%s  \"modules_in_block_to_quantize\": [", pad);
    bool first = true;
    for (int point = FQI_TAP_ATTENTION; point <= FQI_TAP_SHARED_DOWN; point++) {
        const char **name = NULL;
        size_t n = 0;
        FQI_TRY(names_of(q, (fqi_tap_point)point, &name, &n, e));
        if (n > 0) fqi_str_printf(s, "%s\n%s    [", first ? "" : ",", pad);
        for (size_t i = 0; i < n; i++) fqi_str_printf(s, "%s\"%s\"", i ? ", " : "", name[i]);
        if (n > 0 && point == FQI_TAP_EXPERT_MLP) fqi_str_printf(s, ", \"%.*s\"", (int)strcspn(strstr(name[0], "experts"), ".") + (int)(strstr(name[0], "experts") - name[0]), name[0]);
        if (n > 0) {
            fqi_str_puts(s, "]");
            first = false;
        }
        free(name);
    }
    if (q->o->lm_head) fqi_str_printf(s, ",\n%s    [\"lm_head\"]", pad);
    fqi_str_printf(s, "\n%s  ]", pad);
    return FQ_OK;
}

/* Linears that stay as they are, as regular expressions of names that engines use for them. */
static size_t left_alone(const fqi_quantize *q, const char *out[6])
{
    size_t n = 0;
    if (has_experts(q)) {
        out[n++] = ".*\\\\.(mlp|block_sparse_moe)\\\\.gate$";
        out[n++] = ".*\\\\.shared_expert_gate$";
    }
    if (q->decoder.model.vision_tower) out[n++] = ".*(visual|vision_tower|merger).*";
    return n;
}

static fq_status put_gptq(const fqi_quantize *q, const char *pad, fqi_str *s, fq_err *e)
{
    const fqi_quant_settings *t = &q->settings;
    const char *rule[6];
    size_t n = left_alone(q, rule);
    fqi_str_printf(s, "{\n%s  \"bits\": %d,\n%s  \"group_size\": %" PRId64 ",\n%s  \"desc_act\": false,\n%s  \"sym\": %s,\n%s  \"lm_head\": %s,\n", pad, t->grid.bits, pad,
                   t->group_size, pad, pad, t->grid.sym ? "true" : "false", pad, q->o->lm_head ? "true" : "false");
    fqi_str_printf(s, "%s  \"method\": \"gptq\",\n%s  \"quant_method\": \"gptq\",\n%s  \"format\": \"gptq\",\n%s  \"checkpoint_format\": \"gptq\",\n%s  \"pack_dtype\": \"int32\",\n", pad, pad, pad, pad, pad);
    fqi_str_printf(s, "%s  \"damp_percent\": %.6g,\n%s  \"static_groups\": %s,\n%s  \"true_sequential\": true", pad, t->damp, pad, t->scales == FQI_SCALES_STATIC ? "true" : "false", pad);
    if (n > 0) fqi_str_printf(s, ",\n%s  \"dynamic\": {", pad);
    for (size_t i = 0; i < n; i++) fqi_str_printf(s, "%s\n%s    \"-:%s\": {}", i ? "," : "", pad, rule[i]);
    if (n > 0) fqi_str_printf(s, "\n%s  }", pad);
    FQI_TRY(put_block_list(q, pad, s, e));
    fqi_str_printf(s, ",\n%s  \"meta\": {\n%s    \"quantizer\": [\"fitq:%s\"]\n%s  }\n%s}", pad, pad, FQ_VERSION, pad, pad);
    return FQ_OK;
}

static fq_status put_ct(const fqi_quantize *q, const char *pad, fqi_str *s)
{
    const fqi_quant_settings *t = &q->settings;
    const char *rule[6];
    size_t n = left_alone(q, rule);
    fqi_str_printf(s, "{\n%s  \"quant_method\": \"compressed-tensors\",\n%s  \"format\": \"pack-quantized\",\n%s  \"quantization_status\": \"compressed\",\n%s  \"global_compression_ratio\": null,\n", pad, pad, pad, pad);
    fqi_str_printf(s, "%s  \"ignore\": [", pad);
    if (!q->o->lm_head) fqi_str_puts(s, "\"lm_head\"");
    for (size_t i = 0; i < n; i++) fqi_str_printf(s, "%s\"re:%s\"", i || !q->o->lm_head ? ", " : "", rule[i]);
    fqi_str_printf(s, "],\n%s  \"kv_cache_scheme\": null,\n%s  \"config_groups\": {\n%s    \"group_0\": {\n%s      \"targets\": [\"Linear\"],\n%s      \"weights\": {", pad, pad, pad, pad, pad);
    fqi_str_printf(s, "\n%s        \"num_bits\": %d,\n%s        \"type\": \"int\",\n%s        \"symmetric\": %s,\n", pad, t->grid.bits, pad, pad, t->grid.sym ? "true" : "false");
    if (t->group_size > 0) fqi_str_printf(s, "%s        \"strategy\": \"group\",\n%s        \"group_size\": %" PRId64 ",\n", pad, pad, t->group_size);
    else fqi_str_printf(s, "%s        \"strategy\": \"channel\",\n%s        \"group_size\": null,\n", pad, pad);
    fqi_str_printf(s, "%s        \"actorder\": null,\n%s        \"dynamic\": false,\n%s        \"block_structure\": null,\n%s        \"observer\": \"minmax\",\n%s        \"observer_kwargs\": {}\n", pad, pad, pad, pad, pad);
    fqi_str_printf(s, "%s      },\n%s      \"input_activations\": null,\n%s      \"output_activations\": null\n%s    }\n%s  }\n%s}", pad, pad, pad, pad, pad, pad);
    return FQ_OK;
}

static fq_status put(const fqi_quantize *q, const char *pad, fqi_str *s, fq_err *e)
{
    FQI_TRY(q->o->packing == FQ_PACKING_GPTQ ? put_gptq(q, pad, s, e) : put_ct(q, pad, s));
    return s->failed ? fqi_fail_nomem(e, "quantization_config") : FQ_OK;
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
