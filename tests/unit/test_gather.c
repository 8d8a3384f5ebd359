/* test_gather.c - a mapped, strided or swapped tensor read in pieces is what an element-by-element copy gives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "checkpoint/gather.h"
#include "make_ckpt.h"
#include "support.h"

static uint64_t rng;
static uint64_t rnd(uint64_t n)
{
    return fqt_random(&rng) % n;
}

/* A random map of n: padding of a random layout, a permutation in blocks, replication, or NULL. */
static fqi_map *random_map(int64_t n)
{
    fqi_map *m = calloc(1, sizeof *m);
    fq_err e;
    switch (rnd(5)) {
    case 0: assert_int_equal(fqi_map_tail(m, n, n + (int64_t)rnd(9), &e), FQ_OK); return m;
    case 1: assert_int_equal(fqi_map_interleave(m, n, n + (int64_t)rnd((uint64_t)n + 1), &e), FQ_OK); return m;
    case 2:
        m->n_old = n;
        for (int64_t i = 0; i < n; i++) assert_true(fqi_map_append(m, (int64_t)rnd((uint64_t)n), 1));
        return m;
    case 3:
        m->n_old = n;
        for (int64_t i = n; i-- > 0;) assert_true(fqi_map_append(m, rnd(4) ? i : -1, 1));
        return m;
    default: free(m); return NULL;
    }
}

static int64_t source_of(const fqi_map *m, int64_t i)
{
    if (!m) return i;
    for (size_t r = 0; r < m->n_run; i -= m->run[r++].count)
        if (i < m->run[r].count) return m->run[r].src < 0 ? -1 : m->run[r].src + i;
    fail_msg("index past the map");
    return -1;
}

static unsigned char fill[4];   /* what stands where the map leaves the output empty */

/* Element by element, from the file's bytes. */
static unsigned char *naive(const unsigned char *file, const fqi_tensor *t, fqi_map *const *map, const int64_t *shape_pad, size_t n, unsigned size)
{
    unsigned char *out = calloc(n ? n : 1, size);
    for (size_t k = 0; k < n; k++) {
        int64_t at = 0, row_major = 1, rest = (int64_t)k;
        bool zero = false;
        for (int d = t->rank - 1; d >= 0; d--) {
            int64_t i = source_of(map[d], rest % shape_pad[d]);
            rest /= shape_pad[d];
            zero = zero || i < 0;
            at += i * (t->stride ? t->stride[d] : row_major);
            row_major *= t->shape[d];
        }
        for (unsigned b = 0; b < size; b++)
            out[k * size + b] = zero ? fill[(k * size + b) % 4] : file[t->off + (uint64_t)at * size + (t->byteswap ? size - 1 - b : b)];
    }
    return out;
}

/* One element of a tensor of `size` bytes per element, again and again; zeros half of the time. */
static void choose_fill(unsigned size)
{
    for (unsigned b = 0; b < 4; b++) fill[b] = b < size ? (unsigned char)rnd(256) : fill[b % size];
    if (rnd(2) == 0) memset(fill, 0, sizeof fill);
}

static void one_case(const char *path, const unsigned char *bytes, fq_io io)
{
    static const fq_dtype type[] = { FQ_DTYPE_U8, FQ_DTYPE_BF16, FQ_DTYPE_F32, FQ_DTYPE_F64 };
    fq_err e;
    int64_t shape[4], stride[4], shape_pad[4] = { 0 };
    fqi_map *map[FQ_MAX_RANK] = { NULL };
    fqi_tensor t = { .name = "t", .shape = shape, .dtype = (uint8_t)type[rnd(4)], .rank = (uint8_t)rnd(4), .byteswap = rnd(4) == 0, .off = rnd(5000) };
    unsigned size = fq_dtype_bits((fq_dtype)t.dtype) / 8;
    uint64_t n_old = 1, n_new = 1;
    for (int d = 0; d < t.rank; d++) n_old *= (uint64_t)(shape[d] = 1 + (int64_t)rnd(rnd(3) ? 12 : 90));
    if (rnd(3) == 0 && t.rank > 1) {   /* a transposed tensor */
        int64_t s = 1;
        for (int d = 0; d < t.rank; d++) { stride[d] = s; s *= shape[d]; }
        t.stride = stride;
    }
    for (int d = 0; d < t.rank; d++) {
        map[d] = random_map(shape[d]);
        n_new *= (uint64_t)(shape_pad[d] = map[d] ? map[d]->n_new : shape[d]);
    }
    t.bytes = n_old * size;
    choose_fill(size);
    unsigned char *want = naive(bytes, &t, map, shape_pad, n_new, size);
    fqi_file f;
    fqi_slot slot;
    fqi_gather g;
    size_t at = 0;
    assert_int_equal(fqi_file_open(&f, path, io, &e), FQ_OK);
    assert_int_equal(fqi_slot_init(&slot, 64 + 8 * rnd(300), &e), FQ_OK);
    assert_int_equal(fqi_gather_begin(&g, &f, &t, (const fqi_map *const *)map, n_new * size, &e), FQ_OK);
    memcpy(g.fill, fill, sizeof fill);
    do {
        if (fqi_gather_fill(&g, &slot, &e) != FQ_OK) fail_msg("%s", e.text);
        fqi_slot_assemble(&slot);
        assert_true(at + slot.bytes <= n_new * size);
        assert_memory_equal(slot.data, want + at, slot.bytes);
        at += slot.bytes;
    } while (!slot.last);
    assert_int_equal(at, n_new * size);
    fqi_slot_free(&slot);
    fqi_file_close(&f);
    free(want);
    for (int d = 0; d < t.rank; d++)
        if (map[d]) { fqi_map_free(map[d]); free(map[d]); }
}

static void test_random(void **state)
{
    (void)state;
    rng = fqt_seed(20240607);
    size_t n = 8u << 20;
    unsigned char *bytes = malloc(n);
    for (size_t i = 0; i < n; i++) bytes[i] = (unsigned char)(1 + rnd(255));
    char *dir = fqt_tempdir(), *path = fqt_join(dir, "data");
    fqt_write(dir, "data", bytes, n);
    for (int i = 0; i < 600; i++) one_case(path, bytes, i % 2 ? FQ_IO_DIRECT : FQ_IO_BUFFERED);
    fqt_remove(dir);
    free(path);
    free(dir);
    free(bytes);
}

/* Large enough that extents are read past the page cache. */
static void test_bulk(void **state)
{
    (void)state;
    fq_err e;
    size_t n = 5u << 20;
    unsigned char *bytes = malloc(n);
    rng = 7;
    for (size_t i = 0; i < n; i++) bytes[i] = (unsigned char)rnd(256);
    char *dir = fqt_tempdir(), *path = fqt_join(dir, "data");
    fqt_write(dir, "data", bytes, n);
    int64_t shape[2] = { 1024, 2000 };
    fqi_tensor t = { .name = "t", .shape = shape, .off = 12345, .bytes = 1024 * 2000 * 2, .dtype = FQ_DTYPE_BF16, .rank = 2 };
    fqi_map rows = { 0 }, cols = { 0 };
    assert_int_equal(fqi_map_spread(&rows, 1024, 1088, 17, &e), FQ_OK);
    assert_int_equal(fqi_map_interleave(&cols, 2000, 2048, &e), FQ_OK);
    fqi_map *map[FQ_MAX_RANK] = { &rows, &cols };
    int64_t shape_pad[2] = { 1088, 2048 };
    size_t bytes_pad = 1088 * 2048 * 2, at = 0;
    memset(fill, 0, sizeof fill);
    unsigned char *want = naive(bytes, &t, map, shape_pad, 1088 * 2048, 2);
    fqi_file f;
    fqi_slot slot;
    fqi_gather g;
    assert_int_equal(fqi_file_open(&f, path, FQ_IO_DIRECT, &e), FQ_OK);
    assert_int_equal(fqi_slot_init(&slot, 1u << 20, &e), FQ_OK);
    assert_int_equal(fqi_gather_begin(&g, &f, &t, (const fqi_map *const *)map, bytes_pad, &e), FQ_OK);
    do {
        if (fqi_gather_fill(&g, &slot, &e) != FQ_OK) fail_msg("%s", e.text);
        fqi_slot_assemble(&slot);
        assert_memory_equal(slot.data, want + at, slot.bytes);
        at += slot.bytes;
    } while (!slot.last);
    assert_int_equal(at, bytes_pad);
    fqi_slot_free(&slot);
    fqi_file_close(&f);
    fqi_map_free(&rows);
    fqi_map_free(&cols);
    fqt_remove(dir);
    free(want);
    free(path);
    free(dir);
    free(bytes);
}

static void test_zeros(void **state)
{
    (void)state;
    fq_err e;
    fqi_slot slot;
    fqi_gather g;
    assert_int_equal(fqi_slot_init(&slot, 64, &e), FQ_OK);
    assert_int_equal(fqi_gather_begin(&g, NULL, NULL, NULL, 100, &e), FQ_OK);
    size_t at = 0;
    do {
        memset(slot.out, 0xff, 64);
        assert_int_equal(fqi_gather_fill(&g, &slot, &e), FQ_OK);
        fqi_slot_assemble(&slot);
        for (size_t i = 0; i < slot.bytes; i++) assert_int_equal(slot.data[i], 0);
        at += slot.bytes;
    } while (!slot.last);
    assert_int_equal(at, 100);
    assert_int_equal(fqi_gather_begin(&g, NULL, NULL, NULL, 0, &e), FQ_OK);
    assert_int_equal(fqi_gather_fill(&g, &slot, &e), FQ_OK);
    assert_true(slot.last);
    assert_int_equal(slot.bytes, 0);
    fqi_slot_free(&slot);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_random), cmocka_unit_test(test_bulk), cmocka_unit_test(test_zeros) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
