/* make_ckpt.h - small checkpoints for tests, made at run time.
 *
 * A writer of its own, independent of the library's: what it writes is what the tests mean, not what the library happens
 * to write. Two levels: folders from a table of tensors (any damage a test wants), and whole random models of a family.
 * Every function ends the program with a message when the system refuses: a test without its folder has no result.
 *
 * Values are random, finite and never zero, so that "a zero that padding added" can be told from a weight. They depend on the
 * seed and on the tensor's canonical name only: the same model under another prefix, in other shards or next to other
 * tensors has the same bytes. */
#ifndef FITQ_TESTS_MAKE_CKPT_H
#define FITQ_TESTS_MAKE_CKPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- folders and files ---- */

char *fqt_tempdir(void);                          /* new folder under $TMPDIR; caller frees, after fqt_remove */
void fqt_remove(const char *dir);                 /* the tree; links are not followed */
char *fqt_join(const char *dir, const char *name);        /* caller frees */
void fqt_write(const char *dir, const char *name, const void *bytes, size_t n);
void fqt_write_text(const char *dir, const char *name, const char *text);
void fqt_copy(const char *from, const char *dir, const char *name);
/* Whole file; caller frees. NULL if it cannot be read. NUL behind the last byte. */
char *fqt_read(const char *dir, const char *name, size_t *n);
/* Every file of both folders has the same bytes (names too). On a difference, its name goes to why. */
bool fqt_same_tree(const char *a, const char *b, char why[512]);

/* ---- tensors ---- */

typedef struct fqt_tensor {
    const char *name;
    const char *dtype;      /* "BF16", "F32", "F16", "I32", "I64", "F8_E4M3", "U8", "I8" */
    int rank;
    int64_t shape[8];
    const void *data;       /* NULL = random */
    const char *key;        /* what random bytes depend on beside the seed; NULL = name */
} fqt_tensor;

/* One safetensors file, tensors in the order of the table. */
void fqt_write_safetensors(const char *dir, const char *file, const fqt_tensor *t, size_t n, uint64_t seed);
/* n_shard <= 1: model.safetensors without index; else model-00001-of-0000N.safetensors, tensors dealt in runs, and the
 * index. */
void fqt_write_shards(const char *dir, const fqt_tensor *t, size_t n, int n_shard, uint64_t seed);

/* ---- models ---- */

/* Lengths that are 0 get a small hostile default (odd numbers, heads that divide nothing). */
typedef struct fqt_model {
    const char *family;     /* qwen2, qwen3, qwen2_moe, qwen3_moe, llama, mistral, mixtral, qwen2_vl, qwen2_5_vl, qwen3_vl */
    int64_t hidden, ff, moe_ff, shared_ff, layers, heads, kv, head_dim, vocab, experts, top_k;
    int64_t sparse_step;    /* decoder_sparse_step, 0 = 1 */
    bool tied;
    bool fused;             /* experts as gate_up_proj [E,2I,H] and down_proj [E,H,I] */
    bool attention_bias;    /* llama, qwen3: q, k, v and o */
    bool mlp_bias;          /* llama */
    const char *dtype;      /* NULL = "BF16" */
    const char *body_prefix;/* NULL = the usual one of the family */
    const char *wrapper;    /* NULL = "" */
    int n_shard;
    uint64_t seed;
} fqt_model;

/* Writes config.json and the weights into dir (created if it is missing). */
void fqt_make_model(const char *dir, const fqt_model *m);

/* The tensors of such a model, to be changed before they are written. */
typedef struct fqt_table { fqt_tensor *t; size_t n, cap; char **owned; size_t n_owned; } fqt_table;
fqt_table fqt_model_tensors(const fqt_model *m);
void fqt_write_config(const char *dir, const fqt_model *m);
/* Pointers into the table hold until the next add or remove. A name that is not there ends the program. */
fqt_tensor *fqt_table_find(fqt_table *t, const char *name);
void fqt_table_remove(fqt_table *t, const char *name);
fqt_tensor *fqt_table_add(fqt_table *t, const char *name, const char *dtype, int rank, const int64_t *shape);
void fqt_table_free(fqt_table *t);

#endif
