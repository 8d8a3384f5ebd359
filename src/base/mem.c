/* mem.c - heap, arena and growing strings. See mem.h.
 *
 * Arena blocks double in size up to 1 MiB, so that a table of millions of small things costs few calls and a small one little
 * memory; a thing larger than a block gets one of its own. Under AddressSanitizer what is not handed out stays poisoned. */
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#endif

#ifdef WITH_ASAN
#include <sanitizer/asan_interface.h>
#define POISON(p, n) ASAN_POISON_MEMORY_REGION(p, n)
#define UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#define GAP 16u /* poisoned bytes between two objects */
#else
#define POISON(p, n) ((void)(p), (void)(n))
#define UNPOISON(p, n) ((void)(p), (void)(n))
#define GAP 0u
#endif

void *fqi_calloc(size_t n, size_t size)
{
    size_t bytes;
    if (!fqi_mul_size(n, size, &bytes) || bytes > PTRDIFF_MAX) return NULL;
    return calloc(bytes != 0 ? bytes : 1, 1);
}

bool fqi_grow(void **ptr, size_t *cap, size_t need, size_t size)
{
    if (need <= *cap) return true;
    size_t n = *cap < 8 ? 8 : *cap, bytes;
    while (n < need) {
        if (n > SIZE_MAX / 2) return false;
        n *= 2;
    }
    if (!fqi_mul_size(n, size, &bytes) || bytes > PTRDIFF_MAX) return false;
    void *p = realloc(*ptr, bytes);
    if (p == NULL) return false;
    *ptr = p;
    *cap = n;
    return true;
}

/* ---- arena ---- */

#define ALIGN 16u
#define BLOCK_MIN ((size_t)4096)
#define BLOCK_MAX ((size_t)1 << 20)

struct fqi_arena_block {
    struct fqi_arena_block *next;
    size_t cap, used; /* of data */
    _Alignas(ALIGN) unsigned char data[];
};

/* A block that can hold `bytes`. It becomes the head unless the head has more room left than it will have. */
static struct fqi_arena_block *add_block(fqi_arena *a, size_t bytes)
{
    size_t cap = a->head == NULL ? BLOCK_MIN : a->head->cap * 2;
    if (cap > BLOCK_MAX) cap = BLOCK_MAX;
    if (cap < bytes) cap = bytes;
    struct fqi_arena_block *b = calloc(1, sizeof *b + cap);
    if (b == NULL) return NULL;
    b->cap = cap;
    POISON(b->data, b->cap);
    if (a->head != NULL && a->head->cap - a->head->used > cap - bytes) {
        b->next = a->head->next;
        a->head->next = b;
    } else {
        b->next = a->head;
        a->head = b;
    }
    return b;
}

void *fqi_arena_alloc(fqi_arena *a, size_t bytes)
{
    if (bytes > PTRDIFF_MAX - BLOCK_MAX) return NULL; /* no object can be larger, and the sums below cannot wrap */
    size_t want = ((bytes != 0 ? bytes : 1) + ALIGN - 1 + GAP) & ~(size_t)(ALIGN - 1);
    struct fqi_arena_block *b = a->head;
    if (b == NULL || b->cap - b->used < want) b = add_block(a, want);
    if (b == NULL) return NULL;
    unsigned char *p = b->data + b->used;
    b->used += want;
    UNPOISON(p, bytes);
    return p;
}

char *fqi_arena_strndup(fqi_arena *a, const char *s, size_t len)
{
    if (len == SIZE_MAX) return NULL;
    char *p = fqi_arena_alloc(a, len + 1);
    if (p != NULL && len != 0) memcpy(p, s, len);
    return p;
}

char *fqi_arena_strdup(fqi_arena *a, const char *s) { return fqi_arena_strndup(a, s, strlen(s)); }

char *fqi_arena_printf(fqi_arena *a, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) return NULL;
    char *p = fqi_arena_alloc(a, (size_t)n + 1);
    if (p == NULL) return NULL;
    va_start(ap, fmt);
    vsnprintf(p, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return p;
}

void fqi_arena_free(fqi_arena *a)
{
    if (a == NULL) return;
    for (struct fqi_arena_block *b = a->head, *next; b != NULL; b = next) {
        next = b->next;
        UNPOISON(b->data, b->cap);
        free(b);
    }
    a->head = NULL;
}

/* ---- growing strings ---- */

static bool reserve(fqi_str *b, size_t more)
{
    size_t need;
    if (b->failed) return false;
    if (__builtin_add_overflow(b->len, more, &need) || need == SIZE_MAX ||
        !fqi_grow((void **)&b->s, &b->cap, need + 1, 1))
        b->failed = true;
    return !b->failed;
}

void fqi_str_add(fqi_str *b, const char *bytes, size_t n)
{
    if (!reserve(b, n)) return;
    if (n != 0) memcpy(b->s + b->len, bytes, n);
    b->len += n;
    b->s[b->len] = '\0';
}

void fqi_str_puts(fqi_str *b, const char *s) { fqi_str_add(b, s, strlen(s)); }

void fqi_str_printf(fqi_str *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) { b->failed = true; return; }
    if (!reserve(b, (size_t)n)) return;
    va_start(ap, fmt);
    vsnprintf(b->s + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
}

void fqi_str_free(fqi_str *b)
{
    if (b == NULL) return;
    free(b->s);
    *b = (fqi_str){ 0 };
}
