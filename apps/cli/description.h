#pragma once

#include <string>
#include <vector>

namespace tessera::cli {

// The command line of a verb as data: help, completion and man pages are made of it.
struct OptionDescription {
  std::string short_name;            // "-n", or empty
  std::string long_name;             // "--max-tokens"
  std::string placeholder;           // "N"; empty: a flag
  std::string help;                  // whole sentences
  std::string group;                 // "Generation"
  std::vector<std::string> choices;  // every value that is taken, where they can be listed
};

struct VerbDescription {
  std::string verb;
  std::string usage;                   // what follows the options, as "MODEL [TEXT ...]"
  std::string summary;                 // whole sentences
  std::string examples;                // lines
  std::vector<std::string> arguments;  // names of the arguments that must be given, as "MODEL"
  std::vector<OptionDescription> options;
};

// The environment variable that stands for an option: "TESSERA_RUN_MAX_TOKENS".
std::string variable_of(const std::string& verb, const OptionDescription& option);

}  // namespace tessera::cli
