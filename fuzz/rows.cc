// Any bytes as CSV, TSV and JSON lines give rows with the columns asked for, or sentences; all of
// them end. The first byte chooses columns and header.

#include <string>

#include "support/target.h"
#include "tessera/records.h"

namespace tessera::fuzz {
namespace {

void read(const std::string& path, const RowOptions& options, size_t most) {
  const auto reader = RowReader::open(path, options);
  if (!reader.ok()) return require(!reader.status().message().empty());
  int64_t last = 0;
  for (size_t rows = 0;; ++rows) {
    // A row takes a line at least, and a line feed or the end.
    require(rows <= most);
    Row row;
    if (rows % 2 == 1) require((*reader)->ready());  // as a file always is
    const Result<bool> more = (*reader)->next(&row);
    if (!more.ok()) {
      require(!more.status().message().empty());
      if (!(*reader)->can_go_on()) return;
      continue;
    }
    if (!*more) return;
    require(row.fields.size() == options.columns.size() + options.optional_columns.size());
    require(row.line > last);
    last = row.line;
    for (const RowField& field : row.fields) require(check_utf8(field.text).ok());
  }
}

}  // namespace

void check(std::string_view input) {
  if (input.empty()) return;
  const auto choice = static_cast<unsigned char>(input[0]);
  input.remove_prefix(1);
  static const Folder folder;
  folder.put("rows", input);
  const std::string path = folder.path() + "/rows";
  RowOptions options;
  options.header = static_cast<HeaderRow>(choice % 3);
  options.columns = choice & 4 ? std::vector<std::string>{"a", "b"} : std::vector<std::string>{"1"};
  if (choice & 8) options.optional_columns = {"c"};
  for (const DataFormat format : {DataFormat::kCsv, DataFormat::kTsv, DataFormat::kJsonLines}) {
    options.format = format;
    read(path, options, input.size() + 2);
  }
}

}  // namespace tessera::fuzz
