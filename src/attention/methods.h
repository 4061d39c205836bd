#pragma once

#include "attention/method.h"

// One per file, each listed in methods.cc.
namespace tessera::attention {

const AttentionMethod& flash();
const AttentionMethod& on_the_fly();
const AttentionMethod& unfused();

}  // namespace tessera::attention
