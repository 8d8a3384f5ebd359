/* record.c - see record.h. */
#include "job/record.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define SEAL "record_xxh3"

bool fqi_record_put(json_t *o, const char *key, json_t *value) { return value && json_object_set_new(o, key, value) == 0; }

static fq_status checksum(const json_t *o, char hex[17], fq_err *e)
{
    fqi_str text = { 0 };
    fq_status s = fqi_json_print(o, JSON_COMPACT, &text, e);
    if (s == FQ_OK) snprintf(hex, 17, "%016llx", (unsigned long long)XXH3_64bits(text.s, text.len));
    fqi_str_free(&text);
    return s;
}

fq_status fqi_record_seal(json_t *o, const char *name, fq_err *e)
{
    char hex[17];
    FQI_TRY(checksum(o, hex, e));
    return fqi_record_put(o, SEAL, json_string(hex)) ? FQ_OK : fqi_fail_nomem(e, name);
}

fq_status fqi_record_check(json_t *o, bool *sound, fq_err *e)
{
    char want[17], found[17] = "";
    const char *stored = json_string_value(json_object_get(o, SEAL));
    *sound = false;
    if (!stored) return FQ_OK;
    snprintf(found, sizeof found, "%.16s", stored);
    json_object_del(o, SEAL);
    FQI_TRY(checksum(o, want, e));
    *sound = strcmp(found, want) == 0;
    return FQ_OK;
}

bool fqi_record_hex(const char *s, size_t n_digit, uint64_t *hi, uint64_t *lo)
{
    if (!s || strlen(s) != n_digit || strspn(s, "0123456789abcdef") != n_digit) return false;
    char part[17];
    *hi = 0;
    if (n_digit == 32) {
        memcpy(part, s, 16);
        part[16] = '\0';
        *hi = strtoull(part, NULL, 16);
        s += 16;
    }
    *lo = strtoull(s, NULL, 16);
    return true;
}

json_t *fqi_record_hash(const fqi_hash128 *h)
{
    char hex[33];
    snprintf(hex, sizeof hex, "%016llx%016llx", (unsigned long long)h->hi, (unsigned long long)h->lo);
    return json_string(hex);
}

bool fqi_record_dtype(const char *name, fq_dtype *out)
{
    for (int d = 0; d < FQ_N_DTYPE; d++) {
        if (!name || strcmp(fq_dtype_name((fq_dtype)d), name) != 0) continue;
        *out = (fq_dtype)d;
        return true;
    }
    return false;
}
