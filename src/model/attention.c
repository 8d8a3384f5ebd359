/* attention.c - grouped-query attention of a batch over its caches, causal, with or without a window.
 *
 * Rows are (token, query head) pairs of one KV head, tokens outermost, so that a tile of rows is a few tokens of a prompt or all heads of a
 * decoded one, and reads each key and value once for all of them:
 *
 *     scores [rows][keys]  = tile of q  x  K tiles [head_dim][32]        gemm_tile, k = head_dim
 *     softmax of each row over the keys it may see, zeros elsewhere
 *     out [rows][head_dim] = scores  x  V [keys][head_dim]               gemm_tile, k = keys
 *
 * All sums are in sequence order, and a key that a row does not see has weight 0: a row's bits do not depend on its tile. */
#include "model/work.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/checked.h"

#define KEY_BLOCK 256   /* values that stay in cache for all rows of a tile */

static size_t padded(int64_t n) { return ((size_t)n + FQI_TILE - 1) / FQI_TILE * FQI_TILE; }

size_t fqi_kv_floats(const fqi_decoder *d, int64_t capacity)
{
    const uint64_t kv = (uint64_t)d->model.num_key_value_heads, hd = (uint64_t)d->model.head_dim;
    return (size_t)fqi_sat_mul(fqi_sat_mul(kv, padded(capacity)), hd + padded(d->model.head_dim));
}

void fqi_kv_place(const fqi_decoder *d, float *memory, int64_t capacity, fqi_kv *kv)
{
    const size_t n = (size_t)d->model.num_key_value_heads * padded(capacity);
    *kv = (fqi_kv){ .k = memory, .v = memory + n * (size_t)d->model.head_dim, .capacity = (int64_t)padded(capacity) };
}

/* Scores at a stride that is no power of two: rows of a tile would fall into the same sets of the cache. */
static size_t score_stride(int64_t n_position) { return padded(n_position) + 2 * FQI_TILE + FQI_LANES; }

uint64_t fqi_attention_floats(const fqi_decoder *d, int64_t n_position)
{
    return fqi_sat_mul(FQI_QUERY_ROWS, padded(d->model.head_dim) * 2 + score_stride(n_position));
}

void fqi_attention_append(const fqi_pass *p, const fqi_kv *kv, size_t token, int64_t position)
{
    const size_t hd = (size_t)p->d->model.head_dim, hd_row = padded(p->d->model.head_dim), n_kv = (size_t)p->d->model.num_key_value_heads;
    const size_t keys = (size_t)kv->capacity, key = (size_t)position;
    const float *k = p->work->k + token * n_kv * hd, *v = p->work->v + token * n_kv * hd;
    for (size_t h = 0; h < n_kv; h++) {
        float *tile = kv->k + h * keys * hd + key / FQI_TILE * FQI_TILE * hd + key % FQI_TILE;
        for (size_t i = 0; i < hd; i++) tile[i * FQI_TILE] = k[h * hd + i];
        memcpy(kv->v + (h * keys + key) * hd_row, v + h * hd, hd * sizeof *v);
    }
}

/* One tile of rows of one KV head of one span. */
typedef struct tile {
    const fqi_span *span;
    size_t first_token;      /* of the span, in the batch */
    size_t head, group;      /* KV head; query heads per KV head */
    size_t row, n_row;
    size_t key0, n_key;      /* keys that any row sees; key0 on a tile boundary */
    float *q, *score, *out;
    size_t stride;           /* of score */
} tile;

static size_t keys_end(const tile *t, size_t row) { return (size_t)t->span->pos + row / t->group + 1; }

static size_t keys_begin(const tile *t, size_t row, int64_t window)
{
    size_t end = keys_end(t, row);
    return window > 0 && end > (size_t)window ? end - (size_t)window : 0;
}

static size_t q_offset(const fqi_pass *p, const tile *t, size_t row)
{
    const size_t hd = (size_t)p->d->model.head_dim, heads = (size_t)p->d->model.num_attention_heads;
    return (t->first_token + row / t->group) * heads * hd + (t->head * t->group + row % t->group) * hd;
}

static void scores(const fqi_pass *p, const tile *t)
{
    const size_t hd = (size_t)p->d->model.head_dim;
    const float *k = t->span->kv.k + t->head * (size_t)t->span->kv.capacity * hd;
    for (size_t i = 0; i < t->n_row; i++) memcpy(t->q + i * hd, p->work->q + q_offset(p, t, t->row + i), hd * sizeof(float));
    for (size_t key = 0; key < t->n_key; key += FQI_TILE)
        for (size_t i = 0; i < t->n_row; i += FQI_TILE_ROWS) {
            size_t m = t->n_row - i < FQI_TILE_ROWS ? t->n_row - i : FQI_TILE_ROWS;
            p->c->kernel->gemm_tile(m, hd, t->q + i * hd, hd, k + (t->key0 + key) * hd, FQI_TILE, t->score + i * t->stride + key, t->stride, false,
                                    true);
        }
}

static void weights_of_keys(const fqi_pass *p, const tile *t)
{
    const int64_t window = p->d->window[p->layer];
    const float scale = (float)(1.0 / sqrt((double)p->d->model.head_dim));
    for (size_t i = 0; i < t->n_row; i++) {
        float *row = t->score + i * t->stride;
        size_t begin = keys_begin(t, t->row + i, window) - t->key0, end = keys_end(t, t->row + i) - t->key0;
        memset(row, 0, begin * sizeof *row);
        memset(row + end, 0, (t->n_key - end) * sizeof *row);
        p->c->kernel->softmax(row + begin, end - begin, scale);
        p->c->kernel->round_to(row + begin, p->c->served, end - begin);
    }
}

static void values(const fqi_pass *p, const tile *t)
{
    const size_t hd = (size_t)p->d->model.head_dim, hd_row = padded(p->d->model.head_dim);
    const float *v = t->span->kv.v + (t->head * (size_t)t->span->kv.capacity + t->key0) * hd_row;
    for (size_t key = 0; key < t->n_key; key += KEY_BLOCK) {
        size_t n = t->n_key - key < KEY_BLOCK ? t->n_key - key : KEY_BLOCK;
        for (size_t col = 0; col < hd_row; col += FQI_TILE)
            for (size_t i = 0; i < t->n_row; i += FQI_TILE_ROWS) {
                size_t m = t->n_row - i < FQI_TILE_ROWS ? t->n_row - i : FQI_TILE_ROWS;
                p->c->kernel->gemm_tile(m, n, t->score + i * t->stride + key, t->stride, v + key * hd_row + col, hd_row, t->out + i * hd_row + col,
                                        hd_row, key > 0, key + n == t->n_key);
            }
    }
    for (size_t i = 0; i < t->n_row; i++) {
        float *out = p->attention + q_offset(p, t, t->row + i);
        memcpy(out, t->out + i * hd_row, hd * sizeof *out);
        p->c->kernel->round_to(out, p->c->served, hd);
    }
}

static size_t tiles_of(const fqi_span *span, size_t group) { return (span->n * group + FQI_QUERY_ROWS - 1) / FQI_QUERY_ROWS; }

/* Tile number n of the whole batch, KV heads innermost. */
static void locate(const fqi_pass *p, size_t n, tile *t)
{
    const size_t kv = (size_t)p->d->model.num_key_value_heads;
    t->group = (size_t)p->d->model.num_attention_heads / kv;
    t->head = n % kv;
    n /= kv;
    t->first_token = 0;
    t->span = p->batch->span;
    while (n >= tiles_of(t->span, t->group)) {
        n -= tiles_of(t->span, t->group);
        t->first_token += t->span->n;
        t->span++;
    }
    size_t rows = t->span->n * t->group;
    t->row = n * FQI_QUERY_ROWS;
    t->n_row = rows - t->row < FQI_QUERY_ROWS ? rows - t->row : FQI_QUERY_ROWS;
    t->key0 = keys_begin(t, t->row, p->d->window[p->layer]) / FQI_TILE * FQI_TILE;
    t->n_key = keys_end(t, t->row + t->n_row - 1) - t->key0;
}

void fqi_attention_run(const fqi_pass *p)
{
    const size_t kv = (size_t)p->d->model.num_key_value_heads, group = (size_t)p->d->model.num_attention_heads / kv;
    const size_t hd_row = padded(p->d->model.head_dim);
    size_t n_tile = 0;
    for (size_t s = 0; s < p->batch->n_span; s++) n_tile += tiles_of(&p->batch->span[s], group) * kv;
#pragma omp parallel for num_threads(fqi_pass_threads(p, n_tile)) schedule(dynamic)
    for (size_t n = 0; n < n_tile; n++) {
        tile t;
        locate(p, n_tile - 1 - n, &t);   /* the longest rows of a prompt first: no thread is left with them at the end */
        t.stride = score_stride(p->work->n_position);
        t.q = p->work->per_thread + (size_t)omp_get_thread_num() * p->work->thread_floats;
        t.out = t.q + FQI_QUERY_ROWS * hd_row;
        t.score = t.out + FQI_QUERY_ROWS * hd_row;
        scores(p, &t);
        weights_of_keys(p, &t);
        values(p, &t);
    }
}
