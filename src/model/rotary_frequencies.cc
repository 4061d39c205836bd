#include "model/rotary_frequencies.h"

#include <cmath>

namespace tessera {

std::vector<float> powers_of_base(float base, int32_t pairs, int32_t d) {
  std::vector<float> powers;
  for (int32_t j = 0; j < pairs; ++j) {
    const float exponent = static_cast<float>(2 * j) / static_cast<float>(d);
    powers.push_back(static_cast<float>(std::pow(double{base}, double{exponent})));
  }
  return powers;
}

std::vector<float> reciprocals(std::vector<float> powers) {
  for (float& power : powers) power = 1 / power;
  return powers;
}

std::vector<float> frequencies_of_length(const Rotary& rotary, int32_t length) {
  const LongerSequences& longer = rotary.longer;
  if (!longer.inverse_frequencies.empty()) return longer.inverse_frequencies;
  const float stretch = static_cast<float>(longer.factor) * static_cast<float>(length) /
                            static_cast<float>(longer.usual_tokens) -
                        static_cast<float>(longer.factor - 1);
  const double exponent = longer.rotated / (longer.rotated - 2.0);
  const auto growth = static_cast<float>(std::pow(double{stretch}, exponent));
  const auto pairs = static_cast<int32_t>(rotary.inverse_frequencies.size());
  return reciprocals(
      powers_of_base(static_cast<float>(longer.theta) * growth, pairs, longer.rotated));
}

}  // namespace tessera
