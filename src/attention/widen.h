#pragma once

#include <cstddef>
#include <cstdint>

#include "attention/cache_reads.h"
#include "base/team.h"
#include "formats/cache_pages.h"

// What packed integers of a page (PageShape::packs) stand for, for methods that read every plane of
// many queries' keys: such pages have no products of their own.
namespace tessera::attention {

// A head of a page.
struct PagedHead {
  const PageShape& shape;
  const std::byte* page;
  int32_t head;  // of keys or of values
};

// y[d * kPageTokens + t] = the element d of the key of token t, by both planes.
void widen_keys(const PagedHead& head, Range tokens, float* y);
// y[t * (columns.end - columns.begin) + d - columns.begin] = the element d of the value of token t.
void widen_values(const PagedHead& head, Range tokens, Range columns, float* y);

// One element in double precision, of a key by the upper plane alone or by both.
double key_element(const PagedHead& head, PlanesRead planes, int32_t token, int32_t d);

}  // namespace tessera::attention
