# What is installed, and the packages by which others find it: tconv::tconv of CMake, for the install tree and for this
# build tree, and tconv.pc of pkg-config. Users of the library need none of the libraries that it is built from.
include(GNUInstallDirs)

# A wheel is a folder without symbolic links, on machines that may lack what the library is built from: one file under
# the plain name, and those libraries beside it.
if(SKBUILD AND PROJECT_IS_TOP_LEVEL)
  set_target_properties(tconv_shared PROPERTIES INSTALL_RPATH "$ORIGIN")
  install(TARGETS tconv_shared LIBRARY DESTINATION tconv)
  foreach(library fmt::fmt hwy::hwy)
    get_target_property(type ${library} TYPE)
    if(type STREQUAL "SHARED_LIBRARY")
      install(FILES $<TARGET_FILE:${library}> DESTINATION tconv RENAME $<TARGET_SONAME_FILE_NAME:${library}>)
    endif()
  endforeach()
  return()
endif()

# Before 1.0 a minor version may change the interface, so it is part of the name.
set_target_properties(tconv_shared PROPERTIES
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
if(NOT TCONV_INSTALL)
  return()
endif()

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/tconv)
install(TARGETS tconv_shared EXPORT tconv-targets FILE_SET HEADERS)
if(TCONV_BUILD_PROGRAM)
  install(TARGETS tconv)
endif()
install(EXPORT tconv-targets NAMESPACE tconv:: DESTINATION ${package_dir})
export(EXPORT tconv-targets NAMESPACE tconv:: FILE ${PROJECT_BINARY_DIR}/tconv-targets.cmake)

include(CMakePackageConfigHelpers)
configure_package_config_file(cmake/tconv-config.cmake.in ${PROJECT_BINARY_DIR}/tconv-config.cmake
  INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/tconv-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/tconv-config.cmake ${PROJECT_BINARY_DIR}/tconv-config-version.cmake
  DESTINATION ${package_dir})

# Paths from the file's own place, so that the tree can be moved; an absolute folder stays as it was given.
set(pc_dir ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig)
cmake_path(RELATIVE_PATH CMAKE_INSTALL_PREFIX BASE_DIRECTORY ${pc_dir} OUTPUT_VARIABLE pc_prefix)
cmake_path(APPEND pc_includedir "\${prefix}" ${CMAKE_INSTALL_INCLUDEDIR})
cmake_path(APPEND pc_libdir "\${prefix}" ${CMAKE_INSTALL_LIBDIR})
configure_file(cmake/tconv.pc.in ${PROJECT_BINARY_DIR}/tconv.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/tconv.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
