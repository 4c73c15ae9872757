// What costs time to make, kept on disk between processes: compiled kernels, a machine's rates. Whatever is wrong with
// an entry or the folder is a miss: the cache never makes a call fail and never gives back other bytes than were
// stored.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace tconv {

// A file descriptor, closed with its owner.
class File {
 public:
  explicit File(int descriptor = -1) : descriptor_(descriptor) {}
  File(File&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  File& operator=(File&& other) noexcept;
  ~File();
  [[nodiscard]] int get() const { return descriptor_; }
  [[nodiscard]] bool open() const { return descriptor_ >= 0; }

 private:
  int descriptor_;
};

// One file an entry, <root>/<aa>/<sha256 of the key>: magic, schema, key, length and SHA-256 of the payload, payload.
// An entry is written under a temporary name, synced, and appears by one rename. The folder is the user's own (mode
// 0700 where we make it) and is not used when another user owns it or may write to it.
class Cache {
 public:
  // For tests: called after each step of `store` (1 created, 2 half written, 3 written, 4 synced, 5 renamed).
  using Hook = std::function<void(int step)>;

  // Without a root, or with one that cannot be used, nothing is found or stored, and the process warns once.
  explicit Cache(const std::optional<std::filesystem::path>& root, Hook hook = {});

  // $TCONV_CACHE, else $XDG_CACHE_HOME/tconv, else $HOME/.cache/tconv; none without any of them.
  [[nodiscard]] static std::optional<std::filesystem::path> default_root();

  [[nodiscard]] bool usable() const { return root_.open(); }

  // A damaged or foreign entry is a miss and is removed, unless someone replaced it meanwhile.
  [[nodiscard]] std::optional<std::string> find(std::string_view key) const;
  void store(std::string_view key, std::string_view payload) const;

  // One process at a time for a key, until the File goes; waits at most so long and then gives up without the lock.
  [[nodiscard]] File lock(std::string_view key, std::chrono::milliseconds wait) const;

 private:
  File root_;
  Hook hook_;
};

// Fields, each with its length before it, so that no two lists make the same key.
[[nodiscard]] std::string cache_key(std::initializer_list<std::string_view> fields);

}  // namespace tconv
