#include "linear/formats.h"

namespace tessera {

Result<std::unique_ptr<Linear>> prepare_int8(const QuantizedStack&, const float*, Team&) {
  return unsupported("A linear map of 8 bits cannot be run yet.");
}

}  // namespace tessera
