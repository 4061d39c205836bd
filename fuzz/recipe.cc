// Any text is refused with a sentence, or is a recipe of a report, a plot that can be drawn as text
// that XML allows, or a cell of times that is read again from what is written of it.

#include "report/recipe.h"

#include "report/plot_json.h"
#include "report/timing.h"
#include "support/target.h"

namespace tessera::fuzz {
namespace {

constexpr size_t kVariants = 2;

void check_recipe(const std::string& text) {
  const auto recipe = recipe_from_json(text, "fuzz", "folder", {{"data", "given"}});
  const auto other = recipe_from_json(text, "fuzz", "", {});
  for (const auto* each : {&recipe, &other}) {
    if (!each->ok()) {
      require(!each->status().message().empty());
      continue;
    }
    require(!(*each)->variants.empty() && (*each)->base < (*each)->variants.size());
    require(!(*each)->tasks.empty() || !(*each)->workloads.empty());
    for (const RecipeVariant& variant : (*each)->variants)
      require(!variant.name.empty() && !variant.model.empty());
    Recipe quick = **each;
    make_quick(quick);
    for (const RecipeTask& task : quick.tasks) require(task.task.max_examples > 0);
  }
}

void check_plot(const std::string& text) {
  const auto plot = plot_from_json(text, "fuzz");
  if (!plot.ok()) return require(!plot.status().message().empty());
  const std::string svg = draw_svg(*plot);
  require(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
  for (const char c : svg) require(static_cast<unsigned char>(c) >= 0x20 || c == '\n');
}

void check_times(const std::string& text) {
  const auto timed = timing_from_json(text, "fuzz", kVariants);
  if (!timed.ok()) return require(!timed.status().message().empty());
  const std::string written = timing_to_json(*timed);
  const auto again = timing_from_json(written, "written", kVariants);
  require(again.ok() && timing_to_json(*again) == written);
  numbers_of((*timed)[0], (*timed)[1]);
}

}  // namespace

void check(std::string_view input) {
  check_recipe(std::string(input));
  check_plot(std::string(input));
  check_times(std::string(input));
}

}  // namespace tessera::fuzz
