#include "tokenizer/pipeline_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <mutex>

#include "base/team.h"
#include "tokenizer/origins.h"
#include "tokenizer/truncation.h"
#include "tokenizer/unicode.h"

namespace tessera::tokenizer {
namespace {

// Texts that one thread takes at a time: enough bytes that taking them costs nothing, few enough
// that all threads end together.
constexpr size_t kChunkBytes = 1 << 14;

// The ends of runs of texts of about so many bytes.
std::vector<size_t> chunk_ends(std::span<const TextPair> texts) {
  std::vector<size_t> ends;
  size_t bytes = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    bytes += texts[i].first.size() + texts[i].second.value_or("").size();
    if (bytes < kChunkBytes && i + 1 < texts.size()) continue;
    ends.push_back(i + 1);
    bytes = 0;
  }
  return ends;
}

// The first of the texts that cannot be encoded.
class FirstFailure {
 public:
  explicit FirstFailure(size_t texts) : index_(texts) {}
  size_t index() const { return index_.load(std::memory_order_relaxed); }
  void note(size_t index, const Status& status) {
    const std::lock_guard lock(mutex_);
    if (index >= index_.load(std::memory_order_relaxed)) return;
    index_.store(index, std::memory_order_relaxed);
    status_ = status;
  }
  Status status() const {
    if (status_.ok()) return {};
    return Status(status_.code(), fmt::format("text {}: {}", index(), status_.message()));
  }

 private:
  std::mutex mutex_;
  std::atomic<size_t> index_;
  Status status_;
};

}  // namespace

Status one_sentence(const Status& error) {
  constexpr size_t kMostBytes = 800;
  std::string text;
  for (const char c : error.message()) {
    if (static_cast<uint8_t>(c) >= 0x20 && c != 0x7F) {
      text += c;
    } else {
      text += c == '\n' ? "\\n" : fmt::format("\\x{:02x}", static_cast<uint8_t>(c));
    }
    if (text.size() > kMostBytes) break;
  }
  if (text.size() > kMostBytes) {
    size_t end = kMostBytes;
    while (end > 0 && is_continuation(text[end])) --end;
    text.resize(end);
    text += "...";
  }
  return {error.code(), text};
}

Result<std::shared_ptr<const Tokenizer>> PipelineTokenizer::make(Result<Pipeline> pipeline,
                                                                 std::string source) {
  if (!pipeline.ok()) return pipeline.status();
  auto made = std::make_shared<PipelineTokenizer>(std::move(pipeline).value());
  made->pipeline_.source = std::move(source);
  TESSERA_RETURN_IF_ERROR(
      made->pipeline_.added.normalize_with(made->pipeline_.normalizers, *made->scratch_.take()));
  return std::shared_ptr<const Tokenizer>(std::move(made));
}

Result<Encoding> PipelineTokenizer::encode(const TextPair& text,
                                           const EncodeOptions& options) const {
  return guarded(pipeline_.source, [&]() -> Result<Encoding> {
    const auto scratch = scratch_.take();
    return encode_with(text, options, *scratch);
  });
}

Result<std::vector<Encoding>> PipelineTokenizer::encode_all(std::span<const TextPair> texts,
                                                            const EncodeOptions& options,
                                                            int threads) const {
  return guarded(pipeline_.source, [&]() -> Result<std::vector<Encoding>> {
    const std::vector<size_t> ends = chunk_ends(texts);
    const auto most = static_cast<size_t>(threads < 1 ? usable_cpus() : threads);
    Team team(static_cast<int>(std::clamp<size_t>(ends.size(), 1, most)));
    std::vector<ScratchPool::Lease> scratch;
    for (int i = 0; i < team.size(); ++i) scratch.push_back(scratch_.take());
    std::vector<Encoding> encodings(texts.size());
    // Chunks are begun in their order. So when a text fails, all before it have been begun and will
    // be done, and which failure is the first does not depend on how the threads run.
    FirstFailure failure(texts.size());
    std::atomic<size_t> next_chunk = 0;
    team.run([&](Team::Member& member) {
      Scratch& own = *scratch[static_cast<size_t>(member.rank())];
      for (size_t chunk; (chunk = next_chunk.fetch_add(1)) < ends.size();) {
        for (size_t i = chunk == 0 ? 0 : ends[chunk - 1]; i < ends[chunk]; ++i) {
          if (i > failure.index()) return;
          Result<Encoding> encoding =
              guarded(pipeline_.source, [&] { return encode_with(texts[i], options, own); });
          if (!encoding.ok()) return failure.note(i, encoding.status());
          encodings[i] = std::move(encoding).value();
        }
      }
    });
    TESSERA_RETURN_IF_ERROR(failure.status());
    return encodings;
  });
}

Result<std::vector<Encoding>> PipelineTokenizer::encode_windows(const TextPair& pair,
                                                                size_t max_tokens,
                                                                size_t overlap_tokens) const {
  return guarded(pipeline_.source, [&]() -> Result<std::vector<Encoding>> {
    const auto scratch = scratch_.take();
    return windows_with(pair, max_tokens, overlap_tokens, *scratch);
  });
}

Result<Encoding> PipelineTokenizer::encode_with(const TextPair& text, const EncodeOptions& options,
                                                Scratch& scratch) const {
  TESSERA_RETURN_IF_ERROR(read_texts(text, options.origins, scratch));
  Tokens& first = scratch.first;
  Tokens* second = text.second.has_value() ? &scratch.second : nullptr;
  const auto count = [&] {
    return first.ids.size() + (second == nullptr ? 0 : second->ids.size());
  };
  const size_t tokens = count();
  if (options.truncation.has_value()) {
    const size_t added = options.special == SpecialTokens::kAdd
                             ? pipeline_.special_tokens.special_count(second == nullptr ? 1 : 2)
                             : 0;
    TESSERA_RETURN_IF_ERROR(truncate(*options.truncation, added, first, second));
  }
  trim_spaces(pipeline_, text.first, first);
  if (second != nullptr) trim_spaces(pipeline_, *text.second, *second);
  Encoding encoding = pipeline_.special_tokens.assemble(first, second, options.special);
  encoding.truncated = count() < tokens;
  return encoding;
}

Result<std::vector<Encoding>> PipelineTokenizer::windows_with(const TextPair& pair,
                                                              size_t max_tokens,
                                                              size_t overlap_tokens,
                                                              Scratch& scratch) const {
  if (!pair.second.has_value()) {
    return invalid_input("expected a second text for windows to go over, found one text");
  }
  TESSERA_RETURN_IF_ERROR(read_texts(pair, Origins::kGive, scratch));
  Tokens& first = scratch.first;
  const Tokens& second = scratch.second;
  const size_t always = pipeline_.special_tokens.special_count(2) + first.ids.size();
  if (always > max_tokens) {
    return invalid_input(fmt::format(
        "expected windows of at least {} tokens, which the first text and the special tokens take, "
        "found {}",
        always, max_tokens));
  }
  TESSERA_ASSIGN_OR_RETURN(const std::vector<Span> windows,
                           windows_over(second.ids.size(), max_tokens - always, overlap_tokens));
  trim_spaces(pipeline_, pair.first, first);
  std::vector<Encoding> encodings;
  for (const Span window : windows) {
    Tokens part = slice(second, window);
    trim_spaces(pipeline_, *pair.second, part);
    encodings.push_back(pipeline_.special_tokens.assemble(first, &part, SpecialTokens::kAdd));
    encodings.back().truncated = windows.size() > 1;
  }
  return encodings;
}

Status PipelineTokenizer::read_texts(const TextPair& text, Origins origins,
                                     Scratch& scratch) const {
  const bool is_pair = text.second.has_value();
  for (Tokens* tokens : {&scratch.first, &scratch.second}) {
    tokens->resize(0);
    tokens->has_spans = origins == Origins::kGive;
  }
  TESSERA_RETURN_IF_ERROR(
      read_text(text.first, is_pair ? "first text" : "text", scratch, scratch.first));
  return is_pair ? read_text(*text.second, "second text", scratch, scratch.second) : Status();
}

Status PipelineTokenizer::read_text(std::string_view text, std::string_view name, Scratch& scratch,
                                    Tokens& tokens) const {
  if (const size_t bad = find_invalid_utf8(text); bad != std::string_view::npos) {
    return invalid_input(fmt::format("expected UTF-8, found byte 0x{:02X} at offset {} of the {}",
                                     static_cast<uint8_t>(text[bad]), bad, name));
  }
  TESSERA_RETURN_IF_ERROR(check_text_size(text.size()));
  std::vector<AddedTokens::Stretch> stretches;
  pipeline_.added.split(AddedTokens::Stage::kRaw, text, stretches);
  for (const AddedTokens::Stretch& stretch : stretches) {
    if (stretch.token != kNoToken) {
      tokens.push(stretch.token, stretch.span);
      continue;
    }
    Segment& segment = scratch.segment;
    if (tokens.has_spans) {
      assign_with_sources(text, stretch.span, segment);
    } else {
      segment.text.assign(text, stretch.span.begin, stretch.span.end - stretch.span.begin);
      segment.sources.clear();
    }
    segment.at_origin = stretch.span.begin == 0;
    TESSERA_RETURN_IF_ERROR(read_segment(scratch, tokens));
  }
  return {};
}

Status PipelineTokenizer::read_segment(Scratch& scratch, Tokens& tokens) const {
  Segment& segment = scratch.segment;
  for (const auto& normalizer : pipeline_.normalizers) {
    TESSERA_RETURN_IF_ERROR(normalizer->apply(segment, scratch));
  }
  if (!pipeline_.added.any(AddedTokens::Stage::kNormalized)) {
    return read_words(segment, scratch, tokens);
  }
  std::vector<AddedTokens::Stretch> stretches;
  pipeline_.added.split(AddedTokens::Stage::kNormalized, segment.text, stretches);
  Segment& part = scratch.normalized;
  for (const AddedTokens::Stretch& stretch : stretches) {
    const auto [begin, end] = stretch.span;
    if (stretch.token != kNoToken) {
      tokens.push(stretch.token,
                  tokens.has_spans ? joined(segment.sources, begin, end) : stretch.span);
      continue;
    }
    part.text.assign(segment.text, begin, end - begin);
    part.sources.clear();
    if (tokens.has_spans) {
      part.sources.assign(segment.sources.begin() + begin, segment.sources.begin() + end);
    }
    part.at_origin = segment.at_origin && begin == 0;
    TESSERA_RETURN_IF_ERROR(read_words(part, scratch, tokens));
  }
  return {};
}

Status PipelineTokenizer::read_words(Segment& segment, Scratch& scratch, Tokens& tokens) const {
  segment.pieces.clear();
  if (segment.text.empty()) return {};
  segment.pieces.push_back({0, static_cast<uint32_t>(segment.text.size())});
  for (const auto& pre_tokenizer : pipeline_.pre_tokenizers) {
    TESSERA_RETURN_IF_ERROR(pre_tokenizer->apply(segment, scratch));
  }
  for (const Span piece : segment.pieces) {
    const std::string_view word(segment.text.data() + piece.begin, piece.end - piece.begin);
    if (tokens.has_spans) {
      TESSERA_RETURN_IF_ERROR(read_with_sources(segment, piece, scratch, tokens));
      continue;
    }
    if (word.size() > WordCache::kWordBytes) {
      TESSERA_RETURN_IF_ERROR(pipeline_.model->tokenize(word, scratch, tokens));
      continue;
    }
    const uint64_t hash = hash_bytes(word);
    if (const auto known = scratch.cache.find(word, hash); !known.empty()) {
      tokens.ids.insert(tokens.ids.end(), known.begin(), known.end());
      continue;
    }
    const size_t before = tokens.ids.size();
    TESSERA_RETURN_IF_ERROR(pipeline_.model->tokenize(word, scratch, tokens));
    scratch.cache.put(word, hash, std::span(tokens.ids).subspan(before));
  }
  return {};
}

// Past the cache, which keeps no spans.
Status PipelineTokenizer::read_with_sources(const Segment& segment, Span piece, Scratch& scratch,
                                            Tokens& tokens) const {
  const std::string_view word(segment.text.data() + piece.begin, piece.end - piece.begin);
  const size_t before = tokens.spans.size();
  TESSERA_RETURN_IF_ERROR(pipeline_.model->tokenize(word, scratch, tokens));
  for (size_t i = before; i < tokens.spans.size(); ++i) {
    Span& span = tokens.spans[i];
    span = joined(segment.sources, piece.begin + span.begin, piece.begin + span.end);
  }
  return {};
}

Result<std::string> PipelineTokenizer::decode(const std::vector<int32_t>& ids,
                                              DecodeSpecial special) const {
  return guarded(pipeline_.source,
                 [&]() -> Result<std::string> { return decode_ids(ids, special); });
}

std::optional<int32_t> PipelineTokenizer::id_of(std::string_view token) const {
  int32_t id = pipeline_.added.find(token);
  if (id == kNoToken) id = pipeline_.model->vocabulary().find(token);
  return id == kNoToken ? std::nullopt : std::optional<int32_t>(id);
}

std::string PipelineTokenizer::token_of(int32_t id) const {
  const std::string* content = pipeline_.added.content(id);
  return content != nullptr ? *content : std::string(pipeline_.model->vocabulary().token(id));
}

std::optional<int32_t> PipelineTokenizer::special_id(TokenRole role) const {
  const auto named = pipeline_.roles.find(role);
  if (named != pipeline_.roles.end()) return id_of(named->second);
  const std::string_view name = tessera::name(role);
  // BERT's spelling, then RoBERTa's, whose sentences are set apart by what begins and ends them.
  std::string upper(name);
  std::transform(upper.begin(), upper.end(), upper.begin(),
                 [](char c) { return static_cast<char>(c - 'a' + 'A'); });
  const bool begins = role == TokenRole::kBos || role == TokenRole::kCls;
  const bool ends = role == TokenRole::kEos || role == TokenRole::kSep;
  const std::string lower = begins ? "<s>" : ends ? "</s>" : fmt::format("<{}>", name);
  for (const std::string& content : {fmt::format("[{}]", upper), lower}) {
    const std::optional<int32_t> id = id_of(content);
    if (id.has_value() && pipeline_.added.is_special(*id)) return id;
  }
  return std::nullopt;
}

bool PipelineTokenizer::is_special(int32_t id) const {
  const auto index = static_cast<size_t>(id);
  return pipeline_.added.is_special(id) ||
         (index < pipeline_.is_control.size() && pipeline_.is_control[index]);
}

Result<std::string> PipelineTokenizer::decode_ids(const std::vector<int32_t>& ids,
                                                  DecodeSpecial special) const {
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
  const auto scratch = scratch_.take();
  for (const auto& decoder : pipeline_.decoders) {
    TESSERA_RETURN_IF_ERROR(decoder->apply(tokens, *scratch));
  }
  std::string text;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0 && !pipeline_.has_decoder) text += ' ';
    text += tokens[i];
  }
  return text;
}

}  // namespace tessera::tokenizer
