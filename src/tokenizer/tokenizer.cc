#include "tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <exception>
#include <memory>
#include <mutex>
#include <new>

#include "tokenizer/components.h"
#include "tokenizer/pipeline.h"
#include "tokenizer/truncation.h"
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
  explicit PipelineTokenizer(Pipeline pipeline) : pipeline_(std::move(pipeline)) {}

  static Result<std::shared_ptr<const Tokenizer>> make(Result<Pipeline> pipeline,
                                                       std::string source) {
    if (!pipeline.ok()) return pipeline.status();
    auto made = std::make_shared<PipelineTokenizer>(std::move(pipeline).value());
    made->pipeline_.source = std::move(source);
    TESSERA_RETURN_IF_ERROR(
        made->pipeline_.added.normalize_with(made->pipeline_.normalizers, *made->scratch_.take()));
    return std::shared_ptr<const Tokenizer>(std::move(made));
  }

  Result<Encoding> encode(const TextPair& text, const EncodeOptions& options) const override {
    return guarded(pipeline_.source, [&] { return encode_pair(text, options); });
  }

  Result<std::vector<Encoding>> encode_all(std::span<const TextPair> texts,
                                           const EncodeOptions& options, int) const override {
    return guarded(pipeline_.source, [&]() -> Result<std::vector<Encoding>> {
      std::vector<Encoding> all;
      for (size_t i = 0; i < texts.size(); ++i) {
        Result<Encoding> one = encode_pair(texts[i], options);
        if (!one.ok()) {
          return Status(one.status().code(), fmt::format("text {}: {}", i, one.status().message()));
        }
        all.push_back(std::move(one).value());
      }
      return all;
    });
  }

  Result<std::vector<Encoding>> encode_windows(const TextPair&, size_t, size_t) const override {
    return unsupported("windows over a pair of texts are not supported yet");
  }

  Result<std::string> decode(const std::vector<int32_t>& ids,
                             DecodeSpecial special) const override {
    return guarded(pipeline_.source,
                   [&]() -> Result<std::string> { return decode_ids(ids, special); });
  }

  int32_t vocabulary_size() const override { return pipeline_.vocabulary_size(); }

  std::optional<int32_t> id_of(std::string_view token) const override {
    int32_t id = pipeline_.added.find(token);
    if (id == kNoToken) id = pipeline_.model->vocabulary().find(token);
    return id == kNoToken ? std::nullopt : std::optional<int32_t>(id);
  }

  std::string token_of(int32_t id) const override {
    const std::string* content = pipeline_.added.content(id);
    return content != nullptr ? *content : std::string(pipeline_.model->vocabulary().token(id));
  }

  std::optional<int32_t> mask_id() const override {
    for (const char* content : {"[MASK]", "<mask>"}) {
      const int32_t id = pipeline_.added.find(content);
      if (id != kNoToken && pipeline_.added.is_special(id)) return id;
    }
    return std::nullopt;
  }

 private:
  Result<Encoding> encode_pair(const TextPair& text, const EncodeOptions& options) const {
    std::vector<int32_t> first, second;
    const bool is_pair = text.second.has_value();
    TESSERA_RETURN_IF_ERROR(encode_text(text.first, is_pair ? "first text" : "text", first));
    if (is_pair) TESSERA_RETURN_IF_ERROR(encode_text(*text.second, "second text", second));
    std::vector<int32_t>* const second_or_null = is_pair ? &second : nullptr;
    const size_t tokens = first.size() + second.size();
    const Template& form = pipeline_.special_tokens;
    if (options.truncation.has_value()) {
      const size_t added =
          options.special == SpecialTokens::kAdd ? form.special_count(is_pair ? 2 : 1) : 0;
      TESSERA_RETURN_IF_ERROR(truncate(*options.truncation, added, first, second_or_null));
    }
    Encoding encoding = form.assemble(first, second_or_null, options.special);
    encoding.truncated = first.size() + second.size() < tokens;
    return encoding;
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
    pipeline_.added.split(AddedTokens::Stage::kRaw, text, stretches);
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
    for (const auto& normalizer : pipeline_.normalizers) {
      TESSERA_RETURN_IF_ERROR(normalizer->apply(segment, scratch));
    }
    if (!pipeline_.added.any(AddedTokens::Stage::kNormalized))
      return encode_words(segment, scratch, ids);
    std::vector<AddedTokens::Stretch> stretches;
    pipeline_.added.split(AddedTokens::Stage::kNormalized, segment.text, stretches);
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
    for (const auto& pre_tokenizer : pipeline_.pre_tokenizers) {
      TESSERA_RETURN_IF_ERROR(pre_tokenizer->apply(segment, scratch));
    }
    for (const Span piece : segment.pieces) {
      const std::string_view word(segment.text.data() + piece.begin, piece.end - piece.begin);
      if (word.size() > WordCache::kWordBytes) {
        TESSERA_RETURN_IF_ERROR(pipeline_.model->tokenize(word, scratch, ids));
        continue;
      }
      const uint64_t hash = hash_bytes(word);
      if (const auto known = scratch.cache.find(word, hash); !known.empty()) {
        ids.insert(ids.end(), known.begin(), known.end());
        continue;
      }
      const size_t before = ids.size();
      TESSERA_RETURN_IF_ERROR(pipeline_.model->tokenize(word, scratch, ids));
      scratch.cache.put(word, hash, std::span(ids).subspan(before));
    }
    return {};
  }

  bool is_special(int32_t id) const {
    const auto index = static_cast<size_t>(id);
    return pipeline_.added.is_special(id) ||
           (index < pipeline_.is_control.size() && pipeline_.is_control[index]);
  }

  Result<std::string> decode_ids(const std::vector<int32_t>& ids, DecodeSpecial special) const {
    std::vector<std::string> tokens;
    tokens.reserve(ids.size());
    const Vocabulary& vocabulary = pipeline_.model->vocabulary();
    for (const int32_t id : ids) {
      if (id < 0 || id >= vocabulary_size()) {
        return invalid_input(
            fmt::format("expected token ids from 0 to {}, found {}", vocabulary_size() - 1, id));
      }
      if (special == DecodeSpecial::kSkip && is_special(id)) continue;
      if (const std::string* content = pipeline_.added.content(id)) {
        tokens.push_back(*content);
      } else if (vocabulary.has(id)) {
        tokens.emplace_back(vocabulary.token(id));
      }
    }
    const auto lease = scratch_.take();
    for (const auto& decoder : pipeline_.decoders) {
      TESSERA_RETURN_IF_ERROR(decoder->apply(tokens, *lease));
    }
    std::string text;
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (i > 0 && !pipeline_.has_decoder) text += ' ';
      text += tokens[i];
    }
    return text;
  }

  Pipeline pipeline_;
  mutable ScratchPool scratch_;
};

}  // namespace
}  // namespace tokenizer

using Made = Result<std::shared_ptr<const Tokenizer>>;

Made Tokenizer::open(const std::string& directory) {
  return tokenizer::guarded(directory, [&]() -> Made {
    const std::string json_path = directory + "/tokenizer.json";
    const Result<std::string> json = tokenizer::read_file(json_path);
    if (json.ok()) return from_json(*json, json_path);
    if (json.status().code() != StatusCode::kNotFound) return json.status();
    TESSERA_ASSIGN_OR_RETURN(auto config, tokenizer::TokenizerConfig::read(directory));
    const std::string model_path = directory + "/tokenizer.model";
    const Result<std::string> model = tokenizer::read_file(model_path);
    if (model.ok()) {
      return tokenizer::PipelineTokenizer::make(
          tokenizer::make_sentence_piece_pipeline(*model, config, model_path), model_path);
    }
    if (model.status().code() != StatusCode::kNotFound) return model.status();
    return tokenizer::PipelineTokenizer::make(
        tokenizer::make_vocabulary_pipeline(directory, std::move(config)), directory);
  });
}

Made Tokenizer::from_json(std::string_view json, std::string source) {
  return tokenizer::guarded(source, [&]() -> Made {
    TESSERA_ASSIGN_OR_RETURN(const auto parsed, tokenizer::JsonValue::parse(json, source));
    return tokenizer::PipelineTokenizer::make(tokenizer::make_pipeline(parsed), source);
  });
}

Made Tokenizer::from_sentence_piece(std::string_view bytes, std::string source) {
  return tokenizer::guarded(source, [&] {
    return tokenizer::PipelineTokenizer::make(
        tokenizer::make_sentence_piece_pipeline(bytes, {}, source), source);
  });
}

}  // namespace tessera
