/* gather.c - extents, reading and assembling of a mapped tensor. See gather.h. */
#include "checkpoint/gather.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

#define MAX_PIECE (32u * 1024)          /* bounds the tables of a slot; a column map of 72B size has about 460 a row */
#define BULK_BYTES (64u * 1024)         /* extents from here on are read past the page cache */
#define HOLE_BYTES (16u * 1024)         /* a hole up to this size is read through... */
#define HOLE_BUDGET (1u << 20)          /* ...while the slot has room for it */
#define SLACK_BYTES (HOLE_BUDGET + 3 * FQI_IO_ALIGN)

/* Every bulk extent may need its aligned hull; there are at most (chunk + holes) / BULK_BYTES of them. Small ones are packed. */
static size_t buffer_bytes(size_t chunk)
{
    return chunk + SLACK_BYTES + ((chunk + HOLE_BUDGET) / BULK_BYTES + 2) * 3 * FQI_IO_ALIGN;
}

uint64_t fqi_slot_memory(size_t chunk)
{
    return chunk + FQI_IO_ALIGN + buffer_bytes(chunk) + FQI_IO_ALIGN +
           (uint64_t)MAX_PIECE * (sizeof(fqi_piece) + sizeof(uint32_t) + sizeof(fqi_extent));
}

static void *aligned_buffer(size_t n) { return aligned_alloc(FQI_IO_ALIGN, (n + FQI_IO_ALIGN - 1) / FQI_IO_ALIGN * FQI_IO_ALIGN); }

fq_status fqi_slot_init(fqi_slot *s, size_t chunk, fq_err *e)
{
    *s = (fqi_slot){ .chunk = chunk, .buf_bytes = buffer_bytes(chunk), .max_piece = MAX_PIECE };
    s->piece = fqi_calloc(MAX_PIECE, sizeof *s->piece);
    s->sorted = fqi_calloc(MAX_PIECE, sizeof *s->sorted);
    s->extent = fqi_calloc(MAX_PIECE, sizeof *s->extent);
    s->out = aligned_buffer(chunk);
    s->buf = aligned_buffer(s->buf_bytes);
    if (s->piece && s->sorted && s->extent && s->out && s->buf) return FQ_OK;
    fqi_slot_free(s);
    return fqi_fail_nomem(e, "I/O buffers");
}

/* A run that ends anywhere, and its hull. */
static size_t plain_buffer_bytes(size_t chunk) { return (chunk + 3 * FQI_IO_ALIGN - 1) / FQI_IO_ALIGN * FQI_IO_ALIGN; }

uint64_t fqi_slot_memory_plain(size_t chunk) { return plain_buffer_bytes(chunk) + FQI_IO_ALIGN + sizeof(fqi_piece) + sizeof(fqi_extent); }

fq_status fqi_slot_init_plain(fqi_slot *s, size_t chunk, fq_err *e)
{
    *s = (fqi_slot){ .chunk = chunk, .buf_bytes = plain_buffer_bytes(chunk), .max_piece = 1 };
    s->piece = fqi_calloc(1, sizeof *s->piece);
    s->extent = fqi_calloc(1, sizeof *s->extent);
    s->buf = aligned_buffer(s->buf_bytes);
    if (s->piece && s->extent && s->buf) return FQ_OK;
    fqi_slot_free(s);
    return fqi_fail_nomem(e, "I/O buffers");
}

void fqi_slot_free(fqi_slot *s)
{
    if (!s) return;
    free(s->piece);
    free(s->sorted);
    free(s->extent);
    free(s->out);
    free(s->buf);
    *s = (fqi_slot){ 0 };
}

/* A tensor that keeps every element where it was is a run of bytes, whatever its dtype (four-bit types included). */
static fq_status begin_segments(fqi_gather *g, const fqi_tensor *t, const fqi_map *const *map, fq_err *e)
{
    bool plain = t->stride == NULL && !t->byteswap;
    for (int d = 0; d < t->rank; d++) plain = plain && (!map || !map[d]);
    if (plain) {
        int64_t n = (int64_t)t->bytes;
        return fqi_segments_init(&g->seg, 1, &n, NULL, 1, (const fqi_map *const[FQ_MAX_RANK]){ NULL }, e);
    }
    static const fqi_map *const identity[FQ_MAX_RANK] = { NULL };
    return fqi_segments_init(&g->seg, t->rank, t->shape, t->stride, fq_dtype_bits((fq_dtype)t->dtype) / 8, map ? map : identity, e);
}

fq_status fqi_gather_begin(fqi_gather *g, const fqi_file *file, const fqi_tensor *tensor, const fqi_map *const *map, uint64_t bytes_pad, fq_err *e)
{
    *g = (fqi_gather){ .file = file, .tensor = tensor, .left = bytes_pad, .zeros_only = tensor == NULL };
    return tensor && bytes_pad > 0 ? begin_segments(g, tensor, map, e) : FQ_OK;
}

static bool next_segment(fqi_gather *g, uint64_t max, fqi_segment *out)
{
    if (!g->zeros_only) return fqi_segments_next(&g->seg, max, out);
    *out = (fqi_segment){ .src = FQI_ZERO_SEGMENT, .bytes = g->left < max ? g->left : max };
    return out->bytes > 0;
}

/* Takes segments until the slot is full. Returns whether they came in source order without overlap. */
static bool take_pieces(fqi_gather *g, fqi_slot *s)
{
    bool ordered = true;
    uint64_t end = 0;
    fqi_segment seg;
    while (g->left > 0 && s->n_piece < s->max_piece && s->bytes < s->chunk && next_segment(g, s->chunk - s->bytes, &seg)) {
        s->piece[s->n_piece++] = (fqi_piece){ .src = seg.src, .bytes = seg.bytes };
        s->bytes += (size_t)seg.bytes;
        g->left -= seg.bytes;
        if (seg.src == FQI_ZERO_SEGMENT) continue;
        ordered = ordered && seg.src >= end;
        end = seg.src + seg.bytes;
    }
    return ordered;
}

static int by_source(const void *a, const void *b, void *pieces)
{
    const fqi_piece *p = pieces;
    uint64_t x = p[*(const uint32_t *)a].src, y = p[*(const uint32_t *)b].src;
    return x < y ? -1 : x > y;
}

/* Joins pieces, in source order, into extents. */
static void join_extents(fqi_slot *s, const uint32_t *order, size_t n)
{
    uint64_t hole_left = HOLE_BUDGET;
    for (size_t i = 0; i < n; i++) {
        fqi_piece *p = &s->piece[order ? order[i] : i];
        if (p->src == FQI_ZERO_SEGMENT) continue;
        fqi_extent *x = s->n_extent > 0 ? &s->extent[s->n_extent - 1] : NULL;
        uint64_t end = x ? x->src + x->bytes : 0, hole = x && p->src > end ? p->src - end : 0;
        if (!x || hole > HOLE_BYTES || hole > hole_left) {
            x = &s->extent[s->n_extent++];
            *x = (fqi_extent){ .src = p->src, .bytes = 0 };
            end = p->src;
            hole = 0;
        }
        hole_left -= hole;
        if (p->src + p->bytes > end) x->bytes = p->src + p->bytes - x->src;
        p->extent = (uint32_t)(s->n_extent - 1);
    }
}

static fq_status read_extents(const fqi_gather *g, fqi_slot *s, fq_err *e)
{
    size_t used = 0;
    for (size_t i = 0; i < s->n_extent; i++) {
        fqi_extent *x = &s->extent[i];
        uint64_t off = g->tensor->off + x->src;
        if (x->bytes < BULK_BYTES) {
            FQI_TRY(fqi_file_read(g->file, s->buf + used, (size_t)x->bytes, off, e));
            x->data = s->buf + used;
            used += (size_t)x->bytes;
            continue;
        }
        unsigned char *data;
        used = (used + FQI_IO_ALIGN - 1) / FQI_IO_ALIGN * FQI_IO_ALIGN;
        FQI_TRY(fqi_file_read_bulk(g->file, s->buf + used, (size_t)x->bytes, off, &data, e));
        x->data = data;
        used += (size_t)x->bytes + 2 * FQI_IO_ALIGN;
    }
    return FQ_OK;
}

fq_status fqi_gather_fill(fqi_gather *g, fqi_slot *s, fq_err *e)
{
    s->n_piece = s->n_extent = 0;
    s->bytes = 0;
    memcpy(s->fill, g->fill, sizeof s->fill);
    s->swap = g->tensor && g->tensor->byteswap ? fq_dtype_bits((fq_dtype)g->tensor->dtype) / 8 : 0;
    if (take_pieces(g, s)) {
        join_extents(s, NULL, s->n_piece);
    } else {
        size_t n = 0;
        for (size_t i = 0; i < s->n_piece; i++)
            if (s->piece[i].src != FQI_ZERO_SEGMENT) s->sorted[n++] = (uint32_t)i;
        qsort_r(s->sorted, n, sizeof *s->sorted, by_source, s->piece);
        join_extents(s, s->sorted, n);
    }
    s->single = s->n_piece == 1 && s->piece[0].src != FQI_ZERO_SEGMENT;
    s->last = g->left == 0;
    return read_extents(g, s, e);
}

static void swap_elements(unsigned char *p, size_t n, unsigned size)
{
    for (size_t i = 0; i + size <= n; i += size)
        for (unsigned a = 0, b = size - 1; a < b; a++, b--) {
            unsigned char t = p[i + a];
            p[i + a] = p[i + b];
            p[i + b] = t;
        }
}

static void fill_bytes(const unsigned char fill[4], unsigned char *to, size_t n)
{
    if (fill[0] == fill[1] && fill[0] == fill[2] && fill[0] == fill[3]) {
        memset(to, fill[0], n);
        return;
    }
    for (size_t i = 0; i < n; i++) to[i] = fill[i % 4];
}

void fqi_slot_assemble(fqi_slot *s)
{
    if (s->single && s->swap < 2) {
        s->data = s->extent[0].data;
        return;
    }
    unsigned char *to = s->out;
    for (size_t i = 0; i < s->n_piece; to += s->piece[i].bytes, i++) {
        const fqi_piece *p = &s->piece[i];
        if (p->src != FQI_ZERO_SEGMENT) memcpy(to, s->extent[p->extent].data + (p->src - s->extent[p->extent].src), (size_t)p->bytes);
    }
    if (s->swap >= 2) swap_elements(s->out, s->bytes, s->swap);
    to = s->out;
    for (size_t i = 0; i < s->n_piece; to += s->piece[i].bytes, i++)
        if (s->piece[i].src == FQI_ZERO_SEGMENT) fill_bytes(s->fill, to, (size_t)s->piece[i].bytes);
    s->data = s->out;
}
