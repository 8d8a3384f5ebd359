/* stream.c - see stream.h. */
#include "stream.h"

#include <string.h>

stream stream_start(FILE *file, bool terminal)
{
    return (stream){ .file = file, .terminal = terminal, .at_line_start = true };
}

/* Bytes of the character that s[0 .. n) is the beginning of: n if it is complete, more if bytes are missing, 0 if it is none.
 * Unicode, table 3-7: only the second byte has ranges of its own. */
static size_t character(const unsigned char *s, size_t n)
{
    size_t len = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] <= 0xdf ? 2 : s[0] >= 0xe0 && s[0] <= 0xef ? 3 : s[0] >= 0xf0 && s[0] <= 0xf4 ? 4 : 0;
    unsigned char low = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80, high = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
    if (n > 1 && len > 1 && (s[1] < low || s[1] > high)) return 0;
    for (size_t i = 2; i < n && i < len; i++)
        if (s[i] < 0x80 || s[i] > 0xbf) return 0;
    return len;
}

static bool is_control(const unsigned char *s, size_t n)
{
    if (n == 1) return (s[0] < 0x20 && s[0] != '\n' && s[0] != '\t') || s[0] == 0x7f;
    return n == 2 && s[0] == 0xc2 && s[1] < 0xa0;   /* C1 */
}

static void write_some(stream *s, size_t n, bool well_formed)
{
    if (s->terminal && (!well_formed || is_control(s->held, n)))
        for (size_t i = 0; i < n; i++) fprintf(s->file, "\\x%02x", s->held[i]);
    else
        fwrite(s->held, 1, n, s->file);
    s->at_line_start = n == 1 && s->held[0] == '\n';
    s->n_held -= n;
    memmove(s->held, s->held + n, s->n_held);
}

/* Writes what is complete or never will be. */
static void settle(stream *s)
{
    while (s->n_held > 0) {
        size_t len = character(s->held, s->n_held);
        if (len > s->n_held) return;
        write_some(s, len > 0 ? len : 1, len > 0);
    }
}

bool stream_put(stream *s, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        s->held[s->n_held++] = (unsigned char)bytes[i];   /* room: settle leaves at most three */
        settle(s);
    }
    return fflush(s->file) == 0;
}

bool stream_end(stream *s)
{
    while (s->n_held > 0) write_some(s, 1, false);
    if (!s->at_line_start) putc('\n', s->file);
    s->at_line_start = true;
    return fflush(s->file) == 0;
}
