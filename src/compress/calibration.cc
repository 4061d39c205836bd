#include "compress/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/guarded.h"
#include "io/mapped_file.h"
#include "model/embedding.h"
#include "model/forward.h"
#include "model/loader.h"
#include "model/slots.h"
#include "tessera/tokenizer.h"

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

// Rows that one thread runs at a time: enough for products at full speed, and few enough that what
// is observed of them lies in the caches of a core beside a layer's weights.
constexpr int64_t kBatchRows = 1024;
constexpr int32_t kSequenceTokens = 512;
constexpr size_t kTextLimitBytes = size_t{1} << 30;

// Passes a product on and keeps what it read.
class Tap final : public Forwarding {
 public:
  Tap(const Linear& inner, std::vector<float>* seen)
      : Forwarding(inner), inputs_(inner.info().inputs), seen_(seen) {}

  void apply(const LinearArgs& args, const Team::Member& member) const override {
    keep(args);
    Forwarding::apply(args, member);
  }
  void apply_alone(const LinearArgs& args) const override {
    keep(args);
    Forwarding::apply_alone(args);
  }

 private:
  void keep(const LinearArgs& args) const {
    if (seen_ == nullptr) return;
    for (int64_t r = 0; r < args.rows; ++r) {
      const float* row = args.x + r * args.x_stride;
      seen_->insert(seen_->end(), row, row + inputs_);
    }
  }

  int64_t inputs_;
  std::vector<float>* seen_;
};

// One thread's way to run a layer, whose maps are the caller's, alone.
class Worker {
 public:
  Worker(const Architecture& architecture, const LayerWeights& layer, int32_t number,
         std::optional<LayerMap> observed)
      : number_(number), team_(1) {
    weights_.layers.resize(at(number) + 1);
    LayerWeights& copy = weights_.layers.back();
    copy.attention = layer.attention;
    for (const LayerMapSlot& slot : kLayerMapSlots) {
      copy.*slot.weights =
          std::make_unique<Tap>(*(layer.*slot.weights), observed == slot.map ? &seen_ : nullptr);
    }
    for (const LayerNormSlot& slot : kLayerNormSlots) copy.*slot.weights = layer.*slot.weights;
    plan_ = choose_plan({.threads = 1,
                         .layers = architecture.layer_count(),
                         .head_size = layer.attention.pages.d_k});
    executor_.emplace(architecture, weights_, plan_, team_);
  }

  // states: [rows of the layout, width], replaced by what leaves the layer.
  Status run(const TokenLayout& layout, std::vector<float>& states) {
    seen_.clear();
    std::vector<float> hidden;
    ForwardOutput output;
    output.last_hidden = &hidden;
    TESSERA_RETURN_IF_ERROR(executor_->run(
        {.layout = &layout, .first_layer = number_, .end_layer = number_ + 1, .states = states},
        output));
    states = std::move(hidden);
    return {};
  }

  std::vector<float>& seen() { return seen_; }

 private:
  int32_t number_;
  Weights weights_;
  Plan plan_;
  Team team_;
  std::vector<float> seen_;
  std::optional<Executor> executor_;
};

// The mean of each input over rows.
std::vector<double> mean_of(const std::vector<float>& x, int64_t inputs) {
  std::vector<double> mean(at(inputs));
  const int64_t rows = static_cast<int64_t>(x.size()) / inputs;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < inputs; ++i) mean[at(i)] += x[at(r * inputs + i)];
  }
  for (double& value : mean) value /= static_cast<double>(rows);
  return mean;
}

// Adds x [rows, inputs], from which the origin is taken. The first rows set it.
Status add_rows(std::vector<float>& x, InputStatistics& statistics, Team& team) {
  const int64_t inputs = statistics.inputs;
  const int64_t rows = static_cast<int64_t>(x.size()) / inputs;
  if (statistics.rows == 0) statistics.origin = mean_of(x, inputs);
  std::vector<float> turned(x.size());
  team.parallel_for(inputs, 16, [&](Range part) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = part.begin; i < part.end; ++i) {
        float& value = x[at(r * inputs + i)];
        statistics.largest[at(i)] = std::max(statistics.largest[at(i)], std::abs(value));
        value = static_cast<float>(value - statistics.origin[at(i)]);
        turned[at(i * rows + r)] = value;
      }
    }
  });
  TESSERA_ASSIGN_OR_RETURN(
      const auto product,
      prepare_dense({{x.data(), DType::kF32, rows, inputs, MatrixOrder::kInputRows}}, nullptr,
                    Precision::kF32, team));
  float* target = statistics.products.data();
  team.run([&](Team::Member& member) {
    product->apply({.x = turned.data(),
                    .x_stride = rows,
                    .rows = inputs,
                    .residual = target,
                    .residual_stride = inputs,
                    .y = target,
                    .y_stride = inputs},
                   member);
  });
  for (int64_t i = 0; i < inputs; ++i) {
    for (int64_t r = 0; r < rows; ++r) statistics.sums[at(i)] += turned[at(i * rows + r)];
  }
  statistics.rows += rows;
  return {};
}

struct Batch {
  TokenLayout layout;
  int64_t first = 0;  // row of the states
};

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = text.find('\n', begin);
    if (end == std::string::npos) end = text.size();
    std::string line = text.substr(begin, end - begin);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.find_first_not_of(" \t") != std::string::npos) lines.push_back(std::move(line));
    begin = end + 1;
  }
  return lines;
}

}  // namespace

struct Calibration::State {
  State(const Architecture& a, Team& t) : architecture(a), team(t) {}

  const Architecture& architecture;
  Team& team;
  std::vector<Batch> batches;
  std::vector<float> states;  // [rows, hidden_size]
  int32_t layer = 0;

  float* at_batch(const Batch& batch) {
    return states.data() + batch.first * architecture.hidden_size;
  }

  // Runs every batch, one a thread at a time, and hands each to `take` in their order, with its
  // states after the layer.
  template <typename Take>
  Status run(const LayerWeights& weights, std::optional<LayerMap> observed, Take take) {
    std::vector<std::unique_ptr<Worker>> workers;
    for (int i = 0; i < team.size(); ++i)
      workers.push_back(std::make_unique<Worker>(architecture, weights, layer, observed));
    for (size_t first = 0; first < batches.size(); first += workers.size()) {
      const size_t count = std::min(workers.size(), batches.size() - first);
      std::vector<Status> outcomes(count);
      std::vector<std::vector<float>> after(count);
      team.run([&](Team::Member& member) {
        const size_t rank = at(member.rank());
        if (rank >= count) return;
        outcomes[rank] = guarded("calibration", [&] {
          const Batch& batch = batches[first + rank];
          const float* before = at_batch(batch);
          after[rank].assign(before, before + batch.layout.rows() * architecture.hidden_size);
          return workers[rank]->run(batch.layout, after[rank]);
        });
      });
      for (size_t i = 0; i < count; ++i) {
        TESSERA_RETURN_IF_ERROR(outcomes[i]);
        TESSERA_RETURN_IF_ERROR(take(batches[first + i], *workers[i], after[i].data()));
      }
    }
    return {};
  }

  void embed(const Weights& weights, const std::vector<TokenSequence>& sequences) {
    int64_t first = 0;
    for (const TokenSequence& sequence : sequences) {
      TokenLayout layout;
      layout.append(static_cast<int32_t>(sequence.ids.size()), 0);
      const std::vector<int32_t> positions =
          position_rows(architecture, weights, sequence.ids, layout);
      tessera::embed(
          architecture, weights,
          {.ids = sequence.ids, .type_ids = sequence.type_ids, .position_rows = positions},
          {0, layout.rows()}, states.data() + first * architecture.hidden_size);
      first += layout.rows();
    }
  }

  void deal(const std::vector<TokenSequence>& sequences) {
    int64_t first = 0;
    for (const TokenSequence& sequence : sequences) {
      const auto length = static_cast<int32_t>(sequence.ids.size());
      if (batches.empty() || batches.back().layout.rows() + length > kBatchRows)
        batches.push_back({{}, first});
      batches.back().layout.append(length, 0);
      first += length;
    }
  }
};

Calibration::Calibration(std::unique_ptr<State> state) : state_(std::move(state)) {}
Calibration::~Calibration() = default;

Result<std::unique_ptr<Calibration>> Calibration::begin(const Checkpoint& checkpoint,
                                                        const Architecture& architecture,
                                                        const std::vector<TokenSequence>& sequences,
                                                        Precision embeddings, Team& team) {
  Architecture no_layers = architecture;
  no_layers.layers.clear();
  no_layers.head = Head::kNone;
  TESSERA_ASSIGN_OR_RETURN(
      const LoadedWeights loaded,
      load_weights(checkpoint, no_layers, Plan{.head_weights = embeddings}, team));
  auto state = std::make_unique<State>(architecture, team);
  int64_t rows = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    rows += static_cast<int64_t>(sequences[i].ids.size());
    TESSERA_RETURN_IF_ERROR(
        check_sequence(architecture, sequences[i], fmt::format("calibration: sequence {}", i)));
  }
  if (rows == 0) return invalid_input("calibration: expected at least one token, found none");
  state->states.resize(at(rows * architecture.hidden_size));
  state->embed(loaded.weights, sequences);
  state->deal(sequences);
  return std::unique_ptr<Calibration>(new Calibration(std::move(state)));
}

Result<InputStatistics> Calibration::observe(const LayerWeights& layer, LayerMap map) {
  State& state = *state_;
  InputStatistics statistics{.inputs = (layer.*slot_of(map).weights)->info().inputs};
  statistics.products.resize(at(statistics.inputs * statistics.inputs));
  statistics.sums.resize(at(statistics.inputs));
  statistics.largest.resize(at(statistics.inputs));
  TESSERA_RETURN_IF_ERROR(state.run(layer, map, [&](const Batch&, Worker& worker, const float*) {
    return add_rows(worker.seen(), statistics, state.team);
  }));
  return statistics;
}

Status Calibration::advance(const LayerWeights& layer) {
  State& state = *state_;
  const int64_t width = state.architecture.hidden_size;
  TESSERA_RETURN_IF_ERROR(
      state.run(layer, std::nullopt, [&](const Batch& batch, Worker&, const float* after) {
        std::copy_n(after, batch.layout.rows() * width, state.at_batch(batch));
        return Status();
      }));
  ++state.layer;
  return {};
}

Result<std::vector<TokenSequence>> read_calibration(const std::string& directory,
                                                    const Architecture& architecture,
                                                    const CalibrationOptions& options) {
  TESSERA_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::open(directory));
  TESSERA_ASSIGN_OR_RETURN(const std::string text,
                           read_text_file(options.text_file, kTextLimitBytes));
  const size_t longest = at(std::min(architecture.max_positions, kSequenceTokens));
  EncodeOptions encode;
  if (!architecture.is_decoder()) encode.truncation = Truncation{.max_tokens = longest};
  std::vector<TokenSequence> sequences;
  int64_t left = options.tokens;
  for (const std::string& line : lines_of(text)) {
    if (left <= 0) break;
    TESSERA_ASSIGN_OR_RETURN(const auto encoded, tokenizer->encode({line}, encode));
    std::vector<int32_t> ids = encoded.ids;
    if (!architecture.is_decoder()) {
      ids.resize(std::min({ids.size(), longest, at(left)}));
      left -= static_cast<int64_t>(ids.size());
      if (!ids.empty()) sequences.push_back({std::move(ids), {}});
      continue;
    }
    for (size_t i = 0; i < ids.size() && left > 0; ++i, --left) {
      if (sequences.empty() || sequences.back().ids.size() == longest) sequences.emplace_back();
      sequences.back().ids.push_back(ids[i]);
    }
  }
  if (!sequences.empty()) return sequences;
  return invalid_input(fmt::format("{}: expected lines of text, found none", options.text_file));
}

}  // namespace tessera
