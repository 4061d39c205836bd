#include <fmt/format.h>

#include <algorithm>
#include <new>
#include <utility>

#include "formats/weight_format.h"
#include "linear/formats.h"

namespace tessera {
namespace {

constexpr int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// A map of which more is known than why it has its kernel.
class Explained final : public Forwarding {
 public:
  Explained(std::unique_ptr<Linear> map, std::string why)
      : Forwarding(*map), map_(std::move(map)), why_(std::move(why)) {}

  LinearInfo info() const override {
    LinearInfo info = map_->info();
    info.why = why_ + "; " + info.why;
    return info;
  }

 private:
  std::unique_ptr<Linear> map_;
  std::string why_;
};

// Maps of the same inputs whose outputs are laid one after another.
class Stack final : public Linear {
 public:
  void add(std::unique_ptr<Linear> map) {
    const int64_t outputs = map->info().outputs;
    parts_.push_back({std::move(map), outputs_});
    outputs_ += outputs;
  }

  LinearInfo info() const override {
    LinearInfo all = parts_.front().map->info();
    for (size_t i = 1; i < parts_.size(); ++i) {
      const LinearInfo one = parts_[i].map->info();
      join(all.format, one.format);
      join(all.kernel, one.kernel);
      join(all.why, one.why);
      all.outputs += one.outputs;
      all.bytes += one.bytes;
      all.flops_per_row += one.flops_per_row;
      all.dense_flops_per_row += one.dense_flops_per_row;
    }
    return all;
  }
  double share(const LinearArgs& args) const override {
    double executed = 0, whole = 0;
    for (const Part& part : parts_) {
      const auto flops = static_cast<double>(part.map->info().flops_per_row);
      executed += flops * part.map->share(from(args, part.output));
      whole += flops;
    }
    return whole > 0 ? executed / whole : 1;
  }
  int64_t scratch_bytes(int64_t rows) const override {
    int64_t most = 0;
    for (const Part& part : parts_) most = std::max(most, part.map->scratch_bytes(rows));
    return most;
  }
  int64_t converted_bytes(int64_t rows) const override {
    int64_t total = 0;
    for (const Part& part : parts_) total += aligned(part.map->converted_bytes(rows));
    return total;
  }
  void convert_rows(const LinearArgs& args, Range rows, void* target) const override {
    for_each_part(args, target, [&](const Linear& map, const LinearArgs& own, void* converted) {
      if (converted != nullptr) map.convert_rows(own, rows, converted);
    });
  }
  void apply(const LinearArgs& args, const Team::Member& member) const override {
    for_each_part(args, args.converted,
                  [&](const Linear& map, LinearArgs own, const void* converted) {
                    own.converted = converted;
                    map.apply(own, member);
                  });
  }
  void apply_alone(const LinearArgs& args) const override {
    for_each_part(args, args.converted,
                  [&](const Linear& map, LinearArgs own, const void* converted) {
                    own.converted = converted;
                    map.apply_alone(own);
                  });
  }

 private:
  struct Part {
    std::unique_ptr<Linear> map;
    int64_t output;
  };

  static void join(std::string& all, const std::string& one) {
    if (all != one) all += "; " + one;
  }
  static LinearArgs from(LinearArgs args, int64_t output) {
    args.y += output;
    args.outputs.origin += output;
    if (args.residual != nullptr) args.residual += output;
    return args;
  }

  // Each part has converted rows of its own, one behind the other.
  template <typename Rows, typename Visit>
  void for_each_part(const LinearArgs& args, Rows* converted, Visit visit) const {
    using Byte = std::conditional_t<std::is_const_v<Rows>, const char, char>;
    auto* next = static_cast<Byte*>(converted);
    for (const Part& part : parts_) {
      const int64_t bytes = aligned(part.map->converted_bytes(args.rows));
      visit(*part.map, from(args, part.output), bytes > 0 ? static_cast<Rows*>(next) : nullptr);
      if (bytes > 0) next += bytes;
    }
  }

  std::vector<Part> parts_;
  int64_t outputs_ = 0;
};

// Every format with how it is multiplied.
const LinearFormat& row_of(const StoredMatrix& matrix) {
  constexpr std::pair<const WeightFormat*, const LinearFormat*> kRows[] = {
#define TESSERA_WEIGHT_FORMAT(name) {&weight_formats::name, &linear_formats::name},
#include "formats/table.inc"
#undef TESSERA_WEIGHT_FORMAT
  };
  return *std::find_if(std::begin(kRows), std::end(kRows), [&](const auto& row) {
            return row.first == matrix.format;
          })->second;
}

// Whether two matrices may be one product.
bool joins(const Preparation& preparation, const StoredMatrix& a, const StoredMatrix& b) {
  if (a.format != b.format || row_of(a).joins == nullptr) return false;
  return preparation.floats(a) == preparation.floats(b) && row_of(a).joins(a, b);
}

Status convert(Preparation& preparation, StoredMatrix& matrix) {
  const auto change = row_of(matrix).convert;
  return change == nullptr ? Status() : change(preparation, matrix);
}

Status choose(Preparation& preparation, Run& run) {
  const auto choice = row_of(run.matrices.front()).choose;
  return choice == nullptr ? Status() : choice(preparation, run);
}

// Neighbours that one kernel takes.
Result<std::vector<Run>> find_runs(Preparation& preparation, MatrixStack matrices) {
  std::vector<Run> runs;
  for (StoredMatrix& matrix : matrices) TESSERA_RETURN_IF_ERROR(convert(preparation, matrix));
  for (size_t begin = 0, end = 0; begin < matrices.size(); begin = end) {
    for (end = begin + 1; end < matrices.size(); ++end) {
      if (!joins(preparation, matrices[begin], matrices[end])) break;
    }
    Run run;
    run.matrices.assign(matrices.begin() + static_cast<std::ptrdiff_t>(begin),
                        matrices.begin() + static_cast<std::ptrdiff_t>(end));
    TESSERA_RETURN_IF_ERROR(choose(preparation, run));
    // Where matrices were written out their neighbours may be of the same form now.
    if (!runs.empty() && !run.found.has_value() && !runs.back().found.has_value() &&
        joins(preparation, runs.back().matrices.front(), run.matrices.front())) {
      MatrixStack& before = runs.back().matrices;
      before.insert(before.end(), run.matrices.begin(), run.matrices.end());
      if (runs.back().choice.why.empty()) runs.back().choice.why = run.choice.why;
    } else {
      runs.push_back(std::move(run));
    }
  }
  return runs;
}

Result<std::unique_ptr<Linear>> prepare(Preparation& preparation, const MatrixStack& weights,
                                        const float* bias) {
  TESSERA_ASSIGN_OR_RETURN(std::vector<Run> runs, find_runs(preparation, weights));
  auto stack = std::make_unique<Stack>();
  int64_t output = 0;
  for (Run& run : runs) {
    const float* own_bias = bias == nullptr ? nullptr : bias + output;
    TESSERA_ASSIGN_OR_RETURN(std::unique_ptr<Linear> map,
                             row_of(run.matrices.front()).prepare(preparation, run, own_bias));
    if (!run.choice.why.empty()) map = std::make_unique<Explained>(std::move(map), run.choice.why);
    if (runs.size() == 1) return map;
    output += run.outputs();
    stack->add(std::move(map));
  }
  return std::unique_ptr<Linear>(std::move(stack));
}

// prepare_dense checks the dense ones.
Status check(const MatrixStack& weights) {
  if (weights.empty()) {
    return invalid_input("A linear map needs at least one matrix, but the stack is empty.");
  }
  int64_t total = 0;  // outputs
  for (const StoredMatrix& matrix : weights) {
    if (!is_weight_type(dtype(matrix))) {
      return unsupported(fmt::format("A matrix must hold F32, F16 or BF16 values, but found {}.",
                                     name(dtype(matrix))));
    }
    total += outputs(matrix);
    if (std::min(outputs(matrix), inputs(matrix)) < 1 ||
        std::max(total, inputs(matrix)) > kMaxMatrixExtent) {
      return invalid_input(
          fmt::format("A linear map must have 1 to {} inputs and outputs, but found {} x {}.",
                      kMaxMatrixExtent, outputs(matrix), inputs(matrix)));
    }
    if (inputs(matrix) != inputs(weights.front())) {
      return invalid_input(
          fmt::format("Matrices of one linear map must have equal inputs: expected {}, found {}.",
                      inputs(weights.front()), inputs(matrix)));
    }
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Linear>> prepare_linear(const MatrixStack& weights, const float* bias,
                                               const LinearChoices& choices, Team& team) {
  try {
    TESSERA_RETURN_IF_ERROR(check(weights));
    Preparation preparation(choices, team);
    return prepare(preparation, weights, bias);
  } catch (const std::bad_alloc&) {
    return out_of_memory("Packing a linear map ran out of memory.");
  }
}

void apply_shared(const Linear& linear, LinearArgs args, void* converted, Team::Member& member) {
  if (linear.converted_bytes(args.rows) > 0) {
    linear.convert_rows(args, member.slice(args.rows), converted);
    member.barrier();
    args.converted = converted;
  }
  linear.apply(args, member);
}

}  // namespace tessera
