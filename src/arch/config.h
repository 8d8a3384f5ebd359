/* config.h - config.json: read into an fq_model, and edited as text.
 *
 * Reading goes through jansson and checks every number. Editing never prints the tree: it replaces the bytes of a value, or
 * inserts a member, so that every key, its order and the text of every other number stay as they are. */
#ifndef FITQ_ARCH_CONFIG_H
#define FITQ_ARCH_CONFIG_H

#include "arch/family.h"
#include "format/json_tree.h"

/* A config.json, read and kept; fqi_config_free frees what is owned. */
typedef struct fqi_config {
    fq_model model;
    const fqi_family *family;   /* NULL when the table has no such model_type */
    bool *layer_is_sparse;      /* num_hidden_layers entries */
    json_t *root;
    bool text_in_sub;           /* the text fields sit in family->text_config (of an unknown family: text_config) */
    char *text; size_t n_text;  /* the file as it was */
} fqi_config;

/* On failure *out is untouched. load: PATH is the file, or a folder that has one; at most 16 MiB. */
fq_status fqi_config_parse(const char *text, size_t n, const char *file, fqi_config *out, fq_err *e);
fq_status fqi_config_load(const char *path, fqi_config *out, fq_err *e);
void fqi_config_free(fqi_config *c);
/* The object that says how weights are quantized ("quantization_config", or its older name), borrowed; NULL: there is none. Its numbers are in
 * the model's quant... members; formats and rules for single modules are only here. */
const json_t *fqi_config_quant(const fqi_config *c);

/* Where this file keeps a member of fq_fit or fq_model ("moe_intermediate_size", "head_dim", ...), as paths for fqi_json_edit: the key may
 * have another name in the family (mixtral: "intermediate_size"), and a multimodal config may hold a copy at the top and in
 * text_config, which must change together. Returns how many paths (0: the file has none; then path[0] is where to insert it). */
#define FQI_CONFIG_PATH_MAX 96
size_t fqi_config_paths(const fqi_config *c, const char *field, char path[2][FQI_CONFIG_PATH_MAX]);

/* One change. path: "intermediate_size", or "text_config.intermediate_size". value: JSON text; NULL removes the member. */
typedef struct fqi_edit { const char *path; const char *value; } fqi_edit;
/* Applies the edits to text, in order; a member that is missing is inserted at the end of its object in the file's own indentation and
 * line ends (its parents must be there). Removing a missing member is no change. Caller frees *out. */
fq_status fqi_json_edit(const char *text, size_t n, const char *file, const fqi_edit *edit, size_t n_edit, char **out, size_t *n_out, fq_err *e);

#endif
