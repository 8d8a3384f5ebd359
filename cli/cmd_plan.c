/* cmd_plan.c - which GPU counts run a model, why the others do not, and the cheapest fix.
 *
 * This file asks the library; plan_advice.c finds out what to do, plan_text.c and plan_json.c print it. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "output.h"
#include "plan_cost.h"
#include "plan_view.h"

/* ---- what cannot be planned ------------------------------------------------------------------------------------- */

/* The message of fq_model_read, unless the name of the file says better what it is. */
static int not_a_config(const char *path, const fq_err *e)
{
    static const struct { const char *end, *what; } kind[] = {
        { ".safetensors", "a file of weights" }, { ".bin", "a file of weights" }, { ".pt", "a file of weights" },
        { ".pth", "a file of weights" }, { ".gguf", "a GGUF file" }, { ".index.json", "an index of shards" },
        { "quantize_config.json", "the settings of a quantizer" }, { "quant_config.json", "the settings of a quantizer" },
        { "generation_config.json", "the settings of a sampler" }, { "tokenizer_config.json", "the settings of a tokenizer" },
    };
    size_t n = strlen(path);
    for (size_t i = 0; i < sizeof kind / sizeof kind[0] && e->code == FQ_E_INPUT; i++) {
        size_t len = strlen(kind[i].end);
        if (n < len || strcmp(path + n - len, kind[i].end) != 0) continue;
        fputs("fitq: ", stderr);
        out_escaped(stderr, path);
        fprintf(stderr, ": not-a-config: found %s, expected a checkpoint folder or its config.json\n", kind[i].what);
        return -FQ_E_INPUT;
    }
    return out_error(e);
}

/* Is the model at `path` (a folder, or a file in it) one that fitq pad wrote? */
static bool is_fitted(const char *path)
{
    char text[4096];
    int n = snprintf(text, sizeof text, "%s/fitq.json", path);
    if (n > 0 && (size_t)n < sizeof text && access(text, F_OK) == 0) return true;
    const char *slash = strrchr(path, '/');
    n = snprintf(text, sizeof text, "%.*sfitq.json", slash ? (int)(slash + 1 - path) : 0, path);
    return strcmp(slash ? slash + 1 : path, "config.json") == 0 && n > 0 && (size_t)n < sizeof text && access(text, F_OK) == 0;
}

/* ---- command --------------------------------------------------------------------------------------------------- */

/* The formats that the plan has, in its order: what `pad` must be told, since its default is one format only. */
static void formats_of(plan_view *v)
{
    for (size_t i = 0; i < fq_plan_n_entry(v->plan); i++) {
        const char *id = fq_plan_get_entry(v->plan, i)->format->id;
        bool known = false;
        for (size_t k = 0; k < v->formats.n; k++) known |= strcmp(v->formats.v[k], id) == 0;
        if (!known && v->formats.n < ARG_MAX_LIST) v->formats.v[v->formats.n++] = id;
    }
}

static int run_plan(const arg_values *given)
{
    static const int usual[] = { 1, 2, 4, 8 };
    arg_values a = *given;
    if (!command_engines(&cmd_plan, &a.engine) || !command_formats(&cmd_plan, &a.format)) return -FQ_E_USAGE;
    if (a.tp.n == 0) {
        memcpy(a.tp.v, usual, sizeof usual);
        a.tp.n = sizeof usual / sizeof usual[0];
    }
    fq_model model;
    fq_err e = { 0 };
    if (fq_model_read(a.operand[0], &model, &e) != FQ_OK) return not_a_config(a.operand[0], &e);
    if (a.quantize_cost) return plan_cost(&a, &model);
    fq_plan_request r = {
        .tp = a.tp.v, .n_tp = a.tp.n,
        .engine = a.engine.n ? a.engine.v : NULL, .n_engine = a.engine.n,
        .format = a.format.n ? a.format.v : NULL, .n_format = a.format.n,
        .group_size = (int)a.group_size, .context = a.context,
        .kv_cache_bits = (int)a.kv_cache_bits, .gpu_memory_bytes = a.gpu_memory,
    };
    fq_plan *plan = NULL;
    if (fq_plan_create(&model, &r, &plan, &e) != FQ_OK) return out_error(&e);
    plan_view v = { .values = &a, .model = &model, .request = &r, .plan = plan, .fitted = is_fitted(a.operand[0]) };
    formats_of(&v);
    plan_advise(&v);
    int status = 0;
    if (a.json) status = plan_print_json(&v);
    else plan_print_text(&v);
    for (size_t i = 0; i < v.n_advice; i++) plan_advice_drop(&v.advice[i]);
    fq_plan_free(plan);
    return status;
}

#define MIN_GPU_MEMORY (INT64_C(256) << 20)

static const arg_option options[] = {
    ARG_OPT_TP("GPU counts from 1 to 64: 2,3,4 or 2-8 (default: 1,2,4,8)"),
    ARG_OPT_ENGINE,
    ARG_OPT_FORMAT("the checkpoint's own, or bf16 and gptq-marlin"),
    ARG_OPT_GROUP_SIZE("the checkpoint's own, or 128"),
    { "gpu-memory", 'm', ARG_SIZE, "SIZE", ARG_OFFSET(gpu_memory),
      "memory of one GPU, such as 24GiB: also says whether weights and KV cache fit", NULL, MIN_GPU_MEMORY, 0,
      ARG_ANY },
    ARG_OPT_CONTEXT,
    { "kv-cache-bits", 0, ARG_INT, "N", ARG_OFFSET(kv_cache_bits), "bits of one KV cache element (default: 16)", NULL, 1,
      32, ARG_ANY },
    { "quantize-cost", 0, ARG_FLAG, NULL, ARG_OFFSET(quantize_cost), "instead: seconds that quantizing would take on some numbers of ranks, by parts", NULL, 0, 0, ARG_ANY },
    { "ranks", 0, ARG_INTS, "N,...", ARG_OFFSET(cost_ranks), "of --quantize-cost: numbers of ranks (default: 1,2,4,...,1024)", NULL, 1, 4096, ARG_ANY },
    { "tokens", 0, ARG_INT, "N", ARG_OFFSET(tokens), "of --quantize-cost: tokens of calibration, in windows of 512 (default: 262144)", NULL, 1, INT64_C(1) << 40, ARG_ANY },
    { "no-shift", 0, ARG_FLAG, NULL, ARG_OFFSET(no_shift), "of --quantize-cost: one stream of hidden states, as of quantize --no-shift", NULL, 0, 0, ARG_ANY },
    { "matrix-rate", 0, ARG_REAL, "GFLOPS", ARG_OFFSET(matrix_rate), "of --quantize-cost: of a rank, for products of large matrices (default: measured on this machine)", NULL, 0, 1000000, ARG_ANY },
    { "disk-rate", 0, ARG_SIZE, "SIZE", ARG_OFFSET(disk_rate), "of --quantize-cost: read or written a second, of each rank (default: 1GB)", NULL, 0, 0, ARG_ANY },
    { "network-rate", 0, ARG_SIZE, "SIZE", ARG_OFFSET(network_rate), "of --quantize-cost: sent and received a second, of each rank (default: 1GB)", NULL, 0, 0, ARG_ANY },
    ARG_OPT_THREADS, ARG_OPT_JSON, ARG_OPT_HELP,
};

const arg_command cmd_plan = {
    .name = "plan", .summary = "which GPU counts run a model, why the others do not, and the cheapest fix",
    .synopsis = "PATH [--tp N,...] [--engine ID,...] [--format ID,...] [--gpu-memory SIZE] [--json]",
    .text = "PATH is a checkpoint folder, or only a config.json: planning needs no weights. For every engine, weight format "
            "and GPU count: runs as it is, or which tensor breaks which rule, the cheapest fix and its price.",
    .examples = "  fitq plan config.json --tp 2,3,4,6,8\n"
                "  fitq plan Qwen2-72B --tp 2-8 --engine vllm --format gptq-marlin,awq\n"
                "  fitq plan config.json --tp 2,4 --format gptq-marlin --gpu-memory 24GiB --context 32768\n"
                "  fitq plan config.json --tp 8 --engine all --format all --json | jq '.entries[] | .verdict'\n",
    .option = options, .n_option = sizeof options / sizeof options[0],
    .min_operand = 1, .max_operand = 1, .run = run_plan,
};
