/* sample.h - from the logits of one position to the next token id. Pure but for its generator of random numbers.
 *
 *     temperature 0   the id of the largest logit, the lowest of equal ones; nothing is drawn
 *     temperature T   p(i) proportional to exp((logit(i) - max) / T), in double; of these, with top_p, the fewest ids of the largest p
 *                     (lower ids first among equal ones) whose sum reaches top_p of the whole; one of them by its share
 *
 * One draw takes one number of the generator (xoshiro256**, seeded by splitmix64), so the same logits, options and seed give the same ids.
 * Logits that are NaN or infinite are FQ_E_NUMERIC, "logits": a comparison with NaN is false, and would choose something. */
#ifndef FITQ_JOB_SAMPLE_H
#define FITQ_JOB_SAMPLE_H

#include "base/err.h"
#include "base/random.h"

typedef struct fqi_sampler {
    double temperature, top_p;
    fqi_random random;   /* may be exchanged between two draws: one sampler serves many sequences then */
    size_t n_logit;
    double *weight;      /* n_logit; NULL when greedy, as the next */
    uint32_t *heap;      /* n_logit */
} fqi_sampler;

/* temperature: finite, >= 0. top_p: 0 .. 1; 0 and 1 = all. Others are FQ_E_USAGE, "sampling". n_logit >= 1. */
fq_status fqi_sampler_create(double temperature, double top_p, uint64_t seed, size_t n_logit, fqi_sampler *out, fq_err *e);
void fqi_sampler_free(fqi_sampler *s);
/* Bytes that create allocates. */
uint64_t fqi_sampler_bytes(double temperature, size_t n_logit);
fq_status fqi_sampler_choose(fqi_sampler *s, const float *logits, uint32_t *id, fq_err *e);

#endif
