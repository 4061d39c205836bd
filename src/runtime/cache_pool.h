#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "base/device.h"
#include "base/status.h"
#include "formats/cache_pages.h"

namespace tessera {

// Pages of keys and values for every sequence and layer, within a limit of bytes. A page may be
// shared by several tables until one of them writes to it. Not thread-safe.
class CachePool {
 public:
  CachePool(PageShape shape, int64_t limit_bytes, Device& device = host_device());

  // Makes room in the table for `tokens` more, and makes a shared last page the table's own.
  Status reserve(PageTable& table, int32_t tokens);
  // Makes room for `tokens` in all, and every page of the table its own.
  Status own(PageTable& table, int32_t tokens);
  // Gives the pages behind the last token back.
  void trim(PageTable& table);
  // A table with the same content; whole pages are shared until written.
  PageTable share(const PageTable& table);
  // Gives the table's pages back and empties it.
  void release(PageTable& table);
  // Gives back the first pages whose keys all stand before this position: outside of the window of
  // every query to come.
  void drop_before(PageTable& table, int64_t position);
  // How many tables hold the page.
  int32_t tables_of(std::byte* page) const { return tables_of_.at(page); }

  int64_t page_bytes() const { return page_bytes_; }
  int64_t bytes_in_use() const { return pages_in_use_ * page_bytes_; }
  int64_t limit_bytes() const { return limit_bytes_; }
  int64_t free_pages() const { return limit_bytes_ / page_bytes_ - pages_in_use_; }

 private:
  Status add_slab();
  Result<std::byte*> take_page();
  void drop_page(std::byte* page);
  Status copy_if_shared(std::byte*& page);
  Status add_pages(PageTable& table, int32_t tokens);

  int64_t page_bytes_;
  int64_t limit_bytes_;
  Device* device_;
  int64_t pages_in_use_ = 0;
  std::vector<Buffer> slabs_;
  std::map<std::byte*, int32_t> tables_of_;  // how many tables hold a page
  std::vector<std::byte*> free_;
};

}  // namespace tessera
