/* quant_layer.c - one layer: passes, orders, factors, codes, reports. See quant_layer.h for the picture.
 *
 * A pass shows the inputs of some modules; then each input's Hessian is factored once and its modules are solved with it, one after another,
 * so that of the large arrays one factor and one matrix's work exist at a time. Experts of a sparse layer are inputs like others: all of
 * one kind are seen in one pass.
 *
 * What does not go as asked is never silent: an expert that too few tokens reached, or a Hessian without a factor, is rounded with weights
 * and says so in its report, or ends the run if it is to be strict. */
#include "job/quant_layer_private.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

#define BIT(p) (1u << (unsigned)(p))

/* ATTENTION of the plain model is followed by O at once, its MLP is run whole: their weights do not change. */
const fqi_stage fqi_stages[FQI_N_STAGE] = {
    { .step = { FQI_STEP_ATTENTION_IN }, .n_step = 1, .plain = { FQI_STEP_ATTENTION_IN }, .n_plain = 1, .points = BIT(FQI_TAP_ATTENTION) },
    { .step = { FQI_STEP_ATTENTION }, .n_step = 1, .plain = { FQI_STEP_ATTENTION, FQI_STEP_O }, .n_plain = 2, .points = BIT(FQI_TAP_O) },
    { .step = { FQI_STEP_O, FQI_STEP_MLP_IN }, .n_step = 2, .plain = { FQI_STEP_MLP_IN }, .n_plain = 1, .points = BIT(FQI_TAP_MLP) | BIT(FQI_TAP_EXPERT_MLP) },
    { .step = { FQI_STEP_DOWN_IN }, .n_step = 1, .plain = { FQI_STEP_MLP }, .n_plain = 1,
      .points = BIT(FQI_TAP_DOWN) | BIT(FQI_TAP_EXPERT_DOWN) | BIT(FQI_TAP_SHARED_DOWN) },
    { .step = { FQI_STEP_MLP }, .n_step = 1 },
};

/* ---- the parts of a layer ------------------------------------------------------------------------------------------ */

static bool is_down(fqi_tap_point p) { return p == FQI_TAP_DOWN || p == FQI_TAP_EXPERT_DOWN || p == FQI_TAP_SHARED_DOWN; }

static fq_status find_inputs(fqi_quantizing *q, fq_err *e)
{
    q->input = fqi_calloc(q->n_module, sizeof *q->input);
    if (!q->input) return fqi_fail_nomem(e, "inputs of a layer");
    for (size_t i = 0; i < q->n_module; i++) {
        const fqi_module *m = &q->module[i];
        fqi_quant_input *last = q->n_input ? &q->input[q->n_input - 1] : NULL;
        if (last && last->point == m->input && last->expert == m->expert) {
            last->n++;
            continue;
        }
        q->input[q->n_input++] = (fqi_quant_input){ .point = m->input, .expert = m->expert, .first = i, .n = 1, .cols = (size_t)m->cols };
    }
    return FQ_OK;
}

/* The MLPs of a layer: its only one, or its experts and behind them the shared one. */
static size_t mlp_of(const fqi_quantizing *q, const fqi_module *m)
{
    if (m->expert >= 0) return (size_t)m->expert;
    if (strncmp(m->role, "shared_", 7) == 0) return (size_t)q->j->decoder->model.num_experts;
    return m->input == FQI_TAP_MLP || m->input == FQI_TAP_DOWN ? 0 : SIZE_MAX;
}

static fq_status make_output(fqi_quantizing *q, fq_err *e)
{
    fqi_layer_codes *out = q->out;
    out->codes = fqi_calloc(q->n_module, sizeof *out->codes);
    out->report = fqi_calloc(q->n_module, sizeof *out->report);
    out->mlp_of = fqi_calloc(q->n_module, sizeof *out->mlp_of);
    if (!out->codes || !out->report || !out->mlp_of) return fqi_fail_nomem(e, "codes of a layer");
    out->n = q->n_module;
    for (size_t i = 0; i < q->n_module; i++) {
        out->mlp_of[i] = mlp_of(q, &q->module[i]);
        if (out->mlp_of[i] != SIZE_MAX && out->mlp_of[i] >= out->n_mlp) out->n_mlp = out->mlp_of[i] + 1;
    }
    out->mlp = fqi_calloc(out->n_mlp, sizeof *out->mlp);
    return out->mlp ? FQ_OK : fqi_fail_nomem(e, "orders of channels");
}

static fq_status make_copy(fqi_quantizing *q, const fqi_layer_weights *w, fq_err *e)
{
    const size_t n_expert = w->sparse ? (size_t)q->j->decoder->model.num_experts : 0;
    q->original = w;
    q->w = *w;
    q->expert = fqi_calloc(n_expert, sizeof *q->expert);
    q->wide = fqi_calloc(q->n_module, sizeof *q->wide);
    if (!q->expert || !q->wide) return fqi_fail_nomem(e, "weights of a layer");
    if (n_expert) memcpy(q->expert, w->expert, n_expert * sizeof *q->expert);
    q->w.expert = q->expert;
    return FQ_OK;
}

static void free_input(fqi_quant_input *in)
{
    fqi_hessian_free(&in->h);
    free(in->moment);
    in->h = (fqi_hessian){ 0 };
    in->moment = NULL;
}

static void free_all(fqi_quantizing *q)
{
    fqi_collect_end(q);
    for (size_t i = 0; i < q->n_input; i++) free_input(&q->input[i]);
    for (size_t i = 0; q->wide && i < q->n_module; i++) free(q->wide[i]);
    free(q->input);
    free(q->wide);
    free(q->expert);
}

void fqi_layer_codes_free(fqi_layer_codes *c)
{
    if (!c) return;
    for (size_t i = 0; c->codes && i < c->n; i++) fqi_codes_free(&c->codes[i]);
    for (size_t i = 0; c->mlp && i < c->n_mlp; i++) fqi_map_free(&c->mlp[i]);
    free(c->codes);
    free(c->report);
    free(c->mlp_of);
    free(c->mlp);
    fqi_arena_free(&c->text);
    *c = (fqi_layer_codes){ 0 };
}

/* ---- columns and their order --------------------------------------------------------------------------------------- */

/* What all modules of an input share once its Hessian is known. */
typedef struct shared {
    fqi_columns columns;
    uint32_t *order;            /* of processing */
    float *l;
    double lambda;
    const char *why;            /* not GPTQ; NULL: GPTQ */
} shared;

static void free_shared(shared *s)
{
    fqi_columns_free(&s->columns);
    free(s->order);
    free(s->l);
}

static bool has_data(const fqi_quant_input *in) { return in->h.h && in->h.n_token > 0; }

/* GPUs that each get a run of the channels; an axis that they do not divide is on every GPU whole. */
static size_t slices(const fqi_quantizing *q, const fqi_module *m)
{
    const int64_t ranks = q->j->fitting->layout.ranks;
    return ranks > 1 && m->cols_pad % ranks == 0 ? (size_t)ranks : 1;
}

/* Slots: of the fitting, or with the important channels of an MLP side by side. */
fq_status fqi_input_columns(fqi_quantizing *q, const fqi_quant_input *in, uint32_t *rank, fqi_columns *out, fq_err *e)
{
    const fqi_quant_settings *s = q->j->settings;
    const fqi_module *m = &q->module[in->first];
    const bool fold = s->fold && is_down(in->point) && has_data(in);
    if (fold) fqi_order_by_diag(in->h.h, in->cols, rank);
    FQI_TRY(fqi_columns_create(m->col_map, in->cols, s->group_size, fold ? rank : NULL, fold ? slices(q, m) : 1, out, e));
    return fold ? fqi_columns_map(out, &q->out->mlp[q->out->mlp_of[in->first]], e) : FQ_OK;
}

static void reverse(uint32_t *a, size_t n)
{
    for (size_t i = 0; i < n / 2; i++) {
        const uint32_t t = a[i];
        a[i] = a[n - 1 - i];
        a[n - 1 - i] = t;
    }
}

static void make_order(const fqi_quant_settings *s, const fqi_quant_input *in, shared *h)
{
    if (!s->act_order || s->scales == FQI_SCALES_DYNAMIC) {
        fqi_order_natural(&h->columns, h->order);
        return;
    }
    fqi_order_by_diag(in->h.h, in->cols, h->order);
    reverse(h->order, in->cols);
}

static fq_status say(const char **out, const char *text, fq_err *e)
{
    *out = text;
    return text ? FQ_OK : fqi_fail_nomem(e, "report");
}

/* Names the module; the rule stays. */
static fq_status fail_module(const fqi_quantizing *q, const fqi_module *m, fq_status s, const fq_err *why, fq_err *e)
{
    if (!e || s != FQ_E_NUMERIC) {
        if (e) *e = *why;
        return s;
    }
    (void)fqi_fail(e, s, FQI_TENSOR(q->j->fitting->ckpt->info.path, m->name), NULL, "%s", why->text);
    memcpy(e->rule, why->rule, sizeof e->rule);
    return s;
}

/* The factor, or the reason why there is none. */
static fq_status make_factor(fqi_quantizing *q, const fqi_quant_input *in, shared *h, fq_err *e)
{
    const fqi_quant_settings *s = q->j->settings;
    uint64_t bytes;
    fq_err why = { 0 };
    if (fqi_of_expert(in->point) && in->h.n_token < s->min_expert_tokens)
        return say(&h->why, fqi_arena_printf(&q->out->text, "%" PRIu64 " tokens reached this expert, expected at least %zu", in->h.n_token, s->min_expert_tokens), e);
    if (!has_data(in)) return say(&h->why, "no token reached it", e);
    h->l = fqi_mul_u64(fqi_sat_mul(in->cols, in->cols), sizeof *h->l, &bytes) && bytes < PTRDIFF_MAX - 64 ? aligned_alloc(64, (size_t)(bytes + 63) / 64 * 64) : NULL;
    if (!h->l) return fqi_fail_nomem(e, "factor of a Hessian");
    const fq_status status = fqi_cholesky(&q->la, &in->h, h->order, s->damp, h->l, &h->lambda, &why);
    if (status == FQ_OK) return FQ_OK;
    free(h->l);
    h->l = NULL;
    if (status != FQ_E_NUMERIC || s->strict) return fail_module(q, &q->module[in->first], status, &why, e);
    return say(&h->why, fqi_arena_printf(&q->out->text, "%s", why.text), e);
}

/* The product of gate and up may be too large where each of them is not. */
static fq_status check_moments(const fqi_quantizing *q, const fqi_quant_input *in, fq_err *e)
{
    for (size_t i = 0; has_data(in) && i < in->cols; i++) {
        const float d = in->h.h[i * in->cols + i];
        if (!isfinite(d))
            return fqi_fail(e, FQ_E_NUMERIC, FQI_TENSOR(q->j->fitting->ckpt->info.path, q->module[in->first].name), "activation",
                            "input %zu: found %g for the sum of its squares, expected a finite number", i, (double)d);
    }
    return FQ_OK;
}

static fq_status prepare(fqi_quantizing *q, const fqi_quant_input *in, shared *h, fq_err *e)
{
    FQI_TRY(check_moments(q, in, e));
    h->order = fqi_calloc(in->cols, sizeof *h->order);
    if (!h->order) return fqi_fail_nomem(e, "order of columns");
    FQI_TRY(fqi_input_columns(q, in, h->order, &h->columns, e));
    if (q->j->settings->method != FQ_METHOD_GPTQ) return FQ_OK;
    if (has_data(in)) make_order(q->j->settings, in, h);
    return make_factor(q, in, h, e);
}

/* ---- solving ------------------------------------------------------------------------------------------------------- */

static size_t size_of(fq_dtype d) { return fq_dtype_bits(d) / 8; }

/* The stored matrix as floats, in memory that the quantized one will take over. */
static fq_status widen(fqi_quantizing *q, size_t module, const fqi_matrix *m, fq_err *e)
{
    const size_t rows = (size_t)m->rows, cols = (size_t)m->cols;
    uint64_t bytes;
    float *w = fqi_mul_u64(fqi_sat_mul(rows, cols), sizeof *w, &bytes) && bytes < PTRDIFF_MAX - 64 ? aligned_alloc(64, (size_t)(bytes + 63) / 64 * 64) : NULL;
    if (!w) return fqi_fail_nomem(e, "weights of a layer");
    q->wide[module] = w;
#pragma omp parallel for num_threads(q->la.n_thread) schedule(static)
    for (size_t r = 0; r < rows; r++)
        q->j->compute->kernel->widen((const unsigned char *)m->data + r * cols * size_of(m->dtype), m->dtype, w + r * cols, cols);
    return FQ_OK;
}

static const char *method_of(const fqi_quantizing *q, const fqi_quant_input *in, const shared *h)
{
    if (h->l) return "gptq";
    return has_data(in) && q->j->settings->grid.rule == FQI_SCALE_WEIGHTED ? "weighted rounding" : "rounding";
}

/* Nothing says what an error in their weights would cost. */
static uint64_t count_silent(const fqi_quant_input *in)
{
    uint64_t n = 0;
    for (size_t k = 0; has_data(in) && k < in->cols; k++) n += in->h.h[k * in->cols + k] == 0;
    return n;
}

static void write_report(fqi_quantizing *q, size_t module, const fqi_quant_input *in, const shared *h, const fqi_solve_result *r, double seconds)
{
    const fqi_quant_settings *s = q->j->settings;
    const fqi_module *m = &q->module[module];
    const double n = in->h.n_token ? (double)in->h.n_token : 1;
    q->out->report[module] = (fq_module_report){
        .name = m->name, .layer = m->layer, .role = m->role, .rows = m->rows, .cols = m->cols, .bits = s->grid.bits, .group_size = s->group_size,
        .method = method_of(q, in, h), .why = h->why ? h->why : "", .error = r->error / n, .relative = r->energy > 0 ? r->error_sampled / r->energy : 0,
        .damp = h->l ? s->damp : 0, .n_token = in->h.n_token, .n_silent = count_silent(in), .seconds = seconds,
    };
}

static fq_status solve_module(fqi_quantizing *q, size_t module, const fqi_quant_input *in, const shared *h, const fqi_matrix *m, fq_err *e)
{
    const fqi_quant_settings *s = q->j->settings;
    const double begin = fqi_now_seconds();
    fqi_solve_result result = { 0 };
    FQI_TRY(widen(q, module, m, e));
    float *w = q->wide[module];
    fqi_comm *comm = h->l && fqi_input_owner(q, in) < 0 ? q->j->comm : NULL;   /* rounding is done by every rank */
    size_t first, n;
    fqi_solve_rows(comm, (size_t)m->rows, &first, &n);
    if (in->moment && h->l && n > 0) {
        const fqi_shift shift = { fqi_drift_of(in->point), in->moment, in->h.h, h->l, h->order, fqi_shift_share(s->shift, in->h.n_token, in->cols), first, n };
        FQI_TRY(fqi_shift_target(&q->la, &shift, w, (size_t)m->rows, (size_t)m->cols, w, e));
    }
    const fqi_solve solve = { .la = q->la, .grid = s->grid, .scales = s->scales, .curve = s->curve, .n_refit = s->n_refit, .w = w,
                              .n_row = (size_t)m->rows, .n_col = (size_t)m->cols, .columns = &h->columns, .h = has_data(in) ? &in->h : NULL, .l = h->l,
                              .order = h->order, .lambda = h->lambda, .comm = comm };
    fqi_codes *codes = &q->out->codes[module];
    FQI_TRY(h->l ? fqi_gptq(&solve, codes, &result, e) : fqi_round_to_nearest(&solve, codes, &result, e));
    write_report(q, module, in, h, &result, fqi_now_seconds() - begin);
    return FQ_OK;
}

/* matrix: of the only module; NULL: each module's own in the layer. */
static fq_status solve_input(fqi_quantizing *q, const fqi_quant_input *in, const fqi_matrix *matrix, fq_err *e)
{
    const fq_run *run = q->j->run;
    shared h = { 0 };
    fq_status s = prepare(q, in, &h, e);
    for (size_t i = in->first; s == FQ_OK && i < in->first + in->n; i++) {
        if (run->cancelled && run->cancelled(run->user)) s = fqi_fail(e, FQ_E_CANCELLED, NULL, "cancelled", "stopped at %s", q->module[i].name);
        if (s == FQ_OK) s = solve_module(q, i, in, &h, matrix ? matrix : fqi_module_matrix(q->original, &q->module[i]), e);
    }
    free_shared(&h);
    return s;
}

/* ---- passes -------------------------------------------------------------------------------------------------------- */

static fq_status make_moments(fqi_quantizing *q, fqi_quant_input *in, fq_err *e)
{
    FQI_TRY(fqi_hessian_create(in->cols, &in->h, e));
    if (!q->j->x_plain) return FQ_OK;
    const size_t rows = fqi_drift_of(in->point) == FQI_DRIFT_OUTPUT ? (size_t)q->module[in->first].rows : in->cols;
    in->moment = fqi_calloc(fqi_sat_mul(rows, in->cols), sizeof *in->moment);
    return in->moment ? FQ_OK : fqi_fail_nomem(e, "moments of a shifted target");
}

/* The quantized matrix takes the original's place in what the next pass sees. */
static void put_in_place(fqi_quantizing *q, size_t module)
{
    fqi_codes_widen(&q->out->codes[module], q->la.n_thread, q->wide[module]);
    fqi_matrix *m = fqi_module_slot(&q->w, q->expert, &q->module[module]);
    m->data = q->wide[module];
    m->dtype = FQ_DTYPE_F32;
}

/* Their outputs have been computed for good. */
static void forget_done(fqi_quantizing *q, const fqi_stage *stage)
{
    const bool attended = stage->step[0] == FQI_STEP_ATTENTION, projected = stage->step[0] == FQI_STEP_O;
    for (size_t i = 0; i < q->n_module; i++) {
        const fqi_module *m = &q->module[i];
        if (!(attended && m->input == FQI_TAP_ATTENTION) && !(projected && m->input == FQI_TAP_O)) continue;
        *fqi_module_slot(&q->w, q->expert, m) = *fqi_module_matrix(q->original, m);
        free(q->wide[i]);
        q->wide[i] = NULL;
    }
}

/* What was solved is what an engine will compute with; its moments have served. */
static void take_over(fqi_quantizing *q, fqi_quant_input *in)
{
    for (size_t k = in->first; k < in->first + in->n; k++) put_in_place(q, k);
    free_input(in);
}

static fq_status run_stage(fqi_quantizing *q, const fqi_stage *stage, fq_err *e)
{
    for (size_t i = 0; i < q->n_input; i++)
        if (fqi_stage_has(stage, q->input[i].point)) FQI_TRY(make_moments(q, &q->input[i], e));
    const double begin = fqi_now_seconds(), before = q->hessian_seconds, summed = q->reduce_seconds;
    FQI_TRY(fqi_collect_run(q, stage, e));
    const double end = fqi_now_seconds(), hessian = q->hessian_seconds - before, reduce = q->reduce_seconds - summed;
    q->out->seconds_hessian += hessian;
    q->out->seconds_reduce += reduce;
    q->out->seconds_forward += end - begin - hessian - reduce;
    forget_done(q, stage);
    for (size_t i = 0; i < q->n_input; i++) {
        const int owner = fqi_input_owner(q, &q->input[i]);
        if (!fqi_stage_has(stage, q->input[i].point) || (owner >= 0 && owner != fqi_comm_rank(q->j->comm))) continue;
        FQI_TRY(solve_input(q, &q->input[i], NULL, e));
        if (owner < 0) take_over(q, &q->input[i]);
    }
    FQI_TRY(fqi_experts_exchange(q, stage, e));
    for (size_t i = 0; i < q->n_input; i++)
        if (fqi_stage_has(stage, q->input[i].point) && q->input[i].h.h) take_over(q, &q->input[i]);
    q->out->seconds_solve += fqi_now_seconds() - end;
    return FQ_OK;
}

/* No data: modules one after another, each forgotten when its codes are there. */
static fq_status round_all(fqi_quantizing *q, fq_err *e)
{
    const double begin = fqi_now_seconds();
    for (size_t i = 0; i < q->n_input; i++) {
        FQI_TRY(solve_input(q, &q->input[i], NULL, e));
        for (size_t k = q->input[i].first; k < q->input[i].first + q->input[i].n; k++) {
            free(q->wide[k]);
            q->wide[k] = NULL;
        }
    }
    q->out->seconds_solve += fqi_now_seconds() - begin;
    return FQ_OK;
}

static fq_status quantize(fqi_quantizing *q, const fqi_layer_weights *w, fq_err *e)
{
    FQI_TRY(find_inputs(q, e));
    FQI_TRY(make_output(q, e));
    FQI_TRY(make_copy(q, w, e));
    if (q->j->settings->method == FQ_METHOD_RTN) return round_all(q, e);
    FQI_TRY(fqi_collect_begin(q, e));
    for (size_t i = 0; i < FQI_N_STAGE; i++) FQI_TRY(run_stage(q, &fqi_stages[i], e));
    return FQ_OK;
}

fq_status fqi_quant_layer(const fqi_layer_job *j, int64_t layer, const fqi_layer_weights *w, fqi_layer_codes *out, fq_err *e)
{
    const size_t first = j->modules->first_of_layer[layer];
    fqi_quantizing q = { .j = j, .layer = layer, .la = { &j->compute->blas, j->compute->n_thread }, .module = j->modules->at + first,
                         .n_module = j->modules->first_of_layer[layer + 1] - first, .out = out };
    const fq_status s = quantize(&q, w, e);
    free_all(&q);
    return s;
}

static fq_status quantize_head(fqi_quantizing *q, const float *final_norm, const fqi_matrix *head, fq_err *e)
{
    static const fqi_layer_weights none;
    FQI_TRY(find_inputs(q, e));
    FQI_TRY(make_output(q, e));
    FQI_TRY(make_copy(q, &none, e));
    if (q->j->settings->method != FQ_METHOD_RTN) {
        const double begin = fqi_now_seconds();
        FQI_TRY(make_moments(q, &q->input[0], e));
        FQI_TRY(fqi_collect_head(q, final_norm, e));
        q->out->seconds_hessian = fqi_now_seconds() - begin;
    }
    const double begin = fqi_now_seconds();
    FQI_TRY(solve_input(q, &q->input[0], head, e));
    q->out->seconds_solve = fqi_now_seconds() - begin;
    return FQ_OK;
}

fq_status fqi_quant_head(const fqi_layer_job *j, const float *final_norm, const fqi_matrix *head, fqi_layer_codes *out, fq_err *e)
{
    const int64_t n_layer = j->decoder->model.num_hidden_layers;
    const size_t first = j->modules->first_of_layer[n_layer];
    fqi_quantizing q = { .j = j, .layer = n_layer, .la = { &j->compute->blas, j->compute->n_thread }, .module = j->modules->at + first,
                         .n_module = j->modules->n - first, .out = out };
    if (q.n_module == 0) return FQ_OK;
    const fq_status s = quantize_head(&q, final_norm, head, e);
    free_all(&q);
    return s;
}
