/* shim.c - an LD_PRELOAD library that breaks one call, so that every error path of a program can be walked.
 *
 * Calls are sorted into classes and counted per class from the moment main() starts. The Nth call of the chosen classes
 * misbehaves: it fails with an errno, does only half of what was asked, or the process dies in it. The same N gives the
 * same fault again, as far as the program's threads allow. Environment:
 *
 *     FAULT_COUNT=FILE    counters are kept in FILE (a shared mapping, so that they survive SIGKILL), see `counters`
 *     FAULT_CLASS=a,b     classes that can misbehave; names in `class_name`. "modify" = whatever changes the disk
 *     FAULT_NTH=N         from 1; 0 = count only
 *     FAULT_STICKY=1      from the Nth on, all of them
 *     FAULT_EVERY=K       every Kth as well (for faults that a program must live with, such as EINTR)
 *     FAULT_MODE=fail     with errno FAULT_ERRNO (a number), the default
 *               =short    reads and writes do half, at least one byte
 *               =kill     SIGKILL before the call
 *               =power    SIGKILL, and of what was written since the last fsync every sector is there, zeroed or trashed; one
 *                         that replaced older bytes holds the new or the old ones
 *               =signal   raise FAULT_ERRNO as a signal number, then go on
 *               =command  run FAULT_COMMAND in /bin/sh without this library, then go on
 *     FAULT_SEED=N        for the damage of `power`
 *     FAULT_OWN=NAME      only calls of programs and libraries whose file names begin so, or with "lib" and this (an MPI loads dozens
 *                         of others, which nobody could list)
 *     FAULT_AUDIT=FILE    when main() has returned or exit() was called: one line per file or folder whose last change
 *                         was never fsynced, i.e. what a success message promised and a power cut would take back
 *
 * Not covered: calls that libc makes inside itself (stdio, opendir) and io_uring, and calls from the libraries of
 * foreign[]: an OpenMP runtime, OpenBLAS and the Fortran library end the process, or crash, where they get no memory, and
 * nobody outside them can change that. They are neither counted nor broken. Output on descriptors 0 to 2 is never
 * touched. Works in front of a program built with gcc's AddressSanitizer (ASAN_OPTIONS=verify_asan_link_order=0): all
 * calls go on to the next definition, which is then the sanitizer's. */
#define _GNU_SOURCE 1
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
/* No __tls_get_addr: AddressSanitizer replaces it, and its replacement does not work yet when its own start allocates. */
#define THREAD_LOCAL __thread __attribute__((tls_model("initial-exec")))

/* ---- state -------------------------------------------------------------------------------------------------- */

enum fault_class { C_ALLOC, C_THREAD, C_OPEN, C_READ, C_WRITE, C_SYNC, C_RENAME, C_CLOSE, C_CLOSE_WRITTEN, C_TRUNC, C_MKDIR,
                   C_UNLINK, C_STAT, C_LOCK, C_MODIFY, N_CLASS };
static const char *const class_name[N_CLASS] = { "alloc", "thread", "open", "read", "write", "sync", "rename", "close",
    "close-written", "trunc", "mkdir", "unlink", "stat", "lock", "modify" };

/* FAULT_COUNT: N_CLASS counters of 8 bytes in the order of class_name, then calls that were chosen, then faults done. */
typedef struct counters { _Atomic uint64_t n[N_CLASS], chosen, hits; } counters;

enum fault_mode { M_FAIL, M_SHORT, M_KILL, M_POWER, M_SIGNAL, M_COMMAND };

static struct {
    atomic_bool active;
    bool chosen[N_CLASS], sticky, track;
    uint64_t nth, every, seed;
    enum fault_mode mode;
    int err;
    const char *command, *audit, *own[3];
    counters *count;
} S;

static counters local_counters;

/* The next definition of a function. dlsym may allocate, which comes back here: see pool_alloc. */
static void *next(const char *name)
{
    void *p = dlsym(RTLD_NEXT, name);
    if (!p) {
        static const char msg[] = "shim: no next definition\n";
        (void)!syscall(SYS_write, 2, msg, sizeof msg - 1);
        _exit(99);
    }
    return p;
}
/* Declares `real`, resolved once. */
#define REAL(name, type)                                        \
    static _Atomic(void *) real_##name;                         \
    void *real_p_ = atomic_load(&real_##name);                  \
    if (!real_p_) {                                             \
        real_p_ = next(#name);                                  \
        atomic_store(&real_##name, real_p_);                    \
    }                                                           \
    __typeof__(type) real = (__typeof__(type))real_p_

/* ---- what was written and not yet fsynced -------------------------------------------------------------------- */

typedef struct range { uint64_t off, len, n_old; char *old; } range;   /* old: what the first n_old bytes were before */
typedef struct node {           /* a file or a folder, by inode */
    dev_t dev;
    ino_t ino;
    int fd;                     /* own descriptor; stays valid across renames */
    bool is_dir, created, synced_once, dirty;
    range *r;
    size_t n, cap;
    char path[512];
} node;
static node nodes[512];
static size_t n_node;
static pthread_mutex_t node_lock = PTHREAD_MUTEX_INITIALIZER;
static THREAD_LOCAL bool inside;    /* our own calls are neither counted nor broken */

static node *node_of(int fd)
{
    struct stat st;
    if (fstat(fd, &st) != 0 || (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))) return NULL;
    for (size_t i = 0; i < n_node; i++)
        if (nodes[i].dev == st.st_dev && nodes[i].ino == st.st_ino) {
            struct stat own;
            if (nodes[i].fd >= 0 && fstat(nodes[i].fd, &own) == 0 && own.st_nlink > 0) return &nodes[i];
            if (nodes[i].fd >= 0) syscall(SYS_close, nodes[i].fd);
            nodes[i].ino = 0;   /* the inode number may be reused by another file */
            nodes[i].fd = -1;
            nodes[i].dirty = false;
        }
    if (n_node == sizeof nodes / sizeof *nodes) return NULL;
    node *d = &nodes[n_node++];
    *d = (node){ .dev = st.st_dev, .ino = st.st_ino, .is_dir = S_ISDIR(st.st_mode) };
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t k = readlink(link, d->path, sizeof d->path - 1);
    d->path[k > 0 ? k : 0] = 0;
    d->fd = (int)syscall(SYS_openat, AT_FDCWD, link, (d->is_dir ? O_RDONLY : O_WRONLY) | O_CLOEXEC, 0);
    return d;
}

/* Before a write: what stands there already. NULL if nothing does. */
static char *save_old(int fd, uint64_t off, uint64_t len, uint64_t *n_old)
{
    struct stat st;
    *n_old = 0;
    if (S.mode != M_POWER || inside) return NULL;
    inside = true;
    char *old = NULL, link[64];
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size > off) {
        uint64_t n = (uint64_t)st.st_size - off < len ? (uint64_t)st.st_size - off : len;
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        int own = (int)syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC, 0);   /* fd may be write-only or direct */
        if (own >= 0 && (old = malloc(n)) != NULL) {
            long k = syscall(SYS_pread64, own, old, n, off);
            *n_old = k > 0 ? (uint64_t)k : 0;
        }
        if (own >= 0) syscall(SYS_close, own);
    }
    inside = false;
    return old;
}

/* What was written is on the disk, or gone: what stood there before is not wanted any more. A run that ends before the call at which power was to be
 * cut would report it as a leak of the program. */
static void forget(node *d)
{
    for (size_t i = 0; i < d->n; i++) free(d->r[i].old);
    d->n = 0;
}

/* Takes `old` over. */
static void note_write(int fd, uint64_t off, uint64_t len, char *old, uint64_t n_old)
{
    if (!S.track || len == 0) {
        free(old);
        return;
    }
    inside = true;
    pthread_mutex_lock(&node_lock);
    node *d = node_of(fd);
    if (d) {
        d->dirty = true;
        if (d->n == d->cap) {
            size_t cap = d->cap ? 2 * d->cap : 64;
            range *r = realloc(d->r, cap * sizeof *r);
            if (r) {
                d->r = r;
                d->cap = cap;
            }
        }
        if (d->n < d->cap) {
            d->r[d->n++] = (range){ off, len, n_old, old };
            old = NULL;
        }
    }
    free(old);   /* of a file that is not followed */
    pthread_mutex_unlock(&node_lock);
    inside = false;
}

static void note_sync(int fd)
{
    if (!S.track) return;
    inside = true;
    pthread_mutex_lock(&node_lock);
    node *d = node_of(fd);
    if (d) {
        forget(d);
        d->dirty = false;
        d->synced_once = true;
    }
    pthread_mutex_unlock(&node_lock);
    inside = false;
}

/* A name in the folder of `path` was made or moved. */
static void note_entry(int dirfd, const char *path)
{
    if (!S.track) return;
    inside = true;
    char dir[512];
    snprintf(dir, sizeof dir, "%s", path);
    char *slash = strrchr(dir, '/');
    if (slash == dir) dir[1] = 0;
    else if (slash) *slash = 0;
    else strcpy(dir, ".");
    int fd = (int)syscall(SYS_openat, dirfd, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    pthread_mutex_lock(&node_lock);
    node *d = fd >= 0 ? node_of(fd) : NULL;
    if (d) d->dirty = true;
    pthread_mutex_unlock(&node_lock);
    if (fd >= 0) syscall(SYS_close, fd);
    inside = false;
}

static void note_created(int fd)
{
    if (!S.track) return;
    inside = true;
    pthread_mutex_lock(&node_lock);
    node *d = node_of(fd);
    if (d) d->created = true;
    pthread_mutex_unlock(&node_lock);
    inside = false;
}

static uint64_t mix(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* What a disk may do to unsynced data when the power goes: any subset of sectors arrives, and a file that was never
 * synced may be gone. */
static void lose_unsynced(void)
{
    uint64_t rng = mix(S.seed ^ S.nth);
    for (size_t i = 0; i < n_node; i++) {
        node *d = &nodes[i];
        if (d->is_dir || d->fd < 0 || !d->dirty) continue;
        rng = mix(rng);
        if (d->created && !d->synced_once && rng % 4 == 0) {
            syscall(SYS_unlinkat, AT_FDCWD, d->path, 0);
            continue;
        }
        for (size_t k = d->n; k-- > 0;)   /* newest first: two writes to one place leave what was there before both */
            for (uint64_t off = d->r[k].off, end = off + d->r[k].len; off < end;) {
                uint64_t step = 4096 - off % 4096;
                if (step > end - off) step = end - off;
                char sector[4096];
                uint64_t at = off - d->r[k].off, n_old = at < d->r[k].n_old ? d->r[k].n_old - at : 0;
                rng = mix(rng);
                memset(sector, rng % 3 == 1 ? 0 : 0xA5, sizeof sector);
                if (n_old > 0) memcpy(sector, d->r[k].old + at, n_old < step ? n_old : step);
                if (rng % 3 != 0) (void)!syscall(SYS_pwrite64, d->fd, sector, step, off);
                off += step;
            }
    }
}

static void write_audit(void)
{
    if (!S.audit || getpid() <= 0) return;
    inside = true;
    FILE *f = fopen(S.audit, "w");
    for (size_t i = 0; f && i < n_node; i++) {
        struct stat st;
        if (nodes[i].dirty && nodes[i].fd >= 0 && fstat(nodes[i].fd, &st) == 0 && st.st_nlink > 0)
            fprintf(f, "%s never fsynced after its last change: %s\n", nodes[i].is_dir ? "folder" : "file", nodes[i].path);
    }
    if (f) fclose(f);
    inside = false;
}

/* ---- the decision -------------------------------------------------------------------------------------------- */

static void run_command(void)
{
    pid_t p = (pid_t)syscall(SYS_fork);
    if (p == 0) {
        char *argv[] = { "sh", "-c", (char *)(uintptr_t)S.command, NULL };
        char *env[] = { "PATH=/usr/bin:/bin", NULL };
        syscall(SYS_execve, "/bin/sh", argv, env);
        _exit(127);
    }
    int status;
    if (p > 0) syscall(SYS_wait4, p, &status, 0, NULL);
}

enum verdict { GO_ON, FAIL, SHORT };

static const char *const foreign[] = { "libgomp", "libomp", "libopenblas", "libgfortran", "libquadmath", NULL };
static const char *const between[] = { "libc.", "libm.", "libpthread.", "ld-linux", NULL };   /* they call for somebody */

/* Does code at this address belong to a library whose file name begins like one of these? */
static bool belongs_to(const void *at, const char *const *begin)
{
    Dl_info info;
    if (!dladdr(at, &info) || !info.dli_fname) return false;
    const char *slash = strrchr(info.dli_fname, '/'), *name = slash ? slash + 1 : info.dli_fname;
    for (; *begin; begin++)
        if (strncmp(name, *begin, strlen(*begin)) == 0) return true;
    return false;
}

static bool foreign_code(const void *at) { return S.own[0] ? !belongs_to(at, S.own) : belongs_to(at, foreign); }

/* Was this call made for one of foreign[], by itself or through libc? */
static bool is_foreign(const void *caller)
{
    int err = errno;
    bool yes = foreign_code(caller);
    if (belongs_to(caller, between)) {
        void *frame[32];
        inside = true;
        int n = backtrace(frame, 32), i = 0;
        inside = false;
        while (i < n && frame[i] != caller) i++;
        while (i < n && belongs_to(frame[i], between)) i++;
        yes = i < n ? foreign_code(frame[i]) : S.own[0] != NULL;
    }
    errno = err;
    return yes;
}

/* One call of class c happens now. also_modifies: it belongs to "modify" too. */
static enum verdict fault_from(const void *caller, enum fault_class c, bool also_modifies)
{
    if (!atomic_load(&S.active) || inside || is_foreign(caller)) return GO_ON;
    atomic_fetch_add(&S.count->n[c], 1);
    if (also_modifies) atomic_fetch_add(&S.count->n[C_MODIFY], 1);
    if (!(S.chosen[c] || (also_modifies && S.chosen[C_MODIFY]))) return GO_ON;
    uint64_t i = atomic_fetch_add(&S.count->chosen, 1) + 1;
    bool hit = S.nth && (i == S.nth || (S.sticky && i > S.nth));
    if (S.every && i % S.every == 0) hit = true;
    if (!hit) return GO_ON;
    atomic_fetch_add(&S.count->hits, 1);
    switch (S.mode) {
    case M_FAIL: errno = S.err; return FAIL;
    case M_SHORT: return SHORT;
    case M_POWER: pthread_mutex_lock(&node_lock); inside = true; lose_unsynced(); /* fall through */
    case M_KILL: kill(getpid(), SIGKILL); for (;;) pause();
    case M_SIGNAL: kill(getpid(), S.err); return GO_ON;
    case M_COMMAND: run_command(); return GO_ON;
    }
    return GO_ON;
}

/* For the exported functions, and for what is always inlined into them: the return address is then that of the caller. */
#define fault(c, also_modifies) fault_from(__builtin_return_address(0), c, also_modifies)
#define INTO_CALLER static inline __attribute__((always_inline))

static void choose_classes(const char *list)
{
    for (size_t c = 0; c < N_CLASS; c++) {
        size_t n = strlen(class_name[c]);
        for (const char *p = list; p && (p = strstr(p, class_name[c])) != NULL; p += n)
            if ((p == list || p[-1] == ',') && (p[n] == 0 || p[n] == ',')) S.chosen[c] = true;
    }
}

static uint64_t env_number(const char *name)
{
    const char *s = getenv(name);
    return s ? strtoull(s, NULL, 10) : 0;
}

static void configure(void)
{
    static const char *const mode[] = { "fail", "short", "kill", "power", "signal", "command" };
    const char *m = getenv("FAULT_MODE");
    for (size_t i = 0; m && i < sizeof mode / sizeof *mode; i++)
        if (strcmp(m, mode[i]) == 0) S.mode = (enum fault_mode)i;
    S.nth = env_number("FAULT_NTH");
    S.every = env_number("FAULT_EVERY");
    S.seed = env_number("FAULT_SEED");
    S.sticky = env_number("FAULT_STICKY") != 0;
    S.err = (int)env_number("FAULT_ERRNO");
    S.command = getenv("FAULT_COMMAND");
    S.audit = getenv("FAULT_AUDIT");
    static char with_lib[64];
    const char *own = getenv("FAULT_OWN");
    if (own) {
        snprintf(with_lib, sizeof with_lib, "lib%s", own);
        S.own[0] = own;
        S.own[1] = with_lib;
    }
    S.track = S.audit || S.mode == M_POWER;
    choose_classes(getenv("FAULT_CLASS"));
    S.count = &local_counters;
    const char *file = getenv("FAULT_COUNT");
    int fd = file ? (int)syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
    if (fd >= 0 && syscall(SYS_ftruncate, fd, sizeof(counters)) == 0) {
        void *p = mmap(NULL, sizeof(counters), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (p != MAP_FAILED) S.count = p;
    }
    if (fd >= 0) syscall(SYS_close, fd);
    unsetenv("LD_PRELOAD");   /* children are not part of the experiment */
}

/* Counting starts with main(), so that the loader and constructors of libraries do not shift N. */
static int (*real_main)(int, char **, char **);
static int wrapped_main(int argc, char **argv, char **envp)
{
    void *frame[1];
    configure();
    (void)backtrace(frame, 1);   /* loads the unwinder, which must not happen inside a fault */
    atexit(write_audit);
    atomic_store(&S.active, true);
    return real_main(argc, argv, envp);
}

EXPORT int __libc_start_main(int (*main_fn)(int, char **, char **), int argc, char **argv, void (*init)(void),
                             void (*fini)(void), void (*rtld_fini)(void), void *stack_end);
EXPORT int __libc_start_main(int (*main_fn)(int, char **, char **), int argc, char **argv, void (*init)(void),
                             void (*fini)(void), void (*rtld_fini)(void), void *stack_end)
{
    REAL(__libc_start_main, int (*)(int (*)(int, char **, char **), int, char **, void (*)(void), void (*)(void),
                                    void (*)(void), void *));
    real_main = main_fn;
    return real(wrapped_main, argc, argv, init, fini, rtld_fini, stack_end);
}

/* ---- memory -------------------------------------------------------------------------------------------------- */

/* dlsym may call calloc before we know the next one, and AddressSanitizer cannot allocate while it sets itself up (dlsym
 * inside its own constructor comes here first): that memory comes from a pool and is never returned. */
static char pool[1u << 20] __attribute__((aligned(16)));
static size_t pool_used;
static THREAD_LOCAL bool resolving;
extern void __asan_init(void) __attribute__((weak));

static void *pool_alloc(size_t n)
{
    size_t need = 16 + ((n + 15) & ~(size_t)15);
    if (n > sizeof pool || need > sizeof pool - pool_used) _exit(98);
    char *p = pool + pool_used + 16;
    pool_used += need;
    memcpy(p - 16, &n, sizeof n);
    return p;
}
static bool from_pool(const void *p)
{
    return (const char *)p >= pool && (const char *)p < pool + sizeof pool;
}
static bool too_early(void)
{
    return resolving || (__asan_init && !atomic_load(&S.active));
}
#define REAL_ALLOC(name, type)                                  \
    static _Atomic(void *) real_##name;                         \
    void *real_p_ = atomic_load(&real_##name);                  \
    if (!real_p_) {                                             \
        resolving = true;                                       \
        real_p_ = next(#name);                                  \
        resolving = false;                                      \
        atomic_store(&real_##name, real_p_);                    \
    }                                                           \
    __typeof__(type) real = (__typeof__(type))real_p_

EXPORT void *malloc(size_t n)
{
    if (too_early()) return pool_alloc(n);
    REAL_ALLOC(malloc, void *(*)(size_t));
    return fault(C_ALLOC, false) == FAIL ? NULL : real(n);
}
EXPORT void *calloc(size_t n, size_t size)
{
    if (too_early()) return pool_alloc(n * size);
    REAL_ALLOC(calloc, void *(*)(size_t, size_t));
    return fault(C_ALLOC, false) == FAIL ? NULL : real(n, size);
}
EXPORT void *realloc(void *p, size_t n)
{
    if (from_pool(p) || (!p && too_early())) {
        size_t old = 0;
        void *q = malloc(n);
        if (p) memcpy(&old, (char *)p - 16, sizeof old);
        if (q && p) memcpy(q, p, old < n ? old : n);
        return q;
    }
    REAL_ALLOC(realloc, void *(*)(void *, size_t));
    return fault(C_ALLOC, false) == FAIL ? NULL : real(p, n);
}
EXPORT void free(void *p)
{
    if (!p || from_pool(p) || resolving) return;
    REAL_ALLOC(free, void (*)(void *));
    real(p);
}
EXPORT void *reallocarray(void *p, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return realloc(p, bytes);
}
EXPORT int posix_memalign(void **out, size_t align, size_t n)
{
    REAL(posix_memalign, int (*)(void **, size_t, size_t));
    return fault(C_ALLOC, false) == FAIL ? S.err : real(out, align, n);
}
EXPORT void *aligned_alloc(size_t align, size_t n)
{
    REAL(aligned_alloc, void *(*)(size_t, size_t));
    return fault(C_ALLOC, false) == FAIL ? NULL : real(align, n);
}
EXPORT int pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *arg)
{
    REAL(pthread_create, int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *));
    return fault(C_THREAD, false) == FAIL ? S.err : real(t, a, f, arg);
}

/* ---- files: open and close ----------------------------------------------------------------------------------- */

static atomic_bool written[4096];   /* descriptors that were opened for writing */

INTO_CALLER int open_common(int dirfd, const char *path, int flags, mode_t mode)
{
    bool changes = (flags & (O_CREAT | O_TRUNC)) != 0;
    if (fault(C_OPEN, changes) == FAIL) return -1;
    bool fresh = S.track && (flags & O_CREAT) && syscall(SYS_faccessat, dirfd, path, F_OK) != 0;
    int fd = (int)syscall(SYS_openat, dirfd, path, flags, mode);
    if (fd >= 0 && fd < 4096) atomic_store(&written[fd], (flags & O_ACCMODE) != O_RDONLY);
    if (fd >= 0 && fresh) {
        note_entry(dirfd, path);
        note_created(fd);
    }
    return fd;
}
static mode_t mode_arg(int flags, va_list ap)
{
    return flags & (O_CREAT | O_TMPFILE) ? (mode_t)va_arg(ap, unsigned) : 0;
}
#define OPEN_FN(name)                                           \
    EXPORT int name(const char *path, int flags, ...)           \
    {                                                           \
        va_list ap;                                             \
        va_start(ap, flags);                                    \
        mode_t mode = mode_arg(flags, ap);                      \
        va_end(ap);                                             \
        return open_common(AT_FDCWD, path, flags, mode);        \
    }
OPEN_FN(open)
OPEN_FN(open64)
#define OPENAT_FN(name)                                         \
    EXPORT int name(int dirfd, const char *path, int flags, ...) \
    {                                                           \
        va_list ap;                                             \
        va_start(ap, flags);                                    \
        mode_t mode = mode_arg(flags, ap);                      \
        va_end(ap);                                             \
        return open_common(dirfd, path, flags, mode);           \
    }
OPENAT_FN(openat)
OPENAT_FN(openat64)
/* The names that -D_FORTIFY_SOURCE calls instead. */
EXPORT int __open_2(const char *path, int flags);
EXPORT int __open_2(const char *path, int flags) { return open_common(AT_FDCWD, path, flags, 0); }
EXPORT int __open64_2(const char *path, int flags);
EXPORT int __open64_2(const char *path, int flags) { return open_common(AT_FDCWD, path, flags, 0); }
EXPORT int __openat_2(int dirfd, const char *path, int flags);
EXPORT int __openat_2(int dirfd, const char *path, int flags) { return open_common(dirfd, path, flags, 0); }
EXPORT DIR *opendir(const char *path)
{
    REAL(opendir, DIR *(*)(const char *));
    return fault(C_OPEN, false) == FAIL ? NULL : real(path);
}
EXPORT DIR *fdopendir(int fd)
{
    REAL(fdopendir, DIR *(*)(int));
    return fault(C_OPEN, false) == FAIL ? NULL : real(fd);
}
EXPORT FILE *fopen(const char *path, const char *mode)
{
    REAL(fopen, FILE *(*)(const char *, const char *));
    return fault(C_OPEN, mode[0] != 'r') == FAIL ? NULL : real(path, mode);
}
/* On Linux the descriptor is gone even when close reports an error. */
EXPORT int close(int fd)
{
    REAL(close, int (*)(int));
    bool w = fd > 2 && fd < 4096 && atomic_load(&written[fd]);
    enum verdict v = fd > 2 ? fault(w ? C_CLOSE_WRITTEN : C_CLOSE, w) : GO_ON;
    int err = errno, rc = real(fd);
    if (fd >= 0 && fd < 4096) atomic_store(&written[fd], false);
    if (v != FAIL) return rc;
    errno = err;
    return -1;
}

/* ---- files: data --------------------------------------------------------------------------------------------- */

static size_t less(enum verdict v, size_t n)
{
    return v == SHORT && n > 1 ? n / 2 : n;
}
static bool is_direct(int fd)   /* a short count on an O_DIRECT descriptor must stay a multiple of the block */
{
    int fl = (int)syscall(SYS_fcntl, fd, F_GETFL);
    return fl >= 0 && (fl & O_DIRECT);
}
static size_t less_fd(enum verdict v, int fd, size_t n)
{
    size_t k = less(v, n);
    if (k != n && is_direct(fd)) k = k >= 4096 ? k / 4096 * 4096 : n;
    return k;
}

#define READ_BODY(call) \
    enum verdict v = fd > 2 ? fault(C_READ, false) : GO_ON; \
    if (v == FAIL) return -1; \
    n = less_fd(v, fd, n); \
    return (ssize_t)(call)
EXPORT ssize_t read(int fd, void *buf, size_t n) { READ_BODY(syscall(SYS_read, fd, buf, n)); }
EXPORT ssize_t pread(int fd, void *buf, size_t n, off_t off) { READ_BODY(syscall(SYS_pread64, fd, buf, n, off)); }
EXPORT ssize_t pread64(int fd, void *buf, size_t n, off64_t off) { READ_BODY(syscall(SYS_pread64, fd, buf, n, off)); }
EXPORT ssize_t __read_chk(int fd, void *buf, size_t n, size_t size);
EXPORT ssize_t __read_chk(int fd, void *buf, size_t n, size_t size)
{
    if (n > size) abort();
    READ_BODY(syscall(SYS_read, fd, buf, n));
}
EXPORT ssize_t __pread_chk(int fd, void *buf, size_t n, off_t off, size_t size);
EXPORT ssize_t __pread_chk(int fd, void *buf, size_t n, off_t off, size_t size)
{
    if (n > size) abort();
    READ_BODY(syscall(SYS_pread64, fd, buf, n, off));
}
EXPORT ssize_t __pread64_chk(int fd, void *buf, size_t n, off64_t off, size_t size);
EXPORT ssize_t __pread64_chk(int fd, void *buf, size_t n, off64_t off, size_t size)
{
    if (n > size) abort();
    READ_BODY(syscall(SYS_pread64, fd, buf, n, off));
}

INTO_CALLER ssize_t write_common(int fd, const void *buf, size_t n, off_t off, bool at)
{
    enum verdict v = fd > 2 ? fault(C_WRITE, true) : GO_ON;
    if (v == FAIL) return -1;
    n = less_fd(v, fd, n);
    off_t from = at ? off : S.track && fd > 2 ? (off_t)syscall(SYS_lseek, fd, 0, SEEK_CUR) : 0;
    uint64_t n_old = 0;
    char *old = fd > 2 ? save_old(fd, (uint64_t)from, n, &n_old) : NULL;
    ssize_t k = (ssize_t)(at ? syscall(SYS_pwrite64, fd, buf, n, off) : syscall(SYS_write, fd, buf, n));
    int err = errno;
    note_write(fd, (uint64_t)from, k > 0 && fd > 2 ? (uint64_t)k : 0, old, n_old);
    errno = err;
    return k;
}
EXPORT ssize_t write(int fd, const void *buf, size_t n) { return write_common(fd, buf, n, 0, false); }
EXPORT ssize_t pwrite(int fd, const void *buf, size_t n, off_t off) { return write_common(fd, buf, n, off, true); }
EXPORT ssize_t pwrite64(int fd, const void *buf, size_t n, off64_t off) { return write_common(fd, buf, n, off, true); }
EXPORT ssize_t copy_file_range(int in, off64_t *in_off, int out, off64_t *out_off, size_t n, unsigned flags)
{
    enum verdict v = fault(C_WRITE, true);
    if (v == FAIL) return -1;
    ssize_t k = (ssize_t)syscall(SYS_copy_file_range, in, in_off, out, out_off, less(v, n), flags);
    note_write(out, 0, k > 0 ? (uint64_t)k : 0, NULL, 0);
    return k;
}
EXPORT ssize_t sendfile(int out, int in, off_t *off, size_t n)
{
    enum verdict v = fault(C_WRITE, true);
    if (v == FAIL) return -1;
    ssize_t k = (ssize_t)syscall(SYS_sendfile, out, in, off, less(v, n));
    note_write(out, 0, k > 0 ? (uint64_t)k : 0, NULL, 0);
    return k;
}

/* ---- files: the rest ------------------------------------------------------------------------------------------ */

INTO_CALLER int sync_common(int fd, long number)
{
    if (fault(C_SYNC, true) == FAIL) return -1;
    int rc = (int)syscall(number, fd);
    if (rc == 0) note_sync(fd);
    return rc;
}
EXPORT int fsync(int fd) { return sync_common(fd, SYS_fsync); }
EXPORT int flock(int fd, int what) { return fault(C_LOCK, false) == FAIL ? -1 : (int)syscall(SYS_flock, fd, what); }
EXPORT int fdatasync(int fd) { return sync_common(fd, SYS_fdatasync); }
EXPORT int ftruncate(int fd, off_t n) { return fault(C_TRUNC, true) == FAIL ? -1 : (int)syscall(SYS_ftruncate, fd, n); }
EXPORT int ftruncate64(int fd, off64_t n) { return fault(C_TRUNC, true) == FAIL ? -1 : (int)syscall(SYS_ftruncate, fd, n); }
EXPORT int fallocate(int fd, int mode, off_t off, off_t n)
{
    return fault(C_TRUNC, true) == FAIL ? -1 : (int)syscall(SYS_fallocate, fd, mode, off, n);
}
EXPORT int fallocate64(int fd, int mode, off64_t off, off64_t n)
{
    return fault(C_TRUNC, true) == FAIL ? -1 : (int)syscall(SYS_fallocate, fd, mode, off, n);
}
EXPORT int posix_fallocate(int fd, off_t off, off_t n)
{
    REAL(posix_fallocate, int (*)(int, off_t, off_t));
    int keep = errno;
    int rc = fault(C_TRUNC, true) == FAIL ? S.err : real(fd, off, n);
    errno = keep;
    return rc;
}
INTO_CALLER int rename_common(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    if (fault(C_RENAME, true) == FAIL) return -1;
    int rc = (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
    int err = errno;
    if (rc == 0) note_entry(to_dir, to);
    errno = err;
    return rc;
}
EXPORT int rename(const char *from, const char *to) { return rename_common(AT_FDCWD, from, AT_FDCWD, to, 0); }
EXPORT int renameat(int a, const char *from, int b, const char *to) { return rename_common(a, from, b, to, 0); }
EXPORT int renameat2(int a, const char *from, int b, const char *to, unsigned f) { return rename_common(a, from, b, to, f); }
EXPORT int link(const char *from, const char *to)
{
    return fault(C_RENAME, true) == FAIL ? -1 : (int)syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
}
INTO_CALLER int mkdir_common(int dirfd, const char *path, mode_t mode)
{
    if (fault(C_MKDIR, true) == FAIL) return -1;
    int rc = (int)syscall(SYS_mkdirat, dirfd, path, mode), err = errno;
    if (rc == 0) note_entry(dirfd, path);
    errno = err;
    return rc;
}
EXPORT int mkdir(const char *path, mode_t mode) { return mkdir_common(AT_FDCWD, path, mode); }
EXPORT int mkdirat(int dirfd, const char *path, mode_t mode) { return mkdir_common(dirfd, path, mode); }
EXPORT int unlink(const char *path)
{
    return fault(C_UNLINK, true) == FAIL ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}
EXPORT int unlinkat(int dirfd, const char *path, int flags)
{
    return fault(C_UNLINK, true) == FAIL ? -1 : (int)syscall(SYS_unlinkat, dirfd, path, flags);
}
EXPORT int rmdir(const char *path)
{
    return fault(C_UNLINK, true) == FAIL ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
}
#define STAT_FN(name, params, args, cond)                               \
    EXPORT int name params                                              \
    {                                                                   \
        REAL(name, int (*) params);                                     \
        return !inside && (cond) && fault(C_STAT, false) == FAIL ? -1 : real args; \
    }
STAT_FN(stat, (const char *restrict path, struct stat *restrict st), (path, st), true)
STAT_FN(lstat, (const char *restrict path, struct stat *restrict st), (path, st), true)
STAT_FN(fstat, (int fd, struct stat *st), (fd, st), fd > 2)
STAT_FN(fstatat, (int fd, const char *restrict path, struct stat *restrict st, int flags), (fd, path, st, flags), true)
