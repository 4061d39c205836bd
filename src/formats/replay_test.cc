// Extents that broke the arithmetic of other readers.
#include <gtest/gtest.h>

#include <cstdint>

#include "formats/weight_format.h"

namespace tessera {
namespace {

// Rounding up to whole tiles or panels is to add their extent less one, which is beyond 63 bits
// here: extents are checked before anything is counted.
TEST(Replay, TileAndPanelRoundingNear2To63IsRefused) {
  for (const WeightFormat* format : all_weight_formats()) {
    for (const int64_t extent : {INT64_MAX, INT64_MAX - 1, INT64_MAX - 14, INT64_MAX - 62,
                                 INT64_MAX - 255, kMaxMatrixExtent + 1, int64_t{0}, int64_t{-1}}) {
      for (const bool is_rows : {true, false}) {
        StoredMatrix matrix{
            .format = format, .rows = is_rows ? extent : 16, .cols = is_rows ? 16 : extent};
        for (const AttributeSpec& spec : format->attributes)
          matrix.attributes.push_back({spec.most, spec.most});
        matrix.parts.resize(format->parts.size());
        EXPECT_FALSE(check_entry(matrix).ok()) << format->name << " " << extent;
        EXPECT_FALSE(validate(matrix).ok()) << format->name << " " << extent;
      }
    }
  }
}

}  // namespace
}  // namespace tessera
