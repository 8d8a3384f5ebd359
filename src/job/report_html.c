/* report_html.c - fq_write_report: one HTML page about a quantized model, with its pictures in it and nothing from elsewhere.
 *
 * Names come from files: everything that is not a number is escaped. Colours are read from variables with a dark twin, and every picture has
 * its numbers in a table below it, for those who cannot see it and for scripts. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "base/mem.h"

#define CELL_W 14
#define CELL_H 18
#define MAX_ROLE 16

/* ---- text ------------------------------------------------------------------------------------------------------------------ */

static void put_text(fqi_str *s, const char *text)
{
    char shown[FQI_NAME_MAX + 1];
    for (const char *p = fqi_escape(shown, text); *p; p++) {
        switch (*p) {
        case '<': fqi_str_puts(s, "&lt;"); break;
        case '>': fqi_str_puts(s, "&gt;"); break;
        case '&': fqi_str_puts(s, "&amp;"); break;
        case '"': fqi_str_puts(s, "&quot;"); break;
        default: fqi_str_add(s, p, 1);
        }
    }
}

static void put_bytes(fqi_str *s, uint64_t n)
{
    static const char *const unit[] = { "bytes", "KiB", "MiB", "GiB", "TiB" };
    double x = (double)n;
    size_t u = 0;
    for (; x >= 1024 && u < 4; u++) x /= 1024;
    fqi_str_printf(s, u ? "%.1f %s" : "%.0f %s", x, unit[u]);
}

static void put_row(fqi_str *s, const char *what, const char *format, double value, double error)
{
    fqi_str_printf(s, "<tr><th scope=row>%s</th><td>", what);
    char number[64];
    snprintf(number, sizeof number, format, value);
    fqi_str_puts(s, number);
    if (error >= 0) {
        snprintf(number, sizeof number, format, error);
        fqi_str_printf(s, " &plusmn; %s", number);
    }
    fqi_str_puts(s, "</td></tr>\n");
}

static const char style[] =
    "<style>\n:root{--ink:#1a1c1f;--soft:#5c6670;--line:#d9dde1;--paper:#fff;--mark:#1f6feb;--warn:#b35900}\n"
    "@media(prefers-color-scheme:dark){:root{--ink:#e6e8ea;--soft:#9aa4ae;--line:#343a40;--paper:#15181b;--mark:#58a6ff;--warn:#e3913b}}\n"
    "body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:62rem;margin:2rem auto;padding:0 1rem}\n"
    "h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2.2rem}p{max-width:44rem}\n"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}\n"
    "th,td{padding:.2rem .8rem .2rem 0;text-align:right;border-bottom:1px solid var(--line);font-weight:normal}\n"
    "th[scope=row],thead th:first-child{text-align:left}thead th{color:var(--soft)}\n"
    ".scroll{overflow-x:auto}.soft{color:var(--soft)}.warn{color:var(--warn)}svg{display:block;max-width:none}svg text{fill:var(--soft);font-size:11px}\n"
    "details{margin:.6rem 0}summary{cursor:pointer;color:var(--mark)}\n</style>\n";

/* ---- parts ------------------------------------------------------------------------------------------------------------------- */

static void put_head(fqi_str *s, const fq_quantize_report *q)
{
    const fq_quantize_plan *p = &q->plan;
    fqi_str_puts(s, "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width,initial-scale=1\">\n<title>fitq: ");
    put_text(s, p->model.architecture);
    fqi_str_printf(s, ", %d bits</title>\n%s<h1>", q->n_module ? q->module[0].bits : 0, style);
    put_text(s, p->model.architecture);
    fqi_str_printf(s, ": %zu linear layers in %d bits, ", q->n_module, q->n_module ? q->module[0].bits : 0);
    if (q->n_module && q->module[0].group_size > 0) fqi_str_printf(s, "groups of %" PRId64, q->module[0].group_size);
    else fqi_str_puts(s, "one group per row");
    fqi_str_puts(s, "</h1>\n<p>");
    put_bytes(s, p->weight_bytes);
    fqi_str_puts(s, " of weights became ");
    put_bytes(s, q->file_bytes);
    if (p->n_token) {
        fqi_str_printf(s, ". Calibrated on %" PRIu64 " tokens (%" PRId64 " windows of %" PRId64 "; source: ", p->n_token, p->samples, p->seqlen);
        put_text(s, p->calib_source);
        fqi_str_printf(s, "; %zu different ids), %.1f for each input of the widest layer", p->n_distinct, p->tokens_per_input);
    } else {
        fqi_str_puts(s, ". Rounded without data");
    }
    fqi_str_printf(s, ". Written by fitq %s.</p>\n", fq_version());
    if (q->n_fallback) fqi_str_printf(s, "<p class=warn>%zu modules were not done by the method asked for: the last column below says why.</p>\n", q->n_fallback);
}

static void put_distance(fqi_str *s, const fq_eval_report *v)
{
    fqi_str_puts(s, "<h2>Distance from the original</h2>\n");
    if (!v) {
        fqi_str_puts(s, "<p class=soft>Not measured: no text was given.</p>\n");
        return;
    }
    fqi_str_printf(s, "<p>Over %zu scored tokens in windows of %" PRId64 ". The KL divergence says how far the predicted distributions are apart; its error bar is a standard error.</p>\n<div class=scroll><table>\n",
                   v->plan.n_scored, v->plan.context);
    put_row(s, "KL divergence, mean", "%.6f", v->kld.value, v->kld.error);
    for (size_t i = 0; i < FQ_N_PERCENTILE; i++) {
        char what[48];
        snprintf(what, sizeof what, "KL divergence, %.1f %%", 100 * fq_percentile(i));
        put_row(s, what, "%.6f", v->kld_percentile[i], -1);
    }
    put_row(s, "same top token, %", "%.3f", 100 * v->same_top.value, 100 * v->same_top.error);
    put_row(s, "perplexity", "%.5f", v->ppl.value, v->ppl.error);
    put_row(s, "perplexity of the original", "%.5f", v->ppl_reference.value, v->ppl_reference.error);
    put_row(s, "ln(perplexity / original), paired", "%.6f", v->ln_ratio.value, v->ln_ratio.error);
    put_row(s, "RMS of the change of the right token's probability, %", "%.4f", 100 * v->rms_delta_p.value, 100 * v->rms_delta_p.error);
    fqi_str_puts(s, "</table></div>\n");
}

typedef struct picture {
    const char *role[MAX_ROLE]; size_t n_role;
    int64_t n_layer;
    double *cell;            /* [n_role][n_layer] mean relative error; < 0: none */
    double least, most;
} picture;

static size_t role_of(picture *p, const char *role)
{
    for (size_t i = 0; i < p->n_role; i++)
        if (strcmp(p->role[i], role) == 0) return i;
    if (p->n_role == MAX_ROLE) return MAX_ROLE;
    p->role[p->n_role] = role;
    return p->n_role++;
}

static bool make_picture(const fq_quantize_report *q, picture *p)
{
    *p = (picture){ .least = INFINITY };
    for (size_t i = 0; i < q->n_module; i++) {
        (void)role_of(p, q->module[i].role);
        if (q->module[i].layer >= p->n_layer) p->n_layer = q->module[i].layer + 1;
    }
    size_t n = p->n_role * (size_t)p->n_layer;
    double *count = fqi_calloc(n + 1, sizeof *count);
    p->cell = fqi_calloc(n + 1, sizeof *p->cell);
    if (!p->cell || !count) {
        free(count);
        return false;
    }
    for (size_t i = 0; i < q->n_module; i++) {
        const fq_module_report *m = &q->module[i];
        size_t r = role_of(p, m->role);
        if (r == MAX_ROLE || m->layer < 0) continue;
        p->cell[r * (size_t)p->n_layer + (size_t)m->layer] += m->relative;
        count[r * (size_t)p->n_layer + (size_t)m->layer]++;
    }
    for (size_t i = 0; i < n; i++) {
        p->cell[i] = count[i] > 0 ? p->cell[i] / count[i] : -1;
        if (p->cell[i] > 0 && p->cell[i] < p->least) p->least = p->cell[i];
        if (p->cell[i] > p->most) p->most = p->cell[i];
    }
    free(count);
    return true;
}

/* A heat map: a row for a role, a column for a layer, darker for a larger error, on a scale of logarithms. */
static void put_heat_map(fqi_str *s, const picture *p)
{
    const double span = p->most > p->least ? log(p->most / p->least) : 1;
    fqi_str_printf(s, "<div class=scroll><svg role=img aria-label=\"relative error by layer and role\" width=%" PRId64 " height=%zu>\n", 140 + p->n_layer * CELL_W + 20, p->n_role * CELL_H + 24);
    for (size_t r = 0; r < p->n_role; r++) {
        fqi_str_printf(s, "<text x=0 y=%zu>", r * CELL_H + 13);
        put_text(s, p->role[r]);
        fqi_str_puts(s, "</text>");
        for (int64_t l = 0; l < p->n_layer; l++) {
            const double x = p->cell[r * (size_t)p->n_layer + (size_t)l];
            if (x < 0) continue;
            const double shade = x > 0 ? 0.08 + 0.92 * log(x / p->least) / span : 0.04;
            fqi_str_printf(s, "<rect x=%" PRId64 " y=%zu width=%d height=%d fill=\"var(--mark)\" fill-opacity=%.3f><title>layer %" PRId64 ": %.3e</title></rect>", 140 + l * CELL_W, r * CELL_H + 1, CELL_W - 1, CELL_H - 2,
                           shade, l, x);
        }
        fqi_str_puts(s, "\n");
    }
    for (int64_t l = 0; l < p->n_layer; l += p->n_layer > 40 ? 10 : p->n_layer > 10 ? 5 : 1) fqi_str_printf(s, "<text x=%" PRId64 " y=%zu>%" PRId64 "</text>", 140 + l * CELL_W, p->n_role * CELL_H + 16, l);
    fqi_str_printf(s, "</svg></div>\n<p class=soft>From %.2e (light) to %.2e (dark), logarithmic.</p>\n", p->least, p->most);
}

static void put_modules(fqi_str *s, const fq_quantize_report *q)
{
    fqi_str_puts(s, "<details><summary>Every module</summary><div class=scroll><table><thead><tr><th>module</th><th>shape</th><th>method</th><th>relative error</th><th>error per token</th><th>damping</th><th>tokens</th><th>seconds</th><th>why</th></tr></thead>\n");
    for (size_t i = 0; i < q->n_module; i++) {
        const fq_module_report *m = &q->module[i];
        fqi_str_puts(s, "<tr><th scope=row>");
        put_text(s, m->name);
        fqi_str_printf(s, "</th><td>%" PRId64 " x %" PRId64 "</td><td>", m->rows, m->cols);
        put_text(s, m->method);
        fqi_str_printf(s, "</td><td>%.3e</td><td>%.3e</td><td>%.3g</td><td>%" PRIu64 "</td><td>%.2f</td><td>", m->relative, m->error, m->damp, m->n_token, m->seconds);
        put_text(s, m->why);
        fqi_str_puts(s, "</td></tr>\n");
    }
    fqi_str_puts(s, "</table></div></details>\n");
}

static bool put_errors(fqi_str *s, const fq_quantize_report *q)
{
    picture p;
    fqi_str_puts(s, "<h2>Error by layer</h2>\n<p>|E X|&sup2; / |W X|&sup2;: the share of a layer's output that quantizing changed, on the calibration tokens.</p>\n");
    if (!make_picture(q, &p)) return false;
    if (p.n_layer > 0 && p.most > 0) put_heat_map(s, &p);
    free(p.cell);
    put_modules(s, q);
    return true;
}

static void put_length(fqi_str *s, const char *what, int64_t real, int64_t pad)
{
    if (real != pad) fqi_str_printf(s, "<tr><th scope=row>%s</th><td>%" PRId64 "</td><td>%" PRId64 "</td><td>%+.2f %%</td></tr>\n", what, real, pad, real ? 100.0 * (double)(pad - real) / (double)real : 0.0);
}

static void put_lengths(fqi_str *s, const fq_quantize_plan *p)
{
    const fq_model *a = &p->model, *b = &p->model_pad;
    const size_t before = s->len;
    fqi_str_puts(s, "<h2>Padding</h2>\n<table><thead><tr><th>length</th><th>source</th><th>here</th><th>change</th></tr></thead>\n");
    const size_t empty = s->len;
    put_length(s, "intermediate_size", a->intermediate_size, b->intermediate_size);
    put_length(s, "moe_intermediate_size", a->moe_intermediate_size, b->moe_intermediate_size);
    put_length(s, "shared_expert_intermediate_size", a->shared_expert_intermediate_size, b->shared_expert_intermediate_size);
    put_length(s, "num_attention_heads", a->num_attention_heads, b->num_attention_heads);
    put_length(s, "num_key_value_heads", a->num_key_value_heads, b->num_key_value_heads);
    put_length(s, "vocab_size", a->vocab_size, b->vocab_size);
    if (s->len == empty && !s->failed) {
        s->len = before;
        fqi_str_puts(s, "<h2>Padding</h2>\n<p>None: every length is the source's.</p>\n");
        return;
    }
    fqi_str_puts(s, "</table>\n<p>What was added is exactly zero and changes no sum: the function is that of the unpadded quantized model.</p>\n");
}

static void put_stages(fqi_str *s, const fq_quantize_report *q)
{
    double total = 0, at = 0;
    for (size_t i = 0; i < q->n_stage; i++) total += q->stage[i].seconds;
    fqi_str_puts(s, "<h2>Time and memory</h2>\n<svg role=img aria-label=\"time by stage\" width=640 height=26>");
    for (size_t i = 0; i < q->n_stage && total > 0; i++) {
        const double w = 640 * q->stage[i].seconds / total;
        fqi_str_printf(s, "<rect x=%.1f y=2 width=%.1f height=20 fill=\"var(--mark)\" fill-opacity=%.2f><title>%s: %.2f s</title></rect>", at, w, 0.25 + 0.75 * (double)(i % 4) / 3, q->stage[i].name, q->stage[i].seconds);
        at += w;
    }
    fqi_str_puts(s, "</svg>\n<table><thead><tr><th>stage</th><th>seconds</th><th>peak memory so far</th></tr></thead>\n");
    for (size_t i = 0; i < q->n_stage; i++) {
        fqi_str_printf(s, "<tr><th scope=row>%s</th><td>%.2f</td><td>", q->stage[i].name, q->stage[i].seconds);
        put_bytes(s, q->stage[i].peak_bytes);
        fqi_str_puts(s, "</td></tr>\n");
    }
    fqi_str_puts(s, "</table>\n<p class=soft>Estimated before the work: ");
    put_bytes(s, q->plan.memory_bytes);
    fqi_str_printf(s, "; %d threads, kernels %s.</p>\n</html>\n", q->plan.n_thread, q->plan.kernel);
}

fq_status fq_write_report(const char *path, const fq_quantize_report *q, const fq_eval_report *eval, fq_err *e)
{
    fqi_str s = { 0 };
    put_head(&s, q);
    put_distance(&s, eval);
    bool ok = put_errors(&s, q);
    put_lengths(&s, &q->plan);
    put_stages(&s, q);
    fq_status status = ok && !s.failed ? fqi_write_file(path, s.s, s.len, e) : fqi_fail_nomem(e, "report");
    fqi_str_free(&s);
    return status;
}
