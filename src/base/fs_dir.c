/* fs_dir.c - paths, folders, the commit of an output folder and the lock that keeps two runs off one output.
 *
 * Path rules compare what paths resolve to, never how they are spelled. The commit is one rename: before it the target is as
 * it was, after it the new folder is complete, and there is no moment in which neither is there when the file system can
 * exchange two names. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"

/* ---- paths ---- */

bool fqi_path_exists(const char *path)
{
    struct stat st;
    /* A disk that fails has not said that there is nothing: whoever opens it next gets the error, and a fitted checkpoint is not taken for
     * one without fitq.json. */
    return lstat(path, &st) == 0 || errno == EIO;
}

bool fqi_path_is_link(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISLNK(st.st_mode);
}

bool fqi_path_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *fqi_path_join(const char *dir, const char *name)
{
    size_t nd = strlen(dir), nn = strlen(name);
    bool slash = nd != 0 && dir[nd - 1] != '/';
    char *p = malloc(nd + nn + 2);
    if (p == NULL) return NULL;
    memcpy(p, dir, nd);
    if (slash) p[nd++] = '/';
    memcpy(p + nd, name, nn + 1);
    return p;
}

bool fqi_name_is_plain(const char *name)
{
    if (*name == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) return false;
    for (const unsigned char *s = (const unsigned char *)name; *s != '\0'; s++)
        if (*s == '/' || *s < 0x20 || *s == 0x7f) return false;
    return true;
}

/* dir of "a/b/" is "a", of "a" is ".", of "/a" is "/". Caller frees. */
static char *parent_of(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    while (n > 0 && path[n - 1] != '/') n--;
    while (n > 1 && path[n - 1] == '/') n--;
    return n == 0 ? strdup(".") : strndup(path, n);
}

/* Without trailing slashes. Caller frees. */
static char *trimmed(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    return strndup(path, n);
}

/* Absolute path without links; a last part that does not exist yet is taken as it is. NULL if it cannot be told. Each round
 * moves one missing part from the end of `head` to the front of `tail`. */
static char *resolve(const char *path)
{
    char *head = trimmed(path), *tail = strdup(""), *real = NULL;
    while (head != NULL && tail != NULL && (real = realpath(head, NULL)) == NULL && errno == ENOENT) {
        const char *slash = strrchr(head, '/'), *base = slash != NULL ? slash + 1 : head;
        if (*base == '\0' || strcmp(base, ".") == 0 || strcmp(base, "..") == 0) break; /* "missing/.." means nothing */
        char *up = parent_of(head), *longer = malloc(strlen(base) + strlen(tail) + 2);
        if (longer != NULL) sprintf(longer, "/%s%s", base, tail);
        free(head);
        free(tail);
        head = up;
        tail = longer;
    }
    char *whole = real != NULL && tail != NULL ? malloc(strlen(real) + strlen(tail) + 1) : NULL;
    if (whole != NULL) sprintf(whole, "%s%s", strcmp(real, "/") == 0 && *tail != '\0' ? "" : real, tail);
    free(real);
    free(tail);
    free(head);
    return whole;
}

/* Is b the same as a, or below it? Both resolved. */
static bool holds(const char *a, const char *b)
{
    size_t n = strlen(a);
    if (strncmp(a, b, n) != 0) return false;
    return b[n] == '\0' || b[n] == '/' || a[n - 1] == '/';
}

fq_status fqi_path_is_inside(const char *dir, const char *path, bool *inside, fq_err *e)
{
    struct stat st;
    *inside = false;
    /* A link to nothing resolves to nothing, and what will be there later is not ours to guess. */
    if (lstat(path, &st) == 0 && stat(path, &st) != 0) return FQ_OK;
    errno = 0;
    char *d = realpath(dir, NULL), *p = d != NULL ? resolve(path) : NULL;
    bool no_memory = p == NULL && errno == ENOMEM;
    if (p != NULL) *inside = holds(d, p) && strcmp(d, p) != 0;
    free(d);
    free(p);
    return no_memory ? fqi_fail_nomem(e, "path") : FQ_OK;
}

fq_status fqi_path_overlaps(const char *a, const char *b, bool *overlap, fq_err *e)
{
    struct stat sa, sb;
    *overlap = true;
    if (stat(a, &sa) == 0 && stat(b, &sb) == 0 && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino) return FQ_OK;
    /* Not to know is to refuse: the question is asked before something is overwritten. */
    errno = 0;
    char *ra = resolve(a), *rb = ra != NULL ? resolve(b) : NULL;
    int err = errno;
    fq_status s = FQ_OK;
    if (ra != NULL && rb != NULL) *overlap = holds(ra, rb) || holds(rb, ra);
    else s = err == ENOMEM ? fqi_fail_nomem(e, "path") : fqi_fail_sys(e, ra == NULL ? a : b, "resolve", err);
    free(ra);
    free(rb);
    return s;
}

static fq_status check_parent(const char *path, const char *dir, fq_err *e)
{
    struct stat st;
    char shown[FQI_NAME_MAX + 1];
    int err = stat(dir, &st) == 0 ? 0 : errno;
    if (err == 0 && S_ISDIR(st.st_mode)) return FQ_OK;
    if (err != 0 && err != ENOENT && err != ENOTDIR) return fqi_fail_sys(e, dir, "stat", err);
    return fqi_fail(e, FQ_E_IO, FQI_FILE(path), "parent-missing", "found no folder %s, expected one to write in", fqi_escape(shown, dir));
}

static fq_status check_name_length(const char *path, const char *dir, size_t n, size_t n_extra, fq_err *e)
{
    long said = pathconf(dir, _PC_NAME_MAX);
    size_t most = said > 0 ? (size_t)said : 255; /* where nothing is said: the limit of nearly all file systems */
    most = most > n_extra ? most - n_extra : 0;
    if (n <= most) return FQ_OK;
    return fqi_fail(e, FQ_E_IO, FQI_FILE(path), "name-too-long", "found a name of %zu bytes, expected at most %zu", n, most);
}

fq_status fqi_path_check_place(const char *path, size_t n_extra, fq_err *e)
{
    char *dir = parent_of(path), *whole = trimmed(path);
    fq_status s = dir != NULL && whole != NULL ? check_parent(path, dir, e) : fqi_fail_nomem(e, "path");
    if (s == FQ_OK) {
        const char *slash = strrchr(whole, '/');
        s = check_name_length(path, dir, strlen(slash != NULL ? slash + 1 : whole), n_extra, e);
    }
    free(dir);
    free(whole);
    return s;
}

/* ---- listing ---- */

static int compare_dirent(const void *a, const void *b)
{
    return strcmp(((const fqi_dirent *)a)->name, ((const fqi_dirent *)b)->name);
}

/* Returns errno: ENOENT if the entry is gone by now. Any other failure must not pass for an entry that is not there: a copy of
 * the folder would silently lack a file. */
static int look(DIR *d, const char *name, fqi_dirent *out)
{
    struct stat st;
    if (fstatat(dirfd(d), name, &st, AT_SYMLINK_NOFOLLOW) != 0) return errno;
    out->is_link = S_ISLNK(st.st_mode);
    if (out->is_link && fstatat(dirfd(d), name, &st, 0) != 0) /* dangling or a loop: neither file nor folder */
        return errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == EACCES ? 0 : errno;
    out->is_dir = S_ISDIR(st.st_mode);
    out->is_file = S_ISREG(st.st_mode);
    out->bytes = out->is_file ? (uint64_t)st.st_size : 0;
    return 0;
}

fq_status fqi_dir_list(const char *path, fqi_arena *a, fqi_dirent **out, size_t *n, fq_err *e)
{
    DIR *d = opendir(path);
    if (d == NULL) return fqi_fail_sys(e, path, "open", errno);
    fqi_dirent *list = NULL;
    size_t count = 0, cap = 0;
    fq_status s = FQ_OK;
    for (;;) {
        errno = 0;
        const struct dirent *de = readdir(d);
        if (de == NULL && errno != 0) s = fqi_fail_sys(e, path, "read", errno);
        if (de == NULL) break;
        fqi_dirent item = { 0 };
        if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0) continue;
        int err = look(d, de->d_name, &item);
        if (err == ENOENT) continue;
        if (err != 0) {
            s = fqi_fail_sys(e, path, "stat", err);
            break;
        }
        item.name = fqi_arena_strdup(a, de->d_name);
        if (item.name == NULL || !fqi_grow((void **)&list, &cap, count + 1, sizeof *list)) {
            s = fqi_fail_nomem(e, "folder list");
            break;
        }
        list[count++] = item;
    }
    closedir(d);
    fqi_dirent *kept = s == FQ_OK ? fqi_arena_alloc(a, (count + 1) * sizeof *list) : NULL;
    if (s == FQ_OK && kept == NULL) s = fqi_fail_nomem(e, "folder list");
    if (s == FQ_OK) {
        if (count != 0) {
            qsort(list, count, sizeof *list, compare_dirent);
            memcpy(kept, list, count * sizeof *list);
        }
        *out = kept;
        *n = count;
    }
    free(list);
    return s;
}

/* ---- making and removing ---- */

fq_status fqi_mkdir(const char *path, fq_err *e)
{
    return mkdir(path, 0777) == 0 ? FQ_OK : fqi_fail_sys(e, path, "mkdir", errno);
}

fq_status fqi_sync_dir(const char *path, fq_err *e)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r;
    if (fd < 0) return fqi_fail_sys(e, path, "open", errno);
    do r = fsync(fd);
    while (r != 0 && errno == EINTR);
    int err = r == 0 ? 0 : errno;
    close(fd);
    /* Some file systems cannot sync a folder: they keep names in order by other means, or promise nothing at all. */
    if (err == 0 || err == EINVAL || err == ENOTSUP) return FQ_OK;
    return fqi_fail_sys(e, path, "fsync", err);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)at;
    return (kind == FTW_DP ? rmdir(path) : unlink(path)) == 0 || errno == ENOENT ? 0 : errno;
}

fq_status fqi_remove_tree(const char *path, fq_err *e)
{
    int r = nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    if (r == 0 || (r < 0 && errno == ENOENT)) return FQ_OK;
    return fqi_fail_sys(e, path, "remove", r < 0 ? errno : r);
}

/* ---- commit ---- */

static bool not_supported(int err) { return err == EINVAL || err == ENOSYS || err == EOPNOTSUPP || err == EPERM; }

static fq_status sync_parent(const char *path, fq_err *e)
{
    char *dir = parent_of(path);
    if (dir == NULL) return fqi_fail_nomem(e, "path");
    fq_status s = fqi_sync_dir(dir, e);
    free(dir);
    return s;
}

static fq_status sync_parents(const char *a, const char *b, fq_err *e)
{
    FQI_TRY(sync_parent(b, e));
    return sync_parent(a, e);
}

static fq_status commit_new(const char *staging, const char *target, fq_err *e)
{
    /* NOREPLACE: plain rename would silently take the place of an empty folder that someone made a moment ago. */
    int r = renameat2(AT_FDCWD, staging, AT_FDCWD, target, RENAME_NOREPLACE);
    if (r != 0 && not_supported(errno)) r = rename(staging, target);
    if (r != 0) return fqi_fail_sys(e, target, "rename", errno);
    return sync_parents(staging, target, e);
}

/* Without exchange: the old one steps aside first. A crash between the two renames leaves both folders, and no target. */
static fq_status swap_by_hand(const char *staging, const char *target, const char *aside, fq_err *e)
{
    if (rename(target, aside) != 0) return fqi_fail_sys(e, target, "rename", errno);
    if (rename(staging, target) == 0) return FQ_OK;
    int err = errno;
    char name[FQI_NAME_MAX + 1];
    if (rename(aside, target) != 0)
        return fqi_fail(e, FQ_E_IO, FQI_FILE(target), "rename", "the old output could not be put back and is now %s",
                        fqi_escape(name, aside));
    return fqi_fail_sys(e, target, "rename", err);
}

static fq_status commit_replace(const char *staging, const char *target, fq_err *e)
{
    fqi_str aside = { 0 };
    fqi_str_printf(&aside, "%s.old-%ld", target, (long)getpid());
    if (aside.failed) return fqi_fail_nomem(e, "path");
    fq_status s = FQ_OK;
    const char *old = staging; /* after an exchange the old output has the staging name */
    if (renameat2(AT_FDCWD, staging, AT_FDCWD, target, RENAME_EXCHANGE) != 0) {
        old = aside.s;
        s = not_supported(errno) ? swap_by_hand(staging, target, old, e) : fqi_fail_sys(e, target, "rename", errno);
    }
    if (s == FQ_OK) s = sync_parents(staging, target, e);
    if (s == FQ_OK) s = fqi_remove_tree(old, e);
    fqi_str_free(&aside);
    return s;
}

fq_status fqi_commit_dir(const char *staging, const char *target, bool replace, fq_err *e)
{
    struct stat st;
    FQI_TRY(fqi_sync_dir(staging, e));
    char *from = trimmed(staging), *to = trimmed(target);
    fq_status s = FQ_OK;
    if (from == NULL || to == NULL) s = fqi_fail_nomem(e, "path");
    else if (lstat(to, &st) != 0) s = errno == ENOENT ? commit_new(from, to, e) : fqi_fail_sys(e, to, "stat", errno);
    else if (!S_ISDIR(st.st_mode))
        s = fqi_fail(e, FQ_E_IO, FQI_FILE(to), "target-kind", "found %s, expected a folder or nothing",
                     S_ISLNK(st.st_mode) ? "a symbolic link" : "something that is not a folder");
    else if (!replace) s = fqi_fail(e, FQ_E_IO, FQI_FILE(to), "target-exists", "found a folder, expected nothing");
    else s = commit_replace(from, to, e);
    free(from);
    free(to);
    return s;
}
