/* verify_slices.c - `fitq verify PATH --tp N`: are the slices that engines cut the model? See verify_slices.h.
 *
 * One paragraph for each fault, the verdict last. A case that an engine refuses is an error (status 3), one that it loads and computes wrongly a
 * difference (status 1). */
#include "verify_slices.h"

#include <stdio.h>

#include "commands.h"
#include "output.h"
#include "progress.h"

typedef struct slices_seen { const arg_values *a; progress *p; json_t *fault; } slices_seen;

static const char *const kind_name[] = { [FQ_SLICE_REFUSED] = "refused", [FQ_SLICE_DIFFERS] = "differs", [FQ_SLICE_KERNEL] = "kernel" };

static void fault_json(const fq_slice_fault *f, json_t *list)
{
    json_t *o = json_object();
    out_put_str(o, "kind", kind_name[f->kind]);
    out_put_str(o, "engine", f->engine->id);
    out_put_str(o, "format", f->format ? f->format->id : NULL);
    out_put_str(o, "rule", f->rule);
    out_put_str(o, "source", f->source);
    out_put_str(o, "tensor", f->tensor[0] ? f->tensor : NULL);
    out_put_u64(o, "tensors", f->n_tensor);
    out_put_str(o, "text", f->text);
    if (f->rank >= 0) out_put_int(o, "rank", f->rank);
    if (f->row >= 0) out_put_int(o, "row", f->row);
    if (f->col >= 0) out_put_int(o, "column", f->col);
    if (f->n_element > 0) {
        out_put_real(o, "expected", f->expected);
        if (f->beyond) out_put(o, "found", json_null());
        else out_put_real(o, "found", f->found);
        out_put_u64(o, "elements_wrong", f->n_wrong);
        out_put_u64(o, "elements", f->n_element);
        out_put_real(o, "max_abs", f->max_abs);
        out_put_real(o, "relative", f->relative);
        out_put_real(o, "product_relative", f->product);
    }
    out_append(list, o);
}

static void fault_text(const fq_slice_fault *f)
{
    printf("%s%s%s, %s: %s%s%s", out_on(OUT_BOLD), f->engine->id, out_off(OUT_BOLD), f->format ? f->format->id : "any format", out_on(f->kind == FQ_SLICE_REFUSED ? OUT_YELLOW : OUT_RED),
           f->kind == FQ_SLICE_REFUSED ? "refuses it" : "loads it, and is wrong", out_off(f->kind == FQ_SLICE_REFUSED ? OUT_YELLOW : OUT_RED));
    printf(": %s\n", f->rule);
    if (f->tensor[0]) {
        fputs("  ", stdout);
        out_escaped(stdout, f->tensor);
        if (f->n_tensor > 1) printf(" and %zu more", f->n_tensor - 1);
        putchar('\n');
    }
    fputs("  ", stdout);
    out_flow(f->text, 2, 4, OUT_PLAIN);
    printf("  %ssource: %s%s\n", out_on(OUT_DIM), f->source, out_off(OUT_DIM));
}

static void on_fault(void *user, const fq_slice_fault *f)
{
    const slices_seen *s = user;
    progress_end(s->p);
    if (s->a->json) fault_json(f, s->fault);
    else fault_text(f);
}

static int slices_json(const fq_slices_report *r, const arg_values *a, json_t *fault)
{
    json_t *o = json_object();
    out_put_str(o, "verdict", r->n_differs > 0 ? "different" : r->n_refused > 0 ? "refused" : "same");
    out_put_int(o, "tp", a->tp.v[0]);
    out_put_bool(o, "expert_parallel", a->expert_parallel);
    out_put_u64(o, "cases", r->n_case);
    out_put_u64(o, "cases_refused", r->n_refused);
    out_put_u64(o, "cases_different", r->n_differs);
    out_put_u64(o, "layers", r->n_module);
    out_put_u64(o, "slices", r->n_slice);
    out_put_u64(o, "weights_not_quantized", r->n_dense);
    out_put_u64(o, "products", r->n_product);
    out_put_u64(o, "product_slices", r->n_product_slice);
    out_put_u64(o, "products_left_out", r->n_product_left_out);
    out_put_u64(o, "product_bytes", r->product_bytes);
    out_put_real(o, "product_error", r->product_error);
    out_put(o, "faults", fault);
    out_put_real(o, "seconds", r->seconds);
    return out_json(o);
}

static void slices_text(const fq_slices_report *r, const arg_values *a)
{
    if (r->n_differs > 0) {
        printf("%sdifferent%s: on %d GPUs an engine would compute with other numbers, and not say so\n", out_on(OUT_RED), out_off(OUT_RED), a->tp.v[0]);
        return;
    }
    if (r->n_refused > 0) return;   /* the error says it */
    printf("%ssame%s: on %d GPUs each slice ", out_on(OUT_GREEN), out_off(OUT_GREEN), a->tp.v[0]);
    if (r->n_module > 0) printf("of %s quantized layers ", out_grouped(r->n_module).s);
    if (r->n_dense > 0) printf("%sof %s weights that are cut by ranges ", r->n_module > 0 ? "and " : "", out_grouped(r->n_dense).s);
    puts("is that part of the whole");
    if (r->n_product > 0)
        printf("      %s weights times a random input are what their %s slices make of it, %s %.0e of the size\n", out_grouped(r->n_product).s, out_grouped(r->n_product_slice).s, r->product_error > 0 ? "to" : "to less than", r->product_error > 0 ? r->product_error : 1e-16);
    if (r->n_product_left_out > 0) printf("      %s weights could not be multiplied\n", out_grouped(r->n_product_left_out).s);
}

int verify_slices(const arg_values *a)
{
    progress p;
    fq_run run;
    fq_slices_report r = { 0 };
    fq_err e = { 0 };
    slices_seen seen = { .a = a, .p = &p, .fault = json_array() };
    progress_run(&p, &run, a);
    const fq_slices_options o = {
        .path = a->operand[0], .tp = a->tp.v[0], .engine = a->engine.n ? a->engine.v : NULL, .n_engine = a->engine.n,
        .format = a->format.n ? a->format.v : NULL, .n_format = a->format.n, .on_fault = on_fault, .user = &seen, .expert_parallel = a->expert_parallel,
    };
    const fq_status s = fq_verify_slices(&o, &run, &r, &e);
    progress_end(&p);
    if (s != FQ_OK && r.n_differs + r.n_refused == 0) {
        json_decref(seen.fault);
        return out_error(&e);
    }
    int status = 0;
    if (a->json) {
        status = slices_json(&r, a, seen.fault);
    } else {
        json_decref(seen.fault);
        slices_text(&r, a);
    }
    if (s == FQ_E_INPUT && !a->json) return out_error(&e);
    return status ? status : -(int)s;
}
