#pragma once

#include <cstdint>

namespace tessera {

// What is assumed of a second-level cache where nothing else is said.
inline constexpr int64_t kUsualL2Bytes = int64_t{2} << 20;

// What a core has of second-level cache, by a CPU's folder such as /sys/devices/system/cpu/cpu0:
// the whole of a cache that only the threads of its core share, a part where more cores do. 0 where
// the folder does not tell.
int64_t core_l2_bytes(const char* cpu_folder);

// The same of this machine, found once: by its first CPU, else by the CPUID that the C library
// reads, else kUsualL2Bytes; and from 256 KiB to 4 MiB, for virtual machines tell strange sizes.
int64_t l2_bytes();

}  // namespace tessera
