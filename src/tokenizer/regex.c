/* regex.c - patterns of tokenizer.json, rewritten for PCRE2. See pretok.h.
 *
 * The tokenizers library runs them with Oniguruma in its default (Ruby) syntax. Most of a pattern means the same to PCRE2; what
 * does not is rewritten here, or refused by name, so that no pattern silently cuts in other places:
 *   - \s is Unicode's White_Space; PCRE2 adds U+180E, which is none since Unicode 6.3;
 *   - \w also has marks and the superscript digits of Latin-1; \d is \p{Nd} in both;
 *   - \p{Han} is the script, to PCRE2 the script extensions; \v is one character, to PCRE2 a class;
 *   - X{1,3}+ repeats the interval, to PCRE2 it is possessive; {,3} is an interval, to PCRE2 text;
 *   - ^ and $ match at every line; groups do not capture, since nothing refers to them;
 *   - nested classes, && in a class, (?m) and inline options inside a pattern are refused.
 * Which characters are letters depends on the Unicode version of the library: PCRE2 10.42 has 14.0. A character that was assigned
 * later is cut as an unassigned one.
 *
 * `\s+$` takes quadratic time on a long run of white space inside a line, from each of its characters to the end; where it stands
 * alone it is given a second branch that skips a run on which it failed. */
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "tokenizer/pretok.h"

#define SPACE "\\t-\\r\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NOT_SPACE "\\x00-\\x08\\x0e-\\x1f\\x21-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}" \
                  "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"

#define DEPTH_MAX 64

typedef struct translation {
    const char *s;
    size_t n, i;
    const char *file;
    fqi_str *out;
    size_t atom;                 /* where the last atom begins in out, NO_ATOM: nothing to repeat */
    size_t open[DEPTH_MAX];
    size_t depth;
} translation;
#define NO_ATOM SIZE_MAX

static fq_status refuse(const translation *t, size_t at, const char *what, fq_err *e)
{
    char found[FQI_NAME_MAX + 1];
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(t->file), "pattern", "found %s at character %zu of \"%s\", expected a pattern without it", what,
                    at + 1, fqi_escape_n(found, t->s, t->n));
}

static bool peek(const translation *t, size_t ahead, char c) { return t->i + ahead < t->n && t->s[t->i + ahead] == c; }

/* ---- \p{...} ---------------------------------------------------------------------------------------------------- */

static bool is_category(const char *name, size_t n)
{
    static const char all[] = " L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So Z Zs Zl Zp C Cc Cf Cn Co ";
    char want[8];
    if (n < 1 || n > 2) return false;
    snprintf(want, sizeof want, " %.*s ", (int)n, name);
    return strstr(all, want) != NULL;
}

static bool is_script(const char *name, size_t n)
{
    static const char *const all[] = { "Han", "Hiragana", "Katakana", "Hangul", "Latin", "Greek", "Cyrillic", "Arabic", "Hebrew", "Thai",
                                       "Devanagari", "Armenian", "Georgian" };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (strlen(all[i]) == n && memcmp(all[i], name, n) == 0) return true;
    return false;
}

/* t->i is at the p of \p or \P. */
static fq_status property(translation *t, fq_err *e)
{
    size_t start = t->i - 1, name = t->i + 2;
    bool negated = t->s[t->i] == 'P';
    const char *end = peek(t, 1, '{') ? memchr(t->s + name, '}', t->n - name) : NULL;
    if (end == NULL) return refuse(t, start, "\\p without a name in braces", e);
    if (t->s[name] == '^') {
        negated = !negated;
        name++;
    }
    size_t n = (size_t)(end - (t->s + name));
    bool script = is_script(t->s + name, n);
    if (!script && !is_category(t->s + name, n)) return refuse(t, start, "an unknown property", e);
    fqi_str_printf(t->out, "\\%c{%s%.*s}", negated ? 'P' : 'p', script ? "sc:" : "", (int)n, t->s + name);
    t->i = (size_t)(end - t->s) + 1;
    return FQ_OK;
}

/* ---- escapes ---------------------------------------------------------------------------------------------------- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* \xHH, \x{H...}, \uHHHH; t->i is at the letter. */
static fq_status code_point(translation *t, fq_err *e)
{
    size_t start = t->i - 1, i = t->i + 1, digits = 0;
    bool braces = t->s[t->i] == 'x' && i < t->n && t->s[i] == '{';
    size_t want = braces ? 6 : t->s[t->i] == 'x' ? 2 : 4;
    uint32_t c = 0;
    for (i += braces; i < t->n && digits < want && hex_digit(t->s[i]) >= 0; i++, digits++) c = c * 16 + (uint32_t)hex_digit(t->s[i]);
    if (digits == 0 || (braces && (i >= t->n || t->s[i] != '}')) || (!braces && digits != want)) return refuse(t, start, "an unfinished escape", e);
    if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return refuse(t, start, "the escape of no character", e);
    if (want == 2 && c > 0x7f) return refuse(t, start, "the escape of a byte", e);   /* Oniguruma: a byte of UTF-8 */
    fqi_str_printf(t->out, "\\x{%x}", c);
    t->i = i + braces;
    return FQ_OK;
}

/* The class escapes; false if c is none. */
static bool class_escape(char c, bool inside, fqi_str *out)
{
    const char *open = inside ? "" : "[", *close = inside ? "" : "]";
    switch (c) {
    case 's': fqi_str_printf(out, "%s%s%s", open, SPACE, close); return true;
    case 'S': fqi_str_printf(out, "%s%s%s", open, NOT_SPACE, close); return true;
    case 'w': fqi_str_printf(out, "%s%s%s", open, WORD, close); return true;
    case 'd': fqi_str_puts(out, "\\p{Nd}"); return true;
    case 'D': fqi_str_puts(out, "\\P{Nd}"); return true;
    case 'W':
        if (inside) return false;
        fqi_str_puts(out, "[^" WORD "]");
        return true;
    default: return false;
    }
}

/* t->i is behind the backslash. *is_class: more than one character can match. */
static fq_status escape(translation *t, bool inside, bool *is_class, fq_err *e)
{
    *is_class = false;
    if (t->i >= t->n) return refuse(t, t->i - 1, "a backslash at the end", e);
    char c = t->s[t->i];
    if (c == 'p' || c == 'P') {
        *is_class = true;
        return property(t, e);
    }
    if (c == 'x' || c == 'u') return code_point(t, e);
    if (class_escape(c, inside, t->out)) {
        *is_class = true;
    } else if (strchr("rntfae", c) != NULL || (!inside && (c == 'A' || c == 'z'))) {
        fqi_str_printf(t->out, "\\%c", c);
    } else if (c == 'v') {
        fqi_str_puts(t->out, "\\x0b");
    } else if (((unsigned char)c | 0x20) >= 'a' && ((unsigned char)c | 0x20) <= 'z') {
        return refuse(t, t->i - 1, "an escape", e);
    } else if ((c >= '0' && c <= '9') || (unsigned char)c >= 0x80) {
        return refuse(t, t->i - 1, "a reference or an escape", e);
    } else {
        fqi_str_printf(t->out, "\\%c", c);
    }
    t->i++;
    return FQ_OK;
}

/* ---- [classes] -------------------------------------------------------------------------------------------------- */

static fq_status class_body(translation *t, fq_err *e)
{
    bool after_class = false, empty = true;
    for (;; empty = false) {
        bool is_class = false;
        if (t->i >= t->n) return refuse(t, t->n - 1, "a class without end", e);
        char c = t->s[t->i];
        if (c == ']' && !empty) break;
        if (c == ']' || c == '[') return refuse(t, t->i, c == '[' ? "a class inside a class" : "an empty class", e);
        if (c == '&' && peek(t, 1, '&')) return refuse(t, t->i, "&& in a class", e);
        if (c == '\\') {
            char kind = t->i + 1 < t->n ? t->s[t->i + 1] : '\0';
            bool range = !empty && !after_class && t->s[t->i - 1] == '-' && t->s[t->i - 2] != '[' && t->s[t->i - 2] != '^';
            if (range && strchr("sSwWdDpP", kind) != NULL) return refuse(t, t->i, "a range that ends in a class", e);
            t->i++;
            FQI_TRY(escape(t, true, &is_class, e));
        } else {
            if (c == '-' && after_class) fqi_str_puts(t->out, "\\");   /* text: a class begins no range */
            fqi_str_add(t->out, &c, 1);
            t->i++;
        }
        after_class = is_class;
    }
    fqi_str_puts(t->out, "]");
    t->i++;
    return FQ_OK;
}

static fq_status class(translation *t, fq_err *e)
{
    t->atom = t->out->len;
    fqi_str_puts(t->out, "[");
    t->i++;
    if (peek(t, 0, '^')) {
        fqi_str_puts(t->out, "^");
        t->i++;
    }
    return class_body(t, e);
}

/* ---- groups and repetition ---------------------------------------------------------------------------------------- */

static fq_status group(translation *t, fq_err *e)
{
    static const char *const known[] = { "(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:" };
    if (t->depth == DEPTH_MAX) return refuse(t, t->i, "groups nested too deep", e);
    if (t->i == 0 && t->n > 4 && memcmp(t->s, "(?i)", 4) == 0) {
        fqi_str_puts(t->out, "(?i)");
        t->i = 4;
        return FQ_OK;
    }
    t->open[t->depth++] = t->out->len;
    t->atom = NO_ATOM;
    if (!peek(t, 1, '?')) {
        fqi_str_puts(t->out, "(?:");
        t->i++;
        return FQ_OK;
    }
    for (size_t k = 0; k < sizeof known / sizeof known[0]; k++) {
        size_t n = strlen(known[k]);
        if (t->n - t->i < n || memcmp(t->s + t->i, known[k], n) != 0) continue;
        fqi_str_puts(t->out, known[k]);
        t->i += n;
        return FQ_OK;
    }
    return refuse(t, t->i, "a group of another kind", e);
}

/* Puts the last atom into a group of its own. */
static void wrap(translation *t)
{
    if (t->out->failed) return;
    fqi_str_puts(t->out, "   ");
    if (t->out->failed) return;
    char *at = t->out->s + t->atom;
    memmove(at + 3, at, t->out->len - 3 - t->atom);
    memcpy(at, "(?:", 3);
}

/* "{2}", "{1,3}", "{,3}", "{1,}" at t->i; false if it is text. */
static bool interval(const translation *t, int *lo, int *hi, size_t *len)
{
    char text[16] = { 0 };
    int used = 0;
    size_t n = t->n - t->i < 15 ? t->n - t->i : 15;
    memcpy(text, t->s + t->i, n);
    *lo = 0;
    *hi = -1;
    if (sscanf(text, "{%4d}%n", lo, &used) == 1 && used > 0) *hi = *lo;
    else if (sscanf(text, "{%4d,%4d}%n", lo, hi, &used) == 2 && used > 0) {}
    else if ((*hi = -1, sscanf(text, "{%4d,}%n", lo, &used)) == 1 && used > 0) {}
    else if ((*lo = 0, sscanf(text, "{,%4d}%n", hi, &used)) == 1 && used > 0) {}
    else return false;
    *len = (size_t)used;
    return *lo >= 0 && *hi >= -1;
}

static fq_status repeat_interval(translation *t, bool *text, fq_err *e)
{
    int lo, hi;
    size_t len;
    *text = !interval(t, &lo, &hi, &len);
    if (*text) return FQ_OK;
    if (t->atom == NO_ATOM) return refuse(t, t->i, "a repetition of nothing", e);
    if (lo == hi && peek(t, len, '?')) return refuse(t, t->i, "an exact count followed by ?", e);
    bool again = peek(t, len, '+') || peek(t, len, '*');
    if (again) wrap(t);
    fqi_str_printf(t->out, "{%d,", lo);
    if (hi >= 0) fqi_str_printf(t->out, "%d", hi);
    fqi_str_puts(t->out, "}");
    t->i += len;
    if (again) fqi_str_puts(t->out, ")");
    if (!again && peek(t, 0, '?')) {
        fqi_str_puts(t->out, "?");
        t->i++;
    }
    return FQ_OK;
}

static fq_status repeat(translation *t, fq_err *e)
{
    if (t->atom == NO_ATOM) return refuse(t, t->i, "a repetition of nothing", e);
    fqi_str_add(t->out, t->s + t->i++, 1);
    if (peek(t, 0, '+') || peek(t, 0, '?')) fqi_str_add(t->out, t->s + t->i++, 1);
    if (peek(t, 0, '*') || peek(t, 0, '+') || peek(t, 0, '?')) return refuse(t, t->i, "a repetition of a repetition", e);
    t->atom = NO_ATOM;
    return FQ_OK;
}

static fq_status plain(translation *t, fq_err *e)
{
    uint32_t c;
    size_t n = fqi_utf8_sequence((const unsigned char *)t->s + t->i, t->n - t->i, &c);
    if (n == 0) return refuse(t, t->i, "bytes that are not UTF-8", e);
    t->atom = t->out->len;
    if (c == '{' || c == '}' || c == ']') fqi_str_puts(t->out, "\\");
    fqi_str_add(t->out, t->s + t->i, n);
    t->i += n;
    return FQ_OK;
}

static fq_status step(translation *t, fq_err *e)
{
    bool is_class;
    char c = t->s[t->i];
    switch (c) {
    case '\\':
        t->atom = t->out->len;
        t->i++;
        return escape(t, false, &is_class, e);
    case '[': return class(t, e);
    case '(': return group(t, e);
    case ')':
        if (t->depth == 0) return refuse(t, t->i, "a group that was not opened", e);
        t->atom = t->open[--t->depth];
        break;
    case '*': case '+': case '?': return repeat(t, e);
    case '{': {
        bool text;
        FQI_TRY(repeat_interval(t, &text, e));
        return text ? plain(t, e) : FQ_OK;
    }
    case '|': case '^': case '$': t->atom = NO_ATOM; break;
    case '.': t->atom = t->out->len; break;
    default: return plain(t, e);
    }
    fqi_str_add(t->out, &c, 1);
    t->i++;
    return FQ_OK;
}

fq_status fqi_regex_translate(const char *pattern, size_t n, const char *file, fqi_str *out, fq_err *e)
{
    translation t = { .s = pattern, .n = n, .file = file, .out = out, .atom = NO_ATOM };
    while (t.i < n) FQI_TRY(step(&t, e));
    if (t.depth > 0) return refuse(&t, n - 1, "a group without end", e);
    if (n == 4 && memcmp(pattern, "\\s+$", 4) == 0) fqi_str_puts(out, "|[" SPACE "]++(*SKIP)(*FAIL)");
    return out->failed ? fqi_fail_nomem(e, "pattern") : FQ_OK;
}

/* ---- compiling ------------------------------------------------------------------------------------------------------ */

static fq_status compile(const fqi_str *text, const char *shown, const char *file, pcre2_code **out, fq_err *e)
{
    int code;
    PCRE2_SIZE at;
    PCRE2_UCHAR why[128];
    pcre2_compile_context *c = pcre2_compile_context_create(NULL);
    if (c == NULL) return fqi_fail_nomem(e, "pattern");
    pcre2_set_newline(c, PCRE2_NEWLINE_LF);
    pcre2_code *made = pcre2_compile((PCRE2_SPTR)text->s, text->len, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &code, &at, c);
    pcre2_compile_context_free(c);
    if (made != NULL) {
        pcre2_jit_compile(made, PCRE2_JIT_COMPLETE);   /* without a JIT it is slower, no more */
        *out = made;
        return FQ_OK;
    }
    /* 121: out of memory */
    if (code == 121) return fqi_fail_nomem(e, "pattern");
    pcre2_get_error_message(code, why, sizeof why);
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "pattern", "found \"%s\", expected a pattern that compiles (%s)", shown, (char *)why);
}

fq_status fqi_regex_compile(const char *pattern, size_t n, bool literal, const char *file, pcre2_code **out, fq_err *e)
{
    char shown[FQI_NAME_MAX + 1];
    fqi_str text = { 0 };
    fq_status s = FQ_OK;
    fqi_escape_n(shown, pattern, n);
    if (n == 0) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "pattern", "found an empty pattern, expected one that matches something");
    if (literal) {
        for (size_t i = 0; i < n; i++) fqi_str_printf(&text, strchr("\\^$.[]|()*+?{}-#", pattern[i]) != NULL ? "\\%c" : "%c", pattern[i]);
        if (text.failed) s = fqi_fail_nomem(e, "pattern");
    } else {
        s = fqi_regex_translate(pattern, n, file, &text, e);
    }
    if (s == FQ_OK) s = compile(&text, shown, file, out, e);
    fqi_str_free(&text);
    return s;
}
