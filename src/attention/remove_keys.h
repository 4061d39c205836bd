#pragma once

#include <cstdint>
#include <span>

#include "formats/cache_pages.h"

namespace tessera {

// Whether the keys that stay keep their order, which costs O(keys * width), or the last ones move
// into the gaps: O(width) for each that leaves.
enum class KeyOrder { kKept, kAny };

// Takes keys, their values and positions out of a table: key i where leaves[i] is not 0. What stays
// stands in the first pages, those behind keep what they have. Pages must be the table's own.
void remove_keys(const PageShape& shape, std::span<const uint8_t> leaves, KeyOrder order,
                 PageTable& table);

}  // namespace tessera
