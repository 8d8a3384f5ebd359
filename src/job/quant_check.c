/* quant_check.c - what can be known of the weights before hours are spent on them. See quantize_private.h.
 *
 * NaN and infinity are found by whoever reads a weight (model/weights); here everything is read once, also what is only copied. A weight that no
 * stored scale reaches would be clipped without a word, so it is refused here. Weights that are too small for a stored scale are no error: what is
 * lost of a module shows in its report, and quant_run.c says it. */
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include <xxhash.h>

#include "job/quantize_private.h"

#define EMBED_ROWS 64   /* read at a time */

/* The largest weight that codes reach in both directions, in every mode. */
static double reach(const fqi_grid *g)
{
    return (double)fqi_scale_round(g->store, FLT_MAX) * ((1 << (g->bits - 1)) - 1);
}

typedef struct place { int64_t row, col; float value; bool found; } place;

/* The first weight beyond `most`, in the order of the file. wide: a row. */
static void look(const fqi_matrix *m, const fqi_kernels *k, double most, float *wide, int64_t first, int64_t end, place *out)
{
    const size_t row_bytes = (size_t)m->cols * (fq_dtype_bits(m->dtype) / 8);
    for (int64_t row = first; row < end && !out->found; row++) {
        float largest = 0;
        k->widen((const unsigned char *)m->data + (size_t)row * row_bytes, m->dtype, wide, (size_t)m->cols);
        for (int64_t i = 0; i < m->cols; i++) largest = fabsf(wide[i]) > largest ? fabsf(wide[i]) : largest;
        for (int64_t i = 0; (double)largest > most && i < m->cols; i++)
            if ((double)fabsf(wide[i]) > most) {
                *out = (place){ .row = row, .col = i, .value = wide[i], .found = true };
                break;
            }
    }
}

fq_status fqi_quant_check_matrix(const fqi_quantize *q, const fqi_module *m, const fqi_matrix *w, const fqi_kernels *k, fq_err *e)
{
    const double most = reach(&q->settings.grid);
    const int64_t n = q->n_thread, part = (w->rows + n - 1) / n;
    place *at = fqi_calloc((size_t)n, sizeof *at);
    float *wide = fqi_calloc((size_t)n * (size_t)w->cols, sizeof *wide);
    fq_status s = at && wide ? FQ_OK : fqi_fail_nomem(e, "rows of a matrix");
    if (s == FQ_OK) {
#pragma omp parallel for num_threads((int)n) schedule(static)
        for (int64_t i = 0; i < n; i++) {
            const int64_t end = (i + 1) * part < w->rows ? (i + 1) * part : w->rows;
            look(w, k, most, wide + i * w->cols, i * part, end, &at[i]);
        }
    }
    for (int64_t i = 0; s == FQ_OK && i < n; i++)
        if (at[i].found)
            s = fqi_fail(e, FQ_E_NUMERIC, FQI_TENSOR(q->o->pad.source, m->name), "scale-range", "found %g in row %" PRId64 ", column %" PRId64 ", expected at most %g either way: no larger scale can be stored",
                         (double)at[i].value, at[i].row, at[i].col, most);
    free(at);
    free(wide);
    return s;
}

fq_status fqi_quant_check_layer(const fqi_quantize *q, int64_t layer, const fqi_layer_weights *w, const fqi_kernels *k, fq_err *e)
{
    for (size_t i = q->modules.first_of_layer[layer]; i < q->modules.first_of_layer[layer + 1]; i++) {
        const fqi_matrix *m = fqi_module_matrix(w, &q->modules.at[i]);
        if (m) FQI_TRY(fqi_quant_check_matrix(q, &q->modules.at[i], m, k, e));
    }
    return FQ_OK;
}

static fq_status check_embedding(const fqi_quantize *q, fqi_weights *w, uint64_t *hash, fq_err *e)
{
    const fq_model *m = &q->decoder.model;
    float *rows = fqi_calloc(EMBED_ROWS, (size_t)m->hidden_size * sizeof *rows);
    uint32_t id[EMBED_ROWS];
    fq_status s = rows ? FQ_OK : fqi_fail_nomem(e, "rows of the embedding");
    for (int64_t at = 0; s == FQ_OK && at < m->vocab_size; at += EMBED_ROWS) {
        const int64_t n = m->vocab_size - at < EMBED_ROWS ? m->vocab_size - at : EMBED_ROWS;
        for (int64_t i = 0; i < n; i++) id[i] = (uint32_t)(at + i);
        s = fqi_weights_embed(w, id, (size_t)n, rows, e);
        if (s == FQ_OK) *hash = XXH3_64bits_withSeed(rows, (size_t)(n * m->hidden_size) * sizeof *rows, *hash);
    }
    free(rows);
    return s;
}

fq_status fqi_quant_check_rest(const fqi_quantize *q, fqi_weights *w, int64_t head_rows, const fqi_kernels *k, uint64_t *hash, fq_err *e)
{
    const int64_t vocab = q->decoder.model.vocab_size;
    const float *norm = fqi_weights_final_norm(w, e);
    if (!norm) return e ? e->code : FQ_E_IO;
    *hash = XXH3_64bits(norm, (size_t)q->decoder.model.hidden_size * sizeof *norm);
    for (int64_t at = 0; at < vocab; at += head_rows) {
        fqi_matrix head;
        FQI_TRY(fqi_weights_head(w, at, vocab - at < head_rows ? vocab - at : head_rows, &head, e));
        *hash = XXH3_64bits_withSeed(head.data, (size_t)(head.rows * head.cols) * (fq_dtype_bits(head.dtype) / 8), *hash);
        if (q->o->lm_head) FQI_TRY(fqi_quant_check_matrix(q, &q->modules.at[q->modules.n - 1], &head, k, e));   /* all rows at once then */
    }
    return q->fitting.ckpt->info.tied ? FQ_OK : check_embedding(q, w, hash, e);
}
