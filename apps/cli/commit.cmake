# Writes the source file with the commit of the source tree, only where that changes it:
#   cmake -D SOURCE=folder -D FILE=file -P commit.cmake
# A tree that is no repository of its own, as an unpacked archive, has none.
execute_process(COMMAND git rev-parse --show-toplevel WORKING_DIRECTORY ${SOURCE} OUTPUT_VARIABLE top
                OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
set(commit "")
file(REAL_PATH "${SOURCE}" source)
if(top STREQUAL source)
  execute_process(COMMAND git rev-parse --short=12 HEAD WORKING_DIRECTORY ${SOURCE} OUTPUT_VARIABLE commit
                  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
file(CONFIGURE OUTPUT ${FILE} @ONLY CONTENT "#include \"cli/commit.h\"

namespace tessera::cli {
const char* const kCommit = \"@commit@\";
}
")
