# tconv_embed(target /path/to/name.py): makes "embedded/name_py.hpp" with the file's text as
# tconv::embedded::name_py, so that the binary needs no files beside it.
function(tconv_embed target path)
  get_filename_component(stem ${path} NAME)
  string(REPLACE "." "_" symbol ${stem})
  set(header ${PROJECT_BINARY_DIR}/generated/embedded/${symbol}.hpp)
  add_custom_command(
    OUTPUT ${header}
    COMMAND ${CMAKE_COMMAND} -DINPUT=${path} -DOUTPUT=${header} -DSYMBOL=${symbol}
            -P ${PROJECT_SOURCE_DIR}/cmake/embed_file.cmake
    DEPENDS ${path} ${PROJECT_SOURCE_DIR}/cmake/embed_file.cmake
    VERBATIM)
  target_sources(${target} PRIVATE ${header})
endfunction()

# tconv_embed_kernels(target folder): every file of the folder as tconv_embed does, and "embedded/kernels.hpp" with the
# table of them, tconv::embedded::kernels of {name, text}.
function(tconv_embed_kernels target folder)
  file(GLOB files CONFIGURE_DEPENDS ${folder}/*.h ${folder}/*.cuh)
  set(includes "")
  set(rows "")
  foreach(file ${files})
    tconv_embed(${target} ${file})
    get_filename_component(stem ${file} NAME)
    string(REPLACE "." "_" symbol ${stem})
    string(APPEND includes "#include \"embedded/${symbol}.hpp\"\n")
    string(APPEND rows "    {\"${stem}\", ${symbol}},\n")
  endforeach()
  file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/generated/embedded/kernels.hpp @ONLY CONTENT
"// Generated; do not edit.
#pragma once
#include <string_view>
@includes@namespace tconv::embedded {
struct Kernel {
  std::string_view name;
  std::string_view text;
};
inline constexpr Kernel kernels[] = {
@rows@};
}  // namespace tconv::embedded
")
endfunction()
