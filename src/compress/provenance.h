#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "compress/pass.h"
#include "io/checkpoint.h"
#include "tessera/model.h"

// What a run was, as JSON.
namespace tessera {

struct Run {
  const Passes* passes = nullptr;
  const std::map<std::string, std::string>* source_hashes = nullptr;  // by file
  const std::vector<TokenSequence>* sequences = nullptr;              // empty: nothing calibrates
};

// What makes two runs the same. Sequences stand by their ids.
std::string run_text(const Run& run);

// The section of config.json without its tensors: the passes of this run behind those that the
// source went through before. Empty where a plain model stays one.
std::string section(const Run& run, const Checkpoint& source);

// The same for a training. pass: JSON, what it was.
struct TrainingPass {
  std::string pass;
  const std::map<std::string, std::string>* source_hashes = nullptr;  // by file
  uint64_t seed = 0;
};
std::string section(const TrainingPass& training, const Checkpoint& source);

}  // namespace tessera
