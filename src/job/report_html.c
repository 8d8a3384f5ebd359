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
#include "job/quantize_private.h"

#define CELL_H 20
#define MAX_ROLE 16
#define LEFT 150          /* of names beside a picture */
#define WIDE 560          /* of a picture beside them */

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

static void put_count(fqi_str *s, uint64_t n)
{
    char digits[24];
    const int len = snprintf(digits, sizeof digits, "%" PRIu64, n);
    for (int i = 0; i < len; i++) fqi_str_printf(s, "%s%c", i > 0 && (len - i) % 3 == 0 ? "," : "", digits[i]);
}

/* As many digits as the error leaves meaning: two of the error's, and the value down to the same place. */
static void put_measured(fqi_str *s, double value, double error)
{
    const int place = error > 0 ? 1 - (int)floor(log10(error)) : 6;
    const int digits = place < 0 ? 0 : place > 12 ? 12 : place;
    fqi_str_printf(s, "%.*f &plusmn; %.*f", digits, value, digits, error);
}

static void put_row(fqi_str *s, const char *what, const fq_value *v, double scale)
{
    fqi_str_printf(s, "<tr><th scope=row>%s</th><td>", what);
    put_measured(s, scale * v->value, scale * v->error);
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
    ".scroll{overflow-x:auto}.swatch{display:inline-block;width:.8em;height:.8em;margin-right:.5em;background:var(--mark)}.soft{color:var(--soft)}.warn{color:var(--warn)}svg{display:block;max-width:none;margin:.5rem 0}svg text{fill:var(--soft);font-size:11px}\n"
    "details{margin:.6rem 0}summary{cursor:pointer;color:var(--mark)}\n</style>\n";

/* ---- parts ------------------------------------------------------------------------------------------------------------------- */

/* j: NULL for a report that was not made by fq_quantize. Its options are gone, its settings are not. */
static void put_method(fqi_str *s, const fqi_quantize *j)
{
    if (!j) return;
    const fqi_quant_settings *x = &j->settings;
    fqi_str_printf(s, "<p>%s, %s, scales %s.", x->method == FQ_METHOD_GPTQ ? "GPTQ" : "Rounding", x->grid.sym ? "symmetric" : "with zero points", x->grid.rule == FQI_SCALE_WEIGHTED ? "by a search" : "from the extreme weights");
    if (x->method == FQ_METHOD_GPTQ) fqi_str_printf(s, " Damping %g %% of the mean diagonal, %d round%s of refitting.", 100 * x->damp, x->n_refit, x->n_refit == 1 ? "" : "s");
    if (x->fold) fqi_str_puts(s, " MLP channels are stored by falling importance (gate, up and down alike, so the function stays; the order is in fitq.order), other inputs are processed in that order; g_idx is trivial.");
    else if (x->act_order) fqi_str_puts(s, " Inputs are processed by falling importance and stored in their own order; g_idx is trivial.");
    fqi_str_puts(s, "</p>\n");
}

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
        fqi_str_puts(s, ". Calibrated on ");
        put_count(s, p->n_token);
        fqi_str_printf(s, " tokens (%" PRId64 " windows of %" PRId64 "; source: ", p->samples, p->seqlen);
        put_text(s, p->calib_source);
        fqi_str_puts(s, "; ");
        put_count(s, p->n_distinct);
        fqi_str_printf(s, " different ids), %.1f for each input of the widest layer", p->tokens_per_input);
    } else {
        fqi_str_puts(s, ". Rounded without data");
    }
    fqi_str_printf(s, ". Written by fitq %s.</p>\n", fq_version());
    if (q->n_fallback) fqi_str_printf(s, "<p class=warn>%zu modules were not done by the method asked for: the last column below says why.</p>\n", q->n_fallback);
    put_method(s, q->priv);
}

/* ---- pictures of the distance: a dot with its error bar, on an axis ---- */

typedef struct axis { double lo, hi; bool log; } axis;

static double place(const axis *a, double x)
{
    const double lo = a->log ? log10(a->lo) : a->lo, hi = a->log ? log10(a->hi) : a->hi, at = a->log ? log10(fmax(x, a->lo)) : x;
    return LEFT + WIDE * fmin(fmax((at - lo) / (hi - lo), 0), 1);
}

static void put_bar(fqi_str *s, const axis *a, double from, double to, int y, int width, double opacity)
{
    fqi_str_printf(s, "<line x1=%.1f x2=%.1f y1=%d y2=%d stroke=\"var(--mark)\" stroke-width=%d stroke-opacity=%.2f />", place(a, from), place(a, to), y, y, width, opacity);
}

static void put_dot(fqi_str *s, const axis *a, const fq_value *v, int y, const char *name)
{
    fqi_str_printf(s, "<text x=0 y=%d>%s</text>", y + 4, name);
    put_bar(s, a, v->value - v->error, v->value + v->error, y, 3, 1);
    fqi_str_printf(s, "<circle cx=%.1f cy=%d r=4 fill=\"var(--ink)\"><title>", place(a, v->value), y);
    put_measured(s, v->value, v->error);
    fqi_str_puts(s, "</title></circle>\n");
}

static void put_tick(fqi_str *s, const axis *a, double x, int y, const char *format)
{
    const double at = place(a, x);
    char number[32];
    snprintf(number, sizeof number, format, x);
    fqi_str_printf(s, "<line x1=%.1f x2=%.1f y1=%d y2=%d stroke=\"var(--line)\" /><text x=%.1f y=%d text-anchor=middle>%s</text>\n", at, at, 2, y - 12, at, y, number);
}

static void put_perplexities(fqi_str *s, const fq_eval_report *v)
{
    const double lo = fmin(v->ppl.value - v->ppl.error, v->ppl_reference.value - v->ppl_reference.error), hi = fmax(v->ppl.value + v->ppl.error, v->ppl_reference.value + v->ppl_reference.error);
    const axis a = { lo - 0.1 * (hi - lo), hi + 0.1 * (hi - lo), false };
    if (!(hi > lo)) return;
    fqi_str_printf(s, "<svg role=img aria-label=\"perplexities with their error bars\" width=%d height=66>\n", LEFT + WIDE + 30);
    put_tick(s, &a, lo, 62, "%.4g");
    put_tick(s, &a, (lo + hi) / 2, 62, "%.4g");
    put_tick(s, &a, hi, 62, "%.4g");
    put_dot(s, &a, &v->ppl_reference, 14, "perplexity, original");
    put_dot(s, &a, &v->ppl, 36, "perplexity, here");
    fqi_str_puts(s, "</svg>\n");
}

/* Percentiles of the KL divergence as bars, the wider the nearer to the median, and the mean. */
static void put_divergences(fqi_str *s, const fq_eval_report *v)
{
    const double *p = v->kld_percentile;   /* 99.9 99 95 90 50 10 5 1 0.1 */
    const axis a = { pow(10, floor(log10(fmax(p[7], 1e-9)))), pow(10, ceil(log10(fmax(p[0], 1e-8)))), true };
    if (!(p[0] > 0) || !(a.hi > a.lo)) return;
    fqi_str_printf(s, "<svg role=img aria-label=\"distribution of the KL divergence\" width=%d height=48>\n", LEFT + WIDE + 30);
    for (double x = a.lo; x < 1.5 * a.hi; x *= 10) put_tick(s, &a, x, 44, "%.0e");
    put_bar(s, &a, p[7], p[0], 18, 3, 0.35);
    put_bar(s, &a, p[6], p[2], 18, 9, 0.35);
    put_bar(s, &a, p[5], p[3], 18, 15, 0.35);
    fqi_str_printf(s, "<line x1=%.1f x2=%.1f y1=8 y2=28 stroke=\"var(--ink)\" stroke-width=2 />", place(&a, p[4]), place(&a, p[4]));
    put_dot(s, &a, &v->kld, 18, "KL divergence");
    fqi_str_puts(s, "</svg>\n<p class=soft>Bars: 10 to 90, 5 to 95 and 1 to 99.9 % of the tokens; line: median; dot: mean. Logarithmic.</p>\n");
}

static void put_percentiles(fqi_str *s, const fq_eval_report *v)
{
    fqi_str_puts(s, "<details><summary>Percentiles of the KL divergence</summary><table>\n");
    for (size_t i = 0; i < FQ_N_PERCENTILE; i++) fqi_str_printf(s, "<tr><th scope=row>%.1f %%</th><td>%.3g</td></tr>\n", 100 * fq_percentile(i), v->kld_percentile[i]);
    fqi_str_puts(s, "</table></details>\n");
}

static void put_distance(fqi_str *s, const fq_eval_report *v)
{
    fqi_str_puts(s, "<h2>Distance from the original</h2>\n");
    if (!v) {
        fqi_str_puts(s, "<p class=soft>Not measured: no text was given.</p>\n");
        return;
    }
    fqi_str_puts(s, "<p>Over ");
    put_count(s, v->plan.n_scored);
    fqi_str_printf(s, " scored tokens in windows of %" PRId64 ". The KL divergence says how far the predicted distributions are apart. Errors are standard errors.</p>\n<div class=scroll>\n", v->plan.context);
    put_divergences(s, v);
    put_perplexities(s, v);
    fqi_str_puts(s, "</div>\n<div class=scroll><table>\n");
    put_row(s, "KL divergence, mean", &v->kld, 1);
    put_row(s, "same top token, %", &v->same_top, 100);
    put_row(s, "perplexity", &v->ppl, 1);
    put_row(s, "perplexity of the original", &v->ppl_reference, 1);
    put_row(s, "ln(perplexity / original), paired", &v->ln_ratio, 1);
    put_row(s, "change of the right token's probability, root of the mean square, %", &v->rms_delta_p, 100);
    fqi_str_puts(s, "</table></div>\n");
    put_percentiles(s, v);
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

static double shade(const picture *p, double x)
{
    const double span = p->most > p->least ? log(p->most / p->least) : 1;
    return x > 0 ? 0.08 + 0.92 * log(x / p->least) / span : 0.04;
}

static void put_scale(fqi_str *s, const picture *p)
{
    enum { STEPS = 24, STEP = 8 };
    fqi_str_printf(s, "<svg role=img aria-label=\"scale of the picture above\" width=%d height=20><text x=%d y=14 text-anchor=end>%.1e</text>", LEFT + STEPS * STEP + 80, LEFT - 6, p->least);
    for (int i = 0; i < STEPS; i++)
        fqi_str_printf(s, "<rect x=%d y=3 width=%d height=14 fill=\"var(--mark)\" fill-opacity=%.3f />", LEFT + i * STEP, STEP, 0.08 + 0.92 * i / (STEPS - 1.0));
    fqi_str_printf(s, "<text x=%d y=14>%.1e</text></svg>\n", LEFT + STEPS * STEP + 6, p->most);
}

/* A heat map: a row for a role, a column for a layer, stronger for a larger error, on a scale of logarithms. */
static void put_heat_map(fqi_str *s, const picture *p)
{
    const int64_t fit = WIDE / p->n_layer, cell = fit > 36 ? 36 : fit < 9 ? 9 : fit;
    const int64_t every = p->n_layer * 2 > WIDE / 12 ? 10 : cell < 24 ? 5 : 1;
    fqi_str_printf(s, "<div class=scroll><svg role=img aria-label=\"relative error by layer and role\" width=%" PRId64 " height=%zu>\n", LEFT + p->n_layer * cell + 20, p->n_role * CELL_H + 24);
    for (size_t r = 0; r < p->n_role; r++) {
        fqi_str_printf(s, "<text x=0 y=%zu>", r * CELL_H + 14);
        put_text(s, p->role[r]);
        fqi_str_puts(s, "</text>");
        for (int64_t l = 0; l < p->n_layer; l++) {
            const double x = p->cell[r * (size_t)p->n_layer + (size_t)l];
            if (x < 0) continue;
            fqi_str_printf(s, "<rect x=%" PRId64 " y=%zu width=%" PRId64 " height=%d fill=\"var(--mark)\" fill-opacity=%.3f><title>layer %" PRId64 ": %.3e</title></rect>", LEFT + l * cell, r * CELL_H + 1, cell - 1,
                           CELL_H - 2, shade(p, x), l, x);
        }
        fqi_str_puts(s, "\n");
    }
    for (int64_t l = 0; l < p->n_layer; l += every) fqi_str_printf(s, "<text x=%" PRId64 " y=%zu>%" PRId64 "</text>", LEFT + l * cell, p->n_role * CELL_H + 16, l);
    fqi_str_puts(s, "</svg>\n");
    put_scale(s, p);
    fqi_str_puts(s, "</div>\n");
}

static void put_modules(fqi_str *s, const fq_quantize_report *q)
{
    fqi_str_puts(s, "<details><summary>Every module</summary><div class=scroll><table><thead><tr><th>module</th><th>shape</th><th>method</th><th>relative error</th><th>error per token</th><th>damping</th><th>tokens</th><th>inputs never reached</th><th>seconds</th><th>why</th></tr></thead>\n");
    for (size_t i = 0; i < q->n_module; i++) {
        const fq_module_report *m = &q->module[i];
        fqi_str_puts(s, "<tr><th scope=row>");
        put_text(s, m->name);
        fqi_str_printf(s, "</th><td>%" PRId64 " x %" PRId64 "</td><td>", m->rows, m->cols);
        put_text(s, m->method);
        fqi_str_printf(s, "</td><td>%.2e</td><td>%.2e</td><td>%.3g</td><td>", m->relative, m->error, m->damp);
        put_count(s, m->n_token);
        fqi_str_puts(s, "</td><td>");
        put_count(s, m->n_silent);
        fqi_str_printf(s, "</td><td>%.2f</td><td>", m->seconds);
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

static double stage_shade(size_t i, size_t n) { return 0.2 + 0.8 * (double)i / (double)(n > 1 ? n - 1 : 1); }

static void put_stages(fqi_str *s, const fq_quantize_report *q)
{
    double total = 0, at = 0;
    for (size_t i = 0; i < q->n_stage; i++) total += q->stage[i].seconds;
    fqi_str_printf(s, "<h2>Time and memory</h2>\n<svg role=img aria-label=\"time by stage\" width=%d height=26>", LEFT + WIDE);
    for (size_t i = 0; i < q->n_stage && total > 0; i++) {
        const double w = (LEFT + WIDE) * q->stage[i].seconds / total;
        fqi_str_printf(s, "<rect x=%.1f y=2 width=%.1f height=20 fill=\"var(--mark)\" fill-opacity=%.2f><title>%s: %.2f s</title></rect>", at, w, stage_shade(i, q->n_stage), q->stage[i].name, q->stage[i].seconds);
        at += w;
    }
    fqi_str_puts(s, "</svg>\n<table><thead><tr><th>stage</th><th>seconds</th><th>peak memory so far</th></tr></thead>\n");
    for (size_t i = 0; i < q->n_stage; i++) {
        fqi_str_printf(s, "<tr><th scope=row><span class=swatch style=\"opacity:%.2f\"></span>%s</th><td>%.2f</td><td>", stage_shade(i, q->n_stage), q->stage[i].name, q->stage[i].seconds);
        put_bytes(s, q->stage[i].peak_bytes);
        fqi_str_puts(s, "</td></tr>\n");
    }
    fqi_str_puts(s, "</table>\n<p class=soft>Estimated before the work: ");
    put_bytes(s, q->plan.memory_bytes);
    fqi_str_printf(s, " of memory; %d threads, kernels %s.</p>\n</html>\n", q->plan.n_thread, q->plan.kernel);
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
