/* quant_ranks.c - what the ranks of a quantizing run agree on before they begin (see quantize_private.h).
 *
 * Refused ("ranks-differ"): another model, other options, other kernels. The last because each kernel has bits of its own, and the result
 * would be that of no single machine. The content of weights is compared when it is used: quant_run.c. */
#include <stdlib.h>
#include <string.h>

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
