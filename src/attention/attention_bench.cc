// Speed of the attention methods on one thread, interleaved so that noise of the machine meets all
// of them alike.
//   attention_bench [rounds] [lengths|sizes|mass|decode|select|planes|all]
//   attention_bench ROUNDS once METHOD TOKENS     so many times 12 heads of size 64, nothing
//   measured:
//                                                 for a simulator of caches
// Prints a JSON object a line: kind ("prefill", "decode"), method, mask, head size d, queries,
// keys, heads, microseconds (median), gflops with the multiply-add peak of the same rounds, for
// decoding GB/s of keys and values, and the bytes of scores that a query's heads send beyond the
// caches by the method's own account. "+mass": with the column sums of the probabilities;
// "whole_scores": the fast kernels with every score written out; "(only read)": the memory's limit.
// "select" has lines of its own: a generated token of GPT-2 medium's shape behind 4096 others,
// dense and by rules, with what it reads; times of values alone are without those of scores and
// softmax. "planes": how far probabilities by the upper plane of keys are off, by the largest of
// them.
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "attention/blocks.h"
#include "attention/method.h"
#include "base/device.h"
#include "base/isa.h"
#include "kernels/peak/peak.h"

namespace tessera {
namespace {

// Time of this thread on its core, so that other processes count only by what they take from the
// caches.
double now() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double seconds(const std::function<void()>& work) {
  const double start = now();
  work();
  return now() - start;
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

// FLOP/s of this core.
double peak_flops() {
  constexpr int64_t kSteps = 400;
  double sum = 0;
  const double time = seconds([&] {
    peak::kernels.run({.dtype = DType::kF32, .sum = &sum}, {0, kSteps});
  });
  return 2.0 * kSteps * peak::kProductsPerStep / time;
}

struct Problem {
  AttentionShape shape;
  int32_t queries = 0;
  int32_t keys = 0;
  float query_scale = 1;
  uint32_t seed = 1;
};

// Data for a problem and what runs it.
class Subject {
 public:
  explicit Subject(const Problem& problem) : problem_(problem) {
    const AttentionShape& shape = problem.shape;
    const int64_t pages = pages_for(problem.keys);
    // As the pools of pages have it: in huge pages, or decoding would be measured with the misses
    // of small ones.
    const int64_t page_bytes = shape.pages.page_bytes();
    floats_ = static_cast<size_t>(pages * page_bytes) / sizeof(float);
    storage_ = host_device().allocate(floats_ * sizeof(float));
    for (int64_t p = 0; p < pages; ++p)
      table_.pages.push_back(storage_.as<std::byte>() + p * page_bytes);
    table_.positions.resize(static_cast<size_t>(problem.keys));
    std::iota(table_.positions.begin(), table_.positions.end(), 0);
    query_positions_.resize(static_cast<size_t>(problem.queries));
    std::iota(query_positions_.begin(), query_positions_.end(), problem.keys - problem.queries);
    query_.resize(static_cast<size_t>(problem.queries) * shape.query_heads * shape.pages.d_k);
    output_.resize(static_cast<size_t>(problem.queries) * shape.query_heads * shape.pages.d_v);
    std::mt19937 generator(problem.seed);
    std::normal_distribution<float> normal;
    for (float& v : query_) v = problem.query_scale * normal(generator);
    std::vector<float> rows(static_cast<size_t>(problem.keys) *
                            (shape.pages.key_width() + shape.pages.value_width()));
    for (float& v : rows) v = normal(generator);
    PageTable* table = &table_;
    const int32_t first_rows[] = {0, problem.keys};
    append_to_pages({.shape = shape.pages,
                     .tables = {&table, 1},
                     .first_tokens = first_rows,
                     .first_rows = first_rows,
                     .key = rows.data(),
                     .key_stride = shape.pages.key_width(),
                     .value = rows.data() + problem.keys * shape.pages.key_width(),
                     .value_stride = shape.pages.value_width()},
                    {0, problem.keys});
    sequence_ = {
        .queries = problem.queries, .query_positions = query_positions_.data(), .keys = &table_};
    args_ = {.shape = shape,
             .sequences = {&sequence_, 1},
             .query = query_.data(),
             .query_stride = int64_t{shape.query_heads} * shape.pages.d_k,
             .output = output_.data(),
             .output_stride = int64_t{shape.query_heads} * shape.pages.d_v};
    arrived_.resize(static_cast<size_t>(shape.pages.kv_heads));
  }

  void run(const AttentionMethod& method, bool with_mass = false) {
    if (with_mass) mass_.resize(static_cast<size_t>(problem_.shape.query_heads * problem_.keys));
    sequence_.column_mass = with_mass ? mass_.data() : nullptr;
    const AttentionCost cost = method.cost(problem_.shape, problem_.queries, problem_.keys);
    void* memory = workspace(cost.workspace_bytes);
    if (std::ssize(partials_) < cost.partial_floats)
      partials_.resize(static_cast<size_t>(cost.partial_floats));
    args_.partials = partials_.data();
    args_.arrived = arrived_.data();
    team_.run([&](Team::Member& member) { method.run(args_, member, memory); });
  }

  // The kernels of the fused methods, but all scores of a KV head written whole: what fusing saves;
  // or scores and softmax alone.
  enum class Values { kRead, kLeftOut };
  void run_whole_scores(Values values) {
    const int32_t group = problem_.shape.query_heads / problem_.shape.pages.kv_heads;
    const int32_t rows = problem_.queries * group, padded = pages_for(problem_.keys) * kPageTokens;
    void* memory = workspace(
        attention::BlockRun::workspace_bytes(problem_.shape, rows, int64_t{rows} * padded));
    const attention::Kernels kernels;
    attention::BlockRun run(args_, kernels, rows, memory);
    for (int32_t head = 0; head < problem_.shape.pages.kv_heads; ++head) {
      run.start({.sequence = &sequence_,
                 .head = head,
                 .first_row = 0,
                 .rows = rows,
                 .cols = problem_.shape.pages.d_v},
                padded);
      run.scores(run.first_page(), run.last_page());
      run.softmax(run.first_page(), run.last_page());
      if (values == Values::kLeftOut) continue;
      run.values(run.first_page(), run.last_page());
      run.finish();
    }
  }

  // What a generated token reads, of all heads.
  CacheReads reads() {
    std::vector<CacheReads> heads(static_cast<size_t>(problem_.shape.query_heads));
    sequence_.reads = heads.data();
    if (selects(problem_.shape, sequence_)) {
      run(*find_attention_method("flash"));
    } else {
      count_all_read(problem_.shape, sequence_);
    }
    sequence_.reads = nullptr;
    CacheReads sum;
    for (const CacheReads& each : heads) sum += each;
    return sum;
  }

  // The probabilities of a generated token by each head, [query_heads, keys].
  const std::vector<float>& probabilities() {
    run(*find_attention_method("flash"), true);
    return mass_;
  }

  double flops() const {
    return attention::average_flops(problem_.shape, problem_.queries, problem_.keys) *
           problem_.queries;
  }
  // Reads keys and values and does nothing else: what memory allows.
  void read() {
    const float* values = static_cast<const float*>(storage_.data());
    float sums[32] = {};
    for (size_t i = 0; i + 32 <= floats_; i += 32) {
      for (size_t lane = 0; lane < 32; ++lane) sums[lane] += values[i + lane];
    }
    output_[0] = std::accumulate(sums, sums + 32, 0.0f);
  }

  double bytes() const { return static_cast<double>(floats_) * sizeof(float); }

 private:
  void* workspace(int64_t bytes) {
    if (static_cast<int64_t>(workspace_.size()) < bytes + 64)
      workspace_.resize(static_cast<size_t>(bytes + 64));
    const auto address = reinterpret_cast<uintptr_t>(workspace_.data());
    return reinterpret_cast<void*>((address + 63) / 64 * 64);
  }

  Problem problem_;
  Team team_{1};
  size_t floats_ = 0;
  Buffer storage_;
  std::vector<float> query_, output_, mass_, partials_;
  std::vector<int32_t> arrived_;
  std::vector<int32_t> query_positions_;
  PageTable table_;
  AttentionSequence sequence_;
  AttentionArgs args_;
  std::vector<std::byte> workspace_;
};

struct Line {
  std::string name;
  std::function<void()> work;
  std::vector<double> times;
};

// Rounds in which every line runs for about a millisecond, after one unmeasured.
void measure(std::vector<Line>& lines, int rounds) {
  std::vector<int> repeats;
  for (Line& line : lines) {
    line.work();
    repeats.push_back(std::max(1, static_cast<int>(1e-3 / seconds(line.work))));
  }
  for (int round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < lines.size(); ++i) {
      const double time = seconds([&] {
        for (int repeat = 0; repeat < repeats[i]; ++repeat) lines[i].work();
      });
      lines[i].times.push_back(time / repeats[i]);
    }
  }
}

bool is_slow(const AttentionMethod& method, const Problem& problem) {
  // The oracle is double precision in plain loops. Where it takes long it says nothing more, and it
  // would leave the others to find their data evicted from the last-level cache.
  return method.name() == "unfused" &&
         int64_t{problem.queries} * problem.keys * problem.shape.query_heads > 128 * 128;
}

std::vector<Line> lines_for(Subject& subject, const Problem& problem, bool with_mass) {
  std::vector<Line> lines;
  for (const AttentionMethod* method : attention_methods()) {
    if (is_slow(*method, problem)) continue;
    const std::string name(method->name());
    lines.push_back({name, [&subject, method] { subject.run(*method); }, {}});
    if (!with_mass || name == "unfused") continue;
    lines.push_back({name + "+mass", [&subject, method] { subject.run(*method, true); }, {}});
  }
  if (problem.queries > 1 && !with_mass)
    lines.push_back(
        {"whole_scores", [&subject] { subject.run_whole_scores(Subject::Values::kRead); }, {}});
  return lines;
}

double score_bytes(const std::string& name, const Problem& problem) {
  const AttentionMethod* method = find_attention_method(name.substr(0, name.find('+')));
  // Written, read and written by the softmax, read.
  if (method == nullptr) return 4.0 * sizeof(float) * problem.keys * problem.shape.query_heads;
  return method->cost(problem.shape, problem.queries, problem.keys).score_bytes;
}

void print(const char* kind, const Problem& problem, const Line& line, const Subject& subject,
           double peak) {
  const double time = median(line.times);
  std::printf(
      "{\"kind\": \"%s\", \"method\": \"%s\", \"pages\": \"%s\", \"mask\": \"%s\", \"d\": %d, "
      "\"queries\": %d, \"keys\": %d, \"query_heads\": %d, \"kv_heads\": %d, \"microseconds\": "
      "%.3f, "
      "\"gflops\": %.2f, \"peak_gflops\": %.1f, \"gb_per_s\": %.2f, \"score_bytes\": %.0f}\n",
      kind, line.name.c_str(), std::string(name(problem.shape.pages.dtype)).c_str(),
      problem.shape.mask == Mask::kCausal ? "causal" : "full", problem.shape.pages.d_k,
      problem.queries, problem.keys, problem.shape.query_heads, problem.shape.pages.kv_heads,
      time * 1e6, subject.flops() / time * 1e-9, peak * 1e-9, subject.bytes() / time * 1e-9,
      score_bytes(line.name, problem));
  std::fflush(stdout);
}

void prefill(const Problem& problem, int rounds, bool with_mass = false) {
  Subject subject(problem);
  std::vector<Line> lines = lines_for(subject, problem, with_mass);
  std::vector<double> peaks;
  for (int i = 0; i < rounds; ++i) peaks.push_back(peak_flops());
  measure(lines, rounds);
  for (int i = 0; i < rounds; ++i) peaks.push_back(peak_flops());
  for (const Line& line : lines) print("prefill", problem, line, subject, median(peaks));
}

// Pages of every type of numbers in turns.
void decode(Problem problem, int rounds) {
  std::vector<std::unique_ptr<Subject>> subjects;
  std::vector<Problem> problems;
  std::vector<Line> lines;
  std::vector<size_t> subject_of;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
    problem.shape.pages.dtype = dtype;
    problems.push_back(problem);
    Subject& subject = *subjects.emplace_back(std::make_unique<Subject>(problem));
    for (Line& line : lines_for(subject, problem, false)) lines.push_back(std::move(line));
    lines.push_back({"(only read)", [&subject] { subject.read(); }, {}});
    subject_of.resize(lines.size(), subjects.size() - 1);
  }
  measure(lines, rounds);
  for (size_t i = 0; i < lines.size(); ++i)
    print("decode", problems[subject_of[i]], lines[i], *subjects[subject_of[i]], 0);
}

AttentionShape shape_of(int32_t query_heads, int32_t kv_heads, int32_t d, Mask mask) {
  return {.query_heads = query_heads,
          .pages = {.kv_heads = kv_heads, .d_k = d, .d_v = d},
          .scale = 1 / std::sqrt(static_cast<float>(d)),
          .mask = mask};
}

void lengths(int rounds) {
  for (const Mask mask : {Mask::kNone, Mask::kCausal}) {
    for (const int32_t d : {64, 128}) {
      for (const int32_t n : {16, 32, 64, 128, 256, 512, 1024, 2048, 4096})
        prefill({.shape = shape_of(1, 1, d, mask), .queries = n, .keys = n}, rounds);
    }
  }
}

void sizes(int rounds) {
  for (const int32_t d : {8, 12, 16, 24, 32, 40, 80, 200, 256})
    prefill({.shape = shape_of(1, 1, d, Mask::kNone), .queries = 512, .keys = 512}, rounds);
}

void mass(int rounds) {
  for (const int32_t n : {128, 384, 1024, 4096})
    prefill({.shape = shape_of(1, 1, 64, Mask::kNone), .queries = n, .keys = n}, rounds, true);
}

// All heads of a model of 8 KV heads, so that keys and values come from beyond the second-level
// cache.
void decoding(int rounds) {
  for (const int32_t keys : {512, 4096, 16384}) {
    for (const int32_t group : {1, 4, 8}) {
      decode({.shape = shape_of(8 * group, 8, 64, Mask::kCausal), .queries = 1, .keys = keys},
             rounds);
    }
  }
}

// Layers of a model, which take turns: so many that none is still in a cache when its turn comes
// again, as the weights of a model see to.
class Layers {
 public:
  explicit Layers(Problem problem) {
    constexpr double kBeyondCaches = 500e6;
    for (double bytes = 0; bytes < kBeyondCaches; bytes += subjects_.back()->bytes()) {
      subjects_.push_back(std::make_unique<Subject>(problem));
      ++problem.seed;
    }
  }
  Subject& next() { return *subjects_[turn_++ % subjects_.size()]; }

 private:
  std::vector<std::unique_ptr<Subject>> subjects_;
  size_t turn_ = 0;
};

struct SelectCase {
  const char* name;
  int32_t keys;
  DType dtype;
  IntegerBits bits = {};
  ValueRule values = {};
  Refetch refetch = {};
};

void selecting(int rounds) {
  constexpr int32_t kKeys = 4096, kKept = 1229;
  constexpr ValueRule kFifth{.kind = ValueRule::Kind::kLargest, .share = 0.2};
  constexpr ValueRule kAbove{.kind = ValueRule::Kind::kAbove, .threshold = 0.003f};
  const SelectCase cases[] = {
      {"f32", kKeys, DType::kF32},
      {"int8", kKeys, DType::kI8},
      {"f32, 0.2 of values", kKeys, DType::kF32, {}, kFifth},
      {"f32, values above 0.003", kKeys, DType::kF32, {}, kAbove},
      {"8+4, upper", kKeys, DType::kI8, {8, 4, 8}},
      {"8+4, both", kKeys, DType::kI8, {8, 4, 8}, {}, {.below = 2}},
      {"8+4, 0.3 of tokens, 0.2 of values", kKept, DType::kI8, {8, 4, 8}, kFifth, {.below = 0.05}},
      {"6+4, 0.3 of tokens, 0.2 of values", kKept, DType::kI8, {6, 4, 6}, kFifth, {.below = 0.05}},
      {"4, 0.3 of tokens, 0.2 of values", kKept, DType::kI8, {4, 0, 4}, kFifth},
  };
  const AttentionMethod& method = *find_attention_method("flash");
  std::vector<std::unique_ptr<Layers>> layers;
  std::vector<Line> lines;
  for (const SelectCase& c : cases) {
    Problem problem{.shape = shape_of(16, 16, 64, Mask::kCausal),
                    .queries = 1,
                    .keys = c.keys,
                    .query_scale = 4};
    problem.shape.pages.dtype = c.dtype;
    problem.shape.pages.bits = c.bits;
    problem.shape.values = c.values;
    problem.shape.refetch = c.refetch;
    Layers& of_case = *layers.emplace_back(std::make_unique<Layers>(problem));
    lines.push_back({c.name, [&] { of_case.next().run(method); }, {}});
  }
  Layers& dense = *layers.front();
  lines.push_back(
      {"f32, no values", [&] { dense.next().run_whole_scores(Subject::Values::kLeftOut); }, {}});
  measure(lines, rounds);
  const auto time = [&](size_t line) { return median(lines[line].times); };
  const double without = time(lines.size() - 1);
  for (size_t i = 0; i < layers.size(); ++i) {
    const CacheReads reads = layers[i]->next().reads();
    std::printf(
        "{\"kind\": \"select\", \"method\": \"%s\", \"keys\": %d, \"microseconds\": %.1f, "
        "\"of_f32\": %.2f, \"of_int8\": %.2f, \"bytes\": %lld, \"gb_per_s\": %.2f, "
        "\"refetched\": %.3f, \"key_bits\": %.2f, \"values\": %.3f, \"values_of_f32\": %.2f}\n",
        lines[i].name.c_str(), cases[i].keys, time(i) * 1e6, time(0) / time(i), time(1) / time(i),
        static_cast<long long>(reads.bytes), static_cast<double>(reads.bytes) / time(i) * 1e-9,
        static_cast<double>(reads.refetched) / static_cast<double>(reads.queries),
        static_cast<double>(reads.key_bits) / static_cast<double>(reads.key_numbers),
        static_cast<double>(reads.value_numbers) / static_cast<double>(reads.key_numbers),
        cases[i].dtype == DType::kF32 ? (time(0) - without) / (time(i) - without) : 0.0);
  }
}

// The paper's curve: the flatter a query's probabilities, the less the bits of its keys matter.
void plane_errors() {
  constexpr int32_t kKeys = 1024, kHeads = 16;
  for (const IntegerBits& bits :
       {IntegerBits{4, 4, 8}, IntegerBits{6, 4, 8}, IntegerBits{8, 4, 8}}) {
    for (const float scale : {0.25f, 0.5f, 1.0f, 2.0f, 4.0f, 8.0f}) {
      Problem exact{.shape = shape_of(kHeads, kHeads, 64, Mask::kCausal),
                    .queries = 1,
                    .keys = kKeys,
                    .query_scale = scale};
      Problem upper = exact;
      upper.shape.pages.dtype = DType::kI8;
      upper.shape.pages.bits = bits;
      Subject one(exact), other(upper);
      const std::vector<float>&p = one.probabilities(), &q = other.probabilities();
      for (int32_t head = 0; head < kHeads; ++head) {
        double most = 0, off = 0;
        for (int32_t j = 0; j < kKeys; ++j) {
          const auto at = static_cast<size_t>(head * kKeys + j);
          most = std::max<double>(most, p[at]);
          off += std::abs(p[at] - q[at]);
        }
        std::printf(
            "{\"kind\": \"planes\", \"upper_bits\": %d, \"largest_probability\": %.5f, "
            "\"mean_error\": %.3e}\n",
            bits.upper, most, off / kKeys);
      }
    }
  }
}

int once(int rounds, const std::string& name, int32_t tokens) {
  const AttentionMethod* method = find_attention_method(name);
  if ((method == nullptr && name != "whole_scores") || tokens < 1) {
    std::fprintf(stderr, "expected a method and a number of tokens, found %s and %d\n",
                 name.c_str(), tokens);
    return 2;
  }
  Subject subject({.shape = shape_of(12, 12, 64, Mask::kNone), .queries = tokens, .keys = tokens});
  for (int i = 0; i < rounds; ++i) {
    if (method != nullptr) {
      subject.run(*method);
    } else {
      subject.run_whole_scores(Subject::Values::kRead);
    }
  }
  return 0;
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  using namespace tessera;
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 15;
  const std::string part = argc > 2 ? argv[2] : "all";
  if (part == "once")
    return once(rounds, argc > 3 ? argv[3] : "", argc > 4 ? std::atoi(argv[4]) : 0);
  const auto wanted = [&](const char* name) { return part == name || part == "all"; };
  if (wanted("lengths")) lengths(rounds);
  if (wanted("sizes")) sizes(rounds);
  if (wanted("mass")) mass(rounds);
  if (wanted("decode")) decoding(rounds);
  if (wanted("select")) selecting(rounds);
  if (wanted("planes")) plane_errors();
  return 0;
}
