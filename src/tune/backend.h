#pragma once

#include <string>

#include "base/status.h"
#include "tessera/tune.h"

namespace tessera {

// What libtessera_tune gives to libtessera, which opens it when training is asked for, so that
// programs that do not train need no libtorch. Both are built together: `version` is compared.
struct TuneBackend {
  const char* version = nullptr;
  Result<TuneReport> (*tune)(const std::string& source, const std::string& target,
                             const TuneOptions& options) = nullptr;
};
inline constexpr const char* kTuneLibrary = "libtessera_tune.so";
inline constexpr const char* kTuneSymbol = "tessera_tune_backend";  // a function without arguments

// kUnsupported, with what to do, where it cannot be opened.
Status check_backend();

}  // namespace tessera
