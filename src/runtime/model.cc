#include "tessera/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/guarded.h"
#include "base/isa.h"
#include "io/compressed.h"
#include "io/mapped_file.h"
#include "kernels/family.h"
#include "runtime/model_state.h"
#include "tessera/machine.h"

namespace tessera {
namespace {

using nlohmann::json;

// Rows of one pass over a large batch: enough to fill every core, small enough to stay near the
// caches.
constexpr int64_t kRowsPerPass = 4096;

DType largest_dtype(const Checkpoint& checkpoint) {
  DType dtype = DType::kF32;
  size_t largest = 0;
  for (const std::string& name : checkpoint.names()) {
    const auto tensor = checkpoint.tensor(name, {-1, -1});
    if (tensor.ok() && tensor->size_bytes > largest) {
      largest = tensor->size_bytes;
      dtype = tensor->dtype;
    }
  }
  return dtype;
}

// A table that is missing or of another CPU leaves the choice to the defaults.
std::optional<MachineTable> kept_machine_table() {
  const std::string path = machine_table_path();
  if (path.empty()) return std::nullopt;
  Result<MachineTable> table = read_machine_table(path);
  return table.ok() ? std::optional(std::move(table).value()) : std::nullopt;
}

VoMethod vo_method(PrecomputeVo option) {
  switch (option) {
    case PrecomputeVo::kOn:
      return VoMethod::kPrecomputed;
    case PrecomputeVo::kOff:
      return VoMethod::kTwoStep;
    default:
      return VoMethod::kAuto;
  }
}

constexpr std::pair<WeightType, Precision> kPrecisions[] = {
    {WeightType::kAuto, Precision::kStored}, {WeightType::kF32, Precision::kF32},
    {WeightType::kBF16, Precision::kBF16},   {WeightType::kInt8, Precision::kInt8},
    {WeightType::kInt4, Precision::kInt4},   {WeightType::kW8, Precision::kW8},
    {WeightType::kW4, Precision::kW4}};

Precision precision_of(WeightType type) {
  for (const auto& [each, precision] : kPrecisions) {
    if (each == type) return precision;
  }
  return Precision::kStored;
}

struct CacheName {
  CacheType type;
  DType dtype;
  std::string_view name;
};
constexpr CacheName kCaches[] = {{CacheType::kF32, DType::kF32, "f32"},
                                 {CacheType::kBF16, DType::kBF16, "bf16"},
                                 {CacheType::kInt8, DType::kI8, "int8"}};

const CacheName& cache_of(CacheType type) {
  return *std::find_if(std::begin(kCaches), std::end(kCaches),
                       [&](const CacheName& each) { return each.type == type; });
}

const CacheName& cache_of(DType dtype) {
  return *std::find_if(std::begin(kCaches), std::end(kCaches),
                       [&](const CacheName& each) { return each.dtype == dtype; });
}

Result<Plan> make_plan(const Checkpoint& checkpoint, const Architecture& architecture,
                       const LoadOptions& options) {
  const int threads =
      options.threads < 1 ? usable_cpus() : std::min(options.threads, usable_cpus());
  if (!options.plan_file.empty()) {
    if (options.weights != WeightType::kAuto) {
      return invalid_input(
          "expected a plan or a weight type, which the plan names too, found both");
    }
    if (options.precompute_vo != PrecomputeVo::kAuto) {
      return invalid_input(
          "expected a plan or whether to pre-compute V·O, which the plan names too, found both");
    }
    if (options.cache) {
      return invalid_input(
          "expected a plan or a type of cache, which the plan names too, found both");
    }
    TESSERA_ASSIGN_OR_RETURN(const std::string text, read_text_file(options.plan_file, 16 << 20));
    TESSERA_ASSIGN_OR_RETURN(Plan plan,
                             plan_from_json(text, options.plan_file, architecture.layers));
    plan.threads = options.threads < 1 ? std::min(plan.threads, usable_cpus()) : threads;
    plan.machine = cost_machine(plan.threads, plan.machine.l2_bytes, kept_machine_table());
    return plan;
  }
  PlanRequest request{.threads = threads,
                      .layers = architecture.layers,
                      .cache = cache_of(options.cache.value_or(CacheType::kF32)).dtype,
                      .head_size = architecture.head_size,
                      .vo = vo_method(options.precompute_vo),
                      .expected_tokens = std::max(options.expected_tokens, 1),
                      .machine = kept_machine_table()};
  TESSERA_ASSIGN_OR_RETURN(const TensorFormats formats, TensorFormats::read(checkpoint.config()));
  const DType found = largest_dtype(checkpoint);
  request.weights = precision_of(options.weights);
  switch (options.weights) {
    case WeightType::kAuto:
      if (has_integers(checkpoint, formats)) {
        request.weights_why = "the checkpoint holds integers, which are kept as they are";
        break;
      }
      request.weights = found == DType::kBF16 ? Precision::kStored : Precision::kF32;
      request.weights_why =
          found == DType::kBF16  ? "the checkpoint holds bf16, which is kept and widened exactly"
          : found == DType::kF16 ? "the checkpoint holds f16, which f32 keeps exactly"
                                 : "the checkpoint holds f32";
      break;
    case WeightType::kF32:
      request.weights_why = "asked for";
      break;
    case WeightType::kBF16:
      request.weights_why = found == DType::kBF16
                                ? "asked for; rows are bf16 where that is faster"
                                : "asked for; rounded to nearest, rows where that is faster";
      break;
    default:
      request.weights_why = "asked for; what is not stored so is rounded to nearest";
      break;
  }
  return choose_plan(request);
}

ModelInfo make_info(const Checkpoint& checkpoint, const ModelState& state, int64_t parameters) {
  const Architecture& a = state.architecture;
  ModelInfo info;
  info.directory = checkpoint.directory();
  info.family = a.family;
  info.architecture = a.class_name;
  info.head = a.head;
  info.layers = a.layers;
  info.hidden_size = a.hidden_size;
  info.query_heads = a.query_heads;
  info.kv_heads = a.kv_heads;
  info.head_size = a.head_size;
  info.ffn_size = a.ffn_size;
  info.vocabulary_size = a.vocabulary_size;
  info.type_vocabulary_size = a.type_vocabulary_size;
  info.max_positions = a.max_positions;
  info.parameters = parameters;
  info.checkpoint_bytes = static_cast<int64_t>(checkpoint.size_bytes());
  info.prepared_bytes = state.weights.bytes();
  info.flops_per_token = state.weights.flops_per_token();
  info.executed_flops_per_token = state.weights.executed_flops_per_token();
  info.cache_bytes_per_token = a.layers * a.largest_page().page_bytes() / kPageTokens;
  info.cache_type = cache_of(a.cache).type;
  info.weight_type = name(state.plan.layers.front().weights);
  info.labels = a.label_names;
  // The names that transformers gives where the file has none. Only a head that was loaded bounds
  // their number.
  while (a.head != Head::kNone && info.labels.size() < static_cast<size_t>(a.labels)) {
    info.labels.push_back(fmt::format("LABEL_{}", info.labels.size()));
  }
  info.label_scores = a.label_scores;
  info.relevance_scores = a.relevance_scores;
  info.threads = state.team->size();
  info.has_tokenizer = state.tokenizer != nullptr;
  info.is_decoder = a.is_decoder();
  info.is_sentence_encoder = state.sentence_encoder.declared;
  return info;
}

Result<GenerationDefaults> read_generation_defaults(const Config& config) {
  GenerationDefaults defaults;
  if (config.has("do_sample")) {
    TESSERA_ASSIGN_OR_RETURN(const Config::Truth sample,
                             config.truth_or("do_sample", Config::Truth::kNo));
    defaults.do_sample = sample == Config::Truth::kYes;
  }
  for (const auto& [key, target] :
       {std::pair{"temperature", &defaults.temperature}, std::pair{"top_p", &defaults.top_p},
        std::pair{"min_p", &defaults.min_p},
        std::pair{"repetition_penalty", &defaults.repetition_penalty}}) {
    if (!config.has(key)) continue;
    TESSERA_ASSIGN_OR_RETURN(const double number, config.number_or(key, 0));
    *target = static_cast<float>(number);
  }
  for (const auto& [key, target] : {std::pair{"top_k", &defaults.top_k},
                                    std::pair{"max_new_tokens", &defaults.max_new_tokens}}) {
    if (!config.has(key)) continue;
    TESSERA_ASSIGN_OR_RETURN(const int64_t integer, config.integer(key, INT32_MIN, INT32_MAX));
    *target = static_cast<int32_t>(integer);
  }
  return defaults;
}

Status check_attention(const Architecture& architecture) {
  for (int32_t layer = 0; layer < architecture.layers; ++layer) {
    const AttentionShape shape = architecture.attention_shape(layer);
    for (const AttentionMethod* method : attention_methods())
      TESSERA_RETURN_IF_ERROR(method->check(shape));
  }
  return {};
}

Result<std::unique_ptr<ModelState>> load_state(const std::string& directory,
                                               const LoadOptions& options) {
  TESSERA_ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::open(directory));
  auto state = std::make_unique<ModelState>();
  TESSERA_ASSIGN_OR_RETURN(state->architecture, read_architecture(checkpoint));
  TESSERA_ASSIGN_OR_RETURN(state->sentence_encoder, read_sentence_encoder(directory));
  // A sentence encoder ends with its pooling, whatever class the encoder was saved as.
  if (state->sentence_encoder.declared) state->architecture.head = Head::kNone;
  TESSERA_RETURN_IF_ERROR(check_attention(state->architecture));
  TESSERA_ASSIGN_OR_RETURN(state->plan, make_plan(checkpoint, state->architecture, options));
  // An encoder's keys and values live for a pass only.
  if (!state->architecture.is_decoder()) state->plan.cache = DType::kF32;
  state->architecture.cache = state->plan.cache;
  auto tokenizer = Tokenizer::open(directory);
  if (!tokenizer.ok() && tokenizer.status().code() != StatusCode::kNotFound)
    return tokenizer.status();
  if (tokenizer.ok()) state->tokenizer = std::move(tokenizer).value();
  state->team = std::make_unique<Team>(state->plan.threads);
  TESSERA_ASSIGN_OR_RETURN(LoadedWeights loaded, load_weights(checkpoint, state->architecture,
                                                              state->plan, *state->team));
  state->weights = std::move(loaded.weights);
  state->architecture.values = std::move(loaded.values);
  TESSERA_RETURN_IF_ERROR(check_attention(state->architecture));
  for (size_t i = 0; i < loaded.vo.size(); ++i) state->plan.layers[i].vo = std::move(loaded.vo[i]);
  state->executor =
      std::make_unique<Executor>(state->architecture, state->weights, state->plan, *state->team);
  state->info = make_info(checkpoint, *state, loaded.parameters);
  TESSERA_ASSIGN_OR_RETURN(state->info.generation,
                           read_generation_defaults(checkpoint.generation_config()));
  return state;
}

// Runs a batch in passes of about kRowsPerPass rows and hands each to `take` with the index of its
// first sequence.
template <typename Configure, typename Take>
Status run_in_passes(ModelState& state, const std::vector<TokenSequence>& batch,
                     Configure configure, Take take) {
  for (size_t first = 0; first < batch.size();) {
    TokenLayout layout;
    std::vector<int32_t> ids, type_ids;
    size_t next = first;
    bool typed = false;
    while (next < batch.size() &&
           (next == first ||
            layout.rows() + static_cast<int64_t>(batch[next].ids.size()) <= kRowsPerPass)) {
      const TokenSequence& sequence = batch[next++];
      layout.append(static_cast<int32_t>(sequence.ids.size()), 0);
      ids.insert(ids.end(), sequence.ids.begin(), sequence.ids.end());
      type_ids.insert(type_ids.end(), sequence.type_ids.begin(), sequence.type_ids.end());
      type_ids.resize(ids.size());
      typed = typed || !sequence.type_ids.empty();
    }
    ForwardInput input{.ids = ids, .layout = &layout};
    if (typed) input.type_ids = type_ids;
    ForwardOutput output;
    configure(input, output);
    TESSERA_RETURN_IF_ERROR(state.executor->run(input, output));
    take(first, layout, output);
    first = next;
  }
  return {};
}

Status check_batch(const ModelState& state, const std::vector<TokenSequence>& batch) {
  for (size_t i = 0; i < batch.size(); ++i) {
    TESSERA_RETURN_IF_ERROR(check_sequence(state, batch[i], fmt::format("sequence {}", i)));
  }
  return {};
}

Status check_finite(std::span<const float> values, std::string_view what) {
  const auto bad =
      std::find_if(values.begin(), values.end(), [](float x) { return !std::isfinite(x); });
  if (bad == values.end()) return {};
  return invalid_input(fmt::format(
      "expected finite {}, found {}: the model's weights are too large for these tokens", what,
      *bad));
}

void append(std::vector<float>& target, std::span<const float> part) {
  target.insert(target.end(), part.begin(), part.end());
}

void split_start_and_end(ForwardResult& result) {
  for (size_t i = 0; i + 1 < result.logits.size(); i += 2) {
    result.start_logits.push_back(result.logits[i]);
    result.end_logits.push_back(result.logits[i + 1]);
  }
  result.logits.clear();
  result.logits_width = 0;
}

Result<ForwardResult> run_forward(ModelState& state, const std::vector<TokenSequence>& batch,
                                  const ForwardOptions& options) {
  const Architecture& a = state.architecture;
  TESSERA_RETURN_IF_ERROR(check_batch(state, batch));
  ForwardResult result;
  result.offsets = {0};
  for (const TokenSequence& sequence : batch) {
    result.offsets.push_back(result.offsets.back() + static_cast<int32_t>(sequence.ids.size()));
  }
  if (options.hidden_states) result.hidden_states.resize(static_cast<size_t>(a.layers) + 1);
  std::vector<std::vector<float>> hidden;
  const auto configure = [&](ForwardInput& input, ForwardOutput& output) {
    input.head_rows = head_rows(a);
    if (options.hidden_states) output.all_hidden = &hidden;
  };
  TESSERA_RETURN_IF_ERROR(run_in_passes(
      state, batch, configure, [&](size_t, const TokenLayout&, const ForwardOutput& output) {
        append(result.logits, output.logits);
        result.logits_width = output.width;
        for (size_t i = 0; i < hidden.size(); ++i) append(result.hidden_states[i], hidden[i]);
      }));
  TESSERA_RETURN_IF_ERROR(check_finite(result.logits, "logits"));
  if (a.head == Head::kQuestionAnswering) split_start_and_end(result);
  return result;
}

// Cuts sequences to the encoder's limit as sentence-transformers does: the text's last tokens go, a
// closing special token stays.
std::vector<TokenSequence> cut_to_limit(const ModelState& state,
                                        const std::vector<TokenSequence>& batch,
                                        int64_t& cut_count) {
  const size_t limit = embedding_limit(state);
  std::optional<int32_t> closing;
  if (state.tokenizer != nullptr) {
    const auto nothing = state.tokenizer->encode({""});
    if (nothing.ok() && !nothing->ids.empty()) closing = nothing->ids.back();
  }
  std::vector<TokenSequence> cut = batch;
  for (TokenSequence& sequence : cut) {
    if (sequence.ids.size() <= limit) continue;
    if (closing == sequence.ids.back()) sequence.ids[limit - 1] = *closing;
    sequence.ids.resize(limit);
    if (sequence.type_ids.size() > limit) sequence.type_ids.resize(limit);
    ++cut_count;
  }
  return cut;
}

Result<std::vector<float>> run_embed(ModelState& state, const std::vector<TokenSequence>& batch) {
  const SentenceEncoder& encoder = state.sentence_encoder;
  const int64_t hidden_size = state.architecture.hidden_size, width = encoder.width(hidden_size);
  std::vector<float> vectors(batch.size() * static_cast<size_t>(width));
  std::vector<float> hidden;
  TESSERA_RETURN_IF_ERROR(run_in_passes(
      state, batch, [&](ForwardInput&, ForwardOutput& output) { output.last_hidden = &hidden; },
      [&](size_t first, const TokenLayout& layout, const ForwardOutput&) {
        for (int64_t s = 0; s < layout.sequences(); ++s) {
          encoder.pool(hidden.data() + layout.offsets[static_cast<size_t>(s)] * hidden_size,
                       layout.length(s), hidden_size,
                       vectors.data() + (static_cast<int64_t>(first) + s) * width);
        }
      }));
  TESSERA_RETURN_IF_ERROR(check_finite(vectors, "embeddings"));
  return vectors;
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

size_t embedding_limit(const ModelState& state) {
  const int32_t context = state.architecture.max_positions,
                declared = state.sentence_encoder.max_tokens;
  return static_cast<size_t>(declared > 0 ? std::min(declared, context) : context);
}

HeadRows head_rows(const Architecture& architecture) {
  if (architecture.head == Head::kNone) return HeadRows::kNone;
  switch (architecture.names.head.reads) {
    case HeadReads::kFirstToken:
      return HeadRows::kFirstOfEach;
    case HeadReads::kLastToken:
      return HeadRows::kLastOfEach;
    default:
      return HeadRows::kAll;
  }
}

Status check_sequence(const ModelState& state, const TokenSequence& sequence,
                      const std::string& name) {
  const int32_t tokens = state.tokenizer == nullptr ? 0 : state.tokenizer->vocabulary_size();
  return check_sequence(state.architecture, sequence, name, tokens);
}

std::string_view name(WeightType type) {
  return type == WeightType::kAuto ? "auto" : name(precision_of(type));
}

std::optional<WeightType> parse_weight_type(std::string_view text) {
  for (const auto& [type, precision] : kPrecisions) {
    if (name(type) == text) return type;
  }
  return std::nullopt;
}

std::string_view name(CacheType type) { return cache_of(type).name; }

std::optional<CacheType> parse_cache_type(std::string_view text) {
  for (const CacheName& each : kCaches) {
    if (each.name == text) return each.type;
  }
  return std::nullopt;
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
  return guarded("forward", [&] { return run_forward(*state_, batch, options); });
}

Result<std::vector<float>> Model::embed(const std::vector<TokenSequence>& batch,
                                        int64_t* truncated) {
  return guarded("embed", [&]() -> Result<std::vector<float>> {
    int64_t count = 0;
    const std::vector<TokenSequence> cut = cut_to_limit(*state_, batch, count);
    if (truncated != nullptr) *truncated = count;
    TESSERA_RETURN_IF_ERROR(check_batch(*state_, cut));
    return run_embed(*state_, cut);
  });
}

void Model::start_profile() {
  state_->trace = std::make_unique<Trace>();
  state_->executor->set_trace(state_->trace.get());
}

std::vector<OperationProfile> Model::stop_profile() {
  std::vector<OperationProfile> profile;
  state_->executor->set_trace(nullptr);
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

std::string Model::plan_json() const {
  std::vector<std::string> linear;
  for (const LayerWeights& layer : state_->weights.layers) {
    const json maps = {{"qkv", linear_json(layer.qkv->info())},
                       {"attention_output", linear_json(layer.attention_output->info())},
                       {"ffn_in", linear_json(layer.ffn_in->info())},
                       {"ffn_out", linear_json(layer.ffn_out->info())}};
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
