#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "util/error.hpp"
#include "util/files.hpp"

namespace tconv {
namespace {
namespace fs = std::filesystem;

class Files : public ::testing::Test {
 protected:
  Files() {
    std::string pattern = (fs::temp_directory_path() / "tconv-files-XXXXXX").string();
    root_ = ::mkdtemp(pattern.data());
  }
  ~Files() override { fs::remove_all(root_); }
  Files(const Files&) = delete;
  Files& operator=(const Files&) = delete;

  void put(const fs::path& path, const std::string& text) const {
    std::ofstream(root_ / path, std::ios::binary) << text;
  }
  [[nodiscard]] std::string get(const fs::path& path) const { return read_file(root_ / path, 1 << 20); }
  // Everything below the root, by relative name.
  [[nodiscard]] std::vector<std::string> tree() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(root_))
      names.push_back(entry.path().lexically_relative(root_).string());
    std::sort(names.begin(), names.end());
    return names;
  }

  fs::path root_;
};

using Names = std::vector<std::string>;

template <typename F>
std::string refusal(F&& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), Exit::usage);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  ADD_FAILURE() << "accepted";
  return "";
}

TEST_F(Files, ReadsEveryByteUpToTheCap) {
  const std::string bytes("a\0\xff\n", 4);
  put("f", bytes);
  EXPECT_EQ(read_file(root_ / "f", 4), bytes);
  EXPECT_NE(refusal([&] { (void)read_file(root_ / "f", 3); }).find("at most 3 bytes"), std::string::npos);
  put("empty", "");
  EXPECT_EQ(get("empty"), "");
}

TEST_F(Files, RefusesWhatIsNoRegularFile) {
  EXPECT_NE(refusal([&] { (void)get("absent"); }).find("No such file"), std::string::npos);
  EXPECT_NE(refusal([&] { (void)get("."); }).find("not a regular file"), std::string::npos);
  ASSERT_EQ(::mkfifo((root_ / "pipe").c_str(), 0600), 0);
  EXPECT_NE(refusal([&] { (void)get("pipe"); }).find("not a regular file"), std::string::npos);  // and does not wait
  EXPECT_NE(refusal([&] { (void)get("a\nb"); }).find("a\\x0ab"), std::string::npos);
}

TEST_F(Files, MakesTheFolderWithItsParents) {
  write_files(root_ / "a/b/", {{"x", "1"}, {"y", ""}});
  EXPECT_EQ(tree(), (Names{"a", "a/b", "a/b/x", "a/b/y"}));
  EXPECT_EQ(get("a/b/x"), "1");
  EXPECT_EQ(fs::status(root_ / "a/b").permissions() & fs::perms::owner_all, fs::perms::owner_all);
}

TEST_F(Files, ReplacesItsOwnFilesAndKeepsOthers) {
  fs::create_directory(root_ / "out");
  put("out/x", "old");
  put("out/other", "kept");
  write_files(root_ / "out", {{"x", "new"}, {"y", "2"}});
  EXPECT_EQ(tree(), (Names{"out", "out/other", "out/x", "out/y"}));
  EXPECT_EQ(get("out/x"), "new");
  EXPECT_EQ(get("out/other"), "kept");
}

TEST_F(Files, AFailureHalfWayRestoresEveryFile) {
  fs::create_directories(root_ / "out/z/theirs");
  put("out/x", "old");
  // x is replaced and y is new before z, a folder, stops it.
  const std::string said = refusal([&] { write_files(root_ / "out", {{"x", "new"}, {"y", "new"}, {"z", "new"}}); });
  EXPECT_NE(said.find("Is a directory"), std::string::npos) << said;
  EXPECT_EQ(tree(), (Names{"out", "out/x", "out/z", "out/z/theirs"}));
  EXPECT_EQ(get("out/x"), "old");
}

TEST_F(Files, AFailureWhileStagingLeavesNothing) {
  refusal([&] { write_files(root_ / "fresh", {{"x", "new"}, {"no/such", ""}}); });
  EXPECT_EQ(tree(), Names{});
}

TEST_F(Files, DoesNotWriteThroughALink) {
  fs::create_directory(root_ / "out");
  put("target", "theirs");
  fs::create_symlink(root_ / "target", root_ / "out/x");
  write_files(root_ / "out", {{"x", "ours"}});
  EXPECT_EQ(get("target"), "theirs");
  EXPECT_EQ(get("out/x"), "ours");
}

TEST_F(Files, RefusesAFileInPlaceOfTheFolder) {
  put("file", "kept");
  for (const fs::path folder : {"file", "file/below", "file/below/that"}) {
    EXPECT_NE(refusal([&] { require_folder(root_ / folder); }).find("Not a directory"), std::string::npos);
    EXPECT_NE(refusal([&] { write_files(root_ / folder, {{"x", ""}}); }).find("file"), std::string::npos);
  }
  refusal([&] { require_folder(""); });
  EXPECT_EQ(tree(), (Names{"file"}));
  require_folder(root_ / "new/folder");  // could be made; nothing is
  EXPECT_EQ(tree(), (Names{"file"}));
}

TEST_F(Files, WritesAFileOfSeveralParts) {
  write_file(root_ / "y", {"one ", "two"});
  EXPECT_EQ(get("y"), "one two");
  write_file(root_ / "y", {"three"});
  EXPECT_EQ(get("y"), "three");
  EXPECT_EQ(tree(), Names{"y"});
}

TEST_F(Files, AFileThatCannotBeWrittenIsRefusedAndLeavesNothing) {
  fs::create_directory(root_ / "folder");
  put("file", "mine");
  const Names before = tree();
  for (const fs::path& path : {root_ / "folder", root_ / "absent" / "y", root_ / "file" / "y"}) {
    EXPECT_NE(refusal([&] { require_writable(path); }), "") << path;
    EXPECT_NE(refusal([&] { write_file(path, {"text"}); }), "") << path;
  }
  EXPECT_EQ(tree(), before);
  EXPECT_EQ(get("file"), "mine");
  EXPECT_NE(refusal([] { write_file("/dev/null", {"text"}); }), "");
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
}

TEST_F(Files, AFileWithoutPermissionIsKept) {
  if (::geteuid() == 0) GTEST_SKIP() << "root writes everywhere";
  put("file", "mine");
  fs::permissions(root_ / "file", fs::perms::owner_read);
  EXPECT_NE(refusal([&] { write_file(root_ / "file", {"text"}); }), "");
  EXPECT_EQ(get("file"), "mine");
}

}  // namespace
}  // namespace tconv
