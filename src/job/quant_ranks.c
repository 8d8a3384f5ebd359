/* quant_ranks.c - what the ranks of a quantizing run agree on before they begin (see quantize_private.h).
 *
 * Refused ("ranks-differ"): another model, other options, other kernels. The last because each kernel has bits of its own, and the result
 * would be that of no single machine. The content of weights is compared when it is used. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "base/checked.h"
#include "job/quantize_private.h"
#include "job/rank_run.h"
#include "kernel/kernel.h"

fq_status fqi_quant_ranks_agree(fqi_quantize *q, fq_err *e)
{
    const fqi_kernels *k;
    if (!q->comm) return FQ_OK;
    if (q->settings.method != FQ_METHOD_GPTQ)
        return fqi_fail(e, FQ_E_USAGE, NULL, "ranks", "found %d ranks for --method rtn, expected one: rounding is as fast as the disk", fqi_comm_size(q->comm));
    fqi_quant_keys(q);
    FQI_TRY(fqi_kernels_choose(&k, e));
    FQI_TRY(fqi_rank_same_model(q->comm, q->fitting.ckpt, e));
    FQI_TRY(fqi_comm_same(q->comm, "set of options", q->key_text, sizeof q->key_text, e));
    return fqi_comm_same(q->comm, "kernel (FITQ_KERNEL chooses one)", k->name, strlen(k->name), e);
}

fq_status fqi_quant_ranks_calib(fqi_quantize *q, fq_err *e)
{
    fqi_calib said = q->calib;
    size_t n = 0;
    if (!q->comm) return FQ_OK;
    FQI_TRY(fqi_comm_broadcast(q->comm, 0, &said, sizeof said, e));
    const bool has_ids = said.ids != NULL;   /* a dry run may have none; the pointer itself is another process's */
    if (fqi_comm_rank(q->comm) > 0) {
        q->calib = said;
        q->calib.ids = has_ids && fqi_mul_size(said.n_window, said.seqlen, &n) ? fqi_calloc(n, sizeof *q->calib.ids) : NULL;
        if (has_ids && !q->calib.ids) return fqi_fail_nomem(e, "token ids");
    }
    return has_ids ? fqi_comm_broadcast(q->comm, 0, q->calib.ids, said.n_window * said.seqlen * sizeof *q->calib.ids, e) : FQ_OK;
}

static void hash_matrix(uint64_t *hash, const fqi_matrix *m)
{
    if (m->data) *hash = XXH3_64bits_withSeed(m->data, (size_t)(m->rows * m->cols) * (fq_dtype_bits(m->dtype) / 8), *hash);
}

static void hash_vector(uint64_t *hash, const float *x, int64_t n)
{
    if (x) *hash = XXH3_64bits_withSeed(x, (size_t)n * sizeof *x, *hash);
}

static void hash_mlp(uint64_t *hash, const fqi_mlp_weights *m)
{
    hash_matrix(hash, &m->gate);
    hash_matrix(hash, &m->up);
    hash_matrix(hash, &m->down);
    hash_vector(hash, m->gate_bias, m->gate.rows);
    hash_vector(hash, m->up_bias, m->up.rows);
    hash_vector(hash, m->down_bias, m->down.rows);
}

fq_status fqi_quant_ranks_layer(const fqi_quantize *q, int64_t layer, const fqi_layer_weights *w, fq_err *e)
{
    const fq_model *m = &q->decoder.model;
    const fqi_matrix *matrix[] = { &w->q, &w->k, &w->v, &w->o };
    const float *bias[] = { w->q_bias, w->k_bias, w->v_bias, w->o_bias };
    char what[64];
    uint64_t hash = 0;
    if (!q->comm) return FQ_OK;
    hash_vector(&hash, w->input_norm, m->hidden_size);
    hash_vector(&hash, w->post_attention_norm, m->hidden_size);
    hash_vector(&hash, w->q_norm, m->head_dim);
    hash_vector(&hash, w->k_norm, m->head_dim);
    for (size_t i = 0; i < sizeof matrix / sizeof matrix[0]; i++) {
        hash_matrix(&hash, matrix[i]);
        hash_vector(&hash, bias[i], matrix[i]->rows);
    }
    if (!w->sparse) hash_mlp(&hash, &w->mlp);
    if (w->sparse) hash_matrix(&hash, &w->router);
    for (int64_t i = 0; w->sparse && i < m->num_experts; i++) hash_mlp(&hash, &w->expert[i]);
    if (w->sparse && w->has_shared) {
        hash_mlp(&hash, &w->shared);
        hash_matrix(&hash, &w->shared_gate);
    }
    snprintf(what, sizeof what, "content of the weights of layer %" PRId64, layer);
    return fqi_comm_same(q->comm, what, &hash, sizeof hash, e);
}

fq_status fqi_quant_ranks_rest(const fqi_quantize *q, uint64_t hash, fq_err *e)
{
    return fqi_comm_same(q->comm, "content of the embedding, the final norm or the output head", &hash, sizeof hash, e);
}

fq_status fqi_quant_ranks_dir(fqi_comm *c, const char *mine, char **dir, fq_err *e)
{
    size_t n = mine ? strlen(mine) + 1 : 0;
    *dir = NULL;
    FQI_TRY(fqi_comm_broadcast(c, 0, &n, sizeof n, e));
    *dir = fqi_calloc(n + 1, 1);
    if (!*dir) return fqi_fail_nomem(e, "path");
    if (mine) memcpy(*dir, mine, n);
    return fqi_comm_broadcast(c, 0, *dir, n, e);
}
