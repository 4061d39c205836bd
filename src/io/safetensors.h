#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"
#include "io/mapped_file.h"

namespace tessera {

// A tensor in a mapped file, row-major, whose memory belongs to the file. data need not be aligned
// for its dtype: copy values out (memcpy, convert_to_f32). The product of the extents, each taken
// as at least 1, fits int64_t.
struct TensorView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  size_t size_bytes = 0;
};

struct SafetensorsContents {
  std::map<std::string, TensorView> tensors;
  // Tensors of dtypes that the format knows and Tessera has no use for, by name: their dtypes. They
  // are checked as the others are.
  std::map<std::string, std::string> others;
  std::map<std::string, std::string> metadata;
};

// The checks of Safetensors::open, for the bytes of a file in memory, which the views point into;
// source opens messages.
Result<SafetensorsContents> parse_safetensors(std::string_view file, const std::string& source);

// A safetensors file: an 8-byte little-endian header length, a JSON header, the tensors' bytes.
// Everything the header says is checked against the file before anything is read: lengths, offsets
// (in order, without gaps or overlaps, covering the data), dtype x shape = bytes without overflow,
// names that occur once.
class Safetensors {
 public:
  static Result<Safetensors> open(const std::string& path);

  const std::map<std::string, TensorView>& tensors() const { return contents_.tensors; }
  const std::map<std::string, std::string>& others() const { return contents_.others; }
  const std::map<std::string, std::string>& metadata() const { return contents_.metadata; }
  size_t size_bytes() const { return file_.size_bytes(); }
  void release(const TensorView& tensor) const { file_.release(tensor.data, tensor.size_bytes); }

 private:
  MappedFile file_;
  SafetensorsContents contents_;
};

// Tensors to write; data belongs to the caller. Where there is none, make gives the values when
// their turn comes, so that they need not all be in memory at once.
struct TensorToWrite {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
  std::function<Result<std::vector<char>>()> make = {};
};

// Writes a safetensors file through a temporary and a rename. The order is by size of dtype,
// largest first, then by name, so that equal tensors give equal files and each tensor is aligned
// for its dtype.
Status write_safetensors(const std::string& path, const std::vector<TensorToWrite>& tensors,
                         const std::map<std::string, std::string>& metadata = {});

}  // namespace tessera
