#include <algorithm>
#include <cstddef>
#include <cstring>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>
#include <vector>

#include "formats/panels.h"
#include "kernels/matmul/matmul.h"

namespace tessera::matmul {
namespace {

using dnnl::memory;

// What a primitive is made for; equal keys do the same work on other pointers.
struct Key {
  int64_t rows, inputs, outputs;
  int64_t x_stride, y_stride, residual_stride;
  Activation activation;
  bool has_bias, has_residual, residual_in_place;

  bool operator==(const Key&) const = default;
};

struct Hash {
  size_t operator()(const Key& key) const {
    size_t hash = 0;
    for (const int64_t part : {key.rows, key.inputs, key.outputs, key.x_stride, key.y_stride,
                               key.residual_stride, static_cast<int64_t>(key.activation),
                               int64_t{key.has_bias} | int64_t{key.has_residual} << 1 |
                                   int64_t{key.residual_in_place} << 2}) {
      hash = hash * 1000003 + static_cast<size_t>(part);
    }
    return hash;
  }
};

struct Prepared {
  dnnl::matmul primitive;
  memory::desc x, weights, bias, residual, y, scratchpad;
};

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

Key key_of(const Args& args, Exec exec) {
  const int64_t end = std::min(exec.end * kPanelOutputs, args.outputs);
  const bool has_residual = args.residual != nullptr;
  return {.rows = args.rows,
          .inputs = args.inputs,
          .outputs = end - exec.begin * kPanelOutputs,
          .x_stride = args.rows > 1 ? args.x_stride : args.inputs,
          .y_stride = args.rows > 1 ? args.y_stride : args.outputs,
          .residual_stride = has_residual && args.rows > 1 ? args.residual_stride : args.outputs,
          .activation = args.activation,
          .has_bias = args.bias != nullptr,
          .has_residual = has_residual,
          .residual_in_place = has_residual && args.residual == args.y};
}

void append_activation(Activation activation, dnnl::post_ops& steps) {
  switch (activation) {
    case Activation::kNone:
      return;
    case Activation::kRelu:
      return steps.append_eltwise(1.0f, dnnl::algorithm::eltwise_relu, 0.0f, 0.0f);
    case Activation::kGeluErf:
      return steps.append_eltwise(1.0f, dnnl::algorithm::eltwise_gelu_erf, 0.0f, 0.0f);
    case Activation::kGeluTanh:
      return steps.append_eltwise(1.0f, dnnl::algorithm::eltwise_gelu_tanh, 0.0f, 0.0f);
    case Activation::kSilu:
      return steps.append_eltwise(1.0f, dnnl::algorithm::eltwise_swish, 1.0f, 0.0f);
    case Activation::kTanh:
      return steps.append_eltwise(1.0f, dnnl::algorithm::eltwise_tanh, 0.0f, 0.0f);
  }
}

Prepared prepare(const Key& key) {
  constexpr memory::data_type kFloat = memory::data_type::f32;
  Prepared prepared;
  prepared.x = memory::desc({key.rows, key.inputs}, kFloat, memory::dims{key.x_stride, 1});
  prepared.weights = memory::desc({key.inputs, key.outputs}, kFloat, memory::format_tag::BA16a64b);
  prepared.y = memory::desc({key.rows, key.outputs}, kFloat, memory::dims{key.y_stride, 1});
  prepared.residual =
      memory::desc({key.rows, key.outputs}, kFloat, memory::dims{key.residual_stride, 1});
  if (key.has_bias) {
    prepared.bias = memory::desc({1, key.outputs}, kFloat, memory::dims{key.outputs, 1});
  }
  dnnl::post_ops steps;
  append_activation(key.activation, steps);
  if (key.residual_in_place) {
    steps.append_sum(1.0f);
  } else if (key.has_residual) {
    steps.append_binary(dnnl::algorithm::binary_add, prepared.residual);
  }
  dnnl::primitive_attr attributes;
  attributes.set_post_ops(steps);
  // The library's own scratchpad belongs to the primitive, which several threads execute at a time.
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const dnnl::matmul::desc description(prepared.x, prepared.weights, prepared.bias, prepared.y);
  const dnnl::matmul::primitive_desc chosen(description, attributes, engine());
  prepared.scratchpad = chosen.scratchpad_desc();
  prepared.primitive = dnnl::matmul(chosen);
  return prepared;
}

// Making a primitive compiles code for a millisecond or so, hence the cache; ragged batches bring
// ever new row counts, hence the bound. A model has about five shapes of product, a full cache
// about fifty row counts of each.
Prepared cached(const Key& key) {
  constexpr size_t kCapacity = 256;
  static std::mutex mutex;
  static std::unordered_map<Key, Prepared, Hash> cache;
  {
    const std::lock_guard lock(mutex);
    const auto found = cache.find(key);
    if (found != cache.end()) return found->second;
  }
  Prepared prepared = prepare(key);
  const std::lock_guard lock(mutex);
  if (cache.size() >= kCapacity) cache.clear();
  cache.emplace(key, prepared);
  return prepared;
}

memory on(const memory::desc& description, const void* data) {
  return {description, engine(), const_cast<void*>(data)};
}

// At least so many bytes of the calling thread, aligned to a cache line.
void* scratchpad(size_t bytes) {
  constexpr size_t kLine = 64;
  thread_local std::vector<std::byte> storage;
  if (storage.size() < bytes + kLine) storage.resize(bytes + kLine);
  const auto address = reinterpret_cast<uintptr_t>(storage.data());
  return reinterpret_cast<void*>((address + kLine - 1) / kLine * kLine);
}

void execute(const Args& args, Exec exec) {
  const Prepared prepared = cached(key_of(args, exec));
  thread_local dnnl::stream stream(engine());
  const int64_t first = exec.begin * kPanelOutputs;
  const float* panels = static_cast<const float*>(args.panels) +
                        exec.begin * panel_elements(DType::kF32, args.inputs);
  std::unordered_map<int, memory> arguments = {{DNNL_ARG_SRC, on(prepared.x, args.x)},
                                               {DNNL_ARG_WEIGHTS, on(prepared.weights, panels)},
                                               {DNNL_ARG_DST, on(prepared.y, args.y + first)}};
  if (const size_t bytes = prepared.scratchpad.get_size(); bytes > 0) {
    arguments.emplace(DNNL_ARG_SCRATCHPAD, on(prepared.scratchpad, scratchpad(bytes)));
  }
  if (args.bias != nullptr) arguments.emplace(DNNL_ARG_BIAS, on(prepared.bias, args.bias + first));
  if (args.residual != nullptr && args.residual != args.y) {
    const int position = args.activation == Activation::kNone ? 0 : 1;
    arguments.emplace(DNNL_ARG_ATTR_MULTIPLE_POST_OP(position) | DNNL_ARG_SRC_1,
                      on(prepared.residual, args.residual + first));
  }
  prepared.primitive.execute(stream, arguments);
  stream.wait();
}

}  // namespace

const char* refuse_onednn(const Args& args) noexcept {
  if (args.weight_type != DType::kF32) return "takes f32 weights only";
  // Its AVX2 code does not read this layout, and it would not obey a cap below what the CPU has.
  if (!available(Isa::kAvx512)) return "needs AVX-512, uncapped";
  if (args.input_parts != nullptr) return "takes all inputs only";
  if (args.rows < 1 || args.inputs < 1) return "needs at least one row and one input";
  if (args.residual == args.y && args.residual != nullptr &&
      args.residual_stride != args.y_stride) {
    return "residual and y share memory but not strides";
  }
  return nullptr;
}

void onednn(const Args& args, Exec exec) noexcept {
  if (exec.begin >= exec.end) return;
  try {
    execute(args, exec);
  } catch (const std::exception&) {
    // No primitive for these arguments, or no memory for one: our own row needs neither.
    avx512(args, exec);
  }
}

}  // namespace tessera::matmul
