/* test_quant_layer.c - one layer quantized: what is reported is what is measured from outside, on trained models of every part's real kind.
 *
 * The measurement: codes are made into weights here, the layer is run whole with them, and taps show each module's input. Every module's
 * input depends only on modules that were quantized before it, so these are the inputs that its Hessian was made of. */
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fs_memory.h"
#include "job/quant_layer.h"
#include "make_ckpt.h"
#include "support.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#define SEQLEN 64
#define WINDOWS 66          /* more than a batch, and no multiple of one */
#define FEW 10

/* Errors are measured on all tokens, or, of many, on every 37th. */
static size_t every(size_t n_row) { return n_row > 1000 ? 37 : 1; }
#define MAX_EXPERT 8

/* ---- a model ------------------------------------------------------------------------------------------------------- */

typedef struct bench {
    fqi_fitting f;
    fqi_modules m;
    fqi_decoder d;
    fqi_weights *weights;
    fqi_rope_table rope;
    fqi_calib calib;
    float *embedded;         /* what enters the first layer */
    size_t hidden, width, n_row;
} bench;

static const fq_run quiet = { .n_thread = 1 };

static void open_bench(bench *b, const char *path, const fq_fit *fit, bool lm_head, size_t n_window, size_t seqlen)
{
    uint64_t rng = 42;
    *b = (bench){ 0 };
    char *config = fqt_join(path, "config.json");
    FQT_OK(fq_ckpt_open(path, &quiet, &b->f.ckpt, e));
    FQT_OK(fqi_decoder_read(&b->f.ckpt->config, config, &b->d, e));
    free(config);
    b->f.layout = (fqi_layout){ .kind = FQ_LAYOUT_SPREAD, .group = 32, .ranks = fit ? 2 : 1 };
    if (fit) {
        b->f.fit = *fit;
        FQT_OK(fqi_maps_create(&b->d.model, fit, &b->f.layout, &b->f.maps, e));
    }
    FQT_OK(fqi_modules_find(&b->f, lm_head, &b->m, e));
    FQT_OK(fqi_weights_create(b->f.ckpt, &b->d, &(fqi_weights_options){ .n_slot = (size_t)b->d.model.num_hidden_layers, .served = FQ_DTYPE_F32, .run = &quiet }, &b->weights, e));
    FQT_OK(fqi_rope_table_create(&b->d.rope, (int64_t)seqlen, FQ_DTYPE_F32, &b->rope, e));
    b->hidden = (size_t)b->d.model.hidden_size;
    b->width = (size_t)(b->d.model.num_attention_heads * b->d.model.head_dim);
    b->n_row = n_window * seqlen;
    b->calib = (fqi_calib){ .n_window = n_window, .seqlen = seqlen, .ids = calloc(b->n_row, sizeof(uint32_t)) };
    b->embedded = calloc(b->n_row, b->hidden * sizeof *b->embedded);
    assert_true(b->calib.ids && b->embedded);
    for (size_t i = 0; i < b->n_row; i++) b->calib.ids[i] = (uint32_t)(fqt_random(&rng) % (1 + fqt_random(&rng) % (uint64_t)b->d.model.vocab_size));   /* small ones are usual */
    FQT_OK(fqi_weights_embed(b->weights, b->calib.ids, b->n_row, b->embedded, e));
}

static void close_bench(bench *b)
{
    free(b->calib.ids);
    free(b->embedded);
    fqi_rope_table_free(&b->rope);
    fqi_weights_free(b->weights);
    fqi_modules_free(&b->m);
    fqi_decoder_free(&b->d);
    fqi_maps_free(&b->f.maps);
    fq_ckpt_close(b->f.ckpt);
}

static void open_qwen2(bench *b, const fq_fit *fit, size_t n_window)
{
    char *path = fqt_join(fqt_source(), "examples/tiny-qwen2");
    open_bench(b, path, fit, false, n_window, SEQLEN);
    free(path);
}

static void open_moe(bench *b, size_t n_window, size_t seqlen)
{
    char *path = fqt_join(fqt_data(), "own/tiny-qwen3-moe");
    open_bench(b, path, NULL, false, n_window, seqlen);
    free(path);
}

static fqi_quant_settings usual(void)
{
    return (fqi_quant_settings){ .method = FQ_METHOD_GPTQ, .grid = { .bits = 4, .sym = true, .rule = FQI_SCALE_WEIGHTED, .store = FQI_STORE_BOTH },
                                 .group_size = 32, .damp = 0.01, .scales = FQI_SCALES_STATIC, .curve = FQI_CURVE_H, .act_order = true, .fold = true };
}

/* ---- running one layer --------------------------------------------------------------------------------------------- */

typedef struct result { fqi_layer_codes codes; fqi_acts x, attention, x_plain; fqi_compute c; fq_status status; fq_err e; } result;

typedef struct way { int n_thread; bool on_disk; const fq_run *run; float less; } way;   /* less: what the quantized stream lacks, as a share; in memory only */
static const way usual_way = { .n_thread = 1 };

static void load(fqi_acts *a, const float *rows, size_t n_row, size_t cols, bool in_memory)
{
    FQT_OK(fqi_acts_create(n_row, cols, in_memory, fqt_dir, a, e));
    if (!rows) return;
    if (in_memory) memcpy(a->memory, rows, n_row * cols * sizeof *rows);
    else FQT_OK(fqi_acts_put(a, 0, n_row, rows, e));
}

static float *rows_of(fqi_acts *a)
{
    float *out = malloc(a->n_row * a->cols * sizeof *out), *rows;
    assert_non_null(out);
    FQT_OK(fqi_acts_get(a, 0, a->n_row, out, &rows, e));
    if (rows != out) memcpy(out, rows, a->n_row * a->cols * sizeof *out);
    return out;
}

static void quantize(bench *b, const fqi_quant_settings *s, const way *w, int64_t layer, result *r)
{
    const fqi_layer_weights *weights;
    int64_t cols = (int64_t)(b->width > b->hidden ? b->width : b->hidden);
    if (b->d.model.intermediate_size > cols) cols = b->d.model.intermediate_size;
    *r = (result){ 0 };
    FQT_OK(fqi_compute_create(FQI_ORDER_FAST, FQ_DTYPE_F32, w->n_thread, cols, &r->c, e));
    FQT_OK(fqi_weights_layer(b->weights, layer, &weights, e));
    load(&r->x, b->embedded, b->n_row, b->hidden, !w->on_disk);
    for (size_t i = 0; w->less > 0 && i < b->n_row * b->hidden; i++) r->x.memory[i] *= 1 - w->less;
    load(&r->attention, NULL, b->n_row, b->width, !w->on_disk);
    if (s->shift > 0) load(&r->x_plain, b->embedded, b->n_row, b->hidden, !w->on_disk);
    const fqi_layer_job j = { .settings = s, .fitting = &b->f, .modules = &b->m, .decoder = &b->d, .rope = &b->rope, .compute = &r->c, .calib = &b->calib, .x = &r->x,
                              .attention = &r->attention, .x_plain = s->shift > 0 ? &r->x_plain : NULL, .run = w->run ? w->run : &quiet };
    r->status = fqi_quant_layer(&j, layer, weights, &r->codes, &r->e);
}

static void quantize_ok(bench *b, const fqi_quant_settings *s, const way *w, int64_t layer, result *r)
{
    quantize(b, s, w, layer, r);
    if (r->status != FQ_OK) fail_msg("%s", r->e.text);
}

static void drop(result *r)
{
    fqi_layer_codes_free(&r->codes);
    fqi_acts_free(&r->x);
    fqi_acts_free(&r->attention);
    fqi_acts_free(&r->x_plain);
    fqi_compute_free(&r->c);
}

static const fqi_module *module_of(const bench *b, int64_t layer, size_t i) { return &b->m.at[b->m.first_of_layer[layer] + i]; }

/* ---- measuring from outside ------------------------------------------------------------------------------------------ */

/* scale * (code - zero), row-major. */
static float *weights_of(const fqi_codes *c)
{
    float *w = malloc(c->n_row * c->n_col * sizeof *w);
    assert_non_null(w);
    for (size_t k = 0; k < c->n_col; k++)
        for (size_t n = 0; n < c->n_row; n++) {
            const size_t g = c->group_of[k] * c->n_row + n;
            w[n * c->n_col + k] = c->scale[g] * (float)((int)c->code[k * c->n_row + n] - (int)c->zero[g]);
        }
    return w;
}

static float *original_of(const fqi_matrix *m)
{
    const size_t n = (size_t)(m->rows * m->cols);
    const fqi_kernels *k = fqi_kernels_at(0);
    float *w = malloc(n * sizeof *w);
    assert_non_null(w);
    k->widen(m->data, m->dtype, w, n);
    return w;
}

typedef struct measure { double error, energy; uint64_t n_token; } measure;
typedef struct measuring { const bench *b; int64_t layer; size_t n, every; float **difference, **original; measure *out; } measuring;

static void add_rows(const float *w, size_t rows, size_t cols, const float *x, size_t n, size_t step, double *sum)
{
    for (size_t t = 0; t < n; t += step)
        for (size_t r = 0; r < rows; r++) {
            float dot = 0;
            for (size_t k = 0; k < cols; k++) dot += w[r * cols + k] * x[t * cols + k];
            *sum += (double)dot * (double)dot;
        }
}

static void watch(void *user, int64_t layer, fqi_tap_point point, int64_t expert, const float *x, const uint32_t *token, size_t n, size_t cols)
{
    measuring *s = user;
    (void)layer; (void)token;
    for (size_t i = 0; i < s->n; i++) {
        const fqi_module *m = module_of(s->b, s->layer, i);
        if (m->input != point || m->expert != expert) continue;
        assert_int_equal(cols, m->cols);
        s->out[i].n_token += (n + s->every - 1) / s->every;
        add_rows(s->difference[i], (size_t)m->rows, cols, x, n, s->every, &s->out[i].error);
        add_rows(s->original[i], (size_t)m->rows, cols, x, n, s->every, &s->out[i].energy);
    }
}

/* The whole layer over all windows, in batches of as many windows as the job takes at once. */
static void run_whole(bench *b, const fqi_compute *c, const fqi_layer_weights *w, int64_t layer, float *x, const fqi_tap *tap)
{
    const size_t seqlen = b->calib.seqlen, windows = FQI_CALIB_BATCH_TOKENS / seqlen, floats = fqi_kv_floats(&b->d, (int64_t)seqlen);
    fqi_layer_work *work;
    fqi_span *span = calloc(windows, sizeof *span);
    float *kv = aligned_alloc(64, (windows * floats * sizeof *kv + 63) / 64 * 64);
    assert_true(span && kv);
    memset(kv, 0, windows * floats * sizeof *kv);
    FQT_OK(fqi_layer_work_create(&b->d, c, windows * seqlen, (int64_t)seqlen, &work, e));
    for (size_t at = 0; at < b->calib.n_window; at += windows) {
        const size_t n = b->calib.n_window - at < windows ? b->calib.n_window - at : windows;
        for (size_t i = 0; i < n; i++) {
            span[i] = (fqi_span){ .n = seqlen };
            fqi_kv_place(&b->d, kv + i * floats, (int64_t)seqlen, &span[i].kv);
        }
        const fqi_batch batch = { .span = span, .n_span = n, .n_token = n * seqlen };
        FQT_OK(fqi_layer_forward(c, &b->d, &b->rope, w, layer, &batch, x + at * seqlen * b->hidden, work, tap, e));
    }
    fqi_layer_work_free(work);
    free(span);
    free(kv);
}

/* Errors of every module; *x: what leaves the quantized layer. */
static void measure_layer(bench *b, const result *r, int64_t layer, measure *out, float **x)
{
    const fqi_layer_weights *original;
    fqi_mlp_weights expert[MAX_EXPERT];
    const size_t n = r->codes.n;
    float **all = calloc(3 * n, sizeof *all);
    measuring s = { b, layer, n, every(b->n_row), all, all + n, out };
    assert_non_null(all);
    FQT_OK(fqi_weights_layer(b->weights, layer, &original, e));
    fqi_layer_weights w = *original;
    if (w.sparse) memcpy(expert, original->expert, (size_t)b->d.model.num_experts * sizeof expert[0]);
    w.expert = expert;
    for (size_t i = 0; i < n; i++) {
        const fqi_module *m = module_of(b, layer, i);
        fqi_matrix *slot = fqi_module_slot(&w, expert, m);
        s.original[i] = original_of(slot);
        s.difference[i] = original_of(slot);
        all[2 * n + i] = weights_of(&r->codes.codes[i]);
        for (size_t k = 0; k < (size_t)(m->rows * m->cols); k++) s.difference[i][k] -= all[2 * n + i][k];
        slot->data = all[2 * n + i];
        slot->dtype = FQ_DTYPE_F32;
    }
    *x = malloc(b->n_row * b->hidden * sizeof **x);
    assert_non_null(*x);
    memcpy(*x, b->embedded, b->n_row * b->hidden * sizeof **x);
    run_whole(b, &r->c, &w, layer, *x, out ? &(fqi_tap){ watch, &s } : NULL);
    for (size_t i = 0; i < 3 * n; i++) free(all[i]);
    free(all);
}

/* ---- what is reported ------------------------------------------------------------------------------------------------ */

static void check_reported(bench *b, const fqi_quant_settings *s, int64_t layer)
{
    result r;
    float *x;
    quantize_ok(b, s, &usual_way, layer, &r);
    const size_t n = b->m.first_of_layer[layer + 1] - b->m.first_of_layer[layer], step = every(b->n_row);
    assert_int_equal(r.codes.n, n);
    measure *found = calloc(n, sizeof *found);
    assert_non_null(found);
    measure_layer(b, &r, layer, found, &x);
    for (size_t i = 0; i < n; i++) {
        const fq_module_report *p = &r.codes.report[i];
        const fqi_module *m = module_of(b, layer, i);
        const double error = found[i].error / (double)found[i].n_token, relative = found[i].error / found[i].energy;
        assert_string_equal(p->name, m->name);
        assert_string_equal(p->role, m->role);
        assert_string_equal(p->method, "gptq");
        assert_string_equal(p->why, "");
        assert_int_equal(p->rows, m->rows);
        assert_int_equal(p->cols, m->cols);
        assert_true(p->n_token <= step * found[i].n_token && p->n_token + 2 * step > step * found[i].n_token);   /* two batches */
        if (!(fabs(p->error / error - 1) < (step > 1 ? 0.3 : 1e-3))) fail_msg("%s: reported %.6g a token, measured %.6g", p->name, p->error, error);
        if (!(p->relative > relative / 2 && p->relative < relative * 2)) fail_msg("%s: reported %.4g of the output, measured %.4g", p->name, p->relative, relative);
        assert_true(p->seconds >= 0 && p->relative > 0 && p->relative < 0.2);
    }
    /* what leaves the layer is what the codes compute, to the bit: batches and steps are those of the whole pass */
    float *left = rows_of(&r.x);
    assert_memory_equal(left, x, b->n_row * b->hidden * sizeof *x);
    free(left);
    free(x);
    free(found);
    drop(&r);
}

static void test_reported_is_measured(void **state)
{
    (void)state;
    bench b;
    open_qwen2(&b, NULL, WINDOWS);
    fqi_quant_settings s = usual();
    check_reported(&b, &s, 0);
    close_bench(&b);
}

static void test_reported_is_measured_of_experts(void **state)
{
    (void)state;
    bench b;
    open_moe(&b, WINDOWS, SEQLEN);
    fqi_quant_settings s = usual();
    check_reported(&b, &s, 1);
    close_bench(&b);
}

/* Random ones of other forms: a shared expert beside the routed ones, experts in one tensor, biases everywhere. */
static void test_reported_is_measured_of_forms(void **state)
{
    (void)state;
    static const fqt_model models[] = {
        { .family = "qwen2_moe", .hidden = 64, .moe_ff = 64, .shared_ff = 96, .layers = 1, .heads = 4, .kv = 2, .head_dim = 16, .vocab = 200, .experts = 5, .top_k = 2 },
        { .family = "qwen3_moe", .hidden = 96, .moe_ff = 32, .layers = 1, .heads = 4, .kv = 2, .head_dim = 16, .vocab = 200, .experts = 4, .top_k = 2, .fused = true },
        { .family = "llama", .hidden = 64, .ff = 96, .layers = 1, .heads = 4, .kv = 4, .head_dim = 16, .vocab = 200, .attention_bias = true, .mlp_bias = true },
    };
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        char *path = fqt_join(fqt_dir, "form");
        bench b;
        fqt_make_model(path, &models[i]);
        open_bench(&b, path, NULL, false, FEW, SEQLEN);
        const fqi_quant_settings s = usual();
        check_reported(&b, &s, 0);
        close_bench(&b);
        fqt_remove(path);
        free(path);
    }
}

/* All tokens, not a sample: the sum itself. */
static void test_error_is_exact(void **state)
{
    (void)state;
    bench b;
    result r;
    open_qwen2(&b, NULL, 3);
    const fqi_quant_settings s = usual();
    const fqi_layer_weights *w;
    quantize_ok(&b, &s, &usual_way, 0, &r);
    FQT_OK(fqi_weights_layer(b.weights, 0, &w, e));
    float *q = weights_of(&r.codes.codes[1]), *k = original_of(&w->k), *norm = malloc(b.n_row * b.hidden * sizeof *norm);
    assert_non_null(norm);
    double error = 0;
    for (size_t t = 0; t < b.n_row; t++) {
        fqi_kernels_at(0)->rms_norm(b.embedded + t * b.hidden, w->input_norm, (float)b.d.rms_norm_eps, FQ_DTYPE_F32, norm + t * b.hidden, b.hidden);
        for (size_t n = 0; n < (size_t)w->k.rows; n++) {
            double dot = 0;
            for (size_t i = 0; i < b.hidden; i++) dot += ((double)k[n * b.hidden + i] - (double)q[n * b.hidden + i]) * (double)norm[t * b.hidden + i];
            error += dot * dot;
        }
    }
    error /= (double)b.n_row;
    assert_int_equal(r.codes.report[1].n_token, b.n_row);
    if (!(fabs(r.codes.report[1].error / error - 1) < 1e-3)) fail_msg("reported %.9g a token, measured %.9g", r.codes.report[1].error, error);
    free(q);
    free(k);
    free(norm);
    drop(&r);
    close_bench(&b);
}

/* ---- what it is good for ------------------------------------------------------------------------------------------- */

static double distance(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    return sum;
}

static void test_better_than_rounding(void **state)
{
    (void)state;
    bench b;
    result gptq, rtn;
    const fqi_layer_weights *w;
    float *x, *y;
    open_qwen2(&b, NULL, FEW);
    fqi_quant_settings s = usual();
    measure good[7] = { { 0 } }, bad[7] = { { 0 } };
    quantize_ok(&b, &s, &usual_way, 0, &gptq);
    s.method = FQ_METHOD_RTN;
    quantize_ok(&b, &s, &usual_way, 0, &rtn);
    measure_layer(&b, &gptq, 0, good, &x);
    measure_layer(&b, &rtn, 0, bad, &y);
    for (size_t i = 0; i < 7; i++) {
        assert_string_equal(rtn.codes.report[i].method, "rounding");
        if (!(good[i].error < 0.95 * bad[i].error)) fail_msg("%s: %.4g against %.4g of rounding", module_of(&b, 0, i)->name, good[i].error, bad[i].error);
    }
    float *exact = malloc(b.n_row * b.hidden * sizeof *exact);
    assert_non_null(exact);
    memcpy(exact, b.embedded, b.n_row * b.hidden * sizeof *exact);
    FQT_OK(fqi_weights_layer(b.weights, 0, &w, e));
    run_whole(&b, &gptq.c, w, 0, exact, NULL);
    assert_true(distance(x, exact, b.n_row * b.hidden) < 0.7 * distance(y, exact, b.n_row * b.hidden));
    free(x);
    free(y);
    free(exact);
    drop(&gptq);
    drop(&rtn);
    close_bench(&b);
}

/* Errors of important columns are made first, when there are others left to make up for them. */
static void test_order_helps(void **state)
{
    (void)state;
    double found[2] = { 0 };
    bench b;
    open_qwen2(&b, NULL, FEW);
    for (size_t i = 0; i < 2; i++) {
        fqi_quant_settings s = usual();
        result r;
        s.act_order = i == 1;
        s.fold = false;
        quantize_ok(&b, &s, &usual_way, 0, &r);
        for (size_t k = 0; k < 3; k++) found[i] += r.codes.report[k].error;   /* q, k, v: the same inputs */
        drop(&r);
    }
    printf("error of q, k, v: %.6g in order of importance, %.6g in natural order\n", found[1], found[0]);
    assert_true(found[1] < found[0]);
    close_bench(&b);
}

/* ---- what it must not depend on -------------------------------------------------------------------------------------- */

static void same_codes(const result *a, const result *b, const char *what)
{
    assert_int_equal(a->codes.n, b->codes.n);
    for (size_t i = 0; i < a->codes.n; i++) {
        const fqi_codes *p = &a->codes.codes[i], *q = &b->codes.codes[i];
        assert_int_equal(p->n_group, q->n_group);
        if (memcmp(p->code, q->code, p->n_row * p->n_col) != 0 || memcmp(p->scale, q->scale, p->n_group * p->n_row * sizeof *p->scale) != 0 ||
            memcmp(p->zero, q->zero, p->n_group * p->n_row) != 0 || memcmp(p->group_of, q->group_of, p->n_col * sizeof *p->group_of) != 0)
            fail_msg("%s: %s: other codes", what, a->codes.report[i].name);
    }
    for (size_t i = 0; i < a->codes.n_mlp; i++) {
        assert_int_equal(a->codes.mlp[i].n_run, b->codes.mlp[i].n_run);
        if (a->codes.mlp[i].n_run) assert_memory_equal(a->codes.mlp[i].run, b->codes.mlp[i].run, a->codes.mlp[i].n_run * sizeof *a->codes.mlp[i].run);
    }
}

static void check_same(bench *b, const fqi_quant_settings *s)
{
    static const struct { way w; const char *what; } ways[] = { { { .n_thread = 2 }, "2 threads" }, { { .n_thread = 3, .on_disk = true }, "3 threads, rows on disk" } };
    result first, other;
    quantize_ok(b, s, &usual_way, 0, &first);
    float *x = rows_of(&first.x);
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        quantize_ok(b, s, &ways[i].w, 0, &other);
        same_codes(&first, &other, ways[i].what);
        float *y = rows_of(&other.x);
        assert_memory_equal(x, y, b->n_row * b->hidden * sizeof *x);
        free(y);
        drop(&other);
    }
    free(x);
    drop(&first);
}

static void test_same_codes(void **state)
{
    (void)state;
    bench b;
    open_qwen2(&b, NULL, FEW);
    fqi_quant_settings s = usual();
    s.n_refit = 1;
    check_same(&b, &s);
    close_bench(&b);
}

static void test_same_codes_of_experts(void **state)
{
    (void)state;
    bench b;
    open_moe(&b, WINDOWS, SEQLEN);
    fqi_quant_settings s = usual();
    s.shift = 0.5;
    check_same(&b, &s);
    close_bench(&b);
}

/* ---- order of channels ------------------------------------------------------------------------------------------------ */

/* A map new slot -> old channel with every channel once. */
static void check_fold(const fqi_map *m, int64_t n_old, int64_t n_new)
{
    bool *seen = calloc((size_t)n_old, sizeof *seen);
    int64_t real = 0;
    assert_non_null(seen);
    assert_int_equal(m->n_old, n_old);
    assert_int_equal(m->n_new, n_new);
    for (size_t i = 0; i < m->n_run; i++)
        for (int64_t k = 0; m->run[i].src >= 0 && k < m->run[i].count; k++, real++) {
            assert_false(seen[m->run[i].src + k]);
            seen[m->run[i].src + k] = true;
        }
    assert_int_equal(real, n_old);
    free(seen);
}

static void test_fold(void **state)
{
    (void)state;
    static const fq_fit fit = { .intermediate_size_pad = 1024 };
    static const struct { bool act_order, fold; fqi_scales_from scales; int64_t group; } cases[] = {
        { true, true, FQI_SCALES_STATIC, 32 }, { true, false, FQI_SCALES_STATIC, 64 }, { false, false, FQI_SCALES_DYNAMIC, 32 }, { true, false, FQI_SCALES_STATIC, -1 },
    };
    bench b;
    open_qwen2(&b, &fit, 12);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fqi_quant_settings s = usual();
        result r;
        s.act_order = cases[i].act_order;
        s.fold = cases[i].fold;
        s.scales = cases[i].scales;
        s.group_size = cases[i].group;
        if (s.scales == FQI_SCALES_DYNAMIC) s.grid.rule = FQI_SCALE_MIN_MAX;
        quantize_ok(&b, &s, &usual_way, 0, &r);
        static const size_t mlp_of[7] = { SIZE_MAX, SIZE_MAX, SIZE_MAX, SIZE_MAX, 0, 0, 0 };
        assert_int_equal(r.codes.n_mlp, 1);
        assert_memory_equal(r.codes.mlp_of, mlp_of, sizeof mlp_of);
        const fqi_codes *down = &r.codes.codes[6];
        assert_int_equal(down->n_col, 896);
        assert_int_equal(down->n_group, s.group_size > 0 ? 1024 / s.group_size : 1);
        if (s.fold) check_fold(&r.codes.mlp[0], 896, 1024);
        else assert_int_equal(r.codes.mlp[0].n_run, 0);
        /* groups of the codes are groups of the slots that the map gives */
        const fqi_map *map = s.fold ? &r.codes.mlp[0] : &b.f.maps.map[FQI_AX_FF];
        int64_t slot = 0;
        for (size_t k = 0; k < map->n_run; slot += map->run[k++].count)
            for (int64_t c = 0; map->run[k].src >= 0 && c < map->run[k].count; c++)
                assert_int_equal(down->group_of[map->run[k].src + c], s.group_size > 0 ? (slot + c) / s.group_size : 0);
        drop(&r);
    }
    close_bench(&b);
}

static int64_t channel_at(const fqi_map *m, int64_t slot)
{
    size_t i = 0;
    for (; slot >= m->run[i].count; i++) slot -= m->run[i].count;
    return m->run[i].src < 0 ? -1 : m->run[i].src + slot;
}

/* The second most important channel begins the second GPU's half, and not where two GPUs do not divide the axis. */
static void test_fold_is_dealt_to_ranks(void **state)
{
    (void)state;
    static const fq_fit fit = { .intermediate_size_pad = 1024 };
    static const int64_t ranks[] = { 1, 2, 3 };
    bench b;
    int64_t first[3], second[3];
    open_qwen2(&b, &fit, 12);
    for (size_t i = 0; i < 3; i++) {
        const fqi_quant_settings s = usual();
        result r;
        b.f.layout.ranks = ranks[i];
        quantize_ok(&b, &s, &usual_way, 0, &r);
        first[i] = channel_at(&r.codes.mlp[0], 0);
        second[i] = channel_at(&r.codes.mlp[0], ranks[i] == 2 ? 512 : 1);
        drop(&r);
    }
    for (size_t i = 1; i < 3; i++) {
        assert_int_equal(first[i], first[0]);
        assert_int_equal(second[i], second[0]);
    }
    close_bench(&b);
}

static void test_fold_of_experts(void **state)
{
    (void)state;
    bench b;
    result r;
    open_moe(&b, 8, SEQLEN);
    const fqi_quant_settings s = usual();
    quantize_ok(&b, &s, &usual_way, 0, &r);
    assert_int_equal(r.codes.n_mlp, 8);
    for (size_t i = 0; i < r.codes.n; i++) {
        const fqi_module *m = module_of(&b, 0, i);
        if (m->expert < 0) assert_true(r.codes.mlp_of[i] == SIZE_MAX);
        else assert_int_equal(r.codes.mlp_of[i], m->expert);
    }
    for (size_t i = 0; i < 8; i++) check_fold(&r.codes.mlp[i], 96, 96);
    assert_true(r.codes.mlp[0].n_run != r.codes.mlp[1].n_run || memcmp(r.codes.mlp[0].run, r.codes.mlp[1].run, r.codes.mlp[0].n_run * sizeof(fqi_run)) != 0);
    drop(&r);
    close_bench(&b);
}

/* ---- what does not go as asked ------------------------------------------------------------------------------------------ */

static void test_experts_with_few_tokens(void **state)
{
    (void)state;
    bench b;
    result r;
    open_moe(&b, 1, 6);   /* 12 choices of 8 experts */
    fqi_quant_settings s = usual();
    s.min_expert_tokens = 3;
    quantize_ok(&b, &s, &usual_way, 0, &r);
    size_t n_few = 0, n_none = 0, n_gptq = 0;
    for (size_t i = 0; i < r.codes.n; i++) {
        const fq_module_report *p = &r.codes.report[i];
        const fqi_module *m = module_of(&b, 0, i);
        if (m->expert < 0 || p->n_token >= 3) {
            assert_string_equal(p->method, "gptq");
            n_gptq++;
            continue;
        }
        char why[80];
        snprintf(why, sizeof why, "%" PRIu64 " tokens reached this expert, expected at least 3", p->n_token);
        assert_string_equal(p->why, why);
        assert_string_equal(p->method, p->n_token ? "weighted rounding" : "rounding");
        n_few += p->n_token > 0;
        n_none += p->n_token == 0;
        if (p->n_token == 0) assert_int_equal(r.codes.mlp[m->expert].n_run, 0);
    }
    assert_true(n_few > 0 && n_none > 0 && n_gptq > 4);
    drop(&r);
    close_bench(&b);
}

static void test_no_factor(void **state)
{
    (void)state;
    bench b;
    result r;
    open_qwen2(&b, NULL, 2);
    fqi_quant_settings s = usual();
    s.damp = -2;   /* no matrix whose mean diagonal is taken away twice has a factor */
    quantize_ok(&b, &s, &usual_way, 0, &r);
    for (size_t i = 0; i < r.codes.n; i++) {
        assert_string_equal(r.codes.report[i].method, "weighted rounding");
        assert_non_null(strstr(r.codes.report[i].why, "cholesky"));
        assert_true(r.codes.report[i].damp == 0);
    }
    drop(&r);
    s.strict = true;
    quantize(&b, &s, &usual_way, 0, &r);
    assert_int_equal(r.status, FQ_E_NUMERIC);
    assert_string_equal(r.e.rule, "cholesky");
    assert_non_null(strstr(r.e.text, "layers.0.self_attn.q_proj"));
    drop(&r);
    close_bench(&b);
}

static void test_rounding_runs_nothing(void **state)
{
    (void)state;
    bench b;
    open_qwen2(&b, NULL, 1);
    fqi_quant_settings s = usual();
    s.method = FQ_METHOD_RTN;
    fqi_compute c;
    fqi_layer_codes codes = { 0 };
    const fqi_layer_weights *w;
    FQT_OK(fqi_compute_create(FQI_ORDER_FIXED, FQ_DTYPE_F32, 1, 896, &c, e));
    FQT_OK(fqi_weights_layer(b.weights, 2, &w, e));
    const fqi_layer_job j = { .settings = &s, .fitting = &b.f, .modules = &b.m, .decoder = &b.d, .compute = &c, .run = &quiet };
    FQT_OK(fqi_quant_layer(&j, 2, w, &codes, e));
    assert_int_equal(codes.n, 7);
    float *q = weights_of(&codes.codes[6]), *exact = original_of(&w->mlp.down);
    double error = 0;
    for (size_t i = 0; i < (size_t)(w->mlp.down.rows * w->mlp.down.cols); i++) error += ((double)q[i] - (double)exact[i]) * ((double)q[i] - (double)exact[i]);
    assert_true(fabs(codes.report[6].error / error - 1) < 1e-3);
    assert_int_equal(codes.report[6].n_token, 0);
    assert_int_equal(codes.mlp[0].n_run, 0);
    free(q);
    free(exact);
    fqi_layer_codes_free(&codes);
    fqi_compute_free(&c);
    close_bench(&b);
}

static bool soon(void *user)
{
    int *left = user;
    return (*left)-- <= 0;
}

static void test_cancelled(void **state)
{
    (void)state;
    bench b;
    open_qwen2(&b, NULL, FEW);
    const fqi_quant_settings s = usual();
    for (int after = 0; after < 12; after += 3) {
        int left = after;
        const fq_run run = { .n_thread = 1, .cancelled = soon, .user = &left };
        result r;
        quantize(&b, &s, &(way){ .n_thread = 1, .run = &run }, 0, &r);
        assert_int_equal(r.status, FQ_E_CANCELLED);
        drop(&r);
    }
    close_bench(&b);
}

/* ---- shifted targets ------------------------------------------------------------------------------------------------- */

/* The unquantized model's rows are those of the unquantized layer. */
static void check_plain(bench *b, int64_t layer)
{
    fqi_quant_settings s = usual();
    result r;
    const fqi_layer_weights *w;
    s.shift = 1;
    quantize_ok(b, &s, &usual_way, layer, &r);
    float *exact = malloc(b->n_row * b->hidden * sizeof *exact), *plain = rows_of(&r.x_plain);
    assert_non_null(exact);
    memcpy(exact, b->embedded, b->n_row * b->hidden * sizeof *exact);
    FQT_OK(fqi_weights_layer(b->weights, layer, &w, e));
    run_whole(b, &r.c, w, layer, exact, NULL);
    assert_memory_equal(exact, plain, b->n_row * b->hidden * sizeof *exact);
    free(exact);
    free(plain);
    drop(&r);
}

static void test_plain_rows(void **state)
{
    (void)state;
    bench b;
    open_qwen2(&b, NULL, FEW);
    check_plain(&b, 0);
    close_bench(&b);
}

static void test_plain_rows_of_experts(void **state)
{
    (void)state;
    bench b;
    open_moe(&b, WINDOWS, SEQLEN);
    check_plain(&b, 0);
    close_bench(&b);
}

/* At 2 bits the error of q, k, v and of gate, up is large enough for the layer's output to come nearer. */
static void check_shift_helps(bench *b, double most)
{
    double found[2];
    for (size_t i = 0; i < 2; i++) {
        fqi_quant_settings s = usual();
        result r;
        float *x, *exact = malloc(b->n_row * b->hidden * sizeof *exact);
        const fqi_layer_weights *w;
        assert_non_null(exact);
        s.grid.bits = 2;
        s.shift = i == 0 ? 0 : 1;
        quantize_ok(b, &s, &usual_way, 0, &r);
        memcpy(exact, b->embedded, b->n_row * b->hidden * sizeof *exact);
        FQT_OK(fqi_weights_layer(b->weights, 0, &w, e));
        run_whole(b, &r.c, w, 0, exact, NULL);
        x = rows_of(&r.x);
        found[i] = distance(x, exact, b->n_row * b->hidden);
        free(x);
        free(exact);
        drop(&r);
    }
    printf("distance at 2 bits: %.6g with a shifted target, %.6g without\n", found[1], found[0]);
    assert_true(found[1] < most * found[0]);
    close_bench(b);
}

static void test_shift_helps(void **state)
{
    (void)state;
    bench b;
    open_qwen2(&b, NULL, 40);
    check_shift_helps(&b, 0.75);
}

/* A stream that is 5 % too small everywhere: the norms hide it, so that no linear layer's input shows it, and only what is added to the stream can mend it. */
static void test_shift_mends_the_stream(void **state)
{
    (void)state;
    static const way short_of_it = { .n_thread = 1, .less = 0.05F };
    bench b;
    double found[2];
    float *plain = NULL;
    open_qwen2(&b, NULL, FEW);
    for (size_t i = 0; i < 2; i++) {
        fqi_quant_settings s = usual();
        result r;
        s.grid.bits = 8;
        s.shift = i == 0 ? 1 : 0;
        quantize_ok(&b, &s, &short_of_it, 1, &r);
        if (i == 0) plain = rows_of(&r.x_plain);
        float *x = rows_of(&r.x);
        found[i] = distance(x, plain, b.n_row * b.hidden);
        free(x);
        drop(&r);
    }
    printf("distance of the stream: %.6g with a shifted target, %.6g without\n", found[0], found[1]);
    assert_true(found[0] < 0.5 * found[1]);
    free(plain);
    close_bench(&b);
}

static void test_shift_helps_experts(void **state)
{
    (void)state;
    bench b;
    open_moe(&b, WINDOWS, SEQLEN);
    check_shift_helps(&b, 0.8);   /* 0.9 if an expert's rows are those of the tokens beside them */
}

/* ---- the output head ---------------------------------------------------------------------------------------------------- */

static void test_head(void **state)
{
    (void)state;
    bench b;
    fqi_compute c;
    fqi_acts x = { 0 };
    fqi_layer_codes codes = { 0 };
    fqi_matrix head;
    char *path = fqt_join(fqt_source(), "examples/tiny-qwen2");
    open_bench(&b, path, NULL, true, 8, SEQLEN);
    free(path);
    fqi_quant_settings s = usual();
    fq_err why = { 0 };
    const float *norm = fqi_weights_final_norm(b.weights, &why);
    assert_non_null(norm);
    FQT_OK(fqi_weights_head(b.weights, 0, b.d.model.vocab_size, &head, e));
    FQT_OK(fqi_compute_create(FQI_ORDER_FAST, FQ_DTYPE_F32, 1, 896, &c, e));
    load(&x, b.embedded, b.n_row, b.hidden, true);
    const fqi_layer_job j = { .settings = &s, .fitting = &b.f, .modules = &b.m, .decoder = &b.d, .compute = &c, .calib = &b.calib, .x = &x, .run = &quiet };
    FQT_OK(fqi_quant_head(&j, norm, &head, &codes, e));
    assert_int_equal(codes.n, 1);
    assert_string_equal(codes.report[0].name, "lm_head");
    assert_string_equal(codes.report[0].method, "gptq");
    assert_int_equal(codes.codes[0].n_row, b.d.model.vocab_size);
    assert_int_equal(codes.report[0].n_token, b.n_row);
    assert_true(codes.report[0].relative > 0 && codes.report[0].relative < 0.05);
    assert_memory_equal(x.memory, b.embedded, b.n_row * b.hidden * sizeof(float));
    fqi_layer_codes_free(&codes);
    fqi_acts_free(&x);
    fqi_compute_free(&c);
    close_bench(&b);
}

/* ---- memory ------------------------------------------------------------------------------------------------------------ */

/* In a process of its own, whose peak is nobody else's. */
static int measure_peak(const char *path, double shift, uint64_t *plan, uint64_t *peak)
{
    int fd[2];
    uint64_t answer[2] = { 0 };
    assert_int_equal(pipe(fd), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        bench b;
        fqi_quant_settings s = usual();
        result r;
        s.shift = shift;
        open_bench(&b, path, NULL, false, 4, 256);
        quantize_ok(&b, &(fqi_quant_settings){ .method = FQ_METHOD_RTN, .grid = s.grid, .group_size = 32 }, &usual_way, 0, &r);   /* code and stacks are touched */
        drop(&r);
        fqi_memory_trim();
        FILE *reset = fopen("/proc/self/clear_refs", "w");
        if (reset) {
            fputs("5", reset);
            fclose(reset);
        }
        const uint64_t before = fqi_memory_now().resident;
        quantize_ok(&b, &s, &usual_way, 0, &r);
        const uint64_t acts = (uint64_t)b.n_row * (b.hidden * (shift > 0 ? 2 : 1) + b.width) * sizeof(float);
        answer[0] = fqi_quant_layer_bytes(&b.d.model, &s, 4, 256, 1) + acts + fqi_compute_bytes(1, b.d.model.intermediate_size);
        answer[1] = fqi_memory_now().peak - before;
        if (write(fd[1], answer, sizeof answer) != (ssize_t)sizeof answer) _exit(2);
        _exit(0);
    }
    close(fd[1]);
    const ssize_t n = read(fd[0], answer, sizeof answer);
    close(fd[0]);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    *plan = answer[0];
    *peak = answer[1];
    return n == (ssize_t)sizeof answer ? 0 : -1;
}

static void test_memory(void **state)
{
    (void)state;
    static const fqt_model dense = { .family = "qwen2", .hidden = 512, .ff = 1536, .layers = 1, .heads = 8, .kv = 2, .head_dim = 64, .vocab = 256 };
    static const fqt_model sparse = { .family = "qwen3_moe", .hidden = 384, .ff = 384, .moe_ff = 256, .layers = 1, .heads = 8, .kv = 2, .head_dim = 64, .vocab = 256, .experts = 8, .top_k = 2 };
    static const struct { const fqt_model *model; double shift; } cases[] = { { &dense, 0 }, { &dense, 0.5 }, { &sparse, 0 }, { &sparse, 0.5 } };
    if (SANITIZED) skip();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *path = fqt_join(fqt_dir, "large");
        const char *family = cases[i].model->family;
        const double shift = cases[i].shift;
        uint64_t plan, peak;
        fqt_make_model(path, cases[i].model);
        assert_int_equal(measure_peak(path, shift, &plan, &peak), 0);
        const double ratio = (double)peak / (double)plan;
        printf("%s, shift %g: plan %.1f MiB, peak %.1f MiB\n", family, shift, (double)plan / 1048576, (double)peak / 1048576);
        if (!(ratio > 0.78 && ratio < 1.05)) fail_msg("%s: found a peak of %" PRIu64 " bytes, expected about %" PRIu64, family, peak, plan);
        fqt_remove(path);
        free(path);
    }
}

static void test_sizes_do_not_wrap(void **state)
{
    (void)state;
    fqi_quant_settings s = usual();
    fq_model m = { .hidden_size = 1 << 28, .num_attention_heads = 1 << 16, .num_key_value_heads = 1 << 16, .head_dim = 1 << 16, .intermediate_size = 1 << 28,
                   .n_dense_layer = 1, .num_hidden_layers = 1 };
    for (int i = 0; i < 4; i++) {
        s.shift = i & 1;
        s.method = i & 2 ? FQ_METHOD_RTN : FQ_METHOD_GPTQ;
        assert_true(fqi_quant_layer_bytes(&m, &s, SIZE_MAX, 512, 4) > UINT64_C(1) << 58);
    }
    assert_true(fqi_quant_disk_bytes(&m, &s, 1, SIZE_MAX) == 0);
    s.method = FQ_METHOD_GPTQ;
    assert_true(fqi_quant_disk_bytes(&m, &s, 1, SIZE_MAX) == UINT64_MAX);
    fqi_layer_codes_free(&(fqi_layer_codes){ 0 });
    fqi_layer_codes_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reported_is_measured), cmocka_unit_test(test_reported_is_measured_of_experts), cmocka_unit_test(test_reported_is_measured_of_forms), cmocka_unit_test(test_error_is_exact),
        cmocka_unit_test(test_better_than_rounding), cmocka_unit_test(test_order_helps), cmocka_unit_test(test_same_codes), cmocka_unit_test(test_same_codes_of_experts), cmocka_unit_test(test_fold),
        cmocka_unit_test(test_fold_of_experts), cmocka_unit_test(test_fold_is_dealt_to_ranks), cmocka_unit_test(test_experts_with_few_tokens), cmocka_unit_test(test_no_factor),
        cmocka_unit_test(test_rounding_runs_nothing), cmocka_unit_test(test_cancelled), cmocka_unit_test(test_plain_rows),
        cmocka_unit_test(test_plain_rows_of_experts), cmocka_unit_test(test_shift_helps), cmocka_unit_test(test_shift_mends_the_stream), cmocka_unit_test(test_shift_helps_experts), cmocka_unit_test(test_head), cmocka_unit_test(test_memory),
        cmocka_unit_test(test_sizes_do_not_wrap),
    };
    return cmocka_run_group_tests(tests, fqt_dir_setup, fqt_dir_teardown);
}
