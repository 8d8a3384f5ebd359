/* cmd_quantize.c - write a quantized copy of a checkpoint, fitted to GPU counts where asked. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "output.h"
#include "progress.h"
#include "quant_report.h"
#include "report.h"

const char *const arg_method_names[] = { "gptq", "rtn", NULL };
const char *const arg_packing_names[] = { "gptq", "compressed-tensors", NULL };
const char *const arg_scale_names[] = { "weighted", "min-max", NULL };
const char *const arg_store_names[] = { "both", "fp16", NULL };
const char *const arg_prefix_names[] = { "keep", "add", "strip", NULL };
const char *const arg_as_names[] = { "llama", NULL };
const char *const arg_order_names[] = { "fold", "static", "none", NULL };

int quantize_usage(const arg_command *c, const arg_values *a)
{
    if (!a->output && !a->dry_run) return args_usage(c->name, "--output DIR is missing");
    if (a->calib && a->ids) return args_usage(c->name, "--calib and --ids: one of them");
    return 0;
}

void quantize_options(const arg_values *a, fq_quantize_options *o)
{
    *o = (fq_quantize_options){
        .pad = { .source = a->operand[0], .target = a->output, .tp = a->tp.v, .n_tp = a->tp.n, .engine = a->engine.n ? a->engine.v : NULL, .n_engine = a->engine.n,
                 .context = a->context, .fit = a->set, .layout = (fq_layout)a->layout, .vocab = a->vocab, .prefix = a->prefix, .reexpress_as = a->as,
                 .shard_bytes = a->shard_size, .overwrite = a->overwrite, .dry_run = a->dry_run },
        .method = (fq_method)a->method, .packing = (fq_packing)a->packing, .bits = (int)a->bits, .group_size = a->group_size, .asymmetric = a->asymmetric,
        .textbook = a->textbook, .scale = (fq_scale_rule)a->scale, .scale_store = (fq_scale_store)a->scale_store, .positive_scales = a->positive_scales,
        .order = (fq_act_order)a->order, .damp = a->damp, .shift = a->no_shift ? -1 : a->shift, .refit = a->no_refit ? -1 : (int)a->refit, .lm_head = a->lm_head, .strict = a->strict, .restart = a->restart,
        .min_expert_tokens = a->min_expert_tokens,
        .calib = { .file = a->calib, .ids = a->ids, .samples = a->samples, .seqlen = a->seqlen, .seed = a->seed }, .scratch = a->scratch,
    };
}

static int run_quantize(const arg_values *given)
{
    arg_values a = *given;
    int status = quantize_usage(&cmd_quantize, &a);
    if (status) return status;
    if (!command_engines(&cmd_quantize, &a.engine)) return -FQ_E_USAGE;
    fq_quantize_options o;
    progress p;
    fq_run run;
    quant_watch watch = { .p = &p, .quiet = a.quiet };
    fq_quantize_report r = { 0 };
    fq_err e = { 0 };
    quantize_options(&a, &o);
    progress_run(&p, &run, &a);
    quant_watch_start(&watch, &o, &run);
    fq_status s = fq_quantize(&o, &run, &r, &e);
    quant_watch_end(&watch);
    if (s != FQ_OK) return out_error(&e);
    if (fq_rank() > 0) return 0;   /* rank 0 has the result */
    status = 0;
    if (a.report && !a.dry_run && fq_write_report(a.report, &r, NULL, &e) != FQ_OK) status = out_error(&e);
    if (a.json) status = status ? status : out_json(quant_json(&r, a.dry_run));
    else quant_text(&a, &r, true);
    fq_quantize_report_free(&r);
    return status;
}

static const arg_option options[] = {
    ARG_OPT_OUTPUT, ARG_OPT_QUANTIZE,
    ARG_OPT_TP("GPU counts that the result has to run on: lengths are padded where they do not divide (default: as they are)"),
    ARG_OPT_ENGINE, ARG_OPT_QUANTIZE_FIT,
    { "report", 0, ARG_STRING, "FILE", ARG_OFFSET(report), "write a page with errors, times and memory (HTML, self-contained)", NULL, 0, 0, ARG_PATH },
    ARG_OPT_SHARD_SIZE, ARG_OPT_OVERWRITE, ARG_OPT_RESTART,
    { "dry-run", 'n', ARG_FLAG, NULL, ARG_OFFSET(dry_run), "only say what would be done, and the memory needed", NULL, 0, 0, ARG_ANY },
    ARG_OPT_JSON, ARG_OPT_THREADS, ARG_OPT_RANKS, ARG_OPT_HEARTBEAT, ARG_OPT_RUN_MEMORY, ARG_OPT_QUANTIZE_SCRATCH, ARG_OPT_IO, ARG_OPT_QUIET, ARG_OPT_HELP,
};

const arg_command cmd_quantize = {
    .name = "quantize", .summary = "write a 4-bit (or 2, 3, 8) copy that engines load, fitted to GPU counts",
    .synopsis = "PATH -o DIR [--bits N] [--group-size N] [--tp N,...] [--calib FILE] [options]",
    .text = "Quantizes the linear layers with GPTQ, one layer in memory at a time: each is calibrated on what the already quantized part computes. "
            "With --tp, lengths that do not divide are padded on the way, and no padded copy is ever written. An interrupted run goes on from the "
            "last finished layer when the same command is given again, and ends with the same bytes.",
    .examples = "  fitq quantize Qwen2-7B -o out --calib texts.jsonl\n"
                "  fitq quantize Qwen2-72B -o out --tp 8 --calib texts.jsonl --memory 56GiB\n"
                "  fitq quantize Qwen2-72B --tp 8 --calib texts.jsonl --dry-run\n"
                "  fitq quantize Qwen2-7B -o out --method rtn --bits 8\n"
                "  fitq quantize Qwen2-7B -o out --format compressed-tensors --group-size 32 --calib texts.txt\n",
    .exit_status = "; 6 weights that are not finite, or --strict; 9 the unfinished output is of another request; 128+n stopped by signal n, to be continued by the same command",
    .option = options, .n_option = sizeof options / sizeof options[0], .min_operand = 1, .max_operand = 1, .run = run_quantize,
};
