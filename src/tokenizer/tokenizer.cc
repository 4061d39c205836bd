#include "tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <memory>
#include <mutex>
#include <new>

#include "tokenizer/added_tokens.h"
#include "tokenizer/components.h"
#include "tokenizer/template.h"
#include "tokenizer/unicode.h"

namespace tessera {
namespace tokenizer {
namespace {

// Runs a function and turns what it throws into a Status.
template <typename Function>
auto guarded(const std::string& source, const Function& function) -> decltype(function()) {
  try {
    return function();
  } catch (const std::bad_alloc&) {
    return out_of_memory(fmt::format("{}: out of memory in the tokenizer", source));
  } catch (const std::exception& error) {
    return invalid_input(fmt::format("{}: {}", source, error.what()));
  }
}

// Scratch memory for as many calls as run at the same time.
class ScratchPool {
 public:
  class Lease {
   public:
    Lease(ScratchPool& pool, std::unique_ptr<Scratch> scratch)
        : pool_(pool), scratch_(std::move(scratch)) {}
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease() { pool_.give_back(std::move(scratch_)); }
    Scratch& operator*() const { return *scratch_; }

   private:
    ScratchPool& pool_;
    std::unique_ptr<Scratch> scratch_;
  };

  Lease take() {
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        std::unique_ptr<Scratch> scratch = std::move(free_.back());
        free_.pop_back();
        return Lease(*this, std::move(scratch));
      }
    }
    return Lease(*this, std::make_unique<Scratch>());
  }

 private:
  static constexpr size_t kKept = 64;
  static constexpr size_t kKeptTextBytes = 1 << 22;

  void give_back(std::unique_ptr<Scratch> scratch) {
    // What one huge text needed is not kept for ever.
    if (scratch->segment.text.capacity() > kKeptTextBytes) return;
    const std::lock_guard lock(mutex_);
    if (free_.size() < kKept && free_.capacity() >= kKept) free_.push_back(std::move(scratch));
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> free_ = [] {
    std::vector<std::unique_ptr<Scratch>> empty;
    empty.reserve(kKept);  // so that give_back, which runs in a destructor, cannot throw
    return empty;
  }();
};

class PipelineTokenizer final : public Tokenizer {
 public:
  static Result<std::shared_ptr<const Tokenizer>> make(std::string_view text, std::string source) {
    auto made = std::make_shared<PipelineTokenizer>();
    made->source_ = source;
    TESSERA_ASSIGN_OR_RETURN(const JsonValue json, JsonValue::parse(text, std::move(source)));
    if (!json.is_object()) return json.wrong("an object");
    TESSERA_RETURN_IF_ERROR(made->load(json));
    return std::shared_ptr<const Tokenizer>(std::move(made));
  }

  Result<Encoding> encode(std::string_view text, SpecialTokens special) const override {
    return guarded(source_, [&]() -> Result<Encoding> {
      std::vector<int32_t> ids;
      TESSERA_RETURN_IF_ERROR(encode_text(text, "text", ids));
      return template_.assemble(ids, nullptr, special);
    });
  }

  Result<Encoding> encode_pair(std::string_view first, std::string_view second,
                               SpecialTokens special) const override {
    return guarded(source_, [&]() -> Result<Encoding> {
      std::vector<int32_t> first_ids, second_ids;
      TESSERA_RETURN_IF_ERROR(encode_text(first, "first text", first_ids));
      TESSERA_RETURN_IF_ERROR(encode_text(second, "second text", second_ids));
      return template_.assemble(first_ids, &second_ids, special);
    });
  }

  Result<std::string> decode(const std::vector<int32_t>& ids,
                             DecodeSpecial special) const override {
    return guarded(source_, [&]() -> Result<std::string> { return decode_ids(ids, special); });
  }

  int32_t vocabulary_size() const override {
    return std::max(model_->vocabulary().id_end(), added_.id_end());
  }

  std::optional<int32_t> id_of(std::string_view token) const override {
    int32_t id = added_.find(token);
    if (id == kNoToken) id = model_->vocabulary().find(token);
    return id == kNoToken ? std::nullopt : std::optional<int32_t>(id);
  }

  std::string token_of(int32_t id) const override {
    const std::string* content = added_.content(id);
    return content != nullptr ? *content : std::string(model_->vocabulary().token(id));
  }

 private:
  Status load(const JsonValue& json) {
    TESSERA_RETURN_IF_ERROR(make_normalizers(json["normalizer"], normalizers_));
    TESSERA_ASSIGN_OR_RETURN(const std::string type, model_type(json["model"]));
    const ByteSpelling allowed =
        type == "BPE" ? ByteSpelling::kRawBytes : ByteSpelling::kCharacters;
    TESSERA_ASSIGN_OR_RETURN(const ByteSpelling spelling,
                             make_pre_tokenizers(json["pre_tokenizer"], allowed, pre_tokenizers_));
    TESSERA_RETURN_IF_ERROR(make_decoders(json["decoder"], decoders_));
    has_decoder_ = !json["decoder"].is_null();
    TESSERA_ASSIGN_OR_RETURN(template_, Template::from_json(json["post_processor"]));
    TESSERA_ASSIGN_OR_RETURN(model_, make_model(json["model"], spelling));
    TESSERA_ASSIGN_OR_RETURN(added_,
                             AddedTokens::from_json(json["added_tokens"], model_->vocabulary()));
    if (template_.largest_id() >= vocabulary_size()) {
      return json["post_processor"].refuse(fmt::format(
          "expected ids of special tokens below {}, the size of the vocabulary, found {}",
          vocabulary_size(), template_.largest_id()));
    }
    return added_.normalize_with(normalizers_, *scratch_.take());
  }

  Status encode_text(std::string_view text, std::string_view name,
                     std::vector<int32_t>& ids) const {
    if (const size_t bad = find_invalid_utf8(text); bad != std::string_view::npos) {
      return invalid_input(fmt::format("expected UTF-8, found byte 0x{:02X} at offset {} of the {}",
                                       static_cast<uint8_t>(text[bad]), bad, name));
    }
    TESSERA_RETURN_IF_ERROR(check_text_size(text.size()));
    ids.reserve(text.size() / 4 + 8);
    const auto lease = scratch_.take();
    std::vector<AddedTokens::Stretch> stretches;
    added_.split(AddedTokens::Stage::kRaw, text, stretches);
    for (const AddedTokens::Stretch& stretch : stretches) {
      if (stretch.token != kNoToken) {
        ids.push_back(stretch.token);
        continue;
      }
      Segment& segment = (*lease).segment;
      segment.text.assign(text, stretch.span.begin, stretch.span.end - stretch.span.begin);
      segment.at_origin = stretch.span.begin == 0;
      TESSERA_RETURN_IF_ERROR(encode_segment(*lease, ids));
    }
    return {};
  }

  // From the text between the added tokens that stand in it as given.
  Status encode_segment(Scratch& scratch, std::vector<int32_t>& ids) const {
    Segment& segment = scratch.segment;
    for (const auto& normalizer : normalizers_) {
      TESSERA_RETURN_IF_ERROR(normalizer->apply(segment, scratch));
    }
    if (!added_.any(AddedTokens::Stage::kNormalized)) return encode_words(segment, scratch, ids);
    std::vector<AddedTokens::Stretch> stretches;
    added_.split(AddedTokens::Stage::kNormalized, segment.text, stretches);
    Segment& part = scratch.normalized;
    for (const AddedTokens::Stretch& stretch : stretches) {
      if (stretch.token != kNoToken) {
        ids.push_back(stretch.token);
        continue;
      }
      part.text.assign(segment.text, stretch.span.begin, stretch.span.end - stretch.span.begin);
      part.at_origin = segment.at_origin && stretch.span.begin == 0;
      TESSERA_RETURN_IF_ERROR(encode_words(part, scratch, ids));
    }
    return {};
  }

  // From normalised text without added tokens.
  Status encode_words(Segment& segment, Scratch& scratch, std::vector<int32_t>& ids) const {
    segment.pieces.clear();
    if (segment.text.empty()) return {};
    segment.pieces.push_back({0, static_cast<uint32_t>(segment.text.size())});
    for (const auto& pre_tokenizer : pre_tokenizers_) {
      TESSERA_RETURN_IF_ERROR(pre_tokenizer->apply(segment, scratch));
    }
    for (const Span piece : segment.pieces) {
      const std::string_view word(segment.text.data() + piece.begin, piece.end - piece.begin);
      if (word.size() > WordCache::kWordBytes) {
        TESSERA_RETURN_IF_ERROR(model_->tokenize(word, scratch, ids));
        continue;
      }
      const uint64_t hash = hash_bytes(word);
      if (const auto known = scratch.cache.find(word, hash); !known.empty()) {
        ids.insert(ids.end(), known.begin(), known.end());
        continue;
      }
      const size_t before = ids.size();
      TESSERA_RETURN_IF_ERROR(model_->tokenize(word, scratch, ids));
      scratch.cache.put(word, hash, std::span(ids).subspan(before));
    }
    return {};
  }

  Result<std::string> decode_ids(const std::vector<int32_t>& ids, DecodeSpecial special) const {
    std::vector<std::string> tokens;
    tokens.reserve(ids.size());
    const Vocabulary& vocabulary = model_->vocabulary();
    for (const int32_t id : ids) {
      if (id < 0 || id >= vocabulary_size()) {
        return invalid_input(
            fmt::format("expected token ids from 0 to {}, found {}", vocabulary_size() - 1, id));
      }
      if (special == DecodeSpecial::kSkip && added_.is_special(id)) continue;
      if (const std::string* content = added_.content(id)) {
        tokens.push_back(*content);
      } else if (vocabulary.has(id)) {
        tokens.emplace_back(vocabulary.token(id));
      }
    }
    const auto lease = scratch_.take();
    for (const auto& decoder : decoders_) {
      TESSERA_RETURN_IF_ERROR(decoder->apply(tokens, *lease));
    }
    std::string text;
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (i > 0 && !has_decoder_) text += ' ';
      text += tokens[i];
    }
    return text;
  }

  std::string source_;
  std::vector<std::unique_ptr<Normalizer>> normalizers_;
  std::vector<std::unique_ptr<PreTokenizer>> pre_tokenizers_;
  std::unique_ptr<Model> model_;
  Template template_;
  std::vector<std::unique_ptr<Decoder>> decoders_;
  bool has_decoder_ = false;
  AddedTokens added_;
  mutable ScratchPool scratch_;
};

constexpr size_t kFileLimit = size_t{1} << 30;

Result<std::string> read_file(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                             &std::fclose);
  if (file == nullptr) {
    return not_found(fmt::format("expected a tokenizer in {}, found no such file", path));
  }
  std::string text;
  char buffer[65536];
  for (size_t count; (count = std::fread(buffer, 1, sizeof buffer, file.get())) > 0;) {
    text.append(buffer, count);
    if (text.size() > kFileLimit) {
      return invalid_input(fmt::format("{}: expected at most {} bytes", path, kFileLimit));
    }
  }
  if (std::ferror(file.get()) != 0) return io_error(fmt::format("{}: cannot be read", path));
  return text;
}

}  // namespace
}  // namespace tokenizer

Result<std::shared_ptr<const Tokenizer>> Tokenizer::open(const std::string& directory) {
  using Made = Result<std::shared_ptr<const Tokenizer>>;
  const std::string path = directory + "/tokenizer.json";
  return tokenizer::guarded(path, [&]() -> Made {
    TESSERA_ASSIGN_OR_RETURN(const std::string text, tokenizer::read_file(path));
    return from_json(text, path);
  });
}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::from_json(std::string_view json,
                                                              std::string source) {
  const std::string name = source;
  return tokenizer::guarded(
      name, [&] { return tokenizer::PipelineTokenizer::make(json, std::move(source)); });
}

}  // namespace tessera
