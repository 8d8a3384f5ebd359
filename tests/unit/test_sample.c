/* test_sample.c - greedy choice, temperature and top-p against probabilities worked out here by sorting. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "job/sample.h"

#define N 64

static fqi_sampler make(double temperature, double top_p, uint64_t seed, size_t n)
{
    fqi_sampler s;
    fq_err e;
    if (fqi_sampler_create(temperature, top_p, seed, n, &s, &e) != FQ_OK) fail_msg("%s", e.text);
    return s;
}

static uint32_t choose(fqi_sampler *s, const float *logits)
{
    uint32_t id = UINT32_MAX;
    fq_err e;
    if (fqi_sampler_choose(s, logits, &id, &e) != FQ_OK) fail_msg("%s", e.text);
    assert_true(id < s->n_logit);
    return id;
}

static void random_logits(float *x, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        x[i] = (float)((double)(seed >> 33) / 0x1p31 * 12 - 6);
    }
}

/* ---- greedy ---- */

static void test_greedy(void **state)
{
    (void)state;
    static const struct { float logit[4]; uint32_t want; } row[] = {
        { { 0, 1, 2, 3 }, 3 }, { { 3, 1, 3, 2 }, 0 }, { { -5, -4, -4, -9 }, 1 }, { { 0, 0, 0, 0 }, 0 }, { { -0.0f, 0.0f, -1, -1 }, 0 },
        { { -3e38f, 3e38f, 3e38f, 0 }, 1 },
    };
    fqi_sampler s = make(0, 0.3, 7, 4);
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) assert_int_equal(choose(&s, row[i].logit), row[i].want);
    fqi_sampler_free(&s);
}

static void test_not_finite(void **state)
{
    (void)state;
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    for (size_t b = 0; b < 3; b++)
        for (size_t at = 0; at < 5; at++)
            for (int greedy = 0; greedy < 2; greedy++) {
                float logit[5] = { 1, 2, 3, 4, 5 };
                uint32_t id = 77;
                fq_err e;
                fqi_sampler s = make(greedy ? 0 : 1, 0.9, 1, 5);
                logit[at] = bad[b];
                assert_int_equal(fqi_sampler_choose(&s, logit, &id, &e), FQ_E_NUMERIC);
                assert_string_equal(e.rule, "logits");
                assert_int_equal(id, 77);
                fqi_sampler_free(&s);
            }
}

static void test_refused(void **state)
{
    (void)state;
    static const struct { double temperature, top_p; } row[] = { { -1, 0 }, { NAN, 0 }, { INFINITY, 0 }, { 1, -0.1 }, { 1, 1.01 }, { 1, NAN }, { 0, 2 } };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        fqi_sampler s;
        fq_err e;
        assert_int_equal(fqi_sampler_create(row[i].temperature, row[i].top_p, 0, 4, &s, &e), FQ_E_USAGE);
        assert_string_equal(e.rule, "sampling");
    }
}

/* ---- what the probabilities are: sorted, summed, cut, with the definition of sample.h ---- */

typedef struct share { double p; uint32_t id; } share;

static int by_share(const void *a, const void *b)
{
    const share *x = a, *y = b;
    return x->p > y->p ? -1 : x->p < y->p ? 1 : x->id < y->id ? -1 : 1;
}

static void expected(const float *logit, size_t n, double temperature, double top_p, double *p)
{
    share s[N];
    double max = -INFINITY, total = 0, kept = 0;
    size_t n_kept = 0;
    for (size_t i = 0; i < n; i++) max = fmax(max, logit[i]);
    for (size_t i = 0; i < n; i++) total += (s[i] = (share){ exp((logit[i] - max) / temperature), (uint32_t)i }).p;
    qsort(s, n, sizeof *s, by_share);
    while (n_kept < n && (n_kept == 0 || kept < (top_p <= 0 ? 1 : top_p) * total)) kept += s[n_kept++].p;
    memset(p, 0, n * sizeof *p);
    for (size_t i = 0; i < n_kept; i++) p[s[i].id] = s[i].p / kept;
}

/* Pearson's statistic over ids that are expected at least five times; ids of probability 0 must not come at all. */
static void test_distribution(void **state)
{
    (void)state;
    static const struct { double temperature, top_p; size_t n; } row[] = {
        { 1, 0, 8 }, { 1, 1, 8 }, { 0.5, 0, 33 }, { 2, 0.9, 33 }, { 1, 0.5, N }, { 5, 0.95, N }, { 0.1, 0.99, N }, { 1, 1e-9, N }, { 1, 0.7, 1 }, { 100, 0, 1 },
    };
    enum { DRAWS = 40000 };
    for (size_t r = 0; r < sizeof row / sizeof row[0]; r++) {
        float logit[N];
        double p[N], chi = 0;
        int count[N] = { 0 }, degrees = -1;
        random_logits(logit, row[r].n, 1000 + r);
        expected(logit, row[r].n, row[r].temperature, row[r].top_p, p);
        fqi_sampler s = make(row[r].temperature, row[r].top_p, 42 + r, row[r].n);
        for (int i = 0; i < DRAWS; i++) count[choose(&s, logit)]++;
        fqi_sampler_free(&s);
        for (size_t i = 0; i < row[r].n; i++) {
            double want = p[i] * DRAWS;
            if (p[i] <= 0 && count[i] != 0) fail_msg("row %zu: id %zu came %d times and cannot come", r, i, count[i]);
            if (want < 5) continue;
            chi += (count[i] - want) * (count[i] - want) / want;
            degrees++;
        }
        /* mean d, variance 2 d: six of its deviations above is less than one in a million */
        if (degrees > 0 && chi > degrees + 6 * sqrt(2.0 * degrees)) fail_msg("row %zu: chi square %.1f with %d degrees", r, chi, degrees);
    }
}

/* Equal logits at the edge of the nucleus: the lower ids are in it. */
static void test_ties(void **state)
{
    (void)state;
    static const struct { double top_p; uint32_t n_in; } row[] = { { 0.1, 1 }, { 0.125, 1 }, { 0.126, 2 }, { 0.5, 4 }, { 0.51, 5 }, { 0.999, 8 } };
    float logit[8] = { 0 };
    for (size_t r = 0; r < sizeof row / sizeof row[0]; r++) {
        fqi_sampler s = make(1, row[r].top_p, 3, 8);
        bool seen[8] = { false };
        for (int i = 0; i < 500; i++) seen[choose(&s, logit)] = true;
        for (uint32_t i = 0; i < 8; i++) assert_int_equal(seen[i], i < row[r].n_in);
        fqi_sampler_free(&s);
    }
}

/* A temperature near 0 is greedy, a large one nearly even; nothing divides by zero. */
static void test_extremes(void **state)
{
    (void)state;
    float logit[5] = { -3e38f, 1, 3e38f, 2, 0 };
    static const double cold[] = { 1e-320, 1e-30, 0.001 };
    for (size_t i = 0; i < 3; i++) {
        fqi_sampler s = make(cold[i], i == 1 ? 0.5 : 0, i, 5);
        for (int k = 0; k < 100; k++) assert_int_equal(choose(&s, logit), 2);
        fqi_sampler_free(&s);
    }
    int count[5] = { 0 };
    float close[5] = { 1, 2, 3, 4, 5 };
    fqi_sampler s = make(1e30, 0, 9, 5);
    for (int k = 0; k < 5000; k++) count[choose(&s, close)]++;
    fqi_sampler_free(&s);
    for (size_t i = 0; i < 5; i++) assert_in_range(count[i], 850, 1150);
}

static void test_deterministic(void **state)
{
    (void)state;
    float logit[N];
    uint32_t first[50];
    size_t differ = 0;
    random_logits(logit, N, 5);
    for (int round = 0; round < 3; round++) {
        fqi_sampler s = make(3, 0.95, round == 2 ? 12 : 11, N);
        for (size_t i = 0; i < 50; i++) {
            uint32_t id = choose(&s, logit);
            if (round == 0) first[i] = id;
            else if (round == 1) assert_int_equal(id, first[i]);
            else differ += id != first[i];
        }
        fqi_sampler_free(&s);
    }
    assert_true(differ > 10);   /* another seed, other ids */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy), cmocka_unit_test(test_not_finite), cmocka_unit_test(test_refused), cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_ties), cmocka_unit_test(test_extremes), cmocka_unit_test(test_deterministic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
