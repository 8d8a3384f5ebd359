/* pipeline.c - three stages over a ring of slots. See pipeline.h.
 *
 *     consumed <= claimed <= produced <= consumed + n_slot
 *
 * Item number i always uses slot i % n_slot: items are consumed in the order in which they were produced, so the ring position
 * of the next item is free exactly when produced - consumed < n_slot, and no list of free slots is needed. One mutex guards
 * the four counters and the flags; it is never held while a stage runs. A slot is touched by one thread at a time, and the
 * mutex orders the hand-overs. One condition variable per kind of waiter. */
#include "base/pipeline.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"

#define MAX_UNASKED 8

typedef struct run {
    const fqi_pipeline *p;
    pthread_mutex_t lock;
    pthread_cond_t may_produce, may_work, may_consume;
    uint64_t produced, claimed, consumed;
    bool *worked;     /* [n_slot]: the item in this slot may be consumed */
    bool ended;       /* produce said that there is nothing more */
    bool stop;        /* a stage failed */
    fq_status status; /* of the stage that failed first */
    fq_err err;
} run;

/* Lock held. Keeps the first failure only. */
static void stop_all(run *r, fq_status s, const fq_err *e)
{
    if (!r->stop) {
        r->stop = true;
        r->status = s;
        r->err = *e;
        r->err.code = s; /* also when the stage left its fq_err alone */
    }
    pthread_cond_broadcast(&r->may_produce);
    pthread_cond_broadcast(&r->may_work);
    pthread_cond_broadcast(&r->may_consume);
}

static void *producer(void *arg)
{
    run *r = arg;
    const fqi_pipeline *p = r->p;
    pthread_mutex_lock(&r->lock);
    for (;;) {
        while (!r->stop && r->produced - r->consumed >= p->n_slot) pthread_cond_wait(&r->may_produce, &r->lock);
        if (r->stop) break;
        size_t i = (size_t)(r->produced % p->n_slot);
        pthread_mutex_unlock(&r->lock);
        fq_err e = { 0 };
        bool done = false;
        fq_status s = p->produce(p->user, p->slot[i], &done, &e);
        pthread_mutex_lock(&r->lock);
        if (s != FQ_OK) { stop_all(r, s, &e); break; }
        if (done) break;
        r->worked[i] = p->work == NULL;
        r->produced++;
        pthread_cond_signal(p->work == NULL ? &r->may_consume : &r->may_work);
    }
    r->ended = true;
    pthread_cond_broadcast(&r->may_work);
    pthread_cond_broadcast(&r->may_consume);
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

static void *worker(void *arg)
{
    run *r = arg;
    const fqi_pipeline *p = r->p;
    pthread_mutex_lock(&r->lock);
    for (;;) {
        while (!r->stop && r->claimed == r->produced && !r->ended) pthread_cond_wait(&r->may_work, &r->lock);
        if (r->stop || r->claimed == r->produced) break;
        uint64_t item = r->claimed++;
        size_t i = (size_t)(item % p->n_slot);
        pthread_mutex_unlock(&r->lock);
        fq_err e = { 0 };
        fq_status s = p->work(p->user, p->slot[i], &e);
        pthread_mutex_lock(&r->lock);
        if (s != FQ_OK) { stop_all(r, s, &e); break; }
        r->worked[i] = true;
        if (item == r->consumed) pthread_cond_signal(&r->may_consume);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

static void consumer(run *r)
{
    const fqi_pipeline *p = r->p;
    pthread_mutex_lock(&r->lock);
    for (;;) {
        size_t i = (size_t)(r->consumed % p->n_slot);
        while (!r->stop && !(r->consumed < r->produced && r->worked[i]) && !(r->ended && r->consumed == r->produced))
            pthread_cond_wait(&r->may_consume, &r->lock);
        if (r->stop || r->consumed == r->produced) break;
        pthread_mutex_unlock(&r->lock);
        fq_err e = { 0 };
        fq_status s = p->consume(p->user, p->slot[i], &e);
        pthread_mutex_lock(&r->lock);
        if (s != FQ_OK) { stop_all(r, s, &e); break; }
        r->worked[i] = false;
        r->consumed++;
        pthread_cond_signal(&r->may_produce);
    }
    pthread_mutex_unlock(&r->lock);
}

/* Signals that are sent to the process belong to the calling thread: it is the one that polls fq_run.cancelled, and a handler
 * that ran on a helper thread would leave it asleep. Signals that a thread raises itself stay as they are. */
static void block_signals(sigset_t *old)
{
    static const int own[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGSYS, SIGTRAP };
    sigset_t set;
    sigfillset(&set);
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) sigdelset(&set, own[i]);
    pthread_sigmask(SIG_BLOCK, &set, old);
}

/* Starts the producer (thread[0]) and the workers; *n = threads that run. Fewer workers than asked for are enough. */
static void start(run *r, pthread_t *thread, size_t *n)
{
    size_t want = r->p->work == NULL ? 0 : (size_t)r->p->n_worker, least = want == 0 ? 1 : 2;
    sigset_t old;
    int err = 0;
    block_signals(&old);
    for (*n = 0; *n < 1 + want; ++*n) {
        err = pthread_create(&thread[*n], NULL, *n == 0 ? producer : worker, r);
        if (err != 0) break;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (*n >= least) return;
    fq_err e = { 0 };
    fqi_fail_sys(&e, NULL, "thread", err);
    pthread_mutex_lock(&r->lock);
    stop_all(r, FQ_E_IO, &e);
    pthread_mutex_unlock(&r->lock);
}

fq_status fqi_pipeline_run(const fqi_pipeline *p, fq_err *e)
{
    size_t n_thread = 0, max_thread = 1 + (p->work == NULL ? 0 : (size_t)p->n_worker);
    run r = { .p = p, .status = FQ_OK };
    pthread_t *thread = fqi_calloc(max_thread, sizeof *thread);
    r.worked = fqi_calloc(p->n_slot, sizeof *r.worked);
    if (thread == NULL || r.worked == NULL) {
        free(thread);
        free(r.worked);
        return fqi_fail_nomem(e, "pipeline");
    }
    pthread_mutex_init(&r.lock, NULL); /* these cannot fail with default attributes on Linux */
    pthread_cond_init(&r.may_produce, NULL);
    pthread_cond_init(&r.may_work, NULL);
    pthread_cond_init(&r.may_consume, NULL);
    start(&r, thread, &n_thread);
    consumer(&r);
    for (size_t i = 0; i < n_thread; i++) pthread_join(thread[i], NULL);
    pthread_cond_destroy(&r.may_consume);
    pthread_cond_destroy(&r.may_work);
    pthread_cond_destroy(&r.may_produce);
    pthread_mutex_destroy(&r.lock);
    free(r.worked);
    free(thread);
    if (r.status != FQ_OK && e != NULL) *e = r.err;
    return r.status;
}

/* ---- jobs without an order ---- */

#define MAX_TEAM 64

typedef struct team { size_t n, next; void (*job)(void *user, size_t i); void *user; } team;

static void *take_jobs(void *arg)
{
    team *t = arg;
    for (size_t i; (i = __atomic_fetch_add(&t->next, 1, __ATOMIC_RELAXED)) < t->n;) t->job(t->user, i);
    return NULL;
}

void fqi_parallel(int n_thread, size_t n, void (*job)(void *user, size_t i), void *user)
{
    team t = { .n = n, .job = job, .user = user };
    pthread_t thread[MAX_TEAM];
    sigset_t all, before;
    size_t started = 0;
    (void)sigfillset(&all);   /* signals are for the caller's threads */
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    while (started + 1 < n && started + 1 < (size_t)(n_thread > 1 ? n_thread : 1) && started < MAX_TEAM && pthread_create(&thread[started], NULL, take_jobs, &t) == 0) started++;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)take_jobs(&t);
    for (size_t i = 0; i < started; i++) (void)pthread_join(thread[i], NULL);
}

int fqi_n_processor(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN); /* more processors than a cpu_set_t has bits */
    return n > 0 && n < 1 << 16 ? (int)n : 1;
}

int fqi_n_thread(int asked)
{
    int n = asked > 0 ? asked : fqi_n_processor();
    return asked > 0 || n <= MAX_UNASKED ? n : MAX_UNASKED;
}
