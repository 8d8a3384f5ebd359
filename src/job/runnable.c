/* runnable.c - opening a checkpoint in order to run it (see runnable.h). */
#include "job/runnable.h"

#include <stdlib.h>
#include <string.h>

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

/* Engines build the layers without them: transformers lists them as weights that were not used, vLLM drops them without a word (its models'
 * load_weights passes over a .bias that no parameter waits for). What is computed here is what they compute; nobody else would tell. */
static bool is_zero(const fq_ckpt *c, const fqi_tensor *t)
{
    unsigned char block[4096];
    fqi_file f;
    bool zero = true;
    if (fqi_ckpt_open_shard(c, t->shard, FQ_IO_BUFFERED, &f, NULL) != FQ_OK) return false;
    for (uint64_t at = 0; at < t->bytes && zero; at += sizeof block) {
        const size_t n = t->bytes - at < sizeof block ? (size_t)(t->bytes - at) : sizeof block;
        zero = fqi_file_read(&f, block, n, t->off + at, NULL) == FQ_OK;
        for (size_t i = 0; i < n && zero; i++) zero = block[i] == 0;
    }
    fqi_file_close(&f);
    return zero;
}

/* Packers write a bias of zeros for every layer: leaving it out changes nothing. */
static bool is_silent(const fq_ckpt *c, size_t i)
{
    const fqi_tensor *t = &c->tensor[i];
    return fqi_quant_beside(c, t->name, strlen(t->name) - strlen(".bias")) && is_zero(c, t);
}

static void warn_biases(const fq_ckpt *c, const fq_run *run)
{
    size_t n = 0, first = 0;
    fq_err line;   /* only for its form and its escaping */
    for (size_t i = 0; i < c->n_tensor && run->log; i++)
        if (fqi_ckpt_bias_unannounced(c, i) && !is_silent(c, i) && n++ == 0) first = i;
    if (n == 0) return;
    const fqi_tensor *t = &c->tensor[first];
    (void)fqi_fail(&line, FQ_E_INPUT, FQI_TENSOR(c->shard[t->shard].path, t->name), "unannounced-bias",
                   "found a bias that config.json does not announce, expected none: left out, as engines do (%zu such tensor%s)", n, n == 1 ? "" : "s");
    run->log(run->user, FQ_LOG_WARN, line.text);
}

/* What is stored decides how it is read here; an engine goes by the lists in config.json, and would run another model or none. */
static void warn_lists(const fq_ckpt *c, const fq_run *run)
{
    for (size_t i = 0; i < c->n_finding && run->log; i++)
        if (c->finding[i].severity == FQ_WARNING && strcmp(c->finding[i].rule, "module-lists") == 0) run->log(run->user, FQ_LOG_WARN, c->finding[i].text);
}

fq_status fqi_runnable_open(const char *path, const fq_run *run, fqi_runnable *out, fq_err *e)
{
    FQI_TRY(fq_ckpt_open(path, run, &out->ckpt, e));
    FQI_TRY(check(out->ckpt, path, e));
    warn_biases(out->ckpt, run);
    warn_lists(out->ckpt, run);
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

int64_t fqi_runnable_longest(const fqi_runnable *r)
{
    const fqi_rope *rope = &r->decoder.rope;
    if (rope->kind != FQI_ROPE_YARN && rope->kind != FQI_ROPE_DYNAMIC) return rope->max_position;
    double scaled = (double)rope->original_max * rope->factor;   /* these two are there to go beyond what the model was trained on */
    return scaled < 9e15 && (int64_t)scaled > rope->max_position ? (int64_t)scaled : rope->max_position;
}

void fqi_runnable_warn_length(const fqi_runnable *r, int64_t n, const fq_run *run)
{
    const int64_t most = fqi_runnable_longest(r);
    fq_err line;   /* only for its escaping of the path */
    if (most == 0 || n <= most || !run->log) return;
    (void)fqi_fail(&line, FQ_E_INPUT, FQI_FILE(r->ckpt->info.path), "context", "%lld tokens are more than the %lld that the model was made for; what comes beyond them may be nonsense",
                   (long long)n, (long long)most);
    run->log(run->user, FQ_LOG_WARN, line.text);
}

fq_status fqi_served_dtype(fq_served served, fq_dtype *out, fq_err *e)
{
    static const fq_dtype dtype[] = { [FQ_SERVED_F32] = FQ_DTYPE_F32, [FQ_SERVED_BF16] = FQ_DTYPE_BF16, [FQ_SERVED_FP16] = FQ_DTYPE_F16 };
    if ((size_t)served >= sizeof dtype / sizeof dtype[0])
        return fqi_fail(e, FQ_E_USAGE, NULL, "served-dtype", "found %d, expected fp32, bf16 or fp16", (int)served);
    *out = dtype[served];
    return FQ_OK;
}
