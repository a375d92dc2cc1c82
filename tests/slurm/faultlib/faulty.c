/* fsync, fdatasync and close that fail, as a full quota or a lost server makes them fail: LD_PRELOAD=faulty.so.
 *
 * FAULTY_CALL    fsync (both) or close
 * FAULTY_ERRNO   number of the error (EDQUOT 122, ENOSPC 28, EIO 5)
 * FAULTY_UNDER   only files whose path begins so
 * FAULTY_WHILE   only while this file exists
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fails(const char *call, int fd) {
    const char *which = getenv("FAULTY_CALL"), *under = getenv("FAULTY_UNDER"), *flag = getenv("FAULTY_WHILE");
    char link[64], path[4096];
    ssize_t length;
    int before = errno;
    if (!which || !under || !flag || strcmp(which, call) || access(flag, F_OK)) { errno = before; return 0; }
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    /* an error at close tells that what was written is lost: nobody gets one for a file that was only read */
    if (length < 0 || (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY) { errno = before; return 0; }
    path[length] = 0;
    errno = before;
    return !strncmp(path, under, strlen(under));
}

static int code(void) {
    const char *text = getenv("FAULTY_ERRNO");
    return text ? atoi(text) : EIO;
}

#define REAL(name) ((int (*)(int))dlsym(RTLD_NEXT, name))

int fsync(int fd) {
    if (fails("fsync", fd)) { errno = code(); return -1; }
    return REAL("fsync")(fd);
}

int fdatasync(int fd) {
    if (fails("fsync", fd)) { errno = code(); return -1; }
    return REAL("fdatasync")(fd);
}

int close(int fd) {
    int failing = fails("close", fd), done = REAL("close")(fd);
    if (failing) { errno = code(); return -1; }
    return done;
}
