// SHA-256 (FIPS 180-4), to name and check what is kept on disk.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace tconv {

using Digest = std::array<std::uint8_t, 32>;

[[nodiscard]] Digest sha256(std::string_view bytes);

// In lower case, 64 characters.
[[nodiscard]] std::string hex(const Digest& digest);

}  // namespace tconv
