/* Models of every family quantized on several ranks: every file has the bytes of one rank. Ranks are threads here; processes, and runs that are killed
 * and go on with another number of ranks, are in tests/cli/test_ranks_quantize.py. FITQ_FULL=1: each family on 2 to 8 ranks, else some on one of
 * these numbers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fitq.h"
#include "make_ckpt.h"
#include "support.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define SEQLEN 64
#define WINDOWS 150   /* batches are of 4,096 tokens: three, the last one not full */

static const char *const family[] = { "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "llama", "mistral", "mixtral", "qwen2_vl", "qwen2_5_vl", "qwen3_vl" };

static void write_ids(const char *dir, int64_t vocab)
{
    const size_t n = (size_t)WINDOWS * SEQLEN;
    char *text = malloc(n * 4 + 1), *at = text;
    uint64_t rng = 5;
    assert_non_null(text);
    for (size_t i = 0; i < n; i++) at += sprintf(at, "%d ", (int)(fqt_random(&rng) % (uint64_t)vocab));
    fqt_write_text(dir, "ids", text);
    free(text);
}

/* -> the folder, below `dir` */
static char *quantize(const char *dir, const char *model, const char *ids, int n_rank, const fq_quantize_options *like)
{
    const fq_run run = { .n_thread = 1, .n_rank = n_rank };
    char name[16];
    snprintf(name, sizeof name, "out%d", n_rank);
    char *target = fqt_join(dir, name);
    fq_quantize_options o = *like;
    o.pad.source = model;
    o.pad.target = target;
    o.calib = (fq_calib_options){ .ids = ids, .samples = WINDOWS, .seqlen = SEQLEN };
    FQT_OK(fq_quantize(&o, &run, NULL, e));
    return target;
}

static void test_families(void **state)
{
    const char *s = getenv("FITQ_FULL");
    const bool full = s && strcmp(s, "1") == 0;
    int n_done = 0;
    (void)state;
    for (int f = 0; f < (int)COUNT(family); f++) {
        /* lengths that words of 4 bits and groups of 32 divide; the other fittings have tests of their own */
        const fqt_model m = { .family = family[f], .hidden = 32, .ff = 64, .moe_ff = 32, .shared_ff = 32, .layers = 2, .heads = 4, .kv = 2, .head_dim = 8, .vocab = 96, .experts = 5, .top_k = 2,
                              .seed = (uint64_t)f + 1 };
        const fq_quantize_options o = { .group_size = 32, .lm_head = f % 2 == 0, .packing = f % 3 == 0 ? FQ_PACKING_COMPRESSED_TENSORS : FQ_PACKING_GPTQ };
        char *dir = fqt_tempdir(), *model = fqt_join(dir, "model"), *ids = fqt_join(dir, "ids"), *one = NULL, why[512];
        fqt_make_model(model, &m);
        write_ids(dir, m.vocab);
        for (int n = 2; n <= 8; n++) {
            if (!full && (f % 3 != 0 || f % 7 != n - 2)) continue;
            if (!one) one = quantize(dir, model, ids, 1, &o);
            char *many = quantize(dir, model, ids, n, &o);
            if (!fqt_same_tree(one, many, why)) fail_msg("%s on %d ranks: %s", family[f], n, why);
            fqt_remove(many);
            free(many);
            n_done++;
        }
        fqt_remove(dir);
        free(one);
        free(ids);
        free(model);
        free(dir);
    }
    printf("codes: %d runs on several ranks, no file differs from one rank's\n", n_done);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_families) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
