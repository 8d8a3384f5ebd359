/* mpi_private.h - ranks that are processes: what mpi.c and watch.c share. */
#ifndef FITQ_COMM_MPI_PRIVATE_H
#define FITQ_COMM_MPI_PRIVATE_H

#include "comm/mpi/plugin.h"
#include "comm/transport.h"

#define FQI_TAG_DATA 1
#define FQI_TAG_BEAT 2

/* What a process says of itself several times a second. text: of its failure, sent only with a status. */
typedef struct fqi_beat {
    uint32_t layout, job;              /* job: of this process; one that is late belongs to the job before */
    int32_t status, over;              /* over: this rank ends the job, and has said why */
    char phase[FQI_PHASE_MAX + 1], host[FQI_HOST_MAX + 1];
    char text[sizeof ((fq_err *)0)->text];
} fqi_beat;

typedef struct fqi_peer { double heard; char phase[FQI_PHASE_MAX + 1], host[FQI_HOST_MAX + 1]; } fqi_peer;

typedef struct fqi_link {
    const fqi_mpi *mpi;
    fqi_comm *comm;
    const fq_run *run;
    double limit;                      /* seconds of silence */
    pthread_mutex_t lock;              /* MPI is called under it, one call at a time; guards what is below too */
    fqi_mpi_request *request; int n_request;
    bool broken;                       /* MPI itself failed: nobody can be told */
    /* watching */
    pthread_t thread; bool running, stop;
    pthread_cond_t wake;
    fqi_peer *peer;                    /* of rank 0: all; of others: rank 0 */
    fqi_mpi_request *sent;             /* to each peer; one that is not through is not followed by another */
    fqi_beat out, in;
    double woke, stopping, failed;     /* seconds; 0 = not yet */
    char failure[sizeof ((fq_err *)0)->text]; int failure_status;
    bool over; double over_since;      /* another rank ends the job, and has said why */
} fqi_link;

fq_status fqi_watch_start(fqi_link *l, fq_err *e);
void fqi_watch_stop(fqi_link *l);
/* Is nothing on its way any more that MPI reads from l? */
bool fqi_watch_drained(fqi_link *l);
/* Ends the job on all ranks: says why, and does not come back. */
void fqi_watch_give_up(fqi_link *l, fq_status status, const char *line) __attribute__((noreturn));

#endif
