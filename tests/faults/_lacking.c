/* Below the folder LACKING_IN a file system that lacks what LACKING names: "fsync" of folders (as CIFS),
   "locks" (as Lustre without its mount option). LD_PRELOADed, so that Python and TensorStore meet it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int lacks(int file, const char *what) {
  const char *all = getenv("LACKING"), *below = getenv("LACKING_IN");
  char link[64], path[4096];
  if (!all || !below || !strstr(all, what)) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t size = readlink(link, path, sizeof path - 1);
  return size >= (ssize_t)strlen(below) && !strncmp(path, below, strlen(below));
}

int fsync(int file) {
  struct stat about;
  if (lacks(file, "fsync") && !fstat(file, &about) && S_ISDIR(about.st_mode)) {
    errno = EINVAL;
    return -1;
  }
  return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(file);
}

int flock(int file, int operation) {
  if (lacks(file, "locks")) {
    errno = ENOSYS;
    return -1;
  }
  return ((int (*)(int, int))dlsym(RTLD_NEXT, "flock"))(file, operation);
}

static int controlled(const char *name, int file, int command, void *argument) {
  int locking = command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK || command == F_OFD_SETLKW;
  if (locking && lacks(file, "locks")) {
    errno = ENOSYS;
    return -1;
  }
  return ((int (*)(int, int, ...))dlsym(RTLD_NEXT, name))(file, command, argument);
}

int fcntl(int file, int command, ...) {
  va_list rest;
  va_start(rest, command);
  void *argument = va_arg(rest, void *);
  va_end(rest);
  return controlled("fcntl", file, command, argument);
}

int fcntl64(int file, int command, ...) {
  va_list rest;
  va_start(rest, command);
  void *argument = va_arg(rest, void *);
  va_end(rest);
  return controlled("fcntl64", file, command, argument);
}
