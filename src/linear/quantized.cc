#include "linear/formats.h"

namespace tessera {
namespace {

Status convert(Preparation& preparation, StoredMatrix& matrix) {
  const Precision wanted = preparation.precision();
  if (wanted == Precision::kStored || get<QuantizedMatrix>(matrix).precision == wanted) return {};
  return preparation.write_out(matrix);
}

bool joins(const StoredMatrix& a, const StoredMatrix& b) {
  const auto one = get<QuantizedMatrix>(a), other = get<QuantizedMatrix>(b);
  return one.precision == other.precision && one.group == other.group && reads_alike(one, other);
}

Result<std::unique_ptr<Linear>> prepare(Preparation& preparation, Run& run, const float* bias) {
  const auto stack = run.all_of<QuantizedMatrix>();
  const bool whole = stack.front().precision == Precision::kInt8 && stack.front().group == 0;
  return whole ? prepare_int8(stack, bias, preparation.team())
               : prepare_groups(stack, bias, preparation.team());
}

}  // namespace

constinit const LinearFormat linear_formats::quantized = {
    .convert = convert,
    .joins = joins,
    .prepare = prepare,
};

}  // namespace tessera
