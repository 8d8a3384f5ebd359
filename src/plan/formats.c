/* formats.c - the weight formats that the planner knows: bits, group, and what scales and zero points add.
 *
 * Sizes only. How a format lies on disk belongs to src/format. Bits per weight are those of the usual variant; a checkpoint that is
 * already in a format brings its own (linears.c). */
#include "plan/engines.h"

#include <string.h>

static const fqi_format formats[] = {
    { .info = { "bf16", "bfloat16", 16, 0, "safetensors BF16" } },
    { .info = { "fp16", "float16", 16, 0, "safetensors F16" } },
    { .info = { "gptq", "GPTQ int4, plain kernel", 4, -1, "AutoGPTQ layout: F16 scale and packed zero point per group and output" },
      .group_overhead_bits = 20 },
    { .info = { "gptq-marlin", "GPTQ int4, Marlin kernel", 4, -1, "AutoGPTQ layout, repacked at load" },
      .group_overhead_bits = 20 },
    { .info = { "awq", "AWQ int4 gemm", 4, -1, "AutoAWQ gemm layout: F16 scale and 4-bit zero point" }, .group_overhead_bits = 20 },
    { .info = { "awq-marlin", "AWQ int4, Marlin kernel", 4, -1, "AutoAWQ gemm layout, repacked at load" },
      .group_overhead_bits = 20 },
    { .info = { "ct-int4", "compressed-tensors W4A16", 4, -1, "pack-quantized, symmetric" }, .group_overhead_bits = 16 },
    { .info = { "ct-int8", "compressed-tensors W8A16", 8, -1, "pack-quantized, symmetric" }, .group_overhead_bits = 16 },
    { .info = { "fp8", "FP8, scale per channel", 8, 0, "float-quantized" }, .group_overhead_bits = 0 },
    { .info = { "fp8-block", "FP8, 128 x 128 blocks", 8, 128, "DeepSeek layout: F32 weight_scale_inv per block" },
      .group_overhead_bits = 32, .block = true },
    { .info = { "nvfp4", "NVFP4", 4, 16, "E2M1 with one E4M3 scale per 16" }, .group_overhead_bits = 8 },
    { .info = { "mxfp4", "MXFP4", 4, 32, "E2M1 with one E8M0 scale per 32" }, .group_overhead_bits = 8 },
    { .info = { "gguf-k", "GGUF Q4_K", 4, 256, "ggml-org/llama.cpp block_q4_K: 144 bytes per 256 weights" },
      .group_overhead_bits = 128, .embeddings = true },
};
enum { N_FORMAT = sizeof formats / sizeof *formats };

const fqi_format *fqi_format_at(size_t i) { return i < N_FORMAT ? &formats[i] : NULL; }

const fq_format_info *fq_format_get(size_t i) { return i < N_FORMAT ? &formats[i].info : NULL; }

bool fqi_format_find(const char *id, size_t *i)
{
    for (size_t k = 0; k < N_FORMAT; k++) {
        if (strcmp(formats[k].info.id, id) == 0) { *i = k; return true; }
    }
    return false;
}
