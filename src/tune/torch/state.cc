#include "tune/torch/state.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <charconv>
#include <cstring>
#include <map>
#include <utility>

#include "io/json.h"
#include "io/safetensors.h"

namespace tessera::training {
namespace {

constexpr const char* kSteps = "steps";
constexpr const char* kValidation = "validation.";

constexpr std::pair<DType, at::ScalarType> kTypes[] = {
    {DType::kF64, at::kDouble}, {DType::kF32, at::kFloat}, {DType::kI64, at::kLong},
    {DType::kI32, at::kInt},    {DType::kI16, at::kShort}, {DType::kI8, at::kChar},
    {DType::kU8, at::kByte},    {DType::kBool, at::kBool}};

// The tensors of a file, which hold on to what they were made of.
class Tensors {
 public:
  Status add(const std::string& name, const at::Tensor& tensor) {
    const at::Tensor& kept = kept_.emplace_back(tensor.detach().contiguous());
    for (const auto& [dtype, type] : kTypes) {
      if (type != kept.scalar_type()) continue;
      list_.push_back({name, dtype, kept.sizes().vec(), kept.data_ptr()});
      return {};
    }
    return unsupported(
        fmt::format("{}: expected a tensor of a type that files have, found another", name));
  }
  const std::vector<TensorToWrite>& list() const { return list_; }

 private:
  std::deque<at::Tensor> kept_;
  std::vector<TensorToWrite> list_;
};

std::string restriction_name(size_t number) { return fmt::format("restriction.{}.", number); }

Status not_of_this(const std::string& path, const std::string& what) {
  return invalid_input(
      fmt::format("{}: expected the checkpoint of this training, found {}: remove that "
                  "directory to begin anew",
                  path, what));
}

class Reader {
 public:
  Reader(const std::string& path, const Safetensors& file) : path_(path), file_(file) {}

  Status read(const std::string& name, const at::Tensor& target) const {
    const auto found = file_.tensors().find(name);
    if (found == file_.tensors().end())
      return not_of_this(path_, fmt::format("no tensor {}", quote(name)));
    const TensorView& view = found->second;
    if (view.dtype != DType::kF32 || view.shape != target.sizes().vec())
      return not_of_this(path_, fmt::format("tensor {} of another shape", quote(name)));
    if (view.size_bytes > 0) std::memcpy(target.data_ptr(), view.data, view.size_bytes);
    return {};
  }

  // Those whose names begin so, by what stands behind that.
  Result<std::map<std::string, at::Tensor>> all(const std::string& prefix) const {
    std::map<std::string, at::Tensor> found;
    for (const auto& [name, view] : file_.tensors()) {
      if (!name.starts_with(prefix)) continue;
      for (const auto& [dtype, type] : kTypes) {
        if (dtype != view.dtype) continue;
        const at::Tensor tensor = at::empty(view.shape, type);
        if (view.size_bytes > 0) std::memcpy(tensor.data_ptr(), view.data, view.size_bytes);
        found.emplace(name.substr(prefix.size()), tensor);
      }
    }
    return found;
  }

  Result<int64_t> steps() const {
    const auto found = file_.metadata().find(kSteps);
    int64_t steps = 0;
    if (found != file_.metadata().end()) {
      const std::string& text = found->second;
      std::from_chars(text.data(), text.data() + text.size(), steps);
    }
    if (steps < 1) return not_of_this(path_, "no number of steps");
    return steps;
  }

 private:
  const std::string& path_;
  const Safetensors& file_;
};

}  // namespace

Status write_state(const std::string& path, const AdamW& optimizer,
                   const Restrictions& restrictions, const Validation* validation) {
  Tensors tensors;
  for (const AdamW::Slot& slot : optimizer.slots()) {
    const std::string& name = slot.parameter->name;
    TESSERA_RETURN_IF_ERROR(tensors.add("value." + name, slot.parameter->value));
    TESSERA_RETURN_IF_ERROR(tensors.add("first." + name, slot.first));
    TESSERA_RETURN_IF_ERROR(tensors.add("second." + name, slot.second));
  }
  for (size_t i = 0; i < restrictions.size(); ++i) {
    for (const auto& [name, tensor] : restrictions[i]->state())
      TESSERA_RETURN_IF_ERROR(tensors.add(restriction_name(i) + name, tensor));
  }
  if (validation != nullptr) {
    for (const auto& [name, tensor] : validation->state())
      TESSERA_RETURN_IF_ERROR(tensors.add(kValidation + name, tensor));
  }
  return write_safetensors(path, tensors.list(), {{kSteps, std::to_string(optimizer.steps())}});
}

Status read_state(const std::string& path, AdamW& optimizer, Restrictions& restrictions,
                  Validation* validation) {
  TESSERA_ASSIGN_OR_RETURN(const Safetensors file, Safetensors::open(path));
  const at::NoGradGuard no_gradients;
  const Reader reader(path, file);
  TESSERA_ASSIGN_OR_RETURN(const int64_t steps, reader.steps());
  optimizer.take_up(steps);
  for (const AdamW::Slot& slot : optimizer.slots()) {
    const std::string& name = slot.parameter->name;
    TESSERA_RETURN_IF_ERROR(reader.read("value." + name, slot.parameter->value));
    TESSERA_RETURN_IF_ERROR(reader.read("first." + name, slot.first));
    TESSERA_RETURN_IF_ERROR(reader.read("second." + name, slot.second));
  }
  for (size_t i = 0; i < restrictions.size(); ++i) {
    TESSERA_ASSIGN_OR_RETURN(const auto state, reader.all(restriction_name(i)));
    TESSERA_RETURN_IF_ERROR(restrictions[i]->restore(state));
  }
  if (validation == nullptr) return {};
  TESSERA_ASSIGN_OR_RETURN(const auto state, reader.all(kValidation));
  return validation->restore(state);
}

}  // namespace tessera::training
