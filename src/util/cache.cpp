#include "util/cache.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <mutex>
#include <system_error>
#include <thread>

#include "util/sha256.hpp"

namespace tconv {
namespace {

constexpr std::string_view kMagic = "tconv\r\n\x1a";  // a transfer as text would change it
constexpr std::uint64_t kSchema = 1;
constexpr std::size_t kMaxEntry = std::size_t{256} << 20;
constexpr std::time_t kStaleSeconds = 3600;  // a temporary file this old was left by a process that died
constexpr std::string_view kTemporary = ".tmp-";

void warn(const std::string& why) {
  static std::once_flag once;
  std::call_once(once, [&] { std::fputs(fmt::format("tconv: nothing is cached: {}\n", why).c_str(), stderr); });
}

std::string reason(int error) { return std::generic_category().message(error); }

std::string number(std::uint64_t value) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xff);
  return bytes;
}

// All of an entry but the payload; an entry is right when it begins with these bytes and goes on with the payload.
std::string header(std::string_view key, std::string_view payload) {
  std::string text(kMagic);
  text += number(kSchema) + number(key.size());
  text += key;
  text += number(payload.size());
  const Digest digest = sha256(payload);
  for (const std::uint8_t byte : digest) text += static_cast<char>(byte);
  return text;
}

std::optional<std::string> payload_of(std::string_view entry, std::string_view key) {
  const std::size_t size = header(key, "").size();
  if (entry.size() < size) return std::nullopt;
  const std::string_view payload = entry.substr(size);
  if (entry.substr(0, size) != header(key, payload)) return std::nullopt;
  return std::string(payload);
}

// Ours alone: no other user could have put or changed what is there.
bool own(const struct stat& status) {
  return status.st_uid == geteuid() && (status.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

// The folder of a name's first two characters; made when `make` says so.
File open_shelf(const File& root, const std::string& name, bool make) {
  const std::string shelf = name.substr(0, 2);
  if (make) (void)mkdirat(root.get(), shelf.c_str(), 0700);
  File folder(openat(root.get(), shelf.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat status {};
  if (folder.open() && (fstat(folder.get(), &status) != 0 || !own(status))) return File();
  return folder;
}

bool write_all(int descriptor, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(descriptor, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

bool read_all(int descriptor, std::size_t size, std::string& bytes) {
  bytes.resize(size);
  std::size_t done = 0;
  while (done < size) {
    const ssize_t got = read(descriptor, bytes.data() + done, size - done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    done += static_cast<std::size_t>(got);
  }
  return true;
}

bool same(const struct stat& a, const struct stat& b) {
  return a.st_ino == b.st_ino && a.st_dev == b.st_dev && a.st_size == b.st_size &&
         a.st_mtim.tv_sec == b.st_mtim.tv_sec && a.st_mtim.tv_nsec == b.st_mtim.tv_nsec;
}

// Removes what was found bad, unless another process has put a new entry in its place since.
void discard(const File& shelf, const std::string& name, const struct stat& bad) {
  struct stat now {};
  if (fstatat(shelf.get(), name.c_str(), &now, AT_SYMLINK_NOFOLLOW) == 0 && same(now, bad)) {
    (void)unlinkat(shelf.get(), name.c_str(), 0);
  }
}

void sweep(const File& shelf) {
  const int copy = openat(shelf.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (copy < 0) return;
  DIR* const folder = fdopendir(copy);
  if (folder == nullptr) {
    close(copy);
    return;
  }
  const std::time_t now = std::time(nullptr);
  // The stream is this function's own, so readdir shares nothing between threads.
  while (const dirent* entry = readdir(folder)) {  // NOLINT(concurrency-mt-unsafe)
    const std::string name = entry->d_name;
    struct stat status {};
    if (name.starts_with(kTemporary) && fstatat(shelf.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
        now - status.st_mtim.tv_sec > kStaleSeconds) {
      (void)unlinkat(shelf.get(), name.c_str(), 0);
    }
  }
  closedir(folder);
}

std::string random_name() {
  std::array<unsigned char, 16> bytes{};
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) return "";
  std::string name(kTemporary);
  for (const unsigned char byte : bytes) name += fmt::format("{:02x}", byte);
  return name;
}

std::string environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// Every missing folder of the path, for this user alone.
void make_folders(const std::filesystem::path& path) {
  std::filesystem::path part;
  for (const auto& name : path) {
    part /= name;
    (void)mkdir(part.c_str(), 0700);
  }
}

File open_root(const std::optional<std::filesystem::path>& root) {
  const auto refuse = [](const std::string& why) {
    warn(why);
    return File();
  };
  if (!root) return refuse("TCONV_CACHE, XDG_CACHE_HOME and HOME name no folder");
  make_folders(*root);
  File folder(::open(root->c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  struct stat status {};
  if (!folder.open() || fstat(folder.get(), &status) != 0) {
    return refuse(fmt::format("{}: {}", root->string(), reason(errno)));
  }
  if (!own(status)) return refuse(fmt::format("{}: other users own it or may write to it", root->string()));
  return folder;
}

}  // namespace

File& File::operator=(File&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

File::~File() {
  if (open()) close(descriptor_);
}

Cache::Cache(const std::optional<std::filesystem::path>& root, Hook hook)
    : root_(open_root(root)), hook_(std::move(hook)) {}

std::optional<std::filesystem::path> Cache::default_root() {
  if (const std::string own = environment("TCONV_CACHE"); !own.empty()) return own;
  // The XDG specification has relative paths ignored.
  if (const std::string xdg = environment("XDG_CACHE_HOME"); xdg.starts_with('/')) {
    return std::filesystem::path(xdg) / "tconv";
  }
  if (const std::string home = environment("HOME"); home.starts_with('/')) {
    return std::filesystem::path(home) / ".cache" / "tconv";
  }
  return std::nullopt;
}

std::optional<std::string> Cache::find(std::string_view key) const {
  if (!usable()) return std::nullopt;
  const std::string name = hex(sha256(key));
  const File shelf = open_shelf(root_, name, false);
  if (!shelf.open()) return std::nullopt;
  struct stat status {};
  if (fstatat(shelf.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) return std::nullopt;
  // Not a link, and not blocking on what was put there instead of a file.
  const File file(openat(shelf.get(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat opened {};
  std::string entry;
  if (file.open() && fstat(file.get(), &opened) == 0) {
    status = opened;
    const auto size = static_cast<std::size_t>(opened.st_size);
    if (S_ISREG(opened.st_mode) && own(opened) && size <= kMaxEntry && read_all(file.get(), size, entry)) {
      if (std::optional<std::string> payload = payload_of(entry, key)) return payload;
    }
  }
  discard(shelf, name, status);
  return std::nullopt;
}

void Cache::store(std::string_view key, std::string_view payload) const {
  if (!usable()) return;
  const auto step = [&](int number) {
    if (hook_) hook_(number);
  };
  const std::string name = hex(sha256(key));
  const File shelf = open_shelf(root_, name, true);
  if (!shelf.open()) return warn(fmt::format("folder {} of the cache: {}", name.substr(0, 2), reason(errno)));
  sweep(shelf);
  const std::string temporary = random_name();
  if (temporary.empty()) return warn("no random name for a temporary file");
  const File file(openat(shelf.get(), temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file.open()) return warn(fmt::format("a new entry: {}", reason(errno)));
  step(1);
  const std::string entry = header(key, payload) + std::string(payload);
  const std::string_view all = entry;
  bool done = write_all(file.get(), all.substr(0, all.size() / 2));
  if (done) step(2);
  done = done && write_all(file.get(), all.substr(all.size() / 2));
  if (done) step(3);
  done = done && fsync(file.get()) == 0;
  if (done) step(4);
  done = done && renameat(shelf.get(), temporary.c_str(), shelf.get(), name.c_str()) == 0;
  if (!done) {
    const int why = errno;
    (void)unlinkat(shelf.get(), temporary.c_str(), 0);
    return warn(fmt::format("a new entry: {}", reason(why)));
  }
  step(5);
}

File Cache::lock(std::string_view key, std::chrono::milliseconds wait) const {
  if (!usable()) return File();
  const std::string name = hex(sha256(key));
  const File shelf = open_shelf(root_, name, true);
  if (!shelf.open()) return File();
  // Never removed: a process that waits on a removed file would not exclude one that makes it anew.
  File file(openat(shelf.get(), (name + ".lock").c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file.open()) return File();
  const auto until = std::chrono::steady_clock::now() + wait;
  while (flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if ((errno != EWOULDBLOCK && errno != EINTR) || std::chrono::steady_clock::now() >= until) return File();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return file;
}

std::string cache_key(std::initializer_list<std::string_view> fields) {
  std::string key;
  for (const std::string_view field : fields) {
    key += number(field.size());
    key += field;
  }
  return key;
}

}  // namespace tconv
