/* runnable.c - opening a checkpoint in order to run it (see runnable.h). */
#include "job/runnable.h"

#include <stdlib.h>

#include "base/fs.h"
#include "checkpoint/quantized.h"

static fq_status check(const fq_ckpt *c, const char *path, fq_err *e)
{
    char shown[FQI_NAME_MAX + 1];
    if (!c->has_config) {
        FQI_TRY(fq_ckpt_check(c, e));   /* a config.json that is there and cannot be read is a finding, and says more */
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(path), "config-missing", "found no config.json beside the weights, expected one");
    }
    /* before the findings: the tensors of another method may be sound, they are only nothing that can be run */
    FQI_TRY(fqi_quant_check(c, e));
    FQI_TRY(fq_ckpt_check(c, e));
    if (c->partial)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(path), "partial-checkpoint", "found one weight file of several, expected the folder or its index");
    if (!c->config.family || !c->has_naming || !c->bound)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(path), "unknown-family", "found model_type \"%s\", expected one of the families that `fitq pad --help` lists",
                        fqi_escape(shown, c->info.model.model_type));
    return FQ_OK;
}

fq_status fqi_runnable_open(const char *path, const fq_run *run, fqi_runnable *out, fq_err *e)
{
    FQI_TRY(fq_ckpt_open(path, run, &out->ckpt, e));
    FQI_TRY(check(out->ckpt, path, e));
    char *file = fqi_path_join(out->ckpt->dir, "config.json");
    if (!file) return fqi_fail_nomem(e, "path");
    fq_status s = fqi_decoder_read(&out->ckpt->config, file, &out->decoder, e);
    free(file);
    out->has_decoder = s == FQ_OK;
    return s;
}

void fqi_runnable_free(fqi_runnable *r)
{
    if (r->has_decoder) fqi_decoder_free(&r->decoder);
    fq_ckpt_close(r->ckpt);
    *r = (fqi_runnable){ 0 };
}

fq_status fqi_served_dtype(fq_served served, fq_dtype *out, fq_err *e)
{
    static const fq_dtype dtype[] = { [FQ_SERVED_F32] = FQ_DTYPE_F32, [FQ_SERVED_BF16] = FQ_DTYPE_BF16, [FQ_SERVED_FP16] = FQ_DTYPE_F16 };
    if ((size_t)served >= sizeof dtype / sizeof dtype[0])
        return fqi_fail(e, FQ_E_USAGE, NULL, "served-dtype", "found %d, expected fp32, bf16 or fp16", (int)served);
    *out = dtype[served];
    return FQ_OK;
}
