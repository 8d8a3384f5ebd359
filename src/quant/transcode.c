/* transcode.c - fields from one form of words into another. See transcode.h.
 *
 * A tile is TILE x TILE elements. Whatever the forms are it goes the same way: cells of the source, X first, in `word`; fields as bytes, X
 * first; words of the target, X first, in `word`; cells of the target. Steps in the middle fall away where words are the same. Loops over N
 * have a fixed length, so that compilers make vectors of them; what they compute beyond the matrix is not stored. */
#include "quant/transcode.h"

#include <string.h>

#include "base/pipeline.h"

#define TILE 64                     /* elements: whole words of every number of bits */
#define SMALL ((size_t)1 << 19)     /* elements that are not worth a second thread */
#define TOGETHER ((size_t)32)       /* tiles of a job */

typedef struct tile {
    uint32_t word[TILE][TILE];      /* cells, X first: at most one for each element */
    uint8_t field[TILE][TILE];
    size_t n0, x0, n, x;            /* elements of the matrix */
} tile;

/* Cells that n elements of an axis take. */
static size_t cells(const fqi_transcoding *t, const fqi_grid *g, fqi_fields axis, size_t n)
{
    return g->along == axis ? (n * (size_t)t->bits + 31) / 32 : n;
}

static size_t width_of(const fqi_transcoding *t, const fqi_grid *g) { return g->along == FQI_FIELDS_NONE ? t->width : sizeof(uint32_t); }

static unsigned char *line_at(const fqi_transcoding *t, const fqi_grid *g, size_t line, size_t cell)
{
    return (unsigned char *)g->data + (line * g->line + cell) * width_of(t, g);
}

/* ---- cells ---- */

/* n cells between a line of the file and places `step` apart in the tile. */
static void take_line(const unsigned char *from, size_t width, size_t n, uint32_t *to, size_t step)
{
    uint16_t half;
    if (width == 4 && step == 1) {
        memcpy(to, from, 4 * n);
        return;
    }
    switch (width) {
    case 1: for (size_t i = 0; i < n; i++) to[i * step] = from[i]; break;
    case 2: for (size_t i = 0; i < n; i++) { memcpy(&half, from + 2 * i, 2); to[i * step] = half; } break;
    default: for (size_t i = 0; i < n; i++) memcpy(&to[i * step], from + 4 * i, 4); break;
    }
}

static void put_line(unsigned char *to, size_t width, size_t n, const uint32_t *from, size_t step)
{
    uint16_t half;
    if (width == 4 && step == 1) {
        memcpy(to, from, 4 * n);
        return;
    }
    switch (width) {
    case 1: for (size_t i = 0; i < n; i++) to[i] = (unsigned char)from[i * step]; break;
    case 2: for (size_t i = 0; i < n; i++) { half = (uint16_t)from[i * step]; memcpy(to + 2 * i, &half, 2); } break;
    default: for (size_t i = 0; i < n; i++) memcpy(to + 4 * i, &from[i * step], 4); break;
    }
}

typedef struct range { size_t n0, x0, n, x; } range;   /* cells of a grid that a tile has */

static range cells_of(const fqi_transcoding *t, const fqi_grid *g, const tile *a)
{
    return (range){ cells(t, g, FQI_FIELDS_N, a->n0), cells(t, g, FQI_FIELDS_X, a->x0), cells(t, g, FQI_FIELDS_N, a->n), cells(t, g, FQI_FIELDS_X, a->x) };
}

static void load(const fqi_transcoding *t, tile *a)
{
    const fqi_grid *g = &t->from;
    const range r = cells_of(t, g, a);
    if (g->x_first)
        for (size_t x = 0; x < r.x; x++) take_line(line_at(t, g, r.x0 + x, r.n0), width_of(t, g), r.n, a->word[x], 1);
    else
        for (size_t n = 0; n < r.n; n++) take_line(line_at(t, g, r.n0 + n, r.x0), width_of(t, g), r.x, &a->word[0][n], TILE);
}

static void store(const fqi_transcoding *t, const tile *a)
{
    const fqi_grid *g = &t->to;
    const range r = cells_of(t, g, a);
    if (g->x_first)
        for (size_t x = 0; x < r.x; x++) put_line(line_at(t, g, r.x0 + x, r.n0), width_of(t, g), r.n, a->word[x], 1);
    else
        for (size_t n = 0; n < r.n; n++) put_line(line_at(t, g, r.n0 + n, r.x0), width_of(t, g), r.x, &a->word[0][n], TILE);
}

/* ---- fields ---- */

/* Where element i of an axis lies in the words along it. */
static inline size_t bit_of(const fqi_transcoding *t, const fqi_grid *g, size_t i)
{
    const size_t bits = (size_t)t->bits, each = 32 / bits;
    return (g->field ? i / each * each + g->field[i % each] : i) * bits;
}

/* Lines of a tile. Pointers are apart and lengths are known, or compilers make no vectors of them. */
static inline void take_fields(const uint32_t *restrict word, unsigned shift, uint32_t add, uint32_t mask, uint8_t *restrict to)
{
    for (size_t n = 0; n < TILE; n++) to[n] = (uint8_t)(((word[n] >> shift) + add) & mask);
}

static inline void take_split_fields(const uint32_t *restrict word, const uint32_t *restrict next, unsigned shift, uint32_t add, uint32_t mask, uint8_t *restrict to)
{
    for (size_t n = 0; n < TILE; n++) to[n] = (uint8_t)(((word[n] >> shift | next[n] << (32 - shift)) + add) & mask);
}

static inline void or_fields(uint32_t *restrict word, unsigned shift, const uint8_t *restrict from)
{
    for (size_t n = 0; n < TILE; n++) word[n] |= (uint32_t)from[n] << shift;
}

static inline void or_upper_fields(uint32_t *restrict word, unsigned shift, const uint8_t *restrict from)
{
    for (size_t n = 0; n < TILE; n++) word[n] |= (uint32_t)from[n] >> shift;
}

/* Words along X: one element of every output at a time. */
static void fields_along_x(const fqi_transcoding *t, tile *a)
{
    const uint32_t mask = (1u << t->bits) - 1, add = (uint32_t)t->add;
    for (size_t x = 0; x < a->x; x++) {
        const size_t at = bit_of(t, &t->from, x), w = at / 32;
        const unsigned shift = (unsigned)(at % 32);
        if (shift + (unsigned)t->bits > 32) take_split_fields(a->word[w], a->word[w + 1], shift, add, mask, a->field[x]);
        else take_fields(a->word[w], shift, add, mask, a->field[x]);
    }
}

/* ---- nibbles: the words of nearly all models, eight fields at once ---- */

enum { EACH = 8, WORDS = TILE / EACH };

static inline void move_nibble(const uint32_t *restrict from, unsigned down, unsigned up, uint32_t *restrict to)
{
    for (size_t w = 0; w < WORDS; w++) to[w] |= (from[w] >> down & 15u) << up;
}

/* Nibble j of each word becomes nibble field[j], or the other way back. */
static void permute_nibbles(uint32_t word[WORDS], const uint8_t field[EACH], bool back)
{
    uint32_t u[WORDS] = { 0 };
    for (unsigned j = 0; j < EACH; j++) move_nibble(word, 4 * (back ? field[j] : j), 4 * (back ? j : field[j]), u);
    memcpy(word, u, sizeof u);
}

static void nibbles_along_n(const fqi_transcoding *t, tile *a)
{
    const uint64_t add = ((uint64_t)t->add & 15u) * 0x0101010101010101u;
    for (size_t x = 0; x < a->x; x++) {
        uint32_t u[WORDS];
        memcpy(u, a->word[x], sizeof u);
        if (t->from.field) permute_nibbles(u, t->from.field, true);
        for (size_t w = 0; w < WORDS; w++) {
            uint64_t v = u[w];
            v = (v | v << 16) & 0x0000ffff0000ffffu;
            v = (v | v << 8) & 0x00ff00ff00ff00ffu;
            v = (v | v << 4) & 0x0f0f0f0f0f0f0f0fu;
            v = (v + add) & 0x0f0f0f0f0f0f0f0fu;
            memcpy(&a->field[x][w * EACH], &v, sizeof v);   /* little-endian, as files are */
        }
    }
}

static void words_of_nibbles_along_n(const fqi_transcoding *t, tile *a)
{
    for (size_t x = 0; x < a->x; x++) {
        uint32_t u[WORDS];
        for (size_t n = a->n; n < TILE; n++) a->field[x][n] = 0;   /* beyond the matrix: bits stay 0 */
        for (size_t w = 0; w < WORDS; w++) {
            uint64_t v;
            memcpy(&v, &a->field[x][w * EACH], sizeof v);
            v = (v | v >> 4) & 0x00ff00ff00ff00ffu;
            v = (v | v >> 8) & 0x0000ffff0000ffffu;
            u[w] = (uint32_t)(v | v >> 16);
        }
        if (t->to.field) permute_nibbles(u, t->to.field, false);
        memcpy(a->word[x], u, sizeof u);
    }
}

/* ---- any number of bits ---- */

static void fields_along_n(const fqi_transcoding *t, tile *a)
{
    const uint32_t mask = (1u << t->bits) - 1, add = (uint32_t)t->add;
    size_t at[TILE];
    for (size_t n = 0; n < TILE; n++) at[n] = bit_of(t, &t->from, n);
    for (size_t x = 0; x < a->x; x++)
        for (size_t n = 0; n < TILE; n++) {
            const size_t w = at[n] / 32, shift = at[n] % 32;
            uint32_t u = a->word[x][w] >> shift;
            if (shift + (size_t)t->bits > 32) u |= a->word[x][w + 1] << (32 - shift);
            a->field[x][n] = (uint8_t)((u + add) & mask);
        }
}

static void fields_of_cells(const fqi_transcoding *t, tile *a)
{
    const uint32_t mask = (1u << t->bits) - 1, add = (uint32_t)t->add;
    for (size_t x = 0; x < a->x; x++)
        for (size_t n = 0; n < TILE; n++) a->field[x][n] = (uint8_t)((a->word[x][n] + add) & mask);
}

static void words_along_x(const fqi_transcoding *t, tile *a)
{
    const size_t n_word = cells(t, &t->to, FQI_FIELDS_X, a->x);
    memset(a->word, 0, n_word * sizeof a->word[0]);
    for (size_t x = 0; x < a->x; x++) {
        const size_t at = bit_of(t, &t->to, x), w = at / 32;
        const unsigned shift = (unsigned)(at % 32);
        or_fields(a->word[w], shift, a->field[x]);
        if (shift + (unsigned)t->bits > 32) or_upper_fields(a->word[w + 1], 32 - shift, a->field[x]);
    }
}

/* Elements beyond the matrix are not its: their bits stay 0. */
static void words_along_n(const fqi_transcoding *t, tile *a)
{
    const size_t n_word = cells(t, &t->to, FQI_FIELDS_N, a->n);
    size_t at[TILE];
    for (size_t n = 0; n < a->n; n++) at[n] = bit_of(t, &t->to, n);
    for (size_t x = 0; x < a->x; x++) {
        memset(a->word[x], 0, n_word * sizeof a->word[0][0]);
        for (size_t n = 0; n < a->n; n++) {
            const size_t w = at[n] / 32, shift = at[n] % 32;
            a->word[x][w] |= (uint32_t)a->field[x][n] << shift;
            if (shift + (size_t)t->bits > 32) a->word[x][w + 1] |= (uint32_t)a->field[x][n] >> (32 - shift);
        }
    }
}

static void cells_of_fields(tile *a)
{
    for (size_t x = 0; x < a->x; x++)
        for (size_t n = 0; n < TILE; n++) a->word[x][n] = a->field[x][n];
}

static void recode(const fqi_transcoding *t, tile *a)
{
    switch (t->from.along) {
    case FQI_FIELDS_X: fields_along_x(t, a); break;
    case FQI_FIELDS_N: t->bits == 4 ? nibbles_along_n(t, a) : fields_along_n(t, a); break;
    case FQI_FIELDS_NONE: fields_of_cells(t, a); break;
    }
    switch (t->to.along) {
    case FQI_FIELDS_X: words_along_x(t, a); break;
    case FQI_FIELDS_N: t->bits == 4 ? words_of_nibbles_along_n(t, a) : words_along_n(t, a); break;
    case FQI_FIELDS_NONE: cells_of_fields(a); break;
    }
}

/* ---- the whole ---- */

/* Both forms have the same cells, in other places at most. */
static bool same_cells(const fqi_transcoding *t)
{
    return t->bits == 0 || (t->add == 0 && t->from.along == t->to.along && t->from.field == t->to.field);
}

/* Lines are the same too. */
static void copy_lines(const fqi_transcoding *t)
{
    const size_t n = cells(t, &t->from, FQI_FIELDS_N, t->n), x = cells(t, &t->from, FQI_FIELDS_X, t->x);
    const size_t n_line = t->from.x_first ? x : n, bytes = (t->from.x_first ? n : x) * width_of(t, &t->from);
    for (size_t i = 0; i < n_line; i++) memcpy(line_at(t, &t->to, i, 0), line_at(t, &t->from, i, 0), bytes);
}

/* Words that only move are cells like others: a tile of them is a tile of words, not of the fields in them. */
static fqi_transcoding moving_words(const fqi_transcoding *t)
{
    fqi_transcoding m = *t;
    if (t->from.along == FQI_FIELDS_NONE) return m;
    m.n = cells(t, &t->from, FQI_FIELDS_N, t->n);
    m.x = cells(t, &t->from, FQI_FIELDS_X, t->x);
    m.bits = 0;
    m.width = sizeof(uint32_t);
    m.from.along = m.to.along = FQI_FIELDS_NONE;
    return m;
}

static void do_tile(const fqi_transcoding *t, size_t n0, size_t x0, bool same)
{
    tile a;
    a.n0 = n0;
    a.x0 = x0;
    a.n = t->n - n0 < TILE ? t->n - n0 : TILE;
    a.x = t->x - x0 < TILE ? t->x - x0 : TILE;
    if (a.n < TILE || a.x < TILE) memset(a.word, 0, sizeof a.word);   /* loops go to the end of a tile */
    load(t, &a);
    if (!same) recode(t, &a);
    store(t, &a);
}

typedef struct dealing { const fqi_transcoding *t; size_t across, n_tile; bool same; } dealing;

static void do_tiles(void *user, size_t job)
{
    const dealing *d = user;
    const size_t first = job * TOGETHER, end = d->n_tile - first < TOGETHER ? d->n_tile : first + TOGETHER;
    for (size_t i = first; i < end; i++) do_tile(d->t, i % d->across * TILE, i / d->across * TILE, d->same);
}

void fqi_transcode(const fqi_transcoding *asked)
{
    const bool same = same_cells(asked);
    const fqi_transcoding t = same ? moving_words(asked) : *asked;
    if (same && t.from.x_first == t.to.x_first) {
        copy_lines(&t);
        return;
    }
    const size_t across = (t.n + TILE - 1) / TILE, n_tile = across * ((t.x + TILE - 1) / TILE);
    dealing d = { .t = &t, .across = across, .n_tile = n_tile, .same = same };
    fqi_parallel(t.n * t.x > SMALL ? t.n_thread : 1, (n_tile + TOGETHER - 1) / TOGETHER, do_tiles, &d);
}
