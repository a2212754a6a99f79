/* Under a whole process, by LD_PRELOAD: the n-th system call on files below one folder fails, or ends the process.

   Python's own calls are among them, and those of the libraries below it. Nothing is counted before `arm`. What libc does
   within itself (fopen, fwrite) cannot be seen from here. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FAIL = 0, SHORT = 1, KILL = 2 };
enum { KILLED = 137 };

static char root[PATH_MAX];
static size_t root_length;
static atomic_long count;
static long at;
static int how, number, log_fd = -1;

/* Counts the operations on `folder` from now on; operation `n` fails with `error_number`, is a short write, or the last. */
void arm(const char *folder, long n, int what, int error_number, int log_descriptor) {
    snprintf(root, sizeof root, "%s", folder);
    atomic_store(&count, 0);
    at = n, how = what, number = error_number, log_fd = log_descriptor;
    root_length = strlen(root);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int below(const char *path) {
    return root_length && path && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static int of_fd(int fd, char *path) {
    char link[64];
    if (!root_length)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return below(path);
}

/* 0: go on; -1: failed, errno is set; 1: a short write. */
static int operation(const char *name, const char *path) {
    long n = atomic_fetch_add(&count, 1) + 1;
    if (log_fd >= 0) {
        char line[PATH_MAX + 64];
        int length = snprintf(line, sizeof line, "%s %s\n", name, path + root_length + (path[root_length] == '/'));
        if (REAL(write)(log_fd, line, length) < 0)
            log_fd = -1;
    }
    if (n != at)
        return 0;
    if (how == KILL)
        _exit(KILLED);
    if (how == SHORT)
        return 1;
    errno = number;
    return -1;
}

static int on_fd(const char *name, int fd) {
    char path[PATH_MAX];
    return of_fd(fd, path) ? operation(name, path) : 0;
}

static int on_path(const char *name, const char *path) { return below(path) ? operation(name, path) : 0; }

#define OPENS(name)                                                                                                            \
    int name(const char *path, int flags, ...) {                                                                               \
        va_list rest;                                                                                                          \
        va_start(rest, flags);                                                                                                 \
        mode_t mode = va_arg(rest, mode_t);                                                                                    \
        va_end(rest);                                                                                                          \
        return on_path("open", path) < 0 ? -1 : REAL(name)(path, flags, mode);                                                 \
    }
OPENS(open)
OPENS(open64)

#define OPENS_AT(name)                                                                                                         \
    int name(int folder, const char *path, int flags, ...) {                                                                   \
        va_list rest;                                                                                                          \
        va_start(rest, flags);                                                                                                 \
        mode_t mode = va_arg(rest, mode_t);                                                                                    \
        va_end(rest);                                                                                                          \
        return on_path("open", path) < 0 ? -1 : REAL(name)(folder, path, flags, mode);                                         \
    }
OPENS_AT(openat)
OPENS_AT(openat64)

static size_t half(size_t size) { return size > 1 ? size / 2 : size; }

ssize_t write(int fd, const void *data, size_t size) {
    int result = on_fd("write", fd);
    return result < 0 ? -1 : REAL(write)(fd, data, result ? half(size) : size);
}

#define WRITES_AT(name, offset_type)                                                                                           \
    ssize_t name(int fd, const void *data, size_t size, offset_type offset) {                                                  \
        int result = on_fd("pwrite", fd);                                                                                      \
        return result < 0 ? -1 : REAL(name)(fd, data, result ? half(size) : size, offset);                                     \
    }
WRITES_AT(pwrite, off_t)
WRITES_AT(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int parts_count) {
    return on_fd("writev", fd) < 0 ? -1 : REAL(writev)(fd, parts, parts_count);
}

ssize_t read(int fd, void *data, size_t size) { return on_fd("read", fd) < 0 ? -1 : REAL(read)(fd, data, size); }

#define READS_AT(name, offset_type)                                                                                            \
    ssize_t name(int fd, void *data, size_t size, offset_type offset) {                                                        \
        return on_fd("pread", fd) < 0 ? -1 : REAL(name)(fd, data, size, offset);                                               \
    }
READS_AT(pread, off_t)
READS_AT(pread64, off64_t)

int fsync(int fd) { return on_fd("fsync", fd) < 0 ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return on_fd("fsync", fd) < 0 ? -1 : REAL(fdatasync)(fd); }
int ftruncate(int fd, off_t size) { return on_fd("truncate", fd) < 0 ? -1 : REAL(ftruncate)(fd, size); }
int ftruncate64(int fd, off64_t size) { return on_fd("truncate", fd) < 0 ? -1 : REAL(ftruncate64)(fd, size); }

/* As network file systems do: what could not be written is said at the end. Only of files that are written. */
int close(int fd) {
    int flags = root_length ? fcntl(fd, F_GETFL) : -1;
    int result = flags >= 0 && (flags & O_ACCMODE) != O_RDONLY ? on_fd("close", fd) : 0, wrong = errno;
    int closed = REAL(close)(fd);
    if (result < 0)
        errno = wrong;
    return result < 0 ? -1 : closed;
}

int rename(const char *from, const char *to) { return on_path("rename", to) < 0 ? -1 : REAL(rename)(from, to); }
int unlink(const char *path) { return on_path("remove", path) < 0 ? -1 : REAL(unlink)(path); }
int mkdir(const char *path, mode_t mode) { return on_path("mkdir", path) < 0 ? -1 : REAL(mkdir)(path, mode); }
