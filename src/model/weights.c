/* weights.c - slots of layers and the thread that fills them, with the help of the readers (weights_readers.c). See weights.h.
 *
 * Layer l always lies in slot l % n_slot. The filler may load what the window [in_use, in_use + n_slot) lacks, nearest first: its slots
 * are distinct, so the layer that the caller computes with is never overwritten. Only the caller moves the window. One mutex guards the
 * states; it is never held while bytes are read. An error waits with its layer until the caller asks for that layer; asking for
 * another one forgets it. */
#include "model/weights.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/checked.h"
#include "model/weights_table.h"

#define HUGE_PAGE ((size_t)2 << 20)
#define EMBED_TOGETHER 16   /* rows of the embedding that a reader takes at once */
#define POLL_NS 50000000L   /* how often a waiting caller asks whether the run was cancelled */

typedef struct slot {
    unsigned char *memory;
    fqi_layer_weights layer;
    int64_t held;            /* layer, or -1 */
} slot;

struct fqi_weights {
    const fq_ckpt *ckpt;
    const fqi_decoder *decoder;
    fqi_weights_options o;
    fqi_weights_table table;
    slot *slot;
    fqi_open_shards open;
    fqi_materialiser caller, filler;   /* one for each thread that waits for weights */
    fqi_readers readers;

    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    int64_t in_use;          /* -1 until the first layer is asked for */
    bool stop;
    int64_t failed;          /* layer whose loading failed, or -1 */
    fq_status status;
    fq_err err;

    unsigned char *head;     /* head_rows rows */
    int64_t head_row, head_n;
    float *norm;
};

/* ---- filling a slot (filler thread) ------------------------------------------------------------------------------ */

static fqi_matrix matrix_at(const fqi_tensor *t, const fqi_cut *cut, const fqi_quant_module *q, fq_dtype served, const void *data)
{
    return (fqi_matrix){ .data = data, .rows = fqi_cut_length(cut, 0), .cols = fqi_cut_length(cut, 1), .dtype = fqi_weight_held(q ? FQ_DTYPE_F32 : (fq_dtype)t->dtype, served) };
}

/* Views of each expert in a fused tensor. */
static void fused(const fqi_weight_item *x, const fqi_tensor *t, fq_dtype served, const unsigned char *data, fqi_mlp_weights *expert)
{
    const fq_dtype held = fqi_weight_held((fq_dtype)t->dtype, served);
    const int64_t rows = fqi_cut_length(&x->cut, 1), cols = fqi_cut_length(&x->cut, 2);
    const size_t each = (size_t)rows * (size_t)cols * (fq_dtype_bits(held) / 8);
    for (int64_t i = x->cut.dim[0].first; i < x->cut.dim[0].first + x->cut.dim[0].n; i++, data += each) {
        if (x->kind == FQI_WEIGHT_FUSED_DOWN) {
            expert[i].down = (fqi_matrix){ .data = data, .rows = rows, .cols = cols, .dtype = held };
            continue;
        }
        expert[i].gate = (fqi_matrix){ .data = data, .rows = rows / 2, .cols = cols, .dtype = held };
        expert[i].up = (fqi_matrix){ .data = data + each / 2, .rows = rows / 2, .cols = cols, .dtype = held };
    }
}

static void hand_out(const fqi_weights *w, const fqi_weight_item *x, slot *s, fqi_mlp_weights *expert)
{
    const fqi_tensor *t = &w->ckpt->tensor[x->tensor];
    const unsigned char *data = s->memory + x->at;
    if (x->kind == FQI_WEIGHT_FUSED_GATE_UP || x->kind == FQI_WEIGHT_FUSED_DOWN) {
        fused(x, t, w->o.served, data, expert);
        return;
    }
    unsigned char *member = (x->of_expert ? (unsigned char *)&expert[x->expert] : (unsigned char *)&s->layer) + x->member;
    if (x->kind == FQI_WEIGHT_VECTOR) {
        const float *v = (const float *)(const void *)data;
        memcpy(member, &v, sizeof v);
    } else {
        fqi_matrix m = matrix_at(t, &x->cut, fqi_weight_module(&w->table, x->module), w->o.served, data);
        memcpy(member, &m, sizeof m);
    }
}

typedef struct into { const fqi_weights *w; const fqi_weight_item *item; unsigned char *memory; } into;

static void want_item(const void *user, size_t i, fqi_weight_want *out)
{
    const into *o = user;
    const fqi_weight_item *x = &o->item[i];
    const fqi_quant_module *q = fqi_weight_module(&o->w->table, x->module);
    *out = (fqi_weight_want){ .tensor = x->tensor, .module = q, .cut = &x->cut, .n = fqi_cut_length(&x->cut, 0), .as_float = x->kind == FQI_WEIGHT_VECTOR, .out = o->memory + x->at };
}

static fq_status fill(fqi_weights *w, slot *s, int64_t layer, fq_err *e)
{
    const fqi_weights_table *t = &w->table;
    const size_t n_expert = (size_t)w->decoder->model.num_experts;
    fqi_mlp_weights *expert = (fqi_mlp_weights *)(void *)(s->memory + t->slot_bytes - (n_expert * sizeof *expert + FQI_WEIGHTS_ALIGN - 1) / FQI_WEIGHTS_ALIGN * FQI_WEIGHTS_ALIGN);
    s->layer = (fqi_layer_weights){ .sparse = w->decoder->sparse[layer], .expert = n_expert ? expert : NULL };
    memset(expert, 0, n_expert * sizeof *expert);
    const into o = { .w = w, .item = t->item + t->first[layer], .memory = s->memory };
    fqi_load load = { .n = t->first[layer + 1] - t->first[layer], .want = want_item, .user = &o, .together = 1 };
    FQI_TRY(fqi_readers_run(&w->readers, FQI_WAITER_FILLER, &w->filler, &load, e));
    for (size_t i = 0; i < load.n; i++) hand_out(w, &o.item[i], s, expert);
    s->layer.has_shared = s->layer.sparse && w->decoder->model.shared_expert_intermediate_size > 0;
    return FQ_OK;
}

/* ---- the filler thread -------------------------------------------------------------------------------------------- */

static slot *slot_of(fqi_weights *w, int64_t layer) { return &w->slot[(size_t)layer % w->o.n_slot]; }

/* Lock held. The next layer worth reading, or -1. */
static int64_t pick(fqi_weights *w)
{
    if (w->in_use < 0 || w->failed >= 0) return -1;
    for (int64_t i = 0; i < (int64_t)w->o.n_slot; i++) {
        int64_t l = w->in_use + i;
        if (l >= w->decoder->model.num_hidden_layers) break;
        if (slot_of(w, l)->held != l) return l;
    }
    return -1;
}

static void *filler(void *arg)
{
    fqi_weights *w = arg;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        int64_t l = -1;
        while (!w->stop && (l = pick(w)) < 0) pthread_cond_wait(&w->work, &w->lock);
        if (w->stop) break;
        slot *s = slot_of(w, l);
        s->held = -1;
        pthread_mutex_unlock(&w->lock);
        fq_err e = { 0 };
        fq_status status = fill(w, s, l, &e);
        pthread_mutex_lock(&w->lock);
        if (status == FQ_OK) {
            s->held = l;
        } else {
            w->failed = l;
            w->status = status;
            w->err = e;
        }
        pthread_cond_broadcast(&w->done);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* Signals are for the caller's threads. */
static fq_status start(fqi_weights *w, fq_err *e)
{
    sigset_t all, before;
    if (w->started) return FQ_OK;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = pthread_create(&w->thread, NULL, filler, w);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err) return fqi_fail_sys(e, w->ckpt->info.path, "start a thread", err);
    w->started = true;
    return FQ_OK;
}

/* Lock held. Until something happened, or it is time to ask again. */
static void wait_a_little(fqi_weights *w)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += POLL_NS;
    if (t.tv_nsec >= 1000000000L) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000L;
    }
    (void)pthread_cond_timedwait(&w->done, &w->lock, &t);
}

static bool cancelled(const fqi_weights *w) { return w->o.run->cancelled && w->o.run->cancelled(w->o.run->user); }

fq_status fqi_weights_layer(fqi_weights *w, int64_t layer, const fqi_layer_weights **out, fq_err *e)
{
    if (layer < 0 || layer >= w->decoder->model.num_hidden_layers)
        return fqi_fail(e, FQ_E_USAGE, NULL, "layer", "found %" PRId64 ", expected 0 to %" PRId64, layer, w->decoder->model.num_hidden_layers - 1);
    FQI_TRY(start(w, e));
    fq_status s = FQ_OK;
    bool ready = false;
    pthread_mutex_lock(&w->lock);
    w->in_use = layer;
    if (w->failed >= 0 && w->failed != layer) w->failed = -1;
    pthread_cond_signal(&w->work);
    while (!ready && s == FQ_OK) {
        if (slot_of(w, layer)->held == layer) {
            ready = true;
        } else if (w->failed == layer) {
            s = w->status;
            if (e) *e = w->err;
            w->failed = -1;      /* asked again, it is read again */
            w->in_use = -1;
        } else {
            if (w->failed >= 0) w->failed = -1;   /* of a layer ahead of one that is not wanted any more */
            pthread_cond_signal(&w->work);
            wait_a_little(w);
            pthread_mutex_unlock(&w->lock);
            if (cancelled(w)) s = fqi_fail(e, FQ_E_CANCELLED, NULL, NULL, "stopped");
            pthread_mutex_lock(&w->lock);
        }
    }
    pthread_mutex_unlock(&w->lock);
    if (s == FQ_OK) *out = &slot_of(w, layer)->layer;
    return s;
}

/* ---- embedding, final norm, head (caller's thread) ------------------------------------------------------------------ */

typedef struct rows { size_t embed, cols; const fqi_cut *cut; const uint32_t *id; float *out; } rows;

/* Of a row that another rank has: zeros. */
static void want_row(const void *user, size_t i, fqi_weight_want *out)
{
    const rows *r = user;
    const int64_t row = (int64_t)r->id[i] - r->cut->dim[0].first;
    const bool here = row >= 0 && row < r->cut->dim[0].n;
    *out = (fqi_weight_want){ .tensor = r->embed, .cut = r->cut, .row = here ? row : 0, .n = here, .as_float = true, .out = r->out + i * r->cols };
}

fq_status fqi_weights_embed(fqi_weights *w, const uint32_t *ids, size_t n, float *out, fq_err *e)
{
    const fqi_tensor *t = &w->ckpt->tensor[w->table.embed];
    const rows r = { .embed = w->table.embed, .cols = (size_t)t->shape[1], .cut = &w->table.embed_cut, .id = ids, .out = out };
    for (size_t i = 0; i < n; i++)
        if ((int64_t)ids[i] >= t->shape[0])
            return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(w->ckpt->shard[t->shard].path, t->name), "token-id",
                            "found token id %" PRIu32 ", expected one below %" PRId64, ids[i], t->shape[0]);
    if (w->o.slice) memset(out, 0, n * r.cols * sizeof *out);
    if (n <= EMBED_TOGETHER) {   /* not worth waking others for */
        for (size_t i = 0; i < n; i++) {
            fqi_weight_want x;
            want_row(&r, i, &x);
            FQI_TRY(fqi_materialise(&w->caller, x.tensor, x.cut, x.row, x.n, true, x.out, e));
        }
        return FQ_OK;
    }
    fqi_load load = { .n = n, .want = want_row, .user = &r, .together = EMBED_TOGETHER };
    return fqi_readers_run(&w->readers, FQI_WAITER_CALLER, &w->caller, &load, e);
}

const float *fqi_weights_final_norm(fqi_weights *w, fq_err *e)
{
    if (w->norm) return w->norm;
    const fqi_tensor *t = &w->ckpt->tensor[w->table.norm];
    float *norm = fqi_calloc((size_t)t->shape[0], sizeof *norm);
    if (!norm) {
        (void)fqi_fail_nomem(e, "final norm");
        return NULL;
    }
    if (fqi_materialise(&w->caller, w->table.norm, &w->table.norm_cut, 0, t->shape[0], true, norm, e) != FQ_OK) {
        free(norm);
        return NULL;
    }
    w->norm = norm;
    return norm;
}

static void want_as_is(const void *user, size_t i, fqi_weight_want *out) { *out = ((const fqi_weight_want *)user)[i]; }

fq_status fqi_weights_head(fqi_weights *w, int64_t row, int64_t n, fqi_matrix *out, fq_err *e)
{
    const fqi_tensor *t = &w->ckpt->tensor[w->table.head];
    const fqi_quant_module *q = fqi_weight_module(&w->table, w->table.head_module);
    fqi_matrix all = matrix_at(t, &w->table.head_cut, q, w->o.served, w->head);
    if (row < 0 || n < 0 || n > w->o.head_rows || row > all.rows - n)
        return fqi_fail(e, FQ_E_USAGE, NULL, "head-rows", "found rows %" PRId64 " + %" PRId64 ", expected at most %" PRId64 " of %" PRId64, row, n,
                        w->o.head_rows, all.rows);
    if (row < w->head_row || row + n > w->head_row + w->head_n) {
        w->head_n = 0;
        const fqi_weight_want want = { .tensor = w->table.head, .module = q, .cut = &w->table.head_cut, .row = row, .n = n, .out = w->head };
        fqi_load load = { .n = 1, .want = want_as_is, .user = &want, .together = 1 };
        FQI_TRY(fqi_readers_run(&w->readers, FQI_WAITER_CALLER, &w->caller, &load, e));
        w->head_row = row;
        w->head_n = n;
    }
    all.data = w->head + (uint64_t)(row - w->head_row) * w->table.head_row_bytes;
    all.rows = n;
    *out = all;
    return FQ_OK;
}

uint64_t fqi_weights_bytes_read(const fqi_weights *w)
{
    return __atomic_load_n(&w->caller.bytes_read, __ATOMIC_RELAXED) + __atomic_load_n(&w->filler.bytes_read, __ATOMIC_RELAXED) + fqi_readers_bytes_read(&w->readers);
}

/* ---- life ---------------------------------------------------------------------------------------------------------- */

static uint64_t fixed_bytes(const fq_ckpt *c, const fqi_decoder *d, const fqi_weights_table *t)
{
    return sizeof(fqi_weights) + 2 * fqi_materialiser_bytes(t) + fqi_readers_bytes(t) + c->n_tensor * sizeof *t->item + t->n_module * sizeof *t->module +
           ((uint64_t)d->model.num_hidden_layers + 1) * (sizeof *t->first + sizeof(slot)) + (uint64_t)d->model.hidden_size * sizeof(float);
}

fq_status fqi_weights_measure(const fq_ckpt *c, const fqi_decoder *d, const fqi_slice *slice, fq_dtype served, fqi_weights_size *out, fq_err *e)
{
    fqi_weights_table t;
    FQI_TRY(fqi_weights_find(c, d, slice, served, &t, e));
    *out = (fqi_weights_size){ .slot_bytes = t.slot_bytes, .head_row_bytes = t.head_row_bytes, .fixed_bytes = fixed_bytes(c, d, &t) };
    fqi_weights_table_free(&t);
    return FQ_OK;
}

/* Large pages where the system has them: touching new memory costs more than reading the file, and a product with one token walks
 * through all of it. */
static void *reserve(uint64_t bytes)
{
    const size_t unit = bytes < 16 * HUGE_PAGE ? FQI_WEIGHTS_ALIGN : HUGE_PAGE;
    if (bytes > SIZE_MAX / 2) return NULL;
    void *p = aligned_alloc(unit, ((size_t)bytes + unit - 1) / unit * unit);
    if (p && unit == HUGE_PAGE) (void)madvise(p, (size_t)bytes, MADV_HUGEPAGE);
    return p;
}

static fq_status allocate(fqi_weights *w, fq_err *e)
{
    uint64_t head = w->table.head_row_bytes * (uint64_t)w->o.head_rows;
    w->slot = fqi_calloc(w->o.n_slot, sizeof *w->slot);
    if (!w->slot) return fqi_fail_nomem(e, "layers");
    for (size_t i = 0; i < w->o.n_slot; i++) {
        w->slot[i].held = -1;
        w->slot[i].memory = reserve(w->table.slot_bytes);
        if (!w->slot[i].memory) return fqi_fail_nomem(e, "weights of a layer");
    }
    w->head = reserve(head);
    if (!w->head) return fqi_fail_nomem(e, "output head");
    FQI_TRY(fqi_materialiser_init(&w->caller, w->ckpt, &w->o, &w->table, &w->open, e));
    FQI_TRY(fqi_materialiser_init(&w->filler, w->ckpt, &w->o, &w->table, &w->open, e));
    w->caller.run = w->o.run;
    w->filler.stop = &w->stop;
    return fqi_readers_init(&w->readers, w->ckpt, &w->o, &w->table, &w->open, e);
}

fq_status fqi_weights_create(const fq_ckpt *c, const fqi_decoder *d, const fqi_weights_options *o, fqi_weights **out, fq_err *e)
{
    const size_t n_layer = (size_t)d->model.num_hidden_layers;
    fqi_weights *w = fqi_calloc(1, sizeof *w);
    if (!w) return fqi_fail_nomem(e, "weights");
    *w = (fqi_weights){ .ckpt = c, .decoder = d, .o = *o, .in_use = -1, .failed = -1 };
    fqi_open_shards_init(&w->open);
    pthread_condattr_t clock;
    (void)pthread_condattr_init(&clock);
    (void)pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&w->lock, NULL);
    (void)pthread_cond_init(&w->work, NULL);
    (void)pthread_cond_init(&w->done, &clock);
    (void)pthread_condattr_destroy(&clock);
    if (w->o.n_slot > n_layer) w->o.n_slot = n_layer;
    if (w->o.n_slot == 0) w->o.n_slot = 1;
    const int64_t vocab = o->slice ? o->slice->axis[FQI_AX_VOCAB].n : d->model.vocab_size;
    if (w->o.head_rows <= 0 || w->o.head_rows > vocab) w->o.head_rows = vocab;
    fq_status s = fqi_weights_find(c, d, o->slice, o->served, &w->table, e);
    if (s == FQ_OK) s = allocate(w, e);
    if (s != FQ_OK) {
        fqi_weights_free(w);
        return s;
    }
    *out = w;
    return FQ_OK;
}

void fqi_weights_free(fqi_weights *w)
{
    if (!w) return;
    if (w->started) {
        pthread_mutex_lock(&w->lock);
        __atomic_store_n(&w->stop, true, __ATOMIC_RELAXED);
        pthread_cond_signal(&w->work);
        pthread_mutex_unlock(&w->lock);
        (void)pthread_join(w->thread, NULL);
    }
    for (size_t i = 0; w->slot && i < w->o.n_slot; i++) free(w->slot[i].memory);
    free(w->slot);
    free(w->head);
    free(w->norm);
    fqi_materialiser_free(&w->caller);
    fqi_materialiser_free(&w->filler);
    fqi_readers_free(&w->readers);
    fqi_open_shards_free(&w->open);
    fqi_weights_table_free(&w->table);
    (void)pthread_cond_destroy(&w->work);
    (void)pthread_cond_destroy(&w->done);
    (void)pthread_mutex_destroy(&w->lock);
    free(w);
}
