#pragma once

#include <memory>

#include "tessera/tokenizer.h"
#include "tune/batch.h"

namespace tessera::training {

// read_batches with a tokenizer that is there already. usual_tokens: what options.max_tokens is
// taken for where it is 0, before the bounds of the model and of batch_tokens; > 0. The
// architecture is not referred to later.
Result<std::unique_ptr<Batches>> make_batches(std::shared_ptr<const Tokenizer> tokenizer,
                                              const Architecture& architecture,
                                              const TuneOptions& options, int32_t usual_tokens);

}  // namespace tessera::training
