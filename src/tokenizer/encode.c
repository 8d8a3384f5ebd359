/* encode.c - text to ids. See tokenizer.h for the stages.
 *
 * Nothing is kept of the text but what is in hand: a part between two added tokens (copied only where NFC changes it), and in it one
 * piece. Words come back, so short pieces and their ids are remembered in a table of fixed size, where a newer one takes the place of
 * an older one. */
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/utf8.h"
#include "tokenizer/tokenizer.h"

/* ---- words seen before ----------------------------------------------------------------------------------------------- */

#define WORD_BYTES 22
#define WORD_IDS 8
#define WORDS_MAX 32768

typedef struct word {
    uint64_t hash;
    uint8_t n_bytes, n_ids;   /* n_bytes = 0: empty */
    char bytes[WORD_BYTES];
    uint32_t ids[WORD_IDS];
} word;

typedef struct encoder {
    const fq_tokenizer *t;
    bool plain;
    fqi_ids ids;
    fqi_bpe_scratch scratch;
    fqi_pretok_run run;
    word *words;
    size_t word_mask;
} encoder;

static bool recall(encoder *c, const word *w, uint64_t hash, const char *text, size_t n)
{
    if (w->hash != hash || w->n_bytes != n || memcmp(w->bytes, text, n) != 0) return false;
    for (size_t i = 0; i < w->n_ids; i++)
        if (!fqi_ids_add(&c->ids, w->ids[i])) return false;   /* tried again, and reported, by who called */
    return true;
}

static void remember(const encoder *c, word *w, uint64_t hash, const char *text, size_t n, size_t from)
{
    size_t n_ids = c->ids.n - from;
    if (n_ids > WORD_IDS) return;
    w->hash = hash;
    w->n_bytes = (uint8_t)n;
    w->n_ids = (uint8_t)n_ids;
    memcpy(w->bytes, text, n);
    for (size_t i = 0; i < n_ids; i++) w->ids[i] = c->ids.v[from + i];
}

static fq_status encode_piece(encoder *c, const char *text, size_t n, fq_err *e)
{
    const fq_tokenizer *t = c->t;
    if (t->ignore_merges) {
        uint32_t id = fqi_strmap_find(&t->by_bytes, t->token, true, text, n);
        if (id != FQI_NO_ID) return fqi_ids_add(&c->ids, id) ? FQ_OK : fqi_fail_nomem(e, "ids");
    }
    return fqi_bpe_encode(&t->bpe, &c->scratch, text, n, FQI_BPE_AUTO, &c->ids, e);
}

static fq_status on_piece(void *user, const char *text, size_t n, fq_err *e)
{
    encoder *c = user;
    if (n > WORD_BYTES) return encode_piece(c, text, n, e);
    uint64_t hash = XXH3_64bits(text, n);
    word *w = &c->words[hash & c->word_mask];
    size_t from = c->ids.n;
    if (recall(c, w, hash, text, n)) return FQ_OK;
    c->ids.n = from;
    FQI_TRY(encode_piece(c, text, n, e));
    remember(c, w, hash, text, n, from);
    return FQ_OK;
}

/* ---- cutting at added tokens ----------------------------------------------------------------------------------------- */

typedef fq_status part_fn(encoder *c, const char *text, size_t n, fq_err *e);

/* Hands what lies between the matches of a class to next. */
static fq_status between(encoder *c, const fqi_added *added, const char *text, size_t n, part_fn *next, fq_err *e)
{
    fqi_added_walk w = { .added = added, .text = text, .n = n };
    fqi_added_match m;
    size_t at = 0;
    while (!c->plain && fqi_added_next(&w, &m)) {
        if (at < m.begin) FQI_TRY(next(c, text + at, m.begin - at, e));
        if (!fqi_ids_add(&c->ids, m.id)) return fqi_fail_nomem(e, "ids");
        at = m.end;
    }
    return at < n ? next(c, text + at, n - at, e) : FQ_OK;
}

static fq_status cut_part(encoder *c, const char *text, size_t n, fq_err *e) { return fqi_pretok_cut(&c->run, text, n, e); }

static fq_status normalize_part(encoder *c, const char *text, size_t n, fq_err *e)
{
    char *made = NULL;
    size_t n_made = n;
    if (c->t->info.nfc) FQI_TRY(fqi_nfc(text, n, &made, &n_made, e));
    fq_status s = between(c, &c->t->added[1], made != NULL ? made : text, made != NULL ? n_made : n, cut_part, e);
    free(made);
    return s;
}

/* ---- a call ---------------------------------------------------------------------------------------------------------- */

static fq_status check_utf8(const char *text, size_t n, fq_err *e)
{
    const unsigned char *s = (const unsigned char *)text;
    for (size_t i = 0; i < n;) {
        uint64_t eight;
        uint32_t c;
        if (n - i >= 8 && (memcpy(&eight, s + i, 8), (eight & UINT64_C(0x8080808080808080)) == 0)) {
            i += 8;
            continue;
        }
        size_t len = fqi_utf8_sequence(s + i, n - i, &c);
        if (len == 0) return fqi_fail(e, FQ_E_INPUT, FQI_AT(NULL, NULL, i), "utf-8", "found byte 0x%02x, expected well-formed UTF-8", s[i]);
        i += len;
    }
    return FQ_OK;
}

static fq_status start(encoder *c, size_t n, fq_err *e)
{
    size_t words = 64;
    while (words < WORDS_MAX && words < n / 4) words *= 2;
    c->words = fqi_calloc(words, sizeof *c->words);
    c->word_mask = words - 1;
    /* room for one, so that the result is never NULL */
    if (c->words == NULL || !fqi_grow((void **)&c->ids.v, &c->ids.cap, n / 4 + 1, sizeof *c->ids.v)) return fqi_fail_nomem(e, "ids");
    c->run.user = c;
    c->run.piece = on_piece;
    return fqi_pretok_start(&c->run, &c->t->pretok, e);
}

static fq_status add_all(encoder *c, const uint32_t *id, size_t n, fq_err *e)
{
    for (size_t i = 0; i < n; i++)
        if (!fqi_ids_add(&c->ids, id[i])) return fqi_fail_nomem(e, "ids");
    return FQ_OK;
}

static fq_status run(encoder *c, const char *text, size_t n, bool add_special, fq_err *e)
{
    const fq_tokenizer_info *in = &c->t->info;
    FQI_TRY(check_utf8(text, n, e));
    FQI_TRY(start(c, n, e));
    if (add_special) FQI_TRY(add_all(c, in->prefix, in->n_prefix, e));
    FQI_TRY(between(c, &c->t->added[0], text, n, normalize_part, e));
    return add_special ? add_all(c, in->suffix, in->n_suffix, e) : FQ_OK;
}

fq_status fq_tokenizer_encode(const fq_tokenizer *t, const char *text, size_t n, const fq_encode_options *o, uint32_t **ids,
                              size_t *n_ids, fq_err *e)
{
    encoder c = { .t = t, .plain = o != NULL && o->plain };
    fq_status s = run(&c, text, n, o != NULL && o->add_special, e);
    fqi_pretok_end(&c.run);
    fqi_bpe_scratch_free(&c.scratch);
    free(c.words);
    if (s != FQ_OK) {
        free(c.ids.v);
        return s;
    }
    *ids = c.ids.v;
    *n_ids = c.ids.n;
    return FQ_OK;
}
