/* heads.h - how many query and KV heads make a model fit.
 *
 * The exact ways to change head counts are: store every KV head `rep` times and deal its query heads among the copies; add KV heads
 * without a source (and their query heads); add dummy query heads inside a KV group. So a candidate is (rep, kv_pad, heads_pad) with
 *
 *     kv_pad >= kv * rep,   heads_pad = kv_pad * group_pad,   group_pad >= ceil((heads / kv) / rep)
 *
 * and the search takes the cheapest legal one for each rep. Pure. */
#ifndef FITQ_PLAN_HEADS_H
#define FITQ_PLAN_HEADS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What one (engine, format, GPU count) asks. */
typedef struct fqi_head_rule {
    int tp;               /* 1 where the engine does not split heads */
    int64_t unit_q;       /* query heads of one GPU come in multiples of this */
    int64_t unit_kv;      /* KV heads of one GPU likewise */
    bool kv_copy;         /* fewer KV heads than GPUs are allowed if they divide them: every GPU holds one */
    bool keep_heads;      /* the query heads must not change (the engine ignores head_dim and there is no way out) */
    double q_bytes, kv_bytes;  /* per head of one GPU: weights, and for KV the cache of the whole context */
} fqi_head_rule;

typedef struct fqi_head_plan {
    int64_t heads_pad, kv_pad, rep;
    double cost;          /* bytes per GPU, added over the rules */
} fqi_head_plan;

bool fqi_heads_legal(const fqi_head_rule *r, int64_t heads, int64_t kv);
/* Fills out[max] with legal plans, cheapest first, none of them worse than another in both counts; unchanged counts alone when they are
 * legal. Returns how many; 0 = there is none (or none below 2^24 heads). heads % kv == 0. */
size_t fqi_heads_solve(int64_t heads, int64_t kv, const fqi_head_rule *rule, size_t n_rule, fqi_head_plan *out, size_t max);

#endif
