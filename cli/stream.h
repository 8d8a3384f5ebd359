/* stream.h - a model's text on stdout while it is written: whole characters, and nothing that steers a terminal.
 *
 * A character may be cut over two tokens: its beginning is held back until it is complete or cannot become complete. Bytes that are no
 * UTF-8 are written as they are. On a terminal, control characters (C0 but for newline and tab, DEL, C1) and such bytes are shown as
 * \xNN: a model repeats what it was fed, and escape sequences in a web page could retitle a window or rewrite what stands above. */
#ifndef FITQ_CLI_STREAM_H
#define FITQ_CLI_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

typedef struct stream {
    FILE *file;
    bool terminal;
    unsigned char held[4]; size_t n_held;
    bool at_line_start;      /* nothing was written, or a newline last */
} stream;

stream stream_start(FILE *file, bool terminal);
/* Both flush; false when the write failed, with errno. */
bool stream_put(stream *s, const char *bytes, size_t n);
/* What is held back, and a newline unless one was written last. */
bool stream_end(stream *s);

#endif
