/* quant_layer_ranks.c - what several ranks share of one layer's work (see quant_layer.h): batches, moments, experts.
 *
 *     round          rank 0        rank 1    rank 2
 *       0            H = P0        P1        P2           P: moments of one batch, made from zero
 *                    H += P1, P2, in this order
 *       1            H += P3       P4        P5           ...
 *
 * which is the order in which one rank adds them. So codes do not depend on the number of ranks, and a run may be resumed with another one. It costs
 * a sum in every round; of an input that no token of other ranks reached it is left out.
 *
 * Of an expert all ranks must know the codes (the next pass computes with them) and the order of its channels, which follows from the diagonal
 * of H. Both go from the rank that solved it to all, N experts at a time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "job/quant_layer_private.h"

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* ---- batches ------------------------------------------------------------------------------------------------------- */

fqi_quant_share fqi_quant_share_of(const fqi_comm *c, size_t n_window, size_t seqlen)
{
    const size_t windows = fqi_quant_batch_windows(n_window, seqlen);
    fqi_quant_share s = { .n_batch = windows ? (n_window + windows - 1) / windows : 0, .batch_rows = windows * seqlen, .all_rows = n_window * seqlen };
    for (size_t b = (size_t)fqi_comm_rank(c); b < s.n_batch; b += (size_t)fqi_comm_size(c)) s.n_row += fqi_quant_batch_rows(&s, b);
    return s;
}

size_t fqi_quant_batch_rows(const fqi_quant_share *s, size_t b) { return least(s->all_rows - b * s->batch_rows, s->batch_rows); }

size_t fqi_quant_batch_at(const fqi_quant_share *s, const fqi_comm *c, size_t b) { return b / (size_t)fqi_comm_size(c) * s->batch_rows; }

/* ---- moments ------------------------------------------------------------------------------------------------------- */

int fqi_input_owner(const fqi_quantizing *q, const fqi_quant_input *in)
{
    const int size = fqi_comm_size(q->j->comm);
    return size > 1 && fqi_of_expert(in->point) ? (int)(in->expert % size) : -1;
}

static size_t moment_floats(const fqi_quantizing *q, const fqi_quant_input *in)
{
    if (!in->moment) return 0;
    return (fqi_drift_of(in->point) == FQI_DRIFT_OUTPUT ? (size_t)q->module[in->first].rows : in->cols) * in->cols;
}

/* root -1: to all. */
static fq_status sum_to(fqi_comm *c, int root, float *x, size_t n, fq_err *e)
{
    if (n == 0) return FQ_OK;
    return root < 0 ? fqi_comm_sum_float(c, x, n, e) : fqi_comm_sum_float_to(c, root, x, n, e);
}

static fq_status sum_input(fqi_quantizing *q, fqi_quant_input *in, double n_token, bool last, fq_err *e)
{
    fqi_comm *c = q->j->comm;
    const int me = fqi_comm_rank(c), root = last ? fqi_input_owner(q, in) : 0;
    const size_t n = in->cols * in->cols, m = moment_floats(q, in);
    if (n_token > 0) {
        FQI_TRY(sum_to(c, root, in->h.h, n, e));
        FQI_TRY(sum_to(c, root, in->moment, m, e));
    }
    if (last || me == 0) in->h.n_token = (last ? 0 : in->h.n_token) + (uint64_t)n_token;
    if (last || me == 0 || n_token == 0) return FQ_OK;
    memset(in->h.h, 0, n * sizeof *in->h.h);
    if (m) memset(in->moment, 0, m * sizeof *in->moment);
    in->h.n_token = 0;
    return FQ_OK;
}

/* Tokens of this round from other ranks than 0 decide whether there is anything to add; in the last round, those of all. */
fq_status fqi_round_sum(fqi_quantizing *q, bool last, fq_err *e)
{
    fqi_comm *c = q->j->comm;
    if (fqi_comm_size(c) == 1) return FQ_OK;
    const double begin = fqi_now_seconds();
    double *n_token = fqi_calloc(q->n_input, sizeof *n_token);
    if (!n_token) return fqi_fail_nomem(e, "sums over ranks");
    for (size_t i = 0; i < q->n_input; i++)
        if (q->input[i].h.h && (last || fqi_comm_rank(c) > 0)) n_token[i] = (double)q->input[i].h.n_token;
    fq_status s = fqi_comm_sum_double(c, n_token, q->n_input, e);
    for (size_t i = 0; s == FQ_OK && i < q->n_input; i++)
        if (q->input[i].h.h) s = sum_input(q, &q->input[i], n_token[i], last, e);
    free(n_token);
    q->reduce_seconds += fqi_now_seconds() - begin;
    return s;
}

/* ---- experts ------------------------------------------------------------------------------------------------------- */

/* What is said of one module. */
typedef struct wire { double error, relative, damp, seconds; uint64_t n_silent; char method[32], why[256]; } wire;

static size_t n_group(const fqi_quantizing *q, const fqi_module *m)
{
    const int64_t g = q->j->settings->group_size > 0 ? q->j->settings->group_size : m->cols_pad;
    return (size_t)((m->cols_pad + g - 1) / g);
}

static size_t module_bytes(const fqi_quantizing *q, const fqi_module *m)
{
    const size_t rows = (size_t)m->rows;
    return sizeof(wire) + rows * n_group(q, m) * (sizeof(float) + 1) + rows * (size_t)m->cols;
}

static size_t input_bytes(const fqi_quantizing *q, const fqi_quant_input *in)
{
    size_t sum = in->cols * sizeof(float);
    for (size_t i = in->first; i < in->first + in->n; i++) sum += module_bytes(q, &q->module[i]);
    return sum;
}

static unsigned char *put(unsigned char *at, const void *from, size_t n)
{
    memcpy(at, from, n);
    return at + n;
}

static const unsigned char *get(const unsigned char *at, void *to, size_t n)
{
    memcpy(to, at, n);
    return at + n;
}

static void pack_input(const fqi_quantizing *q, const fqi_quant_input *in, unsigned char *at)
{
    for (size_t i = 0; i < in->cols; i++) at = put(at, &in->h.h[i * in->cols + i], sizeof(float));
    for (size_t i = in->first; i < in->first + in->n; i++) {
        const fq_module_report *r = &q->out->report[i];
        const fqi_codes *c = &q->out->codes[i];
        wire w;
        memset(&w, 0, sizeof w);   /* padding goes out too */
        w.error = r->error;
        w.relative = r->relative;
        w.damp = r->damp;
        w.seconds = r->seconds;
        w.n_silent = r->n_silent;
        (void)snprintf(w.method, sizeof w.method, "%s", r->method);
        (void)snprintf(w.why, sizeof w.why, "%s", r->why);
        at = put(at, &w, sizeof w);
        at = put(at, c->scale, c->n_group * c->n_row * sizeof *c->scale);
        at = put(at, c->zero, c->n_group * c->n_row);
        at = put(at, c->code, c->n_col * c->n_row);
    }
}

static fq_status take_words(fqi_quantizing *q, size_t module, const fqi_quant_input *in, const wire *w, fq_err *e)
{
    static const char *const known[] = { "gptq", "weighted rounding", "rounding" };
    const fqi_module *m = &q->module[module];
    fq_module_report *r = &q->out->report[module];
    *r = (fq_module_report){ .name = m->name, .layer = m->layer, .role = m->role, .rows = m->rows, .cols = m->cols, .bits = q->j->settings->grid.bits,
                             .group_size = q->j->settings->group_size, .method = known[0], .why = "", .error = w->error, .relative = w->relative, .damp = w->damp,
                             .n_token = in->h.n_token, .n_silent = w->n_silent, .seconds = w->seconds };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(known[i], w->method) == 0) r->method = known[i];
    if (w->why[0]) r->why = fqi_arena_strdup(&q->out->text, w->why);
    return r->why ? FQ_OK : fqi_fail_nomem(e, "report");
}

static fq_status take_module(fqi_quantizing *q, size_t module, const fqi_quant_input *in, const fqi_columns *columns, const unsigned char **at, fq_err *e)
{
    const fqi_module *m = &q->module[module];
    const size_t rows = (size_t)m->rows, cols = (size_t)m->cols;
    fqi_codes *c = &q->out->codes[module];
    wire w;
    *at = get(*at, &w, sizeof w);
    w.method[sizeof w.method - 1] = w.why[sizeof w.why - 1] = '\0';
    FQI_TRY(take_words(q, module, in, &w, e));
    FQI_TRY(fqi_codes_create(q->j->settings->grid.bits, rows, columns, c, e));
    *at = get(*at, c->scale, c->n_group * rows * sizeof *c->scale);
    *at = get(*at, c->zero, c->n_group * rows);
    *at = get(*at, c->code, cols * rows);
    q->wide[module] = fqi_calloc(rows, cols * sizeof(float));
    return q->wide[module] ? FQ_OK : fqi_fail_nomem(e, "weights of a layer");
}

static fq_status take_input(fqi_quantizing *q, fqi_quant_input *in, const unsigned char *at, fq_err *e)
{
    uint32_t *rank = fqi_calloc(in->cols, sizeof *rank);
    fqi_columns columns = { 0 };
    for (size_t i = 0; i < in->cols; i++) at = get(at, &in->h.h[i * in->cols + i], sizeof(float));
    fq_status s = rank ? fqi_input_columns(q, in, rank, &columns, e) : fqi_fail_nomem(e, "order of columns");
    for (size_t i = in->first; s == FQ_OK && i < in->first + in->n; i++) s = take_module(q, i, in, &columns, &at, e);
    fqi_columns_free(&columns);
    free(rank);
    return s;
}

/* The first input from i on that one rank solves; n_input: none. */
static size_t next_owned(const fqi_quantizing *q, const fqi_stage *stage, size_t i)
{
    while (i < q->n_input && !(fqi_stage_has(stage, q->input[i].point) && fqi_input_owner(q, &q->input[i]) >= 0)) i++;
    return i;
}

/* One exchange: inputs [first, end), of each rank one at most. */
typedef struct exchange { const fqi_stage *stage; size_t first, end, *bytes, sum; } exchange;

static void find_next(const fqi_quantizing *q, exchange *x, size_t first)
{
    memset(x->bytes, 0, (size_t)fqi_comm_size(q->j->comm) * sizeof *x->bytes);
    x->first = first;
    x->sum = 0;
    for (x->end = first; x->end < q->n_input; x->end = next_owned(q, x->stage, x->end + 1)) {
        const fqi_quant_input *in = &q->input[x->end];
        size_t *bytes = &x->bytes[fqi_input_owner(q, in)];
        if (*bytes) return;
        x->sum += *bytes = input_bytes(q, in);
    }
}

static fq_status run_exchange(fqi_quantizing *q, const exchange *x, unsigned char *mine, unsigned char *all, fq_err *e)
{
    const int me = fqi_comm_rank(q->j->comm);
    if (!mine || !all) return fqi_fail_nomem(e, "codes of experts");
    for (size_t i = x->first; i < x->end; i = next_owned(q, x->stage, i + 1))
        if (fqi_input_owner(q, &q->input[i]) == me) pack_input(q, &q->input[i], mine);
    FQI_TRY(fqi_comm_gather(q->j->comm, mine, x->bytes, all, e));
    for (size_t i = x->first; i < x->end; i = next_owned(q, x->stage, i + 1)) {
        const int owner = fqi_input_owner(q, &q->input[i]);
        const unsigned char *at = all;
        for (int r = 0; r < owner; r++) at += x->bytes[r];
        if (owner != me) FQI_TRY(take_input(q, &q->input[i], at, e));
    }
    return FQ_OK;
}

fq_status fqi_experts_exchange(fqi_quantizing *q, const fqi_stage *stage, fq_err *e)
{
    exchange x = { .stage = stage };
    size_t i = next_owned(q, stage, 0);
    fq_status s = FQ_OK;
    if (i == q->n_input) return FQ_OK;
    x.bytes = fqi_calloc((size_t)fqi_comm_size(q->j->comm), sizeof *x.bytes);
    if (!x.bytes) return fqi_fail_nomem(e, "codes of experts");
    for (; s == FQ_OK && i < q->n_input; i = x.end) {
        find_next(q, &x, i);
        unsigned char *mine = fqi_calloc(x.bytes[fqi_comm_rank(q->j->comm)], 1), *all = fqi_calloc(x.sum, 1);
        s = run_exchange(q, &x, mine, all, e);
        free(mine);
        free(all);
    }
    free(x.bytes);
    return s;
}
