/* record.h - JSON that fitq writes beside weights to read it again: a checksum over its values, numbers in hex, names of dtypes.
 *
 * The checksum is over the values, not the white space, so that a reformatted file is still the record. It is no signature: it finds edits that
 * were not meant, and files that are damaged. */
#ifndef FITQ_JOB_RECORD_H
#define FITQ_JOB_RECORD_H

#include "format/json_tree.h"

typedef struct fqi_hash128 { uint64_t hi, lo; } fqi_hash128;

/* Sets a member and takes `value`; a NULL value or false means out of memory. */
bool fqi_record_put(json_t *o, const char *key, json_t *value);
/* Adds the checksum as "record_xxh3", last. name: of the file, for messages. */
fq_status fqi_record_seal(json_t *o, const char *name, fq_err *e);
/* *sound: there is one, and it is that of the other values. It is removed from o. */
fq_status fqi_record_check(json_t *o, bool *sound, fq_err *e);
/* 32 or 16 lower-case digits; hi is 0 for 16. False: something else. s may be NULL. */
bool fqi_record_hex(const char *s, size_t n_digit, uint64_t *hi, uint64_t *lo);
json_t *fqi_record_hash(const fqi_hash128 *h);   /* 32 digits; NULL: out of memory */
/* "BF16". False: none of fq_dtype_name. name may be NULL. */
bool fqi_record_dtype(const char *name, fq_dtype *out);

#endif
