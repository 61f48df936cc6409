/* The stretch of a layer's output and its gradients; ropo.adapter.stretch has the equation. Matrices are contiguous. */

#include <string.h>

enum { SLAB = 64 }; /* tokens whose sum one thread makes: results do not depend on the number of threads */

typedef long long integer;

/* z = scale y + shift. y, z: (tokens, neurons); scale, shift: (neurons,). */
void ropo_stretch(integer tokens, integer neurons, integer threads, const float *y, const float *scale, const float *shift,
                  float *z) {
#pragma omp parallel for num_threads(threads)
    for (integer token = 0; token < tokens; token++) {
        const float *from = y + token * neurons;
        float *to = z + token * neurons;
#pragma omp simd
        for (integer neuron = 0; neuron < neurons; neuron++) to[neuron] = scale[neuron] * from[neuron] + shift[neuron];
    }
}

/* grad_y = scale grad; sums[0] = the sum over tokens of grad (z - bias).
   grad, z, grad_y: (tokens, neurons); scale, bias: (neurons,); sums: (slabs, neurons), at least one. */
void ropo_stretch_gradients(integer tokens, integer neurons, integer threads, const float *grad, const float *z,
                            const float *scale, const float *bias, float *grad_y, float *sums) {
    integer slabs = (tokens + SLAB - 1) / SLAB;
    memset(sums, 0, (slabs + !slabs) * neurons * sizeof(float));
#pragma omp parallel for num_threads(threads)
    for (integer slab = 0; slab < slabs; slab++)
        for (integer token = slab * SLAB; token < (slab + 1) * SLAB && token < tokens; token++) {
            const float *grads = grad + token * neurons, *outputs = z + token * neurons;
            float *to = grad_y + token * neurons, *sum = sums + slab * neurons;
#pragma omp simd
            for (integer neuron = 0; neuron < neurons; neuron++) {
                sum[neuron] += grads[neuron] * (outputs[neuron] - bias[neuron]);
                to[neuron] = scale[neuron] * grads[neuron];
            }
        }
    for (integer slab = 1; slab < slabs; slab++)
#pragma omp simd
        for (integer neuron = 0; neuron < neurons; neuron++) sums[neuron] += sums[slab * neurons + neuron];
}
