/* RoPO's rotation and its gradients, plane by plane; ropo.ops.reference has the equations in PyTorch, and ropo.ops.reflections
   those of the reflections' product, I + V^T mix V, which is exactly I where their vectors come in equal pairs.

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
    float *basis, *norms, *mix;                /* V (reflections, width), (reflections,), (reflections, reflections) */
} rotation;

static rotation rotation_in(integer width, integer trees, integer reflections, float *table) {
    rotation r = {.width = width, .trees = trees, .reflections = reflections, .planes = width - 1};
    for (integer stride = 1; stride < width; stride *= 2, r.levels++)
        r.start[r.levels + 1] = r.start[r.levels] + (width + stride - 1) / (2 * stride);
    r.forward = table, r.reverse = table + 2 * r.planes, r.basis = table + 2 * trees * r.planes;
    r.norms = r.basis + reflections * width, r.mix = r.norms + reflections;
    return r;
}

static double product(integer width, const float *a, const float *b) {
    double sum = 0;
    for (integer i = 0; i < width; i++) sum += (double)a[i] * b[i];
    return sum;
}

/* V and mix of pair after pair: with P = I + V^T mix V of the pairs before and c [u; e] of one more, P's mix gets the columns
   mix (V [u; e]^T) C above C. */
static void fill_reflections(const rotation *r, const float *vectors) {
    integer all = r->reflections, width = r->width;
    memset(r->mix, 0, all * all * sizeof(float));
    for (integer j = 0; j < all; j += 2) {
        const float *one = vectors + j * width, *other = one + width;
        double norm = sqrt(product(width, one, one)), other_norm = sqrt(product(width, other, other));
        other_norm = copysign(other_norm, product(width, one, other)); /* the nearer of other and -other */
        float *unit = r->basis + j * width, *step = unit + width;
        for (integer i = 0; i < width; i++) unit[i] = one[i] / norm, step[i] = other[i] / other_norm - one[i] / norm;
        r->norms[j] = norm, r->norms[j + 1] = other_norm;
        double square = product(width, step, step), pair[2][2] = {{-2 * square, 2 - 2 * square}, {-2, -2}};
        double on_unit[j + 1], on_step[j + 1]; /* V [u; e]^T */
        for (integer n = 0; n < j; n++) {
            on_unit[n] = product(width, r->basis + n * width, unit);
            on_step[n] = product(width, r->basis + n * width, step);
        }
        for (integer m = 0; m < j; m++) {
            double to_unit = 0, to_step = 0;
            for (integer n = 0; n < j; n++) to_unit += r->mix[m * all + n] * on_unit[n], to_step += r->mix[m * all + n] * on_step[n];
            for (int part = 0; part < 2; part++) r->mix[m * all + j + part] = to_unit * pair[0][part] + to_step * pair[1][part];
        }
        for (int m = 0; m < 2; m++)
            for (int part = 0; part < 2; part++) r->mix[(j + m) * all + j + part] = pair[m][part];
    }
}

/* To be called by all threads; angles: (trees, planes), the forward tree first; vectors: (reflections, width). */
static void fill_table(const rotation *r, const float *angles, const float *vectors) {
#pragma omp for schedule(static) nowait
    for (integer plane = 0; plane < r->trees * r->planes; plane++) {
        r->forward[2 * plane] = cosf(angles[plane]);
        r->forward[2 * plane + 1] = sinf(angles[plane]);
    }
#pragma omp single
    fill_reflections(r, vectors);
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

/* Reflections come in pairs, whose products with a coordinate share its reading. */
#define EACH_PAIR(r, j) for (integer j = 0; j < (r)->reflections; j += 2)

/* dots[j] += x v_j, over coordinates `first` to `last`. */
INLINED void add_dots(const rotation *r, integer first, integer last, const row *x, row *dots) {
    EACH_PAIR(r, j) {
        const float *basis = r->basis + j * r->width;
        row sums[2] = {dots[j], dots[j + 1]};
        for (integer i = first; i < last; i++)
            for (int m = 0; m < 2; m++)
                for (int v = 0; v < VECTORS; v++) sums[m].of[v] += basis[m * r->width + i] * x[i].of[v];
        dots[j] = sums[0], dots[j + 1] = sums[1];
    }
}

/* x += sum_j mixed[j] v_j. */
INLINED void add_mixed(const rotation *r, integer first, integer last, const row *mixed, row *x) {
    EACH_PAIR(r, j) {
        const float *basis = r->basis + j * r->width;
        row factors[2] = {mixed[j], mixed[j + 1]};
        for (integer i = first; i < last; i++)
            for (int v = 0; v < VECTORS; v++) {
                vector sum = x[i].of[v];
                for (int m = 0; m < 2; m++) sum += basis[m * r->width + i] * factors[m].of[v];
                x[i].of[v] = sum;
            }
    }
}

/* d_basis[j] += x_mixed[j] grad + grad_mixed[j] x. */
INLINED void add_basis_gradients(const rotation *r, integer first, integer last, const row *x_mixed, const row *grad_mixed,
                                 const row *x, const row *grad, vector *d_basis) {
    EACH_PAIR(r, j) {
        vector *sums = d_basis + j * r->width;
        row of_x[2] = {x_mixed[j], x_mixed[j + 1]}, of_grad[2] = {grad_mixed[j], grad_mixed[j + 1]};
        for (integer i = first; i < last; i++)
            for (int m = 0; m < 2; m++) {
                vector sum = sums[m * r->width + i];
                for (int v = 0; v < VECTORS; v++) sum += of_x[m].of[v] * grad[i].of[v] + of_grad[m].of[v] * x[i].of[v];
                sums[m * r->width + i] = sum;
            }
    }
}

/* mixed = dots mix, or dots mix^T for gradients. */
INLINED void mix_dots(const rotation *r, int transposed, const row *dots, row *mixed) {
    integer all = r->reflections;
    memset(mixed, 0, all * sizeof(row));
    for (integer j = 0; j < all; j++)
        for (integer m = 0; m < all; m++)
            for (int v = 0; v < VECTORS; v++)
                mixed[m].of[v] += r->mix[transposed ? m * all + j : j * all + m] * dots[j].of[v];
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
    row *dots = rows + r->width, *mixed = dots + r->reflections;
    begin(r, x, rows);
    memset(dots, 0, r->reflections * sizeof(row));
    EACH_BLOCK(r->width, first, last) {
        if (r->trees > 0) to_fine(r, r->forward, first, last, 0, FINE_LEVELS, rows);
        add_dots(r, first, last, rows, dots);
    }
    mix_dots(r, 0, dots, mixed);
    EACH_BLOCK(r->width, first, last) {
        add_mixed(r, first, last, mixed, rows);
        scatter(r->width, first, last, rows, out);
    }
}

/* Sums over tokens that a thread has seen, in lanes. */
typedef struct {
    vector *forward, *reverse, *basis, *mix;
} gradients;

static void rotate_tile_back(const rotation *r, const float *x, const float *grad, float *grad_x, row *rows, gradients sums) {
    row *grads = rows + r->width, *x_dots = grads + r->width, *grad_dots = x_dots + r->reflections;
    row *x_mixed = grad_dots + r->reflections, *grad_mixed = x_mixed + r->reflections;
    begin(r, x, rows);
    memset(x_dots, 0, 2 * r->reflections * sizeof(row));
    EACH_BLOCK(r->width, first, last) {
        if (r->trees > 0) to_fine(r, r->forward, first, last, 0, FINE_LEVELS, rows);
        gather(r->width, first, last, grad, grads);
        add_dots(r, first, last, rows, x_dots);
        add_dots(r, first, last, grads, grad_dots);
    }
    mix_dots(r, 0, x_dots, x_mixed);
    mix_dots(r, 1, grad_dots, grad_mixed);
    for (integer j = 0; j < r->reflections; j++)
        for (integer m = 0; m < r->reflections; m++)
            for (int v = 0; v < VECTORS; v++) sums.mix[j * r->reflections + m] += x_dots[j].of[v] * grad_dots[m].of[v];
    EACH_BLOCK(r->width, first, last) {
        add_basis_gradients(r, first, last, x_mixed, grad_mixed, rows, grads, sums.basis);
        add_mixed(r, first, last, grad_mixed, grads);
        if (r->trees > 0) from_fine(r, r->forward, first, last, 0, FINE_LEVELS, rows, grads, sums.forward);
    }
    if (r->trees > 0) from_fine(r, r->forward, 0, r->width, FINE_LEVELS, MAX_LEVELS, rows, grads, sums.forward);
    if (r->trees > 1) from_coarse(r, r->reverse, 0, r->width, FINE_LEVELS, MAX_LEVELS, rows, grads, sums.reverse);
    EACH_BLOCK(r->width, first, last) {
        if (r->trees > 1) from_coarse(r, r->reverse, first, last, 0, FINE_LEVELS, rows, grads, sums.reverse);
        scatter(r->width, first, last, grads, grad_x);
    }
}

/* negative = mix^T d_mix mix^T, the gradient of -mix^-1; both (reflections, reflections). */
static void inverse_gradient(const rotation *r, const vector *d_mix, double *negative) {
    integer all = r->reflections;
    double half[all * all + 1]; /* mix^T d_mix; an array needs a number even where there is no reflection */
    memset(half, 0, sizeof half);
    memset(negative, 0, sizeof half);
    for (integer j = 0; j < all; j++)
        for (integer m = 0; m < all; m++)
            for (integer n = 0; n < all; n++) half[j * all + n] += r->mix[m * all + j] * d_mix[m * all + n][0];
    for (integer j = 0; j < all; j++)
        for (integer m = 0; m < all; m++)
            for (integer n = 0; n < all; n++) negative[j * all + n] += half[j * all + m] * r->mix[n * all + m];
}

/* From sums to the vectors' gradient, the product rule of ropo.ops.reflections; a unit vector's gradient is orthogonal to it. */
static void vector_gradients(const rotation *r, const vector *d_basis, const vector *d_mix, float *d_vectors) {
    integer all = r->reflections, width = r->width;
    double negative[all * all + 1];
    inverse_gradient(r, d_mix, negative);
    for (integer j = 0; j < all; j++)
        for (integer i = 0; i < width; i++) {
            double sum = d_basis[j * width + i][0];
            for (integer m = 0; m < all; m++)
                if (m / 2 != j / 2) sum += negative[m < j ? m * all + j : j * all + m] * r->basis[m * width + i];
            d_vectors[j * width + i] = sum;
        }
    for (integer j = 0; j < all; j += 2) {
        const float *unit = r->basis + j * width, *step = unit + width;
        float *d_unit = d_vectors + j * width, *d_other = d_unit + width;
        double d_square = negative[(j + 1) * all + j + 1] - negative[j * all + j + 1], along = 0, other_along = 0;
        for (integer i = 0; i < width; i++) {
            d_other[i] += d_square * step[i];
            d_unit[i] -= d_other[i];
            along += (double)d_unit[i] * unit[i], other_along += (double)d_other[i] * (unit[i] + step[i]);
        }
        for (integer i = 0; i < width; i++) {
            d_unit[i] = (d_unit[i] - along * unit[i]) / r->norms[j];
            d_other[i] = (d_other[i] - other_along * (unit[i] + step[i])) / r->norms[j + 1];
        }
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
   scratch: TILE (2 width + threads (width + 2 reflections)). */
void ropo_rotate(integer tokens, integer width, integer trees, integer reflections, integer threads, const float *x,
                 const float *angles, const float *vectors, float *table, float *out, float *scratch) {
    const rotation r = rotation_in(width, trees, reflections, table);
    float *spare = scratch, *spare_out = scratch + TILE * width;
#pragma omp parallel num_threads(threads)
    {
        row *rows = (row *)(spare_out + TILE * width) + omp_get_thread_num() * (width + 2 * reflections);
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
   scratch: TILE (3 width + 2 threads (width + 2 reflections)) + LANES threads (trees (width - 1) + reflections (width + reflections)). */
void ropo_rotate_back(integer tokens, integer width, integer trees, integer reflections, integer threads, const float *x,
                      const float *grad, float *table, float *grad_x, float *d_angles, float *d_vectors, float *scratch) {
    const rotation r = rotation_in(width, trees, reflections, table);
    integer angles = trees * r.planes, basis = reflections * width, each = angles + basis + reflections * reflections;
    float *spare = scratch, *spare_grad = spare + TILE * width, *spare_out = spare_grad + TILE * width;
    vector *sums = (vector *)(spare_out + TILE * width);
#pragma omp parallel num_threads(threads)
    {
        vector *own = sums + omp_get_thread_num() * each;
        row *rows = (row *)(sums + threads * each) + omp_get_thread_num() * 2 * (width + 2 * reflections);
        gradients to_sums = {own, own + r.planes, own + angles, own + angles + basis};
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
    vector_gradients(&r, sums + angles, sums + angles + basis, d_vectors);
}
