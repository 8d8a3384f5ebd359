/* adapter.c - see adapter.h. */
#include "adapter.h"

#include <inttypes.h>
#include <stdio.h>

#include "output.h"
#include "progress.h"
#include "report.h"

static int usage(const char *command, const arg_values *a, bool back)
{
    if (!a->adapter) return args_usage(command, "--like goes with --adapter DIR");
    if (!a->like) return args_usage(command, "--like DIR is missing: the fitted model that the adapter %s", back ? "was trained on" : "is for");
    if (a->n_operand) return args_usage(command, "found both PATH and --adapter");
    if (a->tp.n || a->set_given || a->prefix || a->as || a->regroup) return args_usage(command, "an adapter goes by the maps of the model that --like names: no other lengths can be asked for");
    if (a->resume) return args_usage(command, "--resume is for models: an adapter is written anew");
    if (!a->output && !a->dry_run) return args_usage(command, "--output DIR is missing");
    return 0;
}

static int print_json(const arg_values *a, const fq_adapter_report *r)
{
    json_t *o = json_object();
    out_put_u64(o, "tensors", r->n_tensor);
    out_put_u64(o, "tensors_changed", r->n_tensor_changed);
    out_put_u64(o, "bytes", r->bytes);
    out_put_u64(o, "bytes_pad", r->bytes_pad);
    out_put_u64(o, "dropped", r->n_dropped);
    out_put_u64(o, "peak_memory_bytes", r->peak_memory_bytes);
    out_put_real(o, "seconds", r->seconds);
    out_put_bool(o, "dry_run", a->dry_run);
    return out_json(o);
}

int adapter_run(const char *command, const arg_values *a, bool back)
{
    int status = usage(command, a, back);
    if (status) return status;
    const fq_adapter_options o = { .adapter = a->adapter, .like = a->like, .target = a->output, .back = back, .drop = a->drop, .overwrite = a->overwrite, .dry_run = a->dry_run };
    progress p;
    fq_run run;
    fq_adapter_report r = { 0 };
    fq_err e = { 0 };
    progress_run(&p, &run, a);
    fq_status s = fq_adapt(&o, &run, &r, &e);
    progress_end(&p);
    if (s != FQ_OK) return out_error(&e);
    if (a->json) return print_json(a, &r);
    const fq_pad_report size = { .n_tensor = r.n_tensor, .n_tensor_changed = r.n_tensor_changed, .n_shard = 1, .bytes = r.bytes, .bytes_pad = r.bytes_pad, .peak_memory_bytes = r.peak_memory_bytes, .seconds = r.seconds };
    report_size(&size, a->dry_run);
    if (r.n_dropped) printf("  left out: %" PRIu64 " places with values that the original model does not have\n", r.n_dropped);
    return 0;
}
