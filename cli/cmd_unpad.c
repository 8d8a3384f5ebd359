/* cmd_unpad.c - the way back: the original, byte for byte, from the maps that pad stored. */
#include <stdio.h>

#include "adapter.h"
#include "commands.h"
#include "output.h"
#include "progress.h"
#include "report.h"

static int run_unpad(const arg_values *a)
{
    if (a->adapter || a->like) return adapter_run("unpad", a, true);
    if (a->drop) return args_usage("unpad", "--drop goes with --adapter DIR");
    if (a->n_operand == 0) return args_usage("unpad", "usage: fitq unpad %s", cmd_unpad.synopsis);
    if (!a->output) return args_usage("unpad", "--output DIR is missing");
    fq_unpad_options o = {
        .source = a->operand[0], .target = a->output, .shard_bytes = a->shard_size,
        .overwrite = a->overwrite, .resume = a->resume,
    };
    progress p;
    fq_run run;
    fq_pad_report r = { 0 };
    fq_err e = { 0 };
    progress_run(&p, &run, a);
    fq_status s = fq_unpad(&o, &run, &r, &e);
    progress_end(&p);
    if (s != FQ_OK) return out_error(&e);
    if (a->json) return out_json(report_json(&r));
    report_lengths(&r.model, &r.model_pad, NULL);
    report_size(&r, false);
    printf("every tensor has the hash that was recorded when it was padded\n");
    return 0;
}

static const arg_option options[] = {
    ARG_OPT_OUTPUT, ARG_OPT_ADAPTER, ARG_OPT_LIKE,
    { "drop", 0, ARG_FLAG, NULL, ARG_OFFSET(drop), "with --adapter: leave out values that the original model has no place for, instead of refusing", NULL, 0, 0, ARG_ANY },
    ARG_OPT_SHARD_SIZE, ARG_OPT_OVERWRITE, ARG_OPT_RESUME, ARG_OPT_JSON, ARG_OPT_THREADS, ARG_OPT_MEMORY,
    ARG_OPT_IO, ARG_OPT_QUIET, ARG_OPT_HELP,
};

const arg_command cmd_unpad = {
    .name = "unpad", .summary = "the way back: the original, byte for byte",
    .synopsis = "PATH -o DIR | --adapter DIR --like DIR -o DIR [options]",
    .text = "Writes the checkpoint that PATH was made from, by the maps in its fitq.json. Every tensor's hash is compared with the "
            "one recorded by `fitq pad`; a difference is reported and nothing is written. With --adapter, a LoRA adapter "
            "that was trained on the fitted model --like is carried back to the original.",
    .examples = "  fitq unpad Qwen2-72B-tp8 -o Qwen2-72B\n"
                "  fitq unpad --adapter my-lora --like Qwen2-72B-tp8 -o my-lora-back\n",
    .exit_status = "; 1 a tensor is not what was recorded; 9 the unfinished output is of another request, or damaged; 128+n stopped by signal n",
    .option = options, .n_option = sizeof options / sizeof options[0],
    .min_operand = 0, .max_operand = 1, .run = run_unpad,
};
