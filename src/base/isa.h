#pragma once

#include <string_view>
#include <vector>

#include "base/status.h"

namespace tessera {

// Instruction sets a kernel row may need, in the order of a cap: capping at one switches off all
// after it.
enum class Isa { kAny, kAvx2, kAvx512, kAvx512Vnni, kAvx512Bf16, kAmx, kCuda };

std::string_view name(Isa isa);

// Whether the CPU has it and TESSERA_ISA (ref, avx2, avx512, avx512_vnni, avx512_bf16, amx) or
// set_isa_cap allows it.
bool available(Isa isa);
// kAmx: the tiles of AMX for bf16 and int8, if the system lets this process use them, which it is
// asked for once.
bool hardware_has(Isa isa);

// An error when TESSERA_ISA names no instruction set.
Status check_isa_cap();

// Overrides TESSERA_ISA for this process; for tests and benchmarks. Not thread-safe.
void set_isa_cap(Isa cap);
Isa isa_cap();

// The instruction sets this machine can run, within the cap, weakest first.
std::vector<Isa> available_isas();

}  // namespace tessera
