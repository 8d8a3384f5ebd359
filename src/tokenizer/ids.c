/* ids.c - a list of ids that is written as text. See fq_ids_parse in fitq.h.
 *
 * Brackets separate too: the list may be one of JSON. Whether a vocabulary has the ids is not asked here. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"

static bool separates(char c) { return c != '\0' && strchr(" \t\r\n,[]", c) != NULL; }

static size_t word_length(const char *s, size_t n)
{
    size_t k = 0;
    while (k < n && !separates(s[k])) k++;
    return k;
}

static size_t count_words(const char *s, size_t n)
{
    size_t words = 0;
    for (size_t i = 0; i < n; i++) words += !separates(s[i]) && (i == 0 || separates(s[i - 1]));
    return words;
}

/* Digits only, and a number that fits. */
static bool read_id(const char *s, size_t n, uint32_t *out)
{
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9') return false;
        v = v * 10 + (uint64_t)(s[i] - '0');
        if (v > UINT32_MAX) return false;
    }
    *out = (uint32_t)v;
    return true;
}

fq_status fq_ids_parse(const char *text, size_t n, uint32_t **ids, size_t *n_ids, fq_err *e)
{
    uint32_t *out = fqi_calloc(count_words(text, n), sizeof *out);
    if (out == NULL) return fqi_fail_nomem(e, "token ids");
    size_t found = 0, len;
    for (size_t at = 0; at < n; at += len) {
        len = word_length(text + at, n - at);
        if (len == 0) {
            len = 1;   /* a separator */
        } else if (!read_id(text + at, len, &out[found++])) {
            char shown[FQI_NAME_MAX + 1];
            free(out);
            return fqi_fail(e, FQ_E_INPUT, FQI_AT(NULL, NULL, at), "token-ids", "found \"%s\", expected ids below 2^32 with spaces or commas between them",
                            fqi_escape_n(shown, text + at, len));
        }
    }
    *ids = out;
    *n_ids = found;
    return FQ_OK;
}
