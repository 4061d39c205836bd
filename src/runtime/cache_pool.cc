#include "runtime/cache_pool.h"

#include <fmt/format.h>

#include <algorithm>

namespace tessera {
namespace {

// Pages come in slabs large enough for huge pages, which decoding needs to stream keys and values
// at the memory's speed.
constexpr int64_t kSlabBytes = int64_t{4} << 20;

}  // namespace

CachePool::CachePool(PageShape shape, int64_t limit_bytes, Device& device)
    : page_bytes_(shape.page_bytes()), limit_bytes_(limit_bytes), device_(&device) {}

Status CachePool::add_slab() {
  const int64_t pages = std::max<int64_t>(kSlabBytes / page_bytes_, 1);
  Buffer slab = device_->allocate(static_cast<size_t>(pages * page_bytes_));
  if (slab.empty()) {
    return out_of_memory(fmt::format("cannot get {} bytes for cache pages", pages * page_bytes_));
  }
  for (int64_t i = pages - 1; i >= 0; --i) free_.push_back(slab.as<std::byte>() + i * page_bytes_);
  slabs_.push_back(std::move(slab));
  return {};
}

Result<std::byte*> CachePool::take_page() {
  if (bytes_in_use() + page_bytes_ > limit_bytes_) {
    return out_of_memory(
        fmt::format("the cache of keys and values is full: {} of {} bytes are in use",
                    bytes_in_use(), limit_bytes_));
  }
  if (free_.empty()) TESSERA_RETURN_IF_ERROR(add_slab());
  std::byte* page = free_.back();
  free_.pop_back();
  tables_of_[page] = 1;
  ++pages_in_use_;
  return page;
}

void CachePool::drop_page(std::byte* page) {
  if (--tables_of_[page] > 0) return;
  free_.push_back(page);
  --pages_in_use_;
}

Status CachePool::copy_if_shared(std::byte*& page) {
  if (tables_of_[page] == 1) return {};
  TESSERA_ASSIGN_OR_RETURN(std::byte * copy, take_page());
  device_->copy_from_host(copy, page, static_cast<size_t>(page_bytes_));
  drop_page(page);
  page = copy;
  return {};
}

Status CachePool::add_pages(PageTable& table, int32_t tokens) {
  const size_t wanted = static_cast<size_t>(pages_for(tokens));
  while (table.pages.size() < wanted) {
    TESSERA_ASSIGN_OR_RETURN(std::byte * page, take_page());
    table.pages.push_back(page);
  }
  table.positions.reserve(wanted * kPageTokens);
  return {};
}

Status CachePool::reserve(PageTable& table, int32_t tokens) {
  const bool writes_last = table.tokens() % kPageTokens != 0 && tokens > 0;
  if (writes_last) {
    TESSERA_RETURN_IF_ERROR(
        copy_if_shared(table.pages[static_cast<size_t>(table.tokens() / kPageTokens)]));
  }
  return add_pages(table, table.tokens() + tokens);
}

Status CachePool::own(PageTable& table, int32_t tokens) {
  for (std::byte*& page : table.pages) TESSERA_RETURN_IF_ERROR(copy_if_shared(page));
  return add_pages(table, tokens);
}

void CachePool::trim(PageTable& table) {
  const size_t wanted = static_cast<size_t>(pages_for(table.tokens()));
  for (; table.pages.size() > wanted; table.pages.pop_back()) drop_page(table.pages.back());
}

PageTable CachePool::share(const PageTable& table) {
  for (std::byte* page : table.pages) ++tables_of_[page];
  return table;
}

void CachePool::release(PageTable& table) {
  for (std::byte* page : table.pages) drop_page(page);
  table = {};
}

void CachePool::drop_before(PageTable& table, int64_t position) {
  const auto is_dead = [&](int32_t page) {
    const int32_t end = (page + 1) * kPageTokens;
    return end <= table.tokens() && table.positions[static_cast<size_t>(end - 1)] < position;
  };
  int32_t count = 0;
  while (is_dead(count)) drop_page(table.pages[static_cast<size_t>(count++)]);
  if (count == 0) return;
  table.pages.erase(table.pages.begin(), table.pages.begin() + count);
  table.positions.erase(table.positions.begin(), table.positions.begin() + count * kPageTokens);
  table.dropped += count * kPageTokens;
}

}  // namespace tessera
