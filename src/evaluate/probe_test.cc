#include <gtest/gtest.h>

#include <fstream>

#include "evaluate/logistic.h"
#include "runtime/tasks/testing.h"
#include "tessera/evaluate.h"

namespace tessera {
namespace {

using evaluation::LogisticRegression;

constexpr const char* kPruned = R"({"tokens": [1, 0.3]})";
constexpr size_t kTrained = 24, kAsked = 40;
constexpr double kStrength = 4096;

// Sentences of letters whose label is whether the first of them is an early one.
struct Sentences {
  std::vector<std::string> texts;
  std::vector<int32_t> labels;
  std::string table;

  Sentences(size_t count, uint32_t seed) {
    std::mt19937 generator(seed);
    for (size_t i = 0; i < count; ++i) {
      std::string text;
      for (int word = 0; word < 6; ++word) {
        text += word == 0 ? "" : " ";
        text += static_cast<char>('a' + generator() % 20);
      }
      labels.push_back(text[0] < 'k' ? 1 : 0);
      table += text + "\t" + (labels.back() == 1 ? "early" : "late") + "\n";
      texts.push_back(text);
    }
  }
};

// One after another, by what a task's users call.
std::vector<float> embeddings_of(Model& model, const Sentences& sentences) {
  std::vector<float> all;
  for (const std::string& text : sentences.texts) {
    const TaskInput input = testing::text_input(text);
    const auto found = embed(model, std::span(&input, 1));
    EXPECT_TRUE(found.ok()) << found.status().message();
    all.insert(all.end(), found->front().vector.begin(), found->front().vector.end());
  }
  return all;
}

class Probe : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::tiny_bert().write("probe");
    testing::write_tiny_tokenizer(folder_);
    dense_ = load({});
    pruned_ = load(kPruned);
    task_.train.paths = {write("train.tsv", train_)};
    task_.data.paths = {write("data.tsv", asked_)};
    task_.data.columns.text = "1";
    task_.data.columns.label = "2";
    task_.train.columns = task_.data.columns;
    task_.labels = {"late", "early"};
    task_.probe.strength = kStrength;
  }

  std::shared_ptr<Model> load(const std::string& pruning) {
    auto model = Model::load(folder_, {.threads = 1, .pruning = pruning});
    EXPECT_TRUE(model.ok()) << model.status().message();
    return *model;
  }

  std::string write(const std::string& name, const Sentences& sentences) {
    std::ofstream(folder_ + "/" + name) << sentences.table;
    return folder_ + "/" + name;
  }

  // The labels that a probe gives to embeddings of `asked`, trained on those of `trained`.
  std::vector<double> by_hand(Model& trained, Model& asked) {
    const std::vector<float> rows = embeddings_of(trained, train_);
    const size_t width = rows.size() / kTrained;
    const auto probe = LogisticRegression::fit({rows, train_.labels, width, 2}, kStrength,
                                               [] { return Status(); });
    EXPECT_TRUE(probe.ok()) << probe.status().message();
    const std::vector<float> values = embeddings_of(asked, asked_);
    std::vector<double> labels;
    for (size_t i = 0; i < kAsked; ++i)
      labels.push_back(probe->predict(std::span(values).subspan(i * width, width)));
    return labels;
  }

  Evaluation evaluated(const std::shared_ptr<Model>& model, ProbeModel probe) {
    task_.probe.model = probe;
    auto found = evaluate(model, task_, {.bootstrap = {.resamples = 0}});
    EXPECT_TRUE(found.ok()) << found.status().message();
    return *found;
  }

  static std::vector<double> labels_of(const Evaluation& evaluation) {
    std::vector<double> labels;
    for (const EvaluatedExample& example : evaluation.examples) labels.push_back(example.values[1]);
    return labels;
  }

  std::string folder_;
  Sentences train_{kTrained, 3}, asked_{kAsked, 4};
  std::shared_ptr<Model> dense_, pruned_;
  EvaluationTask task_;
};

TEST_F(Probe, IsTrainedOnTheModelThatIsAskedFor) {
  const std::vector<double> same = by_hand(*pruned_, *pruned_), dense = by_hand(*dense_, *pruned_);
  ASSERT_NE(same, dense);
  EXPECT_EQ(labels_of(evaluated(pruned_, ProbeModel::kSame)), same);
  const Evaluation found = evaluated(pruned_, ProbeModel::kDense);
  EXPECT_EQ(labels_of(found), dense);
  EXPECT_EQ(found.method, "linear probe, C = 4096, trained without pruning");
  // And it is pruned again.
  EXPECT_EQ(labels_of(evaluated(pruned_, ProbeModel::kSame)), same);
}

TEST_F(Probe, IsTheSameWhereNothingIsPruned) {
  const Evaluation same = evaluated(dense_, ProbeModel::kSame),
                   dense = evaluated(dense_, ProbeModel::kDense);
  EXPECT_EQ(labels_of(same), by_hand(*dense_, *dense_));
  EXPECT_EQ(labels_of(dense), labels_of(same));
  EXPECT_EQ(dense.method, same.method);
}

}  // namespace
}  // namespace tessera
