#include "tessera/model.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "base/guarded.h"
#include "base/isa.h"
#include "io/model_directory.h"
#include "kernels/family.h"
#include "model/loader.h"
#include "model/slots.h"
#include "pruning/presets.h"
#include "runtime/cache_rules.h"
#include "runtime/generation_config.h"
#include "runtime/model_state.h"
#include "runtime/plan_choice.h"
#include "runtime/whole_sequences.h"

namespace tessera {
namespace {

using nlohmann::json;

ModelInfo make_info(const Checkpoint& checkpoint, const ModelState& state, int64_t parameters) {
  const Architecture& a = state.architecture;
  ModelInfo info;
  info.family = a.family;
  info.architecture = a.class_name;
  info.head = a.head;
  info.layers = a.layer_count();
  info.hidden_size = a.hidden_size;
  // Where layers differ, the first stands for all.
  info.query_heads = a.layer(0).query_heads;
  info.kv_heads = a.layer(0).kv_heads;
  info.head_size = a.layer(0).head_size;
  info.ffn_size = a.layer(0).ffn_size;
  info.vocabulary_size = a.vocabulary_size;
  info.type_vocabulary_size = a.type_vocabulary_size;
  info.max_positions = a.max_positions;
  const int32_t rotary = a.layer(0).rotary;
  info.positions =
      rotary == kNoRotary ? "learned" : a.rotaries[static_cast<size_t>(rotary)].description;
  info.parameters = parameters;
  info.checkpoint_bytes = static_cast<int64_t>(checkpoint.size_bytes());
  info.prepared_bytes = state.weights.bytes();
  info.flops_per_token = state.weights.flops_per_token();
  info.executed_flops_per_token = state.weights.executed_flops_per_token();
  info.cache_bytes_per_token =
      info.layers * state.weights.largest_page().page_bytes() / kPageTokens;
  info.cache_type = cache_type_of(state.plan.cache);
  info.weight_type = name(state.plan.layers.front().weights);
  info.labels = a.label_names;
  // The names that transformers gives where the file has none. Only a head that was loaded bounds
  // their number.
  while (a.head != Head::kNone && info.labels.size() < static_cast<size_t>(a.labels)) {
    info.labels.push_back(fmt::format("LABEL_{}", info.labels.size()));
  }
  info.label_scores = a.label_scores;
  info.relevance_scores = state.sentence_encoder.relevance_scores.value_or(a.relevance_scores);
  info.threads = state.team->size();
  if (state.pruning && !state.pruning->keeps_all()) info.pruning = to_json(*state.pruning);
  info.has_tokenizer = state.tokenizer != nullptr;
  info.is_decoder = a.is_decoder();
  const SentenceEncoder& encoder = state.sentence_encoder;
  info.is_sentence_encoder = encoder.kind == SentenceEncoder::Kind::kEmbeddings;
  info.prompts = encoder.prompts;
  info.default_prompt = encoder.default_prompt;
  info.similarity = encoder.similarity;
  info.max_text_tokens = static_cast<int32_t>(text_limit(state));
  return info;
}

Status check_attention(const AttentionShape& shape) {
  for (const AttentionMethod* method : attention_methods())
    TESSERA_RETURN_IF_ERROR(method->check(shape));
  return {};
}

// The head is what the files of sentence-transformers say, whatever class the model was saved as.
Status fit_head(const std::string& directory, ModelState& state) {
  Architecture& a = state.architecture;
  switch (state.sentence_encoder.kind) {
    case SentenceEncoder::Kind::kPlain:
      break;
    case SentenceEncoder::Kind::kEmbeddings:
      a.head = Head::kNone;
      break;
    case SentenceEncoder::Kind::kClassifier:
      if (a.head == Head::kSequenceClassification) break;
      return unsupported(fmt::format(
          "{}: expected a class for sequence classification, as its cross-encoder needs, found {}",
          directory, a.class_name.empty() ? "none" : a.class_name));
  }
  return state.sentence_encoder.check(a.hidden_size, directory);
}

// What is asked for, or else what is saved with the model, or else the usual one; its JSON is empty
// where nothing is.
Result<NamedSchedule> choose_schedule(const LoadOptions& options, const Config& config) {
  if (options.pruning == kNoPruning) return NamedSchedule();
  if (!options.pruning.empty()) return find_schedule(options.pruning);
  TESSERA_ASSIGN_OR_RETURN(const Config section, config.child("tessera"));
  if (!section.has("pruning")) {
    return options.usual_pruning.empty() ? NamedSchedule() : find_schedule(options.usual_pruning);
  }
  TESSERA_ASSIGN_OR_RETURN(const Config saved, section.child("pruning"));
  return NamedSchedule{saved.dump(), saved.source()};
}

Status read_pruning(const LoadOptions& options, const Config& config, ModelState& state) {
  TESSERA_ASSIGN_OR_RETURN(const NamedSchedule chosen, choose_schedule(options, config));
  // Whoever observes a model that prunes nothing sees that.
  if (chosen.json.empty() && state.observer != nullptr)
    state.pruning = PruningSchedule{.tokens = std::vector<Keep>(state.architecture.layers.size())};
  if (chosen.json.empty()) return {};
  TESSERA_ASSIGN_OR_RETURN(state.pruning, read_schedule(chosen, state));
  return check_pooling(state, state.sentence_encoder);
}

Result<std::unique_ptr<ModelState>> load_state(const std::string& name,
                                               const LoadOptions& options) {
  auto state = std::make_unique<ModelState>();
  TESSERA_ASSIGN_OR_RETURN(const ModelDirectory home, find_model(name));
  TESSERA_ASSIGN_OR_RETURN(state->sentence_encoder, read_sentence_encoder(home));
  TESSERA_ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::open(home.transformer));
  TESSERA_ASSIGN_OR_RETURN(state->architecture, read_architecture(checkpoint));
  TESSERA_RETURN_IF_ERROR(fit_head(home.path, *state));
  for (int32_t layer = 0; layer < state->architecture.layer_count(); ++layer) {
    TESSERA_RETURN_IF_ERROR(check_attention(state->architecture.attention_shape_as_stored(layer)));
  }
  TESSERA_ASSIGN_OR_RETURN(state->plan, plan_for(checkpoint, state->architecture, options));
  // An encoder's keys and values live for a pass only.
  if (!state->architecture.is_decoder()) state->plan.cache = DType::kF32;
  auto tokenizer = Tokenizer::open(home.transformer);
  if (!tokenizer.ok() && tokenizer.status().code() != StatusCode::kNotFound)
    return tokenizer.status();
  if (tokenizer.ok()) state->tokenizer = std::move(tokenizer).value();
  if (options.on_pruning) state->observer = std::make_unique<PruningObserver>(options.on_pruning);
  TESSERA_RETURN_IF_ERROR(read_pruning(options, checkpoint.config(), *state));
  if (state->pruning && state->architecture.is_decoder())
    TESSERA_RETURN_IF_ERROR(plan_cache(*state->pruning, options, state->plan));
  state->team = std::make_unique<Team>(state->plan.threads);
  const ValueBias value_bias =
      state->drops_heads() ? ValueBias::kWithValues : ValueBias::kWithOutput;
  TESSERA_ASSIGN_OR_RETURN(
      LoadedWeights loaded,
      load_weights(checkpoint, state->architecture, state->plan, *state->team, value_bias));
  state->weights = std::move(loaded.weights);
  if (state->pruning && state->architecture.is_decoder())
    set_cache_rules(*state->pruning, state->weights);
  for (const LayerWeights& layer : state->weights.layers)
    TESSERA_RETURN_IF_ERROR(check_attention(layer.attention));
  for (size_t i = 0; i < loaded.vo.size(); ++i) state->plan.layers[i].vo = std::move(loaded.vo[i]);
  state->executor =
      std::make_unique<Executor>(state->architecture, state->weights, state->plan, *state->team);
  state->info = make_info(checkpoint, *state, loaded.parameters);
  state->info.directory = home.path;
  state->info.generation = read_generation_defaults(checkpoint.generation_config());
  return state;
}

Status check_batch(const ModelState& state, const std::vector<TokenSequence>& batch) {
  for (size_t i = 0; i < batch.size(); ++i) {
    TESSERA_RETURN_IF_ERROR(check_sequence(state, batch[i], fmt::format("sequence {}", i)));
  }
  return {};
}

json linear_json(const LinearInfo& info) {
  return {{"format", info.format},
          {"kernel", info.kernel},
          {"why", info.why},
          {"inputs", info.inputs},
          {"outputs", info.outputs},
          {"bytes", info.bytes},
          {"flops_per_row", info.flops_per_row},
          {"dense_flops_per_row", info.dense_flops_per_row}};
}

}  // namespace

ScheduledModel scheduled_model(const Architecture& architecture) {
  const int32_t heads = architecture.layer(0).query_heads;
  bool same = true;
  for (int32_t layer = 1; layer < architecture.layer_count(); ++layer)
    same = same && architecture.layer(layer).query_heads == heads;
  return {.layers = architecture.layer_count(),
          .query_heads = same ? heads : 0,
          .positions = architecture.max_positions,
          .vocabulary = architecture.vocabulary_size,
          .generates = architecture.is_decoder()};
}

Result<PruningSchedule> read_schedule(const NamedSchedule& text, const ModelState& state) {
  ScheduledModel model = scheduled_model(state.architecture);
  if (state.tokenizer != nullptr) model.named_ids = named_ids(*state.tokenizer);
  return parse_schedule(text.json, model, text.source);
}

std::vector<NamedId> named_ids(const Tokenizer& tokenizer) {
  std::vector<NamedId> ids;
  for (size_t i = 0; i < names_of(TokenRole{}).size(); ++i) {
    const auto role = static_cast<TokenRole>(i);
    if (const auto id = tokenizer.special_id(role)) ids.push_back({std::string(name(role)), *id});
  }
  return ids;
}

Status check_sequence(const ModelState& state, const TokenSequence& sequence,
                      const std::string& name) {
  const int32_t tokens = state.tokenizer == nullptr ? 0 : state.tokenizer->vocabulary_size();
  return check_sequence(state.architecture, sequence, name, tokens);
}

Model::Model(std::unique_ptr<ModelState> state) : state_(std::move(state)) {}
Model::~Model() = default;
const ModelInfo& Model::info() const { return state_->info; }

int32_t Model::embedding_size() const {
  return static_cast<int32_t>(state_->sentence_encoder.width(state_->architecture.hidden_size));
}

Result<std::shared_ptr<Model>> Model::load(const std::string& directory,
                                           const LoadOptions& options) {
  return guarded(directory, [&]() -> Result<std::shared_ptr<Model>> {
    TESSERA_RETURN_IF_ERROR(check_isa_cap());
    TESSERA_RETURN_IF_ERROR(check_forced_kernels());
    TESSERA_ASSIGN_OR_RETURN(std::unique_ptr<ModelState> state, load_state(directory, options));
    return std::shared_ptr<Model>(new Model(std::move(state)));
  });
}

std::shared_ptr<const Tokenizer> Model::tokenizer() const { return state_->tokenizer; }

Result<TokenSequence> Model::tokenize(const std::string& text) const {
  if (state_->tokenizer == nullptr) {
    return not_found(
        fmt::format("{} has no tokenizer: give token ids instead of text", state_->info.directory));
  }
  return guarded("tokenize", [&]() -> Result<TokenSequence> {
    TESSERA_ASSIGN_OR_RETURN(Encoding encoding, state_->tokenizer->encode({text}));
    return TokenSequence{std::move(encoding.ids), std::move(encoding.type_ids)};
  });
}

Result<std::string> Model::detokenize(const std::vector<int32_t>& ids) const {
  if (state_->tokenizer == nullptr) {
    return not_found(fmt::format("{} has no tokenizer: ids have no text", state_->info.directory));
  }
  return guarded("detokenize",
                 [&] { return state_->tokenizer->decode(ids, DecodeSpecial::kSkip); });
}

Result<ForwardResult> Model::forward(const std::vector<TokenSequence>& batch,
                                     const ForwardOptions& options) {
  return guarded("forward", [&]() -> Result<ForwardResult> {
    TESSERA_RETURN_IF_ERROR(check_batch(*state_, batch));
    return forward_whole(*state_, batch, options);
  });
}

Result<std::vector<float>> Model::embed(const std::vector<TokenSequence>& batch,
                                        int64_t* truncated) {
  return guarded("embed", [&]() -> Result<std::vector<float>> {
    std::vector<TokenSequence> cut = batch;
    const int64_t count = cut_to_limit(*state_, cut);
    if (truncated != nullptr) *truncated = count;
    TESSERA_RETURN_IF_ERROR(check_batch(*state_, cut));
    return embed_whole(*state_, cut, state_->sentence_encoder, 0);
  });
}

void Model::start_profile() {
  const std::lock_guard<std::mutex> turn(state_->in_use);
  state_->trace = std::make_unique<Trace>();
  state_->reads = {};
  state_->executor->set_trace(state_->trace.get());
  state_->executor->set_reads(&state_->reads);
}

std::vector<OperationProfile> Model::stop_profile() {
  const std::lock_guard<std::mutex> turn(state_->in_use);
  std::vector<OperationProfile> profile;
  state_->executor->set_trace(nullptr);
  state_->executor->set_reads(nullptr);
  if (state_->trace == nullptr) return profile;
  for (int i = 0; i < kOperations; ++i) {
    const auto operation = static_cast<Operation>(i);
    const Trace::Entry& entry = state_->trace->entry(operation);
    if (entry.calls == 0) continue;
    profile.push_back({std::string(name(operation)), entry.calls, entry.seconds, entry.work.flops,
                       entry.work.dense_flops, entry.work.bytes});
  }
  state_->trace.reset();
  return profile;
}

CacheReadProfile Model::cache_reads() const {
  const std::lock_guard<std::mutex> turn(state_->in_use);
  return profile_of(state_->reads.total(), state_->reads.tokens);
}

CacheReadProfile profile_of(const CacheReads& reads, int64_t tokens) {
  return {.tokens = tokens,
          .queries = reads.queries,
          .refetched = reads.refetched,
          .key_numbers = reads.key_numbers,
          .key_bits = reads.key_bits,
          .value_numbers = reads.value_numbers,
          .value_bits = reads.value_bits,
          .bytes = reads.bytes};
}

std::string Model::plan_json() const {
  std::vector<std::string> linear;
  for (const LayerWeights& layer : state_->weights.layers) {
    json maps;
    for (const LayerMapSlot& slot : kLayerMapSlots)
      maps[std::string(slot.name)] = linear_json((layer.*slot.weights)->info());
    linear.push_back(maps.dump());
  }
  json plan = json::parse(plan_to_json(state_->plan, linear));
  if (state_->weights.head.output != nullptr)
    plan["head"] = linear_json(state_->weights.head.output->info());
  return plan.dump();
}

std::string kernels_json() {
  json rows = json::array();
  for (const KernelState& state : all_kernel_states()) {
    rows.push_back({{"family", state.family}, {"row", state.row}, {"state", state.state}});
  }
  return rows.dump();
}

}  // namespace tessera
