#include "cli/bus_error.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <string_view>

namespace tessera::cli {
namespace {

void end_with_sentence(int signal, siginfo_t* info, void*) {
  if (info->si_code != BUS_ADRERR) {  // not for want of a file behind the address
    ::signal(signal, SIG_DFL);
    return;
  }
  // Several threads may read the same file; one speaks, and ends the others with the process.
  static std::atomic_flag spoken;
  while (spoken.test_and_set()) pause();
  constexpr std::string_view kSentence =
      "tessera: a file of the model became shorter while it was read\n";
  (void)!write(STDERR_FILENO, kSentence.data(), kSentence.size());
  _exit(1);
}

}  // namespace

void report_cut_files() {
  struct sigaction action {};
  action.sa_sigaction = end_with_sentence;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace tessera::cli
