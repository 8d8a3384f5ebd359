/* cmd_fit.c - one command: decide, pad, quantize, look at the result, report. Everything it does is another command's work. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "output.h"
#include "progress.h"
#include "quant_report.h"
#include "report.h"

#define GPU_MEMORY_MIN ((uint64_t)1 << 30)

/* ---- what to do ---------------------------------------------------------------------------------------------------- */

/* "4x24GiB", "4 x 24GiB" is one word too many for a shell. */
static bool parse_gpus(const char *text, int *n, uint64_t *bytes)
{
    char *end;
    long count = strtol(text, &end, 10);
    if (end == text || count < 1 || count > 64 || *end != 'x') return false;
    *n = (int)count;
    return args_size(end + 1, bytes) && *bytes >= GPU_MEMORY_MIN;
}

static int usage(const arg_values *a)
{
    if (!a->output && !a->dry_run) return args_usage("fit", "--output DIR is missing");
    if ((a->gpus != NULL) == (a->tp.n > 0)) return args_usage("fit", "say for which GPUs: --gpus COUNTxMEMORY, or --tp N,... with --bits");
    if (a->gpus && (a->bits || a->group_size || a->packing)) return args_usage("fit", "--gpus chooses bits, group size and format; --tp takes --bits, --group-size and --format");
    if (a->calib && a->ids) return args_usage("fit", "--calib and --ids: one of them");
    return 0;
}

static fq_status choose(const arg_values *a, fq_choice *out, fq_err *e)
{
    fq_model m;
    int n;
    uint64_t bytes;
    if (!parse_gpus(a->gpus, &n, &bytes)) return (fq_status)args_usage("fit", "--gpus: found \"%s\", expected COUNTxMEMORY such as 4x24GiB (at least 1 GiB each)", a->gpus);
    fq_status s = fq_model_read(a->operand[0], &m, e);
    if (s != FQ_OK) return s;
    return fq_choose(&m, n, bytes, a->engine.n ? a->engine.v : NULL, a->engine.n, a->context, out, e);
}

static void say_choice(const arg_values *a, const fq_choice *c)
{
    if (a->json) return;
    for (size_t i = 0; i < c->n_why; i++) {
        fputs("  ", stdout);
        out_flow(c->why[i], 2, 4, OUT_PLAIN);
    }
    fflush(stdout);
}

/* chosen: NULL where the user chose. */
static void put_choice(json_t *o, const fq_choice *chosen)
{
    json_t *why = json_array(), *c = json_object();
    for (size_t i = 0; chosen && i < chosen->n_why; i++) out_append(why, json_string(chosen->why[i]));
    if (!chosen) {
        json_decref(why);
        json_decref(c);
        return;
    }
    out_put_int(c, "tp", chosen->tp);
    out_put_int(c, "bits", chosen->bits);
    out_put_int(c, "group_size", chosen->group_size);
    if (chosen->bits < 16) out_put_str(c, "format", arg_packing_names[chosen->packing]);
    out_put(c, "fit", out_json_fit(&chosen->fit));
    out_put_u64(c, "weight_bytes_per_gpu", chosen->weight_bytes_per_gpu);
    out_put_u64(c, "memory_need_bytes", chosen->memory_need_bytes);
    out_put_int(c, "longest_context", chosen->longest_context);
    out_put(c, "why", why);
    out_put(o, "choice", c);
}

/* A config.json has no weights: what would be chosen is all there is to say. */
static bool is_config(const char *path)
{
    const size_t n = strlen(path), end = strlen(".json");
    return n > end && strcmp(path + n - end, ".json") == 0 && !strstr(path, ".index.");
}

static int only_choice(const arg_values *a, const fq_choice *c)
{
    json_t *o;
    if (!a->json) return 0;
    o = json_object();
    out_put_bool(o, "dry_run", true);
    put_choice(o, c);
    return out_json(o);
}

/* ---- looking at the result --------------------------------------------------------------------------------------------- */

/* Does the planner say of the result that every engine runs it as it is? engines: a list for --json. */
static fq_status check_plan(const arg_values *a, bool *runs, json_t *engines, fq_err *e)
{
    fq_model m;
    fq_plan *p = NULL;
    fq_status s = fq_model_read(a->output, &m, e);
    const fq_plan_request r = { .tp = a->tp.v, .n_tp = a->tp.n, .engine = a->engine.n ? a->engine.v : NULL, .n_engine = a->engine.n };
    if (s == FQ_OK) s = fq_plan_create(&m, &r, &p, e);
    *runs = s == FQ_OK;
    for (size_t i = 0; s == FQ_OK && i < fq_plan_n_entry(p); i++) {
        const fq_plan_entry *x = fq_plan_get_entry(p, i);
        const bool ok = x->verdict == FQ_RUNS;
        const char *why = ok ? "" : x->n_violation ? x->violation[0].text : x->note[0] ? x->note : "the tables have no rules for it";
        json_t *o = json_object();
        out_put_str(o, "engine", x->engine->id);
        out_put_int(o, "tp", x->tp);
        out_put_bool(o, "runs", ok);
        out_put_str(o, "why", why);
        out_append(engines, o);
        *runs = *runs && ok;
        if (!a->json) printf("  %s on %d GPU%s: %s%s\n", x->engine->id, x->tp, x->tp == 1 ? "" : "s", ok ? "runs as it is" : "does not run: ", why);
    }
    fq_plan_free(p);
    return s;
}

/* The text to look at it with: --text, or the calibration text, whose figures flatter it a little. */
static const char *text_of(const arg_values *a)
{
    const size_t n = a->calib ? strlen(a->calib) : 0;
    if (a->text) return a->text;
    return n > 6 && strcmp(a->calib + n - 6, ".jsonl") == 0 ? NULL : a->calib;
}

static fq_status measure(const arg_values *a, const fq_run *run, fq_eval_report *out, fq_err *e)
{
    const fq_eval_options o = { .path = a->output, .reference = a->operand[0], .text = { .text = text_of(a), .chunks = a->chunks }, .scratch = a->scratch };
    fq_status s = fq_eval(&o, run, out, e);
    if (s != FQ_OK || a->json) return s;
    const int digits = out->kld.error > 0 ? 1 - (int)floor(log10(out->kld.error)) : 6;   /* two of the error's mean something */
    printf("  KL divergence from the original: %.*f +- %.*f; same top token: %.2f %%\n", digits, out->kld.value, digits, out->kld.error, 100 * out->same_top.value);
    printf("  perplexity: %.5g, of the original %.5g%s\n", out->ppl.value, out->ppl_reference.value, a->text ? "" : " (on the text that it was calibrated with)");
    return s;
}

static fq_status write_report(const arg_values *a, const fq_quantize_report *r, const fq_eval_report *eval, char path[4096], fq_err *e)
{
    if (a->report) snprintf(path, 4096, "%s", a->report);
    else snprintf(path, 4096, "%s/report.html", a->output);   /* longer paths have failed before */
    fq_status s = fq_write_report(path, r, eval, e);
    if (s != FQ_OK || a->json) return s;
    printf("  report: ");
    out_escaped(stdout, path);
    putchar('\n');
    return s;
}

static void serve_hint(const arg_values *a, const char *model)
{
    const int tp = a->tp.v[a->tp.n - 1];
    if (a->json || a->dry_run) return;
    printf("serve it:\n  vllm serve ");
    out_escaped(stdout, model);
    printf(" --tensor-parallel-size %d\n  python3 -m sglang.launch_server --model-path ", tp);
    out_escaped(stdout, model);
    printf(" --tp %d\n", tp);
}

/* ---- doing it ------------------------------------------------------------------------------------------------------------ */

typedef struct fitting_job {
    const arg_values *a;
    const fq_choice *chosen;       /* NULL: the user chose */
    progress p;
    fq_quantize_report r;
    fq_eval_report eval;
    bool runs, measured;
    json_t *engines;
    char report[4096];
} fitting_job;

/* Heads that need head_dim, for an engine that ignores it: the same function written as llama is what it honours. True: try again so. */
static bool as_llama(const arg_values *a, const fq_err *e, const char **as)
{
    if (*as || strcmp(e->rule, "head-dim-ignored") != 0 || !strstr(e->text, "--as llama")) return false;
    *as = "llama";
    if (!a->json) printf("  written as llama: an engine here ignores head_dim of this family, which these lengths need\n");
    return true;
}

static fq_status quantize(fitting_job *j, fq_err *e)
{
    fq_quantize_options o;
    fq_run run;
    quant_watch watch = { .p = &j->p, .quiet = j->a->quiet };
    quantize_options(j->a, &o);
    progress_run(&j->p, &run, j->a);
    quant_watch_start(&watch, &o, &run);
    fq_status s = fq_quantize(&o, &run, &j->r, e);
    if (s != FQ_OK && as_llama(j->a, e, &o.pad.reexpress_as)) s = fq_quantize(&o, &run, &j->r, e);
    quant_watch_end(&watch);
    if (s == FQ_OK && !j->a->json) quant_text(j->a, &j->r, false);
    return s;
}

/* What is known of the result beside its weights. */
static fq_status look(fitting_job *j, fq_err *e)
{
    fq_run run;
    fq_status s = check_plan(j->a, &j->runs, j->engines, e);
    if (s == FQ_OK && text_of(j->a)) {
        progress_run(&j->p, &run, j->a);
        s = measure(j->a, &run, &j->eval, e);
        progress_end(&j->p);
        j->measured = s == FQ_OK;
    } else if (s == FQ_OK && !j->a->json) {
        printf("  distance from the original: not measured, since there is no --text FILE\n");
    }
    return s == FQ_OK ? write_report(j->a, &j->r, j->measured ? &j->eval : NULL, j->report, e) : s;
}

static int print_json(const fitting_job *j)
{
    json_t *o = quant_json(&j->r, j->a->dry_run);
    put_choice(o, j->chosen);
    if (!j->a->dry_run) {
        out_put_bool(o, "runs", j->runs);
        out_put(o, "engines", json_incref(j->engines));
        out_put_str(o, "report", j->report);
    }
    if (j->measured) {
        out_put_value(o, "kld", &j->eval.kld);
        out_put_value(o, "same_top", &j->eval.same_top);
        out_put_value(o, "perplexity", &j->eval.ppl);
        out_put_value(o, "perplexity_reference", &j->eval.ppl_reference);
    }
    return out_json(o);
}

static int fit_quantized(const arg_values *a, const fq_choice *chosen)
{
    fitting_job j = { .a = a, .chosen = chosen, .engines = json_array() };
    fq_err e = { 0 };
    fq_status s = quantize(&j, &e);
    if (s == FQ_OK && !a->dry_run) s = look(&j, &e);
    int status = s == FQ_OK ? 0 : out_error(&e);
    if (status == 0 && a->json) status = print_json(&j);
    if (status == 0 && !a->dry_run && !j.runs) status = -FQ_E_DIFFERS;
    if (status == 0) serve_hint(a, a->output);
    fq_quantize_report_free(&j.r);
    json_decref(j.engines);
    return status;
}

/* Sixteen bits fit, and no length has to change. */
static int nothing_to_do(const arg_values *a, const fq_choice *chosen)
{
    json_t *o;
    if (!a->json) {
        printf("the model runs as it is: nothing to write\n");
        serve_hint(a, a->operand[0]);
        return 0;
    }
    o = json_object();
    out_put_bool(o, "dry_run", a->dry_run);
    out_put_bool(o, "written", false);
    put_choice(o, chosen);
    return out_json(o);
}

/* Sixteen bits fit: at most padding is left to do. */
static int fit_plain(const arg_values *a, const fq_choice *chosen)
{
    static const char *const bf16[] = { "bf16" };
    fq_pad_options o = { .source = a->operand[0], .target = a->output, .tp = a->tp.v, .n_tp = a->tp.n, .engine = a->engine.n ? a->engine.v : NULL, .n_engine = a->engine.n, .format = bf16, .n_format = 1,
                         .context = a->context, .fit = a->set, .layout = (fq_layout)a->layout, .vocab = a->vocab, .prefix = a->prefix, .reexpress_as = a->as, .shard_bytes = a->shard_size, .overwrite = a->overwrite,
                         .resume = !a->restart, .dry_run = a->dry_run };
    progress p;
    fq_run run;
    fq_pad_report r = { 0 };
    fq_err e = { 0 };
    progress_run(&p, &run, a);
    run.memory_bytes = 0;   /* --memory here bounds what runs a model */
    fq_status s = fq_pad(&o, &run, &r, &e);
    if (s != FQ_OK && as_llama(a, &e, &o.reexpress_as)) s = fq_pad(&o, &run, &r, &e);
    progress_end(&p);
    if (s == FQ_E_USAGE && strcmp(e.rule, "nothing-to-pad") == 0) return nothing_to_do(a, chosen);
    if (s != FQ_OK) return out_error(&e);
    if (a->json) {
        json_t *j = report_json(&r);
        out_put_bool(j, "dry_run", a->dry_run);
        out_put_bool(j, "written", !a->dry_run);
        put_choice(j, chosen);
        return out_json(j);
    }
    report_lengths(&r.model, &r.model_pad, &r.fit);
    report_size(&r, a->dry_run);
    serve_hint(a, a->output);
    return 0;
}

static int run_fit(const arg_values *given)
{
    arg_values a = *given;
    int status = usage(&a);
    if (status) return status;
    if (!command_engines(&cmd_fit, &a.engine)) return -FQ_E_USAGE;
    if (!a.gpus) return fit_quantized(&a, NULL);
    fq_choice c = { 0 };
    fq_err e = { 0 };
    fq_status s = choose(&a, &c, &e);
    if (s > 0) return (int)s;   /* a usage error that has been said */
    if (s != FQ_OK) return out_error(&e);
    say_choice(&a, &c);
    if (a.dry_run && is_config(a.operand[0])) return only_choice(&a, &c);
    a.tp = (arg_ints){ .v = { c.tp }, .n = 1 };
    a.bits = c.bits;
    a.group_size = c.group_size;
    a.packing = (int)c.packing;
    a.vocab = a.vocab || c.fit.vocab_size_pad != 0;   /* the choice was made with it */
    return c.bits == 16 ? fit_plain(&a, &c) : fit_quantized(&a, &c);
}

static const arg_option options[] = {
    ARG_OPT_OUTPUT,
    { "gpus", 0, ARG_STRING, "NxMEMORY", ARG_OFFSET(gpus), "the GPUs that are there, such as 4x24GiB: bits, group size and padding are chosen for them", NULL, 0, 0, ARG_ANY },
    ARG_OPT_TP("GPU counts that the result has to run on, with --bits"),
    { "text", 0, ARG_STRING, "FILE", ARG_OFFSET(text), "text to measure the result on (default: the calibration text)", NULL, 0, 0, ARG_PATH },
    ARG_OPT_CHUNKS("all"),
    ARG_OPT_QUANTIZE, ARG_OPT_ENGINE, ARG_OPT_QUANTIZE_FIT,
    { "report", 0, ARG_STRING, "FILE", ARG_OFFSET(report), "where to write the report (default: report.html in the output)", NULL, 0, 0, ARG_PATH },
    ARG_OPT_SHARD_SIZE, ARG_OPT_OVERWRITE, ARG_OPT_RESTART,
    { "dry-run", 'n', ARG_FLAG, NULL, ARG_OFFSET(dry_run), "only say what would be done, and the memory needed", NULL, 0, 0, ARG_ANY },
    ARG_OPT_JSON, ARG_OPT_THREADS, ARG_OPT_RUN_MEMORY, ARG_OPT_QUANTIZE_SCRATCH, ARG_OPT_IO, ARG_OPT_QUIET, ARG_OPT_HELP,
};

const arg_command cmd_fit = {
    .name = "fit", .summary = "one command: choose, pad, quantize, measure, report",
    .synopsis = "PATH -o DIR --gpus NxMEMORY | --tp N,... [--bits N] [--calib FILE] [options]",
    .text = "Makes a model fit the GPUs: decides bits, group size and padding (or takes yours), quantizes while padding, checks that the engines run the "
            "result, measures how far it is from the original, and writes a report. Asks nothing; says why.",
    .examples = "  fitq fit Qwen2-72B -o out --gpus 4x24GiB --calib texts.jsonl\n"
                "  fitq fit Qwen2-72B -o out --tp 8 --bits 4 --calib texts.txt --text held-out.txt\n"
                "  fitq fit config.json --gpus 8x24GiB --dry-run\n",
    .exit_status = "; 1 an engine does not run the result; 6 weights that are not finite; 9 the unfinished output is of another request; 128+n stopped by signal n, to be continued by the same command",
    .option = options, .n_option = sizeof options / sizeof options[0], .min_operand = 1, .max_operand = 1, .run = run_fit,
};
