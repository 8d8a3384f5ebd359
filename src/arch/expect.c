/* expect.c - which tensors a model must have, against those that are there.
 *
 * A missing tensor is not found by reading: an engine leaves it at its random initial value, or stops after minutes. So every row
 * of the table is asked for, in every layer and for every expert, before anything is written; and a tensor whose layer or expert
 * number the model does not have is said too, since an engine would drop it in silence. Shapes are the catalogue's business. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arch/family.h"
#include "base/checked.h"
#include "base/mem.h"

typedef enum layer_kind { KIND_UNKNOWN, KIND_DENSE, KIND_SPARSE } layer_kind;

static layer_kind kind_of(const fq_model *m, int64_t layer, const bool *layer_is_sparse)
{
    if (layer < 0 || layer >= m->num_hidden_layers) return KIND_UNKNOWN;
    if (layer_is_sparse) return layer_is_sparse[layer] ? KIND_SPARSE : KIND_DENSE;
    if (m->n_moe_layer == 0) return KIND_DENSE;
    return m->n_dense_layer == 0 ? KIND_SPARSE : KIND_UNKNOWN;
}

bool fqi_row_expected(const fqi_row *r, const fq_model *m, int64_t layer, const bool *layer_is_sparse)
{
    layer_kind kind = kind_of(m, layer, layer_is_sparse);
    switch (r->need) {
    case FQI_ALWAYS: return true;
    case FQI_IF_Q_BIAS: return m->q_bias;
    case FQI_IF_KV_BIAS: return m->kv_bias;
    case FQI_IF_O_BIAS: return m->o_bias;
    case FQI_IF_MLP_BIAS: return m->mlp_bias && kind == KIND_DENSE;
    case FQI_IF_QK_NORM: return m->qk_norm;
    case FQI_IF_UNTIED: return !m->tie_word_embeddings;
    case FQI_IF_DENSE: return kind == KIND_DENSE;
    case FQI_IF_SPARSE: return kind == KIND_SPARSE;
    case FQI_IF_SHARED: return kind == KIND_SPARSE && m->shared_expert_intermediate_size > 0;
    case FQI_OPTIONAL:
    case FQI_BESIDE_CODES: break;
    }
    return false;
}

void fqi_row_name(const fqi_family *f, const fqi_row *r, int64_t layer, int64_t expert, char *out, size_t n_out)
{
    if (r->scope == FQI_LAYER)
        (void)snprintf(out, n_out, "layers.%" PRId64 ".%s", layer, r->suffix);
    else if (r->scope == FQI_EXPERT)
        (void)snprintf(out, n_out, "layers.%" PRId64 ".%s%" PRId64 ".%s", layer, f->expert_infix ? f->expert_infix : "", expert, r->suffix);
    else
        (void)snprintf(out, n_out, "%s", r->suffix);
}

/* ---- the check ------------------------------------------------------------------------------------------------ */

typedef struct check {
    const fqi_family *f;
    const fq_model *m;
    const bool *layer_is_sparse;
    const fqi_bound *bound;
    size_t n_bound;
    uint32_t *count;         /* [layer + 1][row]: names bound; slot 0 is the body */
    fqi_misfit *out;
    size_t cap, n;
} check;

static void add(check *c, fqi_misfit found)
{
    if (c->n < c->cap) c->out[c->n] = found;
    c->n++;
}

static void add_missing(check *c, const fqi_row *row, int64_t layer, int64_t expert)
{
    add(c, (fqi_misfit){ .kind = FQI_MISSING, .row = row, .layer = layer, .expert = expert, .index = SIZE_MAX });
}

static bool is_fused(const fqi_row *r) { return r->scope == FQI_LAYER && r->rank == 3; }

/* Does the model have a place for it at all? Biases that config.json does not announce are let through: they move with their
 * axis, and what an engine makes of them is for the catalogue to say. */
static bool has_place(const check *c, const fqi_bound *b)
{
    const fqi_row *r = b->row;
    if (r->scope != FQI_LAYER && r->scope != FQI_EXPERT) return true;
    if (b->layer >= c->m->num_hidden_layers) return false;
    if (r->scope == FQI_EXPERT && b->expert >= c->m->num_experts) return false;
    layer_kind kind = kind_of(c->m, b->layer, c->layer_is_sparse);
    if (r->need == FQI_IF_DENSE || r->need == FQI_IF_MLP_BIAS) return kind != KIND_SPARSE;
    if (r->need == FQI_IF_SPARSE || r->need == FQI_IF_SHARED || is_fused(r)) return kind != KIND_DENSE;
    return true;
}

static void count_bound(check *c)
{
    for (size_t i = 0; i < c->n_bound; i++) {
        const fqi_bound *b = &c->bound[i];
        if (!b->canonical || !b->row) continue;
        if (!has_place(c, b)) {
            add(c, (fqi_misfit){ .kind = FQI_NO_PLACE, .row = b->row, .layer = b->layer, .expert = b->expert, .index = i });
            continue;
        }
        if (b->row->need == FQI_BESIDE_CODES) continue;   /* of no table */
        size_t slot = (size_t)(b->layer + 1) * c->f->n_row + (size_t)(b->row - c->f->row);
        c->count[slot]++;
    }
}

/* Some experts of this row are missing: which ones takes another pass, so it is made only while there is room to tell. */
static fq_status add_missing_experts(check *c, const fqi_row *row, int64_t layer, uint32_t have, fq_err *e)
{
    size_t n_expert = (size_t)c->m->num_experts, n_missing = n_expert - have;
    if (c->n >= c->cap) {
        c->n += n_missing;
        return FQ_OK;
    }
    bool *seen = fqi_calloc(n_expert, sizeof *seen);
    if (!seen) return fqi_fail_nomem(e, "table of experts");
    for (size_t i = 0; i < c->n_bound; i++) {
        const fqi_bound *b = &c->bound[i];
        if (b->canonical && b->row == row && b->layer == layer && b->expert < c->m->num_experts) seen[b->expert] = true;
    }
    for (size_t k = 0; k < n_expert; k++)
        if (!seen[k]) add_missing(c, row, layer, (int64_t)k);
    free(seen);
    return FQ_OK;
}

static fq_status check_layer(check *c, int64_t layer, fq_err *e)
{
    const uint32_t *count = c->count + (size_t)(layer + 1) * c->f->n_row;
    const fqi_row *fused = NULL;
    bool one_by_one = false;
    for (size_t r = 0; r < c->f->n_row; r++) {
        const fqi_row *row = &c->f->row[r];
        if (!fused && is_fused(row) && count[r] > 0) fused = row;
        one_by_one = one_by_one || (row->scope == FQI_EXPERT && count[r] > 0);
    }
    if (fused && one_by_one) add(c, (fqi_misfit){ .kind = FQI_TWO_FORMS, .row = fused, .layer = layer, .expert = -1, .index = SIZE_MAX });
    for (size_t r = 0; r < c->f->n_row; r++) {
        const fqi_row *row = &c->f->row[r];
        if (row->scope != FQI_LAYER && row->scope != FQI_EXPERT) continue;
        bool expected = is_fused(row) ? fused != NULL : fqi_row_expected(row, c->m, layer, c->layer_is_sparse);
        if (row->scope == FQI_EXPERT) {
            if (expected && !fused && count[r] < (uint64_t)c->m->num_experts) FQI_TRY(add_missing_experts(c, row, layer, count[r], e));
        } else if (expected && count[r] == 0) {
            add_missing(c, row, layer, -1);
        }
    }
    return FQ_OK;
}

fq_status fqi_bind_check(const fqi_family *f, const fq_model *m, const bool *layer_is_sparse, const fqi_bound *bound, size_t n_bound, fqi_misfit *out, size_t cap, size_t *n_misfit, fq_err *e)
{
    check c = { .f = f, .m = m, .layer_is_sparse = layer_is_sparse, .bound = bound, .n_bound = n_bound, .out = out, .cap = cap };
    size_t n_slot;
    if (m->num_hidden_layers < 0 || m->num_experts < 0 || !fqi_mul_size((size_t)m->num_hidden_layers + 1, f->n_row, &n_slot))
        return fqi_fail(e, FQ_E_INPUT, NULL, "model-size", "found %" PRId64 " layers, expected fewer", m->num_hidden_layers);
    c.count = fqi_calloc(n_slot, sizeof *c.count);
    if (!c.count) return fqi_fail_nomem(e, "table of layers");
    count_bound(&c);
    for (size_t r = 0; r < f->n_row; r++) {
        const fqi_row *row = &f->row[r];
        if ((row->scope == FQI_BODY || row->scope == FQI_HEAD) && c.count[r] == 0 && fqi_row_expected(row, m, -1, layer_is_sparse))
            add_missing(&c, row, -1, -1);
    }
    fq_status s = FQ_OK;
    for (int64_t layer = 0; layer < m->num_hidden_layers && s == FQ_OK; layer++) s = check_layer(&c, layer, e);
    free(c.count);
    if (s == FQ_OK) *n_misfit = c.n;
    return s;
}
