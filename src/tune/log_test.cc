#include "tune/log.h"

#include <gtest/gtest.h>

#include <fstream>

#include "io/testing.h"

namespace tessera {
namespace {

StepRecord record(int64_t step) {
  return {.step = step,
          .loss = 1.0 / static_cast<double>(step + 2),
          .learning_rate = 1e-4,
          .gradient_norm = 0.1 * static_cast<double>(step),
          .tokens = 100 + step,
          .seconds = 0.25};
}

class Log : public ::testing::Test {
 protected:
  std::string content() const { return tessera::testing::content_of(path_); }
  void append(int64_t first, int64_t last) {
    Result<TrainingLog> log = TrainingLog::open(path_, first - 1);
    ASSERT_TRUE(log.ok()) << log.status().message();
    for (int64_t step = first; step <= last; ++step) ASSERT_TRUE(log->append(record(step)).ok());
    ASSERT_TRUE(log->sync().ok());
  }

  const tessera::testing::TempDir folder_;
  const std::string path_ = folder_ / "training.jsonl";
};

TEST_F(Log, ALineIsAStep) {
  StepRecord one = record(1);
  EXPECT_EQ(to_line(one),
            "{\"step\":1,\"loss\":0.3333333333333333,\"learning_rate\":0.0001,"
            "\"gradient_norm\":0.1,\"tokens\":101,\"seconds\":0.25}");
  one.penalty = 0.5;
  EXPECT_NE(to_line(one).find(",\"penalty\":0.5,"), std::string::npos);
}

TEST_F(Log, WhatIsBehindTheCheckpointIsCut) {
  append(1, 9);
  const std::string whole = content();
  std::ofstream(path_, std::ios::app) << "{\"step\":10,\"lo";  // the process was killed
  append(6, 9);
  EXPECT_EQ(content(), whole);
  const Result<TrainingLog> log = TrainingLog::open(path_, 4);
  ASSERT_TRUE(log.ok());
  ASSERT_EQ(log->records().size(), 4U);
  for (int64_t i = 0; i < 4; ++i)
    EXPECT_EQ(to_line(log->records()[static_cast<size_t>(i)]), to_line(record(i + 1)));
}

TEST_F(Log, OneThatIsNotWholeIsRefused) {
  const auto message = [&] { return TrainingLog::open(path_, 3).status().message(); };
  EXPECT_NE(message().find("found 0"), std::string::npos);
  append(1, 2);
  EXPECT_NE(message().find("expected the 3 steps"), std::string::npos);
  EXPECT_NE(message().find("found 2"), std::string::npos);
  std::ofstream(path_, std::ios::app) << "{\"step\":4}\n";
  EXPECT_NE(message().find("found 2"), std::string::npos);
  std::ofstream(path_) << "no JSON\n";
  EXPECT_NE(message().find("found 0"), std::string::npos);
}

TEST_F(Log, FirstAndLastAreTwentieths) {
  std::vector<StepRecord> records;
  for (int i = 1; i <= 40; ++i) records.push_back({.step = i, .loss = static_cast<double>(i)});
  EXPECT_EQ(first_loss(records), 1.5);
  EXPECT_EQ(last_loss(records), 39.5);
  records.resize(1);
  EXPECT_EQ(first_loss(records), 1);
  EXPECT_EQ(last_loss(records), 1);
}

TEST_F(Log, TheCurveHasALineForWhatThereIs) {
  std::vector<StepRecord> records;
  for (int64_t i = 1; i <= 3000; ++i) records.push_back(record(i));
  const std::string without = draw_curve(records, "a model");
  EXPECT_NE(without.find("<svg"), std::string::npos);
  EXPECT_NE(without.find("a model"), std::string::npos);
  EXPECT_EQ(without.find("penalty"), std::string::npos);
  for (StepRecord& one : records) one.penalty = 2;
  EXPECT_NE(draw_curve(records, "").find("penalty"), std::string::npos);
  records.resize(1);
  EXPECT_NE(draw_curve(records, "").find("<svg"), std::string::npos);
}

}  // namespace
}  // namespace tessera
