#include <optional>

#include "cli/terminal.h"
#include "cli/verbs.h"
#include "tessera/evaluate.h"

namespace tessera::cli {
namespace {

constexpr Synopsis kSynopsis = {
    "dump", "MODEL --cases FILE -o FILE",
    "Writes the logits and hidden states of given inputs as safetensors, for comparison with "
    "another "
    "engine's.",
    "  tessera dump models/tales --cases golden.json -o out.safetensors\n"};

struct Options {
  ModelOptions model;
  std::string cases;
  std::string output;
};

Status dump(const Options& options) {
  if (Status status = check_writable(options.output); !status.ok()) return status;
  Result<std::shared_ptr<Model>> model = load_model(options.model);
  if (!model.ok()) return model.status();
  std::optional<Progress> progress;
  return dump_cases(*model, options.cases, options.output, [&](int64_t done, int64_t total) {
    if (!progress.has_value()) progress.emplace("cases", total);
    progress->update(done);
  });
}

}  // namespace

int dump_verb(const Arguments& arguments) {
  Options options;
  Parser parser(kSynopsis);
  add_model_options(parser, &options.model);
  add_trace_option(parser, &options.model);
  add_cache_option(parser, &options.model);
  parser.group("Input");
  parser
      .add_text({"--cases", "FILE",
                 "Read inputs from FILE, as JSON: {\"cases\": [{\"name\", \"input_ids\": [[...]], "
                 "...}]}, optionally with attention_mask, token_type_ids, new_tokens and beams."},
                &options.cases)
      .required();
  parser.group("Output");
  parser.add_text({"-o,--output", "FILE", "Write the safetensors to FILE."}, &options.output)
      .required();
  if (const auto code = parser.parse(arguments)) return *code;
  return finish(dump(options), options.model);
}

}  // namespace tessera::cli
