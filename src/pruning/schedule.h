#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tessera/names.h"

namespace tessera {

// How much of something a layer keeps: a share of a base, or a count.
struct Keep {
  double share = 1;   // in (0, 1]
  int32_t count = 0;  // above 0: this many, whatever the share

  bool keeps_all() const { return count == 0 && share == 1; }
};

// What a share of tokens is of: those of the sequence so far, those of its prompt, or the most
// positions that the model has, as in the published runs of SpAtten.
enum class CountBase { kTokens, kPrompt, kPositions };
constexpr auto names_of(CountBase) { return enum_names("tokens", "prompt", "positions"); }

// What a prompt to be continued does: its tokens leave as those of a text do, all of them stay but
// are scored, so that they leave once tokens are generated, or they are not even scored.
enum class Prefill { kPrune, kScore, kSkip };
constexpr auto names_of(Prefill) { return enum_names("prune", "score", "skip"); }

// How the threshold of a refetch grows with the keys that a query sees: not, or as their
// reciprocal, of which it is then a multiple.
enum class RefetchScale { kNone, kLength };
constexpr auto names_of(RefetchScale) { return enum_names("none", "length"); }

// Whether a token's importance is divided by the number of queries that could see it, which with a
// causal mask no longer favours early tokens.
enum class ImportanceScale { kNone, kQueries };
constexpr auto names_of(ImportanceScale) { return enum_names("none", "queries"); }

// What an embedding is pooled from: every token, those that left with the state that they left
// with, or those that the last layer has.
enum class PoolRows { kAll, kSurvivors };
constexpr auto names_of(PoolRows) { return enum_names("all", "survivors"); }

// Keys and values as integers, keys in two planes of bits, the lower of which is read only by
// queries that the upper one leaves without a clear favourite (SpAtten, section III.D).
struct KeyPlanes {
  int32_t upper_bits = 0;  // of a key, 4, 6 or 8; 0: the cache is of the type asked for
  int32_t lower_bits = 0;  // 0 or 4
  int32_t value_bits = 8;  // 4, 6 or 8
  // A query whose largest probability is below reads the lower plane too: 0 never, above 1 always.
  double refetch_below = 0;
  RefetchScale refetch_scale = RefetchScale::kNone;

  bool empty() const { return upper_bits == 0; }
};

// Cascade token and head pruning (SpAtten, https://arxiv.org/abs/2012.09852, sections III.A to D):
// in front of each layer only the tokens and heads stay that the layers before attended to most, or
// that gave most. What left takes part in no later layer.
struct PruningSchedule {
  std::vector<Keep> tokens = {};  // of each layer, none more than the one before; empty: all
  std::vector<Keep> heads = {};   // query heads, likewise
  // Of each query of a generated token and each head: the values that are read, those of the
  // largest probabilities, of the tokens that the layer keeps. Empty: all.
  std::vector<Keep> values = {};
  // Above 0, in place of `values`: values of keys are left out whose probability is below this part
  // of the largest one so far.
  double value_threshold = 0;
  KeyPlanes planes = {};
  Prefill prefill = Prefill::kPrune;
  CountBase base = CountBase::kTokens;
  int32_t minimum = 1;  // tokens that stay at least, where there are as many
  // What is left of the importance found so far when that of a layer is added, in (0, 1].
  double decay = 1;
  ImportanceScale scale = ImportanceScale::kNone;
  PoolRows pooling = PoolRows::kAll;
  // Tokens that never leave: so many first and last ones of a text or prompt, those with these ids,
  // and so many of the newest while tokens are generated.
  int32_t protect_first = 0;
  int32_t protect_last = 0;
  int32_t protect_newest = 0;
  std::vector<int32_t> protect_ids = {};

  // Whether every token enters every layer, every head takes part in every layer, and every value
  // is read.
  bool keeps_all() const;  // nothing leaves, and everything is read
  bool keeps_all_tokens() const;
  bool keeps_all_heads() const;
  bool keeps_all_values() const;
};

// A special token, which a schedule may call by its role: "sep" as "@sep".
struct NamedId {
  std::string name;
  int32_t id = 0;
};

// What a schedule has to fit.
struct ScheduledModel {
  int32_t layers = 0;
  int32_t query_heads = 0;  // of each layer; 0: they differ, and no schedule of heads fits
  int32_t positions = 0;    // the longest sequence
  int32_t vocabulary = 0;   // token ids are below it
  bool generates = true;    // a decoder, whose keys and values are kept
  std::vector<NamedId> named_ids = {};
};

// Reads the JSON of a schedule, as docs/cascade.md describes it; source opens the message. An
// average becomes a share for each layer (average_keep), and a named token its id. kUnsupported:
// values or bits of an encoder.
Result<PruningSchedule> parse_schedule(std::string_view text, const ScheduledModel& model,
                                       const std::string& source);
// Reads to the same schedule; what is as by default is left out.
std::string to_json(const PruningSchedule& schedule);

// The layers at the front that an average leaves whole, as a part of all (SpAtten, section III.A).
inline constexpr double kWholeLayersOfTokens = 0.15, kWholeLayersOfHeads = 0.30;

// A share for each layer with this average: the first layers, whole_layers of all and rounded, keep
// all, the others fall in equal steps around what is left. kInvalidInput where the average leaves a
// layer fewer than 5%.
Result<std::vector<Keep>> average_keep(double average, int32_t layers, double whole_layers);

// How many tokens of a sequence of `tokens` enter each layer, `protected_tokens` of which stay:
//   n_l = min(n_(l-1), max(floor(share_l * base), minimum, protected))
// prompt: those of them that were given, where the others are generated; 0: all.
std::vector<int32_t> tokens_kept(const PruningSchedule& schedule, const ScheduledModel& model,
                                 int32_t tokens, int32_t protected_tokens, int32_t prompt = 0);

// How many query heads take part in each layer:
//   n_l = min(n_(l-1), max(floor(share_l * heads), 1))
std::vector<int32_t> heads_kept(const PruningSchedule& schedule, const ScheduledModel& model);

// How many values each query and head reads in a layer of a sequence of `tokens`, where there are
// as many keys:
//   max(floor(share_v * floor(share_l * base)), 1)
// prompt as of tokens_kept.
int32_t values_kept(const PruningSchedule& schedule, const ScheduledModel& model, int32_t layer,
                    int32_t tokens, int32_t prompt = 0);

}  // namespace tessera
