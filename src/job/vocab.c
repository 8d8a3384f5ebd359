/* vocab.c - the real vocabulary of a checkpoint (see vocab.h). Reads fitq.json, no weights. */
#include "job/vocab.h"

#include "job/provenance.h"

/* Identity on the real ids and nothing behind them; anything else would compare the logits of different tokens. */
static bool keeps_ids(const fqi_map *m)
{
    return m->n_run >= 1 && m->n_run <= 2 && m->run[0].src == 0 && m->run[0].count == m->n_old && (m->n_run == 1 || m->run[1].src < 0);
}

fq_status fqi_vocab_real(const fq_ckpt *c, int64_t *n_real, fq_err *e)
{
    int64_t n = c->info.model.vocab_size;
    if (!c->info.fitted) {
        *n_real = n;
        return FQ_OK;
    }
    fqi_prov p;
    FQI_TRY(fqi_prov_load(c->dir, &p, e));
    const fqi_map *m = &p.maps.map[FQI_AX_VOCAB];
    bool mapped = m->n_run != 0, legal = !mapped || (m->n_new == n && keeps_ids(m));
    int64_t n_old = mapped ? m->n_old : n;
    fqi_prov_free(&p);
    if (!legal)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(c->info.path), "fitq-json", "found a map of the vocabulary that moves token ids or is not of length %lld, expected zeros behind the real rows",
                        (long long)n);
    *n_real = n_old;
    return FQ_OK;
}

fq_status fqi_vocab_common(const fq_ckpt *a, const fq_ckpt *b, int64_t *n, fq_err *e)
{
    int64_t n_a, n_b;
    FQI_TRY(fqi_vocab_real(a, &n_a, e));
    n_b = n_a;
    if (b) FQI_TRY(fqi_vocab_real(b, &n_b, e));
    *n = n_a < n_b ? n_a : n_b;
    return FQ_OK;
}
