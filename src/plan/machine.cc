// The measurements behind the machine table.
#include "plan/machine.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <numeric>
#include <random>
#include <sstream>

#include "attention/method.h"
#include "base/caches.h"
#include "base/device.h"
#include "base/guarded.h"
#include "base/isa.h"
#include "base/team.h"
#include "kernels/memory_read/memory_read.h"
#include "kernels/peak/peak.h"

namespace tessera {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kParts = 10;  // of a measurement; the best counts, since others can only slow it
constexpr int64_t kMegabyte = 1 << 20;
constexpr int kStreams[] = {1, 2, 4, 8, 16};
constexpr int32_t kHeadSizes[] = {64, 128};
constexpr int32_t kCrossoverKeys[] = {256, 512, 1024, 2048, 4096};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// The least seconds that `work` took, of at least three times and until the time is over.
template <typename Work>
double least_seconds(double budget, Work work) {
  work();
  double least = 1e30;
  const Clock::time_point begin = Clock::now();
  for (int i = 0; i < 3 || seconds_since(begin) < budget; ++i) {
    const Clock::time_point start = Clock::now();
    work();
    least = std::min(least, seconds_since(start));
  }
  return least;
}

// 0 where no row but the reference can do it.
double measure_peak(DType dtype, Team& team, double budget) {
  const peak::Args sample{.dtype = dtype};
  const KernelRow<peak::Args>& row = peak::kernels.select(sample);
  if (row.isa == Isa::kAny) return 0;
  std::vector<double> sums(static_cast<size_t>(team.size()));
  const auto run = [&](int64_t steps) {
    team.run([&](Team::Member& member) {
      peak::Args args = sample;
      args.sum = &sums[static_cast<size_t>(member.rank())];
      row.run(args, {0, steps});
    });
  };
  int64_t steps = 64;
  for (double seconds = 0; seconds < budget / kParts / 2; steps *= 2) {
    const Clock::time_point start = Clock::now();
    run(steps);
    seconds = seconds_since(start);
  }
  const double flops = 2.0 * static_cast<double>(steps * peak::kProductsPerStep * team.size());
  return flops / least_seconds(budget, [&] { run(steps); }) * 1e-9;
}

// Memory in huge pages or in small ones, touched by the threads that read it.
class Block {
 public:
  Block(int64_t bytes, int advice) : bytes_(bytes) {
    void* data = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return;
    madvise(data, static_cast<size_t>(bytes), advice);
    data_ = static_cast<char*>(data);
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block() {
    if (data_ != nullptr) munmap(data_, static_cast<size_t>(bytes_));
  }
  char* data() const { return data_; }

 private:
  char* data_ = nullptr;
  int64_t bytes_;
};

Status measure_reads(int64_t bytes, bool huge_pages, double budget, Team& team,
                     MachineSpeeds& speeds) {
  const Block block(bytes, huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  if (block.data() == nullptr) {
    return out_of_memory(
        fmt::format("cannot get the {} bytes of memory whose reading is to be measured", bytes));
  }
  const int64_t lines = bytes / memory_read::kLineBytes;
  team.run([&](Team::Member& member) {
    const Range part = member.slice(lines, 1 << 15);
    std::memset(block.data() + part.begin * memory_read::kLineBytes, 1,
                static_cast<size_t>(part.size() * memory_read::kLineBytes));
  });
  std::vector<uint64_t> sums(static_cast<size_t>(team.size()));
  for (const int streams : kStreams) {
    const double seconds = least_seconds(budget, [&] {
      team.run([&](Team::Member& member) {
        const Range part = member.slice(lines, 1 << 15);
        memory_read::kernels.run({.data = block.data(),
                                  .streams = streams,
                                  .sum = &sums[static_cast<size_t>(member.rank())]},
                                 {part.begin, part.end});
      });
    });
    speeds.reads.push_back({streams, huge_pages, static_cast<double>(bytes) / seconds * 1e-9});
    speeds.read_gb_per_s = std::max(speeds.read_gb_per_s, speeds.reads.back().gb_per_s);
  }
  return {};
}

// One sequence of `keys` queries and keys, four heads, on one thread.
class AttentionProblem {
 public:
  AttentionProblem(int32_t head_size, int32_t keys) {
    args_.shape = {.query_heads = kHeads, .pages = {kHeads, head_size, head_size}, .scale = 0.1f};
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    pages_.resize(static_cast<size_t>(pages_for(keys)));
    for (std::vector<float>& page : pages_) {
      page.resize(static_cast<size_t>(args_.shape.pages.page_bytes()) / sizeof(float));
      for (float& value : page) value = normal(random);
      table_.pages.push_back(reinterpret_cast<std::byte*>(page.data()));
    }
    table_.positions.resize(static_cast<size_t>(keys));
    std::iota(table_.positions.begin(), table_.positions.end(), 0);
    query_.resize(static_cast<size_t>(keys) * kHeads * static_cast<size_t>(head_size));
    for (float& value : query_) value = normal(random);
    output_.resize(query_.size());
    sequence_ = {.queries = keys, .query_positions = table_.positions.data(), .keys = &table_};
    args_.sequences = {&sequence_, 1};
    args_.query = query_.data();
    args_.output = output_.data();
    args_.query_stride = args_.output_stride = int64_t{kHeads} * head_size;
  }

  Result<double> seconds(const char* name, double budget) {
    const AttentionMethod* method = find_attention_method(name);
    const int64_t bytes =
        method->cost(args_.shape, sequence_.queries, sequence_.queries).workspace_bytes;
    const Buffer workspace = host_device().allocate(static_cast<size_t>(bytes));
    if (workspace.empty())
      return out_of_memory(fmt::format("cannot get {} bytes to measure attention", bytes));
    return least_seconds(budget, [&] {
      team_.run([&](Team::Member& member) { method->run(args_, member, workspace.data()); });
    });
  }

 private:
  static constexpr int32_t kHeads = 4;
  Team team_{1};
  std::vector<std::vector<float>> pages_;
  std::vector<float> query_, output_;
  PageTable table_;
  AttentionSequence sequence_;
  AttentionArgs args_;
};

// Whole rows are the simpler method and give column masses at little cost, so they may be behind by
// what the measurement cannot tell.
constexpr double kIndistinct = 1.02;

// The longest of the tried lengths up to which the method that needs whole rows is not behind.
Result<AttentionCrossover> measure_crossover(int32_t head_size, const MachineOptions& options) {
  AttentionCrossover crossover{head_size, 0};
  const double budget = options.seconds / 6;
  for (const int32_t keys : kCrossoverKeys) {
    if (keys > options.most_keys) break;
    AttentionProblem problem(head_size, keys);
    // In turns, so that a change of the clock meets both.
    double on_the_fly = 1e30, flash = 1e30;
    for (int turn = 0; turn < 3; ++turn) {
      TESSERA_ASSIGN_OR_RETURN(const double first, problem.seconds("on_the_fly", budget));
      TESSERA_ASSIGN_OR_RETURN(const double second, problem.seconds("flash", budget));
      on_the_fly = std::min(on_the_fly, first);
      flash = std::min(flash, second);
    }
    if (on_the_fly > kIndistinct * flash) break;
    crossover.on_the_fly_up_to_keys = keys;
  }
  return crossover;
}

int64_t cache_bytes(int name) { return std::max<int64_t>(0, sysconf(name)); }

// Well beyond what the caches keep from one reading to the next.
int64_t read_bytes(const MachineOptions& options, const MachineTable& table) {
  const int64_t wanted = options.read_bytes > 0
                             ? options.read_bytes
                             : std::clamp(4 * table.l3_bytes, 256 * kMegabyte, 1024 * kMegabyte);
  return (wanted + 2 * kMegabyte - 1) / (2 * kMegabyte) * 2 * kMegabyte;
}

class Measurement {
 public:
  explicit Measurement(const MachineOptions& options) : options_(options) {
    threads_ = options.threads;
    if (threads_.empty()) threads_ = {1, usable_cpus()};
    std::sort(threads_.begin(), threads_.end());
    threads_.erase(std::unique(threads_.begin(), threads_.end()), threads_.end());
    total_ = static_cast<int64_t>(threads_.size() * 5 + std::size(kHeadSizes));
  }

  Result<MachineTable> run() {
    MachineTable table;
    table.cpu = this_cpu();
    table.l1_data_bytes = cache_bytes(_SC_LEVEL1_DCACHE_SIZE);
    table.l2_bytes = tessera::l2_bytes();
    table.l3_bytes = cache_bytes(_SC_LEVEL3_CACHE_SIZE);
    for (const int32_t threads : threads_) {
      Team team(threads);
      if (team.size() != threads) {
        return invalid_input(fmt::format("expected at least 1 and at most {} threads, found {}",
                                         team.size(), threads));
      }
      MachineSpeeds speeds{.threads = threads};
      for (const auto& [dtype, target] : {std::pair{DType::kF32, &speeds.f32_gflops},
                                          std::pair{DType::kBF16, &speeds.bf16_gflops},
                                          std::pair{DType::kI8, &speeds.int8_gflops}}) {
        *target = measure_peak(dtype, team, options_.seconds);
        TESSERA_RETURN_IF_ERROR(step());
      }
      for (const bool huge_pages : {false, true}) {
        TESSERA_RETURN_IF_ERROR(
            measure_reads(read_bytes(options_, table), huge_pages, options_.seconds, team, speeds));
        TESSERA_RETURN_IF_ERROR(step());
      }
      table.speeds.push_back(std::move(speeds));
    }
    for (const int32_t head_size : kHeadSizes) {
      TESSERA_ASSIGN_OR_RETURN(const AttentionCrossover crossover,
                               measure_crossover(head_size, options_));
      table.crossovers.push_back(crossover);
      TESSERA_RETURN_IF_ERROR(step());
    }
    return table;
  }

 private:
  Status step() {
    ++done_;
    if (options_.on_progress && !options_.on_progress(done_, total_))
      return {StatusCode::kCancelled, "the measurement was cancelled"};
    return {};
  }

  const MachineOptions& options_;
  std::vector<int32_t> threads_;
  int64_t done_ = 0, total_ = 0;
};

}  // namespace

std::string cpu_name(std::string_view cpuinfo) {
  constexpr std::string_view kKey = "model name";
  const size_t key = cpuinfo.find(kKey);
  if (key == std::string_view::npos) return "unknown";
  const size_t colon = cpuinfo.find(':', key), end = cpuinfo.find('\n', key);
  if (colon == std::string_view::npos || colon > end) return "unknown";
  std::string_view name = cpuinfo.substr(colon + 1, end == cpuinfo.npos ? end : end - colon - 1);
  while (name.starts_with(' ')) name.remove_prefix(1);
  return std::string(name);
}

std::string this_cpu() {
  std::ifstream file("/proc/cpuinfo");
  std::ostringstream text;
  text << file.rdbuf();
  return cpu_name(text.str());
}

Result<MachineTable> measure_machine(const MachineOptions& options) {
  return guarded("machine", [&]() -> Result<MachineTable> {
    TESSERA_RETURN_IF_ERROR(check_isa_cap());
    for (const int32_t threads : options.threads) {
      if (threads < 1 || threads > usable_cpus()) {
        return invalid_input(
            fmt::format("expected from 1 to {} threads, found {}", usable_cpus(), threads));
      }
    }
    return Measurement(options).run();
  });
}

}  // namespace tessera
