#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/team.h"
#include "compress/item.h"
#include "compress/statistics.h"
#include "model/architecture.h"
#include "model/weights.h"
#include "tessera/compress.h"
#include "tessera/model.h"

namespace tessera {

// Texts as token ids, at most options.tokens of them in all: an encoder's sequences are lines, a
// decoder's the lines one behind the other, cut where a sequence is full. kNotFound where the
// model has no tokenizer; kInvalidInput where the file holds no text.
Result<std::vector<TokenSequence>> read_calibration(const std::string& directory,
                                                    const Architecture& architecture,
                                                    const CalibrationOptions& options);

// Runs calibration sequences through a model layer by layer, from embeddings of a precision, with
// the layer's maps as the caller has them, and observes what the maps read. States between layers
// are kept in memory. Results do not depend on the number of threads, but where products do.
class Calibration {
 public:
  static Result<std::unique_ptr<Calibration>> begin(const Checkpoint& checkpoint,
                                                    const Architecture& architecture,
                                                    const std::vector<TokenSequence>& sequences,
                                                    Precision embeddings, Team& team);
  ~Calibration();

  // Statistics of the inputs of one map in the layer that the states have come to.
  Result<InputStatistics> observe(const LayerWeights& layer, LayerMap map);
  // Takes the states through the layer.
  Status advance(const LayerWeights& layer);

 private:
  struct State;
  explicit Calibration(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace tessera
