/* foreign.c - config.json of families that fitq plans for but has no tensor table of.
 *
 * A plan needs lengths only, so these models can be judged; they cannot be padded. What stands here is how each of them spells
 * the usual fields. A model_type that is not listed is read by the stranger's rules: the common spellings, and no claim about
 * what its layers hold. Sources: huggingface/transformers models/<model_type>/configuration_*.py, and for "qwen" and the
 * DeepSeek line the modeling code published with the models. */
#include <string.h>

#include "arch/table.h"

static const fqi_config_rules foreign[] = {
    /* Qwen 1: w1 and w2 are the up and gate projections and have half of intermediate_size each (14B: 27392 = 2 x 13696); one
     * c_attn for q, k, v with a bias; as many KV heads as heads. */
    { .model_type = "qwen", .bias = FQI_BIAS_QKV, .head_dim = "kv_channels", .kv_is_heads = true, .halved_width = true },
    { .model_type = "gpt_oss", .bias = FQI_BIAS_ATTENTION, .window = FQI_WINDOW_KEY, .sparse = FQI_SPARSE_ALL,
      .expert_width = "intermediate_size" },
    { .model_type = "glm4_moe", .bias = FQI_BIAS_ATTENTION_QKV, .sparse = FQI_SPARSE_FROM, .shared = FQI_SHARED_COUNT },
    { .model_type = "deepseek_v2", .sparse = FQI_SPARSE_FROM, .shared = FQI_SHARED_COUNT, .latent = true },
    { .model_type = "deepseek_v3", .sparse = FQI_SPARSE_FROM, .shared = FQI_SHARED_COUNT, .latent = true },
    { .model_type = "kimi_k2", .sparse = FQI_SPARSE_FROM, .shared = FQI_SHARED_COUNT, .latent = true },
    /* Llama 4: intermediate_size is an expert's width and the shared expert's; dense layers have intermediate_size_mlp. */
    { .model_type = "llama4", .bias = FQI_BIAS_ATTENTION, .sparse = FQI_SPARSE_INTERLEAVE, .shared = FQI_SHARED_ONE,
      .expert_width = "intermediate_size", .dense_width = "intermediate_size_mlp" },
    { .model_type = "qwen3_next", .bias = FQI_BIAS_ATTENTION, .sparse = FQI_SPARSE_STEP, .shared = FQI_SHARED_KEY,
      .qk_norm = true },
    { .model_type = "qwen3_5", .bias = FQI_BIAS_ATTENTION, .qk_norm = true },
    { .model_type = "qwen3_5_moe", .bias = FQI_BIAS_ATTENTION, .sparse = FQI_SPARSE_ALL, .shared = FQI_SHARED_OPTIONAL,
      .qk_norm = true },
    { .model_type = "qwen3_vl_moe", .bias = FQI_BIAS_ATTENTION, .sparse = FQI_SPARSE_STEP, .head_dim_default = 128,
      .qk_norm = true },
};

static const fqi_config_rules stranger = { .bias = FQI_BIAS_ATTENTION, .window = FQI_WINDOW_ANY, .sparse = FQI_SPARSE_ANY,
    .shared = FQI_SHARED_OPTIONAL };

const fqi_config_rules *fqi_foreign_rules(const char *model_type)
{
    for (size_t i = 0; i < FQI_COUNT(foreign); i++)
        if (strcmp(foreign[i].model_type, model_type) == 0) return &foreign[i];
    return &stranger;
}
