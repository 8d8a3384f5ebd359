/* test_fields.c - rows, columns and fields in any order are what going element by element gives, however little memory there is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "checkpoint/fields.h"
#include "support.h"

static int n_hashed;
static uint64_t rng;
static uint64_t rnd(uint64_t n) { return fqt_random(&rng) % n; }

static const uint8_t awq[8] = { 0, 4, 1, 5, 2, 6, 3, 7 };

/* One side of a case. per_word > 1: fields. */
typedef struct side { int64_t n_old, n; unsigned per_word; int32_t *of; } side;

static side make_side(unsigned per_word, int64_t most)
{
    side s = { .n_old = (1 + (int64_t)rnd((uint64_t)most)) * per_word, .per_word = per_word };
    s.n = rnd(3) ? s.n_old : (1 + (int64_t)rnd((uint64_t)most)) * per_word;
    if (rnd(4) == 0 && s.n == s.n_old) return s;   /* as it is */
    s.of = calloc((size_t)s.n, sizeof *s.of);
    const bool forward = rnd(3) == 0;
    for (int64_t i = 0; i < s.n; i++) s.of[i] = rnd(5) == 0 ? -1 : (int32_t)(forward ? i * s.n_old / s.n : (int64_t)rnd((uint64_t)s.n_old));
    return s;
}

static int64_t old_of(const side *s, int64_t i) { return s->of ? s->of[i] : i; }

/* Index `i` of a side in field units -> entry of the tensor, and the first bit in it. */
static int64_t entry(const side *s, int64_t i, const uint8_t *field, unsigned *shift)
{
    const unsigned j = (unsigned)(i % s->per_word);
    *shift = s->per_word > 1 ? (field ? field[j] : j) * (32 / s->per_word) : 0;
    return i / s->per_word;
}

/* Field by field (bit 0 of an element is field 0 of one). */
static void naive(const unsigned char *file, uint64_t off, size_t item, const side axis[2], const uint8_t *field, const unsigned char fill[4], unsigned char *out)
{
    const int64_t cols_old = axis[1].n_old / axis[1].per_word, cols = axis[1].n / axis[1].per_word;
    for (int64_t r = 0; r < axis[0].n; r++)
        for (int64_t c = 0; c < axis[1].n; c++) {
            unsigned to_r, to_c, from_r, from_c;
            const int64_t row = entry(&axis[0], r, field, &to_r), col = entry(&axis[1], c, field, &to_c);
            unsigned char *to = out + (size_t)(row * cols + col) * item;
            const int64_t sr = old_of(&axis[0], r), sc = old_of(&axis[1], c);
            const bool empty = sr < 0 || sc < 0;
            const int64_t from = empty ? 0 : entry(&axis[0], sr, field, &from_r) * cols_old + entry(&axis[1], sc, field, &from_c);
            const unsigned per_word = axis[0].per_word > 1 ? axis[0].per_word : axis[1].per_word;
            if (per_word == 1) {
                for (size_t b = 0; b < item; b++) to[b] = empty ? (item > 4 ? 0 : fill[b]) : file[off + (size_t)from * item + b];
                continue;
            }
            uint32_t word, got, mask = (uint32_t)((UINT64_C(1) << 32 / per_word) - 1);
            memcpy(&word, to, sizeof word);
            memcpy(&got, empty ? fill : file + off + (size_t)from * item, sizeof got);
            got = empty ? got >> (to_r + to_c) : got >> (from_r + from_c);
            word |= (got & mask) << (to_r + to_c);
            memcpy(to, &word, sizeof word);
        }
}

static void one_case(const char *path, const unsigned char *bytes, size_t n_bytes)
{
    static const fq_dtype type[] = { FQ_DTYPE_U8, FQ_DTYPE_F16, FQ_DTYPE_I32, FQ_DTYPE_F64 };
    static const unsigned words[] = { 4, 8, 16 };
    const unsigned kind = (unsigned)rnd(3);   /* elements, words along rows, words along columns */
    const unsigned per_word = words[rnd(3)];
    side axis[2] = { make_side(kind == 1 ? per_word : 1, 24), make_side(kind == 2 ? per_word : 1, 40) };
    const bool one_row = kind != 1 && rnd(5) == 0;
    if (one_row) {
        free(axis[0].of);
        axis[0] = (side){ .n_old = 1, .n = 1, .per_word = 1 };
    }
    const fq_dtype dtype = kind ? FQ_DTYPE_I32 : type[rnd(4)];
    const size_t item = fq_dtype_bits(dtype) / 8;
    const int64_t shape[2] = { axis[0].n_old / axis[0].per_word, axis[1].n_old / axis[1].per_word };
    const uint8_t *field = per_word == 8 && rnd(2) ? awq : NULL;
    fqi_tensor t = { .name = "t", .shape = one_row ? shape + 1 : shape, .off = 8 + rnd(64), .bytes = (uint64_t)(shape[0] * shape[1]) * item, .dtype = (uint8_t)dtype, .rank = one_row ? 1 : 2 };
    assert_true(t.off + t.bytes <= n_bytes);
    fqi_fields_request q = { .tensor = &t, .field = kind ? field : NULL, .memory = rnd(2) ? 1 : rnd(4096) };
    for (int d = 0; d < 2; d++) q.axis[d] = (fqi_fields_axis){ .of = axis[d].of, .n = axis[d].n, .n_old = axis[d].n_old, .per_word = axis[d].per_word };
    /* a word's fill is one field again and again; an element's is itself */
    const uint32_t one = (uint32_t)rnd(UINT64_C(1) << 32), mask = (uint32_t)((UINT64_C(1) << 32 / per_word) - 1);
    uint32_t fill = one;
    for (unsigned j = 0; kind && j < per_word; j++) fill = (j ? fill : 0) | (one & mask) << j * (32 / per_word);
    memcpy(q.fill, &fill, sizeof fill);
    const size_t n = (size_t)(axis[0].n / axis[0].per_word * (axis[1].n / axis[1].per_word)) * item;
    unsigned char *want = calloc(n + 1, 1), *got = calloc(n + 1, 1);
    naive(bytes, t.off, item, axis, q.field, q.fill, want);
    fqi_file f;
    fq_err e;
    assert_int_equal(fqi_file_open(&f, path, FQ_IO_BUFFERED, &e), FQ_OK);
    q.file = &f;
    fqi_fields *x = NULL;
    if (fqi_fields_open(&q, &x, &e) != FQ_OK) fail_msg("%s", e.text);
    for (size_t at = 0, step; at < n; at += step) {
        step = 1 + rnd(300);
        if (step > n - at) step = n - at;
        if (fqi_fields_read(x, at, got + at, step, &e) != FQ_OK) fail_msg("%s", e.text);
    }
    assert_memory_equal(got, want, n);
    uint64_t hash[2];
    const XXH128_hash_t right = XXH3_128bits(bytes + t.off, (size_t)t.bytes);
    const bool hashed = fqi_fields_hash(x, hash);
    if (hashed && (hash[0] != right.high64 || hash[1] != right.low64)) fail_msg("another hash of the source");
    n_hashed += hashed;
    fqi_fields_close(x);
    fqi_file_close(&f);
    free(want);
    free(got);
    free(axis[0].of);
    free(axis[1].of);
}

static void any_order(void **state)
{
    (void)state;
    const uint64_t seed = fqt_seed(51);
    const size_t n = (size_t)1 << 16;
    unsigned char *bytes = malloc(n);
    char path[4096];
    fq_err e;
    rng = seed;
    for (size_t i = 0; i < n; i++) bytes[i] = (unsigned char)rnd(256);
    snprintf(path, sizeof path, "%s/t", fqt_dir);
    assert_int_equal(fqi_write_file(path, bytes, n, &e), FQ_OK);
    printf("seed %llu\n", (unsigned long long)seed);
    for (int i = 0; i < 3000; i++) one_case(path, bytes, n);
    printf("%d of 3000 sources were hashed on the way\n", n_hashed);
    assert_true(n_hashed > 300 && n_hashed < 3000);
    free(bytes);
}

/* What cannot be: said, not computed. */
static void refusals(void **state)
{
    (void)state;
    static const int32_t far[] = { 0, 1, 2, 8 }, below[] = { -2, 0, 0, 0 }, good[] = { 3, 2, 1, 0 };
    const int64_t shape[2] = { 2, 8 }, stride[2] = { 1, 2 };
    char path[4096];
    fq_err e;
    static const unsigned char zeros[64];
    snprintf(path, sizeof path, "%s/t", fqt_dir);
    assert_int_equal(fqi_write_file(path, zeros, sizeof zeros, &e), FQ_OK);
    const struct { const char *rule; fqi_fields_axis col; bool strides; fq_dtype dtype; } c[] = {
        { "map", { far, 4, 8, 1 }, false, FQ_DTYPE_I32 }, { "map", { below, 4, 8, 1 }, false, FQ_DTYPE_I32 }, { "tensor-shape", { good, 4, 7, 1 }, false, FQ_DTYPE_I32 },
        { "tensor-shape", { good, 4, 8, 8 }, false, FQ_DTYPE_I32 }, { "tensor-shape", { NULL, 4, 8, 1 }, false, FQ_DTYPE_I32 }, { "tensor-shape", { good, 4, 64, 8 }, false, FQ_DTYPE_I32 },
        { "tensor-stride", { good, 4, 8, 1 }, true, FQ_DTYPE_I32 }, { "tensor-shape", { good, 4, 64, 8 }, false, FQ_DTYPE_F16 },
    };
    fqi_file f;
    assert_int_equal(fqi_file_open(&f, path, FQ_IO_BUFFERED, &e), FQ_OK);
    for (size_t i = 0; i < sizeof c / sizeof c[0]; i++) {
        fqi_tensor t = { .name = "t", .shape = shape, .stride = c[i].strides ? stride : NULL, .bytes = 64, .dtype = (uint8_t)c[i].dtype, .rank = 2 };
        const fqi_fields_request q = { .file = &f, .tensor = &t, .axis = { { NULL, 2, 2, 1 }, c[i].col }, .memory = 64 };
        fqi_fields *x = NULL;
        assert_true(fqi_fields_open(&q, &x, &e) != FQ_OK);
        assert_null(x);
        if (strcmp(e.rule, c[i].rule) != 0) fail_msg("case %zu: found %s, expected %s", i, e.text, c[i].rule);
    }
    fqi_file_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(any_order, fqt_dir_setup, fqt_dir_teardown),
        cmocka_unit_test_setup_teardown(refusals, fqt_dir_setup, fqt_dir_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
