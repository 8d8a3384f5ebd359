/* cmd_fit.c - one command: decide, pad, quantize, look at the result, report. Everything it does is another command's work. */
#include <inttypes.h>
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
    if (a->gpus && a->bits) return args_usage("fit", "--gpus chooses the bits; --tp takes --bits");
    if (a->calib && a->ids) return args_usage("fit", "--calib and --ids: one of them");
    return 0;
}

static fq_status choose(const arg_values *a, fq_choice *out, fq_err *e)
{
    fq_model m;
    int n;
    uint64_t bytes;
    fq_status s = fq_model_read(a->operand[0], &m, e);
    if (s != FQ_OK) return s;
    if (!parse_gpus(a->gpus, &n, &bytes)) return (fq_status)args_usage("fit", "--gpus: found \"%s\", expected COUNTxMEMORY such as 4x24GiB (at least 1 GiB each)", a->gpus);
    return fq_choose(&m, n, bytes, a->engine.n ? a->engine.v : NULL, a->engine.n, a->context, out, e);
}

static void say_choice(const arg_values *a, const fq_choice *c)
{
    if (a->json) return;
    for (size_t i = 0; i < c->n_why; i++) {
        fputs("  ", stdout);
        out_escaped(stdout, c->why[i]);
        putchar('\n');
    }
    fflush(stdout);
}

/* ---- looking at the result --------------------------------------------------------------------------------------------- */

/* Does the planner say of the result that every engine runs it as it is? */
static fq_status check_plan(const arg_values *a, bool *runs, fq_err *e)
{
    fq_model m;
    fq_plan *p = NULL;
    fq_status s = fq_model_read(a->output, &m, e);
    const fq_plan_request r = { .tp = a->tp.v, .n_tp = a->tp.n, .engine = a->engine.n ? a->engine.v : NULL, .n_engine = a->engine.n };
    if (s == FQ_OK) s = fq_plan_create(&m, &r, &p, e);
    *runs = s == FQ_OK;
    for (size_t i = 0; s == FQ_OK && i < fq_plan_n_entry(p); i++) {
        const fq_plan_entry *x = fq_plan_get_entry(p, i);
        *runs = *runs && x->verdict == FQ_RUNS;
        if (!a->json) printf("  %s on %d GPU%s: %s\n", x->engine->id, x->tp, x->tp == 1 ? "" : "s", x->verdict == FQ_RUNS ? "runs as it is" : x->n_violation ? x->violation[0].text : x->note);
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
    printf("  KL divergence from the original %.4g +- %.2g, same top token %.2f %%, perplexity %.4f against %.4f%s\n", out->kld.value, out->kld.error, 100 * out->same_top.value, out->ppl.value,
           out->ppl_reference.value, a->text ? "" : " (on the calibration text)");
    return s;
}

/* ---- doing it ------------------------------------------------------------------------------------------------------------ */

static fq_status write_report(const arg_values *a, const fq_quantize_report *r, const fq_eval_report *eval, fq_err *e)
{
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/report.html", a->output);
    if (a->report) return fq_write_report(a->report, r, eval, e);
    if (n < 0 || (size_t)n >= sizeof path) return FQ_OK;
    return fq_write_report(path, r, eval, e);
}

static int serve_hint(const arg_values *a)
{
    if (a->json || a->tp.n == 0) return 0;
    printf("serve it:\n  vllm serve ");
    out_escaped(stdout, a->output);
    printf(" --tensor-parallel-size %d\n  python3 -m sglang.launch_server --model-path ", a->tp.v[a->tp.n - 1]);
    out_escaped(stdout, a->output);
    printf(" --tp %d\n", a->tp.v[a->tp.n - 1]);
    return 0;
}

static int fit_quantized(const arg_values *a)
{
    fq_quantize_options o;
    progress p;
    fq_run run;
    quant_watch watch = { .p = &p, .quiet = a->quiet };
    fq_quantize_report r = { 0 };
    fq_eval_report eval = { 0 };
    fq_err e = { 0 };
    bool runs = false, measured = false;
    quantize_options(a, &o);
    progress_run(&p, &run, a);
    const fq_run plain = run;
    quant_watch_start(&watch, &o, &run);
    fq_status s = fq_quantize(&o, &run, &r, &e);
    quant_watch_end(&watch);
    if (s == FQ_OK && !a->json) quant_text(a, &r);
    if (s == FQ_OK && !a->dry_run) s = check_plan(a, &runs, &e);
    if (s == FQ_OK && !a->dry_run && text_of(a)) {
        s = measure(a, &plain, &eval, &e);
        measured = s == FQ_OK;
        progress_end(&p);
    }
    if (s == FQ_OK && !a->dry_run) s = write_report(a, &r, measured ? &eval : NULL, &e);
    int status = s == FQ_OK ? 0 : out_error(&e);
    if (status == 0 && a->json) {
        json_t *j = quant_json(&r, a->dry_run);
        out_put_bool(j, "runs", runs);
        if (measured) out_put_value(j, "kld", &eval.kld);
        if (measured) out_put_value(j, "same_top", &eval.same_top);
        status = out_json(j);
    } else if (status == 0) {
        status = serve_hint(a);
    }
    fq_quantize_report_free(&r);
    if (status == 0 && !a->dry_run && !runs) return -FQ_E_DIFFERS;
    return status;
}

/* Sixteen bits fit: at most padding is left to do. */
static int fit_plain(const arg_values *a)
{
    static const char *const bf16[] = { "bf16" };
    const fq_pad_options o = { .source = a->operand[0], .target = a->output, .tp = a->tp.v, .n_tp = a->tp.n, .engine = a->engine.n ? a->engine.v : NULL, .n_engine = a->engine.n, .format = bf16, .n_format = 1,
                               .context = a->context, .fit = a->set, .layout = (fq_layout)a->layout, .vocab = a->vocab, .shard_bytes = a->shard_size, .overwrite = a->overwrite, .dry_run = a->dry_run };
    progress p;
    fq_run run;
    fq_pad_report r = { 0 };
    fq_err e = { 0 };
    progress_run(&p, &run, a);
    run.memory_bytes = 0;   /* --memory here bounds what runs a model */
    fq_status s = fq_pad(&o, &run, &r, &e);
    progress_end(&p);
    if (s == FQ_E_USAGE && strcmp(e.rule, "nothing-to-pad") == 0) {
        printf("the model runs as it is: nothing was written\n");
        return 0;
    }
    if (s != FQ_OK) return out_error(&e);
    if (a->json) return out_json(report_json(&r));
    report_lengths(&r.model, &r.model_pad, &r.fit);
    report_size(&r, a->dry_run);
    return serve_hint(a);
}

static int run_fit(const arg_values *given)
{
    arg_values a = *given;
    int status = usage(&a);
    if (status) return status;
    if (!command_engines(&cmd_fit, &a.engine)) return -FQ_E_USAGE;
    if (!a.gpus) return fit_quantized(&a);
    fq_choice c = { 0 };
    fq_err e = { 0 };
    fq_status s = choose(&a, &c, &e);
    if (s > 0) return (int)s;   /* a usage error that has been said */
    if (s != FQ_OK) return out_error(&e);
    say_choice(&a, &c);
    a.tp = (arg_ints){ .v = { c.tp }, .n = 1 };
    a.bits = c.bits;
    a.group_size = c.group_size;
    a.packing = (int)c.packing;
    return c.bits == 16 ? fit_plain(&a) : fit_quantized(&a);
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
    ARG_OPT_JSON, ARG_OPT_THREADS, ARG_OPT_RUN_MEMORY, ARG_OPT_SCRATCH, ARG_OPT_IO, ARG_OPT_QUIET, ARG_OPT_HELP,
};

const arg_command cmd_fit = {
    .name = "fit", .summary = "one command: choose, pad, quantize, measure, report",
    .synopsis = "PATH -o DIR --gpus NxMEMORY | --tp N,... [--bits N] [--calib FILE] [options]",
    .text = "Makes a model fit the GPUs: decides bits, group size and padding (or takes yours), quantizes while padding, checks that the engines run the "
            "result, measures how far it is from the original, and writes a report. Asks nothing; says why.",
    .examples = "  fitq fit Qwen2-72B-Instruct -o out --gpus 4x24GiB --calib texts.jsonl\n"
                "  fitq fit Qwen2-72B-Instruct -o out --tp 8 --bits 4 --calib texts.txt --text held-out.txt\n"
                "  fitq fit Qwen2-7B-Instruct -o out --gpus 1x8GiB --dry-run\n",
    .exit_status = "; 1 an engine does not run the result; 6 weights that are not finite; 9 the unfinished output is of another request; 128+n stopped by signal n, to be continued by the same command",
    .option = options, .n_option = sizeof options / sizeof options[0], .min_operand = 1, .max_operand = 1, .run = run_fit,
};
