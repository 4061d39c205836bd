// Any text as config.json and any bytes as model.safetensors of a compressed checkpoint are refused
// with a sentence, or give matrices that can be written out: every index in them leads to a place
// that is there. The config ends at the first byte 0x1E.

#include "io/compressed.h"

#include <vector>

#include "support/target.h"

namespace tessera::fuzz {
namespace {

// What an input can make the target write: larger shapes are read, but not written out.
constexpr int64_t kMostBytes = int64_t{1} << 22;

void write_out(const StoredMatrix& matrix) {
  const int64_t bytes = dense_bytes(matrix);
  if (bytes > kMostBytes) return;
  std::vector<char> target(static_cast<size_t>(bytes), '\x55');
  to_dense(matrix, target.data());
  require(packed_bytes(matrix) >= 0 && flops_per_row(matrix) >= 0);
}

void read_all(const Checkpoint& checkpoint, const TensorFormats& formats) {
  for (const auto& [name, format] : formats.tensors()) {
    require(!tensors_of(formats, name).empty());
    for (const MatrixOrder order : {MatrixOrder::kOutputRows, MatrixOrder::kInputRows}) {
      for (const std::string& part : parts_of(formats, name)) {
        const auto read =
            read_matrix(checkpoint, formats, part, {nullptr, DType::kF32, -1, -1, order});
        if (!read.ok()) {
          require(!read.status().message().empty());
          continue;
        }
        require(outputs(read->packed.matrix) >= 0 && inputs(read->packed.matrix) >= 0);
        write_out(read->packed.matrix);
      }
    }
  }
}

}  // namespace

void check(std::string_view input) {
  static const Folder home;
  const size_t end = input.find('\x1e');
  home.put("config.json", input.substr(0, end));
  home.put("model.safetensors", end == input.npos ? std::string_view() : input.substr(end + 1));
  const auto checkpoint = Checkpoint::open(home.path());
  if (!checkpoint.ok()) {
    require(!checkpoint.status().message().empty());
    return;
  }
  const auto formats = TensorFormats::read(checkpoint->config());
  if (!formats.ok()) {
    require(!formats.status().message().empty());
    return;
  }
  read_all(*checkpoint, *formats);
}

}  // namespace tessera::fuzz
