#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/inputs.h"
#include "cli/run.h"

namespace tessera::cli {
namespace {

using Json = nlohmann::ordered_json;

void add_generation(Json& json, const Generation& generation, const Job& job,
                    const ModelInfo& info) {
  json["ids"] = generation.ids;
  json["text"] = info.has_tokenizer ? Json(generation.text) : Json();
  if (job.request.log_probabilities) json["log_probabilities"] = generation.log_probabilities;
  json["finish_reason"] = name(generation.finished);
}

}  // namespace

void Job::begin() {
  start = Clock::now();
  generations.resize(static_cast<size_t>(request.sequences));
}

void Job::stepped(int64_t prompt_tokens_left) {
  total_seconds = std::chrono::duration<double>(Clock::now() - start).count();
  if (prompt_seconds == 0 && prompt_tokens_left == 0) prompt_seconds = total_seconds;
}

void Job::take(const Event& event) {
  Generation& generation = generations[static_cast<size_t>(event.sequence)];
  generation.finished = event.finished;
  if (event.finished != FinishReason::kNone) ++finished;
  if (event.finished == FinishReason::kCancelled) return;
  generation.ids.push_back(event.token);
  generation.text += event.text;
  if (event.log_probability) generation.log_probabilities.push_back(*event.log_probability);
}

void Job::give_up() {
  for (Generation& generation : generations) {
    if (generation.finished == FinishReason::kNone) generation.finished = FinishReason::kCancelled;
  }
  finished = generations.size();
}

bool Job::is_cancelled() const {
  return std::any_of(generations.begin(), generations.end(), [](const Generation& each) {
    return each.finished == FinishReason::kCancelled;
  });
}

size_t Job::tokens() const {
  size_t sum = 0;
  for (const Generation& each : generations) sum += each.ids.size();
  return sum;
}

double Job::tokens_per_second() const {
  const double seconds = total_seconds - prompt_seconds;
  const size_t count = tokens();
  return count <= generations.size() || seconds <= 0
             ? 0
             : static_cast<double>(count - generations.size()) / seconds;
}

void print_summary(const Job& job) {
  std::string line = counted(static_cast<int64_t>(job.tokens()), "tokens");
  if (const double rate = job.tokens_per_second(); rate > 0) {
    line += fmt::format(", {:.1f} tokens/s", rate);
  }
  line += fmt::format(", first after {:.1f} ms, peak memory {}", job.prompt_seconds * 1e3,
                      human_bytes(peak_memory_bytes()));
  const Sampling& sampling = job.request.sampling;
  if (sampling.temperature > 0) line += fmt::format(", seed {}", sampling.seed);
  note(line);
}

std::string to_json(const Job& job, const ModelInfo& info) {
  Json json;
  json["prompt_ids"] = job.request.prompt_ids;
  if (job.generations.size() == 1) {
    add_generation(json, job.generations[0], job, info);
  } else {
    for (const Generation& generation : job.generations) {
      add_generation(json["sequences"].emplace_back(), generation, job, info);
    }
  }
  json["seed"] = job.request.sampling.seed;
  json["prompt_seconds"] = job.prompt_seconds;
  json["total_seconds"] = job.total_seconds;
  json["tokens_per_second"] = job.tokens_per_second();
  json["peak_memory_bytes"] = peak_memory_bytes();
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string shown_text(const Generation& generation, const ModelInfo& info) {
  return info.has_tokenizer ? generation.text : join_ids(generation.ids);
}

bool Stream::take(const Event& event) {
  std::string text = event.text;
  if (!has_text_) text = fmt::format("{}{}", first_ ? "" : ",", event.token);
  first_ = false;
  return put(text);
}

bool Stream::put(const std::string& text) {
  if (!text.empty()) ends_line_ = text.back() == '\n';
  status_ = out_.write(text);
  if (status_.ok()) status_ = out_.flush();
  return status_.ok();
}

Status Stream::finish() {
  if (status_.ok() && !ends_line_) put("\n");
  return status_;
}

Status generate_shown(const std::shared_ptr<Model>& model, Stream* stream, Job& job) {
  const Interrupt interrupt;
  Result<std::unique_ptr<Engine>> engine = Engine::create(model, {});
  if (!engine.ok()) return engine.status();
  const Result<int64_t> number = (*engine)->submit(job.request);
  if (!number.ok()) return number.status();
  job.begin();
  while (!(*engine)->idle()) {
    Result<std::vector<Event>> events = (*engine)->step();
    if (!events.ok()) return events.status();
    job.stepped((*engine)->prompt_tokens_left(*number));
    bool wanted = !interrupt.requested();
    for (const Event& event : *events) {
      if (event.finished == FinishReason::kFailed) return event.status;
      job.take(event);
      if (stream == nullptr || event.finished == FinishReason::kCancelled) continue;
      wanted = stream->take(event) && wanted;
    }
    if (!wanted) (*engine)->cancel(*number);
  }
  return stream == nullptr ? Status() : stream->finish();
}

}  // namespace tessera::cli
