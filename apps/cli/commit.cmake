# Writes the source file with the commit of the source tree, only where that changes it:
#   cmake -D SOURCE=folder -D FILE=file -P commit.cmake
# A tree that is no repository of its own, as an unpacked archive, has none; then the date is the day of the build.
cmake_minimum_required(VERSION 3.25)
execute_process(COMMAND git rev-parse --show-toplevel WORKING_DIRECTORY ${SOURCE} OUTPUT_VARIABLE top
                OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
set(commit "")
string(TIMESTAMP date "%Y-%m-%d" UTC)
file(REAL_PATH "${SOURCE}" source)
if(top STREQUAL source)
  execute_process(COMMAND git rev-parse --short=12 HEAD WORKING_DIRECTORY ${SOURCE} OUTPUT_VARIABLE commit
                  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  execute_process(COMMAND git show -s --format=%cs HEAD WORKING_DIRECTORY ${SOURCE} OUTPUT_VARIABLE date
                  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
file(CONFIGURE OUTPUT ${FILE} @ONLY CONTENT "#include \"cli/commit.h\"

namespace tessera::cli {
const char* const kCommit = \"@commit@\";
const char* const kDate = \"@date@\";
}
")
