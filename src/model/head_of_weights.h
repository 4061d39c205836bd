#pragma once

#include "io/checkpoint.h"
#include "tessera/model.h"

namespace tessera {

// The head that a checkpoint's tensors are those of, for a config.json without a class.
Head head_of_weights(const Checkpoint& checkpoint);

}  // namespace tessera
