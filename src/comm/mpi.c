/* mpi.c - ranks that are processes. Loads fitq's MPI library where mpirun or srun started us, and nowhere else.
 *
 * Nothing here waits inside MPI: calls that start something, and a loop that asks whether it is done. So a lock around each call is enough for two
 * threads (this and the watching one), processors are free while a rank waits, and a peer that is gone is found by watch.c instead of never. */
#include <dlfcn.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "comm/mpi_private.h"

#define PIECE ((size_t)1 << 28)    /* bytes of a message: its length is an int */
#define SPINS 256                  /* questions before the first sleep */
#define NAP_NS 200000L

/* ---- loading ------------------------------------------------------------------------------------------------------- */

#ifndef FITQ_MPI_PATH
#define FITQ_MPI_PATH ""
#endif

static bool number_of(const char *name, int *out)
{
    const char *s = getenv(name);
    if (!s || *s < '0' || *s > '9') return false;
    const long v = strtol(s, NULL, 10);
    if (v > FQI_MAX_RANK * 16L) return false;
    *out = (int)v;
    return true;
}

/* Open MPI's mpirun says how many we are; srun too; hydra (MPICH, Intel) as PMI_SIZE; PMIx alone only who we are. */
bool fqi_mpi_started(int *rank)
{
    static const struct { const char *size, *rank; } by[] = { { "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK" }, { "PMI_SIZE", "PMI_RANK" }, { "SLURM_STEP_NUM_TASKS", "SLURM_PROCID" } };
    int size = 0, me = -1;
    for (size_t i = 0; i < sizeof by / sizeof by[0]; i++) {
        if (!number_of(by[i].size, &size) || !number_of(by[i].rank, &me)) continue;
        *rank = me;
        return size > 1;
    }
    *rank = -1;
    return number_of("PMIX_RANK", rank);
}

/* Beside the program as it was built, or where it is installed. $ORIGIN is the folder of the program or library that this is part of. RTLD_GLOBAL:
 * Open MPI loads its own parts, which look for its symbols. */
static fq_status load(const fqi_mpi **out, fq_err *e)
{
    static const char *const place[] = { "$ORIGIN/libfitq_mpi.so", "$ORIGIN/fitq/libfitq_mpi.so", ("$ORIGIN/../" FITQ_MPI_PATH) };
    void *library = NULL;
    char shown[FQI_NAME_MAX + 1];
    const char *why = NULL;
    for (size_t i = 0; i < sizeof place / sizeof place[0] && !library; i++) {
        library = dlopen(place[i], RTLD_NOW | RTLD_GLOBAL | RTLD_NODELETE);
        if (!library) {
            const char *said = dlerror();
            if (!why || (said && !strstr(said, "No such file"))) why = said;   /* "found, but ..." is what helps */
            (void)fqi_escape(shown, why ? why : "nothing");
        }
    }
    if (!library)
        return fqi_fail(e, FQ_E_PEER, NULL, "mpi", "found several processes, started by mpirun or srun, and no MPI in this fitq (%s), expected a build with MPI (Debian: libopenmpi-dev), or --ranks", shown);
    fqi_mpi_get *get;
    void *symbol = dlsym(library, FQI_MPI_SYMBOL);
    memcpy(&get, &symbol, sizeof get);
    if (!get || get()->abi != FQI_MPI_ABI) return fqi_fail(e, FQ_E_PEER, NULL, "mpi", "found a libfitq_mpi.so of another version, expected the one that was built with this program");
    *out = get();
    return FQ_OK;
}

/* ---- moving bytes -------------------------------------------------------------------------------------------------- */

static fq_status fail_mpi(fqi_link *l, const char *why, fq_err *e)
{
    char shown[FQI_NAME_MAX + 1];
    l->broken = true;
    return fqi_fail(e, FQ_E_PEER, NULL, "mpi", "found \"%s\" from MPI, expected that messages arrive", fqi_escape(shown, why));
}

static fq_status wait_all(fqi_link *l, int n, fq_err *e)
{
    char why[FQI_MPI_WHY];
    const struct timespec nap = { .tv_nsec = NAP_NS };
    for (unsigned asked = 0;; asked++) {
        int done;
        pthread_mutex_lock(&l->lock);
        const int failed = l->mpi->test(n, l->request, &done, why);
        pthread_mutex_unlock(&l->lock);
        if (failed) return fail_mpi(l, why, e);
        if (done) return FQ_OK;
        if (asked < SPINS) (void)sched_yield();
        else (void)nanosleep(&nap, NULL);
    }
}

static fq_status headers(fqi_comm *c, const fqi_comm_header *mine, fqi_comm_header *all, fq_err *e)
{
    fqi_link *l = c->state;
    char why[FQI_MPI_WHY];
    pthread_mutex_lock(&l->lock);
    const int failed = l->mpi->gather(mine, (int)sizeof *mine, all, &l->request[0], why);
    pthread_mutex_unlock(&l->lock);
    return failed ? fail_mpi(l, why, e) : wait_all(l, 1, e);
}

static size_t piece(size_t n, size_t at) { return n <= at ? 0 : n - at < PIECE ? n - at : PIECE; }

/* The piece at `at` of every message. */
static fq_status exchange_piece(fqi_comm *c, const void *const *send, const size_t *n_send, void *const *recv, const size_t *n_recv, size_t at, fq_err *e)
{
    fqi_link *l = c->state;
    char why[FQI_MPI_WHY];
    int n = 0, failed = 0;
    pthread_mutex_lock(&l->lock);
    for (int i = 1; i < c->size && !failed; i++) {   /* everybody begins with another peer */
        const int from = (c->rank + c->size - i) % c->size, to = (c->rank + i) % c->size;
        const size_t in = piece(n_recv[from], at), out = piece(n_send[to], at);
        if (in > 0) failed = l->mpi->receive(from, FQI_TAG_DATA, (unsigned char *)recv[from] + at, (int)in, &l->request[n++], why);
        if (out > 0 && !failed) failed = l->mpi->send(to, FQI_TAG_DATA, (const unsigned char *)send[to] + at, (int)out, &l->request[n++], why);
    }
    pthread_mutex_unlock(&l->lock);
    return failed ? fail_mpi(l, why, e) : wait_all(l, n, e);
}

static fq_status exchange(fqi_comm *c, const void *const *send, const size_t *n_send, void *const *recv, const size_t *n_recv, fq_err *e)
{
    const size_t me = (size_t)c->rank;
    size_t most = 0;
    if (n_recv[me] > 0 && recv[me] != send[me]) memcpy(recv[me], send[me], n_recv[me]);
    for (size_t r = 0; r < (size_t)c->size; r++) {
        if (r == me) continue;
        most = n_send[r] > most ? n_send[r] : most;
        most = n_recv[r] > most ? n_recv[r] : most;
    }
    for (size_t at = 0; at < most; at += PIECE) FQI_TRY(exchange_piece(c, send, n_send, recv, n_recv, at, e));
    return FQ_OK;
}

static void failing(fqi_comm *c, fq_status status, const fq_err *why)
{
    fqi_link *l = c->state;
    pthread_mutex_lock(&l->lock);
    l->out.status = status;
    memcpy(l->out.phase, c->phase, sizeof l->out.phase);
    snprintf(l->out.text, sizeof l->out.text, "%s", why->text);
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->lock);
}

/* ---- starting MPI -------------------------------------------------------------------------------------------------- */

static double limit_of(const fq_run *run) { return run->heartbeat_seconds > 0 ? run->heartbeat_seconds : FQI_HEARTBEAT_SECONDS; }

/* MPI waits in there for all ranks, one that never comes too; nobody watches yet. */
typedef struct guard { pthread_mutex_t lock; pthread_cond_t wake; pthread_t thread; const fq_run *run; bool started, running; } guard;

static void *wait_for_init(void *arg)
{
    guard *g = arg;
    struct timespec until;
    char line[160];
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (time_t)limit_of(g->run) + 1;
    pthread_mutex_lock(&g->lock);
    while (!g->started && pthread_cond_timedwait(&g->wake, &g->lock, &until) == 0) {}
    const bool started = g->started;
    pthread_mutex_unlock(&g->lock);
    if (started) return NULL;
    (void)snprintf(line, sizeof line, "start: rank-lost: found that not all ranks have come after %.0f seconds, expected all", limit_of(g->run));
    if (g->run->lost) g->run->lost(g->run->user, line);
    _exit(-FQ_E_PEER);
}

static void guard_start(guard *g, const fq_run *run)
{
    sigset_t all, before;
    *g = (guard){ .run = run };
    (void)pthread_mutex_init(&g->lock, NULL);
    (void)pthread_cond_init(&g->wake, NULL);
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    g->running = pthread_create(&g->thread, NULL, wait_for_init, g) == 0;   /* without it we wait as MPI does */
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void guard_end(guard *g)
{
    pthread_mutex_lock(&g->lock);
    g->started = true;
    pthread_cond_signal(&g->wake);
    pthread_mutex_unlock(&g->lock);
    if (g->running) (void)pthread_join(g->thread, NULL);
    (void)pthread_cond_destroy(&g->wake);
    (void)pthread_mutex_destroy(&g->lock);
}

/* ---- life ---------------------------------------------------------------------------------------------------------- */

static void free_link(fqi_link *l)
{
    fqi_watch_stop(l);
    if (l->sent && !fqi_watch_drained(l)) return;   /* a peer does not take its last message: MPI keeps the memory */
    free(l->request);
    free(l->peer);
    free(l->sent);
    (void)pthread_cond_destroy(&l->wake);
    (void)pthread_mutex_destroy(&l->lock);
    free(l);
}

static void release(fqi_comm *c)
{
    fqi_link *l = c->state;
    if (l->broken) fqi_watch_give_up(l, FQ_E_PEER, c->why.text);
    free_link(l);
}

static const fqi_transport transport = { .headers = headers, .exchange = exchange, .failing = failing, .free = release };

static fq_status make_link(const fq_run *run, const fqi_mpi *mpi, int job, fqi_comm *c, fqi_link **out, fq_err *e)
{
    const size_t n = (size_t)c->size;
    fqi_link *l = fqi_calloc(1, sizeof *l);
    if (!l) return fqi_fail_nomem(e, "ranks");
    *l = (fqi_link){ .mpi = mpi, .comm = c, .run = run, .limit = limit_of(run) };
    l->out.job = (uint32_t)job;
    (void)pthread_mutex_init(&l->lock, NULL);
    (void)pthread_cond_init(&l->wake, NULL);
    l->request = fqi_calloc(2 * n, sizeof *l->request);
    l->peer = fqi_calloc(n, sizeof *l->peer);
    l->sent = fqi_calloc(n, sizeof *l->sent);
    *out = l;
    return l->request && l->peer && l->sent ? FQ_OK : fqi_fail_nomem(e, "ranks");
}

/* The link begins to work, and with it the communicator. */
static fq_status connect_ranks(const fq_run *run, const fqi_mpi *mpi, int job, fqi_comm *c, fq_err *e)
{
    fqi_link *l = NULL;
    fq_status s = make_link(run, mpi, job, c, &l, e);
    if (s == FQ_OK) s = fqi_watch_start(l, e);
    if (s != FQ_OK) {
        if (l) free_link(l);
        return s;
    }
    c->state = l;
    c->transport = &transport;
    return FQ_OK;
}

fq_status fqi_mpi_start(const fq_run *run, fqi_comm **out, fq_err *e)
{
    const fqi_mpi *mpi = NULL;
    int rank = 0, size = 1, n_local = 1, threads = 0, job = 0;
    guard g;
    char why[FQI_MPI_WHY] = "", shown[FQI_NAME_MAX + 1];
    fqi_comm *c;
    FQI_TRY(load(&mpi, e));
    guard_start(&g, run);
    const int failed = mpi->init(&rank, &size, &n_local, &threads, &job, why);
    guard_end(&g);
    if (failed)
        return fqi_fail(e, FQ_E_PEER, NULL, "mpi", "found \"%s\" from MPI, expected that it starts", fqi_escape(shown, why));
    if (!threads) return fqi_fail(e, FQ_E_PEER, NULL, "mpi", "found an MPI for a single thread, expected one that threads may call in turn (MPI_THREAD_SERIALIZED)");
    if (size == 1)
        return fqi_fail(e, FQ_E_PEER, NULL, "mpi", "found several processes that MPI does not connect, expected a start by MPI's own mpirun, or by srun with its plugin (srun --mpi=pmix)");
    if (size > FQI_MAX_RANK) return fqi_fail(e, FQ_E_USAGE, NULL, "ranks", "found %d ranks, expected at most %d", size, FQI_MAX_RANK);
    fq_status s = fqi_comm_create(rank, size, &c, e);
    if (s == FQ_OK) {
        c->n_local = n_local < 1 ? 1 : n_local;
        s = connect_ranks(run, mpi, job, c, e);
        if (s != FQ_OK) fqi_comm_free(c);
    }
    if (s != FQ_OK) {
        fq_err named = { 0 };   /* the others wait for this rank, and it cannot talk to them: it says itself who it is */
        (void)fqi_rank_named(rank, s, e, &named);
        if (run->lost) run->lost(run->user, named.text);
        mpi->abort(-(int)s);
        return s;
    }
    *out = c;
    return FQ_OK;
}
