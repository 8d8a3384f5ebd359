/* resident.c - weights, caches and buffers of a model that is held in memory (see resident.h). */
#include "job/resident.h"

#include "job/rank_run.h"

#include <stdlib.h>

#include "base/checked.h"
#include "base/fs_memory.h"
#include "base/mem.h"

#define CACHE_LINE 64
#define CODE_BYTES ((uint64_t)8 << 20)   /* pages of code, stacks and small tables that are touched when the work begins */
#define MIB ((uint64_t)1 << 20)

/* ---- sizes ---- */

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t max_cols(const fq_model *m)
{
    int64_t n = larger(m->hidden_size, m->num_attention_heads * m->head_dim);
    return larger(larger(n, m->intermediate_size), larger(m->moe_intermediate_size, m->shared_expert_intermediate_size));
}

static const fqi_decoder *local(const fqi_resident_options *o) { return o->slice ? &o->slice->local : o->decoder; }

/* Rows of the output head that are held, and those that give logits of real ids. */
static int64_t head_rows(const fqi_resident_options *o) { return o->slice ? o->slice->axis[FQI_AX_VOCAB].n : o->decoder->model.vocab_size; }
static int64_t logit_rows(const fqi_resident_options *o)
{
    return o->slice ? fqi_rank_vocab(o->comm, fqi_comm_rank(o->comm), o->decoder->model.vocab_size, o->n_vocab).n : o->n_vocab;
}

/* Numbers of a row in the buffer of logits. */
static int64_t row_logits(const fqi_resident_options *o) { return fqi_comm_rank(o->comm) == 0 ? o->n_vocab : logit_rows(o); }

static int64_t capacity(const fqi_resident_options *o) { return (o->n_position + FQI_TILE - 1) / FQI_TILE * FQI_TILE; }

/* Of one sequence and layer; the next sequence's begins aligned as well. */
static size_t kv_floats(const fqi_resident_options *o)
{
    return (fqi_kv_floats(local(o), capacity(o)) + FQI_LANES - 1) / FQI_LANES * FQI_LANES;
}

fq_status fqi_resident_measure(const fqi_resident_options *o, fqi_resident_size *out, fq_err *e)
{
    const fqi_decoder *d = local(o);
    const fq_model *m = &d->model;
    const uint64_t here = (uint64_t)fqi_comm_n_here(o->comm);
    const uint64_t n_layer = (uint64_t)m->num_hidden_layers, hidden = (uint64_t)m->hidden_size;
    fqi_weights_size w;
    FQI_TRY(fqi_weights_measure(o->ckpt, o->decoder, o->slice, o->served, &w, e));
    fqi_resident_size n = { .weights = fqi_sat_add(fqi_sat_mul(w.slot_bytes, n_layer), w.fixed_bytes) };
    n.weights = fqi_sat_add(n.weights, fqi_sat_mul(w.head_row_bytes, (uint64_t)head_rows(o)));
    n.caches = fqi_sat_mul(fqi_sat_mul(fqi_sat_mul(kv_floats(o), sizeof(float)), n_layer), o->n_sequence);
    n.rest = fqi_sat_add(fqi_layer_work_bytes(d, o->n_thread, o->n_token, o->n_position), fqi_compute_bytes(o->n_thread, max_cols(m)));
    n.rest = fqi_sat_add(n.rest, fqi_sat_mul(fqi_sat_mul((uint64_t)o->n_position, (uint64_t)d->rope.dim), sizeof(float)));   /* cosines and sines, half each */
    n.rest = fqi_sat_add(n.rest, fqi_sat_mul(fqi_sat_mul(o->n_token, hidden), sizeof(float)));
    n.rest = fqi_sat_add(n.rest, fqi_sat_mul(fqi_sat_mul(o->n_logit_row, fqi_sat_add(hidden, (uint64_t)o->n_vocab)), sizeof(float)));
    n.rest = fqi_sat_add(n.rest, fqi_sat_mul(fqi_sat_mul(o->n_sequence, n_layer + 1), sizeof(fqi_span)));
    n.rest = fqi_sat_add(n.rest, fqi_comm_sum_bytes(o->comm, fqi_sat_mul(o->n_token, hidden), sizeof(float)));
    n.weights = fqi_sat_mul(n.weights, here);
    n.caches = fqi_sat_mul(n.caches, here);
    n.rest = fqi_sat_mul(n.rest, here);
    n.rest = fqi_sat_add(n.rest, fqi_sat_mul(fqi_rank_logit_floats(o->comm, o->n_logit_row, o->n_vocab), sizeof(float)));
    n.rest = fqi_sat_add(n.rest, fqi_sat_add(o->extra_bytes, CODE_BYTES));
    n.rest = fqi_sat_add(n.rest, fqi_memory_now().resident);
    n.total = fqi_sat_add(n.weights, fqi_sat_add(n.caches, n.rest));
    *out = n;
    return FQ_OK;
}

fq_status fqi_resident_check(const fqi_resident_options *o, const fqi_resident_size *size, fq_err *e)
{
    fqi_memory_trim();
    const uint64_t processes = (uint64_t)fqi_comm_n_local(o->comm) / (uint64_t)fqi_comm_n_here(o->comm);
    const uint64_t budget = o->run->memory_bytes, resident = fqi_memory_now().resident;
    const uint64_t limit = budget ? budget : fqi_sat_add(fqi_memory_available() / 4 * o->free_quarters / processes, resident);
    char found[FQI_BUDGET_MAX + 1];
    if (size->total <= limit) return FQ_OK;
    return fqi_fail(e, FQ_E_NOMEM, FQI_FILE(o->ckpt->info.path), "memory-budget",
                    "found %s%s, expected at least %llu MiB: weights %llu, KV cache for %llu tokens %llu, the rest %llu", fqi_show_budget(found, limit), budget ? "" : " free",
                    (unsigned long long)(size->total / MIB + 1), (unsigned long long)(size->weights / MIB),
                    (unsigned long long)fqi_sat_mul((uint64_t)o->n_position, o->n_sequence), (unsigned long long)(size->caches / MIB), (unsigned long long)(size->rest / MIB));
}

/* ---- making ---- */

static fq_status make_caches(fqi_resident *r, fq_err *e)
{
    const size_t n_layer = (size_t)r->o.decoder->model.num_hidden_layers, n_sequence = r->o.n_sequence, n = kv_floats(&r->o);
    size_t all = 0, n_kv = 0;
    if (!fqi_mul_size(n, n_sequence, &all) || all > SIZE_MAX / sizeof(float) - CACHE_LINE || !fqi_mul_size(n_layer, n_sequence, &n_kv)) return fqi_fail_nomem(e, "KV cache");
    r->cache_memory = fqi_calloc(n_layer, sizeof *r->cache_memory);
    r->kv = fqi_calloc(n_kv, sizeof *r->kv);
    r->span = fqi_calloc(n_sequence, sizeof *r->span);
    if (!r->cache_memory || !r->kv || !r->span) return fqi_fail_nomem(e, "KV cache");
    for (size_t i = 0; i < n_layer; i++) {
        /* calloc's pages of zeros become real ones only when keys arrive: a long context costs nothing until it is used */
        float *memory = fqi_calloc(all + CACHE_LINE / sizeof(float), sizeof(float));
        if (!memory) return fqi_fail_nomem(e, "KV cache");
        r->cache_memory[i] = memory;
        size_t off = (CACHE_LINE - (uintptr_t)memory % CACHE_LINE) % CACHE_LINE / sizeof(float);
        for (size_t s = 0; s < n_sequence; s++) fqi_kv_place(local(&r->o), memory + off + s * n, capacity(&r->o), &r->kv[i * n_sequence + s]);
    }
    return FQ_OK;
}

static fq_status make_buffers(fqi_resident *r, fq_err *e)
{
    const fqi_resident_options *o = &r->o;
    const size_t hidden = (size_t)o->decoder->model.hidden_size;
    size_t n_x, n_norm, n_logit;
    FQI_TRY(fqi_compute_create(o->order, o->served, o->n_thread, max_cols(&local(o)->model), &r->compute, e));
    r->has_compute = true;
    FQI_TRY(fqi_rope_table_create(&o->decoder->rope, o->n_position, o->served, &r->rope, e));
    r->has_rope = true;
    FQI_TRY(fqi_layer_work_create(local(o), &r->compute, o->n_token, o->n_position, &r->work, e));
    if (o->slice) fqi_layer_work_share(r->work, o->comm);
    FQI_TRY(make_caches(r, e));
    if (!fqi_mul_size(o->n_token, hidden, &n_x) || !fqi_mul_size(o->n_logit_row, hidden, &n_norm) || !fqi_mul_size(o->n_logit_row, (size_t)row_logits(o), &n_logit))
        return fqi_fail_nomem(e, "activations");
    r->x = fqi_calloc(n_x, sizeof *r->x);
    r->norm = fqi_calloc(n_norm, sizeof *r->norm);
    r->logits = fqi_calloc(n_logit, sizeof *r->logits);
    r->from_ranks = fqi_calloc(fqi_rank_logit_floats(o->comm, o->n_logit_row, o->n_vocab), sizeof *r->from_ranks);
    return r->x && r->norm && r->logits && r->from_ranks ? FQ_OK : fqi_fail_nomem(e, "activations");
}

bool fqi_resident_cancelled(const fqi_resident *r) { return r->o.run->cancelled && r->o.run->cancelled(r->o.run->user); }

static void report(const fqi_resident *r, size_t layer, size_t n_layer, uint64_t total)
{
    if (!r->o.run->progress) return;
    uint64_t done = fqi_weights_bytes_read(r->weights);
    fq_progress p = { .phase = "load", .item = "layer", .done_bytes = done < total ? done : total, .total_bytes = total, .done_items = layer, .total_items = n_layer };
    r->o.run->progress(r->o.run->user, &p);
}

/* Everything at once: pointers into slots hold for good, since there are as many as layers. */
static fq_status read_weights(fqi_resident *r, uint64_t total, fq_err *e)
{
    const fqi_decoder *d = r->o.decoder;
    size_t n_layer = (size_t)d->model.num_hidden_layers;
    fqi_weights_options o = { .n_slot = n_layer, .served = r->o.served, .run = r->o.run, .slice = r->o.slice };
    FQI_TRY(fqi_weights_create(r->o.ckpt, d, &o, &r->weights, e));
    r->layer = fqi_calloc(n_layer, sizeof *r->layer);
    if (!r->layer) return fqi_fail_nomem(e, "layers");
    for (size_t i = 0; i < n_layer; i++) {
        report(r, i, n_layer, total);
        if (fqi_resident_cancelled(r)) return fqi_fail(e, FQ_E_CANCELLED, NULL, "cancelled", "stopped on request");
        FQI_TRY(fqi_weights_layer(r->weights, (int64_t)i, &r->layer[i], e));
    }
    fq_err why = { 0 };   /* fqi_weights_final_norm tells its status by it */
    r->final_norm = fqi_weights_final_norm(r->weights, &why);
    if (!r->final_norm) {
        if (e) *e = why;
        return why.code;
    }
    FQI_TRY(fqi_weights_head(r->weights, 0, head_rows(&r->o), &r->head, e));
    r->head.rows = logit_rows(&r->o);
    report(r, n_layer, n_layer, total);
    return FQ_OK;
}

fq_status fqi_resident_create(const fqi_resident_options *o, const fqi_resident_size *size, fqi_resident *out, fq_err *e)
{
    *out = (fqi_resident){ .o = *o };
    FQI_TRY(make_buffers(out, e));
    return read_weights(out, size->weights, e);
}

void fqi_resident_free(fqi_resident *r)
{
    const size_t n_layer = r->cache_memory ? (size_t)r->o.decoder->model.num_hidden_layers : 0;
    for (size_t i = 0; i < n_layer; i++) free(r->cache_memory[i]);
    free(r->cache_memory);
    free(r->kv);
    free(r->span);
    free(r->x);
    free(r->norm);
    free(r->logits);
    free(r->from_ranks);
    fqi_layer_work_free(r->work);
    if (r->has_rope) fqi_rope_table_free(&r->rope);
    if (r->has_compute) fqi_compute_free(&r->compute);
    free(r->layer);
    fqi_weights_free(r->weights);
    *r = (fqi_resident){ 0 };
}

/* ---- running ---- */

/* A message about numbers names only a layer: the model stands before it. */
static fq_status run_layer(fqi_resident *r, size_t layer, const fqi_batch *batch, fq_err *e)
{
    fq_err why = { 0 };
    fq_status s = fqi_layer_forward(&r->compute, local(&r->o), &r->rope, r->layer[layer], (int64_t)layer, batch, r->x, r->work, NULL, &why);
    if (s == FQ_OK) return s;
    return fqi_fail_at(e, s, s == FQ_E_NUMERIC ? FQI_FILE(r->o.ckpt->info.path) : NULL, &why);
}

fq_status fqi_resident_feed(fqi_resident *r, const uint32_t *ids, const fqi_feed *feed, size_t n_feed, fq_err *e)
{
    fqi_batch batch = { .span = r->span, .n_span = n_feed };
    for (size_t k = 0; k < n_feed; k++) batch.n_token += feed[k].n;
    FQI_TRY(fqi_weights_embed(r->weights, ids, batch.n_token, r->x, e));
    if (r->o.slice) FQI_TRY(fqi_comm_sum_float(r->o.comm, r->x, batch.n_token * (size_t)r->o.decoder->model.hidden_size, e));
    for (size_t i = 0; i < (size_t)r->o.decoder->model.num_hidden_layers; i++) {
        for (size_t k = 0; k < n_feed; k++) r->span[k] = (fqi_span){ .n = feed[k].n, .pos = feed[k].pos, .kv = r->kv[i * r->o.n_sequence + feed[k].sequence] };
        if (fqi_resident_cancelled(r)) return fqi_fail(e, FQ_E_CANCELLED, NULL, "cancelled", "stopped on request");
        FQI_TRY(run_layer(r, i, &batch, e));
    }
    return FQ_OK;
}

fq_status fqi_resident_logits(fqi_resident *r, size_t row, size_t n, fq_err *e)
{
    const size_t hidden = (size_t)r->o.decoder->model.hidden_size;
    const fqi_compute *c = &r->compute;
    for (size_t i = 0; i < n; i++)
        c->kernel->rms_norm(r->x + (row + i) * hidden, r->final_norm, (float)r->o.decoder->rms_norm_eps, c->served, r->norm + i * hidden, hidden);
    if (r->head.rows > 0) fqi_matmul(c, &r->head, NULL, r->norm, n, r->logits, (size_t)row_logits(&r->o));
    if (!r->o.slice) return FQ_OK;
    const fqi_rank_logits part = { .vocab = r->o.decoder->model.vocab_size, .limit = r->o.n_vocab, .n = n, .mine = r->logits, .logits = r->logits, .scratch = r->from_ranks };
    return fqi_rank_collect(r->o.comm, &part, e);
}
