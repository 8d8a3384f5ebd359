/* utf8.h - one well-formed UTF-8 sequence (Unicode, table 3-7): no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef FITQ_BASE_UTF8_H
#define FITQ_BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the sequence at s (n >= 1 bytes there), 0 if it is malformed; *code is set when it is not. */
static inline size_t fqi_utf8_sequence(const unsigned char *s, size_t n, uint32_t *code)
{
    static const uint32_t smallest[5] = { 0, 0, 0x80, 0x800, 0x10000 };
    if (s[0] < 0x80) { *code = s[0]; return 1; }
    size_t len = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4 || n < len) return 0;
    uint32_t c = s[0] & (0x7fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (s[i] & 0x3f);
    }
    if (c < smallest[len] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return 0;
    *code = c;
    return len;
}

#endif
