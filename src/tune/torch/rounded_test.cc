#include "tune/torch/rounded.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "base/device.h"
#include "compress/pipeline_testing.h"
#include "formats/integer_rows.h"
#include "linear/linear.h"
#include "tune/torch/batch_testing.h"
#include "tune/torch/functions.h"
#include "tune/torch/network.h"
#include "tune/torch/optimizer.h"

namespace tessera::training {
namespace {

namespace fs = std::filesystem;
using torch::Tensor;

enum class InputScales { kNone, kSome };

struct Form {
  const char* name;
  Precision precision;
  int32_t group;
  InputScales input_scales;
};
constexpr Form kForms[] = {{"int8", Precision::kInt8, 0, InputScales::kNone},
                           {"smoothed int8", Precision::kInt8, 0, InputScales::kSome},
                           {"int8 in groups", Precision::kInt8, 16, InputScales::kSome},
                           {"int4", Precision::kInt4, 32, InputScales::kNone},
                           {"smoothed int4", Precision::kInt4, 32, InputScales::kSome},
                           {"w8", Precision::kW8, 16, InputScales::kNone},
                           {"w4", Precision::kW4, 0, InputScales::kNone}};

constexpr int64_t kOutputs = 37, kInputs = 45;

int64_t groups_of(const Form& form) {
  return form.group == 0 ? 1 : (kInputs + form.group - 1) / form.group;
}

// Values of which some lie beyond what the scales reach; one scale is 0, one is negative.
Parameter weight_of(const Form& form) {
  at::manual_seed(3);
  Parameter weight;
  weight.name = form.name;
  weight.rounding = SourceRounding{.precision = form.precision, .group = form.group};
  const double reach = bits(form.precision) == 8 ? 127 : 7;
  const Tensor scales = at::rand({kOutputs * groups_of(form)}) + 1;
  for (int64_t i = 0; i < scales.numel(); ++i)
    weight.rounding->scales.push_back(static_cast<float>(scales[i].item<double>() / reach));
  weight.rounding->scales[0] = 0;
  weight.rounding->scales[1] *= -1;
  if (form.input_scales == InputScales::kSome) {
    const Tensor factors = at::rand({kInputs}) + 0.5;
    for (int64_t i = 0; i < kInputs; ++i)
      weight.rounding->input_scales.push_back(factors[i].item<float>());
  }
  weight.value = at::randn({kOutputs, kInputs}).set_requires_grad(true);
  return weight;
}

// Each weight's integer before it is limited, in f64.
Tensor exact_integers(const Parameter& weight) {
  const SourceRounding& rounding = *weight.rounding;
  Tensor exact = weight.value.detach().to(at::kDouble);
  if (!rounding.input_scales.empty()) exact = exact * at::tensor(rounding.input_scales);
  const int64_t group = rounding.group == 0 ? kInputs : rounding.group;
  const int64_t groups = (kInputs + group - 1) / group;
  for (int64_t o = 0; o < kOutputs; ++o) {
    for (int64_t i = 0; i < kInputs; ++i) {
      const double scale = rounding.scales[static_cast<size_t>(o * groups + i / group)];
      exact[o][i] = scale == 0 ? 0 : exact[o][i].item<double>() / scale;
    }
  }
  return exact;
}

Tensor limited(const Form& form, const Tensor& exact) {
  return bits(form.precision) == 8 ? exact.clamp(-127, 127) : exact.clamp(-8, 7);
}

Tensor integers_in(const Integers& integers) {
  return at::tensor(integers.values, at::kChar).view({integers.outputs, integers.inputs});
}

TEST(Rounded, IntegersAreTheNearest) {
  for (const Form& form : kForms) {
    SCOPED_TRACE(form.name);
    const Parameter weight = weight_of(form);
    const Tensor expected = limited(form, exact_integers(weight));
    const Tensor found = integers_in(integers_of(weight)).to(at::kDouble);
    // What f32 divides is off by two roundings.
    EXPECT_LE((found - expected).abs().max().item<double>(), 0.5 + 2 * 127 * FLT_EPSILON);
    EXPECT_GT((exact_integers(weight) - expected).abs().max().item<double>(), 1);
  }
}

TEST(Rounded, ProductsUseWhatIsWritten) {
  for (const Form& form : kForms) {
    SCOPED_TRACE(form.name);
    Parameter weight = weight_of(form);
    const PackedMatrix packed = pack_integers(integers_of(weight));
    const Tensor written = at::empty({kOutputs, kInputs});
    to_dense(packed.matrix, written.data_ptr());
    EXPECT_TRUE(at::equal(rounded_values(weight), written));
    // What is read again is rounded to itself.
    weight.value = written.clone().set_requires_grad(true);
    EXPECT_TRUE(at::equal(rounded_values(weight), written));
    weight.value.set_requires_grad(false);
    EXPECT_TRUE(rounded_values(weight).is_same(weight.value));
  }
}

// The gradient of the master is that of a matrix of floats with the rounded values, and 0 where a
// value is beyond the integers.
TEST(Rounded, GradientPassesStraightThrough) {
  for (const Form& form : kForms) {
    SCOPED_TRACE(form.name);
    Parameter weight = weight_of(form), plain;
    weight.mask = TileMask::all({5, 5}, kOutputs, kInputs);
    for (size_t tile = 0; tile < weight.mask->kept.size(); tile += 3) weight.mask->kept[tile] = 0;
    clear_pruned(*weight.mask, sizeof(float), weight.value.data_ptr<float>());
    plain.mask = weight.mask;
    plain.value = rounded_values(weight).detach().clone().set_requires_grad(true);
    const Tensor x = at::randn({19, kInputs}).set_requires_grad(true);
    const Tensor rows = rounded_rows(x, weight).detach().set_requires_grad(true);
    const Tensor dy = at::randn({19, kOutputs});
    const Tensor y = linear(x, weight, nullptr), expected = linear(rows, plain, nullptr);
    EXPECT_TRUE(at::equal(y, expected));
    y.backward(dy);
    expected.backward(dy);
    EXPECT_TRUE(at::equal(x.grad(), rows.grad()));
    const Tensor exact = exact_integers(weight);
    const Tensor beyond = (exact - limited(form, exact)).abs() > 0.5;
    EXPECT_GT(beyond.sum().item<int64_t>(), 10);
    EXPECT_TRUE(at::equal(weight.value.grad(), plain.value.grad().masked_fill(beyond, 0)));
  }
}

// |x - x'| of rows of 8 bits is half a step at most: of the span of a row over 255, or of the
// largest of a block over 127. Input scales make both coarser or finer by input.
TEST(Rounded, RowsAreWithinHalfAStep) {
  for (const Form& form : kForms) {
    SCOPED_TRACE(form.name);
    const Parameter weight = weight_of(form);
    const Tensor x = at::randn({23, kInputs}).set_requires_grad(true);
    const Tensor found = rounded_rows(x, weight);
    if (!has_integer_rows(form.precision)) {
      EXPECT_TRUE(found.is_same(x));
      continue;
    }
    EXPECT_FALSE(at::equal(found, x));
    const auto& scales = weight.rounding->input_scales;
    const Tensor factors = scales.empty() ? at::ones({kInputs}) : at::tensor(scales);
    const Tensor scaled = x.detach() / factors, error = (found.detach() - x.detach()) / factors;
    for (int64_t begin = 0, size = form.group == 0 ? kInputs : form.group; begin < kInputs;
         begin += size) {
      const int64_t count = std::min(size, kInputs - begin);
      const Tensor part = scaled.narrow(1, begin, count);
      const bool whole = form.precision == Precision::kInt8 && form.group == 0;
      const Tensor step = whole ? (part.amax(1).clamp_min(0) - part.amin(1).clamp_max(0)) / 255
                                : part.abs().amax(1) / 127;
      const Tensor most = error.narrow(1, begin, count).abs().amax(1);
      EXPECT_LE((most / step).max().item<double>(), 0.51);
    }
    found.backward(at::full_like(found, 2));
    EXPECT_TRUE(at::equal(x.grad(), at::full_like(x, 2)));
  }
}

// The product of the engine from the file's form.
Tensor engine_product(const Parameter& weight, const Tensor& x) {
  const PackedMatrix packed = pack_integers(integers_of(weight));
  Team team(1);
  const auto map = prepare_linear({packed.matrix}, nullptr, Precision::kStored, team);
  EXPECT_TRUE(map.ok()) << map.status().message();
  const int64_t rows = x.size(0);
  const auto memory = [](int64_t bytes) {
    return host_device().allocate(static_cast<size_t>(bytes));
  };
  const Buffer converted = memory((*map)->converted_bytes(rows));
  const Buffer scratch = memory((*map)->scratch_bytes(rows));
  Tensor y = at::empty({rows, kOutputs});
  const LinearArgs args{.x = x.data_ptr<float>(),
                        .x_stride = kInputs,
                        .rows = rows,
                        .y = y.data_ptr<float>(),
                        .y_stride = kOutputs,
                        .scratch = scratch.data()};
  team.run([&](Team::Member& member) { apply_shared(**map, args, converted.data(), member); });
  return y;
}

// Both round x to the same integers, and add up in f32 in another order: |y - y'| <= n eps |x| |W|.
// Rows of 16 bits, which are floats here, are off by 0.51 of a block's steps an input.
TEST(Rounded, ProductsEqualTheEngine) {
  const at::NoGradGuard no_gradients;
  for (const Form& form : kForms) {
    SCOPED_TRACE(form.name);
    const bool is_by_row = form.precision == Precision::kInt8 && form.group == 0;
    const bool has_bytes = has_integer_rows(form.precision);
    // Elsewhere groups are multiplied with rows of 16 bits.
    if (has_bytes && !is_by_row && !hardware_has(Isa::kAvx512Vnni)) continue;
    const Parameter weight = weight_of(form);
    const Tensor x = at::randn({23, kInputs}), sizes = rounded_values(weight).abs();
    const Tensor found = linear(x, weight, nullptr), expected = engine_product(weight, x);
    double tolerance = kInputs * FLT_EPSILON * at::matmul(x.abs(), sizes.t()).max().item<double>();
    if (!has_bytes) {
      const double step = x.abs().max().item<double>() / most(RowForm::k16);
      tolerance += 0.51 * step * sizes.sum(1).max().item<double>();
    }
    EXPECT_LE((found - expected).abs().max().item<double>(), tolerance);
  }
}

TEST(Rounded, WeightsMoveByWholeSteps) {
  Parameter weight = weight_of(kForms[3]);
  AdamW optimizer({.weight_decay = 0}, {&weight});
  const Tensor before = integers_in(integers_of(weight)).clone();
  const auto step = [&](double rate) {
    weight.value.mutable_grad() = at::ones_like(weight.value);
    optimizer.step(rate, 1);
    return integers_in(integers_of(weight));
  };
  // Each step of the first ones is of the rate.
  EXPECT_TRUE(at::equal(step(1e-9), before));
  for (int i = 0; i < 20; ++i) step(0.05);
  EXPECT_FALSE(at::equal(step(0.05), before));
}

struct Case {
  const char* name;
  CompressOptions options;
};

std::vector<Case> formats() {
  std::vector<Case> cases;
  for (const WeightType type :
       {WeightType::kInt8, WeightType::kInt4, WeightType::kW8, WeightType::kW4})
    cases.push_back({name(type).data(), testing::quantize_to(type)});
  CompressOptions smoothed = testing::quantize_to(WeightType::kInt8);
  smoothed.quantize->smooth = 0.5;
  smoothed.calibration.sequences = testing::sequences(20, 30, 1);
  cases.push_back({"smoothed int8", smoothed});
  CompressOptions tiles = testing::quantize_to(WeightType::kInt8);
  tiles.prune = PruneOptions{.share = 0.6, .tile_rows = 8, .tile_cols = 8};
  cases.push_back({"tiles of int8", tiles});
  return cases;
}

std::vector<std::string> dense_models() {
  std::vector<std::string> models = {testing::wider(testing::tiny_bert()).write("rounded_bert"),
                                     testing::wider(testing::tiny_llama()).write("rounded_llama")};
  const char* shared = std::getenv("TESSERA_SHARED");
  for (const char* golden : {"gpt2", "bert-mlm", "qwen2"}) {
    if (shared != nullptr) models.push_back(fs::path(shared) / "golden/models" / golden);
  }
  return models;
}

std::unique_ptr<OpenCheckpoint> open(const std::string& path) {
  auto opened = OpenCheckpoint::open(path);
  EXPECT_TRUE(opened.ok()) << opened.status().message();
  return opened.ok() ? std::move(opened).value() : nullptr;
}

TrainedModel read(const std::string& path, const std::vector<std::string>& train) {
  auto model = read_model(*open(path));
  EXPECT_TRUE(model.ok()) << model.status().message();
  TuneOptions options;
  options.train = train;
  options.task = TuneTask::kCausalLm;
  if (!train.empty()) {
    EXPECT_TRUE(choose_trained(options, *model).ok());
  }
  return std::move(model).value();
}

void write(const std::string& source, TrainedModel& model, const std::string& target) {
  const auto opened = open(source);
  const auto part = PartDirectory::open(target, "{}", Existing::kReplace);
  ASSERT_TRUE(part.ok()) << part.status().message();
  fs::create_directories(target);
  const Status status = write_model(*opened, model, "", *part, target);
  ASSERT_TRUE(status.ok()) << status.message();
}

const std::vector<std::string> kEverything = {"qkv",  "attention_output", "ffn", "bias",
                                              "norm", "embedding",        "head"};

// Every format of the models, compressed.
class RoundedModels : public ::testing::Test {
 protected:
  template <typename Visit>
  void for_each(Visit visit) const {
    for (const std::string& dense : dense_models()) {
      for (const Case& one : formats()) {
        SCOPED_TRACE(dense + " as " + one.name);
        const std::string small = folder_ / "small";
        fs::remove_all(small);
        const auto compressed = compress(dense, small, one.options);
        ASSERT_TRUE(compressed.ok()) << compressed.status().message();
        visit(small);
      }
    }
  }

  const tessera::testing::TempDir folder_;
  const std::vector<TokenSequence> sequences_ = testing::sequences(3, 20, 5);
  const Batch batch_ = batch_of(sequences_);
};

// An input between two integers may be rounded to either after other roundings of f32, and is then
// a step off, 1 / 127 of the largest at 8 bits: on average states are within a quarter of that.
// Where rows have 16 bits, steps are smaller than what some layers add to them.
TEST_F(RoundedModels, EqualTheEngine) {
  for_each([&](const std::string& small) {
    const TrainedModel model = read(small, kEverything);
    const at::NoGradGuard no_gradients;
    const States states = forward(model, batch_);
    const auto engine = Model::load(small, {.threads = 1});
    ASSERT_TRUE(engine.ok()) << engine.status().message();
    const auto expected = (*engine)->forward(sequences_, {.hidden_states = true});
    ASSERT_TRUE(expected.ok()) << expected.status().message();
    const bool has_bytes = std::any_of(
        model.parameters.begin(), model.parameters.end(), [](const Parameter& parameter) {
          return parameter.rounding && has_integer_rows(parameter.rounding->precision);
        });
    const double tolerance = has_bytes ? 0.25 / 127 : 1e-4;
    const auto compare = [&](const std::vector<float>& wanted, const Tensor& found) {
      const Tensor difference = (at::tensor(wanted) - found.contiguous().view({-1})).abs();
      const double largest = at::tensor(wanted).abs().max().item<double>();
      EXPECT_LE(difference.mean().item<double>(), tolerance * largest);
    };
    compare(expected->hidden_states[1], states.hidden[1]);
    compare(expected->hidden_states.back(), states.last);
    if (!expected->logits.empty() && model.architecture.head != Head::kSequenceClassification)
      compare(expected->logits, head(model, states.last));
  });
}

TEST_F(RoundedModels, AreWrittenAsTheyWereComputedWith) {
  for_each([&](const std::string& small) {
    TrainedModel model = read(small, kEverything);
    const at::NoGradGuard no_gradients;
    at::manual_seed(1);
    for (Parameter* parameter : model.trained()) {
      parameter->value.add_(at::randn_like(parameter->value), 0.01);
      if (parameter->mask)
        clear_pruned(*parameter->mask, sizeof(float), parameter->value.data_ptr<float>());
    }
    const std::string target = folder_ / "target";
    write(small, model, target);
    const TrainedModel written = read(target, {});
    const States expected = forward(model, batch_), found = forward(written, batch_);
    EXPECT_TRUE(at::equal(expected.last, found.last));
    if (model.architecture.head != Head::kNone) {
      EXPECT_TRUE(at::equal(head(model, expected.last), head(written, found.last)));
    }
    const auto before = open(small), after = open(target);
    EXPECT_EQ(before->checkpoint.names(), after->checkpoint.names());
    int changed = 0;
    for (const std::string& name : before->checkpoint.names()) {
      const TensorView one = *before->checkpoint.any_tensor(name);
      const TensorView other = *after->checkpoint.any_tensor(name);
      EXPECT_EQ(one.dtype, other.dtype) << name;
      ASSERT_EQ(one.shape, other.shape) << name;
      const bool differs = std::memcmp(one.data, other.data, one.size_bytes) != 0;
      EXPECT_FALSE(differs && name.ends_with("scales")) << name;
      changed += differs && (name.ends_with(".values") || name.ends_with(".tiles")) ? 1 : 0;
    }
    EXPECT_GT(changed, 7);
    for (const auto& [name, format] : before->formats.tensors())
      EXPECT_EQ(to_json(format), to_json(*after->formats.find(name))) << name;
  });
}

TEST_F(RoundedModels, KeepTheBitsOfWhatIsNotTrained) {
  for_each([&](const std::string& small) {
    TrainedModel model = read(small, {"norm", "bias", "value"});
    {
      const at::NoGradGuard no_gradients;
      for (Parameter* parameter : model.trained()) parameter->value.add_(0.01);
    }
    const std::string target = folder_ / "target";
    write(small, model, target);
    const auto before = open(small), after = open(target);
    for (const std::string& name : before->checkpoint.names()) {
      const bool is_kept =
          name.ends_with("scales") ||
          ((name.ends_with(".values") || name.ends_with(".tiles")) &&
           name.find("v_proj") == std::string::npos && name.find(".value.") == std::string::npos);
      if (!is_kept) continue;
      const TensorView one = *before->checkpoint.any_tensor(name);
      const TensorView other = *after->checkpoint.any_tensor(name);
      ASSERT_EQ(one.shape, other.shape) << name;
      EXPECT_EQ(std::memcmp(one.data, other.data, one.size_bytes), 0) << name;
    }
  });
}

}  // namespace
}  // namespace tessera::training
