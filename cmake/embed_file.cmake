# Turns one text file into a header; see embed.cmake. Bytes are written as numbers, so no character of
# the file can end the literal.
file(READ ${INPUT} bytes HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
string(REGEX REPLACE "((0x..,){24})" "\\1\n" bytes "${bytes}")
file(WRITE ${OUTPUT}
"// Generated from ${SYMBOL}; do not edit.
#pragma once
#include <string_view>
namespace tconv::embedded {
inline constexpr char ${SYMBOL}_bytes[] = {${bytes} 0};
inline constexpr std::string_view ${SYMBOL}{${SYMBOL}_bytes, sizeof(${SYMBOL}_bytes) - 1};
}  // namespace tconv::embedded
")
