/* config_edit.c - changing members of a JSON text without touching any other byte.
 *
 * Loading and printing a tree would lose what people put in by hand and what strictly typed readers look at: 1e-06 becomes
 * 0.000001, 10000 becomes 10000.0, keys are sorted, indentation changes. So an edit is a splice: the scanner tells where the
 * value stands, and only that span is replaced. A member that is new goes behind the last one of its object and copies the bytes
 * that stand between the last two (comma, line end, indentation) and around their colon, so that removing it again gives back
 * the text as it was. Refused: a path through something that is no object, a key that occurs twice, a result that is not JSON. */
#include "arch/config.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "format/json_scan.h"

#define MAX_LEVEL 8
#define NONE SIZE_MAX

/* Where a member stands, or would. All are positions in the text. */
typedef struct place {
    unsigned level;          /* of its object: 0 is the root */
    size_t open, close;      /* behind '{'; of '}' */
    size_t n_member;
    size_t key, key_end, value, value_end;   /* the member, NONE if it is missing */
    size_t prev_end, next_key;               /* its neighbours, NONE if there are none */
    size_t last_key, last_key_end, last_value, last_end;   /* the last member of the object */
    size_t before_last_end;                  /* end of the one before, NONE if there is one member only */
    size_t parent_space, parent_key;         /* span of space before the key of this object; NONE for the root */
} place;

typedef struct finder {
    fqi_json_scan scan;
    const char *path;        /* what is still to be walked */
    const char *file;
} finder;

/* ---- finding -------------------------------------------------------------------------------------------------- */

static fq_status fail_path(const finder *f, const char *found, const char *expected, fq_err *e)
{
    char path[FQI_NAME_MAX + 1];
    return fqi_fail(e, FQ_E_INPUT, FQI_AT(f->file, NULL, f->scan.begin), "json-edit", "found %s at \"%s\", expected %s", found,
                    fqi_escape(path, f->path), expected);
}

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

static bool is_key(const fqi_json_scan *s, const char *word, size_t n)
{
    return s->str_len == n && memcmp(s->str, word, n) == 0;
}

/* The current token is the '{' of the object; on return it is its '}'. Members outside the path are skipped. */
static fq_status walk(finder *f, unsigned level, place *p, fq_err *e)
{
    fqi_json_scan *s = &f->scan;
    const char *dot = strchr(f->path, '.');
    const size_t n_word = dot ? (size_t)(dot - f->path) : strlen(f->path);
    place here = { .level = level, .open = s->end, .key = NONE, .prev_end = NONE, .next_key = NONE, .before_last_end = NONE,
        .parent_space = p->parent_space, .parent_key = p->parent_key };
    const char *word = f->path;
    bool found = false;
    for (;;) {
        FQI_TRY(fqi_json_next(s, e));
        if (s->kind == FQI_JSON_OBJECT_END) break;
        const bool hit = is_key(s, word, n_word);
        const size_t key = s->begin, key_end = s->end, previous = here.n_member ? here.last_end : NONE;
        if (hit && found) return fail_path(f, "the key twice", "it once", e);
        if (found && here.key != NONE && here.next_key == NONE) here.next_key = key;
        FQI_TRY(fqi_json_next(s, e));
        const size_t value = s->begin;
        if (hit && dot) {
            if (s->kind != FQI_JSON_OBJECT) return fail_path(f, "something else", "an object", e);
            if (level + 1 == MAX_LEVEL) return fail_path(f, "too long a path", "at most 8 levels", e);
            p->parent_key = p->parent_space = key;
            while (is_space(s->text[p->parent_space - 1])) p->parent_space--;   /* a brace or a comma stands before a key */
            f->path = dot + 1;
            FQI_TRY(walk(f, level + 1, p, e));
            f->path = word;
        } else {
            FQI_TRY(fqi_json_skip(s, e));
        }
        if (hit && !dot) here.key = key, here.key_end = key_end, here.value = value, here.value_end = s->end, here.prev_end = previous;
        found = found || hit;
        here.before_last_end = previous;
        here.last_key = key, here.last_key_end = key_end, here.last_value = value, here.last_end = s->end;
        here.n_member++;
    }
    here.close = s->begin;
    if (!dot) *p = here;
    else if (!found) return fail_path(f, "no such object", "one to put the member in", e);
    return FQ_OK;
}

/* Strings are unescaped in place, so the scanner works on a copy; positions are the same in both. */
static fq_status find(const char *text, size_t n, const char *file, const char *path, place *p, fq_err *e)
{
    char *copy = fqi_calloc(n + 1, 1);
    if (!copy) return fqi_fail_nomem(e, "text to edit");
    memcpy(copy, text, n);
    finder f = { .path = path, .file = file };
    fqi_json_init(&f.scan, copy, n, file, 0, false);
    *p = (place){ .parent_space = NONE, .parent_key = NONE };
    fq_status s = fqi_json_next(&f.scan, e);
    if (s == FQ_OK && f.scan.kind != FQI_JSON_OBJECT) s = fail_path(&f, "no object", "one", e);
    if (s == FQ_OK) s = walk(&f, 0, p, e);
    if (s == FQ_OK) s = fqi_json_next(&f.scan, e);   /* nothing but space may follow */
    free(copy);
    return s;
}

/* ---- splicing ------------------------------------------------------------------------------------------------- */

static void put(fqi_str *b, const char *text, size_t from, size_t to) { fqi_str_add(b, text + from, to - from); }

static bool has_line_end(const char *text, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        if (text[i] == '\n' || text[i] == '\r') return true;
    return false;
}

/* Where the indentation begins: behind the last line end of the space in front of a key. */
static size_t indent_of(const char *text, size_t from, size_t to)
{
    size_t line = to;
    while (line > from && text[line - 1] != '\n' && text[line - 1] != '\r') line--;
    return line;
}

static void put_member(fqi_str *b, const char *key, const char *colon, size_t n_colon, const char *value)
{
    fqi_str_puts(b, "\"");
    fqi_str_puts(b, key);
    fqi_str_puts(b, "\"");
    fqi_str_add(b, colon, n_colon);
    fqi_str_puts(b, value);
}

/* Into "{}". Inside an indented object it gets a line of its own, one step deeper than the object's own key; one step is that
 * key's indentation divided by its depth. */
static void insert_first(fqi_str *b, const char *text, const place *p, const char *key, const char *value)
{
    bool lines = p->open == p->close && p->parent_key != NONE && has_line_end(text, p->parent_space, p->parent_key);
    if (!lines) {
        put_member(b, key, ": ", 2, value);
        return;
    }
    size_t from = p->parent_space;
    while (text[from] != '\n' && text[from] != '\r') from++;   /* spaces at the end of the line before */
    size_t line = indent_of(text, from, p->parent_key), n_indent = p->parent_key - line;
    put(b, text, from, p->parent_key);
    put(b, text, line, line + n_indent / p->level);
    put_member(b, key, ": ", 2, value);
    put(b, text, from, p->parent_key);
}

static void insert(fqi_str *b, const char *text, size_t n, const place *p, const char *key, const char *value)
{
    if (p->n_member == 0) {
        put(b, text, 0, p->open);
        insert_first(b, text, p, key, value);
        put(b, text, p->open, n);
        return;
    }
    put(b, text, 0, p->last_end);
    if (p->before_last_end == NONE) {
        fqi_str_puts(b, ",");
        put(b, text, p->open, p->last_key);
    } else {
        put(b, text, p->before_last_end, p->last_key);
    }
    put_member(b, key, text + p->last_key_end, p->last_value - p->last_key_end, value);
    put(b, text, p->last_end, n);
}

/* Removing what insert put gives the text as it was. */
static void cut(fqi_str *b, const char *text, size_t n, const place *p)
{
    size_t from = p->key, to = p->value_end;
    if (p->next_key != NONE) {
        to = p->next_key;
    } else if (p->prev_end != NONE) {
        from = p->prev_end;
    } else if (has_line_end(text, p->open, p->key)) {
        from = p->open;
        to = p->close;
    }
    put(b, text, 0, from);
    put(b, text, to, n);
}

static const char *last_word(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot ? dot + 1 : path;
}

static fq_status apply(fqi_str *b, const char *text, size_t n, const char *file, const fqi_edit *edit, fq_err *e)
{
    place p;
    FQI_TRY(find(text, n, file, edit->path, &p, e));
    if (p.key == NONE && !edit->value) {
        put(b, text, 0, n);
    } else if (p.key == NONE) {
        insert(b, text, n, &p, last_word(edit->path), edit->value);
    } else if (!edit->value) {
        cut(b, text, n, &p);
    } else {
        put(b, text, 0, p.value);
        fqi_str_puts(b, edit->value);
        put(b, text, p.value_end, n);
    }
    fqi_str_add(b, "", 0);
    return b->failed ? fqi_fail_nomem(e, "edited text") : FQ_OK;
}

/* The value comes from a caller: a mistake there must not become somebody's config.json. */
static fq_status check_result(const fqi_str *b, const char *file, const char *path, fq_err *e)
{
    fqi_json_scan s;
    fq_err why;
    char shown[FQI_NAME_MAX + 1];
    fqi_json_init(&s, b->s, b->len, file, 0, true);
    do {
        if (fqi_json_next(&s, &why) != FQ_OK)
            return fqi_fail(e, FQ_E_USAGE, FQI_FILE(file), "json-edit", "the new value of \"%s\" is not JSON", fqi_escape(shown, path));
    } while (s.kind != FQI_JSON_END);
    return FQ_OK;
}

static bool is_good_path(const char *path)
{
    for (const char *s = path; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == '"' || *s == '\\' || (*s == '.' && (s == path || s[1] == '.' || !s[1]))) return false;
    return path[0] != '\0';
}

fq_status fqi_json_edit(const char *text, size_t n, const char *file, const fqi_edit *edit, size_t n_edit, char **out, size_t *n_out, fq_err *e)
{
    fqi_str now = { .s = NULL };
    fqi_str_add(&now, text, n);
    fq_status s = now.failed ? fqi_fail_nomem(e, "edited text") : FQ_OK;
    for (size_t i = 0; i < n_edit && s == FQ_OK; i++) {
        fqi_str next = { .s = NULL };
        if (!is_good_path(edit[i].path)) s = fqi_fail(e, FQ_E_USAGE, FQI_FILE(file), "json-edit", "found a path that names no member");
        if (s == FQ_OK) s = apply(&next, now.s ? now.s : "", now.len, file, &edit[i], e);
        if (s == FQ_OK) s = check_result(&next, file, edit[i].path, e);
        if (s != FQ_OK) {
            fqi_str_free(&next);
            break;
        }
        fqi_str_free(&now);
        now = next;
    }
    if (s != FQ_OK) {
        fqi_str_free(&now);
        return s;
    }
    *out = now.s;
    *n_out = now.len;
    return FQ_OK;
}
