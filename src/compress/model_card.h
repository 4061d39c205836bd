#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "compress/pass.h"
#include "tessera/compress.h"

namespace tessera {

// What a person does next with a compressed model: run it, and hold it against its source. Commands
// of the program.
std::vector<std::string> next_commands(Head head, const std::string& source,
                                       const std::string& target);

// What a card tells. source and target: directories, the target as it will be called.
struct ModelCard {
  std::string source = {}, target = {};
  std::vector<std::string> command = {};  // its words; empty: unknown
  const Passes* passes = nullptr;
  const CompressReport* report = nullptr;
};

// Writes the card, README.md, into the directory in which a model was put together: what it was
// made of and how, what that saved and cost, how to run it and under which licence. What the source
// says of itself there becomes base-model-card.md. Equal inputs give equal bytes.
Status write_model_card(const ModelCard& card, const std::string& directory);

// Undoes that in a copy of a compressed model that is compressed no longer: its card tells of what
// is no longer so, and what the model that it was made from says of itself, if anything, takes its
// place.
Status put_base_card_back(const std::string& directory);

}  // namespace tessera
