/* bpe.h - byte-pair encoding of one piece of text.
 *
 * A piece starts as one symbol per byte. Again and again the pair of neighbours with the lowest rank is joined, the leftmost of
 * them first, until no pair is in the table. Three ways to the same result: a scan for words (up to 32 bytes), buckets by rank
 * for long pieces, and a heap for long pieces when a merge may make a pair of a lower rank than its own (no trained table does
 * that, but a file can). None is slower than n log n. */
#ifndef FITQ_TOKENIZER_BPE_H
#define FITQ_TOKENIZER_BPE_H

#include "base/err.h"
#include "base/mem.h"

typedef struct fqi_ids { uint32_t *v; size_t n, cap; } fqi_ids;  /* zero-initialise; v is freed by the owner */
bool fqi_ids_add(fqi_ids *ids, uint32_t id);

typedef struct fqi_merge { uint32_t left, right, id; } fqi_merge;  /* the rank is its place in the list */

typedef struct fqi_merge_slot { uint64_t pair; uint32_t rank, id; } fqi_merge_slot;
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
    fqi_merge_slot *slot;     /* hash table by pair */
    size_t mask;
    bool monotone;            /* no merge makes a pair of a lower rank */
} fqi_bpe;
#define FQI_BPE_NO_SYMBOL UINT32_MAX
#define FQI_BPE_PIECE_MAX ((size_t)UINT32_MAX - 16)

/* byte_id, length and merge are set: makes the table. A pair that is listed twice has the later rank. */
fq_status fqi_bpe_index(fqi_bpe *b, fq_err *e);
void fqi_bpe_free(fqi_bpe *b);

/* Memory that pieces of one call share. Zero-initialise. */
typedef struct fqi_bpe_scratch {
    uint32_t *sym, *back;
    void *node;
    uint64_t *heap;
    uint32_t *head;           /* by rank */
    uint64_t *bit;            /* ranks whose bucket is not empty */
    size_t cap_sym, cap_back, cap_node, cap_heap;
} fqi_bpe_scratch;
void fqi_bpe_scratch_free(fqi_bpe_scratch *s);

typedef enum fqi_bpe_way { FQI_BPE_AUTO, FQI_BPE_SCAN, FQI_BPE_BUCKETS, FQI_BPE_HEAP } fqi_bpe_way;

/* Appends the ids of n bytes. way is FQI_BPE_AUTO but in tests (SCAN: n <= 32; BUCKETS: a monotone table). */
fq_status fqi_bpe_encode(const fqi_bpe *b, fqi_bpe_scratch *s, const char *bytes, size_t n, fqi_bpe_way way, fqi_ids *out,
                         fq_err *e);

#endif
