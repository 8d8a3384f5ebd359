/* test_pack.c - words of quantized tensors: the byte vectors of the formats, and whole matrices that are read back bit by bit.
 *
 * Reading back is written anew from the formats' description (GPTQModel's torch kernel, compressed-tensors' pack_quantized): one bit at a
 * time, so that it shares nothing with what it judges. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "axis_random.h"
#include "quant/gptq.h"
#include "quant/pack.h"

static const int bits_of[] = { 2, 3, 4, 8 };
#define MARK 0xdeadbeefu   /* in words that nobody may write */

/* ---- vectors ---- */

static void fields_are_where_the_format_says(void **state)
{
    (void)state;
    static const struct { int bits; size_t n; uint8_t first, modulo; uint32_t word[3]; } row[] = {
        { 4, 8, 0, 8, { 0x76543210u } },
        { 8, 4, 1, 0, { 0x04030201u } },
        { 2, 16, 0, 4, { 0xe4e4e4e4u } },
        { 3, 32, 0, 8, { 0x88fac688u, 0xc688fac6u, 0xfac688fau } },
        { 4, 3, 1, 0, { 0x00000321u } },                /* unused bits are 0 */
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        uint8_t field[32], back[32];
        uint32_t word[4] = { MARK, MARK, MARK, MARK };
        const size_t n_word = (row[i].n * (size_t)row[i].bits + 31) / 32;
        for (size_t j = 0; j < row[i].n; j++) field[j] = (uint8_t)(row[i].modulo ? j % row[i].modulo : row[i].first + j);
        fqi_pack_fields(row[i].bits, field, row[i].n, word, 1);
        for (size_t w = 0; w < n_word; w++)
            if (word[w] != row[i].word[w]) fail_msg("row %zu: found %08x, expected %08x", i, word[w], row[i].word[w]);
        assert_int_equal(word[n_word], MARK);
        fqi_unpack_fields(row[i].bits, word, 1, row[i].n, back);
        assert_memory_equal(field, back, row[i].n);
    }
}

static void fields_go_there_and_back(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    for (int round = 0; round < 3000; round++) {
        const int bits = bits_of[rng_in(&r, 0, 3)];
        const size_t n = (size_t)rng_in(&r, 0, 150), stride = (size_t)rng_in(&r, 1, 5), n_word = (n * (size_t)bits + 31) / 32;
        uint8_t field[151], back[151];
        uint32_t word[40 * 5 + 1];
        for (size_t i = 0; i < n; i++) field[i] = (uint8_t)rng_in(&r, 0, (1 << bits) - 1);
        for (size_t i = 0; i < sizeof word / sizeof word[0]; i++) word[i] = MARK;
        fqi_pack_fields(bits, field, n, word, stride);
        for (size_t i = 0; i < sizeof word / sizeof word[0]; i++)
            if (i % stride != 0 || i / stride >= n_word) assert_int_equal(word[i], MARK);
        for (size_t i = 0; i < n_word * 32; i++) {
            size_t f = i / (size_t)bits;
            unsigned expected = f < n ? (unsigned)field[f] >> i % (size_t)bits & 1u : 0u, found = word[i / 32 * stride] >> i % 32 & 1u;
            if (expected != found) fail_msg("%d bits: bit %zu is %u, expected %u", bits, i, found, expected);
        }
        back[n] = 0xa5;
        fqi_unpack_fields(bits, word, stride, n, back);
        assert_memory_equal(field, back, n);
        assert_int_equal(back[n], 0xa5);
    }
}

/* ---- matrices ---- */

typedef struct matrix { fqi_codes c; fqi_pack_shape s; int64_t *row_of, *col_of; } matrix;

static int64_t *places(rng *r, size_t n, size_t n_pad, int kind)
{
    int64_t *of = malloc((n_pad + 1) * sizeof *of);
    assert_non_null(of);
    for (size_t i = 0, k = 0; i < n_pad; i++) {
        bool real = kind == 0 ? i < n : kind == 1 ? i >= n_pad - n : rng_in(r, 1, (int64_t)(n_pad - i)) <= (int64_t)(n - k);
        of[i] = real ? (int64_t)k++ : -1;
    }
    for (size_t i = n_pad; kind == 3 && i-- > 1;) {   /* in any order */
        size_t j = (size_t)rng_in(r, 0, (int64_t)i);
        int64_t t = of[i];
        of[i] = of[j];
        of[j] = t;
    }
    return of;
}

static matrix matrix_of(rng *r, int bits, size_t n_row, size_t n_row_pad, size_t n_col, size_t n_col_pad, size_t group_size, bool sym, unsigned zero_least)
{
    matrix m = { .c = { .bits = bits, .n_row = n_row, .n_col = n_col, .n_group = (n_col_pad + group_size - 1) / group_size } };
    const size_t n_scale = m.c.n_group * n_row;
    m.c.code = malloc(n_row * n_col + 1);
    m.c.scale = malloc((n_scale + 1) * sizeof *m.c.scale);
    m.c.zero = malloc(n_scale + 1);
    m.c.group_of = malloc((n_col + 1) * sizeof *m.c.group_of);
    assert_true(m.c.code && m.c.scale && m.c.zero && m.c.group_of);
    m.row_of = places(r, n_row, n_row_pad, (int)rng_in(r, 0, 3));
    m.col_of = places(r, n_col, n_col_pad, (int)rng_in(r, 0, 3));
    for (size_t i = 0; i < n_row * n_col; i++) m.c.code[i] = (uint8_t)rng_in(r, 0, (1 << bits) - 1);
    for (size_t i = 0; i < n_scale; i++) {
        m.c.scale[i] = (rng_in(r, 0, 1) ? 1.0f : -1.0f) * ldexpf((float)rng_in(r, 128, 255), (int)rng_in(r, -20, 3));
        m.c.zero[i] = (uint8_t)(sym ? 1 << (bits - 1) : rng_in(r, (int64_t)zero_least, (1 << bits) - 1));
    }
    for (size_t i = 0; i < n_col_pad; i++)
        if (m.col_of[i] >= 0) m.c.group_of[m.col_of[i]] = (uint32_t)(i / group_size);
    m.s = (fqi_pack_shape){ n_row_pad, n_col_pad, m.row_of, m.col_of, group_size, (int)rng_in(r, 0, 3) };
    return m;
}

static void drop(matrix *m)
{
    free(m->c.code);
    free(m->c.scale);
    free(m->c.zero);
    free(m->c.group_of);
    free(m->row_of);
    free(m->col_of);
}

static matrix any(rng *r, bool sym, unsigned zero_least)
{
    const bool large = rng_in(r, 0, 5) == 0;   /* several tiles of rows */
    const size_t n_row = (size_t)rng_in(r, 1, large ? 700 : 70), n_col = (size_t)rng_in(r, 1, 90);
    return matrix_of(r, bits_of[rng_in(r, 0, 3)], n_row, n_row + (size_t)rng_in(r, 0, large ? 300 : 40), n_col, n_col + (size_t)rng_in(r, 0, 40),
                     (size_t)rng_in(r, 1, 64), sym, zero_least);
}

static uint32_t *words(size_t n)
{
    uint32_t *w = malloc((n + 1) * sizeof *w);
    assert_non_null(w);
    for (size_t i = 0; i <= n; i++) w[i] = MARK;
    return w;
}

/* Field i of a stream whose words are `stride` apart. */
static unsigned field_at(const uint32_t *word, size_t stride, size_t i, size_t bits)
{
    unsigned v = 0;
    for (size_t b = 0; b < bits; b++) v |= (word[(i * bits + b) / 32 * stride] >> (i * bits + b) % 32 & 1u) << b;
    return v;
}

static float half_of(uint16_t h, fq_dtype dtype)
{
    if (dtype == FQ_DTYPE_BF16) {
        uint32_t u = (uint32_t)h << 16;
        float f;
        memcpy(&f, &u, sizeof f);
        return f;
    }
    int exponent = h >> 10 & 31, fraction = h & 1023;
    float f = exponent ? ldexpf((float)(1024 + fraction), exponent - 25) : ldexpf((float)fraction, -24);
    return h & 0x8000 ? -f : f;
}

/* What an engine must get for row n, column k of the file. */
static float expected_at(const matrix *m, size_t n, size_t k)
{
    const int64_t row = m->row_of[n], col = m->col_of[k];
    if (row < 0 || col < 0) return 0;
    const size_t at = (k / m->s.group_size) * m->c.n_row + (size_t)row;
    return m->c.scale[at] * (float)(m->c.code[(size_t)col * m->c.n_row + (size_t)row] - m->c.zero[at]);
}

static void compare(const matrix *m, const char *what, size_t n, size_t k, float found)
{
    float expected = expected_at(m, n, k);
    if (found != expected) fail_msg("%s, %d bits: row %zu, column %zu is %g, expected %g", what, m->c.bits, n, k, (double)found, (double)expected);
}

static void gptq_reads_back(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    for (int round = 0; round < 300; round++) {
        const bool v1 = rng_in(&r, 0, 1), sym = rng_in(&r, 0, 1);
        const fq_dtype dtype = rng_in(&r, 0, 1) ? FQ_DTYPE_F16 : FQ_DTYPE_BF16;
        matrix m = any(&r, sym, v1);
        const size_t b = (size_t)m.c.bits, n_row = m.s.n_row_pad, n_word = (m.s.n_col_pad * b + 31) / 32, n_zero = (n_row * b + 31) / 32;
        uint32_t *qweight = words(n_word * n_row), *qzeros = words(m.c.n_group * n_zero);
        uint16_t *scales = malloc((m.c.n_group * n_row + 1) * sizeof *scales);
        assert_non_null(scales);
        for (size_t first = 0; first < n_word;) {   /* in pieces */
            size_t n = (size_t)rng_in(&r, 1, (int64_t)(n_word - first));
            fqi_pack_gptq(&m.c, &m.s, first, n, qweight + first * n_row);
            first += n;
        }
        assert_false(fqi_pack_gptq_zeros(&m.c, &m.s, v1, qzeros));
        fqi_pack_gptq_scales(&m.c, &m.s, dtype, scales);
        assert_int_equal(qweight[n_word * n_row], MARK);
        assert_int_equal(qzeros[m.c.n_group * n_zero], MARK);
        for (size_t n = 0; n < n_row; n++)
            for (size_t k = 0; k < m.s.n_col_pad; k++) {
                size_t g = k / m.s.group_size;
                unsigned zero = (field_at(qzeros + g * n_zero, 1, n, b) + v1) & ((1u << b) - 1);
                int code = (int)field_at(qweight + n, n_row, k, b);
                compare(&m, v1 ? "v1" : "v2", n, k, half_of(scales[g * n_row + n], dtype) * (float)(code - (int)zero));
            }
        free(scales);
        free(qzeros);
        free(qweight);
        drop(&m);
    }
}

static void compressed_tensors_read_back(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    for (int round = 0; round < 300; round++) {
        const bool sym = rng_in(&r, 0, 1);
        const fq_dtype dtype = rng_in(&r, 0, 1) ? FQ_DTYPE_F16 : FQ_DTYPE_BF16;
        matrix m = any(&r, sym, 0);
        const size_t b = (size_t)m.c.bits, n_row = m.s.n_row_pad, n_word = (m.s.n_col_pad * b + 31) / 32, n_zero = (n_row * b + 31) / 32, n_group = m.c.n_group;
        uint32_t *packed = words(n_row * n_word), *zeros = words(n_zero * n_group);
        uint16_t *scales = malloc((n_group * n_row + 1) * sizeof *scales);
        assert_non_null(scales);
        for (size_t first = 0; first < n_row;) {
            size_t n = (size_t)rng_in(&r, 1, (int64_t)(n_row - first));
            fqi_pack_ct(&m.c, &m.s, first, n, packed + first * n_word);
            first += n;
        }
        fqi_pack_ct_zeros(&m.c, &m.s, zeros);
        fqi_pack_ct_scales(&m.c, &m.s, dtype, scales);
        assert_int_equal(packed[n_row * n_word], MARK);
        assert_int_equal(zeros[n_zero * n_group], MARK);
        const int middle = 1 << (b - 1);
        for (size_t n = 0; n < n_row; n++)
            for (size_t k = 0; k < m.s.n_col_pad; k++) {
                size_t g = k / m.s.group_size;
                /* Signed numbers as the format has them; symmetric files have no zero points. */
                int q = (int)field_at(packed + n * n_word, 1, k, b) - middle, zero = sym ? 0 : (int)field_at(zeros + g, n_group, n, b) - middle;
                compare(&m, "compressed-tensors", n, k, half_of(scales[n * n_group + g], dtype) * (float)(q - zero));
            }
        free(scales);
        free(zeros);
        free(packed);
        drop(&m);
    }
}

static void words_do_not_depend_on_threads(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    for (size_t b = 0; b < 4; b++) {
        matrix m = matrix_of(&r, bits_of[b], 1000, 1100, 500, 640, 128, false, 0);
        const size_t n_word = 640 * (size_t)bits_of[b] / 32;
        uint32_t *one = words(n_word * 1100), *many = words(n_word * 1100);
        for (int t = 2; t <= 5; t++) {
            m.s.n_thread = 1;
            fqi_pack_gptq(&m.c, &m.s, 0, n_word, one);
            m.s.n_thread = t;
            fqi_pack_gptq(&m.c, &m.s, 0, n_word, many);
            assert_memory_equal(one, many, n_word * 1100 * sizeof *one);
            m.s.n_thread = 1;
            fqi_pack_ct(&m.c, &m.s, 0, 1100, one);
            m.s.n_thread = t;
            fqi_pack_ct(&m.c, &m.s, 0, 1100, many);
            assert_memory_equal(one, many, n_word * 1100 * sizeof *one);
        }
        free(one);
        free(many);
        drop(&m);
    }
}

/* ---- zero points and scales ---- */

static void symmetric_zero_points_have_one_word(void **state)
{
    (void)state;
    static const struct { int bits; uint32_t v1[3], v2[3]; } row[] = {
        { 2, { 0x55555555u, 0x55555555u }, { 0xaaaaaaaau, 0xaaaaaaaau } },
        { 3, { 0xdb6db6dbu, 0xb6db6db6u, 0x6db6db6du }, { 0x24924924u, 0x49249249u, 0x92492492u } },
        { 4, { 0x77777777u, 0x77777777u, 0x77777777u }, { 0x88888888u, 0x88888888u, 0x88888888u } },
        { 8, { 0x7f7f7f7fu, 0x7f7f7f7fu, 0x7f7f7f7fu }, { 0x80808080u, 0x80808080u, 0x80808080u } },
    };
    rng r = rng_start(__func__);
    for (size_t i = 0; i < 4; i++) {
        matrix m = matrix_of(&r, row[i].bits, 20, 32, 8, 8, 8, true, 0);
        uint32_t word[9];
        const size_t n = (size_t)row[i].bits;
        assert_false(fqi_pack_gptq_zeros(&m.c, &m.s, true, word));
        for (size_t w = 0; w < n; w++) assert_int_equal(word[w], row[i].v1[row[i].bits == 3 ? w : 0]);
        assert_false(fqi_pack_gptq_zeros(&m.c, &m.s, false, word));
        for (size_t w = 0; w < n; w++) assert_int_equal(word[w], row[i].v2[row[i].bits == 3 ? w : 0]);
        fqi_pack_ct_zeros(&m.c, &m.s, word);
        for (size_t w = 0; w < n; w++) assert_int_equal(word[w], row[i].v2[row[i].bits == 3 ? w : 0]);
        drop(&m);
    }
}

static void version_1_says_when_it_cannot(void **state)
{
    (void)state;
    static const uint8_t zero[8] = { 0, 5, 3, 1, 2, 4, 6, 7 };
    rng r = rng_start(__func__);
    matrix m = matrix_of(&r, 4, 8, 8, 8, 8, 8, false, 0);
    for (int64_t i = 0; i < 8; i++) m.row_of[i] = i;
    memcpy(m.c.zero, zero, sizeof zero);
    uint32_t word = 0;
    assert_true(fqi_pack_gptq_zeros(&m.c, &m.s, true, &word));
    assert_int_equal(word, 0x6531024fu);                          /* per field: 0 - 1 is 15, and nothing is borrowed from the next */
    assert_false(fqi_pack_gptq_zeros(&m.c, &m.s, false, &word));
    assert_int_equal(word, 0x76421350u);
    m.c.zero[0] = 1;
    assert_false(fqi_pack_gptq_zeros(&m.c, &m.s, true, &word));
    assert_int_equal(word, 0x65310240u);
    drop(&m);
}

static void scales_become_bit_patterns(void **state)
{
    (void)state;
    static const struct { float scale; uint16_t f16, bf16; } row[] = {
        { 1.0f, 0x3c00, 0x3f80 },      { -2.0f, 0xc000, 0xc000 },       { 65504.0f, 0x7bff, 0x4780 },   { 0x1p-14f, 0x0400, 0x3880 },
        { 0x1p-24f, 0x0001, 0x3380 },  { 0x3ffp-24f, 0x03ff, 0x3880 },  { 1e6f, 0x7c00, 0x4974 },       { -65519.0f, 0xfbff, 0xc780 },
        { 1.0f + 0x1p-11f, 0x3c00, 0x3f80 },   { 1.0f + 0x3p-11f, 0x3c02, 0x3f80 },   { 1.0f + 0x3p-8f, 0x3c0c, 0x3f82 },
        { 0x1.fffp-15f, 0x0400, 0x3880 },
    };
    rng r = rng_start(__func__);
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        matrix m = matrix_of(&r, 4, 1, 1, 8, 8, 8, true, 0);
        uint16_t h = 0;
        m.row_of[0] = 0;
        m.c.scale[0] = row[i].scale;
        fqi_pack_gptq_scales(&m.c, &m.s, FQ_DTYPE_F16, &h);
        if (h != row[i].f16) fail_msg("%a is %04x in f16, expected %04x", (double)row[i].scale, h, row[i].f16);
        fqi_pack_ct_scales(&m.c, &m.s, FQ_DTYPE_BF16, &h);
        if (h != row[i].bf16) fail_msg("%a is %04x in bf16, expected %04x", (double)row[i].scale, h, row[i].bf16);
        m.row_of[0] = -1;
        fqi_pack_gptq_scales(&m.c, &m.s, FQ_DTYPE_F16, &h);
        assert_int_equal(h, 0x3c00);
        drop(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_are_where_the_format_says),
        cmocka_unit_test(fields_go_there_and_back),
        cmocka_unit_test(gptq_reads_back),
        cmocka_unit_test(compressed_tensors_read_back),
        cmocka_unit_test(words_do_not_depend_on_threads),
        cmocka_unit_test(symmetric_zero_points_have_one_word),
        cmocka_unit_test(version_1_says_when_it_cannot),
        cmocka_unit_test(scales_become_bit_patterns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
