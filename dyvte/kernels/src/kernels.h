// What can be called from outside, as far as kernels call one another.

#pragma once

#include <cstdint>

#include "run.h"

extern "C" {

// Weights in panels; `form` as for dyvte_linear, `bias` null where there is none.
struct DyvteLinear {
  const void* panels;
  const float* bias;
  int64_t form, inputs, outputs;
};

// `weight` null where there is no norm.
struct DyvteNorm {
  const float* weight;
  float eps;
};

// A decoder layer in float32. Queries, keys and values come from one product.
struct DyvteLayer {
  DyvteNorm before_attention, of_queries, of_keys, before_mlp;
  DyvteLinear query_key_value, attended, gate, up, down;
  int64_t heads, kv_heads, dim;
  float scale;
};

void dyvte_linear(const float* x, int64_t rows, int64_t x_stride, int64_t inputs,
                  const void* weights, int form, int64_t outputs, const float* bias,
                  const void* gate, const float* gate_bias, int activation, const float* residual,
                  float* out, int64_t out_stride, int threads);
void dyvte_rms_norm(int form, const void* x, int64_t rows, int64_t x_stride, int64_t width,
                    const void* weight, float eps, void* out, int threads);
void dyvte_turn_heads(int form, void* x, int64_t rows, int64_t x_stride, int64_t heads,
                      int64_t dim, const void* weight, float eps, const void* cos,
                      const void* sin, int threads);
void dyvte_append_single(int64_t bytes, const char* key, int64_t key_stride, const char* value,
                         int64_t value_stride, const DyvteRun* runs, int64_t sequences,
                         int64_t heads, int64_t dim);
void dyvte_attend_single(int form, const void* query, int64_t query_stride, const DyvteRun* runs,
                         int64_t sequences, int64_t kv_heads, int64_t group, int64_t dim,
                         float scale, void* out, int threads);
}
