#include "compress/pass.h"

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

}  // namespace tessera
