/* pack.c - codes to words and back. See pack.h. Nothing here can fail: shapes were made by fitq itself, and what a file says was checked by
 * whoever read it. Words are little-endian when a file gets them; this is about their values. */
#include "quant/pack.h"

#include <math.h>
#include <string.h>

#include "quant/gptq.h"

#define TILE 256          /* rows packed at once */
#define WORDS 16          /* words of each of them: what CT transposes in the cache, 16 KiB */

/* ---- streams ---- */

/* The part of field i that lies in word w. */
static inline uint32_t place(uint32_t field, size_t i, size_t bits, size_t w)
{
    const size_t at = i * bits, begin = 32 * w;
    return at >= begin ? field << (at - begin) : field >> (begin - at);
}

/* Fields of word w: [first, end), of n. */
static inline void fields_of(size_t bits, size_t w, size_t n, size_t *first, size_t *end)
{
    *first = 32 * w / bits;
    *end = (32 * w + 32 + bits - 1) / bits;
    if (*end > n) *end = n;
}

void fqi_pack_fields(int bits, const uint8_t *field, size_t n, uint32_t *word, size_t word_stride)
{
    const size_t b = (size_t)bits, n_word = (n * b + 31) / 32;
    for (size_t w = 0; w < n_word; w++) {
        size_t i, end;
        uint32_t u = 0;
        for (fields_of(b, w, n, &i, &end); i < end; i++) u |= place(field[i], i, b, w);
        word[w * word_stride] = u;
    }
}

void fqi_unpack_fields(int bits, const uint32_t *word, size_t word_stride, size_t n, uint8_t *field)
{
    const size_t b = (size_t)bits;
    const uint32_t mask = (1u << b) - 1;
    for (size_t i = 0; i < n; i++) {
        size_t at = i * b, w = at / 32, shift = at % 32;
        uint32_t u = word[w * word_stride] >> shift;
        if (shift + b > 32) u |= word[(w + 1) * word_stride] << (32 - shift);
        field[i] = (uint8_t)(u & mask);
    }
}

/* ---- codes ---- */

typedef struct packing {
    const fqi_codes *c;
    const fqi_pack_shape *s;
    size_t row, n_row;       /* of the file: a tile of n_row <= TILE */
    bool straight;           /* the tile is TILE consecutive rows of the codes */
} packing;

static packing tile_at(const fqi_codes *c, const fqi_pack_shape *s, size_t row, size_t end)
{
    packing p = { c, s, row, end - row < TILE ? end - row : TILE, false };
    const int64_t *of = s->row_of + row;
    p.straight = p.n_row == TILE && of[0] >= 0;
    for (size_t i = 1; p.straight && i < TILE; i++) p.straight = of[i] == of[0] + (int64_t)i;
    return p;
}

static uint8_t middle(const fqi_codes *c) { return (uint8_t)(1u << (c->bits - 1)); }

/* TILE codes of `column` ([n_row] of the codes) for the rows of the tile; buffer is used where they do not lie side by side. */
static const uint8_t *rows_of(const packing *p, const uint8_t *column, uint8_t *buffer)
{
    const int64_t *of = p->s->row_of + p->row;
    const uint8_t padding = middle(p->c);
    if (p->straight) return column + of[0];
    for (size_t i = 0; i < p->n_row; i++) buffer[i] = of[i] < 0 ? padding : column[of[i]];
    memset(buffer + p->n_row, 0, TILE - p->n_row);
    return buffer;
}

/* Word w of all rows of the tile. The loops have fixed lengths, so that compilers make vectors of them. */
static void word_of_rows(const packing *p, size_t w, uint32_t *out)
{
    uint8_t buffer[TILE];
    size_t i, end;
    const size_t b = (size_t)p->c->bits;
    memset(out, 0, TILE * sizeof *out);
    for (fields_of(b, w, p->s->n_col_pad, &i, &end); i < end; i++) {
        int64_t k = p->s->col_of[i];
        const uint8_t *column = k < 0 ? p->c->zero + i / p->s->group_size * p->c->n_row : p->c->code + (size_t)k * p->c->n_row;
        const uint8_t *code = rows_of(p, column, buffer);
        const size_t at = i * b, begin = 32 * w;
        if (at >= begin) {
            const unsigned shift = (unsigned)(at - begin);
            for (size_t n = 0; n < TILE; n++) out[n] |= (uint32_t)code[n] << shift;
        } else {
            const unsigned shift = (unsigned)(begin - at);
            for (size_t n = 0; n < TILE; n++) out[n] |= (uint32_t)code[n] >> shift;
        }
    }
}

static size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }

void fqi_pack_gptq(const fqi_codes *c, const fqi_pack_shape *s, size_t first, size_t n, uint32_t *out)
{
    const size_t n_tile = ceil_div(s->n_row_pad, TILE), n_block = ceil_div(n, WORDS);
#pragma omp parallel for num_threads(s->n_thread > 1 ? s->n_thread : 1) schedule(static)
    for (size_t job = 0; job < n_tile * n_block; job++) {
        const packing p = tile_at(c, s, job % n_tile * TILE, s->n_row_pad);
        const size_t begin = job / n_tile * WORDS, end = n - begin < WORDS ? n : begin + WORDS;
        uint32_t word[TILE];
        for (size_t w = begin; w < end; w++) {
            word_of_rows(&p, first + w, word);
            memcpy(out + w * s->n_row_pad + p.row, word, p.n_row * sizeof *word);
        }
    }
}

void fqi_pack_ct(const fqi_codes *c, const fqi_pack_shape *s, size_t first, size_t n, uint32_t *out)
{
    const size_t n_word = ceil_div(s->n_col_pad * (size_t)c->bits, 32), n_tile = ceil_div(n, TILE);
#pragma omp parallel for num_threads(s->n_thread > 1 ? s->n_thread : 1) schedule(static)
    for (size_t tile = 0; tile < n_tile; tile++) {
        const packing p = tile_at(c, s, first + tile * TILE, first + n);
        uint32_t word[WORDS][TILE];
        for (size_t w = 0; w < n_word; w += WORDS) {
            const size_t n_w = n_word - w < WORDS ? n_word - w : WORDS;
            for (size_t j = 0; j < n_w; j++) word_of_rows(&p, w + j, word[j]);
            for (size_t i = 0; i < p.n_row; i++)
                for (size_t j = 0; j < n_w; j++) out[(tile * TILE + i) * n_word + w + j] = word[j][i];
        }
    }
}

/* ---- zero points: packed along the rows, which are 32 fields, so whole words, at a time ---- */

/* Zero points of group g for rows [row, row + n), n <= 32, minus `less`, modulo 2^bits. True: some zero point is less than that. */
static bool zeros_of(const fqi_codes *c, const fqi_pack_shape *s, size_t g, size_t row, size_t n, unsigned less, uint8_t *field)
{
    const unsigned mask = (1u << c->bits) - 1;
    bool below = false;
    for (size_t i = 0; i < n; i++) {
        int64_t r = s->row_of[row + i];
        unsigned z = r < 0 ? middle(c) : c->zero[g * c->n_row + (size_t)r];
        below = below || z < less;
        field[i] = (uint8_t)((z - less) & mask);
    }
    return below;
}

/* Words of all groups: word w of group g to out[g * group_stride + w * word_stride]. */
static bool pack_zeros(const fqi_codes *c, const fqi_pack_shape *s, unsigned less, uint32_t *out, size_t group_stride, size_t word_stride)
{
    bool below = false;
    uint8_t field[32];
    for (size_t g = 0; g < c->n_group; g++)
        for (size_t row = 0; row < s->n_row_pad; row += 32) {
            size_t n = s->n_row_pad - row < 32 ? s->n_row_pad - row : 32, w = row / 32 * (size_t)c->bits;
            if (zeros_of(c, s, g, row, n, less, field)) below = true;
            fqi_pack_fields(c->bits, field, n, out + g * group_stride + w * word_stride, word_stride);
        }
    return below;
}

bool fqi_pack_gptq_zeros(const fqi_codes *c, const fqi_pack_shape *s, bool v1, uint32_t *out)
{
    return pack_zeros(c, s, v1 ? 1 : 0, out, ceil_div(s->n_row_pad * (size_t)c->bits, 32), 1);
}

void fqi_pack_ct_zeros(const fqi_codes *c, const fqi_pack_shape *s, uint32_t *out) { pack_zeros(c, s, 0, out, 1, c->n_group); }

/* ---- scales ---- */

/* Nearest, ties to even. Scales were rounded to a stored type when they were chosen, so this changes none of them. */
static uint16_t half_bits(float x, fq_dtype dtype)
{
    uint32_t u, a;
    memcpy(&u, &x, sizeof u);
    if (dtype == FQ_DTYPE_BF16) return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
    const uint32_t sign = u >> 16 & 0x8000u;
    a = u & 0x7fffffffu;
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);                        /* 65520 and above */
    if (a < 0x38800000u) return (uint16_t)(sign | (uint32_t)rintf(fabsf(x) * 0x1p24f));   /* below 2^-14: multiples of 2^-24 */
    return (uint16_t)(sign | ((a - 0x38000000u + 0xfffu + (a >> 13 & 1)) >> 13));
}

static void pack_scales(const fqi_codes *c, const fqi_pack_shape *s, fq_dtype dtype, uint16_t *out, size_t group_stride, size_t row_stride)
{
    for (size_t g = 0; g < c->n_group; g++)
        for (size_t row = 0; row < s->n_row_pad; row++) {
            int64_t r = s->row_of[row];
            out[g * group_stride + row * row_stride] = half_bits(r < 0 ? 1.0f : c->scale[g * c->n_row + (size_t)r], dtype);
        }
}

void fqi_pack_gptq_scales(const fqi_codes *c, const fqi_pack_shape *s, fq_dtype dtype, uint16_t *out)
{
    pack_scales(c, s, dtype, out, s->n_row_pad, 1);
}

void fqi_pack_ct_scales(const fqi_codes *c, const fqi_pack_shape *s, fq_dtype dtype, uint16_t *out)
{
    pack_scales(c, s, dtype, out, 1, c->n_group);
}
