#pragma once

namespace tessera::cli {

// The commit that was built, or "" where the source tree was no repository. commit.cmake writes the
// file that defines it.
extern const char* const kCommit;
// Its date, else that of the build: "2026-11-30".
extern const char* const kDate;

}  // namespace tessera::cli
