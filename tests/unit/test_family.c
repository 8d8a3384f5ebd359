/* test_family.c - names bind to the right row, layer and expert in every family and naming style, and to nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "arch/config.h"
#include "base/fs.h"
#include "support.h"

static const fqi_naming plain = { .body_prefix = "model.", .usual = true };

/* ---- the tables themselves -------------------------------------------------------------------------------------- */

static void test_registry(void **state)
{
    (void)state;
    static const char *const name[] = { "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "llama", "mistral", "mixtral", "qwen2_vl",
        "qwen2_5_vl", "qwen3_vl" };
    for (size_t i = 0; i < sizeof name / sizeof name[0]; i++) {
        assert_string_equal(fq_family_name(i), name[i]);
        assert_ptr_equal(fqi_family_find(name[i]), fqi_family_at(i));
    }
    assert_null(fq_family_name(10));
    assert_null(fqi_family_at(10));
    assert_null(fqi_family_find("gpt_oss"));
    assert_null(fqi_family_find(""));
}

/* What a table may look like, so that a new one cannot forget something that code relies on. */
static void test_tables_are_sound(void **state)
{
    (void)state;
    const fqi_family *f;
    for (size_t i = 0; (f = fqi_family_at(i)) != NULL; i++) {
        assert_non_null(f->architecture[0]);
        assert_non_null(f->body_prefix[0]);
        assert_non_null(f->pass_prefix);
        assert_non_null(f->pass_suffix);
        assert_non_null(f->text_config);
        assert_non_null(f->rules);
        bool embed = false, head = false, expert = false;
        for (size_t r = 0; r < f->n_row; r++) {
            const fqi_row *row = &f->row[r];
            embed = embed || strcmp(row->role, "embed_tokens") == 0;
            head = head || row->scope == FQI_HEAD;
            expert = expert || row->scope == FQI_EXPERT;
            assert_in_range(row->rank, 1, 3);
            for (int d = 0; d < 3; d++) {
                bool used = d < row->rank;
                assert_int_equal(row->dim[d].axis != FQI_AX_FIXED, used);
                assert_true(row->dim[d].axis < FQI_N_AXIS);
                assert_true(!used || row->dim[d].parts == 1 || row->dim[d].parts == 2);
            }
            for (size_t k = 0; k < r; k++)
                assert_false(f->row[k].scope == row->scope && strcmp(f->row[k].suffix, row->suffix) == 0);
        }
        assert_true(embed && head);
        assert_int_equal(expert, f->expert_infix != NULL);
    }
}

/* ---- binding ---------------------------------------------------------------------------------------------------- */

typedef struct bind_case {
    const char *family, *name, *role;   /* role "": passed through; NULL: refused */
    int64_t layer, expert;
    fqi_axis a0, a1, a2;
} bind_case;

static const bind_case bind_table[] = {
    { "qwen2", "model.embed_tokens.weight", "embed_tokens", -1, -1, FQI_AX_VOCAB, FQI_AX_HIDDEN, 0 },
    { "qwen2", "model.norm.weight", "norm", -1, -1, FQI_AX_HIDDEN, 0, 0 },
    { "qwen2", "lm_head.weight", "lm_head", -1, -1, FQI_AX_VOCAB, FQI_AX_HIDDEN, 0 },
    { "qwen2", "model.layers.0.self_attn.q_proj.weight", "q_proj", 0, -1, FQI_AX_Q, FQI_AX_HIDDEN, 0 },
    { "qwen2", "model.layers.79.self_attn.k_proj.bias", "k_bias", 79, -1, FQI_AX_KV, 0, 0 },
    { "qwen2", "model.layers.10.self_attn.o_proj.weight", "o_proj", 10, -1, FQI_AX_HIDDEN, FQI_AX_Q, 0 },
    { "qwen2", "model.layers.1.mlp.gate_proj.weight", "gate_proj", 1, -1, FQI_AX_FF, FQI_AX_HIDDEN, 0 },
    { "qwen2", "model.layers.1.mlp.down_proj.weight", "down_proj", 1, -1, FQI_AX_HIDDEN, FQI_AX_FF, 0 },
    { "qwen2", "model.layers.1.input_layernorm.weight", "input_norm", 1, -1, FQI_AX_HIDDEN, 0, 0 },
    { "qwen2", "model.layers.1.post_attention_layernorm.weight", "post_attention_norm", 1, -1, FQI_AX_HIDDEN, 0, 0 },
    { "qwen2", "model.layers.3.self_attn.rotary_emb.inv_freq", "", -1, -1, 0, 0, 0 },
    { "qwen2", "model.rotary_emb.inv_freq", "", -1, -1, 0, 0, 0 },
    { "qwen2", "model.layers.0.self_attn.o_proj.bias", NULL, 0, 0, 0, 0, 0 },
    { "qwen2", "model.layers.0.self_attn.q_norm.weight", NULL, 0, 0, 0, 0, 0 },
    { "qwen2", "model.layers.0.self_attn.xrotary_emb.inv_freq", NULL, 0, 0, 0, 0, 0 },
    { "qwen2", "model.layers.0.mlp.down_proj.weight2", NULL, 0, 0, 0, 0, 0 },
    { "qwen2", "model.layers.0.mlp.down_proj.qweight", NULL, 0, 0, 0, 0, 0 },
    { "qwen2", "model.layers.0.mlp.down_proj", NULL, 0, 0, 0, 0, 0 },
    { "qwen2", "model.layers.01.mlp.down_proj.weight", NULL, 0, 0, 0, 0, 0 },
    { "qwen2", "model.layers.-1.mlp.down_proj.weight", NULL, 0, 0, 0, 0, 0 },
    { "qwen2", "model.layers.+1.mlp.down_proj.weight", NULL, 0, 0, 0, 0, 0 },
    { "qwen2", "model.layers..mlp.down_proj.weight", NULL, 0, 0, 0, 0, 0 },
    { "qwen2", "model.layers.999999999.mlp.down_proj.weight", "down_proj", 999999999, -1, FQI_AX_HIDDEN, FQI_AX_FF, 0 },
    { "qwen2", "model.layers.1000000000.mlp.down_proj.weight", NULL, 0, 0, 0, 0, 0 },
    { "qwen2", "model.layers.99999999999999999999.mlp.down_proj.weight", NULL, 0, 0, 0, 0, 0 },
    { "qwen2", "layers.0.mlp.down_proj.weight", NULL, 0, 0, 0, 0, 0 },
    { "qwen2", "model.lm_head.weight", NULL, 0, 0, 0, 0, 0 },
    { "qwen2", "visual.blocks.0.norm1.weight", NULL, 0, 0, 0, 0, 0 },
    { "qwen2", "score.weight", NULL, 0, 0, 0, 0, 0 },
    { "qwen2", "", NULL, 0, 0, 0, 0, 0 },
    { "qwen2", "model.", NULL, 0, 0, 0, 0, 0 },
    { "qwen2", "model.layers.", NULL, 0, 0, 0, 0, 0 },
    { "qwen3", "model.layers.7.self_attn.q_norm.weight", "q_norm", 7, -1, FQI_AX_HEAD_DIM, 0, 0 },
    { "qwen3", "model.layers.7.self_attn.k_norm.weight", "k_norm", 7, -1, FQI_AX_HEAD_DIM, 0, 0 },
    { "qwen3", "model.layers.7.self_attn.o_proj.bias", "o_bias", 7, -1, FQI_AX_HIDDEN, 0, 0 },
    { "qwen3", "model.layers.7.mlp.gate.weight", NULL, 0, 0, 0, 0, 0 },
    { "qwen2_moe", "model.layers.2.mlp.gate.weight", "router", 2, -1, FQI_AX_EXPERT, FQI_AX_HIDDEN, 0 },
    { "qwen2_moe", "model.layers.2.mlp.experts.59.up_proj.weight", "expert_up_proj", 2, 59, FQI_AX_MOE_FF, FQI_AX_HIDDEN, 0 },
    { "qwen2_moe", "model.layers.2.mlp.experts.0.down_proj.weight", "expert_down_proj", 2, 0, FQI_AX_HIDDEN, FQI_AX_MOE_FF, 0 },
    { "qwen2_moe", "model.layers.2.mlp.experts.007.down_proj.weight", NULL, 0, 0, 0, 0, 0 },
    { "qwen2_moe", "model.layers.2.mlp.experts.1.down_proj.bias", NULL, 0, 0, 0, 0, 0 },
    { "qwen2_moe", "model.layers.2.mlp.shared_expert.gate_proj.weight", "shared_gate_proj", 2, -1, FQI_AX_SHARED_FF, FQI_AX_HIDDEN, 0 },
    { "qwen2_moe", "model.layers.2.mlp.shared_expert.down_proj.weight", "shared_down_proj", 2, -1, FQI_AX_HIDDEN, FQI_AX_SHARED_FF, 0 },
    { "qwen2_moe", "model.layers.2.mlp.shared_expert_gate.weight", "shared_expert_gate", 2, -1, FQI_AX_ONE, FQI_AX_HIDDEN, 0 },
    { "qwen2_moe", "model.layers.2.mlp.up_proj.weight", "up_proj", 2, -1, FQI_AX_FF, FQI_AX_HIDDEN, 0 },
    { "qwen3_moe", "model.layers.2.mlp.experts.gate_up_proj", "fused_gate_up_proj", 2, -1, FQI_AX_EXPERT, FQI_AX_MOE_FF, FQI_AX_HIDDEN },
    { "qwen3_moe", "model.layers.2.mlp.experts.down_proj", "fused_down_proj", 2, -1, FQI_AX_EXPERT, FQI_AX_HIDDEN, FQI_AX_MOE_FF },
    { "qwen3_moe", "model.layers.2.mlp.shared_expert.gate_proj.weight", NULL, 0, 0, 0, 0, 0 },
    { "llama", "model.layers.2.mlp.down_proj.bias", "down_bias", 2, -1, FQI_AX_HIDDEN, 0, 0 },
    { "llama", "model.layers.2.mlp.up_proj.bias", "up_bias", 2, -1, FQI_AX_FF, 0, 0 },
    { "llama", "model.layers.2.self_attn.v_proj.bias", "v_bias", 2, -1, FQI_AX_KV, 0, 0 },
    { "mistral", "model.layers.2.self_attn.v_proj.weight", "v_proj", 2, -1, FQI_AX_KV, FQI_AX_HIDDEN, 0 },
    { "mistral", "model.layers.2.self_attn.v_proj.bias", NULL, 0, 0, 0, 0, 0 },
    { "mixtral", "model.layers.31.block_sparse_moe.gate.weight", "router", 31, -1, FQI_AX_EXPERT, FQI_AX_HIDDEN, 0 },
    { "mixtral", "model.layers.31.block_sparse_moe.experts.7.w1.weight", "expert_gate_proj", 31, 7, FQI_AX_MOE_FF, FQI_AX_HIDDEN, 0 },
    { "mixtral", "model.layers.31.block_sparse_moe.experts.7.w2.weight", "expert_down_proj", 31, 7, FQI_AX_HIDDEN, FQI_AX_MOE_FF, 0 },
    { "mixtral", "model.layers.31.block_sparse_moe.experts.7.w3.weight", "expert_up_proj", 31, 7, FQI_AX_MOE_FF, FQI_AX_HIDDEN, 0 },
    { "mixtral", "model.layers.31.block_sparse_moe.experts.7.w4.weight", NULL, 0, 0, 0, 0, 0 },
    { "qwen2_vl", "visual.blocks.0.attn.qkv.weight", "", -1, -1, 0, 0, 0 },
    { "qwen2_vl", "model.layers.0.self_attn.q_proj.bias", "q_bias", 0, -1, FQI_AX_Q, 0, 0 },
    { "qwen2_5_vl", "visual.merger.mlp.0.weight", "", -1, -1, 0, 0, 0 },
    { "qwen2_5_vl", "audio_tower.conv1.weight", NULL, 0, 0, 0, 0, 0 },
    { "qwen3_vl", "model.visual.deepstack_merger_list.0.norm.weight", "", -1, -1, 0, 0, 0 },
};

static void test_bind(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bind_table / sizeof bind_table[0]; i++) {
        const bind_case *c = &bind_table[i];
        fqi_bound b;
        bool found = fqi_bind_name(fqi_family_find(c->family), &plain, c->name, &b);
        if (found != (c->role != NULL)) fail_msg("%s: \"%s\": found %d", c->family, c->name, found);
        if (!found) continue;
        if (c->role[0] == '\0') {
            assert_null(b.row);
            assert_true(b.canonical >= c->name && b.canonical <= c->name + strlen(c->name));
            continue;
        }
        assert_non_null(b.row);
        assert_string_equal(b.row->role, c->role);
        assert_int_equal(b.layer, c->layer);
        assert_int_equal(b.expert, c->expert);
        assert_int_equal(b.row->dim[0].axis, c->a0);
        assert_int_equal(b.row->dim[1].axis, c->a1);
        assert_int_equal(b.row->dim[2].axis, c->a2);
        assert_string_equal(b.canonical, c->name + (strncmp(c->name, "model.", 6) == 0 ? 6 : 0));
    }
}

static void test_fused_parts(void **state)
{
    (void)state;
    fqi_bound b;
    assert_true(fqi_bind_name(fqi_family_find("qwen3_moe"), &plain, "model.layers.0.mlp.experts.gate_up_proj", &b));
    assert_int_equal(b.row->dim[1].parts, 2);   /* gate rows, then up rows */
    assert_true(fqi_bind_name(fqi_family_find("qwen3_moe"), &plain, "model.layers.0.mlp.experts.down_proj", &b));
    assert_int_equal(b.row->dim[2].parts, 1);
}

/* Biases that no table has, which packers write for every layer. */
static void test_extra_biases(void **state)
{
    (void)state;
    static const struct { const char *family, *name; bool found; fqi_axis axis; int64_t layer, expert; } row[] = {
        { "qwen2", "model.layers.3.mlp.gate_proj.bias", true, FQI_AX_FF, 3, -1 },
        { "qwen2", "model.layers.3.mlp.down_proj.bias", true, FQI_AX_HIDDEN, 3, -1 },
        { "qwen2", "model.layers.0.self_attn.o_proj.bias", true, FQI_AX_HIDDEN, 0, -1 },
        { "qwen3", "model.layers.1.self_attn.k_proj.bias", true, FQI_AX_KV, 1, -1 },
        { "qwen3_moe", "model.layers.2.mlp.experts.7.up_proj.bias", true, FQI_AX_MOE_FF, 2, 7 },
        { "qwen3_moe", "model.layers.2.mlp.experts.7.down_proj.bias", true, FQI_AX_HIDDEN, 2, 7 },
        { "qwen2_moe", "model.layers.2.mlp.shared_expert.gate_proj.bias", true, FQI_AX_SHARED_FF, 2, -1 },
        { "mixtral", "model.layers.2.block_sparse_moe.experts.1.w2.bias", true, FQI_AX_HIDDEN, 2, 1 },
        { "qwen2", "model.layers.3.input_layernorm.bias", false, FQI_AX_FIXED, 0, 0 }, { "qwen2", "model.embed_tokens.bias", false, FQI_AX_FIXED, 0, 0 }, { "qwen2", "lm_head.bias", false, FQI_AX_FIXED, 0, 0 },
        { "qwen2", "model.layers.3.mlp.gate_proj.weight", false, FQI_AX_FIXED, 0, 0 }, { "qwen2", ".bias", false, FQI_AX_FIXED, 0, 0 }, { "qwen2", "bias", false, FQI_AX_FIXED, 0, 0 }, { "qwen3_moe", "model.layers.2.mlp.gate.bias", false, FQI_AX_FIXED, 0, 0 },
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        fqi_bound b = { 0 };
        bool found = fqi_bind_extra_bias(fqi_family_find(row[i].family), &plain, row[i].name, &b);
        if (found != row[i].found) fail_msg("%s: \"%s\": found %d", row[i].family, row[i].name, found);
        if (!found) continue;
        assert_int_equal(b.row->rank, 1);
        assert_int_equal(b.row->dim[0].axis, row[i].axis);
        assert_int_equal(b.row->need, FQI_BESIDE_CODES);
        assert_int_equal(b.layer, row[i].layer);
        assert_int_equal(b.expert, row[i].expert);
        assert_string_equal(b.canonical, row[i].name + strlen("model."));
    }
}

/* ---- naming ----------------------------------------------------------------------------------------------------- */

typedef struct naming_case {
    const char *family;
    const char *name[5];
    const char *wrapper, *body, *head;   /* wrapper NULL: refused */
    bool usual;
} naming_case;

static const naming_case naming_table[] = {
    { "qwen2", { "lm_head.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight" }, "", "model.", "", true },
    { "qwen2", { "model.layers.0.mlp.up_proj.weight" }, "", "model.", "", true },
    { "qwen2", { "layers.0.mlp.up_proj.weight", "embed_tokens.weight" }, "", "", "", false },
    { "qwen2", { "model.model.layers.0.mlp.up_proj.weight", "model.lm_head.weight" }, "", "model.model.", "model.", false },
    { "qwen2", { "model.model.layers.0.mlp.up_proj.weight" }, "", "model.model.", "model.", false },
    { "qwen2", { "model.model.layers.0.mlp.up_proj.weight", "lm_head.weight" }, "", "model.model.", "", false },
    { "qwen2", { "module.model.layers.0.mlp.up_proj.weight", "module.lm_head.weight" }, "module.", "model.", "", false },
    { "qwen2", { "_orig_mod.model.layers.0.mlp.up_proj.weight" }, "_orig_mod.", "model.", "", false },
    { "qwen2", { "base_model.model.model.layers.0.mlp.up_proj.weight" }, "base_model.model.", "model.", "", false },
    { "qwen2", { "base_model.model.layers.0.mlp.up_proj.weight" }, "base_model.model.", "", "", false },
    { "qwen2", { "module._orig_mod.model.layers.0.mlp.up_proj.weight", "module._orig_mod.lm_head.weight" }, "module._orig_mod.", "model.", "", false },
    { "qwen2", { "module.module._orig_mod.base_model.model.model.layers.12.x" }, "module.module._orig_mod.base_model.model.", "model.", "", false },
    { "qwen2", { "language_model.model.layers.0.mlp.up_proj.weight", "language_model.lm_head.weight" }, "", "language_model.model.", "language_model.", false },
    { "qwen2", { "language_model.model.layers.0.mlp.up_proj.weight" }, "", "language_model.model.", "language_model.", false },
    { "qwen2_vl", { "visual.blocks.0.a", "model.layers.0.mlp.up_proj.weight", "lm_head.weight" }, "", "model.", "", true },
    { "qwen2_vl", { "model.visual.blocks.0.a", "model.language_model.layers.0.mlp.up_proj.weight", "lm_head.weight" }, "", "model.language_model.", "", true },
    { "qwen3_vl", { "model.language_model.layers.0.mlp.up_proj.weight" }, "", "model.language_model.", "", true },
    { "qwen3_vl", { "model.layers.0.mlp.up_proj.weight" }, "", "model.", "", true },
    { "qwen2", { "model.language_model.layers.0.mlp.up_proj.weight" }, "", "model.language_model.", "", false },
    { "qwen2_5_vl", { "module.model.language_model.layers.0.mlp.up_proj.weight", "module.model.visual.x" }, "module.", "model.language_model.", "", false },
    /* refused: two styles, or nothing that looks like a layer */
    { "qwen2", { "model.layers.0.a", "layers.1.a" }, NULL, NULL, NULL, false },
    { "qwen2", { "model.layers.0.a", "module.model.layers.1.a" }, NULL, NULL, NULL, false },
    { "qwen2_vl", { "model.layers.0.a", "model.language_model.layers.1.a" }, NULL, NULL, NULL, false },
    { "qwen2", { "module.model.layers.0.a", "lm_head.weight" }, NULL, NULL, NULL, false },
    { "qwen2", { "transformer.h.0.attn.c_attn.weight" }, NULL, NULL, NULL, false },
    { "qwen2", { "model.layers.x.a", "model.layers.", "model.layers" }, NULL, NULL, NULL, false },
    { "qwen2", { "lm_head.weight", "" }, NULL, NULL, NULL, false },
};

static size_t n_names(const char *const *name)
{
    size_t n = 0;
    while (n < 5 && name[n]) n++;
    return n;
}

static void test_naming(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof naming_table / sizeof naming_table[0]; i++) {
        const naming_case *c = &naming_table[i];
        fqi_naming got;
        fq_err e = { .code = FQ_OK };
        fq_status s = fqi_naming_detect(fqi_family_find(c->family), c->name, n_names(c->name), "f", &got, &e);
        if ((s == FQ_OK) != (c->wrapper != NULL)) fail_msg("%s: status %d: %s", c->name[0], (int)s, e.text);
        if (s != FQ_OK) {
            assert_int_equal(s, FQ_E_INPUT);
            assert_string_equal(e.rule, "prefix");
            continue;
        }
        assert_string_equal(got.wrapper, c->wrapper);
        assert_string_equal(got.body_prefix, c->body);
        assert_string_equal(got.head_prefix, c->head);
        assert_int_equal(got.usual, c->usual);
    }
}

/* In each style every name of the family must bind, and to the same canonical name. */
static void test_every_style_binds(void **state)
{
    (void)state;
    static const char *const wrapper[] = { "", "module.", "_orig_mod.", "base_model.model.", "module._orig_mod." };
    static const struct { const char *body, *head; } style[] = { { "model.", "" }, { "", "" }, { "model.language_model.", "" },
        { "language_model.model.", "language_model." }, { "model.model.", "model." } };
    const fqi_family *f = fqi_family_find("qwen2_moe");
    for (size_t w = 0; w < 5; w++) {
        for (size_t k = 0; k < 5; k++) {
            char name[64][256], *list[64];
            for (size_t r = 0; r < f->n_row; r++) {
                char canonical[160];
                fqi_row_name(f, &f->row[r], 5, 3, canonical, sizeof canonical);
                const char *prefix = f->row[r].scope == FQI_HEAD ? style[k].head : style[k].body;
                snprintf(name[r], sizeof name[r], "%s%s%s", wrapper[w], prefix, canonical);
                list[r] = name[r];
            }
            fqi_naming naming;
            fq_err e;
            assert_int_equal(fqi_naming_detect(f, (const char *const *)list, f->n_row, "f", &naming, &e), FQ_OK);
            for (size_t r = 0; r < f->n_row; r++) {
                fqi_bound b;
                char canonical[160];
                if (!fqi_bind_name(f, &naming, name[r], &b)) fail_msg("%s", name[r]);
                assert_ptr_equal(b.row, &f->row[r]);
                fqi_row_name(f, b.row, b.layer, b.expert, canonical, sizeof canonical);
                assert_string_equal(b.canonical, canonical);
            }
        }
    }
}

static void test_long_prefix_is_refused(void **state)
{
    (void)state;
    char name[512] = "";
    for (int i = 0; i < 20; i++) strcat(name, "module.");
    strcat(name, "model.layers.0.mlp.up_proj.weight");
    const char *list[] = { name };
    fqi_naming got;
    fq_err e;
    assert_int_equal(fqi_naming_detect(fqi_family_find("qwen2"), list, 1, "f", &got, &e), FQ_E_INPUT);
    assert_string_equal(e.text, "f: tensor module.module.module.module.module.module.module.module.module.module.module.module.module."
                                "module.module.module.module.module.module.module.model.layers.0.mlp.up_proj.weight: prefix: found a "
                                "prefix of 140 bytes, expected at most 127");
}

static void test_unknown_family(void **state)
{
    (void)state;
    fq_err e;
    assert_int_equal(fqi_family_unknown("gpt\x1b[31m", "dir", &e), FQ_E_INPUT);
    assert_string_equal(e.rule, "unknown-family");
    assert_string_equal(e.text, "dir: unknown-family: found model_type \"gpt\\x1b[31m\", expected one of qwen2, qwen3, qwen2_moe, "
                                "qwen3_moe, llama, mistral, mixtral, qwen2_vl, qwen2_5_vl, qwen3_vl");
}

/* ---- what must be there ------------------------------------------------------------------------------------------ */

typedef struct model_case { fq_model m; bool sparse[3]; } model_case;

static model_case moe_model(void)
{
    model_case c = { .m = { .hidden_size = 8, .vocab_size = 11, .num_hidden_layers = 3, .intermediate_size = 12,
        .moe_intermediate_size = 5, .shared_expert_intermediate_size = 7, .num_experts = 4, .num_experts_per_tok = 2,
        .n_dense_layer = 1, .n_moe_layer = 2, .num_attention_heads = 4, .num_key_value_heads = 2, .head_dim = 6, .q_bias = true,
        .kv_bias = true }, .sparse = { false, true, true } };
    return c;
}

/* All names of a model, bound; fused: experts of layer 2 in fused form. */
static size_t all_names(const fqi_family *f, const model_case *c, bool fused, fqi_bound *out)
{
    size_t n = 0;
    for (size_t r = 0; r < f->n_row; r++) {
        const fqi_row *row = &f->row[r];
        const bool body = row->scope == FQI_BODY || row->scope == FQI_HEAD;
        for (int64_t layer = body ? -1 : 0; layer < (body ? 0 : c->m.num_hidden_layers); layer++) {
            bool here = fqi_row_expected(row, &c->m, layer, c->sparse), expert = row->scope == FQI_EXPERT;
            if (fused && layer == 2) here = expert ? false : here || row->rank == 3;
            for (int64_t k = 0; here && k < (expert ? c->m.num_experts : 1); k++)
                out[n++] = (fqi_bound){ .row = row, .layer = layer, .expert = expert ? k : -1, .canonical = "x" };
        }
    }
    return n;
}

static void test_complete_model(void **state)
{
    (void)state;
    const fqi_family *f = fqi_family_find("qwen2_moe");
    model_case c = moe_model();
    for (int fused = 0; fused < 2; fused++) {
        fqi_bound b[256];
        size_t n = all_names(f, &c, fused, b), n_misfit = 99;
        /* 3 body; layers: 6 attention + 3 biases; dense: 3; sparse: router, 3 shared, gate, and 12 experts or 2 fused */
        assert_int_equal(n, 3u + 27u + 3u + 2u * 5u + (fused ? 14u : 24u));
        assert_int_equal(fqi_bind_check(f, &c.m, c.sparse, b, n, NULL, 0, &n_misfit, NULL), FQ_OK);
        assert_int_equal(n_misfit, 0);
    }
}

/* Whichever tensor is taken away, exactly that one is reported. */
static void test_each_missing_tensor_is_named(void **state)
{
    (void)state;
    const fqi_family *f = fqi_family_find("qwen2_moe");
    model_case c = moe_model();
    for (int fused = 0; fused < 2; fused++) {
        fqi_bound b[256];
        size_t n = all_names(f, &c, fused, b);
        for (size_t i = 0; i < n; i++) {
            fqi_bound gone = b[i];
            fqi_misfit m[4];
            size_t n_misfit = 0;
            b[i].canonical = NULL;
            assert_int_equal(fqi_bind_check(f, &c.m, c.sparse, b, n, m, 4, &n_misfit, NULL), FQ_OK);
            assert_int_equal(n_misfit, 1);
            assert_ptr_equal(m[0].row, gone.row);
            assert_int_equal(m[0].layer, gone.layer);
            assert_int_equal(m[0].expert, gone.expert);
            assert_true(m[0].index == SIZE_MAX);
            b[i] = gone;
        }
    }
}

static void test_tied_and_misplaced(void **state)
{
    (void)state;
    const fqi_family *f = fqi_family_find("qwen2_moe");
    model_case c = moe_model();
    fqi_bound b[256];
    fqi_misfit m[8];
    size_t n_misfit = 0;
    c.m.tie_word_embeddings = true;
    size_t n = all_names(f, &c, false, b);
    /* A head that is stored although it is tied has a place. */
    fqi_bound head;
    assert_true(fqi_bind_name(f, &plain, "lm_head.weight", &head));
    b[n++] = head;
    assert_int_equal(fqi_bind_check(f, &c.m, c.sparse, b, n, m, 8, &n_misfit, NULL), FQ_OK);
    assert_int_equal(n_misfit, 0);
    static const char *const stray[] = { "model.layers.3.input_layernorm.weight", "model.layers.1.mlp.experts.4.up_proj.weight",
        "model.layers.1.mlp.up_proj.weight", "model.layers.0.mlp.gate.weight", "model.layers.0.mlp.experts.down_proj" };
    for (size_t i = 0; i < 5; i++) {
        fqi_bound *x = &b[n];
        assert_true(fqi_bind_name(f, &plain, stray[i], x));
        assert_int_equal(fqi_bind_check(f, &c.m, c.sparse, b, n + 1, m, 8, &n_misfit, NULL), FQ_OK);
        assert_int_equal(n_misfit, 1);
        assert_int_equal(m[0].index, n);
        assert_ptr_equal(m[0].row, x->row);
    }
}

/* Each layer that has both forms is said, once, and so is what the fused form lacks. */
static void test_two_forms_are_refused(void **state)
{
    (void)state;
    const fqi_family *f = fqi_family_find("qwen2_moe");
    model_case c = moe_model();
    for (int whole = 0; whole < 2; whole++) {
        fqi_bound b[256];
        fqi_misfit m[8];
        size_t n_misfit = 0, n = all_names(f, &c, false, b);
        assert_true(fqi_bind_name(f, &plain, "model.layers.1.mlp.experts.down_proj", &b[n++]));
        if (whole) assert_true(fqi_bind_name(f, &plain, "model.layers.1.mlp.experts.gate_up_proj", &b[n++]));
        assert_int_equal(fqi_bind_check(f, &c.m, c.sparse, b, n, m, 8, &n_misfit, NULL), FQ_OK);
        assert_int_equal(n_misfit, whole ? 1 : 2);
        assert_int_equal(m[0].kind, FQI_TWO_FORMS);
        assert_int_equal(m[0].layer, 1);
        assert_string_equal(m[0].row->role, whole ? "fused_gate_up_proj" : "fused_down_proj");
        if (!whole) assert_int_equal(m[1].kind, FQI_MISSING);
    }
}

static void test_many_missing_are_counted(void **state)
{
    (void)state;
    const fqi_family *f = fqi_family_find("qwen2_moe");
    model_case c = moe_model();
    fqi_misfit m[2];
    size_t n_misfit = 0;
    assert_int_equal(fqi_bind_check(f, &c.m, c.sparse, NULL, 0, m, 2, &n_misfit, NULL), FQ_OK);
    assert_int_equal(n_misfit, 3 + 27 + 3 + 10 + 24);
}

static void test_axis_length(void **state)
{
    (void)state;
    model_case c = moe_model();
    assert_int_equal(fqi_axis_length(&c.m, FQI_AX_Q), 24);
    assert_int_equal(fqi_axis_length(&c.m, FQI_AX_KV), 12);
    assert_int_equal(fqi_axis_length(&c.m, FQI_AX_MOE_FF), 5);
    assert_int_equal(fqi_axis_length(&c.m, FQI_AX_ONE), 1);
    assert_int_equal(fqi_axis_length(&c.m, FQI_AX_FIXED), 0);
    c.m.num_attention_heads = INT64_MAX;
    assert_int_equal(fqi_axis_length(&c.m, FQI_AX_Q), 0);
    for (int a = 0; a < FQI_N_AXIS; a++) assert_true(fqi_axis_name((fqi_axis)a)[0] != '?');
}

/* ---- published indexes ------------------------------------------------------------------------------------------- */

typedef struct index_file { json_t *root; const char **name; size_t n; } index_file;

static void load_index(const char *file, index_file *x)
{
    const char *data = fqt_data();
    char path[4096], *text;
    size_t n;
    fq_err e;
    snprintf(path, sizeof path, "%s/quant/%s", data, file);
    if (fqi_file_slurp(path, 1u << 24, &text, &n, &e) != FQ_OK) fail_msg("%s", e.text);
    assert_int_equal(fqi_json_parse(text, n, path, &x->root, &e), FQ_OK);
    free(text);
    const json_t *map = json_object_get(x->root, "weight_map"), *v;
    const char *key;
    x->name = calloc(json_object_size(map), sizeof *x->name);
    x->n = 0;
    json_object_foreach((json_t *)(uintptr_t)map, key, v) x->name[x->n++] = key;
}

static void free_index(index_file *x)
{
    free(x->name);
    json_decref(x->root);
}

static void check_binds(const char *stem, const char *family, size_t n_expected)
{
    index_file x;
    char file[256], config[4096];
    snprintf(file, sizeof file, "%s.model.safetensors.index.json", stem);
    load_index(file, &x);
    snprintf(config, sizeof config, "%s/quant/%s.config.json", fqt_data(), stem);
    fqi_config c;
    fq_err e;
    if (fqi_config_load(config, &c, &e) != FQ_OK) fail_msg("%s", e.text);
    assert_string_equal(c.model.family, family);
    fqi_naming naming;
    assert_int_equal(fqi_naming_detect(c.family, x.name, x.n, file, &naming, &e), FQ_OK);
    assert_true(naming.usual);
    assert_int_equal(x.n, n_expected);
    fqi_bound *b = calloc(x.n, sizeof *b);
    for (size_t i = 0; i < x.n; i++)
        if (!fqi_bind_name(c.family, &naming, x.name[i], &b[i])) fail_msg("%s", x.name[i]);
    size_t n_misfit = 99;
    assert_int_equal(fqi_bind_check(c.family, &c.model, c.layer_is_sparse, b, x.n, NULL, 0, &n_misfit, &e), FQ_OK);
    assert_int_equal(n_misfit, 0);
    free(b);
    fqi_config_free(&c);
    free_index(&x);
}

static void test_cogito(void **state)
{
    (void)state;
    check_binds("cogito-v1-preview-qwen-14B", "qwen2", 579);
}

static void test_reflection(void **state)
{
    (void)state;
    check_binds("Reflection-Llama-3.1-70B", "llama", 723);
}

/* The text tower has a known style, the audio tower is in no table: its tensors are refused one by one. */
static void test_audio_is_refused(void **state)
{
    (void)state;
    index_file x;
    load_index("Qwen2-Audio.model.safetensors.index.json", &x);
    const fqi_family *f = fqi_family_find("qwen2");
    fqi_naming naming;
    fq_err e;
    assert_int_equal(fqi_naming_detect(f, x.name, x.n, "x", &naming, &e), FQ_OK);
    assert_string_equal(naming.body_prefix, "language_model.model.");
    assert_false(naming.usual);
    size_t n_text = 0, n_refused = 0;
    for (size_t i = 0; i < x.n; i++) {
        fqi_bound b;
        bool text = strncmp(x.name[i], "language_model.", 15) == 0;
        assert_int_equal(fqi_bind_name(f, &naming, x.name[i], &b), text);
        n_text += text;
        n_refused += !text;
    }
    assert_int_equal(n_text, 32 * 12 + 3);
    assert_true(n_refused > 400);
    free_index(&x);
}

static void test_qwen_vl_is_refused(void **state)
{
    (void)state;
    index_file x;
    load_index("Qwen-VL-Chat-Int4.model.safetensors.index.json", &x);
    fqi_naming naming;
    fq_err e;
    const fqi_family *f;
    for (size_t i = 0; (f = fqi_family_at(i)) != NULL; i++)
        assert_int_equal(fqi_naming_detect(f, x.name, x.n, "x", &naming, &e), FQ_E_INPUT);
    assert_non_null(strstr(e.text, "found no tensor that is a layer of a decoder"));
    free_index(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_registry),
        cmocka_unit_test(test_tables_are_sound),
        cmocka_unit_test(test_bind),
        cmocka_unit_test(test_fused_parts),
        cmocka_unit_test(test_extra_biases),
        cmocka_unit_test(test_naming),
        cmocka_unit_test(test_every_style_binds),
        cmocka_unit_test(test_long_prefix_is_refused),
        cmocka_unit_test(test_unknown_family),
        cmocka_unit_test(test_complete_model),
        cmocka_unit_test(test_each_missing_tensor_is_named),
        cmocka_unit_test(test_tied_and_misplaced),
        cmocka_unit_test(test_two_forms_are_refused),
        cmocka_unit_test(test_many_missing_are_counted),
        cmocka_unit_test(test_axis_length),
        cmocka_unit_test(test_cogito),
        cmocka_unit_test(test_reflection),
        cmocka_unit_test(test_audio_is_refused),
        cmocka_unit_test(test_qwen_vl_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
