#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <random>

#include "cli/roofline.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "tessera/engine.h"

namespace tessera::cli {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr Synopsis kSynopsis = {
    "bench", "MODEL",
    "Measures how fast a model runs, on random token ids from a fixed seed and after warm-up. For "
    "an "
    "encoder: the time of a batch of texts of one length. For a decoder: tokens per second while "
    "it "
    "reads prompts and while it generates.",
    "  tessera bench MODEL --batch 1,8 --length 128,256\n"
    "  tessera bench models/tales --prompt-tokens 256 --new-tokens 64 --repeat 10\n"
    "  tessera bench models/tales --threads 1 --json\n"
    "  tessera bench MODEL --ragged 12,80,200     # one batch of texts of these "
    "lengths\n"
    "  tessera machine && tessera bench models/tales --roofline\n"};

constexpr int64_t kMaxBatch = 4096;
constexpr int64_t kMaxLength = 1 << 24;
constexpr int kWarmUps = 2;
constexpr int64_t kEncoderRepeats = 10;
constexpr int64_t kDecoderRepeats = 5;

struct Options {
  ModelOptions model;
  std::vector<int64_t> batches = {1, 8};
  std::vector<int64_t> lengths;
  std::vector<int64_t> ragged;
  std::optional<int64_t> prompt_tokens, new_tokens, repeat;
  std::optional<double> seconds;
  bool roofline = false;
  bool json = false;
};

// What was timed so often: `tokens` of them in each of `seconds`.
struct Measurement {
  const char* what;  // "encode", "prefill", "decode"
  int64_t batch = 0;
  int64_t length = 0;
  int64_t tokens = 0;
  std::vector<double> seconds = {};
  std::vector<OperationProfile> profile = {};
  CacheReadProfile reads = {};  // of a run before those that were timed
};

// Interpolated between the neighbours; samples are sorted and not empty.
double quantile(const std::vector<double>& samples, double at) {
  const double place = at * static_cast<double>(samples.size() - 1);
  const size_t below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, samples.size() - 1);
  return samples[below] + (place - static_cast<double>(below)) * (samples[above] - samples[below]);
}

std::vector<int32_t> random_ids(int64_t length, int32_t vocabulary, std::mt19937& random) {
  std::vector<int32_t> ids(static_cast<size_t>(length));
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % static_cast<uint32_t>(vocabulary));
  return ids;
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class Bench {
 public:
  Bench(std::shared_ptr<Model> model, const Options& options)
      : model_(std::move(model)), options_(options) {}

  Status run() {
    if (Status status = check_lengths(); !status.ok()) return status;
    if (Status status = find_roofs(); !status.ok()) return status;
    if (!options_.ragged.empty()) return encode(options_.ragged);
    const int64_t shapes = static_cast<int64_t>(options_.batches.size() * lengths_.size());
    Progress progress("measuring", shapes);
    for (const int64_t batch : options_.batches) {
      for (const int64_t length : lengths_) {
        Status status = info().is_decoder
                            ? decode(batch, length)
                            : encode(std::vector<int64_t>(static_cast<size_t>(batch), length));
        if (!status.ok()) return status;
        progress.update(++done_);
      }
    }
    return {};
  }

  std::string table() const {
    std::vector<std::vector<std::string>> rows;
    for (const Measurement& measurement : measurements_) {
      const Json json = to_json(measurement);
      const auto number = [&](const char* key, int digits) {
        return fmt::format("{:.{}f}", json[key].get<double>(), digits);
      };
      rows.push_back({measurement.what, std::to_string(measurement.batch),
                      std::to_string(measurement.length), number("median_ms", 3),
                      number("p10_ms", 3), number("p90_ms", 3), number("tokens_per_second", 1),
                      number("gflops", 1)});
    }
    constexpr Align kRight = Align::kRight;
    std::string text =
        fmt::format("{}: {}{}, {}{}\n", info().directory, info().weight_type, narrow_cache(),
                    counted(info().threads, "threads"), saved_flops()) +
        format_table({{"", Align::kLeft},
                      {"batch", kRight},
                      {"length", kRight},
                      {"median ms", kRight},
                      {"p10", kRight},
                      {"p90", kRight},
                      {"tokens/s", kRight},
                      {"GFLOP/s", kRight}},
                     rows);
    for (const Measurement& measurement : measurements_) text += reads_of(measurement);
    for (const Measurement& measurement : measurements_) {
      if (measurement.profile.empty()) continue;
      text += fmt::format("\n{}, batch {}, length {}: one pass\n", measurement.what,
                          measurement.batch, measurement.length) +
              roofline_table(measurement.profile, roofs_,
                             static_cast<int64_t>(measurement.seconds.size()));
    }
    return text;
  }

  std::string json() const {
    Json json;
    json["model"] = info().directory;
    json["weight_type"] = info().weight_type;
    json["cache_type"] = name(info().cache_type);
    json["threads"] = info().threads;
    json["flops_per_token"] = info().flops_per_token;
    json["executed_flops_per_token"] = info().executed_flops_per_token;
    json["peak_memory_bytes"] = peak_memory_bytes();
    json["results"] = Json::array();
    for (const Measurement& measurement : measurements_)
      json["results"].push_back(to_json(measurement));
    return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  }

 private:
  const ModelInfo& info() const { return model_->info(); }

  std::string narrow_cache() const {
    if (info().cache_type == CacheType::kF32) return "";
    return fmt::format(" with a cache of {}", name(info().cache_type));
  }

  // A line for a measurement of generated tokens.
  std::string reads_of(const Measurement& measurement) const {
    const CacheReadProfile& reads = measurement.reads;
    if (reads.tokens == 0) return "";
    const auto share = [](int64_t part, int64_t whole) {
      return static_cast<double>(part) / static_cast<double>(std::max<int64_t>(whole, 1));
    };
    return fmt::format(
        "\n{}, batch {}, length {}: {}B of the cache read for a token; {:.2f} bits a key, {:.1f}% "
        "of "
        "the values at {:.2f} bits, {:.2f} bits overall; {:.1f}% of the queries read lower bits\n",
        measurement.what, measurement.batch, measurement.length,
        human_count(reads.bytes / reads.tokens), share(reads.key_bits, reads.key_numbers),
        100 * share(reads.value_numbers, reads.key_numbers),
        share(reads.value_bits, reads.value_numbers),
        share(reads.key_bits + reads.value_bits, reads.key_numbers + reads.value_numbers),
        100 * share(reads.refetched, reads.queries));
  }

  // What the linear maps of a compressed model execute.
  std::string saved_flops() const {
    if (info().executed_flops_per_token == info().flops_per_token) return "";
    return fmt::format(", {}FLOP per token instead of {} if dense",
                       human_count(info().executed_flops_per_token),
                       human_count(info().flops_per_token));
  }

  // GFLOP/s count the linear maps as if dense, as flops_per_token does.
  Json to_json(const Measurement& measurement) const {
    std::vector<double> sorted = measurement.seconds;
    std::sort(sorted.begin(), sorted.end());
    const double median = quantile(sorted, 0.5);
    const double rate = static_cast<double>(measurement.tokens) / median;
    Json json;
    json["what"] = measurement.what;
    json["batch"] = measurement.batch;
    json["length"] = measurement.length;
    json["samples"] = sorted.size();
    json["median_ms"] = median * 1e3;
    json["p10_ms"] = quantile(sorted, 0.1) * 1e3;
    json["p90_ms"] = quantile(sorted, 0.9) * 1e3;
    json["tokens_per_second"] = rate;
    json["gflops"] = rate * static_cast<double>(info().flops_per_token) * 1e-9;
    Json samples = Json::array();
    for (const double seconds : measurement.seconds) samples.push_back(seconds * 1e3);
    json["samples_ms"] = std::move(samples);
    const CacheReadProfile& reads = measurement.reads;
    if (reads.tokens > 0) {
      json["cache_reads"] = {
          {"tokens", reads.tokens},         {"queries", reads.queries},
          {"refetched", reads.refetched},   {"key_numbers", reads.key_numbers},
          {"key_bits", reads.key_bits},     {"value_numbers", reads.value_numbers},
          {"value_bits", reads.value_bits}, {"bytes", reads.bytes}};
    }
    for (const OperationProfile& each : measurement.profile) {
      json["roofline"].push_back({{"operation", each.operation},
                                  {"calls", each.calls},
                                  {"seconds", each.seconds},
                                  {"flops", each.flops},
                                  {"dense_flops", each.dense_flops},
                                  {"bytes", each.bytes},
                                  {"of_limit", roof_of(each, roofs_).share_of_limit}});
    }
    return json;
  }

  // Lengths that were asked for must fit; those that nobody asked for are made to.
  Status check_lengths() {
    const int64_t limit = info().max_positions;
    if (info().is_decoder) {
      new_tokens_ = options_.new_tokens.value_or(std::clamp<int64_t>(limit / 2, 1, 64));
      lengths_ = {
          options_.prompt_tokens.value_or(std::clamp<int64_t>(limit - new_tokens_, 1, 512))};
      // The last token is not run.
      if (lengths_[0] + new_tokens_ - 1 > limit) {
        return invalid_input(
            fmt::format("expected --prompt-tokens and --new-tokens within the model's context of "
                        "{} tokens, found {} + {}",
                        limit, lengths_[0], new_tokens_));
      }
      return {};
    }
    lengths_ = options_.lengths;
    if (lengths_.empty()) {
      lengths_ = {std::min<int64_t>(128, limit), std::min<int64_t>(384, limit)};
      if (lengths_[0] == lengths_[1]) lengths_.pop_back();
    }
    for (const int64_t length : options_.ragged.empty() ? lengths_ : options_.ragged) {
      if (length > limit) {
        return invalid_input(fmt::format(
            "expected lengths of at most the model's {} tokens, found {}", limit, length));
      }
    }
    return {};
  }

  // The roofs are those that were measured for this number of threads.
  Status find_roofs() {
    if (!options_.roofline) return {};
    const Result<MachineTable> table = read_machine_table(machine_table_path());
    if (!table.ok() && table.status().code() == StatusCode::kNotFound)
      return not_found("--roofline: no machine table was kept: run tessera machine");
    if (!table.ok()) return table.status();
    const MachineSpeeds* speeds = table->at(info().threads);
    if (speeds == nullptr) {
      return not_found(fmt::format(
          "--roofline: the machine table has no speeds of {0} threads: run tessera machine "
          "--threads {0}",
          info().threads));
    }
    roofs_ = *speeds;
    return {};
  }

  // Whether to go on: so many samples and so many seconds at least.
  bool wants_more(int64_t done, int64_t usual, Clock::time_point start) const {
    return done < options_.repeat.value_or(options_.seconds ? 1 : usual) ||
           seconds_since(start) < options_.seconds.value_or(0);
  }

  void begin_profile() {
    if (options_.roofline) model_->start_profile();
  }
  void end_profile(Measurement* measurement) {
    if (options_.roofline) add_profile(model_->stop_profile(), &measurement->profile);
  }

  Status encode(const std::vector<int64_t>& lengths) {
    std::mt19937 random(1);
    std::vector<TokenSequence> sequences;
    int64_t tokens = 0;
    for (const int64_t length : lengths) {
      sequences.push_back({random_ids(length, info().vocabulary_size, random)});
      tokens += length;
    }
    const auto batch = static_cast<int64_t>(lengths.size());
    Measurement measurement{"encode", batch, tokens / batch, tokens};
    Clock::time_point begin;
    for (int64_t i = -kWarmUps; i < 0 || wants_more(i, kEncoderRepeats, begin); ++i) {
      if (i == 0) begin = Clock::now();
      if (i == 0) begin_profile();
      const Clock::time_point start = Clock::now();
      const Result<ForwardResult> result = model_->forward(sequences);
      const double seconds = seconds_since(start);
      if (!result.ok()) return result.status();
      if (i >= 0) measurement.seconds.push_back(seconds);
    }
    end_profile(&measurement);
    measurements_.push_back(std::move(measurement));
    return {};
  }

  // The steps of an engine until all prompts have run, together, and every other one: a token each.
  Status decode(int64_t batch, int64_t length) {
    const auto step_tokens = static_cast<int32_t>(std::min<int64_t>(batch * length, INT32_MAX));
    const auto at_a_time = static_cast<int32_t>(batch);
    Result<std::unique_ptr<Engine>> engine =
        Engine::create(model_, {.step_tokens = step_tokens, .running_requests = at_a_time});
    if (!engine.ok()) return engine.status();
    Measurement prefill{"prefill", batch, length, batch * length};
    Measurement decoding{"decode", batch, length, batch};
    Clock::time_point begin;
    for (int64_t i = -1; i < 0 || wants_more(i, kDecoderRepeats, begin); ++i) {
      if (i == 0) begin = Clock::now();
      std::mt19937 random(1);
      for (int64_t b = 0; b < batch; ++b) {
        Request request;
        request.prompt_ids = random_ids(length, info().vocabulary_size, random);
        request.max_new_tokens = static_cast<int32_t>(new_tokens_);
        request.ignore_end = true;
        const Result<int64_t> number = (*engine)->submit(std::move(request));
        if (!number.ok()) return number.status();
      }
      double prompt_seconds = 0;
      bool counts = false;
      for (bool decodes = false; !(*engine)->idle();) {
        if (i >= 0) begin_profile();
        if (i < 0 && decodes && !counts) {
          model_->start_profile();
          counts = true;
        }
        const Clock::time_point start = Clock::now();
        const Result<std::vector<Event>> events = (*engine)->step();
        const double seconds = seconds_since(start);
        if (!events.ok()) return events.status();
        for (const Event& event : *events) {
          if (event.finished == FinishReason::kFailed) return event.status;
        }
        if (!decodes) prompt_seconds += seconds;
        if (i >= 0 && decodes) decoding.seconds.push_back(seconds);
        if (i >= 0 && !decodes && !events->empty()) prefill.seconds.push_back(prompt_seconds);
        if (i >= 0) end_profile(decodes ? &decoding : &prefill);
        decodes = decodes || !events->empty();
      }
      if (counts) {
        model_->stop_profile();
        decoding.reads = model_->cache_reads();
      }
    }
    measurements_.push_back(std::move(prefill));
    if (!decoding.seconds.empty()) measurements_.push_back(std::move(decoding));
    return {};
  }

  std::shared_ptr<Model> model_;
  const Options& options_;
  std::vector<int64_t> lengths_;
  int64_t new_tokens_ = 0;
  MachineSpeeds roofs_;
  int64_t done_ = 0;
  std::vector<Measurement> measurements_;
};

Status check_kind(const Options& options, const ModelInfo& info) {
  if (info.is_decoder && !(options.lengths.empty() && options.ragged.empty())) {
    return invalid_input(fmt::format(
        "--length and --ragged are for encoders and {} is a decoder: use --prompt-tokens",
        info.directory));
  }
  if (!info.is_decoder && (options.prompt_tokens || options.new_tokens)) {
    return invalid_input(fmt::format(
        "--prompt-tokens and --new-tokens are for decoders and {} is an encoder: use --length",
        info.directory));
  }
  return {};
}

Status bench(const Options& options) {
  Result<std::shared_ptr<Model>> model = load_model(options.model);
  if (!model.ok()) return model.status();
  if (Status status = check_kind(options, (*model)->info()); !status.ok()) return status;
  Bench bench(*model, options);
  if (Status status = bench.run(); !status.ok()) return status;
  Output out;
  if (Status status = out.write(options.json ? bench.json() : bench.table()); !status.ok())
    return status;
  return out.flush();
}

}  // namespace

int bench_verb(const Arguments& arguments) {
  Options options;
  Parser parser(kSynopsis);
  parser.group("Workload");
  parser.add_integers({"--batch", 1, kMaxBatch, "Measure N texts at a time (default: 1,8)."},
                      &options.batches);
  parser.add_integers(
      {"--length", 1, kMaxLength, "Measure an encoder with texts of N tokens (default: 128,384)."},
      &options.lengths);
  parser.add_integer({"--prompt-tokens", 1, kMaxLength,
                      "Measure a decoder with prompts of N tokens (default: 512)."},
                     &options.prompt_tokens);
  parser.add_integer(
      {"--new-tokens", 1, kMaxLength, "Let a decoder generate N tokens (default: 64)."},
      &options.new_tokens);
  parser.add_integers({"--ragged", 1, kMaxLength,
                       "Measure an encoder with one batch of texts of these lengths, instead of "
                       "--batch and --length."},
                      &options.ragged);
  parser.add_integer({"--repeat", 1, 1000000,
                      "Measure at least N times (default: 10, for decoders 5, with --seconds 1)."},
                     &options.repeat);
  parser.add_number({"--seconds", 0, 86400, "Measure for at least X seconds."}, &options.seconds);
  parser.group("Output");
  parser.add_flag("--roofline", &options.roofline,
                  "Show the time of each kind of operation next to the limit that tessera machine "
                  "measured.");
  parser.add_flag("--json", &options.json, "Print JSON instead of a table.");
  add_model_options(parser, &options.model);
  add_cache_option(parser, &options.model);
  if (const auto code = parser.parse(arguments)) return *code;
  return finish(bench(options));
}

}  // namespace tessera::cli
