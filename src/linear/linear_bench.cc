// Speed of the weight formats on a team of threads, interleaved so that noise of the machine meets
// all of them alike.
//   linear_bench [rounds] [many|one|all] [threads]
// many: 128 rows times BERT-base's four matrices. one: one row, going through at least 256 MB of
// weights of each subject. Prints a JSON object a line: the subject (format or oneDNN's own product
// with its own threads), dtype, percent pruned at random, rows, inputs, outputs, bytes of one
// weight, microseconds of one product (median over the rounds), and the median over the rounds of
// how many times as long oneDNN and the dense form of the same dtype take in the same round.
// oneDNN's bf16 product is given activations in bf16, which the others take in f32.
#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <oneapi/dnnl/dnnl.hpp>
#include <random>
#include <string>
#include <vector>

#include "base/device.h"
#include "formats/packed.h"
#include "kernels/family.h"
#include "linear/linear.h"

namespace tessera {
namespace {

using dnnl::memory;

constexpr int kPercents[] = {50, 70, 80, 90};
constexpr int64_t kCycledBytes = int64_t{256} << 20;

struct Shape {
  int64_t rows, inputs, outputs;
};

double seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

std::vector<float> random_values(int64_t count, uint32_t seed) {
  std::minstd_rand generator(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(generator() % 2048) / 1024 - 1;
  return values;
}

// Everything that products of one shape read and write.
struct Data {
  explicit Data(const Shape& of)
      : shape(of),
        weights(random_values(of.inputs * of.outputs, 1)),
        bias(random_values(of.outputs, 2)),
        x(host_device().allocate(static_cast<size_t>(of.rows * of.inputs) * sizeof(float))),
        y(host_device().allocate(static_cast<size_t>(of.rows * of.outputs) * sizeof(float))) {
    const std::vector<float> values = random_values(of.rows * of.inputs, 3);
    std::copy(values.begin(), values.end(), x.as<float>());
  }
  DenseView dense() const { return {weights.data(), DType::kF32, shape.outputs, shape.inputs}; }

  Shape shape;
  std::vector<float> weights, bias;
  Buffer x, y;
};

// Exactly so many percent of the units pruned, at random.
TileMask draw(const Data& data, TileShape tile, int percent) {
  TileMask mask = TileMask::all(tile, data.shape.outputs, data.shape.inputs);
  const auto pruned =
      static_cast<std::ptrdiff_t>(mask.kept.size() * static_cast<size_t>(percent) / 100);
  std::fill(mask.kept.begin(), mask.kept.begin() + pruned, 0);
  std::shuffle(mask.kept.begin(), mask.kept.end(), std::mt19937(static_cast<uint32_t>(percent)));
  return mask;
}

PackedMatrix pruned(const Data& data, const std::string& format, int percent) {
  const DenseView dense = data.dense();
  const auto rows = static_cast<int32_t>(dense.rows), cols = static_cast<int32_t>(dense.cols);
  int tile_rows = 0, tile_cols = 0;
  if (std::sscanf(format.c_str(), "tiles %dx%d", &tile_rows, &tile_cols) == 2) {
    return pack_tiles(dense, draw(data, {tile_rows, tile_cols}, percent)).value();
  }
  if (format == "elements") return pack_csr(dense, draw(data, {1, 1}, percent)).value();
  if (format == "outputs") {
    const TileMask mask = draw(data, {1, cols}, percent);
    return pack_compact(dense, KeptAxis::kOutputs, mask.kept).value();
  }
  if (format == "inputs") {
    const TileMask mask = draw(data, {rows, 1}, percent);
    return pack_compact(dense, KeptAxis::kInputs, mask.kept).value();
  }
  PackedMatrix whole;
  whole.matrix = dense;
  return whole;
}

// What takes turns: products with as many equal weights as fill the memory to go through.
struct Subject {
  std::string name;
  DType dtype = DType::kF32;
  int percent = 0;
  int64_t bytes = 0;
  size_t count = 1;
  std::function<void(size_t)> product;
  std::vector<double> times;
};

size_t count_for(const Shape& shape, int64_t bytes) {
  return shape.rows > 1 ? 1 : static_cast<size_t>((kCycledBytes + bytes - 1) / bytes);
}

Subject subject(const Data& data, const std::string& format, DType dtype, int percent, Team& team) {
  const PackedMatrix packed = pruned(data, format, percent);
  // The sparse form, whatever its gain.
  force_kernel(format.find("tiles") == 0 ? "tile_matmul:avx512" : "");
  auto maps = std::make_shared<std::vector<std::unique_ptr<Linear>>>();
  size_t count = 1;
  const Precision precision = dtype == DType::kBF16 ? Precision::kBF16 : Precision::kF32;
  for (size_t i = 0; i < count; ++i) {
    maps->push_back(prepare_linear({packed.matrix}, data.bias.data(), precision, team).value());
    if (i == 0) count = count_for(data.shape, maps->front()->info().bytes);
  }
  force_kernel("");
  auto scratch = std::make_shared<std::vector<Buffer>>();
  for (int i = 0; i < team.size(); ++i) {
    scratch->push_back(host_device().allocate(
        static_cast<size_t>(maps->front()->scratch_bytes(data.shape.rows)) + 64));
  }
  const LinearArgs args{.x = data.x.as<float>(),
                        .x_stride = data.shape.inputs,
                        .rows = data.shape.rows,
                        .y = data.y.as<float>(),
                        .y_stride = data.shape.outputs};
  const auto product = [maps, scratch, args, &team](size_t i) {
    team.run([&](Team::Member& member) {
      LinearArgs own = args;
      own.scratch = (*scratch)[static_cast<size_t>(member.rank())].data();
      (*maps)[i]->apply(own, member);
    });
  };
  return {format, dtype, percent, maps->front()->info().bytes, count, product, {}};
}

// oneDNN's product, its weights in the layout that it wants.
class OneDnn {
 public:
  OneDnn(const Data& data, DType dtype, int threads) : threads_(threads) {
    const auto type = dtype == DType::kF32 ? memory::data_type::f32 : memory::data_type::bf16;
    const auto plain = memory::data_type::f32;
    const auto [rows, inputs, outputs] = data.shape;
    omp_set_num_threads(threads_);
    const memory::desc x({rows, inputs}, type, memory::format_tag::ab);
    const memory::desc any({inputs, outputs}, type, memory::format_tag::any);
    const memory::desc bias({1, outputs}, plain, memory::format_tag::ab);
    const memory::desc y({rows, outputs}, plain, memory::format_tag::ab);
    const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(x, any, bias, y), engine_);
    product_ = dnnl::matmul(description);
    memory source({{inputs, outputs}, plain, memory::dims{1, inputs}}, engine_,
                  const_cast<float*>(data.weights.data()));
    bytes_ = static_cast<int64_t>(description.weights_desc().get_size());
    for (size_t i = 0; i < count_for(data.shape, bytes_); ++i) {
      weights_.emplace_back(description.weights_desc(), engine_);
      dnnl::reorder(source, weights_.back()).execute(stream_, source, weights_.back());
    }
    x_ = memory(x, engine_);
    memory floats({{rows, inputs}, plain, memory::format_tag::ab}, engine_, data.x.data());
    dnnl::reorder(floats, x_).execute(stream_, floats, x_);
    bias_ = memory(bias, engine_, const_cast<float*>(data.bias.data()));
    y_ = memory(y, engine_, data.y.data());
    stream_.wait();
  }

  int64_t bytes() const { return bytes_; }
  size_t count() const { return weights_.size(); }
  void run(size_t i) {
    omp_set_num_threads(threads_);
    product_.execute(stream_, {{DNNL_ARG_SRC, x_},
                               {DNNL_ARG_WEIGHTS, weights_[i]},
                               {DNNL_ARG_BIAS, bias_},
                               {DNNL_ARG_DST, y_}});
    stream_.wait();
  }

 private:
  int threads_;
  int64_t bytes_ = 0;
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  dnnl::matmul product_;
  memory x_, bias_, y_;
  std::vector<memory> weights_;
};

Subject one_dnn(const Data& data, DType dtype, int threads) {
  auto product = std::make_shared<OneDnn>(data, dtype, threads);
  return {"oneDNN",
          dtype,
          0,
          product->bytes(),
          product->count(),
          [product](size_t i) { product->run(i); },
          {}};
}

void measure(std::vector<Subject>& subjects, int rounds) {
  for (int round = 0; round <= rounds; ++round) {
    for (Subject& one : subjects) {
      // Threads wake and, where all weights stay in the caches, these are filled.
      one.product(0);
      const size_t calls = std::max<size_t>(one.count, 3);
      const double time = seconds([&] {
        for (size_t i = 0; i < calls; ++i) one.product(i % one.count);
      });
      if (round > 0) one.times.push_back(time / static_cast<double>(calls));
    }
  }
}

// How many times as long the named subject takes, in the median over the rounds.
double ratio(const std::vector<Subject>& subjects, const char* name, const Subject& one) {
  for (const Subject& other : subjects) {
    if (other.name != name || other.dtype != one.dtype) continue;
    std::vector<double> ratios;
    for (size_t i = 0; i < one.times.size(); ++i) ratios.push_back(other.times[i] / one.times[i]);
    return median(ratios);
  }
  return 0;
}

void run(const Shape& shape, const std::vector<std::string>& formats, int rounds, Team& team) {
  const Data data(shape);
  std::vector<Subject> subjects;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    subjects.push_back(one_dnn(data, dtype, team.size()));
    subjects.push_back(subject(data, "dense", dtype, 0, team));
    for (const std::string& format : formats) {
      for (const int percent : kPercents) {
        subjects.push_back(subject(data, format, dtype, percent, team));
      }
    }
  }
  measure(subjects, rounds);
  for (const Subject& one : subjects) {
    std::printf(
        "{\"format\": \"%s\", \"dtype\": \"%s\", \"pruned\": %d, \"rows\": %ld, \"inputs\": %ld, "
        "\"outputs\": %ld, \"bytes\": %ld, \"microseconds\": %.2f, \"times_onednn\": %.3f, "
        "\"times_dense\": %.3f}\n",
        one.name.c_str(), one.dtype == DType::kF32 ? "f32" : "bf16", one.percent, shape.rows,
        shape.inputs, shape.outputs, one.bytes, 1e6 * median(one.times),
        ratio(subjects, "oneDNN", one), ratio(subjects, "dense", one));
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  using namespace tessera;
  // Threads that spin after a product of oneDNN's would slow down whose turn is next; OpenMP reads
  // this before main does.
  if (std::getenv("OMP_WAIT_POLICY") == nullptr) {
    setenv("OMP_WAIT_POLICY", "passive", 1);
    execv("/proc/self/exe", argv);
  }
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 30;
  const std::string part = argc > 2 ? argv[2] : "all";
  Team team(argc > 3 ? std::atoi(argv[3]) : 0);
  if (part == "many" || part == "all") {
    for (const auto& [inputs, outputs] :
         {std::pair<int64_t, int64_t>{768, 768}, {768, 2304}, {768, 3072}, {3072, 768}}) {
      run({128, inputs, outputs},
          {"tiles 16x16", "tiles 16x1", "tiles 8x16", "tiles 32x32", "elements", "outputs",
           "inputs"},
          rounds, team);
    }
  }
  if (part == "one" || part == "all")
    run({1, 4096, 4096}, {"tiles 16x16", "tiles 16x1"}, rounds, team);
  return 0;
}
