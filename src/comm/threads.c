/* threads.c - ranks that are threads of this process: what one rank sends, another copies from its memory.
 *
 * A thread cannot be lost: its job returns, and what it returned goes to the others like any failure. So nobody watches here. */
#include <stdlib.h>
#include <string.h>

#include <signal.h>

#include "base/mem.h"
#include "comm/transport.h"

typedef struct hub hub;
typedef struct member { hub *hub; fqi_comm *comm; pthread_t thread; bool running; } member;

typedef enum start { START_WAIT, START_GO, START_NOT } start;

struct hub {
    pthread_mutex_t lock;
    pthread_cond_t all_here;
    start start;
    int n, n_here;
    uint64_t round;
    member *member;
    fqi_rank_job *job;
    void *user;
    fqi_comm_header *header[2];          /* by turns: nobody can be two collectives ahead */
    const void *const **send; const size_t **n_send;
};

static void meet(hub *h)
{
    pthread_mutex_lock(&h->lock);
    const uint64_t round = h->round;
    if (++h->n_here == h->n) {
        h->n_here = 0;
        h->round++;
        pthread_cond_broadcast(&h->all_here);
    }
    while (h->round == round) pthread_cond_wait(&h->all_here, &h->lock);
    pthread_mutex_unlock(&h->lock);
}

static fq_status headers(fqi_comm *c, const fqi_comm_header *mine, fqi_comm_header *all, fq_err *e)
{
    hub *h = c->state;
    fqi_comm_header *board = h->header[mine->sequence % 2];
    (void)e;
    board[c->rank] = *mine;
    meet(h);
    memcpy(all, board, (size_t)h->n * sizeof *all);
    return FQ_OK;
}

static fq_status exchange(fqi_comm *c, const void *const *send, const size_t *n_send, void *const *recv, const size_t *n_recv, fq_err *e)
{
    hub *h = c->state;
    (void)e;
    h->send[c->rank] = send;
    h->n_send[c->rank] = n_send;
    meet(h);
    for (int r = 0; r < h->n; r++) {
        const size_t n = h->n_send[r][c->rank] < n_recv[r] ? h->n_send[r][c->rank] : n_recv[r];   /* equal: the headers were */
        if (n > 0 && recv[r] != h->send[r][c->rank]) memcpy(recv[r], h->send[r][c->rank], n);
    }
    meet(h);   /* only now may a sender use its memory again */
    return FQ_OK;
}

static void failing(fqi_comm *c, fq_status status, const fq_err *why)
{
    (void)c;
    (void)status;
    (void)why;
}

static void free_hub(hub *h)
{
    for (int r = 1; h->member && r < h->n; r++) fqi_comm_free(h->member[r].comm);
    free(h->member);
    free(h->header[0]);
    free(h->header[1]);
    free(h->send);
    free(h->n_send);
    (void)pthread_cond_destroy(&h->all_here);
    (void)pthread_mutex_destroy(&h->lock);
    free(h);
}

static void release(fqi_comm *c)
{
    if (c->rank == 0) free_hub(c->state);
}

static const fqi_transport transport = { .headers = headers, .exchange = exchange, .failing = failing, .free = release };

/* Nobody begins before all threads are there. */
static bool wait_for_start(hub *h)
{
    pthread_mutex_lock(&h->lock);
    while (h->start == START_WAIT) pthread_cond_wait(&h->all_here, &h->lock);
    const bool go = h->start == START_GO;
    pthread_mutex_unlock(&h->lock);
    return go;
}

static void let_start(hub *h, start how)
{
    pthread_mutex_lock(&h->lock);
    h->start = how;
    pthread_cond_broadcast(&h->all_here);
    pthread_mutex_unlock(&h->lock);
}

static void *run(void *arg)
{
    member *m = arg;
    fq_err e = { 0 };
    if (!wait_for_start(m->hub)) return NULL;
    const fq_status s = m->hub->job(m->hub->user, m->comm, &e);
    (void)fqi_comm_agree(m->comm, s, &e);
    return NULL;
}

static fq_status make_hub(int n, fqi_rank_job *job, void *user, hub **out, fq_err *e)
{
    const size_t count = (size_t)n;
    hub *h = fqi_calloc(1, sizeof *h);
    if (!h) return fqi_fail_nomem(e, "ranks");
    *h = (hub){ .n = n, .job = job, .user = user };
    (void)pthread_mutex_init(&h->lock, NULL);
    (void)pthread_cond_init(&h->all_here, NULL);
    h->member = fqi_calloc(count + 1, sizeof *h->member);
    h->header[0] = fqi_calloc(count, sizeof *h->header[0]);
    h->header[1] = fqi_calloc(count, sizeof *h->header[1]);
    h->send = fqi_calloc(count, sizeof *h->send);
    h->n_send = fqi_calloc(count, sizeof *h->n_send);
    fq_status s = h->member && h->header[0] && h->header[1] && h->send && h->n_send ? FQ_OK : fqi_fail_nomem(e, "ranks");
    for (int r = 0; r < n && s == FQ_OK; r++) {
        h->member[r].hub = h;
        s = fqi_comm_create(r, n, &h->member[r].comm, e);
        if (s != FQ_OK) break;
        h->member[r].comm->state = h;
        h->member[r].comm->transport = &transport;
        h->member[r].comm->n_local = n;
        h->member[r].comm->callbacks = r == 0;
        h->member[r].comm->threads = true;
    }
    if (s == FQ_OK) *out = h;
    else if (h->member && h->member[0].comm) fqi_comm_free(h->member[0].comm);   /* and the hub with it */
    else free_hub(h);
    return s;
}

static void join(hub *h)
{
    for (int r = 1; r < h->n; r++) {
        if (h->member[r].running) (void)pthread_join(h->member[r].thread, NULL);
        h->member[r].running = false;
    }
}

void fqi_threads_join(fqi_comm *c)
{
    if (c->transport == &transport) join(c->state);
}

fq_status fqi_threads_start(int n, fqi_rank_job *job, void *user, fqi_comm **out, fq_err *e)
{
    hub *h = NULL;
    sigset_t all, before;
    bool started = true;
    FQI_TRY(make_hub(n, job, user, &h, e));
    (void)sigfillset(&all);   /* signals are for the caller's threads */
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int r = 1; r < n && started; r++) started = h->member[r].running = pthread_create(&h->member[r].thread, NULL, run, &h->member[r]) == 0;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    let_start(h, started ? START_GO : START_NOT);
    fqi_comm *c = h->member[0].comm;
    if (started) {
        *out = c;
        return FQ_OK;
    }
    join(h);
    fqi_comm_free(c);
    return fqi_fail(e, FQ_E_NOMEM, NULL, "ranks", "found no room for another thread, expected %d", n - 1);
}
