#include "kernels/attention_product/attention_product.h"

namespace tessera::attention_product {
namespace {

constexpr KernelRow<Args> kRows[] = {
#define TESSERA_KERNEL(row, isa) {#row, isa, row, takes_all<Args>},
#include "kernels/attention_product/table.inc"
#undef TESSERA_KERNEL
};

}  // namespace

const KernelFamily<Args> kernels{"attention_product", kRows};

}  // namespace tessera::attention_product
