/* test_loads.c - which row of scales engines take for a channel of a slice. Tables only; whole checkpoints are in tests/cli/test_slices.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "plan/loads.h"

static void test_rows(void **state)
{
    (void)state;
    static const int32_t order[4] = { 1, 0, 9, -1 };
    static const struct { const char *what; fqi_load load; fqi_load_cut cut; const int32_t *order; int64_t k, row; } c[] = {
        { "whole groups", { .group = FQI_LOAD_SIZE }, { 512, 128, 2 }, NULL, 300, 2 },
        { "rank 0 of a split group", { .group = FQI_LOAD_SIZE }, { 896, 128, 2 }, NULL, 383, 2 },
        { "beyond what rank 0 has", { .group = FQI_LOAD_SIZE }, { 896, 128, 2 }, NULL, 384, -1 },
        { "rank 1 begins inside of a group", { .group = FQI_LOAD_SIZE }, { 896, 128, 2 }, NULL, 448 + 64, 3 },
        { "rank 1, its next group", { .group = FQI_LOAD_SIZE }, { 896, 128, 2 }, NULL, 448 + 128, 4 },
        { "one group a row", { .group = FQI_LOAD_SIZE }, { 512, 512, 2 }, NULL, 400, 0 },
        { "not cut, last group short", { .group = FQI_LOAD_SIZE }, { 200, 128, 1 }, NULL, 199, 1 },
        { "order", { .group = FQI_LOAD_ORDER, .whole = true }, { 4, 2, 2 }, order, 0, 1 },
        { "order, out of range", { .group = FQI_LOAD_ORDER, .whole = true }, { 4, 2, 2 }, order, 2, -1 },
        { "order, negative", { .group = FQI_LOAD_ORDER, .whole = true }, { 4, 2, 2 }, order, 3, -1 },
        { "derived 64 of 128", { .group = FQI_LOAD_DERIVED, .whole = true }, { 512, 128, 2 }, NULL, 256 + 65, 1 },
        { "one row for a group and a half", { .group = FQI_LOAD_DERIVED }, { 384, 128, 2 }, NULL, 192 + 130, 1 },
        { "three rows that do not divide 448", { .group = FQI_LOAD_DERIVED }, { 896, 128, 2 }, NULL, 384, -1 },
        { "128 built in, groups of 64", { .group = FQI_LOAD_FIXED, .fixed = 128 }, { 512, 64, 2 }, NULL, 256 + 130, 5 },
        { "128 built in, not cut", { .group = FQI_LOAD_FIXED, .fixed = 128 }, { 512, 64, 1 }, NULL, 300, 2 },
        { "128 built in, groups of 128", { .group = FQI_LOAD_FIXED, .fixed = 128 }, { 512, 128, 2 }, NULL, 300, 2 },
        { "a group larger than a slice", { .group = FQI_LOAD_SIZE }, { 256, 128, 4 }, NULL, 0, -1 },
    };
    for (size_t i = 0; i < sizeof c / sizeof c[0]; i++) {
        const int64_t found = fqi_load_row(&c[i].load, &c[i].cut, c[i].order, c[i].k);
        if (found != c[i].row) fail_msg("%s: found row %lld, expected %lld", c[i].what, (long long)found, (long long)c[i].row);
    }
}

static void test_refusal(void **state)
{
    (void)state;
    const fqi_load l = { .group = FQI_LOAD_DERIVED, .whole = true }, plain = { .group = FQI_LOAD_SIZE };
    int64_t found = 0;
    assert_false(fqi_load_refuses(&l, &(fqi_load_cut){ 512, 128, 2 }, &found));
    assert_true(fqi_load_refuses(&l, &(fqi_load_cut){ 512, 32, 2 }, &found));
    assert_int_equal(found, 16);
    assert_false(fqi_load_refuses(&l, &(fqi_load_cut){ 512, 32, 1 }, &found));
    assert_false(fqi_load_refuses(&plain, &(fqi_load_cut){ 512, 32, 2 }, &found));
}

/* Every integer format of a modelled engine has a row for every layer and order that it can have. */
static void test_complete(void **state)
{
    (void)state;
    static const struct { unsigned format, orders; } f[] = {
        { FQI_F_GPTQ, 3 }, { FQI_F_GPTQ_MARLIN, 3 }, { FQI_F_AWQ, 1 }, { FQI_F_AWQ_MARLIN, 1 }, { FQI_F_CT_INT4, 7 }, { FQI_F_CT_INT8, 7 },
    };
    for (unsigned engine = FQI_E_VLLM; engine <= FQI_E_SGLANG; engine <<= 1)
        for (size_t i = 0; i < sizeof f / sizeof f[0]; i++)
            for (unsigned order = 1; order <= 4; order <<= 1)
                for (unsigned linear = 1; linear < FQI_L_ALL; linear <<= 1) {
                    const fqi_load *l = fqi_load_find(engine, f[i].format, linear, order, false);
                    if (!(f[i].orders & order)) continue;
                    assert_non_null(l);
                    assert_non_null(l->name);
                    assert_non_null(l->says);
                    assert_non_null(l->source);
                }
    assert_null(fqi_load_find(FQI_E_LMDEPLOY, FQI_F_GPTQ, FQI_L_Q, FQI_ORDER_NONE, false));
    assert_null(fqi_load_find(FQI_E_VLLM, FQI_F_FP8, FQI_L_Q, FQI_ORDER_NONE, false));
    assert_string_equal(fqi_load_find(FQI_E_SGLANG, FQI_F_CT_INT4, FQI_L_EXPERT_DOWN, FQI_ORDER_NONE, true)->name, "group-fixed");
    assert_string_equal(fqi_load_find(FQI_E_SGLANG, FQI_F_CT_INT4, FQI_L_O, FQI_ORDER_NONE, true)->name, "order-ignored");
    assert_string_equal(fqi_load_find(FQI_E_VLLM, FQI_F_CT_INT4, FQI_L_EXPERT_DOWN, FQI_ORDER_NONE, true)->name, "order-ignored");
    assert_non_null(fqi_load_fixed_find(FQI_E_SGLANG, "w4afp8"));
    assert_null(fqi_load_fixed_find(FQI_E_VLLM, "w4afp8"));
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_rows), cmocka_unit_test(test_refusal), cmocka_unit_test(test_complete) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
