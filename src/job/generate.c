/* generate.c - a model held in memory that continues one sequence (fq_generator_* of fitq.h).
 *
 * Not here: weights and caches (resident.c), choosing ids (sample.c), chat templates (chat.c), text (the tokenizer is the caller's).
 * Feeding a prompt, a turn of a conversation or the id that was just chosen is the same: blocks of tokens through every layer, with the
 * caches of what came before. The sequence is as long as n_token says and nothing else: a call that fails, or is cancelled, leaves
 * n_token and the logits as they were, and what it put into the caches behind n_token is written again by the next call. The exception
 * is a number that is not finite: it could stay in a cache, where it would reach every later token, so such a generator refuses to go
 * on.
 *
 * Of several ranks rank 0 is the caller's; the others hold their slices, and do what rank 0 says (serve): a command, and its ids. There any failure
 * is the end. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/pipeline.h"
#include "job/ends.h"
#include "job/rank_run.h"
#include "job/resident.h"
#include "job/runnable.h"
#include "job/sample.h"
#include "job/vocab.h"

#define BLOCK_TOKENS 512        /* prefill at once: matrix products do not get faster beyond */
#define DEFAULT_CONTEXT 4096

/* What rank 0 tells the others. ids follow. */
typedef enum what { DO_FEED, DO_CLOSE } what;
typedef struct command { uint32_t what, logits; uint64_t n; int64_t pos; } command;

/* What ranks on threads open for themselves. Lives as long as the generator of rank 0. */
typedef struct request { const char *path; fq_generator_options o; const fq_run *run; } request;

struct fq_generator {
    fqi_runnable model;
    fq_run run;                 /* of this rank */
    fqi_comm *comm; bool starts;   /* starts: rank 0, or a process; it ends what it started */
    request request; char *path;
    fqi_slice slice;
    uint32_t *told;             /* ids of a command */
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
    fqi_runnable_warn_length(&g->model, g->context, &g->run);
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

static fq_status join_ranks(fq_generator *g, const fq_generator_options *o, fq_err *e)
{
    const struct { int64_t served, exact, context, expert_parallel; } options = { (int64_t)o->served, o->exact, g->context, g->run.expert_parallel };
    FQI_TRY(fqi_comm_same(g->comm, "set of options", &options, sizeof options, e));
    FQI_TRY(fqi_rank_same_model(g->comm, g->model.ckpt, e));
    FQI_TRY(fqi_rank_slice(g->comm, &g->run, &g->model, &g->slice, e));
    g->told = fqi_calloc(g->block, sizeof *g->told);
    return g->told ? FQ_OK : fqi_fail_nomem(e, "token ids");
}

static fq_status open_all(fq_generator *g, const char *path, const fq_generator_options *o, fq_err *e)
{
    fqi_resident_size n = { 0 };
    FQI_TRY(fqi_served_dtype(o->served, &g->served, e));
    fqi_comm_phase(g->comm, "open");
    FQI_TRY(fqi_runnable_open(path, &g->run, &g->model, e));
    FQI_TRY(fqi_vocab_real(g->model.ckpt, &g->n_vocab, e));
    FQI_TRY(fqi_ends_read(g->model.ckpt->dir, &g->model.decoder, g->n_vocab, &g->ends, e));
    FQI_TRY(choose_context(g, o->context, e));
    if (g->comm) FQI_TRY(join_ranks(g, o, e));
    const fqi_resident_options r = {
        .ckpt = g->model.ckpt, .decoder = &g->model.decoder, .run = &g->run, .comm = g->comm, .slice = g->comm ? &g->slice : NULL, .order = o->exact ? FQI_ORDER_FIXED : FQI_ORDER_FAST, .served = g->served,
        .n_thread = g->n_thread, .n_position = g->context, .n_sequence = 1, .n_token = g->block, .n_logit_row = 1, .n_vocab = g->n_vocab,
        .extra_bytes = fqi_sampler_bytes(o->temperature, (size_t)g->n_vocab), .free_quarters = 4,
    };
    FQI_TRY(fqi_resident_measure(&r, &n, e));
    if (fqi_comm_rank(g->comm) == 0 || fqi_comm_n_here(g->comm) == 1) FQI_TRY(fqi_resident_check(&r, &n, e));   /* rank 0 asks for its threads too */
    fqi_comm_phase(g->comm, "load");
    FQI_TRY(fqi_comm_barrier(g->comm, e));   /* before gigabytes are read */
    FQI_TRY(fqi_sampler_create(o->temperature, o->top_p, o->seed, (size_t)g->n_vocab, &g->sampler, e));
    g->has_sampler = true;
    FQI_TRY(fqi_resident_create(&r, &n, &g->held, e));
    g->info = (fq_generator_info){ .context = g->context, .n_vocab = (size_t)g->n_vocab, .weight_bytes = step_bytes(g), .memory_bytes = n.total,
                                   .kernel = g->held.compute.kernel->name, .n_thread = g->n_thread };
    return FQ_OK;
}

static void free_all(fq_generator *g)
{
    if (g->has_sampler) fqi_sampler_free(&g->sampler);
    fqi_resident_free(&g->held);
    fqi_runnable_free(&g->model);
    free(g->told);
    free(g->path);
    free(g);
}

static fq_status open_rank(fq_generator *g, const request *q, fqi_comm *comm, fq_err *e)
{
    g->comm = comm;
    fqi_rank_run(comm, q->run, &g->run);
    g->n_thread = fqi_n_thread(g->run.n_thread);
    return open_all(g, q->path, &q->o, e);
}

/* A rank on a thread: its whole life. */
static fq_status live(void *user, fqi_comm *comm, fq_err *e)
{
    fq_generator *g = fqi_calloc(1, sizeof *g);
    if (!g) return fqi_fail_nomem(e, "generator");
    fq_status s = open_rank(g, user, comm, e);
    if (s == FQ_OK) s = fq_generator_serve(g, e);
    free_all(g);
    return s;
}

fq_status fq_generator_open(const char *path, const fq_generator_options *o, const fq_run *run, fq_generator **out, fq_err *e)
{
    static const fq_run plain;
    fq_err why = { 0 };
    fqi_comm *comm = NULL;
    fq_generator *g = fqi_calloc(1, sizeof *g);
    if (!g) return fqi_fail_nomem(e, "generator");
    g->path = strdup(path);
    g->request = (request){ .path = g->path, .run = run ? run : &plain };
    if (o) g->request.o = *o;
    fq_status s = g->path ? fqi_ranks_start(g->request.run, live, &g->request, &comm, &why) : fqi_fail_nomem(&why, "path");
    g->starts = comm != NULL;
    if (s == FQ_OK) s = open_rank(g, &g->request, comm, &why);
    if (s == FQ_OK) {
        *out = g;
        return FQ_OK;
    }
    if (g->starts) s = fqi_ranks_finish(comm, s, &why);
    free_all(g);
    if (e) *e = why;
    return s;
}

void fq_generator_close(fq_generator *g)
{
    if (!g) return;
    const command done = { .what = DO_CLOSE };
    if (g->starts) {
        if (fqi_comm_rank(g->comm) == 0) (void)fqi_comm_broadcast(g->comm, 0, (void *)(uintptr_t)&done, sizeof done, NULL);
        (void)fqi_ranks_finish(g->comm, FQ_OK, NULL);
    }
    free_all(g);
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

/* At most a block. */
static fq_status run_block(fq_generator *g, const command *c, const uint32_t *ids, fq_err *e)
{
    const fqi_feed feed = { .sequence = 0, .n = (size_t)c->n, .pos = c->pos };
    FQI_TRY(fqi_resident_feed(&g->held, ids, &feed, 1, e));
    return c->logits ? fqi_resident_logits(&g->held, (size_t)c->n - 1, 1, e) : FQ_OK;
}

static fq_status tell_block(fq_generator *g, command c, const uint32_t *ids, fq_err *e)
{
    if (g->comm) {
        FQI_TRY(fqi_comm_broadcast(g->comm, 0, &c, sizeof c, e));
        memcpy(g->told, ids, (size_t)c.n * sizeof *ids);
        FQI_TRY(fqi_comm_broadcast(g->comm, 0, g->told, (size_t)c.n * sizeof *ids, e));
    }
    return run_block(g, &c, ids, e);
}

fq_status fq_generator_serve(fq_generator *g, fq_err *e)
{
    command c = { 0 };
    if (fqi_comm_rank(g->comm) == 0) return fqi_fail(e, FQ_E_USAGE, NULL, "generator", "found rank 0, expected another one: rank 0 says what is done");
    fqi_comm_phase(g->comm, "generate");
    for (;;) {
        FQI_TRY(fqi_comm_broadcast(g->comm, 0, &c, sizeof c, e));
        if (c.what == DO_CLOSE) return FQ_OK;
        FQI_TRY(fqi_comm_broadcast(g->comm, 0, g->told, (size_t)c.n * sizeof *g->told, e));
        FQI_TRY(run_block(g, &c, g->told, e));
    }
}

fq_status fq_generator_feed(fq_generator *g, const uint32_t *ids, size_t n, fq_err *e)
{
    fq_err why = { 0 };
    FQI_TRY(check_feed(g, ids, n, e));
    size_t in_block = 0;
    fqi_comm_phase(g->comm, "generate");
    for (size_t done = 0; done < n; done += in_block) {
        in_block = n - done < g->block ? n - done : g->block;
        const command c = { .what = DO_FEED, .logits = done + in_block == n, .n = in_block, .pos = g->info.n_token + (int64_t)done };
        fq_status s = tell_block(g, c, ids + done, &why);
        if (s == FQ_OK) continue;
        if (s == FQ_E_NUMERIC) g->broken = true;
        if (g->comm) s = fqi_comm_agree(g->comm, s, &why);   /* the others must not wait for what does not come */
        if (e) *e = why;
        return s;
    }
    if (n == 0) return FQ_OK;
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
