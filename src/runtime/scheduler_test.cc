#include "runtime/scheduler.h"

#include <gtest/gtest.h>

namespace tessera {
namespace {

constexpr StepBudget kBudget{
    .step_rows = 32, .idle_rows = 512, .prompt_rows = 512, .encoding_rows = 4096, .requests = 64};

// Requests whose pages are numbers: each needs one a row, and holds as many as the test says.
struct Case {
  std::vector<Candidate> candidates;
  std::vector<int64_t> held;
  int64_t free = 1000000;

  void add(Stage stage, int32_t rows, int64_t pages = 0) {
    candidates.push_back({.stage = stage, .rows = rows, .holds_pages = pages > 0});
    held.push_back(pages);
  }
  StepPlan plan(const StepBudget& budget = kBudget) const {
    return plan_step(candidates, budget,
                     {.free = free,
                      .a_sequence = 1,
                      .needed = [](size_t, int32_t rows) { return int64_t{rows}; },
                      .held = [&](size_t i) { return held[i]; }});
  }
};

using Rows = std::vector<int32_t>;
using Indices = std::vector<size_t>;

TEST(Scheduler, ALonePromptTakesLargePieces) {
  Case one;
  one.add(Stage::kPrompt, 2000);
  EXPECT_EQ(one.plan().rows, Rows{512});
}

TEST(Scheduler, WhatRunsWholeIsNotCut) {
  Case one;
  one.add(Stage::kDecoding, 1, 5);
  one.add(Stage::kPrompt, 2000);
  one.candidates.back().is_whole = true;
  one.add(Stage::kPrompt, 2000);
  EXPECT_EQ(one.plan().rows, (Rows{1, 2000, 0}));
}

TEST(Scheduler, DecodingComesFirstAndTheOldestPromptGetsTheRest) {
  Case one;
  one.add(Stage::kDecoding, 1, 5);
  one.add(Stage::kPrompt, 2000, 5);
  one.add(Stage::kPrompt, 2000);
  one.add(Stage::kDecoding, 3, 5);
  EXPECT_EQ(one.plan().rows, (Rows{1, 28, 0, 3}));
  // A short one leaves room to the next.
  one.candidates[1].rows = 10;
  EXPECT_EQ(one.plan().rows, (Rows{1, 10, 18, 3}));
}

TEST(Scheduler, PromptsGoOnBesideManyWhoDecode) {
  Case one;
  for (int i = 0; i < 50; ++i) one.add(Stage::kDecoding, 1, 5);
  one.add(Stage::kPrompt, 2000);
  const StepPlan plan = one.plan();
  EXPECT_EQ(plan.rows.front(), 1);
  EXPECT_EQ(plan.rows[49], 1);
  EXPECT_EQ(plan.rows[50], 8);
}

TEST(Scheduler, NoMoreRequestsBeginThanMayRun) {
  Case one;
  StepBudget budget = kBudget;
  budget.requests = 3;
  one.add(Stage::kDecoding, 1, 5);
  for (int i = 0; i < 4; ++i) one.add(Stage::kPrompt, 2);
  EXPECT_EQ(one.plan(budget).rows, (Rows{1, 2, 2, 0, 0}));
}

TEST(Scheduler, TheYoungestGivesItsPagesBack) {
  Case one;
  one.free = 1;
  one.add(Stage::kDecoding, 1, 5);
  one.add(Stage::kDecoding, 1, 5);
  one.add(Stage::kDecoding, 1, 5);
  one.add(Stage::kPrompt, 3);
  const StepPlan plan = one.plan();
  EXPECT_EQ(plan.preempted, Indices{2});
  // It does not begin again in the same step, nor does anybody younger.
  EXPECT_EQ(plan.rows, (Rows{1, 1, 0, 0}));
}

TEST(Scheduler, TheYoungestWaitsForOlderOnesAndKeepsItsPages) {
  Case one;
  one.free = 1;
  one.add(Stage::kDecoding, 1, 5);
  one.add(Stage::kDecoding, 1, 5);
  const StepPlan plan = one.plan();
  EXPECT_EQ(plan.preempted, Indices{});
  EXPECT_EQ(plan.rows, (Rows{1, 0}));
}

// What the plan has given to a younger request comes back too.
TEST(Scheduler, AnOldPromptGoesOnBeforeYoungerRequestsDecode) {
  Case one;
  one.free = 1;
  one.add(Stage::kPrompt, 6, 5);
  one.add(Stage::kDecoding, 1, 5);
  const StepPlan plan = one.plan();
  EXPECT_EQ(plan.preempted, Indices{1});
  EXPECT_EQ(plan.rows, (Rows{6, 0}));
}

TEST(Scheduler, ARequestBeginsWhenItsPromptFitsBesideTheOthers) {
  Case one;
  one.add(Stage::kDecoding, 1, 5);
  one.add(Stage::kPrompt, 100);
  one.add(Stage::kPrompt, 1);
  // One page for the step of the first, one that it may take besides.
  one.free = 101;
  EXPECT_EQ(one.plan().rows, (Rows{1, 0, 0}));  // and nobody overtakes
  one.free = 102;
  EXPECT_EQ(one.plan().rows, (Rows{1, 31, 0}));
  // Alone it need not fit whole: windows give back what it has read.
  one.candidates.erase(one.candidates.begin());
  one.free = 100;
  EXPECT_EQ(one.plan().rows, (Rows{100, 0}));
}

// Whatever the pages, the oldest goes on and everybody ends.
TEST(Scheduler, EverybodyEnds) {
  for (const int64_t pages : {40, 50, 75, 200}) {
    struct Simulated {
      int32_t prompt, tokens, held = 0;
    };
    std::vector<Simulated> requests;
    for (int32_t i = 0; i < 20; ++i) requests.push_back({5 + 7 * i % 20, 3 + 5 * i % 20});
    int steps = 0;
    for (size_t over = 0; over < requests.size(); ++steps) {
      ASSERT_LT(steps, 10000);
      Case one;
      one.free = pages;
      std::vector<size_t> alive;
      for (size_t i = 0; i < requests.size(); ++i) {
        Simulated& each = requests[i];
        one.free -= each.held;
        if (each.tokens == 0) continue;
        alive.push_back(i);
        const int32_t waiting = each.prompt - each.held;
        one.add(waiting == 1 && each.held > 0 ? Stage::kDecoding : Stage::kPrompt, waiting,
                each.held);
      }
      const StepPlan plan = one.plan();
      for (const size_t i : plan.preempted) requests[alive[i]].held = 0;
      EXPECT_GT(plan.rows.front(), 0);
      int64_t held = 0;
      for (size_t i = 0; i < alive.size(); ++i) {
        Simulated& each = requests[alive[i]];
        each.held += plan.rows[i];
        held += each.held;
        if (plan.rows[i] == 0 || each.held < each.prompt) continue;
        ++each.prompt;
        if (--each.tokens > 0) continue;
        each.held = 0;
        ++over;
      }
      EXPECT_LE(held, pages);
    }
  }
}

TEST(Scheduler, EncodingsRunWhole) {
  Case one;
  one.add(Stage::kEncoding, 4000);
  one.add(Stage::kEncoding, 90);
  one.add(Stage::kEncoding, 10);
  EXPECT_EQ(one.plan().rows, (Rows{4000, 90, 0}));
  one.add(Stage::kDecoding, 1, 5);
  EXPECT_EQ(one.plan().rows, (Rows{4000, 0, 0, 1}));
  // The oldest of all goes first.
  Case other;
  other.add(Stage::kDecoding, 1, 5);
  other.add(Stage::kPrompt, 20);
  other.add(Stage::kEncoding, 40);
  other.add(Stage::kPrompt, 20);
  EXPECT_EQ(other.plan().rows, (Rows{1, 20, 0, 11}));
  other.candidates[3].rows = 5;
  EXPECT_EQ(other.plan().rows, (Rows{1, 20, 40, 5}));
  std::swap(other.candidates[1], other.candidates[2]);
  EXPECT_EQ(other.plan().rows, (Rows{1, 40, 0, 0}));
}

TEST(Scheduler, SequencesInAPass) {
  const std::vector<int64_t> lengths = {7, 2, 3};
  EXPECT_EQ(sequences_in_pass(lengths, 5), 1u);
  EXPECT_EQ(sequences_in_pass(lengths, 9), 2u);
  EXPECT_EQ(sequences_in_pass(lengths, 11), 2u);
  EXPECT_EQ(sequences_in_pass(lengths, 12), 3u);
  EXPECT_EQ(sequences_in_pass({}, 12), 0u);
}

}  // namespace
}  // namespace tessera
