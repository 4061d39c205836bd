#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string_view>

namespace tessera {

// The kinds of work that a pass is made of.
enum class Operation {
  kEmbedding,
  kNorm,
  kQkv,
  kPositions,  // normalising and rotating heads
  kAppend,     // keys and values into their pages
  kAttention,
  kAttentionOutput,
  kFfnIn,
  kActivation,
  kFfnOut,
  kHead,
};
inline constexpr int kOperations = 11;
std::string_view name(Operation operation);

// What an operation has to do at least: arithmetic as it is executed and as the dense form would
// be, and bytes that it reads and writes, wherever they lie.
struct Work {
  double flops = 0;
  double dense_flops = 0;
  double bytes = 0;
};

// Where the time of passes goes. One thread marks the end of each operation, after the barrier that
// all members meet; nothing is measured, and nothing spent, where there is no trace.
class Trace {
 public:
  struct Entry {
    int64_t calls = 0;
    double seconds = 0;
    Work work;
  };

  void begin() { last_ = Clock::now(); }
  // Counts the time since begin or the last mark for this operation.
  void mark(Operation operation, const Work& work) {
    const Clock::time_point now = Clock::now();
    Entry& entry = entries_[static_cast<size_t>(operation)];
    ++entry.calls;
    entry.seconds += std::chrono::duration<double>(now - last_).count();
    entry.work.flops += work.flops;
    entry.work.dense_flops += work.dense_flops;
    entry.work.bytes += work.bytes;
    last_ = now;
  }
  const Entry& entry(Operation operation) const { return entries_[static_cast<size_t>(operation)]; }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point last_;
  std::array<Entry, kOperations> entries_;
};

}  // namespace tessera
