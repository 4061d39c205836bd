#include "io/safetensors.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <cstring>
#include <random>

#include "io/testing.h"

namespace tessera {
namespace {

using testing::content_of;
using testing::expect_message;
using testing::safetensors_bytes;
using testing::safetensors_length;
using testing::TempDir;

constexpr const char* kSource = "m.safetensors";

Status error_of(std::string_view file) {
  const Result<SafetensorsContents> contents = parse_safetensors(file, kSource);
  if (!contents.ok()) {
    EXPECT_TRUE(contents.status().message().starts_with(kSource)) << contents.status().message();
  }
  return contents.status();
}

Status header_error(std::string_view header, size_t data_bytes = 8) {
  return error_of(safetensors_bytes(header, std::string(data_bytes, 'd')));
}

// The error of a file with one tensor "t" of these members; 8 bytes of data follow.
Status tensor_error(std::string_view members) {
  return header_error("{\"t\":{" + std::string(members) + "}}");
}

TEST(Safetensors, ReadsTensorsAndMetadata) {
  const std::string file = safetensors_bytes(
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[1,2],"data_offsets":[2,10]},)"
      R"("a":{"dtype":"BF16","shape":[],"data_offsets":[0,2]}}     )",
      "0123456789");
  const Result<SafetensorsContents> contents = parse_safetensors(file, kSource);
  ASSERT_TRUE(contents.ok()) << contents.status().message();
  ASSERT_EQ(contents->tensors.size(), 2u);
  EXPECT_EQ(contents->metadata.at("format"), "pt");
  const TensorView& a = contents->tensors.at("a");
  const TensorView& b = contents->tensors.at("b");
  EXPECT_EQ(a.dtype, DType::kBF16);
  EXPECT_TRUE(a.shape.empty());
  EXPECT_EQ(std::string_view(static_cast<const char*>(a.data), a.size_bytes), "01");
  EXPECT_EQ(b.dtype, DType::kF32);
  EXPECT_EQ(b.shape, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(std::string_view(static_cast<const char*>(b.data), b.size_bytes), "23456789");
}

TEST(Safetensors, NoTensorsIsAFileToo) {
  EXPECT_TRUE(error_of(safetensors_bytes("{}")).ok());
  EXPECT_TRUE(error_of(safetensors_bytes("{}      ")).ok());
  EXPECT_TRUE(error_of(safetensors_bytes(R"({"__metadata__":{}})")).ok());
}

TEST(Safetensors, EmptyTensorsShareTheirOffsets) {
  EXPECT_TRUE(header_error(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},)"
                           R"("b":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
                           R"("c":{"dtype":"F32","shape":[3,0,2],"data_offsets":[8,8]},)"
                           R"("d":{"dtype":"I64","shape":[0],"data_offsets":[0,0]}})")
                  .ok());
  expect_message(header_error(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
                              R"("b":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}})"),
                 {"tensor \"b\"", "begin at 8", "found 4 (an overlap)"});
}

TEST(Safetensors, ShorterThanTheHeaderLength) {
  expect_message(error_of(""), {"expected a header length of 8 bytes, found 0 bytes"});
  expect_message(error_of("1234567"), {"found 7 bytes"});
}

TEST(Safetensors, HeaderLengthBeyondTheFile) {
  expect_message(error_of(safetensors_length(100) + "{}"),
                 {"header length: expected 2 to 2 bytes", "found 100"});
  expect_message(error_of(safetensors_length(UINT64_MAX) + "{}"), {"found 18446744073709551615"});
  expect_message(error_of(safetensors_length(0) + "{}"), {"found 0"});
  expect_message(error_of(safetensors_length(2)), {"header length", "found 2"});
}

TEST(Safetensors, HeaderLengthOverTheLimit) {
  const TempDir dir;
  const std::string path = dir.put("big.safetensors", safetensors_length(100'000'001) + "{");
  ASSERT_EQ(truncate(path.c_str(), 200'000'000), 0);  // sparse
  expect_message(Safetensors::open(path).status(),
                 {"big.safetensors: header length: expected 2 to 100000000 bytes (the limit), "
                  "found 100000001"});
}

TEST(Safetensors, HeaderIsNoJsonObject) {
  expect_message(error_of(safetensors_bytes("[1]")), {"header: expected a JSON object"});
  expect_message(error_of(safetensors_bytes(" {}")), {"header: expected a JSON object"});
  expect_message(error_of(safetensors_bytes("\"a\"")), {"header: expected a JSON object"});
  expect_message(error_of(safetensors_bytes("\xef\xbb\xbf{}")), {"header: expected a JSON object"});
  expect_message(error_of(safetensors_bytes("{\"a\":")), {"header: expected valid JSON"});
  expect_message(error_of(safetensors_bytes("{} x")), {"header: expected valid JSON"});
  expect_message(error_of(safetensors_bytes(std::string_view("{}\0\0", 4))), {"found a NUL"});
  expect_message(error_of(safetensors_bytes("{\"\xff\":1}")), {"not UTF-8"});
  expect_message(error_of(safetensors_bytes("{\"a\":" + std::string(1'000'000, '['))),
                 {"64 levels"});
}

TEST(Safetensors, AGitLfsPointerIsNamed) {
  expect_message(error_of("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"),
                 {"Git LFS pointer"});
}

TEST(Safetensors, MetadataHoldsStrings) {
  expect_message(header_error(R"({"__metadata__":[]})"),
                 {"__metadata__: expected an object of strings, found []"});
  expect_message(header_error(R"({"__metadata__":{"a":1}})"),
                 {"__metadata__: \"a\": expected a string, found 1"});
  expect_message(header_error(R"({"__metadata__":{"a":{"b":"c"}}})"), {"expected a string"});
}

TEST(Safetensors, EntriesAreObjectsWithAllMembers) {
  expect_message(header_error(R"({"t":3})"), {"tensor \"t\": expected an object", "found 3"});
  expect_message(tensor_error(R"("shape":[8],"data_offsets":[0,8])"),
                 {"tensor \"t\": dtype: expected the name of a dtype, found nothing"});
  expect_message(tensor_error(R"("dtype":"U8","data_offsets":[0,8])"),
                 {"tensor \"t\": shape: expected a list of integers, found nothing"});
  expect_message(tensor_error(R"("dtype":"U8","shape":[8])"),
                 {"tensor \"t\": data_offsets: expected a list of two integers, found nothing"});
}

TEST(Safetensors, MembersOfTheWrongType) {
  expect_message(tensor_error(R"("dtype":1,"shape":[8],"data_offsets":[0,8])"),
                 {"dtype", "found 1"});
  expect_message(tensor_error(R"("dtype":"U8","shape":8,"data_offsets":[0,8])"),
                 {"shape", "found 8"});
  expect_message(tensor_error(R"("dtype":"U8","shape":["8"],"data_offsets":[0,8])"),
                 {"shape", "found \"8\""});
  expect_message(tensor_error(R"("dtype":"U8","shape":[8],"data_offsets":{"a":0})"),
                 {"found {\"a\":0}"});
  expect_message(tensor_error(R"("dtype":"U8","shape":[8],"data_offsets":[0])"),
                 {"two integers, found [0]"});
  expect_message(tensor_error(R"("dtype":"U8","shape":[8],"data_offsets":[0,8,8])"),
                 {"found [0,8,8]"});
  expect_message(tensor_error(R"("dtype":"U8","shape":[8],"data_offsets":[0,null])"),
                 {"found null"});
}

TEST(Safetensors, NumbersThatAreNoSizes) {
  for (const char* number :
       {"-1", "1.5", "8.0", "8e0", "9223372036854775808", "18446744073709551615", "1e300"}) {
    SCOPED_TRACE(number);
    const std::string text = number;
    expect_message(tensor_error(R"("dtype":"U8","data_offsets":[0,8],"shape":[)" + text + "]"),
                   {"shape: expected integers from 0"});
    expect_message(tensor_error(R"("dtype":"U8","shape":[8],"data_offsets":[0,)" + text + "]"),
                   {"data_offsets: expected integers from 0 to 8"});
    expect_message(tensor_error(R"("dtype":"U8","shape":[8],"data_offsets":[)" + text + ",8]"),
                   {"data_offsets: expected integers from 0 to 8"});
  }
  // Exact where a double is not.
  expect_message(tensor_error(R"("dtype":"U8","shape":[9007199254740993],"data_offsets":[0,8])"),
                 {"expected 9007199254740993 bytes for U8 [9007199254740993], found 8"});
}

TEST(Safetensors, UnknownDtypesAreNamed) {
  const Status status = tensor_error(R"("dtype":"F7","shape":[8],"data_offsets":[0,8])");
  expect_message(status, {"tensor \"t\": dtype: expected a dtype of safetensors", "found \"F7\""});
  EXPECT_EQ(status.code(), StatusCode::kUnsupported);
}

TEST(Safetensors, DtypesWithoutUseAreCheckedAndSetAside) {
  for (const auto& [dtype, shape] :
       {std::pair("U64", "[1]"), std::pair("C64", "[1]"), std::pair("U32", "[2]"),
        std::pair("U16", "[4]"), std::pair("F8_E4M3", "[2, 4]"), std::pair("F8_E5M2", "[8]"),
        std::pair("F8_E8M0", "[8]"), std::pair("F8_E4M3FNUZ", "[8]"),
        std::pair("F8_E5M2FNUZ", "[8]"), std::pair("F4", "[16]")}) {
    const std::string members =
        fmt::format(R"("dtype":"{}","shape":{},"data_offsets":)", dtype, shape);
    EXPECT_TRUE(tensor_error(members + "[0,8]").ok()) << tensor_error(members + "[0,8]").message();
    expect_message(tensor_error(members + "[0,7]"), {"expected 8 bytes for", dtype, "found 7"});
  }
  expect_message(tensor_error(R"("dtype":"F4","shape":[15],"data_offsets":[0,8])"), {"F4 [15]"});
  const auto contents = parse_safetensors(
      safetensors_bytes(R"({"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]},)"
                        R"("b":{"dtype":"U8","shape":[5],"data_offsets":[3,8]}})",
                        "12345678"),
      kSource);
  ASSERT_TRUE(contents.ok()) << contents.status().message();
  EXPECT_EQ(contents->others.at("a"), "F6_E2M3");
  EXPECT_EQ(contents->tensors.size(), 1u);
}

TEST(Safetensors, AFileThatEndsEarlyIsSaidToDoSo) {
  expect_message(tensor_error(R"("dtype":"U8","shape":[9],"data_offsets":[0,9])"),
                 {"found 9: the file ends early, as where a download stopped"});
}

TEST(Safetensors, TooManyDimensions) {
  const auto members = [](int dimensions) {
    std::string shape = "8";
    for (int i = 1; i < dimensions; ++i) shape += ",1";
    return R"("dtype":"U8","data_offsets":[0,8],"shape":[)" + shape + "]";
  };
  EXPECT_TRUE(tensor_error(members(32)).ok());
  expect_message(tensor_error(members(33)), {"shape: expected at most 32 dimensions, found 33"});
}

TEST(Safetensors, ShapesThatOverflow) {
  for (const char* shape :
       {"[4294967296,4294967296]", "[9223372036854775807,2]", "[0,9223372036854775807,2]",
        "[2305843009213693952]", "[4294967296,0,4294967296]"}) {
    expect_message(
        tensor_error(std::string(R"("dtype":"I64","data_offsets":[0,8],"shape":)") + shape),
        {"tensor \"t\": expected bytes that 63 bits can count, found I64 ["});
  }
}

TEST(Safetensors, BytesOtherThanTheShapeSays) {
  expect_message(tensor_error(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"),
                 {"data_offsets: expected 12 bytes for F32 [3], found 8"});
  expect_message(tensor_error(R"("dtype":"F16","shape":[],"data_offsets":[0,8])"),
                 {"expected 2 bytes for F16 []"});
  expect_message(tensor_error(R"("dtype":"F16","shape":[0],"data_offsets":[0,8])"),
                 {"expected 0 bytes"});
}

TEST(Safetensors, DeclaredShapeLargerThanTheFile) {
  expect_message(
      tensor_error(R"("dtype":"F32","shape":[1000000000,1000],"data_offsets":[0,8])"),
      {"data_offsets: expected 4000000000000 bytes for F32 [1000000000, 1000], found 8"});
  expect_message(
      tensor_error(R"("dtype":"F32","shape":[1000000000,1000],"data_offsets":[0,4000000000000])"),
      {"expected integers from 0 to 8, the bytes of data in the file, found 4000000000000"});
}

TEST(Safetensors, OffsetsThatOverflow) {
  for (const char* offsets :
       {"[0,18446744073709551615]", "[18446744073709551608,0]", "[9223372036854775807,8]",
        "[0,99999999999999999999]", "[0,9223372036854775808]"}) {
    expect_message(
        tensor_error(std::string(R"("dtype":"U8","shape":[8],"data_offsets":)") + offsets),
        {"data_offsets: expected integers from 0 to 8"});
  }
}

TEST(Safetensors, OffsetsOutOfOrder) {
  expect_message(tensor_error(R"("dtype":"U8","shape":[8],"data_offsets":[8,0])"),
                 {"expected a begin that is not after the end, found [8,0]"});
}

TEST(Safetensors, OffsetsBeyondTheFile) {
  expect_message(tensor_error(R"("dtype":"U8","shape":[9],"data_offsets":[0,9])"),
                 {"expected integers from 0 to 8, the bytes of data in the file, found 9"});
}

std::string two_tensors(const std::string& first, const std::string& second) {
  return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + first +
         R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}";
}

TEST(Safetensors, OverlapsAndGaps) {
  EXPECT_TRUE(header_error(two_tensors("[0,4]", "[4,8]")).ok());
  EXPECT_TRUE(header_error(two_tensors("[4,8]", "[0,4]")).ok());
  expect_message(header_error(two_tensors("[0,4]", "[3,7]")),
                 {"tensor \"b\": data_offsets: expected a begin at 4, where \"a\" ends, found 3 "
                  "(an overlap)"});
  expect_message(header_error(two_tensors("[0,4]", "[0,4]")), {"found 0 (an overlap)"});
  expect_message(header_error(two_tensors("[0,4]", "[5,9]"), 9),
                 {"expected a begin at 4", "found 5 (a gap)"});
  expect_message(header_error(two_tensors("[1,5]", "[5,9]"), 9),
                 {"expected 0 as the first begin, found 1 (a gap)"});
}

TEST(Safetensors, TensorsCoverTheFile) {
  expect_message(header_error(two_tensors("[0,4]", "[4,8]"), 9),
                 {"data: expected 8 bytes, as the tensors say, found 9"});
  expect_message(header_error("{}", 1), {"expected 0 bytes, as the tensors say, found 1"});
}

TEST(Safetensors, DuplicateNames) {
  const std::string tensor = R"({"dtype":"U8","shape":[8],"data_offsets":[0,8]})";
  expect_message(header_error("{\"t\":" + tensor + ",\"t\":" + tensor + "}"),
                 {"header: expected each key once", "\"t\""});
  expect_message(header_error("{\"t\":" + tensor + ",\"\\u0074\":" + tensor + "}"),
                 {"\"t\" twice"});
  expect_message(tensor_error(R"("dtype":"U8","dtype":"I8","shape":[8],"data_offsets":[0,8])"),
                 {"\"dtype\" twice"});
}

TEST(Safetensors, NamesThatAreNone) {
  const std::string tensor = R"(":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})";
  expect_message(header_error("{\"a\\u0000b" + tensor), {"expected a name without NUL"});
  EXPECT_TRUE(header_error("{\"" + std::string(1024, 'n') + tensor).ok());
  expect_message(header_error("{\"" + std::string(1025, 'n') + tensor),
                 {"a name of at most 1024 bytes, found 1025"});
}

TEST(Safetensors, OpenMapsTheFile) {
  const TempDir dir;
  const std::string path =
      dir.put("a.safetensors", safetensors_bytes(two_tensors("[0,4]", "[4,8]"), "aaaabbbb"));
  const Result<Safetensors> file = Safetensors::open(path);
  ASSERT_TRUE(file.ok());
  const TensorView& view = file->tensors().at("b");
  EXPECT_EQ(std::string_view(static_cast<const char*>(view.data), view.size_bytes), "bbbb");
  file->release(view);
  EXPECT_EQ(std::string_view(static_cast<const char*>(view.data), view.size_bytes), "bbbb");
  EXPECT_EQ(file->size_bytes(), std::filesystem::file_size(path));
  expect_message(Safetensors::open(dir.put("empty", "")).status(),
                 {"empty: file: expected a header length"});
  expect_message(Safetensors::open(dir / "gone").status(), {"gone: cannot open"});
}

class WriteTest : public ::testing::Test {
 protected:
  std::vector<TensorToWrite> tensors() const {
    return {{"z.bytes", DType::kU8, {3}, bytes_.data()},
            {"w", DType::kF32, {2, 3}, floats_.data()},
            {"empty", DType::kF32, {0, 5}, floats_.data()},
            {"scalar", DType::kF16, {}, bytes_.data()},
            {"a \"name\"\n\xc3\xa9", DType::kF32, {1}, floats_.data()}};
  }

  const std::vector<float> floats_ = {1, 2, 3, 4, 5, 6};
  const std::string bytes_ = "xyz";
  TempDir dir_;
  const std::string path_ = dir_ / "out.safetensors";
};

TEST_F(WriteTest, RoundTrips) {
  ASSERT_TRUE(write_safetensors(path_, tensors(), {{"k\\", "v\t"}}).ok());
  const Result<Safetensors> file = Safetensors::open(path_);
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(file->metadata(), (std::map<std::string, std::string>{{"k\\", "v\t"}}));
  ASSERT_EQ(file->tensors().size(), tensors().size());
  for (const TensorToWrite& tensor : tensors()) {
    const TensorView& view = file->tensors().at(tensor.name);
    EXPECT_EQ(view.dtype, tensor.dtype);
    EXPECT_EQ(view.shape, tensor.shape);
    const std::string found(static_cast<const char*>(view.data), view.size_bytes);
    EXPECT_EQ(found, std::string(static_cast<const char*>(tensor.data), view.size_bytes))
        << tensor.name;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view.data) % size_bytes(view.dtype), 0u) << tensor.name;
  }
  EXPECT_EQ(dir_.file_count(), 1u);
}

TEST_F(WriteTest, HeaderIsAlignedAndTheOrderOfTheListDoesNotMatter) {
  ASSERT_TRUE(write_safetensors(path_, tensors()).ok());
  const std::string first = content_of(path_);
  EXPECT_EQ(static_cast<unsigned char>(first[0]) % 8, 0);
  std::vector<TensorToWrite> reversed = tensors();
  std::reverse(reversed.begin(), reversed.end());
  ASSERT_TRUE(write_safetensors(path_, reversed).ok());
  EXPECT_EQ(content_of(path_), first);
}

TEST_F(WriteTest, NothingToWriteIsAFileToo) {
  ASSERT_TRUE(write_safetensors(path_, {}).ok());
  EXPECT_EQ(content_of(path_), safetensors_bytes("{}      "));
}

TEST_F(WriteTest, RefusesWhatItCouldNotReadBack) {
  const auto error = [&](TensorToWrite tensor) {
    return write_safetensors(path_, {std::move(tensor)});
  };
  const void* data = floats_.data();
  expect_message(error({"__metadata__", DType::kU8, {1}, data}),
                 {"tensor \"__metadata__\": expected a name"});
  expect_message(error({"\xff", DType::kU8, {1}, data}), {"tensor \"<ff>\": expected a name"});
  expect_message(error({std::string(1025, 'n'), DType::kU8, {1}, data}),
                 {"expected a name of at most 1024 bytes"});
  expect_message(error({std::string(1, '\0'), DType::kU8, {1}, data}), {"without NUL"});
  expect_message(error({"t", DType::kU8, {-1}, data}), {"expected extents from 0", "found [-1]"});
  expect_message(error({"t", DType::kF32, {INT64_MAX}, data}), {"expected extents from 0"});
  expect_message(error({"t", DType::kF32, std::vector<int64_t>(33, 1), data}),
                 {"at most 32 dimensions, found 33"});
  expect_message(error({"t", DType::kF32, {2}, nullptr}), {"expected 8 bytes of data, found none"});
  const TensorToWrite tensor{"t", DType::kU8, {1}, data};
  expect_message(write_safetensors(path_, {tensor, tensor}),
                 {"expected each tensor once, found \"t\" twice"});
  expect_message(write_safetensors(path_, {}, {{"k", "\xff"}}), {"metadata \"k\": expected UTF-8"});
  const TensorToWrite huge1{"a", DType::kU8, {INT64_MAX}, data},
      huge2{"b", DType::kU8, {INT64_MAX}, data};
  expect_message(write_safetensors(path_, {huge1, huge2}), {"63 bits"});
  EXPECT_EQ(dir_.file_count(), 0u);
}

TEST_F(WriteTest, AFullDiskLeavesTheOldFileAndNoTemporary) {
  ASSERT_TRUE(write_safetensors(path_, tensors()).ok());
  const std::string before = content_of(path_);
  const std::vector<char> large(100'000, 'x');
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
  const auto previous = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = 5000, .rlim_max = limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const Status status = write_safetensors(path_, {{"t", DType::kU8, {100'000}, large.data()}});
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  std::signal(SIGXFSZ, previous);
  expect_message(status, {"out.safetensors: cannot write: File too large"});
  EXPECT_EQ(content_of(path_), before);
  EXPECT_EQ(dir_.file_count(), 1u);
}

// What a file that was accepted must keep: views within it, of the size that dtype and shape say,
// whole and apart.
void expect_consistent(const SafetensorsContents& contents, std::string_view file) {
  size_t total = 0;
  for (const auto& [name, view] : contents.tensors) {
    const char* data = static_cast<const char*>(view.data);
    ASSERT_GE(data, file.data() + 8) << name;
    ASSERT_LE(data + view.size_bytes, file.data() + file.size()) << name;
    size_t bytes = size_bytes(view.dtype);
    for (const int64_t extent : view.shape) bytes *= static_cast<size_t>(extent);
    ASSERT_EQ(bytes, view.size_bytes) << name;
    total += bytes;
  }
  const size_t header = static_cast<unsigned char>(file[0]) | static_cast<unsigned char>(file[1])
                                                                  << 8;
  ASSERT_EQ(8 + header + total, file.size());
}

std::string mutated(std::string file, std::mt19937& random) {
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  constexpr std::string_view kAlphabet = "0123456789-.eE,:[]{}\"\\ u\xff";
  const size_t changes = 1 + below(4);
  for (size_t i = 0; i < changes && !file.empty(); ++i) {
    const size_t place = below(file.size());
    switch (below(6)) {
      case 0:
        file[place] = static_cast<char>(file[place] ^ (1 << below(8)));
        break;
      case 1:
        file[place] = kAlphabet[below(kAlphabet.size())];
        break;
      case 2:
        file.resize(place);
        break;
      case 3:
        file.insert(place, 1, kAlphabet[below(kAlphabet.size())]);
        break;
      case 4:
        file.erase(place, 1 + below(8));
        break;
      default:
        file.insert(place, file.substr(below(file.size()), below(60)));
    }
  }
  return file;
}

TEST(Safetensors, MutationsAreRefusedOrConsistent) {
  const TempDir dir;
  const std::vector<float> data(64, 1.0f);
  ASSERT_TRUE(write_safetensors(dir / "a",
                                {{"w", DType::kF32, {4, 8}, data.data()},
                                 {"b", DType::kF16, {7}, data.data()},
                                 {"e", DType::kI8, {0, 3}, nullptr},
                                 {"s", DType::kU8, {}, data.data()}},
                                {{"format", "pt"}})
                  .ok());
  const std::string valid = content_of(dir / "a");
  int accepted = 0;
  for (uint32_t seed = 0; seed < 20000; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const std::string file = mutated(valid, random);
    const Result<SafetensorsContents> contents = parse_safetensors(file, kSource);
    if (contents.ok()) {
      ++accepted;
      expect_consistent(*contents, file);
    } else {
      expect_message(contents.status(), {kSource, "found"});
    }
    if (::testing::Test::HasFailure()) return;
  }
  // Changes to the data alone, to names and to the metadata leave a valid file.
  EXPECT_GT(accepted, 100);
  EXPECT_LT(accepted, 15000);
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const std::string file = safetensors_bytes(two_tensors("[0,4]", "[4,8]"), "aaaabbbb");
  ASSERT_TRUE(error_of(file).ok());
  for (size_t size = 0; size < file.size(); ++size) {
    expect_message(error_of(file.substr(0, size)), {kSource, "expected", "found"});
  }
}

}  // namespace
}  // namespace tessera
