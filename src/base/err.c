/* err.c - the one error line, and the escaping of names that stand in it.
 *
 * Everything that reaches fq_err.text from a file passes through escape() first: a tensor name may hold terminal control
 * sequences, line feeds that forge log lines, or bidirectional overrides that show one name for another. The text is a
 * fixed array: building an error never allocates, so it also works when memory is what ran out. */
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

#define FILE_MAX 1024 /* escaped bytes of a path in a message; two may stand in one line, so they cannot have it all */

/* May the code point be shown as it is? C0, DEL and C1 steer terminals; the bidirectional marks and the line separators make
 * a line look like another one; quotes and the backslash would make the escaped form ambiguous. */
static bool is_plain(uint32_t c)
{
    if (c < 0x20 || (c >= 0x7f && c < 0xa0)) return false;
    if (c == '"' || c == '\'' || c == '\\') return false;
    if (c == 0x061c || c == 0x200e || c == 0x200f || c == 0xfeff) return false;
    return !((c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069));
}

/* At most cap - 1 bytes and a NUL. A name that does not fit is cut before a whole character and ends in "...". */
static char *escape(char *out, size_t cap, const char *name, size_t len)
{
    static const char hex[] = "0123456789abcdef";
    const unsigned char *s = (const unsigned char *)name;
    size_t n = 0, cut = 0; /* cut: how much of out stands when "..." must follow */
    for (size_t i = 0; i < len;) {
        uint32_t code = 0;
        size_t seq = fqi_utf8_sequence(s + i, len - i, &code);
        bool plain = seq != 0 && is_plain(code);
        size_t from = seq != 0 ? seq : 1, to = plain ? from : 4 * from;
        if (n + to > cap - 1) {
            memcpy(out + cut, "...", 4);
            return out;
        }
        for (size_t k = 0; k < from; k++) {
            if (plain) { out[n++] = (char)s[i + k]; continue; }
            out[n++] = '\\';
            out[n++] = 'x';
            out[n++] = hex[s[i + k] >> 4];
            out[n++] = hex[s[i + k] & 15];
        }
        if (n + 3 <= cap - 1) cut = n;
        i += from;
    }
    out[n] = '\0';
    return out;
}

char *fqi_escape_n(char out[FQI_NAME_MAX + 1], const char *name, size_t len)
{
    return escape(out, FQI_NAME_MAX + 1, name, len);
}

char *fqi_escape(char out[FQI_NAME_MAX + 1], const char *name) { return fqi_escape_n(out, name, strlen(name)); }

char *fqi_show_budget(char out[FQI_BUDGET_MAX + 1], uint64_t bytes)
{
    const unsigned long long mib = bytes >> 20;
    snprintf(out, FQI_BUDGET_MAX + 1, "%llu %s", mib ? mib : (unsigned long long)bytes, mib ? "MiB" : bytes == 1 ? "byte" : "bytes");
    return out;
}

/* Appends to e->text; what does not fit is dropped. */
__attribute__((format(printf, 2, 0))) static void append_v(fq_err *e, const char *fmt, va_list ap)
{
    size_t n = strlen(e->text);
    vsnprintf(e->text + n, sizeof e->text - n, fmt, ap);
}

__attribute__((format(printf, 2, 3))) static void append(fq_err *e, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    append_v(e, fmt, ap);
    va_end(ap);
}

static void begin(fq_err *e, fq_status code, const fqi_where *where, const char *rule)
{
    char file[FILE_MAX + 1], name[FQI_NAME_MAX + 1];
    e->code = code;
    e->sys_errno = 0;
    snprintf(e->rule, sizeof e->rule, "%s", rule != NULL ? rule : "");
    e->text[0] = '\0';
    if (where != NULL) {
        if (where->file != NULL) append(e, "%s: ", escape(file, sizeof file, where->file, strlen(where->file)));
        if (where->line != 0) append(e, "line %llu: ", (unsigned long long)where->line);
        if (where->tensor != NULL) append(e, "tensor %s: ", fqi_escape(name, where->tensor));
        if (where->offset != FQI_NO_OFFSET) append(e, "byte %llu: ", (unsigned long long)where->offset);
    }
    if (rule != NULL) append(e, "%s: ", rule);
}

fq_status fqi_fail(fq_err *e, fq_status code, const fqi_where *where, const char *rule, const char *fmt, ...)
{
    if (e == NULL) return code;
    va_list ap;
    va_start(ap, fmt);
    /* The arguments may point into *e (a message that wraps another one): print them before *e is overwritten. */
    char tail[sizeof e->text];
    vsnprintf(tail, sizeof tail, fmt, ap);
    va_end(ap);
    begin(e, code, where, rule);
    append(e, "%s", tail);
    return code;
}

fq_status fqi_fail_sys(fq_err *e, const char *file, const char *what, int err)
{
    fq_status code = err == ENOMEM ? FQ_E_NOMEM : FQ_E_IO;
    if (e == NULL) return code;
    char buf[128];
    begin(e, code, file != NULL ? FQI_FILE(file) : NULL, what);
    append(e, "%s", strerror_r(err, buf, sizeof buf)); /* GNU variant: the result need not be buf */
    e->sys_errno = err;
    return code;
}

fq_status fqi_fail_at(fq_err *e, fq_status s, const fqi_where *where, const fq_err *why)
{
    if (e == NULL) return s;
    const fq_err inner = *why; /* it may be *e */
    *e = inner;
    if (s == FQ_E_NOMEM) return s;
    fqi_fail(e, s, where, NULL, "%s", inner.text);
    memcpy(e->rule, inner.rule, sizeof e->rule);
    e->sys_errno = inner.sys_errno;
    return s;
}

fq_status fqi_fail_from(fq_err *e, fq_status s, const char *who, const fq_err *why)
{
    if (e == NULL) return s;
    const fq_err inner = *why; /* it may be *e */
    *e = inner;
    fqi_fail(e, s, NULL, NULL, "%s: %s", who, inner.text);
    memcpy(e->rule, inner.rule, sizeof e->rule);
    e->sys_errno = inner.sys_errno;
    return s;
}

fq_status fqi_fail_nomem(fq_err *e, const char *what)
{
    return fqi_fail(e, FQ_E_NOMEM, NULL, "out-of-memory", "%s", what);
}
