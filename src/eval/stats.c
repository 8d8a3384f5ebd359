/* stats.c - what two models say about the same next tokens, in numbers (definitions: stats.h).
 *
 * One pass over the logits of a position leaves a row of numbers; everything that is printed is made from the rows, in their order, so it
 * depends neither on threads nor on when a position came. Errors are computed around the mean: the difference of E[x^2] and
 * E[x]^2 is the same number on paper, and loses half its digits when both are near. */
#include "eval/stats.h"

#include <math.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/mem.h"

#define LOG_P_CUT (-16.0)   /* llama.cpp, tools/perplexity: less likely tokens of the reference are left out of the KLD */

static const double shares[FQ_N_PERCENTILE] = { 0.999, 0.99, 0.95, 0.90, 0.50, 0.10, 0.05, 0.01, 0.001 };

double fq_percentile(size_t i) { return i < FQ_N_PERCENTILE ? shares[i] : 0; }

typedef struct pair { double nll, kld; float logit_diff; bool same_top; } pair;

struct fqi_eval_stats {
    double *nll;      /* of the model, or of the reference when there is one */
    pair *pair;       /* NULL without a reference */
    double *sorted;   /* of the percentiles: a report cannot fail for want of memory */
    size_t n_position;
};

fq_status fqi_eval_stats_create(size_t n_position, bool with_reference, fqi_eval_stats **out, fq_err *e)
{
    fqi_eval_stats *s = fqi_calloc(1, sizeof *s);
    if (!s) return fqi_fail_nomem(e, "statistics");
    s->n_position = n_position;
    s->nll = fqi_calloc(n_position, sizeof *s->nll);
    if (with_reference) {
        s->pair = fqi_calloc(n_position, sizeof *s->pair);
        s->sorted = fqi_calloc(n_position, sizeof *s->sorted);
    }
    if (!s->nll || (with_reference && (!s->pair || !s->sorted))) {
        fqi_eval_stats_free(s);
        return fqi_fail_nomem(e, "statistics");
    }
    *out = s;
    return FQ_OK;
}

void fqi_eval_stats_free(fqi_eval_stats *s)
{
    if (!s) return;
    free(s->nll);
    free(s->pair);
    free(s->sorted);
    free(s);
}

uint64_t fqi_eval_stats_bytes(size_t n_position, bool with_reference)
{
    uint64_t row = sizeof(double) + (with_reference ? sizeof(pair) + sizeof(double) : 0);
    return fqi_sat_mul(n_position, row);
}

/* ---- one position ---- */

typedef struct top { size_t at; double max, log_sum; } top;   /* log_sum: of exp(x - max) */

static top find_top(const float *x, size_t n)
{
    top t = { .at = 0 };
    double sum = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[t.at]) t.at = i;
    t.max = (double)x[t.at];
    for (size_t i = 0; i < n; i++) sum += exp((double)x[i] - t.max);
    t.log_sum = log(sum);
    return t;
}

static double log_p(const top *t, float x) { return (double)x - t->max - t->log_sum; }

static void add_pair(pair *out, const float *x, const float *ref, size_t n, const top *t, const top *t_ref)
{
    double kld = 0;
    float diff = 0;
    for (size_t i = 0; i < n; i++) {
        double l = log_p(t_ref, ref[i]);
        float d = fabsf(x[i] - ref[i]);
        if (d > diff) diff = d;
        if (l > LOG_P_CUT) kld += exp(l) * (l - log_p(t, x[i]));
    }
    out->kld = kld;
    out->logit_diff = diff;
    out->same_top = t->at == t_ref->at;
}

void fqi_eval_stats_add(fqi_eval_stats *s, size_t position, const float *logits, const float *reference, size_t n_vocab, uint32_t target)
{
    if (position >= s->n_position || target >= n_vocab) return;   /* the caller's mistake must not write elsewhere */
    top t = find_top(logits, n_vocab);
    double nll = -log_p(&t, logits[target]);
    if (!s->pair || !reference) {
        s->nll[position] = nll;
        return;
    }
    top t_ref = find_top(reference, n_vocab);
    s->nll[position] = -log_p(&t_ref, reference[target]);
    s->pair[position].nll = nll;
    add_pair(&s->pair[position], logits, reference, n_vocab, &t, &t_ref);
}

/* ---- all of them ---- */

typedef double number(const fqi_eval_stats *s, size_t i);

static double number_nll(const fqi_eval_stats *s, size_t i) { return s->pair ? s->pair[i].nll : s->nll[i]; }
static double number_nll_reference(const fqi_eval_stats *s, size_t i) { return s->nll[i]; }
static double number_nll_diff(const fqi_eval_stats *s, size_t i) { return s->pair[i].nll - s->nll[i]; }
static double number_kld(const fqi_eval_stats *s, size_t i) { return s->pair[i].kld; }
static double number_delta_p(const fqi_eval_stats *s, size_t i) { return exp(-s->pair[i].nll) - exp(-s->nll[i]); }
static double number_delta_p2(const fqi_eval_stats *s, size_t i)
{
    double d = number_delta_p(s, i);
    return d * d;
}
static double number_same_top(const fqi_eval_stats *s, size_t i) { return s->pair[i].same_top ? 1 : 0; }

/* Mean, and the error of the mean. */
static fq_value mean(const fqi_eval_stats *s, size_t n, number *x)
{
    fq_value v = { 0 };
    double sum = 0, square = 0;
    for (size_t i = 0; i < n; i++) sum += x(s, i);
    v.value = sum / (double)n;
    for (size_t i = 0; i < n; i++) square += (x(s, i) - v.value) * (x(s, i) - v.value);
    if (n > 1) v.error = sqrt(square / (double)n / (double)(n - 1));
    return v;
}

static fq_value perplexity(fq_value nll) { return (fq_value){ .value = exp(nll.value), .error = exp(nll.value) * nll.error }; }

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(const double *sorted, size_t n, double f)
{
    double p = f * (double)(n - 1);
    size_t i = (size_t)p;
    if (i + 1 >= n) return sorted[n - 1];
    double part = p - (double)i;
    return (1 - part) * sorted[i] + part * sorted[i + 1];
}

static void report_kld(const fqi_eval_stats *s, size_t n, fq_eval_report *out)
{
    double *sorted = s->sorted;
    for (size_t i = 0; i < n; i++) sorted[i] = number_kld(s, i);
    qsort(sorted, n, sizeof *sorted, by_value);
    out->kld_min = sorted[0];
    out->kld_max = sorted[n - 1];
    for (size_t k = 0; k < FQ_N_PERCENTILE; k++) out->kld_percentile[k] = percentile(sorted, n, shares[k]);
}

void fqi_eval_stats_report(const fqi_eval_stats *s, size_t n, fq_eval_report *out)
{
    if (n > s->n_position) n = s->n_position;
    if (n == 0) return;
    out->nll = mean(s, n, number_nll);
    out->ppl = perplexity(out->nll);
    if (!s->pair) return;
    out->nll_reference = mean(s, n, number_nll_reference);
    out->ppl_reference = perplexity(out->nll_reference);
    out->ln_ratio = mean(s, n, number_nll_diff);   /* the error of a difference of paired numbers is the paired error */
    out->kld = mean(s, n, number_kld);
    out->delta_p = mean(s, n, number_delta_p);
    fq_value square = mean(s, n, number_delta_p2);
    out->rms_delta_p.value = sqrt(square.value);
    out->rms_delta_p.error = square.value > 0 ? 0.5 / out->rms_delta_p.value * square.error : 0;
    out->same_top = mean(s, n, number_same_top);
    double diff = 0;
    for (size_t i = 0; i < n; i++)
        if ((double)s->pair[i].logit_diff > diff) diff = (double)s->pair[i].logit_diff;
    out->max_logit_diff = diff;
    report_kld(s, n, out);
}
