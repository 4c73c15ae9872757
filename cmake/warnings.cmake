# Warnings for our own targets only; errors in CI (TCONV_WARNINGS_AS_ERRORS).
add_library(tconv_warnings INTERFACE)
target_compile_options(tconv_warnings INTERFACE
  -Wall -Wextra -Wshadow -Wconversion -Wsign-conversion -Wold-style-cast -Woverloaded-virtual
  -Wnon-virtual-dtor -Wcast-qual -Wformat=2 -Wimplicit-fallthrough)
if(TCONV_WARNINGS_AS_ERRORS)
  target_compile_options(tconv_warnings INTERFACE -Werror)
endif()
