#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <utility>

#include "tessera/records.h"

namespace tessera {
namespace {

std::string written(const std::string& name, const std::string& content) {
  const std::string path =
      ::testing::TempDir() + "/tessera_rows_" + std::to_string(getpid()) + "_" + name;
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

// Rows as "line:field|field", errors as their messages less the path; stops where none may follow.
std::vector<std::string> read(const std::string& path, const RowOptions& options) {
  std::vector<std::string> found;
  auto reader = RowReader::open(path, options);
  if (!reader.ok()) return {reader.status().message()};
  for (Row row;;) {
    const Result<bool> more = (*reader)->next(&row);
    if (!more.ok()) {
      const std::string& message = more.status().message();
      EXPECT_TRUE(message.starts_with(path)) << message;
      found.push_back(message.substr(path.size()));
      if (!(*reader)->can_go_on()) return found;
      continue;
    }
    if (!*more) return found;
    std::string text = std::to_string(row.line) + ":";
    for (const RowField& field : row.fields) {
      const char* const kind = field.kind == RowField::Kind::kAbsent ? "-"
                               : field.kind == RowField::Kind::kJson ? "="
                                                                     : "";
      text += (text.back() == ':' ? "" : "|") + (kind + field.text);
    }
    found.push_back(text);
  }
}

using Strings = std::vector<std::string>;

TEST(Rows, CsvByNamesAndNumbers) {
  const std::string path =
      written("a.csv", "\xEF\xBB\xBFid,text\r\n1,\"a, \"\"b\"\"\nc\"\r\n\r\n2,d\n");
  EXPECT_EQ(read(path, {.columns = {"text", "id"}}), (Strings{"2:a, \"b\"\nc|1", "5:d|2"}));
  EXPECT_EQ(read(path, {.columns = {"2"}}), (Strings{"1:text", "2:a, \"b\"\nc", "5:d"}));
  EXPECT_EQ(read(path, {.header = HeaderRow::kFirstRow, .columns = {"2"}}),
            (Strings{"2:a, \"b\"\nc", "5:d"}));
}

TEST(Rows, WrongRowsAreNamedAndPassed) {
  const std::string path = written("b.tsv", "a\tb\nc\nd\t\xFF\ne\tf\n");
  EXPECT_EQ(read(path, {.columns = {"1", "2"}}),
            (Strings{"1:a|b", ", line 2: expected at least 2 columns, found 1",
                     ", line 3: expected UTF-8, found byte 0xFF at offset 0", "4:e|f"}));
  EXPECT_EQ(read(path, {.columns = {"none"}}),
            (Strings{", line 1: expected a column \"none\", found a, b"}));
  EXPECT_EQ(read(written("c.csv", "x\"y,1\n\"z\"w,2\n\"open"), {.columns = {"1"}}),
            (Strings{"1:x\"y",
                     ", line 2: expected a comma, a line end or another quote behind a quote, "
                     "found \"w\"",
                     ", line 3: expected a quote that ends the field, found the end of the file"}));
}

TEST(Rows, JsonLines) {
  const std::string path =
      written("d.jsonl",
              "{\"a\": \"x\", \"b\": [1, 2]}\n \n{\"b\": null, \"a\": 1.5}\n[]\n{\n{\"a\": \"y\"}");
  EXPECT_EQ(read(path, {.columns = {"a", "b"}}),
            (Strings{"1:x|=[1,2]", "3:=1.5|-", ", line 4: expected a JSON object, found an array",
                     ", line 5: expected a JSON object, found an error at byte 2 (unexpected end "
                     "of input; expected string literal), near \"{\"",
                     "6:y|-"}));
  EXPECT_EQ(format_of_file("a.json", DataFormat::kAuto), DataFormat::kJsonLines);
  EXPECT_EQ(format_of_file("A.CSV", DataFormat::kAuto), DataFormat::kCsv);
  EXPECT_EQ(read(written("f.json", "\n [\n{\"a\": 1}\n]"), {.columns = {"a"}})[0],
            ", line 2: expected JSON lines (.jsonl), an object on each, found an array: write each "
            "of its objects on a line of its own");
  const std::string half = read(written("g.jsonl", "{\"a\": \"x\\ud83d\"}"), {.columns = {"a"}})[0];
  EXPECT_NE(half.find("surrogate"), std::string::npos) << half;
  EXPECT_NE(half.find("ud83d"), std::string::npos) << half;
  const std::string deep = "{\"a\": " + std::string(100000, '[') + std::string(100000, ']') + "}";
  EXPECT_EQ(read(written("e.jsonl", deep), {.columns = {"a"}}),
            (Strings{", line 1: expected JSON of at most 64 levels, found more"}));
}

TEST(Rows, OptionalColumnsMakeNoHeader) {
  const std::string path = written("i.csv", "id,text\n1,a\n");
  EXPECT_EQ(read(path, {.columns = {"text"}, .optional_columns = {"id", "title"}}),
            (Strings{"2:a|1|-"}));
  EXPECT_EQ(read(path, {.columns = {"2"}, .optional_columns = {"id"}}),
            (Strings{"1:text|-", "2:a|-"}));
  EXPECT_EQ(read(written("j.jsonl", "{\"a\": \"x\", \"id\": 7}\n{\"a\": \"y\"}"),
                 {.columns = {"a"}, .optional_columns = {"id"}}),
            (Strings{"1:x|=7", "2:y|-"}));
}

// What is written into a pipe, piece by piece, read as its end at /dev/fd.
class Pipe {
 public:
  Pipe() { EXPECT_EQ(pipe(ends_), 0); }
  ~Pipe() {
    close(ends_[0]);
    if (ends_[1] >= 0) close(ends_[1]);
  }
  std::string path() const { return "/dev/fd/" + std::to_string(ends_[0]); }
  void put(const std::string& text) const {
    EXPECT_EQ(write(ends_[1], text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  void end() { close(std::exchange(ends_[1], -1)); }

 private:
  int ends_[2] = {-1, -1};
};

TEST(Rows, AreReadyWhenNothingMustBeWaitedFor) {
  Pipe pipe;
  const auto reader = RowReader::open(pipe.path(), {.format = DataFormat::kCsv, .columns = {"b"}});
  ASSERT_TRUE(reader.ok());
  RowReader& rows = **reader;
  Row row;
  for (const char* part : {"a", ",b\n", "\n\r\n", "1,\"x\n", "\n", "y"}) {
    EXPECT_FALSE(rows.ready()) << part;
    pipe.put(part);
  }
  EXPECT_FALSE(rows.ready());
  pipe.put("\"\n2,z\n3");
  EXPECT_TRUE(rows.ready());
  EXPECT_TRUE(*rows.next(&row));
  EXPECT_EQ(row.fields[0].text, "x\n\ny");
  EXPECT_EQ(row.line, 4);
  EXPECT_TRUE(rows.ready());
  EXPECT_TRUE(*rows.next(&row));
  EXPECT_EQ(row.fields[0].text, "z");
  EXPECT_FALSE(rows.ready());
  pipe.end();
  EXPECT_TRUE(rows.ready());
  EXPECT_FALSE(rows.next(&row).ok());  // too few columns
  EXPECT_TRUE(rows.ready());
  EXPECT_FALSE(*rows.next(&row));
}

TEST(Lines, AreReadyWhenWhole) {
  Pipe pipe;
  const auto lines = LineReader::open(pipe.path());
  std::string line;
  EXPECT_FALSE((*lines)->ready());
  pipe.put("a");
  EXPECT_FALSE((*lines)->ready());
  pipe.put("b\nc");
  EXPECT_TRUE((*lines)->ready());
  EXPECT_TRUE(*(*lines)->next(&line));
  EXPECT_EQ(line, "ab");
  EXPECT_FALSE((*lines)->ready());
  pipe.end();
  EXPECT_TRUE((*lines)->ready());
  EXPECT_TRUE(*(*lines)->next(&line));
  EXPECT_EQ(line, "c");
  EXPECT_TRUE((*lines)->ready());
  EXPECT_FALSE(*(*lines)->next(&line));
}

TEST(Rows, EmptyAndAbsentFiles) {
  EXPECT_EQ(read(written("f.csv", ""), {.columns = {"text"}}), Strings{});
  const auto absent = RowReader::open("/nonexistent/file.csv", {.columns = {"1"}});
  ASSERT_FALSE(absent.ok());
  EXPECT_EQ(absent.status().code(), StatusCode::kIo);
}

TEST(Lines, NumbersAndErrors) {
  const auto lines = LineReader::open(written("g.txt", "a\n\nb"));
  ASSERT_TRUE(lines.ok());
  std::string line;
  EXPECT_TRUE(*(*lines)->next(&line));
  EXPECT_TRUE(*(*lines)->next(&line));
  EXPECT_EQ(line, "");
  EXPECT_TRUE(*(*lines)->next(&line));
  EXPECT_EQ(line, "b");
  EXPECT_EQ((*lines)->line(), 3);
  EXPECT_FALSE(*(*lines)->next(&line));
  const auto stopped = LineReader::open(written("h.txt", "a\n"), [] { return false; });
  EXPECT_EQ((*stopped)->next(&line).status().code(), StatusCode::kCancelled);
}

}  // namespace
}  // namespace tessera
