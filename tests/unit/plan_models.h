/* plan_models.h - models by their numbers, for planner tests. Dimensions are those of the published config.json. */
#ifndef FITQ_TEST_PLAN_MODELS_H
#define FITQ_TEST_PLAN_MODELS_H

#include <stdint.h>
#include <stdio.h>

#include "fitq.h"

/* type: model_type; known: it is a family that fitq pads. */
#define FAMILY_0(type) ""
#define FAMILY_1(type) type
#define MODEL(type, known, H, L, V, h, kv, hd, ...) \
    { .model_type = type, .family = FAMILY_##known(type), .hidden_size = (H), .num_hidden_layers = (L), .vocab_size = (V), \
      .num_attention_heads = (h), .num_key_value_heads = (kv), .head_dim = (hd), __VA_ARGS__ }
#define DENSE(I, L) .intermediate_size = (I), .n_dense_layer = (L)
#define MOE(I, E, L) .moe_intermediate_size = (I), .num_experts = (E), .num_experts_per_tok = 8, .n_moe_layer = (L)

#define QWEN2_72B MODEL("qwen2", 1, 8192, 80, 152064, 64, 8, 128, DENSE(29568, 80), .q_bias = true, .kv_bias = true)
#define QWEN2_7B MODEL("qwen2", 1, 3584, 28, 152064, 28, 4, 128, DENSE(18944, 28), .q_bias = true, .kv_bias = true)
#define QWEN25_05B \
    MODEL("qwen2", 1, 896, 24, 151936, 14, 2, 64, DENSE(4864, 24), .q_bias = true, .kv_bias = true, .tie_word_embeddings = true)
#define QWEN15_14B MODEL("qwen2", 1, 5120, 40, 152064, 40, 40, 128, DENSE(13696, 40), .q_bias = true, .kv_bias = true)
#define QWEN15_32B MODEL("qwen2", 1, 5120, 64, 152064, 40, 8, 128, DENSE(27392, 64), .q_bias = true, .kv_bias = true)
#define LLAMA31_8B MODEL("llama", 1, 4096, 32, 128256, 32, 8, 128, DENSE(14336, 32))
#define CODELLAMA_7B MODEL("llama", 1, 4096, 32, 32016, 32, 32, 128, DENSE(11008, 32))
#define QWEN3_30B MODEL("qwen3_moe", 1, 2048, 48, 151936, 32, 4, 128, MOE(768, 128, 48), .qk_norm = true, .head_dim_explicit = true)
#define QWEN3_235B MODEL("qwen3_moe", 1, 4096, 94, 151936, 64, 4, 128, MOE(1536, 128, 94), .qk_norm = true, .head_dim_explicit = true)
#define MIXTRAL_8X7B MODEL("mixtral", 1, 4096, 32, 32000, 32, 8, 128, MOE(14336, 8, 32))
#define QWEN3_NEXT \
    MODEL("qwen3_next", 0, 2048, 48, 151936, 16, 2, 256, MOE(512, 512, 48), .shared_expert_intermediate_size = 512, .qk_norm = true)
#define DEEPSEEK_R1 \
    MODEL("deepseek_v3", 0, 7168, 61, 129280, 128, 128, 56, .intermediate_size = 18432, .n_dense_layer = 3, .moe_intermediate_size = 2048, \
          .num_experts = 256, .n_moe_layer = 58, .shared_expert_intermediate_size = 2048)
#define DEEPSEEK_V2_LITE \
    MODEL("deepseek_v2", 0, 2048, 27, 102400, 16, 16, 128, .intermediate_size = 10944, .n_dense_layer = 1, .moe_intermediate_size = 1408, \
          .num_experts = 64, .n_moe_layer = 26, .shared_expert_intermediate_size = 2816)
#define FALCON_7B MODEL("falcon", 0, 4544, 32, 65024, 71, 1, 64, DENSE(18176, 32), .tie_word_embeddings = true)
/* A dense model whose heads and vocabulary stand in nobody's way, for rows that give only the MLP. */
#define ONLY_FF(I) MODEL("llama", 1, 6144, 2, 49152, 48, 48, 128, DENSE(I, 2))
#define ONLY_MOE(I, E) MODEL("qwen3_moe", 1, 6144, 2, 49152, 48, 48, 128, MOE(I, E, 2))
#define ONLY_HEADS(h, kv) MODEL("llama", 1, (h) * 128, 2, 46080, h, kv, 128, DENSE(46080, 2))
#define ONLY_VOCAB(V) MODEL("llama", 1, 6144, 2, V, 48, 48, 128, DENSE(46080, 2))

#endif
