/* test_map_units.c - maps of words and of blocks: against a literal element by element transcription of what map.h says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "axis_random.h"

#define ROUNDS 4000
#define LONG 300

/* A map in steps of `unit`: parts of the old axis in any order, read again, with holes. */
static void random_map(rng *r, int64_t unit, fqi_map *out)
{
    *out = (fqi_map){ .n_old = unit * rng_in(r, 1, 12) };
    const int64_t n = rng_in(r, 1, 8);
    for (int64_t i = 0; i < n && out->n_new < LONG - 12 * unit; i++) {
        const int64_t begin = unit * rng_in(r, 0, out->n_old / unit - 1), count = unit * rng_in(r, 1, (out->n_old - begin) / unit);
        assert_true(fqi_map_append(out, rng_in(r, 0, 2) == 0 ? -1 : begin, count));
    }
}

static void test_shrink(void **state)
{
    (void)state;
    rng r = rng_start("shrink");
    for (size_t round = 0; round < ROUNDS; round++) {
        const int64_t made = rng_in(&r, 1, 8), unit = rng_in(&r, 1, 8);
        fqi_map in, out = { 0 };
        fq_err e = { 0 };
        random_map(&r, made, &in);
        int64_t *big = map_expand(&in), *small = NULL;
        const int64_t n = in.n_new;
        bool whole = in.n_old % unit == 0 && n % unit == 0;
        for (int64_t i = 0; whole && i < n; i++) {
            const int64_t first = big[i - i % unit];   /* a unit is all holes, or one old unit from its begin to its end */
            whole = first < 0 ? big[i] < 0 : first % unit == 0 && big[i] == first + i % unit;
        }
        const fq_status s = fqi_map_shrink(&in, unit, &out, &e);
        /* two units that continue each other may be one run, so what cannot be cut element-wise cannot be cut run-wise, and the reverse */
        assert_int_equal(s, whole ? FQ_OK : FQ_E_INPUT);
        if (!whole) assert_string_equal(e.rule, "map-unit");
        if (whole) {
            small = map_expand(&out);
            assert_int_equal(out.n_old, in.n_old / unit);
            assert_int_equal(out.n_new, n / unit);
            for (int64_t i = 0; i < n / unit; i++) assert_int_equal(small[i], big[i * unit] < 0 ? -1 : big[i * unit] / unit);
        }
        fqi_map_free(&in);
        fqi_map_free(&out);
        free(big), free(small);
    }
}

/* -2: of two blocks. */
static int64_t block_of(const int64_t *src, int64_t begin, int64_t end, int64_t unit)
{
    int64_t block = -1;
    for (int64_t i = begin; i < end; i++) {
        if (src[i] < 0) continue;
        if (block >= 0 && block != src[i] / unit) return -2;
        block = src[i] / unit;
    }
    return block;
}

static void test_blocks(void **state)
{
    (void)state;
    rng r = rng_start("blocks");
    size_t n_good = 0, n_bad = 0;
    for (size_t round = 0; round < ROUNDS; round++) {
        const int64_t unit_old = rng_in(&r, 1, 9), unit_new = rng_in(&r, 0, 2) ? rng_in(&r, 1, 9) : unit_old;
        fqi_map in, out = { 0 };
        fq_err e = { 0 };
        random_map(&r, rng_in(&r, 0, 1) ? unit_new : rng_in(&r, 1, 9), &in);
        int64_t *big = map_expand(&in), *small = NULL;
        const int64_t n = in.n_new, n_block = (n + unit_new - 1) / unit_new;
        bool mixed = false;
        for (int64_t b = 0; b < n_block; b++) mixed = mixed || block_of(big, b * unit_new, (b + 1) * unit_new < n ? (b + 1) * unit_new : n, unit_old) == -2;
        const fq_status s = fqi_map_blocks(&in, unit_old, unit_new, &out, &e);
        assert_int_equal(s, mixed ? FQ_E_INPUT : FQ_OK);
        if (mixed) assert_string_equal(e.rule, "map-block");
        n_bad += mixed;
        n_good += !mixed;
        if (!mixed) {
            small = map_expand(&out);
            assert_int_equal(out.n_new, n_block);
            assert_int_equal(out.n_old, (in.n_old + unit_old - 1) / unit_old);
            for (int64_t b = 0; b < n_block; b++) assert_int_equal(small[b], block_of(big, b * unit_new, (b + 1) * unit_new < n ? (b + 1) * unit_new : n, unit_old));
        }
        fqi_map_free(&in);
        fqi_map_free(&out);
        free(big), free(small);
    }
    printf("%zu maps with blocks, %zu without\n", n_good, n_bad);
    assert_true(n_good > ROUNDS / 8 && n_bad > ROUNDS / 8);
}

static void check_blocks(const fqi_map *in, int64_t unit_old, int64_t unit_new, const char *runs)
{
    fqi_map out;
    char *text;
    assert_int_equal(fqi_map_blocks(in, unit_old, unit_new, &out, NULL), FQ_OK);
    assert_int_equal(fqi_map_print(&out, &text, NULL), FQ_OK);
    assert_string_equal(text, runs);
    free(text);
    fqi_map_free(&out);
}

/* Qwen2-72B's 231 groups of 128: halved groups; 232 with an empty one; and long axes in one step. */
static void test_known(void **state)
{
    (void)state;
    fqi_map m, out;
    fq_err e;
    assert_int_equal(fqi_map_identity(&m, 29568, NULL), FQ_OK);
    check_blocks(&m, 128, 128, "0:231");
    fqi_map_free(&m);
    assert_int_equal(fqi_map_tail(&m, 29568, 29696, NULL), FQ_OK);
    check_blocks(&m, 128, 128, "0:231 -:1");
    assert_int_equal(fqi_map_shrink(&m, 8, &out, NULL), FQ_OK);
    assert_int_equal(out.n_old, 3696);
    assert_int_equal(out.n_new, 3712);
    fqi_map_free(&out);
    fqi_map_free(&m);
    assert_int_equal(fqi_map_identity(&m, 256, NULL), FQ_OK);
    check_blocks(&m, 128, 64, "0:1 0:2 1:1");
    assert_int_equal(fqi_map_blocks(&m, 64, 128, &out, &e), FQ_E_INPUT);
    assert_int_equal(fqi_map_blocks(&m, 0, 128, &out, &e), FQ_E_USAGE);
    assert_int_equal(fqi_map_shrink(&m, 0, &out, &e), FQ_E_USAGE);
    fqi_map_free(&m);
    assert_int_equal(fqi_map_tail(&m, INT64_C(1) << 60, INT64_C(1) << 61, NULL), FQ_OK);
    check_blocks(&m, 128, 128, "0:9007199254740992 -:9007199254740992");
    fqi_map_free(&m);
}

/* ---- equal shares ---- */

static void test_split(void **state)
{
    (void)state;
    rng r = rng_start("split");
    size_t n_good = 0;
    for (size_t round = 0; round < ROUNDS; round++) {
        const int64_t grain = rng_in(&r, 1, 4), unit = grain * rng_in(&r, 1, 6), n_rank = rng_in(&r, 1, 6), n_old = grain * rng_in(&r, 1, 60);
        const int64_t slots = unit * rng_in(&r, 1, 12), n_new = slots * n_rank;
        fqi_map m = { 0 }, blocks = { 0 };
        fq_err e = { 0 };
        const fq_status s = fqi_map_split(&m, n_old, n_new, n_rank, unit, grain, &e);
        if (s != FQ_OK) {
            assert_int_equal(s, FQ_E_USAGE);
            assert_string_equal(e.rule, "split-blocks");
            /* a share of s words is parts of at most s / unit + 2 blocks */
            assert_true(n_new < n_old || slots < ((n_old / grain + n_rank - 1) / n_rank * grain / unit + 2) * unit);
            continue;
        }
        n_good++;
        assert_int_equal(m.n_old, n_old);
        assert_int_equal(m.n_new, n_new);
        int64_t *src = map_expand(&m), next = 0;
        for (int64_t k = 0; k < n_rank; k++) {
            int64_t real = 0;
            for (int64_t i = k * slots; i < (k + 1) * slots; i++) {
                if (src[i] < 0) continue;
                assert_int_equal(src[i], next++);   /* all of them, in order */
                real++;
            }
            assert_int_equal(real, ((k + 1) * (n_old / grain) / n_rank - k * (n_old / grain) / n_rank) * grain);
        }
        assert_int_equal(next, n_old);
        assert_int_equal(fqi_map_blocks(&m, unit, unit, &blocks, &e), FQ_OK);   /* one scale for every new block */
        free(src);
        fqi_map_free(&m);
        fqi_map_free(&blocks);
    }
    assert_true(n_good > ROUNDS / 4);
}

/* Qwen3-235B's experts, 1536 = 12 blocks, on 8 GPUs: one and a half blocks for each. */
static void test_split_known(void **state)
{
    (void)state;
    fqi_map m = { 0 }, blocks;
    char *text;
    assert_int_equal(fqi_map_split(&m, 1536, 2048, 8, 128, 1, NULL), FQ_OK);
    assert_int_equal(fqi_map_blocks(&m, 128, 128, &blocks, NULL), FQ_OK);
    assert_int_equal(fqi_map_print(&blocks, &text, NULL), FQ_OK);
    assert_string_equal(text, "0:2 1:4 4:4 7:4 10:2");
    free(text);
    fqi_map_free(&blocks);
    fqi_map_free(&m);
    assert_int_equal(fqi_map_split(&m, 29568, 29696, 8, 128, 8, NULL), FQ_E_USAGE);   /* 29 blocks, and a share is parts of 30 */
    assert_int_equal(fqi_map_split(&m, 100, 256, 3, 128, 1, NULL), FQ_E_USAGE);
    assert_int_equal(fqi_map_split(&m, 100, 256, 0, 128, 1, NULL), FQ_E_USAGE);
    assert_int_equal(fqi_map_split(&m, 100, 256, 2, 0, 1, NULL), FQ_E_USAGE);
    assert_int_equal(fqi_map_split(&m, 0, 256, 2, 128, 8, NULL), FQ_OK);
    assert_int_equal(m.n_new, 256);
    fqi_map_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_shrink), cmocka_unit_test(test_blocks), cmocka_unit_test(test_known), cmocka_unit_test(test_split), cmocka_unit_test(test_split_known) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
