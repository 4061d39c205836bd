#pragma once

#include <map>
#include <string>

#include "base/status.h"

namespace tessera {

// The card of the model that another one was made from: what the new card has of it.
class BaseCard {
 public:
  // Renames README.md of the directory in which a model is put together, which the source's files
  // were copied to, to base-model-card.md where there is none yet. source: the source's directory,
  // after which a model is called that has no card.
  static Result<BaseCard> set_aside(const std::string& source, const std::string& directory);

  // The model that the new one is of in the end: of one that Tessera made, that one's base.
  const std::string& model() const { return model_; }
  // The YAML header of the new card, and its section about the licence.
  std::string header() const;
  std::string licence() const;

 private:
  std::map<std::string, std::string> entries_;  // of the header, each with its key and lines
  std::string model_;
};

}  // namespace tessera
