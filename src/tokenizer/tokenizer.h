/* tokenizer.h - what the files of this folder share: the tokenizer in memory, and its stages.
 *
 *     text -> cut at added tokens (normalized: false) -> NFC -> cut at added tokens (normalized: true)
 *          -> pre-tokenizer: pieces -> byte-level BPE of each piece -> ids -> post-processor: ids around them
 *
 * Everything in fq_tokenizer is made by load.c and never written to again; what one call of encode needs lives as long as the call. */
#ifndef FITQ_TOKENIZER_TOKENIZER_H
#define FITQ_TOKENIZER_TOKENIZER_H

#include <jansson.h>

#include "base/err.h"
#include "base/mem.h"
#include "tokenizer/bpe.h"
#include "tokenizer/pretok.h"

#define FQI_TOKENIZER_MAX ((uint64_t)256 << 20) /* bytes of a tokenizer.json; the largest published ones have 34 MB */

/* ---- vocabulary ---- */

typedef struct fqi_token {
    const char *text;    /* as written in the file: characters of the byte alphabet, or the content of an added token */
    const char *bytes;   /* what it decodes to */
    uint32_t n_text, n_bytes;
    bool mapped;         /* text is made of the byte alphabet only: BPE can reach it */
    bool added, special;
} fqi_token;

/* Strings to ids: open addressing, no copies. */
typedef struct fqi_strmap {
    uint32_t *slot;      /* id + 1, 0 = empty */
    size_t mask;
} fqi_strmap;
#define FQI_NO_ID UINT32_MAX

/* ---- added tokens ---- */

typedef struct fqi_added_token {
    const char *content;
    size_t n_content;
    uint32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
} fqi_added_token;

typedef struct fqi_trie_node {
    uint32_t child, sibling;  /* 0 = none */
    uint32_t token;           /* index of the added token that ends here, or FQI_NO_ID */
    unsigned char byte;
} fqi_trie_node;

/* All contents of one class (normalized or not), as a trie of bytes. */
typedef struct fqi_added {
    fqi_trie_node *node;      /* node[0] is the root */
    size_t n_node, cap;
    bool first[256];          /* bytes that a content begins with */
    const fqi_added_token *token;
} fqi_added;
#define FQI_ADDED_MAX 1024    /* bytes of a content: bounds what one position of the text can cost */

/* Walks over the matches in a text: leftmost, then longest, without overlaps. */
typedef struct fqi_added_walk {
    const fqi_added *added;
    const char *text;
    size_t n, pos;            /* search goes on at pos */
    size_t done;              /* end of the last match, with the white space it swallowed */
} fqi_added_walk;
typedef struct fqi_added_match { size_t begin, end; uint32_t id; } fqi_added_match;

/* *fresh = false: that content is there already. */
fq_status fqi_added_insert(fqi_added *a, const char *content, size_t n, uint32_t token, bool *fresh, fq_err *e);
bool fqi_added_next(fqi_added_walk *w, fqi_added_match *m);
void fqi_added_free(fqi_added *a);

/* ---- normalization ---- */

/* NFC of well-formed UTF-8. *out is NULL when the text is in that form already; else malloc'd. */
fq_status fqi_nfc(const char *text, size_t n, char **out, size_t *n_out, fq_err *e);

/* ---- the whole ---- */

struct fq_tokenizer {
    fqi_arena arena;
    char *json;               /* the file; strings of tokens point into it */
    fqi_token *token;         /* info.n_vocab */
    fqi_strmap by_text, by_bytes;   /* by_bytes only for ignore_merges */
    bool ignore_merges;
    fqi_bpe bpe;
    fqi_added_token *added_token;
    fqi_added added[2];       /* [normalized] */
    fqi_pretok pretok;
    fq_tokenizer_info info;
};

/* Takes text (malloc'd, n bytes and a NUL), whatever comes of it. */
fq_status fqi_tokenizer_parse(char *text, size_t n, const char *file, fq_tokenizer **out, fq_err *e);

/* parts.c: everything but vocabulary and merges, from the tree. */
fq_status fqi_tokenizer_normalizer(fq_tokenizer *t, const json_t *v, const char *file, fq_err *e);   /* before the added ones */
fq_status fqi_tokenizer_added(fq_tokenizer *t, const json_t *list, const char *file, fq_err *e);
fq_status fqi_tokenizer_pipeline(fq_tokenizer *t, const json_t *root, const char *file, fq_err *e);
/* FQ_E_INPUT that names a type that fitq does not know. what: "normalizer", ... */
fq_status fqi_tokenizer_unknown(const char *file, const char *what, const json_t *found, const char *expected, fq_err *e);

/* vocab.c */
bool fqi_strmap_init(fqi_strmap *m, size_t n);
/* Finds key among the tokens' texts (or bytes); FQI_NO_ID if it is not there. */
uint32_t fqi_strmap_find(const fqi_strmap *m, const fqi_token *token, bool bytes, const char *key, size_t n);
/* False if a token of the same text is there already. */
bool fqi_strmap_put(fqi_strmap *m, const fqi_token *token, bool bytes, uint32_t id);
fq_status fqi_vocab_read(fq_tokenizer *t, size_t begin, size_t end, const char *file, fq_err *e);
fq_status fqi_merges_read(fq_tokenizer *t, size_t begin, size_t end, const char *file, fq_err *e);

/* ---- byte alphabet ---- */

/* The character that stands for a byte, and back (-1: no such character). Printable bytes stand for themselves, the other 68 are
 * U+0100 and up in increasing order, so that no token holds a space or a control character. */
uint32_t fqi_alphabet_char(unsigned char byte);
int fqi_alphabet_byte(uint32_t code);
/* Text of the alphabet to bytes, at most n of them into out; false if another character is among it. */
bool fqi_alphabet_decode(const char *text, size_t n, char *out, size_t *n_out);

#endif
