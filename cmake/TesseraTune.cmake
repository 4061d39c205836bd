# Training on libtorch: libtessera_tune, which libtessera opens when it is asked to train. Debian's libtorch-dev is found by
# itself, PyPI's torch by -D CMAKE_PREFIX_PATH=.../site-packages/torch. Without either, training says what it needs.
option(TESSERA_TUNE "Build training where libtorch is" ON)
find_path(TORCH_INCLUDE ATen/ATen.h)
find_path(TORCH_API_INCLUDE torch/types.h PATH_SUFFIXES torch/csrc/api/include)
find_library(TORCH_CPU_LIBRARY torch_cpu)
find_library(TORCH_C10_LIBRARY c10)
if(NOT TESSERA_TUNE OR NOT TORCH_INCLUDE OR NOT TORCH_API_INCLUDE OR NOT TORCH_CPU_LIBRARY OR NOT TORCH_C10_LIBRARY)
  message(STATUS "Training is not built: libtorch was not found, or TESSERA_TUNE is off")
  if(TESSERA_TESTS)
    add_test(NAME tune_torch_test COMMAND ${CMAKE_COMMAND} -E echo "skipped: training is not built")
    set_tests_properties(tune_torch_test PROPERTIES SKIP_REGULAR_EXPRESSION "skipped:")
  endif()
  return()
endif()

add_library(tessera_torch INTERFACE)
target_include_directories(tessera_torch SYSTEM INTERFACE ${TORCH_API_INCLUDE} ${TORCH_INCLUDE})
target_link_libraries(tessera_torch INTERFACE ${TORCH_CPU_LIBRARY} ${TORCH_C10_LIBRARY})

file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/tune/torch/*.cc)
set(tests ${sources})
set(benches ${sources})
list(FILTER sources EXCLUDE REGEX "_(test|bench)\\.cc$|/plugin\\.cc$")
list(FILTER tests INCLUDE REGEX "_test\\.cc$")
list(FILTER benches INCLUDE REGEX "_bench\\.cc$")

add_library(tessera_training STATIC ${sources})
target_link_libraries(tessera_training PUBLIC tessera_internal tessera_torch
                      PRIVATE fmt::fmt nlohmann_json::nlohmann_json DNNL::dnnl OpenMP::OpenMP_CXX)
tessera_compile_for(tessera_training library)

add_library(tessera_tune_library MODULE ${PROJECT_SOURCE_DIR}/src/tune/torch/plugin.cc)
set_target_properties(tessera_tune_library PROPERTIES PREFIX "" OUTPUT_NAME libtessera_tune)
target_link_libraries(tessera_tune_library PRIVATE tessera_training)
# Its own copy of what it shares with libtessera stays its own.
target_link_options(tessera_tune_library PRIVATE -Wl,--version-script=${PROJECT_SOURCE_DIR}/cmake/tune_exports.map)
set_target_properties(tessera_tune_library PROPERTIES LINK_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/tune_exports.map)
add_dependencies(tessera_cli tessera_tune_library)
install(TARGETS tessera_tune_library LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})

if(TESSERA_TESTS AND tests)
  add_executable(tune_torch_test ${tests})
  target_link_libraries(tune_torch_test PRIVATE tessera_training fmt::fmt GTest::gtest_main)
  tessera_compile_for(tune_torch_test test)
  gtest_discover_tests(tune_torch_test TEST_PREFIX "tune_torch_test." DISCOVERY_TIMEOUT 60 NO_PRETTY_VALUES
                       PROPERTIES TIMEOUT 600)
  add_dependencies(all_tests tune_torch_test)
endif()
if(TESSERA_BENCHMARKS AND benches)
  add_executable(tune_torch_bench ${benches})
  target_link_libraries(tune_torch_bench PRIVATE tessera_training)
endif()
