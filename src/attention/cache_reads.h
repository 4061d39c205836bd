#pragma once

#include <cstdint>
#include <vector>

namespace tessera {

struct AttentionSequence;
struct AttentionShape;

// What queries of generated tokens read of the cache, by one query head. Numbers and their bits
// are counted as if every query head had keys and values of its own, as the published counts of
// SpAtten are:
//   effective bits of K = key_bits / key_numbers, of both (key_bits + value_bits) / their numbers
// Bytes are those really stored and read, scales included: a KV head's keys once for its query
// heads, the lower plane where any of them refetches, and the values that any of them reads.
struct CacheReads {
  int64_t queries = 0;
  int64_t refetched = 0;  // of these
  int64_t key_numbers = 0;
  int64_t key_bits = 0;
  int64_t value_numbers = 0;
  int64_t value_bits = 0;
  int64_t bytes = 0;

  CacheReads& operator+=(const CacheReads& other);
  bool operator==(const CacheReads& other) const = default;
};

// Over any number of passes.
struct ReadLog {
  int64_t tokens = 0;                           // whose queries these are
  std::vector<std::vector<CacheReads>> layers;  // of each query head; grows as layers are counted

  std::vector<CacheReads>& of_layer(int32_t layer, int32_t query_heads);
  CacheReads total() const;
};

// A query head that saw so many keys, and read so many values.
struct QueryReads {
  int32_t keys = 0;
  int32_t values = 0;
  bool refetched = false;
};
CacheReads numbers_read(const AttentionShape& shape, const QueryReads& query);
// Which planes of keys are read; there is but one where they have no lower one.
enum class PlanesRead { kUpper, kBoth };
// What is stored of a KV head's keys, and of the values of a value head.
int64_t key_bytes_read(const AttentionShape& shape, int32_t keys, PlanesRead planes);
int64_t value_bytes_read(const AttentionShape& shape, int32_t values);

// Adds to the sequence's reads, of one query that does not select: all of every key and value.
void count_all_read(const AttentionShape& shape, const AttentionSequence& sequence);

}  // namespace tessera
