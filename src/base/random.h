/* random.h - pseudo-random numbers that are the same on every machine: for choices that must be repeatable, nothing secret.
 *
 * Algorithms: splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014) and xoshiro256** 1.0 (Blackman,
 * Vigna, "Scrambled linear pseudorandom number generators", 2021), seeded by the former, as its authors advise. */
#ifndef FITQ_BASE_RANDOM_H
#define FITQ_BASE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

/* Every state is a good one; the next number of it. */
static inline uint64_t fqi_splitmix(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

typedef struct fqi_random { uint64_t s[4]; } fqi_random;

static inline fqi_random fqi_random_seed(uint64_t seed)
{
    fqi_random r;
    for (size_t i = 0; i < 4; i++) r.s[i] = fqi_splitmix(&seed);
    return r;
}

static inline uint64_t fqi_random_rotl(uint64_t x, int k) { return x << k | x >> (64 - k); }

static inline uint64_t fqi_random_next(fqi_random *r)
{
    uint64_t *s = r->s, result = fqi_random_rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = fqi_random_rotl(s[3], 45);
    return result;
}

/* In [0, 1), 53 bits. */
static inline double fqi_random_unit(fqi_random *r) { return (double)(fqi_random_next(r) >> 11) * 0x1p-53; }

/* 0 .. n - 1, n >= 1, each as likely as the others: numbers of the last, incomplete run of n are drawn again. */
static inline uint64_t fqi_random_below(fqi_random *r, uint64_t n)
{
    uint64_t surplus = (UINT64_MAX - n + 1) % n, x;   /* 2^64 mod n */
    do x = fqi_random_next(r);
    while (x < surplus);
    return x % n;
}

#endif
