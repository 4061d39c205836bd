#include "cli/results.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "cli/inputs.h"
#include "cli/task_verb.h"

namespace tessera::cli {
namespace {

struct Ending {
  const char* text;
  ResultFormat format;
};
constexpr std::array kEndings = {Ending{".jsonl", ResultFormat::kJson},
                                 Ending{".ndjson", ResultFormat::kJson},
                                 Ending{".json", ResultFormat::kJson},
                                 Ending{".csv", ResultFormat::kCsv},
                                 Ending{".tsv", ResultFormat::kTsv},
                                 Ending{".npy", ResultFormat::kNpy},
                                 Ending{".safetensors", ResultFormat::kSafetensors}};

// Of files that other programs write vectors or tables to, and that lines of text would spoil.
constexpr std::array kForeignEndings = {".npz", ".parquet", ".pt",    ".pth",     ".h5",   ".hdf5",
                                        ".pkl", ".pickle",  ".arrow", ".feather", ".xlsx", ".xls",
                                        ".ods", ".mat",     ".bin",   ".onnx",    ".zip",  ".gz"};

// What stands before the numbers of a matrix, written again when their count is known: as long for
// any count, and a multiple of 64, as NumPy wants it.
constexpr size_t kHeadBytes = 256;

std::string ids_path_of(const std::string& path) {
  return std::filesystem::path(path).replace_extension(".ids.txt").string();
}

std::string json_of(const RowField& field) {
  if (field.kind == RowField::Kind::kJson) return field.text;
  return nlohmann::json(field.text).dump();
}

// RFC 4180.
std::string csv_cell(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string cell = "\"";
  for (const char c : text) cell.append(c == '"' ? 2 : 1, c);
  return cell + "\"";
}

std::string npy_head(int64_t rows, size_t width) {
  constexpr size_t kBefore = 10;
  constexpr uint16_t kRest = kHeadBytes - kBefore;
  std::string head("\x93NUMPY\x01\x00", 8);
  for (const int shift : {0, 8}) head += static_cast<char>((kRest >> shift) & 0xff);
  head +=
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows, width);
  head.resize(kHeadBytes - 1, ' ');
  return head + "\n";
}

std::string safetensors_head(int64_t rows, size_t width) {
  constexpr uint64_t kJsonBytes = kHeadBytes - 8;
  std::string head;
  for (int shift = 0; shift < 64; shift += 8) {
    head += static_cast<char>((kJsonBytes >> shift) & 0xff);
  }
  head += fmt::format(R"({{"embeddings":{{"dtype":"F32","shape":[{},{}],"data_offsets":[0,{}]}}}})",
                      rows, width, static_cast<uint64_t>(rows) * width * sizeof(float));
  head.resize(kHeadBytes, ' ');
  return head;
}

bool keeps(const Record& record) {
  return std::any_of(record.kept.begin(), record.kept.end(),
                     [](const RowField& field) { return field.kind != RowField::Kind::kAbsent; });
}

}  // namespace

ResultFormat format_of(const ResultOptions& options) {
  const std::string file = options.file.value_or("");
  ResultFormat format = ResultFormat::kLines;
  for (const char* ending : kForeignEndings) {
    if (!has_ending(file, ending)) continue;
    usage_error(fmt::format("--output: expected {}, found \"{}\"",
                            options.kind == ResultKind::kVectors
                                ? "a file .npy, .safetensors, .csv, .tsv, .jsonl or .txt"
                                : "a text file or .jsonl",
                            file));
  }
  for (const Ending& each : kEndings) {
    if (!has_ending(file, each.text)) continue;
    format = each.format;
    const bool vectors = format > ResultFormat::kJson;
    if (vectors && options.json) {
      usage_error(fmt::format("expected --json or a file {}, found both", each.text));
    }
    if (vectors && options.kind != ResultKind::kVectors) {
      usage_error(fmt::format("--output: expected a text file or .jsonl, found \"{}\"", file));
    }
    break;
  }
  return options.json ? ResultFormat::kJson : format;
}

Results::Results(ResultOptions options)
    : options_(std::move(options)), format_(format_of(options_)) {
  for (const char* key : {"line", "error"}) options_.keys.emplace_back(key);
}

Status Results::open() {
  if (!options_.file) return {};
  Result<std::unique_ptr<PartialFile>> file = PartialFile::open(*options_.file);
  if (!file.ok()) return file.status();
  file_ = std::move(file).value();
  // Whoever stops reading what is said on standard error does not stop the work.
  std::signal(SIGPIPE, SIG_IGN);
  return {};
}

Status Results::put(std::string_view text) {
  return file_ != nullptr ? file_->write(text) : out_.write(text);
}

std::string Results::kept_text(const Record& record) const {
  if (!keeps(record)) return "";
  std::string text;
  for (const RowField& field : record.kept) {
    text += (text.empty() ? "" : "\t") + on_one_line(field.text);
  }
  return text;
}

// "\"id\":7,"
std::string Results::kept_members(const Record& record) const {
  std::string members;
  for (size_t i = 0; i < record.kept.size(); ++i) {
    const RowField& field = record.kept[i];
    if (field.kind == RowField::Kind::kAbsent) continue;
    const std::string& name = options_.kept[i];
    const bool taken =
        std::find(options_.keys.begin(), options_.keys.end(), name) != options_.keys.end();
    members += nlohmann::json(taken ? "input_" + name : name).dump() + ":" + json_of(field) + ",";
  }
  return members;
}

// Each with a separator behind it.
std::string Results::kept_cells(const Record& record) const {
  std::string cells;
  for (size_t i = 0; has_kept_ && i < options_.kept.size(); ++i) {
    const std::string text = i < record.kept.size() ? record.kept[i].text : "";
    cells += format_ == ResultFormat::kCsv ? csv_cell(text) : on_one_line(text);
    cells += separator();
  }
  return cells;
}

Status Results::add(const Record& record, std::string_view line) {
  ++rows_;
  if (!writes_json()) {
    const std::string kept = kept_text(record);
    if (Status status = put(kept.empty() ? kept : kept + "\t"); !status.ok()) return status;
    return put(line);
  }
  const std::string members = kept_members(record);
  if (members.empty()) return put(line);
  if (Status status = put("{" + members); !status.ok()) return status;
  return put(line.substr(1));
}

Status Results::add(const Record& record, std::span<const float> vector) {
  if (!width_) {
    if (Status status = begin(record, vector.size()); !status.ok()) return status;
  }
  return add_row(record, vector);
}

Status Results::add_skipped(const Record& record) {
  if (writes_vectors()) {
    if (!width_) {
      waiting_.push_back(record);
      return {};
    }
    return add_row(record, {});
  }
  if (!writes_json()) {
    ++rows_;
    return put("\n");
  }
  JsonLine line;
  line.integer("line", record.line).text("error", record.error);
  return add(record, line.line());
}

Status Results::add_text(std::string_view text) {
  ++rows_;
  return put(text);
}

// What stands before the first row. The record says whether there are columns to carry over.
Status Results::begin(const Record& record, size_t width) {
  width_ = width;
  has_kept_ = options_.keeps_always || keeps(record);
  if (is_matrix()) {
    const std::string path = ids_path_of(*options_.file);
    if (!has_kept_ && std::filesystem::exists(path)) {
      return invalid_input(fmt::format(
          "expected no {} beside vectors whose input has no ids, found one: take it away", path));
    }
    if (has_kept_) {
      Result<std::unique_ptr<PartialFile>> ids = PartialFile::open(path);
      if (!ids.ok()) return ids.status();
      ids_ = std::move(ids).value();
    }
  }
  text_.clear();
  if (is_matrix()) {
    text_ = head();
  } else {
    for (size_t i = 0; has_kept_ && i < options_.kept.size(); ++i) {
      text_ += csv_cell(options_.kept[i]) + separator();
    }
    for (size_t i = 0; i < width; ++i) {
      if (i > 0) text_ += separator();
      fmt::format_to(std::back_inserter(text_), "e{}", i);
    }
    text_ += '\n';
  }
  Status status = put(text_);
  for (const Record& skipped : std::exchange(waiting_, {})) {
    if (status.ok()) status = add_row(skipped, {});
  }
  return status;
}

// No vector: the record was skipped.
Status Results::add_row(const Record& record, std::span<const float> vector) {
  ++rows_;
  if (is_matrix()) {
    const std::vector<float> none(vector.empty() ? *width_ : 0,
                                  std::numeric_limits<float>::quiet_NaN());
    const std::span<const float> row = vector.empty() ? std::span<const float>(none) : vector;
    Status status = put({reinterpret_cast<const char*>(row.data()), row.size_bytes()});
    if (status.ok() && ids_ != nullptr) status = ids_->write(kept_text(record) + "\n");
    return status;
  }
  text_ = kept_cells(record);
  auto to = std::back_inserter(text_);
  for (size_t i = 0; i < *width_; ++i) {
    if (i > 0) text_ += separator();
    if (!vector.empty()) fmt::format_to(to, "{}", vector[i]);
  }
  text_ += '\n';
  return put(text_);
}

std::string Results::head() const {
  const size_t width = width_.value_or(0);
  return format_ == ResultFormat::kNpy ? npy_head(rows_, width) : safetensors_head(rows_, width);
}

Status Results::flush() {
  if (file_ == nullptr) return out_.flush();
  // With the rows so far, so that even a file that is left by kill -9 can be read.
  Status status = is_matrix() && width_ ? file_->write_head(head()) : file_->flush();
  if (status.ok() && ids_ != nullptr) status = ids_->flush();
  return status;
}

Status Results::finish() {
  if (writes_vectors() && !width_ && (is_matrix() || !waiting_.empty())) {
    if (Status status = begin({}, 0); !status.ok()) return status;
  }
  Status status = flush();
  if (status.ok() && ids_ != nullptr) status = ids_->commit();
  if (status.ok() && file_ != nullptr) status = file_->commit();
  return status;
}

std::string Results::leave() {
  const Status flushed = flush();
  if (file_ == nullptr) return "";
  if (rows_ > 0 || !flushed.ok()) return file_->partial_path();
  for (PartialFile* each : {file_.get(), ids_.get()}) {
    if (each != nullptr) each->discard();
  }
  return "";
}

std::string interrupted_after(int64_t done, const std::optional<int64_t>& total,
                              std::string_view unit) {
  if (!total) return "interrupted after " + counted(done, unit);
  return fmt::format("interrupted after {} of {}", done, counted(*total, unit));
}

Status all_were_skipped(int64_t count, std::string_view unit) {
  return invalid_input(
      fmt::format("expected {} that can be read, found none: all {} were skipped", unit, count));
}

}  // namespace tessera::cli
