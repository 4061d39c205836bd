#pragma once

namespace tessera::cli {

// The commit that was built, or "" where the source tree was no repository. commit.cmake writes the
// file that defines it.
extern const char* const kCommit;

}  // namespace tessera::cli
