/* report.c - reports that several commands share, as text and JSON. */
#include "report.h"

#include <inttypes.h>
#include <stdio.h>

#include "output.h"

void report_lengths(const fq_model *from, const fq_model *to, const fq_fit *fit)
{
    const struct { const char *name; int64_t from, to; } row[] = {
        { "intermediate_size", from->intermediate_size, to->intermediate_size },
        { "moe_intermediate_size", from->moe_intermediate_size, to->moe_intermediate_size },
        { "shared_expert_intermediate_size", from->shared_expert_intermediate_size, to->shared_expert_intermediate_size },
        { "num_attention_heads", from->num_attention_heads, to->num_attention_heads },
        { "num_key_value_heads", from->num_key_value_heads, to->num_key_value_heads },
        { "vocab_size", from->vocab_size, to->vocab_size },
    };
    /* a report without a model has nothing to compare */
    for (size_t i = 0; i < sizeof row / sizeof row[0] && from->num_hidden_layers && to->num_hidden_layers; i++)
        if (row[i].from != row[i].to) printf("  %s %" PRId64 " -> %" PRId64 "\n", row[i].name, row[i].from, row[i].to);
    if (fit && fit->kv_replication > 1) printf("  every KV head %" PRId64 " times\n", fit->kv_replication);
}

void report_size(const fq_pad_report *r, bool dry_run)
{
    printf("  %s %zu tensors (%zu changed", dry_run ? "would write" : "wrote", r->n_tensor, r->n_tensor_changed);
    if (r->n_tensor_added) printf(", %zu added", r->n_tensor_added);
    printf(") in %zu file%s, %s -> %s", r->n_shard, r->n_shard == 1 ? "" : "s", out_bytes(r->bytes).s, out_bytes(r->bytes_pad).s);
    if (r->bytes) printf(" (%s)", out_percent(100 * ((double)r->bytes_pad - (double)r->bytes) / (double)r->bytes).s);
    if (!dry_run) printf(", in %.1f s", r->seconds);
    if (r->resumed_bytes) printf(", %s of it found done", out_bytes(r->resumed_bytes).s);
    putchar('\n');
    if (dry_run) printf("  peak memory: about %s\n", out_bytes(r->peak_memory_bytes).s);
}

json_t *report_json(const fq_pad_report *r)
{
    json_t *o = json_object();
    out_put(o, "model", out_json_model(&r->model));
    out_put(o, "model_pad", out_json_model(&r->model_pad));
    out_put(o, "fit", out_json_fit(&r->fit));
    out_put_u64(o, "tensors", r->n_tensor);
    out_put_u64(o, "tensors_changed", r->n_tensor_changed);
    out_put_u64(o, "tensors_added", r->n_tensor_added);
    out_put_u64(o, "shards", r->n_shard);
    out_put_u64(o, "bytes", r->bytes);
    out_put_u64(o, "bytes_pad", r->bytes_pad);
    out_put_u64(o, "file_bytes", r->file_bytes);
    out_put_u64(o, "peak_memory_bytes", r->peak_memory_bytes);
    out_put_u64(o, "resumed_bytes", r->resumed_bytes);
    out_put_real(o, "seconds", r->seconds);
    return o;
}

void report_run_plan(const char *phase, const fq_run_plan *p)
{
    fprintf(stderr, "%s: %s window%s of %s tokens, %s scored; %s of weights to read", phase, out_grouped(p->n_window).s, p->n_window == 1 ? "" : "s",
            out_grouped((uint64_t)p->context).s, out_grouped(p->n_scored).s, out_bytes(p->weight_bytes).s);
    if (p->scratch_bytes) fprintf(stderr, ", %s of hidden states on disk", out_bytes(p->scratch_bytes).s);
    fprintf(stderr, "; %d thread%s, %s; peak memory: about %s\n", p->n_thread, p->n_thread == 1 ? "" : "s", p->kernel, out_bytes(p->memory_bytes).s);
}

json_t *report_run_plan_json(const fq_run_plan *p)
{
    json_t *o = json_object();
    out_put_u64(o, "windows", p->n_window);
    out_put_int(o, "context", p->context);
    out_put_u64(o, "tokens", p->n_token);
    out_put_u64(o, "scored", p->n_scored);
    out_put_u64(o, "peak_memory_bytes", p->memory_bytes);
    out_put_u64(o, "weight_bytes", p->weight_bytes);
    out_put_u64(o, "scratch_bytes", p->scratch_bytes);
    out_put_int(o, "threads", p->n_thread);
    out_put_str(o, "kernel", p->kernel);
    return o;
}
