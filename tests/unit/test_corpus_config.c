/* test_corpus_config.c - config.json files that are wrong alone or beside their weights. */
#include "base/fs.h"
#include "corpus_run.h"

/* A folder case is opened with its weights. */
static fq_status read_case(const char *path, fq_err *e)
{
    fq_model m;
    FQI_TRY(fq_model_read(path, &m, e));
    if (!fqi_path_is_dir(path)) return FQ_OK;
    fq_ckpt *c;
    FQI_TRY(fq_ckpt_open(path, NULL, &c, e));
    fq_status s = fq_ckpt_check(c, e);
    fq_ckpt_close(c);
    return s;
}

int main(void) { return fqt_corpus_main("config", 80, read_case); }
