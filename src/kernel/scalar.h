/* scalar.h - one element at a time: the arithmetic that plain C is made of, and that the vector versions use for their tails.
 *
 * Each function is a fixed sequence of correctly rounded operations, so that a vector version that makes the same operations per
 * lane gives the same bits. Compiled with -ffp-contract=off; fmaf is one instruction where the file's instruction set has it.
 * Private to src/kernel. */
#ifndef FITQ_KERNEL_SCALAR_H
#define FITQ_KERNEL_SCALAR_H

#include <math.h>
#include <string.h>

#include "kernel/kernel.h"

/* ---- exp: 2^n * p(r), x = n ln 2 + r, |r| <= ln 2 / 2; ln 2 in two parts so that r is exact enough. The polynomial is the usual
 * minimax one of single precision math libraries (Cephes, expf). -------------------------------------------------- */
#define FQI_EXP_LOW (-87.3f)          /* below: 0, so that no result is denormal */
#define FQI_EXP_HIGH 88.0f            /* above: exp(88), so that silu of a large negative number divides by something finite */
#define FQI_EXP_LOG2E 1.44269504088896341f
#define FQI_EXP_LN2_HIGH 0.693359375f
#define FQI_EXP_LN2_LOW (-2.12194440e-4f)
#define FQI_EXP_P5 1.9875691500e-4f
#define FQI_EXP_P4 1.3981999507e-3f
#define FQI_EXP_P3 8.3334519073e-3f
#define FQI_EXP_P2 4.1665795894e-2f
#define FQI_EXP_P1 1.6666665459e-1f
#define FQI_EXP_P0 5.0000001201e-1f

static inline float fqi_scalar_exp(float x)
{
    if (x != x) return x;
    if (x < FQI_EXP_LOW) return 0;
    if (x > FQI_EXP_HIGH) x = FQI_EXP_HIGH;
    float n = rintf(x * FQI_EXP_LOG2E);
    float r = fmaf(n, -FQI_EXP_LN2_HIGH, x);
    r = fmaf(n, -FQI_EXP_LN2_LOW, r);
    float p = FQI_EXP_P5;
    p = fmaf(p, r, FQI_EXP_P4);
    p = fmaf(p, r, FQI_EXP_P3);
    p = fmaf(p, r, FQI_EXP_P2);
    p = fmaf(p, r, FQI_EXP_P1);
    p = fmaf(p, r, FQI_EXP_P0);
    p = fmaf(p, r * r, r) + 1.0f;
    uint32_t bits = (uint32_t)((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

/* ---- half types ------------------------------------------------------------------------------------------------ */

static inline float fqi_scalar_from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t fqi_scalar_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline float fqi_scalar_from_bf16(uint16_t h) { return fqi_scalar_from_bits((uint32_t)h << 16); }

static inline float fqi_scalar_from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 0x3ff;
    if (exponent == 31) return fqi_scalar_from_bits(sign | 0x7f800000u | fraction << 13 | (fraction ? 0x400000u : 0));
    if (exponent != 0) return fqi_scalar_from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float tiny = (float)fraction * 0x1p-24f;   /* exact */
    return sign ? -tiny : tiny;
}

static inline float fqi_scalar_round_bf16(float x)
{
    uint32_t u = fqi_scalar_bits(x);
    if (x != x) return fqi_scalar_from_bits((u | 0x400000u) & 0xffff0000u);
    return fqi_scalar_from_bits((u + 0x7fffu + ((u >> 16) & 1)) & 0xffff0000u);
}

static inline float fqi_scalar_round_f16(float x)
{
    uint32_t u = fqi_scalar_bits(x), sign = u & 0x80000000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return fqi_scalar_from_bits((u | 0x400000u) & 0xffffe000u);
    if (a >= 0x477ff000u) return fqi_scalar_from_bits(sign | 0x7f800000u);       /* 65520 and above */
    if (a >= 0x38800000u) return fqi_scalar_from_bits(sign | ((a + 0xfffu + ((a >> 13) & 1)) & 0xffffe000u));
    /* Below 2^-14 halves are multiples of 2^-24: adding 0.5 leaves just those bits in a float, rounded to even. */
    float r = (fqi_scalar_from_bits(a) + 0.5f) - 0.5f;
    return fqi_scalar_from_bits(sign | fqi_scalar_bits(r));
}

static inline float fqi_scalar_round(float x, fq_dtype dtype)
{
    return dtype == FQ_DTYPE_BF16 ? fqi_scalar_round_bf16(x) : dtype == FQ_DTYPE_F16 ? fqi_scalar_round_f16(x) : x;
}

/* Element i of a stored row. */
static inline float fqi_scalar_load(const void *p, fq_dtype dtype, size_t i)
{
    const unsigned char *at = p;
    uint16_t h;
    float f;
    if (dtype == FQ_DTYPE_F32) {
        memcpy(&f, at + 4 * i, sizeof f);
        return f;
    }
    memcpy(&h, at + 2 * i, sizeof h);
    return dtype == FQ_DTYPE_BF16 ? fqi_scalar_from_bf16(h) : fqi_scalar_from_f16(h);
}

static inline size_t fqi_dtype_bytes(fq_dtype dtype) { return dtype == FQ_DTYPE_F32 ? 4 : 2; }

static inline float fqi_scalar_silu_mul(float gate, float up, fq_dtype served)
{
    float s = fqi_scalar_round(gate / (1.0f + fqi_scalar_exp(-gate)), served);
    return fqi_scalar_round(s * up, served);
}

/* The pairwise sum at the end of the lanes order. */
static inline float fqi_scalar_lanes(float lane[FQI_LANES])
{
    for (size_t half = FQI_LANES / 2; half > 0; half /= 2)
        for (size_t l = 0; l < half; l++) lane[l] += lane[l + half];
    return lane[0];
}

#endif
