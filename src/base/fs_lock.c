/* fs_lock.c - a lock file that names its holder.
 *
 *     "PID START HOST\n"     START: the process's start time (clock ticks since boot, /proc/PID/stat), 0 if unknown
 *
 * The file itself is the lock: flock is missing on some network file systems, and it cannot say who holds it. The file is written
 * under another name and then linked, so that nobody ever sees it empty. The start time tells a living holder from a stranger that
 * got its pid later; a holder on another host cannot be checked and counts as alive.
 *
 * A lock of the dead is taken over in place. To move or remove it would be wrong: of two processes that both saw the dead
 * holder, the slower one would remove the lock of the faster one. flock makes them take turns, and each looks again. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"

#define LINE 128 /* bytes of the file at most, with the NUL */

typedef struct holder { long pid; unsigned long long start; char host[65]; } holder;

/* Reads at most cap - 1 bytes from the start. */
static void read_head(int fd, char *buf, size_t cap)
{
    size_t n = 0;
    while (n < cap - 1) {
        ssize_t k = pread(fd, buf + n, cap - 1 - n, (off_t)n);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) break;
        n += (size_t)k;
    }
    buf[n] = '\0';
}

/* False if it is not there. */
static bool read_small(const char *path, char *buf, size_t cap)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) return false;
    read_head(fd, buf, cap);
    close(fd);
    return true;
}

/* Field 22 of /proc/PID/stat; field 2, the command, is in parentheses and may hold anything. *ended: it has, and nobody asked how: field 3 says so,
 * and field 20 that no other thread of it goes on. mpirun leaves such ranks while it waits for a machine that is gone. */
static unsigned long long start_time(long pid, bool *ended)
{
    char path[48], text[1024];
    unsigned long long field[23] = { 0 };
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    *ended = false;
    if (!read_small(path, text, sizeof text)) return 0;
    char *p = strrchr(text, ')');
    const char state = p != NULL && p[1] == ' ' ? p[2] : '\0';
    for (int i = 3; p != NULL && i <= 22; i++) {
        p = strchr(p + 1, ' ');
        if (p != NULL) field[i] = strtoull(p, NULL, 10);
    }
    *ended = (state == 'Z' || state == 'X') && field[20] <= 1;
    return field[22];
}

static void self(holder *h)
{
    bool ended;
    *h = (holder){ .pid = (long)getpid(), .start = start_time((long)getpid(), &ended) };
    if (gethostname(h->host, sizeof h->host) != 0 || h->host[0] == '\0') snprintf(h->host, sizeof h->host, "-");
    h->host[sizeof h->host - 1] = '\0';
}

static bool parse_holder(const char *text, holder *h)
{
    *h = (holder){ 0 };
    return sscanf(text, "%ld %llu %64s", &h->pid, &h->start, h->host) == 3 && h->pid > 0;
}

static bool read_holder(const char *path, holder *h)
{
    char text[LINE];
    return read_small(path, text, sizeof text) && parse_holder(text, h);
}

static bool is_alive(const holder *h)
{
    holder me;
    self(&me);
    if (strcmp(me.host, h->host) != 0) return true;
    if (kill((pid_t)h->pid, 0) != 0 && errno == ESRCH) return false;
    bool ended;
    unsigned long long now = start_time(h->pid, &ended);
    if (ended) return false;
    return now == 0 || h->start == 0 || now == h->start;
}

/* Our line, filled up with spaces so that one of ours covers any other. Returns errno. */
static int write_self(int fd)
{
    holder me;
    char line[LINE], text[LINE];
    self(&me);
    snprintf(text, sizeof text, "%ld %llu %s", me.pid, me.start, me.host);
    int n = snprintf(line, sizeof line, "%-*s\n", LINE - 2, text);
    for (ssize_t done = 0, k; done < n; done += k) {
        do k = pwrite(fd, line + done, (size_t)(n - done), done);
        while (k < 0 && errno == EINTR);
        if (k <= 0) return k < 0 ? errno : EIO;
    }
    return fsync(fd) == 0 ? 0 : errno; /* an empty lock after a power cut would name no process and block for ever */
}

/* Puts our line at `path` if nothing is there. Returns errno: EEXIST when it is held. */
static int try_create(const char *path, const char *temp)
{
    unlink(temp); /* left by a killed process that had our pid */
    int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0) return errno;
    int err = write_self(fd);
    if (close(fd) != 0 && err == 0 && errno != EINTR) err = errno;
    if (err == 0 && link(temp, path) != 0) err = errno;
    if (err == EPERM || err == EOPNOTSUPP || err == ENOSYS) /* no hard links here: not to replace is what matters */
        err = renameat2(AT_FDCWD, temp, AT_FDCWD, path, RENAME_NOREPLACE) == 0 ? 0 : errno;
    unlink(temp);
    return err;
}

/* With the turn taken: still the file that has the name, and still of the dead? Then it is ours. EEXIST if not. */
static int take_turn(const char *path, int fd)
{
    struct stat mine, named;
    char text[LINE];
    holder h;
    if (fstat(fd, &mine) != 0 || lstat(path, &named) != 0) return EEXIST;
    if (mine.st_dev != named.st_dev || mine.st_ino != named.st_ino) return EEXIST;
    read_head(fd, text, sizeof text);
    if (!parse_holder(text, &h) || is_alive(&h)) return EEXIST;
    return write_self(fd);
}

static int take_over(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK), err = 0;
    if (fd < 0) return errno == ENOENT ? EEXIST : errno; /* gone by now: the caller tries again */
    /* Without flock (ENOLCK and the like on some network mounts) a tiny window for two takers remains. */
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) err = EEXIST;
    if (err == 0) err = take_turn(path, fd);
    close(fd);
    return err;
}

static fq_status held(const char *path, fq_err *e)
{
    holder h, me;
    char host[FQI_NAME_MAX + 1];
    if (!read_holder(path, &h))
        return fqi_fail(e, FQ_E_IO, FQI_FILE(path), "lock", "found a lock that names no process; remove it if none is running");
    self(&me);
    /* A job that goes on elsewhere meets the lock of its dead self here, and nothing else would tell what to do. */
    return fqi_fail(e, FQ_E_IO, FQI_FILE(path), "lock", "found it held by process %ld on %s, expected no other run%s", h.pid,
                    fqi_escape(host, h.host), strcmp(me.host, h.host) != 0 ? "; another machine cannot be asked: remove the lock if that process is gone" : "");
}

/* Removes the private names of lock holders that were killed in between: LOCK.PID of a process that is gone. Best effort. */
static void sweep(const char *path)
{
    const char *slash = strrchr(path, '/'), *base = slash != NULL ? slash + 1 : path;
    size_t n_base = strlen(base), n = 0;
    fqi_arena a = { 0 };
    fqi_dirent *entry = NULL;
    char *dir = slash == NULL ? fqi_arena_strdup(&a, ".") : fqi_arena_strndup(&a, path, slash == path ? 1 : (size_t)(slash - path));
    if (dir != NULL && fqi_dir_list(dir, &a, &entry, &n, NULL) != FQ_OK) n = 0;
    for (size_t i = 0; i < n; i++) {
        const char *name = entry[i].name;
        if (strncmp(name, base, n_base) != 0 || name[n_base] != '.') continue;
        char *end;
        long pid = strtol(name + n_base + 1, &end, 10);
        if (*end != '\0' || pid <= 0 || kill((pid_t)pid, 0) == 0 || errno != ESRCH) continue;
        char *old = fqi_path_join(dir, name);
        if (old != NULL) unlink(old);
        free(old);
    }
    fqi_arena_free(&a);
}

fq_status fqi_lock(const char *path, fq_err *e)
{
    fqi_str temp = { 0 };
    fqi_str_printf(&temp, "%s.%ld", path, (long)getpid());
    if (temp.failed) return fqi_fail_nomem(e, "path");
    int err = EEXIST;
    for (int round = 0; round < 4 && err == EEXIST; round++) {
        holder h;
        err = try_create(path, temp.s);
        if (err != EEXIST) break;
        if (read_holder(path, &h)) {
            if (is_alive(&h)) break;
            err = take_over(path);
        } else if (fqi_path_exists(path)) {
            break; /* it is there, names nobody, and is not ours to judge */
        }
    }
    fqi_str_free(&temp);
    if (err == 0) sweep(path);
    if (err == 0) return FQ_OK;
    return err == EEXIST ? held(path, e) : fqi_fail_sys(e, path, "lock", err);
}

void fqi_unlock(const char *path)
{
    holder h;
    /* Unreadable (no descriptor left) is still ours: nobody takes a lock over while its process lives. */
    if (!read_holder(path, &h) || h.pid == (long)getpid()) unlink(path);
}
