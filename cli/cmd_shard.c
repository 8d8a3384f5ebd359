/* cmd_shard.c - one file for each rank, and the way back (unshard). */
#include <inttypes.h>
#include <stdio.h>

#include "commands.h"
#include "output.h"
#include "progress.h"
#include "report.h"

/* ---- dry run ---------------------------------------------------------------------------------------------------- */

typedef struct dry_run { bool json; json_t *list; out_table table; } dry_run;

static void on_tensor(void *user, const fq_tensor_change *t)
{
    dry_run *d = user;
    if (d->json) {
        json_t *o = json_object();
        out_put_str(o, "file", t->shard);
        out_put_str(o, "name", t->name);
        out_put_str(o, "source_name", t->source_name);
        out_put_str(o, "dtype", fq_dtype_name(t->dtype));
        out_put(o, "source_shape", out_json_shape(t->rank, t->shape));
        out_put(o, "shape", out_json_shape(t->rank, t->shape_pad));
        out_put_u64(o, "bytes", t->bytes_pad);
        out_append(d->list, o);
        return;
    }
    const out_style s = t->bytes != t->bytes_pad ? OUT_PLAIN : OUT_DIM;
    out_cell(&d->table, s, "%s", t->name);
    out_cell(&d->table, s, "%s", fq_dtype_name(t->dtype));
    out_cell(&d->table, s, "%s", out_shape(t->rank, t->shape).s);
    out_cell(&d->table, s, "%s", out_shape(t->rank, t->shape_pad).s);
    out_cell(&d->table, s, "%s", t->shard);
}

/* ---- shard ------------------------------------------------------------------------------------------------------ */

static const char *const names_names[] = { "checkpoint", "engine", NULL };

static void print_text(const arg_values *a, const fq_shard_report *r)
{
    const fq_pad_report *w = &r->wrote;
    printf("  %s %d ranks: %zu tensors, of which %zu are cut, as %zu in %zu files", a->dry_run ? "would write" : "wrote", r->tp, r->n_source_tensor, r->n_cut, w->n_tensor, w->n_shard);
    if (!a->dry_run) printf(", in %.1f s", w->seconds);
    if (w->resumed_bytes) printf(", %s of it found done", out_bytes(w->resumed_bytes).s);
    printf("\n  %s -> %s", out_bytes(w->bytes).s, out_bytes(r->most_bytes).s);
    if (r->least_bytes != r->most_bytes) printf(" at most, %s at least", out_bytes(r->least_bytes).s);
    printf(" a rank\n");
    if (r->kv_copies > 1) printf("  every KV head is on %" PRId64 " ranks\n", r->kv_copies);
    if (r->vocab_rows_least != r->vocab_rows_most)
        printf("  vocabulary: %" PRId64 " to %" PRId64 " rows a rank%s\n", r->vocab_rows_least, r->vocab_rows_most, a->rank_names ? ", zeros behind the last one's" : "");
    if (a->dry_run) printf("  peak memory: about %s\n", out_bytes(w->peak_memory_bytes).s);
}

static int print_json(const arg_values *a, const fq_shard_report *r, json_t *tensors)
{
    json_t *o = report_json(&r->wrote);
    out_put_bool(o, "dry_run", a->dry_run);
    out_put_int(o, "tp", r->tp);
    out_put_bool(o, "expert_parallel", a->expert_parallel);
    out_put_str(o, "names", names_names[a->rank_names]);
    out_put_u64(o, "source_tensors", r->n_source_tensor);
    out_put_u64(o, "source_tensors_cut", r->n_cut);
    out_put_u64(o, "rank_bytes_least", r->least_bytes);
    out_put_u64(o, "rank_bytes_most", r->most_bytes);
    out_put_int(o, "vocab_rows_least", r->vocab_rows_least);
    out_put_int(o, "vocab_rows_most", r->vocab_rows_most);
    out_put_int(o, "kv_copies", r->kv_copies);
    if (a->dry_run) out_put(o, "tensor", tensors);
    return out_json(o);
}

static int run_shard(const arg_values *a)
{
    static const char *const head[] = { "TENSOR", "DTYPE", "SHAPE", "RANK'S SHAPE", "FILE" };
    if (!a->output && !a->dry_run) return args_usage("shard", "--output DIR is missing");
    if (a->tp.n != 1) return args_usage("shard", a->tp.n == 0 ? "--tp N is missing: how many ranks" : "--tp: found several numbers, expected one");
    dry_run d = { .json = a->json };
    if (a->dry_run && a->json) d.list = json_array();
    out_table_start(&d.table, head, 5);
    const fq_shard_options o = {
        .source = a->operand[0], .target = a->output, .tp = a->tp.v[0], .expert_parallel = a->expert_parallel, .names = (fq_rank_names)a->rank_names, .shard_bytes = a->shard_size,
        .overwrite = a->overwrite, .resume = a->resume, .dry_run = a->dry_run, .on_tensor = a->dry_run ? on_tensor : NULL, .user = &d,
    };
    progress p;
    fq_run run;
    fq_shard_report r = { 0 };
    fq_err e = { 0 };
    progress_run(&p, &run, a);
    const fq_status s = fq_shard(&o, &run, &r, &e);
    progress_end(&p);
    if (s == FQ_OK && a->dry_run && !a->json) out_table_print(&d.table, 0);
    else out_table_drop(&d.table);
    if (s != FQ_OK) {
        json_decref(d.list);
        return out_error(&e);
    }
    if (a->json) return print_json(a, &r, d.list);
    print_text(a, &r);
    return 0;
}

static const arg_option options[] = {
    ARG_OPT_OUTPUT,
    { "tp", 0, ARG_INTS, "N", ARG_OFFSET(tp), "ranks (GPUs) to write a file for, each", NULL, 1, 64, ARG_ANY },
    ARG_OPT_EXPERT_PARALLEL,
    { "names", 0, ARG_CHOICE, "WHOSE", ARG_OFFSET(rank_names),
      "checkpoint: every tensor keeps its name; engine: fused tensors under the names of vLLM's and SGLang's parameters, for --load-format sharded_state (default: checkpoint)", names_names, 0, 0, ARG_ANY },
    { "shard-size", 0, ARG_SIZE, "SIZE", ARG_OFFSET(shard_size), "largest file to write (default: one file a rank)", NULL, 0, 0, ARG_ANY },
    ARG_OPT_OVERWRITE, ARG_OPT_RESUME,
    { "dry-run", 'n', ARG_FLAG, NULL, ARG_OFFSET(dry_run), "only list what every rank would have, and the memory needed", NULL, 0, 0, ARG_ANY },
    ARG_OPT_JSON, ARG_OPT_THREADS, ARG_OPT_MEMORY, ARG_OPT_IO, ARG_OPT_QUIET, ARG_OPT_HELP,
};

const arg_command cmd_shard = {
    .name = "shard", .summary = "write what each GPU loads to a file of its own",
    .synopsis = "PATH -o DIR --tp N [options]",
    .text = "Cuts a checkpoint as engines do for N GPUs and writes model-rank-R-part-0.safetensors for each, so that a GPU's process reads its own part "
            "and nothing else: output channels of q, k, v, gate and up, input channels of o and down, rows of the vocabulary, KV heads repeated where there are "
            "fewer than GPUs, experts sliced or (--expert-parallel) whole. Quantized weights are cut part by part: codes, scales, zero points, g_idx. "
            "What does not divide is refused; `fitq plan` says what makes it fit. fitq-ranks.json says where everything is, and `fitq unshard` gives the "
            "same tensors back. The output appears under its name when it is complete, by one rename.",
    .examples = "  fitq shard Qwen2-72B-tp8 -o ranks --tp 8\n"
                "  fitq shard Qwen2-7B -o ranks-engine --tp 2 --names engine\n",
    .exit_status = "; 9 the unfinished output is of another request, or damaged; 128+n stopped by signal n, to be continued with --resume",
    .option = options, .n_option = sizeof options / sizeof options[0],
    .min_operand = 1, .max_operand = 1, .run = run_shard,
};

/* ---- unshard ---------------------------------------------------------------------------------------------------- */

static int run_unshard(const arg_values *a)
{
    if (!a->output) return args_usage("unshard", "--output DIR is missing");
    const fq_unshard_options o = { .source = a->operand[0], .target = a->output, .overwrite = a->overwrite, .resume = a->resume };
    progress p;
    fq_run run;
    fq_pad_report r = { 0 };
    fq_err e = { 0 };
    progress_run(&p, &run, a);
    const fq_status s = fq_unshard(&o, &run, &r, &e);
    progress_end(&p);
    if (s != FQ_OK) return out_error(&e);
    if (a->json) return out_json(report_json(&r));
    printf("  wrote %zu tensors in %zu file%s, %s, in %.1f s", r.n_tensor, r.n_shard, r.n_shard == 1 ? "" : "s", out_bytes(r.bytes_pad).s, r.seconds);
    if (r.resumed_bytes) printf(", %s of it found done", out_bytes(r.resumed_bytes).s);
    printf("\nevery tensor has the hash that was recorded when it was cut, and ranks agree on what they share\n");
    return 0;
}

static const arg_option unshard_options[] = {
    ARG_OPT_OUTPUT, ARG_OPT_OVERWRITE, ARG_OPT_RESUME, ARG_OPT_JSON, ARG_OPT_THREADS, ARG_OPT_MEMORY, ARG_OPT_IO, ARG_OPT_QUIET, ARG_OPT_HELP,
};

const arg_command cmd_unshard = {
    .name = "unshard", .summary = "put the files of all ranks together again",
    .synopsis = "PATH -o DIR [options]",
    .text = "Writes the checkpoint that `fitq shard` cut: the same tensors in files of the same names, and everything that lay beside them. Every tensor's hash is "
            "compared with the one that was recorded, and what several ranks hold (norms, copies of KV heads) with each other; a difference is reported and nothing is "
            "written.",
    .examples = "  fitq unshard ranks -o Qwen2-72B-tp8\n",
    .exit_status = "; 1 a tensor is not what was recorded; 9 the unfinished output is of another request, or damaged; 128+n stopped by signal n",
    .option = unshard_options, .n_option = sizeof unshard_options / sizeof unshard_options[0],
    .min_operand = 1, .max_operand = 1, .run = run_unshard,
};
