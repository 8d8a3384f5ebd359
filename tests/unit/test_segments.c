/* test_segments.c - the segment walk against a gather that moves one element at a time and knows nothing of runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "axis/segments.h"
#include "axis_random.h"

/* One random case: a source tensor of distinct bytes, and maps over it. */
typedef struct probe {
    int rank;
    unsigned elem_bytes;
    int64_t shape[FQ_MAX_RANK], stride[FQ_MAX_RANK];
    bool dense;                            /* strides are NULL */
    fqi_map map[FQ_MAX_RANK];
    const fqi_map *use[FQ_MAX_RANK];       /* NULL: identity */
    unsigned char *src;
    size_t src_bytes;
} probe;

static void probe_free(probe *t)
{
    for (int d = 0; d < t->rank; d++) fqi_map_free(&t->map[d]);
    free(t->src);
}

/* Strides of a tensor that is dense in a random order of its dimensions (a transpose), or of a slice of it, or repeated. */
static size_t random_strides(rng *r, probe *t)
{
    int order[FQ_MAX_RANK];
    for (int d = 0; d < t->rank; d++) order[d] = t->rank - 1 - d;
    t->dense = rng_in(r, 0, 1) == 0;
    if (!t->dense)
        for (int d = t->rank - 1; d > 0; d--) {
            int k = (int)rng_in(r, 0, d), swap = order[d];
            order[d] = order[k];
            order[k] = swap;
        }
    int64_t step = 1, reach = 1;
    for (int d = 0; d < t->rank; d++) {
        int64_t n = t->shape[order[d]];
        t->stride[order[d]] = !t->dense && rng_in(r, 0, 9) == 0 ? 0 : step;
        reach += n > 0 ? (n - 1) * t->stride[order[d]] : 0;
        step *= n > 0 ? n : 1;
        if (!t->dense && rng_in(r, 0, 3) == 0) step += rng_in(r, 1, 3);
    }
    return (size_t)reach;
}

static void probe_random(rng *r, probe *t)
{
    static const unsigned size[] = { 1, 2, 4, 8 };
    *t = (probe){ .rank = (int)rng_in(r, 0, 4), .elem_bytes = size[rng_in(r, 0, 3)] };
    for (int d = 0; d < t->rank; d++) {
        t->shape[d] = rng_in(r, 0, 12) == 0 ? 0 : rng_in(r, 1, 6);
        int kind = (int)rng_in(r, 0, 3);
        fq_status s = FQ_OK;
        if (kind == 0) s = fqi_map_identity(&t->map[d], t->shape[d], NULL);
        else if (kind == 1) s = fqi_map_interleave(&t->map[d], t->shape[d], t->shape[d] + rng_in(r, 0, t->shape[d]), NULL);
        else map_random(r, t->shape[d], rng_in(r, 0, 9), &t->map[d]);
        assert_int_equal(s, FQ_OK);
        t->use[d] = kind == 0 && rng_in(r, 0, 1) == 0 ? NULL : &t->map[d];
    }
    t->src_bytes = random_strides(r, t) * t->elem_bytes;
    t->src = malloc(t->src_bytes);
    for (size_t i = 0; i < t->src_bytes; i++) t->src[i] = (unsigned char)(1 + rng_next(r) % 255);
}

/* Element by element: index of the output -> index of every dimension -> source, or zeros. *n_out: bytes. Caller frees. */
static unsigned char *gather(const probe *t, size_t *n_out)
{
    int64_t n = 1, *at[FQ_MAX_RANK] = { 0 };
    for (int d = 0; d < t->rank; d++) {
        n *= t->map[d].n_new;
        at[d] = map_expand(&t->map[d]);
    }
    *n_out = (size_t)n * t->elem_bytes;
    unsigned char *out = calloc(*n_out + 1, 1);
    for (int64_t i = 0; i < n; i++) {
        int64_t rest = i, from = 0;
        bool zero = false;
        for (int d = t->rank - 1; d >= 0; d--) {
            int64_t j = at[d][rest % t->map[d].n_new];
            rest /= t->map[d].n_new;
            if (j < 0) zero = true;
            else from += j * t->stride[d];
        }
        if (!zero) memcpy(out + (size_t)i * t->elem_bytes, t->src + (size_t)from * t->elem_bytes, t->elem_bytes);
    }
    for (int d = 0; d < t->rank; d++) free(at[d]);
    return out;
}

/* Walks and checks every segment on the way. Returns how many there were. */
static size_t walk(fqi_segments *s, const probe *t, uint64_t max_bytes, unsigned char *out, size_t n_out)
{
    size_t n = 0;
    uint64_t at = 0;
    fqi_segment seg, last = { 0 };
    while (fqi_segments_next(s, max_bytes, &seg)) {
        assert_true(seg.bytes > 0 && seg.bytes <= max_bytes);
        assert_true(at + seg.bytes <= n_out);
        if (seg.src == FQI_ZERO_SEGMENT) {
            memset(out + at, 0, seg.bytes);
        } else {
            assert_true(seg.src + seg.bytes <= t->src_bytes);
            memcpy(out + at, t->src + seg.src, seg.bytes);
        }
        bool zeros = seg.src == FQI_ZERO_SEGMENT, last_zeros = last.src == FQI_ZERO_SEGMENT;
        bool joins = n > 0 && zeros == last_zeros && (zeros || last.src + last.bytes == seg.src);
        if (joins) assert_int_equal(last.bytes, max_bytes); /* only a cut may part what belongs together */
        last = seg;
        at += seg.bytes;
        n++;
    }
    assert_int_equal(at, n_out);
    assert_false(fqi_segments_next(s, max_bytes, &seg));
    return n;
}

static void test_equals_gather(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    int n_strided = 0, n_empty = 0, n_long = 0;
    for (int round = 0; round < 20000; round++) {
        probe t;
        probe_random(&r, &t);
        size_t n_out;
        unsigned char *want = gather(&t, &n_out), *got = malloc(n_out + 1);
        memset(got, 0xEE, n_out + 1);
        fqi_segments s;
        fq_err e = { 0 };
        if (fqi_segments_init(&s, t.rank, t.shape, t.dense ? NULL : t.stride, t.elem_bytes, t.use, &e) != FQ_OK) fail_msg("%s", e.text);
        assert_int_equal(s.bytes, n_out);
        uint64_t max_bytes = rng_in(&r, 0, 2) == 0 ? UINT64_MAX : (uint64_t)rng_in(&r, 1, 40);
        size_t n = walk(&s, &t, max_bytes, got, n_out);
        assert_memory_equal(got, want, n_out);
        n_strided += !t.dense && t.rank > 1;
        n_empty += n_out == 0;
        n_long += n > 20;
        free(want);
        free(got);
        probe_free(&t);
    }
    assert_true(n_strided > 1000 && n_empty > 100 && n_long > 1000); /* the cases that matter did occur */
}

static void assert_segments(fqi_segments *s, uint64_t max_bytes, const fqi_segment *want, size_t n)
{
    fqi_segment got;
    for (size_t i = 0; i < n; i++) {
        assert_true(fqi_segments_next(s, max_bytes, &got));
        assert_int_equal(got.src, want[i].src);
        assert_int_equal(got.bytes, want[i].bytes);
    }
    assert_false(fqi_segments_next(s, max_bytes, &got));
}

static void test_merging(void **state)
{
    (void)state;
    fqi_segments s;
    const uint64_t all = UINT64_MAX;
    /* an identity of any rank is one segment, with maps or without */
    fqi_map a = { 0 }, b = { 0 };
    assert_int_equal(fqi_map_identity(&a, 8192, NULL), FQ_OK);
    assert_int_equal(fqi_map_identity(&b, 29568, NULL), FQ_OK);
    const int64_t shape[] = { 8192, 29568 };
    const uint64_t bytes = 8192ull * 29568 * 2;
    const fqi_map *both[] = { &a, &b };
    assert_int_equal(fqi_segments_init(&s, 2, shape, NULL, 2, both, NULL), FQ_OK);
    assert_segments(&s, all, (fqi_segment[]){ { 0, bytes } }, 1);
    assert_int_equal(fqi_segments_init(&s, 2, shape, NULL, 2, NULL, NULL), FQ_OK);
    assert_segments(&s, bytes - 5, (fqi_segment[]){ { 0, bytes - 5 }, { bytes - 5, 5 } }, 2);
    fqi_map_free(&a);
    fqi_map_free(&b);
    /* zeros at the end of a row and the zero rows behind them are one segment */
    assert_int_equal(fqi_map_tail(&a, 2, 4, NULL), FQ_OK);
    assert_int_equal(fqi_map_tail(&b, 3, 5, NULL), FQ_OK);
    assert_int_equal(fqi_segments_init(&s, 2, (int64_t[]){ 2, 3 }, NULL, 4, both, NULL), FQ_OK);
    const fqi_segment want[] = { { 0, 12 }, { FQI_ZERO_SEGMENT, 8 }, { 12, 12 }, { FQI_ZERO_SEGMENT, 8 + 40 } };
    assert_segments(&s, all, want, 4);
    fqi_map_free(&a);
    fqi_map_free(&b);
}

static void test_scalar_and_empty(void **state)
{
    (void)state;
    fqi_segments s;
    assert_int_equal(fqi_segments_init(&s, 0, NULL, NULL, 2, NULL, NULL), FQ_OK);
    assert_segments(&s, UINT64_MAX, (fqi_segment[]){ { 0, 2 } }, 1);
    assert_int_equal(fqi_segments_init(&s, 0, NULL, NULL, 2, NULL, NULL), FQ_OK);
    assert_segments(&s, 1, (fqi_segment[]){ { 0, 1 }, { 1, 1 } }, 2);
    assert_int_equal(fqi_segments_init(&s, 2, (int64_t[]){ 5, 0 }, NULL, 2, NULL, NULL), FQ_OK);
    assert_segments(&s, UINT64_MAX, NULL, 0);
    /* nothing becomes zeros */
    fqi_map m = { 0 };
    assert_int_equal(fqi_map_tail(&m, 0, 3, NULL), FQ_OK);
    const fqi_map *use[] = { NULL, &m };
    assert_int_equal(fqi_segments_init(&s, 2, (int64_t[]){ 2, 0 }, NULL, 2, use, NULL), FQ_OK);
    assert_segments(&s, UINT64_MAX, (fqi_segment[]){ { FQI_ZERO_SEGMENT, 12 } }, 1);
    fqi_map_free(&m);
}

static void test_copy_of_a_walk_goes_on(void **state)
{
    (void)state;
    fqi_map m = { 0 };
    assert_int_equal(fqi_map_interleave(&m, 6, 9, NULL), FQ_OK);
    const fqi_map *use[] = { NULL, &m };
    fqi_segments s;
    fqi_segment a, b;
    assert_int_equal(fqi_segments_init(&s, 2, (int64_t[]){ 3, 6 }, NULL, 2, use, NULL), FQ_OK);
    for (int i = 0; i < 8; i++) assert_true(fqi_segments_next(&s, 4, &a));
    fqi_segments copy = s;
    while (fqi_segments_next(&s, 4, &a)) {
        assert_true(fqi_segments_next(&copy, 4, &b));
        assert_true(a.src == b.src && a.bytes == b.bytes);
    }
    assert_false(fqi_segments_next(&copy, 4, &b));
    fqi_map_free(&m);
}

static void test_refused(void **state)
{
    (void)state;
    const int64_t big = INT64_C(1) << 32;
    fqi_map five = { 0 }, huge = { 0 };
    assert_int_equal(fqi_map_identity(&five, 5, NULL), FQ_OK);
    assert_int_equal(fqi_map_tail(&huge, 4, INT64_C(1) << 61, NULL), FQ_OK);
    const fqi_map *use_five[] = { &five, NULL }, *use_huge[] = { NULL, &huge };
    const struct { int rank; int64_t shape[3], stride[3]; unsigned elem_bytes; const fqi_map *const *map; fq_status s; const char *rule; } row[] = {
        { 9, { 1 }, { 1 }, 2, NULL, FQ_E_USAGE, "segment-rank" },
        { -1, { 1 }, { 1 }, 2, NULL, FQ_E_USAGE, "segment-rank" },
        { 1, { 1 }, { 1 }, 0, NULL, FQ_E_USAGE, "segment-element" },
        { 1, { -1 }, { 1 }, 2, NULL, FQ_E_USAGE, "segment-shape" },
        { 1, { 1 }, { -1 }, 2, NULL, FQ_E_USAGE, "segment-stride" },
        { 2, { 4, 4 }, { 4, 1 }, 2, use_five, FQ_E_USAGE, "segment-map" },
        { 2, { 4, 4 }, { 4, 1 }, 2, use_huge, FQ_E_INPUT, "tensor-size" },
        { 2, { big, big }, { big, 1 }, 2, NULL, FQ_E_INPUT, "tensor-size" },
        { 2, { big, big }, { 0, 0 }, 2, NULL, FQ_E_INPUT, "tensor-size" },
        { 2, { 2, 2 }, { INT64_MAX, 1 }, 2, NULL, FQ_E_INPUT, "tensor-size" },
        { 2, { 2, 2 }, { INT64_MAX - 1, 1 }, 8, NULL, FQ_E_INPUT, "tensor-size" },
        { 3, { big, 0, big }, { 0, 0, 0 }, 2, NULL, FQ_E_INPUT, "tensor-size" },
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        fq_err e = { 0 };
        fqi_segments s;
        fq_status got = fqi_segments_init(&s, row[i].rank, row[i].shape, row[i].stride, row[i].elem_bytes, row[i].map, &e);
        if (got != row[i].s) print_error("row %zu: %s\n", i, e.text);
        assert_int_equal(got, row[i].s);
        assert_string_equal(e.rule, row[i].rule);
    }
    fqi_map_free(&five);
    fqi_map_free(&huge);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_gather), cmocka_unit_test(test_merging),  cmocka_unit_test(test_scalar_and_empty),
        cmocka_unit_test(test_copy_of_a_walk_goes_on), cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
