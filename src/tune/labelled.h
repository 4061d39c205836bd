#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "tune/examples.h"
#include "tune/records.h"
#include "tune/text_encoder.h"

namespace tessera::training {

struct Labelled {
  ExampleList examples;
  std::vector<std::string> label_names;  // as of Batches
  int64_t cut = 0;                       // texts that were longer than max_tokens
};

// The examples of a task with labels. Texts that are too long are cut, but for those of
// kQuestionAnswering, whose context is read in windows that overlap, as `answer` reads it (an
// example each; one without the answer has none), and of kDataToText, which are refused.
Result<Labelled> encode_labelled(TuneTask task, const TextEncoder& encoder, const Records& records);

}  // namespace tessera::training
