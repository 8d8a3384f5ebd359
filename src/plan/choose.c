/* choose.c - fq_choose: bits, group size and padding for a model on n GPUs of some memory, with the reasons.
 *
 *     widest weights first: bf16, 8 bits, 4 bits; the first that every engine runs (padded where needed) and that fits is taken.
 *     among group sizes of one width: the one that takes the least memory (padding and scales are both counted); larger of equals
 *
 * Only the planner is asked, so a choice can never contradict `fitq plan`. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "plan/options.h"

#define GIB ((double)(UINT64_C(1) << 30))

typedef struct candidate { int bits; int group; const char *format; fq_packing packing; } candidate;

/* 8 bits as compressed-tensors: the only 8-bit integers that both default engines have rules for in the tables. */
static const candidate candidates[] = {
    { 16, 0, "bf16", FQ_PACKING_GPTQ },
    { 8, 128, "ct-int8", FQ_PACKING_COMPRESSED_TENSORS }, { 8, 64, "ct-int8", FQ_PACKING_COMPRESSED_TENSORS }, { 8, 32, "ct-int8", FQ_PACKING_COMPRESSED_TENSORS },
    { 4, 128, "gptq-marlin", FQ_PACKING_GPTQ }, { 4, 64, "gptq-marlin", FQ_PACKING_GPTQ }, { 4, 32, "gptq-marlin", FQ_PACKING_GPTQ },
};
#define N_CANDIDATE (sizeof candidates / sizeof candidates[0])

typedef struct judged {
    bool runs, fits, memory_known;
    fq_fit fit;
    uint64_t need, weights;
    int64_t context;
    char engine[32], note[160];   /* of the first entry that does not run */
} judged;

typedef struct request { const fq_model *m; int n_gpu; uint64_t memory; const char *const *engine; size_t n_engine; int64_t context; } request;

static void look_at(const fq_plan_entry *x, judged *out)
{
    const bool runs = x->verdict == FQ_RUNS || x->verdict == FQ_NEEDS_FIT;
    out->memory_known = out->memory_known && x->memory_known;
    if (runs || !out->runs) return;
    out->runs = false;
    snprintf(out->engine, sizeof out->engine, "%s", x->engine->id);
    snprintf(out->note, sizeof out->note, "%.150s", x->note[0] ? x->note : x->n_violation ? x->violation[0].text : "no rules for it");
}

/* What the lengths take that satisfy all engines at once: more than what the plan of each engine takes by itself. */
static void weigh(const fq_plan *p, judged *out)
{
    for (size_t i = 0; i < fq_plan_n_entry(p); i++) {
        fq_plan_entry x = { 0 };
        uint64_t weights;
        fqi_plan_memory(p, i, &out->fit, &x, &weights);
        out->fits = out->fits && x.memory_fits;
        if (x.memory_need_bytes > out->need) out->need = x.memory_need_bytes;
        if (weights > out->weights) out->weights = weights;
        if (x.longest_context < out->context) out->context = x.longest_context;
    }
}

static fq_status judge(const request *q, const candidate *c, judged *out, fq_err *e)
{
    const fq_plan_request r = { .tp = &q->n_gpu, .n_tp = 1, .engine = q->engine, .n_engine = q->n_engine, .format = &c->format, .n_format = 1, .group_size = c->group,
                                .context = q->context, .gpu_memory_bytes = q->memory };
    fq_plan *p = NULL;
    *out = (judged){ .runs = true, .fits = true, .memory_known = true, .context = INT64_MAX };
    FQI_TRY(fq_plan_create(q->m, &r, &p, e));
    for (size_t i = 0; i < fq_plan_n_entry(p); i++) look_at(fq_plan_get_entry(p, i), out);
    fq_err joint;
    if (out->runs && fq_plan_joint_fit(p, &out->fit, &joint) != FQ_OK) {
        out->runs = false;
        snprintf(out->engine, sizeof out->engine, "one of the engines");
        snprintf(out->note, sizeof out->note, "%.150s", joint.text);
    }
    if (out->runs) weigh(p, out);
    fq_plan_free(p);
    return FQ_OK;
}

static void because(fq_choice *c, const char *line)
{
    if (c->n_why < sizeof c->why / sizeof c->why[0]) snprintf(c->why[c->n_why++], sizeof c->why[0], "%s", line);
}

static void name_of(const candidate *c, char out[48])
{
    if (c->bits == 16) snprintf(out, 48, "bf16");
    else snprintf(out, 48, "%d bits in groups of %d", c->bits, c->group);
}

static void say_rejected(fq_choice *out, const request *q, const candidate *c, const judged *j)
{
    char name[48], line[256];
    name_of(c, name);
    if (!j->runs) snprintf(line, sizeof line, "%s: %s does not run it on %d GPU%s: %.120s", name, j->engine, q->n_gpu, q->n_gpu == 1 ? "" : "s", j->note);
    else snprintf(line, sizeof line, "%s: would take %.1f GiB of %.1f on each GPU", name, (double)j->need / GIB, (double)q->memory / GIB);
    because(out, line);
}

static void add_length(char *line, size_t n, const char *name, int64_t real, int64_t pad)
{
    const size_t at = strlen(line);
    if (pad == 0 || pad == real) return;
    snprintf(line + at, n - at, "%s%s %" PRId64 " -> %" PRId64, at ? ", " : "", name, real, pad);
}

/* "intermediate_size 29568 -> 29696, ..."; "" if nothing changes. */
static void lengths_of(const fq_model *m, const fq_fit *f, char line[192])
{
    line[0] = '\0';
    add_length(line, 192, "intermediate_size", m->intermediate_size, f->intermediate_size_pad);
    add_length(line, 192, "moe_intermediate_size", m->moe_intermediate_size, f->moe_intermediate_size_pad);
    add_length(line, 192, "shared_expert_intermediate_size", m->shared_expert_intermediate_size, f->shared_expert_intermediate_size_pad);
    add_length(line, 192, "num_attention_heads", m->num_attention_heads, f->num_attention_heads_pad);
    add_length(line, 192, "num_key_value_heads", m->num_key_value_heads, f->num_key_value_heads_pad);
    add_length(line, 192, "vocab_size", m->vocab_size, f->vocab_size_pad);
    if (f->kv_replication > 1 && strlen(line) < 150) snprintf(line + strlen(line), 192 - strlen(line), "%severy KV head %" PRId64 " times", line[0] ? ", " : "", f->kv_replication);
}

/* A family without a table can be looked at, but neither padded nor quantized. */
static fq_status check_family(const request *q, const candidate *c, const judged *j, fq_err *e)
{
    char lengths[192];
    lengths_of(q->m, &j->fit, lengths);
    if (q->m->family[0] != '\0' || (c->bits == 16 && lengths[0] == '\0')) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, NULL, "unknown-family", "found model_type \"%s\", expected one of the families that `fitq help families` lists: others can be neither padded nor quantized", q->m->model_type);
}

static void say_lengths(const request *q, const fq_fit *f, fq_choice *out)
{
    char lengths[192], line[256];
    lengths_of(q->m, f, lengths);
    if (lengths[0] == '\0') {
        because(out, "every length divides as it is: nothing is padded");
        return;
    }
    snprintf(line, sizeof line, "padded with zeros, as the same function: %s", lengths);
    because(out, line);
}

static void take(const request *q, const candidate *c, const judged *j, fq_choice *out)
{
    char name[48], line[256];
    out->tp = q->n_gpu;
    out->bits = c->bits;
    out->group_size = c->group;
    out->packing = c->packing;
    out->fit = j->fit;
    out->weight_bytes_per_gpu = j->weights;
    out->memory_need_bytes = j->need;
    out->longest_context = j->context;
    name_of(c, name);
    snprintf(line, sizeof line, "%s: takes %.1f GiB of %.1f on each GPU with %" PRId64 " tokens of context, and has room for %" PRId64 "%s", name, (double)j->need / GIB, (double)q->memory / GIB, q->context,
             j->context, j->context == q->m->max_position_embeddings ? ", all that the model has" : "");
    because(out, line);
}

/* The group size that takes the least of the candidates [first, end), which have the same number of bits; first if none runs. */
static size_t least_of(const judged *j, size_t first, size_t end)
{
    size_t least = first;
    for (size_t i = first; i < end; i++)
        if (j[i].runs && (!j[least].runs || j[i].need < j[least].need)) least = i;
    return least;
}

static void explain_group(fq_choice *out, const judged *j, size_t first, size_t end, size_t best)
{
    char line[256];
    if (best == first || end - first < 2) return;
    if (!j[first].runs) snprintf(line, sizeof line, "groups of %d rather than %d, which %s does not run here", candidates[best].group, candidates[first].group, j[first].engine);
    else snprintf(line, sizeof line, "groups of %d rather than %d: padding for %d would take %.2f GiB more than the finer scales do", candidates[best].group, candidates[first].group, candidates[first].group,
                  (double)(j[first].need - j[best].need) / GIB);
    because(out, line);
}

static fq_status no_choice(const request *q, const judged *j, fq_err *e)
{
    const judged *nearest = NULL;
    char name[48] = "";
    for (size_t i = 0; i < N_CANDIDATE; i++) {
        if (!j[i].runs || (nearest && j[i].need >= nearest->need)) continue;
        nearest = &j[i];
        name_of(&candidates[i], name);
    }
    if (!nearest)
        return fqi_fail(e, FQ_E_INPUT, NULL, "does-not-fit", "found no format that %s runs on %d GPUs (%s), expected another number of GPUs", j[0].engine[0] ? j[0].engine : "every engine", q->n_gpu, j[0].note);
    return fqi_fail(e, FQ_E_INPUT, NULL, "does-not-fit", "found %.1f GiB on %s%d GPU%s, expected at least %.1f (%s, with a context of %" PRId64 " tokens)", (double)q->memory / GIB, q->n_gpu == 1 ? "" : "each of ", q->n_gpu, q->n_gpu == 1 ? "" : "s",
                    (double)nearest->need / GIB, name, q->context);
}

fq_status fq_choose(const fq_model *m, int n_gpu, uint64_t gpu_memory_bytes, const char *const *engine, size_t n_engine, int64_t context, fq_choice *out, fq_err *e)
{
    const request q = { m, n_gpu, gpu_memory_bytes, engine, n_engine, context > 0 ? context : 8192 };
    judged j[N_CANDIDATE];
    fq_choice c = { 0 };
    if (gpu_memory_bytes == 0) return fqi_fail(e, FQ_E_USAGE, NULL, "gpu-memory", "found 0 bytes, expected the memory of one GPU");
    for (size_t i = 0; i < N_CANDIDATE; i++) {
        FQI_TRY(judge(&q, &candidates[i], &j[i], e));
        if (!j[i].memory_known) return fqi_fail(e, FQ_E_INPUT, NULL, "memory-unknown", "found attention or a vision tower whose memory is not modelled, expected a plain text model: choose with `fitq plan`");
    }
    for (size_t first = 0, end; first < N_CANDIDATE; first = end) {
        for (end = first; end < N_CANDIDATE && candidates[end].bits == candidates[first].bits;) end++;
        const size_t best = least_of(j, first, end);
        if (!j[best].runs || !j[best].fits) {
            say_rejected(&c, &q, &candidates[best], &j[best]);
            continue;
        }
        FQI_TRY(check_family(&q, &candidates[best], &j[best], e));
        take(&q, &candidates[best], &j[best], &c);
        explain_group(&c, j, first, end, best);
        say_lengths(&q, &j[best].fit, &c);
        *out = c;
        return FQ_OK;
    }
    return no_choice(&q, j, e);
}
