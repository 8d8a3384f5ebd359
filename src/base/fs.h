/* fs.h - the only file that talks to the file system.
 *
 * pread and pwrite, never mmap: a file that is cut while it is read must become an error, not a signal. Every call loops over
 * short counts and EINTR. Paths handed in are never built from names inside a checkpoint without fqi_path_is_inside. */
#ifndef FITQ_BASE_FS_H
#define FITQ_BASE_FS_H

#include "base/err.h"
#include "base/mem.h"

typedef struct fqi_file {
    int fd;          /* -1 = closed */
    int fd_direct;   /* O_DIRECT twin, -1 if the file system has none or it was not wanted */
    uint64_t bytes;  /* at open (reader), or high-water mark (writer) */
    int64_t mtime_ns;
    const char *path; /* borrowed: outlives the file */
} fqi_file;
#define FQI_FILE_NONE ((fqi_file){ .fd = -1, .fd_direct = -1 })

/* Opens a regular file (FIFO, device, directory, link to nothing: FQ_E_INPUT, "file-kind"; never blocks). io: FQ_IO_AUTO opens the direct twin for files of
 * 64 MiB or more. */
fq_status fqi_file_open(fqi_file *f, const char *path, fq_io io, fq_err *e);
void fqi_file_close(fqi_file *f);

/* All n bytes at off, or an error: past the size at open is FQ_E_INPUT; short of it is FQ_E_IO "changed while reading".
 * Buffered; for headers and small things. Thread-safe. */
fq_status fqi_file_read(const fqi_file *f, void *buf, size_t n, uint64_t off, fq_err *e);

/* Tells the system that a range will be read soon, buffered and in pieces: without, strips of a matrix look like random places and are read from the
 * disk one by one. Never waits for it, cannot fail. */
void fqi_file_expect(const fqi_file *f, uint64_t off, uint64_t n);

/* Alignment that direct I/O wants for position, length and address. */
#define FQI_IO_ALIGN 4096u
/* Like fqi_file_read, for bulk data. When the file has a direct twin the aligned hull of the range is read into buf, so
 * buf is aligned to FQI_IO_ALIGN and holds n + 2 * FQI_IO_ALIGN bytes; *data points to the wanted bytes inside it.
 * Thread-safe. */
fq_status fqi_file_read_bulk(const fqi_file *f, void *buf, size_t n, uint64_t off, unsigned char **data, fq_err *e);

/* Whole file into memory (NUL-terminated beyond *n), refused with rule "file-size" above max bytes. Caller frees. */
fq_status fqi_file_slurp(const char *path, uint64_t max, char **out, size_t *n, fq_err *e);

/* ---- writing ---- */

/* A file written front to back. Bytes are gathered into aligned blocks and written past the page cache where possible
 * (see fq_io); position `off` is tracked. Not thread-safe. */
typedef struct fqi_writer {
    int fd, fd_direct;
    uint64_t off;            /* bytes accepted so far */
    uint64_t flushed;        /* position of block[0]: what stands before it was handed to the kernel or to the flusher */
    unsigned char *block;    /* FQI_WRITE_BLOCK bytes, aligned */
    size_t fill;
    struct fqi_flusher *flusher;  /* writes full blocks in a thread of its own; NULL for small files */
    char *path;              /* owned */
} fqi_writer;
#define FQI_WRITE_BLOCK (4u << 20)

/* Creates (O_EXCL|O_NOFOLLOW, mode 0666 less umask) or, with resume_at > 0, reopens and cuts to resume_at bytes.
 * total: space reserved up front (a full disk is found now, as FQ_E_IO naming both sizes); 0 = unknown. */
fq_status fqi_writer_open(fqi_writer *w, const char *path, uint64_t total, uint64_t resume_at, fq_io io, fq_err *e);
fq_status fqi_writer_put(fqi_writer *w, const void *bytes, size_t n, fq_err *e);
/* Everything accepted is on the disk when this returns (a tail block that is not full is written too). An fsync that failed
 * is final: it is not tried again, the page cache is in an unknown state. */
fq_status fqi_writer_sync(fqi_writer *w, fq_err *e);
/* Sync, cut to off, check close. w is closed even on failure. */
fq_status fqi_writer_close(fqi_writer *w, fq_err *e);
void fqi_writer_abandon(fqi_writer *w);  /* after a failure; w may be zeroed or closed */

/* ---- folders ---- */

bool fqi_path_exists(const char *path);            /* lstat */
bool fqi_path_is_dir(const char *path);            /* stat */
bool fqi_path_is_link(const char *path);           /* lstat */
char *fqi_path_join(const char *dir, const char *name);   /* caller frees; NULL when out of memory */
/* A plain file name: not empty, no '/', not "." or "..", no control byte. */
bool fqi_name_is_plain(const char *name);
/* Does path resolve (symlinks included) to something inside folder dir? No, where that cannot be told, but for want of memory: FQ_E_NOMEM. */
fq_status fqi_path_is_inside(const char *dir, const char *path, bool *inside, fq_err *e);
/* Same file or folder after symlinks, or a inside b, or b inside a (either may not exist yet). FQ_E_NOMEM or FQ_E_IO when it cannot
 * be told. */
fq_status fqi_path_overlaps(const char *a, const char *b, bool *overlap, fq_err *e);
/* Could something be made at path, and beside it under names that are n_extra bytes longer? Rules "parent-missing",
 * "name-too-long". What is there already does not matter. */
fq_status fqi_path_check_place(const char *path, size_t n_extra, fq_err *e);

typedef struct fqi_dirent { char *name; bool is_dir, is_file, is_link; uint64_t bytes; } fqi_dirent;
/* Entries without "." and "..", sorted by name (is_dir/is_file say what a link points to). Memory from the arena. */
fq_status fqi_dir_list(const char *path, fqi_arena *a, fqi_dirent **out, size_t *n, fq_err *e);

fq_status fqi_mkdir(const char *path, fq_err *e);
/* Regular files, byte for byte, fsync'd; to: O_EXCL, with the permission bits of `from` whatever the umask says. */
fq_status fqi_copy_file(const char *from, const char *to, fq_err *e);
fq_status fqi_write_file(const char *path, const void *bytes, size_t n, fq_err *e);   /* temp name + fsync + rename */
fq_status fqi_sync_dir(const char *path, fq_err *e);
fq_status fqi_remove_tree(const char *path, fq_err *e);   /* a missing path is fine; does not follow links */
/* Puts folder `staging` in the place of `target`: plain rename, or exchange + removal of the old one when target exists
 * and replace is set. One rename is the commit; the parent is fsync'd. */
fq_status fqi_commit_dir(const char *staging, const char *target, bool replace, fq_err *e);

/* Lock file with our pid (O_EXCL; a lock whose process is gone is taken over). FQ_E_IO naming the pid when it is held. */
fq_status fqi_lock(const char *path, fq_err *e);
void fqi_unlock(const char *path);

/* Bytes that the file system of an existing path has left for us; UINT64_MAX when it does not say. */
uint64_t fqi_free_bytes(const char *path);

double fqi_now_seconds(void);  /* monotonic */

#endif
