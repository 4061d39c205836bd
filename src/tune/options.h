#pragma once

#include <map>
#include <string>

#include "base/status.h"
#include "tessera/tune.h"

namespace tessera {

// kInvalidInput for options that no training can have, whatever the model and the data.
Status check(const TuneOptions& options);

// As it is or, where that is 0, the usual one.
double lora_alpha(const LoraOptions& lora);

// Whether what comes out is an adapter in the place of a model.
inline bool writes_adapter(const TuneOptions& options) {
  return options.lora && options.lora->output == LoraOptions::Output::kAdapter;
}

// SHA-256 of what a training reads, by file.
struct TuneInputs {
  std::map<std::string, std::string> source, teacher, data;  // data: also that which validates
  std::map<std::string, std::string> settings;  // the source's config.json and tokenizer
};
// Of the data files; folders are not looked into.
Result<std::map<std::string, std::string>> hash_data(const TuneOptions& options);

// What a training is, as JSON: all options that its result depends on, and the teacher and the data
// by their hashes. It stands in the provenance of what comes out.
std::string pass_text(const TuneOptions& options, const TuneInputs& inputs);
// What makes two trainings the same, so that one can be taken up as the other. The number of
// threads is not part of it: with another one, losses differ by rounding.
std::string run_text(const TuneOptions& options, const TuneInputs& inputs);

}  // namespace tessera
