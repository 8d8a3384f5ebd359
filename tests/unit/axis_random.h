/* axis_random.h - random numbers and random maps for the tests of src/axis. The seed is printed and FITQ_TEST_SEED sets it. */
#ifndef FITQ_TESTS_AXIS_RANDOM_H
#define FITQ_TESTS_AXIS_RANDOM_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "axis/map.h"
#include "support.h"

typedef struct rng { uint64_t s; } rng;

static inline rng rng_start(const char *test)
{
    printf("%s: ", test);
    return (rng){ fqt_seed(20261122u) };
}

static inline uint64_t rng_next(rng *r) /* splitmix64 */
{
    uint64_t z = (r->s += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static inline int64_t rng_in(rng *r, int64_t lo, int64_t hi) /* both ends included */
{
    return lo + (int64_t)(rng_next(r) % (uint64_t)(hi - lo + 1));
}

/* The map as one source index per new index: what every property is checked against. Caller frees. */
static inline int64_t *map_expand(const fqi_map *m)
{
    int64_t *v = malloc(((size_t)m->n_new + 1) * sizeof *v);
    if (!v) abort();
    size_t n = 0;
    for (size_t i = 0; i < m->n_run; i++)
        for (int64_t k = 0; k < m->run[i].count; k++) v[n++] = m->run[i].src < 0 ? -1 : m->run[i].src + k;
    if ((int64_t)n != m->n_new) abort();
    return v;
}

/* Any map at all: runs and zeros in any order, repeats and omissions included. */
static inline void map_random(rng *r, int64_t n_old, int64_t n_new_most, fqi_map *m)
{
    *m = (fqi_map){ .n_old = n_old };
    while (m->n_new < n_new_most && rng_in(r, 0, 9) != 0) {
        int64_t count = rng_in(r, 1, n_new_most - m->n_new), src = -1;
        if (n_old > 0 && rng_in(r, 0, 2) != 0) {
            src = rng_in(r, 0, n_old - 1);
            if (count > n_old - src) count = n_old - src;
        }
        if (!fqi_map_append(m, src, count)) abort();
    }
}

#endif
