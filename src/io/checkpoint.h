#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "io/config.h"
#include "io/safetensors.h"

namespace tessera {

// The tensors of a compressed directory. No other program takes them for a plain model's, whose
// files have other names; a directory of format 1 may still have them in model.safetensors.
inline constexpr const char* kCompressedFile = "tessera.safetensors";

// A Hugging Face directory: config.json and model.safetensors, or model.safetensors.index.json with
// its shards; or where config.json has a `tessera` section, tessera.safetensors. Shards are plain
// file names, so that an index can name no file outside of the directory; links in it are followed
// wherever they lead, as only its owner can have made them. Cheap to copy; views live as long as a
// copy does.
class Checkpoint {
 public:
  static Result<Checkpoint> open(const std::string& directory);

  const std::string& directory() const { return directory_; }
  const Config& config() const { return config_; }
  const Config& generation_config() const {
    return generation_config_;
  }  // empty when there is none
  int64_t tensor_count() const { return static_cast<int64_t>(tensors_.size()); }
  std::vector<std::string> names() const;
  size_t size_bytes() const;  // of the tensor files

  bool has(std::string_view name) const;
  // The tensor, of exactly this shape (-1 stands for any extent) and a floating-point dtype; the
  // error names both shapes, or for a missing tensor the directory and the nearest name there is.
  Result<TensorView> tensor(std::string_view name, const std::vector<int64_t>& shape) const;
  // The list of so many indices, I32 or I16.
  Result<TensorView> indices(std::string_view name, int64_t count) const;
  // The tensor of exactly this shape, and of this dtype.
  Result<TensorView> typed(std::string_view name, const std::vector<int64_t>& shape,
                           DType dtype) const;
  // The tensor as it is, of any dtype.
  Result<TensorView> any_tensor(std::string_view name) const;
  // Gives a tensor's pages back once its values have been copied.
  void release(const TensorView& tensor) const;

 private:
  Result<TensorView> find(std::string_view name, const std::vector<int64_t>& shape) const;
  Status add_files();
  Status add_file(const std::string& path);
  Status add_shards(const std::string& index_path);

  std::string directory_;
  Config config_;
  Config generation_config_;
  std::vector<std::shared_ptr<Safetensors>> files_;
  std::map<std::string, size_t, std::less<>> tensors_;  // name -> index of its file
  // Names of tensors that cannot be read, with their dtypes.
  std::map<std::string, std::string, std::less<>> others_;
};

}  // namespace tessera
