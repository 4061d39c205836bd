#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace tessera::training {

// Random numbers that are a function of a seed, what they are for, and a number: of an epoch or a
// batch, say. SplitMix64 (Steele, Lea & Flood 2014), whose beginning costs nothing; the same with
// every compiler and library.
class Random {
 public:
  enum class Use : uint64_t { kOrder, kOffset, kMasks, kUpdates, kWeights };

  Random(uint64_t seed, Use use, int64_t number)
      : state_(mixed(mixed(mixed(seed) + static_cast<uint64_t>(use)) +
                     static_cast<uint64_t>(number))) {}

  // Word `number` of the sequence that begins with a seed, from 0.
  static uint64_t word(uint64_t seed, int64_t number) {
    return mixed(seed + kStep * static_cast<uint64_t>(number));
  }

  // 0 to bound - 1, each as likely as the others; bound > 0.
  int64_t below(int64_t bound) {
    const auto wide = static_cast<uint64_t>(bound);
    const uint64_t whole = UINT64_MAX - UINT64_MAX % wide;  // a multiple of the bound
    uint64_t drawn = next();
    while (drawn >= whole) drawn = next();
    return static_cast<int64_t>(drawn % wide);
  }
  // From 0 to less than 1.
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  // True with this probability.
  bool happens(double probability) { return uniform() < probability; }
  // Of the normal distribution with mean 0 and variance 1 (Box & Muller 1958).
  double normal() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(2 * std::numbers::pi * uniform());
  }

 private:
  static constexpr uint64_t kStep = 0x9E3779B97F4A7C15;

  static uint64_t mixed(uint64_t word) {
    word += kStep;
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9;
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB;
    return word ^ (word >> 31);
  }
  uint64_t next() {
    const uint64_t drawn = mixed(state_);
    state_ += kStep;
    return drawn;
  }

  uint64_t state_;
};

}  // namespace tessera::training
