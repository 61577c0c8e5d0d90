/* Preloaded into a node of the conformance suite: makes its disk and its clocks go wrong as the lab says.
 *
 * The lab writes the cells of `struct control` into a file that this library maps. While all are zero, every call
 * goes straight through. Only files below QUORATE_SHIM_FOLDER are meant. What reaches the kernel without the C
 * library (Go programs, io_uring, mapped files) is not seen.
 *
 * A power loss: each sync copies what it makes durable below QUORATE_SHIM_SHADOW, a file's bytes to f/INODE and a
 * folder's entries to d/INODE. The lab puts that back once the process is dead. k/INODE is another name of each file
 * that was copied, so that no inode number is used twice.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The order and the size of the cells are the lab's too (shim.rs). */
struct control {
    int64_t loaded;        /* this library sets it to its version */
    int64_t fail_syncs;    /* so many of the next syncs fail */
    int64_t sync_delay_us; /* each sync takes so much longer */
    int64_t full;          /* there is no space */
    int64_t shadow;        /* syncs are copied */
    int64_t lose_syncs;    /* syncs are not copied, though acknowledged */
    int64_t wall_ahead_ns; /* the wall clock is so far ahead */
    int64_t rate;          /* the monotonic clock is so many times as fast, since rate_from_ns; 0 is once */
    int64_t rate_from_ns;
};
static volatile struct control *control;
static char folder[PATH_MAX], shadow[PATH_MAX];
static size_t folder_length;
/* Where connections on the loopback interface come from: it tells the lab which node has connected. */
static struct in_addr source;

#define REAL(name)                                                  \
    ({                                                              \
        static __typeof__(name) *real;                              \
        if (!real)                                                  \
            real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name);     \
        real;                                                       \
    })
#define SET(cell) (control && control->cell)

__attribute__((constructor)) static void load(void)
{
    const char *file = getenv("QUORATE_SHIM_CONTROL"), *where = getenv("QUORATE_SHIM_FOLDER");
    const char *copies = getenv("QUORATE_SHIM_SHADOW");
    if (!file || !where || !copies)
        return;
    int fd = REAL(open)(file, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    void *map = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    REAL(close)(fd);
    if (map == MAP_FAILED)
        return;
    snprintf(folder, sizeof folder, "%s", where);
    snprintf(shadow, sizeof shadow, "%s", copies);
    folder_length = strlen(folder);
    const char *own = getenv("QUORATE_SHIM_SOURCE");
    if (own)
        inet_pton(AF_INET, own, &source);
    control = map;
    control->loaded = 1;
}

/* Whether a path is the folder or below it. */
static int below(const char *path)
{
    return !strncmp(path, folder, folder_length) && (path[folder_length] == '/' || !path[folder_length]);
}

static int fd_is_below(int fd)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    return below(path);
}

/* ---- power loss */

static pthread_mutex_t copying = PTHREAD_MUTEX_INITIALIZER;

static int copy_bytes(int from, int to)
{
    static char buffer[1 << 16];
    off_t at = 0, data;
    while ((data = lseek(from, at, SEEK_DATA)) >= 0) {
        off_t hole = lseek(from, data, SEEK_HOLE);
        for (at = data; at < hole;) {
            size_t want = hole - at < (off_t)sizeof buffer ? (size_t)(hole - at) : sizeof buffer;
            ssize_t count = REAL(pread)(from, buffer, want, at);
            if (count <= 0)
                break;
            if (REAL(pwrite)(to, buffer, (size_t)count, at) != count)
                return -1;
            at += count;
        }
        if (at < hole)
            break;
    }
    struct stat stat;
    return fstat(from, &stat) || REAL(ftruncate)(to, stat.st_size) ? -1 : 0;
}

static int copy_entries(int from, int to)
{
    char line[NAME_MAX + 32];
    DIR *dir = fdopendir(dup(from));
    if (!dir)
        return -1;
    rewinddir(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        int length = snprintf(line, sizeof line, "%c%llu/%s%c", entry->d_type == DT_DIR ? 'd' : 'f',
                              (unsigned long long)entry->d_ino, entry->d_name, 0);
        if (REAL(write)(to, line, (size_t)length) != length) {
            closedir(dir);
            return -1;
        }
    }
    closedir(dir);
    return 0;
}

/* Copies what a sync of this descriptor has made durable. */
static void remember(int fd)
{
    char link[64], part[PATH_MAX + 32], whole[PATH_MAX + 64], kept[PATH_MAX + 64];
    struct stat stat;
    if (fstat(fd, &stat))
        return;
    int dir = S_ISDIR(stat.st_mode), saved = errno;
    unsigned long long inode = stat.st_ino;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    snprintf(part, sizeof part, "%s/part", shadow);
    snprintf(whole, sizeof whole, "%s/%c/%llu", shadow, dir ? 'd' : 'f', inode);
    snprintf(kept, sizeof kept, "%s/k/%llu", shadow, inode);
    pthread_mutex_lock(&copying);
    int from = REAL(open)(link, O_RDONLY | O_CLOEXEC | (dir ? O_DIRECTORY : 0));
    int to = REAL(open)(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (from >= 0 && to >= 0 && !(dir ? copy_entries(from, to) : copy_bytes(from, to))) {
        REAL(rename)(part, whole);
        if (!dir)
            (void)!linkat(AT_FDCWD, link, AT_FDCWD, kept, AT_SYMLINK_FOLLOW);
    }
    if (from >= 0)
        REAL(close)(from);
    if (to >= 0)
        REAL(close)(to);
    pthread_mutex_unlock(&copying);
    errno = saved;
}

/* ---- syncs */

static int sync_with(int (*real)(int), int fd)
{
    if (!control || !fd_is_below(fd))
        return real(fd);
    int64_t left = __atomic_load_n(&control->fail_syncs, __ATOMIC_SEQ_CST);
    while (left > 0)
        if (__atomic_compare_exchange_n(&control->fail_syncs, &left, left - 1, 0, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST)) {
            errno = EIO;
            return -1;
        }
    if (control->sync_delay_us) {
        int64_t delay = control->sync_delay_us;
        struct timespec time = {delay / 1000000, delay % 1000000 * 1000};
        REAL(nanosleep)(&time, NULL);
    }
    int result = real(fd);
    if (!result && control->shadow && !control->lose_syncs)
        remember(fd);
    return result;
}

int fsync(int fd)
{
    return sync_with(REAL(fsync), fd);
}

int fdatasync(int fd)
{
    return sync_with(REAL(fdatasync), fd);
}

/* ---- writes */

static int refused(int fd)
{
    if (!SET(full) || !fd_is_below(fd))
        return 0;
    errno = ENOSPC;
    return 1;
}

/* A write to a file that was opened to be synced with each write. */
static ssize_t wrote(int fd, ssize_t count, int flags)
{
    if (count > 0 && SET(shadow) && !control->lose_syncs) {
        int saved = errno;
        int synced = (flags & (RWF_DSYNC | RWF_SYNC)) || (fcntl(fd, F_GETFL) & O_DSYNC);
        if (synced && fd_is_below(fd))
            remember(fd);
        errno = saved;
    }
    return count;
}

ssize_t write(int fd, const void *bytes, size_t count)
{
    return refused(fd) ? -1 : wrote(fd, REAL(write)(fd, bytes, count), 0);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    return refused(fd) ? -1 : wrote(fd, REAL(writev)(fd, parts, count), 0);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at)
{
    return refused(fd) ? -1 : wrote(fd, REAL(pwrite)(fd, bytes, count, at), 0);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at)
{
    return refused(fd) ? -1 : wrote(fd, REAL(pwritev)(fd, parts, count, at), 0);
}

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t at, int flags)
{
    return refused(fd) ? -1 : wrote(fd, REAL(pwritev2)(fd, parts, count, at, flags), flags);
}

static int grows(int fd, off_t length)
{
    struct stat stat;
    return !fstat(fd, &stat) && length > stat.st_size;
}

int ftruncate(int fd, off_t length)
{
    return SET(full) && grows(fd, length) && refused(fd) ? -1 : REAL(ftruncate)(fd, length);
}

int fallocate(int fd, int mode, off_t at, off_t length)
{
    return refused(fd) ? -1 : REAL(fallocate)(fd, mode, at, length);
}

int posix_fallocate(int fd, off_t at, off_t length)
{
    return refused(fd) ? ENOSPC : REAL(posix_fallocate)(fd, at, length);
}

/* A new file needs space; one that is there is opened as ever. */
static int refused_path(const char *path, int flags)
{
    if (!SET(full) || !(flags & O_CREAT) || !below(path) || !access(path, F_OK))
        return 0;
    errno = ENOSPC;
    return 1;
}

#define MODE(flags, last)                                  \
    mode_t mode = 0;                                       \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {               \
        va_list arguments;                                 \
        va_start(arguments, last);                         \
        mode = (mode_t)va_arg(arguments, int);             \
        va_end(arguments);                                 \
    }

int open(const char *path, int flags, ...)
{
    MODE(flags, flags)
    return refused_path(path, flags) ? -1 : REAL(open)(path, flags, mode);
}

int openat(int at, const char *path, int flags, ...)
{
    MODE(flags, flags)
    return refused_path(path, flags) ? -1 : REAL(openat)(at, path, flags, mode);
}

int mkdir(const char *path, mode_t mode)
{
    return refused_path(path, O_CREAT) ? -1 : REAL(mkdir)(path, mode);
}

#ifdef __GLIBC__
ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at)
{
    return pwrite(fd, bytes, count, at);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at)
{
    return pwritev(fd, parts, count, at);
}

ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t at, int flags)
{
    return pwritev2(fd, parts, count, at, flags);
}

int ftruncate64(int fd, off64_t length)
{
    return ftruncate(fd, length);
}

int fallocate64(int fd, int mode, off64_t at, off64_t length)
{
    return fallocate(fd, mode, at, length);
}

int posix_fallocate64(int fd, off64_t at, off64_t length)
{
    return posix_fallocate(fd, at, length);
}

int open64(const char *path, int flags, ...)
{
    MODE(flags, flags)
    return refused_path(path, flags) ? -1 : REAL(open64)(path, flags, mode);
}

int openat64(int at, const char *path, int flags, ...)
{
    MODE(flags, flags)
    return refused_path(path, flags) ? -1 : REAL(openat64)(at, path, flags, mode);
}
#endif

/* ---- connections */

int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    const struct sockaddr_in *to = (const struct sockaddr_in *)address;
    struct sockaddr_in own;
    socklen_t room = sizeof own;
    if (source.s_addr && length >= sizeof *to && to->sin_family == AF_INET &&
        ntohl(to->sin_addr.s_addr) >> 24 == 127 && !getsockname(fd, (struct sockaddr *)&own, &room) &&
        own.sin_family == AF_INET && !own.sin_port && !own.sin_addr.s_addr) {
        int on = 1;
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        own.sin_addr = source;
        (void)!bind(fd, (struct sockaddr *)&own, sizeof own);
    }
    return REAL(connect)(fd, address, length);
}

/* ---- clocks */

#define SECOND 1000000000LL

static int64_t nanos(const struct timespec *time)
{
    return time->tv_sec * SECOND + time->tv_nsec;
}

static struct timespec timespec(int64_t nanos)
{
    return (struct timespec){nanos / SECOND, nanos % SECOND};
}

static int is_wall(clockid_t clock)
{
    return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI;
}

static int is_monotonic(clockid_t clock)
{
    return clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_RAW || clock == CLOCK_MONOTONIC_COARSE ||
           clock == CLOCK_BOOTTIME;
}

/* A moment of the kernel's clock, as this process sees it. */
static int64_t seen(clockid_t clock, int64_t real)
{
    if (is_wall(clock) && SET(wall_ahead_ns))
        return real + control->wall_ahead_ns;
    if (is_monotonic(clock) && SET(rate) && real > control->rate_from_ns)
        return control->rate_from_ns + (real - control->rate_from_ns) * control->rate;
    return real;
}

/* The other way round: what the kernel must be asked to wait for. */
static int64_t unseen(clockid_t clock, int64_t time)
{
    if (is_wall(clock) && SET(wall_ahead_ns))
        return time - control->wall_ahead_ns;
    if (is_monotonic(clock) && SET(rate) && time > control->rate_from_ns)
        return control->rate_from_ns + (time - control->rate_from_ns) / control->rate;
    return time;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int result = REAL(clock_gettime)(clock, time);
    if (!result && control && (control->rate || control->wall_ahead_ns))
        *time = timespec(seen(clock, nanos(time)));
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone)
{
    int result = REAL(gettimeofday)(time, zone);
    if (!result && SET(wall_ahead_ns))
        time->tv_sec += control->wall_ahead_ns / SECOND;
    return result;
}

time_t time(time_t *into)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into)
        *into = now.tv_sec;
    return now.tv_sec;
}

/* ---- timeouts, which a clock that runs faster ends earlier */

static int shorter_ms(int timeout)
{
    return timeout > 0 && SET(rate) ? (int)((timeout + control->rate - 1) / control->rate) : timeout;
}

static const struct timespec *shorter(const struct timespec *timeout, struct timespec *room)
{
    if (!timeout || !SET(rate))
        return timeout;
    *room = timespec(nanos(timeout) / control->rate);
    return room;
}

static const struct timespec *until(clockid_t clock, const struct timespec *time, struct timespec *room)
{
    if (!time || !control)
        return time;
    *room = timespec(unseen(clock, nanos(time)));
    return room;
}

/* Conditions do not tell which clock they are of: no monotonic clock has run for thirty years. */
static clockid_t clock_of(const struct timespec *time)
{
    return time && time->tv_sec > 1000000000 ? CLOCK_REALTIME : CLOCK_MONOTONIC;
}

int epoll_wait(int fd, struct epoll_event *events, int count, int timeout)
{
    return REAL(epoll_wait)(fd, events, count, shorter_ms(timeout));
}

int epoll_pwait(int fd, struct epoll_event *events, int count, int timeout, const sigset_t *mask)
{
    return REAL(epoll_pwait)(fd, events, count, shorter_ms(timeout), mask);
}

int poll(struct pollfd *fds, nfds_t count, int timeout)
{
    return REAL(poll)(fds, count, shorter_ms(timeout));
}

int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask)
{
    struct timespec room;
    return REAL(ppoll)(fds, count, shorter(timeout, &room), mask);
}

int select(int count, fd_set *read, fd_set *write, fd_set *except, struct timeval *timeout)
{
    struct timeval room;
    if (timeout && SET(rate)) {
        int64_t micros = (timeout->tv_sec * 1000000LL + timeout->tv_usec) / control->rate;
        room = (struct timeval){micros / 1000000, micros % 1000000};
        timeout = &room;
    }
    return REAL(select)(count, read, write, except, timeout);
}

int nanosleep(const struct timespec *time, struct timespec *left)
{
    struct timespec room;
    return REAL(nanosleep)(shorter(time, &room), left);
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *time, struct timespec *left)
{
    struct timespec room;
    time = flags & TIMER_ABSTIME ? until(clock, time, &room) : shorter(time, &room);
    return REAL(clock_nanosleep)(clock, flags, time, left);
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *time)
{
    struct timespec room;
    static __typeof__(pthread_cond_timedwait) *real;
#if defined(__GLIBC__) && defined(__x86_64__)
    /* The unversioned name may stand for the one of before 2003. */
    if (!real)
        real = (__typeof__(real))dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
#endif
    if (!real)
        real = (__typeof__(real))dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    return real(condition, mutex, until(clock_of(time), time, &room));
}

int sem_timedwait(sem_t *semaphore, const struct timespec *time)
{
    struct timespec room;
    return REAL(sem_timedwait)(semaphore, until(CLOCK_REALTIME, time, &room));
}

/* Rust waits through this one. */
long syscall(long number, ...)
{
    struct timespec room;
    va_list list;
    va_start(list, number);
    long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long), d = va_arg(list, long);
    long e = va_arg(list, long), f = va_arg(list, long);
    va_end(list);
    if (number == SYS_futex && control && d) {
        const struct timespec *time = (const struct timespec *)d;
        int operation = (int)b & FUTEX_CMD_MASK;
        if (operation == FUTEX_WAIT)
            d = (long)shorter(time, &room);
        else if (operation == FUTEX_WAIT_BITSET)
            d = (long)until(b & FUTEX_CLOCK_REALTIME ? CLOCK_REALTIME : CLOCK_MONOTONIC, time, &room);
    }
    return REAL(syscall)(number, a, b, c, d, e, f);
}
