/* fs_memory.h - what the system says about memory: of this process, and what is free. Linux; elsewhere nothing is known. */
#ifndef FITQ_BASE_FS_MEMORY_H
#define FITQ_BASE_FS_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

/* Resident now, and the most that it was (VmHWM). 0 if the system does not say. */
typedef struct fqi_memory { uint64_t resident, peak; } fqi_memory;
fqi_memory fqi_memory_now(void);
/* Gives back to the system what the heap keeps of freed blocks, so that "resident" is what is used. */
void fqi_memory_trim(void);

/* Bytes that this process could take without pushing others out: the machine's MemAvailable, or what a memory cgroup still allows if that
 * is less. UINT64_MAX if the system does not say. */
uint64_t fqi_memory_available(void);
/* Bytes of address space that the process may still map (ulimit -v). UINT64_MAX without a limit. */
uint64_t fqi_address_space_left(void);
/* Does the system back whatever is large with pages of 2 MiB, unasked? Then touching a part of an array makes (nearly) all of it resident. */
bool fqi_memory_large_pages(void);

#endif
