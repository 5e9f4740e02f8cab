/* Preloaded into a Python process: counts its calls that change files below one folder and, at a chosen call,
 * kills the process before it, after it or in the middle of it, lets it fail once, stops it until it is continued, or
 * interrupts it as Ctrl-C does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum action { NOTHING, COUNT, KILL_BEFORE, KILL_AFTER, TEAR, FAIL, STOP, INTERRUPT };
enum verdict { GO_ON, REFUSE, DIE_AFTER, HALF };

static enum action action;
static long chosen;
static int error_number, trace_fd = -1;
static char folder[PATH_MAX];
static atomic_long calls;

void interpose_arm(int what, long call, int error, const char *below, int trace) {
  action = NOTHING;
  chosen = call, error_number = error, trace_fd = trace;
  atomic_store(&calls, 0);
  snprintf(folder, sizeof folder, "%s", below);
  action = (enum action)what;
}

long interpose_calls(void) { return atomic_load(&calls); }

static int is_below(const char *path) { return path[0] && strncmp(path, folder, strlen(folder)) == 0; }

static void path_of_descriptor(int descriptor, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
  path[length > 0 ? length : 0] = 0;
}

static void path_at(int directory, const char *name, char *path) {
  char base[PATH_MAX] = "";
  if (name[0] == '/') { snprintf(path, PATH_MAX, "%s", name); return; }
  if (directory != AT_FDCWD) path_of_descriptor(directory, base);
  else if (syscall(SYS_getcwd, base, sizeof base) < 0) base[0] = 0;
  if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) path[0] = 0;
}

static enum verdict judge(const char *call, const char *path) {
  if (action == NOTHING || !is_below(path)) return GO_ON;
  long number = atomic_fetch_add(&calls, 1) + 1;
  if (trace_fd >= 0) {
    char line[PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%ld %s %s\n", number, call, path + strlen(folder));
    syscall(SYS_write, trace_fd, line, length < (int)sizeof line ? length : (int)sizeof line);
  }
  if (number != chosen) return GO_ON;
  switch (action) {
    case KILL_BEFORE: kill(getpid(), SIGKILL); return GO_ON;
    case STOP: kill(getpid(), SIGSTOP); return GO_ON;
    case INTERRUPT: kill(getpid(), SIGINT); return GO_ON;
    case KILL_AFTER: return DIE_AFTER;
    case TEAR: return HALF;
    case FAIL: return REFUSE;
    default: return GO_ON;
  }
}

#define REAL(name) \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define ANSWER(verdict, type, call) \
  if ((verdict) == REFUSE) { errno = error_number; return -1; } \
  type result = call; \
  if ((verdict) == DIE_AFTER || (verdict) == HALF) kill(getpid(), SIGKILL); \
  return result

/* Calls on an open file. Torn ones do half of their work before the process dies. */
#define ON_FILE(type, name, parameters, whole, half) \
  type name parameters { \
    REAL(name); \
    if (action == NOTHING) return real whole; \
    char path[PATH_MAX]; \
    path_of_descriptor(fd, path); \
    enum verdict verdict = judge(#name, path); \
    ANSWER(verdict, type, verdict == HALF ? real half : real whole); \
  }
ON_FILE(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size), (fd, data, size / 2))
ON_FILE(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), (fd, data, size / 2, at))
ON_FILE(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), (fd, data, size / 2, at))
ON_FILE(ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count), (fd, parts, count / 2))
ON_FILE(int, fsync, (int fd), (fd), (fd))
ON_FILE(int, fdatasync, (int fd), (fd), (fd))
ON_FILE(int, ftruncate, (int fd, off_t size), (fd, size), (fd, size / 2))
ON_FILE(int, ftruncate64, (int fd, off64_t size), (fd, size), (fd, size / 2))
ON_FILE(int, fchmod, (int fd, mode_t mode), (fd, mode), (fd, mode))

/* These return the error instead of setting errno. */
#define RESERVING(name, offset) \
  int name(int fd, offset at, offset size) { \
    REAL(name); \
    if (action == NOTHING) return real(fd, at, size); \
    char path[PATH_MAX]; \
    path_of_descriptor(fd, path); \
    enum verdict verdict = judge(#name, path); \
    if (verdict == REFUSE) return error_number; \
    int result = real(fd, at, verdict == HALF ? size / 2 : size); \
    if (verdict != GO_ON) kill(getpid(), SIGKILL); \
    return result; \
  }
RESERVING(posix_fallocate, off_t)
RESERVING(posix_fallocate64, off64_t)

/* Calls on names. */
#define ON_NAME(name, parameters, arguments, directory, path_argument) \
  int name parameters { \
    REAL(name); \
    if (action == NOTHING) return real arguments; \
    char path[PATH_MAX]; \
    path_at(directory, path_argument, path); \
    enum verdict verdict = judge(#name, path); \
    ANSWER(verdict, int, real arguments); \
  }
ON_NAME(unlink, (const char *name), (name), AT_FDCWD, name)
ON_NAME(unlinkat, (int at, const char *name, int flags), (at, name, flags), at, name)
ON_NAME(rmdir, (const char *name), (name), AT_FDCWD, name)
ON_NAME(mkdir, (const char *name, mode_t mode), (name, mode), AT_FDCWD, name)
ON_NAME(mkdirat, (int at, const char *name, mode_t mode), (at, name, mode), at, name)
ON_NAME(chmod, (const char *name, mode_t mode), (name, mode), AT_FDCWD, name)
ON_NAME(rename, (const char *from, const char *to), (from, to), AT_FDCWD, to)
ON_NAME(renameat, (int at, const char *from, int at_to, const char *to), (at, from, at_to, to), at_to, to)
ON_NAME(link, (const char *from, const char *to), (from, to), AT_FDCWD, to)
ON_NAME(linkat, (int at, const char *from, int at_to, const char *to, int flags), (at, from, at_to, to, flags), at_to, to)

/* Opening for writing. */
#define OPENING(name, parameters, arguments, directory) \
  int name parameters { \
    REAL(name); \
    mode_t mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
      va_list rest; \
      va_start(rest, flags); \
      mode = va_arg(rest, mode_t); \
      va_end(rest); \
    } \
    if (action == NOTHING || !((flags & O_ACCMODE) != O_RDONLY || flags & O_CREAT)) return real arguments; \
    char path[PATH_MAX]; \
    path_at(directory, file, path); \
    enum verdict verdict = judge(#name, path); \
    ANSWER(verdict, int, real arguments); \
  }
OPENING(open, (const char *file, int flags, ...), (file, flags, mode), AT_FDCWD)
OPENING(open64, (const char *file, int flags, ...), (file, flags, mode), AT_FDCWD)
OPENING(openat, (int at, const char *file, int flags, ...), (at, file, flags, mode), at)
OPENING(openat64, (int at, const char *file, int flags, ...), (at, file, flags, mode), at)
