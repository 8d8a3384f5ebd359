/* llama.c - Llama 1 to 3, and whatever is written as LlamaForCausalLM.
 *
 * attention_bias puts a bias on q, k, v and o, mlp_bias on gate, up and down. The key num_key_value_heads is missing from old configs and
 * then equals num_attention_heads. Source: transformers models/llama. */
#include "arch/table.h"

static const char *const architecture[] = { "LlamaForCausalLM", NULL };

static const fqi_row row[] = {
    FQI_ROWS_BODY,
    FQI_ROWS_ATTENTION,
    FQI_ROWS_QKV_BIAS,
    FQI_ROWS_O_BIAS,
    FQI_ROWS_MLP,
    { FQI_LAYER, "mlp.gate_proj.bias", "gate_bias", FQI_IF_MLP_BIAS, 1, FQI_DIM1(FF) },
    { FQI_LAYER, "mlp.up_proj.bias", "up_bias", FQI_IF_MLP_BIAS, 1, FQI_DIM1(FF) },
    { FQI_LAYER, "mlp.down_proj.bias", "down_bias", FQI_IF_MLP_BIAS, 1, FQI_DIM1(HIDDEN) },
};

static const fqi_config_rules rules = { .bias = FQI_BIAS_ATTENTION, .mlp_bias = true, .kv_is_heads = true, .rope_theta = 10000 };

const fqi_family fqi_family_llama = {
    .name = "llama",
    .architecture = architecture,
    .row = row, .n_row = FQI_COUNT(row),
    .body_prefix = fqi_body_model,
    .pass_prefix = fqi_no_pass_prefix,
    .pass_suffix = fqi_stray_buffer,
    .text_config = "",
    .rules = &rules,
    .head_dim_from_config = true,
    .can_be_llama = true,
};
