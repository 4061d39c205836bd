#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/table.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace tessera::cli {
namespace {

using Json = nlohmann::ordered_json;
using Rows = std::vector<std::vector<std::string>>;

constexpr Synopsis kSynopsis = {"inspect", "[MODEL]",
                                "Shows what a model is and how it will be executed: its "
                                "architecture and sizes, and the plan with "
                                "the reason for every choice. With --kernels it shows what this "
                                "machine can run, which needs no "
                                "model.",
                                "  tessera inspect models/tales\n"
                                "  tessera inspect models/tales --json\n"
                                "  tessera inspect models/tales --save-plan plan.json\n"
                                "  tessera inspect --kernels\n"};

constexpr int64_t kUsualLength = 128;

struct Options {
  ModelOptions model;
  bool has_model = false;
  std::optional<std::string> save_plan;
  bool kernels = false;
  bool json = false;
  std::optional<int64_t> length;
};

Json to_json(const ModelInfo& info) {
  Json json;
  json["directory"] = info.directory;
  json["family"] = info.family;
  json["architecture"] = info.architecture;
  json["head"] = name(info.head);
  json["layers"] = info.layers;
  json["hidden_size"] = info.hidden_size;
  json["query_heads"] = info.query_heads;
  json["kv_heads"] = info.kv_heads;
  json["head_size"] = info.head_size;
  json["ffn_size"] = info.ffn_size;
  json["vocabulary_size"] = info.vocabulary_size;
  json["type_vocabulary_size"] = info.type_vocabulary_size;
  json["max_positions"] = info.max_positions;
  json["positions"] = info.positions;
  json["parameters"] = info.parameters;
  json["checkpoint_bytes"] = info.checkpoint_bytes;
  json["prepared_bytes"] = info.prepared_bytes;
  json["cache_bytes_per_token"] = info.cache_bytes_per_token;
  json["cache_type"] = name(info.cache_type);
  json["flops_per_token"] = info.flops_per_token;
  json["executed_flops_per_token"] = info.executed_flops_per_token;
  json["weight_type"] = info.weight_type;
  json["threads"] = info.threads;
  json["labels"] = info.labels;
  json["has_tokenizer"] = info.has_tokenizer;
  json["is_decoder"] = info.is_decoder;
  json["is_sentence_encoder"] = info.is_sentence_encoder;
  return json;
}

std::string joined(const std::vector<std::string>& texts) {
  constexpr size_t kShown = 8;
  std::string text;
  for (size_t i = 0; i < texts.size() && i < kShown; ++i) text += (i > 0 ? ", " : "") + texts[i];
  if (texts.size() > kShown) text += fmt::format(", ... ({} in all)", texts.size());
  return text;
}

std::string describe(const ModelInfo& info) {
  const char* kind = info.is_decoder ? "decoder" : "encoder";
  const std::string family =
      fmt::format("{} {}{}", info.family, kind, info.is_sentence_encoder ? " for sentences" : "");
  Rows rows = {
      {"model", info.directory},
      {"architecture",
       info.architecture.empty() ? family : fmt::format("{} ({})", info.architecture, family)},
      {"head", std::string(name(info.head))},
      {"layers",
       fmt::format("{} of width {}, FFN {}", info.layers, info.hidden_size, info.ffn_size)},
      {"attention", fmt::format("{} query heads, {} key/value heads of size {}", info.query_heads,
                                info.kv_heads, info.head_size)},
      {"vocabulary",
       fmt::format("{}{}", info.vocabulary_size, info.has_tokenizer ? "" : " (no tokenizer)")},
      {"context", fmt::format("{} tokens", info.max_positions)},
      {"positions", info.positions},
      {"parameters", human_count(info.parameters)},
      {"on disk", human_bytes(info.checkpoint_bytes)},
      {"in memory", fmt::format("{} as {}", human_bytes(info.prepared_bytes), info.weight_type)},
      {"per token", fmt::format("{}FLOP", human_count(info.flops_per_token))},
  };
  if (info.executed_flops_per_token != info.flops_per_token)
    rows.back()[1] = fmt::format("{}FLOP ({} if dense)", human_count(info.executed_flops_per_token),
                                 human_count(info.flops_per_token));
  if (info.is_decoder)
    rows.back()[1] += fmt::format(", {} of cache as {}", human_bytes(info.cache_bytes_per_token),
                                  name(info.cache_type));
  if (!info.labels.empty()) rows.push_back({"labels", joined(info.labels)});
  return format_table({{}, {}}, rows);
}

std::string text_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

// A prepared linear map: "matmul:avx512, dense f32, 64 to 128, 32.8 KB".
std::string describe_map(const Json& map) {
  return fmt::format("{}, {}, {} to {}, {}", text_of(map["kernel"]),
                     text_of(map.value("format", Json(""))), map.value("inputs", Json()).dump(),
                     map.value("outputs", Json()).dump(),
                     human_bytes(map.value("bytes", int64_t{0})));
}

// One choice of the plan as "choice" and "why".
std::vector<std::string> choice_of(const Json& value) {
  if (!value.is_object()) return {text_of(value), ""};
  if (value.contains("kernel")) return {describe_map(value), text_of(value.value("why", Json("")))};
  if (value.contains("own_rows_from")) {
    return {
        fmt::format("own rows from {} per thread, in groups of {}", value["own_rows_from"].dump(),
                    human_bytes(value.value("group_bytes", int64_t{0}))),
        text_of(value.value("why", Json("")))};
  }
  std::string choice = text_of(value.value("method", Json("")));
  if (value.contains("up_to_keys"))
    choice += fmt::format(" up to {} keys", value["up_to_keys"].dump());
  return {choice, text_of(value.value("why", Json("")))};
}

std::string layers_of(const Json& layer) {
  const Json first = layer.value("first", Json());
  const Json last = layer.value("last", first);
  return first == last ? first.dump() : fmt::format("{}-{}", first.dump(), last.dump());
}

// The rows of a plan's table: where, part, choice, why.
class PlanTable {
 public:
  explicit PlanTable(const Json& plan) : weights_why_(plan.value("weights_why", "")) {
    for (const Json& layer : plan.value("layers", Json::array())) {
      where_ = "layers " + layers_of(layer);
      for (const auto& [part, value] : layer.items()) {
        if (part != "first" && part != "last") add(part, value);
      }
    }
    where_ = "head";
    if (plan.contains("head_weights")) add("weights", plan["head_weights"]);
    if (plan.contains("head")) add("output", plan["head"]);
  }
  std::string text() const {
    return format_table({{"where"}, {"part"}, {"choice"}, {"why"}}, rows_);
  }

 private:
  void add(const std::string& part, const Json& value) {
    if (value.is_array()) {
      for (const Json& entry : value) add(part, entry);
    } else if (part == "linear" && value.is_object()) {
      for (const auto& [map, entry] : value.items()) add(map, entry);
    } else {
      const std::vector<std::string> choice = choice_of(value);
      // What the rows above say is not said again.
      const bool same_where = where_ == last_where_;
      const bool same_part = same_where && part == last_part_;
      rows_.push_back({same_where ? "" : where_, same_part ? "" : part, choice[0],
                       part == "weights" ? weights_why_ : choice[1]});
      last_where_ = where_;
      last_part_ = part;
    }
  }

  std::string weights_why_;
  Rows rows_;
  std::string where_, last_where_, last_part_;
};

std::string describe_kernels(const Json& kernels) {
  Rows rows;
  std::string family;
  for (const Json& kernel : kernels) {
    const std::string next = kernel.value("family", "");
    rows.push_back(
        {next == family ? "" : next, kernel.value("row", ""), kernel.value("state", "")});
    family = next;
  }
  return format_table({{"kernel"}, {"row"}, {"state"}}, rows);
}

// Our own library's JSON, and yet no reason to fall over.
Result<Json> parsed(const std::string& text, const char* what) {
  Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded())
    return io_error(fmt::format("expected the {} as JSON, found {}", what, text));
  return json;
}

std::string percent(const Json& part) { return fmt::format("{:.1f}%", 100 * part.get<double>()); }

// What cascade pruning leaves of each layer, layers that are alike in one row.
std::string describe_pruning(const Json& pruning, const ModelInfo& info) {
  constexpr Align kRight = Align::kRight;
  Rows rows;
  const Json& layers = pruning["layers"];
  for (size_t first = 0, next = 0; first < layers.size(); first = next) {
    while (next < layers.size() && layers[next] == layers[first]) ++next;
    const Json& layer = layers[first];
    rows.push_back(
        {next == first + 1 ? fmt::format("{}", first) : fmt::format("{}-{}", first, next - 1),
         layer["tokens"].dump(), layer["heads"].dump(), percent(layer["work"])});
    if (info.is_decoder)
      rows.back().insert(rows.back().end() - 1, {layer["keys"].dump(), layer["values"].dump()});
  }
  std::vector<Column> columns = {
      {"layers"}, {"tokens", kRight}, {"heads", kRight}, {"work", kRight}};
  if (info.is_decoder) columns.insert(columns.end() - 1, {{"keys", kRight}, {"values", kRight}});
  const std::string tokens = pruning["tokens"].dump();
  std::string text = fmt::format("\nCascade pruning of a text of {} tokens: {} of the dense work\n",
                                 tokens, percent(pruning["work"]));
  if (pruning.contains("generating")) {
    text += fmt::format("The next token takes {} of the dense work and reads {} of an f32 cache\n",
                        percent(pruning["generating"]["work"]),
                        percent(pruning["generating"]["cache"]));
  }
  return text + format_table(columns, rows);
}

Status save(const std::string& path, const Json& plan) {
  Output out;
  if (Status status = out.open(path); !status.ok()) return status;
  if (Status status = out.write(plan.dump(2) + "\n"); !status.ok()) return status;
  return out.close();
}

Status inspect(const Options& options) {
  Json json;
  std::string text;
  if (options.save_plan) {
    if (Status status = check_writable(*options.save_plan); !status.ok()) return status;
  }
  if (options.has_model) {
    Result<std::shared_ptr<Model>> model = load_model(options.model);
    if (!model.ok()) return model.status();
    Result<Json> plan = parsed((*model)->plan_json(), "plan");
    if (!plan.ok()) return plan.status();
    if (options.save_plan) {
      if (Status status = save(*options.save_plan, *plan); !status.ok()) return status;
    }
    const ModelInfo& info = (*model)->info();
    json["model"] = to_json(info);
    json["plan"] = *plan;
    Result<Json> pruning =
        parsed((*model)->pruning_json(static_cast<int32_t>(options.length.value_or(kUsualLength))),
               "pruning");
    if (!pruning.ok()) return pruning.status();
    json["pruning"] = *pruning;
    text = describe(info) + fmt::format("\nPlan for {}\n", counted(info.threads, "threads")) +
           PlanTable(*plan).text();
    if (!pruning->is_null()) text += describe_pruning(*pruning, info);
  }
  Result<Json> kernels = parsed(kernels_json(), "kernels");
  if (!kernels.ok()) return kernels.status();
  json["kernels"] = *kernels;
  if (options.kernels) text += (text.empty() ? "" : "\n") + describe_kernels(*kernels);
  if (options.json) text = json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  Output out;
  if (Status status = out.write(text); !status.ok()) return status;
  return out.flush();
}

}  // namespace

int inspect_verb(const Arguments& arguments) {
  Options options;
  Parser parser(kSynopsis);
  parser.group("Output");
  parser.add_flag("--kernels", &options.kernels,
                  "List every kernel and whether it would run, and why not.");
  parser.add_flag("--json", &options.json,
                  "Print one JSON object: {\"model\", \"plan\", \"pruning\", \"kernels\"}.");
  parser.add_integer({"--length", 1, 1 << 24,
                      "Show what cascade pruning leaves of a text of N tokens (default: 128)."},
                     &options.length);
  parser.add_text(
      {"--save-plan", "FILE", "Write the plan to FILE, which --plan of other verbs reads."},
      &options.save_plan);
  add_model_options(parser, &options.model);
  add_cache_option(parser, &options.model);
  parser.option("MODEL").optional();
  parser.then([&] {
    options.has_model = parser.is_given("MODEL");
    if (!options.has_model && !options.kernels)
      usage_error("expected MODEL or --kernels, found neither");
    if (!options.has_model && options.save_plan) lacks("--save-plan", "MODEL");
    if (!options.has_model && options.length) lacks("--length", "MODEL");
  });
  if (const auto code = parser.parse(arguments)) return *code;
  return finish(inspect(options));
}

}  // namespace tessera::cli
