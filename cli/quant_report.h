/* quant_report.h - what quantize and fit say while they run and when they are done; the options that both have. */
#ifndef FITQ_CLI_QUANT_REPORT_H
#define FITQ_CLI_QUANT_REPORT_H

#include <jansson.h>

#include "args.h"
#include "progress.h"

/* A line of the table: the modules of one role in one layer, of which experts have many. */
typedef struct quant_line {
    char role[32];
    size_t n, fallback;
    double relative, seconds, damp;   /* summed, summed, largest */
    uint64_t tokens;                  /* most */
    char why[256];                    /* name and reason of the first that fell back */
} quant_line;

#define QUANT_MAX_LINE 16             /* roles of a layer */
typedef struct quant_watch {
    progress *p;
    bool quiet;
    fq_run inner;                     /* callbacks of the command */
    bool head;                        /* titles are printed */
    int64_t layer;
    quant_line line[QUANT_MAX_LINE];
    size_t n_line;
} quant_watch;

/* Sets the callbacks of o and of run, which has those of progress_run. All must outlive the job. */
void quant_watch_start(quant_watch *w, fq_quantize_options *o, fq_run *run);
void quant_watch_end(quant_watch *w);

int quantize_usage(const arg_command *c, const arg_values *a);
void quantize_options(const arg_values *a, fq_quantize_options *o);

/* What was done, or would be. measure: say how to measure the result. */
void quant_text(const arg_values *a, const fq_quantize_report *r, bool measure);
json_t *quant_json(const fq_quantize_report *r, bool dry_run);

extern const char *const arg_method_names[], *const arg_packing_names[], *const arg_scale_names[], *const arg_store_names[], *const arg_order_names[], *const arg_prefix_names[], *const arg_as_names[];

#define ARG_OPT_QUANTIZE \
    { "bits", 'b', ARG_INT, "N", ARG_OFFSET(bits), "bits of a weight: 2, 3, 4, 8 (default: 4)", NULL, 2, 8, ARG_ANY }, \
    { "group-size", 'g', ARG_INT, "N", ARG_OFFSET(group_size), "inputs that share a scale: 32, 64, 128, or -1 for one group per row (default: 128)", NULL, -1, 128, ARG_ANY }, \
    { "method", 'm', ARG_CHOICE, "NAME", ARG_OFFSET(method), "gptq (default), or rtn: rounding, without data", arg_method_names, 0, 0, ARG_ANY }, \
    { "format", 'f', ARG_CHOICE, "NAME", ARG_OFFSET(packing), "gptq (default; format v1, trivial g_idx) or compressed-tensors (pack-quantized)", arg_packing_names, 0, 0, ARG_ANY }, \
    { "calib", 0, ARG_STRING, "FILE", ARG_OFFSET(calib), "text (.txt) or lines with \"text\" or \"messages\" (.jsonl) to calibrate with (default: the model writes its own)", NULL, 0, 0, ARG_PATH }, \
    { "ids", 0, ARG_STRING, "FILE", ARG_OFFSET(ids), "token ids to calibrate with, as `fitq tokenize` prints them", NULL, 0, 0, ARG_PATH }, \
    { "samples", 0, ARG_INT, "N", ARG_OFFSET(samples), "windows of text (default: 512)", NULL, 1, INT64_C(1) << 24, ARG_ANY }, \
    { "seqlen", 0, ARG_INT, "N", ARG_OFFSET(seqlen), "tokens of a window (default: 512)", NULL, 2, INT64_C(1) << 20, ARG_ANY }, \
    { "seed", 0, ARG_SEED, "N", ARG_OFFSET(seed), "which windows are drawn, and what the model writes (default: 0)", NULL, 0, 0, ARG_ANY }, \
    { "asym", 0, ARG_FLAG, NULL, ARG_OFFSET(asymmetric), "zero points of their own for every group; few engines load that", NULL, 0, 0, ARG_ANY }, \
    { "order", 0, ARG_CHOICE, "NAME", ARG_OFFSET(order), "fold: store MLP channels by importance (default); static: only process them so; none", arg_order_names, 0, 0, ARG_ANY }, \
    { "scale", 0, ARG_CHOICE, "NAME", ARG_OFFSET(scale), "weighted: search scales by curvature (default); min-max: from the extreme weights", arg_scale_names, 0, 0, ARG_ANY }, \
    { "scale-type", 0, ARG_CHOICE, "NAME", ARG_OFFSET(scale_store), "both: scales that fp16 and bf16 hold alike (default); fp16", arg_store_names, 0, 0, ARG_ANY }, \
    { "positive-scales", 0, ARG_FLAG, NULL, ARG_OFFSET(positive_scales), "no negative scales, for loaders that assume that there are none", NULL, 0, 0, ARG_ANY }, \
    { "damp", 0, ARG_SHARE, "X", ARG_OFFSET(damp), "damping, as a share of the mean diagonal (default: 0.01)", NULL, 0, 0, ARG_ANY }, \
    { "shift", 0, ARG_SHARE, "X", ARG_OFFSET(shift), "share by which weights move, before rounding, to undo the error of earlier layers (default: 0.75)", NULL, 0, 0, ARG_ANY }, \
    { "no-shift", 0, ARG_FLAG, NULL, ARG_OFFSET(no_shift), "no such move: half the hidden states, less time, more error", NULL, 0, 0, ARG_ANY }, \
    { "refit", 0, ARG_INT, "N", ARG_OFFSET(refit), "rounds of refitting scales and codes (default: 1)", NULL, 1, 16, ARG_ANY }, \
    { "no-refit", 0, ARG_FLAG, NULL, ARG_OFFSET(no_refit), "no refitting", NULL, 0, 0, ARG_ANY }, \
    { "textbook", 0, ARG_FLAG, NULL, ARG_OFFSET(textbook), "GPTQ as published (min-max scales, natural order), for comparisons", NULL, 0, 0, ARG_ANY }, \
    { "lm-head", 0, ARG_FLAG, NULL, ARG_OFFSET(lm_head), "quantize the output head too", NULL, 0, 0, ARG_ANY }, \
    { "min-expert-tokens", 0, ARG_INT, "N", ARG_OFFSET(min_expert_tokens), "tokens that must reach an expert to calibrate it (default: a quarter of its width; -1: any)", NULL, -1, INT64_C(1) << 40, ARG_ANY }, \
    { "strict", 0, ARG_FLAG, NULL, ARG_OFFSET(strict), "what would fall back to rounding is an error", NULL, 0, 0, ARG_ANY }

#define ARG_OPT_QUANTIZE_FIT \
    { "set", 's', ARG_FIT, "KEY=N,...", ARG_OFFSET(set), "exactly these lengths, as for `fitq pad`", NULL, 0, 0, ARG_ANY }, \
    { "layout", 'l', ARG_CHOICE, "NAME", ARG_OFFSET(layout), "where padding stands: spread (default), tail, interleave", arg_layout_names, 0, 0, ARG_ANY }, \
    { "vocab", 0, ARG_FLAG, NULL, ARG_OFFSET(vocab), "let --tp change vocab_size too", NULL, 0, 0, ARG_ANY }, \
    { "prefix", 0, ARG_STRING, "NAME", ARG_OFFSET(prefix), "key prefix: keep (default), add, strip, or the prefix itself", arg_prefix_names, 0, 0, ARG_ANY }, \
    { "as", 0, ARG_STRING, "NAME", ARG_OFFSET(as), "llama: write qwen2 or mistral as LlamaForCausalLM, for engines that ignore head_dim", arg_as_names, 0, 0, ARG_ANY }, \
    ARG_OPT_CONTEXT

#define ARG_OPT_QUANTIZE_SCRATCH \
    { "scratch", 0, ARG_STRING, "DIR", ARG_OFFSET(scratch), "folder for what exceeds the memory (default: in the unfinished output)", NULL, 0, 0, ARG_PATH }

#define ARG_OPT_RESTART \
    { "restart", 0, ARG_FLAG, NULL, ARG_OFFSET(restart), "discard what an interrupted run left, instead of going on with it", NULL, 0, 0, ARG_ANY }

#endif
