/* test_transcode.c - every pair of forms against a reader and a writer that go one bit at a time, on matrices of odd lengths.
 *
 * What is judged moves tiles; what judges it asks for one field at one place, by the description of a form alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "axis_random.h"
#include "quant/transcode.h"

#define MOST 200
#define CELLS ((size_t)MOST * (MOST + 8))
#define MARK 0xa5

static const uint8_t awq[] = { 0, 4, 1, 5, 2, 6, 3, 7 };

/* gptq codes; pack-quantized codes; awq; zero points of gptq, of pack-quantized; fields in bytes */
static const struct form { bool x_first; fqi_fields along; const uint8_t *field; } form[] = {
    { true, FQI_FIELDS_X, NULL }, { false, FQI_FIELDS_X, NULL }, { true, FQI_FIELDS_N, awq }, { true, FQI_FIELDS_N, NULL },
    { false, FQI_FIELDS_N, NULL }, { true, FQI_FIELDS_NONE, NULL }, { false, FQI_FIELDS_NONE, NULL }, { false, FQI_FIELDS_X, awq },
};
#define N_FORM (sizeof form / sizeof form[0])

typedef struct matrix { fqi_grid g; size_t n, x, n_line; int bits; unsigned char bytes[4 * CELLS]; } matrix;

static size_t cells(const matrix *m, fqi_fields axis, size_t n) { return m->g.along == axis ? (n * (size_t)m->bits + 31) / 32 : n; }

static void shape(matrix *m, const struct form *f, size_t n, size_t x, int bits, size_t gap)
{
    m->n = n;
    m->x = x;
    m->bits = bits;
    m->g = (fqi_grid){ .data = m->bytes, .x_first = f->x_first, .along = f->along, .field = bits == 4 ? f->field : NULL };
    const size_t cn = cells(m, FQI_FIELDS_N, n), cx = cells(m, FQI_FIELDS_X, x);
    m->n_line = f->x_first ? cx : cn;
    m->g.line = (f->x_first ? cn : cx) + gap;
    memset(m->bytes, MARK, sizeof m->bytes);
}

/* Bit `b` of the field of element (n, x): its byte and its place there. */
static unsigned char *place(matrix *m, size_t n, size_t x, size_t b, unsigned *bit)
{
    const size_t bits = (size_t)m->bits, each = 32 / bits;
    size_t i = m->g.along == FQI_FIELDS_N ? n : x, cn = n, cx = x, at = b;
    if (m->g.along != FQI_FIELDS_NONE) {
        if (m->g.field) i = i / each * each + m->g.field[i % each];
        at = i * bits + b;
        if (m->g.along == FQI_FIELDS_N) cn = at / 32;
        else cx = at / 32;
    }
    const size_t cell = m->g.x_first ? cx * m->g.line + cn : cn * m->g.line + cx;
    *bit = (unsigned)(at % 8);
    return m->bytes + (m->g.along == FQI_FIELDS_NONE ? cell : 4 * cell + at % 32 / 8);
}

static unsigned get(matrix *m, size_t n, size_t x)
{
    unsigned out = 0, bit;
    for (size_t b = 0; b < (size_t)m->bits; b++) {
        const unsigned char *p = place(m, n, x, b, &bit);
        out |= (unsigned)(*p >> bit & 1) << b;
    }
    return out;
}

static void put(matrix *m, size_t n, size_t x, unsigned value)
{
    unsigned bit;
    for (size_t b = 0; b < (size_t)m->bits; b++) {
        unsigned char *p = place(m, n, x, b, &bit);
        *p = (unsigned char)((*p & ~(1u << bit)) | (value >> b & 1) << bit);
    }
}

static void clear_words(matrix *m)
{
    const size_t width = m->g.along == FQI_FIELDS_NONE ? 1 : 4, used = m->g.x_first ? cells(m, FQI_FIELDS_N, m->n) : cells(m, FQI_FIELDS_X, m->x);
    for (size_t i = 0; i < m->n_line; i++) memset(m->bytes + i * m->g.line * width, 0, used * width);
}

static matrix source, target, expected;

static void every_pair_of_forms(void **state)
{
    (void)state;
    static const int bits_of[] = { 2, 3, 4, 8 };
    rng r = rng_start(__func__);
    for (int round = 0; round < 700; round++) {
        const struct form *a = &form[rng_in(&r, 0, N_FORM - 1)], *b = &form[rng_in(&r, 0, N_FORM - 1)];
        const int bits = bits_of[rng_in(&r, 0, 3)], add = (int)rng_in(&r, 0, 1) ? (int)rng_in(&r, -1, 1) : 0;
        size_t n = (size_t)rng_in(&r, 1, round % 10 ? 90 : MOST), x = (size_t)rng_in(&r, 1, round % 10 ? 90 : MOST);
        if (bits == 4 && ((a->field && a->along == FQI_FIELDS_N) || (b->field && b->along == FQI_FIELDS_N))) n = (n + 7) / 8 * 8;
        if (bits == 4 && ((a->field && a->along == FQI_FIELDS_X) || (b->field && b->along == FQI_FIELDS_X))) x = (x + 7) / 8 * 8;
        shape(&source, a, n, x, bits, (size_t)rng_in(&r, 0, 3));
        shape(&target, b, n, x, bits, (size_t)rng_in(&r, 0, 3));
        clear_words(&source);
        expected = target;
        expected.g.data = expected.bytes;
        clear_words(&expected);
        for (size_t i = 0; i < n; i++)
            for (size_t k = 0; k < x; k++) {
                const unsigned value = (unsigned)rng_in(&r, 0, (1 << bits) - 1);
                put(&source, i, k, value);
                put(&expected, i, k, (value + (unsigned)add) & ((1u << bits) - 1));
            }
        fqi_transcode(&(fqi_transcoding){ .from = source.g, .to = target.g, .n = n, .x = x, .bits = bits, .width = 1, .add = add, .n_thread = round % 3 });
        if (memcmp(target.bytes, expected.bytes, sizeof target.bytes) != 0) fail_msg("round %d: forms %td -> %td, %zu x %zu, %d bits, add %d", round, a - form, b - form, n, x, bits, add);
        assert_int_equal(get(&target, n - 1, x - 1), (get(&source, n - 1, x - 1) + (unsigned)add) & ((1u << bits) - 1));
    }
}

static void numbers_are_turned(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    for (int round = 0; round < 60; round++) {
        static const size_t width_of[] = { 1, 2, 4 };
        static unsigned char a[CELLS * 4], b[CELLS * 4];
        const size_t n = (size_t)rng_in(&r, 1, 150), x = (size_t)rng_in(&r, 1, 150), width = width_of[rng_in(&r, 0, 2)];
        for (size_t i = 0; i < n * x * width; i++) a[i] = (unsigned char)rng_in(&r, 0, 255);
        const fqi_grid from = { .data = a, .line = n, .x_first = true }, to = { .data = b, .line = x };
        fqi_transcode(&(fqi_transcoding){ .from = from, .to = to, .n = n, .x = x, .width = width, .n_thread = 2 });
        for (size_t i = 0; i < n; i++)
            for (size_t k = 0; k < x; k++) assert_memory_equal(b + (i * x + k) * width, a + (k * n + i) * width, width);
    }
}

/* One line that counts for all: how constant zero points are written. */
static void one_line_for_all(void **state)
{
    (void)state;
    unsigned char line[13];
    uint32_t word[5 * 2];
    memset(line, 7, sizeof line);
    const fqi_grid from = { .data = line, .line = 0, .x_first = true }, to = { .data = word, .line = 2, .x_first = true, .along = FQI_FIELDS_N };
    fqi_transcode(&(fqi_transcoding){ .from = from, .to = to, .n = 13, .x = 5, .bits = 4, .width = 1 });
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(word[2 * i], 0x77777777u);
        assert_int_equal(word[2 * i + 1], 0x00077777u);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pair_of_forms),
        cmocka_unit_test(numbers_are_turned),
        cmocka_unit_test(one_line_for_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
