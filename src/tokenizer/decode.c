/* decode.c - ids to bytes, and what else is asked of a tokenizer. See fitq.h.
 *
 * The bytes of an id are exact. An added token stands for its content, as written; the tokenizers library reads that too as text of the
 * byte alphabet, which gives the same for ASCII. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "tokenizer/tokenizer.h"

static bool left_out(const fqi_token *k, const fq_decode_options *o) { return o != NULL && o->skip_special && k->special; }

fq_status fq_tokenizer_decode(const fq_tokenizer *t, const uint32_t *ids, size_t n_ids, const fq_decode_options *o, char **text,
                              size_t *n, fq_err *e)
{
    uint64_t total = 1;
    for (size_t i = 0; i < n_ids; i++) {
        if (ids[i] >= t->info.n_vocab)
            return fqi_fail(e, FQ_E_INPUT, NULL, "token-id", "found id %u at place %zu, expected an id below %zu", ids[i], i, t->info.n_vocab);
        if (!fqi_add_u64(total, t->token[ids[i]].n_bytes, &total)) return fqi_fail_nomem(e, "text");
    }
    char *out = malloc(total);
    if (out == NULL) return fqi_fail_nomem(e, "text");
    size_t used = 0;
    for (size_t i = 0; i < n_ids; i++) {
        const fqi_token *k = &t->token[ids[i]];
        if (left_out(k, o)) continue;
        memcpy(out + used, k->bytes, k->n_bytes);
        used += k->n_bytes;
    }
    out[used] = '\0';
    *text = out;
    *n = used;
    return FQ_OK;
}

const fq_tokenizer_info *fq_tokenizer_get_info(const fq_tokenizer *t) { return &t->info; }

size_t fq_tokenizer_n_vocab(const fq_tokenizer *t) { return t->info.n_vocab; }

const char *fq_tokenizer_token(const fq_tokenizer *t, uint32_t id, size_t *n)
{
    if (id >= t->info.n_vocab) return NULL;
    *n = t->token[id].n_bytes;
    return t->token[id].bytes;
}

bool fq_tokenizer_is_special(const fq_tokenizer *t, uint32_t id) { return id < t->info.n_vocab && t->token[id].special; }

void fq_tokenizer_get_added(const fq_tokenizer *t, size_t i, fq_added_token *out)
{
    const fqi_added_token *a = &t->added_token[i];
    *out = (fq_added_token){ .id = a->id, .content = a->content, .special = a->special };
}

bool fq_tokenizer_find_added(const fq_tokenizer *t, const char *content, uint32_t *id)
{
    uint32_t found = fqi_strmap_find(&t->by_text, t->token, false, content, strlen(content));
    if (found == FQI_NO_ID || !t->token[found].added) return false;
    *id = found;
    return true;
}

void fq_free(void *p) { free(p); }
