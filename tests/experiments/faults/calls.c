/* Counts the calls of a process that change files below a directory, and fails at the n-th.

Loaded with LD_PRELOAD, so that the calls of Python, of Orbax and of tensorstore's threads count. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[4096];
static int target, failure, reports;
static atomic_int count;

/* From now on: the `n`-th call below `directory` fails with errno `error`, and for ENOSPC all after
   it, as on a full disk; error 0 is SIGKILL. What was hit goes to the file descriptor `fd`. */
void arm(const char *directory, int n, int error, int fd) {
  target = n, failure = error, reports = fd, count = 0;
  strncpy(root, directory, sizeof root - 1);
}

int calls(void) { return count; }

static int fails(const char *call, const char *path, int fd) {
  char link[64], opened[4096] = "";
  if (!root[0]) return 0;
  if (!path) {
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (readlink(link, opened, sizeof opened - 1) < 0) return 0;
    path = opened;
  }
  if (strncmp(path, root, strlen(root))) return 0;
  int now = ++count;
  if (now < target || (now > target && failure != ENOSPC)) return 0;
  if (now == target) dprintf(reports, "%s %s", call, path + strlen(root) + 1);
  if (!failure) kill(getpid(), SIGKILL);
  errno = failure;
  return 1;
}

#define HOOK(type, name, parameters, arguments, path, fd)            \
  type name parameters {                                             \
    static type(*real) parameters;                                   \
    if (!real) real = (type(*) parameters)dlsym(RTLD_NEXT, #name);   \
    return fails(#name, path, fd) ? -1 : real arguments;             \
  }

HOOK(ssize_t, write, (int fd, const void *b, size_t n), (fd, b, n), NULL, fd)
HOOK(ssize_t, pwrite, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o), NULL, fd)
HOOK(ssize_t, pwrite64, (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o), NULL, fd)
HOOK(ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n), NULL, fd)
HOOK(int, fsync, (int fd), (fd), NULL, fd)
HOOK(int, fdatasync, (int fd), (fd), NULL, fd)
HOOK(int, ftruncate, (int fd, off_t n), (fd, n), NULL, fd)
HOOK(int, ftruncate64, (int fd, off64_t n), (fd, n), NULL, fd)
HOOK(int, mkdir, (const char *p, mode_t m), (p, m), p, -1)
HOOK(int, rename, (const char *a, const char *b), (a, b), b, -1)
HOOK(int, renameat, (int d, const char *a, int e, const char *b), (d, a, e, b), b, -1)
HOOK(int, unlink, (const char *p), (p), p, -1)
HOOK(int, rmdir, (const char *p), (p), p, -1)

#define HOOK_OPEN(name)                                                          \
  int name(const char *path, int flags, ...) {                                   \
    static int (*real)(const char *, int, ...);                                  \
    if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name);  \
    va_list rest;                                                                \
    va_start(rest, flags);                                                       \
    int mode = va_arg(rest, int);                                                \
    va_end(rest);                                                                \
    if ((flags & O_ACCMODE) != O_RDONLY && fails("open", path, -1)) return -1;   \
    return real(path, flags, mode);                                              \
  }

HOOK_OPEN(open)
HOOK_OPEN(open64)
