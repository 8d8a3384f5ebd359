/* generate.c - a model held in memory that continues one sequence (fq_generator_* of fitq.h).
 *
 * Not here: weights and caches (resident.c), choosing ids (sample.c), chat templates (chat.c), text (the tokenizer is the caller's).
 * Feeding a prompt, a turn of a conversation or the id that was just chosen is the same: blocks of tokens through every layer, with the
 * caches of what came before. The sequence is as long as n_token says and nothing else: a call that fails, or is cancelled, leaves
 * n_token and the logits as they were, and what it put into the caches behind n_token is written again by the next call. The exception
 * is a number that is not finite: it could stay in a cache, where it would reach every later token, so such a generator refuses to go
 * on. */
#include <stdlib.h>

#include "base/mem.h"
#include "base/pipeline.h"
#include "job/ends.h"
#include "job/resident.h"
#include "job/runnable.h"
#include "job/sample.h"
#include "job/vocab.h"

#define BLOCK_TOKENS 512        /* prefill at once: matrix products do not get faster beyond */
#define DEFAULT_CONTEXT 4096

struct fq_generator {
    fqi_runnable model;
    const fq_run *run;
    fq_run own_run;             /* where the caller gave none */
    int n_thread;
    fq_dtype served;
    int64_t n_vocab;            /* real ids */
    int64_t context;
    size_t block;
    fqi_resident held;
    fqi_sampler sampler; bool has_sampler;
    fqi_ends ends;
    fq_generator_info info;
    bool has_logits, broken;
};

/* ---- opening ---- */

static fq_status choose_context(fq_generator *g, int64_t asked, fq_err *e)
{
    const fqi_rope *r = &g->model.decoder.rope;
    if (asked < 0) return fqi_fail(e, FQ_E_USAGE, NULL, "context", "found %lld, expected at least 1", (long long)asked);
    g->context = asked ? asked : r->max_position > 0 && r->max_position < DEFAULT_CONTEXT ? r->max_position : DEFAULT_CONTEXT;
    if (g->context > FQI_RESIDENT_MAX_POSITION)
        return fqi_fail(e, FQ_E_USAGE, NULL, "context", "found %lld, expected at most 2^40", (long long)asked);
    fqi_runnable_warn_length(&g->model, g->context, g->run);
    g->block = g->context < BLOCK_TOKENS ? (size_t)g->context : BLOCK_TOKENS;
    return FQ_OK;
}

static uint64_t matrix_bytes(const fqi_matrix *m)
{
    return m->data ? (uint64_t)m->rows * (uint64_t)m->cols * fq_dtype_bits(m->dtype) / 8 : 0;
}

static uint64_t mlp_bytes(const fqi_mlp_weights *w) { return matrix_bytes(&w->gate) + matrix_bytes(&w->up) + matrix_bytes(&w->down); }

/* Matrices that one token meets. */
static uint64_t step_bytes(const fq_generator *g)
{
    const fq_model *m = &g->model.decoder.model;
    uint64_t sum = matrix_bytes(&g->held.head);
    for (int64_t i = 0; i < m->num_hidden_layers; i++) {
        const fqi_layer_weights *w = g->held.layer[i];
        sum += matrix_bytes(&w->q) + matrix_bytes(&w->k) + matrix_bytes(&w->v) + matrix_bytes(&w->o);
        if (!w->sparse) {
            sum += mlp_bytes(&w->mlp);
            continue;
        }
        sum += matrix_bytes(&w->router) + (uint64_t)m->num_experts_per_tok * mlp_bytes(&w->expert[0]);
        if (w->has_shared) sum += mlp_bytes(&w->shared) + matrix_bytes(&w->shared_gate);
    }
    return sum;
}

static fq_status open_all(fq_generator *g, const char *path, const fq_generator_options *o, fq_err *e)
{
    fqi_resident_size n = { 0 };
    FQI_TRY(fqi_served_dtype(o->served, &g->served, e));
    FQI_TRY(fqi_runnable_open(path, g->run, &g->model, e));
    FQI_TRY(fqi_vocab_real(g->model.ckpt, &g->n_vocab, e));
    FQI_TRY(fqi_ends_read(g->model.ckpt->dir, &g->model.decoder, g->n_vocab, &g->ends, e));
    FQI_TRY(choose_context(g, o->context, e));
    const fqi_resident_options r = {
        .ckpt = g->model.ckpt, .decoder = &g->model.decoder, .run = g->run, .order = o->exact ? FQI_ORDER_FIXED : FQI_ORDER_FAST, .served = g->served,
        .n_thread = g->n_thread, .n_position = g->context, .n_sequence = 1, .n_token = g->block, .n_logit_row = 1, .n_vocab = g->n_vocab,
        .extra_bytes = fqi_sampler_bytes(o->temperature, (size_t)g->n_vocab), .free_quarters = 4,
    };
    FQI_TRY(fqi_resident_measure(&r, &n, e));
    FQI_TRY(fqi_resident_check(&r, &n, e));
    FQI_TRY(fqi_sampler_create(o->temperature, o->top_p, o->seed, (size_t)g->n_vocab, &g->sampler, e));
    g->has_sampler = true;
    FQI_TRY(fqi_resident_create(&r, &n, &g->held, e));
    g->info = (fq_generator_info){ .context = g->context, .n_vocab = (size_t)g->n_vocab, .weight_bytes = step_bytes(g), .memory_bytes = n.total,
                                   .kernel = g->held.compute.kernel->name, .n_thread = g->n_thread };
    return FQ_OK;
}

fq_status fq_generator_open(const char *path, const fq_generator_options *o, const fq_run *run, fq_generator **out, fq_err *e)
{
    static const fq_generator_options defaults;
    fq_generator *g = fqi_calloc(1, sizeof *g);
    if (!g) return fqi_fail_nomem(e, "generator");
    g->run = run ? run : &g->own_run;
    g->n_thread = fqi_n_thread(g->run->n_thread);
    fq_status s = open_all(g, path, o ? o : &defaults, e);
    if (s != FQ_OK) {
        fq_generator_close(g);
        return s;
    }
    *out = g;
    return FQ_OK;
}

void fq_generator_close(fq_generator *g)
{
    if (!g) return;
    if (g->has_sampler) fqi_sampler_free(&g->sampler);
    fqi_resident_free(&g->held);
    fqi_runnable_free(&g->model);
    free(g);
}

/* ---- running ---- */

void fq_generator_get_info(const fq_generator *g, fq_generator_info *out) { *out = g->info; }

static fq_status check_feed(const fq_generator *g, const uint32_t *ids, size_t n, fq_err *e)
{
    const char *path = g->model.ckpt->info.path;
    if (g->broken) return fqi_fail(e, FQ_E_NUMERIC, FQI_FILE(path), "generator", "found a generator that met numbers that are not finite, expected it to be closed");
    for (size_t i = 0; i < n; i++)
        if (ids[i] >= (uint64_t)g->n_vocab)
            return fqi_fail(e, FQ_E_INPUT, FQI_FILE(path), "token-id", "found id %lu, expected less than %lld", (unsigned long)ids[i], (long long)g->n_vocab);
    uint64_t left = (uint64_t)(g->context - g->info.n_token);
    if (n > left && g->info.n_token == 0)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(path), "context-full", "found %llu tokens, expected at most the %lld of the context", (unsigned long long)n, (long long)g->context);
    if (n > left)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(path), "context-full", "found %llu tokens behind %lld, expected at most %lld together", (unsigned long long)n,
                        (long long)g->info.n_token, (long long)g->context);
    return FQ_OK;
}

fq_status fq_generator_feed(fq_generator *g, const uint32_t *ids, size_t n, fq_err *e)
{
    FQI_TRY(check_feed(g, ids, n, e));
    size_t in_block = 0;
    for (size_t done = 0; done < n; done += in_block) {
        in_block = n - done < g->block ? n - done : g->block;
        const fqi_feed feed = { .sequence = 0, .n = in_block, .pos = g->info.n_token + (int64_t)done };
        fq_status s = fqi_resident_feed(&g->held, ids + done, &feed, 1, e);
        if (s == FQ_E_NUMERIC) g->broken = true;
        FQI_TRY(s);
    }
    if (n == 0) return FQ_OK;
    fqi_resident_logits(&g->held, in_block - 1, 1);
    g->info.n_token += (int64_t)n;
    g->has_logits = true;
    return FQ_OK;
}

const float *fq_generator_logits(const fq_generator *g) { return g->has_logits ? g->held.logits : NULL; }

fq_status fq_generator_next(fq_generator *g, uint32_t *id, fq_err *e)
{
    uint32_t chosen = 0;
    if (!g->has_logits) return fqi_fail(e, FQ_E_USAGE, NULL, "generator", "found no token to continue, expected one to be fed first");
    if (g->info.n_token == g->context) return check_feed(g, &chosen, 1, e);   /* before the draw: a call that fails changes nothing */
    fq_err why = { 0 };
    fq_status s = fqi_sampler_choose(&g->sampler, g->held.logits, &chosen, &why);
    if (s != FQ_OK) return fqi_fail_at(e, s, FQI_FILE(g->model.ckpt->info.path), &why);
    FQI_TRY(fq_generator_feed(g, &chosen, 1, e));
    *id = chosen;
    return FQ_OK;
}

bool fq_generator_is_end(const fq_generator *g, uint32_t id) { return fqi_ends_has(&g->ends, id); }
