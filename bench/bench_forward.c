/* bench_forward.c - what running a model costs, beside what the machine gives at most, in the same run.
 *
 *     bench_forward MODEL [--tokens 2048] [--decode 64] [--rounds 3] [--threads N] [--exact]
 *
 * Prefill beside the BLAS: every linear layer of the pass as one sgemm on all threads, weights in fp32 and ready in memory. The ratio
 * is time of those products / time of the pass, so whatever else the pass does (attention, norms, widening bf16) counts against it.
 * Decoding beside memory: the bytes that a step reads, read once by all threads with nothing else done. The ratio is of the two
 * rates. Rounds alternate, so that a disturbance hits both; the medians are compared.
 *
 * The breakdown runs the layers once more with taps, which stand between the linear layers, and the matrix products of each
 * part alone. Generator and breakdown are the same code; their totals should agree. */
#include <cblas.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <omp.h>

#include "model/layer.h"

#define MAX_ROUND 32

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(fq_status s, const fq_err *e)
{
    if (s == FQ_OK) return;
    fprintf(stderr, "bench_forward: %s\n", e->text);
    exit(1);
}

static void *need_bytes(size_t n)
{
    void *p = aligned_alloc(4096, (n + 4095) / 4096 * 4096);
    if (!p) {
        fprintf(stderr, "bench_forward: no memory for %zu bytes\n", n);
        exit(1);
    }
    return p;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *x, size_t n)
{
    qsort(x, n, sizeof *x, compare);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

typedef struct settings { const char *model; size_t n_token, n_decode, n_round; int n_thread; bool exact; } settings;

/* ---- what the machine gives ----------------------------------------------------------------------------------------------- */

typedef struct shape { const char *name; int64_t rows, cols; } shape;

/* The linear layers of one dense layer. */
static size_t layer_shapes(const fq_model *m, shape out[7])
{
    int64_t h = m->hidden_size, q = m->num_attention_heads * m->head_dim, kv = m->num_key_value_heads * m->head_dim, f = m->intermediate_size;
    const shape s[7] = { { "q", q, h }, { "k", kv, h }, { "v", kv, h }, { "o", h, q }, { "gate", f, h }, { "up", f, h }, { "down", h, f } };
    memcpy(out, s, sizeof s);
    return 7;
}

static double layer_flop(const fq_model *m, size_t n_token)
{
    shape s[7];
    double sum = 0;
    for (size_t i = 0, n = layer_shapes(m, s); i < n; i++) sum += 2.0 * (double)n_token * (double)s[i].rows * (double)s[i].cols;
    return sum;
}

static float *random_floats(size_t n)
{
    float *x = need_bytes(n * sizeof *x);
    uint64_t r = 88172645463325252u;
    for (size_t i = 0; i < n; i++) {
        r ^= r << 13; r ^= r >> 7; r ^= r << 17;
        x[i] = (float)((double)(r >> 11) * 0x1p-53 - 0.5);
    }
    return x;
}

/* Seconds of all products of one layer. */
static double sgemm_layer(const settings *s, const shape *sh, size_t n, const float *x, const float *w, float *y)
{
    int before = openblas_get_num_threads();
    openblas_set_num_threads(s->n_thread);
    double start = now();
    for (size_t i = 0; i < n; i++)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)s->n_token, (blasint)sh[i].rows, (blasint)sh[i].cols, 1.0f, x,
                    (blasint)sh[i].cols, w, (blasint)sh[i].cols, 0.0f, y, (blasint)sh[i].rows);
    double seconds = now() - start;
    openblas_set_num_threads(before);
    return seconds;
}

typedef uint64_t words __attribute__((vector_size(64)));

/* Seconds to read n bytes once with all threads. */
static double read_once(const unsigned char *p, size_t n, int n_thread)
{
    size_t n_word = n / sizeof(words) / 8 * 8;
    words all = { 0 };
    double start = now();
#pragma omp parallel num_threads(n_thread)
    {
        words a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 };
        size_t part = n_word / (size_t)omp_get_num_threads() / 8 * 8, first = part * (size_t)omp_get_thread_num();
        const words *w = (const words *)(const void *)p + first;
        for (size_t i = 0; i < part; i += 8) {
            a ^= w[i] ^ w[i + 1];
            b ^= w[i + 2] ^ w[i + 3];
            c ^= w[i + 4] ^ w[i + 5];
            d ^= w[i + 6] ^ w[i + 7];
        }
        a ^= b ^ c ^ d;
#pragma omp critical
        all ^= a;
    }
    double seconds = now() - start;
    volatile uint64_t sink = all[0];
    (void)sink;
    return seconds;
}

/* ---- the public way ------------------------------------------------------------------------------------------------------- */

static fq_generator *open_generator(const settings *s, const fq_run *run, size_t context)
{
    fq_generator_options o = { .context = (int64_t)context, .exact = s->exact };
    fq_generator *g;
    fq_err e;
    check(fq_generator_open(s->model, &o, run, &g, &e), &e);
    return g;
}

static double feed(fq_generator *g, const uint32_t *ids, size_t n)
{
    fq_err e;
    double start = now();
    check(fq_generator_feed(g, ids, n, &e), &e);
    return now() - start;
}

static double decode(fq_generator *g, const uint32_t *ids, size_t n)
{
    double each[4096];
    n = n < 4096 ? n : 4096;
    for (size_t i = 0; i < n; i++) each[i] = feed(g, ids + i, 1);
    return median(each, n);
}

static void print_ratio(double ratio, double bar)
{
    printf("  ratio %.2f, at least %.2f: %s\n", ratio, bar, ratio >= bar ? "reached" : "MISSED");
}

static void bench_prefill(const settings *s, const fq_run *run, const fq_model *m, const uint32_t *ids)
{
    shape sh[7];
    size_t n_shape = layer_shapes(m, sh), longest = 0, widest = 0;
    for (size_t i = 0; i < n_shape; i++) {
        size_t n = (size_t)(sh[i].rows * sh[i].cols), side = (size_t)(sh[i].rows > sh[i].cols ? sh[i].rows : sh[i].cols);
        longest = n > longest ? n : longest;
        widest = side > widest ? side : widest;
    }
    float *w = random_floats(longest), *x = random_floats(s->n_token * widest), *y = need_bytes(s->n_token * widest * sizeof *y);
    double blas[MAX_ROUND], pass[MAX_ROUND], deep[MAX_ROUND], flop = layer_flop(m, s->n_token) * (double)m->num_hidden_layers;
    sgemm_layer(s, sh, n_shape, x, w, y);
    for (size_t r = 0; r < s->n_round; r++) {
        blas[r] = 0;
        for (int64_t l = 0; l < m->num_hidden_layers; l++) blas[r] += sgemm_layer(s, sh, n_shape, x, w, y);
        fq_generator *g = open_generator(s, run, s->n_token + s->n_decode);
        pass[r] = feed(g, ids, s->n_token);
        deep[r] = decode(g, ids, s->n_decode);
        fq_generator_close(g);
        printf("  round %zu: sgemm %.2f s, prefill %.2f s\n", r + 1, blas[r], pass[r]);
    }
    double b = median(blas, s->n_round), p = median(pass, s->n_round);
    double attention = 2.0 * (double)(m->num_attention_heads * m->head_dim * m->num_hidden_layers) * (double)s->n_token * (double)s->n_token;
    printf("prefill: %zu tokens in %.2f s, %.0f tokens/s; %.0f GFLOP in linear layers, %.0f GFLOP/s (with attention %.0f)\n", s->n_token, p,
           (double)s->n_token / p, flop / 1e9, flop / p / 1e9, (flop + attention) / p / 1e9);
    printf("  sgemm of the same sizes %.2f s, %.0f GFLOP/s\n", b, flop / b / 1e9);
    print_ratio(b / p, 0.75);
    printf("  decoding behind them: %.1f ms a token\n", 1e3 * median(deep, s->n_round));
    free(w); free(x); free(y);
}

static void bench_decode(const settings *s, const fq_run *run, const uint32_t *ids)
{
    double plain[MAX_ROUND], step[MAX_ROUND];
    fq_generator *g = open_generator(s, run, 16 + s->n_decode * s->n_round);
    fq_generator_info info;
    fq_generator_get_info(g, &info);
    unsigned char *bytes = need_bytes(info.weight_bytes);
    memset(bytes, 1, info.weight_bytes);
    feed(g, ids, 16);
    for (size_t r = 0; r < s->n_round; r++) {
        double best = 1e9;
        for (int k = 0; k < 5; k++) {
            double t = read_once(bytes, info.weight_bytes, s->n_thread);
            best = t < best ? t : best;
        }
        plain[r] = best;
        step[r] = decode(g, ids, s->n_decode);
        printf("  round %zu: read %.1f ms, step %.1f ms\n", r + 1, 1e3 * plain[r], 1e3 * step[r]);
    }
    fq_generator_close(g);
    double p = median(plain, s->n_round), t = median(step, s->n_round), gb = (double)info.weight_bytes / 1e9;
    printf("decode: %.1f ms a token, %.1f tokens/s; %.3f GB a token, %.1f GB/s\n", 1e3 * t, 1 / t, gb, gb / t);
    printf("  plain read of as many bytes %.1f ms, %.1f GB/s\n", 1e3 * p, gb / p);
    print_ratio(p / t, 0.70);
    free(bytes);
}

/* ---- where the time goes ------------------------------------------------------------------------------------------------- */

enum { PART_NORM, PART_ATTENTION, PART_O, PART_GATE, PART_DOWN, N_PART };
#define AT(member) offsetof(fqi_layer_weights, member)
static const struct { const char *name; size_t n_matrix, matrix[3]; } part[N_PART] = {
    [PART_NORM] = { "input norm", 0, { 0 } },
    [PART_ATTENTION] = { "q k v, rope, attention", 3, { AT(q), AT(k), AT(v) } },
    [PART_O] = { "o, residual, norm", 1, { AT(o) } },
    [PART_GATE] = { "gate up, silu", 2, { AT(mlp.gate), AT(mlp.up) } },
    [PART_DOWN] = { "down, residual, check", 1, { AT(mlp.down) } },
};

typedef struct clock_tap { double last, spent[N_PART]; int at; } clock_tap;

static void lap(clock_tap *c, int next)
{
    double t = now();
    c->spent[c->at] += t - c->last;
    c->last = t;
    c->at = next;
}

static void watch(void *user, int64_t layer, fqi_tap_point point, int64_t expert, const float *x, const uint32_t *token, size_t n, size_t cols)
{
    (void)layer; (void)expert; (void)x; (void)token; (void)n; (void)cols;
    static const int next[] = { [FQI_TAP_ATTENTION] = PART_ATTENTION, [FQI_TAP_O] = PART_O, [FQI_TAP_MLP] = PART_GATE, [FQI_TAP_DOWN] = PART_DOWN,
                                [FQI_TAP_EXPERT_MLP] = PART_GATE, [FQI_TAP_EXPERT_DOWN] = PART_DOWN, [FQI_TAP_SHARED_DOWN] = PART_DOWN };
    lap(user, next[point]);
}

typedef struct machine { fqi_decoder decoder; fqi_weights *weights; fqi_compute compute; fqi_rope_table rope; fqi_layer_work *work; } machine;

static void build(const settings *s, const fq_ckpt *c, const fq_run *run, machine *m)
{
    fq_err e;
    size_t positions = s->n_token + s->n_decode;
    check(fqi_decoder_read(&c->config, s->model, &m->decoder, &e), &e);
    const fq_model *f = &m->decoder.model;
    int64_t cols = f->intermediate_size > f->hidden_size ? f->intermediate_size : f->hidden_size, q = f->num_attention_heads * f->head_dim;
    fqi_weights_options o = { .n_slot = (size_t)f->num_hidden_layers, .served = FQ_DTYPE_F32, .run = run };
    check(fqi_weights_create(c, &m->decoder, &o, &m->weights, &e), &e);
    check(fqi_compute_create(s->exact ? FQI_ORDER_FIXED : FQI_ORDER_FAST, FQ_DTYPE_F32, s->n_thread, cols > q ? cols : q, &m->compute, &e), &e);
    check(fqi_rope_table_create(&m->decoder.rope, (int64_t)positions, FQ_DTYPE_F32, &m->rope, &e), &e);
    check(fqi_layer_work_create(&m->decoder, &m->compute, s->n_token, (int64_t)positions, &m->work, &e), &e);
}

/* Seconds of a part's matrix products alone. x and y are large enough for any of them. */
static double products(const machine *m, const fqi_layer_weights *w, int p, size_t n, const float *x, float *y)
{
    double start = now();
    for (size_t i = 0; i < part[p].n_matrix; i++) {
        const fqi_matrix *a = (const fqi_matrix *)(const void *)((const char *)w + part[p].matrix[i]);
        if (a->data) fqi_matmul(&m->compute, a, NULL, x, n, y, (size_t)a->rows);
    }
    return now() - start;
}

static void breakdown(const settings *s, machine *m, const char *title, size_t n, int64_t pos, int repeat)
{
    const fq_model *f = &m->decoder.model;
    fq_err e;
    int64_t capacity = ((int64_t)(s->n_token + s->n_decode) + FQI_TILE - 1) / FQI_TILE * FQI_TILE;
    size_t n_kv = fqi_kv_floats(&m->decoder, capacity);
    float *memory = need_bytes(n_kv * sizeof *memory), *x = random_floats(n * (size_t)f->hidden_size), *y;
    size_t widest = (size_t)(f->intermediate_size > f->num_attention_heads * f->head_dim ? f->intermediate_size : f->num_attention_heads * f->head_dim);
    widest = widest > (size_t)f->hidden_size ? widest : (size_t)f->hidden_size;
    float *in = random_floats(n * widest);
    y = need_bytes(n * widest * sizeof *y);
    memset(memory, 0, n_kv * sizeof *memory);
    fqi_span span = { .n = n, .pos = pos };
    fqi_kv_place(&m->decoder, memory, capacity, &span.kv);
    fqi_batch batch = { .span = &span, .n_span = 1, .n_token = n };
    double total = 0, alone[N_PART] = { 0 };
    clock_tap c = { 0 };
    for (int r = 0; r < repeat; r++)
        for (int64_t l = 0; l < f->num_hidden_layers; l++) {
            const fqi_layer_weights *w;
            check(fqi_weights_layer(m->weights, l, &w, &e), &e);
            c.last = now();
            c.at = PART_NORM;
            double start = c.last;
            check(fqi_layer_forward(&m->compute, &m->decoder, &m->rope, w, l, &batch, x, m->work, &(fqi_tap){ watch, &c }, &e), &e);
            lap(&c, PART_NORM);
            total += now() - start;
            for (int p = 0; p < N_PART; p++) alone[p] += products(m, w, p, n, in, y);
        }
    printf("%s: %.2f ms in the layers\n", title, 1e3 * total / repeat);
    for (int p = 0; p < N_PART; p++)
        printf("  %-24s %9.2f ms %5.1f %%   of which matrix products (measured alone) %9.2f ms\n", part[p].name, 1e3 * c.spent[p] / repeat,
               100 * c.spent[p] / total, 1e3 * alone[p] / repeat);
    free(memory); free(x); free(in); free(y);
}

int main(int argc, char **argv)
{
    static const struct option opt[] = { { "tokens", 1, 0, 't' }, { "decode", 1, 0, 'd' }, { "rounds", 1, 0, 'r' }, { "threads", 1, 0, 'n' },
                                         { "exact", 0, 0, 'e' }, { 0 } };
    settings s = { .n_token = 2048, .n_decode = 64, .n_round = 3, .n_thread = omp_get_num_procs() };
    int k;
    while ((k = getopt_long(argc, argv, "", opt, NULL)) != -1) switch (k) {
        case 't': s.n_token = strtoull(optarg, NULL, 10); break;
        case 'd': s.n_decode = strtoull(optarg, NULL, 10); break;
        case 'r': s.n_round = strtoull(optarg, NULL, 10); break;
        case 'n': s.n_thread = atoi(optarg); break;
        case 'e': s.exact = true; break;
        default: return 2;
        }
    if (optind != argc - 1 || s.n_token < 1 || s.n_decode < 1 || s.n_round < 1 || s.n_round > MAX_ROUND || s.n_thread < 1) {
        fprintf(stderr, "usage: bench_forward MODEL [--tokens 2048] [--decode 64] [--rounds 3] [--threads N] [--exact]\n");
        return 2;
    }
    s.model = argv[optind];
    fq_run run = { .n_thread = s.n_thread };
    fq_ckpt *c;
    fq_err e;
    check(fq_ckpt_open(s.model, &run, &c, &e), &e);
    const fq_model *f = &c->config.model;
    machine m;
    memset(&m, 0, sizeof m);
    build(&s, c, &run, &m);
    printf("%s: %s, %" PRId64 " layers, hidden_size %" PRId64 "; kernels %s, %s, BLAS %s, %d threads\n", s.model, f->model_type, f->num_hidden_layers,
           f->hidden_size, m.compute.kernel->name, s.exact ? "fixed order" : "fast order", openblas_get_corename(), s.n_thread);
    size_t n_ids = s.n_token + 16 + s.n_decode * s.n_round;
    uint32_t *ids = need_bytes(n_ids * sizeof *ids);
    for (size_t i = 0; i < n_ids; i++) ids[i] = (uint32_t)(i * 2654435761u % (uint32_t)f->vocab_size);
    breakdown(&s, &m, "prefill", s.n_token, 0, 1);
    breakdown(&s, &m, "decoding, 16 tokens before", 1, 16, 20);
    breakdown(&s, &m, "decoding, behind the prompt", 1, (int64_t)s.n_token, 20);
    fqi_layer_work_free(m.work);
    fqi_rope_table_free(&m.rope);
    fqi_compute_free(&m.compute);
    fqi_weights_free(m.weights);
    bench_prefill(&s, &run, f, ids);
    bench_decode(&s, &run, ids);
    fqi_decoder_free(&m.decoder);
    fq_ckpt_close(c);
    free(ids);
    return 0;
}
