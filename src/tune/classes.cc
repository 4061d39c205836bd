#include "tune/classes.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "io/json.h"

namespace tessera::training {
namespace {

std::optional<int64_t> integer_of(const std::string& text) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc() && end == text.data() + text.size()) return number;
  return std::nullopt;
}

// Numbers by their value, then others by their bytes.
bool stands_before(const std::string& a, const std::string& b) {
  const std::optional<int64_t> x = integer_of(a), y = integer_of(b);
  if (x && y && *x != *y) return *x < *y;
  if (x.has_value() != y.has_value()) return x.has_value();
  return a < b;
}

std::vector<std::string> all_labels(const Records& records) {
  std::vector<std::string> labels;
  for (const Record& row : records.rows) {
    if (row.words.empty()) labels.push_back(row.label);
    labels.insert(labels.end(), row.word_labels.begin(), row.word_labels.end());
  }
  std::sort(labels.begin(), labels.end(), stands_before);
  labels.erase(std::unique(labels.begin(), labels.end()), labels.end());
  return labels;
}

}  // namespace

Result<Classes> Classes::find(const Architecture& architecture, const Records& records) {
  Classes classes;
  classes.count_ = architecture.labels;
  if (records.labels.empty() && architecture.labels > 0) {
    const std::vector<std::string>& names = architecture.label_names;
    classes.names_ = names;
    classes.set(names);
    // A name that is a number would be taken for another class.
    classes.numbers_ =
        std::any_of(names.begin(), names.end(),
                    [](const std::string& name) { return integer_of(name).has_value(); })
            ? Numbers::kUnknown
            : Numbers::kTaken;
    return classes;
  }
  classes.set(records.labels.empty() ? all_labels(records) : records.labels);
  classes.names_ = architecture.label_names.empty() ? classes.spelled_ : architecture.label_names;
  if (architecture.labels == 0 || architecture.labels == classes.count_) return classes;
  return invalid_input(fmt::format("{}: expected a model with {} labels, for {}, found one with {}",
                                   records.rows[0].place, classes.count_,
                                   fmt::join(classes.spelled_, ", "), architecture.labels));
}

void Classes::set(const std::vector<std::string>& spelled) {
  spelled_ = spelled;
  for (const std::string& label : spelled)
    numbers_of_.emplace(label, static_cast<int32_t>(numbers_of_.size()));
  if (!spelled.empty()) count_ = static_cast<int32_t>(spelled.size());
}

Result<int32_t> Classes::number_of(const std::string& label, const std::string& place) const {
  const auto found = numbers_of_.find(label);
  if (found != numbers_of_.end()) return found->second;
  const std::optional<int64_t> number = integer_of(label);
  if (numbers_ == Numbers::kTaken && number && *number >= 0 && *number < count_)
    return static_cast<int32_t>(*number);
  const std::string numbers = fmt::format("0 to {}", count_ - 1);
  const std::string names = fmt::format("{}", fmt::join(spelled_, ", "));
  return invalid_input(fmt::format("{}: expected a label of {}{}{}, found {}", place, names,
                                   !names.empty() && numbers_ == Numbers::kTaken ? ", or " : "",
                                   numbers_ == Numbers::kTaken ? numbers : "", quote(label)));
}

}  // namespace tessera::training
