#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/architecture.h"
#include "tune/records.h"

namespace tessera::training {

// What classes the data has, and the number of each.
class Classes {
 public:
  // Published data has them in an order of its own; else they are the model's, by their names or,
  // where no name is a number itself, their numbers. Where the model has none they are the labels
  // of the data.
  static Result<Classes> find(const Architecture& architecture, const Records& records);

  // kInvalidInput, with the place, for a label that is none of them.
  Result<int32_t> number_of(const std::string& label, const std::string& place) const;
  const std::vector<std::string>& names() const { return names_; }  // as of Batches

 private:
  enum class Numbers { kUnknown, kTaken };  // whether a number stands for its class

  void set(const std::vector<std::string>& spelled);

  std::vector<std::string> spelled_;  // as the data spells them; empty: as numbers alone
  std::vector<std::string> names_;
  std::map<std::string, int32_t> numbers_of_;
  int32_t count_ = 0;
  Numbers numbers_ = Numbers::kUnknown;
};

}  // namespace tessera::training
