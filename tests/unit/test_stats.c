/* test_stats.c - statistics of logits against distributions done by hand, and against straightforward sums on random logits. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "eval/stats.h"

static fqi_eval_stats *create(size_t n, bool pair)
{
    fqi_eval_stats *s = NULL;
    fq_err e = { 0 };
    assert_int_equal(fqi_eval_stats_create(n, pair, &s, &e), FQ_OK);
    return s;
}

static void near(double found, double expected, double tolerance, const char *what)
{
    if (fabs(found - expected) <= tolerance) return;
    fail_msg("%s: found %.17g, expected %.17g +- %g", what, found, expected, tolerance);
}

/* p = 1/2, 1/4, 1/8, 1/8 */
static const float halves[4] = { 0.0f, -0.693147180559945f, -1.386294361119891f, -1.386294361119891f };
static const float flat[4] = { 7.5f, 7.5f, 7.5f, 7.5f };

static void test_perplexity_by_hand(void **state)
{
    (void)state;
    fqi_eval_stats *s = create(2, false);
    fq_eval_report r = { 0 };
    fqi_eval_stats_add(s, 0, halves, NULL, 4, 0);   /* nll ln 2 */
    fqi_eval_stats_add(s, 1, halves, NULL, 4, 3);   /* nll 3 ln 2 */
    fqi_eval_stats_report(s, 2, &r);
    near(r.nll.value, 2 * log(2), 1e-7, "nll");
    /* E[x^2] - E[x]^2 = ln^2 2, n - 1 = 1 */
    near(r.nll.error, log(2), 1e-7, "error of nll");
    near(r.ppl.value, 4, 1e-6, "perplexity");
    near(r.ppl.error, 4 * log(2), 1e-6, "error of perplexity");
    assert_true(r.kld.value == 0 && r.ppl_reference.value == 0);
    fqi_eval_stats_free(s);
}

static void test_pair_by_hand(void **state)
{
    (void)state;
    fqi_eval_stats *s = create(1, true);
    fq_eval_report r = { 0 };
    fqi_eval_stats_add(s, 0, flat, halves, 4, 1);
    fqi_eval_stats_report(s, 1, &r);
    /* of flat from halves: sum p (ln p - ln 1/4) = ln 4 - 1.75 ln 2 */
    near(r.kld.value, 0.25 * log(2), 1e-7, "KLD");
    near(r.kld_min, r.kld.value, 0, "smallest");
    near(r.kld_max, r.kld.value, 0, "largest");
    for (size_t i = 0; i < FQ_N_PERCENTILE; i++) near(r.kld_percentile[i], r.kld.value, 0, "percentile of one number");
    near(r.nll.value, log(4), 1e-7, "nll");
    near(r.nll_reference.value, log(4), 1e-7, "nll of the reference");
    near(r.ln_ratio.value, 0, 1e-7, "ln ratio");
    near(r.delta_p.value, 0, 1e-7, "delta p");
    near(r.same_top.value, 1, 0, "same top: the lowest of equal ones is 0, as in the other");
    near(r.max_logit_diff, 7.5 + 2 * log(2), 1e-5, "largest difference");
    near(r.kld.error, 0, 0, "error of one number");
    fqi_eval_stats_free(s);
}

/* Equal logits: the lowest index is the top one, on both sides. */
static void test_ties(void **state)
{
    (void)state;
    static const struct { float x[3], ref[3]; bool same; } row[] = {
        { { 1, 1, 0 }, { 1, 0, 0 }, true },
        { { 1, 1, 0 }, { 0, 1, 0 }, false },
        { { 1, 1, 1 }, { 1, 1, 1 }, true },
        { { 0, 2, 2 }, { 0, 3, 1 }, true },
        { { 0, 2, 2 }, { 0, 1, 3 }, false },
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        fqi_eval_stats *s = create(1, true);
        fq_eval_report r = { 0 };
        fqi_eval_stats_add(s, 0, row[i].x, row[i].ref, 3, 0);
        fqi_eval_stats_report(s, 1, &r);
        if ((r.same_top.value > 0.5) != row[i].same) fail_msg("row %zu: found %g", i, r.same_top.value);
        fqi_eval_stats_free(s);
    }
}

/* A token that the reference gives less than e^-16 does not count, however wrong the other is about it; one just above does. */
static void test_cut(void **state)
{
    (void)state;
    static const struct { float l; bool counts; } row[] = { { -15.9f, true }, { -16.1f, false }, { -30.0f, false } };
    for (size_t i = 0; i < 3; i++) {
        const float ref[2] = { 0, row[i].l }, x[2] = { 0, -80 };
        double z = 1 + exp((double)row[i].l), l0 = -log(z), l1 = (double)row[i].l - log(z);
        double expected = exp(l0) * l0 + (row[i].counts ? exp(l1) * (l1 + 80) : 0);
        fqi_eval_stats *s = create(1, true);
        fq_eval_report r = { 0 };
        fqi_eval_stats_add(s, 0, x, ref, 2, 0);
        fqi_eval_stats_report(s, 1, &r);
        near(r.kld.value, expected, 1e-15, "KLD at the cut");
        fqi_eval_stats_free(s);
    }
}

/* Positions whose KLD grows with the position: percentiles are linear between two of them. */
static void test_percentiles(void **state)
{
    (void)state;
    enum { N = 11 };
    double kld[N];
    fqi_eval_stats *s = create(N, true);
    fq_eval_report r = { 0 };
    for (size_t i = 0; i < N; i++) {
        const float ref[2] = { 0, 0 }, x[2] = { (float)i, 0 };
        kld[i] = 0.5 * (log(0.5) - ((double)i - log(exp((double)i) + 1))) + 0.5 * (log(0.5) + log(exp((double)i) + 1));
        fqi_eval_stats_add(s, N - 1 - i, x, ref, 2, 0);
    }
    fqi_eval_stats_report(s, N, &r);
    near(r.kld_percentile[4], kld[5], 1e-12, "median");
    near(r.kld_percentile[3], kld[9], 1e-12, "90 %: place 9 exactly");
    near(r.kld_percentile[2], 0.5 * kld[9] + 0.5 * kld[10], 1e-12, "95 %: half way between 9 and 10");
    near(r.kld_percentile[0], 0.01 * kld[9] + 0.99 * kld[10], 1e-12, "99.9 %");
    near(r.kld_percentile[5], kld[1], 1e-12, "10 %");
    near(r.kld_percentile[8], 0.99 * kld[0] + 0.01 * kld[1], 1e-12, "0.1 %");
    near(r.kld_min, 0, 0, "smallest");
    near(r.kld_max, kld[10], 1e-12, "largest");
    fqi_eval_stats_report(s, N, &r);
    near(r.kld_percentile[4], kld[5], 1e-12, "median of a second report");
    fqi_eval_stats_free(s);
}

static void test_of_itself(void **state)
{
    (void)state;
    fqi_eval_stats *s = create(50, true);
    fq_eval_report r = { 0 };
    srand(1);
    for (size_t i = 0; i < 50; i++) {
        float x[37];
        for (size_t k = 0; k < 37; k++) x[k] = (float)rand() / (float)RAND_MAX * 20 - 10;
        fqi_eval_stats_add(s, i, x, x, 37, (uint32_t)(i % 37));
    }
    fqi_eval_stats_report(s, 50, &r);
    assert_true(r.kld.value == 0 && r.kld.error == 0 && r.kld_max == 0 && r.kld_min == 0);
    assert_true(r.ln_ratio.value == 0 && r.ln_ratio.error == 0 && r.rms_delta_p.value == 0 && r.max_logit_diff == 0);
    assert_true(r.same_top.value == 1 && r.same_top.error == 0);
    assert_true(r.nll.value == r.nll_reference.value && r.nll.error == r.nll_reference.error);
    fqi_eval_stats_free(s);
}

/* ---- against sums as they stand in the definitions, in long double ---- */

static long double naive_log_p(const float *x, size_t n, size_t i)
{
    long double sum = 0;
    for (size_t k = 0; k < n; k++) sum += expl((long double)x[k] - (long double)x[i]);
    return -logl(sum);
}

static void naive_mean(const long double *x, size_t n, fq_value *out)
{
    long double sum = 0, square = 0;
    for (size_t i = 0; i < n; i++) {
        sum += x[i];
        square += x[i] * x[i];
    }
    sum /= (long double)n;
    long double v = square / (long double)n - sum * sum;
    out->value = (double)sum;
    out->error = v > 0 ? (double)sqrtl(v / (long double)(n - 1)) : 0;
}

static void near_value(const fq_value *found, const fq_value *expected, const char *what)
{
    near(found->value, expected->value, 1e-12 * (1 + fabs(expected->value)), what);
    near(found->error, expected->error, 1e-10 * (1 + fabs(expected->error)), what);
}

enum { MANY = 200, VOCAB = 113 };
typedef struct many { float x[MANY][VOCAB], ref[MANY][VOCAB]; uint32_t target[MANY]; } many;

static many *make_many(unsigned seed)
{
    many *m = calloc(1, sizeof *m);
    assert_non_null(m);
    srand(seed);
    for (size_t i = 0; i < MANY; i++) {
        m->target[i] = (uint32_t)rand() % VOCAB;
        for (size_t k = 0; k < VOCAB; k++) {
            m->ref[i][k] = (float)rand() / (float)RAND_MAX * 24 - 12;
            m->x[i][k] = m->ref[i][k] + ((float)rand() / (float)RAND_MAX - 0.5f) * 0.3f;
        }
    }
    return m;
}

static void test_against_definitions(void **state)
{
    (void)state;
    unsigned seed = 20261122;
    print_message("seed %u\n", seed);
    many *m = make_many(seed);
    fqi_eval_stats *s = create(MANY, true);
    fq_eval_report r = { 0 };
    static long double nll[MANY], nll_ref[MANY], kld[MANY], dp[MANY], dp2[MANY];
    for (size_t i = 0; i < MANY; i++) {
        size_t t = m->target[i];
        nll[i] = -naive_log_p(m->x[i], VOCAB, t);
        nll_ref[i] = -naive_log_p(m->ref[i], VOCAB, t);
        dp[i] = expl(-nll[i]) - expl(-nll_ref[i]);
        dp2[i] = dp[i] * dp[i];
        kld[i] = 0;
        for (size_t k = 0; k < VOCAB; k++) {
            long double l = naive_log_p(m->ref[i], VOCAB, k);
            if (l > -16) kld[i] += expl(l) * (l - naive_log_p(m->x[i], VOCAB, k));
        }
        fqi_eval_stats_add(s, (i * 77) % MANY, m->x[(i * 77) % MANY], m->ref[(i * 77) % MANY], VOCAB, m->target[(i * 77) % MANY]);
    }
    fqi_eval_stats_report(s, MANY, &r);
    fq_value v, b, ratio;
    naive_mean(nll, MANY, &v);
    near_value(&r.nll, &v, "nll");
    near(r.ppl.error, exp(v.value) * v.error, 1e-8, "error of perplexity");
    naive_mean(nll_ref, MANY, &b);
    near_value(&r.nll_reference, &b, "nll of the reference");
    long double cov = 0;
    for (size_t i = 0; i < MANY; i++) cov += nll[i] * nll_ref[i];
    cov = (cov / MANY - (long double)v.value * (long double)b.value) / (MANY - 1);
    ratio.value = v.value - b.value;
    ratio.error = sqrt(v.error * v.error + b.error * b.error - 2 * (double)cov);
    near(r.ln_ratio.value, ratio.value, 1e-12, "ln ratio");
    near(r.ln_ratio.error, ratio.error, 1e-9, "paired error");
    assert_true(r.ln_ratio.error < 0.2 * v.error);   /* pairing is what makes it small */
    naive_mean(kld, MANY, &v);
    near_value(&r.kld, &v, "KLD");
    naive_mean(dp, MANY, &v);
    near_value(&r.delta_p, &v, "delta p");
    naive_mean(dp2, MANY, &v);
    near(r.rms_delta_p.value, sqrt(v.value), 1e-12, "RMS delta p");
    near(r.rms_delta_p.error, 0.5 / sqrt(v.value) * v.error, 1e-10, "error of RMS delta p");
    double p = r.same_top.value;
    near(r.same_top.error, sqrt(p * (1 - p) / (MANY - 1)), 1e-12, "error of same top");
    assert_true(p > 0.5 && p < 1);
    fqi_eval_stats_free(s);
    free(m);
}

/* The order in which positions come, and the threads that bring them, change no bit. */
static void test_order_is_nothing(void **state)
{
    (void)state;
    many *m = make_many(7);
    fq_eval_report r[2] = { 0 };
    for (int round = 0; round < 2; round++) {
        fqi_eval_stats *s = create(MANY, true);
#pragma omp parallel for num_threads(round == 0 ? 1 : 3) schedule(dynamic)
        for (int k = 0; k < MANY; k++) {
            size_t i = (size_t)(round == 0 ? k : MANY - 1 - k);
            fqi_eval_stats_add(s, i, m->x[i], m->ref[i], VOCAB, m->target[i]);
        }
        fqi_eval_stats_report(s, MANY, &r[round]);
        fqi_eval_stats_free(s);
    }
    assert_memory_equal(&r[0], &r[1], sizeof r[0]);
    free(m);
}

/* Large logits do not overflow, and a target beyond the vocabulary writes nowhere. */
static void test_extremes(void **state)
{
    (void)state;
    const float x[3] = { 3e38f, -3e38f, 0 };
    fqi_eval_stats *s = create(1, true);
    fq_eval_report r = { 0 };
    fqi_eval_stats_add(s, 0, x, x, 3, 0);
    fqi_eval_stats_add(s, 1, x, x, 3, 0);
    fqi_eval_stats_add(s, 0, x, x, 3, 3);
    fqi_eval_stats_report(s, 1, &r);
    assert_true(r.nll.value == 0 && r.kld.value == 0);
    fqi_eval_stats_report(s, 0, &r);
    assert_true(fqi_eval_stats_bytes(SIZE_MAX, true) == UINT64_MAX);
    fqi_eval_stats_free(s);
    fqi_eval_stats_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_perplexity_by_hand), cmocka_unit_test(test_pair_by_hand), cmocka_unit_test(test_ties), cmocka_unit_test(test_cut),
        cmocka_unit_test(test_percentiles), cmocka_unit_test(test_of_itself), cmocka_unit_test(test_against_definitions), cmocka_unit_test(test_order_is_nothing),
        cmocka_unit_test(test_extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
