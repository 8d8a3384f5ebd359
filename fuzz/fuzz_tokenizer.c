/* fuzz_tokenizer.c - any bytes as tokenizer.json: refused with a message, or a tokenizer whose ids are in range and stand for the text
 * again. The text is the file itself, as far as it is UTF-8. */
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "tokenizer/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool good)
{
    if (!good) abort();
}

/* No pattern, nothing dropped, nothing normalized, every byte has a token: then ids are the text. */
static bool exact(const fq_tokenizer *t)
{
    for (size_t i = 0; i < t->pretok.n_stage; i++)
        if (t->pretok.stage[i].code == NULL || t->pretok.stage[i].split == FQI_SPLIT_REMOVED) return false;
    for (size_t i = 0; i < t->info.n_added; i++)
        if (t->added_token[i].lstrip || t->added_token[i].rstrip || t->added_token[i].normalized) return false;
    return !t->info.nfc && t->bpe.all_bytes;
}

static void check(const fq_tokenizer *t, const char *text, size_t n, bool plain)
{
    uint32_t *ids;
    size_t n_ids, n_back;
    char *back;
    fq_err e = { .code = FQ_OK };
    fq_status s = fq_tokenizer_encode(t, text, n, &(fq_encode_options){ .add_special = !plain, .plain = plain }, &ids, &n_ids, &e);
    if (s != FQ_OK) {
        require(s == FQ_E_INPUT && e.code == s && e.rule[0] != '\0');   /* a pattern that backtracks */
        return;
    }
    for (size_t i = 0; i < n_ids; i++) require(ids[i] < t->info.n_vocab);
    require(fq_tokenizer_decode(t, ids, n_ids, NULL, &back, &n_back, NULL) == FQ_OK);
    if (plain && exact(t)) require(n_back == n && memcmp(back, text, n) == 0);
    fq_free(ids);
    fq_free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fq_tokenizer *t;
    fq_err e = { .code = FQ_OK };
    char *text = malloc(size + 1);
    size_t n = 0;
    if (text == NULL) return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    fq_status s = fqi_tokenizer_parse(text, size, "fuzz", &t, &e);
    if (s != FQ_OK) {
        require(s == FQ_E_INPUT && e.code == s && e.rule[0] != '\0' && strlen(e.text) < sizeof e.text);
        return 0;
    }
    for (uint32_t c; n < size && n < 4096;) {
        size_t k = fqi_utf8_sequence(data + n, size - n, &c);
        if (k == 0) break;
        n += k;
    }
    check(t, (const char *)data, n, true);
    check(t, (const char *)data, n, false);
    fq_tokenizer_close(t);
    return 0;
}
