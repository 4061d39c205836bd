#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "io/model_directory.h"
#include "model/architecture.h"
#include "tessera/tune.h"

namespace tessera {

// The model that a training begins with, where it is not the source as it is.
struct Beginning {
  bool is_random = false;  // all weights are drawn anew; else those of the head alone
  Head head = Head::kNone;
  // Of a head that has labels: what they are called; of a regression none, and it has one output.
  std::vector<std::string> labels = {};
  bool is_regression = false;
};

// What the options ask for: random weights, or a head that the model does not have; nothing where
// the source is what they need. The data is read where the labels of a new head are its.
Result<std::optional<Beginning>> beginning_of(const TuneOptions& options,
                                              const ModelDirectory& source);

// Writes that model as a plain directory of transformers' class for the head, with what belongs to
// the source but the files of sentence-transformers. Weights are drawn from N(0, s^2) with s =
// initializer_range of config.json (0.02), in GPT-2 divided by sqrt(2 layers) where a block's
// output is added (Radford et al. 2019); biases are 0, norms 1. Tensors of another head, and a head
// that is drawn anew, are left out. Gives how many numbers were drawn.
Result<int64_t> write_beginning(const ModelDirectory& source, const Beginning& beginning,
                                uint64_t seed, const std::string& directory);

}  // namespace tessera
