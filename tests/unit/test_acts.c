/* test_acts.c - rows in memory and rows in a scratch file are the same rows, in any order of getting and putting. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "job/acts.h"
#include "make_ckpt.h"
#include "support.h"

static uint64_t rng = 2463534242u;

static size_t rnd(size_t n)
{
    return (size_t)(fqt_random(&rng) % n);
}

static void test_same_rows(void **state)
{
    (void)state;
    enum { ROWS = 97, COLS = 13 };
    static float want[ROWS * COLS], buf[ROWS * COLS];
    rng = fqt_seed(rng);
    for (int in_memory = 0; in_memory < 2; in_memory++) {
        fqi_acts a;
        fq_err e = { 0 };
        float *x;
        assert_int_equal(fqi_acts_create(ROWS, COLS, in_memory, fqt_dir, &a, &e), FQ_OK);
        assert_int_equal(fqi_acts_get(&a, 0, ROWS, buf, &x, &e), FQ_OK);
        for (size_t i = 0; i < ROWS * COLS; i++) want[i] = x[i] = (float)i;
        assert_int_equal(fqi_acts_put(&a, 0, ROWS, x, &e), FQ_OK);
        for (int k = 0; k < 400; k++) {
            size_t row = rnd(ROWS), n = rnd(ROWS - row + 1);
            assert_int_equal(fqi_acts_get(&a, row, n, buf, &x, &e), FQ_OK);
            assert_true(in_memory ? x == a.memory + row * COLS : x == buf);
            assert_memory_equal(x, want + row * COLS, n * COLS * sizeof *x);
            for (size_t i = 0; i < n * COLS; i++) want[row * COLS + i] = x[i] = (float)rnd(1000);
            assert_int_equal(fqi_acts_put(&a, row, n, x, &e), FQ_OK);
        }
        fqi_acts_free(&a);
        fqi_acts_free(&a);
    }
}

static void test_refused(void **state)
{
    (void)state;
    fqi_acts a = { 0 };
    fq_err e = { 0 };
    fqi_acts_free(&a);
    fqi_acts_free(NULL);
    for (int in_memory = 0; in_memory < 2; in_memory++) {
        assert_int_equal(fqi_acts_create(SIZE_MAX / 8, 4, in_memory, fqt_dir, &a, &e), FQ_E_NOMEM);
        assert_int_equal(fqi_acts_create(SIZE_MAX, SIZE_MAX, in_memory, fqt_dir, &a, &e), FQ_E_NOMEM);
        assert_int_equal(fqi_acts_create(0, 4, in_memory, fqt_dir, &a, &e), FQ_OK);
        fqi_acts_free(&a);
    }
    assert_int_equal(fqi_acts_create((size_t)1 << 52, 1, false, fqt_dir, &a, &e), FQ_E_IO);
    assert_string_equal(e.rule, "space");
    assert_int_equal(fqi_acts_create(4, 4, false, "/nonexistent", &a, &e), FQ_E_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_same_rows), cmocka_unit_test(test_refused) };
    return cmocka_run_group_tests(tests, fqt_dir_setup, fqt_dir_teardown);
}
