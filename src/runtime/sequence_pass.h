#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "base/status.h"
#include "runtime/cache_pool.h"
#include "runtime/running.h"
#include "runtime/whole_sequences.h"

// Passes over sequences that keep their keys and values between them.
namespace tessera {

// Runs the parts through the model, with the logits of the parts that are read, in their order, and
// keeps the tables as the sequences' windows and cascades have them. An error: nothing has run, and
// forget_unrun brings the tables back.
Status run_parts(const ModelState& state, CachePool& pool, const Forward& forward,
                 std::span<const SequencePart> parts, ForwardOutput& output);
// Drops whatever a pass that failed has entered in the tables.
void forget_unrun(Sequence& sequence);

// Reads each text as if all behind its first `prompt` tokens had been generated: the prompt in a
// pass, then a token at a time, pruned as the model's schedule says. take: a text's number, the
// position of a token, from prompt - 1 on, and the logits behind it, which predict the next one;
// there are none behind the last. 0 < prompt < the length of each text.
struct SteppedText {
  std::span<const int32_t> ids;
  int32_t prompt = 0;
};
using TakeStep =
    std::function<Status(size_t text, int32_t position, std::span<const float> logits)>;
Status run_in_steps(ModelState& state, std::span<const SteppedText> texts, const TakeStep& take);

}  // namespace tessera
