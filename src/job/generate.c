/* generate.c - a model held in memory that continues one sequence (fq_generator_* of fitq.h).
 *
 * Not here: choosing ids (sample.c), chat templates (chat.c), text (the tokenizer is the caller's). Feeding a prompt, a turn of a
 * conversation or the id that was just chosen is the same: blocks of tokens through every layer, with the caches of what came before.
 * The sequence is as long as n_token says and nothing else: a call that fails, or is cancelled, leaves n_token and the logits as
 * they were, and what it put into the caches behind n_token is written again by the next call. The exception is a number that is not
 * finite: it could stay in a cache, where it would reach every later token, so such a generator refuses to go on.
 *
 * Logits of a padded vocabulary end where the real one does: zeros of padding rows must not win against negative logits. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/fs.h"
#include "base/fs_memory.h"
#include "base/pipeline.h"
#include "job/ends.h"
#include "job/runnable.h"
#include "job/sample.h"
#include "job/vocab.h"
#include "model/layer.h"

#define BLOCK_TOKENS 512        /* prefill at once: matrix products do not get faster beyond */
#define DEFAULT_CONTEXT 4096
#define CACHE_LINE 64
#define CODE_BYTES ((uint64_t)8 << 20)   /* pages of code, stacks and small tables that are touched when the work begins */
#define MIB ((uint64_t)1 << 20)

struct fq_generator {
    fqi_runnable model;
    const fq_run *run;
    fq_run own_run;             /* where the caller gave none */
    int n_thread;
    fq_dtype served;
    int64_t n_vocab;            /* real ids */
    int64_t context, capacity;  /* capacity: keys that a cache holds, a multiple of FQI_TILE */
    size_t block;
    fqi_compute compute; bool has_compute;
    fqi_weights *weights;
    const fqi_layer_weights **layer;
    const float *final_norm;
    fqi_matrix head;
    fqi_rope_table rope; bool has_rope;
    fqi_layer_work *work;
    float **cache_memory;       /* per layer: as allocated */
    fqi_kv *kv;                 /* per layer */
    float *x, *last, *logits;   /* of a block; of its last token; n_vocab */
    fqi_sampler sampler; bool has_sampler;
    fqi_ends ends;
    fq_generator_info info;
    bool has_logits, broken;
};

/* ---- sizes ---- */

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t max_cols(const fq_model *m)
{
    int64_t n = larger(m->hidden_size, m->num_attention_heads * m->head_dim);
    return larger(larger(n, m->intermediate_size), larger(m->moe_intermediate_size, m->shared_expert_intermediate_size));
}

/* Bytes of memory for everything that open allocates. */
typedef struct needs { uint64_t weights, caches, rest, total; } needs;

static fq_status measure(const fq_generator *g, const fq_generator_options *o, needs *out, fq_err *e)
{
    const fqi_decoder *d = &g->model.decoder;
    const fq_model *m = &d->model;
    fqi_weights_size w;
    FQI_TRY(fqi_weights_measure(g->model.ckpt, d, g->served, &w, e));
    needs n = { .weights = fqi_sat_add(fqi_sat_mul(w.slot_bytes, (uint64_t)m->num_hidden_layers), w.fixed_bytes) };
    n.weights = fqi_sat_add(n.weights, fqi_sat_mul(w.head_row_bytes, (uint64_t)m->vocab_size));
    n.caches = fqi_sat_mul(fqi_sat_mul(fqi_kv_floats(d, g->capacity), sizeof(float)), (uint64_t)m->num_hidden_layers);
    n.rest = fqi_sat_add(fqi_layer_work_bytes(d, g->n_thread, g->block, g->context), fqi_compute_bytes(g->n_thread, max_cols(m)));
    n.rest = fqi_sat_add(n.rest, fqi_sat_mul(fqi_sat_mul((uint64_t)g->context, (uint64_t)d->rope.dim), sizeof(float)));   /* cosines and sines, half each */
    n.rest = fqi_sat_add(n.rest, fqi_sat_mul(fqi_sat_add(fqi_sat_mul(g->block + 1, (uint64_t)m->hidden_size), (uint64_t)g->n_vocab), sizeof(float)));
    n.rest = fqi_sat_add(n.rest, fqi_sat_add(fqi_sampler_bytes(o->temperature, (size_t)g->n_vocab), CODE_BYTES));
    n.rest = fqi_sat_add(n.rest, fqi_memory_now().resident);
    n.total = fqi_sat_add(n.weights, fqi_sat_add(n.caches, n.rest));
    *out = n;
    return FQ_OK;
}

static fq_status check_budget(const fq_generator *g, const needs *n, fq_err *e)
{
    fqi_memory_trim();
    uint64_t resident = fqi_memory_now().resident, free_bytes = fqi_memory_available();
    uint64_t limit = g->run->memory_bytes ? g->run->memory_bytes : fqi_sat_add(free_bytes, resident);
    char found[FQI_BUDGET_MAX + 1];
    if (n->total <= limit) return FQ_OK;
    return fqi_fail(e, FQ_E_NOMEM, FQI_FILE(g->model.ckpt->info.path), "memory-budget",
                    "found %s%s, expected at least %llu MiB: weights %llu, KV cache for %lld tokens %llu, the rest %llu", fqi_show_budget(found, limit),
                    g->run->memory_bytes ? "" : " free", (unsigned long long)(n->total / MIB + 1), (unsigned long long)(n->weights / MIB), (long long)g->context,
                    (unsigned long long)(n->caches / MIB), (unsigned long long)(n->rest / MIB));
}

/* ---- opening ---- */

/* Positions for which the rotary embedding was made: yarn and dynamic scaling are there to go beyond what the model was trained on. */
static int64_t longest(const fqi_rope *r)
{
    if (r->kind != FQI_ROPE_YARN && r->kind != FQI_ROPE_DYNAMIC) return r->max_position;
    double scaled = (double)r->original_max * r->factor;
    return scaled < 9e15 ? larger(r->max_position, (int64_t)scaled) : r->max_position;
}

static fq_status choose_context(fq_generator *g, int64_t asked, fq_err *e)
{
    const fqi_rope *r = &g->model.decoder.rope;
    const char *path = g->model.ckpt->info.path;
    if (asked < 0) return fqi_fail(e, FQ_E_USAGE, NULL, "context", "found %lld, expected at least 1", (long long)asked);
    int64_t made_for = longest(r);
    g->context = asked ? asked : r->max_position > 0 && r->max_position < DEFAULT_CONTEXT ? r->max_position : DEFAULT_CONTEXT;
    if (!fqi_round_up_i64(g->context, FQI_TILE, &g->capacity) || g->capacity > INT64_C(1) << 40)
        return fqi_fail(e, FQ_E_USAGE, NULL, "context", "found %lld, expected at most 2^40", (long long)asked);
    if (made_for > 0 && g->context > made_for && g->run->log) {
        fq_err line;   /* only for its escaping of the path */
        fqi_fail(&line, FQ_E_INPUT, FQI_FILE(path), "context", "%lld tokens are more than the %lld that the model was made for; what it writes beyond them may be nonsense",
                 (long long)g->context, (long long)made_for);
        g->run->log(g->run->user, FQ_LOG_WARN, line.text);
    }
    g->block = g->context < BLOCK_TOKENS ? (size_t)g->context : BLOCK_TOKENS;
    return FQ_OK;
}

static fq_status make_caches(fq_generator *g, fq_err *e)
{
    size_t n_layer = (size_t)g->model.decoder.model.num_hidden_layers, n = fqi_kv_floats(&g->model.decoder, g->capacity);
    g->cache_memory = fqi_calloc(n_layer, sizeof *g->cache_memory);
    g->kv = fqi_calloc(n_layer, sizeof *g->kv);
    if (!g->cache_memory || !g->kv) return fqi_fail_nomem(e, "KV cache");
    for (size_t i = 0; i < n_layer; i++) {
        /* calloc's pages of zeros become real ones only when keys arrive: a long context costs nothing until it is used */
        float *memory = n > SIZE_MAX / sizeof(float) - CACHE_LINE ? NULL : fqi_calloc(n + CACHE_LINE / sizeof(float), sizeof(float));
        if (!memory) return fqi_fail_nomem(e, "KV cache");
        g->cache_memory[i] = memory;
        size_t off = (CACHE_LINE - (uintptr_t)memory % CACHE_LINE) % CACHE_LINE;
        fqi_kv_place(&g->model.decoder, memory + off / sizeof(float), g->capacity, &g->kv[i]);
    }
    return FQ_OK;
}

static fq_status make_buffers(fq_generator *g, const fq_generator_options *o, fq_err *e)
{
    const fqi_decoder *d = &g->model.decoder;
    size_t hidden = (size_t)d->model.hidden_size;
    FQI_TRY(fqi_compute_create(o->exact ? FQI_ORDER_FIXED : FQI_ORDER_FAST, g->served, g->n_thread, max_cols(&d->model), &g->compute, e));
    g->has_compute = true;
    FQI_TRY(fqi_rope_table_create(&d->rope, g->context, g->served, &g->rope, e));
    g->has_rope = true;
    FQI_TRY(fqi_layer_work_create(d, &g->compute, g->block, g->context, &g->work, e));
    FQI_TRY(make_caches(g, e));
    FQI_TRY(fqi_sampler_create(o->temperature, o->top_p, o->seed, (size_t)g->n_vocab, &g->sampler, e));
    g->has_sampler = true;
    g->x = fqi_calloc(g->block * hidden, sizeof *g->x);
    g->last = fqi_calloc(hidden, sizeof *g->last);
    g->logits = fqi_calloc((size_t)g->n_vocab, sizeof *g->logits);
    return g->x && g->last && g->logits ? FQ_OK : fqi_fail_nomem(e, "activations");
}

static bool cancelled(const fq_generator *g) { return g->run->cancelled && g->run->cancelled(g->run->user); }

static void report(const fq_generator *g, size_t layer, size_t n_layer, uint64_t total)
{
    if (!g->run->progress) return;
    uint64_t done = fqi_weights_bytes_read(g->weights);
    fq_progress p = { .phase = "load", .item = "layer", .done_bytes = done < total ? done : total, .total_bytes = total, .done_items = layer, .total_items = n_layer };
    g->run->progress(g->run->user, &p);
}

/* Everything at once: pointers into slots hold for good, since there are as many as layers. */
static fq_status read_weights(fq_generator *g, uint64_t total, fq_err *e)
{
    const fqi_decoder *d = &g->model.decoder;
    size_t n_layer = (size_t)d->model.num_hidden_layers;
    fqi_weights_options o = { .n_slot = n_layer, .served = g->served, .run = g->run };
    FQI_TRY(fqi_weights_create(g->model.ckpt, d, &o, &g->weights, e));
    g->layer = fqi_calloc(n_layer, sizeof *g->layer);
    if (!g->layer) return fqi_fail_nomem(e, "layers");
    for (size_t i = 0; i < n_layer; i++) {
        report(g, i, n_layer, total);
        if (cancelled(g)) return fqi_fail(e, FQ_E_CANCELLED, NULL, "cancelled", "stopped on request");
        FQI_TRY(fqi_weights_layer(g->weights, (int64_t)i, &g->layer[i], e));
    }
    g->final_norm = fqi_weights_final_norm(g->weights, e);
    if (!g->final_norm) return e ? e->code : FQ_E_NOMEM;
    FQI_TRY(fqi_weights_head(g->weights, 0, d->model.vocab_size, &g->head, e));
    g->head.rows = g->n_vocab;
    report(g, n_layer, n_layer, total);
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
    uint64_t sum = matrix_bytes(&g->head);
    for (int64_t i = 0; i < m->num_hidden_layers; i++) {
        const fqi_layer_weights *w = g->layer[i];
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
    needs n = { 0 };
    FQI_TRY(fqi_served_dtype(o->served, &g->served, e));
    FQI_TRY(fqi_runnable_open(path, g->run, &g->model, e));
    FQI_TRY(fqi_vocab_real(g->model.ckpt, &g->n_vocab, e));
    FQI_TRY(fqi_ends_read(g->model.ckpt->dir, &g->model.decoder, g->n_vocab, &g->ends, e));
    FQI_TRY(choose_context(g, o->context, e));
    FQI_TRY(measure(g, o, &n, e));
    FQI_TRY(check_budget(g, &n, e));
    FQI_TRY(make_buffers(g, o, e));
    FQI_TRY(read_weights(g, n.weights, e));
    g->info = (fq_generator_info){ .context = g->context, .n_vocab = (size_t)g->n_vocab, .weight_bytes = step_bytes(g), .memory_bytes = n.total,
                                   .kernel = g->compute.kernel->name, .n_thread = g->n_thread };
    return FQ_OK;
}

fq_status fq_generator_open(const char *path, const fq_generator_options *o, const fq_run *run, fq_generator **out, fq_err *e)
{
    static const fq_generator_options defaults;
    fq_err local;
    if (!e) e = &local;   /* fqi_weights_final_norm tells its status by it */
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
    size_t n_layer = g->cache_memory ? (size_t)g->model.decoder.model.num_hidden_layers : 0;
    for (size_t i = 0; i < n_layer; i++) free(g->cache_memory[i]);
    free(g->cache_memory);
    free(g->kv);
    free(g->x);
    free(g->last);
    free(g->logits);
    if (g->has_sampler) fqi_sampler_free(&g->sampler);
    fqi_layer_work_free(g->work);
    if (g->has_rope) fqi_rope_table_free(&g->rope);
    if (g->has_compute) fqi_compute_free(&g->compute);
    free(g->layer);
    fqi_weights_free(g->weights);
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
    if (n > left)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(path), "context-full", "found %llu tokens behind %lld, expected at most %lld together", (unsigned long long)n,
                        (long long)g->info.n_token, (long long)g->context);
    return FQ_OK;
}

/* The model before a message about numbers, which names only a layer or an id. */
static fq_status name_model(const fq_generator *g, fq_status s, const fq_err *why, fq_err *e)
{
    if (s == FQ_OK || !e) return s;
    *e = *why;
    if (s != FQ_E_NUMERIC) return s;
    fqi_fail(e, s, FQI_FILE(g->model.ckpt->info.path), NULL, "%s", why->text);
    memcpy(e->rule, why->rule, sizeof e->rule);
    return s;
}

/* n <= g->block tokens at position pos through all layers; g->x holds their hidden states then. */
static fq_status run_block(fq_generator *g, const uint32_t *ids, size_t n, int64_t pos, fq_err *e)
{
    FQI_TRY(fqi_weights_embed(g->weights, ids, n, g->x, e));
    for (int64_t i = 0; i < g->model.decoder.model.num_hidden_layers; i++) {
        fqi_span span = { .n = n, .pos = pos, .kv = g->kv[i] };
        fqi_batch batch = { .span = &span, .n_span = 1, .n_token = n };
        if (cancelled(g)) return fqi_fail(e, FQ_E_CANCELLED, NULL, "cancelled", "stopped on request");
        fq_err why = { 0 };
        fq_status s = fqi_layer_forward(&g->compute, &g->model.decoder, &g->rope, g->layer[i], i, &batch, g->x, g->work, NULL, &why);
        FQI_TRY(name_model(g, s, &why, e));
    }
    return FQ_OK;
}

/* Logits of the last of n tokens in g->x. */
static void run_head(fq_generator *g, size_t n)
{
    size_t hidden = (size_t)g->model.decoder.model.hidden_size;
    const fqi_compute *c = &g->compute;
    c->kernel->rms_norm(g->x + (n - 1) * hidden, g->final_norm, (float)g->model.decoder.rms_norm_eps, c->served, g->last, hidden);
    fqi_matmul(c, &g->head, NULL, g->last, 1, g->logits, (size_t)g->head.rows);
}

fq_status fq_generator_feed(fq_generator *g, const uint32_t *ids, size_t n, fq_err *e)
{
    FQI_TRY(check_feed(g, ids, n, e));
    size_t in_block = 0;
    for (size_t done = 0; done < n; done += in_block) {
        in_block = n - done < g->block ? n - done : g->block;
        fq_status s = run_block(g, ids + done, in_block, g->info.n_token + (int64_t)done, e);
        if (s == FQ_E_NUMERIC) g->broken = true;
        FQI_TRY(s);
    }
    if (n == 0) return FQ_OK;
    run_head(g, in_block);
    g->info.n_token += (int64_t)n;
    g->has_logits = true;
    return FQ_OK;
}

const float *fq_generator_logits(const fq_generator *g) { return g->has_logits ? g->logits : NULL; }

fq_status fq_generator_next(fq_generator *g, uint32_t *id, fq_err *e)
{
    uint32_t chosen = 0;
    if (!g->has_logits) return fqi_fail(e, FQ_E_USAGE, NULL, "generator", "found no token to continue, expected one to be fed first");
    if (g->info.n_token == g->context) return check_feed(g, &chosen, 1, e);   /* before the draw: a call that fails changes nothing */
    fq_err why = { 0 };
    FQI_TRY(name_model(g, fqi_sampler_choose(&g->sampler, g->logits, &chosen, &why), &why, e));
    FQI_TRY(fq_generator_feed(g, &chosen, 1, e));
    *id = chosen;
    return FQ_OK;
}

bool fq_generator_is_end(const fq_generator *g, uint32_t id) { return fqi_ends_has(&g->ends, id); }
