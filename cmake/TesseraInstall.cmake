# cmake --install: the library, its headers, the program, the files by which CMake and pkg-config find them, licence
# and docs. Everything may be moved together afterwards: no absolute path is written into it.
include(CMakePackageConfigHelpers)

set(config_folder ${CMAKE_INSTALL_LIBDIR}/cmake/tessera)
install(TARGETS tessera EXPORT tessera-targets)
install(DIRECTORY include/tessera DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(EXPORT tessera-targets NAMESPACE tessera:: DESTINATION ${config_folder})
configure_package_config_file(cmake/tessera-config.cmake.in tessera-config.cmake INSTALL_DESTINATION ${config_folder})
# Before 1.0 every minor version may change the interface.
write_basic_package_version_file(tessera-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/tessera-config.cmake ${PROJECT_BINARY_DIR}/tessera-config-version.cmake
        DESTINATION ${config_folder})

set(pkgconfig_folder ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
file(RELATIVE_PATH pkgconfig_to_prefix /prefix/${pkgconfig_folder} /prefix)
if(NOT BUILD_SHARED_LIBS)
  # A static library brings what it needs along; a shared one names it itself.
  set(pkgconfig_requires "fmt, libpcre2-8, libutf8proc")
  set(pkgconfig_links " -ldnnl ${OpenMP_CXX_FLAGS} -pthread")
endif()
configure_file(cmake/tessera.pc.in tessera.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/tessera.pc DESTINATION ${pkgconfig_folder})

if(TARGET tessera_cli)
  file(RELATIVE_PATH bin_to_lib /prefix/${CMAKE_INSTALL_BINDIR} /prefix/${CMAKE_INSTALL_LIBDIR})
  set_target_properties(tessera_cli PROPERTIES INSTALL_RPATH "$ORIGIN/${bin_to_lib}")
  install(TARGETS tessera_cli)
  # Manual pages and completion scripts come from the program's own tables, so the program that was built writes them.
  set(pages ${PROJECT_BINARY_DIR}/pages)
  configure_file(cmake/pages.cmake.in pages.cmake @ONLY)
  if(CMAKE_CROSSCOMPILING)
    message(STATUS "Cross-compiling: manual pages and completion scripts are not installed")
  else()
    install(CODE "set(program \"$<TARGET_FILE:tessera_cli>\")")
    install(SCRIPT ${PROJECT_BINARY_DIR}/pages.cmake)
    install(DIRECTORY ${pages}/man1 DESTINATION ${CMAKE_INSTALL_MANDIR})
    install(FILES ${pages}/tessera DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
    install(FILES ${pages}/_tessera DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
    install(FILES ${pages}/tessera.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
  endif()
endif()
install(FILES LICENSE README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs examples DESTINATION ${CMAKE_INSTALL_DOCDIR})
