#include "compress/measure.h"

#include <algorithm>
#include <chrono>

#include "base/device.h"
#include "base/memory.h"
#include "io/checkpoint.h"
#include "linear/linear.h"
#include "plan/plan.h"
#include "tessera/engine.h"

namespace tessera {
namespace {

constexpr int64_t kRows = 128;
constexpr int kRuns = 15;

// Runs a map on rows of ones.
class Timed {
 public:
  Timed(std::unique_ptr<Linear> linear, Team& team)
      : linear_(std::move(linear)),
        team_(team),
        inputs_(linear_->info().inputs),
        outputs_(linear_->info().outputs),
        x_(static_cast<size_t>(kRows * inputs_), 1.0f),
        y_(static_cast<size_t>(kRows * outputs_)) {
    for (int i = 0; i < team.size(); ++i)
      scratch_.push_back(
          host_device().allocate(static_cast<size_t>(linear_->scratch_bytes(kRows)) + 64));
    if (const int64_t bytes = linear_->converted_bytes(kRows); bytes > 0)
      converted_ = host_device().allocate(static_cast<size_t>(bytes));
  }

  double seconds() {
    const auto begin = std::chrono::steady_clock::now();
    team_.run([&](Team::Member& member) {
      apply_shared(*linear_,
                   {.x = x_.data(),
                    .x_stride = inputs_,
                    .rows = kRows,
                    .y = y_.data(),
                    .y_stride = outputs_,
                    .scratch = scratch_[static_cast<size_t>(member.rank())].data()},
                   converted_.data(), member);
    });
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

 private:
  std::unique_ptr<Linear> linear_;
  Team& team_;
  int64_t inputs_, outputs_;
  std::vector<float> x_, y_;
  std::vector<Buffer> scratch_;
  Buffer converted_;
};

// Ids that every vocabulary has and that are not all special.
std::vector<int32_t> some_ids(int32_t count, int32_t vocabulary) {
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < count; ++i) ids.push_back((17 + 31 * i) % vocabulary);
  return ids;
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

}  // namespace

Result<double> measure_speedup(const Source& source, const Item& item, Team& team) {
  const bool output_rows = item.order == MatrixOrder::kOutputRows;
  const std::string name = item.is_whole_tensor() ? item.tensor : item.name();
  const DenseView expected{nullptr, DType::kF32, output_rows ? item.outputs : item.inputs,
                           output_rows ? item.inputs : item.outputs, item.order};
  TESSERA_ASSIGN_OR_RETURN(const ReadMatrix read,
                           read_matrix(*source.checkpoint, *source.formats, name, expected));
  std::vector<char> values(static_cast<size_t>(dense_bytes(read.packed.matrix)));
  to_dense(read.packed.matrix, values.data());
  DenseView view = expected;
  view.data = values.data();
  view.dtype = dtype(read.packed.matrix);
  // As a model runs it that is loaded without a plan of its own.
  const LinearChoices choices = head_choices(
      choose_plan({.threads = team.size(), .layers = 1, .weights = Precision::kStored}));
  TESSERA_ASSIGN_OR_RETURN(auto dense, prepare_dense({view}, nullptr, Precision::kStored, team));
  TESSERA_ASSIGN_OR_RETURN(auto pruned,
                           prepare_linear({read.packed.matrix}, nullptr, choices, team));
  Timed before(std::move(dense), team), after(std::move(pruned), team);
  std::vector<double> times_before, times_after;
  for (int run = 0; run < kRuns; ++run) {
    times_before.push_back(before.seconds());
    times_after.push_back(after.seconds());
  }
  return median(times_before) / median(times_after);
}

Result<ModelSpeed> measure_model(const std::string& directory, int32_t threads) {
  constexpr int32_t kTokens = 128, kNewTokens = 17;
  constexpr double kSeconds = 0.5;
  constexpr size_t kLeastRuns = 3;
  using Clock = std::chrono::steady_clock;
  {
    const Result<Checkpoint> checkpoint = Checkpoint::open(directory);
    if (checkpoint.ok() &&
        2 * static_cast<int64_t>(checkpoint->size_bytes()) > available_memory_bytes())
      return out_of_memory(directory + ": expected twice its size of free memory, found less");
  }
  TESSERA_ASSIGN_OR_RETURN(const auto model, Model::load(directory, {.threads = threads}));
  const ModelInfo& info = model->info();
  const bool generates = info.is_decoder && info.head == Head::kCausalLm;
  const int32_t room = info.max_positions - (generates ? kNewTokens : 0);
  if (room < 1) return unsupported("expected a model with room for a sequence to measure");
  ModelSpeed speed{.tokens = std::min(kTokens, room)};
  const std::vector<int32_t> ids = some_ids(speed.tokens, info.vocabulary_size);
  std::vector<double> passes, rates;
  const Clock::time_point begin = Clock::now();
  const auto seconds_since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  while (passes.size() < kLeastRuns + 1 || seconds_since(begin) < kSeconds) {
    if (generates) {
      TESSERA_ASSIGN_OR_RETURN(
          const Generation text,
          generate(model, {.prompt_ids = ids, .max_new_tokens = kNewTokens, .ignore_end = true}));
      passes.push_back(text.prompt_seconds);
      rates.push_back((kNewTokens - 1) / (text.total_seconds - text.prompt_seconds));
    } else {
      const Clock::time_point start = Clock::now();
      TESSERA_RETURN_IF_ERROR(model->forward({{.ids = ids}}).status());
      passes.push_back(seconds_since(start));
    }
  }
  passes.erase(passes.begin());  // the first one warms the caches
  speed.pass_seconds = median(std::move(passes));
  if (generates) speed.tokens_per_second = median(std::move(rates));
  return speed;
}

}  // namespace tessera
