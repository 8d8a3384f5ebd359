/* quant_report.c - see quant_report.h. Lines of layers go to stderr, results to stdout. */
#include "quant_report.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "output.h"
#include "report.h"

/* ---- while it runs ------------------------------------------------------------------------------------------------ */

static void print_line(const quant_watch *w, const quant_line *l)
{
    char what[64], damp[24] = "-";
    if (l->damp > 0) snprintf(damp, sizeof damp, "%.3g", l->damp);
    if (l->n > 1) snprintf(what, sizeof what, "%s x %zu", l->role, l->n);
    else snprintf(what, sizeof what, "%s", l->role);
    if (w->layer >= 0) fprintf(stderr, "%5" PRId64, w->layer);
    else fprintf(stderr, "%5s", "");
    fprintf(stderr, "  %-24s  %8.2e  %7s  %11s  %7.2f\n", what, l->relative / (double)l->n, damp, l->tokens ? out_grouped(l->tokens).s : "-", l->seconds);
}

static void warn(const char *before, const char *why)
{
    fprintf(stderr, "fitq: warning: %s", before);
    out_escaped(stderr, why);
    fputc('\n', stderr);
}

/* What fell back to rounding. One warning for all experts of a layer: there may be hundreds. */
static void print_fallback(const quant_watch *w)
{
    char before[96];
    size_t n = 0, of = 0;
    const char *why = "";
    for (size_t i = 0; i < w->n_line; i++) {
        const quant_line *l = &w->line[i];
        if (l->fallback > 0 && l->n == 1) warn("", l->why);
        if (l->n == 1) continue;
        if (n == 0 && l->fallback > 0) why = l->why;
        n += l->fallback;
        of += l->n;
    }
    if (n == 0) return;
    snprintf(before, sizeof before, "layer %" PRId64 ": %zu of %zu matrices of experts rounded instead, such as ", w->layer, n, of);
    warn(before, why);
}

/* A line for each linear layer; the experts of a layer share one. */
static void flush_lines(quant_watch *w)
{
    if (w->n_line > 0) progress_end(w->p);
    if (w->n_line > 0 && !w->quiet && !w->head) {
        fprintf(stderr, "%5s  %-24s  %8s  %7s  %11s  %7s\n", "LAYER", "MODULE", "ERROR", "DAMPING", "TOKENS", "SECONDS");
        w->head = true;
    }
    for (size_t i = 0; i < w->n_line && !w->quiet; i++) print_line(w, &w->line[i]);
    print_fallback(w);
    w->n_line = 0;
}

static quant_line *line_of(quant_watch *w, const fq_module_report *m)
{
    if (w->n_line > 0 && w->layer != m->layer) flush_lines(w);
    w->layer = m->layer;
    for (size_t i = 0; i < w->n_line; i++)
        if (strcmp(w->line[i].role, m->role) == 0) return &w->line[i];
    if (w->n_line == QUANT_MAX_LINE) flush_lines(w);
    quant_line *l = &w->line[w->n_line++];
    *l = (quant_line){ 0 };
    snprintf(l->role, sizeof l->role, "%s", m->role);
    return l;
}

static void on_module(void *user, const fq_module_report *m)
{
    quant_line *l = line_of(user, m);
    l->n++;
    l->relative += m->relative;
    l->seconds += m->seconds;
    l->damp = fmax(l->damp, m->damp);
    l->tokens = m->n_token > l->tokens ? m->n_token : l->tokens;
    if (m->why[0] == '\0') return;
    if (l->fallback++ == 0) snprintf(l->why, sizeof l->why, "%s: %s: %s", m->name, m->method, m->why);
}

/* A layer is complete when the job speaks of something else. */
static void on_progress(void *user, const fq_progress *r)
{
    quant_watch *w = user;
    flush_lines(w);
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
    progress_tick(w->p);
    return w->inner.cancelled(w->inner.user);
}

static void on_plan(void *user, const fq_quantize_plan *p)
{
    const quant_watch *w = user;
    if (w->quiet) return;
    progress_end(w->p);
    fprintf(stderr, "quantize: %zu linear layers; %zu other matrices stay as they are; %d thread%s, %s\n", p->n_module, p->n_left, p->n_thread, p->n_thread == 1 ? "" : "s", p->kernel);
    if (p->n_token > 0) {
        fprintf(stderr, "quantize: calibration (%s): %s window%s of %s tokens", p->calib_source, out_grouped((uint64_t)p->samples).s, p->samples == 1 ? "" : "s", out_grouped((uint64_t)p->seqlen).s);
        if (p->n_distinct > 0) fprintf(stderr, ", %s different ids", out_grouped(p->n_distinct).s);
        fprintf(stderr, "\nquantize: %.1f tokens for each input of the widest layer\n", p->tokens_per_input);
    }
    fprintf(stderr, "quantize: reads %s, writes %s; peak memory: about %s\n", out_bytes(p->weight_bytes).s, out_bytes(p->file_bytes).s, out_bytes(p->memory_bytes).s);
    if (p->scratch_bytes) fprintf(stderr, "quantize: %s of hidden states go to a file meanwhile\n", out_bytes(p->scratch_bytes).s);
}

void quant_watch_start(quant_watch *w, fq_quantize_options *o, fq_run *run)
{
    w->inner = *run;
    w->p->unit = "layer";
    w->p->unit_phase = "quantize";
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
    flush_lines(w);
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

/* Inputs that the text said nothing about. Modules that share an input each count it. */
static void print_silent(const fq_quantize_report *r)
{
    uint64_t n = 0, modules = 0;
    for (size_t i = 0; i < r->n_module; i++) {
        n += r->module[i].n_silent;
        modules += r->module[i].n_silent > 0;
    }
    if (n) printf("  %s inputs of %s linear layers were 0 in all of the text: their weights were rounded to the nearest\n", out_grouped(n).s, out_grouped(modules).s);
}

void quant_text(const arg_values *a, const fq_quantize_report *r, bool measure)
{
    report_lengths(&r->plan.model, &r->plan.model_pad, &r->plan.fit);
    if (a->dry_run) {
        printf("  would quantize %zu linear layers, %s -> %s\n  peak memory: about %s", r->plan.n_module, out_bytes(r->plan.weight_bytes).s, out_bytes(r->file_bytes).s, out_bytes(r->plan.memory_bytes).s);
        if (r->plan.scratch_bytes) printf(", and %s on disk", out_bytes(r->plan.scratch_bytes).s);
        putchar('\n');
        return;
    }
    const summary s = sum_up(r);
    printf("  quantized %zu linear layers to %d bits, %s -> %s, in %s\n", r->n_module, r->n_module ? r->module[0].bits : 0, out_bytes(r->plan.weight_bytes).s, out_bytes(r->file_bytes).s, out_duration(r->seconds).s);
    if (r->plan.resumed_layers) printf("  %zu layer%s found done\n", r->plan.resumed_layers, r->plan.resumed_layers == 1 ? " was" : "s were");
    printf("  relative error of %s: %.2e on average, worst %.2e in ", r->plan.n_token ? "outputs" : "weights", s.relative, s.worst);
    out_escaped(stdout, s.worst_name);
    putchar('\n');
    if (r->n_fallback) printf("  %zu of them were rounded instead: \"why\" in fitq.json says for each\n", r->n_fallback);
    print_silent(r);
    if (!measure) return;
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
    out_put_u64(o, "silent_inputs", m->n_silent);
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
