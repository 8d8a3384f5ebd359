/* json_scan.c - the pull scanner. See json_scan.h.
 *
 * A state says which tokens may come next; nesting is a bit per level, so that no input can grow a stack. Every rule of
 * RFC 8259 is checked, and two things that it leaves open are refused: a NUL inside a string, because names become C
 * strings, and nesting deeper than FQI_JSON_DEPTH. Duplicate keys are the business of whoever knows what the keys mean. */
#include "format/json_scan.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/utf8.h"

enum {
    WANT_VALUE,        /* at the start, after ',' in an array, after ':' */
    WANT_FIRST_VALUE,  /* after '[' */
    WANT_FIRST_KEY,    /* after '{' */
    WANT_KEY,          /* after ',' in an object */
    WANT_COLON,
    WANT_COMMA,        /* or the end of the container */
    WANT_NOTHING       /* after the outermost value */
};

void fqi_json_init(fqi_json_scan *s, char *text, size_t n, const char *file, uint64_t base, bool keep)
{
    *s = (fqi_json_scan){ .text = text, .n = n, .file = file, .base = base, .keep = keep, .state = WANT_VALUE };
}

/* ---- errors ---- */

static fqi_where at(const fqi_json_scan *s, size_t pos)
{
    return (fqi_where){ .file = s->file, .offset = s->base + pos };
}

/* "found X" for the byte at pos. */
static fq_status unexpected(const fqi_json_scan *s, size_t pos, const char *rule, const char *expected, fq_err *e)
{
    char found[24];
    unsigned char c = pos < s->n ? (unsigned char)s->text[pos] : 0;
    if (pos >= s->n) snprintf(found, sizeof found, "the end of the text");
    else if (c >= 0x20 && c < 0x7f) snprintf(found, sizeof found, "'%c'", c);
    else snprintf(found, sizeof found, "byte 0x%02x", c);
    fqi_where w = at(s, pos);
    return fqi_fail(e, FQ_E_INPUT, &w, rule, "found %s, expected %s", found, expected);
}

/* ---- strings ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* The four digits at pos, which must all be inside the text. */
static fq_status hex4(const fqi_json_scan *s, size_t pos, uint32_t *out, fq_err *e)
{
    uint32_t v = 0;
    for (size_t i = 0; i < 4; i++) {
        int d = pos + i < s->n ? hex_digit(s->text[pos + i]) : -1;
        if (d < 0) return unexpected(s, pos + i, "json-string", "four hexadecimal digits after \\u", e);
        v = v << 4 | (uint32_t)d;
    }
    *out = v;
    return FQ_OK;
}

static size_t encode_utf8(uint32_t c, char *out)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t len = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = len - 1; i > 0; i--, c >>= 6) out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)((0xf00u >> len & 0xf0) | c);
    return len;
}

/* \uXXXX at pos (of the backslash), a pair of them for a code point beyond U+FFFF. *used: bytes of text. */
static fq_status unicode_escape(const fqi_json_scan *s, size_t pos, uint32_t *code, size_t *used, fq_err *e)
{
    uint32_t c = 0, low = 0;
    fqi_where w = at(s, pos);
    FQI_TRY(hex4(s, pos + 2, &c, e));
    *used = 6;
    if (c >= 0xd800 && c < 0xdc00) {
        if (pos + 7 >= s->n || s->text[pos + 6] != '\\' || s->text[pos + 7] != 'u')
            return fqi_fail(e, FQ_E_INPUT, &w, "json-string", "found a lone surrogate \\u%04x, expected a pair", c);
        FQI_TRY(hex4(s, pos + 8, &low, e));
        *used = 12;
    }
    if ((c >= 0xdc00 && c < 0xe000) || (*used == 12 && (low < 0xdc00 || low >= 0xe000)))
        return fqi_fail(e, FQ_E_INPUT, &w, "json-string", "found a lone surrogate \\u%04x, expected a pair", c);
    if (c == 0) return fqi_fail(e, FQ_E_INPUT, &w, "json-string", "found a NUL character, which fitq refuses in strings");
    *code = *used == 12 ? 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00) : c;
    return FQ_OK;
}

static fq_status escape_at(const fqi_json_scan *s, size_t pos, uint32_t *code, size_t *used, fq_err *e)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = pos + 1 < s->n ? s->text[pos + 1] : '\0';
    const char *p = c != '\0' ? strchr(from, c) : NULL;
    if (c == 'u') return unicode_escape(s, pos, code, used, e);
    if (p == NULL) return unexpected(s, pos + 1, "json-string", "one of \" \\ / b f n r t u after a backslash", e);
    *code = (uint32_t)to[p - from];
    *used = 2;
    return FQ_OK;
}

/* Bytes of a string that need no thought. */
static bool is_ordinary(unsigned char c) { return c >= 0x20 && c < 0x80 && c != '"' && c != '\\'; }

/* pos is at the opening quote. What is written is never longer than what was read, so it fits in place. */
static fq_status scan_string(fqi_json_scan *s, fq_err *e)
{
    const unsigned char *t = (const unsigned char *)s->text;
    size_t i = s->pos + 1, out = i;
    for (;;) {
        size_t run = i;
        while (i < s->n && is_ordinary(t[i])) i++;
        if (!s->keep && out != run) memmove(s->text + out, s->text + run, i - run);
        out += i - run;
        if (i >= s->n) return unexpected(s, i, "json-string", "a closing quote", e);
        if (t[i] == '"') break;
        uint32_t code = 0;
        size_t used = 0, made;
        char bytes[4];
        if (t[i] == '\\') {
            FQI_TRY(escape_at(s, i, &code, &used, e));
            made = encode_utf8(code, bytes);
        } else if (t[i] < 0x20) {
            return unexpected(s, i, "json-string", "no control character in a string", e);
        } else {
            used = made = fqi_utf8_sequence(t + i, s->n - i, &code);
            if (used == 0) return unexpected(s, i, "json-utf8", "valid UTF-8", e);
            memcpy(bytes, t + i, used);
        }
        if (!s->keep) memcpy(s->text + out, bytes, made);
        out += made;
        i += used;
    }
    s->str = NULL;
    s->str_len = out - (s->pos + 1);
    if (!s->keep) {
        s->text[out] = '\0';
        s->str = s->text + s->pos + 1;
    }
    s->pos = i + 1;
    return FQ_OK;
}

/* ---- numbers and words ---- */

static bool is_digit(const fqi_json_scan *s, size_t i) { return i < s->n && s->text[i] >= '0' && s->text[i] <= '9'; }

static fq_status digits(const fqi_json_scan *s, size_t *i, fq_err *e)
{
    if (!is_digit(s, *i)) return unexpected(s, *i, "json-number", "a digit", e);
    while (is_digit(s, *i)) ++*i;
    return FQ_OK;
}

static fq_status scan_number(fqi_json_scan *s, fq_err *e)
{
    size_t i = s->pos;
    if (s->text[i] == '-') i++;
    if (i < s->n && s->text[i] == '0') i++; /* nothing follows a leading zero: the next token will complain */
    else FQI_TRY(digits(s, &i, e));
    if (i < s->n && s->text[i] == '.') {
        i++;
        FQI_TRY(digits(s, &i, e));
    }
    if (i < s->n && (s->text[i] == 'e' || s->text[i] == 'E')) {
        i++;
        if (i < s->n && (s->text[i] == '+' || s->text[i] == '-')) i++;
        FQI_TRY(digits(s, &i, e));
    }
    s->pos = i;
    return FQ_OK;
}

static fq_status scan_word(fqi_json_scan *s, const char *word, fq_err *e)
{
    for (size_t i = 0; word[i] != '\0'; i++)
        if (s->pos + i >= s->n || s->text[s->pos + i] != word[i]) return unexpected(s, s->pos + i, "json-syntax", word, e);
    s->pos += strlen(word);
    return FQ_OK;
}

/* ---- structure ---- */

static bool in_object(const fqi_json_scan *s) { return (s->is_object >> (s->depth - 1) & 1) != 0; }

static void after_value(fqi_json_scan *s) { s->state = s->depth == 0 ? WANT_NOTHING : WANT_COMMA; }

static fq_status open_container(fqi_json_scan *s, bool object, fq_err *e)
{
    fqi_where w = at(s, s->pos);
    if (s->depth == FQI_JSON_DEPTH)
        return fqi_fail(e, FQ_E_INPUT, &w, "json-depth", "found deeper nesting, expected at most %d levels", FQI_JSON_DEPTH);
    uint64_t bit = (uint64_t)1 << s->depth++;
    s->is_object = object ? s->is_object | bit : s->is_object & ~bit;
    s->kind = object ? FQI_JSON_OBJECT : FQI_JSON_ARRAY;
    s->state = object ? WANT_FIRST_KEY : WANT_FIRST_VALUE;
    s->pos++;
    return FQ_OK;
}

static fq_status close_container(fqi_json_scan *s)
{
    s->kind = in_object(s) ? FQI_JSON_OBJECT_END : FQI_JSON_ARRAY_END;
    s->depth--;
    s->pos++;
    after_value(s);
    return FQ_OK;
}

static fq_status scan_key(fqi_json_scan *s, fq_err *e)
{
    if (s->pos >= s->n || s->text[s->pos] != '"')
        return unexpected(s, s->pos, "json-syntax", s->state == WANT_KEY ? "a key" : "a key or '}'", e);
    FQI_TRY(scan_string(s, e));
    s->kind = FQI_JSON_KEY;
    s->state = WANT_COLON;
    return FQ_OK;
}

static fq_status scan_value(fqi_json_scan *s, fq_err *e)
{
    fq_status r;
    switch (s->pos < s->n ? s->text[s->pos] : '\0') {
    case '{': return open_container(s, true, e);
    case '[': return open_container(s, false, e);
    case '"': s->kind = FQI_JSON_STRING; r = scan_string(s, e); break;
    case 't': s->kind = FQI_JSON_TRUE; r = scan_word(s, "true", e); break;
    case 'f': s->kind = FQI_JSON_FALSE; r = scan_word(s, "false", e); break;
    case 'n': s->kind = FQI_JSON_NULL; r = scan_word(s, "null", e); break;
    case '-': case '0': case '1': case '2': case '3': case '4': case '5': case '6': case '7': case '8': case '9':
        s->kind = FQI_JSON_NUMBER; r = scan_number(s, e); break;
    default: return unexpected(s, s->pos, "json-syntax", "a value", e);
    }
    if (r == FQ_OK) after_value(s);
    return r;
}

static void skip_space(fqi_json_scan *s)
{
    while (s->pos < s->n) {
        char c = s->text[s->pos];
        if (c != ' ' && c != '\t' && c != '\n' && c != '\r') return;
        s->pos++;
    }
}

/* Steps over the ',' or ':' before the next token, and tells by the new state what that token may be. */
static fq_status step(fqi_json_scan *s, bool *closes, fq_err *e)
{
    char c = s->pos < s->n ? s->text[s->pos] : '\0', end = s->depth != 0 && in_object(s) ? '}' : ']';
    *closes = false;
    if (s->state == WANT_COLON) {
        if (c != ':') return unexpected(s, s->pos, "json-syntax", "':'", e);
        s->pos++;
        s->state = WANT_VALUE;
    } else if (s->state == WANT_COMMA) {
        *closes = c == end;
        if (*closes) return FQ_OK;
        if (c != ',') return unexpected(s, s->pos, "json-syntax", end == '}' ? "',' or '}'" : "',' or ']'", e);
        s->pos++;
        s->state = end == '}' ? WANT_KEY : WANT_VALUE;
    } else {
        *closes = (s->state == WANT_FIRST_KEY || s->state == WANT_FIRST_VALUE) && c == end;
        return FQ_OK;
    }
    skip_space(s);
    return FQ_OK;
}

fq_status fqi_json_next(fqi_json_scan *s, fq_err *e)
{
    bool closes;
    fq_status r;
    skip_space(s);
    if (s->state == WANT_NOTHING) {
        if (s->pos < s->n) return unexpected(s, s->pos, "json-syntax", "nothing more", e);
        s->kind = FQI_JSON_END;
        s->begin = s->end = s->pos;
        return FQ_OK;
    }
    FQI_TRY(step(s, &closes, e));
    size_t begin = s->pos;
    if (closes) r = close_container(s);
    else if (s->state == WANT_FIRST_KEY || s->state == WANT_KEY) r = scan_key(s, e);
    else r = scan_value(s, e);
    s->begin = begin;
    s->end = s->pos;
    return r;
}

fq_status fqi_json_skip(fqi_json_scan *s, fq_err *e)
{
    if (s->kind != FQI_JSON_OBJECT && s->kind != FQI_JSON_ARRAY) return FQ_OK;
    unsigned outside = s->depth - 1;
    while (s->depth != outside) FQI_TRY(fqi_json_next(s, e));
    return FQ_OK;
}

/* ---- values ---- */

char *fqi_json_describe(const fqi_json_scan *s, char out[FQI_NAME_MAX + 1])
{
    char name[FQI_NAME_MAX + 1];
    const char *words = NULL;
    switch (s->kind) {
    case FQI_JSON_NUMBER: return fqi_escape_n(out, s->text + s->begin, s->end - s->begin);
    case FQI_JSON_KEY:
    case FQI_JSON_STRING:
        if (s->keep) fqi_escape_n(name, s->text + s->begin + 1, s->end - s->begin - 2);
        else fqi_escape_n(name, s->str, s->str_len);
        snprintf(out, FQI_NAME_MAX + 1, "\"%.*s\"", FQI_NAME_MAX - 2, name);
        return out;
    case FQI_JSON_OBJECT: words = "an object"; break;
    case FQI_JSON_ARRAY: words = "an array"; break;
    case FQI_JSON_OBJECT_END: words = "the end of the object"; break;
    case FQI_JSON_ARRAY_END: words = "the end of the array"; break;
    case FQI_JSON_TRUE: words = "true"; break;
    case FQI_JSON_FALSE: words = "false"; break;
    case FQI_JSON_NULL: words = "null"; break;
    case FQI_JSON_END: words = "the end of the text"; break;
    }
    snprintf(out, FQI_NAME_MAX + 1, "%s", words);
    return out;
}

fq_status fqi_json_u63(const fqi_json_scan *s, const char *what, uint64_t *out, fq_err *e)
{
    uint64_t v = 0;
    bool good = s->kind == FQI_JSON_NUMBER;
    for (size_t i = s->begin; good && i < s->end; i++) {
        unsigned d = (unsigned)(unsigned char)s->text[i] - '0';
        good = d <= 9 && fqi_mul_u64(v, 10, &v) && fqi_add_u64(v, d, &v) && v <= INT64_MAX;
    }
    if (good) {
        *out = v;
        return FQ_OK;
    }
    char found[FQI_NAME_MAX + 1];
    fqi_where w = at(s, s->begin);
    return fqi_fail(e, FQ_E_INPUT, &w, "json-integer", "%s: found %s, expected an integer from 0 to 2^63-1", what,
                    fqi_json_describe(s, found));
}
