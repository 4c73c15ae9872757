# The reader takes hostile files: library assertions and the compiler's own defences in every build.
add_library(tconv_hardening INTERFACE)
target_compile_definitions(tconv_hardening INTERFACE _GLIBCXX_ASSERTIONS)
target_compile_options(tconv_hardening INTERFACE -fstack-protector-strong)
target_link_options(tconv_hardening INTERFACE -Wl,-z,relro,-z,now)
