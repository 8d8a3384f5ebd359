/* quant_made.c - the tensors that quantized modules are stored in: their names and shapes before the work, their bytes after it.
 *
 * Rows and columns of a file are those of the fitted model; codes are those of the real one. The maps between them are the fitting's, but
 * where a layer's MLP channels were put in another order (quant_layer.h), gate, up and down all take that one. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "job/quantize_private.h"
#include "quant/pack.h"

typedef struct stored_part {
    fqi_made_part part;
    const char *suffix;
    fq_dtype dtype;          /* of SCALES: see scale_dtype */
    bool asymmetric_only;
} stored_part;

#define N_PACKING 2
static const stored_part parts[N_PACKING][FQI_MADE_PARTS] = {
    [FQ_PACKING_GPTQ] = {
        { FQI_MADE_CODES, ".qweight", FQ_DTYPE_I32, false }, { FQI_MADE_ZEROS, ".qzeros", FQ_DTYPE_I32, false },
        { FQI_MADE_SCALES, ".scales", FQ_DTYPE_F16, false }, { FQI_MADE_ORDER, ".g_idx", FQ_DTYPE_I32, false } },
    [FQ_PACKING_COMPRESSED_TENSORS] = {
        { FQI_MADE_CODES, ".weight_packed", FQ_DTYPE_I32, false }, { FQI_MADE_SCALES, ".weight_scale", FQ_DTYPE_F16, false },
        { FQI_MADE_SHAPE, ".weight_shape", FQ_DTYPE_I64, false }, { FQI_MADE_ZEROS, ".weight_zero_point", FQ_DTYPE_I32, true } },
};

/* compressed-tensors keeps scales in the type of the model, GPTQ in F16. */
static fq_dtype scale_dtype(const fqi_quantize *q, const fqi_module *m)
{
    bool bf16 = q->o->packing == FQ_PACKING_COMPRESSED_TENSORS && m->tensor->dtype == FQ_DTYPE_BF16;
    return bf16 ? FQ_DTYPE_BF16 : FQ_DTYPE_F16;
}

static int64_t words(int64_t fields, int bits) { return (fields * bits + 31) / 32; }

static int64_t groups_of(const fqi_quantize *q, const fqi_module *m)
{
    int64_t g = q->settings.group_size > 0 ? q->settings.group_size : m->cols_pad;
    return (m->cols_pad + g - 1) / g;
}

static void shape_of(const fqi_quantize *q, const fqi_module *m, const stored_part *p, fqi_made *out)
{
    const int bits = q->settings.grid.bits;
    const int64_t n = m->rows_pad, k = m->cols_pad, g = groups_of(q, m);
    const int64_t shape[N_PACKING][FQI_MADE_SHAPE + 1][2] = {
        [FQ_PACKING_GPTQ] = { [FQI_MADE_CODES] = { words(k, bits), n }, [FQI_MADE_ZEROS] = { g, words(n, bits) }, [FQI_MADE_SCALES] = { g, n }, [FQI_MADE_ORDER] = { k, 0 } },
        [FQ_PACKING_COMPRESSED_TENSORS] = { [FQI_MADE_CODES] = { n, words(k, bits) }, [FQI_MADE_ZEROS] = { words(n, bits), g }, [FQI_MADE_SCALES] = { n, g }, [FQI_MADE_SHAPE] = { 2, 0 } },
    };
    memcpy(out->shape_pad, shape[q->o->packing][p->part], sizeof out->shape_pad);
    out->rank = out->shape_pad[1] == 0 ? 1 : 2;
    out->dtype = p->part == FQI_MADE_SCALES ? scale_dtype(q, m) : p->dtype;
}

fq_status fqi_quant_make_table(fqi_quantize *q, fq_err *e)
{
    q->made = fqi_calloc(q->modules.n * FQI_MADE_PARTS + 1, sizeof *q->made);
    if (!q->made) return fqi_fail_nomem(e, "table of quantized tensors");
    for (size_t i = 0; i < q->modules.n; i++) {
        fqi_module *m = &q->modules.at[i];
        m->first_made = q->n_made;
        for (size_t k = 0; k < FQI_MADE_PARTS; k++) {
            const stored_part *p = &parts[q->o->packing][k];
            if (p->asymmetric_only && q->settings.grid.sym) continue;
            fqi_made *x = &q->made[q->n_made];
            *x = (fqi_made){ .instead_of = m->tensor, .suffix = p->suffix, .module = m->tensor->rank == 3 ? m->name : NULL, .id = i * FQI_MADE_PARTS + k };
            shape_of(q, m, p, x);
            q->n_made++;
        }
    }
    return FQ_OK;
}

/* ---- bytes ---------------------------------------------------------------------------------------------------------------- */

typedef struct filling {
    const fqi_quantize *q;
    const fqi_module *m;
    const fqi_codes *codes;
    fqi_pack_shape shape;
    int64_t *row_of, *col_of;    /* owned; shape borrows them */
    fq_dtype scale;
    uint8_t *to;
} filling;

static void expand(const fqi_map *map, int64_t n, int64_t *out)
{
    size_t at = 0;
    if (!map || map->n_run == 0)
        for (int64_t i = 0; i < n; i++) out[i] = i;
    for (size_t r = 0; map && r < map->n_run; r++)
        for (int64_t i = 0; i < map->run[r].count; i++) out[at++] = map->run[r].src < 0 ? -1 : map->run[r].src + i;
}

static bool is_down(const fqi_module *m) { return m->input == FQI_TAP_DOWN || m->input == FQI_TAP_EXPERT_DOWN || m->input == FQI_TAP_SHARED_DOWN; }

static fq_status begin(filling *f, const fqi_layer_codes *layer, size_t i, fq_err *e)
{
    const fqi_module *m = f->m;
    const fqi_map *row = m->row_map, *col = m->col_map;
    if (layer->mlp_of && layer->mlp_of[i] != SIZE_MAX && layer->mlp[layer->mlp_of[i]].n_run > 0) *(is_down(m) ? &col : &row) = &layer->mlp[layer->mlp_of[i]];
    f->row_of = fqi_calloc((size_t)m->rows_pad, sizeof *f->row_of);
    f->col_of = fqi_calloc((size_t)m->cols_pad, sizeof *f->col_of);
    if (!f->row_of || !f->col_of) return fqi_fail_nomem(e, "maps of a quantized tensor");
    expand(row, m->rows_pad, f->row_of);
    expand(col, m->cols_pad, f->col_of);
    f->shape = (fqi_pack_shape){ .n_row_pad = (size_t)m->rows_pad, .n_col_pad = (size_t)m->cols_pad, .row_of = f->row_of, .col_of = f->col_of,
                                   .group_size = (size_t)(f->q->settings.group_size > 0 ? f->q->settings.group_size : m->cols_pad), .n_thread = f->q->n_thread };
    return FQ_OK;
}

static fq_status fill_gptq(const filling *f, fqi_made_part part, fq_err *e)
{
    switch (part) {
    case FQI_MADE_CODES: fqi_pack_gptq(f->codes, &f->shape, 0, (size_t)words(f->m->cols_pad, f->codes->bits), (uint32_t *)(void *)f->to); return FQ_OK;
    case FQI_MADE_SCALES: fqi_pack_gptq_scales(f->codes, &f->shape, f->scale, (uint16_t *)(void *)f->to); return FQ_OK;
    case FQI_MADE_ORDER: {
        int32_t *g = (int32_t *)(void *)f->to;
        int64_t size = f->q->settings.group_size > 0 ? f->q->settings.group_size : f->m->cols_pad;
        for (int64_t k = 0; k < f->m->cols_pad; k++) g[k] = (int32_t)(k / size);
        return FQ_OK;
    }
    case FQI_MADE_ZEROS:
        if (!fqi_pack_gptq_zeros(f->codes, &f->shape, true, (uint32_t *)(void *)f->to)) return FQ_OK;
        return fqi_fail(e, FQ_E_NUMERIC, FQI_TENSOR(NULL, f->m->name), "zero-point", "found zero point 0, expected 1 or more: format gptq stores zero - 1");
    case FQI_MADE_SHAPE: break;
    }
    return FQ_OK;
}

static fq_status fill_ct(const filling *f, fqi_made_part part, fq_err *e)
{
    (void)e;
    switch (part) {
    case FQI_MADE_CODES: fqi_pack_ct(f->codes, &f->shape, 0, f->shape.n_row_pad, (uint32_t *)(void *)f->to); break;
    case FQI_MADE_SCALES: fqi_pack_ct_scales(f->codes, &f->shape, f->scale, (uint16_t *)(void *)f->to); break;
    case FQI_MADE_ZEROS: fqi_pack_ct_zeros(f->codes, &f->shape, (uint32_t *)(void *)f->to); break;
    case FQI_MADE_SHAPE: ((int64_t *)(void *)f->to)[0] = f->m->rows_pad; ((int64_t *)(void *)f->to)[1] = f->m->cols_pad; break;
    case FQI_MADE_ORDER: break;
    }
    return FQ_OK;
}

static fq_status pack(fqi_quantize *q, size_t tensor, fq_err *e)
{
    fqi_made_layer *l = q->writing;
    const fqi_out_tensor *t = &q->table.tensor[tensor];
    size_t module = t->made->id / FQI_MADE_PARTS, part = t->made->id % FQI_MADE_PARTS, i = module - l->first;
    filling f = { .q = q, .m = &q->modules.at[module], .codes = &l->codes.codes[i], .scale = scale_dtype(q, &q->modules.at[module]) };
    if (l->n_byte < t->bytes_pad) {
        free(l->bytes);
        l->n_byte = 0;
        l->bytes = fqi_calloc((size_t)t->bytes_pad, 1);
        if (!l->bytes) return fqi_fail_nomem(e, "packed tensor");
        l->n_byte = t->bytes_pad;
    }
    f.to = l->bytes;
    fq_status s = begin(&f, &l->codes, i, e);
    if (s == FQ_OK) s = (q->o->packing == FQ_PACKING_GPTQ ? fill_gptq : fill_ct)(&f, parts[q->o->packing][part].part, e);
    free(f.row_of);
    free(f.col_of);
    l->tensor = s == FQ_OK ? tensor : SIZE_MAX;
    return s;
}

fq_status fqi_quant_made_fill(void *user, size_t tensor, uint64_t off, uint8_t *to, size_t n, fq_err *e)
{
    fqi_quantize *q = user;
    if (q->writing->tensor != tensor) FQI_TRY(pack(q, tensor, e));
    memcpy(to, q->writing->bytes + off, n);
    return FQ_OK;
}

uint64_t fqi_quant_made_bytes_max(const fqi_quantize *q)
{
    uint64_t most = 0;
    for (size_t i = 0; i < q->table.n_tensor; i++)
        if (q->table.tensor[i].made && q->table.tensor[i].bytes_pad > most) most = q->table.tensor[i].bytes_pad;
    return most;
}

void fqi_made_layer_free(fqi_made_layer *m)
{
    if (!m) return;
    fqi_layer_codes_free(&m->codes);
    free(m->bytes);
    free(m);
}
