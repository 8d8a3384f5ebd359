/* probe.c - a rank for tests/cli/test_ranks.py: does what its arguments say, started by mpirun or with ranks as threads.
 *
 *     comm_probe N sum              prints a hash of sums, gatherings and broadcasts of many lengths, on rank 0
 *     comm_probe N fail RANK        that rank fails after some rounds
 *     comm_probe N kill|stop|exit|exit3|segv|slow RANK     ... or is killed, ..., in phase "round 5"
 *     comm_probe N same RANK        that rank has another option
 *     comm_probe N count RANK       that rank sums another number of floats
 *     comm_probe N twice RANK       fail, and then sum in the same process
 *     comm_probe N busy RANK        that rank fails while the others compute without end
 *
 * N: fq_run.n_rank, 0 = as mpirun says. HEARTBEAT in the environment: seconds. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <xxhash.h>

#include "comm/comm.h"

static volatile sig_atomic_t asked;
static void on_signal(int number) { asked = number; }
static bool cancelled(void *user) { return asked != 0 && user == NULL; }

typedef struct request { const char *what; int rank; uint64_t hash; } request;

static void lost(void *user, const char *line)
{
    (void)user;
    fprintf(stderr, "probe: %s\n", line);
}

static fq_status round_of(fqi_comm *c, int i, uint64_t *hash, fq_err *e)
{
    static const size_t length[] = { 1, 7, 4096, 70001, 1200007 };
    const size_t n = length[i % 5], me = (size_t)fqi_comm_rank(c), size = (size_t)fqi_comm_size(c);
    float *x = calloc(n + 3, sizeof *x), *all = calloc(size * 3, sizeof *all);
    double *y = calloc(n, sizeof *y);
    size_t bytes[64];
    for (size_t k = 0; k < n; k++) y[k] = x[k] = 1.0f / (float)(1 + (k * 31 + me * 17 + (size_t)i) % 1009);
    for (size_t r = 0; r < size; r++) bytes[r] = (r % 3 + 1) * sizeof(float);
    fq_status s = fqi_comm_sum_float(c, x, n, e);
    if (s == FQ_OK) s = fqi_comm_sum_double(c, y, n, e);
    if (s == FQ_OK) s = fqi_comm_sum_double_to(c, (int)size - 1, y, n, e);
    if (s == FQ_OK) s = fqi_comm_broadcast(c, (int)size - 1, y, n * sizeof *y, e);
    if (s == FQ_OK) s = fqi_comm_gather(c, x, bytes, all, e);
    if (s == FQ_OK) {
        size_t sum = 0;
        for (size_t r = 0; r < size; r++) sum += bytes[r];
        *hash = XXH3_64bits_withSeed(x, n * sizeof *x, *hash);
        *hash = XXH3_64bits_withSeed(y, n * sizeof *y, *hash);
        *hash = XXH3_64bits_withSeed(all, sum, *hash);
        s = fqi_comm_same(c, "hash of the results", hash, sizeof *hash, e);
    }
    free(x);
    free(y);
    free(all);
    return s;
}

static void misbehave(const char *what)
{
    if (strcmp(what, "kill") == 0) (void)raise(SIGKILL);
    if (strcmp(what, "stop") == 0) (void)raise(SIGSTOP);
    if (strcmp(what, "segv") == 0) (void)raise(SIGSEGV);
    if (strcmp(what, "exit") == 0) _exit(0);
    if (strcmp(what, "exit3") == 0) _exit(3);
    if (strcmp(what, "slow") == 0) (void)sleep(4);
}

static fq_status job(void *user, fqi_comm *c, fq_err *e)
{
    const request *q = user;
    const bool bad = fqi_comm_rank(c) == q->rank;
    uint64_t hash = 1;
    float x[2] = { 0 };
    if (strcmp(q->what, "same") == 0) return fqi_comm_same(c, "model", bad ? "a" : "b", 1, e);
    if (strcmp(q->what, "count") == 0) return fqi_comm_sum_float(c, x, bad ? 1 : 2, e);
    for (int i = 0; i < 10; i++) {
        char phase[32];
        snprintf(phase, sizeof phase, "round %d", i);
        fqi_comm_phase(c, phase);
        if (bad && i == 5 && (strcmp(q->what, "fail") == 0 || strcmp(q->what, "busy") == 0))
            return fqi_fail(e, FQ_E_IO, FQI_FILE("shard 3"), "write", "found no space, expected some");
        if (!bad && i == 5 && strcmp(q->what, "busy") == 0) (void)sleep(100);
        if (i == 5) (void)usleep(250000);   /* so that the others have heard of the phase */
        if (bad && i == 5) misbehave(q->what);
        FQI_TRY(round_of(c, i, &hash, e));
    }
    if (fqi_comm_rank(c) == 0) printf("%016llx\n", (unsigned long long)hash);
    return FQ_OK;
}

int main(int argc, char **argv)
{
    if (argc < 3) return 2;
    const char *beat = getenv("HEARTBEAT");
    request q = { .what = argv[2], .rank = argc > 3 ? atoi(argv[3]) : -1 };
    const fq_run run = { .n_rank = atoi(argv[1]), .lost = lost, .cancelled = cancelled, .heartbeat_seconds = beat ? atof(beat) : 0 };
    fq_err e = { 0 };
    (void)signal(SIGTERM, on_signal);   /* as fitq does: mpirun's wish to end is not the end at once */
    if (strcmp(q.what, "twice") == 0) {
        q.what = "fail";
        if (fqi_ranks_run(&run, job, &q, &e) != FQ_E_IO) return 1;
        q.what = "sum";
    }
    const fq_status s = fqi_ranks_run(&run, job, &q, &e);
    if (s != FQ_OK && fq_rank() == 0) fprintf(stderr, "probe: %s\n", e.text);
    return -(int)s;
}
