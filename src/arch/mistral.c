/* mistral.c - Mistral 7B and its fine-tunes: llama without any bias, with a window unless sliding_window is null.
 *
 * Without a window it is the same function as a llama. A file without the key has one: MistralConfig fills in 4096. Source:
 * transformers models/mistral. */
#include "arch/table.h"

static const char *const architecture[] = { "MistralForCausalLM", NULL };

static const fqi_row row[] = {
    FQI_ROWS_BODY,
    FQI_ROWS_ATTENTION,
    FQI_ROWS_MLP,
};

static const fqi_config_rules rules = { .window = FQI_WINDOW_UNLESS_NULL, .rope_theta = 10000, .sliding_window = 4096 };

const fqi_family fqi_family_mistral = {
    .name = "mistral",
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
