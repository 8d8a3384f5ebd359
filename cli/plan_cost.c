/* plan_cost.c - fitq plan --quantize-cost: what quantizing a model would take on some numbers of ranks. See plan_cost.h. */
#include "plan_cost.h"

#include <stdio.h>

#include "output.h"

#define DEFAULT_TOKENS (512 * 512)
#define SEQLEN 512
#define GIGA 1e9

static void print_time(double seconds)
{
    if (seconds < 600) printf("  %9.1f", seconds);
    else printf("  %9.0f", seconds);
}

static void print_text(const arg_values *a, const fq_quantize_cost_request *r, const fq_quantize_cost *cost, size_t n)
{
    printf("a model of quantizing %s, seconds: %s tokens in windows of %d%s\n", a->operand[0], out_grouped((uint64_t)(r->samples * r->seqlen)).s, SEQLEN, r->no_shift ? ", one stream" : "");
    printf("each rank: matrix products %.1f GFLOP/s (%s), disk %s/s, network %s/s, %.0f us for each message\n\n", r->rates.flops / GIGA, a->matrix_rate > 0 ? "given" : "measured here",
           out_bytes((uint64_t)r->rates.disk_bytes).s, out_bytes((uint64_t)r->rates.network_bytes).s, r->rates.latency_seconds * 1e6);
    printf("%6s  %9s  %9s  %9s  %9s  %9s  %9s  %9s  %9s  %9s  %9s\n", "RANKS", "READ", "FORWARD", "HESSIANS", "SUMS", "FACTORS", "SOLVE", "GATHER", "WRITE", "TOTAL", "SPEED-UP");
    for (size_t i = 0; i < n; i++) {
        const fq_quantize_cost *c = &cost[i];
        const double part[] = { c->read, c->forward, c->hessian, c->reduce, c->factor, c->solve, c->gather, c->write, c->seconds };
        printf("%6d", c->n_rank);
        for (size_t k = 0; k < sizeof part / sizeof part[0]; k++) print_time(part[k]);
        printf("  %9.1f\n", cost[0].seconds / c->seconds * cost[0].n_rank);
    }
}

static json_t *to_json(const fq_quantize_cost_request *r, const fq_quantize_cost *cost, size_t n)
{
    json_t *o = json_object(), *list = json_array();
    out_put_int(o, "tokens", r->samples * r->seqlen);
    out_put_real(o, "flops", r->rates.flops);
    out_put_real(o, "disk_bytes_per_second", r->rates.disk_bytes);
    out_put_real(o, "network_bytes_per_second", r->rates.network_bytes);
    out_put_real(o, "latency_seconds", r->rates.latency_seconds);
    for (size_t i = 0; i < n; i++) {
        const fq_quantize_cost *c = &cost[i];
        json_t *one = json_object();
        out_put_int(one, "ranks", c->n_rank);
        out_put_real(one, "read", c->read);
        out_put_real(one, "forward", c->forward);
        out_put_real(one, "hessians", c->hessian);
        out_put_real(one, "sums", c->reduce);
        out_put_real(one, "factors", c->factor);
        out_put_real(one, "solve", c->solve);
        out_put_real(one, "gather", c->gather);
        out_put_real(one, "write", c->write);
        out_put_real(one, "seconds", c->seconds);
        out_append(list, one);
    }
    out_put(o, "costs", list);
    return o;
}

int plan_cost(const arg_values *a, const fq_model *m)
{
    static const int usual[] = { 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024 };
    const int *ranks = a->cost_ranks.n ? a->cost_ranks.v : usual;
    const size_t n = a->cost_ranks.n ? a->cost_ranks.n : sizeof usual / sizeof usual[0];
    const int64_t tokens = a->tokens > 0 ? a->tokens : DEFAULT_TOKENS;
    fq_quantize_cost_request r = {
        .samples = (tokens + SEQLEN - 1) / SEQLEN, .seqlen = SEQLEN, .bits = 4, .no_shift = a->no_shift,
        .rates = { .flops = a->matrix_rate * GIGA, .disk_bytes = a->disk_rate ? (double)a->disk_rate : 1e9, .network_bytes = a->network_rate ? (double)a->network_rate : 1e9, .latency_seconds = 2e-6 },
    };
    fq_quantize_cost cost[ARG_MAX_LIST];
    fq_err e = { 0 };
    if (a->matrix_rate <= 0 && fq_measure_rates((int)a->threads, &r.rates, &e) != FQ_OK) return out_error(&e);
    for (size_t i = 0; i < n; i++)
        if (fq_quantize_cost_of(m, &r, ranks[i], &cost[i], &e) != FQ_OK) return out_error(&e);
    if (a->json) return out_json(to_json(&r, cost, n));
    print_text(a, &r, cost, n);
    return 0;
}
