/* watch.c - one thread of each process that says "I am here, doing this" ten times a second, and ends the job when another one is silent.
 *
 * All ranks tell rank 0, rank 0 tells all: a stopped process is found by rank 0, a stopped rank 0 by rank 1. A rank that computes for minutes is
 * not silent, its thread speaks for it; a process that sleeps and comes back (a laptop's lid, a stopped shell) forgives what it missed.
 *
 * A killed process is noticed by mpirun, which then asks the others to end and kills them a second later. In that second the thread sees who
 * has fallen silent, and says which rank it was and in what phase: mpirun cannot know. A rank that failed and that the others do not come to
 * hear of (they compute) is not waited for longer than GRACE. */
#include <inttypes.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comm/mpi_private.h"

#define LAYOUT 0x46715262u
#define TICK 0.1          /* seconds */
#define SILENT 0.6        /* while we are asked to end: more than any living process is silent for */
#define BEFORE 0.8        /* when we are asked to end: so silent was a process that died a second ago, before all were asked */
#define GRACE 6.0         /* from a rank's failure to the end of all */
#define ASLEEP 2.0        /* a tick that took that long: we did not run */
#define LEFT 2.0          /* from hearing that a rank has ended the job to ending too: mpirun ends us sooner, srun after 30 seconds */

static double now(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* MPI_Abort has been seen to hang; an alarm does not. */
void fqi_watch_give_up(fqi_link *l, fq_status status, const char *line)
{
    if (l->run->lost && *line) l->run->lost(l->run->user, line);
    (void)signal(SIGALRM, SIG_DFL);
    (void)alarm(4);
    sigset_t just;
    (void)sigemptyset(&just);
    (void)sigaddset(&just, SIGALRM);
    (void)pthread_sigmask(SIG_UNBLOCK, &just, NULL);
    l->mpi->abort(-(int)status);
    _exit(-(int)status);
}

/* ---- speaking and hearing, under the lock -------------------------------------------------------------------------- */

static int first_peer(const fqi_link *l) { return l->comm->rank == 0 ? 1 : 0; }
static int end_peer(const fqi_link *l) { return l->comm->rank == 0 ? l->comm->size : 1; }

/* To ranks [first, end) but this one. */
static void speak(fqi_link *l, int first, int end)
{
    char why[FQI_MPI_WHY];
    const int n = l->out.status ? (int)sizeof l->out : (int)offsetof(fqi_beat, text);
    bool free_now = true;
    for (int r = first; r < end; r++) {
        int done = 0;
        if (l->mpi->test(1, &l->sent[r], &done, why) != 0 || !done) free_now = false;
    }
    if (free_now) {   /* else a message that reads l->out is on its way, maybe to a process that is stopped: who can hear, hears below */
        pthread_mutex_lock(&l->comm->lock);
        memcpy(l->out.phase, l->comm->phase, sizeof l->out.phase);
        pthread_mutex_unlock(&l->comm->lock);
    }
    for (int r = first; r < end; r++) {
        int done = 0;
        if (r != l->comm->rank && l->mpi->test(1, &l->sent[r], &done, why) == 0 && done) (void)l->mpi->send(r, FQI_TAG_BEAT, &l->out, n, &l->sent[r], why);
    }
}

static void note_failure(fqi_link *l, int rank, const fqi_beat *b)
{
    char host[FQI_NAME_MAX + 1], phase[FQI_NAME_MAX + 1];
    if (l->failed > 0) return;
    l->failed = now();
    l->failure_status = b->status;
    snprintf(l->failure, sizeof l->failure, "rank %d (%s): %s: %.1500s", rank, fqi_escape_n(host, b->host, strnlen(b->host, FQI_HOST_MAX)),
             fqi_escape_n(phase, b->phase, strnlen(b->phase, FQI_PHASE_MAX)), b->text);
}

static void hear(fqi_link *l)
{
    char why[FQI_MPI_WHY];
    for (int i = 0; i < 2 * l->comm->size; i++) {   /* not for ever, however much there is */
        int there = 0, from = 0, n = 0, done = 0;
        fqi_mpi_request r;
        if (l->mpi->waiting(FQI_TAG_BEAT, &there, &from, &n, why) != 0 || !there) return;
        if (n < 0 || n > (int)sizeof l->in || from < 0 || from >= l->comm->size) return;
        if (l->mpi->receive(from, FQI_TAG_BEAT, &l->in, n, &r, why) != 0) return;
        for (int k = 0; k < 1000 && !done; k++)   /* it has come: this is copying */
            if (l->mpi->test(1, &r, &done, why) != 0) return;
        if (!done || n < (int)offsetof(fqi_beat, text) || l->in.layout != LAYOUT || l->in.job != l->out.job) continue;
        fqi_peer *p = &l->peer[from];
        p->heard = now();
        memcpy(p->phase, l->in.phase, sizeof p->phase);
        memcpy(p->host, l->in.host, sizeof p->host);
        l->over = l->over || l->in.over;
        if (l->in.status && n == (int)sizeof l->in) {
            l->in.text[sizeof l->in.text - 1] = '\0';
            note_failure(l, from, &l->in);
        }
    }
}

/* ---- judging ------------------------------------------------------------------------------------------------------- */

/* The peer that was silent for longest, if longer than `limit`; -1. */
static int silent(const fqi_link *l, double t, double limit)
{
    int worst = -1;
    for (int r = first_peer(l); r < end_peer(l); r++)
        if (t - l->peer[r].heard > limit && (worst < 0 || l->peer[r].heard < l->peer[worst].heard)) worst = r;
    return worst;
}

static fq_status describe(const fqi_link *l, int rank, double seconds, const char *expected, char out[sizeof ((fq_err *)0)->text])
{
    const fqi_peer *p = &l->peer[rank];
    char host[FQI_NAME_MAX + 1], phase[FQI_NAME_MAX + 1];
    fq_err e;
    const fq_status s = fqi_fail(&e, FQ_E_PEER, NULL, NULL, "rank %d (%s): %s: rank-lost: found no sign of life for %.1f seconds, expected %s", rank, fqi_escape_n(host, p->host, strnlen(p->host, FQI_HOST_MAX)),
                                 fqi_escape_n(phase, p->phase, strnlen(p->phase, FQI_PHASE_MAX)), seconds, expected);
    memcpy(out, e.text, sizeof e.text);
    return s;
}

/* True: the job is over. *status and line say why. */
static bool judge(fqi_link *l, fq_status *status, char line[sizeof ((fq_err *)0)->text])
{
    const double t = now(), patience = l->comm->rank > 1 ? 3.0 : 0;   /* one of those that hear rank 0 shall speak */
    int who;
    if (t - l->woke > ASLEEP)
        for (int r = first_peer(l); r < end_peer(l); r++) l->peer[r].heard = t;
    l->woke = t;
    if (l->over) {   /* one voice is enough */
        if (l->over_since <= 0) l->over_since = t;
        *status = FQ_E_PEER;
        line[0] = '\0';
        return t - l->over_since > LEFT;
    }
    if (l->stopping <= 0 && l->run->cancelled && l->run->cancelled(l->run->user)) l->stopping = t;
    if (l->stopping > 0 && l->failed <= 0 && ((t - l->stopping > SILENT + patience && (who = silent(l, t, SILENT + patience)) >= 0) || (patience <= 0 && (who = silent(l, l->stopping, BEFORE)) >= 0))) {
        *status = describe(l, who, t - l->peer[who].heard, "one: it has ended or was killed", line);
        return true;
    }
    if ((who = silent(l, t, l->limit + patience)) >= 0) {
        *status = describe(l, who, t - l->peer[who].heard, "one: it is stopped, or cannot be reached", line);
        return true;
    }
    if (l->failed > 0 && t - l->failed > GRACE + (l->comm->rank == 0 ? 0 : 3.0)) {
        *status = (fq_status)l->failure_status;
        memcpy(line, l->failure, sizeof l->failure);
        return true;
    }
    return false;
}

/* Says it to all, for rank 0 may be the one that is gone, until it has gone out; but not for long: a peer may be what is stopped. */
static void tell(fqi_link *l)
{
    const struct timespec nap = { .tv_nsec = 10000000 };
    for (int i = 0; i < 30; i++) {
        speak(l, 0, l->comm->size);
        hear(l);
        (void)nanosleep(&nap, NULL);
    }
}

static void *watch(void *arg)
{
    fqi_link *l = arg;
    char line[sizeof ((fq_err *)0)->text];
    fq_status status = FQ_OK;
    pthread_mutex_lock(&l->lock);
    l->woke = now();
    for (int r = 0; r < l->comm->size; r++) l->peer[r].heard = l->woke;
    while (!l->stop) {
        struct timespec until;
        if (l->out.status) note_failure(l, l->comm->rank, &l->out);
        speak(l, first_peer(l), end_peer(l));
        hear(l);
        const bool over = judge(l, &status, line);
        if (over) {
            l->out.over = 1;
            tell(l);
            pthread_mutex_unlock(&l->lock);
            fqi_watch_give_up(l, status, line);
        }
        (void)clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += (long)(TICK * 1e9);
        if (until.tv_nsec >= 1000000000L) {
            until.tv_nsec -= 1000000000L;
            until.tv_sec++;
        }
        (void)pthread_cond_timedwait(&l->wake, &l->lock, &until);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* ---- life ---------------------------------------------------------------------------------------------------------- */

fq_status fqi_watch_start(fqi_link *l, fq_err *e)
{
    sigset_t all, before;
    l->out.layout = LAYOUT;
    memcpy(l->out.host, l->comm->host, sizeof l->out.host);
    for (int r = 0; r < l->comm->size; r++) {   /* of one that is never heard */
        snprintf(l->peer[r].phase, sizeof l->peer[r].phase, "start");
        snprintf(l->peer[r].host, sizeof l->peer[r].host, "%s", FQI_HOST_UNKNOWN);
    }
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    l->running = pthread_create(&l->thread, NULL, watch, l) == 0;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return l->running ? FQ_OK : fqi_fail_nomem(e, "thread that hears other ranks");
}

void fqi_watch_stop(fqi_link *l)
{
    if (!l->running) return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->lock);
    (void)pthread_join(l->thread, NULL);
    l->running = false;
}

bool fqi_watch_drained(fqi_link *l)
{
    const struct timespec nap = { .tv_nsec = 5000000 };
    char why[FQI_MPI_WHY];
    int done = 0;
    for (int i = 0; i < 20 && !done; i++) {
        if (i > 0) (void)nanosleep(&nap, NULL);
        if (l->mpi->test(l->comm->size, l->sent, &done, why) != 0) return false;
    }
    return done;
}
