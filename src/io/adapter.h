#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "io/config.h"
#include "io/safetensors.h"

// LoRA adapters in the layout of PEFT (huggingface.co/docs/peft, "PEFT checkpoint format"): a
// directory with adapter_config.json and adapter_model.safetensors.
namespace tessera {

inline constexpr const char* kAdapterConfigFile = "adapter_config.json";
inline constexpr const char* kAdapterFile = "adapter_model.safetensors";
inline constexpr const char* kAdapterPrefix = "base_model.model.";  // of its tensors' names
inline constexpr const char* kAdapterDown = ".lora_A.weight";
inline constexpr const char* kAdapterUp = ".lora_B.weight";

// How much an update counts: alpha / rank, or alpha / sqrt(rank) (rsLoRA).
struct AdapterScale {
  double alpha = 0;
  enum class By { kRank, kRootOfRank } by = By::kRank;

  double of(int64_t rank) const;
};

// kUnsupported for what is no plain LoRA: other kinds of adapters, DoRA, trained biases, updates of
// a base that the adapter changes first, scales of their own for some modules.
Result<AdapterScale> read_adapter_config(const Config& config);

// What a map y = x W^T computes more: x A^T B^T, times the scale. A: [rank, inputs], B: [outputs,
// rank], floats, of whatever order the model has W in.
struct AdapterUpdate {
  std::string module;  // as the class of transformers calls it that the adapter was trained in
  TensorView down, up;

  int64_t rank() const { return down.shape[0]; }
  int64_t inputs() const { return down.shape[1]; }
  int64_t outputs() const { return up.shape[0]; }
  // B A times a number, added to rows [first, first + rows) of W: `values`, [rows, inputs].
  void add_to(std::vector<float>& values, int64_t first, double scale) const;
};

struct AdapterTensors {
  std::vector<AdapterUpdate> updates;       // by module, each once
  std::map<std::string, TensorView> whole;  // floats that take the place of the model's, by name
};

// A file's tensors by what their names say. kInvalidInput for a name that says nothing that is
// known, an update that lacks a half, or halves that do not fit each other.
Result<AdapterTensors> sort_adapter_tensors(const std::map<std::string, TensorView>& tensors,
                                            const std::string& source);

// A whole adapter; its views live as long.
class Adapter {
 public:
  static Result<Adapter> open(const std::string& directory);

  const std::string& directory() const { return directory_; }
  const AdapterScale& scale() const { return scale_; }
  const AdapterTensors& tensors() const { return tensors_; }

 private:
  Adapter(std::string directory, Safetensors file)
      : directory_(std::move(directory)), file_(std::move(file)) {}

  std::string directory_;
  Safetensors file_;
  AdapterScale scale_;
  AdapterTensors tensors_;
};

}  // namespace tessera
