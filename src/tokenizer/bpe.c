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
#define BLOCK_AHEAD ((size_t)16384)   /* bytes of a block: 24 to 40 bytes of memory for each stay in the second cache */
#define BLOCK_BACK ((size_t)256)      /* twice the longest tokens that are published */

bool fqi_ids_add(fqi_ids *ids, uint32_t id)
{
    if (ids->n == ids->cap && !fqi_grow((void **)&ids->v, &ids->cap, ids->n + 1, sizeof *ids->v)) return false;
    ids->v[ids->n++] = id;
    return true;
}

/* ---- the table of merges --------------------------------------------------------------------------------------- */

static uint64_t pair_of(uint32_t left, uint32_t right) { return (uint64_t)left << 32 | right; }

/* The slot of a pair, or the empty one where it belongs. Slots are ranks alone, so that the table is small: most pairs that are
 * looked up are not in it, and most of those are told by an empty slot. */
static uint32_t *slot_of(const fqi_bpe *b, uint32_t left, uint32_t right)
{
    uint64_t pair = pair_of(left, right), h = (pair ^ pair >> 29) * UINT64_C(0x9e3779b97f4a7c15);
    size_t i = (size_t)(h >> 32 ^ h) & b->mask;
    for (; b->slot[i] != FQI_NO_RANK; i = (i + 1) & b->mask) {
        const fqi_merge *m = &b->merge[b->slot[i]];
        if (m->left == left && m->right == right) break;
    }
    return &b->slot[i];
}

static uint32_t rank_of(const fqi_bpe *b, uint32_t left, uint32_t right) { return *slot_of(b, left, right); }

/* Merges of one rank may be made in any order, unless they overlap (both parts are the same), or one of them makes a pair of a
 * lower rank, which is then joined before the next of them. */
static fq_status find_order(fqi_bpe *b, fq_err *e)
{
    uint32_t *first = fqi_calloc(b->n_token, sizeof *first);   /* of a token: n_merge - the first rank that it is a part in; 0 if none */
    b->ordered = fqi_calloc(b->n_merge / 64 + 1, sizeof *b->ordered);
    if (first == NULL || b->ordered == NULL) {
        free(first);
        return fqi_fail_nomem(e, "table of merges");
    }
    for (size_t r = b->n_merge; r-- > 0;) first[b->merge[r].left] = first[b->merge[r].right] = (uint32_t)(b->n_merge - r);
    for (size_t r = 0; r < b->n_merge; r++) {
        const fqi_merge *m = &b->merge[r];
        bool ordered = m->left == m->right || first[m->id] > b->n_merge - r;
        b->ordered[r / 64] |= (uint64_t)ordered << r % 64;
    }
    free(first);
    return FQ_OK;
}

fq_status fqi_bpe_index(fqi_bpe *b, fq_err *e)
{
    size_t size = 16;
    while (size < b->n_merge * 2) size *= 2;
    b->slot = fqi_calloc(size, sizeof *b->slot);
    if (b->slot == NULL) return fqi_fail_nomem(e, "table of merges");
    b->mask = size - 1;
    memset(b->slot, 0xff, size * sizeof *b->slot);
    for (size_t r = 0; r < b->n_merge; r++) *slot_of(b, b->merge[r].left, b->merge[r].right) = (uint32_t)r;
    b->all_bytes = true;
    for (size_t i = 0; i < 256; i++) b->all_bytes = b->all_bytes && b->byte_id[i] != NO_SYMBOL;
    return find_order(b, e);
}

void fqi_bpe_free(fqi_bpe *b)
{
    free(b->length);
    free(b->merge);
    free(b->slot);
    free(b->ordered);
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
    free(s->words);
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
    uint32_t begun;           /* rank in hand: candidates of a lower one are late */
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

/* ---- candidates ---------------------------------------------------------------------------------------------------
 *
 * One list for each rank, and the ranks are gone through once, upwards. Trained tables list a merge behind those that make its
 * parts, so that no list behind is filled again. Where a table does not (Llama 3's: a fifth of its merges), a pair may come up
 * whose rank has been passed: such late ones go into a heap, and the least of list and heap is next. The rank in hand itself does
 * not come up anew: all that its merges lead to holds what they made, which is longer than their parts. */

static bool lists_ready(piece *p)
{
    fqi_bpe_scratch *s = p->s;
    size_t n_word = p->b->n_merge / 64 + 1;
    /* A merge takes one candidate and makes at most two: never more than twice as many as there were pairs. */
    if (p->n > UINT32_MAX / 2) return false;   /* their numbers have 32 bits; such a block would want 60 GiB */
    if (!fqi_grow(&s->node, &s->cap_node, 2 * (size_t)p->n, sizeof(node))) return false;
    p->node = s->node;
    p->unused = NO_NODE;
    if (s->head != NULL) return true;   /* left empty by the piece before */
    s->bit = fqi_calloc(n_word, sizeof *s->bit);
    s->words = s->bit != NULL ? fqi_calloc(n_word / 64 + 1, sizeof *s->words) : NULL;
    s->head = s->words != NULL ? fqi_calloc(n_word * 64, sizeof *s->head) : NULL;
    if (s->head == NULL) return false;
    memset(s->head, 0xff, n_word * 64 * sizeof *s->head);
    return true;
}

/* The numbers are rank and position, so that their order is the order of merges. */
static bool push(piece *p, uint64_t v)
{
    size_t i = p->n_heap;
    if (!fqi_grow((void **)&p->s->heap, &p->s->cap_heap, i + 1, sizeof v)) return false;
    uint64_t *h = p->s->heap;
    for (; i > 0 && h[(i - 1) / 2] > v; i = (i - 1) / 2) h[i] = h[(i - 1) / 2];
    h[i] = v;
    p->n_heap++;
    return true;
}

static uint64_t pop(piece *p)
{
    uint64_t *h = p->s->heap, top = h[0], v = h[--p->n_heap];
    size_t i = 0, n = p->n_heap;
    for (size_t c; (c = 2 * i + 1) < n; i = c) {
        if (c + 1 < n && h[c + 1] < h[c]) c++;
        if (h[c] >= v) break;
        h[i] = h[c];
    }
    h[i] = v;
    return top;
}

static bool note(piece *p, uint32_t pos)
{
    uint32_t rank = rank_at(p, pos), k = p->unused;
    if (rank == FQI_NO_RANK) return true;
    if (rank < p->begun) return push(p, pair_of(rank, pos));
    if (k != NO_NODE) p->unused = p->node[k].next;
    else k = p->n_node++;
    p->node[k] = (node){ pos, p->s->head[rank] };
    p->s->head[rank] = k;
    p->s->bit[rank / 64] |= UINT64_C(1) << rank % 64;
    p->s->words[rank / 4096] |= UINT64_C(1) << rank / 64 % 64;
    return true;
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

static bool join_rank(piece *p, uint32_t rank)
{
    uint32_t list = p->s->head[rank];
    p->s->head[rank] = NO_NODE;
    p->begun = rank;
    if (p->b->ordered[rank / 64] >> rank % 64 & 1) list = sort_list(p->node, list);
    while (list != NO_NODE || p->n_heap > 0) {
        uint64_t next = list != NO_NODE ? pair_of(rank, p->node[list].pos) : UINT64_MAX;
        if (p->n_heap > 0 && p->s->heap[0] < next) next = pop(p);
        else {
            uint32_t k = list;
            list = p->node[k].next;
            p->node[k].next = p->unused;
            p->unused = k;
        }
        uint32_t pos = (uint32_t)next;
        const fqi_merge *m = &p->b->merge[next >> 32];
        if (!stands(p, pos, m)) continue;
        join(p, pos, m);
        if (pos > 0 && !note(p, p->back[pos - 1])) return false;
        if (!note(p, pos)) return false;
    }
    return true;
}

static bool by_rank(piece *p, const unsigned char *bytes)
{
    if (!symbols(p, bytes) || !lists_ready(p)) return false;
    for (uint32_t i = p->n - 1; i-- > 0;) note(p, i);   /* none is late; backwards: lists are then in the order of the text */
    fqi_bpe_scratch *s = p->s;
    for (size_t i = 0; i <= p->b->n_merge / 4096; i++) {
        while (s->words[i] != 0) {   /* never filled again below what is in hand */
            size_t w = i * 64 + (unsigned)__builtin_ctzll(s->words[i]);
            while (s->bit[w] != 0) {
                unsigned k = (unsigned)__builtin_ctzll(s->bit[w]);
                s->bit[w] &= ~(UINT64_C(1) << k);
                if (!join_rank(p, (uint32_t)(w * 64 + k))) return false;
            }
            s->words[i] &= ~(UINT64_C(1) << w % 64);
        }
    }
    return true;
}

static bool whole(const fqi_bpe *b, fqi_bpe_scratch *s, const unsigned char *bytes, size_t n, bool short_ones, fqi_ids *out)
{
    if (short_ones && n <= SCAN_MAX) return scan(b, bytes, n, out);
    piece p = { .b = b, .s = s, .n = (uint32_t)n };
    return by_rank(&p, bytes) && emit(&p, out);
}

/* ---- pieces that do not fit into the cache ---------------------------------------------------------------------------
 *
 * Let a and b be the last and the first id of two texts that were encoded each for itself. When the text of a and b together
 * gives a, b, the two lists in a row are what the joined text gives. For merges are made in one order, that of rank and position,
 * and as long as none reaches over a cut, each side makes its own in that order. The first merge to reach over the cut between a
 * and b would join a pair from the inside of the two, at a moment when no merge inside them is before it: so it would be made in
 * the text of the two as well. By the same argument the ids up to any cut between two ids are what the text up to there gives.
 *
 * So a long piece is encoded in blocks. The end of a block does not know what follows: the ids of its last bytes are given up,
 * and the next block starts with their text. Where the cut is refused, the next try starts farther back. A block ends as far behind what
 * is done as it starts before it, so that tries cost a small multiple of what they advance; in the worst case one block is the whole piece. */

typedef struct block_size { size_t ahead, back; } block_size;

/* Do ids k - 1 and k stay apart? Text of k starts at bytes. */
static bool apart(const fqi_bpe *b, fqi_bpe_scratch *s, const unsigned char *bytes, size_t k, fqi_ids *out, bool *yes)
{
    size_t n = out->n, left = b->length[out->v[k - 1]], right = b->length[out->v[k]];
    if (!whole(b, s, bytes - left, left + right, true, out)) return false;
    *yes = out->n == n + 2 && out->v[n] == out->v[k - 1];
    out->n = n;
    return true;
}

static bool blocks(const fqi_bpe *b, fqi_bpe_scratch *s, const unsigned char *bytes, size_t n, block_size size, fqi_ids *out)
{
    size_t first = out->n, done = 0, start = 0, back = size.back;   /* ids from first are those of the bytes up to start */
    while (done < n) {
        size_t goal = start > back ? start - back : 0;
        while (start > goal) start -= b->length[out->v[--out->n]];
        size_t k = out->n, ahead = done - start > size.ahead ? done - start : size.ahead;
        size_t end = n - done > ahead ? done + ahead : n;
        bool good = true;
        if (!whole(b, s, bytes + start, end - start, true, out)) return false;
        if (k > first && !apart(b, s, bytes + start, k, out, &good)) return false;
        if (good) {
            done = start = end;
            back = size.back;
        } else {
            out->n = k;
            back *= 4;   /* no overflow: at the start of the piece every cut is good */
        }
    }
    return true;
}

/* ---- a piece ------------------------------------------------------------------------------------------------------ */

static bool encode_known(const fqi_bpe *b, fqi_bpe_scratch *s, const unsigned char *bytes, size_t n, fqi_bpe_way way, fqi_ids *out)
{
    if (n == 0) return true;
    if (way == FQI_BPE_WHOLE) return whole(b, s, bytes, n, false, out);
    block_size size = way == FQI_BPE_AUTO ? (block_size){ BLOCK_AHEAD, BLOCK_BACK } : (block_size){ 40, 8 };
    return blocks(b, s, bytes, n, size, out);
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
