# What is spared in compiling: headers that many files parse are precompiled once for each kind of target (the folders of the
# library, tests, the program), and tests and the program, which spend their time in the library, are not compiled with -O3.
#
# A file includes what it uses nevertheless: the presets ci, coverage and fuzz compile without, and find what is missing.
# Kernels have none, since a file of one instruction set must not see inline functions that others compile too.
option(TESSERA_PRECOMPILE "Precompile headers that many files share" ON)

set(tessera_headers_library <fmt/format.h> <algorithm> <functional> <memory> <optional> <string> <vector>)
set(tessera_headers_test <gtest/gtest.h> <algorithm> <cmath> <filesystem> <fstream> <random>)
set(tessera_headers_program <fmt/format.h> <nlohmann/json.hpp> <algorithm> <functional> <map>)
set(tessera_definitions_library fmt::fmt)
set(tessera_definitions_test GTest::gtest)
set(tessera_definitions_program fmt::fmt)

function(tessera_compile_for target kind)
  if(NOT kind STREQUAL "library")
    target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1>)
  endif()
endfunction()

# Targets of a kind share one file, and with it flags and definitions.
function(tessera_precompile target kind)
  tessera_compile_for(${target} ${kind})
  if(NOT TESSERA_PRECOMPILE)
    return()
  endif()
  set(owner headers_for_${kind})
  if(NOT TARGET ${owner})
    if(kind STREQUAL "library")
      add_library(${owner} OBJECT ${PROJECT_SOURCE_DIR}/cmake/headers.cc)
    else()
      add_executable(${owner} EXCLUDE_FROM_ALL ${PROJECT_SOURCE_DIR}/cmake/headers.cc)
    endif()
    target_link_libraries(${owner} PRIVATE tessera_warnings ${tessera_definitions_${kind}})
    tessera_compile_for(${owner} ${kind})
    target_precompile_headers(${owner} PRIVATE ${tessera_headers_${kind}})
  endif()
  # GCC 12 finds copies of impossible sizes in its own std::string (GCC bug 105329), and once that is precompiled it says
  # so. The preset ci has these warnings, as errors.
  target_compile_options(${target} PRIVATE -Wno-stringop-overflow -Wno-stringop-overread -Wno-array-bounds)
  target_precompile_headers(${target} REUSE_FROM ${owner})
endfunction()
