/* RoPO's rotation and its gradients, plane by plane; ropo.ops.reference has the equations in PyTorch.

   y = x G_reverse G_forward H(u_1) ... H(u_k). A tile of tokens passes through both trees and the reflections in one go: first
   the reverse tree, whose planes are turned from the finest level to the coarsest, then the forward tree, from the coarsest to
   the finest. The levels within BLOCK coordinates are turned block by block, as long as these are in the nearest cache; the
   others touch every BLOCK-th coordinate only. Nothing is kept for the backward pass but x and a table of the parameters: there
   the tile is rotated again, and then turned back plane by plane, together with its gradient. */

#include <math.h>
#include <omp.h>

#include "tile.h"

enum { FINE_LEVELS = 7, BLOCK = 1 << FINE_LEVELS, MAX_LEVELS = 62 };

/* A table of numbers made of the parameters, and where its parts are. */
typedef struct {
    integer width, trees, reflections, planes; /* of each tree */
    integer levels, start[MAX_LEVELS + 1];     /* each level's first plane */
    float *forward, *reverse;                  /* cos and sin of each plane, (planes, 2) */
    float *units, *norms, *gram;               /* (reflections, width), (reflections,), (reflections, reflections) */
} rotation;

static rotation rotation_in(integer width, integer trees, integer reflections, float *table) {
    rotation r = {.width = width, .trees = trees, .reflections = reflections, .planes = width - 1};
    for (integer stride = 1; stride < width; stride *= 2, r.levels++)
        r.start[r.levels + 1] = r.start[r.levels] + (width + stride - 1) / (2 * stride);
    r.forward = table, r.reverse = table + 2 * r.planes, r.units = table + 2 * trees * r.planes;
    r.norms = r.units + reflections * width, r.gram = r.norms + reflections;
    return r;
}

/* To be called by all threads; angles: (trees, planes), the forward tree first; vectors: (reflections, width). */
static void fill_table(const rotation *r, const float *angles, const float *vectors) {
#pragma omp for schedule(static) nowait
    for (integer plane = 0; plane < r->trees * r->planes; plane++) {
        r->forward[2 * plane] = cosf(angles[plane]);
        r->forward[2 * plane + 1] = sinf(angles[plane]);
    }
#pragma omp single
    {
        for (integer j = 0; j < r->reflections; j++) {
            double square = 0;
            for (integer i = 0; i < r->width; i++) square += (double)vectors[j * r->width + i] * vectors[j * r->width + i];
            r->norms[j] = sqrt(square);
            for (integer i = 0; i < r->width; i++) r->units[j * r->width + i] = vectors[j * r->width + i] / r->norms[j];
        }
        for (integer j = 0; j < r->reflections; j++)
            for (integer m = 0; m < r->reflections; m++) {
                double product = 0;
                for (integer i = 0; i < r->width; i++) product += (double)r->units[j * r->width + i] * r->units[m * r->width + i];
                r->gram[j * r->reflections + m] = product;
            }
    }
}

/* For the planes (i, i + stride) of a level among coordinates `first` to `last`; `first` is a multiple of 2 stride. */
#define EACH_PLANE(r, level, first, last)                                                                                  \
    for (integer stride = 1LL << (level), i = (first), plane = (r)->start[level] + ((first) >> ((level) + 1)); i + stride < (last); \
         i += 2 * stride, plane++)

#define EACH_BLOCK(width, first, last) \
    for (integer first = 0, last; last = first + BLOCK < (width) ? first + BLOCK : (width), first < (width); first += BLOCK)

#define LESSER(a, b) ((a) < (b) ? (a) : (b))

INLINED void turn(row *a, row *b, const float *cos_and_sin) {
    float c = cos_and_sin[0], s = cos_and_sin[1];
    for (int v = 0; v < VECTORS; v++) {
        vector p = a->of[v], q = b->of[v];
        a->of[v] = c * p + s * q;
        b->of[v] = c * q - s * p;
    }
}

/* Turn `a` and `b` back, and their gradients; add the gradient of the angle. */
INLINED void turn_back(row *a, row *b, row *grad_a, row *grad_b, const float *cos_and_sin, vector *d_angle) {
    float c = cos_and_sin[0], s = cos_and_sin[1];
    vector sum = *d_angle;
    for (int v = 0; v < VECTORS; v++) {
        vector p = a->of[v], q = b->of[v], f = grad_a->of[v], g = grad_b->of[v];
        sum += f * q - g * p;
        a->of[v] = c * p - s * q;
        b->of[v] = c * q + s * p;
        grad_a->of[v] = c * f - s * g;
        grad_b->of[v] = c * g + s * f;
    }
    *d_angle = sum;
}

/* Levels `from` to `to` of a tree, the finest first. */
INLINED void to_coarse(const rotation *r, const float *tree, integer first, integer last, integer from, integer to, row *x) {
    for (integer level = from; level < LESSER(to, r->levels); level++)
        EACH_PLANE(r, level, first, last) turn(x + i, x + i + stride, tree + 2 * plane);
}

/* The coarsest first. */
INLINED void to_fine(const rotation *r, const float *tree, integer first, integer last, integer from, integer to, row *x) {
    for (integer level = LESSER(to, r->levels) - 1; level >= from; level--)
        EACH_PLANE(r, level, first, last) turn(x + i, x + i + stride, tree + 2 * plane);
}

/* Back through `to_coarse`. */
INLINED void from_coarse(const rotation *r, const float *tree, integer first, integer last, integer from, integer to, row *x,
                         row *grad, vector *d_angles) {
    for (integer level = LESSER(to, r->levels) - 1; level >= from; level--)
        EACH_PLANE(r, level, first, last)
            turn_back(x + i, x + i + stride, grad + i, grad + i + stride, tree + 2 * plane, d_angles + plane);
}

/* Back through `to_fine`. */
INLINED void from_fine(const rotation *r, const float *tree, integer first, integer last, integer from, integer to, row *x,
                       row *grad, vector *d_angles) {
    for (integer level = from; level < LESSER(to, r->levels); level++)
        EACH_PLANE(r, level, first, last)
            turn_back(x + i, x + i + stride, grad + i, grad + i + stride, tree + 2 * plane, d_angles + plane);
}

/* Run `work(n)` for reflections j to j + n, two at a time: their products with a coordinate then share its reading. */
#define IN_PAIRS(j, all, work)                   \
    do {                                         \
        integer j = 0;                           \
        for (; j + 2 <= (all); j += 2) work(2);  \
        for (; j < (all); j++) work(1);          \
    } while (0)

/* dots[j] += x u_j, over coordinates `first` to `last`. */
INLINED void add_dots(const rotation *r, integer first, integer last, const row *x, row *dots) {
#define WORK(n)                                                                                                     \
    do {                                                                                                            \
        row sums[n];                                                                                                \
        for (int m = 0; m < n; m++) sums[m] = dots[j + m];                                                          \
        for (integer i = first; i < last; i++)                                                                      \
            for (int m = 0; m < n; m++)                                                                             \
                for (int v = 0; v < VECTORS; v++) sums[m].of[v] += r->units[(j + m) * r->width + i] * x[i].of[v];   \
        for (int m = 0; m < n; m++) dots[j + m] = sums[m];                                                          \
    } while (0)
    IN_PAIRS(j, r->reflections, WORK);
#undef WORK
}

/* x -= 2 sum_j dots[j] u_j. */
INLINED void reflect(const rotation *r, integer first, integer last, const row *dots, row *x) {
#define WORK(n)                                                                                                        \
    do {                                                                                                               \
        row twice[n];                                                                                                  \
        for (int m = 0; m < n; m++)                                                                                    \
            for (int v = 0; v < VECTORS; v++) twice[m].of[v] = 2 * dots[j + m].of[v];                                  \
        for (integer i = first; i < last; i++)                                                                         \
            for (int v = 0; v < VECTORS; v++) {                                                                        \
                vector sum = x[i].of[v];                                                                               \
                for (int m = 0; m < n; m++) sum -= r->units[(j + m) * r->width + i] * twice[m].of[v];                  \
                x[i].of[v] = sum;                                                                                      \
            }                                                                                                          \
    } while (0)
    IN_PAIRS(j, r->reflections, WORK);
#undef WORK
}

/* d_units[j] += x_dots[j] grad + grad_dots[j] x. */
INLINED void add_unit_gradients(const rotation *r, integer first, integer last, const row *x_dots, const row *grad_dots,
                                const row *x, const row *grad, vector *d_units) {
#define WORK(n)                                                                                                          \
    do {                                                                                                                 \
        row of_x[n], of_grad[n];                                                                                         \
        for (int m = 0; m < n; m++) of_x[m] = x_dots[j + m], of_grad[m] = grad_dots[j + m];                              \
        for (integer i = first; i < last; i++)                                                                           \
            for (int m = 0; m < n; m++) {                                                                                \
                vector sum = d_units[(j + m) * r->width + i];                                                            \
                for (int v = 0; v < VECTORS; v++) sum += of_x[m].of[v] * grad[i].of[v] + of_grad[m].of[v] * x[i].of[v];  \
                d_units[(j + m) * r->width + i] = sum;                                                                   \
            }                                                                                                            \
    } while (0)
    IN_PAIRS(j, r->reflections, WORK);
#undef WORK
}

/* Make of x u_j what each reflection sees, (x H(u_1) ... H(u_{j-1})) u_j; with `backwards`, those behind it come first. */
INLINED void in_turn(const rotation *r, int backwards, row *dots) {
    integer all = r->reflections;
    for (integer step = 0; step < all; step++)
        for (integer before = 0; before < step; before++) {
            integer j = backwards ? all - 1 - step : step, m = backwards ? all - 1 - before : before;
            for (int v = 0; v < VECTORS; v++) dots[j].of[v] -= (2 * r->gram[j * all + m]) * dots[m].of[v];
        }
}

/* Lay a tile out and turn all planes but the forward tree's fine ones. */
INLINED void begin(const rotation *r, const float *x, row *rows) {
    EACH_BLOCK(r->width, first, last) {
        gather(r->width, first, last, x, rows);
        if (r->trees > 1) to_coarse(r, r->reverse, first, last, 0, FINE_LEVELS, rows);
    }
    if (r->trees > 1) to_coarse(r, r->reverse, 0, r->width, FINE_LEVELS, MAX_LEVELS, rows);
    if (r->trees > 0) to_fine(r, r->forward, 0, r->width, FINE_LEVELS, MAX_LEVELS, rows);
}

static void rotate_tile(const rotation *r, const float *x, float *out, row *rows) {
    row *dots = rows + r->width;
    begin(r, x, rows);
    memset(dots, 0, r->reflections * sizeof(row));
    EACH_BLOCK(r->width, first, last) {
        if (r->trees > 0) to_fine(r, r->forward, first, last, 0, FINE_LEVELS, rows);
        add_dots(r, first, last, rows, dots);
    }
    in_turn(r, 0, dots);
    EACH_BLOCK(r->width, first, last) {
        reflect(r, first, last, dots, rows);
        scatter(r->width, first, last, rows, out);
    }
}

/* Sums over tokens that a thread has seen, in lanes. */
typedef struct {
    vector *forward, *reverse, *units, *products; /* products[j, m]: of what the reflections j and m see, of grad and of x */
} gradients;

static void rotate_tile_back(const rotation *r, const float *x, const float *grad, float *grad_x, row *rows, gradients sums) {
    row *grads = rows + r->width, *x_dots = grads + r->width, *grad_dots = x_dots + r->reflections;
    begin(r, x, rows);
    memset(x_dots, 0, 2 * r->reflections * sizeof(row));
    EACH_BLOCK(r->width, first, last) {
        if (r->trees > 0) to_fine(r, r->forward, first, last, 0, FINE_LEVELS, rows);
        gather(r->width, first, last, grad, grads);
        add_dots(r, first, last, rows, x_dots);
        add_dots(r, first, last, grads, grad_dots);
    }
    in_turn(r, 0, x_dots);
    in_turn(r, 1, grad_dots);
    for (integer j = 0; j < r->reflections; j++)
        for (integer m = 0; m < r->reflections; m++)
            for (int v = 0; v < VECTORS; v++) sums.products[j * r->reflections + m] += grad_dots[j].of[v] * x_dots[m].of[v];
    EACH_BLOCK(r->width, first, last) {
        add_unit_gradients(r, first, last, x_dots, grad_dots, rows, grads, sums.units);
        reflect(r, first, last, grad_dots, grads);
        if (r->trees > 0) from_fine(r, r->forward, first, last, 0, FINE_LEVELS, rows, grads, sums.forward);
    }
    if (r->trees > 0) from_fine(r, r->forward, 0, r->width, FINE_LEVELS, MAX_LEVELS, rows, grads, sums.forward);
    if (r->trees > 1) from_coarse(r, r->reverse, 0, r->width, FINE_LEVELS, MAX_LEVELS, rows, grads, sums.reverse);
    EACH_BLOCK(r->width, first, last) {
        if (r->trees > 1) from_coarse(r, r->reverse, first, last, 0, FINE_LEVELS, rows, grads, sums.reverse);
        scatter(r->width, first, last, grads, grad_x);
    }
}

/* From sums to the vectors' gradient: reflection j sees x and grad less what those before and behind it took away, and a
   unit vector's gradient is orthogonal to it. */
static void vector_gradients(const rotation *r, const vector *d_units, const vector *products, float *d_vectors) {
    integer all = r->reflections, width = r->width;
    for (integer j = 0; j < all; j++) {
        const float *unit = r->units + j * width;
        float *to = d_vectors + j * width;
        double along = 0;
        for (integer i = 0; i < width; i++) {
            float sum = -2 * d_units[j * width + i][0];
            for (integer m = 0; m < all; m++)
                if (m != j) sum += 4 * products[j > m ? j * all + m : m * all + j][0] * r->units[m * width + i];
            to[i] = sum;
            along += (double)sum * unit[i];
        }
        for (integer i = 0; i < width; i++) to[i] = (to[i] - along * unit[i]) / r->norms[j];
    }
}

/* For each whole tile, and for the last one filled up with zeros: `spare` holds a tile of each matrix. */
static const float *whole_tile(integer count, integer width, const float *from, float *spare) {
    if (count >= TILE) return from;
    memcpy(spare, from, count * width * sizeof(float));
    memset(spare + count * width, 0, (TILE - count) * width * sizeof(float));
    return spare;
}

/* x, out: (tokens, width); angles: (trees, width - 1); vectors: (reflections, width);
   table: 2 trees (width - 1) + reflections (width + 1 + reflections);
   scratch: TILE (2 width + threads (width + reflections)). */
void ropo_rotate(integer tokens, integer width, integer trees, integer reflections, integer threads, const float *x,
                 const float *angles, const float *vectors, float *table, float *out, float *scratch) {
    const rotation r = rotation_in(width, trees, reflections, table);
    float *spare = scratch, *spare_out = scratch + TILE * width;
#pragma omp parallel num_threads(threads)
    {
        row *rows = (row *)(spare_out + TILE * width) + omp_get_thread_num() * (width + reflections);
        fill_table(&r, angles, vectors);
#pragma omp for schedule(static)
        for (integer first = 0; first < tokens; first += TILE) {
            integer count = LESSER(tokens - first, TILE);
            float *to = out + first * width;
            rotate_tile(&r, whole_tile(count, width, x + first * width, spare), count < TILE ? spare_out : to, rows);
            if (count < TILE) memcpy(to, spare_out, count * width * sizeof(float));
        }
    }
}

/* x, grad, grad_x: (tokens, width); table: as `ropo_rotate` filled it; d_angles, d_vectors: as angles and vectors;
   scratch: TILE (3 width + 2 threads (width + reflections)) + LANES threads (trees (width - 1) + reflections (width + reflections)). */
void ropo_rotate_back(integer tokens, integer width, integer trees, integer reflections, integer threads, const float *x,
                      const float *grad, float *table, float *grad_x, float *d_angles, float *d_vectors, float *scratch) {
    const rotation r = rotation_in(width, trees, reflections, table);
    integer angles = trees * r.planes, units = reflections * width, each = angles + units + reflections * reflections;
    float *spare = scratch, *spare_grad = spare + TILE * width, *spare_out = spare_grad + TILE * width;
    vector *sums = (vector *)(spare_out + TILE * width);
#pragma omp parallel num_threads(threads)
    {
        vector *own = sums + omp_get_thread_num() * each;
        row *rows = (row *)(sums + threads * each) + omp_get_thread_num() * 2 * (width + reflections);
        gradients to_sums = {own, own + r.planes, own + angles, own + angles + units};
        memset(own, 0, each * sizeof(vector));
#pragma omp for schedule(static)
        for (integer first = 0; first < tokens; first += TILE) {
            integer count = LESSER(tokens - first, TILE);
            float *to = grad_x + first * width;
            const float *from = whole_tile(count, width, x + first * width, spare);
            const float *grads = whole_tile(count, width, grad + first * width, spare_grad);
            rotate_tile_back(&r, from, grads, count < TILE ? spare_out : to, rows, to_sums);
            if (count < TILE) memcpy(to, spare_out, count * width * sizeof(float));
        }
#pragma omp for schedule(static)
        for (integer n = 0; n < each; n++) {
            float total = 0;
            for (integer thread = 0; thread < threads; thread++)
                for (int lane = 0; lane < LANES; lane++) total += sums[thread * each + n][lane];
            sums[n][0] = total;
            if (n < angles) d_angles[n] = total;
        }
    }
    vector_gradients(&r, sums + angles, sums + angles + units, d_vectors);
}
