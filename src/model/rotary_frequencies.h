#pragma once

#include <cstdint>
#include <vector>

#include "model/architecture.h"

// Frequencies of rotary positions with the roundings that transformers makes of them in f32: at
// position p an error of a frequency is p times as large in the angle.
namespace tessera {

// base^(2j / d) of pairs j, the reciprocals of frequencies: the exponent and the power are rounded.
std::vector<float> powers_of_base(float base, int32_t pairs, int32_t d);
std::vector<float> reciprocals(std::vector<float> powers);

// Of a sequence of more tokens than usual.
std::vector<float> frequencies_of_length(const Rotary& rotary, int32_t length);

}  // namespace tessera
