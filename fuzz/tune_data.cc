// Any bytes as data of a training are refused with a sentence, or give batches that hold to what
// tune/batch.h says. The first byte chooses the task, the second the kind of file and how it is
// read.

#include <algorithm>

#include "support/small_tokenizers.h"
#include "support/target.h"
#include "tune/batches.h"

namespace tessera::fuzz {
namespace {

constexpr int32_t kPositions = 40;

struct Setting {
  TokenizerPointer tokenizer;
  Architecture architecture;
};

Setting make_setting(TokenizerPointer tokenizer, Mask mask, int32_t labels) {
  Setting setting{std::move(tokenizer), {}};
  setting.architecture.mask = mask;
  setting.architecture.vocabulary_size = setting.tokenizer->vocabulary_size();
  setting.architecture.type_vocabulary_size = mask == Mask::kNone ? 2 : 0;
  setting.architecture.max_positions = kPositions;
  setting.architecture.labels = labels;
  return setting;
}

bool is_plain(TuneTask task) { return task <= TuneTask::kMaskedLm; }
bool counts_classes(TuneTask task) {
  return task == TuneTask::kClassification || task == TuneTask::kTokenClassification;
}

void check_sequences(const Batch& batch, const Setting& setting) {
  require(batch.sequences() >= 1 && batch.offsets.front() == 0);
  require(batch.offsets.back() == batch.tokens());
  for (size_t s = 0; s + 1 < batch.offsets.size(); ++s) {
    const int32_t length = batch.offsets[s + 1] - batch.offsets[s];
    require(length >= 1 && length <= kPositions);
  }
  for (const int32_t id : batch.ids) require(id >= 0 && id < setting.architecture.vocabulary_size);
  require(batch.type_ids.empty() || batch.type_ids.size() == batch.ids.size());
  for (const int32_t type : batch.type_ids) require(type == 0 || type == 1);
}

void check_targets(const Batch& batch, TuneTask task, int32_t classes, int32_t vocabulary) {
  const auto sequences = static_cast<size_t>(batch.sequences());
  require(std::is_sorted(batch.rows.begin(), batch.rows.end()));
  for (const int32_t row : batch.rows) require(row >= 0 && row < batch.tokens());
  switch (task) {
    case TuneTask::kDistil:
      return require(batch.rows.empty() && batch.labels.empty());
    case TuneTask::kClassification:
      require(batch.labels.size() == sequences && batch.rows.empty());
      break;
    case TuneTask::kRegression:
      return require(batch.values.size() == sequences);
    case TuneTask::kQuestionAnswering:
      require(batch.labels.size() == 2 * sequences);
      for (size_t s = 0; s < sequences; ++s) {
        const int32_t first = batch.labels[2 * s], last = batch.labels[2 * s + 1];
        require(first >= 0 && first <= last && batch.offsets[s] + last < batch.offsets[s + 1]);
      }
      return;
    case TuneTask::kEmbeddings:
      return require(sequences % 2 == 0 &&
                     (batch.values.empty() || batch.values.size() == sequences / 2));
    default:
      require(!batch.rows.empty() && batch.rows.size() == batch.labels.size());
  }
  const int32_t bound = counts_classes(task) ? classes : vocabulary;
  for (const int32_t label : batch.labels) require(label >= 0 && label < bound);
}

void check_data(const Setting& setting, const TuneOptions& options) {
  const auto made =
      training::make_batches(setting.tokenizer, setting.architecture, options, kPositions);
  if (!made.ok()) return require(!made.status().message().empty());
  require((*made)->examples() >= 1 && (*made)->cut() >= 0);
  const int32_t classes = setting.architecture.labels > 0
                              ? setting.architecture.labels
                              : static_cast<int32_t>((*made)->label_names().size());
  for (int64_t n = 0; n < 3; ++n) {
    const Batch batch = (*made)->batch(n);
    check_sequences(batch, setting);
    check_targets(batch, options.task, classes, setting.architecture.vocabulary_size);
    const int32_t each = options.task == TuneTask::kEmbeddings ? 2 : 1;
    require(options.batch > 0 ? batch.sequences() == options.batch * each
                              : batch.tokens() <= options.batch_tokens);
  }
}

}  // namespace

void check(std::string_view input) {
  constexpr const char* kNames[] = {"rows.jsonl", "rows.tsv", "rows.csv", "rows.json", "rows.txt"};
  constexpr size_t kTasks = names_of(TuneTask{}).size();
  if (input.size() < 2) return;
  const auto task = static_cast<TuneTask>(static_cast<unsigned char>(input[0]) % kTasks);
  const auto choice = static_cast<unsigned char>(input[1]);
  static const Folder folder;
  static const Setting encoder = make_setting(word_piece_tokenizers()[0], Mask::kNone, 0);
  static const Setting labelled = make_setting(word_piece_tokenizers()[1], Mask::kNone, 3);
  static const Setting decoder = make_setting(byte_level_tokenizers()[1], Mask::kCausal, 0);
  const std::string name = kNames[choice % std::size(kNames)];
  folder.put(name, input.substr(2));
  TuneOptions options;
  options.task = task;
  options.data = {folder.path() + "/" + name};
  options.threads = 1;
  options.batch = choice & 0x80 ? 2 : 0;
  options.batch_tokens = 100;
  for (const Setting* setting : {&encoder, &labelled, &decoder}) {
    if (is_plain(task) && setting == &labelled) continue;
    check_data(*setting, options);
  }
}

}  // namespace tessera::fuzz
