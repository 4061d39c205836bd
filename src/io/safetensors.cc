#include "io/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <new>
#include <tuple>
#include <utility>

#include "io/json.h"
#include "io/safetensors_limits.h"

namespace tessera {
namespace {

constexpr size_t kLengthBytes = 8;

// The format's dtypes that Tessera has no use for.
struct OtherDType {
  std::string_view name;
  int64_t bits;
};
constexpr OtherDType kOtherDTypes[] = {
    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"F8_E4M3", 8},
    {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8},
    {"U16", 16},    {"U32", 32},    {"U64", 64},        {"C64", 64},
};

struct Entry {
  std::string name;
  const OtherDType* other = nullptr;  // in place of the view's dtype
  TensorView view;
  int64_t begin = 0;
  int64_t end = 0;
};

class Parser {
 public:
  Parser(std::string_view file, const std::string& source) : file_(file), source_(source) {}

  Result<SafetensorsContents> parse() {
    TESSERA_ASSIGN_OR_RETURN(const std::string_view header, find_header());
    TESSERA_ASSIGN_OR_RETURN(const Json root, parse_json(header, source_ + ": header"));
    const auto* members = root.as<Json::Object>();
    if (members == nullptr) return wrong("header", "a JSON object", shortened(root));
    data_ = file_.substr(kLengthBytes + header.size());
    SafetensorsContents contents;
    std::vector<Entry> entries;
    for (const Json::Member& member : *members) {
      if (member.key == kMetadataName) {
        TESSERA_RETURN_IF_ERROR(read_metadata(member.value, contents.metadata));
        continue;
      }
      entries.emplace_back();
      TESSERA_RETURN_IF_ERROR(read_entry(member, entries.back()));
    }
    TESSERA_RETURN_IF_ERROR(check_offsets(entries));
    for (Entry& entry : entries) {
      if (entry.other != nullptr) {
        contents.others.emplace(std::move(entry.name), entry.other->name);
        continue;
      }
      entry.view.data = data_.data() + entry.begin;
      contents.tensors.emplace(std::move(entry.name), std::move(entry.view));
    }
    return contents;
  }

 private:
  Status wrong(const std::string& what, const std::string& expected,
               const std::string& found) const {
    return invalid_input(
        fmt::format("{}: {}: expected {}, found {}", source_, what, expected, found));
  }

  Result<std::string_view> find_header() const {
    if (file_.size() < kLengthBytes) {
      return wrong("file", "a header length of 8 bytes", fmt::format("{} bytes", file_.size()));
    }
    if (is_git_lfs_pointer(file_)) {
      return invalid_input(
          fmt::format("{}: file: expected safetensors, {}", source_, kFoundGitLfsPointer));
    }
    uint64_t length = 0;
    for (size_t i = 0; i < kLengthBytes; ++i) {
      length |= uint64_t{static_cast<unsigned char>(file_[i])} << (8 * i);
    }
    const size_t rest = file_.size() - kLengthBytes;
    const size_t most = std::min(rest, kMaxHeaderBytes);
    if (length < 2 || length > most) {
      const char* why = rest <= kMaxHeaderBytes ? "what the file holds" : "the limit";
      return wrong("header length", fmt::format("2 to {} bytes ({})", most, why),
                   fmt::format("{}", length));
    }
    const std::string_view header = file_.substr(kLengthBytes, length);
    if (header[0] != '{') return wrong("header", "a JSON object", quote(header.substr(0, 16)));
    return header;
  }

  Status read_metadata(const Json& value, std::map<std::string, std::string>& metadata) const {
    const auto* members = value.as<Json::Object>();
    if (members == nullptr) return wrong("__metadata__", "an object of strings", shortened(value));
    for (const Json::Member& member : *members) {
      const auto* text = member.value.as<std::string>();
      if (text == nullptr) {
        return wrong("__metadata__: " + quote(member.key), "a string", shortened(member.value));
      }
      metadata.emplace(member.key, *text);
    }
    return {};
  }

  Status read_entry(const Json::Member& member, Entry& entry) const {
    const std::string what = "tensor " + quote(member.key);
    if (member.key.size() > kMaxTensorNameBytes) {
      return wrong(what, fmt::format("a name of at most {} bytes", kMaxTensorNameBytes),
                   fmt::format("{}", member.key.size()));
    }
    if (member.key.find('\0') != std::string::npos) {
      return wrong(what, "a name without NUL", "one with it");
    }
    if (member.value.as<Json::Object>() == nullptr) {
      return wrong(what, "an object with dtype, shape and data_offsets", shortened(member.value));
    }
    entry.name = member.key;
    TESSERA_RETURN_IF_ERROR(read_dtype(member.value, what + ": dtype", entry));
    TESSERA_RETURN_IF_ERROR(read_shape(member.value, what + ": shape", entry));
    return read_offsets(member.value, what, entry);
  }

  static std::string found(const Json* value) {
    return value == nullptr ? "nothing" : shortened(*value);
  }

  Status read_dtype(const Json& tensor, const std::string& what, Entry& entry) const {
    const Json* value = tensor.find("dtype");
    const auto* dtype_name = value == nullptr ? nullptr : value->as<std::string>();
    if (dtype_name == nullptr) return wrong(what, "the name of a dtype", found(value));
    if (const std::optional<DType> dtype = parse_dtype(*dtype_name)) {
      entry.view.dtype = *dtype;
      return {};
    }
    const auto* other =
        std::find_if(std::begin(kOtherDTypes), std::end(kOtherDTypes),
                     [&](const OtherDType& row) { return row.name == *dtype_name; });
    if (other == std::end(kOtherDTypes)) {
      return unsupported(
          fmt::format("{}: {}: expected a dtype of safetensors, as F32, BF16 or U8, found {}",
                      source_, what, shortened(*value)));
    }
    entry.other = other;
    return {};
  }

  Status read_shape(const Json& tensor, const std::string& what, Entry& entry) const {
    const Json* value = tensor.find("shape");
    const auto* extents = value == nullptr ? nullptr : value->as<Json::Array>();
    if (extents == nullptr) return wrong(what, "a list of integers", found(value));
    if (extents->size() > kMaxDimensions) {
      return wrong(what, fmt::format("at most {} dimensions", kMaxDimensions),
                   fmt::format("{}", extents->size()));
    }
    for (const Json& item : *extents) {
      const auto* extent = item.as<int64_t>();
      if (extent == nullptr || *extent < 0) {
        return wrong(what, "integers from 0 to 9223372036854775807", shortened(item));
      }
      entry.view.shape.push_back(*extent);
    }
    return {};
  }

  // Values of less than a byte fill whole bytes together.
  static std::optional<int64_t> bytes_of(const Entry& entry) {
    if (entry.other == nullptr) return tensor_bytes(entry.view.dtype, entry.view.shape);
    const std::optional<int64_t> bits = tensor_size(entry.other->bits, entry.view.shape);
    return bits.has_value() && *bits % 8 == 0 ? std::optional(*bits / 8) : std::nullopt;
  }

  Status read_offsets(const Json& tensor, const std::string& what, Entry& entry) const {
    const std::string offsets_of = what + ": data_offsets";
    const Json* value = tensor.find("data_offsets");
    const auto* pair = value == nullptr ? nullptr : value->as<Json::Array>();
    if (pair == nullptr || pair->size() != 2) {
      return wrong(offsets_of, "a list of two integers", found(value));
    }
    for (const Json& item : *pair) {
      const auto* offset = item.as<int64_t>();
      if (offset == nullptr || *offset < 0 || static_cast<uint64_t>(*offset) > data_.size()) {
        return wrong(
            offsets_of,
            fmt::format("integers from 0 to {}, the bytes of data in the file", data_.size()),
            offset == nullptr || *offset < 0
                ? shortened(item)
                : shortened(item) + ": the file ends early, as where a download stopped");
      }
    }
    entry.begin = *(*pair)[0].as<int64_t>();
    entry.end = *(*pair)[1].as<int64_t>();
    if (entry.end < entry.begin) {
      return wrong(offsets_of, "a begin that is not after the end", shortened(*value));
    }
    const int64_t size = entry.end - entry.begin;
    const std::optional<int64_t> needed = bytes_of(entry);
    const std::string shape =
        fmt::format("{} [{}]", entry.other != nullptr ? entry.other->name : name(entry.view.dtype),
                    fmt::join(entry.view.shape, ", "));
    if (!needed) return wrong(what, "bytes that 63 bits can count", shape);
    if (*needed != size) {
      return wrong(offsets_of, fmt::format("{} bytes for {}", *needed, shape),
                   fmt::format("{}", size));
    }
    entry.view.size_bytes = static_cast<size_t>(size);
    return {};
  }

  // Puts the entries into the order of the data, where each must begin at the end of the one
  // before. Empty tensors share their offset with what follows them.
  Status check_offsets(std::vector<Entry>& entries) const {
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
      return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
    });
    int64_t end = 0;
    const std::string* before = nullptr;
    for (const Entry& entry : entries) {
      if (entry.begin != end) {
        const std::string expected =
            before == nullptr ? "0 as the first begin"
                              : fmt::format("a begin at {}, where {} ends", end, quote(*before));
        return wrong(
            "tensor " + quote(entry.name) + ": data_offsets", expected,
            fmt::format("{} ({})", entry.begin, entry.begin < end ? "an overlap" : "a gap"));
      }
      end = entry.end;
      before = &entry.name;
    }
    if (static_cast<uint64_t>(end) != data_.size()) {
      return wrong("data", fmt::format("{} bytes, as the tensors say", end),
                   fmt::format("{}", data_.size()));
    }
    return {};
  }

  std::string_view file_;
  const std::string& source_;
  std::string_view data_;
};

}  // namespace

Result<SafetensorsContents> parse_safetensors(std::string_view file, const std::string& source) {
  try {
    return Parser(file, source).parse();
  } catch (const std::bad_alloc&) {
    return out_of_memory(fmt::format("{}: not enough memory for its list of tensors", source));
  }
}

Result<Safetensors> Safetensors::open(const std::string& path) {
  Safetensors opened;
  TESSERA_ASSIGN_OR_RETURN(opened.file_, MappedFile::open(path));
  const std::string_view bytes(opened.file_.data(), opened.file_.size_bytes());
  TESSERA_ASSIGN_OR_RETURN(opened.contents_, parse_safetensors(bytes, path));
  return opened;
}

}  // namespace tessera
