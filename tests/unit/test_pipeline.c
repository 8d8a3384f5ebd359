/* The pipeline: order, bounded slots, the first error of any stage ends it, and it always ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/pipeline.h"

typedef struct item { int number; bool in_use, worked; } item;

typedef struct job {
    int n_item, fail_produce, fail_work, fail_consume; /* -1 = never */
    int produced, consumed;
    atomic_int in_flight, most_in_flight, broken;      /* broken: a promise was broken in a thread that must not assert */
    pthread_t caller;
    bool silent;                                       /* the failing stage leaves fq_err alone */
    bool nap;
} job;

/* Sleeps of a length that looks random but is not. */
static void nap(const job *j, int i)
{
    if (j->nap) usleep((unsigned)(i * 7919 % 13) * 20);
}

static fq_status fail_at(const job *j, const char *stage, fq_err *e)
{
    return j->silent ? FQ_E_NUMERIC : fqi_fail(e, FQ_E_NUMERIC, NULL, stage, "wanted");
}

static fq_status produce(void *user, void *slot, bool *done, fq_err *e)
{
    job *j = user;
    item *it = slot;
    if (j->produced == j->fail_produce) return fail_at(j, "produce", e);
    if (j->produced == j->n_item) { *done = true; return FQ_OK; }
    if (it->in_use) j->broken = 1;
    nap(j, j->produced);
    *it = (item){ .number = j->produced++, .in_use = true };
    int now = atomic_fetch_add(&j->in_flight, 1) + 1, most = atomic_load(&j->most_in_flight);
    while (now > most && !atomic_compare_exchange_weak(&j->most_in_flight, &most, now)) {}
    return FQ_OK;
}

static fq_status work(void *user, void *slot, fq_err *e)
{
    job *j = user;
    item *it = slot;
    if (it->worked || !it->in_use) j->broken = 2;
    nap(j, it->number + 5);
    if (it->number == j->fail_work) return fail_at(j, "work", e);
    it->worked = true;
    return FQ_OK;
}

static fq_status consume(void *user, void *slot, fq_err *e)
{
    job *j = user;
    item *it = slot;
    if (!pthread_equal(pthread_self(), j->caller) || it->number != j->consumed) j->broken = 3;
    if (it->number == j->fail_consume) return fail_at(j, "consume", e);
    nap(j, it->number + 9);
    j->consumed++;
    it->in_use = false;
    atomic_fetch_sub(&j->in_flight, 1);
    return FQ_OK;
}

enum { MAX_SLOT = 16 };

static fq_status run(job *j, size_t n_slot, int n_worker, fq_err *e)
{
    item items[MAX_SLOT] = { 0 };
    void *slot[MAX_SLOT];
    for (size_t i = 0; i < n_slot; i++) slot[i] = &items[i];
    j->caller = pthread_self();
    fqi_pipeline p = { .user = j, .slot = slot, .n_slot = n_slot, .n_worker = n_worker == 0 ? 1 : n_worker,
                       .produce = produce, .work = n_worker == 0 ? NULL : work, .consume = consume };
    fq_status s = fqi_pipeline_run(&p, e);
    assert_int_equal(j->broken, 0);
    assert_true((size_t)j->most_in_flight <= n_slot);
    return s;
}

static const job never = { .fail_produce = -1, .fail_work = -1, .fail_consume = -1 };

static void all_in_order(void **state)
{
    (void)state;
    static const int n_item[] = { 0, 1, 2, 3, 17, 500 };
    for (size_t i = 0; i < sizeof n_item / sizeof n_item[0]; i++)
        for (size_t n_slot = 2; n_slot <= MAX_SLOT; n_slot += 7)
            for (int n_worker = 0; n_worker <= 16; n_worker = n_worker * 2 + 1) {
                job j = never;
                fq_err e = { 0 };
                j.n_item = n_item[i];
                j.nap = n_item[i] < 20;
                assert_int_equal(run(&j, n_slot, n_worker, &e), FQ_OK);
                assert_int_equal(j.consumed, n_item[i]);
                assert_int_equal(j.in_flight, 0);
            }
}

/* Every stage fails at every place, with every number of workers; the message is the stage's own. */
static void first_error_ends_it(void **state)
{
    (void)state;
    for (int stage = 0; stage < 3; stage++)
        for (int at = 0; at < 12; at++)
            for (int n_worker = 1; n_worker <= 8; n_worker += 7) {
                job j = never;
                fq_err e = { 0 };
                j.n_item = 40;
                j.nap = at % 2 == 0;
                if (stage == 0) j.fail_produce = at;
                if (stage == 1) j.fail_work = at;
                if (stage == 2) j.fail_consume = at;
                assert_int_equal(run(&j, 3, n_worker, &e), FQ_E_NUMERIC);
                assert_string_equal(e.rule, stage == 0 ? "produce" : stage == 1 ? "work" : "consume");
                assert_true(j.consumed <= at);
                if (stage == 2) assert_int_equal(j.consumed, at);
            }
}

/* Several stages fail at about the same time: one of them is reported, whole. */
static void one_of_several_errors(void **state)
{
    (void)state;
    for (int at = 0; at < 50; at++) {
        job j = never;
        fq_err e = { 0 };
        j.n_item = 100;
        j.fail_produce = at + 2;
        j.fail_work = at + 1;
        j.fail_consume = at;
        assert_int_equal(run(&j, 4, 4, &e), FQ_E_NUMERIC);
        assert_non_null(strstr(e.text, ": wanted"));
    }
}

static void error_without_text(void **state)
{
    (void)state;
    job j = never;
    fq_err e = { 0 };
    j.n_item = 3;
    j.fail_work = 1;
    j.silent = true;
    assert_int_equal(run(&j, 2, 2, &e), FQ_E_NUMERIC);
    assert_int_equal(e.code, FQ_E_NUMERIC);
    j = never;
    j.n_item = 3;
    j.fail_consume = 1;
    assert_int_equal(run(&j, 2, 2, NULL), FQ_E_NUMERIC);
}

static void failure_with_no_work(void **state)
{
    (void)state;
    for (int at = 0; at < 6; at++) {
        job j = never;
        fq_err e = { 0 };
        j.n_item = 6;
        j.fail_consume = at;
        assert_int_equal(run(&j, 2, 0, &e), FQ_E_NUMERIC);
        j = never;
        j.fail_produce = at;
        j.n_item = 6;
        assert_int_equal(run(&j, 2, 0, &e), FQ_E_NUMERIC);
    }
}

static void count_job(void *user, size_t i)
{
    int *n = user;
    (void)__atomic_fetch_add(&n[i], 1, __ATOMIC_RELAXED);
}

static void every_job_once(void **state)
{
    (void)state;
    for (int n_thread = 0; n_thread < 100; n_thread += 9) {
        int n[300] = { 0 };
        const size_t count = (size_t)n_thread * 3;
        fqi_parallel(n_thread, count, count_job, n);
        for (size_t i = 0; i < 300; i++) assert_int_equal(n[i], i < count);
    }
}

static void processors(void **state)
{
    (void)state;
    int n = fqi_n_processor();
    assert_true(n >= 1);
    assert_int_equal(fqi_n_thread(0), n < 8 ? n : 8);
    assert_int_equal(fqi_n_thread(1), 1);
    assert_int_equal(fqi_n_thread(100), 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_in_order),         cmocka_unit_test(first_error_ends_it), cmocka_unit_test(one_of_several_errors),
        cmocka_unit_test(error_without_text),   cmocka_unit_test(failure_with_no_work), cmocka_unit_test(processors),
        cmocka_unit_test(every_job_once),
    };
    return cmocka_run_group_tests_name("pipeline", tests, NULL, NULL);
}
