/* A few tokens laid out coordinate by coordinate: a coordinate is a row of numbers, each lane of it another token. */

#include <string.h>

#if defined(__AVX__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
enum { VECTORS = 2, TILE = VECTORS * LANES }; /* two vectors a row: each factor that they share is read half as often */

typedef long long integer;
typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int lanes __attribute__((vector_size(4 * LANES)));
typedef struct {
    vector of[VECTORS];
} row;

#define INLINED static inline __attribute__((always_inline))

#ifdef __clang__
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICK(a, b, ...) __builtin_shuffle(a, b, (lanes){__VA_ARGS__})
#endif

#if defined(__AVX__)
#define LOW(a, b) PICK(a, b, 0, 8, 1, 9, 4, 12, 5, 13)
#define HIGH(a, b) PICK(a, b, 2, 10, 3, 11, 6, 14, 7, 15)
#define LOW_PAIRS(a, b) PICK(a, b, 0, 1, 8, 9, 4, 5, 12, 13)
#define HIGH_PAIRS(a, b) PICK(a, b, 2, 3, 10, 11, 6, 7, 14, 15)
#define LOW_HALVES(a, b) PICK(a, b, 0, 1, 2, 3, 8, 9, 10, 11)
#define HIGH_HALVES(a, b) PICK(a, b, 4, 5, 6, 7, 12, 13, 14, 15)
#else
#define LOW(a, b) PICK(a, b, 0, 4, 1, 5)
#define HIGH(a, b) PICK(a, b, 2, 6, 3, 7)
#define LOW_PAIRS(a, b) PICK(a, b, 0, 1, 4, 5)
#define HIGH_PAIRS(a, b) PICK(a, b, 2, 3, 6, 7)
#endif

/* Transpose each four by four square of four rows. */
INLINED void transpose_four(const vector from[4], vector to[4]) {
    vector a = LOW(from[0], from[1]), b = HIGH(from[0], from[1]), c = LOW(from[2], from[3]), d = HIGH(from[2], from[3]);
    to[0] = LOW_PAIRS(a, c), to[1] = HIGH_PAIRS(a, c), to[2] = LOW_PAIRS(b, d), to[3] = HIGH_PAIRS(b, d);
}

/* Transpose a square of LANES by LANES numbers; rows are so many numbers apart. All loops must be unrolled: then the square
   stays in registers. */
INLINED void transpose(const float *from, integer from_stride, float *to, integer to_stride) {
    vector rows[LANES], columns[LANES];
#pragma GCC unroll 8
    for (int i = 0; i < LANES; i++) rows[i] = *(const vector *)(from + i * from_stride);
#pragma GCC unroll 2
    for (int i = 0; i < LANES; i += 4) transpose_four(rows + i, columns + i);
#ifdef LOW_HALVES
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        vector a = columns[i], b = columns[i + 4];
        columns[i] = LOW_HALVES(a, b), columns[i + 4] = HIGH_HALVES(a, b);
    }
#endif
#pragma GCC unroll 8
    for (int i = 0; i < LANES; i++) *(vector *)(to + i * to_stride) = columns[i];
}

/* Lay coordinates `first` to `last` of TILE tokens out in rows; x: (TILE, width). */
INLINED void gather(integer width, integer first, integer last, const float *x, row *rows) {
    integer i = first;
    for (; i + LANES <= last; i += LANES)
        for (int v = 0; v < VECTORS; v++) transpose(x + v * LANES * width + i, width, (float *)&rows[i].of[v], TILE);
    for (; i < last; i++)
        for (int token = 0; token < TILE; token++) ((float *)(rows + i))[token] = x[token * width + i];
}

/* The opposite of `gather`. */
INLINED void scatter(integer width, integer first, integer last, const row *rows, float *x) {
    integer i = first;
    for (; i + LANES <= last; i += LANES)
        for (int v = 0; v < VECTORS; v++) transpose((const float *)&rows[i].of[v], TILE, x + v * LANES * width + i, width);
    for (; i < last; i++)
        for (int token = 0; token < TILE; token++) x[token * width + i] = ((const float *)(rows + i))[token];
}
