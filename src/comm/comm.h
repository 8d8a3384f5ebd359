/* comm.h - ranks: several processes (MPI) or threads that work on one job, and what they tell each other.
 *
 * Every rank makes the same calls in the same order. Before data goes out, a header of what each rank is about to do goes to all of them, so
 * a rank that differs, or that has failed, ends the call on all ranks, with the same message, instead of a heap that is
 * overwritten or a wait for ever (which is what MPI does). After a failure every later call returns it again at once.
 *
 * Sums are added in the order of ranks, so that they have the same bits on every rank, on every run, between threads and MPI.
 *
 * NULL is a communicator: the one of a job on one rank, for which nothing is done.
 *
 * comm.c      headers, collectives, failure: the same for all
 * threads.c   ranks that are threads of this process
 * mpi.c       ranks that are processes; mpi/plugin.c is the only file that includes mpi.h, and is loaded only where MPI started us
 * watch.c     the thread that hears other processes, and ends the job when one falls silent
 * ranks.c     which of these it is; start and end */
#ifndef FITQ_COMM_COMM_H
#define FITQ_COMM_COMM_H

#include "base/err.h"

#define FQI_MAX_RANK 4096        /* of one job; MPI */
#define FQI_MAX_RANK_THREAD 64   /* of one process */
#define FQI_PHASE_MAX 47         /* bytes of a phase, without the NUL */
#define FQI_HOST_MAX 63

typedef struct fqi_comm fqi_comm;

int fqi_comm_rank(const fqi_comm *c);   /* 0 .. size - 1 */
int fqi_comm_size(const fqi_comm *c);
/* Ranks that share this one's machine, itself too: what processors and memory are divided by. */
int fqi_comm_n_local(const fqi_comm *c);
/* Threads of this rank, from fq_run.n_thread: that many, or, where nobody asked (0), this rank's share of the machine. */
int fqi_comm_n_thread(const fqi_comm *c, int asked);
/* Ranks of this process, itself too: what a budget of the process is divided by. */
int fqi_comm_n_here(const fqi_comm *c);
/* What this rank is doing: in messages about it. Cut. */
void fqi_comm_phase(fqi_comm *c, const char *phase);

/* All of these are collective. FQ_E_PEER "collective": the ranks do different things. The failure of any rank (see fqi_comm_agree). */

fq_status fqi_comm_barrier(fqi_comm *c, fq_err *e);
/* n bytes of rank `root` to all. */
fq_status fqi_comm_broadcast(fqi_comm *c, int root, void *bytes, size_t n, fq_err *e);
/* x[i] = x[i] of rank 0 + x[i] of rank 1 + ..., on all ranks. */
fq_status fqi_comm_sum_float(fqi_comm *c, float *x, size_t n, fq_err *e);
fq_status fqi_comm_sum_double(fqi_comm *c, double *x, size_t n, fq_err *e);
/* Most bytes that these take beside x, and keep. */
uint64_t fqi_comm_sum_bytes(const fqi_comm *c, uint64_t n, size_t width);
/* The same on rank `root` alone; elsewhere x is left as it is. */
fq_status fqi_comm_sum_float_to(fqi_comm *c, int root, float *x, size_t n, fq_err *e);
fq_status fqi_comm_sum_double_to(fqi_comm *c, int root, double *x, size_t n, fq_err *e);
/* bytes[r] bytes of every rank r to all ranks, one behind another; `bytes` is the same everywhere. mine may be its own place in `all`. */
fq_status fqi_comm_gather(fqi_comm *c, const void *mine, const size_t *bytes, void *all, fq_err *e);
/* The same to rank `root` alone; elsewhere `all` is not used. */
fq_status fqi_comm_gather_to(fqi_comm *c, int root, const void *mine, const size_t *bytes, void *all, fq_err *e);
/* Have all ranks the same n bytes? Else FQ_E_INPUT "ranks-differ", which names the first rank that differs from rank 0, and `what`. Only a hash
 * goes out. */
fq_status fqi_comm_same(fqi_comm *c, const char *what, const void *bytes, size_t n, fq_err *e);
/* How it went so far. All FQ_OK: FQ_OK. Else all ranks return the status of the first rank that failed, with
 * "rank R (HOST): PHASE: its message"; without the beginning, if all ranks failed with the same message. A rank that failed need not know what the
 * others are doing: they see it in whatever collective they are in. e: on entry this rank's error, if mine is not FQ_OK. */
fq_status fqi_comm_agree(fqi_comm *c, fq_status mine, fq_err *e);

/* ---- start and end -------------------------------------------------------------------------------------------------- */

/* Of run: n_rank, heartbeat_seconds, cancelled, lost. */
typedef fq_status fqi_rank_job(void *user, fqi_comm *c, fq_err *e);

/* The whole: `job` once on every rank, and fqi_comm_agree on what they returned.
 *   started by mpirun or srun    on the calling thread, as the rank that this process is
 *   run->n_rank > 1              rank 0 on the calling thread, the others on threads of their own
 *   else                         on the calling thread, with NULL
 * run->cancelled and the like are called by rank 0, and by each process; jobs on threads must not (fqi_comm_callbacks). run: not NULL.
 * FQ_E_USAGE "ranks": n_rank is not what mpirun started. FQ_E_PEER "mpi": started by mpirun, and no MPI here. */
fq_status fqi_ranks_run(const fq_run *run, fqi_rank_job *job, void *user, fq_err *e);

/* The same in two calls, for who needs rank 0 to come back: `job` runs on the threads only. *out may be NULL (one rank). Freed by finish, which every
 * rank of MPI must call, also after a failure; it waits for the threads. mine: as in fqi_comm_agree. */
fq_status fqi_ranks_start(const fq_run *run, fqi_rank_job *job, void *user, fqi_comm **out, fq_err *e);
fq_status fqi_ranks_finish(fqi_comm *c, fq_status mine, fq_err *e);

/* Has this rank callbacks of the user (progress, log, cancelled)? Rank 0, and every process. */
bool fqi_comm_callbacks(const fqi_comm *c);

#endif
