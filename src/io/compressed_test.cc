#include "io/compressed.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <map>
#include <random>

#include "io/testing.h"

namespace tessera {
namespace {

using testing::expect_message;
using testing::TempDir;

constexpr int64_t kRows = 37, kCols = 50;

std::vector<float> random_values(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

TileMask every_third(TileShape tile) {
  TileMask mask = TileMask::all(tile, kRows, kCols);
  for (size_t i = 0; i < mask.kept.size(); ++i) mask.kept[i] = i % 3 == 0 ? 1 : 0;
  return mask;
}

// A directory of one matrix "w" in a format.
class Compressed : public ::testing::Test {
 protected:
  void write(const Result<PackedMatrix>& packed) {
    ASSERT_TRUE(packed.ok()) << packed.status().message();
    TensorList list;
    add_matrix("w", *packed, list);
    const Status status = write_safetensors(dir_ / "model.safetensors", list.tensors);
    ASSERT_TRUE(status.ok()) << status.message();
  }
  void config(const std::string& entry, const std::string& format = "1") {
    dir_.put("config.json",
             R"({"tessera": {"format": )" + format + R"(, "tensors": {"w": )" + entry + "}}}");
  }
  Result<ReadMatrix> read(MatrixOrder order = MatrixOrder::kOutputRows) {
    auto opened = Checkpoint::open(dir_.path());
    if (!opened.ok()) return opened.status();
    checkpoint_ = std::move(opened).value();
    const auto formats = TensorFormats::read(checkpoint_.config());
    if (!formats.ok()) return formats.status();
    return read_matrix(checkpoint_, *formats, "w", {nullptr, DType::kF32, kRows, kCols, order});
  }
  void expect_equal(const Result<ReadMatrix>& read, const PackedMatrix& packed) {
    ASSERT_TRUE(read.ok()) << read.status().message();
    std::vector<char> found(static_cast<size_t>(dense_bytes(read->packed.matrix))),
        expected(found.size());
    to_dense(read->packed.matrix, found.data());
    to_dense(packed.matrix, expected.data());
    EXPECT_EQ(found, expected);
    EXPECT_EQ(format_name(read->packed.matrix), format_name(packed.matrix));
  }

  TempDir dir_;
  Checkpoint checkpoint_;
  std::vector<float> values_ = random_values(kRows * kCols, 5);
  DenseView dense_{values_.data(), DType::kF32, kRows, kCols, MatrixOrder::kOutputRows};
};

constexpr const char* kTiles = R"({"format": "tiles", "shape": [37, 50], "tile": [16, 16]})";

TEST_F(Compressed, EveryFormatIsReadAsItWasWritten) {
  const auto tiles = pack_tiles(dense_, every_third({16, 16}));
  write(tiles);
  config(kTiles);
  expect_equal(read(), *tiles);
  const auto csr = pack_csr(dense_, every_third({1, 1}));
  write(csr);
  config(R"({"format": "csr", "shape": [37, 50]})");
  expect_equal(read(), *csr);
  for (const KeptAxis axis : {KeptAxis::kOutputs, KeptAxis::kInputs}) {
    const bool rows = axis == KeptAxis::kOutputs;
    const auto compact =
        pack_compact(dense_, axis, every_third(rows ? TileShape{1, 50} : TileShape{37, 1}).kept);
    write(compact);
    config(std::string(R"({"format": "compact", "shape": [37, 50], "axis": ")") +
           (rows ? "outputs" : "inputs") + R"("})");
    expect_equal(read(), *compact);
  }
}

TEST_F(Compressed, IntegerTilesAreReadAsTheyWereWritten) {
  for (const MatrixOrder order : {MatrixOrder::kOutputRows, MatrixOrder::kInputRows}) {
    dense_.order = order;
    const auto floats = pack_tiles(dense_, every_third({16, 16}));
    ASSERT_TRUE(floats.ok());
    auto tiles = pack_quantized(get<TileMatrix>(floats->matrix));
    write(tiles);
    config(kTiles);
    auto found = read(order);
    expect_equal(found, *tiles);
    EXPECT_TRUE(get<TileMatrix>(found->packed.matrix).is_quantized());
    set_scales(".input_scales", random_values(inputs(tiles->matrix), 7), *tiles);
    write(tiles);
    found = read(order);
    expect_equal(found, *tiles);
    EXPECT_NE(get<TileMatrix>(found->packed.matrix).input_scales, nullptr);
  }
}

TEST_F(Compressed, IntegerTilesThatLieAreOneSentence) {
  const auto floats = pack_tiles(dense_, every_third({16, 16}));
  ASSERT_TRUE(floats.ok());
  const auto packed = pack_quantized(get<TileMatrix>(floats->matrix));
  ASSERT_TRUE(packed.ok());
  config(kTiles);
  const auto written = [&](auto change) {
    TensorList list;
    add_matrix("w", *packed, list);
    std::map<std::string, TensorToWrite> tensors;
    for (const TensorToWrite& tensor : list.tensors) tensors.emplace(tensor.name, tensor);
    change(tensors);
    std::vector<TensorToWrite> all;
    for (const auto& [name, tensor] : tensors) all.push_back(tensor);
    EXPECT_TRUE(write_safetensors(dir_ / "model.safetensors", all).ok());
    return read().status();
  };
  using Tensors = std::map<std::string, TensorToWrite>;
  EXPECT_TRUE(written([](Tensors&) {}).ok());
  expect_message(written([](Tensors& t) { t.erase("w.tile_scales"); }),
                 {"w.tiles", "expected F32, F16 or BF16, found I8"});
  expect_message(written([](Tensors& t) { t.at("w.tile_scales").dtype = DType::kI32; }),
                 {"w.tile_scales", "expected F32, found I32"});
  expect_message(written([](Tensors& t) { t.at("w.tile_scales").shape = {36}; }),
                 {"w.tile_scales", "expected shape [37], found [36]"});
  expect_message(written([](Tensors& t) { t.at("w.tiles").dtype = DType::kU8; }),
                 {"w.tiles", "expected I8, found U8"});
  const std::vector<float> scales(50, 0.0f);
  expect_message(written([&](Tensors& t) {
                   t.emplace("w.input_scales",
                             TensorToWrite{"w.input_scales", DType::kF32, {50}, scales.data()});
                 }),
                 {"\"w\"", "input scales", "found 0 at index 0"});
  expect_message(written([&](Tensors& t) {
                   t.emplace("w.input_scales",
                             TensorToWrite{"w.input_scales", DType::kF32, {37}, scales.data()});
                 }),
                 {"w.input_scales", "expected shape [50]"});
  const std::vector<int8_t> least(packed->memory[0].size(), -128);
  expect_message(written([&](Tensors& t) { t.at("w.tiles").data = least.data(); }),
                 {"\"w\"", "found -128"});
}

constexpr const char* kQuantized =
    R"({"format": "quantized", "shape": [37, 50], "precision": "w4", "group": 16})";

TEST_F(Compressed, QuantizedMatricesAreReadAsTheyWereWritten) {
  for (const Precision precision :
       {Precision::kInt8, Precision::kInt4, Precision::kW8, Precision::kW4}) {
    for (const int32_t group : {0, 16}) {
      const auto packed = pack_quantized(dense_, precision, group);
      write(packed);
      config(R"({"format": "quantized", "shape": [37, 50], "precision": ")" +
             std::string(name(precision)) + R"(", "group": )" + std::to_string(group) + "}");
      const auto found = read();
      expect_equal(found, *packed);
      const auto matrix = get<QuantizedMatrix>(found->packed.matrix);
      EXPECT_EQ(matrix.precision, precision);
      EXPECT_EQ(matrix.group, group);
      EXPECT_EQ(matrix.input_scales, nullptr);
    }
  }
}

TEST_F(Compressed, InputScalesAreReadWhereTheyAre) {
  auto packed = pack_quantized(dense_, Precision::kInt8, 0);
  ASSERT_TRUE(packed.ok());
  set_scales(".input_scales", std::vector<float>(kCols, 4.0f), *packed);
  write(packed);
  config(R"({"format": "quantized", "shape": [37, 50], "precision": "int8", "group": 0})");
  expect_equal(read(), *packed);
  EXPECT_EQ(tensors_of(*TensorFormats::read(checkpoint_.config()), "w"),
            (std::vector<std::string>{"w.values", "w.scales", "w.input_scales"}));
}

TEST_F(Compressed, QuantizedMatricesStandByOutputsWhateverTheOrder) {
  dense_.order = MatrixOrder::kInputRows;  // 37 inputs
  const auto packed = pack_quantized(dense_, Precision::kW8, 0);
  write(packed);
  config(R"({"format": "quantized", "shape": [50, 37], "precision": "w8", "group": 0})");
  const auto found = read(MatrixOrder::kInputRows);
  expect_equal(found, *packed);
  EXPECT_EQ(inputs(found->packed.matrix), 37);
  expect_message(read().status(), {"expected shape [37, 50], found [50, 37]"});
}

TEST_F(Compressed, AQuantizedMatrixThatLiesIsOneSentence) {
  auto packed = pack_quantized(dense_, Precision::kW4, 16);
  const auto refused = [&](const std::string& entry,
                           std::initializer_list<std::string_view> parts) {
    config(entry);
    expect_message(read().status(), parts);
  };
  write(packed);
  const std::string shape = R"({"format": "quantized", "shape": [37, 50], )";
  refused(shape + R"("group": 16})", {"precision", "found nothing"});
  refused(shape + R"("precision": "bf16", "group": 16})", {"int8, int4, w8 or w4", "bf16"});
  refused(shape + R"("precision": "w4"})", {"group", "found nothing"});
  refused(shape + R"("precision": "w4", "group": -1})", {"group", "found -1"});
  refused(shape + R"("precision": "w4", "group": 1e30})", {"group", "found 1e"});
  refused(shape + R"("precision": "w4", "group": 51})", {"w.scales", "[37, 1]", "[37, 4]"});
  refused(shape + R"("precision": "w4", "group": 8})", {"w.scales", "[37, 7]", "[37, 4]"});
  refused(shape + R"("precision": "w8", "group": 16})", {"w.values", "[37, 50]", "[37, 25]"});
  refused(R"({"format": "quantized", "shape": [37, 51], "precision": "w4", "group": 16})",
          {"expected shape [37, 50], found [37, 51]"});
  config(kQuantized);
  const auto written = [&](auto change) {
    TensorList list;
    add_matrix("w", *packed, list);
    std::vector<float> scales(37 * 4, 1.0f);
    std::vector<float> input_scales(50, 1.0f);
    list.tensors[1].dtype = DType::kF32;
    list.tensors[1].data = scales.data();
    list.tensors.push_back({"w.input_scales", DType::kF32, {50}, input_scales.data()});
    change(list, scales, input_scales);
    EXPECT_TRUE(write_safetensors(dir_ / "model.safetensors", list.tensors).ok());
    return read().status();
  };
  EXPECT_TRUE(written([](auto&, auto&, auto&) {}).ok());
  expect_message(written([](auto&, auto& scales, auto&) { scales[3] = INFINITY; }),
                 {"\"w\"", "scales", "found inf at index 3"});
  expect_message(written([](auto&, auto&, auto& inputs) { inputs[49] = 0; }),
                 {"input scales", "found 0 at index 49"});
  expect_message(
      written([](TensorList& list, auto&, auto&) { list.tensors[0].dtype = DType::kI8; }),
      {"w.values", "expected U8, found I8"});
  expect_message(
      written([](TensorList& list, auto&, auto&) { list.tensors[1].dtype = DType::kI32; }),
      {"w.scales", "expected F32, F16 or BF16, found I32"});
  expect_message(
      written([](TensorList& list, auto&, auto&) { list.tensors[2].dtype = DType::kI32; }),
      {"w.input_scales", "expected F32, found I32"});
  expect_message(written([](TensorList& list, auto&, auto&) {
                   list.tensors[2].shape = {5, 10};
                 }),
                 {"w.input_scales", "[50]", "[5, 10]"});
}

TEST_F(Compressed, ConvolutionOrderMapsInputsToRows) {
  dense_.order = MatrixOrder::kInputRows;
  const auto compact = pack_compact(dense_, KeptAxis::kInputs, every_third({1, 50}).kept);
  write(compact);
  config(R"({"format": "compact", "shape": [37, 50], "axis": "inputs"})");
  expect_equal(read(MatrixOrder::kInputRows), *compact);
  EXPECT_EQ(inputs(read(MatrixOrder::kInputRows)->packed.matrix), 37);
}

TEST_F(Compressed, IndicesAreNarrowWhereTheyFit) {
  const auto tiles = pack_tiles(dense_, every_third({16, 16}));
  write(tiles);
  config(kTiles);
  const auto checkpoint = Checkpoint::open(dir_.path());
  ASSERT_TRUE(checkpoint.ok());
  const auto columns = checkpoint->indices("w.tile_columns", -1);
  ASSERT_TRUE(columns.ok()) << columns.status().message();
  EXPECT_EQ(columns->dtype, DType::kI16);
  EXPECT_EQ(checkpoint->indices("w.tile_offsets", -1)->dtype, DType::kI32);
}

TEST_F(Compressed, WideIndicesAreReadToo) {
  const auto tiles = pack_tiles(dense_, every_third({16, 16}));
  ASSERT_TRUE(tiles.ok());
  TensorList list;
  add_matrix("w", *tiles, list);
  for (TensorToWrite& tensor : list.tensors) {
    if (tensor.name != "w.tile_columns") continue;
    tensor.dtype = DType::kI32;
    tensor.data = tiles->matrix.part(2).data;
  }
  ASSERT_TRUE(write_safetensors(dir_ / "model.safetensors", list.tensors).ok());
  config(kTiles);
  expect_equal(read(), *tiles);
}

TEST_F(Compressed, AMatrixWithoutAnEntryIsDense) {
  write(PackedMatrix(dense_));
  dir_.put("config.json", "{}");
  const auto found = read();
  ASSERT_TRUE(found.ok()) << found.status().message();
  EXPECT_TRUE(is<DenseView>(found->packed.matrix));
}

TEST_F(Compressed, ASectionThatLiesIsOneSentence) {
  write(pack_tiles(dense_, every_third({16, 16})));
  const auto refused = [&](const std::string& entry,
                           std::initializer_list<std::string_view> parts) {
    config(entry);
    expect_message(read().status(), parts);
  };
  refused("1", {"tensors: w", "an object"});
  refused("{}", {"w: format", "found nothing"});
  refused(R"({"format": "blocks", "shape": [37, 50]})", {"expected dense, tiles", "blocks"});
  refused(R"({"format": "tiles", "tile": [16, 16]})", {"shape", "two integers, found 0"});
  refused(R"({"format": "tiles", "shape": [37, 50]})", {"tile", "found 0"});
  refused(R"({"format": "tiles", "shape": [37, 50], "tile": [16, 0]})", {"1 to 256, found 0"});
  refused(R"({"format": "tiles", "shape": [37, -1], "tile": [16, 16]})", {"found -1"});
  refused(R"({"format": "tiles", "shape": [37, 4611686018427387904], "tile": [16, 16]})",
          {"found 4611686018427387904"});
  refused(R"({"format": "tiles", "shape": [37, 51], "tile": [16, 16]})",
          {"expected shape [37, 50], found [37, 51]"});
  refused(R"({"format": "tiles", "shape": [37, 50], "tile": [16, 8]})", {"shape [any, 16, 8]"});
  refused(R"({"format": "csr", "shape": [37, 50]})", {"csr_values", "no such name"});
  refused(R"({"format": "compact", "shape": [37, 50], "axis": "both"})", {"axis", "both"});
  refused(R"({"format": "stack", "shape": [37, 50], "parts": []})", {"1 to 16 names, found 0"});
  refused(R"({"format": "stack", "shape": [37, 50], "parts": ["w"]})", {"no stacks"});
  config(kTiles, "2");
  expect_message(read().status(), {"expected at most 1", "found 2"});
  config(kTiles, "0");
  expect_message(read().status(), {"tessera", "found 0"});
  dir_.put("config.json", R"({"tessera": {"format": 1, "tensors": {"a\nb": 1}}})");
  expect_message(read().status(), {"without control characters"});
}

TEST_F(Compressed, IndicesThatLieAreOneSentence) {
  const auto packed = pack_tiles(dense_, every_third({16, 16}));
  ASSERT_TRUE(packed.ok());
  config(kTiles);
  const auto written = [&](auto change) {
    TensorList list;
    add_matrix("w", *packed, list);
    const auto* first = packed->matrix.data<int32_t>(1);
    std::vector<int32_t> offsets(first, first + packed->matrix.part(1).shape[0]);
    for (TensorToWrite& tensor : list.tensors) {
      if (tensor.name == "w.tile_offsets") tensor.data = offsets.data();
    }
    change(list, offsets);
    EXPECT_TRUE(write_safetensors(dir_ / "model.safetensors", list.tensors).ok());
    return read().status();
  };
  expect_message(written([](TensorList& list, auto&) { list.short_indices[0][0] = -1; }),
                 {"\"w\"", "columns", "found -1"});
  expect_message(written([](TensorList& list, auto&) { list.short_indices[0][0] = 4; }),
                 {"found 4"});
  expect_message(written([](TensorList&, auto& offsets) { offsets[1] = 1 << 30; }), {"offsets"});
  expect_message(written([](TensorList&, auto& offsets) { offsets[1] = -5; }), {"found -5"});
  const auto dtyped = [&](DType dtype) {
    return written([&](TensorList& list, auto&) {
      for (TensorToWrite& tensor : list.tensors)
        if (tensor.name == "w.tile_offsets") tensor.dtype = dtype;
    });
  };
  expect_message(dtyped(DType::kF32), {"tile_offsets", "expected I32 or I16, found F32"});
}

TEST_F(Compressed, FileBytesAreNotLessThanWhatTheFileGrowsBy) {
  for (const double third : {0.0, 1.0}) {
    TileMask mask = every_third({16, 16});
    if (third == 0) mask.kept.assign(mask.kept.size(), 1);
    const auto packed = pack_tiles(dense_, mask);
    write(packed);
    const auto tiles = static_cast<int64_t>(std::filesystem::file_size(dir_ / "model.safetensors"));
    const std::string entry = kTiles;
    PackedMatrix whole(dense_);
    const int64_t gain = file_bytes("w", whole) - file_bytes("w", *packed);
    write(std::move(whole));
    const auto dense = static_cast<int64_t>(std::filesystem::file_size(dir_ / "model.safetensors"));
    EXPECT_LE(gain, dense - tiles - static_cast<int64_t>(entry.size()));
  }
}

// What holds of every format, and of those to come: one matrix is packed, written and read back,
// and then every part of the files lies in turn.
class EveryFormat : public Compressed, public ::testing::WithParamInterface<const WeightFormat*> {
 protected:
  void SetUp() override {
    auto packed = format().pack(dense_);
    ASSERT_TRUE(packed.ok()) << packed.status().message();
    packed_ = std::move(packed).value();
    entry_ = add_matrix("w", packed_, list_);
    config(to_json(entry_));
  }

  const WeightFormat& format() const { return *GetParam(); }

  // Reads what the files are with a change to the list of tensors.
  template <typename Change>
  Result<ReadMatrix> read_changed(Change change) {
    std::vector<TensorToWrite> tensors = list_.tensors;
    change(tensors);
    const Status status = write_safetensors(dir_ / "model.safetensors", tensors);
    EXPECT_TRUE(status.ok()) << status.message();
    return read();
  }
  // One tensor in another's place.
  Result<ReadMatrix> read_with(size_t index, const TensorToWrite& other) {
    return read_changed([&](auto& tensors) { tensors[index] = other; });
  }
  Status read_entry(const TensorFormat& entry) {
    config(to_json(entry));
    return read().status();
  }

  PackedMatrix packed_;
  TensorList list_;
  TensorFormat entry_;
};

INSTANTIATE_TEST_SUITE_P(Table, EveryFormat,
                         ::testing::ValuesIn(all_weight_formats().begin(),
                                             all_weight_formats().end()),
                         [](const auto& info) { return std::string(info.param->name); });

// A type of as many bytes and another kind, by the kinds that parts have.
DType of_another_kind(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return DType::kI32;
    case DType::kI32:
      return DType::kF32;
    case DType::kI16:
      return DType::kF16;
    case DType::kI8:
      return DType::kU8;
    case DType::kU8:
      return DType::kI8;
    default:
      return DType::kI16;
  }
}

TEST_P(EveryFormat, IsReadAsItWasWritten) {
  const auto found = read_changed([](auto&) {});
  expect_equal(found, packed_);
  EXPECT_EQ(found->tensors.size(), list_.tensors.size());
  EXPECT_EQ(packed_bytes(found->packed.matrix), packed_bytes(packed_.matrix));
  EXPECT_GT(flops_per_row(packed_.matrix), 0);
}

TEST_P(EveryFormat, ATensorThatIsNotThereIsNamed) {
  for (size_t i = 0; i < list_.tensors.size(); ++i) {
    const auto found = read_changed(
        [&](auto& tensors) { tensors.erase(tensors.begin() + static_cast<std::ptrdiff_t>(i)); });
    expect_message(found.status(), {list_.tensors[i].name});
  }
}

TEST_P(EveryFormat, ATensorOfAnotherKindIsRefusedWhereTheCountIsRight) {
  for (size_t i = 0; i < list_.tensors.size(); ++i) {
    TensorToWrite other = list_.tensors[i];
    other.dtype = of_another_kind(other.dtype);
    expect_message(read_with(i, other).status(), {other.name, "expected", "found"});
  }
}

TEST_P(EveryFormat, ATensorOfAnotherShapeIsRefusedWhereTheCountIsRight) {
  for (size_t i = 0; i < list_.tensors.size(); ++i) {
    TensorToWrite other = list_.tensors[i];
    other.shape.insert(other.shape.begin(), 1);
    expect_message(read_with(i, other).status(), {other.name, "expected shape"});
  }
}

TEST_P(EveryFormat, ATensorThatIsShorterOrEmptyIsRefused) {
  for (size_t i = 0; i < list_.tensors.size(); ++i) {
    for (size_t axis = 0; axis < list_.tensors[i].shape.size(); ++axis) {
      for (const int64_t extent : {int64_t{0}, list_.tensors[i].shape[axis] - 1}) {
        TensorToWrite other = list_.tensors[i];
        other.shape[axis] = extent;
        EXPECT_FALSE(read_with(i, other).ok()) << other.name << " axis " << axis << " " << extent;
      }
    }
  }
}

TEST_P(EveryFormat, AFileThatIsCutIsRefused) {
  ASSERT_TRUE(read_changed([](auto&) {}).ok());
  const std::string whole = testing::content_of(dir_ / "model.safetensors");
  for (size_t eighth = 0; eighth < 8; ++eighth) {
    dir_.put("model.safetensors", whole.substr(0, eighth * whole.size() / 8));
    EXPECT_FALSE(read().ok()) << eighth;
  }
  dir_.put("model.safetensors", whole.substr(0, whole.size() - 1));
  EXPECT_FALSE(read().ok());
}

TEST_P(EveryFormat, AnIndexThatLiesIsRefusedWhereverItStands) {
  for (size_t i = 0; i < list_.tensors.size(); ++i) {
    TensorToWrite other = list_.tensors[i];
    if (other.dtype != DType::kI16 && other.dtype != DType::kI32) continue;
    const bool wide = other.dtype == DType::kI32;
    const auto bytes = static_cast<size_t>(other.shape.front()) * size_bytes(other.dtype);
    const auto* first = static_cast<const char*>(other.data);
    for (const size_t at : {size_t{0}, bytes / 8 * 4, bytes - size_bytes(other.dtype)}) {
      for (const int32_t lie : {-1, wide ? INT32_MIN : INT16_MIN, wide ? INT32_MAX : INT16_MAX}) {
        std::vector<char> lying(first, first + bytes);
        std::memcpy(lying.data() + at, &lie, size_bytes(other.dtype));
        other.data = lying.data();
        expect_message(read_with(i, other).status(), {"\"w\"", "expected", "found"});
      }
    }
  }
}

// A dense matrix has the shape that its tensor has.
TEST_P(EveryFormat, AShapeThatNoMatrixHasIsRefused) {
  ASSERT_TRUE(read_changed([](auto&) {}).ok());
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  for (const int64_t extent : {int64_t{0}, int64_t{-1}, kMaxMatrixExtent + 1, kMost, -kMost - 1}) {
    for (const bool rows : {false, true}) {
      TensorFormat lying = entry_;
      (rows ? lying.rows : lying.cols) = extent;
      expect_message(read_entry(lying), {"w: shape", "1 to 1073741824", std::to_string(extent)});
    }
  }
}

TEST_P(EveryFormat, AnAttributeOutOfItsRangeIsRefused) {
  ASSERT_TRUE(read_changed([](auto&) {}).ok());
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  for (size_t i = 0; i < format().attributes.size(); ++i) {
    const AttributeSpec& spec = format().attributes[i];
    if (spec.kind == AttributeSpec::Kind::kWord) continue;
    for (const int64_t value : {spec.least - 1, spec.most + 1, kMost, -kMost - 1}) {
      for (size_t k = 0; k < (spec.kind == AttributeSpec::Kind::kPair ? 2u : 1u); ++k) {
        TensorFormat lying = entry_;
        lying.attributes[i][k] = value;
        expect_message(read_entry(lying), {std::string("w: ") + spec.key, std::to_string(value)});
      }
    }
  }
}

TEST_P(EveryFormat, AnAttributeThatIsNotThereOrAnUnknownWordIsRefused) {
  ASSERT_TRUE(read_changed([](auto&) {}).ok());
  for (const AttributeSpec& spec : format().attributes) {
    std::string entry = to_json(entry_);
    const std::string key = "\"" + std::string(spec.key) + "\"";
    entry.replace(entry.find(key), key.size(), "\"other\"");
    config(entry);
    expect_message(read().status(), {std::string("w: ") + spec.key});
    entry.insert(1, key + R"(: "none such", )");
    config(entry);
    expect_message(read().status(), {std::string("w: ") + spec.key});
  }
}

// What the view of a format says is what its rules say.
TEST_P(EveryFormat, PartsAreAsTheRulesHaveThem) {
  const Status status = validate(packed_.matrix);
  EXPECT_TRUE(status.ok()) << status.message();
  for (size_t i = 0; i < packed_.matrix.parts.size(); ++i) {
    if (!packed_.matrix.part(i).is_present()) continue;
    StoredMatrix lying = packed_.matrix;
    lying.parts[i].shape.back() += 1;
    EXPECT_FALSE(validate(lying).ok()) << i;
    lying = packed_.matrix;
    lying.parts[i].dtype = of_another_kind(lying.parts[i].dtype);
    EXPECT_FALSE(validate(lying).ok()) << i;
  }
}

}  // namespace
}  // namespace tessera
