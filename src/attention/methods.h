#pragma once

#include "attention/method.h"

// The rows of table.inc, each defined by the file of its name.
namespace tessera::attention {

#define TESSERA_ATTENTION(name) const AttentionMethod& name();
#include "attention/table.inc"
#undef TESSERA_ATTENTION

}  // namespace tessera::attention
