#include "util/files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "util/error.hpp"
#include "util/text.hpp"

namespace tconv {
namespace fs = std::filesystem;
namespace {

std::string where(const fs::path& path) { return printable(path.string(), 200); }

class Descriptor {
 public:
  explicit Descriptor(int value) noexcept : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  [[nodiscard]] int get() const noexcept { return value_; }
  [[nodiscard]] bool close() noexcept { return ::close(std::exchange(value_, -1)) == 0; }

 private:
  int value_;
};

[[noreturn]] void refuse_write(const fs::path& path, int error) {
  throw Error(Exit::usage, where(path), fmt::format("cannot be written: {}", std::strerror(error)),
              "the output must be a place that can be written");
}

void write_synced(const fs::path& path, std::initializer_list<std::string_view> parts) {
  Descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (file.get() < 0) refuse_write(path, errno);
  for (std::string_view text : parts) {
    while (!text.empty()) {
      const ::ssize_t written = ::write(file.get(), text.data(), text.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) refuse_write(path, errno);
      text.remove_prefix(static_cast<std::size_t>(written));
    }
  }
  if (::fsync(file.get()) != 0 || !file.close()) refuse_write(path, errno);
}

// A folder of our own that is gone at the end of the scope, unless it was kept.
class Staging {
 public:
  explicit Staging(const fs::path& parent) {
    std::string pattern = (parent / ".tconv-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) refuse_write(parent, errno);
    path_ = pattern;
  }
  ~Staging() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  [[nodiscard]] const fs::path& path() const noexcept { return path_; }

 private:
  fs::path path_;
};

// Puts staged files in place of those in `folder`; takes every step back when one fails.
class Replacement {
 public:
  Replacement(const fs::path& staged, const fs::path& folder) : staged_(staged), folder_(folder) {}
  ~Replacement() {
    std::error_code ignored;
    for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) fs::rename(step->second, step->first, ignored);
  }
  Replacement(const Replacement&) = delete;
  Replacement& operator=(const Replacement&) = delete;

  void replace(const std::string& name) {
    const fs::path target = folder_ / name;
    const fs::file_status status = fs::symlink_status(target);
    if (fs::is_directory(status)) refuse_write(target, EISDIR);
    if (fs::exists(status)) move(target, staged_ / ("old-" + name));
    move(staged_ / name, target);
  }
  void commit() noexcept { steps_.clear(); }

 private:
  void move(const fs::path& from, const fs::path& to) {
    std::error_code error;
    fs::rename(from, to, error);
    if (error) refuse_write(to, error.value());
    steps_.emplace_back(from, to);
  }

  fs::path staged_;
  fs::path folder_;
  std::vector<std::pair<fs::path, fs::path>> steps_;
};

fs::path normal_folder(const fs::path& folder) {
  if (folder.empty()) throw Error(Exit::usage, "--out", "it has no name", "--out must name a file or a folder");
  fs::path result = fs::absolute(folder).lexically_normal();
  return result.has_filename() ? result : result.parent_path();
}

}  // namespace

std::string read_file(const fs::path& path, std::size_t max_bytes) {
  const auto refuse = [&](std::string what, std::string rule) -> Error {
    return {Exit::usage, where(path), std::move(what), std::move(rule)};
  };
  // O_NONBLOCK: opening a named pipe must not wait for its writer.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0)
    throw refuse(fmt::format("cannot be opened: {}", std::strerror(errno)), "the file must exist and be readable");
  struct ::stat status {};
  if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode))
    throw refuse("is not a regular file", "folders, pipes and devices are not read");
  const auto too_large = [&](auto size) {
    return refuse(fmt::format("holds {} bytes", size), fmt::format("at most {} bytes are read", max_bytes));
  };
  if (static_cast<std::uintmax_t>(status.st_size) > max_bytes) throw too_large(status.st_size);

  std::string text(static_cast<std::size_t>(status.st_size), '\0');
  std::size_t filled = 0;
  while (filled < text.size()) {
    const ::ssize_t count = ::read(file.get(), text.data() + filled, text.size() - filled);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw refuse(fmt::format("cannot be read: {}", std::strerror(errno)), "the file must be readable");
    if (count == 0) break;
    filled += static_cast<std::size_t>(count);
  }
  text.resize(filled);
  return text;
}

void require_folder(const fs::path& folder) {
  // The nearest ancestor that exists decides: a file there means that the folder can never be made.
  for (fs::path path = normal_folder(folder);; path = path.parent_path()) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (fs::is_directory(status)) {
      if (::access(path.c_str(), W_OK | X_OK) != 0) refuse_write(path, errno);
      return;
    }
    if (fs::exists(status)) refuse_write(path, ENOTDIR);
    if (error && error != std::errc::no_such_file_or_directory && error != std::errc::not_a_directory)
      refuse_write(path, error.value());
    if (path == path.parent_path()) refuse_write(path, ENOENT);
  }
}

void write_files(const fs::path& folder, const std::vector<NamedText>& files) {
  require_folder(folder);
  const fs::path target = normal_folder(folder);
  const bool present = fs::is_directory(target);
  std::error_code error;
  if (!present) fs::create_directories(target.parent_path(), error);
  if (error) refuse_write(target.parent_path(), error.value());

  // Inside an existing folder, since that one may be a file system of its own; beside a new one, which
  // then appears complete in one rename.
  const Staging staging(present ? target : target.parent_path());
  for (const NamedText& file : files) write_synced(staging.path() / file.name, {file.text});
  if (!present) {
    fs::permissions(staging.path(), fs::perms::owner_all | fs::perms::group_read | fs::perms::group_exec |
                                        fs::perms::others_read | fs::perms::others_exec);
    fs::rename(staging.path(), target, error);
    if (error) refuse_write(target, error.value());
    return;
  }
  Replacement replacement(staging.path(), target);
  for (const NamedText& file : files) replacement.replace(file.name);
  replacement.commit();
}

void require_writable(const fs::path& path) {
  const fs::path folder = normal_folder(path).parent_path();
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) refuse_write(folder, fs::exists(folder, ignored) ? ENOTDIR : ENOENT);
  if (::access(folder.c_str(), W_OK | X_OK) != 0) refuse_write(folder, errno);
  struct ::stat status {};
  if (::stat(path.c_str(), &status) != 0) return;
  if (S_ISDIR(status.st_mode)) refuse_write(path, EISDIR);
  // A rename would put a plain file in place of a device, such as /dev/null.
  if (!S_ISREG(status.st_mode)) refuse_write(path, EINVAL);
  if (::access(path.c_str(), W_OK) != 0) refuse_write(path, errno);
}

void write_file(const fs::path& path, std::initializer_list<std::string_view> parts) {
  require_writable(path);
  const Staging staging(normal_folder(path).parent_path());
  write_synced(staging.path() / "new", parts);
  std::error_code error;
  fs::rename(staging.path() / "new", path, error);
  if (error) refuse_write(path, error.value());
}

}  // namespace tconv
