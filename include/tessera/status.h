#pragma once

#include <optional>
#include <string>
#include <utility>

#include "tessera/export.h"
#include "tessera/names.h"

// How functions of the library fail: they return a Status, or a Result<T> that holds either a value
// or the Status that says why there is none. None of them throws, prints or ends the process, but
// for the use of a value that is not there.
//   tessera::Result<std::shared_ptr<tessera::Model>> model = tessera::Model::load(directory);
//   if (!model.ok()) return report(model.status().message());
//   use(**model);
namespace tessera {

enum class StatusCode {
  kOk,
  kInvalidInput,  // a file, prompt, request or option is wrong
  kNotFound,      // a file or a part of the model that was asked for is not there
  kUnsupported,   // well-formed, but Tessera cannot do it
  kOutOfMemory,
  kIo,         // the system could not read or write
  kCancelled,  // a callback of the caller's wanted no more
};
constexpr auto names_of(StatusCode) {
  return enum_names("ok", "invalid_input", "not_found", "unsupported", "out_of_memory", "io",
                    "cancelled");
}

// The outcome of an operation: ok, or a code with one sentence that names what was expected and
// what was found.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

// For the library itself, and for callers that like to fail in the same way.
inline Status invalid_input(std::string message) {
  return {StatusCode::kInvalidInput, std::move(message)};
}
inline Status not_found(std::string message) { return {StatusCode::kNotFound, std::move(message)}; }
inline Status unsupported(std::string message) {
  return {StatusCode::kUnsupported, std::move(message)};
}
inline Status out_of_memory(std::string message) {
  return {StatusCode::kOutOfMemory, std::move(message)};
}
inline Status io_error(std::string message) { return {StatusCode::kIo, std::move(message)}; }

// Says on standard error that a value was used that is not there, and why, and aborts.
[[noreturn]] TESSERA_API void abort_without_value(const Status& status);

// A value, or the Status that says why there is none (and is not ok). Ask ok() before value(), *
// and
// ->: where there is no value they end the process with the message of the Status.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}          // NOLINT: implicit on purpose
  Result(Status status) : status_(std::move(status)) {}  // NOLINT: implicit on purpose

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  T& value() & { return check(), *value_; }
  const T& value() const& { return check(), *value_; }
  T&& value() && { return check(), *std::move(value_); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }

 private:
  void check() const {
    if (!value_.has_value()) [[unlikely]]
      abort_without_value(status_);
  }

  std::optional<T> value_;
  Status status_;
};

}  // namespace tessera
