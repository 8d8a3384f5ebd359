/* test_corpus_tokenizer.c - tokenizer.json files that are wrong. What is accepted must also work. */
#include <string.h>

#include "corpus_run.h"

static fq_status open_case(const char *path, fq_err *e)
{
    static const char text[] = "hello he\xcc\x81llo <|end|>  q";
    fq_tokenizer *t = NULL;
    uint32_t *ids = NULL;
    size_t n;
    fq_status s = fq_tokenizer_open(path, &t, e);
    if (s != FQ_OK) return s;
    s = fq_tokenizer_encode(t, text, sizeof text - 1, &(fq_encode_options){ .add_special = true }, &ids, &n, e);
    for (size_t i = 0; s == FQ_OK && i < n; i++)
        if (ids[i] >= fq_tokenizer_n_vocab(t)) s = FQ_E_NUMERIC;
    fq_free(ids);
    fq_tokenizer_close(t);
    return s;
}

int main(void) { return fqt_corpus_main("tokenizer", 100, open_case); }
