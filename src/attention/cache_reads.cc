#include "attention/cache_reads.h"

#include "attention/blocks.h"
#include "attention/method.h"

namespace tessera {

CacheReads& CacheReads::operator+=(const CacheReads& other) {
  queries += other.queries;
  refetched += other.refetched;
  key_numbers += other.key_numbers;
  key_bits += other.key_bits;
  value_numbers += other.value_numbers;
  value_bits += other.value_bits;
  bytes += other.bytes;
  return *this;
}

std::vector<CacheReads>& ReadLog::of_layer(int32_t layer, int32_t query_heads) {
  const auto at = static_cast<size_t>(layer), heads = static_cast<size_t>(query_heads);
  if (layers.size() <= at) layers.resize(at + 1);
  if (layers[at].size() < heads) layers[at].resize(heads);
  return layers[at];
}

CacheReads ReadLog::total() const {
  CacheReads total;
  for (const std::vector<CacheReads>& layer : layers) {
    for (const CacheReads& head : layer) total += head;
  }
  return total;
}

CacheReads numbers_read(const AttentionShape& shape, const QueryReads& query) {
  const PageShape& pages = shape.pages;
  const int64_t keys = int64_t{query.keys} * pages.d_k, values = int64_t{query.values} * pages.d_v;
  const int32_t key_bits = pages.key_bits() - (query.refetched ? 0 : pages.lower_bits());
  return {.queries = 1,
          .refetched = query.refetched ? 1 : 0,
          .key_numbers = keys,
          .key_bits = keys * key_bits,
          .value_numbers = values,
          .value_bits = values * pages.value_bits()};
}

int64_t key_bytes_read(const AttentionShape& shape, int32_t keys, PlanesRead planes) {
  const PageShape& pages = shape.pages;
  const int64_t lower = planes == PlanesRead::kBoth ? pages.lower_key_bytes() : 0;
  return keys * (pages.key_bytes() + lower + pages.scale_bytes());
}

int64_t value_bytes_read(const AttentionShape& shape, int32_t values) {
  return values * (shape.pages.value_bytes() + shape.pages.scale_bytes());
}

void count_all_read(const AttentionShape& shape, const AttentionSequence& sequence) {
  const attention::KeyRange seen = attention::Visibility(shape, sequence)(0);
  const int32_t keys = seen.end - seen.begin;
  const int32_t group = shape.query_heads / shape.pages.kv_heads;
  for (int32_t first = 0; first < shape.query_heads; first += group) {
    int32_t live = 0;
    for (int32_t head = first; head < first + group; ++head) {
      if (!sequence.lives(head)) continue;
      ++live;
      sequence.reads[head] += numbers_read(shape, {.keys = keys, .values = keys});
    }
    if (live == 0) continue;
    const bool summed = shape.outputs == HeadOutputs::kSummed;
    sequence.reads[first].bytes += key_bytes_read(shape, keys, PlanesRead::kBoth) +
                                   (summed ? live : 1) * value_bytes_read(shape, keys);
  }
}

}  // namespace tessera
