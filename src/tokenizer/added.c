/* added.c - finding added tokens in text. See tokenizer.h.
 *
 * The rules are those of the tokenizers library. A match that single_word forbids is passed over as a whole: a shorter content
 * that would fit there is not tried. White space that rstrip swallows is still searched for matches, as there. */
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "base/utf8.h"
#include "tokenizer/tokenizer.h"

static uint32_t child(const fqi_added *a, uint32_t node, unsigned char byte)
{
    uint32_t k = a->node[node].child;
    while (k != 0 && a->node[k].byte != byte) k = a->node[k].sibling;
    return k;
}

static bool new_node(fqi_added *a, unsigned char byte)
{
    if (!fqi_grow((void **)&a->node, &a->cap, a->n_node + 1, sizeof *a->node)) return false;
    a->node[a->n_node++] = (fqi_trie_node){ .token = FQI_NO_ID, .byte = byte };
    return true;
}

fq_status fqi_added_insert(fqi_added *a, const char *content, size_t n, uint32_t token, bool *fresh, fq_err *e)
{
    if (a->n_node == 0 && !new_node(a, 0)) return fqi_fail_nomem(e, "added tokens");
    uint32_t at = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)content[i];
        uint32_t next = child(a, at, byte);
        if (next == 0) {
            if (!new_node(a, byte)) return fqi_fail_nomem(e, "added tokens");
            next = (uint32_t)(a->n_node - 1);
            a->node[next].sibling = a->node[at].child;
            a->node[at].child = next;
        }
        at = next;
    }
    *fresh = a->node[at].token == FQI_NO_ID;
    if (*fresh) a->node[at].token = token;
    if (n > 0) a->first[(unsigned char)content[0]] = true;
    return FQ_OK;
}

void fqi_added_free(fqi_added *a)
{
    free(a->node);
    memset(a, 0, sizeof *a);
}

/* ---- characters beside a match ------------------------------------------------------------------------------------ */

static bool is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/* \w as the library means it here (Rust's regex crate): not quite what a pattern's \w is, see WORD in regex.c. */
static bool is_word(uint32_t c)
{
    if (c < 0x80) return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '_';
    if (c == 0x200c || c == 0x200d) return true;   /* joiners */
    if ((c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189))
        return true;   /* letters in circles and squares: symbols, but alphabetic */
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU: case UTF8PROC_CATEGORY_LL: case UTF8PROC_CATEGORY_LT: case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: case UTF8PROC_CATEGORY_MN: case UTF8PROC_CATEGORY_MC: case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND: case UTF8PROC_CATEGORY_NL: case UTF8PROC_CATEGORY_PC: return true;
    default: return false;
    }
}

/* The character before (after) position at; false at the end of the text. */
static bool before(const char *text, size_t at, uint32_t *c, size_t *len)
{
    if (at == 0) return false;
    size_t i = at - 1;
    while (i > 0 && at - i < 4 && ((unsigned char)text[i] & 0xc0) == 0x80) i--;
    *len = fqi_utf8_sequence((const unsigned char *)text + i, at - i, c);
    return *len != 0;
}

static bool after(const char *text, size_t n, size_t at, uint32_t *c, size_t *len)
{
    if (at >= n) return false;
    *len = fqi_utf8_sequence((const unsigned char *)text + at, n - at, c);
    return *len != 0;
}

/* ---- the walk ------------------------------------------------------------------------------------------------------ */

/* The longest content that begins at `at`; its length, or 0. */
static size_t longest(const fqi_added *a, const char *text, size_t n, size_t at, uint32_t *token)
{
    size_t best = 0;
    uint32_t node = 0;
    for (size_t i = at; i < n; i++) {
        node = child(a, node, (unsigned char)text[i]);
        if (node == 0) break;
        if (a->node[node].token == FQI_NO_ID) continue;
        best = i + 1 - at;
        *token = a->node[node].token;
    }
    return best;
}

static bool stands_alone(const fqi_added_walk *w, size_t begin, size_t end)
{
    uint32_t c;
    size_t len;
    if (before(w->text, begin, &c, &len) && is_word(c)) return false;
    return !(after(w->text, w->n, end, &c, &len) && is_word(c));
}

static void swallow(const fqi_added_walk *w, const fqi_added_token *t, fqi_added_match *m)
{
    uint32_t c;
    size_t len;
    if (t->lstrip) {
        size_t to = m->begin;
        while (to > w->done && before(w->text, to, &c, &len) && is_space(c)) to -= len;
        m->begin = to < w->done ? w->done : to;
    }
    if (t->rstrip)
        while (after(w->text, w->n, m->end, &c, &len) && is_space(c)) m->end += len;
}

bool fqi_added_next(fqi_added_walk *w, fqi_added_match *m)
{
    const fqi_added *a = w->added;
    uint32_t token = 0;
    while (a->n_node > 0 && w->pos < w->n) {
        size_t at = w->pos, len;
        while (at < w->n && !a->first[(unsigned char)w->text[at]]) at++;
        if (at == w->n) break;
        len = longest(a, w->text, w->n, at, &token);
        w->pos = at + (len != 0 ? len : 1);
        if (len == 0) continue;
        const fqi_added_token *t = &a->token[token];
        if (t->single_word && !stands_alone(w, at, at + len)) continue;
        *m = (fqi_added_match){ at, at + len, t->id };
        swallow(w, t, m);
        if (m->begin < w->done) m->begin = w->done;
        if (m->end < w->done) m->end = w->done;
        w->done = m->end;
        return true;
    }
    w->pos = w->n;
    return false;
}
