/* convert.c - fq_convert: the weights of a quantized checkpoint in another form.
 *
 *     open, check -> modules -> scan (orders, zero points) -> what the form can hold -> table of made tensors -> config.json -> [dry run ends here]
 *       -> the writer of pad: shards, journal, resume, one rename
 *
 * Everything that can be refused is refused before the staging folder is made; what reading codes finds later (a scale that is no number, of
 * weights that are written as numbers) leaves nothing behind. A model that fitq padded is refused: fitq.json speaks of its tensors by name and
 * hash, so unpad could not undo it any more; unpad, convert and pad commute. See convert_private.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/packed.h"
#include "job/convert_private.h"
#include "job/outdir.h"

static void say(const fqi_convert *c, fq_log_level level, const char *line)
{
    if (c->run->log) c->run->log(c->run->user, level, line);
}

/* ---- the source ------------------------------------------------------------------------------------------------------ */

static fq_status check_fitted(const fqi_convert *c, fq_err *e)
{
    fqi_prov prov;
    if (!c->ckpt->info.fitted) return FQ_OK;
    FQI_TRY(fqi_prov_load(c->ckpt->dir, &prov, e));
    const bool quantized = prov.quantized;
    fqi_prov_free(&prov);
    if (quantized) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->o->source), "already-fitted", "found fitq.json of a model that fitq padded, expected one as its maker gave it: `fitq unpad`, convert, then `fitq pad` give the same");
}

static fq_status check_source(const fqi_convert *c, fq_err *e)
{
    const fq_ckpt *k = c->ckpt;
    FQI_TRY(fqi_ckpt_check_model(k, e));
    if (k->info.model.quant == FQ_QUANT_NONE) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->o->source), "not-quantized", "found no quantization_config, expected a quantized model; `fitq quantize` makes one");
    return check_fitted(c, e);
}

/* A part that hangs on no layer of the family would be carried into a model whose format does not know it. */
static fq_status check_strays(const fqi_convert *c, fq_err *e)
{
    fqi_packed p;
    size_t n;
    for (size_t i = 0; i < c->ckpt->n_tensor; i++) {
        const fqi_tensor *t = &c->ckpt->tensor[i];
        if (c->parts.of[i].module != FQI_NO_PART) continue;
        const bool part = fqi_packed_split(t->name, &p) && p.part != FQI_PART_OTHER;
        if (part || fqi_quant_is_codes(c->ckpt, i, &n))
            return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(c->ckpt->shard[t->shard].path, t->name), "packed-parts", "found a part of a quantized layer that %s does not have, expected none", c->ckpt->config.family->name);
    }
    return FQ_OK;
}

static fq_status choose_zeros(fqi_convert *c, fq_err *e)
{
    c->label_v1 = c->scheme.zeros_v1;
    if (c->o->zeros == FQ_ZEROS_AS_LABELLED) return FQ_OK;
    if (c->ckpt->info.model.quant != FQ_QUANT_GPTQ)
        return fqi_fail(e, FQ_E_USAGE, FQI_FILE(c->o->source), "zeros", "found quant_method \"%s\", expected gptq: others have one way to store zero points", c->ckpt->info.model.quant_name);
    c->scheme.zeros_v1 = c->o->zeros == FQ_ZEROS_V1;
    for (size_t i = 0; i < c->parts.n_module; i++) c->parts.module[i].now.zeros_v1 = c->scheme.zeros_v1;
    if (c->label_v1 != c->scheme.zeros_v1) say(c, FQ_LOG_WARN, c->label_v1 ? "config.json says gptq: zero points are taken as those of gptq_v2, as --zeros says" : "config.json says gptq_v2: zero points are taken as those of gptq, as --zeros says");
    return FQ_OK;
}

static fq_status open_source(fqi_convert *c, fq_err *e)
{
    const fqi_layout layout = { .kind = FQ_LAYOUT_TAIL, .group = 1, .ranks = 1 };
    const fq_fit none = { 0 };
    FQI_TRY(fq_ckpt_open(c->o->source, c->run, &c->ckpt, e));
    FQI_TRY(check_source(c, e));
    FQI_TRY(fqi_quant_scheme_read(c->ckpt, &c->scheme, e));
    FQI_TRY(fqi_maps_create(&c->ckpt->info.model, &none, &layout, &c->maps, e));
    FQI_TRY(fqi_parts_create(c->ckpt, &(fqi_parts_request){ .maps = &c->maps }, &c->parts, e));
    if (c->parts.n_module == 0) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->o->source), "not-quantized", "found no quantized layer, expected one at least");
    FQI_TRY(check_strays(c, e));
    return choose_zeros(c, e);
}

/* ---- the request ----------------------------------------------------------------------------------------------------- */

/* What readers of the result should know. */
static void say_choices(const fqi_convert *c)
{
    const fqi_quant_module *q = &c->parts.module[0].now;
    const fqi_tensor *scale = q->part[FQI_PART_SCALE];
    char line[256];
    if (c->to->dense) return;
    if (c->sym && !q->sym && c->to->layout != FQI_QL_AWQ) say(c, FQ_LOG_INFO, "every zero point is in the middle: written as symmetric, which more engines take");
    if (c->to->layout != FQI_QL_CT && scale && scale->dtype != FQ_DTYPE_F16) {
        snprintf(line, sizeof line, "scales are %s and keep their bits: some readers of %s take F16 only", fq_dtype_name((fq_dtype)scale->dtype), c->to->name);
        say(c, FQ_LOG_WARN, line);
    }
    if (c->to->layout == FQI_QL_CT && q->size.bits == 3) say(c, FQ_LOG_WARN, "codes of 3 bits are a stream without gaps: readers of compressed-tensors before 2026 expect another");
}

static fq_status prepare(fqi_convert *c, fq_err *e)
{
    FQI_TRY(open_source(c, e));
    FQI_TRY(fqi_convert_maker_create(c, e));
    FQI_TRY(fqi_convert_scan(c, e));
    FQI_TRY(fqi_convert_check(c, e));
    FQI_TRY(fqi_convert_make_table(c, e));
    say_choices(c);
    const fqi_outplan_request r = {
        .ckpt = c->ckpt, .maps = &c->maps, .parts = &c->parts, .from = &c->ckpt->naming, .to = &c->ckpt->naming, .skip = c->skip, .n_skip = c->n_skip,
        .shard_bytes = fqi_shard_bytes(c->o->shard_bytes), .made = c->made, .n_made = c->n_made,
    };
    FQI_TRY(fqi_outplan_create(&r, &c->plan, e));
    return fqi_convert_config(c, e);
}

static void list_tensors(const fqi_convert *c)
{
    for (size_t i = 0; i < c->plan.n_tensor && c->o->on_tensor; i++) {
        const fqi_out_tensor *t = &c->plan.tensor[i];
        const fqi_tensor *src = t->made ? t->made->instead_of : t->src;
        fq_tensor_change x = { .name = t->name, .source_name = src->name, .dtype = (fq_dtype)t->dtype, .rank = t->rank, .bytes = src->bytes, .bytes_pad = t->bytes_pad, .shard = c->plan.shard[t->shard].name };
        for (int d = 0; d < t->rank; d++) {
            x.shape[d] = d < src->rank ? src->shape[d] : 1;
            x.shape_pad[d] = t->shape_pad[d];
        }
        c->o->on_tensor(c->o->user, &x);
    }
}

/* The model as readers of the result see it. */
static fq_status read_result(const fqi_convert *c, fq_model *out, fq_err *e)
{
    fqi_config k;
    FQI_TRY(fqi_config_parse(c->config, c->n_config, "config.json", &k, e));
    *out = k.model;
    fqi_config_free(&k);
    return FQ_OK;
}

static size_t n_changed_module(const fqi_convert *c)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_made; i++) n += i == 0 || c->made_part[i].module != c->made_part[i - 1].module;   /* a module's are together */
    return n;
}

static fq_status report(const fqi_convert *c, const fqi_write_result *w, double seconds, fq_convert_report *out, fq_err *e)
{
    const fqi_quant_module *q = &c->parts.module[0].now;
    fqi_rounding cost;
    fqi_convert_cost(c, &cost);
    fq_convert_report r = {
        .wrote = { .model = c->ckpt->info.model, .n_tensor = c->plan.n_tensor, .n_tensor_changed = c->plan.n_changed, .n_shard = c->plan.n_shard, .bytes = c->ckpt->info.tensor_bytes,
                   .bytes_pad = c->plan.bytes_pad, .file_bytes = w->file_bytes, .peak_memory_bytes = w->peak_memory_bytes + fqi_convert_bytes(c), .resumed_bytes = w->resumed_bytes, .seconds = seconds },
        .n_module = n_changed_module(c), .bits = q->size.bits, .group_size = c->group_size, .sym = c->sym, .act_order = c->ordered, .n_weight = cost.n, .n_rounded = cost.n_changed, .worst_error = cost.worst,
        .relative_error = cost.weight2 > 0 ? sqrt(cost.error2 / cost.weight2) : 0,
    };
    FQI_TRY(read_result(c, &r.wrote.model_pad, e));
    *out = r;
    return FQ_OK;
}

static fq_status run_job(fqi_convert *c, fq_convert_report *out, fq_err *e)
{
    static const char *const leave[] = { "quantize_config.json", "quant_config.json" };
    const double start = fqi_now_seconds();
    FQI_TRY(prepare(c, e));
    const struct { const char *name, *text; size_t n; } file[] = { { c->to->own_file, c->own, c->n_own }, { FQI_PROV_FILE, c->record, c->n_record }, { FQI_ORDER_FILE, c->order, c->n_order } };
    const fqi_journal_key key[] = { { "to", c->to->name }, { "zeros", c->scheme.zeros_v1 ? "v1" : "v2" } };
    fqi_extra_file extra[3];
    fqi_write_result result = { 0 };
    fqi_write_request w = {
        .ckpt = c->ckpt, .plan = &c->plan, .target = c->o->target, .overwrite = c->o->overwrite, .resume = c->o->resume, .run = c->run, .phase = "convert", .config = c->config, .n_config = c->n_config,
        .key = key, .n_key = sizeof key / sizeof key[0], .extra = extra, .leave = leave, .n_leave = sizeof leave / sizeof leave[0], .made = fqi_convert_fill, .user = c,
    };
    for (size_t i = 0; i < sizeof file / sizeof file[0]; i++)
        if (file[i].text) extra[w.n_extra++] = (fqi_extra_file){ file[i].name, file[i].text, file[i].n };
    if (c->o->dry_run) {
        FQI_TRY(fqi_write_estimate(&w, &result, e));
        list_tensors(c);
    } else {
        FQI_TRY(fqi_write_checkpoint(&w, &result, e));
    }
    return out ? report(c, &result, fqi_now_seconds() - start, out, e) : FQ_OK;
}

static void free_job(fqi_convert *c)
{
    free(c->config);
    free(c->own);
    free(c->record);
    free(c->order);
    fqi_outplan_free(&c->plan);
    fqi_convert_maker_free(c->maker);
    free(c->made);
    free(c->made_part);
    free(c->skip);
    free(c->is_ordered);
    fqi_parts_free(&c->parts);
    fqi_maps_free(&c->maps);
    fqi_arena_free(&c->arena);
    fq_ckpt_close(c->ckpt);
}

fq_status fq_convert(const fq_convert_options *o, const fq_run *run, fq_convert_report *report_out, fq_err *e)
{
    static const fq_run default_run = { 0 };
    if (!o->source || (!o->target && !o->dry_run)) return fqi_fail(e, FQ_E_USAGE, NULL, "paths", "found no %s", o->source ? "target" : "source");
    if ((unsigned)o->to >= FQ_N_FORM || (unsigned)o->zeros > FQ_ZEROS_V2) return fqi_fail(e, FQ_E_USAGE, NULL, "convert-form", "found a number that names no form, expected one of fq_form and fq_zeros");
    fqi_convert c = { .o = o, .run = run ? run : &default_run, .to = &fqi_convert_targets[o->to] };
    const fq_status s = run_job(&c, report_out, e);
    free_job(&c);
    return s;
}
