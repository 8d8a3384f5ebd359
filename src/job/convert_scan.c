/* convert_scan.c - what the weights of a quantized checkpoint are, whatever its config.json says of them. See convert_private.h.
 *
 * Zero points, orders of channels and stored shapes are a thirtieth of the codes, and all that decides whether a form can hold a model stands
 * in them. So they are read first: a conversion that cannot be exact is refused before a byte is written. Zero points of a symmetric model are
 * one number, stored in one of two ways, so a label that names the wrong one is found; of an asymmetric model it is found only where it
 * leads to a zero point that no format has. */
#include <inttypes.h>

#include "job/convert_private.h"

typedef struct looking {
    fqi_convert *c;
    const fqi_quant_module *q;
    unsigned full, middle, add;      /* add: to what is stored */
    uint64_t n, n_other;             /* fields; those that the other format of zero points stores in a symmetric model */
    bool bad;                        /* some field cannot be: the first */
    unsigned stored;
    int64_t group, row;
} looking;

static const fqi_where *where(const looking *l, fqi_where *out)
{
    const fqi_tensor *t = l->q->part[FQI_PART_ZERO];
    *out = *FQI_TENSOR(l->c->ckpt->shard[t->shard].path, t->name);
    return out;
}

/* A label that the data contradict, with what would resolve it. */
static fq_status refuse_zeros(const looking *l, fq_err *e)
{
    const fqi_quant_module *q = l->q;
    const bool v1 = q->zeros_v1, told = l->c->o->zeros != FQ_ZEROS_AS_LABELLED, gptq = q->layout == FQI_QL_GPTQ;
    const char *now = v1 ? "gptq" : "gptq_v2", *other = v1 ? "gptq_v2" : "gptq", *says = told ? (v1 ? "--zeros v1" : "--zeros v2") : v1 ? "checkpoint_format gptq" : "checkpoint_format gptq_v2";
    fqi_where at;
    if (q->sym && gptq && l->n_other == l->n)
        return fqi_fail(e, FQ_E_INPUT, where(l, &at), "zero-version", "group %" PRId64 ", output channel %" PRId64 ": found %u in this and every other place, which is how format %s stores zero points, expected %u as "
                        "%s says; --zeros %s tells that the data are right, and the label is repaired", l->group, l->row, l->stored, other, l->middle - l->add, says, v1 ? "v2" : "v1");
    if (q->sym)
        return fqi_fail(e, FQ_E_INPUT, where(l, &at), "packed-zero", "group %" PRId64 ", output channel %" PRId64 ": found %u as it is stored, expected %u everywhere: config.json says symmetric%s%s", l->group, l->row, l->stored,
                        l->middle - l->add, gptq ? ", zero points as format " : "", gptq ? now : "");
    return fqi_fail(e, FQ_E_INPUT, where(l, &at), "packed-zero", "group %" PRId64 ", output channel %" PRId64 ": found %u as it is stored, expected less: format gptq makes it %u of 0 to %u, so the zero point is 0 and readers "
                    "disagree about it, or the label is wrong (--zeros v2)", l->group, l->row, l->stored, l->stored + 1, l->full);
}

static void look_at(looking *l, const uint8_t *field, int64_t n_row, int64_t group)
{
    const unsigned other = l->add ? l->middle : l->middle - 1;
    fqi_convert *c = l->c;
    for (int64_t r = 0; r < n_row; r++) {
        const unsigned stored = field[r], zero = stored + l->add;
        l->n++;
        l->n_other += stored == other;
        if (((l->add && stored == l->full) || (l->q->sym && zero != l->middle)) && !l->bad) {
            l->bad = true;
            l->stored = stored;
            l->group = group;
            l->row = r;
        }
        c->sym = c->sym && zero == l->middle;
        if (zero == 0 && !c->zero_zero) {
            c->zero_zero = l->q->part[FQI_PART_ZERO];
            c->zero_group = group;
            c->zero_row = r;
        }
    }
}

static fq_status scan_zeros(fqi_convert *c, const fqi_quant_module *q, fq_err *e)
{
    looking l = { .c = c, .q = q, .full = (1u << q->size.bits) - 1, .middle = 1u << (q->size.bits - 1), .add = q->zeros_v1 };
    const int64_t n_group = fqi_convert_length_x(q, FQI_PART_ZERO), most = fqi_convert_zero_groups(c, q);
    for (int64_t g = 0; g < n_group; g += most) {
        const int64_t n = n_group - g < most ? n_group - g : most;
        const uint8_t *field;
        FQI_TRY(fqi_convert_zeros(c, q, g, n, &field, e));
        for (int64_t i = 0; i < n; i++) look_at(&l, field + i * q->size.rows, q->size.rows, g + i);
    }
    return l.bad ? refuse_zeros(&l, e) : FQ_OK;
}

static fq_status scan_module(fqi_convert *c, size_t i, fq_err *e)
{
    const fqi_quant_module *q = &c->parts.module[i].now;
    const fq_run *run = c->run;
    if (run->cancelled && run->cancelled(run->user)) return fqi_fail(e, FQ_E_CANCELLED, NULL, "cancelled", "stopped on request");
    FQI_TRY(fqi_parts_check_shape(c->ckpt, q, e));
    FQI_TRY(fqi_parts_check_order(c->ckpt, q, &c->is_ordered[i], e));
    c->ordered = c->ordered || c->is_ordered[i];
    return q->part[FQI_PART_ZERO] ? scan_zeros(c, q, e) : FQ_OK;
}

fq_status fqi_convert_scan(fqi_convert *c, fq_err *e)
{
    c->sym = true;
    c->is_ordered = fqi_calloc(c->parts.n_module + 1, sizeof *c->is_ordered);
    if (!c->is_ordered) return fqi_fail_nomem(e, "table of modules");
    for (size_t i = 0; i < c->parts.n_module; i++)
        if (!c->parts.module[i].now.form->floats) FQI_TRY(scan_module(c, i, e));
    return FQ_OK;
}
