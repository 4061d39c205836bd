#pragma once

namespace tessera::cli {

// Checkpoints are mapped, so one that is cut while it is read raises SIGBUS where it is missing.
// From here on that ends the program with a sentence and exit status 1.
void report_cut_files();

}  // namespace tessera::cli
