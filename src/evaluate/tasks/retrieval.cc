#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "base/team.h"
#include "evaluate/run.h"
#include "io/mapped_file.h"
#include "runtime/model_state.h"
#include "tessera/records.h"

namespace tessera::evaluation {
namespace {

constexpr size_t kMostBytes = size_t{1} << 30;

// Relevance by document of each query, as the judgements name them.
using Judgements = std::map<std::string, std::map<std::string, double>>;

// What stands between <tag> and </tag> from *pos on, and pos behind it; nothing when there is none
// before `limit`.
std::optional<std::string_view> element(std::string_view xml, std::string_view tag, size_t* pos,
                                        size_t limit) {
  const std::string open = fmt::format("<{}>", tag), close = fmt::format("</{}>", tag);
  const size_t begin = xml.substr(0, limit).find(open, *pos);
  if (begin == std::string_view::npos) return std::nullopt;
  const size_t end = xml.substr(0, limit).find(close, begin + open.size());
  if (end == std::string_view::npos) return std::nullopt;
  *pos = end + close.size();
  return xml.substr(begin + open.size(), end - begin - open.size());
}

std::string unescaped(std::string_view text) {
  static constexpr std::pair<std::string_view, char> kEntities[] = {
      {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}, {"&amp;", '&'}};
  std::string result;
  for (size_t i = 0; i < text.size();) {
    const auto found =
        std::find_if(std::begin(kEntities), std::end(kEntities),
                     [&](const auto& entity) { return text.substr(i).starts_with(entity.first); });
    result += found == std::end(kEntities) ? text[i] : found->second;
    i += found == std::end(kEntities) ? 1 : found->first.size();
  }
  return result;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

// TREC's XML as Cranfield is published: <doc> with docno, title and text, or <top> with num and
// title. A document's text begins with its title; one without a text has its title, and one without
// that either stays, empty.
struct Markup {
  std::string_view item, id, text, other_text;
};
constexpr Markup kDocuments{"doc", "docno", "text", "title"};
constexpr Markup kQueries{"top", "num", "title", "title"};

Result<std::vector<DataRow>> read_xml(Run& run, const std::string& path, const Markup& markup) {
  TESSERA_ASSIGN_OR_RETURN(const std::string xml, read_text_file(path, kMostBytes));
  if (const Status status = check_utf8(xml); !status.ok()) {
    return invalid_input(fmt::format("{}: {}", path, status.message()));
  }
  std::vector<DataRow> rows;
  for (size_t pos = 0;;) {
    const auto item = element(xml, markup.item, &pos, xml.size());
    if (!item) break;
    size_t in_id = 0, in_text = 0, in_other = 0;
    const auto id = element(*item, markup.id, &in_id, item->size());
    auto text = element(*item, markup.text, &in_text, item->size());
    if (!text || is_blank(*text)) text = element(*item, markup.other_text, &in_other, item->size());
    const auto line = std::count(xml.begin(), xml.begin() + (item->data() - xml.data()), '\n') + 1;
    const std::string place = fmt::format("{}, line {}", path, line);
    if (!id || !text) {
      TESSERA_RETURN_IF_ERROR(run.bad(fmt::format("{}: expected <{}> and <{}>, found less", place,
                                                  markup.id, markup.other_text)));
      continue;
    }
    rows.push_back({place, {unescaped(trimmed(*text)), std::string(trimmed(*id))}});
  }
  if (!rows.empty()) return rows;
  return invalid_input(fmt::format("{}: expected <{}>, found none", path, markup.item));
}

// Fields: text, id.
Result<std::vector<DataRow>> read_texts(Run& run, const DataFile& file, const Markup& markup,
                                        RowLimit limit) {
  std::vector<DataRow> rows;
  if (!file.paths.empty() && file.paths[0].ends_with(".xml")) {
    TESSERA_ASSIGN_OR_RETURN(rows, read_xml(run, file.paths[0], markup));
  } else {
    TESSERA_ASSIGN_OR_RETURN(rows,
                             read_rows(run, file, {{file.columns.text, file.columns.id}}, limit));
  }
  std::set<std::string> ids;
  std::vector<DataRow> kept;
  for (DataRow& row : rows) {
    if (ids.insert(row.fields[1]).second) {
      kept.push_back(std::move(row));
    } else {
      TESSERA_RETURN_IF_ERROR(run.bad(
          fmt::format("{}: expected each id once, found \"{}\" again", row.place, row.fields[1])));
    }
  }
  const auto most = static_cast<size_t>(run.task.max_examples);
  if (limit == RowLimit::kMaxExamples && most > 0 && kept.size() > most) kept.resize(most);
  return kept;
}

Result<Judgements> read_judgements(Run& run, const std::set<std::string>& documents) {
  const std::string& path = run.task.retrieval.judgements;
  if (path.empty()) return invalid_input("expected a file of judgements, found none");
  TESSERA_ASSIGN_OR_RETURN(const std::unique_ptr<LineReader> lines, LineReader::open(path));
  Judgements judgements;
  for (std::string line;;) {
    TESSERA_ASSIGN_OR_RETURN(const bool more, lines->next(&line));
    if (!more) break;
    if (is_blank(line)) continue;
    std::vector<std::string> fields;
    for (size_t pos = 0; (pos = line.find_first_not_of(" \t\r", pos)) != std::string::npos;) {
      const size_t end = std::min(line.find_first_of(" \t\r", pos), line.size());
      fields.push_back(line.substr(pos, end - pos));
      pos = end;
    }
    char* end = nullptr;
    const double relevance = fields.size() == 4 ? std::strtod(fields[3].c_str(), &end) : 0;
    if (fields.size() != 4 || *end != '\0' || !std::isfinite(relevance)) {
      TESSERA_RETURN_IF_ERROR(run.bad(fmt::format(
          "{}, line {}: expected a query, 0, a document and a number, found {} fields or no number",
          path, lines->line(), fields.size())));
      continue;
    }
    if (!documents.contains(fields[2])) {
      TESSERA_RETURN_IF_ERROR(
          run.bad(fmt::format("{}, line {}: expected the id of a document, found \"{}\"", path,
                              lines->line(), fields[2])));
      continue;
    }
    judgements[fields[0]][fields[2]] = relevance;
  }
  if (!judgements.empty()) return judgements;
  return invalid_input(fmt::format("{}: expected judgements, found none", path));
}

// Queries under the names that the judgements use: their ids where all judged queries are among
// them, else their numbers in the file.
std::vector<std::string> judged_names(const std::vector<DataRow>& queries,
                                      const Judgements& judgements) {
  std::set<std::string> ids;
  for (const DataRow& query : queries) ids.insert(query.fields[1]);
  const bool by_id = std::all_of(judgements.begin(), judgements.end(),
                                 [&](const auto& judged) { return ids.contains(judged.first); });
  std::vector<std::string> names;
  for (const DataRow& query : queries) {
    names.push_back(by_id ? query.fields[1] : fmt::format("{}", names.size() + 1));
  }
  return names;
}

struct Ranking {
  std::vector<double> relevances;  // of the documents, best first
  std::vector<double> ideal;       // the relevances above 0, largest first
};

// Järvelin & Kekäläinen 2002 with gain = relevance and discount log2(rank + 1), as trec_eval.
double gain(std::span<const double> relevances, size_t depth) {
  double sum = 0;
  for (size_t i = 0; i < std::min(depth, relevances.size()); ++i) {
    sum += std::max(0.0, relevances[i]) / std::log2(static_cast<double>(i) + 2);
  }
  return sum;
}

std::vector<double> values_of(const Ranking& ranking, std::span<const double> depths) {
  std::vector<double> values;
  for (const double each : depths) {
    const auto depth = static_cast<size_t>(each);
    if (values.empty()) {
      values.push_back(gain(ranking.relevances, depth) / gain(ranking.ideal, depth));
      continue;
    }
    const auto end = ranking.relevances.begin() +
                     static_cast<int64_t>(std::min(depth, ranking.relevances.size()));
    const auto found =
        std::count_if(ranking.relevances.begin(), end, [](double r) { return r > 0; });
    values.push_back(static_cast<double>(found) / static_cast<double>(ranking.ideal.size()));
  }
  return values;
}

Status set_depths(Run& run) {
  std::vector<int32_t> depths{run.task.retrieval.depth};
  depths.insert(depths.end(), run.task.retrieval.recall_depths.begin(),
                run.task.retrieval.recall_depths.end());
  for (const int32_t depth : depths) {
    if (depth < 1) return invalid_input(fmt::format("depth: expected 1 or more, found {}", depth));
    run.result.settings.push_back(depth);
  }
  return {};
}

struct Collection {
  std::vector<DataRow> documents, queries;
  RowEmbeddings document_vectors, query_vectors;
};

// The documents that were embedded, best first, equals in their order.
std::vector<size_t> rank_documents(const Collection& all, const float* query, Team& team) {
  const size_t width = all.document_vectors.width;
  const std::vector<size_t>& rows = all.document_vectors.rows;
  std::vector<double> scores(rows.size());
  team.parallel_for(static_cast<int64_t>(rows.size()), 64, [&](Range range) {
    for (auto i = static_cast<size_t>(range.begin); i < static_cast<size_t>(range.end); ++i) {
      scores[i] = cosine(query, all.document_vectors.vectors.data() + i * width, width);
    }
  });
  std::vector<size_t> order(rows.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  for (size_t& place : order) place = rows[place];
  return order;
}

void add_query(Run& run, const Collection& all, size_t query,
               const std::map<std::string, double>& judged, const std::vector<size_t>& order) {
  Ranking ranking;
  for (const size_t document : order) {
    const auto found = judged.find(all.documents[document].fields[1]);
    ranking.relevances.push_back(found == judged.end() ? 0 : found->second);
  }
  for (const auto& [document, relevance] : judged) {
    if (relevance > 0) ranking.ideal.push_back(relevance);
  }
  std::sort(ranking.ideal.rbegin(), ranking.ideal.rend());
  const DataRow& row = all.queries[query];
  if (ranking.ideal.empty()) {
    run.note(row.place + ": no document is judged relevant: left out");
    return;
  }
  std::vector<double> values = values_of(ranking, run.result.settings);
  const double ndcg = values[0];
  run.result.examples.push_back({.id = row.place,
                                 .score = ndcg,
                                 .output = all.documents[order[0]].fields[1],
                                 .expected = {},
                                 .values = std::move(values)});
}

}  // namespace

Status run_retrieval(Run& run, Model& model) {
  TESSERA_RETURN_IF_ERROR(set_depths(run));
  Collection all;
  TESSERA_ASSIGN_OR_RETURN(all.documents,
                           read_texts(run, run.task.data, kDocuments, RowLimit::kNone));
  TESSERA_ASSIGN_OR_RETURN(all.queries,
                           read_texts(run, run.task.retrieval.queries, kQueries, RowLimit::kNone));
  std::set<std::string> ids;
  for (const DataRow& document : all.documents) ids.insert(document.fields[1]);
  TESSERA_ASSIGN_OR_RETURN(const Judgements judgements, read_judgements(run, ids));
  const std::vector<std::string> names = judged_names(all.queries, judgements);
  if (run.task.max_examples > 0 &&
      all.queries.size() > static_cast<size_t>(run.task.max_examples)) {
    all.queries.resize(static_cast<size_t>(run.task.max_examples));
  }
  TESSERA_ASSIGN_OR_RETURN(all.document_vectors, embed_rows(run, model, all.documents, 1));
  TESSERA_ASSIGN_OR_RETURN(all.query_vectors, embed_rows(run, model, all.queries, 1));
  if (all.document_vectors.rows.empty()) return invalid_input("expected documents, found none");
  for (size_t i = 0; i < all.query_vectors.rows.size(); ++i) {
    const size_t query = all.query_vectors.rows[i];
    const auto judged = judgements.find(names[query]);
    TESSERA_RETURN_IF_ERROR(run.progress("ranking", static_cast<int64_t>(i),
                                         static_cast<int64_t>(all.query_vectors.rows.size())));
    if (judged == judgements.end()) {
      run.note(all.queries[query].place + ": has no judgements: left out");
      continue;
    }
    add_query(run, all, query, judged->second,
              rank_documents(all, all.query_vectors.vectors.data() + i * all.query_vectors.width,
                             *state_of(model).team));
  }
  run.result.method = "cosine of embeddings";
  if (!run.result.examples.empty()) return {};
  return invalid_input("expected at least one query with a relevant document, found none");
}

}  // namespace tessera::evaluation
