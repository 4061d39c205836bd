#include "base/isa.h"

#include <gtest/gtest.h>

namespace tessera {
namespace {

TEST(Isa, CapHidesWhatComesAfterIt) {
  const Isa before = isa_cap();
  set_isa_cap(Isa::kAny);
  EXPECT_EQ(available_isas(), std::vector<Isa>{Isa::kAny});
  set_isa_cap(Isa::kAvx2);
  EXPECT_FALSE(available(Isa::kAvx512));
  EXPECT_EQ(available(Isa::kAvx2), hardware_has(Isa::kAvx2));
  set_isa_cap(Isa::kCuda);
  for (const Isa isa : {Isa::kAny, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vnni, Isa::kAvx512Bf16}) {
    EXPECT_EQ(available(isa), hardware_has(isa)) << name(isa);
  }
  set_isa_cap(before);
}

TEST(Isa, AWiderOneImpliesTheNarrower) {
  EXPECT_TRUE(hardware_has(Isa::kAny));
  if (hardware_has(Isa::kAvx512Bf16) || hardware_has(Isa::kAvx512Vnni)) {
    EXPECT_TRUE(hardware_has(Isa::kAvx512));
  }
  EXPECT_FALSE(hardware_has(Isa::kCuda));
}

}  // namespace
}  // namespace tessera
