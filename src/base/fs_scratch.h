/* fs_scratch.h - a file without a name for what does not fit the memory budget: gone when it is closed, or the process ends.
 *
 * In the folder that is given, or TMPDIR, or /tmp. Direct I/O is not used: the kernel may keep what it has memory for. */
#ifndef FITQ_BASE_FS_SCRATCH_H
#define FITQ_BASE_FS_SCRATCH_H

#include "base/err.h"

typedef struct fqi_scratch { int fd; char *dir; } fqi_scratch;
#define FQI_SCRATCH_NONE ((fqi_scratch){ .fd = -1 })

/* bytes: reserved now, so that a full disk is found before the work and not after it (FQ_E_IO, "space", with both sizes). */
fq_status fqi_scratch_open(fqi_scratch *s, const char *dir, uint64_t bytes, fq_err *e);
fq_status fqi_scratch_read(const fqi_scratch *s, void *buf, size_t n, uint64_t off, fq_err *e);
fq_status fqi_scratch_write(const fqi_scratch *s, const void *buf, size_t n, uint64_t off, fq_err *e);
void fqi_scratch_close(fqi_scratch *s);

#endif
