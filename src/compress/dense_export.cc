#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/guarded.h"
#include "compress/directory.h"
#include "compress/item.h"
#include "compress/matrix.h"
#include "compress/model_card.h"
#include "compress/model_files.h"
#include "compress/output.h"
#include "compress/paths.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "model/loader.h"
#include "tessera/compress.h"

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

struct NamedType {
  ExportType type;
  DType dtype;
  const char* config;  // as config.json calls it
};
constexpr NamedType kTypes[] = {{ExportType::kF32, DType::kF32, "float32"},
                                {ExportType::kF16, DType::kF16, "float16"},
                                {ExportType::kBF16, DType::kBF16, "bfloat16"}};

// A tensor of the plain model that is a matrix in the compressed one, and the parts that it is made
// of, one behind the other by outputs; one part of its own name where it is no stack.
struct DenseMatrix {
  Item item;
  std::vector<Item> parts;
  DType dtype = DType::kF32;
};

class DenseExport {
 public:
  DenseExport(const std::string& name, const std::string& target, const ExportOptions& options)
      : name_(name), target_(target), options_(options) {
    for (const NamedType& row : kTypes) {
      if (row.type == options.type) type_ = &row;
    }
  }

  Result<ExportReport> run() {
    TESSERA_RETURN_IF_ERROR(open());
    TESSERA_RETURN_IF_ERROR(list());
    TESSERA_ASSIGN_OR_RETURN(const OutputDirectory output,
                             OutputDirectory::open(target_, options_.existing));
    if (output.has_run() && options_.existing == Existing::kRefuse) {
      return invalid_input(
          fmt::format("{}: expected nothing there, found what an interrupted compression left: "
                      "--force removes it, or give another output",
                      output.path()));
    }
    TESSERA_RETURN_IF_ERROR(output.clear());
    const Status status = guarded(name_, [&] { return write(output); });
    if (!status.ok()) {
      (void)output.discard();
      return status;
    }
    return report_;
  }

 private:
  Status open() {
    TESSERA_ASSIGN_OR_RETURN(home_, find_model(name_));
    TESSERA_RETURN_IF_ERROR(check_target(home_, target_, options_.existing));
    TESSERA_ASSIGN_OR_RETURN(source_, OpenCheckpoint::open(home_.transformer));
    report_.bytes_before = static_cast<int64_t>(checkpoint().size_bytes());
    TESSERA_ASSIGN_OR_RETURN(const Architecture architecture, read_architecture(checkpoint()));
    TESSERA_ASSIGN_OR_RETURN(const std::vector<Item> items,
                             list_items(architecture, {}, FusedQkv::kWhole));
    for (const Item& item : items) orders_[item.tensor] = item.order;
    return {};
  }

  const Checkpoint& checkpoint() const { return source_->checkpoint; }
  const TensorFormats& formats() const { return source_->formats; }

  // Tables and heads have a row an output.
  MatrixOrder order_of(const std::string& tensor) const {
    const auto found = orders_.find(tensor);
    return found == orders_.end() ? MatrixOrder::kOutputRows : found->second;
  }

  Status list() {
    std::set<std::string> consumed;
    for (const auto& [name, format] : formats().tensors())
      consumed.insert(format.parts.begin(), format.parts.end());
    const std::set<std::string> parts = consumed;
    for (const auto& [name, format] : formats().tensors()) {
      for (const std::string& tensor : tensors_of(formats(), name)) consumed.insert(tensor);
      if (parts.contains(name) || is_dense_entry(name)) continue;
      TESSERA_ASSIGN_OR_RETURN(DenseMatrix matrix, describe(name));
      matrices_.push_back(std::move(matrix));
    }
    for (const std::string& name : checkpoint().names()) {
      const bool is_plain = is_dense_entry(name) && !parts.contains(name);
      if (!consumed.contains(name) || is_plain) plain_.push_back(name);
    }
    return check_space(target_, needed_bytes());
  }

  bool is_dense_entry(const std::string& name) const {
    const TensorFormat* entry = formats().find(name);
    return entry != nullptr && !entry->is_stack() && entry->is_dense();
  }

  // One that is its own tensor, dense or not.
  Result<Item> describe_part(const std::string& name, MatrixOrder order) const {
    Item item{.tensor = name, .order = order};
    const TensorFormat* entry = formats().find(name);
    int64_t rows = 0, cols = 0;
    bool rows_are_outputs = order == MatrixOrder::kOutputRows;
    if (entry != nullptr) {
      rows = entry->rows;
      cols = entry->cols;
      rows_are_outputs = rows_are_outputs || (!entry->is_stack() &&
                                              entry->format->rows == WeightFormat::Rows::kOutputs);
    } else {
      TESSERA_ASSIGN_OR_RETURN(const TensorView view, checkpoint().tensor(name, {-1, -1}));
      rows = view.shape[0];
      cols = view.shape[1];
    }
    item.outputs = rows_are_outputs ? rows : cols;
    item.inputs = rows_are_outputs ? cols : rows;
    item.tensor_outputs = item.outputs;
    return item;
  }

  Result<DenseMatrix> describe(const std::string& name) const {
    DenseMatrix matrix;
    const MatrixOrder order = order_of(name);
    TESSERA_ASSIGN_OR_RETURN(matrix.item, describe_part(name, order));
    int64_t outputs = 0;
    std::optional<DType> dtype;
    for (const std::string& part : parts_of(formats(), name)) {
      TESSERA_ASSIGN_OR_RETURN(const Item item, describe_part(part, order));
      outputs += item.outputs;
      const DType own = dtype_of(part);
      dtype = dtype.value_or(own) == own ? own : DType::kF32;
      if (item.inputs == matrix.item.inputs) matrix.parts.push_back(item);
    }
    matrix.dtype = type_ != nullptr ? type_->dtype : dtype.value_or(DType::kF32);
    if (outputs == matrix.item.outputs && !matrix.parts.empty()) return matrix;
    return invalid_input(
        fmt::format("{}: tensor {}: expected parts of {} outputs together, found {}",
                    checkpoint().directory(), quote(name), matrix.item.outputs, outputs));
  }

  // Of the matrix written out: that of its values where they are floats.
  DType dtype_of(const std::string& part) const {
    const TensorFormat* entry = formats().find(part);
    const char* suffix = entry == nullptr ? "" : entry->format->parts.front().suffix;
    const auto values = checkpoint().any_tensor(part + suffix);
    return values.ok() && is_weight_type(values->dtype) ? values->dtype : DType::kF32;
  }

  int64_t needed_bytes() const {
    constexpr int64_t kMost = INT64_MAX / 2;  // more than any disk, whatever a file says
    int64_t total = report_.bytes_before;
    for (const DenseMatrix& matrix : matrices_) {
      const int64_t bytes =
          matrix.item.outputs * matrix.item.inputs * static_cast<int64_t>(size_bytes(matrix.dtype));
      total = std::min(kMost, total + std::min(kMost, bytes));
    }
    return total;
  }

  // [outputs, inputs]
  Result<std::vector<float>> write_out(const DenseMatrix& matrix) const {
    std::vector<float> all;
    for (const Item& part : matrix.parts) {
      TESSERA_ASSIGN_OR_RETURN(const Matrix read, read_item({source_->source()}, part));
      all.insert(all.end(), read.whole.values.begin(), read.whole.values.end());
    }
    return all;
  }

  // [outputs, inputs], whether a weight was kept. Of what is stored whole, a float that is zero was
  // not; an integer may be zero by rounding.
  Result<std::vector<bool>> kept_of(const DenseMatrix& matrix) const {
    std::vector<bool> all;
    for (const Item& part : matrix.parts) {
      TESSERA_ASSIGN_OR_RETURN(const Matrix read, read_item({source_->source()}, part));
      const auto is_kept = [&](int64_t o, int64_t i) {
        if (read.mask.has_value())
          return read.mask->keeps(o / read.mask->tile.rows, i / read.mask->tile.cols);
        return read.rounding.has_value() || read.whole.row(o)[i] != 0;
      };
      for (int64_t o = 0; o < part.outputs; ++o) {
        for (int64_t i = 0; i < part.inputs; ++i) all.push_back(is_kept(o, i));
      }
    }
    return all;
  }

  static std::vector<int64_t> shape_of(const Item& item) {
    if (item.order == MatrixOrder::kOutputRows) return {item.outputs, item.inputs};
    return {item.inputs, item.outputs};
  }

  Status progress(const char* what, int64_t done, int64_t total) const {
    if (!options_.on_progress || options_.on_progress(what, done, total)) return {};
    return Status(StatusCode::kCancelled, "the export was cancelled");
  }

  // Asked before each tensor, in whatever order they are written.
  Status next_tensor() {
    const auto total = static_cast<int64_t>(matrices_.size() + plain_.size());
    return progress("writing", written_++, total);
  }

  TensorToWrite tensor_of(const DenseMatrix& matrix) {
    const auto make = [this, &matrix]() -> Result<std::vector<char>> {
      TESSERA_RETURN_IF_ERROR(next_tensor());
      TESSERA_ASSIGN_OR_RETURN(const std::vector<float> values, write_out(matrix));
      return in_order(narrowed(values, matrix.dtype), size_bytes(matrix.dtype), matrix.item);
    };
    return {matrix.item.tensor, matrix.dtype, shape_of(matrix.item), nullptr, make};
  }

  // A tensor that is as it was, in another type of floats where one is asked for.
  Result<TensorToWrite> tensor_of(const std::string& name) {
    TESSERA_ASSIGN_OR_RETURN(const TensorView view, checkpoint().any_tensor(name));
    const bool stays = type_ == nullptr || !is_weight_type(view.dtype);
    const DType dtype = stays ? view.dtype : type_->dtype;
    const auto make = [view, dtype, this]() -> Result<std::vector<char>> {
      TESSERA_RETURN_IF_ERROR(next_tensor());
      if (dtype == view.dtype) {
        const char* bytes = static_cast<const char*>(view.data);
        return std::vector<char>(bytes, bytes + view.size_bytes);
      }
      std::vector<float> values(view.size_bytes / size_bytes(view.dtype));
      convert_to_f32(view.data, view.dtype, static_cast<int64_t>(values.size()), values.data());
      return narrowed(values, dtype);
    };
    return TensorToWrite{name, dtype, view.shape, nullptr, make};
  }

  // What config.json says of the numbers: integers that became f32 are no longer what it said;
  // empty where it is as it was.
  std::string config_dtype() const {
    if (type_ != nullptr) return type_->config;
    const Config& config = checkpoint().config();
    const bool any_f32 =
        std::any_of(matrices_.begin(), matrices_.end(),
                    [](const DenseMatrix& matrix) { return matrix.dtype == DType::kF32; });
    return any_f32 && (config.has("dtype") || config.has("torch_dtype")) ? "float32" : "";
  }

  Status write(const OutputDirectory& output) {
    TESSERA_ASSIGN_OR_RETURN(const std::string whole, output.make_whole());
    const std::string inner = home_.transformer_in(whole);
    std::filesystem::create_directories(inner);
    report_.matrices = static_cast<int64_t>(matrices_.size());
    std::vector<TensorToWrite> tensors;
    for (const DenseMatrix& matrix : matrices_) tensors.push_back(tensor_of(matrix));
    for (const std::string& name : plain_) {
      TESSERA_ASSIGN_OR_RETURN(TensorToWrite tensor, tensor_of(name));
      tensors.push_back(std::move(tensor));
    }
    const std::string file = inner + "/" + kWeightsFile;
    TESSERA_RETURN_IF_ERROR(
        write_safetensors(file, tensors, {{"format", "pt"}, {kWriterKey, "tessera"}}));
    report_.bytes_after = static_cast<int64_t>(std::filesystem::file_size(file));
    if (options_.masks == ExportOptions::Masks::kYes) TESSERA_RETURN_IF_ERROR(write_masks(inner));
    TESSERA_ASSIGN_OR_RETURN(const std::string config,
                             changed_config(home_.transformer, {.dtype = config_dtype()}));
    TESSERA_RETURN_IF_ERROR(write_file_atomically(inner + "/config.json", config));
    TESSERA_RETURN_IF_ERROR(
        copy_other_files(home_, whole, [this] { return progress("copying other files", 0, 1); }));
    if (checkpoint().config().has("tessera")) TESSERA_RETURN_IF_ERROR(put_base_card_back(whole));
    return output.finish();
  }

  // Matrices of layers that a compression left dense are not among those that were multiplied out,
  // but may have been pruned as well: then some of their weights are zero.
  Result<std::vector<DenseMatrix>> candidates() const {
    std::vector<DenseMatrix> found;
    for (const auto& entry : orders_) {
      const std::string& tensor = entry.first;
      const auto one =
          std::find_if(matrices_.begin(), matrices_.end(),
                       [&](const DenseMatrix& matrix) { return matrix.item.tensor == tensor; });
      if (one != matrices_.end()) {
        found.push_back(*one);
      } else if (checkpoint().has(tensor)) {
        TESSERA_ASSIGN_OR_RETURN(DenseMatrix matrix, describe(tensor));
        found.push_back(std::move(matrix));
      }
    }
    return found;
  }

  Status write_masks(const std::string& directory) {
    TESSERA_ASSIGN_OR_RETURN(const std::vector<DenseMatrix> matrices, candidates());
    std::vector<TensorToWrite> masks;
    std::deque<std::vector<bool>> all_kept;  // a bit a weight
    for (size_t i = 0; i < matrices.size(); ++i) {
      const DenseMatrix& matrix = matrices[i];
      TESSERA_RETURN_IF_ERROR(progress("writing masks", static_cast<int64_t>(i),
                                       static_cast<int64_t>(matrices.size())));
      TESSERA_ASSIGN_OR_RETURN(std::vector<bool> found, kept_of(matrix));
      if (std::find(found.begin(), found.end(), false) == found.end()) continue;
      const std::vector<bool>& kept = all_kept.emplace_back(std::move(found));
      const auto make = [&matrix, &kept]() -> Result<std::vector<char>> {
        return in_order({kept.begin(), kept.end()}, 1, matrix.item);
      };
      masks.push_back({matrix.item.tensor, DType::kBool, shape_of(matrix.item), nullptr, make});
    }
    report_.masks = static_cast<int64_t>(masks.size());
    return write_safetensors(directory + "/" + kMasksFile, masks,
                             {{"format", "pt"}, {kWriterKey, "tessera"}});
  }

  const std::string& name_;
  const std::string& target_;
  const ExportOptions& options_;
  const NamedType* type_ = nullptr;  // null: as stored
  ModelDirectory home_;
  std::unique_ptr<OpenCheckpoint> source_;
  std::map<std::string, MatrixOrder> orders_;  // of the matrices of layers, by tensor
  std::vector<DenseMatrix> matrices_;
  std::vector<std::string> plain_;  // tensors that are written as they are
  int64_t written_ = 0;             // of the tensors
  ExportReport report_;
};

}  // namespace

Result<ExportReport> export_dense(const std::string& source, const std::string& target,
                                  const ExportOptions& options) {
  return guarded(source, [&] {
    const std::string plain = plain_path(target);
    return DenseExport(source, plain, options).run();
  });
}

}  // namespace tessera
