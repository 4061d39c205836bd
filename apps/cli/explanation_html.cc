#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cli/explanation.h"

namespace tessera::cli {
namespace {

constexpr std::string_view kStyle = R"(
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; }
section { margin-bottom: 3rem; }
h2 { font-size: 1.1rem; max-width: 60rem; }
p.text { max-width: 60rem; }
p.text span { padding: 0 .1em; border-radius: .2em; }
div { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { border: 1px solid var(--line); padding: .15em .4em; white-space: nowrap; text-align: center; }
th { font-weight: normal; }
thead th { opacity: .7; }
td.heads { text-align: left; }
td.heads i { display: inline-block; width: .7em; height: .9em; border: 1px solid var(--line); }
td.gone { border-color: transparent; }
)";

std::string escaped(std::string_view text) {
  std::string html;
  for (const char c : text) {
    switch (c) {
      case '&':
        html += "&amp;";
        break;
      case '<':
        html += "&lt;";
        break;
      case '>':
        html += "&gt;";
        break;
      case '"':
        html += "&quot;";
        break;
      case '\'':
        html += "&#39;";
        break;
      default:
        html += c;
    }
  }
  return html;
}

// Importance spans powers of ten: its root is what the eye can tell apart.
std::string shade(double value, double largest) {
  const double share = largest > 0 && std::isfinite(value) ? std::sqrt(value / largest) : 0;
  return fmt::format("background:rgba(255,150,0,{:.2f})", std::clamp(share, 0.0, 1.0));
}

float largest_of(const std::vector<float>& values) {
  return values.empty() ? 0 : *std::max_element(values.begin(), values.end());
}

std::string heads_of(const Explanation& explanation, const ExplainedLayer& layer) {
  if (layer.heads.empty()) return fmt::format("<td class=\"heads\">{}</td>", explanation.heads);
  std::string html = "<td class=\"heads\">";
  const float largest = largest_of(layer.head_importance);
  auto next = layer.heads.begin();
  for (int32_t head = 0; head < explanation.heads; ++head) {
    if (next == layer.heads.end() || *next != head) {
      html +=
          fmt::format("<i title=\"head {} left\" style=\"border-color:transparent\"></i>", head);
      continue;
    }
    const auto place = static_cast<size_t>(next++ - layer.heads.begin());
    const float value = place < layer.head_importance.size() ? layer.head_importance[place] : 0;
    html += fmt::format("<i title=\"head {}: {:.3g}\" style=\"{}\"></i>", head, value,
                        shade(value, largest));
  }
  return html + fmt::format(" {}</td>", layer.heads.size());
}

std::string row_of(const Explanation& explanation, const ExplainedLayer& layer) {
  std::string html = "<tr>";
  if (explanation.has_steps()) html += fmt::format("<th>{}</th>", layer.step);
  html += fmt::format("<th>{}</th><td>{}</td>{}", layer.layer, layer.tokens.size(),
                      heads_of(explanation, layer));
  const float largest = largest_of(layer.importance);
  size_t next = 0;
  for (size_t i = 0; i < explanation.tokens.size(); ++i) {
    if (next == layer.tokens.size() || layer.tokens[next] != static_cast<int32_t>(i)) {
      html += "<td class=\"gone\"></td>";
      continue;
    }
    const float value = next < layer.importance.size() ? layer.importance[next] : 0;
    ++next;
    html += fmt::format("<td style=\"{}\" title=\"{:.3g}\">{}</td>", shade(value, largest), value,
                        escaped(explanation.tokens[i].text));
  }
  return html + "</tr>\n";
}

}  // namespace

std::string explain_html_head(std::string_view title) {
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title>\n"
      "<style>{1}</style></head>\n<body>\n<h1>{0}</h1>\n"
      "<p>Each row is a layer, with the tokens that it had. The stronger the colour, the more a "
      "token was attended to so far, beside the others of its row.</p>\n",
      escaped(title), kStyle);
}

std::string explain_as_html(const Explanation& explanation) {
  const auto layers = static_cast<double>(std::max<size_t>(explanation.layers.size(), 1));
  std::string html = "<section>\n<p class=\"text\">";
  for (const ExplainedToken& token : explanation.tokens) {
    const std::string when =
        token.left ? fmt::format("left in front of layer {}", *token.left) : "stayed";
    html += fmt::format("{}<span style=\"{}\" title=\"{}\">{}</span>", token.begins_word ? " " : "",
                        shade(token.left ? *token.left / layers : 1, 1), when, escaped(token.text));
  }
  if (explanation.has_steps()) html += " &rarr; " + escaped(*explanation.next);
  html += fmt::format(
      "</p>\n<div><table>\n<thead><tr>{}<th>layer</th><th>tokens</th><th>heads</th>"
      "<th colspan=\"{}\">text</th></tr></thead>\n<tbody>\n",
      explanation.has_steps() ? "<th>step</th>" : "", explanation.tokens.size());
  for (const ExplainedLayer& layer : explanation.layers) html += row_of(explanation, layer);
  return html + "</tbody></table></div>\n</section>\n";
}

std::string explain_html_tail() { return "</body></html>\n"; }

}  // namespace tessera::cli
