#pragma once

#include <cstdint>

#include "base/team.h"
#include "io/safetensors.h"

namespace tessera {

// The index of the first value of an f32, f16 or bf16 tensor that is NaN or infinite; -1 where all
// are finite. Reads the tensor once, at the speed of memory.
int64_t find_not_finite(const TensorView& tensor, Team& team);

}  // namespace tessera
