/* comm.c - collectives over a transport, and the one way in which a job of several ranks fails (see comm.h).
 *
 * A collective is an exchange of headers and then an exchange of data. From the headers every rank draws the same conclusion, so all of them go
 * on or none. Refused: ranks whose headers do not say the same. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <xxhash.h>

#include "base/checked.h"
#include "base/mem.h"
#include "base/pipeline.h"
#include "comm/transport.h"

#define LAYOUT 0x46715201u          /* of the header: ranks of another version are told apart before anything else */
#define PIECE ((size_t)4 << 20)     /* bytes of a sum that are in the scratch at once */
#define SMALL ((size_t)64 << 10)    /* bytes of all ranks together up to which everybody adds everything: one exchange instead of two */

typedef enum op { OP_BARRIER, OP_BROADCAST, OP_SUM_FLOAT, OP_SUM_DOUBLE, OP_SUM_FLOAT_TO, OP_SUM_DOUBLE_TO, OP_GATHER, OP_GATHER_TO, OP_SAME, N_OP } op;
static const char *const op_name[N_OP] = { "a barrier", "a broadcast", "a sum of floats", "a sum of doubles", "a sum of floats to one rank", "a sum of doubles to one rank",
                                           "a gathering", "a gathering to one rank", "a comparison" };

int fqi_comm_rank(const fqi_comm *c) { return c ? c->rank : 0; }
int fqi_comm_size(const fqi_comm *c) { return c ? c->size : 1; }
int fqi_comm_n_local(const fqi_comm *c) { return c ? c->n_local : 1; }
int fqi_comm_n_here(const fqi_comm *c) { return c && c->threads ? c->size : 1; }
bool fqi_comm_callbacks(const fqi_comm *c) { return !c || c->callbacks; }

int fqi_comm_n_thread(const fqi_comm *c, int asked)
{
    if (!c || asked > 0) return fqi_n_thread(asked);
    const int share = fqi_n_processor() / c->n_local;
    return share < 1 ? 1 : share < 8 ? share : 8;
}

void fqi_comm_phase(fqi_comm *c, const char *phase)
{
    if (!c) return;
    pthread_mutex_lock(&c->lock);
    snprintf(c->phase, sizeof c->phase, "%s", phase);
    pthread_mutex_unlock(&c->lock);
}

/* ---- life ---------------------------------------------------------------------------------------------------------- */

fq_status fqi_comm_create(int rank, int size, fqi_comm **out, fq_err *e)
{
    const size_t n = (size_t)size;
    fqi_comm *c = fqi_calloc(1, sizeof *c);
    if (!c) return fqi_fail_nomem(e, "ranks");
    *c = (fqi_comm){ .rank = rank, .size = size, .n_local = 1, .callbacks = true, .phase = "start" };
    (void)pthread_mutex_init(&c->lock, NULL);
    c->header = fqi_calloc(n, sizeof *c->header);
    c->send = fqi_calloc(n, sizeof *c->send);
    c->recv = fqi_calloc(n, sizeof *c->recv);
    c->n_send = fqi_calloc(n, sizeof *c->n_send);
    c->n_recv = fqi_calloc(n, sizeof *c->n_recv);
    if (!c->header || !c->send || !c->recv || !c->n_send || !c->n_recv) {
        fqi_comm_free(c);
        return fqi_fail_nomem(e, "ranks");
    }
    char host[FQI_HOST_MAX + 1] = { 0 };
    if (gethostname(host, sizeof host - 1) != 0) snprintf(host, sizeof host, "%s", FQI_HOST_UNKNOWN);
    snprintf(c->host, sizeof c->host, "%s", host);
    *out = c;
    return FQ_OK;
}

void fqi_comm_free(fqi_comm *c)
{
    if (!c) return;
    if (c->transport) c->transport->free(c);
    free(c->header);
    free(c->send);
    free(c->recv);
    free(c->n_send);
    free(c->n_recv);
    free(c->scratch);
    (void)pthread_mutex_destroy(&c->lock);
    free(c);
}

/* ---- failure ------------------------------------------------------------------------------------------------------- */

/* Keeps it: from now on it is what every call returns. */
static fq_status fail_for_good(fqi_comm *c, fq_status status, const fq_err *why, fq_err *e)
{
    const fq_err copy = *why;   /* why may be e */
    c->failed = status;
    c->why = copy;
    if (e) *e = copy;
    return status;
}

static fq_status again(const fqi_comm *c, fq_err *e)
{
    if (e) *e = c->why;
    return c->failed;
}

static uint64_t check_of(const fq_err *e) { return (uint64_t)XXH3_64bits(e->text, strlen(e->text)); }

/* Names of hosts and phases come from another process. */
static void name_rank(const fqi_comm_header *h, int rank, char *out, size_t n)
{
    char host[FQI_NAME_MAX + 1], phase[FQI_NAME_MAX + 1];
    snprintf(out, n, "rank %d (%s): %s", rank, fqi_escape_n(host, h->host, strnlen(h->host, FQI_HOST_MAX)), fqi_escape_n(phase, h->phase, strnlen(h->phase, FQI_PHASE_MAX)));
}

static void clear(fqi_comm *c)
{
    for (int r = 0; r < c->size; r++) {
        c->send[r] = NULL;
        c->recv[r] = NULL;
        c->n_send[r] = c->n_recv[r] = 0;
    }
}

static void from_root(fqi_comm *c, int root, const void *send, void *recv, size_t n)
{
    clear(c);
    for (int r = 0; r < c->size && c->rank == root; r++) {
        c->send[r] = send;
        c->n_send[r] = n;
    }
    c->recv[root] = recv;
    c->n_recv[root] = n;
}

static fq_status move(fqi_comm *c, fq_err *e)
{
    fq_err why = { 0 };
    const fq_status s = c->transport->exchange(c, c->send, c->n_send, c->recv, c->n_recv, &why);
    return s == FQ_OK ? FQ_OK : fail_for_good(c, s, &why, e);
}

/* Some rank's header says that it failed: the error of the first such rank comes to all. mine: this rank's, if it is one of them. */
static fq_status share_failure(fqi_comm *c, const fq_err *mine, fq_err *e)
{
    int first = -1;
    bool all_alike = true;
    fq_err sent = { 0 }, got = { 0 }, out = { 0 };
    char who[3 * FQI_NAME_MAX];
    for (int r = 0; r < c->size; r++) {
        if (first < 0 && c->header[r].status != FQ_OK) first = r;
        all_alike = all_alike && c->header[r].status == c->header[0].status && c->header[r].check == c->header[0].check;
    }
    if (all_alike) return fail_for_good(c, (fq_status)c->header[0].status, mine, e);
    if (c->rank == first) sent = *mine;
    from_root(c, first, &sent, &got, sizeof got);
    FQI_TRY(move(c, e));
    got.text[sizeof got.text - 1] = '\0';
    got.rule[sizeof got.rule - 1] = '\0';
    got.code = (fq_status)c->header[first].status;
    name_rank(&c->header[first], first, who, sizeof who);
    return fail_for_good(c, fqi_fail_from(&out, got.code, who, &got), &out, e);
}

/* ---- headers ------------------------------------------------------------------------------------------------------- */

static fq_status compare_headers(fqi_comm *c, fq_err *e)
{
    const fqi_comm_header *a = &c->header[0];
    char who[3 * FQI_NAME_MAX];
    fq_err why;
    for (int r = 1; r < c->size; r++) {
        const fqi_comm_header *b = &c->header[r];
        name_rank(b, r, who, sizeof who);
        if (b->layout != a->layout)
            return fail_for_good(c, fqi_fail(&why, FQ_E_INPUT, NULL, "ranks-differ", "%s: found another version of fitq, expected that of rank 0", who), &why, e);
        if (b->op == a->op && b->bytes == a->bytes && b->root == a->root && b->sequence == a->sequence) continue;
        return fail_for_good(c, fqi_fail(&why, FQ_E_PEER, NULL, "collective", "%s: found %s of %" PRIu64 " bytes, number %" PRIu64 ", expected %s of %" PRIu64 ", number %" PRIu64 ", as on rank 0", who,
                                         b->op < N_OP ? op_name[b->op] : "something unknown", b->bytes, b->sequence, a->op < N_OP ? op_name[a->op] : "something unknown", a->bytes, a->sequence), &why, e);
    }
    return FQ_OK;
}

/* mine: this rank's error, or NULL. */
static fq_status announce(fqi_comm *c, op what, size_t bytes, int root, uint64_t check, const fq_err *mine, fq_err *e)
{
    fqi_comm_header h;
    fq_err why = { 0 };
    bool failed = mine != NULL;
    memset(&h, 0, sizeof h);   /* padding goes out too */
    h.layout = LAYOUT;
    h.op = what;
    h.sequence = c->sequence++;
    h.bytes = bytes;
    h.check = mine ? check_of(mine) : check;
    h.root = root;
    h.status = mine ? (int32_t)mine->code : FQ_OK;
    memcpy(h.phase, c->phase, sizeof h.phase);   /* only this thread writes it */
    memcpy(h.host, c->host, sizeof h.host);
    const fq_status s = c->transport->headers(c, &h, c->header, &why);
    if (s != FQ_OK) return fail_for_good(c, s, &why, e);
    for (int r = 0; r < c->size; r++) failed = failed || c->header[r].status != FQ_OK;
    return failed ? share_failure(c, mine, e) : compare_headers(c, e);
}

/* ---- collectives --------------------------------------------------------------------------------------------------- */

fq_status fqi_comm_barrier(fqi_comm *c, fq_err *e)
{
    if (!c) return FQ_OK;
    return c->failed ? again(c, e) : announce(c, OP_BARRIER, 0, 0, 0, NULL, e);
}

fq_status fqi_comm_agree(fqi_comm *c, fq_status mine, fq_err *e)
{
    if (!c) return mine;
    if (c->failed) return again(c, e);
    if (mine == FQ_OK) return announce(c, OP_BARRIER, 0, 0, 0, NULL, e);
    fq_err why = { 0 };
    if (e) why = *e;
    if (why.code != mine) {   /* nobody gave a message */
        (void)fqi_fail(&why, mine, NULL, "rank", "failed without a message");
    }
    c->transport->failing(c, mine, &why);
    return announce(c, OP_BARRIER, 0, 0, 0, &why, e);
}

fq_status fqi_comm_broadcast(fqi_comm *c, int root, void *bytes, size_t n, fq_err *e)
{
    if (!c) return FQ_OK;
    if (c->failed) return again(c, e);
    FQI_TRY(announce(c, OP_BROADCAST, n, root, 0, NULL, e));
    from_root(c, root, bytes, bytes, n);
    return move(c, e);
}

fq_status fqi_comm_same(fqi_comm *c, const char *what, const void *bytes, size_t n, fq_err *e)
{
    char who[3 * FQI_NAME_MAX], host[FQI_NAME_MAX + 1];
    fq_err why;
    if (!c) return FQ_OK;
    if (c->failed) return again(c, e);
    /* Lengths may differ here: that is what is asked. */
    FQI_TRY(announce(c, OP_SAME, 0, 0, (uint64_t)XXH3_64bits_withSeed(bytes, n, n), NULL, e));
    for (int r = 1; r < c->size; r++) {
        if (c->header[r].check == c->header[0].check) continue;
        name_rank(&c->header[r], r, who, sizeof who);
        return fail_for_good(c, fqi_fail(&why, FQ_E_INPUT, NULL, "ranks-differ", "%s: found another %s than on rank 0 (%s), expected the same on all ranks", who, what,
                                         fqi_escape_n(host, c->header[0].host, strnlen(c->header[0].host, FQI_HOST_MAX))), &why, e);
    }
    return FQ_OK;
}

/* root -1: to all. */
static fq_status gather(fqi_comm *c, op what, int root, const void *mine, const size_t *bytes, void *all, fq_err *e)
{
    size_t sum = 0;
    if (!c) {
        if (bytes[0] > 0 && mine != all) memmove(all, mine, bytes[0]);
        return FQ_OK;
    }
    if (c->failed) return again(c, e);
    const size_t n = (size_t)c->size;
    for (size_t r = 0; r < n; r++) sum += bytes[r];
    FQI_TRY(announce(c, what, sum, root, 0, NULL, e));
    const bool here = root < 0 || root == c->rank;
    sum = 0;
    for (size_t r = 0; r < n; sum += bytes[r++]) {
        c->send[r] = mine;
        c->n_send[r] = root < 0 || (size_t)root == r ? bytes[c->rank] : 0;
        c->recv[r] = here ? (unsigned char *)all + sum : NULL;
        c->n_recv[r] = here ? bytes[r] : 0;
    }
    return move(c, e);
}

fq_status fqi_comm_gather(fqi_comm *c, const void *mine, const size_t *bytes, void *all, fq_err *e) { return gather(c, OP_GATHER, -1, mine, bytes, all, e); }

fq_status fqi_comm_gather_to(fqi_comm *c, int root, const void *mine, const size_t *bytes, void *all, fq_err *e)
{
    return gather(c, OP_GATHER_TO, root, mine, bytes, all, e);
}

/* ---- sums ---------------------------------------------------------------------------------------------------------- */

/* of[0] + of[1] + ... , `stride` bytes apart, to out. */
static void add_ranks(bool wide, const unsigned char *of, size_t n_rank, size_t stride, void *out, size_t n)
{
    memcpy(out, of, n * (wide ? sizeof(double) : sizeof(float)));
    for (size_t r = 1; r < n_rank; r++) {
        const void *x = of + r * stride;
        if (wide)
            for (size_t i = 0; i < n; i++) ((double *)out)[i] += ((const double *)x)[i];
        else
            for (size_t i = 0; i < n; i++) ((float *)out)[i] += ((const float *)x)[i];
    }
}

static fq_status want_scratch(fqi_comm *c, size_t bytes, fq_err *e)
{
    if (bytes <= c->n_scratch) return FQ_OK;
    unsigned char *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) return fqi_fail_nomem(e, "sums over ranks");
    free(c->scratch);
    c->scratch = p;
    c->n_scratch = bytes;
    return FQ_OK;
}

/* Everybody gets everything and adds it. */
static fq_status sum_small(fqi_comm *c, bool wide, int root, unsigned char *x, size_t n, size_t width, fq_err *e)
{
    const size_t n_rank = (size_t)c->size;
    const bool here = root < 0 || root == c->rank;
    for (size_t r = 0; r < n_rank; r++) {
        const bool there = root < 0 || (size_t)root == r;
        c->send[r] = x;
        c->n_send[r] = there ? n * width : 0;
        c->recv[r] = c->scratch + r * n * width;
        c->n_recv[r] = here ? n * width : 0;
    }
    FQI_TRY(move(c, e));
    if (here) add_ranks(wide, c->scratch, n_rank, n * width, x, n);
    return FQ_OK;
}

/* Where the part of a rank begins, and how long it is. */
static size_t first_of(size_t n, size_t part, size_t rank) { return rank * part < n ? rank * part : n; }
static size_t count_of(size_t n, size_t part, size_t rank) { return first_of(n, part, rank + 1) - first_of(n, part, rank); }

/* Rank r adds the r-th part, and the parts are put together. */
static fq_status sum_large(fqi_comm *c, bool wide, int root, unsigned char *x, size_t n, size_t width, fq_err *e)
{
    const size_t n_rank = (size_t)c->size, me = (size_t)c->rank, part = (n + n_rank - 1) / n_rank, mine = count_of(n, part, me);
    const bool here = root < 0 || root == c->rank;
    unsigned char *sum = c->scratch + n_rank * part * width;
    for (size_t r = 0; r < n_rank; r++) {
        c->send[r] = x + first_of(n, part, r) * width;
        c->n_send[r] = count_of(n, part, r) * width;
        c->recv[r] = c->scratch + r * mine * width;
        c->n_recv[r] = mine * width;
    }
    FQI_TRY(move(c, e));
    add_ranks(wide, c->scratch, n_rank, mine * width, sum, mine);
    for (size_t r = 0; r < n_rank; r++) {
        const bool there = root < 0 || (size_t)root == r;
        c->send[r] = sum;
        c->n_send[r] = there ? mine * width : 0;
        c->recv[r] = x + first_of(n, part, r) * width;
        c->n_recv[r] = here ? count_of(n, part, r) * width : 0;
    }
    return move(c, e);
}

uint64_t fqi_comm_sum_bytes(const fqi_comm *c, uint64_t n, size_t width)
{
    const uint64_t piece = PIECE / width;
    return c ? ((n < piece ? n : piece) + (uint64_t)c->size) * 2 * width + SMALL : 0;
}

/* root -1: to all. */
static fq_status sum(fqi_comm *c, op what, bool wide, int root, void *x, size_t n, fq_err *e)
{
    const size_t width = wide ? sizeof(double) : sizeof(float);
    size_t bytes = 0;
    if (!c) return FQ_OK;
    if (c->failed) return again(c, e);
    const size_t n_rank = (size_t)c->size, piece = PIECE / width;
    fq_err why = { 0 };
    fq_status s = fqi_mul_size(n, width, &bytes) ? want_scratch(c, (size_t)fqi_comm_sum_bytes(c, n, width), &why) : fqi_fail_nomem(&why, "sums over ranks");
    if (s != FQ_OK) return fqi_comm_agree(c, s, e ? (*e = why, e) : &why);
    FQI_TRY(announce(c, what, bytes, root, 0, NULL, e));
    for (size_t at = 0; at < n; at += piece) {
        const size_t count = n - at < piece ? n - at : piece;
        unsigned char *p = (unsigned char *)x + at * width;
        FQI_TRY(count * width * n_rank <= SMALL ? sum_small(c, wide, root, p, count, width, e) : sum_large(c, wide, root, p, count, width, e));
    }
    return FQ_OK;
}

fq_status fqi_comm_sum_float(fqi_comm *c, float *x, size_t n, fq_err *e) { return sum(c, OP_SUM_FLOAT, false, -1, x, n, e); }
fq_status fqi_comm_sum_double(fqi_comm *c, double *x, size_t n, fq_err *e) { return sum(c, OP_SUM_DOUBLE, true, -1, x, n, e); }
fq_status fqi_comm_sum_float_to(fqi_comm *c, int root, float *x, size_t n, fq_err *e) { return sum(c, OP_SUM_FLOAT_TO, false, root, x, n, e); }
fq_status fqi_comm_sum_double_to(fqi_comm *c, int root, double *x, size_t n, fq_err *e) { return sum(c, OP_SUM_DOUBLE_TO, true, root, x, n, e); }
