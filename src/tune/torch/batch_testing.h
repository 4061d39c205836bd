#pragma once

#include <vector>

#include "tessera/model.h"
#include "tune/batch.h"

namespace tessera::training {

// Sequences as the engine takes them, as a batch of which nothing is to be predicted.
inline Batch batch_of(const std::vector<TokenSequence>& sequences) {
  Batch batch;
  for (const TokenSequence& one : sequences) {
    batch.ids.insert(batch.ids.end(), one.ids.begin(), one.ids.end());
    batch.offsets.push_back(static_cast<int32_t>(batch.ids.size()));
  }
  return batch;
}

}  // namespace tessera::training
