#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/guarded.h"
#include "tessera/tessera.h"

// The C functions of tessera/tessera.h over the C++ ones.
struct tessera_model {
  std::shared_ptr<tessera::Model> model;
};

namespace tessera {
namespace {

// Needs no memory of its own, so that a lack of memory can be told as well.
thread_local char last_error[4096] = "";

int set_error(const char* message) noexcept {
  std::snprintf(last_error, sizeof last_error, "%s", message);
  return -1;
}

// 0, or -1 with the error kept.
template <typename Work>
int call(const char* function, Work work) noexcept {
  try {
    const Status status = guarded(function, work);
    return status.ok() ? 0 : set_error(status.message().c_str());
  } catch (...) {  // of the caller's callback, or no memory for a message
    return set_error("the call failed: a callback threw, or there is not enough memory");
  }
}

Status expect_no_null(const char* function, std::initializer_list<const void*> pointers) {
  if (std::find(pointers.begin(), pointers.end(), nullptr) == pointers.end()) return {};
  return invalid_input(std::string(function) + ": expected no NULL, found one");
}

Result<LoadOptions> load_options(const tessera_load_options* options) {
  LoadOptions load;
  if (options == nullptr) return load;
  load.threads = options->threads;
  if (options->dtype == nullptr) return load;
  const auto type = parse<WeightType>(options->dtype);
  if (!type) {
    return invalid_input("dtype: expected " + names<WeightType>() + ", found \"" + options->dtype +
                         "\"");
  }
  load.weights = *type;
  return load;
}

Result<std::vector<TaskInput>> inputs_of(const char* const* texts, size_t count) {
  std::vector<TaskInput> inputs(count);
  for (size_t i = 0; i < count; ++i) {
    if (texts[i] == nullptr)
      return invalid_input("text " + std::to_string(i) + ": expected a text, found NULL");
    inputs[i].text = texts[i];
  }
  return inputs;
}

Request request_of(const tessera_generate_options& options) {
  Request request;
  if (options.max_tokens != 0) request.max_new_tokens = options.max_tokens;
  request.sampling.temperature = options.temperature;
  request.sampling.top_k = options.top_k;
  if (options.top_p != 0) request.sampling.top_p = options.top_p;
  request.sampling.min_p = options.min_p;
  if (options.repetition_penalty != 0)
    request.sampling.repetition_penalty = options.repetition_penalty;
  request.sampling.seed = options.seed;
  if (options.stop != nullptr) request.stop_strings = {options.stop};
  return request;
}

}  // namespace
}  // namespace tessera

// What is used below without a name in front of it.
using namespace tessera;  // NOLINT: the functions must stand outside of it

const char* tessera_version() { return version(); }

const char* tessera_error() { return last_error; }

tessera_model* tessera_load(const char* directory, const tessera_load_options* options) {
  tessera_model* loaded = nullptr;
  call(__func__, [&]() -> Status {
    TESSERA_RETURN_IF_ERROR(expect_no_null("tessera_load", {directory}));
    TESSERA_ASSIGN_OR_RETURN(const LoadOptions load, load_options(options));
    TESSERA_ASSIGN_OR_RETURN(std::shared_ptr<Model> model, Model::load(directory, load));
    loaded = new tessera_model{std::move(model)};
    return {};
  });
  return loaded;
}

void tessera_free(tessera_model* model) { delete model; }

int32_t tessera_embedding_size(const tessera_model* model) {
  return model != nullptr ? model->model->embedding_size() : 0;
}

int tessera_embed(tessera_model* model, const char* const* texts, size_t count, float* vectors) {
  return call(__func__, [&]() -> Status {
    if (count == 0) return {};
    TESSERA_RETURN_IF_ERROR(expect_no_null("tessera_embed", {model, texts, vectors}));
    TESSERA_ASSIGN_OR_RETURN(const std::vector<TaskInput> inputs, inputs_of(texts, count));
    TESSERA_ASSIGN_OR_RETURN(const std::vector<Embedding> found, embed(*model->model, inputs));
    for (const Embedding& each : found)
      vectors = std::copy(each.vector.begin(), each.vector.end(), vectors);
    return {};
  });
}

int32_t tessera_label_count(const tessera_model* model) {
  if (model == nullptr || model->model->info().head != Head::kSequenceClassification) return 0;
  return static_cast<int32_t>(model->model->info().labels.size());
}

const char* tessera_label(const tessera_model* model, int32_t label) {
  if (label < 0 || label >= tessera_label_count(model)) return nullptr;
  return model->model->info().labels[static_cast<size_t>(label)].c_str();
}

int tessera_classify(tessera_model* model, const char* const* texts, size_t count, float* scores) {
  return call(__func__, [&]() -> Status {
    if (count == 0) return {};
    TESSERA_RETURN_IF_ERROR(expect_no_null("tessera_classify", {model, texts, scores}));
    TESSERA_ASSIGN_OR_RETURN(const std::vector<TaskInput> inputs, inputs_of(texts, count));
    TESSERA_ASSIGN_OR_RETURN(const std::vector<Classification> found,
                             classify(*model->model, inputs));
    for (const Classification& each : found)
      scores = std::copy(each.scores.begin(), each.scores.end(), scores);
    return {};
  });
}

int64_t tessera_tokenize(const tessera_model* model, const char* text, int32_t* ids, size_t room) {
  int64_t count = -1;
  call(__func__, [&]() -> Status {
    TESSERA_RETURN_IF_ERROR(expect_no_null("tessera_tokenize", {model, text}));
    if (room > 0) TESSERA_RETURN_IF_ERROR(expect_no_null("tessera_tokenize", {ids}));
    TESSERA_ASSIGN_OR_RETURN(const TokenSequence found, model->model->tokenize(text));
    std::copy_n(found.ids.begin(), std::min(room, found.ids.size()), ids);
    count = static_cast<int64_t>(found.ids.size());
    return {};
  });
  return count;
}

int64_t tessera_detokenize(const tessera_model* model, const int32_t* ids, size_t count, char* text,
                           size_t room) {
  int64_t bytes = -1;
  call(__func__, [&]() -> Status {
    TESSERA_RETURN_IF_ERROR(expect_no_null("tessera_detokenize", {model}));
    if (count > 0) TESSERA_RETURN_IF_ERROR(expect_no_null("tessera_detokenize", {ids}));
    if (room > 0) TESSERA_RETURN_IF_ERROR(expect_no_null("tessera_detokenize", {text}));
    TESSERA_ASSIGN_OR_RETURN(const std::string found,
                             model->model->detokenize(std::vector<int32_t>(ids, ids + count)));
    if (room > 0) {
      const size_t written = std::min(room - 1, found.size());
      std::memcpy(text, found.data(), written);
      text[written] = '\0';
    }
    bytes = static_cast<int64_t>(found.size());
    return {};
  });
  return bytes;
}

int tessera_generate(tessera_model* model, const char* prompt,
                     const tessera_generate_options* options, tessera_on_text on_text, void* user) {
  return call(__func__, [&]() -> Status {
    TESSERA_RETURN_IF_ERROR(expect_no_null("tessera_generate", {model, prompt}));
    if (on_text == nullptr)
      return invalid_input("tessera_generate: expected a callback that takes the text, found NULL");
    TESSERA_ASSIGN_OR_RETURN(TokenSequence read, model->model->tokenize(prompt));
    Request request = request_of(options != nullptr ? *options : tessera_generate_options{});
    request.prompt_ids = std::move(read.ids);
    const auto found = generate(model->model, std::move(request), [&](const Event& event) {
      return event.text.empty() || on_text(event.text.c_str(), user) == 0;
    });
    return found.ok() || found.status().code() == StatusCode::kCancelled ? Status()
                                                                         : found.status();
  });
}
