#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "tessera/tokenizer.h"

namespace tessera {

// Turns ids that arrive one by one into text, never half a character: next() returns what became
// certain, finish() the rest.
class StreamDecoder {
 public:
  StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, DecodeSpecial special);
  // Tokens that come before the streamed ones and shape their text (leading spaces); they are not
  // emitted.
  void prime(const std::vector<int32_t>& ids);
  Result<std::string> next(int32_t id);
  Result<std::string> finish();

 private:
  void shorten_window();
  bool ends_run(int32_t id) const;

  std::shared_ptr<const Tokenizer> tokenizer_;
  DecodeSpecial special_;
  std::vector<int32_t> ids_;  // the window: the tokens that still shape what comes
  size_t emitted_bytes_ = 0;  // of the window's text
  bool in_byte_run_ = false;
};

}  // namespace tessera
