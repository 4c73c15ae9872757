#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <thread>
#include <vector>

#include "util/cache.hpp"
#include "util/sha256.hpp"

namespace tconv {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

constexpr const char* kKey = "key";
constexpr const char* kPayload = "payload";

class UtilCache : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "tconv_cache_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder = name;
  }
  void TearDown() override {
    std::error_code ignored;
    fs::permissions(folder, fs::perms::owner_all, ignored);
    fs::remove_all(folder, ignored);
  }
  [[nodiscard]] fs::path root() const { return folder / "cache"; }
  [[nodiscard]] fs::path entry(std::string_view key) const {
    const std::string name = hex(sha256(key));
    return root() / name.substr(0, 2) / name;
  }
  [[nodiscard]] std::vector<fs::path> files() const {
    std::vector<fs::path> all;
    for (const auto& item : fs::recursive_directory_iterator(root())) {
      if (!item.is_directory()) all.push_back(item.path());
    }
    return all;
  }
  fs::path folder;
};

std::string slurp(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void spill(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

// Runs `body` in a child; gives its exit status as waitpid does.
template <typename Body>
int in_child(Body body) {
  const pid_t child = fork();
  if (child == 0) {
    body();
    _exit(0);
  }
  int status = -1;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  return status;
}

TEST_F(UtilCache, RoundTrip) {
  const Cache cache(root());
  ASSERT_TRUE(cache.usable());
  EXPECT_FALSE(cache.find(kKey));
  const std::string payload("a\0b\xff\n", 5);
  cache.store(kKey, payload);
  EXPECT_EQ(cache.find(kKey), payload);
  EXPECT_FALSE(cache.find("another"));
  cache.store("empty", "");
  EXPECT_EQ(cache.find("empty"), "");
  cache.store(kKey, "new");
  EXPECT_EQ(Cache(root()).find(kKey), "new");
  EXPECT_EQ(files().size(), 2U);
  EXPECT_EQ(fs::status(root()).permissions(), fs::perms::owner_all);
  EXPECT_EQ(fs::status(entry(kKey)).permissions(), fs::perms::owner_read | fs::perms::owner_write);
}

TEST_F(UtilCache, KeysOfFieldsDiffer) {
  EXPECT_NE(cache_key({"ab", "c"}), cache_key({"a", "bc"}));
  EXPECT_NE(cache_key({"a", ""}), cache_key({"a"}));
}

TEST_F(UtilCache, EveryTruncationIsAMissAndReplaced) {
  const Cache cache(root());
  cache.store(kKey, kPayload);
  const std::string whole = slurp(entry(kKey));
  for (std::size_t size = 0; size < whole.size(); ++size) {
    spill(entry(kKey), whole.substr(0, size));
    ASSERT_FALSE(cache.find(kKey)) << size;
    ASSERT_FALSE(fs::exists(entry(kKey))) << size;
    cache.store(kKey, kPayload);
    ASSERT_EQ(cache.find(kKey), kPayload) << size;
  }
  spill(entry(kKey), whole + "x");
  EXPECT_FALSE(cache.find(kKey));
}

TEST_F(UtilCache, EveryFlippedBitIsAMissAndReplaced) {
  const Cache cache(root());
  cache.store(kKey, kPayload);
  const std::string whole = slurp(entry(kKey));
  for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string bad = whole;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    spill(entry(kKey), bad);
    ASSERT_FALSE(cache.find(kKey)) << bit;
    ASSERT_FALSE(fs::exists(entry(kKey))) << bit;
    cache.store(kKey, kPayload);
    ASSERT_EQ(cache.find(kKey), kPayload) << bit;
  }
}

TEST_F(UtilCache, AnEntryOfAnotherKeyIsAMiss) {
  const Cache cache(root());
  cache.store("other", kPayload);
  cache.store(kKey, kPayload);
  fs::copy_file(entry("other"), entry(kKey), fs::copy_options::overwrite_existing);
  EXPECT_FALSE(cache.find(kKey));
  EXPECT_EQ(cache.find("other"), kPayload);
}

TEST_F(UtilCache, NoLinkIsFollowed) {
  const Cache cache(root());
  cache.store(kKey, kPayload);
  fs::rename(entry(kKey), folder / "elsewhere");
  fs::create_symlink(folder / "elsewhere", entry(kKey));
  EXPECT_FALSE(cache.find(kKey));
  EXPECT_TRUE(fs::exists(folder / "elsewhere"));
  cache.store(kKey, kPayload);
  EXPECT_FALSE(fs::is_symlink(entry(kKey)));
  EXPECT_EQ(cache.find(kKey), kPayload);

  // Nor one in place of the folder of entries.
  const fs::path shelf = entry(kKey).parent_path();
  fs::rename(shelf, folder / "shelf");
  fs::create_directory_symlink(folder / "shelf", shelf);
  EXPECT_FALSE(cache.find(kKey));
  cache.store(kKey, "new");
  EXPECT_NE(slurp(folder / "shelf" / entry(kKey).filename()).find(std::string(kPayload)), std::string::npos);
}

TEST_F(UtilCache, WhatIsNoFileIsAMiss) {
  const Cache cache(root());
  cache.store(kKey, kPayload);
  fs::remove(entry(kKey));
  ASSERT_EQ(mkfifo(entry(kKey).c_str(), 0600), 0);
  EXPECT_FALSE(cache.find(kKey));
  EXPECT_FALSE(fs::exists(entry(kKey)));
  fs::create_directory(entry(kKey));
  EXPECT_FALSE(cache.find(kKey));
  cache.store(kKey, kPayload);  // cannot replace it, and says so
}

TEST_F(UtilCache, OneOfManyProcessesMakesTheEntry) {
  constexpr int kProcesses = 16;
  const fs::path made = folder / "made";
  std::vector<pid_t> children;
  for (int i = 0; i < kProcesses; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      const Cache cache(root());
      const File lock = cache.lock(kKey, std::chrono::seconds(10));
      if (!cache.find(kKey)) {
        const int log = open(made.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        const bool logged = write(log, "x", 1) == 1;
        std::this_thread::sleep_for(milliseconds(20));
        cache.store(kKey, kPayload);
        if (!logged) _exit(2);
      }
      _exit(lock.open() && cache.find(kKey) == kPayload ? 0 : 1);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = -1;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  EXPECT_EQ(slurp(made), "x");
}

TEST_F(UtilCache, ManyProcessesWithoutTheLockStoreWholeEntries) {
  std::vector<pid_t> children;
  for (int i = 0; i < 16; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      const Cache cache(root());
      for (int k = 0; k < 20; ++k) {
        cache.store(kKey, kPayload);
        if (cache.find(kKey) != kPayload) _exit(1);
      }
      _exit(0);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = -1;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  EXPECT_EQ(files().size(), 1U);
}

TEST_F(UtilCache, TheLockIsNotWaitedForLonger) {
  const Cache cache(root());
  const File held = cache.lock(kKey, milliseconds(0));
  ASSERT_TRUE(held.open());
  EXPECT_FALSE(Cache(root()).lock(kKey, milliseconds(20)).open());
  EXPECT_TRUE(cache.lock("another", milliseconds(0)).open());
}

TEST_F(UtilCache, TheLockEndsWithAKilledProcess) {
  in_child([&] {
    const File lock = Cache(root()).lock(kKey, milliseconds(0));
    raise(SIGKILL);
  });
  EXPECT_TRUE(Cache(root()).lock(kKey, milliseconds(0)).open());
}

TEST_F(UtilCache, KilledAtAnyStepLeavesTheOldEntryOrTheNew) {
  for (int at = 1; at <= 5; ++at) {
    for (const bool replaces : {false, true}) {
      SCOPED_TRACE(at);
      const std::string key = kKey + std::to_string(2 * at + (replaces ? 1 : 0));
      if (replaces) Cache(root()).store(key, "old");
      const int status = in_child([&] {
        Cache(root(), [&](int step) {
          if (step == at) raise(SIGKILL);
        }).store(key, kPayload);
      });
      EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
      const std::optional<std::string> found = Cache(root()).find(key);
      if (at == 5) {
        EXPECT_EQ(found, kPayload);
      } else if (replaces) {
        EXPECT_EQ(found, "old");
      } else {
        EXPECT_FALSE(found);
      }
      Cache(root()).store(key, kPayload);
      EXPECT_EQ(Cache(root()).find(key), kPayload);
    }
  }
}

TEST_F(UtilCache, WhatDiedLongAgoIsSwept) {
  in_child([&] { Cache(root(), [](int step) { step == 2 ? raise(SIGKILL) : 0; }).store(kKey, kPayload); });
  ASSERT_EQ(files().size(), 1U);
  Cache(root()).store(kKey, kPayload);
  EXPECT_EQ(files().size(), 2U);  // too young to be known for dead
  for (const fs::path& file : files()) {
    if (file != entry(kKey)) fs::last_write_time(file, fs::file_time_type::clock::now() - std::chrono::hours(2));
  }
  Cache(root()).store(kKey, kPayload);
  EXPECT_EQ(files().size(), 1U);
}

TEST_F(UtilCache, AFileInPlaceOfTheFolderMeansUncached) {
  spill(root(), "");
  const Cache cache(root());
  EXPECT_FALSE(cache.usable());
  cache.store(kKey, kPayload);
  EXPECT_FALSE(cache.find(kKey));
  EXPECT_FALSE(cache.lock(kKey, milliseconds(0)).open());
}

TEST_F(UtilCache, AReadOnlyFolderIsReadAndNotWritten) {
  if (geteuid() == 0) GTEST_SKIP() << "root may write to a read-only folder";
  Cache(root()).store(kKey, kPayload);
  fs::permissions(root(), fs::perms::owner_read | fs::perms::owner_exec);
  const Cache cache(root());
  EXPECT_EQ(cache.find(kKey), kPayload);
  cache.store("another one", kPayload);
  EXPECT_FALSE(cache.find("another one"));
  fs::permissions(root(), fs::perms::owner_all);
}

TEST_F(UtilCache, AFolderThatOthersMayWriteToIsRefused) {
  fs::create_directories(root());
  for (const fs::perms extra : {fs::perms::group_write, fs::perms::others_write}) {
    fs::permissions(root(), fs::perms::owner_all | extra);
    EXPECT_FALSE(Cache(root()).usable());
  }
  fs::permissions(root(), fs::perms::owner_all);
  EXPECT_TRUE(Cache(root()).usable());
}

TEST_F(UtilCache, AFolderOrAnEntryOfAnotherUserIsRefused) {
  if (geteuid() != 0) GTEST_SKIP() << "only root may give files away";
  Cache(root()).store(kKey, kPayload);
  ASSERT_EQ(chown(entry(kKey).c_str(), 65534, 65534), 0);
  EXPECT_FALSE(Cache(root()).find(kKey));
  ASSERT_EQ(chown(root().c_str(), 65534, 65534), 0);
  EXPECT_FALSE(Cache(root()).usable());
}

TEST_F(UtilCache, AFullDiskMeansUncached) {
  const int status = in_child([&] {
    // No file may grow beyond 16 bytes: writes fail as they do on a full disk.
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{16, 16};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(2);
    const Cache cache(root());
    cache.store(kKey, kPayload);
    _exit(cache.usable() && !cache.find(kKey) ? 0 : 1);
  });
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(files().empty());
}

TEST(CudaCacheDeathTest, WarnsOnceAProcess) {
  // A process of its own, started anew: another test may have warned in this one.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        const Cache first(std::nullopt);
        const Cache second(std::nullopt);
        first.store(kKey, kPayload);
        _exit(0);
      },
      testing::ExitedWithCode(0), "^tconv: nothing is cached: TCONV_CACHE, XDG_CACHE_HOME and HOME name no folder\n$");
}

TEST_F(UtilCache, DefaultRoot) {
  const int status = in_child([] {
    unsetenv("TCONV_CACHE");
    unsetenv("XDG_CACHE_HOME");
    unsetenv("HOME");
    if (Cache::default_root()) _exit(1);
    setenv("HOME", "/h", 1);
    if (Cache::default_root() != "/h/.cache/tconv") _exit(2);
    setenv("XDG_CACHE_HOME", "relative", 1);
    if (Cache::default_root() != "/h/.cache/tconv") _exit(3);
    setenv("XDG_CACHE_HOME", "/x", 1);
    if (Cache::default_root() != "/x/tconv") _exit(4);
    setenv("TCONV_CACHE", "/t", 1);
    if (Cache::default_root() != "/t") _exit(5);
  });
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace tconv
