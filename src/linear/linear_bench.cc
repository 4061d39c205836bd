// Speed of the weight formats on a team of threads, interleaved so that noise of the machine meets
// all of them alike.
//   linear_bench [rounds] [many|int8|cost|one|decode|all] [threads]
// many: 128 rows times BERT-base's four matrices; int8: of these, integers alone; cost: of these,
// and of three smaller ones, what tools/fit_cost_model.py fits the planner's coefficients to,
// without oneDNN. one: one row,
// going through at least 256 MB of weights of each subject; decode: of these, dense ones with the
// shapes of a Llama of 1.1B. Prints a JSON object a line: the
// subject (format or oneDNN's own product with its own threads), dtype, percent pruned at random,
// rows, inputs, outputs, weights multiplied with each row, bytes of one weight, the kernel and the
// instruction set that TESSERA_ISA allows, microseconds of one product (median over the rounds, and
// the least), and the median over the rounds of how many times as long oneDNN and the dense form of
// the same dtype (of bf16 for integers in groups) take in the same round, and which share of the
// bandwidth it has with which the team reads memory and does nothing else ("read"). oneDNN's
// products of bf16 and int8 are given activations in these, which the others take in f32; "convert"
// is what it takes to make bytes of them, which is part of the others' int8 products.
#include <omp.h>
#include <unistd.h>

#include <algorithm>
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

#include "base/bench.h"
#include "base/device.h"
#include "base/isa.h"
#include "formats/packed.h"
#include "kernels/family.h"
#include "kernels/memory_read/memory_read.h"
#include "linear/linear.h"

namespace tessera {
namespace {

using dnnl::memory;

constexpr int kPercents[] = {50, 70, 80, 90};
constexpr int64_t kCycledBytes = int64_t{256} << 20;

struct Shape {
  int64_t rows, inputs, outputs;
};

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
  Precision precision = Precision::kF32;
  int percent = 0;
  int64_t bytes = 0;
  int64_t multiplied = 0;
  std::string kernel;
  size_t count = 1;
  std::function<void(size_t)> product;
  std::vector<double> times;
  double least = 1e30;
};

size_t count_for(const Shape& shape, int64_t bytes) {
  return shape.rows > 1 ? 1 : static_cast<size_t>((kCycledBytes + bytes - 1) / bytes);
}

Subject subject(const Data& data, const std::string& format, Precision precision, int percent,
                Team& team) {
  const PackedMatrix packed = pruned(data, format, percent);
  auto maps = std::make_shared<std::vector<std::unique_ptr<Linear>>>();
  size_t count = 1;
  for (size_t i = 0; i < count; ++i) {
    maps->push_back(prepare_linear({packed.matrix}, data.bias.data(), precision, team).value());
    if (i == 0) count = count_for(data.shape, maps->front()->info().bytes);
  }
  auto scratch = std::make_shared<std::vector<Buffer>>();
  for (int i = 0; i < team.size(); ++i) {
    scratch->push_back(host_device().allocate(
        static_cast<size_t>(maps->front()->scratch_bytes(data.shape.rows)) + 64));
  }
  auto converted = std::make_shared<Buffer>(host_device().allocate(
      static_cast<size_t>(maps->front()->converted_bytes(data.shape.rows)) + 64));
  const LinearArgs args{.x = data.x.as<float>(),
                        .x_stride = data.shape.inputs,
                        .rows = data.shape.rows,
                        .y = data.y.as<float>(),
                        .y_stride = data.shape.outputs};
  const auto product = [maps, scratch, converted, args, &team](size_t i) {
    team.run([&](Team::Member& member) {
      LinearArgs own = args;
      own.scratch = (*scratch)[static_cast<size_t>(member.rank())].data();
      apply_shared(*(*maps)[i], own, converted->data(), member);
    });
  };
  const LinearInfo info = maps->front()->info();
  return {format,      precision, percent, info.bytes, info.flops_per_row / 2,
          info.kernel, count,     product, {}};
}

// The rows of a map of integers, made bytes.
Subject conversion(const Data& data, Team& team) {
  const DenseView dense = data.dense();
  std::shared_ptr<Linear> map = prepare_linear({dense}, nullptr, Precision::kInt8, team).value();
  auto converted = std::make_shared<Buffer>(
      host_device().allocate(static_cast<size_t>(map->converted_bytes(data.shape.rows))));
  const LinearArgs args{
      .x = data.x.as<float>(), .x_stride = data.shape.inputs, .rows = data.shape.rows};
  const auto product = [map, converted, args, &team](size_t) {
    team.run([&](Team::Member& member) {
      map->convert_rows(args, member.slice(args.rows), converted->data());
    });
  };
  return {"convert", Precision::kInt8, 0, 0, 0, "", 1, product, {}};
}

memory::data_type type_of(Precision precision) {
  return precision == Precision::kF32    ? memory::data_type::f32
         : precision == Precision::kBF16 ? memory::data_type::bf16
                                         : memory::data_type::s8;
}

// oneDNN's product, its weights in the layout that it wants. Of int8 it is that of rows of u8 and a
// scale for each output, with whatever integers come of floats from -1 to 1.
class OneDnn {
 public:
  OneDnn(const Data& data, Precision precision, int threads) : threads_(threads) {
    const auto type = type_of(precision), plain = memory::data_type::f32;
    const bool integers = precision == Precision::kInt8;
    const auto [rows, inputs, outputs] = data.shape;
    omp_set_num_threads(threads_);
    const memory::desc x({rows, inputs}, integers ? memory::data_type::u8 : type,
                         memory::format_tag::ab);
    const memory::desc any({inputs, outputs}, type, memory::format_tag::any);
    const memory::desc bias({1, outputs}, plain, memory::format_tag::ab);
    const memory::desc y({rows, outputs}, plain, memory::format_tag::ab);
    dnnl::primitive_attr attributes;
    if (integers) attributes.set_output_scales(1 << 1, std::vector<float>(outputs, 0.01f));
    const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(x, any, bias, y), attributes,
                                                   engine_);
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

Subject one_dnn(const Data& data, Precision precision, int threads) {
  auto product = std::make_shared<OneDnn>(data, precision, threads);
  return {"oneDNN",
          precision,
          0,
          product->bytes(),
          data.shape.inputs * data.shape.outputs,
          "oneDNN",
          product->count(),
          [product](size_t i) { product->run(i); },
          {}};
}

// The team reads memory, each member its part of a piece.
Subject reading(Team& team) {
  constexpr int64_t kPieceBytes = int64_t{16} << 20;
  const auto size = static_cast<size_t>(kCycledBytes);
  auto memory = std::make_shared<Buffer>(host_device().allocate(size));
  std::memset(memory->data(), 1, size);
  const auto product = [memory, &team](size_t i) {
    team.parallel_for(kPieceBytes / memory_read::kLineBytes, 1, [&](Range part) {
      uint64_t sum = 0;
      const char* piece = memory->as<char>() + static_cast<int64_t>(i) * kPieceBytes;
      memory_read::kernels.run({.data = piece, .streams = 8, .sum = &sum}, {part.begin, part.end});
    });
  };
  return {"read",
          Precision::kStored,
          0,
          kPieceBytes,
          0,
          "",
          static_cast<size_t>(kCycledBytes / kPieceBytes),
          product,
          {}};
}

void measure(std::vector<Subject>& subjects, int rounds) {
  for (int round = 0; round <= rounds; ++round) {
    for (Subject& one : subjects) {
      // Threads wake and, where all weights stay in the caches, these are filled.
      one.product(0);
      const size_t calls = std::max<size_t>(one.count, 3);
      double time = 0;
      for (size_t i = 0; i < calls; ++i) {
        const double call = seconds([&] { one.product(i % one.count); });
        time += call;
        one.least = std::min(one.least, call);
      }
      if (round > 0) one.times.push_back(time / static_cast<double>(calls));
    }
  }
}

// How many times as long the named subject takes, in the median over the rounds; 0 without it.
double ratio(const std::vector<Subject>& subjects, const char* name, Precision precision,
             const Subject& one) {
  for (const Subject& other : subjects) {
    if (other.name != name || other.precision != precision) continue;
    std::vector<double> ratios;
    for (size_t i = 0; i < one.times.size(); ++i) ratios.push_back(other.times[i] / one.times[i]);
    return median(ratios);
  }
  return 0;
}

void print(const Shape& shape, const std::vector<Subject>& subjects, const Subject& one) {
  const bool in_groups = is_quantized(one.precision) && one.precision != Precision::kInt8;
  const Precision floats = in_groups ? Precision::kBF16 : one.precision;
  double of_read = 0;
  for (const Subject& other : subjects) {
    if (other.name != "read") continue;
    of_read = ratio(subjects, "read", other.precision, one) * static_cast<double>(one.bytes) /
              static_cast<double>(other.bytes);
  }
  const std::string dtype(name(one.precision));
  std::printf(
      "{\"format\": \"%s\", \"dtype\": \"%s\", \"pruned\": %d, \"rows\": %ld, \"inputs\": %ld, "
      "\"outputs\": %ld, \"multiplied\": %ld, \"bytes\": %ld, \"kernel\": \"%s\", "
      "\"isa\": \"%s\", \"microseconds\": %.2f, \"least_microseconds\": %.2f, "
      "\"times_onednn\": %.3f, \"times_dense\": %.3f, \"of_read\": %.3f}\n",
      one.name.c_str(), dtype.c_str(), one.percent, shape.rows, shape.inputs, shape.outputs,
      one.multiplied, one.bytes, one.kernel.c_str(),
      std::string(name(available_isas().back())).c_str(), 1e6 * median(one.times), 1e6 * one.least,
      ratio(subjects, "oneDNN", floats, one), ratio(subjects, "dense", floats, one), of_read);
  std::fflush(stdout);
}

void add(const Data& data, Precision precision, const std::vector<std::string>& formats,
         std::vector<Subject>& subjects, Team& team) {
  subjects.push_back(one_dnn(data, precision, team.size()));
  subjects.push_back(subject(data, "dense", precision, 0, team));
  if (precision == Precision::kInt8) subjects.push_back(conversion(data, team));
  for (const std::string& format : formats) {
    for (const int percent : kPercents)
      subjects.push_back(subject(data, format, precision, percent, team));
  }
}

void measure_and_print(const Shape& shape, std::vector<Subject>& subjects, int rounds) {
  measure(subjects, rounds);
  for (const Subject& one : subjects) print(shape, subjects, one);
}

void run(const Shape& shape, const std::vector<std::string>& formats, int rounds, Team& team) {
  const Data data(shape);
  std::vector<Subject> subjects;
  for (const Precision precision : {Precision::kF32, Precision::kBF16})
    add(data, precision, formats, subjects, team);
  add(data, Precision::kInt8, {"tiles 16x16"}, subjects, team);
  if (shape.rows == 1) subjects.push_back(reading(team));
  measure_and_print(shape, subjects, rounds);
}

void run_int8(const Shape& shape, int rounds, Team& team) {
  const Data data(shape);
  std::vector<Subject> subjects;
  add(data, Precision::kInt8, {"tiles 16x16", "tiles 8x16", "tiles 32x32"}, subjects, team);
  measure_and_print(shape, subjects, rounds);
}

// Everything once that the planner chooses among.
void run_cost(const Shape& shape, int rounds, Team& team) {
  const Data data(shape);
  std::vector<Subject> subjects;
  for (const Precision precision : {Precision::kF32, Precision::kBF16, Precision::kInt8,
                                    Precision::kInt4, Precision::kW8, Precision::kW4}) {
    subjects.push_back(subject(data, "dense", precision, 0, team));
    if (is_quantized(precision) && precision != Precision::kInt8) continue;
    for (const char* format : {"tiles 16x16", "tiles 8x16", "tiles 16x1", "elements"}) {
      // There are no single inputs and no single weights of integers.
      const bool has_integers = std::strstr(format, "x16") != nullptr;
      if (precision == Precision::kInt8 && !has_integers) continue;
      for (const int percent : {50, 70, 80})
        subjects.push_back(subject(data, format, precision, percent, team));
    }
  }
  measure_and_print(shape, subjects, rounds);
}

void run_decode(const Shape& shape, int rounds, Team& team) {
  const Data data(shape);
  std::vector<Subject> subjects = {reading(team)};
  for (const Precision precision :
       {Precision::kBF16, Precision::kInt8, Precision::kW8, Precision::kInt4, Precision::kW4}) {
    subjects.push_back(subject(data, "dense", precision, 0, team));
  }
  measure_and_print(shape, subjects, rounds);
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
  for (const auto& [inputs, outputs] :
       {std::pair<int64_t, int64_t>{768, 768}, {768, 2304}, {768, 3072}, {3072, 768}}) {
    const Shape shape{128, inputs, outputs};
    if (part == "int8") run_int8(shape, rounds, team);
    if (part == "cost") run_cost(shape, rounds, team);
    if (part != "many" && part != "all") continue;
    run(shape,
        {"tiles 16x16", "tiles 16x1", "tiles 8x16", "tiles 32x32", "elements", "outputs", "inputs"},
        rounds, team);
  }
  for (const Shape& shape : {Shape{128, 128, 256}, {128, 256, 256}, {128, 256, 1024}}) {
    if (part == "cost") run_cost(shape, rounds, team);
  }
  if (part == "one" || part == "all")
    run({1, 4096, 4096}, {"tiles 16x16", "tiles 16x1"}, rounds, team);
  if (part == "decode" || part == "all") {
    for (const auto& [inputs, outputs] :
         {std::pair<int64_t, int64_t>{2048, 2560}, {2048, 2048}, {2048, 11264}, {5632, 2048}}) {
      run_decode({1, inputs, outputs}, rounds, team);
    }
  }
  return 0;
}
