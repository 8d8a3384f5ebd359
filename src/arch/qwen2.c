/* qwen2.c - Qwen1.5, Qwen2 and Qwen2.5, dense text models.
 *
 * Bias on q, k and v, never on o. The class has no head_dim of its own: transformers honours the key when config.json has it,
 * vLLM computes hidden_size / heads, so a model whose heads were padded is written as the llama that it equals
 * (docs/padding.md). Source: transformers models/qwen2. */
#include "arch/table.h"

static const char *const architecture[] = { "Qwen2ForCausalLM", NULL };

static const fqi_row row[] = {
    FQI_ROWS_BODY,
    FQI_ROWS_ATTENTION,
    FQI_ROWS_QKV_BIAS,
    FQI_ROWS_MLP,
};

static const fqi_config_rules rules = { .bias = FQI_BIAS_QKV, .window = FQI_WINDOW_USE_FROM, .rope_theta = 10000,
    .max_window_layers = 28 };

const fqi_family fqi_family_qwen2 = {
    .name = "qwen2",
    .architecture = architecture,
    .row = row, .n_row = FQI_COUNT(row),
    .body_prefix = fqi_body_model,
    .pass_prefix = fqi_no_pass_prefix,
    .pass_suffix = fqi_stray_buffer,
    .text_config = "",
    .rules = &rules,
    .qkv_bias_default = true,
    .can_be_llama = true,
};
