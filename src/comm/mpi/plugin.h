/* plugin.h - what fitq's MPI library offers to src/comm/mpi.c: a handful of calls, none of which waits but init and finalize.
 *
 * A library of its own, so that a program that was not started by mpirun neither loads nor needs MPI. It knows nothing of fitq. */
#ifndef FITQ_COMM_MPI_PLUGIN_H
#define FITQ_COMM_MPI_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#define FQI_MPI_ABI 1u
#define FQI_MPI_SYMBOL "fqi_mpi_plugin_1"
#define FQI_MPI_WHY 512

/* An MPI_Request, whatever that is in this MPI; 0 = none. */
typedef struct fqi_mpi_request { uint64_t bits; } fqi_mpi_request;

/* Functions give 0, or another number and the reason in `why` (of FQI_MPI_WHY bytes), which the caller of the library holds. */
typedef struct fqi_mpi {
    uint32_t abi;
    /* Collective; starts MPI the first time. job: how often it was called. n_local: ranks on this machine. threads: MPI may be called from several
     * threads, one at a time. */
    int (*init)(int *rank, int *size, int *n_local, int *threads, int *job, char *why);
    int (*send)(int to, int tag, const void *bytes, int n, fqi_mpi_request *out, char *why);
    int (*receive)(int from, int tag, void *bytes, int n, fqi_mpi_request *out, char *why);
    int (*gather)(const void *mine, int n, void *all, fqi_mpi_request *out, char *why);   /* n bytes of every rank to all */
    int (*test)(int n, fqi_mpi_request *request, int *done, char *why);                  /* done: all of them */
    int (*waiting)(int tag, int *there, int *from, int *n, char *why);                    /* a message that has come */
    void (*abort)(int code);
} fqi_mpi;

typedef const fqi_mpi *fqi_mpi_get(void);

#endif
