#include "base/status.h"

#include <cstdio>
#include <cstdlib>

namespace tessera {

void abort_without_value(const Status& status) {
  std::fprintf(stderr, "tessera: the value of a Result was used that has none: %s\n",
               status.message().c_str());
  std::abort();
}

}  // namespace tessera
