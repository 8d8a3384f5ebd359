/* fs_flush.c - the thread that writes blocks. See fs_flush.h. */
#include "base/fs_flush.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#define CHUNK ((size_t)1 << 30)

int fqi_write_all(int fd, const void *bytes, size_t n, uint64_t off)
{
    const unsigned char *p = bytes;
    while (n != 0) {
        ssize_t k = pwrite(fd, p, n < CHUNK ? n : CHUNK, (off_t)off);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return errno;
        if (k == 0) return EIO; /* POSIX allows it for a regular file; going on would be a busy loop */
        p += k;
        off += (uint64_t)k;
        n -= (size_t)k;
    }
    return 0;
}

int fqi_write_block(int fd, int *fd_direct, const void *bytes, size_t n, uint64_t off)
{
    int err = *fd_direct < 0 ? EINVAL : fqi_write_all(*fd_direct, bytes, n, off);
    if (err != EINVAL) return err;
    /* The file system takes O_DIRECT at open and not at write, or a short count left an unaligned rest: from here on through the
     * page cache. The range is written again as a whole. */
    if (*fd_direct >= 0) close(*fd_direct);
    *fd_direct = -1;
    return fqi_write_all(fd, bytes, n, off);
}

struct fqi_flusher {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int fd;
    unsigned char *spare;    /* the block that nobody fills */
    int *fd_direct;          /* of the job */
    size_t n;
    uint64_t off;
    bool busy, quit;
    int err;
};

static void *run(void *user)
{
    fqi_flusher *f = user;
    pthread_mutex_lock(&f->lock);
    for (;;) {
        while (!f->busy && !f->quit) pthread_cond_wait(&f->changed, &f->lock);
        if (!f->busy) break;
        pthread_mutex_unlock(&f->lock);
        int err = fqi_write_block(f->fd, f->fd_direct, f->spare, f->n, f->off);
        pthread_mutex_lock(&f->lock);
        f->err = err;
        f->busy = false;
        pthread_cond_broadcast(&f->changed);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

fqi_flusher *fqi_flusher_start(int fd, size_t block_bytes, size_t align)
{
    fqi_flusher *f = calloc(1, sizeof *f);
    void *spare = NULL;
    if (!f) return NULL;
    f->fd = fd;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    if (posix_memalign(&spare, align, block_bytes) == 0) {
        f->spare = spare;
        if (pthread_create(&f->thread, NULL, run, f) == 0) return f;
    }
    pthread_cond_destroy(&f->changed);
    pthread_mutex_destroy(&f->lock);
    free(f->spare);
    free(f);
    return NULL;
}

int fqi_flusher_wait(fqi_flusher *f)
{
    pthread_mutex_lock(&f->lock);
    while (f->busy) pthread_cond_wait(&f->changed, &f->lock);
    int err = f->err;
    pthread_mutex_unlock(&f->lock);
    return err;
}

int fqi_flusher_hand(fqi_flusher *f, int *fd_direct, unsigned char **block, size_t n, uint64_t off)
{
    int err = fqi_flusher_wait(f);
    if (err != 0) return err;
    pthread_mutex_lock(&f->lock);
    unsigned char *full = *block;
    *block = f->spare;
    f->spare = full;
    f->fd_direct = fd_direct;
    f->n = n;
    f->off = off;
    f->busy = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    return 0;
}

void fqi_flusher_stop(fqi_flusher *f)
{
    if (!f) return;
    pthread_mutex_lock(&f->lock);
    f->quit = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    pthread_join(f->thread, NULL);
    pthread_cond_destroy(&f->changed);
    pthread_mutex_destroy(&f->lock);
    free(f->spare);
    free(f);
}
