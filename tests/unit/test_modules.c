/* test_modules.c - which linear layers are quantized, what they share, in what order, and which matrix of a layer each one is. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "job/modules.h"
#include "make_ckpt.h"
#include "support.h"

static const fq_run plain = { .n_thread = 1 };

typedef struct opened { fqi_fitting f; fqi_modules m; char *path; } opened;

static void open_model(opened *o, const char *name, const fqt_model *m, const fq_fit *fit)
{
    *o = (opened){ .path = fqt_join(fqt_dir, name) };
    fqt_make_model(o->path, m);
    FQT_OK(fq_ckpt_open(o->path, &plain, &o->f.ckpt, e));
    if (fit) {
        o->f.fit = *fit;
        o->f.layout = (fqi_layout){ .kind = FQ_LAYOUT_SPREAD, .group = 1, .ranks = 2 };
        FQT_OK(fqi_maps_create(&o->f.ckpt->config.model, fit, &o->f.layout, &o->f.maps, e));
    }
}

static void close_model(opened *o)
{
    fqi_modules_free(&o->m);
    fqi_maps_free(&o->f.maps);
    fq_ckpt_close(o->f.ckpt);
    fqt_remove(o->path);
    free(o->path);
}

/* ---- a table that is written out ---- */

typedef struct want { const char *name, *role; fqi_tap_point input; int64_t layer, expert, rows, cols, rows_pad, cols_pad; } want;

static void check_table(const opened *o, const want *w, size_t n)
{
    assert_int_equal(o->m.n, n);
    for (size_t i = 0; i < n; i++) {
        const fqi_module *m = &o->m.at[i];
        if (strcmp(m->name, w[i].name) != 0 || strcmp(m->role, w[i].role) != 0 || m->input != w[i].input)
            fail_msg("module %zu: found %s (%s, input %d), expected %s (%s, input %d)", i, m->name, m->role, (int)m->input, w[i].name, w[i].role, (int)w[i].input);
        assert_int_equal(m->layer, w[i].layer);
        assert_int_equal(m->expert, w[i].expert);
        assert_int_equal(m->rows, w[i].rows);
        assert_int_equal(m->cols, w[i].cols);
        assert_int_equal(m->rows_pad, w[i].rows_pad);
        assert_int_equal(m->cols_pad, w[i].cols_pad);
        assert_int_equal(m->row_map != NULL, w[i].rows != w[i].rows_pad);
        assert_int_equal(m->col_map != NULL, w[i].cols != w[i].cols_pad);
        assert_int_equal(m->tensor->rank == 2 ? m->tensor->shape[1] : m->cols, m->cols);
    }
}

static void test_dense(void **state)
{
    (void)state;
    static const want w[] = {
        { "layers.0.self_attn.q_proj", "q_proj", FQI_TAP_ATTENTION, 0, -1, 48, 40, 48, 40 },
        { "layers.0.self_attn.k_proj", "k_proj", FQI_TAP_ATTENTION, 0, -1, 24, 40, 24, 40 },
        { "layers.0.self_attn.v_proj", "v_proj", FQI_TAP_ATTENTION, 0, -1, 24, 40, 24, 40 },
        { "layers.0.self_attn.o_proj", "o_proj", FQI_TAP_O, 0, -1, 40, 48, 40, 48 },
        { "layers.0.mlp.gate_proj", "gate_proj", FQI_TAP_MLP, 0, -1, 72, 40, 80, 40 },
        { "layers.0.mlp.up_proj", "up_proj", FQI_TAP_MLP, 0, -1, 72, 40, 80, 40 },
        { "layers.0.mlp.down_proj", "down_proj", FQI_TAP_DOWN, 0, -1, 40, 72, 40, 80 },
        { "lm_head", "lm_head", FQI_TAP_HEAD, -1, -1, 90, 40, 96, 40 },
    };
    const fqt_model m = { .family = "llama", .hidden = 40, .ff = 72, .layers = 1, .heads = 4, .kv = 2, .head_dim = 12, .vocab = 90, .attention_bias = true, .mlp_bias = true };
    const fq_fit fit = { .intermediate_size_pad = 80, .vocab_size_pad = 96 };
    opened o;
    open_model(&o, "dense", &m, &fit);
    FQT_OK(fqi_modules_find(&o.f, true, &o.m, e));
    check_table(&o, w, 8);
    assert_int_equal(o.m.first_of_layer[0], 0);
    assert_int_equal(o.m.first_of_layer[1], 7);
    fqi_modules_free(&o.m);
    FQT_OK(fqi_modules_find(&o.f, false, &o.m, e));
    check_table(&o, w, 7);
    close_model(&o);
}

/* Replicated KV heads: rows of k and v grow, columns of o do not. */
static void test_replicated_heads(void **state)
{
    (void)state;
    const fqt_model m = { .family = "qwen2", .hidden = 32, .ff = 40, .layers = 2, .heads = 4, .kv = 2, .head_dim = 8 };
    const fq_fit fit = { .num_key_value_heads_pad = 4, .kv_replication = 2 };
    opened o;
    open_model(&o, "kv", &m, &fit);
    FQT_OK(fqi_modules_find(&o.f, false, &o.m, e));
    assert_int_equal(o.m.n, 14);
    for (size_t l = 0; l < 2; l++) {
        const fqi_module *at = &o.m.at[o.m.first_of_layer[l]];
        assert_int_equal(at[1].rows, 16);
        assert_int_equal(at[1].rows_pad, 32);
        assert_ptr_equal(at[1].row_map, at[2].row_map);
        assert_int_equal(at[3].cols, 32);
        assert_int_equal(at[3].cols_pad, 32);
    }
    close_model(&o);
}

/* ---- mixtures ---- */

/* Layers ascend, inputs ascend inside a layer, experts inside an input; one input is one run. */
static void check_order(const fqi_modules *m)
{
    for (size_t i = 1; i < m->n; i++) {
        const fqi_module *a = &m->at[i - 1], *b = &m->at[i];
        const int64_t la = a->layer < 0 ? INT64_MAX : a->layer, lb = b->layer < 0 ? INT64_MAX : b->layer;
        if (la > lb || (la == lb && a->input > b->input) || (la == lb && a->input == b->input && a->expert > b->expert))
            fail_msg("%s stands before %s", a->name, b->name);
        if (a->layer == b->layer && a->input == b->input && a->expert == b->expert) assert_int_equal(a->cols, b->cols);
        assert_string_not_equal(a->name, b->name);
    }
}

/* Every name is a stored one without ".weight", in every form but the fused one. */
static void check_names(const opened *o)
{
    for (size_t i = 0; i < o->m.n; i++) {
        const fqi_module *m = &o->m.at[i];
        char end[160];
        snprintf(end, sizeof end, "%s.weight", m->name);
        const char *stored = m->tensor->name;
        const size_t n = strlen(stored), k = strlen(end);
        if (m->tensor->rank == 3) continue;
        if (n < k || strcmp(stored + n - k, end) != 0) fail_msg("found %s for %s", m->name, stored);
    }
}

static const struct mixture { fqt_model m; const char *first, *shared; } mixtures[] = {
    { { .family = "mixtral", .experts = 5, .top_k = 2, .layers = 2 }, "layers.0.block_sparse_moe.experts.0.w1", NULL },
    { { .family = "qwen3_moe", .experts = 12, .top_k = 3, .layers = 2 }, "layers.0.mlp.experts.0.gate_proj", NULL },
    { { .family = "qwen3_moe", .experts = 12, .top_k = 3, .layers = 2, .fused = true }, "layers.0.mlp.experts.0.gate_proj", NULL },
    { { .family = "qwen2_moe", .experts = 3, .top_k = 2, .layers = 3, .sparse_step = 2 }, "layers.1.mlp.experts.0.gate_proj", "layers.1.mlp.shared_expert.gate_proj" },
};

static void test_mixtures(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof mixtures / sizeof mixtures[0]; i++) {
        const struct mixture *x = &mixtures[i];
        opened o;
        open_model(&o, "mixture", &x->m, NULL);
        FQT_OK(fqi_modules_find(&o.f, false, &o.m, e));
        const fq_model *f = &o.f.ckpt->config.model;
        const size_t per_sparse = 4 + 3 * (size_t)f->num_experts + (x->shared ? 3 : 0), n = (size_t)f->n_moe_layer * per_sparse + (size_t)f->n_dense_layer * 7;
        if (o.m.n != n) fail_msg("%s: found %zu modules, expected %zu", x->m.family, o.m.n, n);
        check_order(&o.m);
        check_names(&o);
        bool first = false, shared = x->shared == NULL, router = false;
        for (size_t k = 0; k < o.m.n; k++) {
            const fqi_module *m = &o.m.at[k];
            first = first || (strcmp(m->name, x->first) == 0 && m->expert == 0 && m->input == FQI_TAP_EXPERT_MLP && !strcmp(m->role, "expert_gate_proj"));
            shared = shared || (strcmp(m->name, x->shared) == 0 && m->expert == -1 && m->input == FQI_TAP_MLP);
            router = router || strstr(m->name, "gate.") || strstr(m->role, "router") || strstr(m->role, "shared_expert_gate");
        }
        assert_true(first);
        assert_true(shared);
        assert_false(router);
        close_model(&o);
    }
}

/* Fused or one by one: the same modules under the same names. */
static void test_fused(void **state)
{
    (void)state;
    opened a, b;
    open_model(&a, "alone", &mixtures[1].m, NULL);
    open_model(&b, "fused", &mixtures[2].m, NULL);
    FQT_OK(fqi_modules_find(&a.f, false, &a.m, e));
    FQT_OK(fqi_modules_find(&b.f, false, &b.m, e));
    assert_int_equal(a.m.n, b.m.n);
    for (size_t i = 0; i < a.m.n; i++) {
        const fqi_module *x = &a.m.at[i], *y = &b.m.at[i];
        assert_string_equal(x->name, y->name);
        assert_string_equal(x->role, y->role);
        assert_int_equal(x->rows, y->rows);
        assert_int_equal(x->cols, y->cols);
        assert_int_equal(y->tensor->rank, x->expert >= 0 ? 3 : 2);
    }
    close_model(&a);
    close_model(&b);
}

/* ---- matrices ---- */

static void test_matrices(void **state)
{
    (void)state;
    static const char *const of_layer[] = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "shared_gate_proj", "shared_up_proj",
                                            "shared_down_proj" };
    static const char *const of_expert[] = { "expert_gate_proj", "expert_up_proj", "expert_down_proj" };
    fqi_mlp_weights expert[3], other[3];
    fqi_layer_weights w = { .expert = expert }, copy = { 0 };
    fqi_matrix *layer[] = { &w.q, &w.k, &w.v, &w.o, &w.mlp.gate, &w.mlp.up, &w.mlp.down, &w.shared.gate, &w.shared.up, &w.shared.down };
    fqi_module m = { .expert = -1 };
    for (size_t i = 0; i < sizeof layer / sizeof layer[0]; i++) {
        m.role = of_layer[i];
        assert_ptr_equal(fqi_module_matrix(&w, &m), layer[i]);
        assert_int_equal((char *)fqi_module_slot(&copy, other, &m) - (char *)&copy, (char *)layer[i] - (char *)&w);
    }
    for (int64_t x = 0; x < 3; x++) {
        fqi_matrix *part[] = { &expert[x].gate, &expert[x].up, &expert[x].down };
        m.expert = x;
        for (size_t i = 0; i < 3; i++) {
            m.role = of_expert[i];
            assert_ptr_equal(fqi_module_matrix(&w, &m), part[i]);
            assert_int_equal((char *)fqi_module_slot(&copy, other, &m) - (char *)other, (char *)part[i] - (char *)expert);
        }
    }
    assert_null(fqi_module_matrix(&w, &(fqi_module){ .role = "lm_head", .layer = -1, .expert = -1 }));
}

/* ---- refusals ---- */

static void test_tied_head(void **state)
{
    (void)state;
    opened o;
    fq_err why = { 0 };
    open_model(&o, "tied", &(fqt_model){ .family = "qwen2", .tied = true }, NULL);
    assert_int_equal(fqi_modules_find(&o.f, true, &o.m, &why), FQ_E_USAGE);
    assert_string_equal(why.rule, "lm-head");
    assert_null(o.m.at);
    FQT_OK(fqi_modules_find(&o.f, false, &o.m, e));
    close_model(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense), cmocka_unit_test(test_replicated_heads), cmocka_unit_test(test_mixtures), cmocka_unit_test(test_fused),
        cmocka_unit_test(test_matrices), cmocka_unit_test(test_tied_head),
    };
    return cmocka_run_group_tests(tests, fqt_dir_setup, fqt_dir_teardown);
}
