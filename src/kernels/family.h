#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/isa.h"
#include "base/status.h"

namespace tessera {

// The part of a kernel's work that one call does: [begin, end) of the unit that the family names
// (rows, panels, heads, ...). Parts may run at the same time.
struct Exec {
  int64_t begin = 0;
  int64_t end = 0;
};

// One implementation of an operation. `refuse` gives the reason why it cannot do these arguments,
// or null.
template <typename Args>
struct KernelRow {
  const char* name;
  Isa isa;
  void (*run)(const Args&, Exec) noexcept;
  const char* (*refuse)(const Args&) noexcept;
};

// What `tessera inspect --kernels` shows of a row.
struct KernelState {
  std::string family;
  std::string row;
  std::string state;  // "first choice", "available", or why not
};

// The row that TESSERA_KERNEL=family:row[,family:row...] or force_kernel names for a family; empty
// when none.
std::string_view forced_kernel(std::string_view family);
// The whole of it.
const std::string& forced_kernels();
// Replaces what TESSERA_KERNEL says; for tests and benchmarks. Not thread-safe.
void force_kernel(std::string specification);

// All implementations of one operation, best first, the reference last.
template <typename Args>
class KernelFamily {
 public:
  constexpr KernelFamily(const char* name, std::span<const KernelRow<Args>> rows)
      : name_(name), rows_(rows) {}

  const char* name() const { return name_; }
  std::span<const KernelRow<Args>> rows() const { return rows_; }

  // The forced row where there is one and it can run these arguments, else the first that can. The
  // reference row takes everything.
  const KernelRow<Args>& select(const Args& args) const {
    const std::string_view forced = forced_kernel(name_);
    const KernelRow<Args>* first = nullptr;
    for (const KernelRow<Args>& row : rows_) {
      if (!available(row.isa) || row.refuse(args) != nullptr) continue;
      if (first == nullptr) first = &row;
      if (forced.empty() || forced == row.name) return row;
    }
    return first != nullptr ? *first : rows_.back();
  }

  // Why select(args) is what it is.
  std::string why(const Args& args) const {
    const KernelRow<Args>& chosen = select(args);
    if (forced_kernel(name_) == chosen.name) return "forced by TESSERA_KERNEL";
    const KernelRow<Args>& best = rows_.front();
    if (&chosen == &best) return "the fastest there is";
    if (!hardware_has(best.isa)) return "this CPU has no " + std::string(tessera::name(best.isa));
    if (!available(best.isa))
      return "TESSERA_ISA stops at " + std::string(tessera::name(isa_cap()));
    const char* refusal = best.refuse(args);
    return refusal != nullptr ? refusal : "the next best";
  }

  void run(const Args& args, Exec exec) const { select(args).run(args, exec); }

  std::vector<KernelState> states() const {
    std::vector<KernelState> states;
    bool chosen = false;
    for (const KernelRow<Args>& row : rows_) {
      std::string state;
      if (!hardware_has(row.isa)) {
        state = "this CPU has no " + std::string(tessera::name(row.isa));
      } else if (!available(row.isa)) {
        state = "TESSERA_ISA stops at " + std::string(tessera::name(isa_cap()));
      } else {
        const std::string_view forced = forced_kernel(name_);
        const bool first = forced.empty() ? !chosen : forced == row.name;
        state = first ? "first choice" : "available";
        chosen = chosen || first;
      }
      states.push_back({name_, row.name, state});
    }
    return states;
  }

 private:
  const char* name_;
  std::span<const KernelRow<Args>> rows_;
};

// For rows that take every argument their family allows.
template <typename Args>
const char* takes_all(const Args&) noexcept {
  return nullptr;
}

// Every family's rows, in the order of families.cc.
std::vector<KernelState> all_kernel_states();

// An error when TESSERA_KERNEL names a family or a row that does not exist.
Status check_forced_kernels();

}  // namespace tessera
