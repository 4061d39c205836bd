#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>

#include "formats/panels.h"
#include "kernels/family.h"
#include "linear/grid.h"
#include "linear/linear.h"

// What a call that asks for some outputs, or reads some inputs, is for a product of panels.
namespace tessera {

// The part of a range of a subset that is the map's, of so many outputs or inputs, by its own
// numbers; it may be empty.
inline Range part_of(const Subset& subset, Range range, int64_t count) {
  const auto own = [&](int64_t number) {
    return std::clamp<int64_t>(number - subset.origin, 0, count);
  };
  return {own(range.begin), own(range.end)};
}

// The panels of which any output is asked for, counted through.
class LivePanels {
 public:
  LivePanels(const Subset& outputs, int64_t count) : outputs_(outputs), outputs_count_(count) {
    for_each_run([&](Range run) { count_ += run.size(); });
  }

  int64_t count() const { return count_; }

  // Calls visit(panels) for the runs of neighbours that panels `part` of these are.
  template <typename Visit>
  void for_each_run(Range part, Visit visit) const {
    int64_t passed = 0;
    for_each_run([&](Range run) {
      const Range own{std::max(run.begin, run.begin + part.begin - passed),
                      std::min(run.end, run.begin + part.end - passed)};
      if (own.size() > 0) visit(own);
      passed += run.size();
    });
  }

 private:
  template <typename Visit>
  void for_each_run(Visit visit) const {
    if (outputs_.is_all()) return visit(Range{0, panel_count(outputs_count_)});
    Range run;
    for (const Range& range : outputs_.ranges) {
      const Range own = part_of(outputs_, range, outputs_count_);
      if (own.size() <= 0) continue;
      const Range panels{own.begin / kPanelOutputs, panel_count(own.end)};
      if (panels.begin > run.end && run.size() > 0) visit(run);
      if (panels.begin > run.end || run.size() == 0) run.begin = panels.begin;
      run.end = panels.end;
    }
    if (run.size() > 0) visit(run);
  }

  const Subset& outputs_;
  int64_t outputs_count_;
  int64_t count_ = 0;
};

// Calls multiply(rows, panels) for the member's share of the outputs that a call asks for, or for
// all of them.
template <typename Multiply>
void share_live(const LinearArgs& args, int64_t outputs, int64_t grain, const Team::Member& member,
                const Multiply& multiply) {
  const LivePanels panels(args.outputs, outputs);
  const auto work = [&](Range rows, Range part) {
    panels.for_each_run(part, [&](Range run) { multiply(rows, run); });
  };
  // A reference, so that nothing is allocated.
  share_product({args.rows, grain, panels.count()}, member, std::cref(work));
}
template <typename Multiply>
void run_live(const LinearArgs& args, int64_t outputs, const Multiply& multiply) {
  const LivePanels panels(args.outputs, outputs);
  panels.for_each_run({0, panels.count()}, [&](Range run) { multiply({0, args.rows}, run); });
}

// How a kernel counts the inputs of a part: in lanes of so many, a part from a multiple of `unit`
// inputs on.
struct InputUnits {
  int64_t lane = 1;
  int64_t unit = 1;
};

// The inputs that a kernel sums over, in lanes: at least those of the subset. Where ranges are
// many, the last ones become one.
class InputParts {
 public:
  InputParts(const Subset& inputs, int64_t count, InputUnits in) {
    const int64_t lanes = (count + in.lane - 1) / in.lane;
    if (inputs.is_all()) {
      lanes_ = lanes;
      return;
    }
    for (const Range& range : inputs.ranges) {
      const Range own = part_of(inputs, range, count);
      if (own.size() <= 0) continue;
      const int64_t end = (own.end + in.unit - 1) / in.unit * in.unit / in.lane;
      add({own.begin / in.unit * in.unit / in.lane, std::min(end, lanes)});
    }
    // Nothing to read is a range of nothing.
    size_ = std::max<size_t>(size_, 1);
    for (size_t i = 0; i < size_; ++i) lanes_ += parts_[i].end - parts_[i].begin;
  }

  // Null: all inputs.
  const Exec* data() const { return size_ > 0 ? parts_.data() : nullptr; }
  int64_t size() const { return static_cast<int64_t>(size_); }
  int64_t lanes() const { return lanes_; }  // of all parts

 private:
  void add(Exec part) {
    const bool touches = size_ > 0 && part.begin <= parts_[size_ - 1].end;
    if (touches || size_ == parts_.size()) {
      parts_[size_ - 1].end = part.end;
    } else {
      parts_[size_++] = part;
    }
  }

  std::array<Exec, 32> parts_ = {};
  size_t size_ = 0;
  int64_t lanes_ = 0;
};

// The part of a whole product's work that a call is.
inline double panel_share(const LinearArgs& args, int64_t inputs, int64_t outputs, InputUnits in) {
  const auto lanes = [&](const Subset& subset) {
    return static_cast<double>(InputParts(subset, inputs, in).lanes());
  };
  return static_cast<double>(LivePanels(args.outputs, outputs).count()) /
         static_cast<double>(panel_count(outputs)) * lanes(args.inputs) / lanes({});
}

}  // namespace tessera
