#include "tune/plain_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>

#include "evaluate/run.h"
#include "io/json.h"
#include "tessera/records.h"

namespace tessera::training {
namespace {

using evaluation::is_blank;

// A text of a file. Lines come without their line feeds.
enum class TextKind { kLine, kDocument };
using TakeTexts = std::function<Status(TextKind, std::vector<Record>)>;

// Hands records on, some at a time.
class Group {
 public:
  Group(TextKind kind, const TakeTexts& take) : kind_(kind), take_(take) {}

  Status add(Record record) {
    records_.push_back(std::move(record));
    return records_.size() < TextEncoder::kAtATime ? Status() : flush();
  }
  Status flush() {
    if (records_.empty()) return {};
    return take_(kind_, std::exchange(records_, {}));
  }

 private:
  TextKind kind_;
  const TakeTexts& take_;
  std::vector<Record> records_;
};

Status read_text_lines(const std::string& path, const TakeTexts& take) {
  TESSERA_ASSIGN_OR_RETURN(const std::unique_ptr<LineReader> lines, LineReader::open(path));
  Group group(TextKind::kLine, take);
  for (std::string line;;) {
    TESSERA_ASSIGN_OR_RETURN(const bool more, lines->next(&line));
    if (!more) return group.flush();
    if (line.ends_with('\r')) line.pop_back();
    if (const Status status = check_utf8(line); !status.ok())
      return lines->error(lines->line(), status.message());
    TESSERA_RETURN_IF_ERROR(group.add(
        {.place = fmt::format("{}, line {}", lines->name(), lines->line()), .text = line}));
  }
}

Status read_documents(const std::string& path, const TakeTexts& take) {
  TESSERA_ASSIGN_OR_RETURN(const std::unique_ptr<RowReader> reader,
                           RowReader::open(path, {.columns = {"text"}}));
  Group group(TextKind::kDocument, take);
  for (Row row;;) {
    TESSERA_ASSIGN_OR_RETURN(const bool more, reader->next(&row));
    if (!more) return group.flush();
    const RowField& text = row.fields[0];
    const std::string place = fmt::format("{}, line {}", reader->name(), row.line);
    if (text.kind != RowField::Kind::kText) {
      return invalid_input(fmt::format("{}: expected a text under \"text\", found {}", place,
                                       text.text.empty() ? "none" : quote(text.text)));
    }
    TESSERA_RETURN_IF_ERROR(group.add({.place = place, .text = text.text}));
  }
}

Status read_texts(const std::vector<std::string>& paths, const TakeTexts& take) {
  for (const std::string& path : paths) {
    const bool json = format_of_file(path, DataFormat::kAuto) == DataFormat::kJsonLines;
    TESSERA_RETURN_IF_ERROR(json ? read_documents(path, take) : read_text_lines(path, take));
  }
  return {};
}

Status no_text(const std::vector<std::string>& paths) {
  return invalid_input(fmt::format("{}: expected text, found none", fmt::join(paths, ", ")));
}

// A stream is cut into sequences later; here its ids are all that can be wrong.
Status check_ids(const TextEncoder& encoder, const std::vector<int32_t>& ids,
                 const std::string& place) {
  const auto largest = std::max_element(ids.begin(), ids.end());
  if (largest == ids.end() || *largest < encoder.architecture().vocabulary_size) return {};
  return check_sequence(encoder.architecture(), {.ids = {*largest}}, place,
                        encoder.tokenizer().vocabulary_size());
}

}  // namespace

Result<Lines> read_lines(const TextEncoder& encoder, const std::vector<std::string>& paths,
                         const std::vector<int32_t>& special_ids) {
  const auto is_special = [&](int32_t id) {
    return std::find(special_ids.begin(), special_ids.end(), id) != special_ids.end();
  };
  Lines lines;
  TESSERA_RETURN_IF_ERROR(read_texts(paths, [&](TextKind, std::vector<Record> records) -> Status {
    std::erase_if(records, [](const Record& record) { return is_blank(record.text); });
    TESSERA_ASSIGN_OR_RETURN(std::vector<Encoding> encodings,
                             encoder.encode(records, Origins::kOmit));
    for (size_t i = 0; i < records.size(); ++i) {
      lines.cut += encodings[i].truncated ? 1 : 0;
      const std::vector<int32_t>& ids = encodings[i].ids;
      if (std::all_of(ids.begin(), ids.end(), is_special)) continue;
      Example example;
      TESSERA_ASSIGN_OR_RETURN(example.tokens, encoder.to_sequence(encodings[i], records[i].place));
      lines.examples.add(example);
    }
    return {};
  }));
  if (lines.examples.size() == 0) return no_text(paths);
  return lines;
}

Result<std::vector<int32_t>> read_stream(const TextEncoder& encoder,
                                         const std::vector<std::string>& paths, size_t least) {
  TESSERA_ASSIGN_OR_RETURN(const std::vector<int32_t> end, encoder.end_of_text());
  std::vector<int32_t> stream;
  bool found = false;
  TESSERA_RETURN_IF_ERROR(
      read_texts(paths, [&](TextKind kind, std::vector<Record> records) -> Status {
        for (Record& record : records) {
          found = found || !is_blank(record.text);
          if (kind == TextKind::kLine) record.text += '\n';
        }
        TESSERA_ASSIGN_OR_RETURN(const std::vector<Encoding> encodings,
                                 encoder.encode_texts(records, SpecialTokens::kAdd));
        for (size_t i = 0; i < records.size(); ++i) {
          const std::vector<int32_t>& ids = encodings[i].ids;
          TESSERA_RETURN_IF_ERROR(check_ids(encoder, ids, records[i].place));
          stream.insert(stream.end(), ids.begin(), ids.end());
          const bool has_end =
              ids.size() >= end.size() && std::equal(end.rbegin(), end.rend(), ids.rbegin());
          if (kind == TextKind::kDocument && !has_end)
            stream.insert(stream.end(), end.begin(), end.end());
        }
        return {};
      }));
  if (!found) return no_text(paths);
  if (stream.size() >= least) return stream;
  return invalid_input(fmt::format("{}: expected a text of at least {} tokens, found {}",
                                   fmt::join(paths, ", "), least, stream.size()));
}

}  // namespace tessera::training
