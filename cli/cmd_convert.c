/* cmd_convert.c - quantized weights in another form. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
        out_put(o, "shape", out_json_shape(t->rank, t->shape_pad));
        out_put_u64(o, "bytes", t->bytes_pad);
        out_put_str(o, "shard", t->shard);
        out_append(d->list, o);
        return;
    }
    const bool changed = strcmp(t->name, t->source_name) != 0 || t->bytes != t->bytes_pad;
    const out_style s = changed ? OUT_PLAIN : OUT_DIM;
    out_cell(&d->table, s, "%s", t->name);
    out_cell(&d->table, s, "%s", fq_dtype_name(t->dtype));
    out_cell(&d->table, s, "%s", out_shape(t->rank, t->shape_pad).s);
    out_cell(&d->table, s, "%" PRIu64, t->bytes_pad);
    out_cell(&d->table, s, "%s", t->source_name);
    out_cell(&d->table, s, "%s", t->shard);
}

/* ---- command --------------------------------------------------------------------------------------------------- */

/* For completion; the library's. */
static const char *const form_names[] = { "gptq", "gptq_v2", "compressed-tensors", "awq", "bf16", "fp16", "fp32", NULL };
static const char *const zeros_names[] = { "label", "v1", "v2", NULL };

static bool find_form(const char *name, fq_form *out)
{
    for (int i = 0; i < FQ_N_FORM; i++) {
        if (strcmp(fq_form_name((fq_form)i), name) != 0) continue;
        *out = (fq_form)i;
        return true;
    }
    return false;
}

static int usage(const arg_values *a, fq_form *to)
{
    static const char all[] = "gptq, gptq_v2, compressed-tensors, awq, bf16, fp16 or fp32";
    if (!a->output && !a->dry_run) return args_usage("convert", "--output DIR is missing");
    if (!a->form) return args_usage("convert", "say what to write: --to %s", all);
    if (find_form(a->form, to)) return 0;
    const char *near = args_nearest(a->form, form_names);
    return args_usage("convert", "--to: found \"%s\", expected %s%s%s%s", a->form, all, near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

static bool is_dense(fq_form f) { return f >= FQ_FORM_BF16; }

static void print_rounding(const fq_convert_report *r, fq_form to)
{
    if (to == FQ_FORM_FP32) printf("  every weight is the product of its code and scale in fp32%s\n", r->wrote.model.quant == FQ_QUANT_FP8 ? "" : ", which holds it exactly");
    if (to == FQ_FORM_FP32 || r->n_weight == 0) return;
    if (r->n_rounded == 0) {
        printf("  %s holds every weight exactly\n", fq_form_name(to));
        return;
    }
    printf("  rounded to %s: %s of %s weights changed, by %.2g of their size together and %.2g at most\n", fq_form_name(to), out_count(r->n_rounded).s, out_count(r->n_weight).s, r->relative_error, r->worst_error);
}

static void print_text(const arg_values *a, fq_form to, const fq_convert_report *r)
{
    printf("  %s%s -> %s: ", r->wrote.model.quant_name, out_quant(&r->wrote.model).s, fq_form_name(to));
    if (r->n_module > 0) printf("%zu layers\n", r->n_module);
    else printf("another label\n");
    report_size(&r->wrote, a->dry_run);
    if (a->dry_run) return;
    if (is_dense(to)) print_rounding(r, to);
    else printf("  codes and scales keep their bits: every weight is the same number%s\n", r->act_order ? "; groups of channels keep their order (desc_act)" : "");
    printf("run both: fitq verify ");
    out_escaped(stdout, a->operand[0]);
    putchar(' ');
    out_escaped(stdout, a->output);
    putchar('\n');
}

static int print_json(const arg_values *a, fq_form to, const fq_convert_report *r, json_t *tensors)
{
    json_t *o = report_json(&r->wrote);
    out_put_str(o, "to", fq_form_name(to));
    out_put_bool(o, "dry_run", a->dry_run);
    out_put_u64(o, "modules", r->n_module);
    out_put_bool(o, "symmetric", r->sym);
    out_put_bool(o, "act_order", r->act_order);
    out_put_bool(o, "exact", !is_dense(to) || (to == FQ_FORM_FP32 && r->wrote.model.quant != FQ_QUANT_FP8));
    if (is_dense(to) && to != FQ_FORM_FP32 && !a->dry_run) {
        out_put_u64(o, "weights", r->n_weight);
        out_put_u64(o, "weights_rounded", r->n_rounded);
        out_put_real(o, "relative_error", r->relative_error);
        out_put_real(o, "worst_error", r->worst_error);
    }
    if (a->dry_run) out_put(o, "tensor", tensors);
    return out_json(o);
}

static int run_convert(const arg_values *a)
{
    static const char *const head[] = { "TENSOR", "DTYPE", "SHAPE", ">BYTES", "FROM", "FILE" };
    fq_form to = FQ_FORM_GPTQ;
    const int status = usage(a, &to);
    if (status) return status;
    dry_run d = { .json = a->json };
    if (a->dry_run && a->json) d.list = json_array();
    out_table_start(&d.table, head, 6);
    const fq_convert_options o = {
        .source = a->operand[0], .target = a->output, .to = to, .zeros = (fq_zeros)a->zeros, .shard_bytes = a->shard_size, .overwrite = a->overwrite, .resume = a->resume,
        .dry_run = a->dry_run, .on_tensor = a->dry_run ? on_tensor : NULL, .user = &d,
    };
    progress p;
    fq_run run;
    fq_convert_report r = { 0 };
    fq_err e = { 0 };
    progress_run(&p, &run, a);
    const fq_status s = fq_convert(&o, &run, &r, &e);
    progress_end(&p);
    if (s == FQ_OK && a->dry_run && !a->json) out_table_print(&d.table, 0);
    else out_table_drop(&d.table);
    if (s != FQ_OK) {
        json_decref(d.list);
        return out_error(&e);
    }
    if (a->json) return print_json(a, to, &r, d.list);
    print_text(a, to, &r);
    return 0;
}

static const arg_option options[] = {
    ARG_OPT_OUTPUT,
    { "to", 0, ARG_STRING, "FORM", ARG_OFFSET(form),
      "gptq, gptq_v2, compressed-tensors (pack-quantized), awq (gemm): codes; bf16, fp16, fp32: numbers", form_names, 0, 0, ARG_ANY },
    { "zeros", 0, ARG_CHOICE, "VERSION", ARG_OFFSET(zeros),
      "how a GPTQ checkpoint whose label is wrong stores zero points: v1 (minus one) or v2 (as they are); the result is labelled right (default: label, as it says)",
      zeros_names, 0, 0, ARG_ANY },
    ARG_OPT_SHARD_SIZE, ARG_OPT_OVERWRITE, ARG_OPT_RESUME,
    { "dry-run", 'n', ARG_FLAG, NULL, ARG_OFFSET(dry_run), "only list every tensor, what it is made from, and the memory needed", NULL, 0, 0, ARG_ANY },
    ARG_OPT_JSON, ARG_OPT_THREADS, ARG_OPT_MEMORY, ARG_OPT_IO, ARG_OPT_QUIET, ARG_OPT_HELP,
};

const arg_command cmd_convert = {
    .name = "convert", .summary = "write quantized weights in another format, without rounding",
    .synopsis = "PATH -o DIR --to FORM [options]",
    .text = "Writes the weights of a quantized checkpoint (GPTQ, AWQ, compressed-tensors, FP8) in another form. Between formats of integers codes "
            "and scales keep their bits, so every weight is the same number; what a format cannot hold is refused, and the message says why. To "
            "fp32 a weight is the product of its code and scale, to bf16 and fp16 that is rounded once, and the report says what it costs. "
            "Zero points are read first: a symmetric GPTQ checkpoint that is labelled with the wrong version of the format is found. Memory is "
            "bounded. The output appears under its name when it is complete, by one rename.",
    .examples = "  fitq convert Qwen2-7B-GPTQ -o out --to compressed-tensors\n"
                "  fitq convert Qwen2-7B-AWQ -o out --to gptq_v2\n"
                "  fitq convert Qwen2-7B-FP8 -o out --to bf16\n"
                "  fitq convert Qwen2-7B-GPTQ-mislabelled -o out --to gptq --zeros v2\n",
    .exit_status = "; 9 the unfinished output is of another request, or damaged; 128+n stopped by signal n, to be continued with --resume",
    .option = options, .n_option = sizeof options / sizeof options[0],
    .min_operand = 1, .max_operand = 1, .run = run_convert,
};
