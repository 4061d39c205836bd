#include <sys/stat.h>
#include <unistd.h>

#include "compress/output.h"
#include "compress/pipeline_testing.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using testing::compensated;
using testing::Compress;
using testing::content_of;
using testing::distance;
using testing::expect_message;
using testing::logits_of;
using testing::norm;
using testing::options_of;
using testing::quantize_to;
using testing::repaired;
using testing::tiny_bert;
using testing::tiny_llama;
using testing::wider;

class Export : public Compress {
 protected:
  ExportReport write(const std::string& source, const std::string& name,
                     const ExportOptions& options = {}) {
    const auto report = export_dense(source, target(name), options);
    EXPECT_TRUE(report.ok()) << report.status().message();
    return report.ok() ? *report : ExportReport();
  }
  static std::vector<float> values_of(const Checkpoint& checkpoint, const std::string& name) {
    const TensorView view = *checkpoint.any_tensor(name);
    std::vector<float> values(view.size_bytes / size_bytes(view.dtype));
    convert_to_f32(view.data, view.dtype, static_cast<int64_t>(values.size()), values.data());
    return values;
  }
};

class ExportOf : public Export, public ::testing::WithParamInterface<int> {
 protected:
  static CompressOptions options() {
    const PruneUnit units[] = {PruneUnit::kTiles, PruneUnit::kElements, PruneUnit::kOutputs,
                               PruneUnit::kInputs, PruneUnit::kAttentionAware};
    const WeightType types[] = {WeightType::kInt8, WeightType::kInt4, WeightType::kW8,
                                WeightType::kW4};
    if (GetParam() < 5) return options_of(units[GetParam()], 0.6);
    if (GetParam() < 9) return quantize_to(types[GetParam() - 5]);
    CompressOptions both = options_of(PruneUnit::kTiles, 0.6);
    both.quantize = QuantizeOptions{};
    return both;
  }
};

// The plain checkpoint has the tensors of the model that was compressed, and gives what the
// compressed one gives.
TEST_P(ExportOf, IsThePlainModelOfTheCompressedOne) {
  const std::string source = wider(tiny_llama()).write("export_llama");
  run(source, "small", options());
  const ExportReport report = write(target("small"), "dense");
  EXPECT_GT(report.matrices, 0);
  const auto before = Checkpoint::open(source), after = Checkpoint::open(target("dense"));
  ASSERT_TRUE(before.ok()) << before.status().message();
  ASSERT_TRUE(after.ok()) << after.status().message();
  ASSERT_EQ(before->names(), after->names());
  for (const std::string& name : before->names()) {
    EXPECT_EQ(before->any_tensor(name)->shape, after->any_tensor(name)->shape) << name;
    EXPECT_EQ(after->any_tensor(name)->dtype, DType::kF32) << name;
  }
  EXPECT_FALSE(after->config().has("tessera"));
  EXPECT_TRUE(fs::exists(target("dense/model.safetensors")));
  EXPECT_FALSE(fs::exists(target("dense.part")));
  testing::write_out(target("small"), target("written"));
  EXPECT_EQ(logits_of(target("dense")), logits_of(target("written")));
}

constexpr const char* kFormats[] = {"tiles", "elements", "outputs", "inputs", "attention_aware",
                                    "int8",  "int4",     "w8",      "w4",     "int8_tiles"};
INSTANTIATE_TEST_SUITE_P(Formats, ExportOf, ::testing::Range(0, 10),
                         [](const auto& info) { return std::string(kFormats[info.param]); });

TEST_F(Export, MasksSayWhichWeightsWereKept) {
  const std::string source = wider(tiny_bert()).write("export_bert");
  CompressOptions options = options_of(PruneUnit::kTiles, 0.5);
  options.matrices = {"ffn"};
  run(source, "small", options);
  const ExportReport report =
      write(target("small"), "dense", {.masks = ExportOptions::Masks::kYes});
  EXPECT_EQ(report.masks, 4);
  const auto masks = Safetensors::open(target("dense/masks.safetensors"));
  const auto dense = Checkpoint::open(target("dense"));
  ASSERT_TRUE(masks.ok() && dense.ok());
  EXPECT_EQ(masks->tensors().size(), 4u);
  for (const auto& [name, mask] : masks->tensors()) {
    ASSERT_EQ(mask.dtype, DType::kBool);
    EXPECT_EQ(mask.shape, dense->any_tensor(name)->shape);
    const std::vector<float> values = values_of(*dense, name);
    const auto* kept = static_cast<const char*>(mask.data);
    for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(kept[i] != 0, values[i] != 0) << name;
  }
  // The file is there where nothing was pruned, too.
  EXPECT_EQ(write(source, "plain", {.masks = ExportOptions::Masks::kYes}).masks, 0);
  EXPECT_TRUE(fs::exists(target("plain/masks.safetensors")));
}

TEST_F(Export, AllFloatsMayHaveOneType) {
  const std::string source =
      wider(tiny_bert())
          .with("\"vocab_size\"", "\"torch_dtype\": \"float32\", \"vocab_size\"")
          .write("export_bert_typed");
  run(source, "small", options_of(PruneUnit::kTiles, 0.5));
  const auto whole = [&] {
    write(target("small"), "f32");
    return Checkpoint::open(target("f32"));
  }();
  for (const auto& [type, dtype, name] :
       {std::tuple(ExportType::kF16, DType::kF16, "float16"),
        std::tuple(ExportType::kBF16, DType::kBF16, "bfloat16")}) {
    write(target("small"), name, {.type = type});
    const auto typed = Checkpoint::open(target(name));
    ASSERT_TRUE(typed.ok()) << typed.status().message();
    EXPECT_EQ(*typed->config().string("torch_dtype"), name);
    for (const std::string& tensor : typed->names()) {
      EXPECT_EQ(typed->any_tensor(tensor)->dtype, dtype);
      const std::vector<float> exact = values_of(*whole, tensor), found = values_of(*typed, tensor);
      for (size_t i = 0; i < exact.size(); ++i)
        ASSERT_NEAR(found[i], exact[i], 0x1p-8 * std::abs(exact[i])) << tensor;
    }
  }
}

TEST_F(Export, FoldersOfSentenceTransformersStayWhatTheyAre) {
  const std::string inner = wider(tiny_bert()).write("export_inner");
  const std::string home = target("home");
  fs::create_directories(home + "/1_Pooling");
  fs::create_directories(home + "/2_Dense");
  fs::copy(inner, home + "/0_Transformer");
  std::ofstream(home + "/modules.json") << R"([
      {"type": "sentence_transformers.models.Transformer", "path": "0_Transformer"},
      {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}])";
  std::ofstream(home + "/1_Pooling/config.json") << "{}";
  std::ofstream(home + "/2_Dense/model.safetensors") << "weights of a module";
  run(home, "small", options_of(PruneUnit::kTiles, 0.5));
  EXPECT_TRUE(fs::exists(target("small/0_Transformer/tessera.safetensors")));
  EXPECT_TRUE(Model::load(target("small")).ok()) << Model::load(target("small")).status().message();
  write(target("small"), "dense");
  for (const char* name : {"small", "dense"}) {
    EXPECT_FALSE(fs::exists(target(name) + "/config.json")) << name;
    for (const char* file :
         {"/modules.json", "/1_Pooling/config.json", "/2_Dense/model.safetensors"})
      EXPECT_EQ(content_of(target(name) + file), content_of(home + file)) << name;
  }
  EXPECT_TRUE(fs::exists(target("dense/0_Transformer/model.safetensors")));
}

TEST_F(Export, TheModelsOwnCardIsPutBack) {
  const std::string source = wider(tiny_bert()).write("export_card");
  std::ofstream(source + "/README.md") << "of the model";
  write(source, "kept");
  EXPECT_EQ(content_of(target("kept/README.md")), "of the model");
  run(source, "small", options_of(PruneUnit::kTiles, 0.5));
  EXPECT_NE(content_of(target("small/README.md")), "of the model");
  write(target("small"), "dense");
  EXPECT_EQ(content_of(target("dense/README.md")), "of the model");
  EXPECT_FALSE(fs::exists(target("dense/base-model-card.md")));
}

TEST_F(Export, ThereIsNoCardWhereTheModelHadNone) {
  run(wider(tiny_bert()).write("export_no_card"), "small", options_of(PruneUnit::kTiles, 0.5));
  EXPECT_TRUE(fs::exists(target("small/README.md")));
  write(target("small"), "dense");
  EXPECT_FALSE(fs::exists(target("dense/README.md")));
}

TEST_F(Export, IntegersThatBecameFloatsAreNamedInTheConfig) {
  const auto source = [](const std::string& keys) {
    return wider(tiny_bert()).with("\"vocab_size\"", keys + "\"vocab_size\"");
  };
  run(source("\"dtype\": \"float16\", ").write("export_dtype"), "small",
      quantize_to(WeightType::kInt8));
  write(target("small"), "dense");
  const auto dense = Checkpoint::open(target("dense"));
  ASSERT_TRUE(dense.ok()) << dense.status().message();
  EXPECT_EQ(*dense->config().string("dtype"), "float32");
  EXPECT_FALSE(dense->config().has("torch_dtype"));
  run(source("").write("export_no_dtype"), "untyped", quantize_to(WeightType::kInt8));
  write(target("untyped"), "untyped-dense");
  const auto untyped = Checkpoint::open(target("untyped-dense"));
  ASSERT_TRUE(untyped.ok()) << untyped.status().message();
  EXPECT_FALSE(untyped->config().has("torch_dtype"));
}

TEST_F(Export, WhatFailsOrIsCancelledLeavesNothing) {
  const std::string source = wider(tiny_bert()).write("export_bert");
  run(source, "small", options_of(PruneUnit::kTiles, 0.5));
  const auto cancelled = export_dense(
      target("small"), target("dense"),
      {.on_progress = [](const std::string&, int64_t done, int64_t) { return done < 2; }});
  EXPECT_EQ(cancelled.status().code(), StatusCode::kCancelled);
  EXPECT_FALSE(fs::exists(target("dense")));
  EXPECT_FALSE(fs::exists(target("dense.part")));
  expect_message(export_dense(target("small"), target("small") + "/dense").status(),
                 {"outside of"});
}

TEST_F(Export, EveryStepMayBeCancelled) {
  const std::string source = wider(tiny_bert()).write("export_bert");
  fs::copy(source, target("home"));
  dir_.put("home/vocabulary.txt", "a");
  const auto total = static_cast<int64_t>(Checkpoint::open(source)->names().size());
  for (const auto& [step, last] : {std::pair<std::string, int64_t>("writing", total - 1),
                                   {"writing masks", 1},
                                   {"copying other files", 0}}) {
    const ExportOptions options{.masks = ExportOptions::Masks::kYes,
                                .on_progress = [&step = step, &last = last](const std::string& what,
                                                                            int64_t done, int64_t) {
                                  return what != step || done != last;
                                }};
    EXPECT_EQ(export_dense(target("home"), target("dense"), options).status().code(),
              StatusCode::kCancelled)
        << step;
    EXPECT_FALSE(fs::exists(target("dense"))) << step;
    EXPECT_FALSE(fs::exists(target("dense.part"))) << step;
  }
}

// A directory is replaced only where Tessera wrote it, and only by what is whole.
TEST_F(Export, OnlyWhatTesseraWroteIsReplaced) {
  const std::string source = wider(tiny_bert()).write("export_bert");
  const CompressOptions once = options_of(PruneUnit::kTiles, 0.5);
  CompressOptions again = once;
  again.existing = Existing::kReplace;
  run(source, "small", once);
  const std::string before = content_of(target("small/config.json"));
  expect_message(compress(source, target("small"), once).status(), {"not there yet", "--force"});
  again.prune->share = 0.7;
  run(source, "small", again);
  EXPECT_NE(content_of(target("small/config.json")), before);
  EXPECT_FALSE(fs::exists(target("small.part")));
  write(target("small"), "dense");
  expect_message(export_dense(target("small"), target("dense")).status(), {"--force"});
  write(target("small"), "dense", {.existing = Existing::kReplace});
  // The source itself, what holds it, other models and files, and links stay.
  const auto refused = [&](const std::string& place, std::initializer_list<std::string_view> says) {
    expect_message(compress(source, place, again).status(), says);
    expect_message(export_dense(source, place, {.existing = Existing::kReplace}).status(), says);
    EXPECT_FALSE(fs::exists(place + ".part"));
  };
  refused(source, {"outside of"});
  expect_message(compress(target("small"), target("small"), again).status(), {"outside of"});
  const std::string other = wider(tiny_llama()).write("export_llama");
  refused(other, {"found something else, which stays"});
  fs::create_directory(target("empty"));
  refused(target("empty"), {"which stays"});
  dir_.put("file", "text");
  refused(target("file"), {"which stays"});
  fs::create_directory_symlink(target("small"), target("link"));
  refused(target("link"), {"which stays"});
  EXPECT_TRUE(Checkpoint::open(target("small")).ok());
  EXPECT_TRUE(Checkpoint::open(other).ok());
}

TEST_F(Export, TwoRunsToOneOutputExcludeEachOther) {
  const std::string source = wider(tiny_bert()).write("export_bert");
  const CompressOptions options = options_of(PruneUnit::kTiles, 0.5);
  {
    const auto first = OutputDirectory::open(target("small"), Existing::kRefuse);
    ASSERT_TRUE(first.ok()) << first.status().message();
    const auto busy = {std::string_view("small.part"), std::string_view("found one at work")};
    expect_message(compress(source, target("small"), options).status(), busy);
    expect_message(export_dense(source, target("small")).status(), busy);
  }
  // One that was killed before it wrote what it is.
  dir_.put("small.part/run.json.tessera-1-0.tmp", "{");
  run(source, "small", options);
  // What is there and not a run's is nobody's to remove.
  dir_.put("dense.part/notes.txt", "mine");
  expect_message(export_dense(source, target("dense")).status(), {"dense.part", "remove it"});
  expect_message(compress(source, target("dense"), options).status(), {"other files", "remove it"});
  EXPECT_TRUE(fs::exists(target("dense.part/notes.txt")));
}

TEST_F(Export, WhatAnotherRunLeftIsBegunAnewWhereThatIsAsked) {
  const std::string source = wider(tiny_bert()).write("export_bert");
  CompressOptions options = options_of(PruneUnit::kTiles, 0.5);
  options.on_progress = [](const std::string& what, int64_t done, int64_t) {
    return !(what == "pruning" && done == 1);
  };
  EXPECT_EQ(compress(source, target("small"), options).status().code(), StatusCode::kCancelled);
  options.on_progress = {};
  options.prune->share = 0.7;
  expect_message(compress(source, target("small"), options).status(),
                 {"same options", "of other options", "--force"});
  options.existing = Existing::kReplace;
  run(source, "small", options);
}

// A file whose header tells of more than there is: nothing behind the mapping is read.
TEST_F(Export, ReplayTensorsBeyondTheMappingAreNeverCopied) {
  const std::string source = wider(tiny_bert()).write("export_beyond");
  const std::string file = source + "/model.safetensors";
  const auto size = static_cast<int64_t>(fs::file_size(file));
  for (const int64_t missing : {int64_t{1}, int64_t{4096}, size / 2}) {
    fs::resize_file(file, static_cast<uintmax_t>(size - missing));
    for (const CompressOptions& options :
         {options_of(PruneUnit::kTiles, 0.5), quantize_to(WeightType::kInt8)}) {
      expect_message(compress(source, target("small"), options).status(),
                     {"model.safetensors", "the file ends early"});
    }
    expect_message(export_dense(source, target("dense")).status(),
                   {"model.safetensors", "the file ends early"});
    for (const char* name : {"small", "small.part", "dense", "dense.part"})
      EXPECT_FALSE(fs::exists(target(name))) << name;
  }
}

// Of a compressed matrix as well.
TEST_F(Export, ReplayPartsBeyondTheMappingAreNeverCopied) {
  run(wider(tiny_bert()).write("export_bert"), "small", options_of(PruneUnit::kTiles, 0.5));
  const std::string file = target("small/tessera.safetensors");
  fs::resize_file(file, fs::file_size(file) - 100);
  expect_message(export_dense(target("small"), target("dense")).status(), {"the file ends early"});
  EXPECT_FALSE(fs::exists(target("dense.part")));
}

// Pruning leaves integers integers, bit by bit where nothing is fitted to a text.
TEST_F(Export, AQuantizedModelStaysQuantizedWhenItIsPruned) {
  const std::string source = wider(tiny_llama()).write("export_llama");
  for (const WeightType type : {WeightType::kInt8, WeightType::kInt4}) {
    CompressOptions first = quantize_to(type);
    first.existing = Existing::kReplace;
    const CompressReport whole = run(source, "integers", first);
    for (const bool repairs : {false, true}) {
      CompressOptions second = options_of(PruneUnit::kTiles, 0.6);
      if (repairs) second = repaired(second);
      second.existing = Existing::kReplace;
      const CompressReport pruned = run(target("integers"), "pruned", second);
      EXPECT_NEAR(pruned.share, 0.6, 0.06);
      for (const MatrixReport& matrix : pruned.matrices)
        EXPECT_NE(matrix.precision, "") << matrix.name;
      EXPECT_LE(pruned.bytes_after, whole.bytes_after + 512);
      expect_like_written_out("pruned", WeightType::kF32);
      fs::remove_all(target("pruned-dense"));
      if (repairs || type != WeightType::kInt8) continue;
      EXPECT_LT(pruned.bytes_after, whole.bytes_after);
      const ExportOptions replace{.existing = Existing::kReplace};
      write(target("integers"), "integers-dense", replace);
      write(target("pruned"), "tiles-dense", replace);
      const auto a = Checkpoint::open(target("integers-dense"));
      const auto b = Checkpoint::open(target("tiles-dense"));
      ASSERT_TRUE(a.ok() && b.ok());
      for (const MatrixReport& matrix : pruned.matrices) {
        const std::vector<float> all = values_of(*a, matrix.name);
        const std::vector<float> left = values_of(*b, matrix.name);
        for (size_t i = 0; i < all.size(); ++i)
          ASSERT_TRUE(left[i] == 0 || left[i] == all[i]) << matrix.name << " " << i;
      }
    }
  }
}

// A smaller share, another unit or more bits would only bring back zeros and roundings.
TEST_F(Export, ARunThatWouldUndoAnEarlierOneIsRefused) {
  const std::string source = wider(tiny_llama()).write("export_llama");
  run(source, "tiles", options_of(PruneUnit::kTiles, 0.6));
  run(source, "w4", quantize_to(WeightType::kW4));
  const auto refused = [&](const char* from, const CompressOptions& options) {
    expect_message(compress(target(from), target("again"), options).status(),
                   {"would come back", "the model that this one was made from"});
  };
  refused("tiles", options_of(PruneUnit::kTiles, 0.3));
  refused("tiles", options_of(PruneUnit::kElements, 0.3));
  refused("w4", quantize_to(WeightType::kInt8));
  const CompressReport more = run(target("tiles"), "more", options_of(PruneUnit::kTiles, 0.8));
  EXPECT_LT(more.bytes_after, more.bytes_before);
  run(target("tiles"), "tiles-int8", quantize_to(WeightType::kInt8));
}

TEST_F(Export, PruningThatWouldMakeFloatsOfIntegersIsRefused) {
  const std::string source = wider(tiny_llama()).write("export_llama");
  run(source, "int8", quantize_to(WeightType::kInt8));
  run(source, "w4", quantize_to(WeightType::kW4));
  const auto refused = [&](const char* from, PruneUnit unit, const char* found) {
    expect_message(compress(target(from), target("pruned"), options_of(unit, 0.5)).status(),
                   {"expected floats to prune", found, "with both options in one run"});
    EXPECT_FALSE(fs::exists(target("pruned.part")));
  };
  for (const PruneUnit unit :
       {PruneUnit::kElements, PruneUnit::kOutputs, PruneUnit::kInputs, PruneUnit::kAttentionAware})
    refused("int8", unit, "found int8");
  refused("w4", PruneUnit::kTiles, "found w4");
}

TEST_F(Export, NothingLeftToQuantizeIsSaid) {
  const std::string source = wider(tiny_llama()).write("export_llama");
  CompressOptions both = options_of(PruneUnit::kTiles, 0.8);
  both.quantize = QuantizeOptions{};
  run(source, "tiles", both);
  expect_message(compress(target("tiles"), target("w4"), quantize_to(WeightType::kW4)).status(),
                 {"found nothing left", "quantize"});
}

}  // namespace
}  // namespace tessera
