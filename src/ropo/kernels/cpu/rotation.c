/* A rotation and its gradients in one pass each; RotationBlocks has the equations, ropo.rotations.batched the same in PyTorch.

   Every large product here has rows of BLOCK = 32 numbers on its right and few rows on its left, whose sums then stay in
   registers: `add_product`. Activations are worked on in tiles of 32 tokens, which stay in the cache between the reading of
   the channels and the writing of the result; a tile is 32 tokens so that channels, too, are rows of 32 numbers. Matrices are
   contiguous, row by row. Sums over tokens are not split among threads: results do not depend on their number. */

#include <string.h>

enum { BLOCK = 32, TILE = BLOCK };

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
enum { VECTORS = BLOCK / LANES, ROWS = 8 / VECTORS }; /* eight registers of sums: enough to hide how long each takes */

typedef long long integer;
typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define INLINED static inline __attribute__((always_inline)) /* so that `rows` is a constant and sums are registers */

INLINED void load(vector sums[][VECTORS], int rows, const float *from, integer stride) {
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < VECTORS; v++) sums[row][v] = ((const vector *)(from + row * stride))[v];
}

INLINED void store(vector sums[][VECTORS], int rows, float *to, integer stride) {
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < VECTORS; v++) ((vector *)(to + row * stride))[v] = sums[row][v];
}

/* Add a[row, k] b[k, 0:32], summed over k < inner: a[row, k] is a[row * a_row + k * a_inner], b's rows are b_stride apart. */
INLINED void add_product(vector sums[][VECTORS], int rows, const float *a, integer a_row, integer a_inner, const float *b,
                         integer b_stride, integer inner) {
    for (integer k = 0; k < inner; k++) {
        vector line[1][VECTORS];
        load(line, 1, b + k * b_stride, 0);
        for (int row = 0; row < rows; row++) {
            float factor = a[row * a_row + k * a_inner];
            for (int v = 0; v < VECTORS; v++) sums[row][v] += factor * line[0][v];
        }
    }
}

/* Run `work(rows)` for rows `first` to `first + rows` until all `count` are done: ROWS at a time, then one by one. */
#define IN_GROUPS(first, count, work)                                  \
    do {                                                               \
        integer first = 0;                                             \
        for (; first + ROWS <= (count); first += ROWS) work(ROWS);     \
        for (; first < (count); first++) work(1);                      \
    } while (0)

INLINED float dot(const float *a, const float *b) {
    vector sums = {0};
    for (int v = 0; v < VECTORS; v++) sums += ((const vector *)a)[v] * ((const vector *)b)[v];
    float total = 0;
    for (int lane = 0; lane < LANES; lane++) total += sums[lane];
    return total;
}

/* channels[m, t] of one tile; see RotationBlocks. */
static void read_channels(integer count, integer width, integer blocks, integer shared, const float *x, const float *read,
                          float *channels) {
    memset(channels, 0, (blocks + shared) * TILE * sizeof(float));
    for (integer token = 0; token < count; token++)
        for (integer block = 0; block < blocks; block++)
            for (integer channel = 0; channel <= shared; channel++) {
                const float *row = x + token * width + block * BLOCK;
                integer to = channel ? blocks + channel - 1 : block;
                channels[to * TILE + token] += dot(row, read + (block * (1 + shared) + channel) * BLOCK);
            }
}

/* mixed[m, t] = sum_n to_mixed[m, n] channels[n, t] of one tile. */
static void mix_channels(integer all, const float *to_mixed, const float *channels, float *mixed) {
#define MIX(rows)                                                      \
    do {                                                               \
        vector sums[rows][VECTORS] = {0};                              \
        add_product(sums, rows, to_mixed + m * all, all, 1, channels, TILE, all); \
        store(sums, rows, mixed + m * TILE, TILE);                     \
    } while (0)
    IN_GROUPS(m, all, MIX);
#undef MIX
}

/* out_b = x_b local_b + mixed_b^T write_b of one tile. */
static void write_blocks(integer count, integer width, integer blocks, integer shared, const float *x, const float *local,
                         const float *write, const float *mixed, float *out) {
    for (integer block = 0; block < blocks; block++) {
#define WRITE(rows)                                                                                  \
    do {                                                                                             \
        vector sums[rows][VECTORS] = {0};                                                            \
        add_product(sums, rows, x + token * width, width, 1, local, BLOCK, BLOCK);                   \
        add_product(sums, rows, mixed + block * TILE + token, 1, TILE, write, BLOCK, 1);             \
        add_product(sums, rows, mixed + blocks * TILE + token, 1, TILE, write + BLOCK, BLOCK, shared); \
        store(sums, rows, out + token * width, width);                                               \
    } while (0)
        IN_GROUPS(token, count, WRITE);
#undef WRITE
        x += BLOCK, out += BLOCK, local += BLOCK * BLOCK, write += (1 + shared) * BLOCK;
    }
}

/* x, out: (tokens, width); local: (blocks, 32, 32); read, write: (blocks, 1 + shared, 32); to_mixed: the transpose of mix, (all, all);
   channels: (all, tokens); scratch: (threads, 2, all, 32); all = blocks + shared. */
void ropo_rotate(integer tokens, integer width, integer shared, integer threads, const float *x, const float *local,
                 const float *read, const float *write, const float *to_mixed, float *out, float *channels, float *scratch) {
    integer blocks = width / BLOCK, all = blocks + shared;
#pragma omp parallel num_threads(threads)
    {
        float *own;
#pragma omp critical
        own = scratch, scratch += 2 * all * TILE;
        float *mixed = own + all * TILE;
#pragma omp for
        for (integer first = 0; first < tokens; first += TILE) {
            integer count = tokens - first < TILE ? tokens - first : TILE;
            read_channels(count, width, blocks, shared, x + first * width, read, own);
            for (integer m = 0; m < all; m++)
                memcpy(channels + m * tokens + first, own + m * TILE, count * sizeof(float));
            mix_channels(all, to_mixed, own, mixed);
            write_blocks(count, width, blocks, shared, x + first * width, local, write, mixed, out + first * width);
        }
    }
}

/* to[row, 0:32] += sum_t a[row, t] b[t, 0:32] for `count` rows; see add_product. */
INLINED void add_rows(integer count, integer tokens, const float *a, integer a_row, integer a_inner, const float *b,
                      float *to) {
#define ADD(rows)                                                                     \
    do {                                                                              \
        vector sums[rows][VECTORS];                                                   \
        load(sums, rows, to + row * BLOCK, BLOCK);                                    \
        add_product(sums, rows, a + row * a_row, a_row, a_inner, b, BLOCK, tokens);   \
        store(sums, rows, to + row * BLOCK, BLOCK);                                   \
    } while (0)
    IN_GROUPS(row, count, ADD);
#undef ADD
}

/* x, grad: (tokens, width); mixed, mixed_back: (all, tokens); the gradients: as local, read and write. */
void ropo_rotation_gradients(integer tokens, integer width, integer shared, integer threads, const float *x,
                             const float *grad, const float *mixed, const float *mixed_back, float *d_local,
                             float *d_read, float *d_write) {
    integer blocks = width / BLOCK;
#pragma omp parallel for num_threads(threads)
    for (integer block = 0; block < blocks; block++) {
        float *to_local = d_local + block * BLOCK * BLOCK;
        float *to_read = d_read + block * (1 + shared) * BLOCK, *to_write = d_write + block * (1 + shared) * BLOCK;
        memset(to_local, 0, BLOCK * BLOCK * sizeof(float));
        memset(to_read, 0, (1 + shared) * BLOCK * sizeof(float));
        memset(to_write, 0, (1 + shared) * BLOCK * sizeof(float));
        for (integer first = 0; first < tokens; first += TILE) {
            integer count = tokens - first < TILE ? tokens - first : TILE;
            /* Copies: rows that are a power of two apart would drive one another out of the cache. */
            float rows[TILE * BLOCK], grad_rows[TILE * BLOCK];
            for (integer token = 0; token < count; token++) {
                integer at = (first + token) * width + block * BLOCK;
                memcpy(rows + token * BLOCK, x + at, BLOCK * sizeof(float));
                memcpy(grad_rows + token * BLOCK, grad + at, BLOCK * sizeof(float));
            }
            integer own = block * tokens + first, others = blocks * tokens + first;
            add_rows(BLOCK, count, rows, 1, BLOCK, grad_rows, to_local);
            add_rows(1, count, mixed_back + own, 0, 1, rows, to_read);
            add_rows(shared, count, mixed_back + others, tokens, 1, rows, to_read + BLOCK);
            add_rows(1, count, mixed + own, 0, 1, grad_rows, to_write);
            add_rows(shared, count, mixed + others, tokens, 1, grad_rows, to_write + BLOCK);
        }
    }
}
