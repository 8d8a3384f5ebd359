/* stats.h - perplexity, KL divergence and agreement from logits. Pure: numbers in, numbers out.
 *
 * Definitions are those of llama.cpp's perplexity tool (tools/perplexity/perplexity.cpp), so that figures can be set beside its own:
 *   nll        -log softmax(logits)[target]; PPL = exp(mean nll), error PPL * sigma
 *   error      sqrt((E[x^2] - E[x]^2) / (n - 1))
 *   KLD        sum over i with log p_ref(i) > -16 of p_ref (log p_ref - log p); percentiles linear at f (n - 1)
 *   ln ratio   mean nll - mean nll_ref; error sqrt(s^2 + s_ref^2 - 2 cov), the paired one
 *   delta p    p(target) - p_ref(target)
 *   same top   share of positions with the same argmax (lowest index of equal ones), error sqrt(p (1 - p) / (n - 1))
 * Logits are float and finite; exponentials and sums are double, so that the distance of a model from itself is 0 and that of two summation
 * orders (1e-12) is not lost in the noise of the figure itself. Memory is four numbers a position. */
#ifndef FITQ_EVAL_STATS_H
#define FITQ_EVAL_STATS_H

#include "base/err.h"

typedef struct fqi_eval_stats fqi_eval_stats;
/* n_position: how many will come; with_reference: both models will be given. */
fq_status fqi_eval_stats_create(size_t n_position, bool with_reference, fqi_eval_stats **out, fq_err *e);
void fqi_eval_stats_free(fqi_eval_stats *s);
uint64_t fqi_eval_stats_bytes(size_t n_position, bool with_reference);
/* One position. logits: n_vocab numbers; reference: as many, or NULL without one. Positions may be added from several threads at the same
 * time as long as each index comes once: results do not depend on the order. */
void fqi_eval_stats_add(fqi_eval_stats *s, size_t position, const float *logits, const float *reference, size_t n_vocab, uint32_t target);
/* Fills the statistical fields of the report from what was added so far (positions 0 .. n - 1). */
void fqi_eval_stats_report(const fqi_eval_stats *s, size_t n, fq_eval_report *out);

#endif
