/* fields.h - reading a matrix whose rows and columns go into another order, down to the fields of packed words.
 *
 *     out[r][c] = in[of_row[r]][of_col[c]]          an index counts elements, or fields of `bits` bits of which 32 / bits share a word
 *
 * What fqi_gather moves are runs of bytes; an order of single channels has a run for each, and cuts words. Here a row is put together from
 * the rows that its fields come from (whole rows at a time, so the inner loop is over consecutive words), and then its columns are dealt.
 *
 * Memory does not depend on the tensor: rows that are read in their order pass through a window; rows in any order are kept as far as
 * `memory` goes, and the others are read again for every word that needs them. Bits are 2, 4 or 8: words without a rest. */
#ifndef FITQ_CHECKPOINT_FIELDS_H
#define FITQ_CHECKPOINT_FIELDS_H

#include "base/fs.h"
#include "format/tensor.h"

/* The rows or the columns of what is read. of: for each of n new indices an old one, or -1 for an empty place; NULL: n indices as they are. per_word:
 * indices that share an entry of the tensor; 1: each is an entry. n is a multiple of it. */
typedef struct fqi_fields_axis { const int32_t *of; int64_t n, n_old; unsigned per_word; } fqi_fields_axis;

/* axis[0]: rows (of a tensor of rank 1: one), axis[1]: columns. field: place of index j of a word (quant_layout.h); NULL: j. fill: what stands in
 * empty places, whole elements of 1, 2 or 4 bytes, or a word whose fields are all alike; larger elements are zeros. */
typedef struct fqi_fields_request {
    const fqi_file *file;
    const fqi_tensor *tensor;       /* borrowed, as are the others */
    fqi_fields_axis axis[2];
    const uint8_t *field;
    unsigned char fill[4];
    uint64_t memory;                /* for rows; a few rows are held whatever it says */
} fqi_fields_request;

typedef struct fqi_fields fqi_fields;

/* FQ_E_INPUT "tensor-stride" for a tensor that does not lie as its shape says, "tensor-shape" for one of other lengths than the axes'; FQ_E_USAGE "map" for an
 * index out of range. */
fq_status fqi_fields_open(const fqi_fields_request *r, fqi_fields **out, fq_err *e);
/* Bytes [off, off + n) of the new tensor; cheap when asked for front to back. */
fq_status fqi_fields_read(fqi_fields *f, uint64_t off, unsigned char *out, size_t n, fq_err *e);
/* XXH3-128 of the old tensor, high half first, if all of it has passed by in its order: always when its last row was read, but for rows in any order that
 * were more than `memory` holds. */
bool fqi_fields_hash(const fqi_fields *f, uint64_t hash[2]);
void fqi_fields_close(fqi_fields *f);   /* NULL is fine. Not the file */

#endif
