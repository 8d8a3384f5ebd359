/* test_slice_products.c - slices of every weight, multiplied: every family and form, experts cut and whole; and slices that are not the whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "base/err.h"
#include "job/slice_products.h"
#include "make_ckpt.h"
#include "make_quantized.h"
#include "support.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define MOST_RANK 8

typedef struct opened { fq_ckpt *c; fqi_quant_scheme scheme; fqi_slice slice[MOST_RANK]; int n; } opened;

static opened open_at(const char *dir, int n_rank, bool whole_experts)
{
    static const fq_run run = { 0 };
    opened o = { .n = n_rank };
    FQT_OK(fq_ckpt_open(dir, &run, &o.c, e));
    FQT_OK(fqi_quant_scheme_read(o.c, &o.scheme, e));
    const fqi_decoder d = { .model = o.c->info.model };
    for (int r = 0; r < n_rank; r++) FQT_OK(fqi_slice_make(&d, r, n_rank, whole_experts, dir, &o.slice[r], e));
    return o;
}

static fq_status products(const opened *o, int n_thread, fqi_products *p, fq_err *e)
{
    const fq_run run = { .n_thread = n_thread };
    *p = (fqi_products){ 0 };
    return fqi_slice_products(o->c, &o->scheme, o->slice, o->n, &run, p, e);
}

static void expect_same(const opened *o, size_t n_weight, size_t n_slice, const char *what)
{
    fqi_products p;
    for (int n_thread = 1; n_thread <= 3; n_thread += 2) {
        FQT_OK(products(o, n_thread, &p, e));
        if (p.n_unread != 0 || !(p.worst < 1e-12)) fail_msg("%s: %zu left out, %g apart", what, p.n_unread, p.worst);
        if (n_weight && (p.n_weight != n_weight || p.n_slice != n_slice)) fail_msg("%s: %zu weights, %zu slices, expected %zu and %zu", what, p.n_weight, p.n_slice, n_weight, n_slice);
        if (p.n_weight == 0 || p.bytes == 0) fail_msg("%s: nothing was multiplied", what);
    }
}

static void test_dense(void **state)
{
    (void)state;
    /* With 4 ranks and 2 KV heads, k and v have 4 slices too. Per layer: q, k, v, o, their biases, gate, up, down; embedding and head beside them. */
    const struct { fqt_model m; int n; bool whole; size_t n_weight, n_slice; } row[] = {
        { { .family = "llama", .heads = 4, .kv = 2, .head_dim = 8, .ff = 40, .hidden = 24, .layers = 2, .vocab = 67, .seed = 1, .dtype = "F32" }, 4, false, 2 * 7 + 2, 4 * 16 },
        { { .family = "llama", .heads = 4, .kv = 2, .head_dim = 8, .ff = 40, .hidden = 24, .layers = 1, .vocab = 67, .seed = 2, .attention_bias = true, .tied = true }, 2, false, 7 + 4 + 1, 2 * 11 + 1 },
        { { .family = "qwen2", .heads = 6, .kv = 3, .head_dim = 4, .ff = 42, .hidden = 24, .layers = 1, .vocab = 66, .seed = 3, .dtype = "F16" }, 3, false, 7 + 3 + 2, 3 * 12 },
        { { .family = "qwen3_moe", .heads = 4, .kv = 2, .head_dim = 8, .moe_ff = 12, .experts = 5, .top_k = 2, .hidden = 32, .layers = 1, .vocab = 64, .seed = 4 }, 2, false, 4 + 5 * 3 + 2, 2 * 21 },
        { { .family = "qwen3_moe", .heads = 4, .kv = 2, .head_dim = 8, .moe_ff = 9, .experts = 5, .top_k = 2, .hidden = 32, .layers = 1, .vocab = 64, .seed = 5 }, 2, true, 4 + 5 * 3 + 2, 2 * 6 + 15 },
        { { .family = "qwen3_moe", .heads = 4, .kv = 2, .head_dim = 8, .moe_ff = 12, .experts = 5, .top_k = 2, .hidden = 32, .layers = 1, .vocab = 64, .fused = true, .seed = 6 }, 2, false, 0, 0 },
        { { .family = "qwen3_moe", .heads = 4, .kv = 2, .head_dim = 8, .moe_ff = 9, .experts = 5, .top_k = 2, .hidden = 32, .layers = 1, .vocab = 64, .fused = true, .seed = 7 }, 2, true, 0, 0 },
        { { .family = "llama", .heads = 4, .kv = 2, .head_dim = 4, .ff = 8, .hidden = 8, .layers = 1, .vocab = 70001, .seed = 8 }, 2, false, 9, 18 },   /* more than a band */
    };
    for (size_t i = 0; i < COUNT(row); i++) {
        char *dir = fqt_tempdir(), what[64];
        fqt_make_model(dir, &row[i].m);
        opened o = open_at(dir, row[i].n, row[i].whole);
        snprintf(what, sizeof what, "model %zu, %s", i, row[i].m.family);
        expect_same(&o, row[i].n_weight, row[i].n_slice, what);
        fq_ckpt_close(o.c);
        fqt_remove(dir);
        free(dir);
    }
}

static void test_quantized(void **state)
{
    (void)state;
    const fqt_model m = { .family = "llama", .hidden = 64, .heads = 4, .kv = 2, .head_dim = 16, .ff = 128, .layers = 1, .vocab = 72, .seed = 11 };
    for (int f = 0; f < FQT_N_ANY; f++)
        for (int order = 0; order < (f < FQT_N_FORMAT ? FQT_N_ORDER : 1); order++) {
            const fqt_format format = (fqt_format)f;
            const fqt_quant q = { .format = format, .bits = fqt_is_fp8(format) ? 8 : 4, .group = 16, .block_rows = 16, .asym = format == FQT_AWQ || f % 2, .order = (fqt_order)order, .lm_head = true };
            char *dir = fqt_tempdir(), what[64];
            fqt_make_quantized(dir, NULL, &m, &q);
            opened o = open_at(dir, 2, false);
            snprintf(what, sizeof what, "form %d, order %d", f, order);
            expect_same(&o, 9, 18, what);
            fq_ckpt_close(o.c);
            fqt_remove(dir);
            free(dir);
        }
}

static void expect_error(const opened *o, fq_status status, const char *rule, const char *tensor, const char *text)
{
    fqi_products p;
    fq_err e = { 0 };
    const fq_status s = products(o, 1, &p, &e);
    if (s != status || strcmp(e.rule, rule) != 0 || !strstr(e.text, tensor) || !strstr(e.text, text)) fail_msg("found %d %s, expected %s, %s: %s", (int)s, e.text, tensor, rule, text);
}

/* Slices that are not the engines': every kind of cut notices. */
static void test_wrong_slices(void **state)
{
    (void)state;
    const fqt_model m = { .family = "qwen3_moe", .heads = 4, .kv = 2, .head_dim = 8, .moe_ff = 12, .experts = 4, .top_k = 2, .hidden = 32, .layers = 1, .vocab = 64, .seed = 21 };
    char *dir = fqt_tempdir();
    fqt_make_model(dir, &m);
    opened o = open_at(dir, 2, false), bad = o;
    bad.slice[1].axis[FQI_AX_KV].first = 0;
    expect_error(&bad, FQ_E_DIFFERS, "slice-missing", "k_proj.weight", "found output channel 8 on no rank");
    bad = o;
    bad.slice[1].axis[FQI_AX_VOCAB].n--;
    expect_error(&bad, FQ_E_DIFFERS, "slice-missing", "embed_tokens", "found output channel 63 on no rank");
    bad = o;
    bad.slice[1].axis[FQI_AX_MOE_FF] = bad.slice[0].axis[FQI_AX_MOE_FF];
    expect_error(&bad, FQ_E_DIFFERS, "slice-missing", "experts.0.gate_proj", "found output channel 6 on no rank");
    bad = o;
    bad.slice[0].axis[FQI_AX_Q].n = 32;   /* all of it: outputs of q_proj are there, what o_proj adds is too much */
    expect_error(&bad, FQ_E_DIFFERS, "slice-sum", "o_proj", "the sum over ranks, output channel 0");
    fq_ckpt_close(o.c);
    bad = open_at(dir, 2, true);
    bad.slice[1].expert = (fqi_range){ 1, 3 };   /* expert 1 twice */
    expect_error(&bad, FQ_E_DIFFERS, "slice-sum", "experts.1.", "the sum over ranks");
    fq_ckpt_close(bad.c);
    fqt_remove(dir);
    free(dir);
}

static bool at_once(void *user)
{
    (void)user;
    return true;
}

static void test_refused(void **state)
{
    (void)state;
    const fqt_model m = { .family = "llama", .heads = 4, .kv = 2, .head_dim = 8, .ff = 40, .hidden = 24, .layers = 1, .vocab = 64, .seed = 31, .dtype = "F32" };
    char *dir = fqt_tempdir();
    fqt_table t = fqt_model_tensors(&m);
    float *bad = calloc(40 * 24, sizeof *bad);
    bad[100] = NAN;
    fqt_table_find(&t, "model.layers.0.mlp.up_proj.weight")->data = bad;
    fqt_write_config(dir, &m);
    fqt_write_shards(dir, t.t, t.n, 1, 31);
    opened o = open_at(dir, 2, false);
    expect_error(&o, FQ_E_NUMERIC, "non-finite", "up_proj", "row 4, column 4");
    const fq_run run = { .n_thread = 1, .cancelled = at_once };   /* another thread might find the NaN first */
    fqi_products p;
    fq_err e;
    assert_int_equal(fqi_slice_products(o.c, &o.scheme, o.slice, 2, &run, &p, &e), FQ_E_CANCELLED);
    fq_ckpt_close(o.c);
    fqt_table_free(&t);
    free(bad);
    fqt_remove(dir);
    free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_dense), cmocka_unit_test(test_quantized), cmocka_unit_test(test_wrong_slices), cmocka_unit_test(test_refused) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
