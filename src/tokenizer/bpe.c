/* bpe.c - joining symbols by rank. See bpe.h.
 *
 * Long pieces are kept without a list of symbols: sym[p] is the id of the symbol that starts at byte p (NO_SYMBOL inside one), its
 * end is p + length[id], and back[q] is the start of the symbol whose last byte is q. A candidate is only a position: whether the
 * pair that it was noted for is still there is seen when its turn comes. */
#include "tokenizer/bpe.h"

#include <stdlib.h>
#include <string.h>

#define NO_SYMBOL FQI_BPE_NO_SYMBOL
#define SCAN_MAX 32

bool fqi_ids_add(fqi_ids *ids, uint32_t id)
{
    if (ids->n == ids->cap && !fqi_grow((void **)&ids->v, &ids->cap, ids->n + 1, sizeof *ids->v)) return false;
    ids->v[ids->n++] = id;
    return true;
}

/* ---- the table of merges --------------------------------------------------------------------------------------- */

static uint64_t pair_of(uint32_t left, uint32_t right) { return (uint64_t)left << 32 | right; }

static size_t place(const fqi_bpe *b, uint64_t pair)
{
    uint64_t h = (pair ^ pair >> 29) * UINT64_C(0x9e3779b97f4a7c15);
    return (size_t)(h >> 32 ^ h) & b->mask;
}

/* The slot of a pair, or the empty one where it belongs. */
static fqi_merge_slot *slot_of(const fqi_bpe *b, uint64_t pair)
{
    size_t i = place(b, pair);
    while (b->slot[i].rank != FQI_NO_RANK && b->slot[i].pair != pair) i = (i + 1) & b->mask;
    return &b->slot[i];
}

static uint32_t rank_of(const fqi_bpe *b, uint32_t left, uint32_t right) { return slot_of(b, pair_of(left, right))->rank; }

/* Is every merge of a later rank than all merges that make its parts? Then buckets can be emptied in one pass. */
static fq_status find_order(fqi_bpe *b, fq_err *e)
{
    uint32_t *made = fqi_calloc(b->n_token, sizeof *made);   /* last rank that makes a token, + 1 */
    if (made == NULL) return fqi_fail_nomem(e, "table of merges");
    for (size_t r = 0; r < b->n_merge; r++) made[b->merge[r].id] = (uint32_t)r + 1;
    b->monotone = true;
    for (size_t r = 0; r < b->n_merge && b->monotone; r++)
        b->monotone = r >= made[b->merge[r].left] && r >= made[b->merge[r].right];
    free(made);
    return FQ_OK;
}

fq_status fqi_bpe_index(fqi_bpe *b, fq_err *e)
{
    size_t size = 16;
    while (size < b->n_merge * 2) size *= 2;
    b->slot = fqi_calloc(size, sizeof *b->slot);
    if (b->slot == NULL) return fqi_fail_nomem(e, "table of merges");
    b->mask = size - 1;
    for (size_t i = 0; i < size; i++) b->slot[i].rank = FQI_NO_RANK;
    for (size_t r = 0; r < b->n_merge; r++) {
        uint64_t pair = pair_of(b->merge[r].left, b->merge[r].right);
        *slot_of(b, pair) = (fqi_merge_slot){ pair, (uint32_t)r, b->merge[r].id };
    }
    b->all_bytes = true;
    for (size_t i = 0; i < 256; i++) b->all_bytes = b->all_bytes && b->byte_id[i] != NO_SYMBOL;
    return find_order(b, e);
}

void fqi_bpe_free(fqi_bpe *b)
{
    free(b->length);
    free(b->merge);
    free(b->slot);
    memset(b, 0, sizeof *b);
}

void fqi_bpe_scratch_free(fqi_bpe_scratch *s)
{
    free(s->sym);
    free(s->back);
    free(s->node);
    free(s->heap);
    free(s->head);
    free(s->bit);
    memset(s, 0, sizeof *s);
}

/* ---- words: look for the lowest rank, join, look again ----------------------------------------------------------- */

static bool scan(const fqi_bpe *b, const unsigned char *bytes, size_t n, fqi_ids *out)
{
    uint32_t sym[SCAN_MAX + 1], rank[SCAN_MAX + 1];   /* rank[i]: of the pair (i, i + 1) */
    for (size_t i = 0; i < n; i++) sym[i] = b->byte_id[bytes[i]];
    for (size_t i = 0; i + 1 < n; i++) rank[i] = rank_of(b, sym[i], sym[i + 1]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best]) best = i;
        if (rank[best] == FQI_NO_RANK) break;
        sym[best] = b->merge[rank[best]].id;
        n--;
        memmove(sym + best + 1, sym + best + 2, (n - best - 1) * sizeof *sym);
        if (best + 1 < n) {
            memmove(rank + best + 1, rank + best + 2, (n - best - 2) * sizeof *rank);
            rank[best] = rank_of(b, sym[best], sym[best + 1]);
        }
        if (best > 0) rank[best - 1] = rank_of(b, sym[best - 1], sym[best]);
    }
    for (size_t i = 0; i < n; i++)
        if (!fqi_ids_add(out, sym[i])) return false;
    return true;
}

/* ---- long pieces ------------------------------------------------------------------------------------------------- */

typedef struct node { uint32_t pos, next; } node;
#define NO_NODE UINT32_MAX

typedef struct piece {
    const fqi_bpe *b;
    fqi_bpe_scratch *s;
    uint32_t *sym, *back;
    uint32_t n;
    node *node;
    uint32_t n_node, unused;  /* nodes taken so far; head of the list of nodes given back */
    size_t n_heap;
} piece;

static bool symbols(piece *p, const unsigned char *bytes)
{
    if (!fqi_grow((void **)&p->s->sym, &p->s->cap_sym, p->n, sizeof *p->sym)) return false;
    if (!fqi_grow((void **)&p->s->back, &p->s->cap_back, p->n, sizeof *p->back)) return false;
    p->sym = p->s->sym;
    p->back = p->s->back;
    for (uint32_t i = 0; i < p->n; i++) {
        p->sym[i] = p->b->byte_id[bytes[i]];
        p->back[i] = i;
    }
    return true;
}

/* Rank of the pair that starts at pos, FQI_NO_RANK if there is none. pos is the start of a symbol. */
static uint32_t rank_at(const piece *p, uint32_t pos)
{
    uint32_t next = pos + p->b->length[p->sym[pos]];
    return next < p->n ? rank_of(p->b, p->sym[pos], p->sym[next]) : FQI_NO_RANK;
}

/* Is the pair of merge m still at pos? */
static bool stands(const piece *p, uint32_t pos, const fqi_merge *m)
{
    if (p->sym[pos] != m->left) return false;
    uint32_t next = pos + p->b->length[m->left];
    return next < p->n && p->sym[next] == m->right;
}

static void join(piece *p, uint32_t pos, const fqi_merge *m)
{
    uint32_t next = pos + p->b->length[m->left];
    p->sym[next] = NO_SYMBOL;
    p->sym[pos] = m->id;
    p->back[next + p->b->length[m->right] - 1] = pos;
}

static bool emit(const piece *p, fqi_ids *out)
{
    for (uint32_t pos = 0; pos < p->n; pos += p->b->length[p->sym[pos]])
        if (!fqi_ids_add(out, p->sym[pos])) return false;
    return true;
}

/* ---- long pieces, buckets ---------------------------------------------------------------------------------------- */

static bool buckets_ready(piece *p)
{
    fqi_bpe_scratch *s = p->s;
    /* A merge takes one candidate and makes at most two: never more than twice as many as there were pairs. Memory that is not
     * touched costs nothing. */
    if (!fqi_grow(&s->node, &s->cap_node, 2 * (size_t)p->n, sizeof(node))) return false;
    p->node = s->node;
    p->unused = NO_NODE;
    if (s->head != NULL) return true;   /* left empty by the piece before */
    s->bit = fqi_calloc(p->b->n_merge / 64 + 1, sizeof *s->bit);
    s->head = s->bit != NULL ? fqi_calloc(p->b->n_merge, sizeof *s->head) : NULL;
    if (s->head == NULL) return false;
    memset(s->head, 0xff, p->b->n_merge * sizeof *s->head);
    return true;
}

static void note(piece *p, uint32_t pos)
{
    uint32_t rank = rank_at(p, pos), k = p->unused;
    if (rank == FQI_NO_RANK) return;
    if (k != NO_NODE) p->unused = p->node[k].next;
    else k = p->n_node++;
    p->node[k] = (node){ pos, p->s->head[rank] };
    p->s->head[rank] = k;
    p->s->bit[rank / 64] |= UINT64_C(1) << rank % 64;
}

static uint32_t merge_lists(node *nodes, uint32_t a, uint32_t b)
{
    uint32_t head = NO_NODE, *end = &head;
    while (a != NO_NODE && b != NO_NODE) {
        uint32_t *least = nodes[a].pos <= nodes[b].pos ? &a : &b;
        *end = *least;
        end = &nodes[*least].next;
        *least = *end;
    }
    *end = a != NO_NODE ? a : b;
    return head;
}

/* By position. Bottom up: part[i] is a sorted list of 2^i nodes, or none. */
static uint32_t sort_list(node *nodes, uint32_t list)
{
    uint32_t part[33];
    for (size_t i = 0; i < 33; i++) part[i] = NO_NODE;
    while (list != NO_NODE) {
        uint32_t one = list;
        list = nodes[one].next;
        nodes[one].next = NO_NODE;
        size_t i = 0;
        for (; i < 32 && part[i] != NO_NODE; i++) {
            one = merge_lists(nodes, part[i], one);
            part[i] = NO_NODE;
        }
        part[i] = merge_lists(nodes, part[i], one);
    }
    uint32_t all = NO_NODE;
    for (size_t i = 0; i < 33; i++) all = merge_lists(nodes, part[i], all);
    return all;
}

static void empty_bucket(piece *p, uint32_t rank)
{
    const fqi_merge *m = &p->b->merge[rank];
    uint32_t list = p->s->head[rank];
    p->s->head[rank] = NO_NODE;
    /* Pairs overlap only where both parts are the same; elsewhere the order makes no difference. */
    if (m->left == m->right) list = sort_list(p->node, list);
    while (list != NO_NODE) {
        uint32_t k = list, pos = p->node[k].pos;
        list = p->node[k].next;
        p->node[k].next = p->unused;
        p->unused = k;
        if (!stands(p, pos, m)) continue;
        join(p, pos, m);
        if (pos > 0) note(p, p->back[pos - 1]);
        note(p, pos);
    }
}

static bool buckets(piece *p, const unsigned char *bytes)
{
    if (!symbols(p, bytes) || !buckets_ready(p)) return false;
    for (uint32_t i = p->n - 1; i-- > 0;) note(p, i);   /* backwards: lists are then in the order of the text */
    size_t n_word = p->b->n_merge / 64 + 1;
    for (size_t w = 0; w < n_word; w++) {
        /* a merge of this word may fill a later bucket of the same word, never an earlier one */
        while (p->s->bit[w] != 0) {
            unsigned k = (unsigned)__builtin_ctzll(p->s->bit[w]);
            p->s->bit[w] &= ~(UINT64_C(1) << k);
            empty_bucket(p, (uint32_t)(w * 64 + k));
        }
    }
    return true;
}

/* ---- long pieces, heap ------------------------------------------------------------------------------------------- */

static void sift_up(uint64_t *h, size_t i)
{
    uint64_t v = h[i];
    for (; i > 0 && h[(i - 1) / 2] > v; i = (i - 1) / 2) h[i] = h[(i - 1) / 2];
    h[i] = v;
}

static uint64_t pop(uint64_t *h, size_t *n)
{
    uint64_t top = h[0], v = h[--*n];
    size_t i = 0;
    for (size_t c; (c = 2 * i + 1) < *n; i = c) {
        if (c + 1 < *n && h[c + 1] < h[c]) c++;
        if (h[c] >= v) break;
        h[i] = h[c];
    }
    h[i] = v;
    return top;
}

/* Rank above, position below: the order of merges is the order of numbers. */
static bool push(piece *p, uint32_t pos)
{
    uint32_t rank = rank_at(p, pos);
    if (rank == FQI_NO_RANK) return true;
    if (!fqi_grow((void **)&p->s->heap, &p->s->cap_heap, p->n_heap + 1, sizeof *p->s->heap)) return false;
    p->s->heap[p->n_heap] = pair_of(rank, pos);
    sift_up(p->s->heap, p->n_heap++);
    return true;
}

static bool heap(piece *p, const unsigned char *bytes)
{
    if (!symbols(p, bytes)) return false;
    for (uint32_t i = 0; i + 1 < p->n; i++)
        if (!push(p, i)) return false;
    while (p->n_heap > 0) {
        uint64_t top = pop(p->s->heap, &p->n_heap);
        uint32_t pos = (uint32_t)top;
        const fqi_merge *m = &p->b->merge[top >> 32];
        if (!stands(p, pos, m)) continue;
        join(p, pos, m);
        if (pos > 0 && !push(p, p->back[pos - 1])) return false;
        if (!push(p, pos)) return false;
    }
    return true;
}

/* ---- a piece ------------------------------------------------------------------------------------------------------ */

static bool encode_known(const fqi_bpe *b, fqi_bpe_scratch *s, const unsigned char *bytes, size_t n, fqi_bpe_way way, fqi_ids *out)
{
    if (n == 0) return true;
    if (way == FQI_BPE_SCAN || (way == FQI_BPE_AUTO && n <= SCAN_MAX)) return scan(b, bytes, n, out);
    piece p = { .b = b, .s = s, .n = (uint32_t)n };
    bool by_heap = way == FQI_BPE_HEAP || !b->monotone || b->n_merge == 0;
    return (by_heap ? heap(&p, bytes) : buckets(&p, bytes)) && emit(&p, out);
}

/* Bytes without a token part a piece: no merge reaches over them. */
static bool encode_with_unknown(const fqi_bpe *b, fqi_bpe_scratch *s, const unsigned char *bytes, size_t n, fqi_bpe_way way, fqi_ids *out)
{
    size_t from = 0;
    for (size_t i = 0; i < n; i++) {
        if (b->byte_id[bytes[i]] != NO_SYMBOL) continue;
        if (!encode_known(b, s, bytes + from, i - from, way, out)) return false;
        bool run = i > 0 && b->byte_id[bytes[i - 1]] == NO_SYMBOL;
        if (!(run && b->fuse_unk) && !fqi_ids_add(out, b->unk_id)) return false;
        from = i + 1;
    }
    return encode_known(b, s, bytes + from, n - from, way, out);
}

fq_status fqi_bpe_encode(const fqi_bpe *b, fqi_bpe_scratch *s, const char *bytes, size_t n, fqi_bpe_way way, fqi_ids *out, fq_err *e)
{
    const unsigned char *u = (const unsigned char *)bytes;
    if (n > FQI_BPE_PIECE_MAX)
        return fqi_fail(e, FQ_E_INPUT, NULL, "piece-length", "found a piece of %zu bytes that the pre-tokenizer does not cut, expected at most %zu",
                        n, FQI_BPE_PIECE_MAX);
    bool good = b->all_bytes ? encode_known(b, s, u, n, way, out) : encode_with_unknown(b, s, u, n, way, out);
    return good ? FQ_OK : fqi_fail_nomem(e, "symbols of a piece of text");
}
