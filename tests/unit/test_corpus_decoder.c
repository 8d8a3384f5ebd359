/* test_corpus_decoder.c - config.json files with sound lengths that ask for something that cannot be run, or do not say what. */
#include "arch/decoder.h"
#include "corpus_run.h"

static fq_status read_case(const char *path, fq_err *e)
{
    fqi_config c;
    fqi_decoder d;
    FQI_TRY(fqi_config_load(path, &c, e));
    fq_status s = fqi_decoder_read(&c, path, &d, e);
    if (s == FQ_OK) fqi_decoder_free(&d);
    fqi_config_free(&c);
    return s;
}

int main(void) { return fqt_corpus_main("decoder", 120, read_case); }
