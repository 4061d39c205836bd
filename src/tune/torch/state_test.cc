#include "tune/torch/state.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "io/testing.h"

namespace tessera::training {
namespace {

namespace fs = std::filesystem;

class Remembers final : public Restriction {
 public:
  explicit Remembers(std::map<std::string, at::Tensor> state) : state_(std::move(state)) {}
  std::map<std::string, at::Tensor> state() const override { return state_; }
  Status restore(const std::map<std::string, at::Tensor>& state) override {
    state_ = state;
    return {};
  }

 private:
  std::map<std::string, at::Tensor> state_;
};

class State : public ::testing::Test {
 protected:
  static Parameter parameter(const char* name, int64_t rows, int64_t cols) {
    Parameter made{.name = name, .value = at::rand({rows, cols}), .mask = {}};
    made.value.set_requires_grad(true);
    return made;
  }
  static void step(AdamW& optimizer) {
    for (const AdamW::Slot& slot : optimizer.slots())
      slot.parameter->value.mutable_grad() = at::sin(slot.parameter->value.detach() * 100);
    optimizer.step(0.01, 1);
  }

  const tessera::testing::TempDir folder_;
  const std::string path_ = folder_ / "state.safetensors";
};

TEST_F(State, GoesOnAsIfItHadNotStopped) {
  Parameter a = parameter("a", 5, 7), b = parameter("b", 1, 3);
  AdamW optimizer({}, {&a, &b});
  Restrictions restrictions;
  const at::Tensor mask = at::rand({4, 3}) > 0.5;
  restrictions.push_back(std::make_unique<Remembers>(std::map<std::string, at::Tensor>{}));
  restrictions.push_back(std::make_unique<Remembers>(
      std::map<std::string, at::Tensor>{{"mask", mask}, {"count", at::arange(3)}}));
  step(optimizer);
  step(optimizer);
  ASSERT_TRUE(write_state(path_, optimizer, restrictions, nullptr).ok());
  step(optimizer);

  Parameter other_a = parameter("a", 5, 7), other_b = parameter("b", 1, 3);
  AdamW other({}, {&other_a, &other_b});
  Restrictions others;
  others.push_back(std::make_unique<Remembers>(std::map<std::string, at::Tensor>{}));
  others.push_back(std::make_unique<Remembers>(std::map<std::string, at::Tensor>{}));
  const Status status = read_state(path_, other, others, nullptr);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(other.steps(), 2);
  step(other);
  EXPECT_TRUE(other_a.value.equal(a.value));
  EXPECT_TRUE(other_b.value.equal(b.value));
  EXPECT_TRUE(others[0]->state().empty());
  EXPECT_TRUE(others[1]->state().at("mask").equal(mask));
  EXPECT_TRUE(others[1]->state().at("count").equal(at::arange(3)));
}

TEST_F(State, OfAnotherTrainingIsRefused) {
  Parameter a = parameter("a", 5, 7), wider = parameter("a", 5, 8), b = parameter("b", 5, 7);
  Restrictions none;
  AdamW optimizer({}, {&a});
  step(optimizer);
  ASSERT_TRUE(write_state(path_, optimizer, none, nullptr).ok());
  for (Parameter* other : {&wider, &b}) {
    AdamW foreign({}, {other});
    const Status status = read_state(path_, foreign, none, nullptr);
    EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
    EXPECT_NE(status.message().find("begin anew"), std::string::npos) << status.message();
  }
  fs::resize_file(path_, fs::file_size(path_) - 1);
  EXPECT_FALSE(read_state(path_, optimizer, none, nullptr).ok());
}

}  // namespace
}  // namespace tessera::training
