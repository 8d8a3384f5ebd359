/* Heap helpers, arena, growing strings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/checked.h"
#include "base/mem.h"

static void calloc_checks(void **state)
{
    (void)state;
    assert_null(fqi_calloc(SIZE_MAX / 2, 3));
    assert_null(fqi_calloc(SIZE_MAX, SIZE_MAX));
    char *a = fqi_calloc(0, 8), *b = fqi_calloc(8, 0), *c = fqi_calloc(100, 7);
    assert_non_null(a);
    assert_non_null(b);
    assert_ptr_not_equal(a, b);
    for (int i = 0; i < 700; i++) assert_int_equal(c[i], 0);
    free(a);
    free(b);
    free(c);
}

static void grow_keeps_and_checks(void **state)
{
    (void)state;
    int *p = NULL;
    size_t cap = 0;
    for (size_t n = 1; n < 10000; n++) {
        assert_true(fqi_grow((void **)&p, &cap, n, sizeof *p));
        assert_true(cap >= n);
        p[n - 1] = (int)n;
    }
    for (int i = 0; i < 9999; i++) assert_int_equal(p[i], i + 1);
    size_t old = cap;
    void *q = p;
    assert_false(fqi_grow((void **)&p, &cap, SIZE_MAX, sizeof *p));
    assert_false(fqi_grow((void **)&p, &cap, SIZE_MAX / 2, sizeof *p));
    assert_ptr_equal(p, q);
    assert_int_equal(cap, old);
    assert_int_equal(p[9998], 9999);
    free(p);
}

/* Objects are zeroed, aligned, and do not touch each other, whatever the sizes. */
static void arena_objects(void **state)
{
    (void)state;
    enum { N = 3000 };
    static unsigned char *obj[N];
    static size_t size[N];
    unsigned seed = 7;
    print_message("seed %u\n", seed);
    srand(seed);
    fqi_arena a = { 0 };
    for (int i = 0; i < N; i++) {
        size[i] = rand() % 50 == 0 ? (size_t)rand() % 3000000 : (size_t)rand() % 300;
        if (rand() % 2 == 0 && i % 100 != 0) size[i] %= 16;
        obj[i] = fqi_arena_alloc(&a, size[i]);
        assert_non_null(obj[i]);
        assert_int_equal((uintptr_t)obj[i] % 16, 0);
        for (size_t k = 0; k < size[i]; k += 1 + k / 64) assert_int_equal(obj[i][k], 0);
        memset(obj[i], i & 0xff, size[i]);
    }
    for (int i = 0; i < N; i++)
        for (size_t k = 0; k < size[i]; k += 1 + k / 64) assert_int_equal(obj[i][k], i & 0xff);
    assert_null(fqi_arena_alloc(&a, SIZE_MAX));
    assert_null(fqi_arena_alloc(&a, SIZE_MAX - 64));
    fqi_arena_free(&a);
    assert_null(a.head);
    fqi_arena_free(&a);
    fqi_arena_free(NULL);
}

static void arena_strings(void **state)
{
    (void)state;
    fqi_arena a = { 0 };
    assert_string_equal(fqi_arena_strdup(&a, "abc"), "abc");
    assert_string_equal(fqi_arena_strndup(&a, "abcdef", 2), "ab");
    assert_string_equal(fqi_arena_strndup(&a, NULL, 0), "");
    assert_string_equal(fqi_arena_printf(&a, "%s-%05d", "model", 7), "model-00007");
    char *big = fqi_arena_printf(&a, "%0100000d", 1);
    assert_int_equal(strlen(big), 100000);
    fqi_arena_free(&a);
}

static void strings_grow(void **state)
{
    (void)state;
    fqi_str b = { 0 };
    for (int i = 0; i < 1000; i++) fqi_str_printf(&b, "%d,", i);
    fqi_str_puts(&b, "end");
    fqi_str_add(&b, "\0x", 2);
    assert_false(b.failed);
    assert_memory_equal(b.s, "0,1,2,3,4,", 10);
    assert_memory_equal(b.s + b.len - 5, "end\0x", 6); /* and the NUL behind */
    fqi_str_free(&b);
    assert_null(b.s);
    fqi_str_add(&b, "", 0);
    assert_string_equal(b.s, "");
    fqi_str_free(&b);
    fqi_str_free(NULL);
}

static void string_failure_sticks(void **state)
{
    (void)state;
    fqi_str b = { 0 };
    fqi_str_puts(&b, "abc");
    b.failed = true;
    fqi_str_puts(&b, "def");
    fqi_str_printf(&b, "%d", 1);
    assert_string_equal(b.s, "abc");
    assert_true(b.failed);
    fqi_str_free(&b);
    assert_false(b.failed);
}

static void checked_arithmetic(void **state)
{
    (void)state;
    int64_t r;
    uint64_t u;
    assert_true(fqi_round_up_i64(0, 128, &r) && r == 0);
    assert_true(fqi_round_up_i64(128, 128, &r) && r == 128);
    assert_true(fqi_round_up_i64(129, 128, &r) && r == 256);
    assert_false(fqi_round_up_i64(INT64_MAX, 128, &r));
    assert_false(fqi_mul_u64(UINT64_MAX, 2, &u));
    assert_false(fqi_add_u64(UINT64_MAX, 1, &u));
    assert_true(fqi_sat_add(1, 2) == 3 && fqi_sat_mul(3, 4) == 12);
    assert_true(fqi_sat_add(UINT64_MAX - 1, 1) == UINT64_MAX && fqi_sat_add(UINT64_MAX, 2) == UINT64_MAX);
    assert_true(fqi_sat_mul(UINT64_MAX / 7, 7) == UINT64_MAX / 7 * 7 && fqi_sat_mul(UINT64_MAX / 7 + 1, 7) == UINT64_MAX);
    assert_true(fqi_sat_mul(0, UINT64_MAX) == 0 && fqi_sat_mul(UINT64_C(1) << 32, UINT64_C(1) << 32) == UINT64_MAX);
    assert_int_equal(fqi_gcd_i64(29568, 128), 128);
    assert_true(fqi_lcm_i64(6, 8, &r) && r == 24);
    assert_false(fqi_lcm_i64(INT64_MAX, INT64_MAX - 1, &r));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calloc_checks), cmocka_unit_test(grow_keeps_and_checks), cmocka_unit_test(arena_objects),
        cmocka_unit_test(arena_strings), cmocka_unit_test(strings_grow),          cmocka_unit_test(string_failure_sticks),
        cmocka_unit_test(checked_arithmetic),
    };
    return cmocka_run_group_tests_name("mem", tests, NULL, NULL);
}
