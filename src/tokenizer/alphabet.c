/* alphabet.c - the characters that GPT-2's byte-level BPE writes for bytes. See tokenizer.h. */
#include "base/utf8.h"
#include "tokenizer/tokenizer.h"

static bool stands_for_itself(uint32_t c)
{
    return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff);
}

uint32_t fqi_alphabet_char(unsigned char byte)
{
    uint32_t b = byte;
    if (stands_for_itself(b)) return b;
    if (b <= 0x20) return 0x100 + b;            /* 33 bytes: U+0100..U+0120 */
    if (b <= 0xa0) return 0x121 + (b - 0x7f);   /* 34 bytes: U+0121..U+0142 */
    return 0x143;                               /* 0xad, the soft hyphen */
}

int fqi_alphabet_byte(uint32_t code)
{
    if (code < 0x100) return stands_for_itself(code) ? (int)code : -1;
    if (code <= 0x120) return (int)(code - 0x100);
    if (code <= 0x142) return (int)(code - 0x121 + 0x7f);
    return code == 0x143 ? 0xad : -1;
}

bool fqi_alphabet_decode(const char *text, size_t n, char *out, size_t *n_out)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t used = 0;
    for (size_t i = 0; i < n;) {
        uint32_t c = 0;
        size_t len = fqi_utf8_sequence(s + i, n - i, &c);
        int byte = len != 0 ? fqi_alphabet_byte(c) : -1;
        if (byte < 0) return false;
        out[used++] = (char)byte;
        i += len;
    }
    *n_out = used;
    return true;
}
