#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

// What runs in a step, as arithmetic on numbers: no model, no memory, no clock, so that the same
// requests give the same steps.
namespace tessera {

// What a request wants to do next.
enum class Stage {
  kPrompt,    // tokens to read, in as many steps as it takes
  kDecoding,  // the token behind each of its sequences, which somebody waits for
  kEncoding,  // a whole sequence without a cache, in one pass
};

// A request as the scheduler sees it.
struct Candidate {
  Stage stage = Stage::kPrompt;
  int32_t rows = 0;  // tokens that wait to be run, of all its sequences
  int32_t sequences = 1;
  bool holds_pages = false;
  bool is_whole = false;  // its rows run in one pass
};

// Pages of the cache. Requests share none with each other.
struct PageCounts {
  int64_t free = 0;
  int64_t a_sequence = 0;  // that kPageTokens more tokens of one sequence take: one a layer
  // New pages for the next `rows` of a candidate, or for all that wait of one that holds none.
  std::function<int64_t(size_t candidate, int32_t rows)> needed;
  std::function<int64_t(size_t candidate)> held;  // come free when it is preempted
};

struct StepBudget {
  // Rows of a step while somebody decodes. Decoding rows come first, even beyond it, and prompts
  // always get a quarter.
  int32_t step_rows = 0;
  int32_t idle_rows = 0;      // of a step while nobody decodes, where that is more
  int32_t prompt_rows = 0;    // of one prompt in a step
  int32_t encoding_rows = 0;  // of a step that has nothing but encodings
  int32_t requests = 0;       // that may hold pages at a time
};

struct StepPlan {
  std::vector<int32_t> rows;      // [candidates], 0: waits
  std::vector<size_t> preempted;  // give their pages back before anything runs
};

// Plans a step for candidates in the order of their age, the oldest first.
//  - All decoding requests go on. Where pages lack, the youngest request that holds some gives them
//    back and is computed again later; one with no younger ones waits.
//  - Prompts share what is left of the budget, the oldest first. A request begins when no older one
//    waits to begin, nobody gives way in this step, its prompt fits into the free pages and every
//    decoding sequence could take another page beside it; or when nobody holds pages.
//  - Encodings run whole, the oldest first, before the prompts if the oldest of all is one; the
//    first of a step may be longer than the budget.
// So the oldest request goes on in every step, provided that it fits into the cache alone.
StepPlan plan_step(std::span<const Candidate> candidates, const StepBudget& budget,
                   const PageCounts& pages);

// How many of the first sequences a pass over whole sequences takes: at most so many rows, but one
// at least (none of none).
size_t sequences_in_pass(std::span<const int64_t> lengths, int64_t rows);

}  // namespace tessera
