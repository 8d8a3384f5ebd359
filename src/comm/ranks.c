/* ranks.c - on how many ranks a job runs, and of which kind: decided here, once (see comm.h). */
#include "comm/transport.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static fq_status check(const fq_run *run, fq_err *e)
{
    if (run->n_rank < 0 || run->n_rank > FQI_MAX_RANK) return fqi_fail(e, FQ_E_USAGE, NULL, "ranks", "found %d ranks, expected 1 to %d", run->n_rank, FQI_MAX_RANK_THREAD);
    if (!(run->heartbeat_seconds >= 0)) return fqi_fail(e, FQ_E_USAGE, NULL, "heartbeat", "found %g seconds, expected more than 0", run->heartbeat_seconds);
    return FQ_OK;
}

fq_status fqi_rank_named(int rank, fq_status status, const fq_err *why, fq_err *out)
{
    char host[FQI_HOST_MAX + 1] = { 0 }, shown[FQI_NAME_MAX + 1], who[FQI_NAME_MAX + 48];
    const fq_err unknown = { .code = status, .text = "failed without a message" };
    if (gethostname(host, sizeof host - 1) != 0) snprintf(host, sizeof host, "%s", FQI_HOST_UNKNOWN);
    (void)snprintf(who, sizeof who, "rank %d (%s): start", rank, fqi_escape(shown, host));
    return fqi_fail_from(out, status, who, why ? why : &unknown);
}

static fq_status start_processes(const fq_run *run, int rank, fqi_comm **out, fq_err *e)
{
    fq_err why = { 0 };
    fq_status s = fqi_mpi_start(run, out, &why);
    if (s != FQ_OK) {
        fq_err named = { 0 };
        (void)fqi_rank_named(rank, s, &why, &named);
        if (rank > 0 && run->lost) run->lost(run->user, named.text);   /* rank 0 may be well, and knows nothing of it */
        if (e) *e = named;
        return s;
    }
    s = fqi_comm_same(*out, "version of fitq", FQ_VERSION, strlen(FQ_VERSION), &why);
    if (s == FQ_OK && run->n_rank > 0 && run->n_rank != (*out)->size)
        s = fqi_fail(&why, FQ_E_USAGE, NULL, "ranks", "found %d processes, started by mpirun or srun, expected %d, or no --ranks", (*out)->size, run->n_rank);
    if (s == FQ_OK) return FQ_OK;
    s = fqi_ranks_finish(*out, s, &why);
    *out = NULL;
    if (e) *e = why;
    return s;
}

fq_status fqi_ranks_start(const fq_run *run, fqi_rank_job *job, void *user, fqi_comm **out, fq_err *e)
{
    int rank;
    *out = NULL;
    FQI_TRY(check(run, e));
    if (run->n_rank == 1) return FQ_OK;   /* also where mpirun started several: each by itself */
    if (fqi_mpi_started(&rank)) return start_processes(run, rank, out, e);
    if (run->n_rank == 0) return FQ_OK;
    if (run->n_rank > FQI_MAX_RANK_THREAD) return fqi_fail(e, FQ_E_USAGE, NULL, "ranks", "found %d ranks in one process, expected at most %d", run->n_rank, FQI_MAX_RANK_THREAD);
    return fqi_threads_start(run->n_rank, job, user, out, e);
}

fq_status fqi_ranks_finish(fqi_comm *c, fq_status mine, fq_err *e)
{
    if (!c) return mine;
    const fq_status s = fqi_comm_agree(c, mine, e);
    fqi_threads_join(c);
    fqi_comm_free(c);
    return s;
}

fq_status fqi_ranks_run(const fq_run *run, fqi_rank_job *job, void *user, fq_err *e)
{
    fqi_comm *c;
    fq_err why = { 0 };
    FQI_TRY(fqi_ranks_start(run, job, user, &c, e));
    const fq_status s = fqi_ranks_finish(c, job(user, c, &why), &why);
    if (s != FQ_OK && e) *e = why;
    return s;
}

int fq_rank(void)
{
    int rank;
    return fqi_mpi_started(&rank) && rank > 0 ? rank : 0;
}
