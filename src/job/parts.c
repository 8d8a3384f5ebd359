/* parts.c - maps of the parts of quantized modules. See parts.h. */
#include "job/parts.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "checkpoint/fields.h"
#include "checkpoint/packed.h"
#include "job/parts_zeros.h"

#define FOLD_BYTES ((uint64_t)128 << 20)   /* rows that are held of a tensor whose rows are wanted in any order: all of a 72B model's down_proj */

/* A map that follows from an axis' map. Few: axes x units. */
typedef struct fqi_parts_map {
    const fqi_map *axis;        /* NULL: identity of that length */
    int64_t length;
    fqi_unit unit;
    int64_t now, next;
    bool cuts;                  /* there is none: words are cut */
    fqi_map map;
} derived;

typedef struct making {
    fqi_parts *p;
    const fqi_maps *maps, *forward;
    const fqi_fold *fold;
    int64_t regroup;
    fqi_quant_scheme scheme;
} making;

/* A module while its parts are looked at. axis: N and K as they are being applied; forward: the same, or what they undo. */
typedef struct looking {
    const making *j;
    fqi_parts_module *m;
    const fqi_map *axis[2], *forward[2];
    fqi_quant_size old, new;    /* of the forward maps */
    bool ordered;               /* g_idx is another than k / group, and stays so */
    bool regroups;
    bool own_zeros;             /* groups are filled up in part, and have zero points of their own */
    bool takes_channels;        /* it is a down_proj */
    const fqi_fold_mlp *fold;   /* the channels of dimension fold_k (1: K) go in this order; NULL: as they are */
    int fold_k;
} looking;

static const char *module_name(const looking *l, char shown[FQI_NAME_MAX + 1])
{
    const fqi_tensor *codes = l->m->now.part[FQI_PART_CODES];
    fqi_packed p;
    const size_t n = fqi_packed_split(codes->name, &p) ? p.n_module : strlen(codes->name) - strlen(".weight");
    return fqi_escape_n(shown, codes->name, n);
}

/* Maps know numbers only: the module is put before what they say. */
static fq_status in_module(const looking *l, fq_status s, const fq_err *why, fq_err *e)
{
    char shown[FQI_NAME_MAX + 1];
    const char *text = why->text;
    const size_t n = strlen(why->rule);
    if (s == FQ_E_NOMEM) return fqi_fail_nomem(e, "maps of parts");
    if (n > 0 && strncmp(text, why->rule, n) == 0 && strncmp(text + n, ": ", 2) == 0) text += n + 2;
    return fqi_fail(e, s, FQI_FILE(l->j->p->ckpt->info.path), why->rule, "module %s: %s", module_name(l, shown), text);
}

/* ---- derived maps -------------------------------------------------------------------------------------------------- */

/* Groups of channels that any order may deal: the old ones as they are, and new ones behind them. */
static fq_status append_groups(int64_t old, int64_t new, fqi_map *out, fq_err *e) { return fqi_map_tail(out, old, new, e); }

static fq_status make_map(const looking *l, const fqi_map *axis, fqi_part_dim d, derived *x, fq_err *e)
{
    fqi_map same = { 0 };
    if (!axis) {   /* smaller groups of channels that stay */
        FQI_TRY(fqi_map_identity(&same, x->length, e));
        const fq_status s = fqi_map_blocks(&same, x->now, x->next, &x->map, e);
        fqi_map_free(&same);
        return s;
    }
    const bool along_k = d.along == FQI_ALONG_K;
    if (d.unit == FQI_UNIT_WORD) return fqi_map_shrink(axis, x->now, &x->map, e);
    if (along_k && l->ordered) return append_groups(axis->n_old / x->now, axis->n_new / x->next, &x->map, e);
    return fqi_map_blocks(axis, x->now, x->next, &x->map, e);
}

static fq_status remember(fqi_parts *p, const derived *x, const fqi_map **out, fq_err *e)
{
    void *all = p->derived;
    derived *one = fqi_calloc(1, sizeof *one);
    if (!one || !fqi_grow(&all, &p->cap_derived, p->n_derived + 1, sizeof *p->derived)) {
        free(one);
        return fqi_fail_nomem(e, "maps of parts");
    }
    p->derived = all;
    *one = *x;
    p->derived[p->n_derived++] = one;
    *out = &one->map;
    return FQ_OK;
}

/* What a dimension that is not counted in elements gets. NULL: words that the axis' map cuts. */
static fq_status derive(const looking *l, fqi_part_dim d, const fqi_map **out, fq_err *e)
{
    const int k = d.along == FQI_ALONG_K;
    const fqi_map *axis = l->forward[k];
    const int64_t word = 32 / l->old.bits;
    derived x = { .axis = axis, .length = axis ? 0 : k ? l->old.cols : l->old.rows, .unit = (fqi_unit)d.unit, .now = k ? l->old.group_cols : l->old.group_rows, .next = k ? l->new.group_cols : l->new.group_rows };
    fq_err why;
    if (d.unit == FQI_UNIT_WORD) x.now = x.next = word;
    if (k && d.unit == FQI_UNIT_GROUP && l->ordered) x.next = -x.next;   /* another map than that of channels in their order */
    for (size_t i = 0; i < l->j->p->n_derived; i++) {
        const derived *y = l->j->p->derived[i];
        if (y->axis != x.axis || y->length != x.length || y->unit != x.unit || y->now != x.now || y->next != x.next) continue;
        *out = y->cuts ? NULL : &y->map;
        return FQ_OK;
    }
    if (x.next < 0) x.next = -x.next;
    fq_status s = make_map(l, axis, d, &x, &why);
    if (k && d.unit == FQI_UNIT_GROUP && l->ordered) x.next = -x.next;
    x.cuts = s == FQ_E_INPUT && d.unit == FQI_UNIT_WORD && axis->n_old % word == 0 && axis->n_new % word == 0;   /* words at both ends, other ones */
    if (x.cuts) s = FQ_OK;
    if (s == FQ_OK && !x.cuts && l->j->forward) {
        fqi_map back = { 0 };
        s = fqi_map_inverse(&x.map, &back, &why);
        fqi_map_free(&x.map);
        x.map = back;
    }
    if (s == FQ_OK && (s = remember(l->j->p, &x, out, &why)) == FQ_OK) {
        if (x.cuts) *out = NULL;
        return FQ_OK;
    }
    fqi_map_free(&x.map);
    return in_module(l, s, &why, e);
}

/* ---- empty places -------------------------------------------------------------------------------------------------- */

static void fill_with(uint32_t x, unsigned char fill[4])
{
    for (int i = 0; i < 4; i++) fill[i] = (unsigned char)(x >> 8 * i);
}

/* One bit pattern of 1 for each type of scale, as often as four bytes hold it. */
static uint32_t one_of(fq_dtype t) { return t == FQ_DTYPE_F16 ? 0x3c003c00u : t == FQ_DTYPE_BF16 ? 0x3f803f80u : 0x3f800000u; }

static void choose_fill(const fqi_quant_module *m, fqi_part part, unsigned char fill[4])
{
    const uint32_t field = m->size.bits == 8 ? 0x01010101u : m->size.bits == 4 ? 0x11111111u : 0x55555555u, zero = 1u << (m->size.bits - 1);
    if (part == FQI_PART_SCALE) fill_with(one_of((fq_dtype)m->part[part]->dtype), fill);
    else if (part == FQI_PART_CODES && !m->form->floats) fill_with(field * zero, fill);
    else if (part == FQI_PART_ZERO) fill_with(field * (zero - m->zeros_v1), fill);
    else fill_with(0, fill);
}

/* Empty places in a group that is used have its zero point, which is one number for all only in symmetric weights. */
static fq_status check_zeros(looking *l, fq_err *e)
{
    const fqi_quant_module *q = &l->m->now;
    l->own_zeros = false;
    if (q->form->floats || q->sym || l->j->forward || !l->axis[1] || l->ordered) return FQ_OK;
    return fqi_zero_fill_needed(l->axis[1], l->m->size_new.group_cols, &l->own_zeros, e);
}

/* ---- g_idx --------------------------------------------------------------------------------------------------------- */

fq_status fqi_parts_check_order(const fq_ckpt *c, const fqi_quant_module *m, bool *ordered, fq_err *e)
{
    const fqi_tensor *t = m->part[FQI_PART_ORDER];
    const fqi_quant_size *s = &m->size;
    uint32_t *group;
    *ordered = false;
    if (!t) return FQ_OK;
    FQI_TRY(fqi_order_read(c, NULL, t, &group, e));
    fq_status status = FQ_OK;
    for (int64_t k = 0; k < s->cols; k++) {
        *ordered = *ordered || group[k] != (uint32_t)(k / s->group_cols);
        if (status == FQ_OK && group[k] >= (uint64_t)(s->cols / s->group_cols))
            status = fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(c->shard[t->shard].path, t->name), "packed-order", "found group %" PRId32 " for input channel %" PRId64 ", expected 0 to %" PRId64,
                              (int32_t)group[k], k, s->cols / s->group_cols - 1);
    }
    free(group);
    return status;
}

static fq_status look_at_order(looking *l, fq_err *e)
{
    const bool folds = l->fold && l->fold_k == 1;
    if (!l->axis[1] && !l->regroups && !folds) return FQ_OK;
    FQI_TRY(fqi_parts_check_order(l->j->p->ckpt, &l->m->now, &l->ordered, e));
    const fqi_tensor *t = l->m->now.part[FQI_PART_ORDER];
    if (folds && l->j->forward && l->ordered)
        return fqi_fail(e, FQ_E_DIFFERS, FQI_TENSOR(l->j->p->ckpt->shard[t->shard].path, t->name), "packed-order", "found channels out of the order of their groups, expected them in order, as fitq wrote them");
    if (folds) l->ordered = false;
    return FQ_OK;
}

/* ---- modules ------------------------------------------------------------------------------------------------------- */

/* What has one scale for the whole length has one for the new length too; groups stay as large, also where there is only one of them. */
static fqi_quant_size size_with(const looking *l, int64_t rows, int64_t cols)
{
    const fqi_quant_module *q = &l->m->now;
    const fqi_part_form *scale = &q->form->part[FQI_PART_SCALE];
    const fqi_quant_scheme *s = &l->j->scheme;
    fqi_quant_size out = q->size;
    out.rows = rows;
    out.cols = cols;
    if (!fqi_part_has(scale, FQI_ALONG_K, FQI_UNIT_GROUP) || (!q->form->floats && s->group_size <= 0)) out.group_cols = cols;
    if (!fqi_part_has(scale, FQI_ALONG_N, FQI_UNIT_GROUP) && !fqi_part_has(scale, FQI_ALONG_N, FQI_UNIT_ELEMENT)) out.group_rows = rows;
    return out;
}

static int64_t length_after(const fqi_map *m, int64_t n) { return m ? m->n_new : n; }
static int64_t length_before(const fqi_map *m, int64_t n) { return m ? m->n_old : n; }

/* A dimension that has the channels of a folded MLP: elements, or words of them. */
static fq_status plan_fold(const looking *l, fqi_part part, int d, fqi_part_plan *x, fq_err *e)
{
    const fqi_quant_module *q = &l->m->now;
    const fqi_part_dim dim = q->form->part[part].dim[d];
    const fqi_tensor *t = q->part[part];
    const fqi_quant_size *new = &l->m->size_new;
    const int64_t before = l->fold_k ? q->size.cols : q->size.rows, after = l->fold_k ? new->cols : new->rows, word = dim.unit == FQI_UNIT_WORD ? 32 / q->size.bits : 1;
    char shown[FQI_NAME_MAX + 1];
    if (dim.unit == FQI_UNIT_GROUP || before % word != 0 || after % word != 0 || 32 % q->size.bits != 0)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(l->j->p->ckpt->info.path), "fold-order", "module %s: found %s, expected channels that can be put in another order one by one", module_name(l, shown),
                        dim.unit == FQI_UNIT_GROUP ? "blocks of channels that share a scale" : "words that are not full");
    x->fold = l->fold;
    x->fold_dim = (int8_t)d;
    x->computed = true;
    x->shape_new[d] = fqi_part_count(dim, new, after);
    if (fqi_part_count(dim, &q->size, before) == t->shape[d]) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(l->j->p->ckpt->shard[t->shard].path, t->name), "packed-shape", "found %" PRId64 " in dimension %d, expected %" PRId64, t->shape[d], d, fqi_part_count(dim, &q->size, before));
}

/* From channels, not moved in runs. */
static bool is_put_together(const fqi_part_plan *x) { return x->fold || x->cut[0] || x->cut[1] || x->own_zeros; }

static fq_status plan_part(looking *l, uint32_t module, fqi_part part, fq_err *e)
{
    fqi_parts *p = l->j->p;
    const fqi_quant_module *q = &l->m->now;
    const fqi_tensor *t = q->part[part];
    const fqi_part_form *form = &q->form->part[part];
    fqi_part_plan *x = &p->of[t - p->ckpt->tensor];
    *x = (fqi_part_plan){ .module = module, .part = (uint8_t)part };
    choose_fill(q, part, x->fill);
    x->own_zeros = l->own_zeros && part == FQI_PART_CODES;
    for (int d = 0; d < t->rank && d < 2; d++) {
        const fqi_part_dim dim = form->dim[d];
        const int k = dim.along == FQI_ALONG_K;
        x->shape_new[d] = t->shape[d];
        const bool regrouped = l->regroups && k && dim.unit == FQI_UNIT_GROUP;
        if (l->fold && dim.along != FQI_ALONG_NONE && k == l->fold_k && part != FQI_PART_ORDER && !(k && dim.unit == FQI_UNIT_GROUP)) {   /* groups of inputs are in order afterwards */
            FQI_TRY(plan_fold(l, part, d, x, e));
            continue;
        }
        if (dim.along == FQI_ALONG_NONE || (!l->axis[k] && !regrouped)) continue;
        if (dim.unit == FQI_UNIT_ELEMENT) x->map[d] = l->axis[k];
        else FQI_TRY(derive(l, dim, &x->map[d], e));
        if (!x->map[d]) {
            x->cut[d] = l->axis[k];
            x->shape_new[d] = fqi_quant_words(l->axis[k]->n_new, q->size.bits);
            if (fqi_quant_words(l->axis[k]->n_old, q->size.bits) == t->shape[d]) continue;
            return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(p->ckpt->shard[t->shard].path, t->name), "packed-shape", "found %" PRId64 " in dimension %d, expected words of %" PRId64 " channels", t->shape[d], d, l->axis[k]->n_old);
        }
        x->shape_new[d] = x->map[d]->n_new;
        if (x->map[d]->n_old != t->shape[d])
            return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(p->ckpt->shard[t->shard].path, t->name), "packed-shape", "found %" PRId64 " in dimension %d, expected %" PRId64, t->shape[d], d, x->map[d]->n_old);
    }
    x->computed = is_put_together(x) || ((l->axis[0] || l->axis[1]) && part == FQI_PART_SHAPE);
    if (part == FQI_PART_ORDER && (l->axis[1] || l->regroups || l->m->fold_inputs)) x->computed = !(l->ordered && l->j->forward);   /* going back, old channels have their old groups */
    return FQ_OK;
}

/* Of integers every group is whole, also the last: readers disagree about a short one, and this one takes none. */
static fq_status check_whole_groups(const looking *l, const fqi_quant_size *other, fq_err *e)
{
    char shown[FQI_NAME_MAX + 1];
    if (l->m->now.form->floats || !l->axis[1] || other->cols % other->group_cols == 0) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(l->j->p->ckpt->info.path), "packed-group", "module %s: found %" PRId64 " input channels to come, expected whole groups of %" PRId64, module_name(l, shown), other->cols,
                    other->group_cols);
}

fq_status fqi_parts_check_shape(const fq_ckpt *c, const fqi_quant_module *m, fq_err *e)
{
    const fqi_tensor *t = m->part[FQI_PART_SHAPE];
    int64_t want[2] = { m->size.rows, m->size.cols }, found[2] = { 0, 0 };
    unsigned char both[16];
    fqi_file f;
    if (!t) return FQ_OK;
    const size_t size = fq_dtype_bits((fq_dtype)t->dtype) / 8;
    FQI_TRY(fqi_ckpt_open_shard(c, t->shard, FQ_IO_BUFFERED, &f, e));
    const fq_status s = fqi_file_read(&f, both, 2 * size, t->off, e);
    fqi_file_close(&f);
    FQI_TRY(s);
    for (size_t d = 0; d < 2; d++) {
        int32_t half;
        memcpy(&half, both + d * size, sizeof half);
        if (size == sizeof half) found[d] = half;
        else memcpy(&found[d], both + d * size, sizeof found[d]);
    }
    if (found[0] == want[0] && found[1] == want[1]) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(c->shard[t->shard].path, t->name), "packed-shape", "found %" PRId64 " x %" PRId64 ", expected %" PRId64 " x %" PRId64, found[0], found[1], want[0], want[1]);
}

/* The shape is written anew: one that does not tell the lengths would otherwise be mended without a word, and unpad could not give it back. */
static fq_status check_stored_shape(const looking *l, fq_err *e)
{
    return l->axis[0] || l->axis[1] ? fqi_parts_check_shape(l->j->p->ckpt, &l->m->now, e) : FQ_OK;
}

static fq_status plan_module(looking *l, uint32_t module, fq_err *e)
{
    const fqi_quant_module *q = &l->m->now;
    char shown[FQI_NAME_MAX + 1];
    const bool changes = l->axis[0] || l->axis[1] || l->fold;
    l->regroups = l->j->regroup != 0 && !q->form->floats;
    if (changes && !q->form->floats && q->size.bits == 3)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(l->j->p->ckpt->info.path), "packed-bits", "module %s: found 3 bits, whose codes straddle words, expected 2, 4 or 8", module_name(l, shown));
    FQI_TRY(look_at_order(l, e));
    if (l->regroups && l->ordered)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(l->j->p->ckpt->info.path), "packed-order", "module %s: found a g_idx that is not in the order of channels, expected one that is: its groups cannot be made smaller%s", module_name(l, shown),
                        l->takes_channels ? " (--fold-order puts its channels in order)" : "");
    fqi_quant_size other = size_with(l, (l->j->forward ? length_before : length_after)(l->forward[0], q->size.rows),
                                           (l->j->forward ? length_before : length_after)(l->forward[1], q->size.cols));
    if (l->regroups) other.group_cols = l->j->regroup > 0 ? l->j->regroup : other.cols;
    if (l->regroups && other.cols % other.group_cols != 0)
        return fqi_fail(e, FQ_E_USAGE, FQI_FILE(l->j->p->ckpt->info.path), "regroup", "module %s: found %" PRId64 " inputs, expected a multiple of %" PRId64, module_name(l, shown), other.cols, other.group_cols);
    FQI_TRY(check_whole_groups(l, &other, e));
    FQI_TRY(check_stored_shape(l, e));
    l->old = l->j->forward ? other : q->size;
    l->new = l->j->forward ? q->size : other;
    l->m->size_new = other;
    l->m->group_forward = l->old.group_cols;
    FQI_TRY(check_zeros(l, e));
    if (changes && !l->j->forward) FQI_TRY(fqi_zero_label_check(l->j->p->ckpt, q, e));
    for (int part = FQI_PART_CODES; part < FQI_PART_OTHER; part++)
        if (q->part[part]) FQI_TRY(plan_part(l, module, (fqi_part)part, e));
    return FQ_OK;
}

static fq_status add_module(making *j, size_t i, const fqi_bound *b, const int64_t length[2], fq_err *e)
{
    fqi_parts *p = j->p;
    const fq_ckpt *c = p->ckpt;
    const fqi_map *axis[FQ_MAX_RANK], *forward[FQ_MAX_RANK];
    int fold_dim = 0;
    if (b->row->rank != 2)
        return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(c->shard[c->tensor[i].shard].path, c->tensor[i].name), "quantized", "found codes of %d dimensions, expected those of a linear layer: all experts in one tensor are not read", b->row->rank);
    fqi_parts_module *m = &p->module[p->n_module];
    FQI_TRY(fqi_quant_module_find(c, &j->scheme, i, length[0], length[1], &m->now, e));
    fqi_maps_of_row(j->maps, b->row, axis);
    fqi_maps_of_row(j->forward ? j->forward : j->maps, b->row, forward);
    m->fold = fqi_fold_of(j->fold, b, &fold_dim);
    looking l = { .j = j, .m = m, .axis = { axis[0], axis[1] }, .forward = { forward[0], forward[1] }, .fold = m->fold, .fold_k = fold_dim, .takes_channels = fqi_fold_is_channel(b->row->dim[1].axis) };
    m->map[0] = axis[0];
    m->map[1] = axis[1];
    m->fold_inputs = m->fold && fold_dim == 1;
    return plan_module(&l, (uint32_t)p->n_module++, e);
}

/* What has the channels of a folded MLP and is no part of a module: a bias, or a matrix that was left in 16 bits. */
static fq_status add_plain(making *j, size_t i, fq_err *e)
{
    const fq_ckpt *c = j->p->ckpt;
    const fqi_tensor *t = &c->tensor[i];
    const fqi_bound *b = &c->bound[i];
    fqi_part_plan *x = &j->p->of[i];
    int dim = 0;
    const fqi_fold_mlp *fold = fqi_fold_of(j->fold, b, &dim);
    if (!fold) return FQ_OK;
    if (b->row->dim[dim].parts > 1 || b->row->rank > 2 || b->row->rank != t->rank)
        return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(c->shard[t->shard].path, t->name), "fold-order", "found gate and up in one tensor, or all experts, expected a matrix of one module");
    *x = (fqi_part_plan){ .module = FQI_NO_PART, .computed = true, .fold = fold, .fold_dim = (int8_t)dim };
    const fqi_map *axis[FQ_MAX_RANK];
    fqi_maps_of_row(j->maps, b->row, axis);
    for (int d = 0; d < t->rank; d++) {
        x->shape_new[d] = axis[d] ? axis[d]->n_new : t->shape[d];
        x->map[d] = d == dim ? NULL : axis[d];
        if (axis[d] && axis[d]->n_old != t->shape[d])
            return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(c->shard[t->shard].path, t->name), "tensor-shape", "found %" PRId64 " in dimension %d, expected %" PRId64, t->shape[d], d, axis[d]->n_old);
    }
    return FQ_OK;
}

static fq_status create(making *j, fq_err *e)
{
    fqi_parts *p = j->p;
    const fq_ckpt *c = p->ckpt;
    size_t n_codes = 0, n_module;
    for (size_t i = 0; i < c->n_tensor; i++) n_codes += fqi_quant_is_codes(c, i, &n_module);
    p->of = fqi_calloc(c->n_tensor + 1, sizeof *p->of);
    p->module = fqi_calloc(n_codes + 1, sizeof *p->module);
    if (!p->of || !p->module) return fqi_fail_nomem(e, "maps of parts");
    for (size_t i = 0; i < c->n_tensor; i++) p->of[i].module = FQI_NO_PART;
    for (size_t i = 0; i < c->n_tensor; i++) {
        fqi_bound b;
        int64_t length[2];
        if (fqi_quant_row(c, i, &b, length)) FQI_TRY(add_module(j, i, &b, length, e));
    }
    for (size_t i = 0; i < c->n_tensor; i++)
        if (p->of[i].module == FQI_NO_PART) FQI_TRY(add_plain(j, i, e));
    for (size_t i = 0; i < c->n_tensor; i++)
        if (is_put_together(&p->of[i]) && c->tensor[i].bytes > p->largest) p->largest = c->tensor[i].bytes;
    return FQ_OK;
}

/* ---- computed parts ------------------------------------------------------------------------------------------------ */

/* Groups of the channels by number, as they were and, of new channels, behind those. */
static fq_status moved_order(const fqi_parts *p, const fq_run *run, const fqi_parts_module *m, uint32_t *group, fq_err *e)
{
    const fqi_tensor *t = m->now.part[FQI_PART_ORDER];
    const int64_t g = m->now.size.group_cols, n_group = m->now.size.cols / g;
    uint32_t *old;
    int64_t at = 0, n_empty = 0;
    FQI_TRY(fqi_order_read(p->ckpt, run, t, &old, e));
    bool ordered = false;
    for (int64_t k = 0; k < m->now.size.cols; k++) ordered = ordered || old[k] != (uint32_t)(k / g);
    ordered = ordered && !m->fold_inputs;
    for (; !m->map[1] && at < m->size_new.cols; at++) group[at] = (uint32_t)(at / m->size_new.group_cols);
    for (size_t i = 0; m->map[1] && i < m->map[1]->n_run; i++)
        for (int64_t k = 0; k < m->map[1]->run[i].count; k++, at++) {
            const int64_t src = m->map[1]->run[i].src;
            if (!ordered) group[at] = (uint32_t)(at / m->size_new.group_cols);
            else group[at] = src >= 0 ? old[src + k] : (uint32_t)(n_group + n_empty++ / g);
        }
    free(old);
    return FQ_OK;
}

static const fqi_map *forward_map(const fqi_parts *p, const fqi_fold_mlp *x)
{
    const fqi_map *m = &p->forward->map[x->axis];
    return m->n_run > 0 ? m : NULL;
}

static fq_status make_order(const fqi_parts *p, const fq_run *run, const fqi_parts_module *m, uint64_t off, unsigned char *out, size_t n, fq_err *e)
{
    uint32_t *group = NULL;
    int64_t n_group = m->size_new.cols;
    fq_status s;
    if (m->fold_inputs && p->fold->file) {
        s = fqi_fold_order(p->fold, m->fold, forward_map(p, m->fold), m->group_forward, &group, &n_group, e);
    } else {
        group = fqi_calloc((size_t)m->size_new.cols, sizeof *group);
        s = group ? moved_order(p, run, m, group, e) : fqi_fail_nomem(e, "order of channels");
    }
    if (s == FQ_OK) memcpy(out, (unsigned char *)group + off, n);
    free(group);
    return s;
}

static void make_shape(const fqi_parts *p, const fqi_parts_module *m, size_t i, uint64_t off, unsigned char *out, size_t n)
{
    unsigned char both[16];
    const size_t size = fq_dtype_bits((fq_dtype)p->ckpt->tensor[i].dtype) / 8;
    const int64_t shape[2] = { m->size_new.rows, m->size_new.cols };
    for (size_t d = 0; d < 2; d++) memcpy(both + d * size, &shape[d], size);   /* little-endian: the low half of an I64 is the I32 */
    memcpy(out, both + off, n);
}

/* ---- channels in another order ------------------------------------------------------------------------------------- */

typedef struct fqi_parts_reader {
    size_t tensor;              /* SIZE_MAX: none */
    fqi_file file;
    bool open;
    fqi_fields *fields;
    fqi_zero_fill *zeros;
    int32_t *of[2];
    fqi_hash128 *hash;          /* of each tensor of the catalogue that passed by in its order; 0: not known */
} reader;

static void end_tensor(reader *r)
{
    fqi_fields_close(r->fields);
    fqi_zero_fill_close(r->zeros);
    if (r->open) fqi_file_close(&r->file);
    free(r->of[0]);
    free(r->of[1]);
    *r = (reader){ .tensor = SIZE_MAX, .hash = r->hash };
}

static void close_reader(reader *r)
{
    if (!r) return;
    end_tensor(r);
    free(r->hash);
    free(r);
}

/* A map as the indices that it stands for. */
static fq_status expand(const fqi_map *m, int32_t **out, fq_err *e)
{
    int64_t at = 0;
    if (m->n_old > INT32_MAX || !(*out = fqi_calloc((size_t)m->n_new + 1, sizeof **out))) return fqi_fail_nomem(e, "maps of parts");
    for (size_t i = 0; i < m->n_run; i++)
        for (int64_t k = 0; k < m->run[i].count; k++) (*out)[at++] = m->run[i].src < 0 ? -1 : (int32_t)(m->run[i].src + k);
    return FQ_OK;
}

static fq_status begin_dim(const fqi_parts *p, const fq_run *run, size_t i, int d, fqi_fields_axis *out, reader *r, fq_err *e)
{
    const fqi_part_plan *x = &p->of[i];
    const fqi_tensor *t = &p->ckpt->tensor[i];
    const fqi_parts_module *m = x->module == FQI_NO_PART ? NULL : &p->module[x->module];
    const int at = t->rank == 1 ? 1 : d;   /* a bias is one row */
    fqi_fields_axis a = { .n = t->shape[d], .n_old = t->shape[d], .per_word = 1 };
    if (x->fold && d == x->fold_dim) {
        if (m && m->now.form->part[x->part].dim[d].unit == FQI_UNIT_WORD) a.per_word = 32u / (unsigned)m->now.size.bits;
        a.n_old = t->shape[d] * a.per_word;
        FQI_TRY(fqi_fold_channels(p->fold, x->fold, forward_map(p, x->fold), run, &r->of[at], &a.n, e));
    } else if (x->cut[d]) {
        a.per_word = 32u / (unsigned)m->now.size.bits;
        FQI_TRY(expand(x->cut[d], &r->of[at], e));
        a.n = x->cut[d]->n_new;
        a.n_old = x->cut[d]->n_old;
    } else if (x->map[d]) {
        FQI_TRY(expand(x->map[d], &r->of[at], e));
        a.n = x->map[d]->n_new;
    }
    a.of = r->of[at];
    *out = a;
    return FQ_OK;
}

uint64_t fqi_parts_memory(const fqi_parts *p, const fq_run *run)
{
    const uint64_t limit = run->memory_bytes ? run->memory_bytes / 4 : FOLD_BYTES;
    if (!p) return 0;
    return p->largest < limit ? p->largest : limit;
}

static fq_status begin_tensor(const fqi_parts *p, const fq_run *run, size_t i, reader *r, fq_err *e)
{
    const fqi_part_plan *x = &p->of[i];
    const fqi_tensor *t = &p->ckpt->tensor[i];
    fqi_fields_request q = { .file = &r->file, .tensor = t, .axis = { [0] = { .n = 1, .n_old = 1, .per_word = 1 } }, .memory = fqi_parts_memory(p, run),
                             .field = x->module == FQI_NO_PART ? NULL : p->module[x->module].now.form->field };
    memcpy(q.fill, x->fill, sizeof q.fill);
    end_tensor(r);
    FQI_TRY(fqi_ckpt_open_shard(p->ckpt, t->shard, run->io, &r->file, e));
    r->open = true;
    for (int d = 0; d < t->rank; d++) FQI_TRY(begin_dim(p, run, i, d, &q.axis[t->rank == 1 ? 1 : d], r, e));
    FQI_TRY(fqi_fields_open(&q, &r->fields, e));
    if (x->own_zeros) {
        const fqi_parts_module *m = &p->module[x->module];
        FQI_TRY(fqi_zero_fill_open(p->ckpt, run->io, &m->now, m->map[1], &m->size_new, &r->zeros, e));
    }
    r->tensor = i;
    return FQ_OK;
}

static fq_status put_together(const fqi_parts *p, const fq_run *run, size_t i, uint64_t off, unsigned char *out, size_t n, fq_err *e)
{
    reader *r = p->reader;
    if (!r->hash && !(r->hash = fqi_calloc(p->ckpt->n_tensor + 1, sizeof *r->hash))) return fqi_fail_nomem(e, "hash table");
    if (r->tensor != i || off == 0) {
        const fq_status s = begin_tensor(p, run, i, r, e);
        if (s != FQ_OK) {
            end_tensor(r);
            return s;
        }
    }
    FQI_TRY(fqi_fields_read(r->fields, off, out, n, e));
    if (r->zeros) fqi_zero_fill_apply(r->zeros, off, out, n);
    uint64_t hash[2];
    if (r->hash[i].hi == 0 && r->hash[i].lo == 0 && fqi_fields_hash(r->fields, hash)) r->hash[i] = (fqi_hash128){ .hi = hash[0], .lo = hash[1] };
    return FQ_OK;
}

bool fqi_parts_source_hash(const fqi_parts *p, size_t i, fqi_hash128 *out)
{
    if (!p || !p->reader || !p->reader->hash) return false;
    *out = p->reader->hash[i];
    return out->hi != 0 || out->lo != 0;
}

const fqi_part_plan *fqi_parts_of(const fqi_parts *p, size_t i)
{
    return p && p->of && (p->of[i].module != FQI_NO_PART || p->of[i].computed) ? &p->of[i] : NULL;
}

fq_status fqi_parts_make(const fqi_parts *p, const fq_run *run, size_t i, uint64_t off, unsigned char *out, size_t n, fq_err *e)
{
    const fqi_part_plan *x = &p->of[i];
    if (is_put_together(x)) return put_together(p, run, i, off, out, n, e);
    if (x->part == FQI_PART_ORDER) return make_order(p, run, &p->module[x->module], off, out, n, e);
    make_shape(p, &p->module[x->module], i, off, out, n);
    return FQ_OK;
}

/* ---- the table ------------------------------------------------------------------------------------------------------ */

fq_status fqi_parts_create(const fq_ckpt *c, const fqi_parts_request *r, fqi_parts *out, fq_err *e)
{
    making j = { .p = out, .maps = r->maps, .forward = r->forward, .regroup = r->regroup, .fold = r->fold };
    *out = (fqi_parts){ .ckpt = c, .fold = r->fold, .forward = r->forward ? r->forward : r->maps };
    if (c->info.model.quant == FQ_QUANT_NONE || !c->bound) return FQ_OK;
    FQI_TRY(fqi_quant_scheme_read(c, &j.scheme, e));
    if (!(out->reader = fqi_calloc(1, sizeof *out->reader))) return fqi_fail_nomem(e, "maps of parts");
    out->reader->tensor = SIZE_MAX;
    return create(&j, e);
}

void fqi_parts_free(fqi_parts *p)
{
    if (!p) return;
    for (size_t i = 0; i < p->n_derived; i++) {
        fqi_map_free(&p->derived[i]->map);
        free(p->derived[i]);
    }
    close_reader(p->reader);
    free(p->derived);
    free(p->of);
    free(p->module);
    *p = (fqi_parts){ 0 };
}

void fqi_parts_units(const fqi_quant_scheme *s, int64_t *unit, int64_t *grain)
{
    *unit = *grain = 0;
    if (s->layouts == 0) return;
    bool words = false;   /* numbers of 8 bits stand alone */
    for (int l = 0; l < FQI_N_QL; l++) words = words || ((s->layouts >> l & 1u) && !fqi_quant_form_of((fqi_quant_layout)l)->floats);
    *grain = words && s->bits > 0 && 32 % s->bits == 0 ? 32 / s->bits : 1;
    *unit = words && s->group_size > 0 ? s->group_size : *grain;
    for (int d = 0; d < 2; d++)
        if (s->block[d] > *unit) *unit = s->block[d];
    if (words && !s->sym && s->zeros_v1) *grain = *unit;   /* not split: what fills up a group is its zero point, and of this format some have no code */
}
