/* fs_flush.h - writing blocks behind the back of an fqi_writer, so that hashing and copying go on while the disk works.
 *
 * One block is on its way at a time; handing over the next one waits for it. Private to fs_write.c. */
#ifndef FITQ_BASE_FS_FLUSH_H
#define FITQ_BASE_FS_FLUSH_H

#include <stddef.h>
#include <stdint.h>

typedef struct fqi_flusher fqi_flusher;

/* All n bytes at off. Returns errno. */
int fqi_write_all(int fd, const void *bytes, size_t n, uint64_t off);
/* The same through *fd_direct where it is open, n and the address being aligned. A file system that refuses costs the direct
 * descriptor (closed, -1) and the range is written again through fd. */
int fqi_write_block(int fd, int *fd_direct, const void *bytes, size_t n, uint64_t off);

/* NULL when there is no thread or no memory for one: the caller then writes by itself. block_bytes: of the spare block. */
fqi_flusher *fqi_flusher_start(int fd, size_t block_bytes, size_t align);
/* Waits for the block before, then starts to write this one and gives another to fill: *block is exchanged. Returns the errno
 * of the block before; nothing is started then. *fd_direct may only be looked at when nothing is on its way. */
int fqi_flusher_hand(fqi_flusher *f, int *fd_direct, unsigned char **block, size_t n, uint64_t off);
/* Nothing is on its way when this returns. Errno of the last block; sticks. */
int fqi_flusher_wait(fqi_flusher *f);
void fqi_flusher_stop(fqi_flusher *f);   /* waits; NULL is fine */

#endif
