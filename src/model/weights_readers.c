/* weights_readers.c - tensors read by several threads at once: a disk that has one request at a time rests between two of them.
 *
 * A load is cut into parts of at most one chunk (or one row), which are taken in the order of the list by whoever is free: the thread that
 * waits for the load, and the helpers. What a load gives does not depend on who read what: after a tensor that could not be read nothing
 * is taken any more, after one with weights that cannot be used only the rest of it, and since parts are taken in order, all that comes before
 * such a tensor is known when the last part is done. The first in the list is reported.
 *
 * One mutex guards loads and flags; it is not held while bytes are read. Buffers are not shared. Fewer helpers than wanted, or none, is
 * no error: the waiting thread does the rest. */
#include "model/weights_table.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* Pages of its stack that a reading thread touches. */
#define STACK_BYTES ((uint64_t)32 << 10)

typedef struct part {
    size_t first, n;       /* wants */
    int64_t row, n_row;    /* of the only one, rows, or units of a module; n_row 0: all of each */
    uint64_t number;       /* in the order of taking */
} part;

typedef struct result { size_t at; fqi_weight_faults faults; bool faulty; fq_status status; fq_err err; } result;   /* at: the want it is about */

/* Elements of a row of what is wanted. */
static uint64_t row_elements(const fqi_weight_want *x) { return (uint64_t)fqi_cut_length(x->cut, 1) * (uint64_t)fqi_cut_length(x->cut, 2); }

static bool stopped(const fqi_readers *r) { return __atomic_load_n(&r->stop, __ATOMIC_RELAXED); }

/* Lock held. False: nothing is left to take. */
static bool take(const fqi_readers *r, const fq_ckpt *c, fqi_load *l, part *p)
{
    if (l->next >= l->n || l->failed != SIZE_MAX || (l->faulty != SIZE_MAX && l->next > l->faulty)) return false;
    *p = (part){ .first = l->next, .n = l->n - l->next < l->together ? l->n - l->next : l->together, .number = l->n_taken++ };
    l->in_flight++;
    if (p->n > 1) {
        l->next += p->n;
        return true;
    }
    fqi_weight_want x;
    l->want(l->user, p->first, &x);
    uint64_t each = row_elements(&x) * (fq_dtype_bits((fq_dtype)c->tensor[x.tensor].dtype) / 8);
    const int64_t all = x.module ? fqi_module_units(x.module, x.n, fqi_cut_length(x.cut, 1), &each) : x.n, left = all - l->next_row;
    const uint64_t fit = each ? r->chunk / each : 0;
    p->row = l->next_row;
    p->n_row = fit > (uint64_t)left ? left : fit > 0 ? (int64_t)fit : left > 0;
    l->next_row += p->n_row;
    if (l->next_row < all) return true;
    l->next++;
    l->next_row = 0;
    return true;
}

static fq_status read_module(fqi_materialiser *m, const fqi_weight_want *x, const part *p, fq_err *e)
{
    uint64_t bytes;
    fqi_module_rows rows = { .row = x->cut->dim[0].first + x->row, .n = x->n, .col = x->cut->dim[1].first, .n_col = x->cut->dim[1].n, .unit = p->row, .n_unit = p->n_row };
    if (p->n_row == 0) rows.n_unit = fqi_module_units(x->module, x->n, rows.n_col, &bytes);
    return x->n == 0 ? FQ_OK : fqi_materialise_module(m, x->module, &rows, x->out, e);
}

static void read_part(fqi_materialiser *m, const fqi_load *l, const part *p, result *out)
{
    out->faulty = false;
    for (size_t i = p->first; i < p->first + p->n && !out->faulty; i++) {
        fqi_weight_want x;
        l->want(l->user, i, &x);
        out->at = i;
        if (x.module) {
            out->status = read_module(m, &x, p, &out->err);
            if (out->status != FQ_OK) return;
            continue;
        }
        if (p->n == 1) {
            const fqi_tensor *t = &m->ckpt->tensor[x.tensor];
            const fq_dtype held = x.as_float ? FQ_DTYPE_F32 : fqi_weight_held((fq_dtype)t->dtype, m->served);
            x.out = (unsigned char *)x.out + (uint64_t)p->row * row_elements(&x) * (fq_dtype_bits(held) / 8);
            x.row += p->row;
            x.n = p->n_row;
        }
        out->faults = (fqi_weight_faults){ 0 };
        out->status = fqi_materialise_rows(m, x.tensor, x.cut, x.row, x.n, x.as_float, x.out, &out->faults, &out->err);
        if (out->status != FQ_OK) return;
        out->faulty = out->faults.kind[0].count > 0 || out->faults.kind[1].count > 0;
    }
}

/* Lock held. */
static void settle(fqi_load *l, const part *p, const result *x)
{
    l->in_flight--;
    if (x->status != FQ_OK) {
        if (l->failed != SIZE_MAX && l->failed_part < p->number) return;
        l->failed = x->at;
        l->failed_part = p->number;
        l->status = x->status;
        l->err = x->err;
    } else if (x->faulty && x->at < l->faulty) {
        l->faulty = x->at;
        l->faults = x->faults;
    } else if (x->faulty && x->at == l->faulty) {
        fqi_weight_faults_add(&l->faults, &x->faults);
    }
}

/* Lock held, and let go while bytes are read. False: there was nothing to take. */
static bool step(fqi_readers *r, fqi_materialiser *m, fqi_load *l)
{
    part p;
    result x;
    if (!take(r, m->ckpt, l, &p)) return false;
    pthread_mutex_unlock(&r->lock);
    read_part(m, l, &p, &x);
    pthread_mutex_lock(&r->lock);
    settle(l, &p, &x);
    if (l->in_flight == 0) pthread_cond_broadcast(&r->done);
    return true;
}

static void *help(void *arg)
{
    struct fqi_helper *h = arg;
    fqi_readers *r = h->of;
    pthread_mutex_lock(&r->lock);
    while (!stopped(r)) {
        bool did = false;
        for (size_t i = 0; i < FQI_N_WAITER && !did; i++) did = r->load[i] && step(r, &h->m, r->load[i]);
        if (!did) pthread_cond_wait(&r->work, &r->lock);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* Lock held. Signals are for the caller's threads. */
static void start(fqi_readers *r)
{
    sigset_t all, before;
    if (r->started) return;
    r->started = true;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    while (r->n_thread < r->n_helper && pthread_create(&r->helper[r->n_thread].thread, NULL, help, &r->helper[r->n_thread]) == 0) r->n_thread++;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
}

fq_status fqi_readers_run(fqi_readers *r, fqi_waiter who, fqi_materialiser *m, fqi_load *l, fq_err *e)
{
    l->next = l->in_flight = 0;
    l->next_row = 0;
    l->n_taken = l->failed_part = 0;
    l->faulty = l->failed = SIZE_MAX;
    pthread_mutex_lock(&r->lock);
    start(r);
    r->load[who] = l;
    pthread_cond_broadcast(&r->work);
    while (step(r, m, l)) {}
    while (l->in_flight > 0) pthread_cond_wait(&r->done, &r->lock);
    r->load[who] = NULL;
    pthread_mutex_unlock(&r->lock);
    if (l->failed != SIZE_MAX && l->failed <= l->faulty) {
        if (e) *e = l->err;
        return l->status;
    }
    if (l->faulty == SIZE_MAX) return FQ_OK;
    fqi_weight_want x;
    l->want(l->user, l->faulty, &x);
    return fqi_weight_faults_report(m, x.tensor, x.cut, &l->faults, e);
}

/* ---- life ---- */

uint64_t fqi_readers_bytes(const fqi_weights_table *t)
{
    return FQI_WEIGHTS_HELPERS * (fqi_materialiser_bytes(t) + STACK_BYTES);
}

uint64_t fqi_readers_bytes_read(const fqi_readers *r)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < r->n_helper; i++) sum += __atomic_load_n(&r->helper[i].m.bytes_read, __ATOMIC_RELAXED);
    return sum;
}

fq_status fqi_readers_init(fqi_readers *r, const fq_ckpt *c, const fqi_weights_options *o, const fqi_weights_table *t, fqi_open_shards *open, fq_err *e)
{
    *r = (fqi_readers){ .chunk = t->chunk };
    (void)pthread_mutex_init(&r->lock, NULL);
    (void)pthread_cond_init(&r->work, NULL);
    (void)pthread_cond_init(&r->done, NULL);
    for (; r->n_helper < FQI_WEIGHTS_HELPERS;) {
        struct fqi_helper *h = &r->helper[r->n_helper++];
        h->of = r;
        FQI_TRY(fqi_materialiser_init(&h->m, c, o, t, open, e));
        h->m.stop = &r->stop;
    }
    return FQ_OK;
}

void fqi_readers_free(fqi_readers *r)
{
    if (r->n_helper == 0) return;   /* never made */
    pthread_mutex_lock(&r->lock);
    __atomic_store_n(&r->stop, true, __ATOMIC_RELAXED);
    pthread_cond_broadcast(&r->work);
    pthread_mutex_unlock(&r->lock);
    for (size_t i = 0; i < r->n_thread; i++) (void)pthread_join(r->helper[i].thread, NULL);
    for (size_t i = 0; i < r->n_helper; i++) fqi_materialiser_free(&r->helper[i].m);
    (void)pthread_cond_destroy(&r->done);
    (void)pthread_cond_destroy(&r->work);
    (void)pthread_mutex_destroy(&r->lock);
    *r = (fqi_readers){ 0 };
}
