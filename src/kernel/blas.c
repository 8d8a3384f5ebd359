/* blas.c - finding and loading OpenBLAS (see blas.h). Its own threads are never used: a flavour that has a pool of its own is told so. */
#include "kernel/blas.h"

#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/fs_memory.h"
#include "base/pipeline.h"

#define LIBRARY "libopenblas.so.0"
/* Mapped, hardly touched: the library, stacks, and buffers for each processor and for each thread that multiplies (measured with 2
 * processors: 302 MiB by loading; a process with 500 MiB hangs, with 600 it works). */
#define MAPPED_BYTES (UINT64_C(384) << 20)
#define MAPPED_PER_PROCESSOR (UINT64_C(128) << 20)

static fq_status check_room(fq_err *e)
{
    uint64_t room = fqi_address_space_left(), need = MAPPED_BYTES + (uint64_t)fqi_n_processor() * MAPPED_PER_PROCESSOR;
    if (room >= need) return FQ_OK;
    return fqi_fail(e, FQ_E_NOMEM, NULL, "address-space",
                    "found %" PRIu64 " bytes of address space left under the limit (ulimit -v), expected %" PRIu64 " for " LIBRARY, room, need);
}

/* A symbol as a function: POSIX allows it, C only through a copy. */
static bool find(void *library, const char *name, void *function, size_t size)
{
    void *p = dlsym(library, name);
    memcpy(function, &p, size);
    return p != NULL;
}

fq_status fqi_blas_load(fqi_blas *out, fq_err *e)
{
    fqi_blas b;
    int (*parallel)(void);
    void (*set_threads)(int);
    char shown[FQI_NAME_MAX + 1];
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);   /* there already: it needs nothing more */
    if (!library) FQI_TRY(check_room(e));
    if (!library) library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!library) {
        const char *why = dlerror();   /* "cannot create shared object descriptor" is glibc without memory as well */
        if (why && (strstr(why, "memory") || strstr(why, "cannot create"))) return fqi_fail_nomem(e, LIBRARY);
        return fqi_fail(e, FQ_E_IO, NULL, "blas", "found %s, expected " LIBRARY " (Debian: libopenblas0-openmp)", fqi_escape(shown, why ? why : "nothing"));
    }
    bool all = find(library, "cblas_sgemm", &b.sgemm, sizeof b.sgemm) && find(library, "cblas_ssyrk", &b.ssyrk, sizeof b.ssyrk) &&
               find(library, "cblas_strsm", &b.strsm, sizeof b.strsm) && find(library, "cblas_ssymm", &b.ssymm, sizeof b.ssymm) &&
               find(library, "openblas_get_parallel", &parallel, sizeof parallel) &&
               find(library, "openblas_set_num_threads", &set_threads, sizeof set_threads);
    /* 2 = OpenMP: on the calling thread inside our regions by itself. 1 = a pool of its own, which would run beside our threads. */
    if (all && parallel() == 1) set_threads(1);
    (void)dlclose(library);   /* our count only: NODELETE keeps it */
    if (!all) return fqi_fail(e, FQ_E_IO, NULL, "blas", "found " LIBRARY " without the functions of OpenBLAS, expected OpenBLAS");
    *out = b;
    return FQ_OK;
}
