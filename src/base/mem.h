/* mem.h - heap and arena.
 *
 * The arena holds metadata (names, tables, findings) of one object and is freed at once with it. Large buffers are not
 * arena memory: they are counted against the run's budget by whoever allocates them. */
#ifndef FITQ_BASE_MEM_H
#define FITQ_BASE_MEM_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* NULL on overflow of n * size or when out of memory; n * size == 0 gives a unique pointer. */
void *fqi_calloc(size_t n, size_t size);
/* Doubles the capacity of an array so that it holds at least `need` elements. *ptr stays valid on failure (false). */
bool fqi_grow(void **ptr, size_t *cap, size_t need, size_t size);

typedef struct fqi_arena { struct fqi_arena_block *head; } fqi_arena;  /* zero-initialise */
/* 16-byte aligned, zeroed; NULL when out of memory. */
void *fqi_arena_alloc(fqi_arena *a, size_t bytes);
char *fqi_arena_strndup(fqi_arena *a, const char *s, size_t len);
char *fqi_arena_strdup(fqi_arena *a, const char *s);
char *fqi_arena_printf(fqi_arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void fqi_arena_free(fqi_arena *a);

/* A growing string. `failed` sticks, so that a long build needs one check at its end. */
typedef struct fqi_str { char *s; size_t len, cap; bool failed; } fqi_str;  /* zero-initialise; s is NUL-terminated or NULL */
void fqi_str_add(fqi_str *b, const char *bytes, size_t n);
void fqi_str_puts(fqi_str *b, const char *s);
void fqi_str_printf(fqi_str *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void fqi_str_free(fqi_str *b);

#endif
