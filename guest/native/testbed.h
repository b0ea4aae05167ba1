/*
 * Coherent memory for C programs. Attach once, then only load and store: no call tells the coherency layer anything.
 *
 *     #include "testbed.h"
 *
 *     int main(void)
 *     {
 *         struct testbed *bed = testbed_attach();
 *         volatile long *shared = bed->memory;
 *         if (bed->rank == 0)
 *             shared[0] = 7;
 *         testbed_barrier();
 *         return shared[0] == 7 ? 0 : 1;
 *     }
 *
 * The program runs once for every thread of the experiment, on every kernel. The memory lies at the same address in all
 * of them, zeroed. An exit status other than 0 says that the program has seen something wrong: the point fails. What it
 * prints is kept with the results. testbed_figure() reports a number, for results and expectations.
 *
 * All of the region is mapped at first; testbed_map(), testbed_unmap(), testbed_protect() and testbed_move() change that, on
 * all kernels at once.
 *
 * One file is all there is of it; include it in one source file. C17 with the GNU C library.
 */
#ifndef TESTBED_H
#define TESTBED_H

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

struct testbed {
    void *memory;        /* the coherent memory */
    size_t size;         /* its size in bytes, whole pages of 4096 */
    int kernel, kernels; /* this kernel, and how many share the memory */
    int rank, ranks;     /* this thread among all threads of all kernels, and their number */
    int thread;          /* among the threads of this kernel */
    const char *role;    /* the word the experiment file gives this thread */
    int iterations;      /* what the experiment file says */
    uint64_t seed;       /* of this point */
};

/* guest/region.py and guest/application.py: where the memory lies, and the packets between daemon and application. */
#define TESTBED_BASE 0x100000000000ull
enum { TESTBED_PACKET = 1 << 16 };

static struct testbed testbed_;
static pid_t testbed_process_;
static int testbed_socket_ = -1;
static char testbed_figures_[8192];

static void testbed_die_(const char *what)
{
    int error = errno;
    fflush(stdout);
    fprintf(stderr, "testbed: %s: %s\n", what, strerror(error));
    _exit(120);
}

static long testbed_number_(const char *name)
{
    const char *text = getenv(name);
    if (!text) {
        fprintf(stderr, "testbed: %s is not set: `testbed run` starts this program\n", name);
        _exit(120);
    }
    return strtol(text, NULL, 10);
}

static void testbed_send_fds_(const char *packet, size_t size, const int *fds, size_t count)
{
    if (testbed_socket_ < 0) {
        errno = ENOTCONN;
        testbed_die_("something of testbed.h is called before testbed_attach");
    }
    char control[CMSG_SPACE(2 * sizeof *fds)] = {0};
    struct iovec data = {(void *)(uintptr_t)packet, size};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    if (count) {
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE(count * sizeof *fds);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(count * sizeof *fds);
        memcpy(CMSG_DATA(header), fds, count * sizeof *fds);
    }
    if (sendmsg(testbed_socket_, &message, MSG_NOSIGNAL) < 0)
        _exit(120); /* the daemon is gone, or ends the run */
}

static void testbed_send_(const char *packet, size_t size, int fd)
{
    testbed_send_fds_(packet, size, &fd, fd >= 0);
}

static void testbed_expect_(char kind)
{
    char got = 0;
    ssize_t size;
    do
        size = recv(testbed_socket_, &got, 1, 0);
    while (size < 0 && errno == EINTR);
    if (size != 1 || got != kind)
        _exit(120);
}

/* Returns when every thread of every kernel has called it. */
static inline void testbed_barrier(void)
{
    testbed_send_("B", 1, -1);
    testbed_expect_('R');
}

/* Tells the daemon of a wait; guest/surroundings.py has the packets. Never returns if a kernel has died. */
static void testbed_word_(char kind, const uint64_t *word, uint64_t value)
{
    char packet[64];
    int size = snprintf(packet, sizeof packet, "%c%llu %llu", kind, (unsigned long long)(uintptr_t)word,
                        (unsigned long long)value);
    testbed_send_(packet, size, -1);
}

static char testbed_waited_(int may_be_lost)
{
    char answer[32] = {0};
    ssize_t size;
    do
        size = recv(testbed_socket_, answer, sizeof answer - 1, 0);
    while (size < 0 && errno == EINTR);
    if (size < 1)
        _exit(120);
    if (answer[0] == 'X' && !may_be_lost) {
        fprintf(stderr, "testbed: kernel %s died, and what this thread waits for may have died with it\n", answer + 1);
        _exit(121);
    }
    return answer[0];
}

/*
 * Synchronisation between threads of all kernels. Each of these structures lies in the coherent memory, zeroed at first, and
 * needs nothing else; the same words are what scripts in Python use, and docs/synchronisation.md tells how it works. All of it is
 * fair. Who must wait sleeps; it ends with exit status 121 if a kernel has died, as that may have had what it waits for.
 *
 * Everything is made of two things: __atomic builtins on words that only grow, and these.
 */
static inline void testbed_wait_until(uint64_t *word, uint64_t value) /* sleep until *word >= value */
{
    while (__atomic_load_n(word, __ATOMIC_SEQ_CST) < value) {
        testbed_word_('W', word, value);
        if (testbed_waited_(0) != 'Q')
            _exit(120);
        if (__atomic_load_n(word, __ATOMIC_SEQ_CST) >= value) { /* it has grown before anybody could know of us */
            testbed_send_("C", 1, -1);
            testbed_waited_(1);
            return;
        }
        if (testbed_waited_(0) != 'V')
            _exit(120);
    }
}

static inline void testbed_wake(uint64_t *word, uint64_t value) /* *word has reached value: whoever waits for that goes on */
{
    testbed_word_('N', word, value);
}

struct testbed_semaphore {
    uint64_t drawn, released;
};

/* All threads say the same number of permits. */
static inline void testbed_semaphore_acquire(struct testbed_semaphore *semaphore, uint64_t permits)
{
    uint64_t ticket = __atomic_fetch_add(&semaphore->drawn, 1, __ATOMIC_SEQ_CST);
    if (ticket >= permits)
        testbed_wait_until(&semaphore->released, ticket + 1 - permits);
}

static inline void testbed_semaphore_release(struct testbed_semaphore *semaphore, uint64_t permits)
{
    uint64_t released = __atomic_add_fetch(&semaphore->released, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&semaphore->drawn, __ATOMIC_SEQ_CST) >= permits + released)
        testbed_wake(&semaphore->released, released);
}

struct testbed_mutex {
    struct testbed_semaphore one;
};

static inline void testbed_mutex_lock(struct testbed_mutex *mutex)
{
    testbed_semaphore_acquire(&mutex->one, 1);
}

static inline int testbed_mutex_trylock(struct testbed_mutex *mutex) /* whether it was free, and is held now */
{
    uint64_t drawn = __atomic_load_n(&mutex->one.drawn, __ATOMIC_SEQ_CST);
    return drawn == __atomic_load_n(&mutex->one.released, __ATOMIC_SEQ_CST)
           && __atomic_compare_exchange_n(&mutex->one.drawn, &drawn, drawn + 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static inline void testbed_mutex_unlock(struct testbed_mutex *mutex) /* ends the thread if nobody holds it */
{
    if (__atomic_load_n(&mutex->one.drawn, __ATOMIC_SEQ_CST) <= __atomic_load_n(&mutex->one.released, __ATOMIC_SEQ_CST)) {
        errno = EPERM;
        testbed_die_("a mutex that nobody holds is unlocked");
    }
    testbed_semaphore_release(&mutex->one, 1);
}

struct testbed_condition {
    uint64_t drawn, notified;
};

/* Lets go of the mutex, which the caller holds, until notified; holds it again then. */
static inline void testbed_condition_wait(struct testbed_condition *condition, struct testbed_mutex *mutex)
{
    uint64_t ticket = __atomic_fetch_add(&condition->drawn, 1, __ATOMIC_SEQ_CST);
    testbed_mutex_unlock(mutex);
    testbed_wait_until(&condition->notified, ticket + 1);
    testbed_mutex_lock(mutex);
}

/* Lets `count` go on, those that have waited longest, or as many as there are. The caller holds the mutex. */
static inline void testbed_condition_notify(struct testbed_condition *condition, uint64_t count)
{
    uint64_t waiting = __atomic_load_n(&condition->drawn, __ATOMIC_SEQ_CST) - condition->notified;
    if (count > waiting)
        count = waiting;
    if (count)
        testbed_wake(&condition->notified, __atomic_add_fetch(&condition->notified, count, __ATOMIC_SEQ_CST));
}

struct testbed_meeting {
    uint64_t come;
};

/* Returns when `parties` threads have called it; the first gets 0, the last `parties` - 1. */
static inline uint64_t testbed_meet(struct testbed_meeting *meeting, uint64_t parties)
{
    uint64_t come = __atomic_fetch_add(&meeting->come, 1, __ATOMIC_SEQ_CST), complete = (come / parties + 1) * parties;
    if (come + 1 == complete)
        testbed_wake(&meeting->come, complete);
    else
        testbed_wait_until(&meeting->come, complete);
    return come % parties;
}

/* Reports a number by its name (letters, digits, '_'); of several threads that report one, the largest is kept. */
static inline void testbed_figure(const char *name, double value)
{
    size_t used = strlen(testbed_figures_);
    if (!(value - value == 0.0)) {
        errno = EDOM;
        testbed_die_("a figure is not a finite number");
    }
    for (const char *letter = name; *letter; letter++)
        if (*letter == '"' || *letter == '\\' || (unsigned char)*letter < ' ') {
            errno = EINVAL;
            testbed_die_("the name of a figure has a quotation mark, a backslash or a control character");
        }
    int more = snprintf(testbed_figures_ + used, sizeof testbed_figures_ - used, "%s\"%s\": %.17g", used ? ", " : "",
                        name, value);
    if (more < 0 || (size_t)more >= sizeof testbed_figures_ - used) {
        errno = ENOBUFS;
        testbed_die_("the figures of this thread take too much room");
    }
}

static void testbed_end_(int status, void *nothing)
{
    char packet[sizeof testbed_figures_ + 128];
    int size;
    (void)nothing;
    fflush(NULL);
    if (getpid() != testbed_process_) {
        fprintf(stderr, "testbed: a process that was made by fork() ends as if it were the thread: let it end by _exit()\n");
        return;
    }
    if (status)
        size = snprintf(packet, sizeof packet, "E{\"kind\": \"ExitStatus\", \"message\": \"%d\"}", status);
    else
        size = snprintf(packet, sizeof packet, "F{\"wrong\": 0, \"mismatches\": [], \"figures\": {%s}}", testbed_figures_);
    testbed_send_(packet, size, -1);
    recv(testbed_socket_, packet, 1, 0); /* end when the daemon closes the socket */
}

static void testbed_operate_send_(int kind, const void *at, size_t size, int access, const void *to, char *answer, size_t room)
{
    size_t base = TESTBED_BASE / 4096, first = (uintptr_t)at / 4096 - base;
    size_t target = to ? (uintptr_t)to / 4096 - base : 0;
    ssize_t got;
    int length = snprintf(answer, room, "A%d %zu %zu %d %zu", kind, first, size / 4096, access, target);
    testbed_send_(answer, length, -1);
    do
        got = recv(testbed_socket_, answer, room - 1, 0);
    while (got < 0 && errno == EINTR);
    if (got < 1 || answer[0] != 'D')
        _exit(120);
    answer[got] = 0;
}

/* An operation on the address space, numbered as in guest/protocol/address_space.py. */
static int testbed_operate_(int kind, const void *at, size_t size, int access, const void *to)
{
    static const int errors[] = {0, EINVAL, EEXIST, ENOMEM, EHOSTDOWN};
    char answer[128];
    unsigned refusal;
    if (((uintptr_t)at | size | (uintptr_t)to) % 4096 || !size || (uintptr_t)at < TESTBED_BASE || (to && (uintptr_t)to < TESTBED_BASE)) {
        errno = EINVAL;
        return -1;
    }
    testbed_operate_send_(kind, at, size, access, to, answer, sizeof answer);
    refusal = strtoul(answer + 1, NULL, 10);
    if (refusal)
        errno = refusal < sizeof errors / sizeof *errors ? errors[refusal] : EPROTO;
    return refusal ? -1 : 0;
}

/*
 * Map, unmap, protect and move whole pages of the region on all kernels; each returns when it is done everywhere. Mapped
 * pages are zeros. What is not mapped, and a store to what is not writable, gets SIGSEGV. -1 says that nothing was changed,
 * and errno why: EINVAL (not whole pages, or beyond the region), EEXIST (something is mapped there already), ENOMEM
 * (something of it is not mapped), EHOSTDOWN (the home kernel, which orders all this, has died).
 */
static inline int testbed_map(void *at, size_t size, int writable)
{
    return testbed_operate_(0, at, size, writable ? 2 : 1, NULL);
}

static inline int testbed_unmap(void *at, size_t size)
{
    return testbed_operate_(1, at, size, 0, NULL);
}

static inline int testbed_protect(void *at, size_t size, int writable)
{
    return testbed_operate_(2, at, size, writable ? 2 : 1, NULL);
}

static inline int testbed_move(void *from, size_t size, void *to)
{
    return testbed_operate_(3, from, size, 2, to);
}

/* Protects this program's memory as the daemon says, which cannot do so itself: see guest/protection.py. */
static void *testbed_protecting_(void *connection)
{
    int fd = (int)(intptr_t)connection;
    uint64_t order[4];
    while (read(fd, order, sizeof order) == sizeof order) {
        int64_t result = syscall(order[0], order[1], order[2], order[3]);
        if (result < 0)
            result = -errno;
        if (write(fd, &result, sizeof result) != sizeof result)
            break;
    }
    close(fd);
    return NULL;
}

static int testbed_protection_(void)
{
    pthread_t thread;
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) || (errno = pthread_create(&thread, NULL, testbed_protecting_, (void *)(intptr_t)ends[1])))
        testbed_die_("the thread that protects memory");
    pthread_detach(thread);
    return ends[0];
}

static int testbed_userfaultfd_(void)
{
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_WP_HUGETLBFS_SHMEM};
    int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == EPERM)
        fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0)
        testbed_die_("userfaultfd with write protection of shared memory");
    return fd;
}

/* The daemon's offer: in the packet size and offset of the memory, with its descriptor; what follows is not for us. */
static void testbed_map_(void)
{
    static char packet[TESTBED_PACKET];
    char control[CMSG_SPACE(2 * sizeof(int))] = {0};
    struct iovec data = {packet, sizeof packet - 1};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t size = recvmsg(testbed_socket_, &message, MSG_CMSG_CLOEXEC);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    unsigned long long bytes, offset;
    int fds[2];
    if (size <= 0 || packet[0] != 'M' || !header || header->cmsg_len < CMSG_LEN(sizeof fds) || sscanf(packet + 1, "%llu %llu", &bytes, &offset) != 2) {
        errno = EPROTO;
        testbed_die_("the daemon's offer of memory");
    }
    memcpy(fds, CMSG_DATA(header), sizeof fds);
    testbed_.size = bytes;
    testbed_.memory = mmap((void *)TESTBED_BASE, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, fds[0],
                           (off_t)offset);
    if (testbed_.memory != (void *)TESTBED_BASE)
        testbed_die_("the memory cannot be mapped at its address");
    if (madvise(testbed_.memory, bytes, MADV_DONTFORK)) /* nobody would serve the faults of a copy of this process */
        testbed_die_("the memory cannot be kept from copies of this process");
    close(fds[0]);
    close(fds[1]);
}

/* Maps the memory and returns when every thread has done so; call it once, before anything else of this header. */
static inline struct testbed *testbed_attach(void)
{
    struct uffdio_register range = {.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP};
    uint64_t accesses = 0;
    int faults, log, fds[2];

    if (testbed_.memory) {
        errno = EALREADY;
        testbed_die_("testbed_attach is called a second time");
    }
    testbed_.kernel = testbed_number_("TESTBED_KERNEL");
    testbed_.kernels = testbed_number_("TESTBED_KERNELS");
    testbed_.thread = testbed_number_("TESTBED_THREAD");
    testbed_.rank = testbed_number_("TESTBED_RANK");
    testbed_.ranks = testbed_number_("TESTBED_RANKS");
    testbed_.iterations = testbed_number_("TESTBED_ITERATIONS");
    testbed_.seed = testbed_number_("TESTBED_SEED");
    testbed_.role = getenv("TESTBED_ROLE");
    testbed_socket_ = testbed_number_("TESTBED_SOCKET");
    testbed_process_ = getpid();
    testbed_map_();

    faults = testbed_userfaultfd_(); /* stays open: see guest/application.py */
    range.range.start = TESTBED_BASE;
    range.range.len = testbed_.size;
    if (ioctl(faults, UFFDIO_REGISTER, &range) < 0)
        testbed_die_("UFFDIO_REGISTER");
    fds[0] = faults;
    fds[1] = testbed_protection_();
    testbed_send_fds_("U", 1, fds, 2);
    close(fds[1]);
    testbed_expect_('K');

    log = memfd_create("accesses", MFD_CLOEXEC); /* none are logged */
    if (log < 0 || write(log, &accesses, sizeof accesses) != sizeof accesses)
        testbed_die_("the access log");
    testbed_send_("L", 1, log);
    close(log);
    if (on_exit(testbed_end_, NULL))
        testbed_die_("on_exit");
    testbed_barrier();
    return &testbed_;
}

#endif
