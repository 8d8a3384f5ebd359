/* cmd_pad.c - write a fitted copy of a checkpoint. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapter.h"
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
        out_put_str(o, "name", t->name);
        out_put_str(o, "source_name", t->source_name);
        out_put_str(o, "dtype", fq_dtype_name(t->dtype));
        out_put(o, "shape", t->source_name ? out_json_shape(t->rank, t->shape) : json_null());
        out_put(o, "shape_pad", out_json_shape(t->rank, t->shape_pad));
        out_put_u64(o, "bytes", t->bytes);
        out_put_u64(o, "bytes_pad", t->bytes_pad);
        out_put_str(o, "shard", t->shard);
        out_append(d->list, o);
        return;
    }
    bool changed = !t->source_name || memcmp(t->shape, t->shape_pad, (size_t)t->rank * sizeof *t->shape) != 0;
    out_style s = changed ? OUT_PLAIN : OUT_DIM;
    out_cell(&d->table, s, "%s", t->name);
    out_cell(&d->table, s, "%s", fq_dtype_name(t->dtype));
    out_cell(&d->table, s, "%s", t->source_name ? out_shape(t->rank, t->shape).s : "added");
    out_cell(&d->table, s, "%s", changed ? out_shape(t->rank, t->shape_pad).s : "same");
    out_cell(&d->table, s, "%" PRIu64, t->bytes_pad);
    out_cell(&d->table, s, "%s", t->shard);
}

/* ---- command --------------------------------------------------------------------------------------------------- */

static int usage(const arg_values *a)
{
    if (a->n_operand == 0) return args_usage("pad", "usage: fitq pad %s", cmd_pad.synopsis);
    if (!a->output && !a->dry_run) return args_usage("pad", "--output DIR is missing");
    if (a->tp.n == 0 && !a->set_given && !a->prefix && !a->as && !a->regroup && !a->fold_order)
        return args_usage("pad", "say what to do: --tp N,..., --set KEY=LENGTH, --regroup N or --fold-order");
    return 0;
}

/* What stays in activation order, and what that forbids. */
static void print_folded(const arg_values *a, const fq_pad_report *r)
{
    char text[512];
    if (!a->fold_order) return;
    printf("  channels of %zu MLP%s put in the order of their groups: g_idx of down_proj is k / group_size\n", r->n_folded, r->n_folded == 1 ? "" : "s");
    if (r->n_order_left == 0) return;
    snprintf(text, sizeof text, "%zu module%s %s g_idx (q, k, v, gate, up: over the hidden size; o: over heads), so config.json still says activation order, which engines take for all "
             "layers: on several GPUs each loads the scales of all groups of o_proj and down_proj, experts get no tile padding, and ExLlama kernels and smaller groups (--regroup) are out",
             r->n_order_left, r->n_order_left == 1 ? " keeps" : "s keep", r->n_order_left == 1 ? "its" : "their");
    fputs("  ", stdout);
    out_flow(text, 2, 4, OUT_PLAIN);
}

static void print_text(const arg_values *a, const fq_pad_report *r)
{
    report_lengths(&r->model, &r->model_pad, &r->fit);
    if (a->regroup) printf("  scales for groups of %" PRId64 " channels\n", a->regroup);
    print_folded(a, r);
    report_size(r, a->dry_run);
    if (a->dry_run) return;
    printf("  layout %s%s\n", arg_layout_names[r->layout],
           r->exact_bits ? ": channels keep their indices, so sums that go by index keep their bits" : "");
    printf("prove it: fitq verify --weights ");
    out_escaped(stdout, a->operand[0]);
    putchar(' ');
    out_escaped(stdout, a->output);
    putchar('\n');
}

static int print_json(const arg_values *a, const fq_pad_report *r, json_t *tensors)
{
    json_t *o = report_json(r);
    out_put_bool(o, "dry_run", a->dry_run);
    out_put_str(o, "layout", arg_layout_names[r->layout]);
    out_put_bool(o, "exact_bits", r->exact_bits);
    if (a->fold_order) {
        out_put_u64(o, "mlps_folded", r->n_folded);
        out_put_u64(o, "modules_in_activation_order", r->n_order_left);
    }
    if (a->dry_run) out_put(o, "tensor", tensors);
    return out_json(o);
}

static int run_pad(const arg_values *given)
{
    static const char *const head[] = { "TENSOR", "DTYPE", "SHAPE", "AFTER", ">BYTES", "FILE" };
    arg_values a = *given;
    if (a.adapter || a.like) return adapter_run("pad", &a, false);
    int status = usage(&a);
    if (status) return status;
    if (!command_engines(&cmd_pad, &a.engine) || !command_formats(&cmd_pad, &a.format)) return -FQ_E_USAGE;
    dry_run d = { .json = a.json };
    if (a.dry_run && a.json) d.list = json_array();
    out_table_start(&d.table, head, 6);
    fq_pad_options o = {
        .source = a.operand[0], .target = a.output,
        .tp = a.tp.v, .n_tp = a.tp.n,
        .engine = a.engine.n ? a.engine.v : NULL, .n_engine = a.engine.n,
        .format = a.format.n ? a.format.v : NULL, .n_format = a.format.n,
        .group_size = (int)a.group_size, .regroup = (int)a.regroup, .fold_order = a.fold_order, .context = a.context, .fit = a.set,
        .layout = (fq_layout)a.layout, .vocab = a.vocab, .prefix = a.prefix, .reexpress_as = a.as,
        .shard_bytes = a.shard_size, .overwrite = a.overwrite, .resume = a.resume, .dry_run = a.dry_run,
        .on_tensor = a.dry_run ? on_tensor : NULL, .user = &d,
    };
    progress p;
    fq_run run;
    fq_pad_report r = { 0 };
    fq_err e = { 0 };
    progress_run(&p, &run, &a);
    fq_status s = fq_pad(&o, &run, &r, &e);
    progress_end(&p);
    if (s == FQ_OK && a.dry_run && !a.json) out_table_print(&d.table, 0);
    else out_table_drop(&d.table);
    if (s != FQ_OK) {
        json_decref(d.list);
        return out_error(&e);
    }
    if (a.json) return print_json(&a, &r, d.list);
    print_text(&a, &r);
    return 0;
}

static const char *const prefix_words[] = { "keep", "add", "strip", NULL };
static const char *const as_words[] = { "llama", NULL };

static const arg_option options[] = {
    ARG_OPT_OUTPUT,
    ARG_OPT_TP("GPU counts that the result has to run on: 8 or 2,4,8"),
    ARG_OPT_ENGINE,
    ARG_OPT_FORMAT("gptq-marlin"),
    ARG_OPT_GROUP_SIZE("128"),
    { "set", 's', ARG_FIT, "KEY=N,...", ARG_OFFSET(set),
      "exactly these lengths: intermediate_size, moe_intermediate_size, shared_expert_intermediate_size, num_attention_heads, "
      "num_key_value_heads, kv_replication, vocab_size", NULL, 0, 0, ARG_ANY },
    { "layout", 'l', ARG_CHOICE, "NAME", ARG_OFFSET(layout),
      "where the zeros stand: spread deals them evenly over GPUs and groups (default), tail puts them at the end, interleave "
      "is the documented procedure for Qwen", arg_layout_names, 0, 0, ARG_ANY },
    { "regroup", 0, ARG_INT, "N", ARG_OFFSET(regroup),
      "of a GPTQ, AWQ or compressed-tensors checkpoint: scales for groups of 32 or 64 channels instead of larger ones, each repeated; codes stay", NULL, 32, 128, ARG_ANY },
    { "fold-order", 0, ARG_FLAG, NULL, ARG_OFFSET(fold_order),
      "of a checkpoint in activation order (desc_act, actorder): store the channels of each MLP in the order of their groups, so that down_proj needs no g_idx; before anything else", NULL, 0, 0, ARG_ANY },
    { "vocab", 0, ARG_FLAG, NULL, ARG_OFFSET(vocab), "let --tp change vocab_size too", NULL, 0, 0, ARG_ANY },
    ARG_OPT_CONTEXT,
    { "prefix", 0, ARG_STRING, "NAME", ARG_OFFSET(prefix), "key prefix: keep (default), add, strip, or the prefix itself",
      prefix_words, 0, 0, ARG_ANY },
    { "as", 0, ARG_STRING, "NAME", ARG_OFFSET(as),
      "llama: write qwen2 or mistral as LlamaForCausalLM, for engines that ignore head_dim", as_words, 0, 0, ARG_ANY },
    ARG_OPT_SHARD_SIZE, ARG_OPT_OVERWRITE, ARG_OPT_RESUME,
    ARG_OPT_ADAPTER, ARG_OPT_LIKE,
    { "dry-run", 'n', ARG_FLAG, NULL, ARG_OFFSET(dry_run), "only list every tensor, old shape and new, and the memory needed",
      NULL, 0, 0, ARG_ANY },
    ARG_OPT_JSON, ARG_OPT_THREADS, ARG_OPT_MEMORY, ARG_OPT_IO, ARG_OPT_QUIET, ARG_OPT_HELP,
};

static void list_families(void)
{
    char text[1024] = "";
    size_t used = 0;
    for (size_t i = 0; fq_family_name(i) && used < sizeof text; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", i ? " " : "", fq_family_name(i));
    printf("\nfamilies:\n  ");
    out_flow(text, 2, 2, OUT_PLAIN);
}

const arg_command cmd_pad = {
    .name = "pad", .summary = "write a copy that fits the GPU counts, as the same function",
    .synopsis = "PATH -o DIR --tp N,... | --set KEY=N,... | --adapter DIR --like DIR [options]",
    .text = "Makes a copy of the checkpoint whose axes have the lengths that the plan for --tp chooses, or exactly those of --set. "
            "Zeros, copies and reorderings only: the function stays the same, and `fitq verify` proves it, `fitq unpad` undoes "
            "it. Memory is bounded. The output appears under its name when it is complete, by one rename. With --adapter, a LoRA adapter of the "
            "original model is carried to the fitted one that --like names.",
    .examples = "  fitq pad Qwen2-72B -o Qwen2-72B-tp8 --tp 8\n"
                "  fitq pad Qwen2-72B -o out --tp 2,4,8 --format gptq-marlin,awq --layout tail\n"
                "  fitq pad Qwen2-72B -o out --set intermediate_size=29696 --dry-run\n"
                "  fitq pad Qwen2-7B -o out --tp 8 --as llama\n"
                "  fitq pad --adapter my-lora --like Qwen2-72B-tp8 -o my-lora-tp8\n",
    .exit_status = "; 9 the unfinished output is of another request, or damaged; 128+n stopped by signal n, to be continued with --resume",
    .option = options, .n_option = sizeof options / sizeof options[0],
    .min_operand = 0, .max_operand = 1, .run = run_pad, .more_help = list_families,
};
