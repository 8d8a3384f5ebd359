/* torch_zip.h - the directory of a zip of stored entries, checked against the local headers; no data is read. */
#ifndef FITQ_FORMAT_TORCH_ZIP_H
#define FITQ_FORMAT_TORCH_ZIP_H

#include "base/err.h"
#include "format/torch.h"

#define FQI_ZIP_MAX_DIR (64u << 20)   /* bytes of central directory: 100 times what a 10,000-tensor shard has */

typedef struct fqi_zip_entry {
    const char *name;      /* not NUL-terminated; points into the directory */
    uint16_t n_name;
    uint16_t flags;
    uint32_t crc;          /* 0 = not computed by the writer, unless bytes is 0 */
    uint64_t bytes;        /* of data; compressed and plain size are the same */
    uint64_t off;          /* of data in the file, from the local header */
    uint64_t local_off;    /* of the local header */
    uint64_t dir_off;      /* of the central header in the file, for messages */
} fqi_zip_entry;

typedef struct fqi_zip {
    fqi_zip_entry *entry;  /* name order (bytes), no duplicates */
    size_t n_entry;
    size_t first;          /* the entry that comes first in the directory: its folder is the archive's top folder */
    uint64_t dir_off;      /* of the central directory: every entry ends before it */
    unsigned char *dir;    /* private */
} fqi_zip;

/* On failure nothing is left allocated. */
fq_status fqi_zip_open(const fqi_bytes *b, fqi_zip *out, fq_err *e);
void fqi_zip_free(fqi_zip *z);

/* NULL if there is none. Binary search. */
const fqi_zip_entry *fqi_zip_find(const fqi_zip *z, const char *name, size_t n_name);
/* Whole entry into buf, which holds entry->bytes; checked against its CRC unless that is 0. */
fq_status fqi_zip_read(const fqi_bytes *b, const fqi_zip_entry *entry, void *buf, fq_err *e);
/* Reads the entry in blocks and checks its CRC unless that is 0. */
fq_status fqi_zip_check_crc(const fqi_bytes *b, const fqi_zip_entry *entry, fq_err *e);

#endif
