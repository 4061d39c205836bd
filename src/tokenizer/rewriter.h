#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/components.h"

namespace tessera::tokenizer {

// Writes, from left to right, the text that takes the place of a segment's, and keeps beside it
// where its bytes come from if the segment knows that. A step writes to `out` as it likes and then
// says which old byte the new ones stand for.
class Rewriter {
 public:
  Rewriter(Segment& segment, Scratch& scratch)
      : out(scratch.text),
        segment_(segment),
        sources_(scratch.sources),
        tracks_(!segment.sources.empty()) {
    out.clear();
    sources_.clear();
  }

  std::string& out;

  // What was written since the last call comes from where the old byte at `at` does.
  void from(size_t at) {
    if (tracks_) sources_.resize(out.size(), segment_.sources[at]);
  }
  // It comes from the place before the old byte at `at`.
  void from_before(size_t at) {
    if (!tracks_) return;
    const uint32_t begin = segment_.sources[at].begin;
    sources_.resize(out.size(), {begin, begin});
  }
  // It comes from all of the old bytes [begin, end).
  void from(size_t begin, size_t end) {
    if (tracks_) sources_.resize(out.size(), joined(segment_.sources, begin, end));
  }
  // Writes old bytes as they are.
  void keep(size_t begin, size_t end) {
    out.append(segment_.text, begin, end - begin);
    if (!tracks_) return;
    const auto old = segment_.sources.begin();
    sources_.insert(sources_.end(), old + static_cast<std::ptrdiff_t>(begin),
                    old + static_cast<std::ptrdiff_t>(end));
  }
  // Takes back what was written from the byte at `size` on.
  void cut(size_t size) {
    out.resize(size);
    if (tracks_) sources_.resize(size);
  }
  // The segment has the new text from here on.
  void finish() {
    segment_.text.swap(out);
    if (tracks_) segment_.sources.swap(sources_);
  }

 private:
  Segment& segment_;
  std::vector<Span>& sources_;
  bool tracks_;
};

}  // namespace tessera::tokenizer
