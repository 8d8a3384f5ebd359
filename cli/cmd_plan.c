/* cmd_plan.c - which GPU counts run a model, why the others do not, and the cheapest fix.
 *
 * This file asks the library and finds out what to advise; plan_text.c and plan_json.c print it. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "output.h"
#include "plan_view.h"

/* ---- advice: the `fitq pad` commands that do what the plan says ---------------------------------------------------- */

static bool fit_changes(const fq_fit *f)
{
    return f->intermediate_size_pad || f->moe_intermediate_size_pad || f->shared_expert_intermediate_size_pad ||
           f->num_attention_heads_pad || f->num_key_value_heads_pad || f->kv_replication > 1 || f->vocab_size_pad;
}

static bool same_fit(const fq_fit *a, const fq_fit *b)
{
    return a->intermediate_size_pad == b->intermediate_size_pad &&
           a->moe_intermediate_size_pad == b->moe_intermediate_size_pad &&
           a->shared_expert_intermediate_size_pad == b->shared_expert_intermediate_size_pad &&
           a->num_attention_heads_pad == b->num_attention_heads_pad &&
           a->num_key_value_heads_pad == b->num_key_value_heads_pad && a->kv_replication == b->kv_replication &&
           a->vocab_size_pad == b->vocab_size_pad;
}

/* What an entry says about the ways to do without padding. */
static void look_at(const fq_plan_entry *x, plan_advice *a)
{
    if (x->n_option > 0 && strcmp(x->option[0].reexpress_as, "llama") == 0) a->as_llama = true;
    if (x->verdict != FQ_NEEDS_FIT || x->n_option == 0) return;
    const fq_option *o = &x->option[0];
    bool padded = fit_changes(&o->fit);
    a->needs = true;
    a->by_experts = a->by_experts && o->expert_parallel && !padded;
    if (padded || o->group_size <= 0) a->by_groups = 0;
    else if (o->group_size < a->by_groups) a->by_groups = o->group_size;
}

/* What one checkpoint for `tp` (a subset of the counts) has to be. */
static plan_advice advise(const plan_view *v, const int *tp, size_t n_tp)
{
    plan_advice a = { .n_tp = n_tp };
    fq_plan_request r = *v->request;
    fq_plan *p = NULL;
    memcpy(a.tp, tp, n_tp * sizeof *tp);
    r.tp = a.tp;
    r.n_tp = n_tp;
    r.gpu_memory_bytes = 0;
    if (fq_plan_create(v->model, &r, &p, NULL) != FQ_OK) return a;
    a.possible = fq_plan_joint_fit(p, &a.fit, NULL) == FQ_OK;
    a.changes = a.possible && fit_changes(&a.fit);
    a.by_experts = true;
    a.by_groups = INT_MAX;
    for (size_t i = 0; i < fq_plan_n_entry(p); i++) look_at(fq_plan_get_entry(p, i), &a);
    a.by_experts = a.needs && a.by_experts;
    if (!a.needs || a.by_groups == INT_MAX) a.by_groups = 0;
    fq_plan_free(p);
    return a;
}

/* One advice per count; counts that ask for the same lengths become one, if the library agrees that one checkpoint does. */
static void advise_all(plan_view *v)
{
    for (size_t i = 0; i < v->request->n_tp; i++) {
        plan_advice one = advise(v, &v->request->tp[i], 1);
        bool joined = false;
        for (size_t k = 0; k < v->n_advice && one.changes && !joined; k++) {
            plan_advice *a = &v->advice[k];
            if (!a->changes || !same_fit(&a->fit, &one.fit) || a->as_llama != one.as_llama) continue;
            int tp[ARG_MAX_LIST];
            memcpy(tp, a->tp, a->n_tp * sizeof *tp);
            tp[a->n_tp] = v->request->tp[i];
            plan_advice both = advise(v, tp, a->n_tp + 1);
            joined = both.changes && same_fit(&both.fit, &one.fit);
            if (joined) *a = both;
        }
        if (!joined) v->advice[v->n_advice++] = one;
    }
}

/* Appends a word of a shell command, quoted when it must be. */
static void shell_word(FILE *f, const char *word)
{
    if (word[0] && word[0] != '-' && strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+:@,=-") == strlen(word)) {
        fputs(word, f);
        return;
    }
    putc('\'', f);
    for (; *word; word++) {
        if (*word == '\'') fputs("'\\''", f);
        else putc(*word, f);
    }
    putc('\'', f);
}

static void shell_list(FILE *f, const char *option, const arg_strings *list)
{
    if (list->n == 0) return;
    fprintf(f, " --%s ", option);
    for (size_t i = 0; i < list->n; i++) fprintf(f, "%s%s", i ? "," : "", list->v[i]);
}

/* The folder to pad: the operand, its folder when it is a file, MODEL when that says nothing. Into buf. */
static const char *folder_of(const plan_view *v, char *buf, size_t n)
{
    const char *path = v->values->operand[0];
    size_t len = strlen(path);
    if (len >= n) return "MODEL";
    memcpy(buf, path, len + 1);
    if (len > 5 && strcmp(buf + len - 5, ".json") == 0) {
        char *slash = strrchr(buf, '/');
        if (!slash || slash == buf) return "MODEL";
        /* a config.json without its weights lies anywhere, under any name */
        if (strcmp(slash, "/config.json") != 0) return "MODEL";
        *slash = '\0';
        len = strlen(buf);
    }
    while (len > 1 && buf[len - 1] == '/') buf[--len] = '\0';
    return strcmp(buf, ".") == 0 || strcmp(buf, "/") == 0 || strcmp(buf, "..") == 0 ? "MODEL" : buf;
}

char *plan_command(const plan_view *v, const plan_advice *a)
{
    char buf[4096], *text = NULL;
    size_t n = 0;
    const arg_values *w = v->values;
    FILE *f = open_memstream(&text, &n);
    if (!f) return NULL;
    const char *folder = folder_of(v, buf, sizeof buf - 256);
    fputs("fitq pad ", f);
    shell_word(f, folder);
    char target[4400];
    int used = snprintf(target, sizeof target, "%s-tp", folder);
    for (size_t i = 0; i < a->n_tp && used > 0 && (size_t)used < sizeof target; i++)
        used += snprintf(target + used, sizeof target - (size_t)used, "%s%d", i ? "-" : "", a->tp[i]);
    fputs(" -o ", f);
    shell_word(f, target);
    fputs(" --tp ", f);
    for (size_t i = 0; i < a->n_tp; i++) fprintf(f, "%s%d", i ? "," : "", a->tp[i]);
    shell_list(f, "engine", &w->engine);
    shell_list(f, "format", &v->formats);
    if (w->group_size) fprintf(f, " --group-size %d", (int)w->group_size);
    if (w->context) fprintf(f, " --context %lld", (long long)w->context);
    if (a->fit.vocab_size_pad) fputs(" --vocab", f);
    if (a->as_llama) fputs(" --as llama", f);
    if (fclose(f) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

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
    fq_plan_request r = {
        .tp = a.tp.v, .n_tp = a.tp.n,
        .engine = a.engine.n ? a.engine.v : NULL, .n_engine = a.engine.n,
        .format = a.format.n ? a.format.v : NULL, .n_format = a.format.n,
        .group_size = (int)a.group_size, .context = a.context,
        .kv_cache_bits = (int)a.kv_cache_bits, .gpu_memory_bytes = a.gpu_memory,
    };
    fq_plan *plan = NULL;
    if (fq_plan_create(&model, &r, &plan, &e) != FQ_OK) return out_error(&e);
    plan_view v = { .values = &a, .model = &model, .request = &r, .plan = plan };
    formats_of(&v);
    advise_all(&v);
    int status = 0;
    if (a.json) status = plan_print_json(&v);
    else plan_print_text(&v);
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
    ARG_OPT_JSON, ARG_OPT_HELP,
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
