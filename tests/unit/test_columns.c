/* test_columns.c - slots of columns: every column once, in slots that hold one, groups as engines cut them, importance front to back and
 * dealt to slices, over the maps of all layouts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "axis_random.h"
#include "quant/columns.h"

/* ---- cases ---- */

static uint32_t *shuffled(rng *r, size_t n)
{
    uint32_t *v = malloc((n + 1) * sizeof *v);
    assert_non_null(v);
    for (size_t i = 0; i < n; i++) v[i] = (uint32_t)i;
    for (size_t i = n; i-- > 1;) {
        size_t j = (size_t)rng_in(r, 0, (int64_t)i);
        uint32_t t = v[i];
        v[i] = v[j];
        v[j] = t;
    }
    return v;
}

/* Any order of the columns, with gaps. */
static void scattered(rng *r, size_t n_col, size_t n_col_pad, fqi_map *m)
{
    uint32_t *order = shuffled(r, n_col);
    *m = (fqi_map){ .n_old = (int64_t)n_col };
    for (size_t slot = 0, k = 0; slot < n_col_pad; slot++) {
        size_t left = n_col_pad - slot, real = n_col - k;
        bool take = rng_in(r, 1, (int64_t)left) <= (int64_t)real;
        assert_true(fqi_map_append(m, take ? (int64_t)order[k] : -1, 1));
        if (take) k++;
    }
    free(order);
}

typedef enum layout { NO_MAP, IDENTITY, TAIL, INTERLEAVE, SPREAD, SCATTERED, N_LAYOUT } layout;

static void map_of(rng *r, layout l, size_t n_col, size_t n_col_pad, size_t n_group, fqi_map *m)
{
    const int64_t old = (int64_t)n_col, new = (int64_t)n_col_pad;
    switch (l) {
    case NO_MAP: *m = (fqi_map){ 0 }; return;
    case IDENTITY: FQT_OK(fqi_map_identity(m, old, e)); return;
    case TAIL: FQT_OK(fqi_map_tail(m, old, new, e)); return;
    case INTERLEAVE: FQT_OK(fqi_map_interleave(m, old, new, e)); return;
    case SPREAD: FQT_OK(fqi_map_spread(m, old, new, (int64_t)n_group, e)); return;
    default: scattered(r, n_col, n_col_pad, m); return;
    }
}

typedef struct instance { size_t n_col, n_col_pad, group_size, slice; fqi_map map; uint32_t *rank; fqi_columns c; } instance;

static instance draw(rng *r)
{
    instance i = { 0 };
    layout l = (layout)rng_in(r, 0, N_LAYOUT - 1);
    i.slice = (size_t)rng_in(r, 1, 4);
    i.group_size = (size_t)rng_in(r, 1, 12);
    i.n_col_pad = i.slice * i.group_size * (size_t)rng_in(r, 1, 8);
    i.n_col = l <= IDENTITY ? i.n_col_pad : (size_t)rng_in(r, (int64_t)(i.n_col_pad + 1) / 2, (int64_t)i.n_col_pad);
    map_of(r, l, i.n_col, i.n_col_pad, i.slice, &i.map);
    if (rng_in(r, 0, 2)) i.rank = shuffled(r, i.n_col);
    FQT_OK(fqi_columns_create(&i.map, i.n_col, (int64_t)i.group_size, i.rank, i.slice, &i.c, e));
    return i;
}

static void drop(instance *i)
{
    fqi_map_free(&i->map);
    fqi_columns_free(&i->c);
    free(i->rank);
}

/* The map as a list: of identity where there is none. */
static int64_t *expand(const instance *i)
{
    if (i->map.n_run > 0) return map_expand(&i->map);
    int64_t *v = malloc((i->n_col + 1) * sizeof *v);
    assert_non_null(v);
    for (size_t k = 0; k < i->n_col; k++) v[k] = (int64_t)k;
    return v;
}

/* ---- properties ---- */

static void every_column_has_a_slot_of_its_own(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    for (int round = 0; round < 2000; round++) {
        instance i = draw(&r);
        int64_t *source = expand(&i);
        bool *taken = calloc(i.n_col_pad + 1, 1);
        assert_non_null(taken);
        assert_int_equal(i.c.n_col, i.n_col);
        assert_int_equal(i.c.n_col_pad, i.n_col_pad);
        assert_int_equal(i.c.group_size, i.group_size);
        assert_int_equal(i.c.n_group, i.n_col_pad / i.group_size);
        for (size_t k = 0; k < i.n_col; k++) {
            uint32_t slot = i.c.slot_of[k];
            assert_in_range(slot, 0, i.n_col_pad - 1);
            assert_false(taken[slot]);
            taken[slot] = true;
            assert_true(source[slot] >= 0);   /* padding stays where the layout put it */
            if (!i.rank) assert_int_equal(source[slot], k);
        }
        free(taken);
        free(source);
        drop(&i);
    }
}

/* Where the i-th most important column goes, by counting: round the slices, past full ones, to the next slot of it that holds one. */
static void importance_goes_round_the_slices(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    for (int round = 0; round < 2000; round++) {
        instance i = draw(&r);
        if (!i.rank) {
            drop(&i);
            continue;
        }
        int64_t *source = expand(&i);
        const size_t width = i.n_col_pad / i.slice;
        size_t done = 0;
        for (size_t turn = 0; done < i.n_col; turn++)
            for (size_t s = 0; s < i.slice; s++) {
                size_t seen = 0, slot = s * width;
                for (; slot < (s + 1) * width; slot++)
                    if (source[slot] >= 0 && seen++ == turn) break;
                if (slot == (s + 1) * width) continue;
                if (i.c.slot_of[i.rank[done]] != slot) fail_msg("number %zu is in slot %u, expected %zu", done, i.c.slot_of[i.rank[done]], slot);
                done++;
            }
        free(source);
        drop(&i);
    }
}

static void the_map_says_the_same(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    for (int round = 0; round < 1000; round++) {
        instance i = draw(&r), again = { 0 };
        fqi_map m = { 0 }, back = { 0 };
        fqi_map_count n;
        FQT_OK(fqi_columns_map(&i.c, &m, e));
        assert_int_equal(m.n_old, i.n_col);
        assert_int_equal(m.n_new, i.n_col_pad);
        FQT_OK(fqi_map_count_uses(&m, &n, e));
        assert_true(n.same == m.n_old && n.copy == 0 && n.missing == 0);
        FQT_OK(fqi_map_inverse(&m, &back, e));
        int64_t *slot = map_expand(&back);
        for (size_t k = 0; k < i.n_col; k++) assert_int_equal(slot[k], i.c.slot_of[k]);
        /* As the map of another matrix with the same axis: the same slots. */
        FQT_OK(fqi_columns_create(&m, i.n_col, (int64_t)i.group_size, NULL, 1, &again.c, e));
        assert_memory_equal(again.c.slot_of, i.c.slot_of, i.n_col * sizeof *i.c.slot_of);
        free(slot);
        fqi_map_free(&m);
        fqi_map_free(&back);
        drop(&again);
        drop(&i);
    }
}

static void groups_are_cut_from_slots(void **state)
{
    (void)state;
    static const struct { size_t n_col; int64_t pad, group_size; size_t expected_size, n_group; } row[] = {
        { 64, 64, 32, 32, 2 }, { 64, 64, -1, 64, 1 },   { 231 * 128, 232 * 128, 128, 128, 232 },
        { 60, 96, 32, 32, 3 }, { 100, 100, 32, 32, 4 }, { 16, 16, 128, 16, 1 }, { 5, 8, -1, 8, 1 },
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        fqi_map m;
        fqi_columns c;
        FQT_OK(fqi_map_tail(&m, (int64_t)row[i].n_col, row[i].pad, e));
        FQT_OK(fqi_columns_create(&m, row[i].n_col, row[i].group_size, NULL, 1, &c, e));
        assert_int_equal(c.group_size, row[i].expected_size);
        assert_int_equal(c.n_group, row[i].n_group);
        fqi_columns_free(&c);
        fqi_map_free(&m);
    }
}

static void what_has_no_place_is_refused(void **state)
{
    (void)state;
    static const fqi_run copied[] = { { 0, 4 }, { 2, 2 } }, missing[] = { { 0, 3 }, { -1, 1 } }, beyond[] = { { 0, 3 }, { 4, 1 } }, good[] = { { 0, 4 }, { -1, 2 } };
    static const uint32_t twice[] = { 0, 1, 1, 3 }, outside[] = { 0, 1, 2, 4 };
    static const struct { const fqi_run *run; size_t n_run; int64_t n_old, n_new, group_size; const uint32_t *rank; size_t slice; fq_status code; const char *says; } row[] = {
        { copied, 2, 4, 6, 2, NULL, 1, FQ_E_INPUT, "columns-copied: found column 2 of 4 in slot 4" },
        { missing, 2, 4, 4, 2, NULL, 1, FQ_E_INPUT, "columns-copied: found no slot for column 3 of 4" },
        { beyond, 2, 4, 4, 2, NULL, 1, FQ_E_INPUT, "columns-copied: found column 4 of 4" },
        { good, 2, 5, 6, 2, NULL, 1, FQ_E_INPUT, "columns-length" },
        { good, 2, 4, 6, 0, NULL, 1, FQ_E_USAGE, "group-size: found 0" },
        { good, 2, 4, 6, -2, NULL, 1, FQ_E_USAGE, "group-size: found -2" },
        { good, 2, 4, 6, 2, NULL, 0, FQ_E_USAGE, "columns-slice" },
        { good, 2, 4, 6, 2, NULL, 4, FQ_E_USAGE, "columns-slice: found 4 slices, expected a divisor of 6 slots" },
        { good, 2, 4, 6, 2, twice, 1, FQ_E_INPUT, "columns-order: found column 1 of 4 as number 2" },
        { good, 2, 4, 6, 2, outside, 2, FQ_E_INPUT, "columns-order: found column 4 of 4 as number 3" },
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        fqi_map m = { .n_old = row[i].n_old };
        fqi_columns c = { 0 };
        fq_err e = { 0 };
        for (size_t j = 0; j < row[i].n_run; j++) assert_true(fqi_map_append(&m, row[i].run[j].src, row[i].run[j].count));
        assert_int_equal(m.n_new, row[i].n_new);
        assert_int_equal(fqi_columns_create(&m, 4, row[i].group_size, row[i].rank, row[i].slice, &c, &e), row[i].code);
        if (!strstr(e.text, row[i].says)) fail_msg("row %zu: \"%s\" does not say \"%s\"", i, e.text, row[i].says);
        assert_null(c.slot_of);
        fqi_map_free(&m);
    }
}

/* ---- orders ---- */

static void importance_falls_and_is_stable(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    for (size_t n = 0; n < 60; n++) {
        float *h = malloc((n * n + 1) * sizeof *h);
        uint32_t *order = malloc((n + 1) * sizeof *order);
        bool *seen = calloc(n + 1, 1);
        assert_true(h && order && seen);
        for (size_t i = 0; i < n * n; i++) h[i] = (float)rng_in(&r, 0, 9);   /* equals among them, and what is beside the diagonal */
        fqi_order_by_diag(h, n, order);
        for (size_t i = 0; i < n; i++) {
            assert_in_range(order[i], 0, n - 1);
            assert_false(seen[order[i]]);
            seen[order[i]] = true;
            if (i == 0) continue;
            float before = h[order[i - 1] * (n + 1)], x = h[order[i] * (n + 1)];
            assert_true(before > x || (before == x && order[i - 1] < order[i]));
        }
        free(seen);
        free(order);
        free(h);
    }
}

static void natural_order_is_by_slot(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    for (int round = 0; round < 500; round++) {
        instance i = draw(&r);
        uint32_t *order = malloc((i.n_col + 1) * sizeof *order);
        assert_non_null(order);
        fqi_order_natural(&i.c, order);
        /* Falling slots, so that the end, which is processed first, is the first slot; strictly, so that every column occurs once. */
        for (size_t k = 0; k < i.n_col; k++) assert_in_range(order[k], 0, i.n_col - 1);
        for (size_t k = 1; k < i.n_col; k++) assert_true(i.c.slot_of[order[k - 1]] > i.c.slot_of[order[k]]);
        free(order);
        drop(&i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_column_has_a_slot_of_its_own),
        cmocka_unit_test(importance_goes_round_the_slices),
        cmocka_unit_test(the_map_says_the_same),
        cmocka_unit_test(groups_are_cut_from_slots),
        cmocka_unit_test(what_has_no_place_is_refused),
        cmocka_unit_test(importance_falls_and_is_stable),
        cmocka_unit_test(natural_order_is_by_slot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
