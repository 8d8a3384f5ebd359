/* input.h - the whole of a file or of standard input, in memory: texts and lists of ids that a user names on the command line. */
#ifndef FITQ_CLI_INPUT_H
#define FITQ_CLI_INPUT_H

#include <stddef.h>

typedef struct input { char *s; size_t n, cap; const char *name; } input;   /* zero-initialise; free(s) */

#define INPUT_MAX_BYTES ((size_t)1 << 30)   /* as the library takes texts; /dev/zero has no end */

/* path: NULL or "-" is standard input. At most `most` bytes. 0, or the exit status of a failure whose message is on stderr. */
int input_read(const char *path, size_t most, input *in);

/* The messages of such failures, with their exit status. */
int input_failed(const char *name, const char *what, int err);
int input_no_memory(const char *name);
int input_too_long(const char *name, size_t most);

#endif
