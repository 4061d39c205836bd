#include <fmt/format.h>

#include "cli/task_verb.h"
#include "cli/verbs.h"
#include "tessera/tokenizer.h"

namespace tessera::cli {
namespace {

constexpr Synopsis kSynopsis = {
    "fill-mask", "MODEL [TEXT ...]",
    "Suggests words for the masks in each text ([MASK] or <mask>, as the model spells it). Reads "
    "each TEXT, or each line of a file or of standard input, and prints one line for each, in "
    "their "
    "order, with the best candidates for each mask.",
    "  tessera fill-mask MODEL \"The capital of France is [MASK].\"\n"
    "  tessera fill-mask MODEL \"A <mask> barked at the <mask>.\" --top 3 --json\n"
    "  tessera fill-mask MODEL --ids 101,1996,103,102 --mask-id 103\n"};

struct Options {
  TaskVerb task;
  std::optional<int64_t> top, mask_id;
};

std::string plain(const FilledMasks& result) {
  std::string line;
  for (const std::vector<MaskCandidate>& candidates : result.candidates) {
    if (!line.empty()) line += "  |";
    for (const MaskCandidate& candidate : candidates) {
      const std::string& token = candidate.token;
      line += fmt::format("{}{} {:.4f}", line.empty() ? "" : "  ",
                          token.empty() ? fmt::format("{}", candidate.id) : on_one_line(token),
                          candidate.score);
    }
  }
  return line + "\n";
}

std::string json(const std::vector<MaskCandidate>& candidates, int32_t position) {
  std::vector<std::string> entries;
  for (const MaskCandidate& candidate : candidates) {
    JsonLine entry;
    entry.integer("id", candidate.id).text("token", candidate.token).text("text", candidate.text);
    entry.number("score", candidate.score);
    entries.push_back(entry.object());
  }
  JsonLine mask;
  mask.integer("position", position).raw("candidates", json_array(entries));
  return mask.object();
}

std::string json(const Record& record, const FilledMasks& result, const Options& options) {
  JsonLine line;
  add_record(record, &line);
  std::vector<std::string> masks;
  for (size_t m = 0; m < result.positions.size(); ++m) {
    masks.push_back(json(result.candidates[m], result.positions[m]));
  }
  line.raw("masks", json_array(masks)).text("filled", result.text);
  if (options.task.logits) {
    line.raw("logits", json_rows(result.logits, result.logits.size() / masks.size()));
  }
  line.truth("truncated", result.truncated);
  return line.line();
}

Status fill(Model& model, const Options& options, std::span<const Record> records, RecordRun& run) {
  auto task = task_options<FillMaskOptions>(options.task, run);
  task.candidates = static_cast<int32_t>(options.top.value_or(task.candidates));
  if (options.mask_id) task.mask_id = static_cast<int32_t>(*options.mask_id);
  if (options.task.logits) task.logits = Logits::kGive;
  Result<std::vector<FilledMasks>> results = fill_mask(model, as_inputs(records), task);
  if (!results.ok()) return results.status();
  for (size_t i = 0; i < records.size(); ++i) {
    const FilledMasks& result = (*results)[i];
    run.count_truncated(result.truncated ? 1 : 0);
    const Status status = run.write(
        records[i], options.task.json ? json(records[i], result, options) : plain(result));
    if (!status.ok()) return status;
  }
  return {};
}

Status fill_records(const Options& options) {
  constexpr Head kHeads[] = {Head::kMaskedLm};
  Result<std::shared_ptr<Model>> model = load_for(options.task, kHeads);
  if (!model.ok()) return model.status();
  const std::shared_ptr<const Tokenizer> tokenizer = (*model)->tokenizer();
  if (!options.mask_id && (tokenizer == nullptr || !tokenizer->mask_id())) {
    return not_found(fmt::format("{} names no mask token: give its id with --mask-id",
                                 (*model)->info().directory));
  }
  RecordRun run({"filling", "texts",
                 results_of(options.task,
                            {"text", "pair", "ids", "masks", "filled", "logits", "truncated"})});
  return run.all(options.task.records, [&](std::span<const Record> records) {
    return fill(**model, options, records, run);
  });
}

}  // namespace

int fill_mask_verb(const Arguments& arguments) {
  Options options;
  options.task.records.pairs = RecordPair::kOptional;
  Parser parser(kSynopsis);
  parser.group("Output");
  parser.add_integer(
      {"--top", 1, INT32_MAX, "Show the N best candidates for each mask (default: 5)."},
      &options.top);
  parser.add_integer(
      {"--mask-id", 0, INT32_MAX, "Take this token id for the mask (default: the tokenizer's)."},
      &options.mask_id);
  add_refuse_long(parser, &options.task);
  add_task_options(parser,
                   {"Print one JSON object per text: {\"text\", \"masks\": [{\"position\", "
                    "\"candidates\"}], \"filled\", ...}.",
                    "Add the logits at each mask to the output of --json."},
                   &options.task);
  if (const auto code = parse_task(parser, arguments, &options.task)) return *code;
  return finish(fill_records(options), options.task.model);
}

}  // namespace tessera::cli
