/* engines.c - the tables: engines, and the rules that they put on shapes.
 *
 * Every row names where the engine states the rule (file at a commit, or an issue); "inferred" marks the few that follow from an
 * engine's own rules without being written there. A rule that an engine dropped stays in the row of the older version, because people
 * run both. What is not here: kernels of one graphics card generation, unless a whole format depends on them. */
#include "plan/engines.h"

#include <string.h>

#define VLLM_ANY (FQI_E_VLLM | FQI_E_VLLM_2025)
#define VLLM_LIKE (VLLM_ANY | FQI_E_SGLANG)
#define GPTQ_ANY (FQI_F_GPTQ | FQI_F_GPTQ_MARLIN)
#define AWQ_ANY (FQI_F_AWQ | FQI_F_AWQ_MARLIN)
#define CT_ANY (FQI_F_CT_INT4 | FQI_F_CT_INT8)
#define INT_ANY (GPTQ_ANY | AWQ_ANY | CT_ANY)
#define PLAIN (FQI_F_GPTQ | FQI_F_AWQ)
#define MARLIN (FQI_F_GPTQ_MARLIN | FQI_F_AWQ_MARLIN | CT_ANY)
#define MARLIN_CHECKED (FQI_F_AWQ_MARLIN | CT_ANY)
#define FP4 (FQI_F_NVFP4 | FQI_F_MXFP4)
#define L_BUT_EXPERT_DOWN (FQI_L_ALL & ~FQI_L_EXPERT_DOWN) /* those have a rule of their own */
#define L_GATED (FQI_L_GATE_UP | FQI_L_SHARED_GATE_UP)
#define NOT_GGUF (FQI_F_ALL & ~FQI_F_GGUF_K)

/* docs.vllm.ai engine_args. Other engines take shares of what is free after loading, which is no share of the whole. */
#define VLLM_MEMORY .memory_share = 0.9, .memory_setting = "gpu_memory_utilization"
/* huggingface/text-generation-inference@db931fcf has no word of FP4; InternLM/lmdeploy@1263d5c turbomind/converter.py lists its own. */
#define TGI_LOADS (FQI_F_ALL & ~(FQI_F_GGUF_K | FP4))
#define LMDEPLOY_LOADS (FQI_F_BF16 | FQI_F_FP16 | GPTQ_ANY | AWQ_ANY | FQI_F_CT_INT4 | FQI_F_FP8_BLOCK | FQI_F_MXFP4)

static const fqi_engine engines[] = {
    { .info = { "vllm", "vLLM", "since June 2026 (Marlin tiles padded at load)",
                "vllm-project/vllm#45295, #45703", true },
      .judged = NOT_GGUF, .loads = FQI_F_ALL, .splits = true, .expert_parallel = true, VLLM_MEMORY },
    { .info = { "vllm-2025", "vLLM", "before June 2026", "vllm-project/vllm@007d5005", false },
      .judged = NOT_GGUF, .loads = FQI_F_ALL, .splits = true, .expert_parallel = true, VLLM_MEMORY },
    { .info = { "sglang", "SGLang (GPU)", "2026", "sgl-project/sglang@006d0961", true },
      .judged = NOT_GGUF, .loads = FQI_F_ALL, .splits = true, .expert_parallel = true },
    { .info = { "transformers", "transformers, tp_plan=auto", "4.50 to 5", "huggingface/transformers#48307", false },
      .judged = FQI_F_BF16 | FQI_F_FP16, .loads = FQI_F_ALL, .splits = true },
    { .info = { "tgi", "text-generation-inference", "3", "huggingface/text-generation-inference#3005", false },
      .judged = FQI_F_BF16 | FQI_F_FP16 | GPTQ_ANY | AWQ_ANY, .loads = TGI_LOADS, .splits = true },
    { .info = { "lmdeploy", "LMDeploy TurboMind", "2026", "InternLM/lmdeploy turbomind/builders/ffn.py", false },
      .judged = FQI_F_BF16 | FQI_F_FP16 | GPTQ_ANY | AWQ_ANY, .loads = LMDEPLOY_LOADS, .splits = true },
    { .info = { "tensorrt-llm", "TensorRT-LLM", "since September 2026 (FP4 groups)", "NVIDIA/TensorRT-LLM#18870", false },
      .judged = FQI_F_BF16 | FQI_F_FP16 | FQI_F_CT_INT8 | FQI_F_FP8 | FP4, .loads = NOT_GGUF, .splits = true, .expert_parallel = true },
    { .info = { "llama.cpp", "llama.cpp", "2026", "ggml-org/llama.cpp src/llama-quant.cpp", false },
      .judged = FQI_F_BF16 | FQI_F_FP16 | FQI_F_GGUF_K, .loads = FQI_F_BF16 | FQI_F_FP16 | FQI_F_GGUF_K },
};
enum { N_ENGINE = sizeof engines / sizeof *engines };

/* ---- the places that state rules, named once ------------------------------------------------------------------- */

#define SRC_LINEAR "vllm-project/vllm vllm/model_executor/layers/linear.py"
#define SRC_VOCAB "vllm-project/vllm vllm/model_executor/layers/vocab_parallel_embedding.py"
#define SRC_MARLIN "vllm-project/vllm@007d5005 quantization/utils/marlin_utils.py"
#define SRC_TILE_PAD "vllm-project/vllm#45295, #45703"
#define SRC_SG_GPTQ "sgl-project/sglang@006d0961 quantization/gptq.py"
#define SRC_SG_REPACK SRC_SG_GPTQ "; @b8c42bd sgl-kernel/csrc/gemm/marlin/gptq_marlin_repack.cu"
#define SRC_SG_GEMM SRC_SG_GPTQ "; @9e738db sgl-kernel/csrc/gemm/marlin/gptq_marlin.cu determine_exec_config"
#define SRC_SG_MARLIN "sgl-project/sglang copy of marlin_utils.py"
#define SRC_FP8 "vllm-project/vllm quantization/utils/fp8_utils.py validate_fp8_block_shape"
#define TXT_HEADS "Total number of attention heads (H) must be divisible by tensor parallel size (T)"
#define TXT_ALIGNED "The input size is not aligned with the quantized weight shape. This can be caused by too large tensor parallel size."
#define TXT_TILE_K "Weight input_size_per_partition = K is not divisible by min_thread_k = 128."
#define TXT_TILE_N "Weight output_size_per_partition = N is not divisible by min_thread_n = 64."
#define TXT_REPACK "size_n = N is not divisible by tile_n_size = 64"
#define TXT_CONFIG "Invalid thread config"
#define TXT_BLOCK_N "Weight output_partition_size = N is not divisible by weight quantization block_n = 128."
#define TXT_BLOCK_K "Weight input_size_per_partition = K is not divisible by weight quantization block_k = 128."
#define TXT_MOE_BLOCK "The output_size of gate's and up's weight = N is not divisible by weight quantization block_n = 128."
#define TXT_MOE_K "size_k must divisible by BLOCK_SIZE_K"

static const fqi_rule rules[] = {
    /* -- heads -- */
    { .name = "heads-split", .engines = VLLM_ANY, .formats = FQI_F_ALL, .linears = FQI_L_Q, .check = FQI_CK_HEADS,
      .engine_text = TXT_HEADS, .source = SRC_LINEAR " QKVParallelLinear" },
    { .name = "heads-split", .engines = FQI_E_SGLANG, .formats = FQI_F_ALL, .linears = FQI_L_Q, .check = FQI_CK_HEADS,
      .engine_text = "assert self.total_num_heads % tp_size == 0", .source = "sgl-project/sglang srt/models (attention modules)" },
    { .name = "heads-split", .engines = FQI_E_LMDEPLOY, .formats = FQI_F_ALL, .linears = FQI_L_Q, .check = FQI_CK_HEADS,
      .source = "InternLM/lmdeploy#2114" },
    { .name = "heads-split", .engines = FQI_E_TENSORRT_LLM, .formats = FQI_F_ALL, .linears = FQI_L_Q, .check = FQI_CK_HEADS,
      .source = "NVIDIA/TensorRT-LLM#2198, #2200 (inferred)" },
    { .name = "heads-split", .engines = FQI_E_TGI, .formats = FQI_F_ALL, .linears = FQI_L_Q, .check = FQI_CK_HEADS,
      .source = "huggingface/text-generation-inference#3005" },
    { .name = "heads-split", .engines = FQI_E_TRANSFORMERS, .formats = FQI_F_ALL, .linears = FQI_L_Q, .check = FQI_CK_HEADS,
      .engine_text = "shape '[...]' is invalid for input of size N", .source = "huggingface/transformers#48307" },
    { .name = "kv-split", .engines = VLLM_ANY, .formats = FQI_F_ALL, .linears = FQI_L_KV, .check = FQI_CK_KV_COPY,
      .engine_text = "assert self.total_num_kv_heads % tp_size == 0", .source = SRC_LINEAR " QKVParallelLinear" },
    { .name = "kv-split", .engines = FQI_E_SGLANG, .formats = FQI_F_ALL, .linears = FQI_L_KV, .check = FQI_CK_KV_COPY,
      .engine_text = "assert self.total_num_kv_heads % tp_size == 0", .source = "sgl-project/sglang srt/models (attention modules)" },
    { .name = "kv-split", .engines = FQI_E_LMDEPLOY, .formats = FQI_F_ALL, .linears = FQI_L_KV, .check = FQI_CK_KV_COPY,
      .source = "InternLM/lmdeploy turbomind/builders/attention.py" },
    { .name = "kv-split", .engines = FQI_E_TENSORRT_LLM, .formats = FQI_F_ALL, .linears = FQI_L_KV, .check = FQI_CK_KV_COPY,
      .source = "NVIDIA/TensorRT-LLM#6447" },
    { .name = "kv-split", .engines = FQI_E_TRANSFORMERS, .formats = FQI_F_ALL, .linears = FQI_L_KV, .check = FQI_CK_KV_WHOLE,
      .engine_text = "shape '[...]' is invalid for input of size N", .source = "huggingface/transformers#48307, #47811" },
    { .name = "kv-split", .engines = FQI_E_TGI, .formats = FQI_F_ALL, .linears = FQI_L_KV, .check = FQI_CK_KV_WHOLE,
      .source = "huggingface/text-generation-inference#3005" },
    { .name = "head-dim", .engines = FQI_E_TENSORRT_LLM, .formats = FQI_F_ALL, .linears = FQI_L_Q, .check = FQI_CK_HEAD_DIM,
      .divisor = 8, .engine_text = "Size per head is not a multiple of X", .source = "NVIDIA/TensorRT-LLM#855" },
    /* Whether it applies, whether it is silent, and the source stand in the table of families below. */
    { .name = "head-dim-ignored", .engines = VLLM_LIKE | FQI_E_TGI, .formats = FQI_F_ALL, .linears = FQI_L_Q, .check = FQI_CK_HEAD_DIM_READ,
      .source = "the engine's model of the family" },

    /* -- channels and vocabulary -- */
    { .name = "mlp-split", .engines = VLLM_ANY, .formats = FQI_F_ALL, .linears = FQI_L_ALL_DOWN, .check = FQI_CK_SPLIT,
      .engine_text = "N is not divisible by T", .source = SRC_LINEAR },
    { .name = "mlp-split", .engines = FQI_E_SGLANG, .formats = FQI_F_ALL, .linears = FQI_L_ALL_DOWN, .check = FQI_CK_SPLIT,
      .engine_text = "N is not divisible by T", .source = "sgl-project/sglang srt/layers/linear.py" },
    { .name = "mlp-split", .engines = FQI_E_TGI, .formats = FQI_F_ALL, .linears = FQI_L_ALL_DOWN, .check = FQI_CK_SPLIT,
      .engine_text = "The choosen size N is not compatible with sharding on T shards",
      .source = "huggingface/text-generation-inference#3005" },
    { .name = "mlp-split", .engines = FQI_E_TENSORRT_LLM, .formats = FQI_F_ALL, .linears = FQI_L_ALL_DOWN, .check = FQI_CK_SPLIT,
      .source = "NVIDIA/TensorRT-LLM#16198 (inferred)" },
    { .name = "vocab-split", .engines = VLLM_ANY, .formats = FQI_F_ALL, .check = FQI_CK_VOCAB, .divisor = 64,
      .engine_text = "N is not divisible by T", .source = SRC_VOCAB },
    { .name = "vocab-split", .engines = FQI_E_SGLANG, .formats = FQI_F_ALL, .check = FQI_CK_VOCAB, .divisor = 64,
      .engine_text = "N is not divisible by T", .source = "sgl-project/sglang srt/layers/vocab_parallel_embedding.py" },
    { .name = "vocab-split", .engines = FQI_E_TGI, .formats = FQI_F_ALL, .check = FQI_CK_VOCAB, .divisor = 1,
      .engine_text = "The choosen size N is not compatible with sharding on T shards",
      .source = "huggingface/text-generation-inference#564, #523, #507" },

    /* -- integer groups: a GPU must own whole groups -- */
    { .name = "group-split", .engines = FQI_E_VLLM, .formats = INT_ANY, .linears = L_BUT_EXPERT_DOWN, .check = FQI_CK_K_RANK,
      .divisor = FQI_DIV_GROUP, .engine_text = TXT_ALIGNED, .source = SRC_TILE_PAD " (a group straddling ranks cannot be padded)" },
    { .name = "group-split", .engines = FQI_E_VLLM_2025, .formats = PLAIN, .linears = L_BUT_EXPERT_DOWN, .check = FQI_CK_K_RANK,
      .divisor = FQI_DIV_GROUP, .engine_text = TXT_ALIGNED, .source = "vllm-project/vllm quantization/gptq.py, awq.py; #5675" },
    { .name = "group-split", .engines = FQI_E_VLLM_2025, .formats = MARLIN, .linears = L_BUT_EXPERT_DOWN, .check = FQI_CK_K_RANK,
      .divisor = FQI_DIV_GROUP, .engine_text = "Weight input_size_per_partition = K is not divisible by group_size = G.",
      .source = SRC_MARLIN },
    { .name = "group-split", .engines = FQI_E_SGLANG, .formats = PLAIN, .linears = L_BUT_EXPERT_DOWN, .check = FQI_CK_K_RANK,
      .divisor = FQI_DIV_GROUP, .engine_text = TXT_ALIGNED, .source = SRC_SG_GPTQ },
    /* Rows of scales are rounded down without a word. The kernel divides K of one GPU by them (gptq_marlin.cu): what does not divide stops the first
     * product, what does is computed. Silent here for all, since garbage was reported for one that should have stopped. */
    { .name = "group-split", .engines = FQI_E_SGLANG, .formats = FQI_F_GPTQ_MARLIN, .linears = L_BUT_EXPERT_DOWN, .check = FQI_CK_K_RANK,
      .divisor = FQI_DIV_GROUP, .silent = true,
      .source = SRC_SG_GPTQ " (result of check_marlin_supports_shape dropped); intel/auto-round#643" },
    { .name = "group-split", .engines = FQI_E_SGLANG, .formats = MARLIN_CHECKED, .linears = L_BUT_EXPERT_DOWN, .check = FQI_CK_K_RANK,
      .divisor = FQI_DIV_GROUP, .engine_text = "Weight input_size_per_partition = K is not divisible by group_size = G.",
      .source = SRC_SG_MARLIN },
    { .name = "group-split", .engines = FQI_E_TGI, .formats = GPTQ_ANY | AWQ_ANY, .linears = FQI_L_ALL, .check = FQI_CK_K_RANK,
      .divisor = FQI_DIV_GROUP, .source = "huggingface/text-generation-inference#3005 (scales are sharded too: inferred)" },
    { .name = "group-split", .engines = FQI_E_LMDEPLOY, .formats = GPTQ_ANY | AWQ_ANY, .linears = FQI_L_O, .check = FQI_CK_K_RANK,
      .divisor = FQI_DIV_GROUP, .source = "InternLM/lmdeploy turbomind/builders/attention.py (only the MLP is padded at load: inferred)" },
    { .name = "group-list", .engines = FQI_E_VLLM, .formats = INT_ANY, .check = FQI_CK_GROUP_LIST, .divisor = FQI_LIST_MARLIN,
      .engine_text = "Unsupported group_size", .source = SRC_MARLIN },
    { .name = "group-list", .engines = FQI_E_VLLM_2025 | FQI_E_SGLANG, .formats = MARLIN, .check = FQI_CK_GROUP_LIST,
      .divisor = FQI_LIST_MARLIN, .engine_text = "Unsupported group_size", .source = SRC_MARLIN },
    { .name = "group-list", .engines = FQI_E_LMDEPLOY, .formats = GPTQ_ANY | AWQ_ANY, .check = FQI_CK_GROUP_LIST,
      .divisor = FQI_LIST_128, .engine_text = "unsupported group size", .source = "InternLM/lmdeploy#1560, turbomind/converter.py" },
    { .name = "pack-split", .engines = VLLM_LIKE | FQI_E_TGI, .formats = GPTQ_ANY | AWQ_ANY, .linears = FQI_L_ALL,
      .check = FQI_CK_N_RANK, .divisor = FQI_DIV_PACK, .engine_text = "The output size is not aligned with the quantized weight shape.",
      .source = SRC_SG_GPTQ "; vllm-project/vllm quantization/auto_gptq.py" },
    { .name = "pack-split", .engines = VLLM_LIKE | FQI_E_TGI, .formats = GPTQ_ANY, .linears = FQI_L_ALL,
      .check = FQI_CK_K_RANK, .divisor = FQI_DIV_PACK, .engine_text = TXT_ALIGNED,
      .source = "vllm-project/vllm@0045689 model_executor/parameter.py" },

    /* -- Marlin tiles -- */
    { .name = "tile-k", .engines = FQI_E_VLLM_2025, .formats = MARLIN, .linears = FQI_L_NOT_EXPERT, .check = FQI_CK_K_RANK,
      .divisor = 128, .engine_text = TXT_TILE_K, .source = SRC_MARLIN "; vllm-project/vllm#13640" },
    { .name = "tile-n", .engines = FQI_E_VLLM_2025, .formats = MARLIN, .linears = FQI_L_NOT_EXPERT, .check = FQI_CK_N_RANK,
      .divisor = 64, .engine_text = TXT_TILE_N, .source = SRC_MARLIN },
    { .name = "tile-k", .engines = FQI_E_SGLANG, .formats = MARLIN_CHECKED, .linears = FQI_L_NOT_EXPERT, .check = FQI_CK_K_RANK,
      .divisor = 128, .engine_text = TXT_TILE_K, .source = SRC_SG_MARLIN },
    { .name = "tile-n", .engines = FQI_E_SGLANG, .formats = MARLIN_CHECKED, .linears = FQI_L_NOT_EXPERT, .check = FQI_CK_N_RANK,
      .divisor = 64, .engine_text = TXT_TILE_N, .source = SRC_SG_MARLIN },
    /* The result of check_marlin_supports_shape is dropped, so that the kernels are the first to look: repacking wants N % 64 (of gate and up
     * together; q, k and v are looked at one by one here, which is stricter), and a product a tile of 128 x 64 or 64 x 128. */
    { .name = "tile-k", .engines = FQI_E_SGLANG, .formats = FQI_F_GPTQ_MARLIN, .linears = FQI_L_NOT_EXPERT & ~L_GATED, .check = FQI_CK_K_TILE,
      .divisor = 128, .engine_text = TXT_CONFIG, .source = SRC_SG_GEMM },
    { .name = "tile-k", .engines = FQI_E_SGLANG, .formats = FQI_F_GPTQ_MARLIN, .linears = L_GATED, .check = FQI_CK_K_TILE, .divisor = 128, .parts = 2,
      .engine_text = TXT_CONFIG, .source = SRC_SG_GEMM },
    { .name = "tile-n", .engines = FQI_E_SGLANG, .formats = FQI_F_GPTQ_MARLIN, .linears = FQI_L_NOT_EXPERT & ~L_GATED, .check = FQI_CK_N_RANK,
      .divisor = 64, .engine_text = TXT_REPACK, .source = SRC_SG_REPACK },
    { .name = "tile-n", .engines = FQI_E_SGLANG, .formats = FQI_F_GPTQ_MARLIN, .linears = L_GATED, .check = FQI_CK_N_RANK, .divisor = 64, .parts = 2,
      .engine_text = TXT_REPACK, .source = SRC_SG_REPACK },
    { .name = "tile-k", .engines = FQI_E_VLLM, .formats = GPTQ_ANY, .linears = FQI_L_NOT_EXPERT, .check = FQI_CK_K_RANK,
      .divisor = 128, .only_desc_act = true, .source = SRC_TILE_PAD " (activation order is not padded)" },
    { .name = "tile-n", .engines = FQI_E_VLLM, .formats = GPTQ_ANY, .linears = FQI_L_NOT_EXPERT, .check = FQI_CK_N_RANK,
      .divisor = 64, .only_desc_act = true, .source = SRC_TILE_PAD " (activation order is not padded)" },
    { .name = "moe-group", .engines = VLLM_LIKE, .formats = INT_ANY, .linears = FQI_L_EXPERT_DOWN, .check = FQI_CK_K_RANK,
      .divisor = FQI_DIV_GROUP_64, .engine_text = TXT_MOE_K, .source = SRC_MARLIN "; vllm-project/vllm#17604, #57792" },
    { .name = "moe-hidden", .engines = VLLM_LIKE, .formats = MARLIN, .linears = FQI_L_EXPERT_GATE_UP, .check = FQI_CK_K_WHOLE,
      .divisor = 128, .source = SRC_MARLIN " (experts)" },
    /* vLLM deals what is left over to the first GPUs (fused_moe/layer.py determine_expert_map). */
    { .name = "experts-split", .engines = FQI_E_SGLANG, .formats = FQI_F_ALL, .check = FQI_CK_EXPERTS,
      .engine_text = "assert num_experts % self.moe_ep_size == 0", .source = "sgl-project/sglang srt/layers/moe/fused_moe_triton/layer.py FusedMoE" },
    { .name = "moe-refused", .engines = FQI_E_SGLANG, .formats = FQI_F_GPTQ, .check = FQI_CK_NO_MOE, .source = SRC_SG_GPTQ },

    /* -- what a GPTQ checkpoint is -- */
    { .name = "gptq-type", .engines = FQI_E_VLLM, .formats = GPTQ_ANY, .check = FQI_CK_GPTQ_TYPE,
      .engine_text = "ValueError: unsupported quantization type", .source = "vllm-project/vllm@4276bd5 quantization/auto_gptq.py" },
    { .name = "act-order", .engines = FQI_E_VLLM_2025, .formats = FQI_F_GPTQ, .linears = FQI_L_O | FQI_L_DOWN,
      .check = FQI_CK_ACT_ORDER, .silent = true, .source = "vllm-project/vllm#7374; kernels/linear/mixed_precision/exllama.py" },

    /* -- FP8 -- */
    { .name = "block-split", .engines = VLLM_LIKE, .formats = FQI_F_FP8_BLOCK, .linears = FQI_L_O | FQI_L_DOWN | FQI_L_SHARED_DOWN,
      .check = FQI_CK_K_ROW, .divisor = FQI_DIV_GROUP, .engine_text = TXT_BLOCK_K, .source = SRC_FP8 },
    { .name = "block-split", .engines = VLLM_LIKE, .formats = FQI_F_FP8_BLOCK,
      .linears = FQI_L_Q | FQI_L_KV | FQI_L_GATE_UP | FQI_L_SHARED_GATE_UP, .check = FQI_CK_N_PART, .divisor = FQI_DIV_GROUP,
      .engine_text = TXT_BLOCK_N, .source = SRC_FP8 },
    { .name = "moe-block", .engines = VLLM_LIKE, .formats = FQI_F_FP8_BLOCK, .linears = FQI_L_EXPERT_GATE_UP, .check = FQI_CK_N_RANK,
      .divisor = FQI_DIV_GROUP, .engine_text = TXT_MOE_BLOCK, .source = "vllm-project/vllm#17569, #51569, #55867" },
    { .name = "tile-n", .engines = FQI_E_VLLM_2025, .formats = FQI_F_FP8, .linears = FQI_L_GATE_UP | FQI_L_SHARED_GATE_UP,
      .check = FQI_CK_N_RANK, .divisor = 64, .parts = 2, .engine_text = "size_n = N is not divisible by tile_n_size = 64",
      .source = "vllm-project/vllm#36807 (Marlin, on GPUs before Hopper)" },

    /* -- FP4 -- */
    { .name = "group-split", .engines = VLLM_LIKE, .formats = FP4, .linears = FQI_L_ALL, .check = FQI_CK_K_RANK,
      .divisor = FQI_DIV_GROUP, .engine_text = "size_k = K is not divisible by b_scales.size(1) = S", .source = "vllm-project/vllm#49949" },
    { .name = "group-split", .engines = FQI_E_TENSORRT_LLM, .formats = FP4, .linears = FQI_L_NOT_EXPERT, .check = FQI_CK_K_RANK,
      .divisor = FQI_DIV_GROUP, .source = "NVIDIA/TensorRT-LLM#18870" },
    { .name = "tile-k", .engines = FQI_E_VLLM_2025 | FQI_E_SGLANG, .formats = FP4, .linears = FQI_L_NOT_EXPERT, .check = FQI_CK_K_RANK,
      .divisor = 32, .engine_text = "Expected k to be divisible by 32", .source = "vllm-project/vllm#31099" },
    { .name = "tile-n", .engines = FQI_E_VLLM_2025 | FQI_E_SGLANG, .formats = FP4, .linears = FQI_L_NOT_EXPERT, .check = FQI_CK_N_RANK,
      .divisor = 32, .engine_text = "Expected n to be divisible by 32", .source = "vllm-project/vllm#31099" },
    { .name = "moe-tile", .engines = FQI_E_VLLM_2025 | FQI_E_SGLANG, .formats = FP4, .linears = FQI_L_EXPERT_GATE_UP,
      .check = FQI_CK_N_RANK, .divisor = 128, .parts = 2, .engine_text = "assert M % 128 == 0",
      .source = "vllm-project/vllm#46879, #46880" },

    /* -- one engine each -- */
    { .name = "woq-tile", .engines = FQI_E_TENSORRT_LLM, .formats = FQI_F_CT_INT8, .linears = FQI_L_ALL_DOWN, .check = FQI_CK_K_RANK,
      .divisor = 64, .engine_text = "num_rows % rows_per_tile != 0", .source = "NVIDIA/TensorRT-LLM#16198" },
    { .name = "row-256", .engines = FQI_E_LLAMA_CPP, .formats = FQI_F_GGUF_K, .linears = FQI_L_ALL, .check = FQI_CK_K_WHOLE,
      .divisor = 256, .soft = true, .engine_text = "ncols N not divisible by 256 (required for type q4_K) -> falling back to q5_0",
      .source = "ggml-org/llama.cpp src/llama-quant.cpp; #28474" },
};
enum { N_RULE = sizeof rules / sizeof *rules };

/* ---- head_dim --------------------------------------------------------------------------------------------------- */

#define ALL_ENGINES (VLLM_LIKE | FQI_E_TRANSFORMERS | FQI_E_TGI | FQI_E_LMDEPLOY | FQI_E_TENSORRT_LLM | FQI_E_LLAMA_CPP)
#define SRC_TGI "huggingface/text-generation-inference@db931fcf models/custom_modeling/"
#define SRC_LMDEPLOY "InternLM/lmdeploy@1263d5c turbomind/models/utils.py make_attention_config"
#define SRC_TRTLLM "NVIDIA/TensorRT-LLM@047098b _torch/attention/attention.py"
#define TXT_ASSERT "assert config.hidden_size % config.num_attention_heads == 0"
#define TXT_SUM "split_with_sizes expects split_sizes to sum exactly to N"
#define NEEDED "published checkpoints of the family have heads x head_dim other than hidden_size"

static const fqi_head_dim head_dims[] = {
    { VLLM_ANY, "qwen2", true, NULL, "vllm-project/vllm@013a279 models/qwen2.py" },
    { VLLM_ANY, "qwen2_vl", true, NULL, "vllm-project/vllm@013a279 models/qwen2.py" },
    { VLLM_ANY, "qwen2_5_vl", true, NULL, "vllm-project/vllm@013a279 models/qwen2.py" },
    { VLLM_ANY, "qwen2_moe", true, NULL, "vllm-project/vllm@002fb90 models/qwen2_moe.py" },
    { FQI_E_SGLANG, "qwen2", true, NULL, "sgl-project/sglang@0005b7e srt/models/qwen2.py" },
    { FQI_E_SGLANG, "qwen2_vl", true, NULL, "sgl-project/sglang@0005b7e srt/models/qwen2.py" },
    { FQI_E_SGLANG, "qwen2_5_vl", true, NULL, "sgl-project/sglang@0005b7e srt/models/qwen2.py" },
    { FQI_E_SGLANG, "qwen2_moe", true, NULL, "sgl-project/sglang@0115497 srt/models/qwen2_moe.py" },
    { FQI_E_SGLANG, "mixtral", true, NULL, "sgl-project/sglang@7f1f5bc srt/models/mixtral.py" },
    { FQI_E_TGI, "llama", true, TXT_SUM, SRC_TGI "flash_llama_modeling.py" },
    { FQI_E_TGI, "qwen2", true, TXT_ASSERT, SRC_TGI "flash_qwen2_modeling.py" },
    { FQI_E_TGI, "qwen2_vl", true, TXT_ASSERT, SRC_TGI "qwen2_vl.py, flash_qwen2_modeling.py" },
    { FQI_E_TGI, "qwen2_5_vl", true, TXT_ASSERT, SRC_TGI "qwen2_5_vl.py, flash_qwen2_modeling.py" },
    { FQI_E_TGI, "mixtral", true, TXT_ASSERT, SRC_TGI "flash_mixtral_modeling.py" },

    { ALL_ENGINES, "qwen3", false, NULL, NEEDED },
    { ALL_ENGINES, "qwen3_moe", false, NULL, NEEDED },
    { ALL_ENGINES, "qwen3_vl", false, NULL, NEEDED },
    { ALL_ENGINES, "mistral", false, NULL, NEEDED },
    { VLLM_LIKE, "llama", false, NULL, "models/llama.py, which mistral with its own head_dim runs through" },
    { FQI_E_TRANSFORMERS, "llama", false, NULL, "huggingface/transformers@00d4b3d modeling_llama.py" },
    { FQI_E_TRANSFORMERS, "qwen2", false, NULL, "huggingface/transformers@00d4b3d modeling_qwen2.py" },
    { FQI_E_LMDEPLOY, "llama", false, NULL, SRC_LMDEPLOY },
    { FQI_E_LMDEPLOY, "qwen2", false, NULL, SRC_LMDEPLOY },
    { FQI_E_LMDEPLOY, "qwen2_moe", false, NULL, SRC_LMDEPLOY },
    { FQI_E_LMDEPLOY, "mixtral", false, NULL, SRC_LMDEPLOY },
    { FQI_E_TENSORRT_LLM, "llama", false, NULL, SRC_TRTLLM " (inferred for the family)" },
    { FQI_E_TENSORRT_LLM, "qwen2", false, NULL, SRC_TRTLLM "; models/modeling_qwen.py" },
};

const fqi_head_dim *fqi_head_dim_of(unsigned engine_bit, const char *family)
{
    for (size_t i = 0; i < sizeof head_dims / sizeof *head_dims; i++)
        if ((head_dims[i].engines & engine_bit) && strcmp(head_dims[i].family, family) == 0) return &head_dims[i];
    return NULL;
}

const fqi_engine *fqi_engine_at(size_t i) { return i < N_ENGINE ? &engines[i] : NULL; }
const fqi_rule *fqi_rule_at(size_t i) { return i < N_RULE ? &rules[i] : NULL; }
const fq_engine_info *fq_engine_get(size_t i) { return i < N_ENGINE ? &engines[i].info : NULL; }

bool fqi_engine_find(const char *id, size_t *i)
{
    for (size_t k = 0; k < N_ENGINE; k++) {
        if (strcmp(engines[k].info.id, id) == 0) { *i = k; return true; }
    }
    return false;
}
