#pragma once

#include <cstdint>
#include <string>

namespace tessera {

// Memory that can still be had: what the kernel calls available, clamped by the limit of this
// process's control group (of which caches of files count as free).
int64_t available_memory_bytes();

// The clamp alone, as of control_groups(); the largest int64 where there is no limit.
int64_t group_memory_bytes(const std::string& membership, const std::string& mount);

}  // namespace tessera
