#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/status.h"
#include "base/team.h"
#include "formats/dense.h"
#include "formats/precision.h"
#include "formats/stored_matrix.h"
#include "kernels/activation/activation.h"
#include "linear/choice.h"

namespace tessera {

// Some outputs or inputs of a map, as the heads of an attention are: ranges, ascending and apart
// from each other, of numbers among which the map's first is `origin`. None: all.
struct Subset {
  std::span<const Range> ranges = {};
  int64_t origin = 0;

  bool is_all() const { return ranges.empty(); }
};

// One product: y = activation(x W^T + bias) + residual.
// x: [rows, inputs], y and residual: [rows, outputs], row-major with strides in elements,
// caller-owned. y may be residual, never x.
struct LinearArgs {
  const float* x = nullptr;
  int64_t x_stride = 0;
  int64_t rows = 0;
  Activation activation = Activation::kNone;
  const float* residual = nullptr;
  int64_t residual_stride = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
  // scratch_bytes(rows) of the calling member alone, aligned to 64 bytes; null where that is 0.
  void* scratch = nullptr;
  // What convert_rows() made of all rows of the call; null where converted_bytes(rows) is 0.
  const void* converted = nullptr;
  // The outputs that are asked for; others are written too, or stay as they are. And the inputs
  // that may be other than 0; the others of x are 0. Left out is what the format has in one piece:
  //   dense f32, bf16, int8   panels of 64 outputs; 16 inputs of f32, 32 of bf16, 64 of int8
  //   tiles, f32 to int8      panels of 16 or 8 outputs
  //   all others              nothing
  Subset outputs = {};
  Subset inputs = {};
};

struct LinearInfo {
  std::string format;  // "dense f32", "dense bf16"
  std::string kernel;  // family:row, for one row and for many
  std::string why;     // this kernel for many
  int64_t inputs = 0;
  int64_t outputs = 0;
  int64_t bytes = 0;                // prepared, with the bias
  int64_t flops_per_row = 0;        // executed
  int64_t dense_flops_per_row = 0;  // of the dense form
};

// A linear map prepared for execution. Immutable; may be applied by one team at a time or by
// several.
class Linear {
 public:
  virtual ~Linear() = default;
  virtual LinearInfo info() const = 0;
  // The part of info().flops_per_row that a call with these subsets executes.
  virtual double share(const LinearArgs& /*args*/) const { return 1; }
  // Working memory that a call of at most so many rows needs of each member.
  virtual int64_t scratch_bytes(int64_t /*rows*/) const { return 0; }
  // Some maps read rows in another form, as integers or bf16, that is made once and shared by the
  // members: its bytes for a call of so many rows, 0 where the map reads x itself.
  virtual int64_t converted_bytes(int64_t /*rows*/) const { return 0; }
  // Makes rows `part` of the rows of args.x in that form; target: converted_bytes(args.rows),
  // aligned to 64 bytes. Members may make parts of their own; apply begins when all are there.
  virtual void convert_rows(const LinearArgs& /*args*/, Range /*part*/, void* /*target*/) const {}
  // Does this member's part of the product. Every member of the team calls it with the same
  // arguments; there is no barrier inside, so y is whole only after the caller's next barrier.
  virtual void apply(const LinearArgs& args, const Team::Member& member) const = 0;
  // The whole product, by the calling thread.
  virtual void apply_alone(const LinearArgs& args) const = 0;
};

// Passes everything on to another map, for those that change some of it.
class Forwarding : public Linear {
 public:
  explicit Forwarding(const Linear& inner) : inner_(inner) {}
  LinearInfo info() const override { return inner_.info(); }
  double share(const LinearArgs& args) const override { return inner_.share(args); }
  int64_t scratch_bytes(int64_t rows) const override { return inner_.scratch_bytes(rows); }
  int64_t converted_bytes(int64_t rows) const override { return inner_.converted_bytes(rows); }
  void convert_rows(const LinearArgs& args, Range part, void* target) const override {
    inner_.convert_rows(args, part, target);
  }
  void apply(const LinearArgs& args, const Team::Member& member) const override {
    inner_.apply(args, member);
  }
  void apply_alone(const LinearArgs& args) const override { inner_.apply_alone(args); }

 private:
  const Linear& inner_;
};

// Packs a stack of dense matrices once, dealt over the team; the source is not kept. bias: f32
// [outputs of the stack] or null; copied. kBF16: weights are rounded to nearest, and so are the
// rows of calls that have enough of them, on CPUs that multiply bf16 faster than f32. kStored: bf16
// where all matrices are, else f32; rows stay f32.
Result<std::unique_ptr<Linear>> prepare_dense(const DenseStack& weights, const float* bias,
                                              const LinearChoices& choices, Team& team);

// Packs a stack of matrices of any formats: a neighbourhood of dense ones as prepare_dense does,
// of pruned ones for the kernel of their format, or written out and dense, as the choices say
// (info() says why). Pruned outputs are activation(bias) + residual. Matrices that are not of the
// precision asked for are rounded to it, by pack_quantized where that is of integers.
Result<std::unique_ptr<Linear>> prepare_linear(const MatrixStack& weights, const float* bias,
                                               const LinearChoices& choices, Team& team);

// A whole product on a team, from inside of which every member calls it: converts the rows, waits
// for the others and applies. converted: converted_bytes(args.rows) that all share, null where that
// is 0.
void apply_shared(const Linear& linear, LinearArgs args, void* converted, Team::Member& member);

}  // namespace tessera
