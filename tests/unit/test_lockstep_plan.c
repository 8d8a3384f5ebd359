/* test_lockstep_plan.c - how a lockstep run fits into memory: every budget from the least on gives a plan within it. No weights are read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "job/lockstep.h"
#include "job/runnable.h"
#include "make_ckpt.h"

#define MIB (UINT64_C(1) << 20)

typedef struct setting { size_t n_model, n_stream, n_window, n_context, first_scored; } setting;

static char *dir[2];
static fqi_runnable model[2];
static const fq_run plain = { .n_thread = 2 };

static int setup(void **state)
{
    (void)state;
    const fqt_model m[2] = {
        { .family = "qwen2", .hidden = 64, .ff = 160, .layers = 3, .heads = 4, .kv = 2, .head_dim = 16, .vocab = 5003, .seed = 1 },
        { .family = "qwen2", .hidden = 64, .ff = 320, .layers = 3, .heads = 4, .kv = 2, .head_dim = 16, .vocab = 5003, .seed = 2 },
    };
    for (size_t i = 0; i < 2; i++) {
        fq_err e = { 0 };
        dir[i] = fqt_tempdir();
        fqt_make_model(dir[i], &m[i]);
        if (fqi_runnable_open(dir[i], &plain, &model[i], &e) != FQ_OK) {
            print_error("%s\n", e.text);
            return 1;
        }
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        fqi_runnable_free(&model[i]);
        if (dir[i]) fqt_remove(dir[i]);
        free(dir[i]);
    }
    return 0;
}

static fqi_lockstep make(const setting *s, const fq_run *run)
{
    fqi_lockstep l = { .n_model = s->n_model, .n_stream = s->n_stream, .n_window = s->n_window, .n_context = s->n_context, .first_scored = s->first_scored,
                       .served = FQ_DTYPE_F32, .run = run, .phase = "test" };
    for (size_t i = 0; i < s->n_model; i++) {
        l.ckpt[i] = model[i].ckpt;
        l.decoder[i] = &model[i].decoder;
    }
    for (size_t k = 0; k < s->n_stream; k++) {
        l.stream[k].model = k % s->n_model;
        l.stream[k].order = k < s->n_model ? FQI_ORDER_FIXED : FQI_ORDER_FAST;
    }
    for (size_t k = 1; k < s->n_stream; k++) {
        l.pair[l.n_pair].a = 0;
        l.pair[l.n_pair++].b = k;
    }
    return l;
}

static void check(const setting *s, const fqi_lockstep_plan *p)
{
    size_t n_scored = s->n_window * (s->n_context - 1 - s->first_scored);
    for (size_t i = 0; i < s->n_model; i++) {
        assert_in_range(p->n_slot[i], 1, 2);
        assert_in_range(p->head_rows[i], 1, 5003);
    }
    assert_in_range(p->batch_window, 1, s->n_window);
    assert_in_range(p->block_tokens, 1, s->n_context);
    if (p->block_tokens < s->n_context) assert_int_equal(p->batch_window, 1);
    assert_in_range(p->logit_rows, 1, n_scored);
    assert_int_equal(p->scratch_bytes, p->acts_in_memory ? 0 : s->n_window * s->n_context * 64 * sizeof(float) * s->n_stream);
    assert_int_equal(p->n_thread, 2);
    assert_non_null(p->kernel);
    assert_true(p->weight_bytes > 0 && p->memory_bytes > 0);
}

static const setting settings[] = {
    { 1, 1, 40000, 512, 256 }, { 2, 2, 20000, 512, 256 }, { 2, 4, 2, 256, 0 }, { 1, 1, 1, 4, 2 }, { 1, 2, 3, 100000, 50000 }, { 2, 2, 5, 17, 8 },
};
#define N_SETTING (sizeof settings / sizeof settings[0])

static void test_without_budget(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SETTING; i++) {
        fqi_lockstep l = make(&settings[i], &plain);
        fqi_lockstep_plan p = { 0 };
        fq_run_plan shown = { 0 };
        fq_err e = { 0 };
        if (fqi_lockstep_plan_make(&l, &p, &e) != FQ_OK) fail_msg("%zu: %s", i, e.text);
        check(&settings[i], &p);
        fqi_lockstep_run_plan(&l, &p, &shown);
        for (size_t m = 0; m < settings[i].n_model; m++) {
            assert_int_equal(p.n_slot[m], 2);
            assert_true(p.head_rows[m] == 5003 || p.logit_rows == shown.n_scored);   /* read once in any case */
        }
        if (settings[i].n_context == 512) assert_int_equal(p.batch_window * p.block_tokens, 2048);
        assert_int_equal(shown.n_token, settings[i].n_window * settings[i].n_context);
        assert_int_equal(shown.n_scored, settings[i].n_window * (settings[i].n_context - 1 - settings[i].first_scored));
        assert_int_equal(shown.memory_bytes, p.memory_bytes);
    }
}

static uint64_t least_of(const setting *s)
{
    const fq_run run = { .n_thread = 2, .memory_bytes = 1 };
    fqi_lockstep l = make(s, &run);
    fqi_lockstep_plan p = { 0 };
    fq_err e = { 0 };
    unsigned long long mib = 0;
    assert_int_equal(fqi_lockstep_plan_make(&l, &p, &e), FQ_E_NOMEM);
    assert_string_equal(e.rule, "memory-budget");
    const char *at = strstr(e.text, "expected at least ");
    assert_non_null(strstr(e.text, "found 1 byte, "));
    if (!at || sscanf(at, "expected at least %llu MiB", &mib) != 1) fail_msg("%s", e.text);
    return mib * MIB;
}

/* The least that the message names works, half of it does not; from there on every budget works and is kept. */
static void test_budgets(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SETTING; i++) {
        const setting *s = &settings[i];
        uint64_t least = least_of(s), before = 0;
        for (uint64_t budget = least / 2; budget < UINT64_C(1) << 34; budget += budget == least / 2 ? least - least / 2 : budget / 16) {
            const fq_run run = { .n_thread = 2, .memory_bytes = budget };
            fqi_lockstep l = make(s, &run);
            fqi_lockstep_plan p = { 0 };
            fq_err e = { 0 };
            fq_status status = fqi_lockstep_plan_make(&l, &p, &e);
            if (budget < least) {
                assert_int_equal(status, FQ_E_NOMEM);
                continue;
            }
            if (status != FQ_OK) fail_msg("setting %zu, budget %llu: %s", i, (unsigned long long)budget, e.text);
            check(s, &p);
            if (p.memory_bytes > budget) fail_msg("setting %zu: plan of %llu for %llu", i, (unsigned long long)p.memory_bytes, (unsigned long long)budget);
            /* the largest single consumer: once it fits, more memory never sends it back to the disk */
            if (p.acts_in_memory) before = budget;
            else assert_true(before == 0);
        }
    }
}

/* What the caller will add counts. */
static void test_extra(void **state)
{
    (void)state;
    fqi_lockstep l = make(&settings[2], &plain);
    fqi_lockstep_plan p = { 0 }, q = { 0 };
    fq_err e = { 0 };
    assert_int_equal(fqi_lockstep_plan_make(&l, &p, &e), FQ_OK);
    l.extra_bytes = 300 * MIB;
    assert_int_equal(fqi_lockstep_plan_make(&l, &q, &e), FQ_OK);
    assert_true(q.memory_bytes >= p.memory_bytes + 299 * MIB);
    l.extra_bytes = UINT64_MAX - 5;
    assert_int_equal(fqi_lockstep_plan_make(&l, &q, &e), FQ_E_NOMEM);
}

static void test_unknown_kernel(void **state)
{
    (void)state;
    fqi_lockstep l = make(&settings[2], &plain);
    fqi_lockstep_plan p = { 0 };
    fq_err e = { 0 };
    setenv("FITQ_KERNEL", "mmx", 1);
    assert_int_equal(fqi_lockstep_plan_make(&l, &p, &e), FQ_E_USAGE);
    unsetenv("FITQ_KERNEL");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_budget), cmocka_unit_test(test_budgets), cmocka_unit_test(test_extra), cmocka_unit_test(test_unknown_kernel),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
