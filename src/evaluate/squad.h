#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace tessera::evaluation {

struct SquadAnswer {
  std::string text;
  std::optional<int64_t> start;  // characters of the context before it, where the file says
};
struct SquadQuestion {
  std::string place;  // "FILE: data[0].paragraphs[2].qas[1]"
  std::string id;
  std::string question;  // never blank
  std::string context;
  std::vector<SquadAnswer> answers;  // none: the context does not answer it
};

// Reads a file in SQuAD's JSON (Rajpurkar et al. 2016, 2018). `take` gets each question in turn, or
// what is wrong with one, or with a paragraph; an error of its own ends the reading.
Status read_squad(const std::string& path,
                  const std::function<Status(Result<SquadQuestion>)>& take);

}  // namespace tessera::evaluation
