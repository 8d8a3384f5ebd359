/* bpe.h - byte-pair encoding of one piece of text.
 *
 * A piece starts as one symbol per byte. Again and again the pair of neighbours with the lowest rank is joined, the leftmost of
 * them first, until no pair is in the table. Two ways to the same result: a scan for words (up to 32 bytes), and lists by rank for
 * longer pieces, which are cut into blocks that fit the cache. None is slower than n log n, whatever the table and the text. */
#ifndef FITQ_TOKENIZER_BPE_H
#define FITQ_TOKENIZER_BPE_H

#include "base/err.h"
#include "base/mem.h"

typedef struct fqi_ids { uint32_t *v; size_t n, cap; } fqi_ids;  /* zero-initialise; v is freed by the owner */
bool fqi_ids_add(fqi_ids *ids, uint32_t id);

typedef struct fqi_merge { uint32_t left, right, id; } fqi_merge;  /* the rank is its place in the list */

#define FQI_NO_RANK UINT32_MAX

typedef struct fqi_bpe {
    uint32_t byte_id[256];    /* FQI_BPE_NO_SYMBOL: the vocabulary has no token for that byte */
    uint32_t unk_id;          /* stands for such a byte */
    bool fuse_unk;            /* one for a run of them */
    bool all_bytes;           /* none is missing */
    uint32_t *length;         /* bytes of token id; n_token */
    size_t n_token;
    fqi_merge *merge;         /* by rank */
    size_t n_merge, cap_merge;
    uint32_t *slot;           /* hash table by pair: ranks, FQI_NO_RANK where empty */
    size_t mask;
    uint64_t *ordered;        /* bit by rank: its merges must be made from left to right */
} fqi_bpe;
#define FQI_BPE_NO_SYMBOL UINT32_MAX
#define FQI_BPE_PIECE_MAX ((size_t)UINT32_MAX - 16)

/* byte_id, length and merge are set: makes the table. A pair that is listed twice has the later rank. */
fq_status fqi_bpe_index(fqi_bpe *b, fq_err *e);
void fqi_bpe_free(fqi_bpe *b);

/* Memory that pieces of one call share. Zero-initialise; free it after a failure. */
typedef struct fqi_bpe_scratch {
    uint32_t *sym, *back;
    void *node;
    uint64_t *heap;
    uint32_t *head;           /* by rank */
    uint64_t *bit, *words;    /* ranks whose list is not empty; words of bit that are not 0 */
    size_t cap_sym, cap_back, cap_node, cap_heap;
} fqi_bpe_scratch;
void fqi_bpe_scratch_free(fqi_bpe_scratch *s);

typedef enum fqi_bpe_way { FQI_BPE_AUTO, FQI_BPE_WHOLE, FQI_BPE_SMALL_BLOCKS } fqi_bpe_way;

/* Appends the ids of n bytes. way is FQI_BPE_AUTO but in tests (WHOLE: no scan, no blocks; SMALL_BLOCKS: of 40 bytes). */
fq_status fqi_bpe_encode(const fqi_bpe *b, fqi_bpe_scratch *s, const char *bytes, size_t n, fqi_bpe_way way, fqi_ids *out,
                         fq_err *e);

#endif
