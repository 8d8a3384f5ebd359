/* checked.h - arithmetic on numbers that came from a file: false when the result does not fit, or the largest number (fqi_sat_*). */
#ifndef FITQ_BASE_CHECKED_H
#define FITQ_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool fqi_add_u64(uint64_t a, uint64_t b, uint64_t *r) { return !__builtin_add_overflow(a, b, r); }
static inline bool fqi_mul_u64(uint64_t a, uint64_t b, uint64_t *r) { return !__builtin_mul_overflow(a, b, r); }
static inline bool fqi_add_i64(int64_t a, int64_t b, int64_t *r) { return !__builtin_add_overflow(a, b, r); }
static inline bool fqi_mul_i64(int64_t a, int64_t b, int64_t *r) { return !__builtin_mul_overflow(a, b, r); }
static inline bool fqi_mul_size(size_t a, size_t b, size_t *r) { return !__builtin_mul_overflow(a, b, r); }

/* Sizes that only are compared or asked for: UINT64_MAX instead of what does not fit, which no budget and no allocation accepts. */
static inline uint64_t fqi_sat_add(uint64_t a, uint64_t b) { return fqi_add_u64(a, b, &a) ? a : UINT64_MAX; }
static inline uint64_t fqi_sat_mul(uint64_t a, uint64_t b) { return fqi_mul_u64(a, b, &a) ? a : UINT64_MAX; }

/* Smallest multiple of unit that is >= n; unit > 0, n >= 0. False on overflow. */
static inline bool fqi_round_up_i64(int64_t n, int64_t unit, int64_t *r)
{
    int64_t rest = n % unit;
    if (rest == 0) { *r = n; return true; }
    return fqi_add_i64(n, unit - rest, r);
}

static inline int64_t fqi_gcd_i64(int64_t a, int64_t b)
{
    while (b != 0) { int64_t t = a % b; a = b; b = t; }
    return a;
}
static inline bool fqi_lcm_i64(int64_t a, int64_t b, int64_t *r) { return fqi_mul_i64(a / fqi_gcd_i64(a, b), b, r); }

#endif
