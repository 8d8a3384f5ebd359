/* quant_report.c - see quant_report.h. Lines of layers go to stderr, results to stdout. */
#include "quant_report.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "output.h"
#include "report.h"

/* ---- while it runs ------------------------------------------------------------------------------------------------ */

/* One line for a linear layer; the experts of a layer share one. */
static void flush_line(quant_watch *w)
{
    if (w->n == 0) return;
    const size_t n = w->n;
    w->n = 0;
    if (w->quiet) return;
    progress_end(w->p);
    if (w->layer >= 0) fprintf(stderr, "layer %3" PRId64 "  %-18s", w->layer, w->role);
    else fprintf(stderr, "           %-18s", w->role);
    if (n > 1) fprintf(stderr, " x %zu", n);
    fprintf(stderr, "  error %.2e  damping %.3g  %s tokens  %.2f s", w->relative / (double)n, w->damp, out_grouped(w->tokens).s, w->seconds);
    if (w->fallback) fprintf(stderr, "  (%zu rounded)", w->fallback);
    fputc('\n', stderr);
}

static void on_module(void *user, const fq_module_report *m)
{
    quant_watch *w = user;
    if (w->n > 0 && (w->layer != m->layer || strcmp(w->role, m->role) != 0)) flush_line(w);
    if (w->n == 0) {
        snprintf(w->role, sizeof w->role, "%s", m->role);
        w->layer = m->layer;
        w->relative = w->seconds = w->damp = 0;
        w->tokens = 0;
        w->fallback = 0;
    }
    w->n++;
    w->relative += m->relative;
    w->seconds += m->seconds;
    w->damp = fmax(w->damp, m->damp);
    w->tokens = m->n_token > w->tokens ? m->n_token : w->tokens;
    w->fallback += m->why[0] != '\0';
    if (m->why[0] == '\0') return;
    progress_end(w->p);
    fputs("fitq: warning: ", stderr);
    out_escaped(stderr, m->name);
    fprintf(stderr, ": %s: ", m->method);
    out_escaped(stderr, m->why);
    fputc('\n', stderr);
}

/* A layer is complete when the job speaks of something else. */
static void on_progress(void *user, const fq_progress *r)
{
    quant_watch *w = user;
    flush_line(w);
    w->inner.progress(w->inner.user, r);
}

static void on_log(void *user, fq_log_level level, const char *line)
{
    quant_watch *w = user;
    w->inner.log(w->inner.user, level, line);
}

static bool on_cancelled(void *user)
{
    quant_watch *w = user;
    return w->inner.cancelled(w->inner.user);
}

static void on_plan(void *user, const fq_quantize_plan *p)
{
    const quant_watch *w = user;
    if (w->quiet) return;
    progress_end(w->p);
    fprintf(stderr, "quantize: %zu modules, %zu weight matrices left as they are; kernels %s, %d thread%s\n", p->n_module, p->n_left, p->kernel, p->n_thread, p->n_thread == 1 ? "" : "s");
    if (p->n_token > 0)
        fprintf(stderr, "quantize: calibration %s: %" PRId64 " windows of %" PRId64 " tokens, %s different ids, %.1f tokens for each input of the widest layer\n", p->calib_source, p->samples, p->seqlen,
                out_grouped(p->n_distinct).s, p->tokens_per_input);
    fprintf(stderr, "quantize: reads %s, writes %s; peak memory: about %s", out_bytes(p->weight_bytes).s, out_bytes(p->file_bytes).s, out_bytes(p->memory_bytes).s);
    if (p->scratch_bytes) fprintf(stderr, "; %s of activations on disk", out_bytes(p->scratch_bytes).s);
    fputc('\n', stderr);
}

void quant_watch_start(quant_watch *w, fq_quantize_options *o, fq_run *run)
{
    w->inner = *run;
    run->progress = on_progress;
    run->log = on_log;
    run->cancelled = on_cancelled;
    run->user = w;
    o->on_plan = on_plan;
    o->on_module = on_module;
    o->user = w;
}

void quant_watch_end(quant_watch *w)
{
    flush_line(w);
    progress_end(w->p);
}

/* ---- when it is done -------------------------------------------------------------------------------------------------- */

typedef struct summary { double relative, worst; const char *worst_name; } summary;

static summary sum_up(const fq_quantize_report *r)
{
    summary s = { .worst_name = "" };
    for (size_t i = 0; i < r->n_module; i++) {
        s.relative += r->module[i].relative / (double)r->n_module;
        if (r->module[i].relative <= s.worst) continue;
        s.worst = r->module[i].relative;
        s.worst_name = r->module[i].name;
    }
    return s;
}

void quant_text(const arg_values *a, const fq_quantize_report *r)
{
    report_lengths(&r->plan.model, &r->plan.model_pad, &r->plan.fit);
    if (a->dry_run) {
        printf("would quantize %zu modules and write %s, with about %s of memory\n", r->plan.n_module, out_bytes(r->file_bytes).s, out_bytes(r->plan.memory_bytes).s);
        return;
    }
    const summary s = sum_up(r);
    printf("quantized %zu modules to %" PRId64 " bits, wrote %s in %s\n", r->n_module, r->n_module ? (int64_t)r->module[0].bits : 0, out_bytes(r->file_bytes).s, out_duration(r->seconds).s);
    if (r->plan.resumed_layers) printf("  %zu layers were found done\n", r->plan.resumed_layers);
    printf("  relative error of outputs: %.2e on average, worst %.2e in ", s.relative, s.worst);
    out_escaped(stdout, s.worst_name);
    putchar('\n');
    if (r->n_fallback) printf("  %zu modules were rounded instead: see the warnings, and \"why\" in fitq.json\n", r->n_fallback);
    printf("how far is it from the original? fitq eval ");
    out_escaped(stdout, a->output);
    printf(" --reference ");
    out_escaped(stdout, a->operand[0]);
    printf(" --text FILE\n");
}

static json_t *module_json(const fq_module_report *m)
{
    json_t *o = json_object();
    out_put_str(o, "name", m->name);
    out_put_int(o, "layer", m->layer);
    out_put_str(o, "role", m->role);
    out_put_int(o, "rows", m->rows);
    out_put_int(o, "cols", m->cols);
    out_put_str(o, "method", m->method);
    out_put_str(o, "why", m->why);
    out_put_real(o, "error", m->error);
    out_put_real(o, "relative", m->relative);
    out_put_real(o, "damp", m->damp);
    out_put_u64(o, "tokens", m->n_token);
    out_put_real(o, "seconds", m->seconds);
    return o;
}

json_t *quant_json(const fq_quantize_report *r, bool dry_run)
{
    json_t *o = json_object(), *modules = json_array(), *stages = json_array();
    out_put_bool(o, "dry_run", dry_run);
    out_put(o, "fit", out_json_fit(&r->plan.fit));
    out_put_u64(o, "memory_bytes", r->plan.memory_bytes);
    out_put_u64(o, "scratch_bytes", r->plan.scratch_bytes);
    out_put_u64(o, "file_bytes", r->file_bytes);
    out_put_u64(o, "n_module", r->plan.n_module);
    out_put_str(o, "calibration", r->plan.calib_source);
    out_put_int(o, "samples", r->plan.samples);
    out_put_int(o, "seqlen", r->plan.seqlen);
    out_put_real(o, "tokens_per_input", r->plan.tokens_per_input);
    out_put_u64(o, "resumed_layers", r->plan.resumed_layers);
    out_put_u64(o, "n_fallback", r->n_fallback);
    for (size_t i = 0; i < r->n_module && !dry_run; i++) out_append(modules, module_json(&r->module[i]));
    out_put(o, "modules", modules);
    for (size_t i = 0; i < r->n_stage; i++) {
        json_t *s = json_object();
        out_put_str(s, "name", r->stage[i].name);
        out_put_real(s, "seconds", r->stage[i].seconds);
        out_put_u64(s, "peak_bytes", r->stage[i].peak_bytes);
        out_append(stages, s);
    }
    out_put(o, "stages", stages);
    out_put_real(o, "seconds", r->seconds);
    return o;
}
