/* rank_cuts.c - see rank_cuts.h. */
#include "job/rank_cuts.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct cutting {
    const fq_ckpt *c;
    const fqi_parts *parts;
    fqi_rank_cuts *out;
    fqi_slice *slice;          /* [tp] */
    fqi_range *range;          /* [tp], of the tensor in hand */
    fqi_bound *bound;
    bool ordered;              /* groups of input channels may be in any order */
} cutting;

bool fqi_rank_cut_is_whole(const fqi_rank_cut *c, int tp)
{
    for (int r = 0; r < tp; r++)
        if (c->range[r].n * c->parts != c->length) return false;
    return true;
}

/* The cut of `draft`, kept once. Few differ, since layers and experts are alike; with expert parallelism one more for each rank. */
static fq_status keep(cutting *k, size_t tensor, const fqi_rank_cut *draft, fq_err *e)
{
    fqi_rank_cuts *o = k->out;
    const size_t bytes = (size_t)o->tp * sizeof *draft->range;
    for (size_t i = o->n_list; i-- > 0;) {
        const fqi_rank_cut *x = o->list[i];
        if (x->dim != draft->dim || x->parts != draft->parts || x->length != draft->length || memcmp(x->range, draft->range, bytes) != 0) continue;
        o->of[tensor] = x;
        return FQ_OK;
    }
    fqi_rank_cut *new = fqi_arena_alloc(&o->arena, sizeof *new);
    fqi_range *range = fqi_arena_alloc(&o->arena, bytes);
    if (!new || !range || !fqi_grow((void **)&o->list, &o->cap_list, o->n_list + 1, sizeof *o->list)) return fqi_fail_nomem(e, "table of cuts");
    memcpy(range, draft->range, bytes);
    *new = *draft;
    new->range = range;
    o->list[o->n_list++] = new;
    o->of[tensor] = new;
    return FQ_OK;
}

static fq_status keep_whole(cutting *k, size_t tensor, fq_err *e)
{
    for (int r = 0; r < k->out->tp; r++) k->range[r] = (fqi_range){ 0, 1 };
    return keep(k, tensor, &(fqi_rank_cut){ .dim = -1, .parts = 1, .length = 1, .range = k->range }, e);
}

/* Does the rank have a tensor of this expert? Biases that are added once are on every rank all the same. */
static bool has(const fqi_slice *s, const fqi_bound *b) { return b->expert < 0 || fqi_slice_has(s, b->row, b->expert); }

/* Ranges of dimension `dim` for all ranks; those without the tensor get none. dim -1: of all of it. */
static fq_status keep_ranges(cutting *k, size_t tensor, const fqi_bound *b, int dim, int parts, int64_t length, fq_err *e)
{
    bool cut = false;
    for (int r = 0; r < k->out->tp; r++) {
        if (!has(&k->slice[r], b)) k->range[r] = (fqi_range){ 0, 0 };
        else cut = cut || k->range[r].n * parts != length;
    }
    if (cut) return keep(k, tensor, &(fqi_rank_cut){ .dim = dim, .parts = parts, .length = length, .range = k->range }, e);
    for (int r = 0; r < k->out->tp; r++) k->range[r] = (fqi_range){ 0, has(&k->slice[r], b) };
    return keep(k, tensor, &(fqi_rank_cut){ .dim = -1, .parts = 1, .length = 1, .range = k->range }, e);
}

/* ---- dense ---- */

static fq_status cut_dense(cutting *k, size_t tensor, const fqi_bound *b, fq_err *e)
{
    const fqi_tensor *t = &k->c->tensor[tensor];
    fqi_cut cut;
    int dim = -1;
    for (int r = 0; r < k->out->tp; r++) {
        fqi_cut_make(&k->slice[r], b->row, t->shape, &cut);
        for (int d = 0; d < cut.rank; d++)
            if (fqi_cut_length(&cut, d) != cut.whole[d]) dim = d;
    }
    for (int r = 0; r < k->out->tp; r++) {
        fqi_cut_make(&k->slice[r], b->row, t->shape, &cut);
        k->range[r] = dim < 0 ? (fqi_range){ 0, 1 } : cut.dim[dim];
    }
    return dim < 0 ? keep_ranges(k, tensor, b, -1, 1, 1, e) : keep_ranges(k, tensor, b, dim, cut.parts[dim], cut.whole[dim], e);
}

/* ---- parts of quantized modules ---- */

/* A range of the axis in entries of a part's dimension. */
static fq_status convert_range(const cutting *k, const fqi_tensor *t, const fqi_quant_size *s, fqi_part_dim d, fqi_range *r, fq_err *e)
{
    const int64_t whole = d.along == FQI_ALONG_N ? s->rows : s->cols, group = d.along == FQI_ALONG_N ? s->group_rows : s->group_cols, end = r->first + r->n;
    const char *file = k->c->shard[t->shard].path;
    char shown[FQI_NAME_MAX + 1];
    if (d.unit == FQI_UNIT_WORD) {
        const bool words = r->first * s->bits % 32 == 0 && (end * s->bits % 32 == 0 || end == whole);
        if (!words)
            return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(file, fqi_escape(shown, t->name)), "shard-words", "found a rank's channels [%" PRId64 ", %" PRId64 "), expected whole words of 32 bits; `fitq plan --tp %d` says what makes it fit",
                            r->first, end, k->out->tp);
    }
    if (d.unit == FQI_UNIT_GROUP && (r->first % group != 0 || (end % group != 0 && end != whole)))
        return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(file, fqi_escape(shown, t->name)), "shard-groups", "found a rank's channels [%" PRId64 ", %" PRId64 "), expected whole groups of %" PRId64 "; `fitq plan --tp %d` says what makes it fit",
                        r->first, end, group, k->out->tp);
    const int64_t first = fqi_part_count(d, s, r->first);
    *r = (fqi_range){ first, fqi_part_count(d, s, end) - first };
    return FQ_OK;
}

/* A dimension that every rank has whole though the axis is cut: see the table in rank_cuts.h. */
static bool stays(const cutting *k, const fqi_quant_module *q, fqi_part_dim d)
{
    const bool ordered = k->ordered || (q->layout == FQI_QL_CT && q->part[FQI_PART_ORDER]);   /* the latter stores an order only where there is one */
    if (d.along == FQI_ALONG_NONE) return true;
    if (d.unit != FQI_UNIT_GROUP) return false;
    return d.along == FQI_ALONG_K && !q->form->floats && (ordered || q->size.group_cols >= q->size.cols);   /* a block of FP8 is not cut, also the only one */
}

static fq_status cut_part(cutting *k, size_t tensor, const fqi_part_plan *plan, fq_err *e)
{
    const fqi_quant_module *q = &k->parts->module[plan->module].now;
    const fqi_part_form *form = &q->form->part[plan->part];
    const fqi_bound *b = &k->bound[tensor];
    const int64_t shape[2] = { q->size.rows, q->size.cols };
    fqi_cut cut;
    int dim = -1;
    if (b->row->rank != 2)
        return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(k->c->shard[k->c->tensor[tensor].shard].path, k->c->tensor[tensor].name), "packed-shape", "found codes of all experts in one tensor, expected those of one matrix");
    for (int d = 0; d < form->rank && d < 2; d++) {
        if (stays(k, q, form->dim[d])) continue;
        const int axis = form->dim[d].along == FQI_ALONG_N ? 0 : 1;
        for (int r = 0; r < k->out->tp; r++) {
            fqi_cut_make(&k->slice[r], b->row, shape, &cut);
            if (fqi_cut_length(&cut, axis) != shape[axis]) dim = d;
        }
    }
    for (int r = 0; r < k->out->tp; r++) {
        k->range[r] = (fqi_range){ 0, 1 };
        if (dim < 0) continue;
        fqi_cut_make(&k->slice[r], b->row, shape, &cut);
        k->range[r] = cut.dim[form->dim[dim].along == FQI_ALONG_N ? 0 : 1];
        FQI_TRY(convert_range(k, &k->c->tensor[tensor], &q->size, form->dim[dim], &k->range[r], e));
    }
    return dim < 0 ? keep_ranges(k, tensor, b, -1, 1, 1, e) : keep_ranges(k, tensor, b, dim, 1, k->c->tensor[tensor].shape[dim], e);
}

/* ---- all ---- */

/* Parts get the binding of the weight that they stand for. */
static fq_status bind(cutting *k, fq_err *e)
{
    const fq_ckpt *c = k->c;
    k->bound = fqi_arena_alloc(&k->out->arena, (c->n_tensor + 1) * sizeof *k->bound);
    if (!k->bound) return fqi_fail_nomem(e, "tensor table");
    for (size_t i = 0; i < c->n_tensor; i++) k->bound[i] = c->bound[i];
    for (size_t m = 0; m < k->parts->n_module; m++) {
        const fqi_quant_module *q = &k->parts->module[m].now;
        fqi_bound b;
        int64_t length[2];
        if (!fqi_quant_row(c, (size_t)(q->part[FQI_PART_CODES] - c->tensor), &b, length)) continue;   /* fqi_parts_create found them by it */
        for (int p = 0; p < FQI_N_PART; p++)
            if (q->part[p]) k->bound[q->part[p] - c->tensor] = b;
    }
    k->out->bound = k->bound;
    return FQ_OK;
}

static fq_status cut_all(cutting *k, fq_err *e)
{
    for (size_t i = 0; i < k->c->n_tensor; i++) {
        const fqi_part_plan *part = fqi_parts_of(k->parts, i);
        if (part && part->module != FQI_NO_PART) FQI_TRY(cut_part(k, i, part, e));
        else if (k->bound[i].row) FQI_TRY(cut_dense(k, i, &k->bound[i], e));
        else FQI_TRY(keep_whole(k, i, e));
    }
    return FQ_OK;
}

fq_status fqi_rank_cuts_make(const fq_ckpt *c, const fqi_parts *parts, int tp, bool expert_parallel, fqi_rank_cuts *out, fq_err *e)
{
    const fqi_decoder d = { .model = c->info.model, .family = c->config.family };   /* cutting asks for lengths only */
    fqi_quant_scheme scheme = { 0 };
    cutting k = { .c = c, .parts = parts, .out = out };
    out->tp = tp;
    out->of = fqi_arena_alloc(&out->arena, (c->n_tensor + 1) * sizeof *out->of);
    k.slice = fqi_calloc((size_t)tp, sizeof *k.slice);
    k.range = fqi_calloc((size_t)tp, sizeof *k.range);
    fq_status s = out->of && k.slice && k.range ? fqi_quant_scheme_read(c, &scheme, e) : fqi_fail_nomem(e, "table of cuts");
    k.ordered = scheme.order;
    for (int r = 0; r < tp && s == FQ_OK; r++) s = fqi_slice_make(&d, r, tp, expert_parallel, c->info.path, &k.slice[r], e);
    if (s == FQ_OK) s = bind(&k, e);
    if (s == FQ_OK) s = cut_all(&k, e);
    free(k.slice);
    free(k.range);
    return s;
}

void fqi_rank_cuts_free(fqi_rank_cuts *c)
{
    free(c->list);
    fqi_arena_free(&c->arena);
    *c = (fqi_rank_cuts){ 0 };
}
