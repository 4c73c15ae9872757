# Warnings for our own targets only; errors in CI (TCONV_WARNINGS_AS_ERRORS). GCC 12 takes a std::optional that was
# checked for one that may be uninitialized; the sanitizers and clang's analyzer look for those that are.
add_library(tconv_warnings INTERFACE)
target_compile_options(tconv_warnings INTERFACE
  -Wall -Wextra -Wshadow -Wconversion -Wsign-conversion -Wold-style-cast -Woverloaded-virtual
  -Wnon-virtual-dtor -Wcast-qual -Wformat=2 -Wimplicit-fallthrough
  $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
if(TCONV_WARNINGS_AS_ERRORS)
  target_compile_options(tconv_warnings INTERFACE -Werror)
endif()
