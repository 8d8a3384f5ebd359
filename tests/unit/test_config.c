/* test_config.c - config.json read into fq_model: every published one, and a table of fields set to what they must not be. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "arch/config.h"
#include "make_ckpt.h"
#include "support.h"

/* ---- published configurations ------------------------------------------------------------------------------------ */

typedef struct real_case {
    const char *file, *model_type;
    bool known;
    int64_t hidden, vocab, layers, width, expert, shared, experts, top_k, dense, heads, kv, head_dim;
} real_case;

static const real_case real_table[] = {
    { "configs/Qwen--Qwen2-72B-Instruct.json", "qwen2", true, 8192, 152064, 80, 29568, 0, 0, 0, 0, 80, 64, 8, 128 },
    { "configs/unsloth--Qwen2.5-0.5B-Instruct.json", "qwen2", true, 896, 151936, 24, 4864, 0, 0, 0, 0, 24, 14, 2, 64 },
    { "configs/odd-vocab/qingy2024--Qwen2.6-14B-Instruct.json", "qwen2", true, 5120, 151665, 48, 13824, 0, 0, 0, 0, 48, 40, 8, 128 },
    { "configs/Qwen--Qwen3-0.6B.json", "qwen3", true, 1024, 151936, 28, 3072, 0, 0, 0, 0, 28, 16, 8, 128 },
    { "configs/Qwen--Qwen3-30B-A3B.json", "qwen3_moe", true, 2048, 151936, 48, 0, 768, 0, 128, 8, 0, 32, 4, 128 },
    { "configs/Qwen--Qwen3-Coder-480B-A35B-Instruct.json", "qwen3_moe", true, 6144, 151936, 62, 0, 2560, 0, 160, 8, 0, 96, 8, 128 },
    { "configs/MaziyarPanahi--Qwen1.5-MoE-A2.7B-Wikihow.json", "qwen2_moe", true, 2048, 151936, 24, 0, 1408, 5632, 60, 4, 0, 16, 16, 128 },
    { "configs/Qwen--Qwen2.5-VL-3B-Instruct.json", "qwen2_5_vl", true, 2048, 151936, 36, 11008, 0, 0, 0, 0, 36, 16, 2, 128 },
    { "configs/meta-llama--Llama-2-13b-chat-hf.json", "llama", true, 5120, 32000, 40, 13824, 0, 0, 0, 0, 40, 40, 40, 128 },
    { "configs/meta-llama--Meta-Llama-3.1-405B.json", "llama", true, 16384, 128256, 126, 53248, 0, 0, 0, 0, 126, 128, 8, 128 },
    { "configs/mistralai--Mistral-7B-Instruct-v0.2.json", "mistral", true, 4096, 32000, 32, 14336, 0, 0, 0, 0, 32, 32, 8, 128 },
    { "configs/mistralai--Mixtral-8x22B-v0.1.json", "mixtral", true, 6144, 32000, 56, 0, 16384, 0, 8, 2, 0, 48, 8, 128 },
    /* no table: lengths only. Qwen 1 counts two halves: 27392 = 2 x 13696. */
    { "configs/Qwen--Qwen-14B-Chat.json", "qwen", false, 5120, 152064, 40, 13696, 0, 0, 0, 0, 40, 40, 40, 128 },
    { "configs/Qwen--Qwen3-Next-80B-A3B-Thinking.json", "qwen3_next", false, 2048, 151936, 48, 0, 512, 512, 512, 10, 0, 16, 2, 256 },
    { "configs/Qwen--Qwen3.5-27B.json", "qwen3_5", false, 5120, 248320, 64, 17408, 0, 0, 0, 0, 64, 24, 4, 256 },
    { "configs/deepseek-ai--DeepSeek-V2-Lite.json", "deepseek_v2", false, 2048, 102400, 27, 10944, 1408, 2816, 64, 6, 1, 16, 16, 192 },
    { "configs/deepseek-ai--DeepSeek-V3.json", "deepseek_v3", false, 7168, 129280, 61, 18432, 2048, 2048, 256, 8, 3, 128, 128, 192 },
    { "configs/moonshotai--Kimi-K2-Instruct.json", "kimi_k2", false, 7168, 163840, 61, 18432, 2048, 2048, 384, 8, 1, 64, 64, 192 },
    { "configs/zai-org--GLM-4.5.json", "glm4_moe", false, 5120, 151552, 92, 12288, 1536, 1536, 160, 8, 3, 96, 8, 128 },
    { "configs/openai--gpt-oss-120b.json", "gpt_oss", false, 2880, 201088, 36, 0, 2880, 0, 128, 4, 0, 64, 8, 64 },
    { "configs/meta-llama--Llama-4-Scout-17B-16E-Instruct.json", "llama4", false, 5120, 202048, 48, 0, 8192, 8192, 16, 1, 0, 40, 8, 128 },
};

static fq_status read_data(const char *file, fq_model *m, fq_err *e)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", fqt_data(), file);
    return fq_model_read(path, m, e);
}

static void test_real(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof real_table / sizeof real_table[0]; i++) {
        const real_case *c = &real_table[i];
        fq_model m;
        fq_err e;
        if (read_data(c->file, &m, &e) != FQ_OK) fail_msg("%s", e.text);
        print_message("%s\n", c->file);
        assert_string_equal(m.model_type, c->model_type);
        assert_string_equal(m.family, c->known ? c->model_type : "");
        assert_int_equal(m.hidden_size, c->hidden);
        assert_int_equal(m.vocab_size, c->vocab);
        assert_int_equal(m.num_hidden_layers, c->layers);
        assert_int_equal(m.intermediate_size, c->width);
        assert_int_equal(m.moe_intermediate_size, c->expert);
        assert_int_equal(m.shared_expert_intermediate_size, c->shared);
        assert_int_equal(m.num_experts, c->experts);
        assert_int_equal(m.num_experts_per_tok, c->top_k);
        assert_int_equal(m.n_dense_layer, c->dense);
        assert_int_equal(m.n_moe_layer, c->layers - c->dense);
        assert_int_equal(m.num_attention_heads, c->heads);
        assert_int_equal(m.num_key_value_heads, c->kv);
        assert_int_equal(m.head_dim, c->head_dim);
    }
}

typedef struct quant_case {
    const char *file;
    fq_quant_method method;
    const char *name;
    int bits, group;
    bool sym, act;
} quant_case;

static const quant_case quant_table[] = {
    { "quant/GSJL--Qwen2.5-32B-Instruct-GPTQ-Marlin.config.json", FQ_QUANT_GPTQ, "gptq", 4, 128, true, false },
    { "quant/Genz-70b-GPTQ.config.json", FQ_QUANT_GPTQ, "gptq", 3, -1, true, true },
    { "quant/shuyuej--Qwen2-72B-Instruct-GPTQ.config.json", FQ_QUANT_GPTQ, "gptq", 4, 128, true, true },
    { "quant/LDCC--Qwen2.5-72B-Instruct-ko-AWQ.config.json", FQ_QUANT_AWQ, "awq", 4, 128, false, false },
    { "quant/Qwen--Qwen2.5-72B-Instruct-AWQ.partial.json", FQ_QUANT_AWQ, "awq", 4, 128, false, false },
    { "quant/Qwen-VL-Chat-Int4.config.json", FQ_QUANT_GPTQ, "gptq", 4, 128, true, false },
    { "configs/Qwen--Qwen3-235B-A22B-FP8.json", FQ_QUANT_FP8, "fp8", 8, 128, true, false },
    { "configs/deepseek-ai--DeepSeek-R1.json", FQ_QUANT_FP8, "fp8", 8, 128, true, false },
    { "configs/openai--gpt-oss-120b.json", FQ_QUANT_OTHER, "mxfp4", 4, 32, false, false },
    { "configs/Qwen--Qwen3-8B.json", FQ_QUANT_NONE, "", 0, 0, false, false },
};

static void test_real_quant(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof quant_table / sizeof quant_table[0]; i++) {
        const quant_case *c = &quant_table[i];
        fq_model m;
        fq_err e;
        if (read_data(c->file, &m, &e) != FQ_OK) fail_msg("%s", e.text);
        assert_int_equal(m.quant, c->method);
        assert_string_equal(m.quant_name, c->name);
        assert_int_equal(m.quant_bits, c->bits);
        assert_int_equal(m.quant_group_size, c->group);
        assert_int_equal(m.quant_sym, c->sym);
        assert_int_equal(m.quant_desc_act, c->act);
    }
}

/* All files of the folder: read, or refused with a reason that is known here. */
static void read_folder(const char *folder, const char *end, size_t at_least)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", fqt_data(), folder);
    DIR *d = opendir(path);
    assert_non_null(d);
    size_t n = 0;
    for (const struct dirent *entry; (entry = readdir(d)) != NULL;) {
        const size_t k = strlen(entry->d_name), k_end = strlen(end);
        if (k < k_end || strcmp(entry->d_name + k - k_end, end) != 0) continue;
        char file[8192];
        fq_model m;
        fq_err e = { .code = FQ_OK };
        snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        fq_status s = fq_model_read(file, &m, &e);
        n++;
        if (strstr(entry->d_name, "Qwen2-57B-A14B-Instruct.partial")) {
            assert_int_equal(s, FQ_E_INPUT);
            assert_non_null(strstr(e.text, "vocab_size: found nothing"));
        } else if (strstr(entry->d_name, "quantize_config")) {
            assert_int_equal(s, FQ_E_INPUT);
            assert_non_null(strstr(e.text, "model_type: found nothing"));
        } else {
            if (s != FQ_OK) fail_msg("%s", e.text);
            assert_int_equal(m.n_dense_layer + m.n_moe_layer, m.num_hidden_layers);
            assert_true(m.n_dense_layer == 0 || m.intermediate_size > 0);
            assert_true(m.n_moe_layer == 0 || (m.moe_intermediate_size > 0 && m.num_experts_per_tok > 0));
        }
    }
    closedir(d);
    assert_true(n >= at_least);
}

static void test_all_published(void **state)
{
    (void)state;
    read_folder("configs", ".json", 50);
    read_folder("configs/odd-vocab", ".json", 1);
    read_folder("quant", "config.json", 10);
    read_folder("models/tiny-golden", "_config.json", 5);
}

static void test_flags(void **state)
{
    (void)state;
    fq_model m;
    fq_err e;
    assert_int_equal(read_data("configs/Qwen--Qwen2-72B-Instruct.json", &m, &e), FQ_OK);
    assert_true(m.q_bias && m.kv_bias && !m.o_bias && !m.mlp_bias && !m.qk_norm && !m.tie_word_embeddings && !m.head_dim_explicit);
    assert_string_equal(m.torch_dtype, "bfloat16");
    assert_string_equal(m.architecture, "Qwen2ForCausalLM");
    assert_int_equal(read_data("configs/Qwen--Qwen3-0.6B.json", &m, &e), FQ_OK);
    assert_true(!m.q_bias && m.qk_norm && m.tie_word_embeddings && m.head_dim_explicit && !m.sliding_window);
    assert_int_equal(read_data("models/tiny-golden/tiny_mistral_config.json", &m, &e), FQ_OK);
    assert_true(m.sliding_window && !m.q_bias);
    assert_int_equal(read_data("configs/openai--gpt-oss-120b.json", &m, &e), FQ_OK);
    assert_true(m.sliding_window && m.q_bias && m.o_bias);
    assert_int_equal(read_data("own/tiny-qwen3-moe", &m, &e), FQ_OK);   /* a folder */
    assert_int_equal(m.moe_intermediate_size, 96);
}

/* ---- one field at a time ------------------------------------------------------------------------------------------- */

static const char base_qwen2[] = "{\"model_type\":\"qwen2\",\"architectures\":[\"Qwen2ForCausalLM\"],\"hidden_size\":256,\"vocab_size\":1000,"
    "\"num_hidden_layers\":4,\"intermediate_size\":896,\"num_attention_heads\":8,\"num_key_value_heads\":2,\"rms_norm_eps\":1e-06,"
    "\"rope_theta\":10000.0,\"tie_word_embeddings\":false,\"use_sliding_window\":false}";
static const char base_moe[] = "{\"model_type\":\"qwen2_moe\",\"hidden_size\":256,\"vocab_size\":1000,\"num_hidden_layers\":4,"
    "\"intermediate_size\":896,\"moe_intermediate_size\":128,\"shared_expert_intermediate_size\":384,\"num_experts\":8,"
    "\"num_experts_per_tok\":2,\"num_attention_heads\":8,\"num_key_value_heads\":2,\"decoder_sparse_step\":1,\"mlp_only_layers\":[]}";
static const char base_mixtral[] = "{\"model_type\":\"mixtral\",\"hidden_size\":256,\"vocab_size\":1000,\"num_hidden_layers\":4,"
    "\"intermediate_size\":896,\"num_local_experts\":8,\"num_experts_per_tok\":2,\"num_attention_heads\":8,\"num_key_value_heads\":2}";
static const char base_huge[] = "{\"model_type\":\"llama\",\"hidden_size\":134217728,\"vocab_size\":1000,\"num_hidden_layers\":1,"
    "\"intermediate_size\":128,\"num_attention_heads\":65536,\"num_key_value_heads\":1}";
static const char base_mistral[] = "{\"model_type\":\"mistral\",\"hidden_size\":256,\"vocab_size\":1000,\"num_hidden_layers\":4,"
    "\"intermediate_size\":896,\"num_attention_heads\":8,\"num_key_value_heads\":2}";
static const char base_llama[] = "{\"model_type\":\"llama\",\"hidden_size\":256,\"vocab_size\":1000,\"num_hidden_layers\":4,"
    "\"intermediate_size\":896,\"num_attention_heads\":8}";
static const char base_gptq[] = "{\"model_type\":\"llama\",\"hidden_size\":256,\"vocab_size\":1000,\"num_hidden_layers\":4,"
    "\"intermediate_size\":896,\"num_attention_heads\":8,\"quantization_config\":{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":128}}";
static const char base_ct[] = "{\"model_type\":\"llama\",\"hidden_size\":256,\"vocab_size\":1000,\"num_hidden_layers\":4,"
    "\"intermediate_size\":896,\"num_attention_heads\":8,\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"config_groups\":"
    "{\"group_0\":{\"targets\":[\"Linear\"],\"weights\":{\"num_bits\":4,\"type\":\"int\",\"symmetric\":true,\"strategy\":\"group\","
    "\"group_size\":128,\"actorder\":null}}}}}";
static const char base_vl[] = "{\"model_type\":\"qwen3_vl\",\"tie_word_embeddings\":true,\"text_config\":{\"hidden_size\":256,\"vocab_size\":1000,"
    "\"num_hidden_layers\":4,\"intermediate_size\":896,\"num_attention_heads\":8,\"num_key_value_heads\":2,\"head_dim\":48},"
    "\"vision_config\":{\"hidden_size\":7}}";
static const char base_alien[] = "{\"model_type\":\"alien\",\"hidden_size\":256,\"vocab_size\":1000,\"num_hidden_layers\":4,"
    "\"intermediate_size\":896,\"num_attention_heads\":8,\"num_key_value_heads\":2}";

typedef struct field_case { const char *base, *path, *value, *message; } field_case;   /* message NULL: accepted */

static const field_case field_table[] = {
    { base_qwen2, "x", "1", NULL },
    { base_qwen2, "hidden_size", NULL, "hidden_size: found nothing, expected an integer from 1 to 134217728" },
    { base_qwen2, "hidden_size", "null", "hidden_size: found nothing" },
    { base_qwen2, "hidden_size", "0", "hidden_size: found 0" },
    { base_qwen2, "hidden_size", "-256", "hidden_size: found -256" },
    { base_qwen2, "hidden_size", "256.0", "hidden_size: found 256.0" },
    { base_qwen2, "hidden_size", "\"256\"", "hidden_size: found \"256\"" },
    { base_qwen2, "hidden_size", "[256]", "hidden_size: found " },
    { base_qwen2, "hidden_size", "9223372036854775807", "hidden_size: found 9223372036854775807" },
    { base_qwen2, "hidden_size", "9223372036854775808", "json-number" },
    { base_qwen2, "vocab_size", NULL, "vocab_size: found nothing" },
    { base_qwen2, "vocab_size", "true", "vocab_size: found true" },
    { base_qwen2, "num_hidden_layers", "0", "num_hidden_layers: found 0, expected an integer from 1 to 10000" },
    { base_qwen2, "num_hidden_layers", "2147483648", "num_hidden_layers: found 2147483648" },
    { base_qwen2, "num_hidden_layers", "10001", "num_hidden_layers: found 10001" },
    { base_qwen2, "num_attention_heads", "0", "num_attention_heads: found 0" },
    { base_qwen2, "num_attention_heads", "6", "config-heads: num_attention_heads: found 6, expected a divisor of hidden_size 256 (there is no head_dim)" },
    { base_qwen2, "num_attention_heads", "3", "num_key_value_heads: found 2, expected a divisor of num_attention_heads 3" },
    { base_qwen2, "num_key_value_heads", "0", "num_key_value_heads: found 0" },
    { base_qwen2, "num_key_value_heads", "16", "num_key_value_heads: found 16, expected a divisor of num_attention_heads 8" },
    { base_qwen2, "num_key_value_heads", NULL, "num_key_value_heads: found nothing" },
    { base_qwen2, "head_dim", "0", "head_dim: found 0" },
    { base_qwen2, "head_dim", "40", NULL },
    { base_qwen2, "head_dim", "null", NULL },
    { base_qwen2, "intermediate_size", "0", "intermediate_size: found 0" },
    { base_qwen2, "intermediate_size", NULL, "intermediate_size: found nothing" },
    { base_qwen2, "model_type", NULL, "model_type: found nothing" },
    { base_qwen2, "model_type", "7", "model_type: found 7" },
    { base_qwen2, "model_type", "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"", "expected a short string" },
    { base_qwen2, "architectures", "\"Qwen2ForCausalLM\"", "architectures: found " },
    { base_qwen2, "architectures", "[1]", "architectures: found [1]" },
    { base_qwen2, "architectures", "null", NULL },
    { base_qwen2, "rms_norm_eps", "0", "rms_norm_eps: found 0, expected a number above 0" },
    { base_qwen2, "rms_norm_eps", "-1e-06", "rms_norm_eps: found " },
    { base_qwen2, "rms_norm_eps", "\"1e-6\"", "rms_norm_eps: found " },
    { base_qwen2, "rms_norm_eps", "1e400", "json-number" },
    { base_qwen2, "rope_theta", "-1", "rope_theta: found -1" },
    { base_qwen2, "rope_theta", "true", "rope_theta: found true" },
    { base_qwen2, "rope_theta", "1000000", NULL },
    { base_qwen2, "rope_scaling", "{\"type\":\"yarn\",\"factor\":4.0}", NULL },
    { base_qwen2, "rope_scaling", "{\"type\":\"yarn\",\"factor\":\"4\"}", "json-field: rope_scaling.factor: found \"4\", expected a number above 0" },
    { base_qwen2, "rope_scaling", "[]", "rope_scaling: found [], expected an object or null" },
    { base_qwen2, "rope_parameters", "{\"rope_theta\":0}", "json-field: rope_parameters.rope_theta: found 0" },
    { base_qwen2, "tie_word_embeddings", "1", "tie_word_embeddings: found 1, expected true or false" },
    { base_qwen2, "torch_dtype", "16", "torch_dtype: found 16" },
    { base_qwen2, "use_sliding_window", "\"no\"", "use_sliding_window: found \"no\"" },
    { base_qwen2, "layer_types", "[\"full_attention\"]", "layer_types: found 1 entries, expected 4 (num_hidden_layers)" },
    { base_qwen2, "layer_types", "{}", "layer_types: found no list" },
    { base_qwen2, "layer_types", "[\"full_attention\",\"full_attention\",1,\"x\"]", "layer_types: found 1, expected strings" },
    { base_qwen2, "num_experts", "0", NULL },   /* no such key in this family */
    { base_moe, "num_experts", "0", "num_experts: found 0" },
    { base_moe, "num_experts", NULL, "num_experts: found nothing" },
    { base_moe, "num_experts", "100000", "num_experts: found 100000" },
    { base_moe, "num_local_experts", "8", NULL },
    { base_moe, "num_local_experts", "9", "config-experts: num_local_experts: found 9, expected num_experts 8" },
    { base_moe, "num_experts_per_tok", "9", "config-experts: num_experts_per_tok: found 9, expected at most 8 (the experts)" },
    { base_moe, "num_experts_per_tok", "0", "num_experts_per_tok: found 0" },
    { base_moe, "moe_intermediate_size", NULL, "moe_intermediate_size: found nothing" },
    { base_moe, "shared_expert_intermediate_size", "0", "shared_expert_intermediate_size: found 0" },
    { base_moe, "intermediate_size", NULL, NULL },   /* no dense layer, nothing is missing */
    { base_moe, "decoder_sparse_step", "0", "decoder_sparse_step: found 0" },
    { base_moe, "mlp_only_layers", "[4]", "mlp_only_layers: found 4, expected layer numbers below num_hidden_layers" },
    { base_moe, "mlp_only_layers", "[-1]", "mlp_only_layers: found -1" },
    { base_moe, "mlp_only_layers", "[0.5]", "mlp_only_layers: found 0.5" },
    { base_moe, "mlp_only_layers", "3", "mlp_only_layers: found 3, expected a list of layer numbers" },
    { base_moe, "hidden_size", "134217728", "head_dim: found hidden_size / num_attention_heads = 16777216, expected at most 65536" },
    { base_huge, "num_hidden_layers", "1", NULL },
    { base_huge, "num_hidden_layers", "10000", "model-size: found lengths that multiply to more than 2^56 parameters" },
    { base_huge, "vocab_size", "134217728", "model-size: " },
    { base_llama, "num_key_value_heads", "4", NULL },
    { base_llama, "attention_bias", "\"true\"", "attention_bias: found \"true\"" },
    { base_llama, "quantization_config", "null", NULL },
    { base_llama, "quantization_config", "4", "quantization_config: found 4, expected an object" },
    { base_llama, "quantization_config", "{\"bits\":4}", "quant_method: found nothing" },
    { base_llama, "quantization_config", "{\"quant_method\":4}", "quant_method: found 4" },
    { base_llama, "quantization_config", "{\"quant_method\":\"aqlm\"}", NULL },
    { base_llama, "quantization_config", "{\"quant_method\":\"fp8\",\"weight_block_size\":[128,0]}", "weight_block_size: found [128,0], expected two positive numbers" },
    { base_llama, "quantization_config", "{\"quant_method\":\"fp8\",\"weight_block_size\":[128]}", "weight_block_size: found [128]" },
    { base_llama, "quantization_config", "{\"quant_method\":\"fp8\",\"weight_block_size\":128}", "weight_block_size: found 128" },
    { base_gptq, "quantization_config.bits", "5.0", "bits: found 5.0" },
    { base_gptq, "quantization_config.bits", "16", "bits: found 16" },
    { base_gptq, "quantization_config.bits", NULL, "bits: found nothing" },
    { base_gptq, "quantization_config.group_size", "0", "group_size: found 0, expected -1 or a positive number" },
    { base_gptq, "quantization_config.group_size", "-2", "group_size: found -2" },
    { base_gptq, "quantization_config.group_size", "96", "config-group: group_size: found 96, expected a divisor of hidden_size 256" },
    { base_gptq, "quantization_config.group_size", "256", "config-group: group_size: found 256, expected a divisor of intermediate_size 896" },
    { base_gptq, "quantization_config.group_size", NULL, "group_size: found nothing" },
    { base_gptq, "quantization_config.sym", "\"yes\"", "sym: found \"yes\"" },
    { base_gptq, "quantization_config.group_size", "-1", NULL },
    { base_ct, "x", "0", NULL },
    { base_ct, "quantization_config.config_groups.group_0.weights.group_size", "0", "group_size: found 0" },
    { base_ct, "quantization_config.config_groups.group_0.weights.group_size", "100", "found 100, expected a divisor of hidden_size 256" },
    { base_ct, "quantization_config.config_groups.group_0.weights", "null", "config_groups: found " },
    { base_ct, "quantization_config.config_groups.group_0", "1", "config_groups: found 1, expected objects" },
    { base_ct, "quantization_config.config_groups", "[]", "config_groups: found []" },
    { base_vl, "x", "0", NULL },
    { base_vl, "text_config.num_attention_heads", "0", "num_attention_heads: found 0" },
    { base_vl, "hidden_size", "256", NULL },
    { base_vl, "hidden_size", "255", "hidden_size: found 255, expected 256 as in text_config" },
    { base_vl, "text_config", "[]", "text_config: found [], expected an object" },
    { base_vl, "text_config", "{}", "hidden_size: found nothing" },
    { base_alien, "x", "1", NULL },
    { base_alien, "intermediate_size", NULL, "intermediate_size: found nothing" },
    { base_alien, "num_local_experts", "4", "num_experts_per_tok: found nothing" },
};

static void test_fields(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof field_table / sizeof field_table[0]; i++) {
        const field_case *c = &field_table[i];
        const fqi_edit edit = { c->path, c->value };
        char *text;
        size_t n;
        fqi_config out;
        fq_err e = { .code = FQ_OK };
        if (fqi_json_edit(c->base, strlen(c->base), "f", &edit, 1, &text, &n, &e) != FQ_OK) fail_msg("%s", e.text);
        fq_status s = fqi_config_parse(text, n, "dir/config.json", &out, &e);
        if ((s == FQ_OK) != (c->message == NULL)) fail_msg("%s = %s: status %d: %s", c->path, c->value, (int)s, e.text);
        if (s == FQ_OK) {
            fqi_config_free(&out);
        } else {
            assert_int_equal(s, FQ_E_INPUT);
            assert_memory_equal(e.text, "dir/config.json: ", 17);
            if (!strstr(e.text, c->message)) fail_msg("%s = %s: found \"%s\", expected \"%s\"", c->path, c->value, e.text, c->message);
        }
        free(text);
    }
}

static void parse(const char *base, const char *path, const char *value, fqi_config *out)
{
    const fqi_edit edit = { path, value };
    char *text;
    size_t n;
    fq_err e;
    assert_int_equal(fqi_json_edit(base, strlen(base), "f", &edit, 1, &text, &n, &e), FQ_OK);
    if (fqi_config_parse(text, n, "f", out, &e) != FQ_OK) fail_msg("%s", e.text);
    free(text);
}

/* Layer i is sparse iff it is not listed and (i + 1) % step == 0. */
static void test_sparse_layers(void **state)
{
    (void)state;
    static const struct { const char *path, *value; bool sparse[4]; } table[] = {
        { "x", "0", { true, true, true, true } },
        { "decoder_sparse_step", "2", { false, true, false, true } },
        { "mlp_only_layers", "[0,3]", { false, true, true, false } },
        { "decoder_sparse_step", "5", { false, false, false, false } },
    };
    for (size_t i = 0; i < 4; i++) {
        fqi_config c;
        int64_t n = 0;
        parse(base_moe, table[i].path, table[i].value, &c);
        for (size_t l = 0; l < 4; l++) {
            assert_int_equal(c.layer_is_sparse[l], table[i].sparse[l]);
            n += table[i].sparse[l];
        }
        assert_int_equal(c.model.n_moe_layer, n);
        assert_int_equal(c.model.intermediate_size, n < 4 ? 896 : 0);
        assert_int_equal(c.model.moe_intermediate_size, n ? 128 : 0);
        fqi_config_free(&c);
    }
}

static void test_window(void **state)
{
    (void)state;
    static const struct { const char *base, *path, *value; bool window; } table[] = {
        { base_qwen2, "x", "0", false },
        { base_qwen2, "use_sliding_window", "true", false },  /* max_window_layers absent: Qwen2Config's default is 28 */
        { base_qwen2, "layer_types", "[\"full_attention\",\"full_attention\",\"sliding_attention\",\"full_attention\"]", true },
        { base_llama, "sliding_window", "4096", false },
        { base_mistral, "sliding_window", "4096", true },
        { base_mistral, "sliding_window", "null", false },
        { base_mistral, "x", "0", true },                     /* MistralConfig's default is 4096... */
        { base_mistral, "layer_types", "[\"full_attention\",\"full_attention\",\"full_attention\",\"full_attention\"]", false },
        { base_mixtral, "x", "0", false },                    /* ...and MixtralConfig's is none */
        { base_alien, "sliding_window", "4096", true },
        { base_alien, "sliding_window", "null", false },
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        fqi_config c;
        parse(table[i].base, table[i].path, table[i].value, &c);
        assert_int_equal(c.model.sliding_window, table[i].window);
        fqi_config_free(&c);
    }
}

static void test_llama_defaults(void **state)
{
    (void)state;
    fqi_config c;
    parse(base_llama, "attention_bias", "true", &c);
    assert_int_equal(c.model.num_key_value_heads, 8);
    assert_true(c.model.q_bias && c.model.kv_bias && c.model.o_bias && !c.model.mlp_bias);
    fqi_config_free(&c);
    parse(base_llama, "mlp_bias", "true", &c);
    assert_true(c.model.mlp_bias && !c.model.q_bias);
    fqi_config_free(&c);
}

/* What the planner is told beside lengths; a number that is odd but positive is no reason to refuse a model. */
static void test_positions_and_towers(void **state)
{
    (void)state;
    static const struct { const char *path, *value; int64_t positions; bool tower; } table[] = {
        { "x", "0", 0, false },
        { "max_position_embeddings", "null", 0, false },
        { "max_position_embeddings", "40960", 40960, false },
        { "max_position_embeddings", "4096.0", 4096, false },
        { "max_position_embeddings", "9223372036854775807", INT64_C(1) << 40, false },
        { "max_position_embeddings", "1e300", INT64_C(1) << 40, false },
        { "vision_config", "{\"depth\": 32}", 0, true },
        { "audio_config", "{}", 0, true },
        { "vision_config", "null", 0, false },
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        fqi_config c;
        parse(base_llama, table[i].path, table[i].value, &c);
        assert_int_equal(c.model.max_position_embeddings, table[i].positions);
        assert_int_equal(c.model.vision_tower, table[i].tower);
        fqi_config_free(&c);
    }
}

static void test_paths(void **state)
{
    (void)state;
    fqi_config c;
    char path[2][FQI_CONFIG_PATH_MAX];
    parse(base_vl, "hidden_size", "256", &c);
    assert_true(c.text_in_sub && c.model.tie_word_embeddings);
    assert_int_equal(fqi_config_paths(&c, "hidden_size", path), 2);
    assert_string_equal(path[0], "text_config.hidden_size");
    assert_string_equal(path[1], "hidden_size");
    assert_int_equal(fqi_config_paths(&c, "head_dim", path), 1);
    assert_string_equal(path[0], "text_config.head_dim");
    assert_int_equal(fqi_config_paths(&c, "attention_bias", path), 0);
    assert_string_equal(path[0], "text_config.attention_bias");
    fqi_config_free(&c);
    parse(base_mixtral, "x", "0", &c);
    assert_int_equal(c.model.moe_intermediate_size, 896);
    assert_int_equal(c.model.intermediate_size, 0);
    assert_int_equal(fqi_config_paths(&c, "moe_intermediate_size", path), 1);
    assert_string_equal(path[0], "intermediate_size");
    assert_int_equal(fqi_config_paths(&c, "num_experts", path), 1);
    assert_string_equal(path[0], "num_local_experts");
    fqi_config_free(&c);
}

/* A folder without config.json, a FIFO in its place, nothing at all. */
static void test_not_a_config(void **state)
{
    (void)state;
    char *dir = fqt_tempdir(), *path = fqt_join(dir, "config.json");
    fq_model m = { .hidden_size = 7 };
    fq_err e;
    assert_int_equal(fq_model_read(dir, &m, &e), FQ_E_IO);
    assert_non_null(strstr(e.text, path));
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(fq_model_read(dir, &m, &e), FQ_E_INPUT);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_true(fq_model_read(dir, &m, &e) != FQ_OK);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rmdir(dir), 0);
    assert_true(fq_model_read(dir, &m, &e) != FQ_OK);
    assert_int_equal(m.hidden_size, 7);   /* outputs are untouched on failure */
    assert_int_equal(fq_model_read(NULL, &m, &e), FQ_E_USAGE);
    free(path);
    free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real),
        cmocka_unit_test(test_real_quant),
        cmocka_unit_test(test_all_published),
        cmocka_unit_test(test_flags),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_sparse_layers),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_llama_defaults),
        cmocka_unit_test(test_positions_and_towers),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_not_a_config),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
