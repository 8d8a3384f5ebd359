/* quant_pair.c - see quant_pair.h. */
#include "quant_pair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support.h"

static const fq_run plain = { .n_thread = 2 };

/* ---- fqt_opened checkpoints ---- */


fqt_opened fqt_open_at(const char *dir)
{
    fqt_opened o = { .dir = fqt_join(fqt_dir, dir) };
    fq_err e = { 0 };
    if (fq_ckpt_open(o.dir, &plain, &o.c, &e) != FQ_OK || fq_ckpt_check(o.c, &e) != FQ_OK) fail_msg("%s", e.text);
    char *file = fqt_join(o.dir, "config.json");
    if (fqi_decoder_read(&o.c->config, file, &o.d, &e) != FQ_OK) fail_msg("%s", e.text);
    free(file);
    return o;
}

void fqt_close(fqt_opened *o)
{
    fqi_weights_free(o->w);
    fqi_decoder_free(&o->d);
    fq_ckpt_close(o->c);
    fqt_remove(o->dir);
    free(o->dir);
}

void fqt_hold(fqt_opened *o, fq_dtype served, int64_t head_rows)
{
    const fqi_weights_options w = { .n_slot = 1, .served = served, .head_rows = head_rows, .run = &plain };
    FQT_OK(fqi_weights_create(o->c, &o->d, &w, &o->w, e));
}

static void same_matrix(const char *what, const char *which, const fqi_matrix *a, const fqi_matrix *b)
{
    assert_int_equal(a->data == NULL, b->data == NULL);
    if (!a->data) return;
    if (a->rows != b->rows || a->cols != b->cols || a->dtype != b->dtype) fail_msg("%s: %s: other shape or type", what, which);
    const size_t size = fq_dtype_bits(a->dtype) / 8, n = (size_t)(a->rows * a->cols) * size;
    for (size_t i = 0; i < n; i += size)
        if (memcmp((const char *)a->data + i, (const char *)b->data + i, size) != 0)
            fail_msg("%s: %s: row %zu, column %zu differs", what, which, i / size / (size_t)a->cols, i / size % (size_t)a->cols);
}

static void same_mlp(const char *what, const fqi_mlp_weights *a, const fqi_mlp_weights *b)
{
    same_matrix(what, "gate", &a->gate, &b->gate);
    same_matrix(what, "up", &a->up, &b->up);
    same_matrix(what, "down", &a->down, &b->down);
}

void fqt_same_weights(const char *what, fqt_opened *a, fqt_opened *b, int64_t head_rows)
{
    const fqi_layer_weights *x, *y;
    for (int64_t l = 0; l < a->d.model.num_hidden_layers; l++) {
        FQT_OK(fqi_weights_layer(a->w, l, &x, e));
        FQT_OK(fqi_weights_layer(b->w, l, &y, e));
        same_matrix(what, "q", &x->q, &y->q);
        same_matrix(what, "k", &x->k, &y->k);
        same_matrix(what, "v", &x->v, &y->v);
        same_matrix(what, "o", &x->o, &y->o);
        if (x->q_bias) assert_memory_equal(x->q_bias, y->q_bias, (size_t)x->q.rows * sizeof(float));
        if (!x->sparse) same_mlp(what, &x->mlp, &y->mlp);
        for (int64_t i = 0; x->sparse && i < a->d.model.num_experts; i++) same_mlp(what, &x->expert[i], &y->expert[i]);
        same_matrix(what, "router", &x->router, &y->router);
    }
    const int64_t rows = a->d.model.vocab_size;
    for (int64_t r = 0; r < rows; r += head_rows) {
        fqi_matrix h, k;
        const int64_t n = rows - r < head_rows ? rows - r : head_rows;
        FQT_OK(fqi_weights_head(a->w, r, n, &h, e));
        FQT_OK(fqi_weights_head(b->w, r, n, &k, e));
        same_matrix(what, "head", &h, &k);
    }
}

void fqt_check_quantized(const char *what, const fqt_model *m, const fqt_quant *q, int64_t head_rows)
{
    const fq_dtype served = !q->served ? FQ_DTYPE_F32 : !strcmp(q->served, "F16") ? FQ_DTYPE_F16 : FQ_DTYPE_BF16;
    char *packed = fqt_join(fqt_dir, "packed"), *dense = fqt_join(fqt_dir, "dense");
    fqt_make_quantized(packed, dense, m, q);
    fqt_opened a = fqt_open_at("packed"), b = fqt_open_at("dense");
    fqt_hold(&a, served, head_rows);
    fqt_hold(&b, served, head_rows);
    fqt_same_weights(what, &a, &b, head_rows);
    fqt_close(&a);
    fqt_close(&b);
    free(packed);
    free(dense);
}
