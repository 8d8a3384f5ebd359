/* pack.h - codes to the words that files hold, and back: GPTQ and compressed-tensors. Pure. Layouts: see the pictures.
 *
 *     GPTQ            qweight [K b / 32][N]: word r of column n = codes of inputs r*32/b .. , the first in the lowest bits. 3 bits: 32 codes of
 *                     a column are one string of 96 bits, in three consecutive words. qzeros [G][N b / 32], the same along N; format v1
 *                     stores zero - 1 per field, v2 the zero itself. scales [G][N]
 *     compressed-     weight_packed [N][K b / 32], the same unsigned codes along K; weight_scale [N][G];
 *     tensors         weight_zero_point [ceil(N b / 32)][G] if asymmetric (packed along N); weight_shape [2] = N, K
 *
 * Sources: GPTQModel nn_modules/qlinear/__init__.py, torch.py; compressed-tensors compressors/quantized_compressors/pack_quantized.py. */
#ifndef FITQ_QUANT_PACK_H
#define FITQ_QUANT_PACK_H

#include "axis/map.h"

/* A stream of b-bit fields: field i of `stride`-spaced words. bits 2, 3, 4, 8. n fields take ceil(n * bits / 32) words; unused bits 0. */
void fqi_pack_fields(int bits, const uint8_t *field, size_t n, uint32_t *word, size_t word_stride);
void fqi_unpack_fields(int bits, const uint32_t *word, size_t word_stride, size_t n, uint8_t *field);

/* Rows and columns of the file from those of the codes: -1 = padding. */
typedef struct fqi_pack_shape {
    size_t n_row_pad, n_col_pad;
    const int64_t *row_of;     /* [n_row_pad]: row of the codes, or -1 (code = zero point, scale 1: exactly 0) */
    const int64_t *col_of;     /* [n_col_pad] */
    size_t group_size;         /* of slots (fqi_columns): a padded column's code is the zero point of the group that its slot is in */
    int n_thread;              /* of fqi_pack_gptq and fqi_pack_ct; 0 and 1: the caller's alone */
} fqi_pack_shape;

struct fqi_codes;
/* qweight, by inputs: word rows [first, first + n) of the ceil(n_col_pad bits / 32) to out ([n][n_row_pad] words). A large matrix is packed in
 * pieces. */
void fqi_pack_gptq(const struct fqi_codes *c, const fqi_pack_shape *s, size_t first, size_t n, uint32_t *out);
/* v1: zero - 1 per field, modulo 2^bits; true: some zero is 0 and v1 cannot say so (FQ_E_INPUT "zero-point" at the caller). */
bool fqi_pack_gptq_zeros(const struct fqi_codes *c, const fqi_pack_shape *s, bool v1, uint32_t *out);   /* [n_group][ceil(n_row_pad bits / 32)] */
/* Bit patterns of F16 or BF16: [n_group][n_row_pad]. */
void fqi_pack_gptq_scales(const struct fqi_codes *c, const fqi_pack_shape *s, fq_dtype dtype, uint16_t *out);
/* weight_packed of rows [first, first + n): [n][ceil(n_col_pad bits / 32)]. */
void fqi_pack_ct(const struct fqi_codes *c, const fqi_pack_shape *s, size_t first, size_t n, uint32_t *out);
void fqi_pack_ct_scales(const struct fqi_codes *c, const fqi_pack_shape *s, fq_dtype dtype, uint16_t *out);   /* [n_row_pad][n_group] */
void fqi_pack_ct_zeros(const struct fqi_codes *c, const fqi_pack_shape *s, uint32_t *out);

#endif
