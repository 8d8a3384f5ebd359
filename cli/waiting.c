/* waiting.c - how long threads of OpenMP spin at the end of a parallel region before they sleep.
 *
 * GCC's runtime spins for milliseconds (300,000 rounds). A step of decoding is some 200 regions with microseconds between them, so on a
 * machine that has anything else to do, a thread that waits for one that was put aside burns the very slice which that one needs:
 * one test of the decoder layer took 30 s instead of half a second on two busy cores. Some 20 microseconds cover the gaps between
 * regions and lose nothing on an idle machine.
 *
 * The runtime reads its environment before main and has no call for this. Functions of .preinit_array run earlier still. What the user
 * set is left as it is; a program that links libfitq decides for itself. */
#include <stdlib.h>

#if defined(__linux__) && defined(__ELF__)
static void wait_briefly(void)
{
    if (!getenv("OMP_WAIT_POLICY") && !getenv("GOMP_SPINCOUNT")) setenv("GOMP_SPINCOUNT", "1000", 0);
    if (!getenv("OMP_WAIT_POLICY") && !getenv("KMP_BLOCKTIME")) setenv("KMP_BLOCKTIME", "0", 0);   /* LLVM's runtime: milliseconds */
}

__attribute__((section(".preinit_array"), used)) static void (*const first_of_all)(void) = wait_briefly;
#else
typedef int waiting_is_left_to_the_runtime;   /* a file must not be empty */
#endif
