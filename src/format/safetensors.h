/* safetensors.h - bytes <-> descriptors of the safetensors container; no files, no policy.
 *
 *     u64le N | N bytes of JSON | buffer            huggingface/safetensors, safetensors/src/tensor.rs
 *
 * Stricter than the reference where parsers disagree: duplicate names (after unescaping) are refused, a tensor record must
 * be an object, more than FQ_MAX_RANK dimensions are refused. */
#ifndef FITQ_FORMAT_SAFETENSORS_H
#define FITQ_FORMAT_SAFETENSORS_H

#include "base/mem.h"
#include "format/tensor.h"

#define FQI_ST_MAX_HEADER 100000000u

typedef struct fqi_st_header {
    fqi_tensor *tensor;      /* in file order of their data; off is absolute in the file */
    size_t n_tensor;
    struct { const char *key, *value; } *meta;   /* __metadata__ in file order */
    size_t n_meta;
    int64_t *dims;           /* all shapes, one after another; private */
    char *text;              /* owned by the caller of fqi_st_parse; names point into it */
} fqi_st_header;

/* Checks the first 8 bytes: *n_header = N. file_bytes: size of the whole file. */
fq_status fqi_st_length(const unsigned char first8[8], uint64_t file_bytes, const char *file, uint64_t *n_header, fq_err *e);
/* text: the N header bytes (modified, and must outlive *out). On failure nothing is left allocated. */
fq_status fqi_st_parse(char *text, size_t n, uint64_t file_bytes, const char *file, fqi_st_header *out, fq_err *e);
void fqi_st_free(fqi_st_header *h);   /* not the text */

/* Writer. Tensors are written in the order of the array; shape and dtype and name are used, bytes gives data_offsets.
 * Appends the 8 length bytes, the JSON (compact, __metadata__ first) and spaces up to a multiple of 8. */
fq_status fqi_st_write_header(const fqi_tensor *t, size_t n, const char *const *meta_key, const char *const *meta_value, size_t n_meta, fqi_str *out, fq_err *e);
/* The reference writer's order: dtype rank descending, then name ascending (bytes). For qsort over fqi_tensor. */
int fqi_st_compare(const void *a, const void *b);

#endif
