#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "kernels/csr_matmul/csr_matmul.h"
#include "kernels/transpose/transpose.h"
#include "linear/formats.h"

namespace tessera {
namespace {

// Rows that are transposed at a time, a block of the kernels.
constexpr int64_t kChunkRows = 64;
// Rows that a member must have to take them alone: half a block.
constexpr int64_t kOwnRows = 32;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Floats between the inputs of transposed rows.
constexpr int64_t padded(int64_t rows) {
  return ceil_div(rows, csr_matmul::kLanes) * csr_matmul::kLanes;
}

class Csr final : public Linear {
 public:
  Csr(csr_matmul::Args shape, csr_matmul::Packed packed, const float* bias)
      : shape_(shape), packed_(std::move(packed)) {
    if (bias != nullptr) bias_.assign(bias, bias + shape_.outputs);
    shape_.offsets = packed_.offsets.data();
    shape_.columns = packed_.columns.data();
    shape_.values = packed_.values.data();
    shape_.bias = bias != nullptr ? bias_.data() : nullptr;
  }

  LinearInfo info() const override {
    const auto kept = static_cast<int64_t>(packed_.columns.size());
    LinearInfo info;
    info.inputs = shape_.inputs;
    info.outputs = shape_.outputs;
    info.flops_per_row = 2 * kept;
    info.dense_flops_per_row = 2 * shape_.inputs * shape_.outputs;
    info.format =
        fmt::format("csr {}, {:.0f}% pruned", shape_.weight_type == DType::kF32 ? "f32" : "bf16",
                    100 - 100 * static_cast<double>(info.flops_per_row) /
                              static_cast<double>(info.dense_flops_per_row));
    info.kernel = fmt::format("csr_matmul:{}", csr_matmul::kernels.select(shape_).name);
    info.why = csr_matmul::kernels.why(shape_);
    info.bytes =
        static_cast<int64_t>(packed_.values.size() + packed_.columns.size() * sizeof(uint16_t) +
                             (packed_.offsets.size() + bias_.size()) * sizeof(float));
    return info;
  }

  int64_t scratch_bytes(int64_t rows) const override {
    if (rows <= 1) return 0;
    return padded(std::min(rows, kChunkRows)) * shape_.inputs * int64_t{sizeof(float)};
  }

  void apply(const LinearArgs& args, const Team::Member& member) const override {
    if (args.rows >= kOwnRows * member.size()) {
      multiply(args, member.slice(args.rows, csr_matmul::kLanes), {0, groups()});
    } else {
      multiply(args, {0, args.rows},
               {cut(member.rank(), member.size()), cut(member.rank() + 1, member.size())});
    }
  }

  void apply_alone(const LinearArgs& args) const override {
    multiply(args, {0, args.rows}, {0, groups()});
  }

 private:
  int64_t groups() const { return csr_matmul::group_count(shape_.outputs); }

  // Where part `part` of the groups begins when they are dealt by equal numbers of elements.
  int64_t cut(int part, int parts) const {
    if (part == parts) return groups();
    const int64_t target = static_cast<int64_t>(packed_.columns.size()) * part / parts;
    const auto found = std::lower_bound(packed_.offsets.begin(), packed_.offsets.end(), target);
    return std::min((found - packed_.offsets.begin()) / csr_matmul::kGroupOutputs, groups());
  }

  void multiply(const LinearArgs& args, Range rows, Range part) const {
    if (rows.size() <= 0 || part.size() <= 0) return;
    // The chunks are of like height: a single row that is left over would sum in another order.
    const int chunks = static_cast<int>(ceil_div(rows.size(), kChunkRows));
    for (int i = 0; i < chunks; ++i) {
      const Range chunk = slice(rows.size(), 1, i, chunks);
      multiply_chunk(args, {rows.begin + chunk.begin, rows.begin + chunk.end}, part);
    }
  }

  void multiply_chunk(const LinearArgs& args, Range rows, Range part) const {
    csr_matmul::Args product = shape_;
    take_rows(args, rows, product);
    if (rows.size() > 1) {
      auto* transposed = static_cast<float*>(args.scratch);
      product.x_stride = padded(rows.size());
      transpose::kernels.run({.x = product.x,
                              .x_stride = args.x_stride,
                              .cols = shape_.inputs,
                              .y = transposed,
                              .y_stride = product.x_stride},
                             {0, rows.size()});
      product.x = transposed;
    }
    csr_matmul::kernels.run(product, {part.begin, part.end});
  }

  csr_matmul::Args shape_;
  csr_matmul::Packed packed_;
  std::vector<float> bias_;
};

Status choose(Preparation& preparation, Run& run) {
  int64_t kept = 0;
  for (const StoredMatrix& matrix : run.matrices) kept += get<CsrMatrix>(matrix).kept();
  if (inputs(run.matrices.front()) > csr_matmul::kMaxInputs) {
    run.choice = {ProductForm::kDense,
                  fmt::format("run dense: more inputs than {}", csr_matmul::kMaxInputs)};
  } else if (kept > std::numeric_limits<int32_t>::max()) {
    run.choice = {ProductForm::kDense, "run dense: more elements than 2^31 - 1"};
  } else {
    preparation.decide({.multiplied = kept, .block = {1, 1}, .numbers = preparation.floats(run)},
                       run);
  }
  return run.choice.form == ProductForm::kDense ? preparation.write_out(run) : Status();
}

// The matrices have at most csr_matmul::kMaxInputs inputs.
Result<std::unique_ptr<Linear>> prepare(Preparation& preparation, Run& run, const float* bias) {
  const std::vector<CsrMatrix> stack = run.all_of<CsrMatrix>();
  const DType stored = preparation.floats(run);
  csr_matmul::Args shape;
  shape.inputs = stack.front().inputs();
  shape.weight_type = stored;
  for (const CsrMatrix& matrix : stack) shape.outputs += matrix.outputs();
  return std::unique_ptr<Linear>(
      std::make_unique<Csr>(shape, csr_matmul::pack(stack, stored), bias));
}

}  // namespace

constinit const LinearFormat linear_formats::csr = {
    .joins = [](const StoredMatrix&, const StoredMatrix&) { return true; },
    .choose = choose,
    .prepare = prepare,
};

}  // namespace tessera
