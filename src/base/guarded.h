#pragma once

#include <exception>
#include <new>
#include <stdexcept>
#include <string>

#include "base/status.h"

namespace tessera {

// Runs work, which returns Status or Result, and turns what it throws into a Status: nothing is
// thrown across the public functions. `what` opens the message.
template <typename Work>
auto guarded(const std::string& what, Work work) -> decltype(work()) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return out_of_memory(what + ": not enough memory");
  } catch (const std::length_error&) {
    return out_of_memory(what + ": not enough memory");
  } catch (const std::exception& error) {
    return invalid_input(what + ": " + error.what());
  }
}

}  // namespace tessera
