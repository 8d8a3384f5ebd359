/* test_corpus_index.c - folders whose index, shards or links are wrong: what fq_ckpt_open and fq_ckpt_check say together. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "corpus_run.h"

static fq_status open_and_check(const char *path, fq_err *e)
{
    fq_ckpt *c = NULL;
    fq_status s = fq_ckpt_open(path, NULL, &c, e);
    if (s != FQ_OK) return s;
    s = fq_ckpt_check(c, e);
    for (size_t i = 0; i < fq_ckpt_get_info(c)->n_tensor; i++) {   /* what is listed can be asked for */
        fq_tensor_info t;
        fq_ckpt_get_tensor(c, i, &t);
        assert_non_null(t.name);
        assert_non_null(t.shard);
    }
    fq_ckpt_close(c);
    return s;
}

int main(void) { return fqt_corpus_main("index", 80, open_and_check); }
