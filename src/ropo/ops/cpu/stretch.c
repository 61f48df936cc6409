/* The stretch of a layer's output and its gradients; ropo.ops.stretching has the equation. Matrices are contiguous. */

#include <math.h>
#include <stddef.h>
#include <string.h>

enum { SLAB = 64 }; /* tokens whose sum one thread makes: results do not depend on the number of threads */

typedef long long integer;

/* z = scale (y - bias) + bias, scale = exp(log_scale).
   y, z: (tokens, neurons); log_scale, scale: (neurons,); bias: (neurons,) or NULL. */
void ropo_stretch(integer tokens, integer neurons, integer threads, const float *y, const float *log_scale, const float *bias,
                  float *scale, float *z) {
    for (integer neuron = 0; neuron < neurons; neuron++) scale[neuron] = expf(log_scale[neuron]);
#pragma omp parallel for num_threads(threads)
    for (integer token = 0; token < tokens; token++) {
        const float *from = y + token * neurons;
        float *to = z + token * neurons;
        if (bias == NULL)
            for (integer neuron = 0; neuron < neurons; neuron++) to[neuron] = scale[neuron] * from[neuron];
        else
            for (integer neuron = 0; neuron < neurons; neuron++)
                to[neuron] = scale[neuron] * (from[neuron] - bias[neuron]) + bias[neuron];
    }
}

/* grad_y = scale grad; sums[0] = the sum over tokens of grad (z - bias).
   grad, z, grad_y: (tokens, neurons); scale: (neurons,); bias: (neurons,) or NULL; sums: (slabs, neurons), at least one. */
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
                sum[neuron] += grads[neuron] * (bias ? outputs[neuron] - bias[neuron] : outputs[neuron]);
                to[neuron] = scale[neuron] * grads[neuron];
            }
        }
    for (integer slab = 1; slab < slabs; slab++)
#pragma omp simd
        for (integer neuron = 0; neuron < neurons; neuron++) sums[neuron] += sums[slab * neurons + neuron];
}
