#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "io/compressed.h"
#include "model/slots.h"
#include "tessera/compress.h"

namespace tessera {

// Where a matrix W of y = W x + b is: outputs first .. first + outputs of a tensor.
struct Item {
  size_t number = 0;  // its place in the list
  int32_t layer = 0;
  LayerMap map = LayerMap::kQkv;
  Role role = Role::kQkv;
  std::string tensor;
  std::string bias;  // its tensor, whose values first .. first + outputs are W's; empty: none
  MatrixOrder order = MatrixOrder::kOutputRows;
  int64_t first = 0;
  int64_t outputs = 0;
  int64_t inputs = 0;
  int64_t tensor_outputs = 0;
  bool selected = false;  // to be compressed

  bool is_whole_tensor() const { return outputs == tensor_outputs; }
  // The name in reports, and of the tensor of a part that is stored apart.
  std::string name() const;
};

// Whether a tensor that holds queries, keys and values is one matrix or three.
enum class FusedQkv { kWhole, kParts };

// Every matrix of every layer, those marked that the options choose; layer by layer in the order of
// the maps, in each in the order of outputs. kInvalidInput where the options name matrices or
// layers that there are none of.
Result<std::vector<Item>> list_items(const Architecture& architecture,
                                     const CompressOptions& options, FusedQkv fused);

const char* name(Role role);

}  // namespace tessera
