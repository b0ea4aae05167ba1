/*
 * How long a page fault takes when another process serves it in C: the floor that `testbed bench` compares us with.
 *
 * The application loads from and stores to pages of a shared memfd mapping; a handler, forked off it, reads the faults
 * from its userfaultfd and resolves them at once, asking nobody. Both do the system calls our daemon does for the same
 * fault, and nothing else. A sample is one access as the application sees it.
 *
 *     fault_reference PAGES ROUNDS
 *
 * prints one line of JSON: for each kind of fault its samples in microseconds, PAGES * ROUNDS of them.
 *
 *     zero      first touch, a zero page is installed (UFFDIO_ZEROPAGE)
 *     copy      missing page, installed from another buffer (UFFDIO_COPY)
 *     protect   store to a present, write-protected page (UFFDIO_WRITEPROTECT)
 *
 * Sources: userfaultfd(2), ioctl_userfaultfd(2), Documentation/admin-guide/mm/userfaultfd.rst of Linux.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, LARGEST_RUN = 1 << 24 };

/* How the handler resolves a missing page. In a shared mapping, for the application chooses and the handler reads. */
enum resolution { ZERO, COPY };

struct region {
    unsigned char *memory;
    volatile uint32_t *resolution; /* enum resolution */
    size_t pages;
    int memfd;
    int faults; /* the userfaultfd */
};

static void die(const char *what)
{
    fprintf(stderr, "fault_reference: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now_us(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static int open_userfaultfd(void)
{
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_WP_HUGETLBFS_SHMEM};
    int fd = syscall(SYS_userfaultfd, O_CLOEXEC);
    /* Without privilege only faults of user mode may be served, and there are no others here. */
    if (fd < 0 && errno == EPERM)
        fd = syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    if (fd < 0)
        die("userfaultfd");
    if (ioctl(fd, UFFDIO_API, &api) < 0)
        die("UFFDIO_API with write protection on shared memory");
    return fd;
}

static struct region make_region(size_t pages)
{
    struct region region = {.pages = pages};
    region.memfd = memfd_create("fault_reference", MFD_CLOEXEC);
    if (region.memfd < 0 || ftruncate(region.memfd, pages * PAGE) < 0)
        die("memfd");
    region.memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, region.memfd, 0);
    if (region.memory == MAP_FAILED)
        die("mmap of the memfd");
    region.resolution = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (region.resolution == MAP_FAILED)
        die("mmap");
    region.faults = open_userfaultfd();
    struct uffdio_register range = {
        .range = {.start = (uintptr_t)region.memory, .len = pages * PAGE},
        .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP,
    };
    if (ioctl(region.faults, UFFDIO_REGISTER, &range) < 0)
        die("UFFDIO_REGISTER");
    return region;
}

static void protect(const struct region *region, uintptr_t start, size_t length, int on)
{
    struct uffdio_writeprotect change = {
        .range = {.start = start, .len = length},
        .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
    };
    if (ioctl(region->faults, UFFDIO_WRITEPROTECT, &change) < 0)
        die("UFFDIO_WRITEPROTECT");
}

/* The handler process: serves faults until its parent is gone. */
static void serve(const struct region *region)
{
    static _Alignas(PAGE) unsigned char source[PAGE];
    struct uffd_msg message;
    memset(source, 0x5a, sizeof source);
    for (;;) {
        if (read(region->faults, &message, sizeof message) != sizeof message)
            die("read of the userfaultfd");
        uintptr_t page = message.arg.pagefault.address & ~(uintptr_t)(PAGE - 1);
        if (message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) {
            protect(region, page, PAGE, 0);
        } else if (*region->resolution == ZERO) {
            struct uffdio_zeropage zero = {.range = {.start = page, .len = PAGE}};
            if (ioctl(region->faults, UFFDIO_ZEROPAGE, &zero) < 0)
                die("UFFDIO_ZEROPAGE");
        } else {
            struct uffdio_copy copy = {.dst = page, .src = (uintptr_t)source, .len = PAGE};
            if (ioctl(region->faults, UFFDIO_COPY, &copy) < 0)
                die("UFFDIO_COPY");
        }
    }
}

static void discard_all(const struct region *region)
{
    if (fallocate(region->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, region->pages * PAGE) < 0)
        die("PUNCH_HOLE");
}

/* Both of these fill `samples`, one for every page. `expected` is what a load must find: a handler that resolved
 * nothing, or the wrong page, must not look fast. */
static void time_loads(const struct region *region, double *samples, uint64_t expected)
{
    for (size_t page = 0; page < region->pages; page++) {
        volatile uint64_t *word = (volatile uint64_t *)(region->memory + page * PAGE);
        double start = now_us();
        uint64_t value = *word;
        samples[page] = now_us() - start;
        if (value != expected) {
            fprintf(stderr, "fault_reference: page %zu holds %#llx, expected %#llx\n", page,
                    (unsigned long long)value, (unsigned long long)expected);
            exit(1);
        }
    }
}

static void time_stores(const struct region *region, double *samples)
{
    for (size_t page = 0; page < region->pages; page++) {
        volatile uint64_t *word = (volatile uint64_t *)(region->memory + page * PAGE);
        double start = now_us();
        *word = page;
        samples[page] = now_us() - start;
    }
}

static void print_samples(const char *name, const double *samples, size_t count)
{
    printf("\"%s\": [", name);
    for (size_t index = 0; index < count; index++)
        printf(index ? ", %.2f" : "%.2f", samples[index]);
    printf("]");
}

/* Nobody else would wake the application, which is waiting for a page. */
static void handler_died(int signal)
{
    static const char text[] = "fault_reference: the handler died\n";
    (void)signal;
    _exit(write(STDERR_FILENO, text, sizeof text - 1) < 0 ? 2 : 1);
}

static void measure(const struct region *region, size_t rounds)
{
    size_t pages = region->pages, count = pages * rounds;
    double *zero = calloc(count, sizeof *zero), *copy = calloc(count, sizeof *copy);
    double *write = calloc(count, sizeof *write);
    if (!zero || !copy || !write)
        die("memory for the samples");
    for (size_t round = 0; round < rounds; round++) {
        *region->resolution = ZERO;
        time_loads(region, zero + round * pages, 0);
        protect(region, (uintptr_t)region->memory, pages * PAGE, 1);
        time_stores(region, write + round * pages);
        discard_all(region);
        *region->resolution = COPY;
        time_loads(region, copy + round * pages, 0x5a5a5a5a5a5a5a5a);
        discard_all(region);
    }
    printf("{");
    print_samples("zero", zero, count);
    printf(", ");
    print_samples("copy", copy, count);
    printf(", ");
    print_samples("protect", write, count);
    printf("}\n");
}

int main(int argc, char **argv)
{
    size_t pages = argc == 3 ? strtoul(argv[1], NULL, 10) : 0, rounds = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;
    if (!pages || !rounds || pages > LARGEST_RUN || rounds > LARGEST_RUN / pages) {
        fprintf(stderr, "usage: fault_reference PAGES ROUNDS, at most %d samples\n", LARGEST_RUN);
        return 2;
    }
    struct region region = make_region(pages);
    signal(SIGCHLD, handler_died);
    pid_t parent = getpid(), handler = fork();
    if (handler < 0)
        die("fork");
    if (handler == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent)
            serve(&region);
        _exit(1);
    }
    measure(&region, rounds);
    signal(SIGCHLD, SIG_DFL);
    kill(handler, SIGKILL);
    waitpid(handler, NULL, 0);
    return 0;
}
