#include "cli/roofline.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/table.h"

namespace tessera::cli {

void add_profile(const std::vector<OperationProfile>& part, std::vector<OperationProfile>* sum) {
  for (const OperationProfile& each : part) {
    const auto same = std::find_if(sum->begin(), sum->end(), [&](const OperationProfile& other) {
      return other.operation == each.operation;
    });
    if (same == sum->end()) {
      sum->push_back(each);
      continue;
    }
    same->calls += each.calls;
    same->seconds += each.seconds;
    same->flops += each.flops;
    same->dense_flops += each.dense_flops;
    same->bytes += each.bytes;
  }
}

Roof roof_of(const OperationProfile& operation, const MachineSpeeds& speeds) {
  const double arithmetic = operation.flops / (speeds.f32_gflops * 1e9);
  const double memory = operation.bytes / (speeds.read_gb_per_s * 1e9);
  if (operation.seconds <= 0) return {};
  return {std::max(arithmetic, memory) / operation.seconds, memory > arithmetic};
}

std::string roofline_table(const std::vector<OperationProfile>& profile,
                           const MachineSpeeds& speeds, int64_t passes) {
  OperationProfile all{.operation = "all"};
  for (const OperationProfile& each : profile) {
    all.seconds += each.seconds;
    all.flops += each.flops;
    all.dense_flops += each.dense_flops;
    all.bytes += each.bytes;
  }
  std::vector<std::vector<std::string>> rows;
  const auto add = [&](const OperationProfile& each) {
    const Roof roof = roof_of(each, speeds);
    const double per_pass = 1 / static_cast<double>(passes);
    rows.push_back({each.operation, fmt::format("{:.3f}", each.seconds * per_pass * 1e3),
                    fmt::format("{:.1f}%", 100 * each.seconds / all.seconds),
                    fmt::format("{:.3f}", each.flops * per_pass * 1e-9),
                    fmt::format("{:.2f}", each.bytes * per_pass * 1e-6),
                    fmt::format("{:.1f}", each.flops / each.seconds * 1e-9),
                    fmt::format("{:.1f}", each.bytes / each.seconds * 1e-9),
                    fmt::format("{:.0f}%", 100 * roof.share_of_limit),
                    roof.is_memory_bound ? "memory" : "arithmetic"});
  };
  for (const OperationProfile& each : profile) add(each);
  if (all.seconds > 0) add(all);
  constexpr Align kRight = Align::kRight;
  return format_table({{"operation", Align::kLeft},
                       {"ms", kRight},
                       {"share", kRight},
                       {"GFLOP", kRight},
                       {"MB", kRight},
                       {"GFLOP/s", kRight},
                       {"GB/s", kRight},
                       {"of limit", kRight},
                       {"limit", Align::kLeft}},
                      rows);
}

}  // namespace tessera::cli
