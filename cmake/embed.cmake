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
