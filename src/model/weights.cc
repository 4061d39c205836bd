#include "model/weights.h"

#include "model/slots.h"

namespace tessera {
namespace {

int64_t bytes_of(const NormWeights& norm) {
  return static_cast<int64_t>((norm.weight.size() + norm.bias.size()) * sizeof(float));
}

// Over all linear maps.
int64_t sum_of(const Weights& weights, int64_t LinearInfo::*member) {
  int64_t total = 0;
  for_each_map(weights, [&](const Linear& linear) { total += linear.info().*member; });
  return total;
}

}  // namespace

PageShape Weights::largest_page() const {
  PageShape largest;
  for (const LayerWeights& layer : layers) {
    if (layer.attention.pages.page_bytes() > largest.page_bytes()) largest = layer.attention.pages;
  }
  return largest;
}

int64_t Weights::bytes() const {
  int64_t total = sum_of(*this, &LinearInfo::bytes);
  for_each_norm(*this, [&](const NormWeights& norm) { total += bytes_of(norm); });
  for_each_table(*this, [&](const EmbeddingTable& table) {
    if (!table.empty()) total += table.bytes();
  });
  return total;
}

int64_t Weights::flops_per_token() const { return sum_of(*this, &LinearInfo::dense_flops_per_row); }

int64_t Weights::executed_flops_per_token() const {
  return sum_of(*this, &LinearInfo::flops_per_row);
}

}  // namespace tessera
