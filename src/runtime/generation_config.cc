#include "runtime/generation_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "io/json.h"

namespace tessera {
namespace {

class Reader {
 public:
  explicit Reader(const Config& config) : config_(config) {}

  GenerationDefaults read() {
    truth("do_sample", made_.do_sample);
    read_sampling();
    read_lengths();
    read_beams();
    read_rules();
    find_not_followed();
    return std::move(made_);
  }

 private:
  void wrong(const char* key, const std::string& message) { made_.wrong.push_back({key, message}); }

  void truth(const char* key, std::optional<bool>& target) {
    if (!config_.has(key)) return;
    const auto found = config_.truth_or(key, Config::Truth::kNo);
    if (!found.ok()) return wrong(key, found.status().message());
    target = *found == Config::Truth::kYes;
  }

  struct Range {
    double least, most;
    const char* expected;
  };
  void number(const char* key, const Range& range, std::optional<float>& target) {
    if (!config_.has(key)) return;
    const Result<double> found = config_.number_or(key, 0);
    if (!found.ok()) return wrong(key, found.status().message());
    if (!(*found >= range.least && *found <= range.most)) {
      return wrong(key, fmt::format("{}: {}: expected {}, found {}", config_.source(), key,
                                    range.expected, *found));
    }
    target = static_cast<float>(*found);
  }

  void integer(const char* key, int32_t least, std::optional<int32_t>& target) {
    if (!config_.has(key)) return;
    const Result<int64_t> found = config_.integer(key, least, INT32_MAX);
    if (!found.ok()) return wrong(key, found.status().message());
    target = static_cast<int32_t>(*found);
  }

  void ids(const char* key, std::vector<int32_t>& target) {
    const auto found = config_.integers(key);
    if (!found.ok()) return wrong(key, found.status().message());
    for (const int64_t id : *found) {
      // -1 and the like stand for no token.
      if (id > INT32_MAX) {
        return wrong(key, fmt::format("{}: {}: expected ids of tokens, found {}", config_.source(),
                                      key, id));
      }
      if (id >= 0) target.push_back(static_cast<int32_t>(id));
    }
  }

  void read_sampling() {
    constexpr double kMost = std::numeric_limits<float>::max();
    constexpr Range kPositive = {1e-30, kMost, "a number > 0"},
                    kShare = {0, 1, "a number from 0 to 1"};
    number("temperature", {0, kMost, "a number >= 0"}, made_.temperature);
    number("top_p", kShare, made_.top_p);
    number("min_p", kShare, made_.min_p);
    number("repetition_penalty", kPositive, made_.repetition_penalty);
    integer("top_k", 0, made_.top_k);
  }

  void read_lengths() {
    integer("max_new_tokens", 1, made_.max_new_tokens);
    integer("max_length", 1, made_.max_length);
    integer("min_new_tokens", 0, made_.min_new_tokens);
    integer("min_length", 0, made_.min_length);
  }

  void read_beams() {
    integer("num_beams", 1, made_.num_beams);
    const double most = std::numeric_limits<float>::max();
    number("length_penalty", {-most, most, "a number"}, made_.length_penalty);
    constexpr const char* kKey = "early_stopping";
    if (!config_.has(kKey)) return;
    if (const auto found = config_.truth_or(kKey, Config::Truth::kNo); found.ok()) {
      made_.early_stopping = *found == Config::Truth::kYes ? "true" : "false";
    } else if (const auto word = config_.string(kKey); word.ok() && *word == "never") {
      made_.early_stopping = *word;
    } else {
      wrong(kKey, fmt::format("{}: {}: expected true, false or \"never\"", config_.source(), kKey));
    }
  }

  void read_rules() {
    integer("no_repeat_ngram_size", 0, made_.no_repeat_ngram_size);
    ids("suppress_tokens", made_.suppress_tokens);
    ids("begin_suppress_tokens", made_.begin_suppress_tokens);
    integer("forced_bos_token_id", 0, made_.forced_bos_token_id);
    ids("forced_eos_token_id", made_.forced_eos_token_id);
    constexpr const char* kKey = "bad_words_ids";
    const auto words = config_.integer_lists(kKey);
    if (!words.ok()) return wrong(kKey, words.status().message());
    const bool is_empty =
        std::any_of(words->begin(), words->end(),
                    [](const std::vector<int64_t>& word) { return word.empty(); });
    if (config_.has(kKey) && (words->empty() || is_empty)) {
      return wrong(kKey, fmt::format("{}: {}: expected lists of ids with one at least, found an "
                                     "empty one",
                                     config_.source(), kKey));
    }
    for (const std::vector<int64_t>& word : *words) {
      std::vector<int32_t>& made = made_.bad_words_ids.emplace_back();
      for (const int64_t id : word)
        made.push_back(static_cast<int32_t>(std::clamp<int64_t>(id, -1, INT32_MAX)));
    }
  }

  // What changes nothing as it is is not worth a word.
  bool is_neutral(const std::string& key, std::initializer_list<double> neutral) const {
    if (!config_.has(key)) return true;
    if (const auto truth = config_.truth_or(key, Config::Truth::kNo); truth.ok()) {
      return *truth == Config::Truth::kNo;
    }
    const auto number = config_.number_or(key, 0);
    return number.ok() && std::find(neutral.begin(), neutral.end(), *number) != neutral.end();
  }

  struct NotFollowed {
    const char* key;
    std::initializer_list<double> neutral;
  };

  void find_not_followed() {
    const bool samples = made_.do_sample.value_or(false);
    const bool beams = made_.num_beams.value_or(1) > 1;
    const auto check = [&](std::initializer_list<NotFollowed> rows) {
      for (const NotFollowed& row : rows) {
        if (!is_neutral(row.key, row.neutral)) made_.not_followed.emplace_back(row.key);
      }
    };
    check({{"num_return_sequences", {1}},
           {"penalty_alpha", {0}},
           {"dola_layers", {}},
           {"max_time", {}},
           {"stop_strings", {}},
           {"encoder_repetition_penalty", {1}},
           {"encoder_no_repeat_ngram_size", {0}},
           {"sequence_bias", {}},
           {"exponential_decay_length_penalty", {}},
           {"guidance_scale", {1}},
           {"watermarking_config", {}},
           {"token_healing", {}},
           {"constraints", {}},
           {"force_words_ids", {}},
           {"custom_generate", {}}});
    if (samples)
      check({{"typical_p", {1}}, {"epsilon_cutoff", {0}}, {"eta_cutoff", {0}}, {"top_h", {}}});
    if (!beams) return;
    check({{"num_beam_groups", {1}}, {"diversity_penalty", {0}}, {"renormalize_logits", {}}});
    if (!samples) return;
    // Beams that draw.
    made_.not_followed.emplace_back("num_beams");
    made_.num_beams.reset();
  }

  const Config& config_;
  GenerationDefaults made_;
};

}  // namespace

GenerationDefaults read_generation_defaults(const Config& config) { return Reader(config).read(); }

}  // namespace tessera
