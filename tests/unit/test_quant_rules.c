/* test_quant_rules.c - which modules quantization_config lists and exempts, and what a checkpoint is told that stores others. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "checkpoint/packed.h"
#include "checkpoint/quant_rules.h"
#include "quant_pair.h"
#include "support.h"

#define CONFIG(q) "{\"model_type\":\"qwen3_moe\",\"hidden_size\":256,\"num_hidden_layers\":2,\"vocab_size\":99,\"intermediate_size\":256,\"moe_intermediate_size\":256,\"num_experts\":4," \
                  "\"num_experts_per_tok\":2,\"num_attention_heads\":8,\"num_key_value_heads\":4,\"head_dim\":64,\"quantization_config\":" q "}"
#define GPTQ(more) CONFIG("{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":128" more "}")
#define AWQ(more) CONFIG("{\"quant_method\":\"awq\",\"bits\":4,\"group_size\":128,\"zero_point\":true" more "}")
#define FP8(more) CONFIG("{\"quant_method\":\"fp8\",\"weight_block_size\":[128,128]" more "}")
#define CT(ignore, targets) CONFIG("{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\",\"ignore\":" ignore ",\"config_groups\":{\"a\":{\"targets\":" targets ",\"weights\":{\"num_bits\":4}}}}")
#define UP "model.layers.1.mlp.experts.3.up_proj"
#define Q "model.layers.0.self_attn.q_proj"

static const struct ask { const char *config, *name; bool head; fqi_quant_says says; const char *key; } asks[] = {
    { GPTQ(""), Q, false, FQI_SAYS_CODES, "" },
    { GPTQ(""), "lm_head", true, FQI_SAYS_PLAIN, "" },
    { GPTQ(",\"lm_head\":true"), "lm_head", true, FQI_SAYS_CODES, "" },
    { GPTQ(",\"dynamic\":{\"lm_head\":{\"bits\":8}}"), "lm_head", true, FQI_SAYS_CODES, "dynamic" },
    { GPTQ(",\"dynamic\":{\"-:.*layers\\\\.1\\\\.\":{}}"), UP, false, FQI_SAYS_PLAIN, "dynamic" },
    { GPTQ(",\"dynamic\":{\"-:.*layers\\\\.1\\\\.\":{}}"), Q, false, FQI_SAYS_CODES, "" },
    { GPTQ(",\"dynamic\":{\"-:layers\\\\.1\":{}}"), UP, false, FQI_SAYS_CODES, "" },                      /* matched at the beginning */
    { GPTQ(",\"dynamic\":{\".*\":{\"bits\":8},\"-:.*up_proj\":{}}"), UP, false, FQI_SAYS_PLAIN, "dynamic" },  /* negative ones first */
    { GPTQ(",\"dynamic\":{\"-:.*qkv_proj\":{}}"), Q, false, FQI_SAYS_NOTHING, "" },                       /* the name at run time */
    { GPTQ(",\"dynamic\":{\"-:(\":{}}"), UP, false, FQI_SAYS_CODES, "" },                                   /* no pattern */
    { GPTQ(",\"dynamic\":{\"-:(a|aa)+$\":{}}"), "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", false, FQI_SAYS_NOTHING, "" },   /* for ever */
    { GPTQ(",\"modules_in_block_to_quantize\":[[\"self_attn.q_proj\",\"self_attn.k_proj\"],[\"mlp.down_proj\"]]"), Q, false, FQI_SAYS_CODES, "modules_in_block_to_quantize" },
    { GPTQ(",\"modules_in_block_to_quantize\":[[\"self_attn.k_proj\"]]"), Q, false, FQI_SAYS_PLAIN, "modules_in_block_to_quantize" },
    { GPTQ(",\"modules_in_block_to_quantize\":null"), Q, false, FQI_SAYS_CODES, "" },
    { AWQ(",\"modules_to_not_convert\":null"), Q, false, FQI_SAYS_CODES, "" },
    { AWQ(",\"modules_to_not_convert\":[\"self_attn\"]"), Q, false, FQI_SAYS_PLAIN, "modules_to_not_convert" },
    { AWQ(",\"modules_to_not_convert\":[\"mlp.gate\"]"), "model.layers.0.mlp.gate_proj", false, FQI_SAYS_NOTHING, "" },   /* some readers say yes */
    { AWQ(",\"modules_to_not_convert\":[\"mlp.gate\",\"\"]"), "model.layers.0.mlp.down_proj", false, FQI_SAYS_CODES, "" },
    { FP8(",\"modules_to_not_convert\":[\"lm_head\",\"model.layers.1.mlp.gate\"]"), UP, false, FQI_SAYS_CODES, "" },
    { FP8(",\"ignored_layers\":[\"model.layers.0.self_attn.q_proj\"]"), Q, false, FQI_SAYS_PLAIN, "ignored_layers" },
    { FP8(""), "lm_head", true, FQI_SAYS_PLAIN, "" },
    { CT("[\"lm_head\"]", "[\"Linear\"]"), "lm_head", true, FQI_SAYS_PLAIN, "ignore" },
    { CT("[]", "[\"Linear\"]"), "lm_head", true, FQI_SAYS_CODES, "" },
    { CT("[]", "[\"Linear\"]"), Q, false, FQI_SAYS_CODES, "" },
    { CT("[\"re:.*self_attn.*\"]", "[\"Linear\"]"), Q, false, FQI_SAYS_PLAIN, "ignore" },
    { CT("[]", "[\"re:.*experts.*\"]"), UP, false, FQI_SAYS_CODES, "targets" },
    { CT("[]", "[\"re:.*experts.*\"]"), Q, false, FQI_SAYS_NOTHING, "" },
    { CT("[\"self_attn.q_proj\"]", "[\"Linear\"]"), Q, false, FQI_SAYS_NOTHING, "" },   /* not the whole name */
};

static void test_asks(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof asks / sizeof asks[0]; i++) {
        fqi_config c;
        fqi_quant_rules *r;
        const char *key;
        FQT_OK(fqi_config_parse(asks[i].config, strlen(asks[i].config), "config.json", &c, e));
        FQT_OK(fqi_quant_rules_make(&c, &r, e));
        const fqi_quant_says says = fqi_quant_rules_ask(r, asks[i].name, asks[i].head, &key);
        if (says != asks[i].says || (says != FQI_SAYS_NOTHING && strcmp(key, asks[i].key) != 0)) fail_msg("case %zu: found %d \"%s\", expected %d \"%s\"", i, (int)says, key, (int)asks[i].says, asks[i].key);
        fqi_quant_rules_free(r);
        fqi_config_free(&c);
    }
}

/* ---- what a checkpoint is told ---- */

static const fqt_model words = { .family = "qwen2", .hidden = 72, .ff = 168, .heads = 6, .kv = 2, .head_dim = 16, .vocab = 88, .layers = 2, .dtype = "F32", .seed = 4 };

static const struct told { fqt_quant q; const char *extra; fq_severity severity; const char *rule, *text; } tellings[] = {
    { { .format = FQT_AWQ, .group = 24 }, NULL, FQ_NOTE, "quantized-layers", "found 14 linear layers as awq (gemm): 4 bits in groups of 24, with zero points" },
    { { .format = FQT_GPTQ_V2, .bits = 3, .group = -1 }, NULL, FQ_NOTE, "quantized-layers", "14 linear layers as gptq: 3 bits, one scale for each output channel, symmetric, checkpoint_format gptq_v2" },
    { { .format = FQT_GPTQ_V1, .bits = 4, .group = 8, .order = FQT_ORDER_ANY }, NULL, FQ_NOTE, "quantized-layers", "symmetric, checkpoint_format gptq, with g_idx" },
    { { .format = FQT_FP8_BLOCK, .group = 128, .block_rows = 64 }, NULL, FQ_NOTE, "quantized-layers", "14 linear layers as fp8 (blocks): E4M3 in blocks of 64 x 128" },
    { { .format = FQT_FP8_BLOCK, .group = 128, .block_rows = 64 }, NULL, FQ_NOTE, "rounded-activations", "does not round activations" },
    { { .format = FQT_FP8_TENSOR }, NULL, FQ_NOTE, "quantized-layers", "E4M3, one scale for each tensor" },
    { { .format = FQT_CT_FP8_CHANNEL }, NULL, FQ_NOTE, "quantized-layers", "(float-quantized, channels): E4M3, one scale for each output channel" },
    { { .format = FQT_AWQ, .group = 24 }, ", \"modules_to_not_convert\": [\"down_proj\"]", FQ_WARNING, "module-lists",
      "found 2 layers stored as codes (first: model.layers.0.mlp.down_proj), expected plain weights: quantization_config modules_to_not_convert exempts them" },
    { { .format = FQT_AWQ, .group = 24, .lm_head = true }, NULL, FQ_WARNING, "module-lists", "found 1 layer stored as codes (first: lm_head), expected plain weights" },
    { { .format = FQT_GPTQ_V1, .bits = 4, .group = 8, .lm_head_only = true }, ", \"lm_head\": true", FQ_WARNING, "module-lists",
      "found 14 layers with plain weights (first: model.layers.0.mlp.down_proj), expected codes: quantization_config does not exempt them" },
};

static void test_tellings(void **state)
{
    (void)state;
    char *packed = fqt_join(fqt_dir, "packed");
    for (size_t i = 0; i < sizeof tellings / sizeof tellings[0]; i++) {
        fqt_quant q = tellings[i].q;
        size_t n_found = 0, n_warning = 0, n;
        fq_ckpt *c;
        q.extra = tellings[i].extra;
        fqt_make_quantized(packed, NULL, &words, &q);
        if (q.extra && q.format == FQT_AWQ) {   /* its writer says null */
            char *text = fqt_read(packed, "config.json", &n), *at = strstr(text, ", \"modules_to_not_convert\": null");
            memset(at, ' ', strlen(", \"modules_to_not_convert\": null"));
            fqt_write_text(packed, "config.json", text);
            free(text);
        }
        FQT_OK(fq_ckpt_open(packed, NULL, &c, e));
        FQT_OK(fq_ckpt_check(c, e));
        if (fqt_is_fp8(q.format)) assert_int_equal(fq_ckpt_get_info(c)->model.quant, FQ_QUANT_FP8);   /* the planner's formats follow from it */
        for (size_t k = 0; k < fq_ckpt_n_finding(c); k++) {
            const fq_finding *f = fq_ckpt_get_finding(c, k);
            n_warning += f->severity == FQ_WARNING;
            if (f->severity == tellings[i].severity && strcmp(f->rule, tellings[i].rule) == 0 && strstr(f->text, tellings[i].text)) n_found++;
            else if (f->severity != FQ_NOTE || strcmp(f->rule, tellings[i].rule) == 0) fail_msg("case %zu: %s", i, f->text);
        }
        assert_int_equal(n_found, 1);
        assert_int_equal(n_warning, tellings[i].severity == FQ_WARNING);
        fq_ckpt_close(c);
        fqt_remove(packed);
    }
    free(packed);
}

/* ---- an index as it exists ---- */

static void test_real_index(void **state)
{
    (void)state;
    char *path = fqt_join(fqt_data(), "quant/Qwen-VL-Chat-Int4.model.safetensors.index.json"), *file = strrchr(path, '/');
    size_t n, n_part[FQI_N_PART] = { 0 };
    *file = '\0';
    char *text = fqt_read(path, file + 1, &n);
    json_error_t error;
    json_t *root = json_loads(text, 0, &error), *value;
    const char *name;
    assert_non_null(root);
    json_object_foreach(json_object_get(root, "weight_map"), name, value) {
        fqi_packed p;
        n_part[fqi_packed_split(name, &p) ? p.part : FQI_PART_NONE]++;
    }
    assert_int_equal(n_part[FQI_PART_CODES], 32 * 5);   /* c_attn, c_proj, w1, w2, mlp.c_proj */
    assert_int_equal(n_part[FQI_PART_SCALE], 32 * 5);
    assert_int_equal(n_part[FQI_PART_ZERO], 32 * 5);
    assert_int_equal(n_part[FQI_PART_ORDER], 32 * 5);
    assert_int_equal(n_part[FQI_PART_NONE], 1461 - 4 * 32 * 5);
    json_decref(root);
    free(text);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_asks), cmocka_unit_test(test_tellings), cmocka_unit_test(test_real_index) };
    return cmocka_run_group_tests(tests, fqt_dir_setup, fqt_dir_teardown);
}
