#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "evaluate/windows.h"
#include "runtime/sampling.h"
#include "runtime/tasks/embeddings.h"
#include "tessera/records.h"

namespace tessera::evaluation {
namespace {

// Logits of the reference that are held at a time, 128 MiB.
constexpr size_t kMostLogits = size_t{1} << 25;
constexpr int32_t kUsualWindow = 512;

struct RowAgreement {
  double nats = 0;  // KL(reference || model)
  bool same_best = false;
};

// sum_i p_i (log p_i - log q_i), p the reference's.
RowAgreement compare_rows(std::span<const float> reference, std::span<const float> model) {
  const double log_p = log_sum_exp(reference), log_q = log_sum_exp(model);
  RowAgreement result;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double log_share = reference[i] - log_p;
    result.nats += std::exp(log_share) * (log_share - (model[i] - log_q));
  }
  // Rounding alone makes it negative.
  result.nats = std::max(0.0, result.nats);
  result.same_best = tasks::index_of_largest(reference) == tasks::index_of_largest(model);
  return result;
}

void compare_window(Run& run, Team& team, const Window& window, std::span<const float> reference,
                    std::span<const float> model) {
  const size_t rows = window.rows.size(), width = model.size() / rows;
  std::vector<RowAgreement> found(rows);
  team.parallel_for(static_cast<int64_t>(rows), 1, [&](Range range) {
    for (auto i = static_cast<size_t>(range.begin); i < static_cast<size_t>(range.end); ++i) {
      found[i] = compare_rows(reference.subspan(i * width, width), model.subspan(i * width, width));
    }
  });
  double nats = 0, same = 0;
  for (const RowAgreement& row : found) {
    nats += row.nats;
    same += row.same_best ? 1 : 0;
  }
  const auto tokens = static_cast<double>(rows);
  run.result.examples.push_back(
      {.id = fmt::format("tokens {} to {}", window.begin + window.rows.front(),
                         window.begin + window.rows.back()),
       .score = nats / tokens,
       .output = {},
       .expected = {},
       .values = {nats, same, tokens}});
}

Result<std::vector<Window>> windows_of(Run& run, Model& model, Model& reference) {
  const int32_t context = std::min(model.info().max_positions, reference.info().max_positions);
  const int32_t asked = run.task.agreement.window_tokens;
  const int32_t window = asked == 0 ? std::min(kUsualWindow, context) : asked;
  if (window < 1 || window > context) {
    return invalid_input(fmt::format(
        "window: expected 1 to {} tokens, the shorter context, found {}", context, window));
  }
  TESSERA_ASSIGN_OR_RETURN(const std::string text, read_text(run, run.task.data));
  TESSERA_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, encode_text(model, text));
  TESSERA_ASSIGN_OR_RETURN(const std::vector<int32_t> other, encode_text(reference, text));
  if (ids != other || model.info().vocabulary_size != reference.info().vocabulary_size) {
    return invalid_input(
        fmt::format("expected two models with the same tokens, found {} and {}, which differ",
                    model.info().directory, reference.info().directory));
  }
  run.result.counts.words = count_words(text);
  run.result.counts.bytes = static_cast<int64_t>(text.size());
  run.result.method =
      fmt::format("windows of {} tokens, against {}", window, reference.info().directory);
  std::vector<Window> windows = disjoint_windows(ids, window);
  if (runs_in_steps(model) || runs_in_steps(reference)) {
    predict_second_halves(windows);
    std::erase_if(windows, [](const Window& each) { return each.rows.empty(); });
    run.result.method += ", second half of each, token by token";
  }
  if (run.task.max_examples > 0) {
    windows.resize(std::min(windows.size(), static_cast<size_t>(run.task.max_examples)));
  }
  return windows;
}

Status run_causal(Run& run, Model& model, Model& reference) {
  TESSERA_ASSIGN_OR_RETURN(const std::vector<Window> windows, windows_of(run, model, reference));
  const auto vocabulary = static_cast<size_t>(model.info().vocabulary_size);
  const size_t window = windows.empty() ? 1 : windows[0].rows.size();
  const size_t at_a_time = std::max<size_t>(1, kMostLogits / (vocabulary * window));
  run.result.settings = {1};
  for (size_t begin = 0; begin < windows.size(); begin += at_a_time) {
    TESSERA_RETURN_IF_ERROR(run.progress("comparing windows", static_cast<int64_t>(begin),
                                         static_cast<int64_t>(windows.size())));
    const auto part =
        std::span(windows).subspan(begin, std::min(at_a_time, windows.size() - begin));
    std::vector<std::vector<float>> wanted(part.size()), found(part.size());
    const auto keep = [](std::vector<std::vector<float>>* logits) {
      return [logits](size_t i, std::span<const float> values) -> Status {
        (*logits)[i].assign(values.begin(), values.end());
        return {};
      };
    };
    TESSERA_RETURN_IF_ERROR(run_windows(reference, part, {}, keep(&wanted)));
    TESSERA_RETURN_IF_ERROR(run_windows(model, part, {}, keep(&found)));
    for (size_t i = 0; i < part.size(); ++i) {
      compare_window(run, *state_of(model).team, part[i], wanted[i], found[i]);
      run.result.counts.tokens += static_cast<int64_t>(part[i].rows.size());
    }
  }
  run.result.counts.scored_tokens = run.result.counts.tokens;
  if (run.result.examples.empty()) return invalid_input("expected text, found none");
  return {};
}

Result<std::vector<DataRow>> read_lines(Run& run) {
  std::vector<DataRow> rows;
  for (const std::string& path : run.task.data.paths) {
    TESSERA_ASSIGN_OR_RETURN(const std::unique_ptr<LineReader> lines, LineReader::open(path));
    for (std::string line;;) {
      if (run.task.max_examples > 0 && rows.size() >= static_cast<size_t>(run.task.max_examples)) {
        break;
      }
      TESSERA_ASSIGN_OR_RETURN(const bool more, lines->next(&line));
      if (!more) break;
      if (is_blank(line)) continue;
      const std::string place = fmt::format("{}, line {}", path, lines->line());
      if (const Status status = check_utf8(line); !status.ok()) {
        TESSERA_RETURN_IF_ERROR(run.bad(fmt::format("{}: {}", place, status.message())));
        continue;
      }
      run.result.counts.words += count_words(line);
      run.result.counts.bytes += static_cast<int64_t>(line.size());
      rows.push_back({place, {line}});
    }
  }
  if (!rows.empty()) return rows;
  return invalid_input(
      fmt::format("{}: expected text, found none", fmt::join(run.task.data.paths, ", ")));
}

Status run_encoders(Run& run, Model& model, Model& reference) {
  if (model.embedding_size() != reference.embedding_size()) {
    return invalid_input(
        fmt::format("expected two models with embeddings of one size, found {} and {}",
                    model.embedding_size(), reference.embedding_size()));
  }
  TESSERA_ASSIGN_OR_RETURN(const std::vector<DataRow> rows, read_lines(run));
  TESSERA_ASSIGN_OR_RETURN(const RowEmbeddings found, embed_rows(run, model, rows, 1));
  std::vector<std::string> texts;
  for (const size_t row : found.rows) texts.push_back(rows[row].fields[0]);
  TESSERA_ASSIGN_OR_RETURN(const tasks::Embeddings wanted,
                           tasks::embed_all(reference, texts,
                                            run.task_options("embedding with the reference",
                                                             static_cast<int64_t>(texts.size()))));
  for (size_t i = 0; i < texts.size(); ++i) {
    const double similarity = cosine(found.vectors.data() + i * found.width,
                                     wanted.vectors.data() + i * found.width, found.width);
    run.result.examples.push_back({.id = rows[found.rows[i]].place,
                                   .score = similarity,
                                   .output = {},
                                   .expected = {},
                                   .values = {similarity}});
  }
  run.result.settings = {0};
  run.result.method = fmt::format("embeddings of lines, against {}", reference.info().directory);
  return {};
}

}  // namespace

Status run_agreement(Run& run, Model& model) {
  const std::shared_ptr<Model>& reference = run.task.agreement.reference;
  if (reference == nullptr)
    return invalid_input("agreement: expected a reference model, found none");
  const Head head = model.info().head, other = reference->info().head;
  if (head == Head::kCausalLm && other == Head::kCausalLm) {
    return run_causal(run, model, *reference);
  }
  if (head == Head::kCausalLm || other == Head::kCausalLm) {
    return unsupported("agreement: expected two causal models or two encoders, found one of each");
  }
  return run_encoders(run, model, *reference);
}

}  // namespace tessera::evaluation
