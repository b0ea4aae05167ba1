/*
 * Integer Sort, the benchmark IS of the NAS Parallel Benchmarks, on coherent memory: ten times the rank of every key.
 *
 * Written from its specification (Bailey et al., The NAS Parallel Benchmarks, RNR-94-007, section 2.8) and verified as
 * published: the ranks of five keys in every iteration, and at the end that the keys are sorted by their ranks.
 *
 *     is S|W|A
 *
 * Each thread generates and counts a slice of the keys and ranks a range of the key values. The keys, the counts of every
 * thread, the ranks and the sorted keys are in the coherent memory; threads only load and store there, and meet.
 */
#include <time.h>

#include "testbed.h"

enum { ITERATIONS = 10, TESTS = 5, PAGE = 4096 };

/* What the specification says of a class. A key's published rank moves with the iteration, up for the first `rising` of
 * the test keys and down for the others; `rise` and `fall` are added to the iteration. */
static const struct class {
    char name;
    int log2_keys, log2_max_key;
    int index[TESTS], rank[TESTS];
    int rising, rise, fall;
} CLASSES[] = {
    {'S', 16, 11, {48427, 17148, 23627, 62548, 4431}, {0, 18, 346, 64917, 65463}, 3, 0, 0},
    {'W', 20, 16, {357773, 934767, 875723, 898999, 404505}, {1249, 11698, 1039987, 1043896, 1048018}, 2, -2, 0},
    {'A', 23, 19, {2112377, 662041, 5336171, 3642833, 4250760}, {104, 17523, 123928, 8288932, 8388264}, 3, -1, -1},
};

static const struct class *class;
static struct testbed *bed;
static int keys_total, max_key;

/* In the coherent memory. */
static int *keys, *sorted, *ranks, *counts, *sums;

/* Of this thread. */
static int first, end; /* its slice of the keys */
static int low, high;  /* its range of key values */

/* The pseudorandom numbers of the benchmarks: x' = a x mod 2^46, as a fraction of 2^46 (section 2.3). */
static const uint64_t MULTIPLIER = 1220703125, SEED = 314159265, MODULUS = 1ull << 46;

static uint64_t power(uint64_t base, uint64_t exponent)
{
    uint64_t result = 1;
    for (; exponent; exponent >>= 1, base = base * base % MODULUS) /* a product's low 46 bits survive the overflow */
        if (exponent & 1)
            result = result * base % MODULUS;
    return result;
}

static void generate(void)
{
    uint64_t x = SEED * power(MULTIPLIER, 4 * (uint64_t)first) % MODULUS;
    for (int i = first; i < end; i++) {
        double sum = 0;
        for (int n = 0; n < 4; n++) {
            x = MULTIPLIER * x % MODULUS;
            sum += (double)x / (double)MODULUS;
        }
        keys[i] = (int)(max_key / 4 * sum);
    }
}

/* ranks[k]: how many keys are at most k. */
static void rank_keys(int iteration, int *own)
{
    if (first == 0) { /* the slice of the first thread holds both */
        keys[iteration] = iteration;
        keys[iteration + ITERATIONS] = max_key - iteration;
    }
    memset(own, 0, max_key * sizeof *own);
    for (int i = first; i < end; i++)
        own[keys[i]]++;
    memcpy(counts + (size_t)bed->rank * max_key, own, max_key * sizeof *own);
    testbed_barrier();

    int sum = 0;
    for (int k = low; k < high; k++) {
        for (int thread = 0; thread < bed->ranks; thread++)
            sum += counts[(size_t)thread * max_key + k];
        own[k] = sum;
    }
    sums[bed->rank * PAGE / sizeof *sums] = sum;
    testbed_barrier();

    int below = 0;
    for (int thread = 0; thread < bed->rank; thread++)
        below += sums[thread * PAGE / sizeof *sums];
    for (int k = low; k < high; k++)
        ranks[k] = own[k] + below;
    testbed_barrier();
}

static int wrong_ranks(int iteration)
{
    int wrong = 0;
    for (int test = 0; test < TESTS; test++) {
        int key = keys[class->index[test]];
        if (key <= 0 || key >= keys_total)
            continue;
        int rises = test < class->rising;
        int expected = class->rank[test] + (rises ? iteration + class->rise : -(iteration + class->fall));
        if (ranks[key - 1] != expected) {
            printf("iteration %d, key %d: found rank %d, expected %d\n", iteration, key, ranks[key - 1], expected);
            wrong++;
        }
    }
    return wrong;
}

/* Every thread puts the keys of its range in their places, and looks at its slice. */
static int unsorted(void)
{
    int next = low ? ranks[low - 1] : 0, wrong = 0;
    for (int k = low; k < high; k++)
        for (; next < ranks[k]; next++)
            sorted[next] = k;
    testbed_barrier();

    int *seen = calloc(max_key, sizeof *seen);
    for (int i = first; i < end; i++)
        wrong += i > 0 && sorted[i - 1] > sorted[i];
    for (int i = 0; i < keys_total; i++) { /* the sorted keys are the keys: none is lost and none is made up */
        seen[keys[i]]++;
        seen[sorted[i]]--;
    }
    for (int k = 0; k < max_key; k++)
        wrong += seen[k] != 0;
    free(seen);
    return wrong;
}

static void *place(size_t *used, size_t bytes)
{
    void *found = (char *)bed->memory + *used;
    *used += (bytes + PAGE - 1) / PAGE * PAGE;
    if (*used > bed->size) {
        printf("found a region of %zu bytes, expected more: make `region` larger\n", bed->size);
        exit(2);
    }
    return found;
}

static double now_s(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

int main(int argc, char **argv)
{
    for (size_t i = 0; i < sizeof CLASSES / sizeof *CLASSES; i++)
        if (argc == 2 && argv[1][0] == CLASSES[i].name && !argv[1][1])
            class = &CLASSES[i];
    if (!class) {
        printf("usage: is S|W|A\n");
        return 2;
    }
    bed = testbed_attach();
    keys_total = 1 << class->log2_keys;
    max_key = 1 << class->log2_max_key;
    size_t used = 0;
    keys = place(&used, keys_total * sizeof *keys);
    sorted = place(&used, keys_total * sizeof *sorted);
    ranks = place(&used, max_key * sizeof *ranks);
    counts = place(&used, (size_t)bed->ranks * max_key * sizeof *counts);
    sums = place(&used, (size_t)bed->ranks * PAGE);
    first = (int)((long long)keys_total * bed->rank / bed->ranks);
    end = (int)((long long)keys_total * (bed->rank + 1) / bed->ranks);
    low = (int)((long long)max_key * bed->rank / bed->ranks);
    high = (int)((long long)max_key * (bed->rank + 1) / bed->ranks);

    int *own = malloc(max_key * sizeof *own), wrong = 0;
    generate();
    testbed_barrier();
    rank_keys(1, own); /* once before the clock is started, as specified */
    double begin_s = now_s();
    for (int iteration = 1; iteration <= ITERATIONS; iteration++) {
        rank_keys(iteration, own);
        if (bed->rank == 0)
            wrong += wrong_ranks(iteration);
        testbed_barrier(); /* the next iteration changes keys */
    }
    double seconds = now_s() - begin_s;
    int misplaced = unsorted();
    testbed_barrier();
    if (bed->rank == 0) {
        printf("IS class %c on %d threads of %d kernels: %d keys, %.3f s, %d wrong ranks\n", class->name, bed->ranks,
               bed->kernels, keys_total, seconds, wrong);
        testbed_figure("seconds", seconds);
        testbed_figure("keys_per_s", (double)ITERATIONS * keys_total / seconds);
    }
    if (misplaced)
        printf("%d keys out of order, lost or made up\n", misplaced);
    return wrong || misplaced ? 1 : 0;
}
