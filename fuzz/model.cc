// Any text as config.json, generation_config.json, modules.json, the pooling's config.json and
// sentence_bert_config.json of a small checkpoint is refused with a sentence, or gives a model that
// runs: finite results or a sentence.

#include "tessera/model.h"

#include <cmath>

#include "runtime/testing.h"
#include "support/target.h"
#include "tessera/engine.h"

namespace tessera::fuzz {
namespace {

// The tensors of a small Llama and a small BERT in one file.
std::string both_models() {
  testing::TinyCheckpoint both = testing::tiny_llama();
  both.shapes.merge(testing::tiny_bert().shapes);
  return both.write("fuzz");
}

void check_numbers(const std::vector<float>& values) {
  for (const float value : values) require(std::isfinite(value));
}

void run(const std::shared_ptr<Model>& model) {
  const auto forward = model->forward({{{1, 2, 3}, {}}, {{4}, {}}});
  require(forward.ok() || !forward.status().message().empty());
  if (forward.ok()) check_numbers(forward->logits);
  const auto vectors = model->embed({{{1, 2, 3}, {}}});
  require(vectors.ok() || !vectors.status().message().empty());
  const auto generation = generate(model, {.prompt_ids = {1, 2, 3}, .max_new_tokens = 2});
  require(generation.ok() || !generation.status().message().empty());
}

}  // namespace

void check(std::string_view input) {
  static const std::string folder = both_models();
  static const Folder home;
  static const bool is_linked = [] {
    std::filesystem::create_symlink(folder + "/model.safetensors",
                                    home.path() + "/model.safetensors");
    return true;
  }();
  require(is_linked);
  std::vector<std::string_view> sections = sections_of(input);
  constexpr const char* kNames[] = {"config.json", "generation_config.json", "modules.json",
                                    "1_Pooling/config.json", "sentence_bert_config.json"};
  sections.resize(std::size(kNames));
  for (size_t i = 0; i < std::size(kNames); ++i) home.put_or_remove(kNames[i], sections[i]);
  const auto model = Model::load(home.path(), {.threads = 1});
  if (!model.ok()) {
    require(!model.status().message().empty());
    return;
  }
  run(*model);
}

}  // namespace tessera::fuzz
