#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "model/architecture.h"
#include "tessera/tune.h"

namespace tessera {

// What the card of a trained model tells. source and target: directories, the target as it will be
// called.
struct TuneCard {
  std::string source = {}, target = {};
  const TuneOptions* options = nullptr;
  const TuneReport* report = nullptr;
  Head head = Head::kNone;
  // JSON: the `tessera` section of the new config.json, or empty.
  std::string section = {};
};

// What a person does next with what was trained: commands of the program.
std::vector<std::string> next_of(const TuneOptions& options, Head head, const std::string& source,
                                 const std::string& target);

// Writes the card, README.md, into the directory in which a model was put together: from what it
// was trained, how, for how long and with what effect on the loss, what was done to it before, how
// to run it and under which licence.
Status write_tune_card(const TuneCard& card, const std::string& directory);

}  // namespace tessera
