/* blas.h - the BLAS, loaded when a product first wants it.
 *
 * Not linked: OpenBLAS maps 32 MiB per processor before main, and where the address space is limited (ulimit -v) it tries for ever. A
 * command that multiplies nothing must neither pay for that nor hang by it. Loading asks first whether there is room. */
#ifndef FITQ_KERNEL_BLAS_H
#define FITQ_KERNEL_BLAS_H

#include <cblas.h>

#include "base/err.h"

/* Every call stays on the calling thread if that thread has said omp_set_num_threads(1) inside a parallel region. */
typedef struct fqi_blas {
    __typeof__(&cblas_sgemm) sgemm;
    __typeof__(&cblas_ssyrk) ssyrk;
    __typeof__(&cblas_ssymm) ssymm;
    __typeof__(&cblas_strsm) strsm;
} fqi_blas;

/* FQ_E_NOMEM, "address-space", when a limit leaves too little; FQ_E_IO, "blas", when the library is not there. The library stays loaded
 * until the process ends. Thread-safe. */
fq_status fqi_blas_load(fqi_blas *out, fq_err *e);

#endif
