/* transport.h - how bytes go between ranks; private to src/comm. Two of them: threads.c and mpi.c. */
#ifndef FITQ_COMM_TRANSPORT_H
#define FITQ_COMM_TRANSPORT_H

#include <pthread.h>

#include "comm/comm.h"

#define FQI_HEARTBEAT_SECONDS 60.0   /* where nobody said another */
#define FQI_HOST_UNKNOWN "unknown host"

/* What a rank is about to do. Goes to all ranks before every collective; fixed size and no pointers. */
typedef struct fqi_comm_header {
    uint32_t layout, op;
    uint64_t sequence, bytes, check;   /* check: of the bytes that are compared, or of the error's text */
    int32_t root, status;
    char phase[FQI_PHASE_MAX + 1], host[FQI_HOST_MAX + 1];
} fqi_comm_header;

typedef struct fqi_transport {
    /* all[r] = mine of rank r. Collective. */
    fq_status (*headers)(fqi_comm *c, const fqi_comm_header *mine, fqi_comm_header *all, fq_err *e);
    /* n_send[r] bytes at send[r] to every rank r, and n_recv[r] bytes from it to recv[r]; to itself too. Collective; the sizes agree. */
    fq_status (*exchange)(fqi_comm *c, const void *const *send, const size_t *n_send, void *const *recv, const size_t *n_recv, fq_err *e);
    /* This rank has failed and waits for the others to hear it. */
    void (*failing)(fqi_comm *c, fq_status status, const fq_err *why);
    void (*free)(fqi_comm *c);
} fqi_transport;

struct fqi_comm {
    const fqi_transport *transport;
    void *state;               /* of the transport */
    int rank, size, n_local;
    bool callbacks;
    bool threads;              /* all ranks are of this process */
    uint64_t sequence;
    pthread_mutex_t lock;      /* guards phase: the watching thread reads it */
    char phase[FQI_PHASE_MAX + 1], host[FQI_HOST_MAX + 1];
    fq_status failed;          /* not FQ_OK: nothing goes out any more */
    fq_err why;
    fqi_comm_header *header;   /* of all ranks, in the last collective */
    const void **send; void **recv; size_t *n_send, *n_recv;
    unsigned char *scratch; size_t n_scratch;
};

/* Without a transport. FQ_E_NOMEM. */
fq_status fqi_comm_create(int rank, int size, fqi_comm **out, fq_err *e);
void fqi_comm_free(fqi_comm *c);   /* the transport too; NULL is fine */

/* Ranks 1 .. n - 1 on threads, `job` on each; *out is rank 0. */
fq_status fqi_threads_start(int n, fqi_rank_job *job, void *user, fqi_comm **out, fq_err *e);
/* Waits for the threads of rank 0's communicator. */
void fqi_threads_join(fqi_comm *c);

/* What the environment says: was this process started as one of several? rank: -1 where it is not said. */
bool fqi_mpi_started(int *rank);
/* `why` (NULL: no message) with "rank R (HOST): start: " before it, in *out, for a rank that cannot be heard yet. Returns status. */
fq_status fqi_rank_named(int rank, fq_status status, const fq_err *why, fq_err *out);
fq_status fqi_mpi_start(const fq_run *run, fqi_comm **out, fq_err *e);

#endif
