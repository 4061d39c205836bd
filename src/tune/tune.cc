#include "tessera/tune.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstring>

#include "tessera/version.h"
#include "tune/backend.h"
#include "tune/options.h"

namespace tessera {
namespace {

// Beside the file that has this function.
std::string library_path() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&library_path), &info) == 0 || info.dli_fname == nullptr)
    return kTuneLibrary;
  const std::string own = info.dli_fname;
  const size_t slash = own.rfind('/');
  return slash == std::string::npos ? kTuneLibrary : own.substr(0, slash + 1) + kTuneLibrary;
}

Status no_backend(const std::string& why) {
  return unsupported(fmt::format(
      "training needs libtorch, which this build of Tessera does not have: install it with "
      "tools/install_packages.sh tune and build again ({})",
      why));
}

Result<const TuneBackend*> backend() {
  void* library = dlopen(library_path().c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return no_backend(dlerror());
  using Function = const TuneBackend* (*)();
  const auto function = reinterpret_cast<Function>(dlsym(library, kTuneSymbol));
  if (function == nullptr) return no_backend(dlerror());
  const TuneBackend* found = function();
  if (std::strcmp(found->version, version()) != 0) {
    return no_backend(fmt::format("{}: expected version {}, found {}", library_path(), version(),
                                  found->version));
  }
  return found;
}

}  // namespace

Status check_backend() { return backend().status(); }

Result<TuneReport> tune(const std::string& source, const std::string& target,
                        const TuneOptions& options) {
  TESSERA_RETURN_IF_ERROR(check(options));
  TESSERA_ASSIGN_OR_RETURN(const TuneBackend* found, backend());
  return found->tune(source, target, options);
}

}  // namespace tessera
