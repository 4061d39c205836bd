#include "cli/run.h"

#include <fmt/format.h>

#include "cli/inputs.h"
#include "cli/verbs.h"

namespace tessera::cli {
namespace {

constexpr Synopsis kSynopsis = {
    "run", "MODEL [TEXT]",
    "Continues a text: TEXT, or what --prompt, --file, --ids or standard input give. At a terminal "
    "without any of them it reads lines and continues them in turns.",
    "  tessera run models/tales \"Once upon a time\" --seed 7\n"
    "  tessera run models/tales --greedy -n 50 < beginning.txt\n"
    "  tessera run models/tales                      # in turns; Ctrl-D ends\n"
    "  tessera run models/tales \"The fox\" --json\n"
    "  tessera run models/tales \"The fox\" --stop . --num-sequences 3\n"
    "  tessera run models/tales \"The fox\" --beams 4 -n 30\n"
    "  tessera run models/tales --batch prompts.txt --json\n"
    "  tessera run models/tales --ids 339,1625 --json\n"};

Status print_text(const std::string& text) {
  Output out;
  if (Status status = out.write(text); !status.ok()) return status;
  return out.flush();
}

Result<std::string> echo_of(const Model& model, const std::vector<int32_t>& prompt_ids) {
  if (model.info().has_tokenizer) return model.detokenize(prompt_ids);
  return join_ids(prompt_ids) + ",";
}

// Several sequences, each after a line that counts them.
std::string listed(const Job& job, const ModelInfo& info, const std::string& echo) {
  std::string text;
  const size_t count = job.generations.size();
  for (size_t i = 0; i < count; ++i) {
    text += fmt::format("--- {} of {} ---\n{}{}", i + 1, count, echo,
                        shown_text(job.generations[i], info));
    if (!text.ends_with('\n')) text += '\n';
  }
  return text;
}

Status run_once(const std::shared_ptr<Model>& model, const GenerateOptions& options,
                Request request) {
  const ModelInfo& info = model->info();
  Job job{std::move(request)};
  std::string echo;
  if (options.echo && !options.json) {
    Result<std::string> text = echo_of(*model, job.request.prompt_ids);
    if (!text.ok()) return text.status();
    echo = std::move(text).value();
  }
  Stream stream(info);
  const bool streams = !options.json && job.request.sequences == 1;
  if (streams && !echo.empty()) stream.put(echo);
  if (Status status = generate_shown(model, streams ? &stream : nullptr, job); !status.ok()) {
    return status;
  }
  if (!streams) {
    Status status = print_text(options.json ? to_json(job, info) : listed(job, info, echo));
    if (!status.ok()) return status;
  }
  if (!options.json) print_summary(job);
  if (job.is_cancelled()) return {StatusCode::kCancelled, ""};
  return {};
}

Result<std::vector<int32_t>> read_prompt(Prompter& prompter, const GenerateOptions& options) {
  if (!options.ids.empty()) return options.ids[0];
  if (options.prompt) return prompter.text(*options.prompt);
  Result<std::string> text = read_text(options.file.value_or("-"));
  if (!text.ok()) return text.status();
  if (text->ends_with('\n')) text->pop_back();  // what editors and echo put there
  return prompter.text(*text);
}

Status check_model(const GenerateOptions& options, const ModelInfo& info) {
  if (!info.is_decoder || info.head != Head::kCausalLm) {
    return unsupported(fmt::format(
        "{} cannot continue a text: it is {} ({}); try: tessera embed {}", info.directory,
        info.is_decoder ? "a decoder without a language head" : "an encoder", info.architecture,
        info.directory));
  }
  if (!info.has_tokenizer && options.ids.empty() && !options.batch.file) {
    return unsupported(
        fmt::format("{} has no tokenizer: give token ids with --ids", info.directory));
  }
  return {};
}

void tell_not_followed(const GenerationDefaults& model) {
  if (model.not_followed.empty()) return;
  warn(
      fmt::format("generation_config.json: not followed: {}", fmt::join(model.not_followed, ", ")));
}

Status run(const GenerateOptions& options) {
  Result<std::shared_ptr<Model>> model = load_model(options.model);
  if (!model.ok()) return model.status();
  if (Status status = check_model(options, (*model)->info()); !status.ok()) return status;
  Result<Request> request = request_of(options, (*model)->info());
  if (!request.ok()) return request.status();
  tell_not_followed((*model)->info().generation);
  if (options.batch.file) return run_batch(*model, options, *request);
  const bool has_prompt = options.prompt || options.file || !options.ids.empty();
  if (!has_prompt && !options.json && is_terminal(stdin)) {
    if (options.sequences.value_or(1) > 1) {
      return invalid_input("--num-sequences: expected a prompt, since turns have one continuation");
    }
    return run_turns(*model, options, *request);
  }
  Prompter prompter(*model, options);
  Result<std::vector<int32_t>> prompt = read_prompt(prompter, options);
  if (!prompt.ok()) return prompt.status();
  request = prompter.request(*request, std::move(prompt).value());
  if (!request.ok()) return request.status();
  return run_once(*model, options, std::move(request).value());
}

}  // namespace

int run_verb(const Arguments& arguments) {
  GenerateOptions options;
  Parser parser(kSynopsis);
  options.batch.messages_key = "messages";
  declare(parser, &options);
  add_model_options(parser, &options.model);
  add_cache_option(parser, &options.model);
  add_trace_option(parser, &options.model);
  parser.keep_rest();
  parser.then([&] {
    take_text(parser.rest(), &options);
    check(&options);
  });
  if (const auto code = parser.parse(arguments)) return *code;
  return finish(run(options), options.model);
}

}  // namespace tessera::cli
