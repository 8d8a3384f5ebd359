/* instruction_sets.h - the versions of the kernels, one file each; dispatch.c chooses. Private to src/kernel. */
#ifndef FITQ_KERNEL_INSTRUCTION_SETS_H
#define FITQ_KERNEL_INSTRUCTION_SETS_H

#include "kernel/kernel.h"

extern const fqi_kernels fqi_kernels_c;
#ifdef __x86_64__
extern const fqi_kernels fqi_kernels_avx2;      /* AVX2, FMA, F16C */
extern const fqi_kernels fqi_kernels_avx512;    /* AVX-512 F, BW, VL, DQ */
#endif

#endif
