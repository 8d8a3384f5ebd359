/* dispatch.c - which version of the kernels this processor runs, or which one FITQ_KERNEL asks for. */
#include <stdlib.h>
#include <string.h>

#include "kernel/instruction_sets.h"

#ifdef __x86_64__
#include <cpuid.h>
#endif

static bool always(void) { return true; }

#ifdef __x86_64__
static bool has_avx2(void)
{
    unsigned a = 0, b = 0, c = 0, d = 0;
    __builtin_cpu_init();
    /* clang's __builtin_cpu_supports does not know F16C. */
    bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
    return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq");
}
#else
static bool never(void) { return false; }
#endif

/* Narrowest first. */
static const struct { const char *name; const fqi_kernels *kernels; bool (*runs)(void); } version[FQI_N_KERNELS] = {
    { "c", &fqi_kernels_c, always },
#ifdef __x86_64__
    { "avx2", &fqi_kernels_avx2, has_avx2 },
    { "avx512", &fqi_kernels_avx512, has_avx512 },
#else
    { "avx2", NULL, never },
    { "avx512", NULL, never },
#endif
};

const fqi_kernels *fqi_kernels_at(size_t i)
{
    return i < FQI_N_KERNELS && version[i].runs() ? version[i].kernels : NULL;
}

fq_status fqi_kernels_choose(const fqi_kernels **out, fq_err *e)
{
    char shown[FQI_NAME_MAX + 1];
    const char *asked = getenv("FITQ_KERNEL");
    if (!asked || !asked[0]) {
        for (size_t i = FQI_N_KERNELS; i-- > 0;)
            if (fqi_kernels_at(i)) {
                *out = fqi_kernels_at(i);
                return FQ_OK;
            }
    }
    for (size_t i = 0; asked && i < FQI_N_KERNELS; i++) {
        if (strcmp(asked, version[i].name) != 0) continue;
        if (!fqi_kernels_at(i))
            return fqi_fail(e, FQ_E_DEVICE, NULL, "kernel", "FITQ_KERNEL: found \"%s\", expected instructions that this processor has", asked);
        *out = fqi_kernels_at(i);
        return FQ_OK;
    }
    return fqi_fail(e, FQ_E_USAGE, NULL, "kernel", "FITQ_KERNEL: found \"%s\", expected c, avx2 or avx512", fqi_escape(shown, asked ? asked : ""));
}
