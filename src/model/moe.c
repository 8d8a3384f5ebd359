/* moe.c - mixture of experts: route, gather the tokens of each expert, run it, add what it says with its weight.
 *
 * As in transformers (modeling_qwen2_moe.py, modeling_qwen3_moe.py, modeling_mixtral.py): softmax over all experts in fp32, the
 * largest num_experts_per_tok of them, divided by their sum if norm_topk_prob; experts are added in ascending order, so the sum of a
 * token does not depend on its neighbours. Of equal probabilities the expert with the lower index is taken. */
#include "model/work.h"

#include <string.h>

/* The k experts of one token, largest first, with their weights. Taken ones are marked with -1. They are k different ones even if the
 * probabilities are NaN (which the check of the layer's output reports): an expert taken twice would have more tokens than the batch. */
static void choose(float *probability, size_t n_expert, size_t k, bool normalise, uint32_t *choice, float *weight)
{
    float sum = 0;
    for (size_t i = 0; i < k; i++) {
        size_t best = n_expert;
        for (size_t e = 0; e < n_expert; e++) {
            if (probability[e] < 0) continue;
            if (best == n_expert || probability[e] > probability[best]) best = e;
        }
        choice[i] = (uint32_t)best;
        weight[i] = probability[best];
        sum += weight[i];
        probability[best] = -1;
    }
    for (size_t i = 0; normalise && i < k; i++) weight[i] /= sum;
}

static void route(const fqi_pass *p)
{
    const fqi_layer_work *w = p->work;
    const size_t n_expert = (size_t)p->w->router.rows, k = (size_t)p->d->model.num_experts_per_tok, n = p->batch->n_token;
    fqi_matmul(p->c, &p->w->router, NULL, w->norm, n, w->routed, n_expert);
#pragma omp parallel for num_threads(fqi_pass_threads(p, n)) schedule(static)
    for (size_t t = 0; t < n; t++) {
        p->c->kernel->softmax(w->routed + t * n_expert, n_expert, 1.0f);
        choose(w->routed + t * n_expert, n_expert, k, p->d->norm_topk_prob, w->choice + t * k, w->choice_weight + t * k);
        p->c->kernel->round_to(w->choice_weight + t * k, p->c->served, k);
    }
}

/* Tokens that were routed to expert e, in order, and their weights. */
static size_t tokens_of(const fqi_pass *p, uint32_t e)
{
    const fqi_layer_work *w = p->work;
    const size_t k = (size_t)p->d->model.num_experts_per_tok;
    size_t n = 0;
    for (size_t i = 0; i < p->batch->n_token * k; i++) {
        if (w->choice[i] != e) continue;
        w->expert_token[n] = (uint32_t)(i / k);
        w->expert_weight[n++] = w->choice_weight[i];
    }
    return n;
}

/* out += weight * y, each step as an engine would hold it. */
static void add_weighted(const fqi_pass *p, float *out, float *y, float weight, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] *= weight;
    p->c->kernel->round_to(y, p->c->served, n);
    for (size_t i = 0; i < n; i++) out[i] += y[i];
    p->c->kernel->round_to(out, p->c->served, n);
}

static void run_expert(const fqi_pass *p, uint32_t e)
{
    const fqi_layer_work *w = p->work;
    if (!p->w->expert[e].down.data) return;   /* another rank has it */
    const size_t hidden = (size_t)p->d->model.hidden_size, n = tokens_of(p, e);
    if (n == 0) return;
    for (size_t i = 0; i < n; i++) memcpy(w->gathered + i * hidden, w->norm + w->expert_token[i] * hidden, hidden * sizeof(float));
    fqi_pass_tap(p, FQI_TAP_EXPERT_MLP, (int64_t)e, w->gathered, w->expert_token, n, hidden);
    if (p->step == FQI_STEP_MLP_IN) return;
    fqi_mlp_run(p, &p->w->expert[e], w->gathered, w->expert_token, n, w->expert_out, FQI_TAP_EXPERT_DOWN, (int64_t)e);
    if (p->step == FQI_STEP_DOWN_IN) return;
#pragma omp parallel for num_threads(fqi_pass_threads(p, n)) schedule(static)
    for (size_t i = 0; i < n; i++)
        add_weighted(p, w->out + w->expert_token[i] * hidden, w->expert_out + i * hidden, w->expert_weight[i], hidden);
}

/* out += sigmoid(gate(x)) * shared(x); without a gate the factor is 1. */
static void run_shared(const fqi_pass *p)
{
    const fqi_layer_work *w = p->work;
    const size_t hidden = (size_t)p->d->model.hidden_size, n = p->batch->n_token;
    const bool gated = p->w->shared_gate.data != NULL;
    fqi_mlp_run(p, &p->w->shared, w->norm, NULL, n, w->expert_out, FQI_TAP_SHARED_DOWN, -1);
    if (p->step == FQI_STEP_DOWN_IN) return;
    if (gated) fqi_matmul(p->c, &p->w->shared_gate, NULL, w->norm, n, w->expert_weight, 1);
#pragma omp parallel for num_threads(fqi_pass_threads(p, n)) schedule(static)
    for (size_t t = 0; t < n; t++) {
        float factor = 1, minus = gated ? -w->expert_weight[t] : 0;
        if (gated) factor = 1.0f / (1.0f + p->c->kernel->sum_exp(&minus, 1, 0.0f));
        p->c->kernel->round_to(&factor, p->c->served, 1);
        add_weighted(p, w->out + t * hidden, w->expert_out + t * hidden, factor, hidden);
    }
}

void fqi_moe_run(const fqi_pass *p)
{
    memset(p->work->out, 0, p->batch->n_token * (size_t)p->d->model.hidden_size * sizeof(float));
    route(p);
    for (uint32_t e = 0; e < (uint32_t)p->w->router.rows; e++) run_expert(p, e);
    if (p->w->has_shared && p->step != FQI_STEP_MLP_IN) run_shared(p);
}
