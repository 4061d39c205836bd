#pragma once

#include <string>

#include "base/status.h"
#include "compress/directory.h"
#include "tessera/tune.h"
#include "tune/torch/parameters.h"

namespace tessera::training {

// Writes what updates learnt, and with it heads that were trained and those of labels, into a
// directory in the layout of PEFT (io/adapter.h), from which peft.PeftModel.from_pretrained and
// tessera compress take it. Modules have the names that the class of transformers gives them in
// which the source's config.json says it was saved. base: what the adapter is said to be of.
Status write_adapter(const OpenCheckpoint& source, TrainedModel& model, const LoraOptions& options,
                     const std::string& base, const std::string& directory);

}  // namespace tessera::training
