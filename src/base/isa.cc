#include "base/isa.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <array>
#include <cstdlib>
#include <string>

namespace tessera {
namespace {

constexpr std::array<std::string_view, 7> kNames = {"ref",         "avx2", "avx512", "avx512_vnni",
                                                    "avx512_bf16", "amx",  "cuda"};

Isa cap_from_environment() {
  const char* wanted = std::getenv("TESSERA_ISA");
  if (wanted != nullptr) {
    for (size_t i = 0; i < kNames.size(); ++i) {
      if (kNames[i] == wanted) return static_cast<Isa>(i);
    }
  }
  return Isa::kCuda;
}

Isa& cap() {
  static Isa value = cap_from_environment();
  return value;
}

}  // namespace

std::string_view name(Isa isa) { return kNames[static_cast<size_t>(isa)]; }

namespace {

#if defined(__x86_64__) && defined(__linux__)
bool ask_for_amx() {
  constexpr unsigned kLeaf = 7, kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // asm/prctl.h, XFEATURE_XTILEDATA
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(kLeaf, 0, &a, &b, &c, &d) == 0) return false;
  if ((d & kBf16) == 0 || (d & kTile) == 0 || (d & kInt8) == 0) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#else
bool ask_for_amx() { return false; }
#endif

}  // namespace

bool hardware_has(Isa isa) {
  switch (isa) {
    case Isa::kAny:
      return true;
#if defined(__x86_64__)
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    case Isa::kAvx512Vnni:
      return hardware_has(Isa::kAvx512) && __builtin_cpu_supports("avx512vnni");
    case Isa::kAvx512Bf16:
      return hardware_has(Isa::kAvx512) && __builtin_cpu_supports("avx512bf16");
    case Isa::kAmx: {
      static const bool granted = hardware_has(Isa::kAvx512Vnni) && ask_for_amx();
      return granted;
    }
#endif
    default:
      return false;
  }
}

bool available(Isa isa) { return isa <= cap() && hardware_has(isa); }

Status check_isa_cap() {
  const char* wanted = std::getenv("TESSERA_ISA");
  if (wanted == nullptr || *wanted == '\0') return {};
  std::string known;
  for (std::string_view each : kNames) {
    if (each == wanted) return {};
    known.append(known.empty() ? "" : ", ").append(each);
  }
  return invalid_input("TESSERA_ISA: expected one of " + known + ", found \"" + wanted + "\"");
}

void set_isa_cap(Isa value) { cap() = value; }
Isa isa_cap() { return cap(); }

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (available(static_cast<Isa>(i))) isas.push_back(static_cast<Isa>(i));
  }
  return isas;
}

}  // namespace tessera
