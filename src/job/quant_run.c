/* quant_run.c - the loop over layers: calibrate, solve, hand over to the writer, go on. See quantize_private.h.
 *
 *     this thread    layer 0 | layer 1          | layer 2          | ...
 *     writer                 | pack, write 0    | pack, write 1    | ...
 *
 * Before a layer goes to the writer its hidden states are on the disk (quant_state.c); the writer's last act is the journal's record. So a
 * run that was killed starts with the first layer that is not on record, from the states of the one before.
 *
 * Of several ranks all compute, and rank 0 alone writes: the others have no stream, and hand no layer over. They meet rank 0 in what
 * quant_layer.c sums, and where states are kept. */
#include <float.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/fs_memory.h"
#include "base/pipeline.h"
#include "job/quantize_private.h"

#define LOST 0.5        /* relative error of a module that is worth a warning of its own */
#define HEAD_ROWS 256   /* of an output head that is only copied: the weights object holds some */

typedef struct quant_run {
    fqi_quantize *q;
    fqi_comm *comm;
    bool writes;                 /* rank 0; the others have no stream */
    fqi_stream *stream;
    fqi_stream_request request;
    fq_run quiet;                /* for the writer's thread: callbacks belong to the caller's */
    fqi_weights *weights;
    fqi_rope_table rope;
    fqi_compute compute; bool has_compute;
    fqi_acts x, attention, plain; bool has_x, has_attention, has_plain;
    float *buf;                  /* a batch of hidden states that are on the disk */
    size_t *first_tensor;        /* of each layer; [n_layer] = behind the last */
    int64_t n_layer, head_rows;
    char *dir;                   /* the staging folder */
    size_t next;                 /* first tensor that was not on record at the start */
    uint64_t key;                /* of hidden states on the disk */
    bool head_done;              /* the output head is on record, with its report */
    pthread_t writer; bool writing; size_t upto;
    fq_status written; fq_err why;
} quant_run;

static bool calibrates(const fqi_quantize *q) { return q->settings.method == FQ_METHOD_GPTQ; }

/* ---- the writer ------------------------------------------------------------------------------------------------------------ */

static void *write_layer(void *user)
{
    quant_run *r = user;
    r->written = fqi_stream_write(r->stream, r->upto, &r->why);
    return NULL;
}

static fq_status wait_for_writer(quant_run *r, fq_err *e)
{
    if (!r->writing) return FQ_OK;
    pthread_join(r->writer, NULL);
    r->writing = false;
    fqi_made_layer_free(r->q->writing);
    r->q->writing = NULL;
    if (r->written != FQ_OK && e) *e = r->why;
    return r->written;
}

/* Takes `layer` over, also on failure. */
static fq_status hand_over(quant_run *r, fqi_made_layer *layer, size_t upto, fq_err *e)
{
    fq_status s = wait_for_writer(r, e);
    if (s != FQ_OK) {
        fqi_made_layer_free(layer);
        return s;
    }
    r->q->writing = layer;
    r->upto = upto;
    int err = pthread_create(&r->writer, NULL, write_layer, r);
    r->writing = err == 0;
    if (err == 0) return FQ_OK;
    fqi_made_layer_free(layer);
    r->q->writing = NULL;
    return fqi_fail_sys(e, NULL, "start a thread", err);
}

/* ---- building up ------------------------------------------------------------------------------------------------------------ */

static fq_status find_layers(quant_run *r, fq_err *e)
{
    const fqi_outplan *t = &r->q->table;
    r->n_layer = r->q->decoder.model.num_hidden_layers;
    r->first_tensor = fqi_calloc((size_t)r->n_layer + 1, sizeof *r->first_tensor);
    if (!r->first_tensor) return fqi_fail_nomem(e, "layers");
    size_t i = 0;
    while (i < t->n_tensor && t->tensor[i].layer < 0) i++;
    for (int64_t layer = 0; layer <= r->n_layer; layer++) {
        r->first_tensor[layer] = i;
        while (i < t->n_tensor && t->tensor[i].layer == layer) i++;
    }
    return FQ_OK;
}

static fq_status make_acts(quant_run *r, fq_err *e)
{
    fqi_quantize *q = r->q;
    const fq_model *m = &q->decoder.model;
    const size_t rows = fqi_quant_share_of(r->comm, q->calib.n_window, q->calib.seqlen).n_row, hidden = (size_t)m->hidden_size, width = (size_t)(m->num_attention_heads * m->head_dim);
    const char *dir = q->o->scratch ? q->o->scratch : r->dir;
    FQI_TRY(fqi_acts_create(rows, hidden, q->plan.acts_in_memory, dir, &r->x, e));
    r->has_x = true;
    FQI_TRY(fqi_acts_create(rows, width, q->plan.acts_in_memory, dir, &r->attention, e));
    r->has_attention = true;
    if (q->settings.shift > 0) {
        FQI_TRY(fqi_acts_create(rows, hidden, q->plan.acts_in_memory, dir, &r->plain, e));
        r->has_plain = true;
    }
    r->buf = fqi_calloc(q->calib.seqlen, hidden * sizeof(float));
    return r->buf ? FQ_OK : fqi_fail_nomem(e, "hidden states");
}

static fq_status build(quant_run *r, fq_err *e)
{
    fqi_quantize *q = r->q;
    const fq_model *m = &q->decoder.model;
    r->head_rows = m->vocab_size < HEAD_ROWS || q->o->lm_head ? m->vocab_size : HEAD_ROWS;
    const fqi_weights_options o = { .n_slot = q->plan.n_slot, .served = FQ_DTYPE_F32, .head_rows = r->head_rows, .run = q->run };
    int64_t cols = m->hidden_size;
    const int64_t width[] = { m->num_attention_heads * m->head_dim, m->intermediate_size, m->moe_intermediate_size, m->shared_expert_intermediate_size };
    for (size_t i = 0; i < sizeof width / sizeof width[0]; i++) cols = width[i] > cols ? width[i] : cols;
    FQI_TRY(find_layers(r, e));
    FQI_TRY(fqi_weights_create(q->fitting.ckpt, &q->decoder, &o, &r->weights, e));
    FQI_TRY(fqi_compute_create(calibrates(q) ? FQI_ORDER_FAST : FQI_ORDER_FIXED, FQ_DTYPE_F32, q->n_thread, cols, &r->compute, e));   /* rounding needs no BLAS */
    r->has_compute = true;
    if (!calibrates(q)) return FQ_OK;
    FQI_TRY(fqi_rope_table_create(&q->decoder.rope, (int64_t)q->calib.seqlen, FQ_DTYPE_F32, &r->rope, e));
    return make_acts(r, e);
}

static void take_down(quant_run *r)
{
    (void)wait_for_writer(r, NULL);
    fqi_stream_close(r->stream);
    fqi_weights_free(r->weights);
    fqi_rope_table_free(&r->rope);
    if (r->has_compute) fqi_compute_free(&r->compute);
    if (r->has_x) fqi_acts_free(&r->x);
    if (r->has_attention) fqi_acts_free(&r->attention);
    if (r->has_plain) fqi_acts_free(&r->plain);
    free(r->buf);
    free(r->dir);
    free(r->first_tensor);
}

/* ---- progress ----------------------------------------------------------------------------------------------------------------- */

static fq_status check_cancelled(const quant_run *r, fq_err *e)
{
    const fq_run *run = r->q->run;
    if (!run->cancelled || !run->cancelled(run->user)) return FQ_OK;
    return fqi_fail(e, FQ_E_CANCELLED, FQI_FILE(r->q->o->pad.target), "interrupted", "found a request to stop; the same command goes on from the last finished layer");
}

/* In bytes of stored weights, which is what a layer costs by. */
static void show(const quant_run *r, const char *phase, size_t done, size_t total, const char *item)
{
    const fq_run *run = r->q->run;
    if (!run->progress) return;
    const uint64_t bytes = r->q->fitting.ckpt->info.tensor_bytes;
    fq_progress p = { .phase = phase, .item = item, .done_bytes = (uint64_t)((double)bytes * (double)done / (double)total), .total_bytes = bytes, .done_items = done, .total_items = total };
    run->progress(run->user, &p);
}

static void add_stage(fqi_quantize *q, const char *name, double seconds)
{
    if (q->n_stage < sizeof q->stage / sizeof q->stage[0]) q->stage[q->n_stage++] = (fq_stage){ .name = name, .seconds = seconds, .peak_bytes = fqi_memory_now().peak };
}

static void end_stage(fqi_quantize *q, const char *name, double *since)
{
    double now = fqi_now_seconds();
    add_stage(q, name, now - *since);
    *since = now;
}

/* What the layers took, in its parts; what is left is waiting for weights and for the writer. */
static void end_layers(fqi_quantize *q, double *since)
{
    double now = fqi_now_seconds();
    add_stage(q, "forward pass", q->seconds_forward);
    add_stage(q, "Hessians", q->seconds_hessian);
    if (q->comm) add_stage(q, "sums over ranks", q->seconds_reduce);
    add_stage(q, "solving", q->seconds_solve);
    add_stage(q, "waiting for disks", now - *since - q->seconds_forward - q->seconds_hessian - q->seconds_reduce - q->seconds_solve);
    *since = now;
}

/* ---- the layers ---------------------------------------------------------------------------------------------------------------- */

/* Every weight is read once before hours are spent on the first: what cannot be quantized is found now, with its tensor. Rounding takes no
 * longer than this would, and finds it when it comes to the layer. */
static fq_status check_weights(quant_run *r, fq_err *e)
{
    const bool fresh = r->next < r->first_tensor[0] + 1;
    uint64_t hash;
    if (!fresh && !r->comm) return FQ_OK;
    FQI_TRY(fqi_quant_check_rest(r->q, r->weights, r->head_rows, r->compute.kernel, &hash, e));
    FQI_TRY(fqi_quant_ranks_rest(r->q, hash, e));   /* also of a run that goes on: its ranks may be others */
    if (!fresh) return FQ_OK;
    for (int64_t layer = fqi_comm_rank(r->comm); calibrates(r->q) && layer < r->n_layer; layer += fqi_comm_size(r->comm)) {   /* dealt round */
        const fqi_layer_weights *w;
        FQI_TRY(fqi_weights_layer(r->weights, layer, &w, e));
        FQI_TRY(fqi_quant_check_layer(r->q, layer, w, r->compute.kernel, e));
        show(r, "check", (size_t)layer + 1, (size_t)r->n_layer, "weights");
        FQI_TRY(check_cancelled(r, e));
    }
    return FQ_OK;
}

static fq_status embed(quant_run *r, fqi_acts *x, fq_err *e)
{
    const fqi_calib *c = &r->q->calib;
    const fqi_quant_share share = fqi_quant_share_of(r->comm, c->n_window, c->seqlen);
    for (size_t b = (size_t)fqi_comm_rank(r->comm); b < share.n_batch; b += (size_t)fqi_comm_size(r->comm))
        for (size_t i = 0; i < fqi_quant_batch_rows(&share, b); i += c->seqlen) {
            const size_t at = fqi_quant_batch_at(&share, r->comm, b) + i;
            float *rows;
            FQI_TRY(fqi_acts_get(x, at, c->seqlen, r->buf, &rows, e));
            FQI_TRY(fqi_weights_embed(r->weights, c->ids + b * share.batch_rows + i, c->seqlen, rows, e));
            FQI_TRY(fqi_acts_put(x, at, c->seqlen, rows, e));
        }
    return FQ_OK;
}

static fqi_layer_job job_of(quant_run *r)
{
    fqi_quantize *q = r->q;
    return (fqi_layer_job){ .settings = &q->settings, .fitting = &q->fitting, .modules = &q->modules, .decoder = &q->decoder, .rope = &r->rope,
                            .compute = &r->compute, .calib = &q->calib, .x = r->has_x ? &r->x : NULL, .attention = r->has_attention ? &r->attention : NULL,
                            .x_plain = r->has_plain ? &r->plain : NULL, .run = q->run, .comm = r->comm };
}

static void warn(const quant_run *r, const char *line)
{
    const fq_run *run = r->q->run;
    if (run->log) run->log(run->user, FQ_LOG_WARN, line);
}

static void warn_about_loss(const quant_run *r, const fq_module_report *m)
{
    char line[320];
    if (!(m->relative >= LOST)) return;
    snprintf(line, sizeof line, "%s: relative error %.2f: most of what it computes is lost (weights below %g, the smallest scale that is stored, become zeros)", m->name, m->relative,
             (double)fqi_scale_round(r->q->settings.grid.store, FLT_MIN));
    warn(r, line);
}

/* Names in a report of a layer live as long as the modules. */
static fq_status take_report(quant_run *r, const fqi_layer_codes *c, size_t first, fq_err *e)
{
    fqi_quantize *q = r->q;
    q->seconds_forward += c->seconds_forward;
    q->seconds_hessian += c->seconds_hessian;
    q->seconds_reduce += c->seconds_reduce;
    q->seconds_solve += c->seconds_solve;
    for (size_t i = 0; i < c->n; i++) {
        fq_module_report *m = &q->report[first + i];
        *m = c->report[i];
        m->name = q->modules.at[first + i].name;
        if (m->why[0]) m->why = fqi_arena_strdup(&q->arena, m->why);
        if (!m->why) {   /* it is written to fitq.json: without it that would be another file */
            m->why = "";
            return fqi_fail_nomem(e, "report of a layer");
        }
        if (m->why[0] && q->settings.strict)
            return fqi_fail(e, FQ_E_NUMERIC, FQI_TENSOR(q->o->pad.source, m->name), "strict", "found %s (%s), expected gptq", m->method, m->why);
        q->reported[first + i] = true;
        warn_about_loss(r, m);
        if (q->o->on_module) q->o->on_module(q->o->user, m);
    }
    return FQ_OK;
}

static fqi_state state_of(const quant_run *r, fqi_acts *x, int64_t layer)
{
    return (fqi_state){ .x = x, .layer = layer, .key = r->key, .calib = &r->q->calib, .comm = r->comm };
}

/* Everything that a resume needs of this layer beside its tensors. A layer that is computed again because that was lost leaves it again: what is
 * added for later layers stands behind it in the same files. */
static fq_status keep(quant_run *r, const fqi_made_layer *made, int64_t layer, fq_err *e)
{
    FQI_TRY(wait_for_writer(r, e));   /* the state of the layer before last is overwritten: the layer before must be on record */
    if (calibrates(r->q) && (layer + 1 < r->n_layer || r->q->o->lm_head)) {
        const fqi_state x = state_of(r, &r->x, layer), plain = state_of(r, &r->plain, layer);
        FQI_TRY(fqi_quant_state_save(r->dir, FQI_STATE_QUANTIZED, &x, e));
        if (r->has_plain) FQI_TRY(fqi_quant_state_save(r->dir, FQI_STATE_PLAIN, &plain, e));
    }
    if (!r->writes) return FQ_OK;
    FQI_TRY(fqi_quant_order_write(r->q, r->dir, &made->codes, layer, e));
    return fqi_quant_reports_save(r->q, r->dir, made->first, made->n, r->key, e);
}

static fq_status do_layer(quant_run *r, int64_t layer, bool wanted, fq_err *e)
{
    fqi_quantize *q = r->q;
    const fqi_layer_weights *w;
    const fqi_layer_job job = job_of(r);
    FQI_TRY(fqi_weights_layer(r->weights, layer, &w, e));
    if (!calibrates(q)) FQI_TRY(fqi_quant_check_layer(q, layer, w, r->compute.kernel, e));
    fqi_made_layer *made = fqi_calloc(1, sizeof *made);
    if (!made) return fqi_fail_nomem(e, "codes of a layer");
    *made = (fqi_made_layer){ .first = q->modules.first_of_layer[layer], .tensor = SIZE_MAX };
    made->n = q->modules.first_of_layer[layer + 1] - made->first;
    fq_status s = fqi_quant_ranks_layer(q, layer, w, e);
    if (s == FQ_OK) s = fqi_quant_layer(&job, layer, w, &made->codes, e);
    if (s == FQ_OK) s = take_report(r, &made->codes, made->first, e);
    if (s == FQ_OK) s = keep(r, made, layer, e);
    if (s != FQ_OK || !wanted || !r->writes) {
        fqi_made_layer_free(made);
        return s;
    }
    return hand_over(r, made, r->first_tensor[layer + 1], e);
}

/* All tensors are on record, a quantized output head and its report with them. */
static bool all_written(const quant_run *r) { return r->next >= r->q->table.n_tensor; }

static fq_status load_states(quant_run *r, int64_t layer, bool *found, fq_err *e)
{
    const fqi_state x = state_of(r, &r->x, layer), plain = state_of(r, &r->plain, layer);
    FQI_TRY(fqi_quant_state_load(r->dir, FQI_STATE_QUANTIZED, &x, found, e));
    return *found && r->has_plain ? fqi_quant_state_load(r->dir, FQI_STATE_PLAIN, &plain, found, e) : FQ_OK;
}

/* Rank 0 reads them; the others only need to know whether they are there. */
static fq_status load_reports(quant_run *r, size_t n, bool *found, fq_err *e)
{
    if (r->writes) FQI_TRY(fqi_quant_reports_load(r->q, r->dir, n, r->key, found, e));
    return fqi_comm_broadcast(r->comm, 0, found, sizeof *found, e);
}

/* The first layer to compute, with r->x as it enters it. Finished layers whose states, reports or channel orders are lost are computed again,
 * from the first on, but not written again: the same request gives the same codes. */
static fq_status find_start(quant_run *r, int64_t *start, fq_err *e)
{
    fqi_quantize *q = r->q;
    int64_t layer = 0;
    bool reports = true, states = true;
    while (layer < r->n_layer && r->next >= r->first_tensor[layer + 1]) layer++;
    q->resumed_layers = (size_t)layer;
    const size_t n_reported = all_written(r) ? q->modules.n : q->modules.first_of_layer[layer];
    if (layer > 0) FQI_TRY(load_reports(r, n_reported, &reports, e));
    r->head_done = all_written(r) && reports;
    if (layer > 0 && calibrates(q) && (layer < r->n_layer || (q->o->lm_head && !r->head_done))) FQI_TRY(load_states(r, layer - 1, &states, e));
    *start = reports && states ? layer : 0;
    if (layer > 0 && *start == 0) warn(r, "what finished layers left for the next one is missing or damaged: they are computed again");
    if (!calibrates(q) || *start > 0 || r->n_layer == 0) return FQ_OK;
    FQI_TRY(embed(r, &r->x, e));
    return r->has_plain ? embed(r, &r->plain, e) : FQ_OK;
}

static fq_status do_layers(quant_run *r, fq_err *e)
{
    int64_t start;
    char item[32];
    FQI_TRY(find_start(r, &start, e));
    for (int64_t layer = start; layer < r->n_layer; layer++) {
        snprintf(item, sizeof item, "layer %" PRId64, layer);
        show(r, "quantize", (size_t)layer, (size_t)r->n_layer, item);
        fqi_comm_phase(r->comm, item);
        FQI_TRY(check_cancelled(r, e));
        FQI_TRY(do_layer(r, layer, (size_t)layer >= r->q->resumed_layers, e));
    }
    show(r, "quantize", (size_t)r->n_layer, (size_t)r->n_layer, "output");
    return wait_for_writer(r, e);
}

/* The output head is the last module. Its codes wait in q->writing for the last part of the stream. */
static fq_status do_head(quant_run *r, fq_err *e)
{
    fqi_quantize *q = r->q;
    const fqi_layer_job job = job_of(r);
    fqi_matrix head;
    const float *norm = fqi_weights_final_norm(r->weights, e);
    if (!norm) return e ? e->code : FQ_E_IO;
    FQI_TRY(fqi_weights_head(r->weights, 0, q->decoder.model.vocab_size, &head, e));
    fqi_made_layer *made = fqi_calloc(1, sizeof *made);
    if (!made) return fqi_fail_nomem(e, "codes of the output head");
    *made = (fqi_made_layer){ .first = q->modules.first_of_layer[r->n_layer], .n = 1, .tensor = SIZE_MAX };
    q->writing = made;
    FQI_TRY(fqi_quant_head(&job, norm, &head, &made->codes, e));
    FQI_TRY(take_report(r, &made->codes, made->first, e));
    return r->writes ? fqi_quant_reports_save(q, r->dir, made->first, made->n, r->key, e) : FQ_OK;
}

static fq_status open_stream(quant_run *r, uint64_t *resumed_bytes, fq_err *e)
{
    if (r->writes) {
        FQI_TRY(fqi_stream_open(&r->request, resumed_bytes, &r->stream, e));
        r->next = fqi_stream_next(r->stream);
    }
    return fqi_comm_broadcast(r->comm, 0, &r->next, sizeof r->next, e);
}

static fq_status run_all(quant_run *r, uint64_t *resumed_bytes, fq_err *e)
{
    double since = fqi_now_seconds();
    FQI_TRY(fqi_quant_ranks_dir(r->comm, r->request.dir, &r->dir, e));
    FQI_TRY(build(r, e));
    FQI_TRY(open_stream(r, resumed_bytes, e));
    fqi_comm_phase(r->comm, "check of the weights");
    FQI_TRY(check_weights(r, e));
    end_stage(r->q, "check of the weights", &since);
    fqi_comm_phase(r->comm, "embeddings");
    if (r->writes && r->next < r->first_tensor[0]) FQI_TRY(fqi_stream_write(r->stream, r->first_tensor[0], e));
    end_stage(r->q, "embeddings", &since);
    FQI_TRY(do_layers(r, e));
    end_layers(r->q, &since);
    fqi_comm_phase(r->comm, "output head");
    if (r->q->o->lm_head && !r->head_done) FQI_TRY(do_head(r, e));
    fqi_comm_phase(r->comm, "output");
    if (!r->writes) return FQ_OK;
    FQI_TRY(fqi_stream_write(r->stream, r->q->table.n_tensor, e));
    end_stage(r->q, "output head and rest", &since);
    return fqi_quant_state_remove(r->dir, e);
}

fq_status fqi_quant_run(void *user, const fqi_stream_request *request, uint64_t *resumed_bytes, fq_err *e)
{
    fqi_quantize *q = user;
    quant_run *r = fqi_calloc(1, sizeof *r);
    if (!r) return fqi_fail_nomem(e, "quantizer");
    *r = (quant_run){ .q = q, .comm = q->comm, .writes = request != NULL, .quiet = *q->run, .x.file = FQI_SCRATCH_NONE, .attention.file = FQI_SCRATCH_NONE, .plain.file = FQI_SCRATCH_NONE };
    if (request) r->request = *request;
    r->quiet.progress = NULL;
    r->quiet.cancelled = NULL;
    r->request.run = &r->quiet;
    r->request.made = fqi_quant_made_fill;
    r->request.user = q;
    const uint64_t id[2] = { q->options_hash, q->calib.hash };
    r->key = XXH3_64bits(id, sizeof id);
    fq_status s = run_all(r, resumed_bytes, e);
    take_down(r);
    fqi_made_layer_free(q->writing);
    q->writing = NULL;
    free(r);
    return s;
}
