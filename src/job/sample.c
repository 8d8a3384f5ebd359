/* sample.c - greedy choice, temperature and top-p (see sample.h).
 *
 * Top-p needs the largest of up to 150,000 weights in order, mostly a few dozen of them: a heap is built in one pass and popped
 * until the sum is there, where sorting all would cost as much as a step of a small model. */
#include "job/sample.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"

/* ---- the sampler ---- */

fq_status fqi_sampler_create(double temperature, double top_p, uint64_t seed, size_t n_logit, fqi_sampler *out, fq_err *e)
{
    /* written so that NaN fails too */
    if (!(temperature >= 0 && temperature <= 1e30))
        return fqi_fail(e, FQ_E_USAGE, NULL, "sampling", "found temperature %g, expected a number of at least 0", temperature);
    if (!(top_p >= 0 && top_p <= 1)) return fqi_fail(e, FQ_E_USAGE, NULL, "sampling", "found top_p %g, expected 0 to 1", top_p);
    fqi_sampler s = { .temperature = temperature, .top_p = top_p, .random = fqi_random_seed(seed), .n_logit = n_logit };
    if (temperature > 0) {
        s.weight = fqi_calloc(n_logit, sizeof *s.weight);
        s.heap = fqi_calloc(n_logit, sizeof *s.heap);
        if (!s.weight || !s.heap) {
            fqi_sampler_free(&s);
            return fqi_fail_nomem(e, "sampler");
        }
    }
    *out = s;
    return FQ_OK;
}

void fqi_sampler_free(fqi_sampler *s)
{
    free(s->weight);
    free(s->heap);
    s->weight = NULL;
    s->heap = NULL;
}

uint64_t fqi_sampler_bytes(double temperature, size_t n_logit)
{
    return temperature > 0 ? (uint64_t)n_logit * (sizeof(double) + sizeof(uint32_t)) : 0;
}

static fq_status find_max(const float *logits, size_t n, uint32_t *at, fq_err *e)
{
    size_t best = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(logits[i]))
            return fqi_fail(e, FQ_E_NUMERIC, NULL, "logits", "found %s as the logit of id %zu, expected finite numbers", isnan(logits[i]) ? "NaN" : "infinity", i);
        if (logits[i] > logits[best]) best = i;
    }
    *at = (uint32_t)best;
    return FQ_OK;
}

/* The first id, in the order given (NULL: 0, 1, 2, ...), at which the running sum exceeds u * total. */
static uint32_t walk(const double *weight, const uint32_t *order, size_t n, double total, double u)
{
    double want = u * total, sum = 0;
    uint32_t last = order ? order[0] : 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t id = order ? order[i] : (uint32_t)i;
        if (weight[id] <= 0) continue;   /* an id that cannot come does not come, whatever rounding does */
        sum += weight[id];
        last = id;
        if (sum > want) break;
    }
    return last;
}

/* ---- top-p: heap[0 .. n) of ids, the one that comes first at the top ---- */

static bool before(const double *weight, uint32_t a, uint32_t b)
{
    return weight[a] > weight[b] || (weight[a] == weight[b] && a < b);
}

static void sift(uint32_t *heap, size_t n, size_t i, const double *weight)
{
    uint32_t moved = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(weight, heap[child + 1], heap[child])) child++;
        if (!before(weight, heap[child], moved)) break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

/* Ids of the largest weights, the largest LAST, at the end of s->heap: the popped one takes the place that the heap gives up.
 * Returns how many; *sum: of their weights. */
static size_t nucleus(fqi_sampler *s, double total, double *sum)
{
    size_t n = s->n_logit, taken = 0;
    for (size_t i = 0; i < n; i++) s->heap[i] = (uint32_t)i;
    for (size_t i = n / 2; i-- > 0;) sift(s->heap, n, i, s->weight);
    *sum = 0;
    while (taken < s->n_logit && (taken == 0 || *sum < s->top_p * total)) {
        uint32_t id = s->heap[0];
        s->heap[0] = s->heap[--n];
        s->heap[n] = id;
        if (n > 0) sift(s->heap, n, 0, s->weight);
        *sum += s->weight[id];
        taken++;
    }
    return taken;
}

fq_status fqi_sampler_choose(fqi_sampler *s, const float *logits, uint32_t *id, fq_err *e)
{
    uint32_t best = 0;
    FQI_TRY(find_max(logits, s->n_logit, &best, e));
    if (s->temperature <= 0) {
        *id = best;
        return FQ_OK;
    }
    double max = logits[best], total = 0;
    for (size_t i = 0; i < s->n_logit; i++) {
        /* the difference is finite and not positive: a temperature near 0 gives exp(-inf) = 0 and never 0 / 0 */
        s->weight[i] = exp(((double)logits[i] - max) / s->temperature);
        total += s->weight[i];
    }
    double u = fqi_random_unit(&s->random);
    if (s->top_p <= 0 || s->top_p >= 1) {
        *id = walk(s->weight, NULL, s->n_logit, total, u);
        return FQ_OK;
    }
    double kept;
    size_t n = nucleus(s, total, &kept);
    *id = walk(s->weight, s->heap + s->n_logit - n, n, kept, u);
    return FQ_OK;
}
