/* Ranks that are threads: every collective against what it should give, the order of sums, and failure in every place.
 * Ranks that are processes do the same in tests/cli/test_ranks.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <stdatomic.h>

#include <cmocka.h>

#include "comm/comm.h"
#include "support.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

typedef struct shared {
    size_t n;
    uint64_t seed;
    atomic_int broken, done;
    int bad_rank, bad_call;      /* who fails, before which collective */
    fq_err err[FQI_MAX_RANK_THREAD]; fq_status status[FQI_MAX_RANK_THREAD];
} shared;

/* What rank r has at i: of many sizes, so that the order of a sum shows. */
static float value(const shared *s, int r, size_t i)
{
    uint64_t x = s->seed + (uint64_t)r * 7919 + i * 104729 + 1;
    for (int k = 0; k < 3; k++) (void)fqt_random(&x);
    const int power = (int)(x >> 40) % 30 - 15;
    return ((float)(x & 0xffff) - 32768.0f) * (power < 0 ? 1.0f / (float)(1 << -power) : (float)(1 << power));
}

static void expect(shared *s, bool good)
{
    if (!good) s->broken = 1;   /* cmocka's jump must not leave a thread */
}

static fq_status sums(shared *s, fqi_comm *c, fq_err *e)
{
    const int size = fqi_comm_size(c), me = fqi_comm_rank(c);
    const size_t n = s->n;
    float *x = malloc((n + 1) * sizeof *x), *y = malloc((n + 1) * sizeof *y);
    double *z = malloc((n + 1) * sizeof *z), *w = malloc((n + 1) * sizeof *w);
    for (size_t i = 0; i < n; i++) {
        x[i] = y[i] = value(s, me, i);
        z[i] = w[i] = (double)x[i] / 3;
    }
    fq_status status = fqi_comm_sum_float(c, x, n, e);
    if (status == FQ_OK) status = fqi_comm_sum_double(c, z, n, e);
    if (status == FQ_OK) status = fqi_comm_sum_float_to(c, size - 1, y, n, e);
    if (status == FQ_OK) status = fqi_comm_sum_double_to(c, 0, w, n, e);
    for (size_t i = 0; i < n && status == FQ_OK; i++) {
        float f = value(s, 0, i);
        double d = (double)value(s, 0, i) / 3;
        for (int r = 1; r < size; r++) {
            f += value(s, r, i);
            d += (double)value(s, r, i) / 3;
        }
        expect(s, memcmp(&x[i], &f, sizeof f) == 0 && memcmp(&z[i], &d, sizeof d) == 0);
        const float f_here = me == size - 1 ? f : value(s, me, i);
        const double d_here = me == 0 ? d : (double)value(s, me, i) / 3;
        expect(s, memcmp(&y[i], &f_here, sizeof f) == 0 && memcmp(&w[i], &d_here, sizeof d) == 0);
    }
    free(x);
    free(y);
    free(z);
    free(w);
    return status;
}

static fq_status rest(shared *s, fqi_comm *c, fq_err *e)
{
    const int size = fqi_comm_size(c), me = fqi_comm_rank(c);
    unsigned char all[4096] = { 0 }, mine[64];
    size_t bytes[FQI_MAX_RANK_THREAD], at = 0;
    for (int r = 0; r < size; r++) bytes[r] = (size_t)(r * 5 % 11);
    memset(mine, 'a' + me, sizeof mine);
    FQI_TRY(fqi_comm_gather(c, mine, bytes, all, e));
    for (int r = 0; r < size; at += bytes[r++])
        for (size_t i = 0; i < bytes[r]; i++) expect(s, all[at + i] == 'a' + r);
    memset(all, 0, sizeof all);
    FQI_TRY(fqi_comm_gather_to(c, size - 1, mine, bytes, all, e));
    for (int r = 0, k = 0; r < size; k += (int)bytes[r++])
        if (bytes[r] > 0) expect(s, all[k] == (me == size - 1 ? 'a' + r : 0));
    memset(all, 'A' + me, sizeof all);
    FQI_TRY(fqi_comm_broadcast(c, size - 1, all, sizeof all, e));
    expect(s, all[0] == 'A' + size - 1 && all[sizeof all - 1] == 'A' + size - 1);
    FQI_TRY(fqi_comm_same(c, "option", "abc", 3, e));
    FQI_TRY(fqi_comm_barrier(c, e));
    return fqi_comm_agree(c, FQ_OK, e);
}

static fq_status all_calls(void *user, fqi_comm *c, fq_err *e)
{
    shared *s = user;
    FQI_TRY(sums(s, c, e));
    FQI_TRY(rest(s, c, e));
    expect(s, fqi_comm_callbacks(c) == (fqi_comm_rank(c) == 0));
    atomic_fetch_add(&s->done, 1);
    return FQ_OK;
}

static void test_collectives(void **state)
{
    static const int rank[] = { 1, 2, 3, 5, 8 };
    static const size_t length[] = { 0, 1, 7, 1000, 20000, (1u << 20) + 3 };
    (void)state;
    const uint64_t seed = fqt_seed(611);
    for (size_t i = 0; i < COUNT(rank); i++)
        for (size_t k = 0; k < COUNT(length); k++) {
            if (length[k] > 20000 && rank[i] != 3) continue;
            shared s = { .n = length[k], .seed = seed };
            const fq_run run = { .n_rank = rank[i] };
            FQT_OK(fqi_ranks_run(&run, all_calls, &s, e));
            assert_int_equal(s.broken, 0);
            assert_int_equal(s.done, rank[i]);
        }
}

/* ---- failure ------------------------------------------------------------------------------------------------------- */

static fq_status chain(shared *s, fqi_comm *c, fq_err *e)
{
    float x[4] = { 0 };
    double y[3] = { 0 };
    size_t bytes[FQI_MAX_RANK_THREAD] = { 1 };
    unsigned char all[FQI_MAX_RANK_THREAD] = { 0 };
    for (int i = 0; i < 6; i++) {
        char phase[16];
        snprintf(phase, sizeof phase, "step %d", i);
        fqi_comm_phase(c, phase);
        if (fqi_comm_rank(c) == s->bad_rank && i == s->bad_call) return fqi_fail(e, FQ_E_IO, NULL, "disk", "found no space, expected some");
        if (i == 0) FQI_TRY(fqi_comm_barrier(c, e));
        if (i == 1) FQI_TRY(fqi_comm_sum_float(c, x, 4, e));
        if (i == 2) FQI_TRY(fqi_comm_broadcast(c, 0, x, sizeof x, e));
        if (i == 3) FQI_TRY(fqi_comm_gather(c, all, bytes, all, e));
        if (i == 4) FQI_TRY(fqi_comm_same(c, "x", "y", 1, e));
        if (i == 5) FQI_TRY(fqi_comm_sum_double_to(c, 1, y, 3, e));
    }
    return FQ_OK;
}

static fq_status failing(void *user, fqi_comm *c, fq_err *e)
{
    shared *s = user;
    const int me = fqi_comm_rank(c);
    fq_err why = { 0 };
    fq_status status = chain(s, c, &why);
    status = fqi_comm_agree(c, status, &why);
    s->err[me] = why;
    s->status[me] = status;
    expect(s, fqi_comm_barrier(c, NULL) == status);   /* again, at once */
    if (e) *e = why;
    return status;
}

static void test_one_fails(void **state)
{
    (void)state;
    for (int call = 0; call < 6; call++)
        for (int bad = 0; bad < 3; bad++) {
            shared s = { .bad_rank = bad, .bad_call = call };
            const fq_run run = { .n_rank = 3 };
            fq_err e = { 0 };
            char begin[24], end[64];
            assert_int_equal(fqi_ranks_run(&run, failing, &s, &e), FQ_E_IO);
            snprintf(begin, sizeof begin, "rank %d (", bad);
            snprintf(end, sizeof end, "): step %d: disk: found no space, expected some", call);
            for (int r = 0; r < 3; r++) {
                assert_int_equal(s.status[r], FQ_E_IO);
                assert_string_equal(s.err[r].text, e.text);
            }
            assert_memory_equal(e.text, begin, strlen(begin));
            assert_non_null(strstr(e.text, end));
            assert_string_equal(e.rule, "disk");
            assert_int_equal(s.broken, 0);
        }
}

static fq_status all_fail(void *user, fqi_comm *c, fq_err *e)
{
    (void)user;
    FQI_TRY(fqi_comm_barrier(c, e));
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE("config.json"), "json-value", "found 1, expected 2");
}

static void test_all_fail_alike(void **state)
{
    const fq_run run = { .n_rank = 4 };
    fq_err e = { 0 };
    (void)state;
    assert_int_equal(fqi_ranks_run(&run, all_fail, NULL, &e), FQ_E_INPUT);
    assert_string_equal(e.text, "config.json: json-value: found 1, expected 2");
}

static fq_status differ(void *user, fqi_comm *c, fq_err *e)
{
    const int kind = *(int *)user, me = fqi_comm_rank(c);
    float x[2] = { 0 };
    if (kind == 0) return fqi_comm_same(c, "config.json", me == 2 ? "ab" : "abc", me == 2 ? 2 : 3, e);
    if (kind == 1) return fqi_comm_sum_float(c, x, me == 1 ? 1 : 2, e);
    return me == 2 ? fqi_comm_barrier(c, e) : fqi_comm_broadcast(c, 0, x, 0, e);
}

static void test_ranks_differ(void **state)
{
    static const struct { fq_status status; const char *who, *text; } want[] = {
        { FQ_E_INPUT, "rank 2 (", "ranks-differ: rank 2" }, { FQ_E_PEER, "rank 1 (", "found a sum of floats of 4 bytes" }, { FQ_E_PEER, "rank 2 (", "found a barrier of 0 bytes" },
    };
    (void)state;
    for (int kind = 0; kind < (int)COUNT(want); kind++) {
        const fq_run run = { .n_rank = 3 };
        fq_err e = { 0 };
        assert_int_equal(fqi_ranks_run(&run, differ, &kind, &e), want[kind].status);
        assert_non_null(strstr(e.text, want[kind].who));
        assert_non_null(strstr(e.text, want[kind].text));
    }
}

/* ---- one rank, and the calls that start ---------------------------------------------------------------------------- */

static void test_one_rank(void **state)
{
    float x = 3;
    size_t one = sizeof x;
    float all = 0;
    (void)state;
    assert_int_equal(fqi_comm_size(NULL), 1);
    FQT_OK(fqi_comm_sum_float(NULL, &x, 1, e));
    FQT_OK(fqi_comm_gather(NULL, &x, &one, &all, e));
    FQT_OK(fqi_comm_same(NULL, "x", &x, sizeof x, e));
    assert_true(x > 2.5f && x < 3.5f && all > 2.5f && all < 3.5f);
    fq_err mine = { .text = "mine" };
    assert_int_equal(fqi_comm_agree(NULL, FQ_E_IO, &mine), FQ_E_IO);
    assert_string_equal(mine.text, "mine");
}

static void test_start_and_finish(void **state)
{
    shared s = { .n = 10, .seed = 5 };
    const fq_run run = { .n_rank = 3 }, wrong[] = { { .n_rank = -1 }, { .n_rank = 65 }, { .n_rank = 5000 }, { .heartbeat_seconds = -1 } };
    fqi_comm *c = NULL;
    (void)state;
    FQT_OK(fqi_ranks_start(&run, all_calls, &s, &c, e));
    assert_int_equal(fqi_comm_rank(c), 0);
    assert_int_equal(fqi_comm_n_local(c), 3);
    FQT_OK(fqi_ranks_finish(c, all_calls(&s, c, e), e));
    assert_int_equal(s.done, 3);
    for (size_t i = 0; i < COUNT(wrong); i++) assert_int_equal(fqi_ranks_start(&wrong[i], all_calls, &s, &c, NULL), FQ_E_USAGE);
    /* rank 0 gives up before it begins */
    shared t = { .n = 10 };
    FQT_OK(fqi_ranks_start(&run, all_calls, &t, &c, e));
    assert_int_equal(fqi_ranks_finish(c, FQ_E_CANCELLED, NULL), FQ_E_CANCELLED);
    assert_int_equal(t.done, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_collectives), cmocka_unit_test(test_one_fails), cmocka_unit_test(test_all_fail_alike),
        cmocka_unit_test(test_ranks_differ), cmocka_unit_test(test_one_rank), cmocka_unit_test(test_start_and_finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
