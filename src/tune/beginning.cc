#include "tune/beginning.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "compress/matrix.h"
#include "compress/model_files.h"
#include "compress/output.h"
#include "io/checkpoint.h"
#include "io/mapped_file.h"
#include "model/slots.h"
#include "tune/batch.h"
#include "tune/random.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;
using training::Random;

constexpr double kUsualRange = 0.02;  // of transformers
constexpr size_t kConfigLimitBytes = size_t{64} << 20;

// A tensor whose numbers are drawn: mean + deviation * N(0, 1).
struct Drawn {
  std::string name;
  std::vector<int64_t> shape;
  double mean = 0, deviation = 0;

  int64_t numbers() const {
    int64_t product = 1;
    for (const int64_t extent : shape) product *= extent;
    return product;
  }
};

// The tensors of an architecture, each once.
class Tensors {
 public:
  Tensors(const Architecture& architecture, double range) : a_(architecture), range_(range) {}

  std::vector<Drawn> of_head() && {
    add_head();
    return std::move(drawn_);
  }
  std::vector<Drawn> all() && {
    for (const TableSlot& slot : kTableSlots) {
      if (const std::string& name = a_.names.*slot.name; !name.empty())
        add(name, 0, {slot.rows(a_), a_.embedding_width()}, range_);
    }
    for (const ModelNormSlot& slot : kModelNormSlots) add(a_.names.*slot.names, slot.width(a_), 0);
    for (int32_t layer = 0; layer < a_.layer_count(); ++layer) add_layer(layer);
    add_head();
    return std::move(drawn_);
  }

 private:
  void add(const std::string& pattern, int32_t layer, std::vector<int64_t> shape, double deviation,
           double mean = 0) {
    const std::string name = tensor_name(a_.names, pattern, layer);
    if (names_.insert(name).second) drawn_.push_back({name, std::move(shape), mean, deviation});
  }
  void add(const NormNames& norm, int64_t width, int32_t layer) {
    if (!norm.weight.empty()) add(norm.weight, layer, {width}, 0, 1 - a_.norm_weight_offset);
    if (!norm.bias.empty()) add(norm.bias, layer, {width}, 0);
  }

  enum class Weights { kOwn, kShared };
  void add(const LinearNames& names, const MapShape& shape, int32_t layer, double deviation,
           Weights weights = Weights::kOwn) {
    for (size_t i = 0; i < names.weights.size(); ++i) {
      const bool is_whole = names.weights.size() == 1;
      const int64_t outputs = is_whole ? shape.outputs() : shape.parts[i].outputs;
      std::vector<int64_t> extents = {outputs, shape.inputs};
      if (names.order != MatrixOrder::kOutputRows) std::swap(extents[0], extents[1]);
      if (weights == Weights::kOwn) add(names.weights[i], layer, std::move(extents), deviation);
      if (i < names.biases.size()) add(names.biases[i], layer, {outputs}, 0);
    }
  }

  void add_layer(int32_t number) {
    const LayerRecord& record = a_.layer(number);
    for (const LayerMapSlot& slot : kLayerMapSlots) {
      const bool is_added = slot.map == LayerMap::kAttentionOutput || slot.map == LayerMap::kFfnOut;
      const bool is_scaled = is_added && a_.family.starts_with("gpt");
      add(record.names.*slot.names, slot.shape(a_, record), number,
          is_scaled ? range_ / std::sqrt(2.0 * a_.layer_count()) : range_);
    }
    for (const LayerNormSlot& slot : kLayerNormSlots)
      add(record.names.*slot.names, slot.width(a_, record), number);
  }

  void add_head() {
    if (a_.head == Head::kNone) return;
    const HeadNames& head = a_.names.head;
    for (const HeadMapSlot& slot : kHeadMapSlots) {
      const bool shares =
          slot.weights == &HeadWeights::output && head.tying == Tying::kTokenEmbedding;
      LinearNames names = head.*slot.names;
      if (shares && !head.shared_bias.empty()) names.biases = {head.shared_bias};
      if (!names.weights.empty())
        add(names, slot.shape(a_), 0, range_, shares ? Weights::kShared : Weights::kOwn);
    }
    add(head.norm, a_.hidden_size, 0);
  }

  const Architecture& a_;
  double range_;
  std::set<std::string> names_;
  std::vector<Drawn> drawn_;
};

class Writer {
 public:
  Writer(const ModelDirectory& source, const Beginning& beginning, uint64_t seed,
         const std::string& directory)
      : source_(source), beginning_(beginning), seed_(seed), directory_(directory) {}

  Result<int64_t> write() {
    TESSERA_RETURN_IF_ERROR(change_config());
    if (!beginning_.is_random) TESSERA_RETURN_IF_ERROR(take_tensors());
    Tensors tensors(architecture_, range_);
    draw(beginning_.is_random ? std::move(tensors).all() : std::move(tensors).of_head());
    const bool is_compressed = config_.contains("tessera");
    const std::string file = is_compressed ? kCompressedFile : kWeightsFile;
    TESSERA_RETURN_IF_ERROR(
        write_safetensors(directory_ + "/" + file, tensors_, {{"format", "pt"}}));
    TESSERA_RETURN_IF_ERROR(write_file_atomically(directory_ + "/config.json", text()));
    TESSERA_RETURN_IF_ERROR(copy_files());
    return numbers_;
  }

 private:
  std::string text() const {
    return config_.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
  }

  // Of transformers' class for the head, with the labels that it tells apart.
  Status change_config() {
    const std::string path = source_.transformer + "/config.json";
    TESSERA_ASSIGN_OR_RETURN(const std::string found, read_text_file(path, kConfigLimitBytes));
    TESSERA_ASSIGN_OR_RETURN(const Config config, Config::parse(found, path));
    config_ = OrderedJson::parse(found);
    if (beginning_.is_random) config_.erase("tessera");
    if (beginning_.head != Head::kNone) {
      TESSERA_ASSIGN_OR_RETURN(const std::string name, class_with_head(config, beginning_.head));
      config_["architectures"] = {name};
      set_labels();
    }
    TESSERA_ASSIGN_OR_RETURN(const Config changed, Config::parse(text(), path));
    TESSERA_ASSIGN_OR_RETURN(architecture_, read_architecture(changed));
    TESSERA_ASSIGN_OR_RETURN(range_, changed.number_or("initializer_range", kUsualRange));
    if (!(range_ >= 0 && range_ <= 1)) {
      return invalid_input(fmt::format(
          "{}: initializer_range: expected a number from 0 to 1, found {}", path, range_));
    }
    return {};
  }

  void set_labels() {
    for (const char* key : {"num_labels", "id2label", "label2id", "problem_type",
                            "sbert_ce_default_activation_function", "sentence_transformers"})
      config_.erase(key);
    const bool is_of_texts = beginning_.head == Head::kSequenceClassification;
    if (!is_of_texts && beginning_.head != Head::kTokenClassification) return;
    std::vector<std::string> labels = beginning_.labels;
    if (beginning_.is_regression) labels = {"LABEL_0"};
    for (size_t i = 0; i < labels.size(); ++i) {
      config_["id2label"][std::to_string(i)] = labels[i];
      config_["label2id"][labels[i]] = i;
    }
    if (is_of_texts)
      config_["problem_type"] =
          beginning_.is_regression ? "regression" : "single_label_classification";
  }

  // Those of the source but its head's, under the names that classes with a head give them.
  Status take_tensors() {
    TESSERA_ASSIGN_OR_RETURN(checkpoint_, Checkpoint::open(source_.transformer));
    TESSERA_ASSIGN_OR_RETURN(const Architecture before, read_architecture(*checkpoint_));
    const std::string& prefix = architecture_.names.prefix;
    added_prefix_ = before.names.prefix.empty() ? prefix : "";
    for (const std::string& name : checkpoint_->names()) {
      if (added_prefix_.empty() && !name.starts_with(prefix)) continue;
      TESSERA_ASSIGN_OR_RETURN(const TensorView view, checkpoint_->any_tensor(name));
      tensors_.push_back({added_prefix_ + name, view.dtype, view.shape, view.data});
      if (name.ends_with(before.names.token_embedding) && view.dtype != DType::kI8) {
        dtype_ = view.dtype;
      }
    }
    if (!config_.contains("tessera") || added_prefix_.empty()) return {};
    OrderedJson renamed = OrderedJson::object();
    for (const auto& [name, format] : config_["tessera"]["tensors"].items())
      renamed[added_prefix_ + name] = format;
    config_["tessera"]["tensors"] = renamed;
    return {};
  }

  void draw(std::vector<Drawn> drawn) {
    std::set<std::string> there;
    for (const TensorToWrite& tensor : tensors_) there.insert(tensor.name);
    for (size_t i = 0; i < drawn.size(); ++i) {
      // A pooler is one of the base model's own tensors.
      if (there.contains(drawn[i].name)) continue;
      numbers_ += drawn[i].numbers();
      TensorToWrite tensor{.name = drawn[i].name, .dtype = dtype_, .shape = drawn[i].shape};
      tensor.make = [one = drawn[i], i, seed = seed_,
                     dtype = dtype_]() -> Result<std::vector<char>> {
        Random random(seed, Random::Use::kWeights, static_cast<int64_t>(i));
        std::vector<float> values(static_cast<size_t>(one.numbers()), static_cast<float>(one.mean));
        if (one.deviation > 0) {
          for (float& value : values)
            value = static_cast<float>(one.mean + one.deviation * random.normal());
        }
        return narrowed(values, dtype);
      };
      tensors_.push_back(std::move(tensor));
    }
  }

  // What belongs to the transformer itself: with another head it embeds no sentences, and the
  // folders beside it are of modules that do.
  Status copy_files() const {
    std::error_code error;
    fs::directory_iterator entry(source_.transformer, error);
    for (const fs::directory_iterator end; !error && entry != end; entry.increment(error)) {
      const std::string name = entry->path().filename();
      std::error_code ignored;
      if (!is_other_file(name) || !fs::is_regular_file(entry->path(), ignored)) continue;
      if (name == "modules.json" || name == "config_sentence_transformers.json" ||
          name == "sentence_bert_config.json") {
        continue;
      }
      TESSERA_RETURN_IF_ERROR(copy_durably(entry->path(), directory_ + "/" + name));
    }
    if (error) return io_error(fmt::format("{}: {}", source_.transformer, error.message()));
    return {};
  }

  const ModelDirectory& source_;
  const Beginning& beginning_;
  const uint64_t seed_;
  const std::string& directory_;
  OrderedJson config_;
  Architecture architecture_;
  double range_ = kUsualRange;
  DType dtype_ = DType::kF32;  // of what is drawn: with a head, that of the other tensors
  std::optional<Checkpoint> checkpoint_;
  std::string added_prefix_;
  std::vector<TensorToWrite> tensors_;
  int64_t numbers_ = 0;
};

// The head whose outputs a task compares with its labels; kNone: it needs none.
Head head_of_task(TuneTask task) {
  switch (task) {
    case TuneTask::kCausalLm:
    case TuneTask::kDataToText:
      return Head::kCausalLm;
    case TuneTask::kMaskedLm:
      return Head::kMaskedLm;
    case TuneTask::kClassification:
    case TuneTask::kRegression:
      return Head::kSequenceClassification;
    case TuneTask::kTokenClassification:
      return Head::kTokenClassification;
    case TuneTask::kQuestionAnswering:
      return Head::kQuestionAnswering;
    case TuneTask::kDistil:
    case TuneTask::kEmbeddings:
      return Head::kNone;
  }
  return Head::kNone;
}

// Of config.json alone where the weights may not be there.
Result<Architecture> architecture_of(const TuneOptions& options, const ModelDirectory& source) {
  if (options.from_scratch) {
    TESSERA_ASSIGN_OR_RETURN(const Config config,
                             Config::read(source.transformer + "/config.json"));
    return read_architecture(config);
  }
  TESSERA_ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::open(source.transformer));
  return read_architecture(checkpoint);
}

}  // namespace

Result<std::optional<Beginning>> beginning_of(const TuneOptions& options,
                                              const ModelDirectory& source) {
  TESSERA_ASSIGN_OR_RETURN(Architecture architecture, architecture_of(options, source));
  const Head needed = head_of_task(options.task);
  const bool has_head = needed == Head::kNone || (architecture.head == needed && !options.new_head);
  if (has_head && !options.from_scratch) return std::optional<Beginning>();
  Beginning beginning{.is_random = options.from_scratch};
  if (has_head) return std::optional(beginning);
  beginning.head = needed;
  beginning.is_regression = options.task == TuneTask::kRegression;
  const bool has_labels =
      needed == Head::kTokenClassification || options.task == TuneTask::kClassification;
  if (!has_labels) return std::optional(beginning);
  architecture.head = needed;
  architecture.labels = 0;
  architecture.label_names.clear();
  TESSERA_ASSIGN_OR_RETURN(const auto batches, read_batches(source, architecture, options));
  beginning.labels = batches->label_names();
  return std::optional(beginning);
}

Result<int64_t> write_beginning(const ModelDirectory& source, const Beginning& beginning,
                                uint64_t seed, const std::string& directory) {
  return Writer(source, beginning, seed, directory).write();
}

}  // namespace tessera
