#include <fmt/format.h>

#include <algorithm>

#include "formats/panels.h"
#include "kernels/activation/activation.h"
#include "linear/formats.h"

namespace tessera {
namespace {

// Rows that a member must have to take them alone, and rows that are gathered or scattered at a
// time.
constexpr int64_t kOwnRows = 32;
constexpr int64_t kChunkRows = 96;

int64_t aligned(int64_t floats) { return (floats + 15) / 16 * 16; }

// Scratch and converted rows, in floats, that a member needs of its own for a product with an inner
// map, and that product; each member converts all of its rows.
int64_t inner_floats(const Linear& inner, int64_t rows) {
  const auto floats = [](int64_t bytes) { return aligned((bytes + 3) / 4); };
  return floats(inner.scratch_bytes(rows)) + floats(inner.converted_bytes(rows));
}
void multiply_inner(const Linear& inner, LinearArgs args, float* memory,
                    const Team::Member* member) {
  args.scratch = memory;
  args.converted = nullptr;
  if (inner.converted_bytes(args.rows) > 0) {
    float* converted = memory + aligned((inner.scratch_bytes(args.rows) + 3) / 4);
    inner.convert_rows(args, {0, args.rows}, converted);
    args.converted = converted;
  }
  if (member != nullptr) {
    inner.apply(args, *member);
  } else {
    inner.apply_alone(args);
  }
}

LinearInfo info_of(const LinearInfo& kept, int64_t inputs, int64_t outputs, const char* what) {
  LinearInfo info = kept;
  const auto dense = static_cast<double>(inputs) * static_cast<double>(outputs);
  info.inputs = inputs;
  info.outputs = outputs;
  info.dense_flops_per_row = 2 * inputs * outputs;
  info.format = fmt::format("{} kept {}, {:.0f}% pruned", what, kept.format,
                            100 - 50 * static_cast<double>(kept.flops_per_row) / dense);
  return info;
}

// Calls work(rows) for the member's rows in chunks.
template <typename Work>
void for_each_chunk(Range rows, Work work) {
  for (int64_t row = rows.begin; row < rows.end; row += kChunkRows) {
    work(Range{row, std::min(row + kChunkRows, rows.end)});
  }
}

LinearArgs at_rows(const LinearArgs& args, Range rows) {
  LinearArgs part = args;
  take_rows(args, rows, part);
  return part;
}

// Kept inputs: their columns of x are gathered, then a dense product.
class KeptInputs final : public Linear {
 public:
  KeptInputs(std::unique_ptr<Linear> dense, const CompactMatrix& matrix)
      : dense_(std::move(dense)),
        index_(matrix.index, matrix.index + matrix.kept.inputs()),
        inputs_(matrix.whole) {}

  LinearInfo info() const override {
    LinearInfo info = info_of(dense_->info(), inputs_, dense_->info().outputs, "inputs");
    info.bytes += kept() * int64_t{sizeof(int32_t)};
    return info;
  }
  int64_t scratch_bytes(int64_t rows) const override {
    const int64_t chunk = std::min(rows, kChunkRows);
    return (chunk * stride() + inner_floats(*dense_, chunk)) * int64_t{sizeof(float)};
  }
  void apply(const LinearArgs& args, const Team::Member& member) const override {
    if (args.rows >= kOwnRows * member.size()) {
      return multiply(args, member.slice(args.rows), nullptr);
    }
    // Each gathers all rows, because the product deals outputs.
    multiply(args, {0, args.rows}, &member);
  }
  void apply_alone(const LinearArgs& args) const override {
    multiply(args, {0, args.rows}, nullptr);
  }

 private:
  int64_t kept() const { return static_cast<int64_t>(index_.size()); }
  // Rows in whole cache lines, an odd number of them, so that the rows of a register tile do not
  // share one set of the L1 cache.
  int64_t stride() const { return aligned(kept()) + (aligned(kept()) % 32 == 0 ? 16 : 0); }

  void multiply(const LinearArgs& args, Range rows, const Team::Member* member) const {
    auto* gathered = static_cast<float*>(args.scratch);
    for_each_chunk(rows, [&](Range chunk) {
      LinearArgs part = at_rows(args, chunk);
      for (int64_t r = 0; r < part.rows; ++r) {
        const float* x = part.x + r * args.x_stride;
        float* target = gathered + r * stride();
        for (int64_t i = 0; i < kept(); ++i) target[i] = x[index_[static_cast<size_t>(i)]];
      }
      part.x = gathered;
      part.x_stride = stride();
      part.inputs = {};  // have other numbers among the kept ones
      // As in scratch_bytes, whatever the rows of this chunk.
      float* memory = gathered + std::min(rows.size(), kChunkRows) * stride();
      multiply_inner(*dense_, part, memory, member);
    });
  }

  std::unique_ptr<Linear> dense_;
  std::vector<int32_t> index_;
  int64_t inputs_;
};

// Kept outputs: a dense product of them, whose columns are scattered among those that are only
// f(bias) + residual. In parts of the outputs, so that few rows can be dealt by them.
class KeptOutputs final : public Linear {
 public:
  struct Part {
    std::unique_ptr<Linear> dense;  // null where nothing is kept
    std::vector<int32_t> index;     // of the kept outputs, from `begin` on
    int64_t begin = 0;
    int64_t end = 0;
    int64_t kept() const { return static_cast<int64_t>(index.size()); }
    int64_t outputs() const { return end - begin; }
  };

  KeptOutputs(std::vector<Part> parts, int64_t inputs, const float* bias)
      : parts_(std::move(parts)), inputs_(inputs) {
    const int64_t outputs = parts_.back().end;
    bias_.assign(static_cast<size_t>(outputs), 0.0f);
    if (bias != nullptr) std::copy(bias, bias + outputs, bias_.begin());
  }

  LinearInfo info() const override {
    LinearInfo kept;
    kept.format = "dense";
    for (const Part& part : parts_) {
      if (part.dense == nullptr) continue;
      const LinearInfo info = part.dense->info();
      kept.format = info.format;
      kept.kernel = info.kernel;
      kept.why = info.why;
      kept.bytes += info.bytes + part.kept() * int64_t{sizeof(int32_t)};
      kept.flops_per_row += info.flops_per_row;
    }
    kept.bytes += static_cast<int64_t>(bias_.size() * sizeof(float));
    return info_of(kept, inputs_, parts_.back().end, "outputs");
  }
  int64_t scratch_bytes(int64_t rows) const override {
    int64_t most = 0;
    for (const Part& part : parts_) {
      const int64_t chunk = std::min(rows, kChunkRows);
      const int64_t inner = part.dense == nullptr ? 0 : inner_floats(*part.dense, chunk);
      most = std::max(most, aligned(part.outputs()) + chunk * aligned(part.kept()) + inner);
    }
    return most * int64_t{sizeof(float)};
  }
  void apply(const LinearArgs& args, const Team::Member& member) const override {
    const auto parts = static_cast<int64_t>(parts_.size());
    if (args.rows >= kOwnRows * member.size()) {
      return multiply(args, member.slice(args.rows), {0, parts});
    }
    multiply(args, {0, args.rows}, member.slice(parts));
  }
  void apply_alone(const LinearArgs& args) const override {
    multiply(args, {0, args.rows}, {0, static_cast<int64_t>(parts_.size())});
  }

 private:
  void multiply(const LinearArgs& args, Range rows, Range parts) const {
    for (int64_t i = parts.begin; i < parts.end; ++i) {
      const Part& part = parts_[static_cast<size_t>(i)];
      auto* line = static_cast<float*>(args.scratch);
      activation::kernels.run({.function = args.activation,
                               .x = bias_.data() + part.begin,
                               .cols = part.outputs(),
                               .y = line},
                              {0, 1});
      for_each_chunk(rows, [&](Range chunk) { multiply_part(at_rows(args, chunk), part, line); });
    }
  }

  // line: f(bias) of the part's outputs, whose kept ones each row overwrites.
  static void multiply_part(const LinearArgs& args, const Part& part, float* line) {
    float* products = line + aligned(part.outputs());
    const int64_t stride = aligned(part.kept());
    if (part.dense != nullptr) {
      LinearArgs dense = args;
      dense.residual = nullptr;
      dense.outputs = {};  // have other numbers among the kept ones
      dense.y = products;
      dense.y_stride = stride;
      multiply_inner(*part.dense, dense, products + args.rows * stride, nullptr);
    }
    for (int64_t r = 0; r < args.rows; ++r) {
      const float* kept = products + r * stride;
      for (int64_t i = 0; i < part.kept(); ++i) line[part.index[static_cast<size_t>(i)]] = kept[i];
      float* y = args.y + r * args.y_stride + part.begin;
      if (args.residual == nullptr) {
        std::copy(line, line + part.outputs(), y);
        continue;
      }
      const float* residual = args.residual + r * args.residual_stride + part.begin;
      for (int64_t n = 0; n < part.outputs(); ++n) y[n] = line[n] + residual[n];
    }
  }

  std::vector<Part> parts_;
  int64_t inputs_;
  std::vector<float> bias_;
};

// Kept outputs [begin, end) of a dense matrix. Where they are columns, they are copied.
DenseView outputs_of(const DenseView& dense, Range part, std::vector<char>& copy) {
  const auto bytes = static_cast<int64_t>(size_bytes(dense.dtype));
  const auto* source = static_cast<const char*>(dense.data);
  DenseView view = dense;
  if (dense.order == MatrixOrder::kOutputRows) {
    view.rows = part.size();
    view.data = source + part.begin * dense.cols * bytes;
    return view;
  }
  view.cols = part.size();
  copy.resize(static_cast<size_t>(dense.rows * part.size() * bytes));
  for (int64_t row = 0; row < dense.rows; ++row) {
    const char* from = source + (row * dense.cols + part.begin) * bytes;
    std::copy(from, from + part.size() * bytes, copy.data() + row * part.size() * bytes);
  }
  view.data = copy.data();
  return view;
}

Result<std::unique_ptr<Linear>> prepare_outputs(const CompactMatrix& matrix, const float* bias,
                                                const LinearChoices& choices, Team& team) {
  const int64_t kept = matrix.kept.outputs();
  std::vector<KeptOutputs::Part> parts;
  for (int i = 0; i < team.size(); ++i) {
    // Whole panels, so that no part pads one that another could fill.
    const Range range = slice(kept, kPanelOutputs, i, team.size());
    if (range.size() == 0 && i > 0) continue;
    KeptOutputs::Part part;
    part.begin = parts.empty() ? 0 : parts.back().end;
    part.end = range.end == kept ? matrix.whole : matrix.index[range.end];
    std::vector<float> kept_bias;
    for (int64_t k = range.begin; k < range.end; ++k) {
      part.index.push_back(static_cast<int32_t>(matrix.index[k] - part.begin));
      kept_bias.push_back(bias != nullptr ? bias[matrix.index[k]] : 0.0f);
    }
    if (range.size() > 0) {
      std::vector<char> copy;
      TESSERA_ASSIGN_OR_RETURN(
          part.dense, prepare_linear({outputs_of(matrix.kept, range, copy)},
                                     bias != nullptr ? kept_bias.data() : nullptr, choices, team));
    }
    parts.push_back(std::move(part));
  }
  return std::unique_ptr<Linear>(
      std::make_unique<KeptOutputs>(std::move(parts), matrix.inputs(), bias));
}

// Products of what is kept of a matrix of whole outputs or inputs.
Result<std::unique_ptr<Linear>> prepare_compact(const CompactMatrix& matrix, const float* bias,
                                                const LinearChoices& choices, Team& team) {
  // Without any kept input every output is one that is not kept.
  if (matrix.axis == KeptAxis::kInputs && matrix.kept.inputs() == 0) {
    std::vector<KeptOutputs::Part> parts(1);
    parts.front().end = matrix.outputs();
    return std::unique_ptr<Linear>(
        std::make_unique<KeptOutputs>(std::move(parts), matrix.inputs(), bias));
  }
  if (matrix.axis == KeptAxis::kOutputs) return prepare_outputs(matrix, bias, choices, team);
  TESSERA_ASSIGN_OR_RETURN(std::unique_ptr<Linear> dense,
                           prepare_linear({matrix.kept}, bias, choices, team));
  return std::unique_ptr<Linear>(std::make_unique<KeptInputs>(std::move(dense), matrix));
}

}  // namespace

constinit const LinearFormat linear_formats::compact = {
    .prepare =
        [](Preparation& preparation, Run& run, const float* bias) {
          return prepare_compact(get<CompactMatrix>(run.matrices.front()), bias,
                                 preparation.choices(), preparation.team());
        },
};

}  // namespace tessera
