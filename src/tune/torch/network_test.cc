#include "tune/torch/network.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/generated/variable_factories.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "compress/directory.h"
#include "io/json.h"
#include "runtime/model_state.h"
#include "tessera/model.h"
#include "tune/torch/batch_testing.h"

// The forward pass against the engine's, on every golden model: what is trained is what runs.
namespace tessera::training {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> golden_models() {
  const char* shared = std::getenv("TESSERA_SHARED");
  std::vector<std::string> found;
  for (const char* folder : {"/golden/models", "/golden/families"}) {
    std::error_code ignored;
    if (shared == nullptr) break;
    for (const auto& entry : fs::directory_iterator(std::string(shared) + folder, ignored))
      if (entry.is_directory()) found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

// Sequences of several lengths, of ids that any of the models has.
std::vector<TokenSequence> sequences_for(const ModelInfo& info) {
  std::vector<TokenSequence> sequences;
  uint32_t state = 1;
  for (const int32_t length : {1, 7, 16, 19}) {
    TokenSequence& one = sequences.emplace_back();
    for (int32_t i = 0; i < length; ++i) {
      state = state * 1664525u + 1013904223u;
      one.ids.push_back(
          static_cast<int32_t>(5 + (state >> 8) % static_cast<uint32_t>(info.vocabulary_size - 5)));
    }
  }
  return sequences;
}

void compare(const std::string& what, const std::vector<float>& expected,
             const torch::Tensor& found) {
  const torch::Tensor wanted = torch::from_blob(const_cast<float*>(expected.data()),
                                                {static_cast<int64_t>(expected.size())});
  ASSERT_EQ(wanted.numel(), found.numel()) << what;
  const double largest = wanted.abs().max().item<double>();
  const double difference =
      (wanted - found.detach().contiguous().view({-1})).abs().max().item<double>();
  EXPECT_LE(difference, 1e-4 * largest) << what << ": largest " << largest;
}

TEST(Network, EqualsTheEngine) {
  const std::vector<std::string> models = golden_models();
  if (models.empty()) GTEST_SKIP() << "TESSERA_SHARED names no golden models";
  int compared = 0;
  for (const std::string& path : models) {
    const auto model = Model::load(path, {.weights = WeightType::kF32});
    if (model.status().code() == StatusCode::kUnsupported) continue;
    ASSERT_TRUE(model.ok()) << path << ": " << model.status().message();
    SCOPED_TRACE(path);
    const std::vector<TokenSequence> sequences = sequences_for((*model)->info());
    const auto expected = (*model)->forward(sequences, {.hidden_states = true});
    ASSERT_TRUE(expected.ok()) << expected.status().message();
    const auto source = OpenCheckpoint::open(path);
    ASSERT_TRUE(source.ok()) << source.status().message();
    const auto trained = read_model(**source);
    ASSERT_TRUE(trained.ok()) << trained.status().message();
    const Batch batch = batch_of(sequences);
    const States states = forward(*trained, batch);
    ASSERT_EQ(expected->hidden_states.size(), states.hidden.size());
    for (size_t i = 0; i + 1 < states.hidden.size(); ++i)
      compare("hidden " + std::to_string(i), expected->hidden_states[i], states.hidden[i]);
    compare("last", expected->hidden_states.back(), states.last);
    ++compared;
    if (trained->architecture.head == Head::kNone) continue;
    const bool reads_one = trained->architecture.head == Head::kSequenceClassification;
    const torch::Tensor rows =
        reads_one ? at::index_select(states.last, 0,
                                     torch::tensor(head_rows(*trained, batch), torch::kInt64))
                  : states.last;
    if (!expected->logits.empty()) compare("logits", expected->logits, head(*trained, rows));
  }
  EXPECT_GT(compared, 15);
}

// Tokens and heads leave as in the engine: what is left computes the same, and what left keeps its
// state.
TEST(Network, EqualsTheEngineWhereTokensAndHeadsLeave) {
  int compared = 0;
  for (const std::string& path : golden_models()) {
    for (
        const char* schedule :
        {R"({"tokens": 0.6, "protect": {"first": 1}})", R"({"heads": 0.6})",
         R"({"tokens": 0.7, "heads": 0.7, "decay": 0.5, "minimum": 3, "protect": {"first": 1}})"}) {
      const auto model =
          Model::load(path, {.threads = 1, .weights = WeightType::kF32, .pruning = schedule});
      if (!model.ok()) continue;  // a family that is to come, or too few layers
      const auto source = OpenCheckpoint::open(path);
      ASSERT_TRUE(source.ok()) << source.status().message();
      const auto trained = read_model(**source);
      ASSERT_TRUE(trained.ok()) << trained.status().message();
      const Architecture& a = trained->architecture;
      if (a.is_decoder()) continue;
      SCOPED_TRACE(path + " " + schedule);
      const std::vector<TokenSequence> sequences = sequences_for((*model)->info());
      const auto expected = (*model)->forward(sequences, {.hidden_states = true});
      ASSERT_TRUE(expected.ok()) << expected.status().message();
      const auto parsed = parse_schedule(schedule, scheduled_model(a), "test");
      ASSERT_TRUE(parsed.ok()) << parsed.status().message();
      const Batch batch = batch_of(sequences);
      const States states = forward(*trained, batch, {.schedule = &*parsed});
      EXPECT_EQ(states.last.size(0), batch.tokens());
      EXPECT_EQ(states.hidden.back().size(0) < batch.tokens(), !parsed->keeps_all_tokens());
      ++compared;
      const bool reads_one = a.head == Head::kSequenceClassification;
      const torch::Tensor rows =
          reads_one ? at::index_select(states.last, 0, indices(head_rows(*trained, batch)))
                    : states.last;
      compare("last", expected->hidden_states.back(), states.last);
      if (!expected->logits.empty()) compare("logits", expected->logits, head(*trained, rows));
    }
  }
  if (compared == 0) GTEST_SKIP() << "TESSERA_SHARED names no golden models";
  EXPECT_GT(compared, 6);
}

}  // namespace
}  // namespace tessera::training
