// Files: read whole with a cap, written all or nothing.
#pragma once

#include <cstddef>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace tconv {

// The bytes of a regular file. Throws Error(usage) when it is absent, is no regular file, cannot be
// read, or holds more than `max_bytes`; a larger file is not read.
[[nodiscard]] std::string read_file(const std::filesystem::path& path, std::size_t max_bytes);

struct NamedText {
  std::string name;  // a plain file name, from this program's own tables
  std::string_view text;
};

// Throws Error(usage) when `folder` cannot become or is not a folder. Creates nothing.
void require_folder(const std::filesystem::path& folder);

// Writes every file into `folder`, which is created when absent, or leaves it as it was: the files are
// written and synced under a temporary name first and then renamed. Throws Error(usage) when the folder
// cannot be written.
void write_files(const std::filesystem::path& folder, const std::vector<NamedText>& files);

// Throws Error(usage) when `path` cannot become a file: its folder is absent or may not be written to, or it is a
// folder, a device or a file that may not be written to. Creates nothing.
void require_writable(const std::filesystem::path& path);

// Writes the parts one behind the other to `path`, in place of the file that may be there, or leaves everything as it
// was: they are written and synced under a temporary name beside it, which is then renamed. Throws as above.
void write_file(const std::filesystem::path& path, std::initializer_list<std::string_view> parts);

}  // namespace tconv
