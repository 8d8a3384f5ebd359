/* quantize.c - fq_quantize: a quantized, and where asked fitted, copy of a checkpoint.
 *
 *     settings -> fitting -> calibration text -> modules -> output table -> plan of memory -> [dry run ends here]
 *       -> staging folder -> layers (quant_run.c) -> config.json, quantize_config.json, fitq.json, fitq.order, the rest -> one rename
 *
 * Everything that can be refused is refused before the staging folder is made. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs_memory.h"
#include "base/pipeline.h"
#include "job/quantize_private.h"
#include "job/rank_run.h"

#define DEFAULT_DAMP 0.01
#define DEFAULT_REFIT 1
#define DEFAULT_SHIFT 0.75

static void say(const fqi_quantize *q, fq_log_level level, const char *line)
{
    if (q->run->log) q->run->log(q->run->user, level, line);
}

/* ---- the request -------------------------------------------------------------------------------------------------------------- */

static bool is_one_of(int64_t x, const int64_t *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] == x) return true;
    return false;
}

static fq_status check_numbers(const fq_quantize_options *o, fq_err *e)
{
    static const int64_t bits[] = { 0, 2, 3, 4, 8 }, group[] = { 0, 32, 64, 128, -1 };
    if (!is_one_of(o->bits, bits, 5)) return fqi_fail(e, FQ_E_USAGE, NULL, "bits", "found %d, expected 2, 3, 4 or 8", o->bits);
    if (!is_one_of(o->group_size, group, 5)) return fqi_fail(e, FQ_E_USAGE, NULL, "group-size", "found %" PRId64 ", expected 32, 64, 128 or -1", o->group_size);
    if (!(o->damp >= 0 && o->damp < 1)) return fqi_fail(e, FQ_E_USAGE, NULL, "damp", "found %g, expected 0 or more, and less than 1", o->damp);
    if (!((o->shift >= 0 && o->shift <= 1) || o->shift == -1)) return fqi_fail(e, FQ_E_USAGE, NULL, "shift", "found %g, expected 0 to 1, or -1", o->shift);
    if (o->method == FQ_METHOD_RTN && (o->calib.file || o->calib.ids)) return fqi_fail(e, FQ_E_USAGE, NULL, "calibration", "found a calibration text, expected none: rtn does not look at data");
    if (o->refit < -1 || o->refit > 16) return fqi_fail(e, FQ_E_USAGE, NULL, "refit", "found %d, expected -1 to 16", o->refit);
    return FQ_OK;
}

static void set_grid(const fq_quantize_options *o, fqi_grid *g)
{
    *g = (fqi_grid){
        .bits = o->bits != 0 ? o->bits : 4, .sym = !o->asymmetric, .signed_scale = !o->asymmetric && !o->positive_scales && !o->textbook,
        .rule = o->textbook || o->scale == FQ_SCALE_MIN_MAX ? FQI_SCALE_MIN_MAX : FQI_SCALE_WEIGHTED,
        .store = o->scale_store == FQ_SCALE_BOTH && !o->textbook ? FQI_STORE_BOTH : FQI_STORE_F16,
        .zero_least = o->packing == FQ_PACKING_GPTQ ? 1 : 0,
    };
}

static double shift_of(const fq_quantize_options *o)
{
    if (o->textbook || o->method != FQ_METHOD_GPTQ || o->shift < 0) return 0;
    return o->shift > 0 ? o->shift : DEFAULT_SHIFT;
}

static void set_settings(const fq_quantize_options *o, fqi_quant_settings *s)
{
    *s = (fqi_quant_settings){
        .method = o->method, .group_size = o->group_size != 0 ? o->group_size : 128, .damp = o->damp > 0 ? o->damp : DEFAULT_DAMP,
        .scales = o->textbook ? FQI_SCALES_DYNAMIC : FQI_SCALES_STATIC, .curve = FQI_CURVE_L,
        .act_order = !o->textbook && o->order != FQ_ORDER_NONE && o->method == FQ_METHOD_GPTQ, .fold = !o->textbook && o->order == FQ_ORDER_FOLD && o->method == FQ_METHOD_GPTQ,
        .n_refit = o->textbook || o->refit < 0 ? 0 : o->refit > 0 ? o->refit : DEFAULT_REFIT, .shift = shift_of(o),
        .strict = o->strict,
    };
    set_grid(o, &s->grid);
}

/* Biases of gate and up are copied as they are and would not follow their channels. */
static void keep_order_of_biases(fqi_quantize *q)
{
    if (!q->settings.fold || !q->decoder.model.mlp_bias) return;
    q->settings.fold = false;
    say(q, FQ_LOG_INFO, "the MLP has biases: its channels keep their order, and are processed by importance");
}

static void set_expert_floor(fqi_quantize *q)
{
    const int64_t asked = q->o->min_expert_tokens, width = q->decoder.model.hidden_size;
    q->settings.min_expert_tokens = asked > 0 ? (size_t)asked : asked < 0 ? 1 : (size_t)(width / 4);
}

/* The row of the planner whose rules the result has to meet. Two and three bits have no row of their own: groups and heads are cut as those of four. */
static const char *format_id(const fqi_quantize *q)
{
    const int bits = q->settings.grid.bits;
    if (q->o->packing == FQ_PACKING_COMPRESSED_TENSORS) return bits == 8 ? "ct-int8" : "ct-int4";
    return bits == 4 || bits == 8 ? "gptq-marlin" : "gptq";
}

/* ---- what is known before the work -------------------------------------------------------------------------------------------------- */

static fq_status make_fitting(fqi_quantize *q, fq_err *e)
{
    const char *format[] = { format_id(q) };
    fq_pad_options o = q->o->pad;
    o.format = format;
    o.n_format = 1;
    o.group_size = q->settings.group_size > 0 ? (int)q->settings.group_size : 128;
    FQI_TRY(fqi_fitting_make(&o, FQI_FITTING_QUANTIZE, q->run, &q->fitting, e));
    const fq_ckpt *c = q->fitting.ckpt;
    char *file = fqi_path_join(c->dir, "config.json");
    if (!file) return fqi_fail_nomem(e, "path");
    fq_status s = fqi_decoder_read(&c->config, file, &q->decoder, e);
    free(file);
    q->has_decoder = s == FQ_OK;
    return s;
}

static fq_status check_head(const fqi_quantize *q, fq_err *e)
{
    if (!q->o->lm_head || !q->fitting.ckpt->info.tied) return FQ_OK;
    return fqi_fail(e, FQ_E_USAGE, FQI_FILE(q->o->pad.source), "tied-head", "found an output head that is the embedding, expected one of its own: quantized, it would be stored twice, and engines would read only one of the two");
}

static int64_t widest_input(const fqi_quantize *q)
{
    int64_t most = 1;
    for (size_t i = 0; i < q->modules.n; i++) most = q->modules.at[i].cols > most ? q->modules.at[i].cols : most;
    return most;
}

static void warn_about(const fqi_quantize *q)
{
    char line[256];
    const int bits = q->settings.grid.bits;
    double per_input = (double)(q->calib.n_window * q->calib.seqlen) / (double)widest_input(q);
    if (q->o->asymmetric) say(q, FQ_LOG_WARN, q->o->packing == FQ_PACKING_GPTQ ? "asymmetric GPTQ: vLLM loads none, SGLang and transformers do (format v1, no zero point is 0); compressed-tensors is what vLLM takes"
                                                                               : "asymmetric compressed-tensors: vLLM loads 4 and 8 bits; SGLang's support depends on its version");
    if (bits == 2 || bits == 3) say(q, FQ_LOG_WARN, "2 and 3 bits: transformers and GPTQModel load them; vLLM's and SGLang's fast kernels take 4 and 8");
    if (q->settings.method != FQ_METHOD_GPTQ || per_input >= 8) return;
    snprintf(line, sizeof line, "calibration has %.1f tokens for each of the %" PRId64 " inputs of the widest layer; below about 8 what is fitted to them does not carry over well (--samples, --calib)", per_input, widest_input(q));
    say(q, FQ_LOG_WARN, line);
}

/* A dry run does not make the model write for minutes: it will write as much as is asked for. */
static fq_status plan_calib(fqi_quantize *q)
{
    char line[160];
    snprintf(line, sizeof line, "the model will write its calibration text with all of its weights in memory (%.1f GiB); --calib FILE does without", (double)q->fitting.ckpt->info.tensor_bytes / (double)(1 << 30));
    say(q, FQ_LOG_INFO, line);
    q->calib.n_window = q->o->calib.samples > 0 ? (size_t)q->o->calib.samples : FQI_CALIB_SAMPLES;
    q->calib.seqlen = q->o->calib.seqlen > 0 ? (size_t)q->o->calib.seqlen : FQI_CALIB_SEQLEN;
    snprintf(q->calib.source, sizeof q->calib.source, "written by the model");
    return FQ_OK;
}

static fq_status make_calib(fqi_quantize *q, fq_err *e)
{
    const double start = fqi_now_seconds();
    const fqi_runnable m = { .ckpt = q->fitting.ckpt, .decoder = q->decoder, .has_decoder = true };   /* borrowed */
    if (q->settings.method != FQ_METHOD_GPTQ) {
        snprintf(q->calib.source, sizeof q->calib.source, "none");
        return FQ_OK;
    }
    if (q->o->pad.dry_run && !q->o->calib.file && !q->o->calib.ids) return plan_calib(q);
    FQI_TRY(fqi_calib_make(&q->o->calib, &m, q->run, &q->calib, e));
    q->stage[q->n_stage++] = (fq_stage){ .name = "calibration text", .seconds = fqi_now_seconds() - start, .peak_bytes = fqi_memory_now().peak };
    return FQ_OK;
}

static fq_status prepare(fqi_quantize *q, fq_err *e)
{
    FQI_TRY(check_numbers(q->o, e));
    set_settings(q->o, &q->settings);
    q->n_thread = fqi_comm_n_thread(q->comm, q->run->n_thread);
    FQI_TRY(make_fitting(q, e));
    FQI_TRY(check_head(q, e));
    keep_order_of_biases(q);
    set_expert_floor(q);
    FQI_TRY(fqi_modules_find(&q->fitting, q->o->lm_head, &q->modules, e));
    FQI_TRY(fqi_quant_check_groups(q, e));
    q->report = fqi_calloc(q->modules.n + 1, sizeof *q->report);
    q->reported = fqi_calloc(q->modules.n + 1, sizeof *q->reported);
    if (!q->report || !q->reported) return fqi_fail_nomem(e, "reports");
    FQI_TRY(fqi_quant_make_table(q, e));
    const fqi_outplan_request r = {
        .ckpt = q->fitting.ckpt, .maps = &q->fitting.maps, .from = &q->fitting.ckpt->naming, .to = &q->fitting.to,
        .zeros = (const char *const *)q->fitting.zeros, .n_zeros = q->fitting.n_zeros, .zeros_like = q->fitting.zeros_like,
        .shard_bytes = fqi_shard_bytes(q->o->pad.shard_bytes), .made = q->made, .n_made = q->n_made, .by_layer = true,
    };
    FQI_TRY(fqi_outplan_create(&r, &q->table, e));
    FQI_TRY(fqi_quant_config(q, e));
    FQI_TRY(fqi_quant_ranks_agree(q, e));
    if (fqi_comm_rank(q->comm) == 0) FQI_TRY(make_calib(q, e));
    FQI_TRY(fqi_quant_ranks_calib(q, e));
    fqi_quant_keys(q);
    warn_about(q);
    return fqi_quant_plan_make(q, &q->plan, e);
}

/* ---- saying it ------------------------------------------------------------------------------------------------------------------------ */

static size_t count_left(const fqi_quantize *q)
{
    size_t n = 0;
    for (size_t i = 0; i < q->table.n_tensor; i++) n += q->table.tensor[i].src && q->table.tensor[i].src->rank >= 2;
    return n;
}

static void fill_plan(const fqi_quantize *q, uint64_t file_bytes, fq_quantize_plan *p)
{
    const uint64_t n_token = (uint64_t)q->calib.n_window * q->calib.seqlen;
    const fqi_kernels *chosen = NULL;
    *p = (fq_quantize_plan){
        .model = q->decoder.model, .model_pad = q->fitting.fitted, .fit = q->fitting.fit, .memory_bytes = q->plan.memory_bytes, .scratch_bytes = q->plan.scratch_bytes,
        .weight_bytes = q->fitting.ckpt->info.tensor_bytes, .file_bytes = file_bytes, .n_module = q->modules.n, .n_left = count_left(q),
        .samples = (int64_t)q->calib.n_window, .seqlen = (int64_t)q->calib.seqlen, .n_token = n_token, .n_distinct = q->calib.n_distinct,
        .tokens_per_input = (double)n_token / (double)widest_input(q), .calib_source = q->calib.source, .n_thread = q->n_thread,
        .kernel = fqi_kernels_choose(&chosen, NULL) == FQ_OK ? chosen->name : "", .resumed_layers = q->resumed_layers,
    };
}

static fq_status print_provenance(void *user, const fqi_hash128 *source_hash, char **text, size_t *n, fq_err *e)
{
    const fqi_quantize *q = user;
    const fqi_fitting *f = &q->fitting;
    fqi_prov_tensor *t = fqi_calloc(q->table.n_tensor + 1, sizeof *t);
    json_t *record = NULL;
    fq_status s = t ? fqi_quant_record(q, &record, e) : fqi_fail_nomem(e, "fitq.json");
    size_t n_tensor = 0;
    for (size_t i = 0; s == FQ_OK && i < q->table.n_tensor; i++)
        if (q->table.tensor[i].src)
            t[n_tensor++] = (fqi_prov_tensor){ .name = q->table.tensor[i].name, .source_hash = source_hash[i], .source_shard = q->table.tensor[i].src->shard, .dtype = (fq_dtype)q->table.tensor[i].dtype };
    const fqi_prov_write w = {
        .layout = fqi_layout_name[f->layout.kind], .group_size = f->layout.group, .model = &f->ckpt->info.model, .fit = &f->fit,
        .maps = &f->maps, .from = &f->ckpt->naming, .to = &f->to, .added = (const char *const *)f->zeros, .n_added = f->n_zeros,
        .shard = f->ckpt->shard, .n_shard = f->ckpt->n_shard, .config_source = f->ckpt->config.text, .config_target = q->config,
        .tensor = t, .n_tensor = n_tensor, .quantization = record,
    };
    if (s == FQ_OK) s = fqi_prov_print(&w, text, n, e);
    json_decref(record);
    free(t);
    return s;
}

/* ---- doing it -------------------------------------------------------------------------------------------------------------------------- */

static void take_report(fqi_quantize *q, const fqi_write_result *w, double seconds, fq_quantize_report *out)
{
    *out = (fq_quantize_report){ .n_module = q->modules.n, .module = q->report, .file_bytes = w->file_bytes, .n_stage = q->n_stage, .seconds = seconds };
    fill_plan(q, w->file_bytes, &out->plan);
    for (size_t i = 0; i < q->modules.n; i++) out->n_fallback += q->reported[i] && q->report[i].why[0] != '\0';
}

static fq_status run_job(fqi_quantize *q, fq_quantize_report *out, fq_err *e)
{
    const double start = fqi_now_seconds();
    FQI_TRY(prepare(q, e));
    const fqi_extra_file extra[] = { { "quantize_config.json", q->quantize_config, q->n_quantize_config } };
    fqi_write_result result = { 0 };
    const fqi_write_request w = {
        .ckpt = q->fitting.ckpt, .plan = &q->table, .target = q->o->pad.target, .overwrite = q->o->pad.overwrite, .resume = !q->o->restart,
        .run = q->run, .phase = "quantize", .config = q->config, .n_config = q->n_config, .provenance = print_provenance, .user = q,
        .key = q->key, .n_key = q->n_key, .extra = extra, .n_extra = q->quantize_config ? 1 : 0, .shards = fqi_quant_run,
    };
    FQI_TRY(fqi_write_estimate(&w, &result, e));
    if (q->o->on_plan) {
        fq_quantize_plan p;
        fill_plan(q, result.file_bytes, &p);
        q->o->on_plan(q->o->user, &p);
    }
    if (!q->o->pad.dry_run) FQI_TRY(fqi_comm_rank(q->comm) == 0 ? fqi_write_checkpoint(&w, &result, e) : fqi_quant_run(q, NULL, NULL, e));
    if (out) take_report(q, &result, fqi_now_seconds() - start, out);
    return FQ_OK;
}

static void free_job(fqi_quantize *q)
{
    free(q->config);
    free(q->quantize_config);
    free(q->made);
    free(q->report);
    free(q->reported);
    fqi_outplan_free(&q->table);
    fqi_modules_free(&q->modules);
    fqi_calib_free(&q->calib);
    if (q->has_decoder) fqi_decoder_free(&q->decoder);
    fqi_fitting_free(&q->fitting);
    fqi_arena_free(&q->arena);
    free(q);
}

void fq_quantize_report_free(fq_quantize_report *r)
{
    if (!r || !r->priv) return;
    free_job(r->priv);
    *r = (fq_quantize_report){ 0 };
}

typedef struct quantize_call { const fq_quantize_options *o; const fq_run *run; fq_quantize_report *report; } quantize_call;

/* One rank. Rank 0 speaks, writes and reports. */
static fq_status quantize_rank(void *user, fqi_comm *c, fq_err *e)
{
    const quantize_call *call = user;
    fqi_quantize *q = fqi_calloc(1, sizeof *q);
    fq_quantize_report out = { 0 };
    if (!q) return fqi_fail_nomem(e, "quantizer");
    q->comm = c;
    q->rank_options = *call->o;
    q->o = &q->rank_options;
    fqi_rank_run(c, call->run, &q->rank_run);
    q->run = &q->rank_run;
    if (fqi_comm_rank(c) > 0) {
        q->rank_options.on_plan = NULL;
        q->rank_options.on_module = NULL;
        q->rank_options.pad.on_tensor = NULL;
    }
    fq_status s = run_job(q, &out, e);
    if (s != FQ_OK || !call->report || fqi_comm_rank(c) > 0) {
        free_job(q);
        return s;
    }
    out.stage = q->stage;
    out.priv = q;   /* the report's tables are the job's */
    *call->report = out;
    return FQ_OK;
}

fq_status fq_quantize(const fq_quantize_options *o, const fq_run *run, fq_quantize_report *report, fq_err *e)
{
    static const fq_run default_run = { 0 };
    fq_quantize_report made = { 0 };
    quantize_call call = { .o = o, .run = run ? run : &default_run, .report = report ? &made : NULL };
    if (!o->pad.source || (!o->pad.target && !o->pad.dry_run)) return fqi_fail(e, FQ_E_USAGE, NULL, "paths", "found no %s", o->pad.source ? "target" : "source");
    const fq_status s = fqi_ranks_run(call.run, quantize_rank, &call, e);
    if (s == FQ_OK && report) *report = made;
    else fq_quantize_report_free(&made);   /* another rank failed when rank 0 was done */
    return s;
}
