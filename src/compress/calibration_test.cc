#include "compress/calibration.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "model/loader.h"
#include "plan/plan.h"
#include "runtime/testing.h"

namespace tessera {
namespace {

// RoBERTa, whose padding id 1 takes a position of its own and is not counted.
std::string write_tiny_roberta() {
  testing::TinyCheckpoint tiny = testing::tiny_bert();
  tiny.with("\"bert\"", "\"roberta\"").with("BertForMaskedLM", "RobertaModel");
  tiny.with("\"hidden_act\"", "\"pad_token_id\": 1, \"hidden_act\"");
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const auto& [name, shape] : tiny.shapes) {
    if (name.starts_with("bert.")) shapes[name.substr(5)] = shape;
  }
  tiny.shapes = shapes;
  return tiny.write("calibration_roberta");
}

// The largest magnitude in each column of [rows, width].
std::vector<float> largest_of(const std::vector<float>& states, size_t width) {
  std::vector<float> largest(width);
  for (size_t i = 0; i < states.size(); ++i)
    largest[i % width] = std::max(largest[i % width], std::abs(states[i]));
  return largest;
}

TEST(Calibration, SeesWhatAPassOfTheModelDoes) {
  const std::string folder = write_tiny_roberta();
  const std::vector<TokenSequence> sequences = {{{5, 1, 6, 1, 9}, {}}, {{7, 8, 1}, {}}};
  const auto model = Model::load(folder, {.threads = 1});
  ASSERT_TRUE(model.ok()) << model.status().message();
  const auto whole = (*model)->forward(sequences, {.hidden_states = true});
  ASSERT_TRUE(whole.ok()) << whole.status().message();

  const auto checkpoint = Checkpoint::open(folder);
  ASSERT_TRUE(checkpoint.ok());
  const auto architecture = read_architecture(*checkpoint);
  ASSERT_TRUE(architecture.ok());
  Team team(2);
  const Plan plan = choose_plan({.threads = 2,
                                 .layers = architecture->layer_count(),
                                 .head_size = architecture->layer(0).head_size});
  const auto loaded = load_weights(*checkpoint, *architecture, plan, team);
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  auto calibration =
      Calibration::begin(*checkpoint, *architecture, sequences, Precision::kF32, team);
  ASSERT_TRUE(calibration.ok()) << calibration.status().message();
  for (size_t i = 0; i < loaded->weights.layers.size(); ++i) {
    const LayerWeights& layer = loaded->weights.layers[i];
    const auto seen = (*calibration)->observe(layer, LayerMap::kQkv);
    ASSERT_TRUE(seen.ok()) << seen.status().message();
    EXPECT_EQ(seen->rows, 8);
    EXPECT_EQ(seen->largest, largest_of(whole->hidden_states[i], 16)) << "layer " << i;
    ASSERT_TRUE((*calibration)->advance(layer).ok());
  }
}

}  // namespace
}  // namespace tessera
