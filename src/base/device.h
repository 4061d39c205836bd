#pragma once

#include <cstddef>
#include <utility>

namespace tessera {

class Buffer;

// Owns memory, copies and events of one place of execution. Host memory is the only one built so
// far; a CUDA device is a further implementation of this interface.
class Device {
 public:
  virtual ~Device() = default;
  // Uninitialised memory aligned to 64 bytes; an empty buffer when there is not enough.
  virtual Buffer allocate(size_t size_bytes) = 0;
  virtual void copy_to_host(void* target, const void* source, size_t size_bytes) = 0;
  virtual void copy_from_host(void* target, const void* source, size_t size_bytes) = 0;
  // Returns when everything issued so far is done.
  virtual void synchronize() = 0;

 private:
  friend class Buffer;
  virtual void release(void* data, size_t size_bytes) = 0;
};

Device& host_device();

// Host memory for what stays as long as a model does: blocks lie one behind the other in mappings
// of huge pages, so that no part of a weight is on small ones. A mapping is given back when all its
// blocks are.
Device& weights_device();

// Memory on a device, released when the buffer goes.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Device* device, void* data, size_t size_bytes)
      : device_(device), data_(data), size_bytes_(size_bytes) {}
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) device_->release(data_, size_bytes_);
  }

  bool empty() const { return data_ == nullptr; }
  size_t size_bytes() const { return size_bytes_; }
  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void swap(Buffer& other) {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(size_bytes_, other.size_bytes_);
  }

  Device* device_ = nullptr;
  void* data_ = nullptr;
  size_t size_bytes_ = 0;
};

}  // namespace tessera
