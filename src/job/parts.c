/* parts.c - maps of the parts of quantized modules. See parts.h. */
#include "job/parts.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "checkpoint/packed.h"

/* A map that follows from an axis' map. Few: axes x units. */
typedef struct fqi_parts_map { const fqi_map *axis; int64_t length; fqi_unit unit; int64_t now, next; fqi_map map; } derived;   /* axis NULL: identity of that length */

typedef struct making {
    fqi_parts *p;
    const fqi_maps *maps, *forward;
    int64_t regroup;
    fqi_quant_scheme scheme;
} making;

/* A module while its parts are looked at. axis: N and K as they are being applied; forward: the same, or what they undo. */
typedef struct looking {
    const making *j;
    fqi_parts_module *m;
    const fqi_map *axis[2], *forward[2];
    fqi_quant_size old, new;    /* of the forward maps */
    bool ordered;               /* g_idx is another than k / group */
    bool regroups;
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

/* What a dimension that is not counted in elements gets. */
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
        *out = &y->map;
        return FQ_OK;
    }
    if (x.next < 0) x.next = -x.next;
    fq_status s = make_map(l, axis, d, &x, &why);
    if (k && d.unit == FQI_UNIT_GROUP && l->ordered) x.next = -x.next;
    if (s == FQ_OK && l->j->forward) {
        fqi_map back = { 0 };
        s = fqi_map_inverse(&x.map, &back, &why);
        fqi_map_free(&x.map);
        x.map = back;
    }
    if (s == FQ_OK && (s = remember(l->j->p, &x, out, &why)) == FQ_OK) return FQ_OK;
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
static fq_status check_zeros(const looking *l, fq_err *e)
{
    const fqi_quant_module *q = &l->m->now;
    fqi_map whole = { 0 };
    fq_err why;
    char shown[FQI_NAME_MAX + 1];
    if (q->form->floats || q->sym || !l->forward[1] || l->ordered) return FQ_OK;
    const fq_status s = fqi_map_shrink(l->forward[1], l->new.group_cols, &whole, &why);
    fqi_map_free(&whole);
    if (s == FQ_OK || s == FQ_E_NOMEM) return s == FQ_OK ? s : fqi_fail_nomem(e, "maps of parts");
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(l->j->p->ckpt->info.path), "packed-zero", "module %s: found zero points of their own, and groups that would be filled up in part, expected whole groups of %" PRId64,
                    module_name(l, shown), l->new.group_cols);
}

/* ---- g_idx --------------------------------------------------------------------------------------------------------- */

static fq_status read_order(const fq_ckpt *c, const fq_run *run, const fqi_tensor *t, uint32_t **out, fq_err *e)
{
    fqi_file f;
    *out = fqi_calloc((size_t)t->shape[0], sizeof **out);
    if (!*out) return fqi_fail_nomem(e, "order of channels");
    fq_status s = fqi_ckpt_open_shard(c, t->shard, run ? run->io : FQ_IO_BUFFERED, &f, e);
    if (s == FQ_OK) {
        s = fqi_file_read(&f, *out, (size_t)t->bytes, t->off, e);
        fqi_file_close(&f);
    }
    if (s == FQ_OK) return FQ_OK;
    free(*out);
    *out = NULL;
    return s;
}

static fq_status look_at_order(looking *l, fq_err *e)
{
    const fqi_tensor *t = l->m->now.part[FQI_PART_ORDER];
    const fqi_quant_size *s = &l->m->now.size;
    uint32_t *group;
    if (!t || (!l->axis[1] && !l->regroups)) return FQ_OK;
    FQI_TRY(read_order(l->j->p->ckpt, NULL, t, &group, e));
    fq_status status = FQ_OK;
    for (int64_t k = 0; k < s->cols; k++) {
        l->ordered = l->ordered || group[k] != (uint32_t)(k / s->group_cols);
        if (status == FQ_OK && group[k] >= (uint64_t)(s->cols / s->group_cols))
            status = fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(l->j->p->ckpt->shard[t->shard].path, t->name), "packed-order", "found group %" PRId32 " for input channel %" PRId64 ", expected 0 to %" PRId64,
                              (int32_t)group[k], k, s->cols / s->group_cols - 1);
    }
    free(group);
    return status;
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

static fq_status plan_part(looking *l, uint32_t module, fqi_part part, fq_err *e)
{
    fqi_parts *p = l->j->p;
    const fqi_quant_module *q = &l->m->now;
    const fqi_tensor *t = q->part[part];
    const fqi_part_form *form = &q->form->part[part];
    fqi_part_plan *x = &p->of[t - p->ckpt->tensor];
    *x = (fqi_part_plan){ .module = module, .part = (uint8_t)part };
    choose_fill(q, part, x->fill);
    for (int d = 0; d < t->rank && d < 2; d++) {
        const fqi_part_dim dim = form->dim[d];
        const int k = dim.along == FQI_ALONG_K;
        x->shape_new[d] = t->shape[d];
        const bool regrouped = l->regroups && k && dim.unit == FQI_UNIT_GROUP;
        if (dim.along == FQI_ALONG_NONE || (!l->axis[k] && !regrouped)) continue;
        if (dim.unit == FQI_UNIT_ELEMENT) x->map[d] = l->axis[k];
        else FQI_TRY(derive(l, dim, &x->map[d], e));
        x->shape_new[d] = x->map[d]->n_new;
        if (x->map[d]->n_old != t->shape[d])
            return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(p->ckpt->shard[t->shard].path, t->name), "packed-shape", "found %" PRId64 " in dimension %d, expected %" PRId64, t->shape[d], d, x->map[d]->n_old);
    }
    x->computed = (l->axis[0] || l->axis[1]) && part == FQI_PART_SHAPE;
    if (part == FQI_PART_ORDER && (l->axis[1] || l->regroups)) x->computed = !(l->ordered && l->j->forward);   /* going back, old channels have their old groups */
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

/* The shape is written anew: one that does not tell the lengths would otherwise be mended without a word, and unpad could not give it back. */
static fq_status check_stored_shape(const looking *l, fq_err *e)
{
    const fqi_tensor *t = l->m->now.part[FQI_PART_SHAPE];
    int64_t want[2] = { l->m->now.size.rows, l->m->now.size.cols }, found[2] = { 0, 0 };
    unsigned char both[16];
    fqi_file f;
    if (!t || (!l->axis[0] && !l->axis[1])) return FQ_OK;
    const size_t size = fq_dtype_bits((fq_dtype)t->dtype) / 8;
    FQI_TRY(fqi_ckpt_open_shard(l->j->p->ckpt, t->shard, FQ_IO_BUFFERED, &f, e));
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
    return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(l->j->p->ckpt->shard[t->shard].path, t->name), "packed-shape", "found %" PRId64 " x %" PRId64 ", expected %" PRId64 " x %" PRId64, found[0], found[1], want[0], want[1]);
}

static fq_status plan_module(looking *l, uint32_t module, fq_err *e)
{
    const fqi_quant_module *q = &l->m->now;
    char shown[FQI_NAME_MAX + 1];
    const bool changes = l->axis[0] || l->axis[1];
    l->regroups = l->j->regroup != 0 && !q->form->floats;
    if (changes && !q->form->floats && q->size.bits == 3)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(l->j->p->ckpt->info.path), "packed-bits", "module %s: found 3 bits, whose codes straddle words, expected 2, 4 or 8", module_name(l, shown));
    FQI_TRY(look_at_order(l, e));
    if (l->regroups && l->ordered)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(l->j->p->ckpt->info.path), "packed-order", "module %s: found a g_idx that is not in the order of channels, expected one that is: its groups cannot be made smaller", module_name(l, shown));
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
    FQI_TRY(check_zeros(l, e));
    for (int part = FQI_PART_CODES; part < FQI_PART_OTHER; part++)
        if (q->part[part]) FQI_TRY(plan_part(l, module, (fqi_part)part, e));
    return FQ_OK;
}

/* The row of M.weight: bound as it is (FP8), or through the module. */
static bool row_of_codes(const fq_ckpt *c, size_t i, fqi_bound *out)
{
    *out = c->bound[i];
    if (out->row) return true;
    return c->config.family && out->canonical && fqi_packed_bind(c->config.family, &c->naming, c->tensor[i].name, out) && out->row;
}

static fq_status add_module(making *j, size_t i, const fqi_row *row, fq_err *e)
{
    fqi_parts *p = j->p;
    const fq_ckpt *c = p->ckpt;
    const fqi_map *axis[FQ_MAX_RANK], *forward[FQ_MAX_RANK];
    int64_t length[2];
    if (row->rank != 2)
        return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(c->shard[c->tensor[i].shard].path, c->tensor[i].name), "quantized", "found codes of %d dimensions, expected those of a linear layer: all experts in one tensor are not read", row->rank);
    for (int d = 0; d < 2; d++) {
        length[d] = fqi_axis_length(&c->config.model, (fqi_axis)row->dim[d].axis);
        if (row->dim[d].parts > 1 && !fqi_mul_i64(length[d], row->dim[d].parts, &length[d])) length[d] = 0;
    }
    fqi_parts_module *m = &p->module[p->n_module];
    FQI_TRY(fqi_quant_module_find(c, &j->scheme, i, length[0], length[1], &m->now, e));
    fqi_maps_of_row(j->maps, row, axis);
    fqi_maps_of_row(j->forward ? j->forward : j->maps, row, forward);
    looking l = { .j = j, .m = m, .axis = { axis[0], axis[1] }, .forward = { forward[0], forward[1] } };
    m->map[0] = axis[0];
    m->map[1] = axis[1];
    return plan_module(&l, (uint32_t)p->n_module++, e);
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
        if (fqi_quant_is_codes(c, i, &n_module) && row_of_codes(c, i, &b)) FQI_TRY(add_module(j, i, b.row, e));
    }
    return FQ_OK;
}

fq_status fqi_parts_create(const fq_ckpt *c, const fqi_parts_request *r, fqi_parts *out, fq_err *e)
{
    making j = { .p = out, .maps = r->maps, .forward = r->forward, .regroup = r->regroup };
    *out = (fqi_parts){ .ckpt = c };
    if (c->info.model.quant == FQ_QUANT_NONE || !c->bound) return FQ_OK;
    FQI_TRY(fqi_quant_scheme_read(c, &j.scheme, e));
    return create(&j, e);
}

void fqi_parts_free(fqi_parts *p)
{
    if (!p) return;
    for (size_t i = 0; i < p->n_derived; i++) {
        fqi_map_free(&p->derived[i]->map);
        free(p->derived[i]);
    }
    free(p->derived);
    free(p->of);
    free(p->module);
    *p = (fqi_parts){ 0 };
}

/* ---- computed parts ------------------------------------------------------------------------------------------------ */

/* Groups of the channels by number, as they were and, of new channels, behind those. */
static fq_status moved_order(const fqi_parts *p, const fq_run *run, const fqi_parts_module *m, uint32_t *group, fq_err *e)
{
    const fqi_tensor *t = m->now.part[FQI_PART_ORDER];
    const int64_t g = m->now.size.group_cols, n_group = m->now.size.cols / g;
    uint32_t *old;
    int64_t at = 0, n_empty = 0;
    FQI_TRY(read_order(p->ckpt, run, t, &old, e));
    bool ordered = false;
    for (int64_t k = 0; k < m->now.size.cols; k++) ordered = ordered || old[k] != (uint32_t)(k / g);
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

static fq_status make_order(const fqi_parts *p, const fq_run *run, const fqi_parts_module *m, uint64_t off, unsigned char *out, size_t n, fq_err *e)
{
    uint32_t *group = fqi_calloc((size_t)m->size_new.cols, sizeof *group);
    if (!group) return fqi_fail_nomem(e, "order of channels");
    const fq_status s = moved_order(p, run, m, group, e);
    if (s == FQ_OK) memcpy(out, (unsigned char *)group + off, n);
    free(group);
    return s;
}

fq_status fqi_parts_make(const fqi_parts *p, const fq_run *run, size_t i, uint64_t off, unsigned char *out, size_t n, fq_err *e)
{
    const fqi_part_plan *x = &p->of[i];
    const fqi_parts_module *m = &p->module[x->module];
    if (x->part == FQI_PART_ORDER) return make_order(p, run, m, off, out, n, e);
    unsigned char both[16];
    const size_t size = fq_dtype_bits((fq_dtype)p->ckpt->tensor[i].dtype) / 8;
    const int64_t shape[2] = { m->size_new.rows, m->size_new.cols };
    for (size_t d = 0; d < 2; d++) memcpy(both + d * size, &shape[d], size);   /* little-endian: the low half of an I64 is the I32 */
    memcpy(out, both + off, n);
    return FQ_OK;
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
    if (words && !s->sym) *grain = *unit;   /* groups with zero points of their own are not split: what fills them up would not be zero */
}
