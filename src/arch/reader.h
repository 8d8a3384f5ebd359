/* reader.h - looking things up in a config.json; used by config.c, config_quant.c, decoder.c and decoder_rope.c. */
#ifndef FITQ_ARCH_READER_H
#define FITQ_ARCH_READER_H

#include "arch/config.h"
#include "arch/table.h"

#define FQI_MAX_WIDTH 134217728       /* 2^27: hidden, vocabulary and MLP widths; published models stay below 2^19 */
#define FQI_MAX_LAYER 10000
#define FQI_MAX_HEAD 65536
#define FQI_MAX_EXPERT 65536
#define FQI_MAX_POSITION (INT64_C(1) << 40)
#define FQI_MAX_PARAM (INT64_C(1) << 56)   /* so that bytes, also padded and at 8 bytes each, stay in int64 */

typedef struct fqi_reader {
    const json_t *root, *sub;          /* sub: text_config, or NULL. A key is looked up there first */
    const fqi_config_rules *rules;
    const char *file;
    fq_model *m;
    bool *sparse;                      /* num_hidden_layers flags, owned by whoever made the reader */
} fqi_reader;

/* Member of one object, NULL when absent or null (or obj is). */
const json_t *fqi_reader_member(const json_t *obj, const char *key);
/* A value as it would stand in the file, escaped and cut, for a message. Returns out, or a constant. */
const char *fqi_reader_show(const json_t *v, char out[FQI_NAME_MAX + 3]);
/* Value of a key, NULL when absent or null. */
const json_t *fqi_reader_find(const fqi_reader *r, const char *key);
/* The key stands there, be it with null. */
bool fqi_reader_has(const fqi_reader *r, const char *key);
/* The object that holds the key (the root when nobody does). */
const json_t *fqi_reader_holder(const fqi_reader *r, const char *key);
/* FQ_E_INPUT with the rule of json_tree.h's getters: "FILE: json-field: KEY: found VALUE, expected WHAT". */
#define FQI_RULE_FIELD "json-field"
fq_status fqi_reader_fail(const fqi_reader *r, const char *key, const json_t *found, const char *expected, fq_err *e);
/* A key that stands at the top and in text_config must say the same: engines read one or the other. */
fq_status fqi_reader_copies(const fqi_reader *r, const char *key, fq_err *e);
/* A number in [min, max] of obj, where messages call obj `in` ("rope_scaling"; NULL: the file itself). Absent or null: FQ_E_INPUT if
 * required, else *out stays as it is. An integer may stand for a real, true and false may not. */
typedef struct fqi_reader_real { const char *key; double min, max; bool required; } fqi_reader_real;
fq_status fqi_reader_number(const fqi_reader *r, const json_t *obj, const char *in, const fqi_reader_real *want, double *out, fq_err *e);
/* "rope_scaling.factor" into out. */
const char *fqi_reader_label(const char *in, const char *key, char out[FQI_NAME_MAX + 1]);

/* The rotary embedding of config.json (decoder_rope.c). head_dim and max_position_embeddings (0 = absent) are read before. */
struct fqi_rope;
fq_status fqi_reader_rope(const fqi_reader *r, int64_t head_dim, int64_t max_position, struct fqi_rope *out, fq_err *e);

/* config.json's quantization_config into m->quant... (config_quant.c). */
fq_status fqi_reader_quant(const fqi_reader *r, fq_err *e);

#endif
