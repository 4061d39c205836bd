#include "io/mapped_file.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <vector>

#include "io/testing.h"

namespace tessera {
namespace {

using testing::content_of;
using testing::expect_message;
using testing::TempDir;

TEST(MappedFile, HoldsTheBytes) {
  const TempDir dir;
  const Result<MappedFile> file = MappedFile::open(dir.put("a", "hello"));
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(std::string_view(file->data(), file->size_bytes()), "hello");
}

TEST(MappedFile, AnEmptyFileIsEmpty) {
  const TempDir dir;
  const Result<MappedFile> file = MappedFile::open(dir.put("a", ""));
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file->size_bytes(), 0u);
  file->release(file->data(), 100);
}

TEST(MappedFile, MovesItsMapping) {
  const TempDir dir;
  Result<MappedFile> file = MappedFile::open(dir.put("a", "abc"));
  ASSERT_TRUE(file.ok());
  MappedFile first = std::move(file).value();
  MappedFile second = std::move(first);
  EXPECT_EQ(first.data(), nullptr);  // NOLINT: what a moved-from file is
  first = std::move(second);
  EXPECT_EQ(std::string_view(first.data(), first.size_bytes()), "abc");
}

TEST(MappedFile, StaysWhenItsNameGoes) {
  const TempDir dir;
  const Result<MappedFile> file = MappedFile::open(dir.put("a", "abc"));
  std::filesystem::remove(dir / "a");
  EXPECT_EQ(std::string_view(file->data(), file->size_bytes()), "abc");
}

TEST(MappedFile, RegularFilesOnly) {
  const TempDir dir;
  expect_message(MappedFile::open(dir.path()).status(),
                 {"expected a regular file, found a directory"});
  ASSERT_EQ(mkfifo((dir / "fifo").c_str(), 0600), 0);
  expect_message(MappedFile::open(dir / "fifo").status(),
                 {"expected a regular file, found a FIFO"});
  expect_message(MappedFile::open("/dev/zero").status(),
                 {"/dev/zero: expected a regular file, found a device"});
  EXPECT_EQ(MappedFile::open("/dev/zero").status().code(), StatusCode::kInvalidInput);
}

TEST(MappedFile, ASocketIsNoRegularFile) {
  const TempDir dir;
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  const std::string path = dir / "s";
  ASSERT_LT(path.size(), sizeof(address.sun_path));
  std::memcpy(address.sun_path, path.c_str(), path.size());
  const int descriptor = socket(AF_UNIX, SOCK_STREAM, 0);
  ASSERT_GE(descriptor, 0);
  ASSERT_EQ(bind(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  expect_message(MappedFile::open(path).status(), {path});
  close(descriptor);
}

TEST(MappedFile, MissingFiles) {
  const TempDir dir;
  expect_message(MappedFile::open(dir / "gone").status(), {"gone: cannot open: No such file"});
  EXPECT_EQ(MappedFile::open(dir / "gone").status().code(), StatusCode::kNotFound);
  EXPECT_FALSE(MappedFile::open("").ok());
  EXPECT_FALSE(MappedFile::open(std::string("a\0b", 3)).ok());
  std::filesystem::create_symlink("loop", dir / "loop");
  expect_message(MappedFile::open(dir / "loop").status(), {"cannot open"});
}

TEST(MappedFile, UnreadableFiles) {
  const TempDir dir;
  const std::string path = dir.put("secret", "abc");
  ASSERT_EQ(chmod(dir.path().c_str(), 0755), 0);
  ASSERT_EQ(chmod(path.c_str(), 0), 0);
  const bool is_root = geteuid() == 0;
  if (is_root) {
    ASSERT_EQ(seteuid(65534), 0);
  }
  const Status status = MappedFile::open(path).status();
  if (is_root) {
    ASSERT_EQ(seteuid(0), 0);
  }
  expect_message(status, {"secret: cannot open: Permission denied"});
}

class ReleaseTest : public ::testing::Test {
 protected:
  void SetUp() override {
    content_.resize(static_cast<size_t>(kPages * page_ + 100));
    for (size_t i = 0; i < content_.size(); ++i) content_[i] = static_cast<char>(i * 7 + i / 4096);
    Result<MappedFile> file = MappedFile::open(dir_.put("a", content_));
    ASSERT_TRUE(file.ok());
    file_ = std::move(file).value();
    // Populates the page tables, else there is nothing to give back.
    EXPECT_EQ(std::string_view(file_.data(), file_.size_bytes()), content_);
  }

  static constexpr int64_t kPages = 8;
  const int64_t page_ = sysconf(_SC_PAGESIZE);
  TempDir dir_;
  std::string content_;
  MappedFile file_;
};

// Pages of this mapping that count as resident memory of the process, from /proc/self/smaps.
int64_t resident_bytes(const void* data) {
  std::ifstream maps("/proc/self/smaps");
  char start[32];
  std::snprintf(start, sizeof(start), "%lx-", reinterpret_cast<unsigned long>(data));
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.starts_with(start)) inside = true;
    int64_t kilobytes = 0;
    if (inside && std::sscanf(line.c_str(), "Rss: %ld kB", &kilobytes) == 1)
      return kilobytes * 1024;
  }
  return -1;
}

TEST_F(ReleaseTest, GivesWholePagesBackAndTheyCanBeReadAgain) {
  ASSERT_EQ(resident_bytes(file_.data()), (kPages + 1) * page_);
  file_.release(file_.data() + page_ - 1,
                static_cast<size_t>(page_ + 2));  // one whole page and two parts
  EXPECT_EQ(resident_bytes(file_.data()), kPages * page_);
  file_.release(file_.data() + page_ + 1, static_cast<size_t>(page_ * 2 - 2));  // parts alone
  EXPECT_EQ(resident_bytes(file_.data()), kPages * page_);
  file_.release(file_.data(), file_.size_bytes());
  EXPECT_EQ(resident_bytes(file_.data()), page_);
  EXPECT_EQ(std::string_view(file_.data(), file_.size_bytes()), content_);
}

TEST_F(ReleaseTest, LeavesOtherMemoryAlone) {
  std::vector<char> mine(static_cast<size_t>(page_ * 4), 'm');
  file_.release(mine.data(), mine.size());
  EXPECT_EQ(mine, std::vector<char>(mine.size(), 'm'));
  file_.release(file_.data() + file_.size_bytes(), 1 << 20);
  file_.release(file_.data(), SIZE_MAX);
  file_.release(nullptr, 100);
  EXPECT_EQ(std::string_view(file_.data(), file_.size_bytes()), content_);
}

TEST(ReadTextFile, ReadsUpToTheLimit) {
  const TempDir dir;
  const std::string path = dir.put("a", "12345");
  EXPECT_EQ(*read_text_file(path, 5), "12345");
  expect_message(read_text_file(path, 4).status(), {"a: expected at most 4 bytes, found 5"});
  EXPECT_EQ(*read_text_file(dir.put("b", ""), 5), "");
  expect_message(read_text_file(dir / "c", 5).status(), {"cannot open"});
  expect_message(read_text_file(dir.path(), 5).status(), {"found a directory"});
}

TEST(WriteFileAtomically, WritesReplacesAndLeavesNothing) {
  const TempDir dir;
  ASSERT_TRUE(write_file_atomically(dir / "a", "one").ok());
  EXPECT_EQ(content_of(dir / "a"), "one");
  ASSERT_EQ(chmod((dir / "a").c_str(), 0600), 0);
  ASSERT_TRUE(write_file_atomically(dir / "a", "").ok());
  EXPECT_EQ(content_of(dir / "a"), "");
  struct stat info {};
  ASSERT_EQ(stat((dir / "a").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u) << "the replaced file's permissions are kept";
  EXPECT_EQ(dir.file_count(), 1u);
}

TEST(WriteFileAtomically, WritesInTheCurrentDirectory) {
  const TempDir dir;
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(dir.path());
  EXPECT_TRUE(write_file_atomically("plain", "x").ok());
  std::filesystem::current_path(before);
  EXPECT_EQ(content_of(dir / "plain"), "x");
}

TEST(WriteFileAtomically, RefusesWhatItCannotReplace) {
  const TempDir dir;
  expect_message(write_file_atomically(dir / "no/a", "x"),
                 {"no/a: cannot write beside it: No such file"});
  std::filesystem::create_directory(dir / "d");
  expect_message(write_file_atomically(dir / "d", "x"), {"d: expected a regular file or none"});
  expect_message(write_file_atomically("/dev/null", "x"),
                 {"/dev/null: expected a regular file or none"});
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
  EXPECT_EQ(dir.file_count(), 1u);
}

// A limit on the size of files acts as a full disk does, in the middle of a write.
TEST(WriteFileAtomically, AFullDiskLeavesTheOldFileAndNoTemporary) {
  const TempDir dir;
  ASSERT_TRUE(write_file_atomically(dir / "a", "old").ok());
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto previous = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = 5000, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const Status status = write_file_atomically(dir / "a", std::string(20000, 'x'));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, previous);
  expect_message(status, {"a: cannot write: File too large"});
  EXPECT_EQ(status.code(), StatusCode::kIo);
  EXPECT_EQ(content_of(dir / "a"), "old");
  EXPECT_EQ(dir.file_count(), 1u);
}

}  // namespace
}  // namespace tessera
