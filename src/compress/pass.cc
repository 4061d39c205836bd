#include "compress/pass.h"

#include <fmt/format.h>

#include <algorithm>

namespace tessera {

Result<Passes> make_passes(const CompressOptions& options) {
  using Make = MadePass (*)(const CompressOptions&);
  constexpr Make kTable[] = {
#define TESSERA_PASS(name) make_##name##_pass,
#include "compress/passes/table.inc"
#undef TESSERA_PASS
  };
  Passes passes;
  for (const Make make : kTable) {
    TESSERA_ASSIGN_OR_RETURN(std::unique_ptr<Pass> pass, make(options));
    if (pass != nullptr) passes.push_back(std::move(pass));
  }
  return passes;
}

Status nothing_chosen() {
  return invalid_input("expected options that choose at least one matrix, found none");
}

Status nothing_to_do(const Passes& passes, const std::vector<Item>& items,
                     const std::string& directory) {
  std::string names;
  bool any_taken = false;
  for (const auto& pass : passes) {
    names += fmt::format("{}{}", names.empty() ? "" : " or ", pass->info().name);
    any_taken = any_taken || std::any_of(items.begin(), items.end(),
                                         [&](const Item& item) { return pass->takes(item); });
  }
  if (!any_taken) return nothing_chosen();
  return invalid_input(fmt::format(
      "{}: expected at least one matrix that can be worked on, found nothing left: those that the "
      "options choose are stored pruned or quantized already, in forms that {} leaves as they are; "
      "compress the model that this one was made from",
      directory, names));
}

}  // namespace tessera
