// A decoder layer for the newest row of each sequence: the other kernels in one call, since for a few
// rows calling them one by one takes a tenth of the layer's time.

#include <vector>

#include "kernels.h"

namespace dyvte {
namespace {

void multiply(const DyvteLinear& w, const float* x, int64_t rows, const float* residual, float* out,
              int threads, const DyvteLinear* gate = nullptr) {
  dyvte_linear(x, rows, w.inputs, w.inputs, w.panels, static_cast<int>(w.form), w.outputs, w.bias,
               gate ? gate->panels : nullptr, gate ? gate->bias : nullptr, 0, residual, out, w.outputs,
               threads);
}

}  // namespace
}  // namespace dyvte

extern "C" {

// hidden and out [sequences, width]; cos and sin [sequences, dim]; runs as for dyvte_append_single.
void dyvte_decode_layer(const DyvteLayer* layer, const float* hidden, int64_t sequences,
                        const float* cos, const float* sin, const DyvteRun* runs, float* out,
                        int threads) {
  const DyvteLayer& l = *layer;
  const int64_t width = l.query_key_value.inputs, all = l.query_key_value.outputs;
  const int64_t queries = l.heads * l.dim, keys = l.kv_heads * l.dim, units = l.up.outputs;
  thread_local std::vector<float> scratch;
  scratch.resize(sequences * (2 * width + all + queries + units));
  float* normed = scratch.data();
  float* between = normed + sequences * width;
  float* qkv = between + sequences * width;
  float* attended = qkv + sequences * all;
  float* gated = attended + sequences * queries;

  dyvte_rms_norm(0, hidden, sequences, width, width, l.before_attention.weight,
                 l.before_attention.eps, normed, threads);
  dyvte::multiply(l.query_key_value, normed, sequences, nullptr, qkv, threads);
  dyvte_turn_heads(0, qkv, sequences, all, l.heads, l.dim, l.of_queries.weight, l.of_queries.eps,
                   cos, sin, threads);
  dyvte_turn_heads(0, qkv + queries, sequences, all, l.kv_heads, l.dim, l.of_keys.weight,
                   l.of_keys.eps, cos, sin, threads);
  dyvte_append_single(sizeof(float), reinterpret_cast<const char*>(qkv + queries), all,
                      reinterpret_cast<const char*>(qkv + queries + keys), all, runs, sequences,
                      l.kv_heads, l.dim);
  dyvte_attend_single(0, qkv, all, runs, sequences, l.kv_heads, l.heads / l.kv_heads, l.dim, l.scale,
                      attended, threads);
  dyvte::multiply(l.attended, attended, sequences, hidden, between, threads);
  dyvte_rms_norm(0, between, sequences, width, width, l.before_mlp.weight, l.before_mlp.eps, normed,
                 threads);
  dyvte::multiply(l.up, normed, sequences, nullptr, gated, threads, &l.gate);
  dyvte::multiply(l.down, gated, sequences, between, out, threads);
}
}
