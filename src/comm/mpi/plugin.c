/* plugin.c - MPI behind plugin.h. The only file that includes mpi.h.
 *
 * MPI is one per process and ends with it, so this library has state and ends MPI by atexit: a process that leaves without MPI_Finalize is
 * taken for one that crashed. Errors come back as numbers; MPI itself must not end the process, since nobody would learn why. */
#include "plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <mpi.h>

_Static_assert(sizeof(MPI_Request) <= sizeof(uint64_t), "a request fits");

static MPI_Comm ours;
static int up, n_job;

static int explain(int code, char *why)
{
    char text[MPI_MAX_ERROR_STRING + 1] = "unknown error";
    int n = 0;
    if (code == MPI_SUCCESS) return 0;
    (void)MPI_Error_string(code, text, &n);
    (void)snprintf(why, FQI_MPI_WHY, "%s", text);
    return 1;
}

static void put(fqi_mpi_request *out, MPI_Request r)
{
    out->bits = 0;   /* none: memory that was zeroed holds no request */
    if (r != MPI_REQUEST_NULL) memcpy(&out->bits, &r, sizeof r);
}

static void end(void)
{
    int done = 1;
    if (up && MPI_Finalized(&done) == MPI_SUCCESS && !done) (void)MPI_Finalize();
    up = 0;
}

static int count_local(int *n)
{
    MPI_Comm machine;
    int code = MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine);
    if (code == MPI_SUCCESS) code = MPI_Comm_size(machine, n);
    if (code == MPI_SUCCESS) code = MPI_Comm_free(&machine);
    return code;
}

static int init(int *rank, int *size, int *n_local, int *threads, int *job, char *why)
{
    int code, have = MPI_THREAD_SINGLE, was = 0;
    code = MPI_Initialized(&was);
    if (code != MPI_SUCCESS) return explain(code, why);
    if (!up) {
        code = was ? MPI_Query_thread(&have) : MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &have);
        if (code == MPI_SUCCESS) code = MPI_Comm_dup(MPI_COMM_WORLD, &ours);   /* nobody else's messages */
        if (code == MPI_SUCCESS) code = MPI_Comm_set_errhandler(ours, MPI_ERRORS_RETURN);
        if (code != MPI_SUCCESS) return explain(code, why);
        up = 1;
        if (!was) (void)atexit(end);   /* who started MPI ends it */
    } else {
        code = MPI_Query_thread(&have);
    }
    if (code == MPI_SUCCESS) code = MPI_Comm_rank(ours, rank);
    if (code == MPI_SUCCESS) code = MPI_Comm_size(ours, size);
    if (code == MPI_SUCCESS) code = count_local(n_local);
    *threads = have >= MPI_THREAD_SERIALIZED;
    *job = n_job++;
    return explain(code, why);
}

static int send_to(int to, int tag, const void *bytes, int n, fqi_mpi_request *out, char *why)
{
    MPI_Request r = MPI_REQUEST_NULL;
    const int code = MPI_Isend(bytes, n, MPI_BYTE, to, tag, ours, &r);
    put(out, r);
    return explain(code, why);
}

static int receive(int from, int tag, void *bytes, int n, fqi_mpi_request *out, char *why)
{
    MPI_Request r = MPI_REQUEST_NULL;
    const int code = MPI_Irecv(bytes, n, MPI_BYTE, from, tag, ours, &r);
    put(out, r);
    return explain(code, why);
}

static int gather(const void *mine, int n, void *all, fqi_mpi_request *out, char *why)
{
    MPI_Request r = MPI_REQUEST_NULL;
    const int code = MPI_Iallgather(mine, n, MPI_BYTE, all, n, MPI_BYTE, ours, &r);
    put(out, r);
    return explain(code, why);
}

/* Every request is asked, also behind one that is not done: that is what moves its bytes. */
static int test(int n, fqi_mpi_request *request, int *done, char *why)
{
    *done = 1;
    for (int i = 0; i < n; i++) {
        MPI_Request r;
        int this_one = 0;
        if (request[i].bits == 0) continue;
        memcpy(&r, &request[i].bits, sizeof r);
        const int code = MPI_Test(&r, &this_one, MPI_STATUS_IGNORE);
        put(&request[i], r);
        if (code != MPI_SUCCESS) return explain(code, why);
        if (!this_one) *done = 0;
    }
    return 0;
}

static int waiting(int tag, int *there, int *from, int *n, char *why)
{
    MPI_Status s;
    int code = MPI_Iprobe(MPI_ANY_SOURCE, tag, ours, there, &s);
    if (code == MPI_SUCCESS && *there) {
        *from = s.MPI_SOURCE;
        code = MPI_Get_count(&s, MPI_BYTE, n);
    }
    return explain(code, why);
}

static void give_up(int code)
{
    up = 0;   /* nothing to finalize */
    (void)MPI_Abort(MPI_COMM_WORLD, code);
}

static const fqi_mpi plugin = { .abi = FQI_MPI_ABI, .init = init, .send = send_to, .receive = receive, .gather = gather, .test = test, .waiting = waiting, .abort = give_up };

fqi_mpi_get fqi_mpi_plugin_1;
const fqi_mpi *fqi_mpi_plugin_1(void) { return &plugin; }
