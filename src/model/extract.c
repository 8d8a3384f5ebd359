/* extract.c - the readers of one thread, behind a small interface. See extract.h. */
#include "model/extract.h"

#include <stdlib.h>

#include "model/weights_table.h"

struct fqi_extracts { fqi_open_shards open; fqi_materialiser m; };

fq_status fqi_extracts_open(const fq_ckpt *c, const fqi_extracts_options *o, fqi_extracts **out, fq_err *e)
{
    const fqi_weights_options options = { .served = FQ_DTYPE_F32, .run = o->run };
    const fqi_weights_table table = { .n_module = o->module_cols > 0, .module_cols = o->module_cols, .chunk = FQI_WEIGHTS_CHUNK, .gathers = true };
    fqi_extracts *p = fqi_calloc(1, sizeof *p);
    if (!p) return fqi_fail_nomem(e, "reader of weights");
    fqi_open_shards_init(&p->open);
    const fq_status s = fqi_materialiser_init(&p->m, c, &options, &table, &p->open, e);
    p->m.stop = o->stop;
    p->m.run = o->caller ? o->run : NULL;
    if (s == FQ_OK) *out = p;
    else fqi_extracts_close(p);
    return s;
}

void fqi_extracts_close(fqi_extracts *p)
{
    if (!p) return;
    fqi_materialiser_free(&p->m);
    fqi_open_shards_free(&p->open);
    free(p);
}

fq_status fqi_extracts_read(fqi_extracts *p, const fqi_extract *x, float *out, fq_err *e)
{
    const fqi_tensor *t = &p->m.ckpt->tensor[x->tensor];
    fqi_cut cut = { .rank = t->rank };
    uint64_t bytes;
    if (x->module) {
        fqi_module_rows want = { .row = x->at[0].first, .n = x->at[0].n, .col = x->at[1].first, .n_col = x->at[1].n };
        if (want.n < 1 || want.n_col < 1) return FQ_OK;
        want.n_unit = fqi_module_units(x->module, want.n, want.n_col, &bytes);
        return fqi_materialise_module(&p->m, x->module, &want, out, e);
    }
    for (int d = 0; d < cut.rank; d++) {
        cut.whole[d] = t->shape[d];
        cut.dim[d] = x->at[d];
        cut.parts[d] = 1;
    }
    return fqi_materialise(&p->m, x->tensor, &cut, 0, cut.dim[0].n, true, out, e);
}

uint64_t fqi_extracts_bytes_read(const fqi_extracts *p) { return __atomic_load_n(&p->m.bytes_read, __ATOMIC_RELAXED); }
