/* cmd_inspect.c - what a checkpoint is, and everything that is unsound about it. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "output.h"
#include "progress.h"

static const char *severity_name(fq_severity s)
{
    return s == FQ_ERROR ? "error" : s == FQ_WARNING ? "warning" : "note";
}

/* ---- text ------------------------------------------------------------------------------------------------------ */

static void line(const char *title, const char *text)
{
    printf("  %s%-14s%s ", out_on(OUT_DIM), title, out_off(OUT_DIM));
    out_escaped(stdout, text);
    putchar('\n');
}

static void mlp_text(const fq_model *m, char *out, size_t n)
{
    size_t used = 0;
    out[0] = '\0';
    if (m->intermediate_size && m->n_dense_layer)
        used = (size_t)snprintf(out, n, "%" PRId64 " wide", m->intermediate_size);
    if (m->num_experts && used < n)
        used += (size_t)snprintf(out + used, n - used, "%s%" PRId64 " experts of %" PRId64 ", %" PRId64 " at a time",
                                 used ? " in dense layers; " : "", m->num_experts, m->moe_intermediate_size,
                                 m->num_experts_per_tok);
    if (m->shared_expert_intermediate_size && used < n)
        snprintf(out + used, n - used, ", shared expert of %" PRId64, m->shared_expert_intermediate_size);
}

static void model_text(const fq_model *m)
{
    char text[512];
    snprintf(text, sizeof text, "%s (%s)", m->architecture[0] ? m->architecture : m->model_type,
             m->family[0] ? m->family : "a family that fitq does not know");
    line("architecture", text);
    snprintf(text, sizeof text, "%" PRId64 " of width %" PRId64, m->num_hidden_layers, m->hidden_size);
    line("layers", text);
    mlp_text(m, text, sizeof text);
    line("MLP", text);
    snprintf(text, sizeof text, "%" PRId64 " query, %" PRId64 " key/value, head_dim %" PRId64 "%s%s",
             m->num_attention_heads, m->num_key_value_heads, m->head_dim, m->qk_norm ? ", q/k norm" : "",
             m->q_bias ? ", biases" : "");
    line("heads", text);
    snprintf(text, sizeof text, "%" PRId64, m->vocab_size);
    line("vocabulary", text);
    if (m->quant == FQ_QUANT_NONE) {
        line("quantization", "none");
    } else {
        snprintf(text, sizeof text, "%s%s%s%s", m->quant_name, m->quant_bits > 0 ? "," : "", out_quant(m).s,
                 m->quant_desc_act ? ", activation order" : "");
        line("quantization", text);
    }
}

static void dtypes_text(const fq_ckpt_info *in, char *out, size_t n)
{
    size_t used = 0;
    out[0] = '\0';
    for (int d = 0; d < FQ_N_DTYPE && used < n; d++) {
        if (in->dtype_bytes[d] == 0) continue;
        used += (size_t)snprintf(out + used, n - used, "%s%s %s", used ? ", " : "", fq_dtype_name((fq_dtype)d),
                                 out_bytes(in->dtype_bytes[d]).s);
    }
}

/* Whether the output head is tied can be told only from all of the tensors and the config.json. */
static const char *why_tied_unknown(const fq_ckpt *c)
{
    const fq_ckpt_info *in = fq_ckpt_get_info(c);
    if (in->n_tensor == 0) return "not known: no tensors";
    if (!in->has_model) return "not known: no config.json";
    return in->tied && fq_ckpt_check(c, NULL) != FQ_OK ? "not known: not all tensors" : NULL;
}

static void stored_text(const fq_ckpt_info *in)
{
    char text[512];
    if (in->n_tensor == 0) {
        line("tensors", "none could be read");
        return;
    }
    snprintf(text, sizeof text, "%s (%s)", out_count(in->n_param).s, out_grouped(in->n_param).s);
    line("parameters", text);
    dtypes_text(in, text, sizeof text);
    line("dtypes", text);
    snprintf(text, sizeof text, "%zu, %s (%s bytes)", in->n_tensor, out_bytes(in->tensor_bytes).s, out_grouped(in->tensor_bytes).s);
    line("tensors", text);
    snprintf(text, sizeof text, "%zu %s, %s on disk", in->n_shard, in->container, out_bytes(in->file_bytes).s);
    line("files", text);
}

static void summary(const fq_ckpt *c)
{
    const fq_ckpt_info *in = fq_ckpt_get_info(c);
    char text[512];
    printf("%s", out_on(OUT_BOLD));
    out_escaped(stdout, in->path);
    printf("%s\n", out_off(OUT_BOLD));
    if (in->has_model) model_text(&in->model);
    else line("architecture", "unknown: no config.json that could be read");
    stored_text(in);
    const char *unknown = why_tied_unknown(c);
    line("embeddings", unknown ? unknown : in->tied ? "no output head is stored: tied" : "output head stored: not tied");
    snprintf(text, sizeof text, "%s%s%s%s", in->prefix[0] ? in->prefix : "(none)", in->wrapper[0] ? ", of which \"" : "",
             in->wrapper, in->wrapper[0] ? "\" was added by a trainer" : "");
    line("key prefix", text);
    if (in->fitted) line("fitted", "yes: fitq.json says how; `fitq unpad` undoes it");
}

static void findings_text(const fq_ckpt *c)
{
    size_t n = fq_ckpt_n_finding(c);
    if (n == 0) {
        printf("\n%ssound%s: nothing to report\n", out_on(OUT_GREEN), out_off(OUT_GREEN));
        return;
    }
    printf("\n%zu finding%s\n", n, n == 1 ? "" : "s");
    for (size_t i = 0; i < n; i++) {
        const fq_finding *f = fq_ckpt_get_finding(c, i);
        out_style s = f->severity == FQ_ERROR ? OUT_RED : f->severity == FQ_WARNING ? OUT_YELLOW : OUT_DIM;
        printf("  %s%-7s%s ", out_on(s), severity_name(f->severity), out_off(s));
        out_escaped(stdout, f->text);
        putchar('\n');
    }
}

static void tensors_text(const fq_ckpt *c, size_t n)
{
    static const char *const head[] = { "TENSOR", "DTYPE", "SHAPE", ">BYTES", "ROLE", "FILE" };
    out_table t;
    out_table_start(&t, head, 6);
    for (size_t i = 0; i < n; i++) {
        fq_tensor_info ti;
        fq_ckpt_get_tensor(c, i, &ti);
        out_cell(&t, OUT_PLAIN, "%s", ti.name);
        out_cell(&t, OUT_PLAIN, "%s", fq_dtype_name(ti.dtype));
        out_cell(&t, OUT_PLAIN, "%s", out_shape(ti.rank, ti.shape).s);
        out_cell(&t, OUT_PLAIN, "%" PRIu64, ti.bytes);
        out_cell(&t, OUT_PLAIN, "%s", ti.role);
        out_cell(&t, OUT_DIM, "%s", ti.shard);
    }
    putchar('\n');
    out_table_print(&t, 0);
}

/* ---- JSON ------------------------------------------------------------------------------------------------------ */

static json_t *tensors_json(const fq_ckpt *c, size_t n)
{
    json_t *a = json_array();
    for (size_t i = 0; i < n; i++) {
        fq_tensor_info ti;
        fq_ckpt_get_tensor(c, i, &ti);
        json_t *o = json_object();
        out_put_str(o, "name", ti.name);
        out_put_str(o, "dtype", fq_dtype_name(ti.dtype));
        out_put(o, "shape", out_json_shape(ti.rank, ti.shape));
        out_put_u64(o, "bytes", ti.bytes);
        out_put_str(o, "role", ti.role);
        out_put_str(o, "shard", ti.shard);
        out_append(a, o);
    }
    return a;
}

static int print_json(const fq_ckpt *c, bool tensors)
{
    const fq_ckpt_info *in = fq_ckpt_get_info(c);
    json_t *root = json_object(), *dtypes = json_object(), *findings = json_array();
    out_put_str(root, "path", in->path);
    out_put(root, "model", in->has_model ? out_json_model(&in->model) : json_null());
    out_put_str(root, "container", in->container);
    out_put_u64(root, "parameters", in->n_param);
    out_put_u64(root, "tensors", in->n_tensor);
    out_put_u64(root, "shards", in->n_shard);
    out_put_u64(root, "tensor_bytes", in->tensor_bytes);
    out_put_u64(root, "file_bytes", in->file_bytes);
    for (int d = 0; d < FQ_N_DTYPE; d++)
        if (in->dtype_bytes[d]) out_put_u64(dtypes, fq_dtype_name((fq_dtype)d), in->dtype_bytes[d]);
    out_put(root, "dtype_bytes", dtypes);
    out_put_str(root, "prefix", in->prefix);
    out_put_str(root, "wrapper", in->wrapper);
    out_put(root, "tied", why_tied_unknown(c) ? json_null() : json_boolean(in->tied));
    out_put_bool(root, "fitted", in->fitted);
    for (size_t i = 0; i < fq_ckpt_n_finding(c); i++) {
        const fq_finding *f = fq_ckpt_get_finding(c, i);
        json_t *o = json_object();
        out_put_str(o, "severity", severity_name(f->severity));
        out_put_str(o, "rule", f->rule);
        out_put_str(o, "text", f->text);
        out_append(findings, o);
    }
    out_put(root, "findings", findings);
    if (tensors) out_put(root, "tensor", tensors_json(c, in->n_tensor));
    return out_json(root);
}

/* ---- command --------------------------------------------------------------------------------------------------- */

static int run_inspect(const arg_values *a)
{
    progress p;
    fq_run run;
    fq_ckpt *c = NULL;
    fq_err e = { 0 };
    progress_run(&p, &run, a);
    fq_status s = fq_ckpt_open(a->operand[0], &run, &c, &e);
    progress_end(&p);
    if (s != FQ_OK) return out_error(&e);
    int status = 0;
    if (a->json) {
        status = print_json(c, a->tensors);
    } else {
        summary(c);
        findings_text(c);
        if (a->tensors) tensors_text(c, fq_ckpt_get_info(c)->n_tensor);
    }
    s = fq_ckpt_check(c, &e);
    if (s != FQ_OK && status == 0) status = -(int)s;
    fq_ckpt_close(c);
    return status;
}

static const arg_option options[] = {
    { "tensors", 0, ARG_FLAG, NULL, ARG_OFFSET(tensors), "also list every tensor", NULL, 0, 0, ARG_ANY },
    ARG_OPT_JSON, ARG_OPT_QUIET, ARG_OPT_HELP,
};

const arg_command cmd_inspect = {
    .name = "inspect", .summary = "what a checkpoint is, and everything that is unsound about it",
    .synopsis = "PATH [--tensors] [--json]",
    .text = "PATH is a checkpoint folder, one safetensors or .bin file, or an index.json. Only headers are read. Everything "
            "that is unsound is listed, errors first, not only the first thing.",
    .examples = "  fitq inspect Qwen2-72B\n"
                "  fitq inspect model-00001-of-00037.safetensors --tensors\n"
                "  fitq inspect Qwen2-72B --json | jq .parameters\n",
    .exit_status = " (3 also when there is an error among the findings)",
    .option = options, .n_option = sizeof options / sizeof options[0],
    .min_operand = 1, .max_operand = 1, .run = run_inspect,
};
