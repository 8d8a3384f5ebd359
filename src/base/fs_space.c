/* fs_space.c - how much room a file system has. */
#include <sys/statvfs.h>

#include "base/checked.h"
#include "base/fs.h"

uint64_t fqi_free_bytes(const char *path)
{
    struct statvfs v;
    uint64_t bytes;
    if (statvfs(path, &v) != 0 || !fqi_mul_u64(v.f_bavail, v.f_frsize, &bytes)) return UINT64_MAX;
    return bytes;
}
