/* quant_cost.c - how long quantizing takes on N ranks: operations counted, divided by rates.
 *
 * Counted are the same inputs, batches and tiles that the run has (fqi_quant_kinds, fqi_quant_share_of, fqi_solve_most_rows). Per layer, T tokens, an input of n
 * columns, R rows of matrices on it:
 *
 *     forward     2 operations for each weight and token; gate and up of the quantized stream twice (once for H of down, once for the stream)
 *     Hessian     T n^2, and 2 T n^2 (or 2 T n R) for the moment of a shifted target
 *     factor      n^3 / 3, on every rank; of experts one rank each
 *     solve       R n^2 (1, + 2 for each round of refitting, + 4 for a shifted target), and the search for scales
 *     reduce      4 n^2 bytes, twice, in each round of batches, and the moments
 *
 * Attention is counted as heads * head_dim wide, whatever its kind. A model of a run, not a promise: EFFICIENCY is what the parts reach of a product of large matrices, measured on one machine with the shapes of a
 * model of 0.5B. Reading and writing go beside computing, and count where they take longer. */
#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/pipeline.h"
#include "job/quant_layer_private.h"
#include "kernel/blas.h"

#define BENCH_SIDE 768
#define BENCH_SECONDS 0.3
#define PIECE ((double)(4 << 20))   /* bytes of a sum that go out together (comm/comm.c) */

/* Shares of the rate of a large product. */
static const struct { double forward, hessian, factor, solve; } efficiency = { 0.75, 0.80, 0.60, 0.70 };
#define SEARCH_OPS 800.0            /* of the search for scales and of rounding, for each weight */

/* ---- rates --------------------------------------------------------------------------------------------------------- */

static double run_products(const fqi_blas *blas, int n_thread, float *memory)
{
    const size_t n = BENCH_SIDE, square = n * n;
    const blasint m = BENCH_SIDE;
    double total = 0;
    const double begin = fqi_now_seconds();
#pragma omp parallel num_threads(n_thread) reduction(+ : total)
    {
        float *a = memory + (size_t)omp_get_thread_num() * 3 * square;
        omp_set_num_threads(1);   /* of this task only: see kernel/linear.c */
        for (size_t i = 0; i < 2 * square; i++) a[i] = 1.0f / (float)(i % 97 + 1);
        while (fqi_now_seconds() - begin < BENCH_SECONDS) {
            blas->sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, m, m, 1.0f, a, m, a + square, m, 0.0f, a + 2 * square, m);
            total += 2.0 * (double)n * (double)n * (double)n;
        }
    }
    return total / (fqi_now_seconds() - begin);
}

fq_status fq_measure_rates(int n_thread, fq_cost_rates *out, fq_err *e)
{
    const int n = fqi_n_thread(n_thread);
    fqi_blas blas;
    FQI_TRY(fqi_blas_load(&blas, e));
    float *memory = fqi_calloc((size_t)n * 3, (size_t)BENCH_SIDE * BENCH_SIDE * sizeof *memory);
    if (!memory) return fqi_fail_nomem(e, "matrices to measure with");
    (void)run_products(&blas, n, memory);   /* warm */
    out->flops = run_products(&blas, n, memory);
    free(memory);
    return FQ_OK;
}

/* ---- counting ------------------------------------------------------------------------------------------------------ */

typedef struct counting {
    const fq_model *m;
    const fq_quantize_cost_request *r;
    double n_token, n_rank, here, rounds;   /* here: tokens of the busiest rank */
    double refit, shift;
} counting;

static double least(double a, double b) { return a < b ? a : b; }
static double most(double a, double b) { return a > b ? a : b; }

static double rows_of(const fqi_quant_kind *k)
{
    double sum = 0;
    for (size_t i = 0; i < k->n_rows; i++) sum += (double)k->rows[i];
    return sum;
}

/* Of each kind: how many of a kind's inputs the busiest rank solves, and what share of the rows. */
static double share_of(const counting *c, const fqi_quant_kind *k)
{
    if (k->of_expert) return ceil((double)k->n / c->n_rank);
    return (double)fqi_solve_most_rows((size_t)k->rows[0], (size_t)c->n_rank) / (double)k->rows[0] * (double)k->n;
}

/* Tokens that all inputs of a kind see together, of t. */
static double seen(const counting *c, const fqi_quant_kind *k, double t)
{
    return k->of_expert ? t * (double)c->m->num_experts_per_tok : t * (double)k->n;
}

static double moment_numbers(const fqi_quant_kind *k) { return (double)(k->drift == FQI_DRIFT_OUTPUT ? k->rows[0] : k->cols) * (double)k->cols; }

static void count_kind(const counting *c, const fqi_quant_kind *k, fq_quantize_cost *s)
{
    const double cols = (double)k->cols, rows = rows_of(k), t = seen(c, k, c->here), net = c->r->rates.network_bytes;
    const double weights = rows * cols, streams = (k->stage == 2 ? 2 : 1) + (c->shift > 0 ? 1 : 0), others = (c->n_rank - 1) / c->n_rank;
    s->forward += 2 * t * weights * streams / efficiency.forward;
    s->hessian += t * (cols * cols + c->shift * 2 * moment_numbers(k)) / efficiency.hessian;
    s->factor += (k->of_expert ? share_of(c, k) : (double)k->n) * cols * cols * cols / 3 / efficiency.factor;
    s->solve += share_of(c, k) * weights * (cols * (1 + 2 * c->refit + 4 * c->shift) / efficiency.solve + SEARCH_OPS);
    const double bytes = (double)k->n * 4 * (cols * cols + c->shift * moment_numbers(k));
    if (c->n_rank > 1) s->reduce += c->rounds * (2 * bytes * others / net + 2 * ceil(bytes / PIECE) * c->n_rank * c->r->rates.latency_seconds);
    s->gather += (double)k->n * weights * others / net;
    s->read_bytes += 2 * (double)k->n * weights;
    s->write_bytes += (double)k->n * weights * c->r->bits / 8;
}

/* One layer, with operations where seconds will be. */
static fq_quantize_cost count_layer(const counting *c, bool sparse)
{
    const fq_model *m = c->m;
    fqi_quant_kind kind[FQI_MAX_QUANT_KIND];
    fq_quantize_cost s = { 0 };
    const size_t n = fqi_quant_kinds(m, sparse, kind);
    for (size_t i = 0; i < n; i++)
        if (kind[i].n > 0) count_kind(c, &kind[i], &s);
    const double width = (double)(m->num_attention_heads * m->head_dim), state = c->n_token * (double)m->hidden_size * 4 * (1 + (c->shift > 0));
    s.forward += c->here * 2 * (double)c->r->seqlen * width * (1 + (c->shift > 0)) / efficiency.forward;   /* causal: half of 4 */
    s.gather += state * (c->n_rank - 1) / c->n_rank / c->r->rates.network_bytes;
    s.write = state / c->r->rates.disk_bytes;
    return s;
}

static void add_layers(const counting *c, fq_quantize_cost *out, bool sparse, double n_layer)
{
    if (n_layer <= 0) return;
    const fq_cost_rates *rate = &c->r->rates;
    fq_quantize_cost s = count_layer(c, sparse);
    double *op[] = { &s.forward, &s.hessian, &s.factor, &s.solve };
    double busy = s.reduce + s.gather;
    for (size_t i = 0; i < sizeof op / sizeof op[0]; i++) busy += *op[i] /= rate->flops;
    s.read = s.read_bytes / rate->disk_bytes / c->n_rank + most(0, s.read_bytes / rate->disk_bytes - busy);   /* all are read and checked once before */
    s.write += most(0, s.write_bytes / rate->disk_bytes - busy);
    out->read += n_layer * s.read;
    out->forward += n_layer * s.forward;
    out->hessian += n_layer * s.hessian;
    out->reduce += n_layer * s.reduce;
    out->factor += n_layer * s.factor;
    out->solve += n_layer * s.solve;
    out->gather += n_layer * s.gather;
    out->write += n_layer * s.write;
    out->read_bytes += n_layer * s.read_bytes;
    out->write_bytes += n_layer * s.write_bytes;
}

fq_status fq_quantize_cost_of(const fq_model *m, const fq_quantize_cost_request *r, int n_rank, fq_quantize_cost *out, fq_err *e)
{
    const fq_cost_rates *rate = &r->rates;
    if (n_rank < 1 || r->samples < 1 || r->seqlen < 1 || r->samples > INT64_C(1) << 32 || r->seqlen > INT64_C(1) << 24)
        return fqi_fail(e, FQ_E_USAGE, NULL, "quantize-cost", "found %d ranks and %lld windows of %lld tokens, expected one or more", n_rank, (long long)r->samples, (long long)r->seqlen);
    if (!(rate->flops > 0 && rate->disk_bytes > 0 && rate->network_bytes > 0 && rate->latency_seconds >= 0))
        return fqi_fail(e, FQ_E_USAGE, NULL, "quantize-cost", "found a rate of 0, expected more");
    const fqi_quant_share share = fqi_quant_share_of(NULL, (size_t)r->samples, (size_t)r->seqlen);
    counting c = { .m = m, .r = r, .n_token = (double)share.all_rows, .n_rank = n_rank, .rounds = ceil((double)share.n_batch / n_rank), .refit = 1, .shift = r->no_shift ? 0 : 1 };
    fq_quantize_cost sum = { .n_rank = n_rank };
    c.here = least(c.n_token, c.rounds * (double)share.batch_rows);
    add_layers(&c, &sum, false, (double)m->n_dense_layer);
    add_layers(&c, &sum, true, (double)m->n_moe_layer);
    sum.seconds = sum.read + sum.forward + sum.hessian + sum.reduce + sum.factor + sum.solve + sum.gather + sum.write;
    *out = sum;
    return FQ_OK;
}
