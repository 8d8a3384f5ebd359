/* fs_memory.c - /proc and cgroup files about memory. See fs_memory.h.
 *
 * What cannot be read or is not a number counts as not said: an estimate without a bound is better than no run. */
#include "base/fs_memory.h"

#include <fcntl.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define TEXT_MAX 8192

/* The beginning of a small file of the kernel, NUL-terminated; "" if there is none. */
static void read_text(const char *path, char text[TEXT_MAX])
{
    size_t n = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    while (fd >= 0 && n < TEXT_MAX - 1) {
        ssize_t k = read(fd, text + n, TEXT_MAX - 1 - n);
        if (k <= 0) break;
        n += (size_t)k;
    }
    text[n] = '\0';
    if (fd >= 0) close(fd);
}

static bool number(const char *text, uint64_t *out)
{
    while (*text == ' ' || *text == '\t') text++;
    if (*text < '0' || *text > '9') return false;   /* "max" */
    *out = strtoull(text, NULL, 10);
    return true;
}

/* "KEY:   123 kB" at the beginning of a line. */
static bool field_kib(const char *text, const char *key, uint64_t *bytes)
{
    uint64_t kib;
    size_t n = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
        if (strncmp(line, key, n) != 0 || line[n] != ':' || !number(line + n + 1, &kib) || kib > UINT64_MAX / 1024) continue;
        *bytes = kib * 1024;
        return true;
    }
    return false;
}

fqi_memory fqi_memory_now(void)
{
    fqi_memory m = { 0 };
    char text[TEXT_MAX];
    read_text("/proc/self/status", text);
    field_kib(text, "VmRSS", &m.resident);
    field_kib(text, "VmHWM", &m.peak);
    return m;
}

void fqi_memory_trim(void)
{
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

/* What one cgroup folder still allows. Page cache counts as used there and is given back under pressure: it does not count here. */
static uint64_t cgroup_free(const char *folder, const char *limit_name, const char *used_name, const char *cache_key)
{
    char path[4096], text[TEXT_MAX];
    uint64_t limit, used, cache = 0;
    size_t n = strlen(cache_key);
    snprintf(path, sizeof path, "%s/%s", folder, limit_name);
    read_text(path, text);
    if (!number(text, &limit) || limit >= UINT64_MAX / 4) return UINT64_MAX;   /* version 1 says "none" with a number near 2^63 */
    snprintf(path, sizeof path, "%s/%s", folder, used_name);
    read_text(path, text);
    if (!number(text, &used)) return UINT64_MAX;
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    read_text(path, text);
    for (const char *line = text; line; line = strchr(line, '\n'), line = line ? line + 1 : NULL)
        if (strncmp(line, cache_key, n) == 0 && line[n] == ' ') number(line + n, &cache);
    used -= cache < used ? cache : used;
    return limit > used ? limit - used : 0;
}

/* The tightest of a cgroup and its parents. path: as in /proc/self/cgroup, cut in place. */
static uint64_t cgroup_tree_free(const char *root, char *path, const char *limit_name, const char *used_name, const char *cache_key)
{
    uint64_t least = UINT64_MAX;
    for (;;) {
        char folder[3072];
        int n = snprintf(folder, sizeof folder, "%s%s", root, path);
        uint64_t f = n > 0 && (size_t)n < sizeof folder ? cgroup_free(folder, limit_name, used_name, cache_key) : UINT64_MAX;
        if (f < least) least = f;
        char *slash = strrchr(path, '/');
        if (!slash || path[0] == '\0') return least;
        *slash = '\0';
    }
}

static uint64_t cgroups_free(void)
{
    char text[TEXT_MAX], *rest = text, *line;
    uint64_t least = UINT64_MAX;
    read_text("/proc/self/cgroup", text);
    while ((line = strsep(&rest, "\n")) != NULL) {
        char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;
        uint64_t f = UINT64_MAX;
        if (!path) continue;
        *path++ = '\0';
        if (strcmp(controllers + 1, "") == 0)
            f = cgroup_tree_free("/sys/fs/cgroup", path, "memory.max", "memory.current", "inactive_file");
        else if (strcmp(controllers + 1, "memory") == 0)
            f = cgroup_tree_free("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file");
        if (f < least) least = f;
    }
    return least;
}

uint64_t fqi_memory_available(void)
{
    char text[TEXT_MAX];
    uint64_t machine = UINT64_MAX, cgroup = cgroups_free();
    read_text("/proc/meminfo", text);
    field_kib(text, "MemAvailable", &machine);
    return machine < cgroup ? machine : cgroup;
}

uint64_t fqi_address_space_left(void)
{
    char text[TEXT_MAX];
    uint64_t mapped = 0;
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return UINT64_MAX;
    read_text("/proc/self/status", text);
    if (!field_kib(text, "VmSize", &mapped)) return UINT64_MAX;
    return limit.rlim_cur > mapped ? limit.rlim_cur - mapped : 0;
}

bool fqi_memory_large_pages(void)
{
    char text[TEXT_MAX];
    read_text("/sys/kernel/mm/transparent_hugepage/enabled", text);
    return strstr(text, "[always]") != NULL;
}
