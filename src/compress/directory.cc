#include "compress/directory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "compress/model_files.h"
#include "compress/paths.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "io/mapped_file.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;

constexpr size_t kConfigLimitBytes = size_t{64} << 20;

OrderedJson number(double value) {
  return std::isfinite(value) ? OrderedJson(value) : OrderedJson();
}

double number_of(const OrderedJson& json, const char* key) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_number()) return std::numeric_limits<double>::quiet_NaN();
  return found->get<double>();
}

OrderedJson to_json(const MatrixReport& report) {
  return {{"name", report.name},
          {"format", report.format},
          {"precision", report.precision},
          {"dense_bytes", report.dense_bytes},
          {"bytes", report.bytes},
          {"share", number(report.share)},
          {"weight_error", number(report.weight_error)},
          {"output_error", number(report.output_error)},
          {"expected_speedup", number(report.expected_speedup)},
          {"measured_speedup", number(report.measured_speedup)}};
}

OrderedJson to_json(const std::vector<MatrixReport>& reports) {
  OrderedJson list = OrderedJson::array();
  for (const MatrixReport& report : reports) list.push_back(to_json(report));
  return list;
}

std::vector<MatrixReport> reports_of(const OrderedJson& list) {
  std::vector<MatrixReport> reports;
  for (const OrderedJson& entry : list) {
    reports.push_back({.name = entry.value("name", ""),
                       .format = entry.value("format", ""),
                       .precision = entry.value("precision", ""),
                       .dense_bytes = entry.value("dense_bytes", int64_t{0}),
                       .bytes = entry.value("bytes", int64_t{0}),
                       .share = number_of(entry, "share"),
                       .weight_error = number_of(entry, "weight_error"),
                       .output_error = number_of(entry, "output_error"),
                       .expected_speedup = number_of(entry, "expected_speedup"),
                       .measured_speedup = number_of(entry, "measured_speedup")});
  }
  return reports;
}

// The matrices of one layer as tensors.
class LayerTensors {
 public:
  Status add(const std::vector<Matrix>& matrices) {
    for (size_t first = 0; first < matrices.size();) {
      size_t end = first;
      while (end < matrices.size() && matrices[end].item.tensor == matrices[first].item.tensor)
        ++end;
      TESSERA_RETURN_IF_ERROR(add_tensor({matrices.begin() + static_cast<int64_t>(first),
                                          matrices.begin() + static_cast<int64_t>(end)}));
      first = end;
    }
    return {};
  }

  void add(const std::string& name, PackedMatrix matrix) {
    packed_.push_back(std::move(matrix));
    const TensorFormat format = add_matrix(name, packed_.back(), list_);
    if (!format.is_dense()) formats_[name] = OrderedJson::parse(to_json(format));
  }

  const std::vector<TensorToWrite>& tensors() const { return list_.tensors; }
  const OrderedJson& formats() const { return formats_; }

 private:
  using Parts = std::vector<std::reference_wrapper<const Matrix>>;

  Status add_tensor(const Parts& parts) {
    const Item& item = parts.front().get().item;
    if (std::none_of(parts.begin(), parts.end(),
                     [](const Matrix& part) { return part.item.selected; })) {
      return {};
    }
    std::vector<PackedMatrix> packed;
    for (const Matrix& part : parts) {
      TESSERA_ASSIGN_OR_RETURN(PackedMatrix matrix, pack(part));
      packed.push_back(std::move(matrix));
    }
    const bool all_dense = std::all_of(packed.begin(), packed.end(), [](const PackedMatrix& one) {
      return is<DenseView>(one.matrix);
    });
    if (all_dense && !item.is_whole_tensor()) {
      TESSERA_ASSIGN_OR_RETURN(PackedMatrix whole, pack(joined(parts)));
      add(item.tensor, std::move(whole));
    } else {
      add_parts(parts, std::move(packed));
    }
    add_bias(parts);
    return {};
  }

  // The parts of a tensor as it was, without a mask.
  static Matrix joined(const Parts& parts) {
    Matrix whole{.item = parts.front().get().item, .dtype = parts.front().get().dtype};
    whole.item.first = 0;
    whole.item.outputs = whole.item.tensor_outputs;
    whole.pruned = {whole.item.outputs, whole.item.inputs, {}};
    for (const Matrix& part : parts) {
      const std::vector<float>& values = part.pruned.values;
      whole.pruned.values.insert(whole.pruned.values.end(), values.begin(), values.end());
    }
    return whole;
  }

  void add_parts(const Parts& parts, std::vector<PackedMatrix> packed) {
    const Item& item = parts.front().get().item;
    TensorFormat stack;
    for (size_t i = 0; i < parts.size(); ++i) {
      stack.parts.push_back(parts[i].get().item.name());
      add(stack.parts.back(), std::move(packed[i]));
    }
    if (item.is_whole_tensor()) return;
    const bool output_rows = item.order == MatrixOrder::kOutputRows;
    stack.rows = output_rows ? item.tensor_outputs : item.inputs;
    stack.cols = output_rows ? item.inputs : item.tensor_outputs;
    formats_[item.tensor] = OrderedJson::parse(to_json(stack));
  }

  void add_bias(const Parts& parts) {
    const Matrix& first = parts.front();
    if (std::none_of(parts.begin(), parts.end(),
                     [](const Matrix& part) { return part.bias_changed; })) {
      return;
    }
    std::vector<float> bias;
    for (const Matrix& part : parts) bias.insert(bias.end(), part.bias.begin(), part.bias.end());
    biases_.push_back(narrowed(bias, first.bias_dtype));
    list_.tensors.push_back({first.item.bias,
                             first.bias_dtype,
                             {static_cast<int64_t>(bias.size())},
                             biases_.back().data()});
  }

  TensorList list_;
  OrderedJson formats_ = OrderedJson::object();
  std::deque<PackedMatrix> packed_;
  std::deque<std::vector<char>> biases_;
};

Result<OrderedJson> read_config(const std::string& directory) {
  const std::string path = directory + "/config.json";
  TESSERA_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kConfigLimitBytes));
  OrderedJson config = OrderedJson::parse(text, nullptr, false);
  if (config.is_object()) return config;
  return invalid_input(fmt::format("{}: expected a JSON object, found something else", path));
}

std::string text_of(const OrderedJson& json) {
  return json.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

TensorToWrite as_written(const std::string& name, const TensorView& view) {
  return {name, view.dtype, view.shape, view.data};
}

// One layer of a part directory, whole or not at all.
Status write_part(const std::string& path, const LayerTensors& tensors,
                  const std::vector<MatrixReport>& reports) {
  OrderedJson config;
  config["tessera"] = {{"format", kFormatVersion}, {"tensors", tensors.formats()}};
  config["reports"] = to_json(reports);
  const std::string temporary = path + ".tmp";
  std::error_code error;
  fs::remove_all(temporary, error);
  fs::create_directory(temporary, error);
  if (error) return cannot("make the directory", temporary, error);
  TESSERA_RETURN_IF_ERROR(write_safetensors(temporary + "/" + kCompressedFile, tensors.tensors()));
  TESSERA_RETURN_IF_ERROR(write_file_atomically(temporary + "/config.json", text_of(config)));
  fs::remove_all(path, error);  // what is left of one that lost files
  if (!error) fs::rename(temporary, path, error);
  if (error) return cannot("put in place", path, error);
  sync_directory(path);
  return {};
}

}  // namespace

Result<std::unique_ptr<OpenCheckpoint>> OpenCheckpoint::open(const std::string& directory) {
  auto opened = std::make_unique<OpenCheckpoint>();
  TESSERA_ASSIGN_OR_RETURN(opened->checkpoint, Checkpoint::open(directory));
  TESSERA_ASSIGN_OR_RETURN(opened->formats, TensorFormats::read(opened->checkpoint.config()));
  return opened;
}

Result<PartDirectory> PartDirectory::open(const std::string& target, const std::string& run,
                                          Existing existing) {
  TESSERA_ASSIGN_OR_RETURN(OutputDirectory output, OutputDirectory::open(target, run, existing));
  return PartDirectory(std::move(output));
}

std::string PartDirectory::layer_path(int32_t layer) const {
  return fmt::format("{}/layer-{}", path(), layer);
}

bool PartDirectory::has_layer(int32_t layer) const {
  std::error_code ignored;
  for (const char* file : {"config.json", kCompressedFile}) {
    if (!fs::exists(fs::path(layer_path(layer)) / file, ignored)) return false;
  }
  return true;
}

Status PartDirectory::write_layer(int32_t layer, const std::vector<Matrix>& matrices,
                                  const std::vector<MatrixReport>& reports) const {
  LayerTensors tensors;
  TESSERA_RETURN_IF_ERROR(tensors.add(matrices));
  return write_part(layer_path(layer), tensors, reports);
}

Status PartDirectory::write_tables(int32_t layer, std::vector<RoundedTable> tables) const {
  LayerTensors tensors;
  std::vector<MatrixReport> reports;
  for (RoundedTable& table : tables) {
    tensors.add(table.report.name, std::move(table.packed));
    reports.push_back(std::move(table.report));
  }
  return write_part(layer_path(layer), tensors, reports);
}

Result<std::vector<MatrixReport>> PartDirectory::read_reports(int32_t layer) const {
  TESSERA_ASSIGN_OR_RETURN(const OrderedJson config, read_config(layer_path(layer)));
  std::vector<MatrixReport> reports = reports_of(config.value("reports", OrderedJson::array()));
  for (MatrixReport& report : reports)
    report.measured_speedup = std::numeric_limits<double>::quiet_NaN();  // nothing is yet
  return reports;
}

std::string reports_text(const std::vector<MatrixReport>& reports) {
  return to_json(reports).dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

std::vector<MatrixReport> parse_reports(const std::string& text) {
  return reports_of(OrderedJson::parse(text, nullptr, false));
}

namespace {

// config.json of a checkpoint with these formats, and the file of its tensors.
Status write_files(const OpenCheckpoint& source, const std::map<std::string, TensorFormat>& formats,
                   const std::vector<TensorToWrite>& tensors, const Changes& changes,
                   const std::string& directory) {
  const std::string& section = changes.section;
  const bool is_plain = formats.empty() && section.empty();
  OrderedJson own = section.empty() ? OrderedJson::object() : OrderedJson::parse(section);
  if (section.empty()) own["format"] = kFormatVersion;
  own["tensors"] = OrderedJson::object();
  for (const auto& [name, format] : formats)
    own["tensors"][name] = OrderedJson::parse(to_json(format));
  TESSERA_ASSIGN_OR_RETURN(const std::string config,
                           changed_config(source.checkpoint.directory(),
                                          {.section = is_plain ? std::string() : own.dump(),
                                           .kv_heads = changes.kv_heads}));
  std::map<std::string, std::string> metadata = {{"format", "pt"}};
  if (is_plain) metadata[kWriterKey] = "tessera";
  const std::string file = directory + "/" + (is_plain ? kWeightsFile : kCompressedFile);
  TESSERA_RETURN_IF_ERROR(write_safetensors(file, tensors, metadata));
  return write_file_atomically(directory + "/config.json", config);
}

}  // namespace

Status write_checkpoint(const OpenCheckpoint& source, const Changes& changes,
                        const std::string& directory) {
  std::set<std::string> replaced;
  std::map<std::string, TensorFormat> formats(source.formats.tensors().begin(),
                                              source.formats.tensors().end());
  std::vector<TensorToWrite> tensors;
  const auto replace = [&](const std::string& name) {
    for (const std::string& tensor : tensors_of(source.formats, name)) replaced.insert(tensor);
    for (const std::string& part : parts_of(source.formats, name)) formats.erase(part);
    formats.erase(name);
  };
  for (const auto& layer : changes.layers) {
    for (const auto& [name, format] : layer->formats.tensors()) replace(name);
    for (const std::string& name : layer->checkpoint.names()) {
      replace(name);
      TESSERA_ASSIGN_OR_RETURN(const TensorView view, layer->checkpoint.any_tensor(name));
      tensors.push_back(as_written(name, view));
    }
  }
  for (const TensorToWrite& tensor : changes.tensors) {
    replace(tensor.name);
    tensors.push_back(tensor);
  }
  for (const auto& layer : changes.layers)
    formats.insert(layer->formats.tensors().begin(), layer->formats.tensors().end());
  for (const std::string& name : source.checkpoint.names()) {
    if (replaced.contains(name)) continue;
    TESSERA_ASSIGN_OR_RETURN(const TensorView view, source.checkpoint.any_tensor(name));
    tensors.push_back(as_written(name, view));
  }
  return write_files(source, formats, tensors, changes, directory);
}

}  // namespace tessera
