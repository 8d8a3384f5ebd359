/* test_kernel.c - every version of every kernel: the same bits as plain C, and numbers that double precision confirms.
 *
 * Bits are compared exactly where values are moved (widen, round_to); where they are computed with, NaN equals NaN, because
 * which NaN comes out of an addition of two is the processor's business. Buffers end where their allocation ends, so that a kernel
 * that reads further is seen by the sanitizer. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "axis_random.h"
#include "kernel/kernel.h"

static const fq_dtype dtypes[] = { FQ_DTYPE_F32, FQ_DTYPE_F16, FQ_DTYPE_BF16 };
static const char *const dtype_name[] = { "f32", "f16", "bf16" };
#define N_DTYPE 3

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float of_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* ---- buffers and values ------------------------------------------------------------------------------------------ */

/* n elements that begin at an odd element and end with their allocation. */
typedef struct buffer { unsigned char *base; float *f; } buffer;

static buffer take(rng *r, size_t n, size_t size)
{
    size_t before = size * (size_t)rng_in(r, 0, 7);
    unsigned char *base = malloc(before + n * size + (n == 0));
    assert_non_null(base);
    return (buffer){ base, (float *)(void *)(base + before) };
}

static void drop(buffer b) { free(b.base); }

typedef enum kind { PLAIN, SPREAD, ANY } kind;   /* around 1; every size, denormals, zeros of both signs; with infinities and NaN */

static float value(rng *r, kind k)
{
    double u = (double)(rng_next(r) >> 11) * 0x1p-53 * 2 - 1;
    if (k == PLAIN) return (float)u;
    switch (rng_in(r, 0, k == ANY ? 31 : 20)) {
    case 0: return 0.0f;
    case 1: return -0.0f;
    case 2: return of_bits((uint32_t)rng_next(r) & 0x807fffffu);           /* denormal */
    case 3: return (float)(u * 1e-30);
    case 4: return (float)(u * 1e15);
    case 5: return (float)(u * 200);
    case 30: return u < 0 ? -INFINITY : INFINITY;
    case 31: return u < 0 ? -NAN : NAN;
    default: return (float)u;
    }
}

/* A value in the stored form of dtype. Random codes for half types: every one of them is a number, an infinity or a NaN. */
static void store(rng *r, kind k, fq_dtype dtype, unsigned char *at)
{
    float f = value(r, k);
    uint16_t h = (uint16_t)(bits_of(f) >> 16);
    if (dtype == FQ_DTYPE_F32) {
        memcpy(at, &f, 4);
        return;
    }
    if (dtype == FQ_DTYPE_F16) {
        h = (uint16_t)rng_next(r);
        if (k == PLAIN) h = (uint16_t)((h & 0x83ff) | (uint16_t)rng_in(r, 10, 14) << 10);
        if (k == SPREAD && (h & 0x7c00) == 0x7c00) h &= 0x83ff;
    }
    memcpy(at, &h, 2);
}

static buffer floats(rng *r, size_t n, kind k)
{
    buffer b = take(r, n, sizeof(float));
    for (size_t i = 0; i < n; i++) b.f[i] = value(r, k);
    return b;
}

static size_t bytes_of(fq_dtype dtype) { return dtype == FQ_DTYPE_F32 ? 4 : 2; }

static buffer stored(rng *r, size_t n, kind k, fq_dtype dtype)
{
    buffer b = take(r, n, bytes_of(dtype));
    for (size_t i = 0; i < n; i++) store(r, k, dtype, (unsigned char *)b.f + i * bytes_of(dtype));
    return b;
}

static buffer copy_of(rng *r, const float *f, size_t n)
{
    buffer b = take(r, n, sizeof(float));
    if (n > 0) memcpy(b.f, f, n * sizeof(float));
    return b;
}

/* The code as a number, by its definition. */
static double decode(uint16_t h, fq_dtype dtype)
{
    const int fraction_bits = dtype == FQ_DTYPE_F16 ? 10 : 7, exponent_bits = 15 - fraction_bits, bias = (1 << (exponent_bits - 1)) - 1;
    int exponent = (h >> fraction_bits) & ((1 << exponent_bits) - 1), fraction = h & ((1 << fraction_bits) - 1);
    double v = exponent == 0 ? ldexp(fraction, 1 - bias - fraction_bits) : ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
    if (exponent == (1 << exponent_bits) - 1) v = fraction ? (double)NAN : (double)INFINITY;
    return h & 0x8000 ? -v : v;
}

static double element(const void *p, fq_dtype dtype, size_t i)
{
    float f;
    uint16_t h;
    if (dtype == FQ_DTYPE_F32) {
        memcpy(&f, (const unsigned char *)p + 4 * i, 4);
        return (double)f;
    }
    memcpy(&h, (const unsigned char *)p + 2 * i, 2);
    return decode(h, dtype);
}

/* ---- comparing --------------------------------------------------------------------------------------------------- */

static bool same(float a, float b) { return bits_of(a) == bits_of(b) || (isnan(a) && isnan(b)); }

static void expect_same(const fqi_kernels *k, const char *what, const float *found, const float *expected, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!same(found[i], expected[i]))
            fail_msg("%s %s, n %zu, element %zu: found %a (%08x), expected %a (%08x)", k->name, what, n, i, (double)found[i], bits_of(found[i]),
                     (double)expected[i], bits_of(expected[i]));
}

static void expect_near(const char *what, double found, double expected, double bound)
{
    if (!(fabs(found - expected) <= bound)) fail_msg("%s: found %.17g, expected %.17g within %.3g", what, found, expected, bound);
}

/* Lengths around every multiple that a version might step by, and some long ones. */
static size_t length(rng *r)
{
    static const size_t around[] = { 0, 8, 16, 32, 64, 96, 112, 128, 256, 512, 896 };
    int64_t n = (int64_t)around[rng_in(r, 0, 10)] + rng_in(r, -2, 2);
    return n < 1 ? 1 : (size_t)n;
}

#define EACH_VERSION(k) for (size_t v_ = 0; v_ < FQI_N_KERNELS; v_++) for (const fqi_kernels *k = fqi_kernels_at(v_); k; k = NULL)

static void versions_are_what_they_say(void **state)
{
    static const char *const name[] = { "c", "avx2", "avx512" };
    (void)state;
    assert_non_null(fqi_kernels_at(0));
    assert_null(fqi_kernels_at(FQI_N_KERNELS));
    for (size_t i = 0; i < FQI_N_KERNELS; i++) {
        if (fqi_kernels_at(i))
            assert_string_equal(fqi_kernels_at(i)->name, name[i]);
        else
            print_message("this processor does not run %s: not tested\n", name[i]);
    }
}

/* ---- stored types ------------------------------------------------------------------------------------------------ */

static void widen_knows_every_code(void **state)
{
    static uint16_t code[65536];
    static float out[65536];
    (void)state;
    for (size_t i = 0; i < 65536; i++) code[i] = (uint16_t)i;
    EACH_VERSION(k) for (size_t d = 1; d < N_DTYPE; d++)
        for (size_t tail = 0; tail < 2; tail++) {   /* as vectors; one by one */
            if (tail == 0) k->widen(code, dtypes[d], out, 65536);
            for (size_t i = 0; tail && i < 65536; i++) k->widen(code + i, dtypes[d], out + i, 1);
            for (size_t i = 0; i < 65536; i++) {
                double expected = decode(code[i], dtypes[d]);
                if (isnan(expected) ? !isnan(out[i]) : bits_of((float)expected) != bits_of(out[i]))
                    fail_msg("%s %s %04zx: found %a, expected %a", k->name, dtype_name[d], i, (double)out[i], expected);
            }
        }
}

static void widen_has_the_same_bits(void **state)
{
    rng r = rng_start("widen");
    (void)state;
    for (size_t round = 0; round < 300; round++) {
        size_t n = length(&r), d = round % N_DTYPE;
        buffer src = stored(&r, n, ANY, dtypes[d]), expected = take(&r, n, 4), out = take(&r, n, 4);
        fqi_kernels_at(0)->widen(src.f, dtypes[d], expected.f, n);
        EACH_VERSION(k) {
            memset(out.f, 0x5a, n * 4);
            k->widen(src.f, dtypes[d], out.f, n);
            assert_memory_equal(out.f, expected.f, n * 4);   /* NaN too */
        }
        drop(src), drop(expected), drop(out);
    }
}

/* ---- rounding to half types --------------------------------------------------------------------------------------- */

/* The codes 0 .. infinity are numbers in ascending order. What is past the last finite one is as far as if the exponent went on. */
static double code_value[N_DTYPE][0x7f81];
static size_t infinity_code[N_DTYPE] = { 0, 0x7c00, 0x7f80 };

static void make_codes(void)
{
    for (size_t d = 1; d < N_DTYPE; d++) {
        for (size_t c = 0; c < infinity_code[d]; c++) code_value[d][c] = decode((uint16_t)c, dtypes[d]);
        code_value[d][infinity_code[d]] = d == 1 ? 0x1p16 : 0x1p128;
    }
}

static float nearest(float x, size_t d)
{
    double a = fabs((double)x);
    size_t low = 0, high = infinity_code[d];
    if (isnan(x)) return x;
    while (high - low > 1) {
        size_t mid = (low + high) / 2;
        *(code_value[d][mid] <= a ? &low : &high) = mid;
    }
    double below = a - code_value[d][low], above = code_value[d][high] - a;   /* exact: neighbours are within a factor of 2, or denormal */
    size_t code = below < above ? low : above < below ? high : low % 2 == 0 ? low : high;
    if (a >= code_value[d][infinity_code[d]]) code = infinity_code[d];
    double v = code == infinity_code[d] ? (double)INFINITY : code_value[d][code];
    return copysignf((float)v, x);
}

static void check_rounding(size_t d, const float *x, const float *expected, size_t n)
{
    static float out[4096];
    EACH_VERSION(k) {
        memcpy(out, x, n * sizeof *x);
        k->round_to(out, dtypes[d], n);
        for (size_t i = 0; i < n; i++)
            if (isnan(expected[i]) ? !isnan(out[i]) : bits_of(out[i]) != bits_of(expected[i]))
                fail_msg("%s %s %a (%08x): found %a, expected %a", k->name, dtype_name[d], (double)x[i], bits_of(x[i]), (double)out[i],
                         (double)expected[i]);
    }
}

static void rounding_is_to_the_nearest(void **state)
{
    static float x[4096], expected[4096];
    (void)state;
    make_codes();
    for (size_t d = 1; d < N_DTYPE; d++) {
        size_t n = 0;
        for (uint64_t u = 0; u < 0x100000000u; u += 4099) {   /* a prime: every low part of the pattern comes */
            x[n] = of_bits((uint32_t)u);
            expected[n] = nearest(x[n], d);
            if (++n < 4096 && u + 4099 < 0x100000000u) continue;
            check_rounding(d, x, expected, n);
            n = 0;
        }
    }
}

static void rounding_of_midpoints_is_to_even(void **state)
{
    (void)state;
    make_codes();
    for (size_t d = 1; d < N_DTYPE; d++)
        for (size_t code = 0; code < infinity_code[d]; code++) {
            float middle = (float)(code_value[d][code] / 2 + code_value[d][code + 1] / 2), even, x[18], expected[18];
            size_t n = 0;
            assert_true((double)middle == code_value[d][code] / 2 + code_value[d][code + 1] / 2);
            even = (float)(code + (code & 1) == infinity_code[d] ? (double)INFINITY : code_value[d][code + (code & 1)]);
            for (int side = -1; side <= 1; side++)
                for (int sign = 0; sign < 2; sign++) {
                    float v = of_bits(bits_of(middle) + (uint32_t)side);
                    if (side == 0) assert_true(nearest(v, d) == even);
                    for (size_t copy = 0; copy < 3; copy++, n++) {
                        x[n] = sign ? -v : v;
                        expected[n] = nearest(x[n], d);
                    }
                }
            check_rounding(d, x, expected, n);   /* 18: a vector and a tail */
        }
}

static void rounding_has_the_same_bits(void **state)
{
    rng r = rng_start("round_to");
    (void)state;
    for (size_t round = 0; round < 300; round++) {
        size_t n = length(&r), d = round % N_DTYPE;
        buffer x = take(&r, n, 4);
        for (size_t i = 0; i < n; i++) x.f[i] = rng_in(&r, 0, 3) ? value(&r, ANY) : of_bits((uint32_t)rng_next(&r));
        buffer expected = copy_of(&r, x.f, n);
        fqi_kernels_at(0)->round_to(expected.f, dtypes[d], n);
        if (d == 0) assert_memory_equal(expected.f, x.f, n * 4);
        EACH_VERSION(k) {
            buffer out = copy_of(&r, x.f, n);
            k->round_to(out.f, dtypes[d], n);
            assert_memory_equal(out.f, expected.f, n * 4);   /* NaN too */
            drop(out);
        }
        drop(x), drop(expected);
    }
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

/* Sum of products in lanes order, written another way: a lane at a time. */
static float lanes_dot(const double *a, const float *b, size_t n)
{
    float lane[FQI_LANES];
    for (size_t l = 0; l < FQI_LANES; l++) {
        lane[l] = 0;
        for (size_t k = l; k < n; k += FQI_LANES) lane[l] = fmaf((float)a[k], b[k], lane[l]);
    }
    for (size_t l = 0; l < 8; l++) lane[l] = lane[l] + lane[l + 8];
    for (size_t l = 0; l < 4; l++) lane[l] = lane[l] + lane[l + 4];
    return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

static void matvec_has_the_same_bits(void **state)
{
    rng r = rng_start("matvec");
    double *row = malloc(1000 * sizeof *row);
    (void)state;
    assert_non_null(row);
    for (size_t round = 0; round < 400; round++) {
        size_t cols = length(&r), rows = (size_t)rng_in(&r, 1, 11), d = round % N_DTYPE;
        kind how = (kind)(round / N_DTYPE % 3);
        buffer data = stored(&r, rows * cols, how, dtypes[d]), x = floats(&r, cols, how), y = take(&r, rows, 4);
        fqi_matrix w = { data.f, (int64_t)rows, (int64_t)cols, dtypes[d] };
        int64_t r0 = rng_in(&r, 0, (int64_t)rows), r1 = rng_in(&r, r0, (int64_t)rows);
        EACH_VERSION(k) {
            memset(y.f, 0x5a, rows * 4);
            k->matvec(&w, r0, r1, x.f, y.f);
            for (size_t i = 0; i < rows; i++) {
                float expected;
                double sum = 0, size = 0;
                memset(&expected, 0x5a, 4);   /* outside of r0 .. r1 nothing is written */
                for (size_t j = 0; j < cols; j++) row[j] = element(data.f, dtypes[d], i * cols + j);
                if ((int64_t)i >= r0 && (int64_t)i < r1) expected = lanes_dot(row, x.f, cols);
                expect_same(k, "matvec", y.f + i, &expected, 1);
                for (size_t j = 0; j < cols; j++) sum += row[j] * (double)x.f[j], size += fabs(row[j] * (double)x.f[j]);
                if (how == PLAIN && (int64_t)i >= r0 && (int64_t)i < r1) expect_near("matvec", (double)y.f[i], sum, ((double)cols / 16 + 5) * 0x1p-24 * size);
            }
        }
        drop(data), drop(x), drop(y);
    }
    free(row);
}

typedef struct product { size_t m, k, lda, ldb, ldc; buffer a, b, c; } product;

static product product_random(rng *r, kind how)
{
    product p = { .m = (size_t)rng_in(r, 1, FQI_TILE_ROWS), .k = length(r) / (size_t)rng_in(r, 1, 3) };
    p.lda = p.k + (size_t)rng_in(r, 0, 3);
    p.ldb = FQI_TILE + (size_t)rng_in(r, 0, 3) * 5;
    p.ldc = FQI_TILE + (size_t)rng_in(r, 0, 3) * 3;
    p.a = floats(r, (p.m - 1) * p.lda + p.k, how);
    p.b = floats(r, p.k ? (p.k - 1) * p.ldb + FQI_TILE : 0, how);
    p.c = floats(r, (p.m - 1) * p.ldc + FQI_TILE, how);
    return p;
}

static void product_free(product *p) { drop(p->a), drop(p->b), drop(p->c); }

static size_t c_size(const product *p) { return (p->m - 1) * p->ldc + FQI_TILE; }

static void multiply(const fqi_kernels *k, const product *p, float *c, bool accumulate, bool last)
{
    k->gemm_tile(p->m, p->k, p->a.f, p->lda, p->b.f, p->ldb, c, p->ldc, accumulate, last);
}

static void expect_product(const product *p, const float *c, bool accumulate, bool last, bool near)
{
    for (size_t i = 0; i < p->m; i++)
        for (size_t j = 0; j < FQI_TILE; j++) {
            float acc = accumulate ? p->c.f[i * p->ldc + j] : 0.0f;
            double sum = (double)acc, size = fabs((double)acc);
            for (size_t k = 0; k < p->k; k++) {
                float a = p->a.f[i * p->lda + k], b = p->b.f[k * p->ldb + j];
                acc = fmaf(a, b, acc);
                sum += (double)a * (double)b;
                size += fabs((double)a * (double)b);
            }
            if (last) acc += 0.0f;
            expect_same(fqi_kernels_at(0), "gemm_tile", c + i * p->ldc + j, &acc, 1);
            if (near) expect_near("gemm_tile", (double)acc, sum, (double)p->k * 0x1p-24 * size);
        }
}

static void gemm_tile_has_the_same_bits(void **state)
{
    rng r = rng_start("gemm_tile");
    (void)state;
    for (size_t round = 0; round < 300; round++) {
        kind how = (kind)(round % 3);
        product p = product_random(&r, how);
        bool accumulate = rng_in(&r, 0, 1), last = rng_in(&r, 0, 1);
        buffer expected = copy_of(&r, p.c.f, c_size(&p));
        multiply(fqi_kernels_at(0), &p, expected.f, accumulate, last);
        expect_product(&p, expected.f, accumulate, last, how == PLAIN);
        EACH_VERSION(k) {
            buffer c = copy_of(&r, p.c.f, c_size(&p));
            multiply(k, &p, c.f, accumulate, last);
            expect_same(k, "gemm_tile", c.f, expected.f, c_size(&p));   /* what is between the rows too */
            drop(c);
        }
        product_free(&p), drop(expected);
    }
}

/* Sequence order: blocks of k, cut anywhere, give the bits of the whole. */
static void gemm_tile_can_be_cut(void **state)
{
    rng r = rng_start("gemm_tile in blocks");
    (void)state;
    for (size_t round = 0; round < 200; round++) {
        product p = product_random(&r, round % 2 ? SPREAD : PLAIN);
        EACH_VERSION(k) {
            buffer whole = copy_of(&r, p.c.f, c_size(&p)), cut = copy_of(&r, p.c.f, c_size(&p));
            multiply(k, &p, whole.f, false, true);
            size_t k0 = 0;
            do {
                size_t n = (size_t)rng_in(&r, 0, (int64_t)(p.k - k0));
                k->gemm_tile(p.m, n, p.a.f + k0, p.lda, p.b.f + (n ? k0 * p.ldb : 0), p.ldb, cut.f, p.ldc, k0 > 0, k0 + n == p.k);
                k0 += n;
            } while (k0 < p.k);
            expect_same(k, "gemm_tile in blocks", cut.f, whole.f, c_size(&p));
            drop(whole), drop(cut);
        }
        product_free(&p);
    }
}

/* Sequence order: zeros put in anywhere, of either sign, against anything finite, change no bit. */
static void gemm_tile_does_not_see_zeros(void **state)
{
    rng r = rng_start("gemm_tile with zeros");
    (void)state;
    for (size_t round = 0; round < 200; round++) {
        product p = product_random(&r, round % 2 ? SPREAD : PLAIN), q = p;
        size_t *from = malloc((2 * p.k + 9) * sizeof *from);
        assert_non_null(from);
        if (round % 5 == 0) for (size_t i = 0; i < p.m * p.lda && p.k; i += p.lda) p.a.f[i] = -0.0f;   /* sums that begin with -0 */
        q.k = 0;
        for (size_t k = 0; k <= p.k; k++) {
            while (q.k < k + p.k + 8 && rng_in(&r, 0, 2) == 0) from[q.k++] = SIZE_MAX;
            if (k < p.k) from[q.k++] = k;
        }
        q.lda = q.k, q.ldb = FQI_TILE;
        q.a = take(&r, q.m * q.k, 4), q.b = take(&r, q.k * FQI_TILE, 4);
        for (size_t k = 0; k < q.k; k++) {
            const bool zero = from[k] == SIZE_MAX, in_a = rng_in(&r, 0, 1);
            for (size_t i = 0; i < q.m; i++)
                q.a.f[i * q.k + k] = !zero ? p.a.f[i * p.lda + from[k]] : in_a ? (rng_in(&r, 0, 1) ? -0.0f : 0.0f) : value(&r, SPREAD);
            for (size_t j = 0; j < FQI_TILE; j++)
                q.b.f[k * FQI_TILE + j] = !zero ? p.b.f[from[k] * p.ldb + j] : in_a ? value(&r, SPREAD) : (rng_in(&r, 0, 1) ? -0.0f : 0.0f);
        }
        EACH_VERSION(k) {
            buffer plain = copy_of(&r, p.c.f, c_size(&p)), padded = copy_of(&r, p.c.f, c_size(&p));
            multiply(k, &p, plain.f, false, true);
            multiply(k, &q, padded.f, false, true);
            assert_memory_equal(plain.f, padded.f, c_size(&p) * 4);
            drop(plain), drop(padded);
        }
        drop(q.a), drop(q.b), free(from), product_free(&p);
    }
}

/* ---- exp, softmax ------------------------------------------------------------------------------------------------ */

/* exp(x) as the vectors compute it: one element among -inf, whose exp is 0; and as the tail does. */
static float exp_of(const fqi_kernels *k, float x, size_t lane)
{
    float v[FQI_LANES];
    if (lane == FQI_LANES) return k->sum_exp(&x, 1, 0);
    for (size_t l = 0; l < FQI_LANES; l++) v[l] = l == lane ? x : -INFINITY;
    return k->sum_exp(v, FQI_LANES, 0);
}

static void expect_exp(const fqi_kernels *k, float x, double *worst)
{
    double expected = exp((double)x);
    float found = exp_of(k, x, bits_of(x) % (FQI_LANES + 1)), rounded = (float)expected;
    if (x < -87.3f) {
        if (bits_of(found) != 0) fail_msg("%s exp(%a): found %a, expected 0", k->name, (double)x, (double)found);
        return;
    }
    double ulp = (double)nextafterf(rounded, INFINITY) - (double)rounded, error = fabs((double)found - expected) / ulp;
    if (error > *worst) *worst = error;
    if (!(error <= 2)) fail_msg("%s exp(%a): found %a, expected %a: %.2f ulp", k->name, (double)x, (double)found, expected, error);
}

static void exp_is_within_2_ulp(void **state)
{
    (void)state;
    EACH_VERSION(k) {
        double worst = 0;
        for (uint32_t u = 0; u <= bits_of(88.0f); u += 4507) expect_exp(k, of_bits(u), &worst);
        for (uint32_t u = 0; u <= bits_of(200.0f); u += 4507) expect_exp(k, -of_bits(u), &worst);
        for (float x = -87.3f; x <= 0; x += 0.00037f) expect_exp(k, x, &worst);
        for (int n = -125; n <= 126; n++)   /* where the power of two changes */
            for (int near = -3; near <= 3; near++) expect_exp(k, of_bits(bits_of((float)(((double)n + 0.5) * M_LN2)) + (uint32_t)near), &worst);
        for (size_t lane = 0; lane <= FQI_LANES; lane++) {
            assert_true(bits_of(exp_of(k, 0.0f, lane)) == bits_of(1.0f) && bits_of(exp_of(k, -0.0f, lane)) == bits_of(1.0f));
            assert_true(bits_of(exp_of(k, -INFINITY, lane)) == 0);
            assert_true(isfinite(exp_of(k, INFINITY, lane)) && exp_of(k, 1000, lane) == exp_of(k, 88, lane));   /* stated: never infinity */
            assert_true(isnan(exp_of(k, NAN, lane)));
        }
        print_message("%s: exp within %.3f ulp\n", k->name, worst);
    }
}

static void sum_exp_has_the_same_bits(void **state)
{
    rng r = rng_start("sum_exp");
    (void)state;
    for (size_t round = 0; round < 400; round++) {
        size_t n = length(&r);
        kind how = (kind)(round % 3);
        buffer x = floats(&r, n, how);
        float max = round % 4 == 0 ? value(&r, how) : 1, expected = fqi_kernels_at(0)->sum_exp(x.f, n, max), found;
        double sum = 0;
        for (size_t i = 0; i < n; i++) sum += exp((double)x.f[i] - (double)max);
        /* |x - max| <= 2 is rounded once: half an ulp of it; exp 2 ulp; n / 16 + 4 additions. */
        if (how == PLAIN) expect_near("sum_exp", (double)expected, sum, (2 + 4 + (double)n / 16 + 4) * 0x1p-24 * sum);
        EACH_VERSION(k) {
            found = k->sum_exp(x.f, n, max);
            expect_same(k, "sum_exp", &found, &expected, 1);
        }
        drop(x);
    }
}

static void softmax_has_the_same_bits(void **state)
{
    static const float scales[] = { 1, 0.125f, 0.08838834764f, -1, 20 };
    rng r = rng_start("softmax");
    (void)state;
    for (size_t round = 0; round < 600; round++) {
        size_t n = length(&r);
        kind how = (kind)(round % 3);
        float scale = scales[rng_in(&r, 0, 4)];
        buffer x = floats(&r, n, how), expected = copy_of(&r, x.f, n);
        double max = -(double)INFINITY, sum = 0;
        for (size_t i = 0; i < n; i++) max = fmax(max, (double)x.f[i] * (double)scale);
        for (size_t i = 0; i < n; i++) sum += exp((double)x.f[i] * (double)scale - max);
        fqi_kernels_at(0)->softmax(expected.f, n, scale);
        /* Arguments up to 40, rounded as a product and as a difference; then as in sum_exp, twice, and a division. */
        for (size_t i = 0; how == PLAIN && i < n; i++) {
            double p = exp((double)x.f[i] * (double)scale - max) / sum;
            expect_near("softmax", (double)expected.f[i], p, (2 * (60 + 4) + (double)n / 16 + 6) * 0x1p-24 * p);
        }
        EACH_VERSION(k) {
            buffer out = copy_of(&r, x.f, n);
            k->softmax(out.f, n, scale);
            expect_same(k, "softmax", out.f, expected.f, n);
            drop(out);
        }
        drop(x), drop(expected);
    }
}

/* Keys that a mask takes away are -inf: 0, whatever else is in the row. */
static void softmax_of_what_is_masked_is_zero(void **state)
{
    (void)state;
    EACH_VERSION(k) for (size_t n = 2; n <= 70; n++) {
        float x[70];
        for (size_t i = 0; i < n; i++) x[i] = i % 3 == 1 ? -INFINITY : 0.5f;
        k->softmax(x, n, 1);
        for (size_t i = 0; i < n; i++) assert_true(i % 3 == 1 ? bits_of(x[i]) == 0 : x[i] == 1.0f / (float)(n - (n + 1) / 3));
    }
}

/* ---- norm, activation ---------------------------------------------------------------------------------------------- */

static double half_ulp(size_t d) { return d == 0 ? 0x1p-24 : d == 1 ? 0x1p-11 : 0x1p-8; }   /* relative */

static void rms_norm_has_the_same_bits(void **state)
{
    rng r = rng_start("rms_norm");
    (void)state;
    for (size_t round = 0; round < 600; round++) {
        size_t n = length(&r), d = round / 3 % N_DTYPE;
        kind how = (kind)(round % 3);
        float eps = round % 2 ? 1e-6f : 1e-5f;
        buffer x = floats(&r, n, how), w = floats(&r, n, how), expected = take(&r, n, 4);
        double sum = 0;
        for (size_t i = 0; i < n; i++) sum += (double)x.f[i] * (double)x.f[i];
        fqi_kernels_at(0)->rms_norm(x.f, w.f, eps, dtypes[d], expected.f, n);
        for (size_t i = 0; how == PLAIN && i < n; i++) {
            double y = (double)x.f[i] / sqrt(sum / (double)n + (double)eps) * (double)w.f[i];
            /* 6e-8: denormals of f16, at a normalised value or weight of up to 30 */
            expect_near("rms_norm", (double)expected.f[i], y, ((double)n / 16 + 12) * 0x1p-24 * fabs(y) + 2.1 * half_ulp(d) * fabs(y) + (d == 1 ? 6e-8 : 0));
        }
        EACH_VERSION(k) {
            buffer out = copy_of(&r, x.f, n);
            k->rms_norm(out.f, w.f, eps, dtypes[d], out.f, n);   /* in place */
            expect_same(k, "rms_norm", out.f, expected.f, n);
            drop(out);
        }
        drop(x), drop(w), drop(expected);
    }
}

static void silu_mul_has_the_same_bits(void **state)
{
    rng r = rng_start("silu_mul");
    (void)state;
    for (size_t round = 0; round < 600; round++) {
        size_t n = length(&r), d = round / 3 % N_DTYPE;
        kind how = (kind)(round % 3);
        buffer gate = floats(&r, n, how), up = floats(&r, n, how);
        for (size_t i = 0; how == PLAIN && i < n; i++) gate.f[i] *= round % 2 ? 1 : 100;
        buffer expected = copy_of(&r, gate.f, n);
        fqi_kernels_at(0)->silu_mul(expected.f, up.f, dtypes[d], n);
        for (size_t i = 0; how == PLAIN && i < n; i++) {
            double g = (double)gate.f[i], y = g / (1 + exp(-g)) * (double)up.f[i];
            /* exp 2 ulp, an addition, a division, a product. Beyond -87 the true value is below 1e-36, and so is what is computed. */
            expect_near("silu_mul", (double)expected.f[i], y, 8 * 0x1p-24 * fabs(y) + 2.1 * half_ulp(d) * fabs(y) + (d == 1 ? 6e-8 : 1e-36));
        }
        EACH_VERSION(k) {
            buffer out = copy_of(&r, gate.f, n);
            k->silu_mul(out.f, up.f, dtypes[d], n);
            expect_same(k, "silu_mul", out.f, expected.f, n);
            drop(out);
        }
        drop(gate), drop(up), drop(expected);
    }
}

/* ---- finiteness ---------------------------------------------------------------------------------------------------- */

static void all_finite_finds_the_first(void **state)
{
    static const uint32_t bad[N_DTYPE][4] = { { 0x7f800000, 0xff800000, 0x7f800001, 0xffc00000 }, { 0x7c00, 0xfc00, 0x7c01, 0xffff }, { 0x7f80, 0xff80, 0x7f81, 0xffff } };
    rng r = rng_start("all_finite");
    (void)state;
    for (size_t round = 0; round < 600; round++) {
        size_t n = length(&r), d = round % N_DTYPE, first = n, count = 0, size = bytes_of(dtypes[d]);
        buffer x = stored(&r, n, SPREAD, dtypes[d]);
        for (int64_t put = rng_in(&r, 0, 3); put > 0; put--) {
            size_t i = (size_t)rng_in(&r, 0, (int64_t)n - 1);
            uint32_t u = bad[d][rng_in(&r, 0, 3)];
            uint16_t h = (uint16_t)u;
            memcpy((unsigned char *)x.f + i * size, size == 4 ? (const void *)&u : (const void *)&h, size);
        }
        for (size_t i = 0; i < n; i++) {
            if (isfinite(element(x.f, dtypes[d], i))) continue;
            first = i < first ? i : first;
            count++;
        }
        EACH_VERSION(k) {
            size_t at = 12345, how_many = 54321;
            assert_true(k->all_finite(x.f, dtypes[d], n, &at, &how_many) == (count == 0));
            if (count > 0) assert_true(at == first && how_many == count);
            assert_true(k->all_finite(x.f, dtypes[d], 0, &at, &how_many));
        }
        drop(x);
    }
}

/* ---- choice --------------------------------------------------------------------------------------------------------- */

static void the_environment_chooses(void **state)
{
    static const struct { const char *value; fq_status status; size_t version; } t[] = {
        { "c", FQ_OK, 0 }, { "avx2", FQ_OK, 1 }, { "avx512", FQ_OK, 2 }, { "", FQ_OK, 99 }, { NULL, FQ_OK, 99 },
        { "sse", FQ_E_USAGE, 0 }, { "C", FQ_E_USAGE, 0 }, { "avx", FQ_E_USAGE, 0 }, { "avx2 ", FQ_E_USAGE, 0 },
    };
    const char *was = getenv("FITQ_KERNEL");
    char *kept = was ? strdup(was) : NULL;
    const fqi_kernels *widest = NULL;
    (void)state;
    EACH_VERSION(k) widest = k;
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        fq_err e = { 0 };
        const fqi_kernels *k = NULL, *expected = t[i].version == 99 ? widest : fqi_kernels_at(t[i].version);
        fq_status status = t[i].status == FQ_OK && !expected ? FQ_E_DEVICE : t[i].status;
        assert_int_equal(t[i].value ? setenv("FITQ_KERNEL", t[i].value, 1) : unsetenv("FITQ_KERNEL"), 0);
        assert_int_equal(fqi_kernels_choose(&k, &e), status);
        if (status == FQ_OK) assert_ptr_equal(k, expected);
        else assert_non_null(strstr(e.text, "FITQ_KERNEL"));
    }
    if (kept) setenv("FITQ_KERNEL", kept, 1);
    else unsetenv("FITQ_KERNEL");
    free(kept);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(versions_are_what_they_say),
        cmocka_unit_test(widen_knows_every_code),
        cmocka_unit_test(widen_has_the_same_bits),
        cmocka_unit_test(rounding_is_to_the_nearest),
        cmocka_unit_test(rounding_of_midpoints_is_to_even),
        cmocka_unit_test(rounding_has_the_same_bits),
        cmocka_unit_test(matvec_has_the_same_bits),
        cmocka_unit_test(gemm_tile_has_the_same_bits),
        cmocka_unit_test(gemm_tile_can_be_cut),
        cmocka_unit_test(gemm_tile_does_not_see_zeros),
        cmocka_unit_test(exp_is_within_2_ulp),
        cmocka_unit_test(sum_exp_has_the_same_bits),
        cmocka_unit_test(softmax_has_the_same_bits),
        cmocka_unit_test(softmax_of_what_is_masked_is_zero),
        cmocka_unit_test(rms_norm_has_the_same_bits),
        cmocka_unit_test(silu_mul_has_the_same_bits),
        cmocka_unit_test(all_finite_finds_the_first),
        cmocka_unit_test(the_environment_chooses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
