#include "compress/output.h"

#include <sys/inotify.h>
#include <unistd.h>

#include "compress/paths.h"
#include "compress/pipeline_testing.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using testing::Compress;
using testing::content_of;
using testing::expect_message;
using testing::options_of;
using testing::tiny_bert;
using testing::wider;

class Output : public Compress {
 protected:
  // A run that stops when its first layer is done.
  void interrupt(const std::string& name) {
    CompressOptions options = options_;
    options.on_progress = [](const std::string& what, int64_t done, int64_t) {
      return !(what == "pruning" && done == 1);
    };
    EXPECT_EQ(compress(source_, target(name), options).status().code(), StatusCode::kCancelled);
    ASSERT_TRUE(fs::exists(target(name) + ".part/layer-0/tessera.safetensors"));
  }
  CompressOptions replacing() const {
    CompressOptions options = options_;
    options.existing = Existing::kReplace;
    return options;
  }

  const std::string source_ = wider(tiny_bert()).write("output_bert");
  const CompressOptions options_ = options_of(PruneUnit::kTiles, 0.5);
};

TEST_F(Output, ALayerThatLostFilesIsMadeAnew) {
  run(source_, "whole", options_);
  for (const char* file : {"tessera.safetensors", "config.json"}) {
    interrupt("small");
    fs::remove(target("small.part/layer-0/") + file);
    run(source_, "small", options_);
    EXPECT_EQ(content_of(target("small/tessera.safetensors")),
              content_of(target("whole/tessera.safetensors")));
    fs::remove_all(target("small"));
  }
}

TEST_F(Output, LayersOfARunThatIsNoLongerKnownAreOfNoUse) {
  interrupt("small");
  fs::remove(target("small.part/run.json"));
  dir_.put("small.part/layer-1.tmp/config.json", "{");
  run(source_, "small", options_);
  EXPECT_FALSE(fs::exists(target("small.part")));
}

TEST_F(Output, AnExportTakesThePlaceOfAnInterruptedRunWhereThatIsAsked) {
  interrupt("small");
  expect_message(export_dense(source_, target("small")).status(), {"small.part", "--force"});
  EXPECT_TRUE(fs::exists(target("small.part/layer-0")));
  const auto report = export_dense(source_, target("small"), {.existing = Existing::kReplace});
  EXPECT_TRUE(report.ok()) << report.status().message();
  EXPECT_FALSE(fs::exists(target("small.part")));
}

TEST_F(Output, FilesOfOthersInItStayAndAreNamed) {
  interrupt("small");
  dir_.put("small.part/notes.txt", "mine");
  for (const CompressOptions& options : {options_, replacing()}) {
    expect_message(compress(source_, target("small"), options).status(),
                   {"small.part", "other files", "\"notes.txt\""});
  }
  EXPECT_TRUE(fs::exists(target("small.part/notes.txt")));
  EXPECT_TRUE(fs::exists(target("small.part/layer-0")));
}

// So that a kill leaves nothing that lost files under the name of what is whole.
TEST_F(Output, WhatIsRemovedLosesItsNameFirst) {
  dir_.put("small.part/run.json", "{}");
  dir_.put("small.part/layer-0/file", "text");
  const auto output = OutputDirectory::open(target("small"), Existing::kRefuse);
  ASSERT_TRUE(output.ok()) << output.status().message();
  const int watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  ASSERT_GE(watch, 0);
  for (const char* place : {"small.part", "small.part/layer-0"})
    ASSERT_GE(inotify_add_watch(watch, target(place).c_str(), IN_MOVED_FROM | IN_DELETE), 0);
  EXPECT_TRUE(output->discard().ok());
  alignas(inotify_event) char events[4096];
  const ssize_t size = read(watch, events, sizeof(events));
  close(watch);
  std::string order;
  for (ssize_t at = 0; at < size;) {
    const auto* event = reinterpret_cast<const inotify_event*>(events + at);
    if (event->len > 0)
      order += std::string((event->mask & IN_DELETE) != 0 ? " -" : " ") + event->name;
    at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
  }
  EXPECT_EQ(order, " layer-0 run.json -file -layer-0.tmp -run.json.tmp");
}

// As a kill leaves it where directories cannot be exchanged.
TEST_F(Output, WhatWasMovedAwayIsMovedBack) {
  run(source_, "small", options_);
  const std::string before = content_of(target("small/tessera.safetensors"));
  const auto lose = [&] {
    fs::create_directory(target("small.part"));
    fs::create_directory(target("small.part/whole"));
    fs::rename(target("small"), target("small.part/replaced"));
  };
  lose();
  expect_message(compress(source_, target("small"), options_).status(), {"--force"});
  EXPECT_EQ(content_of(target("small/tessera.safetensors")), before);
  EXPECT_FALSE(fs::exists(target("small.part")));
  lose();
  expect_message(export_dense(source_, target("small")).status(), {"--force"});
  EXPECT_EQ(content_of(target("small/tessera.safetensors")), before);
  {
    const auto output = OutputDirectory::open(target("small"), Existing::kReplace);
    ASSERT_TRUE(output.ok()) << output.status().message();
    lose();
    EXPECT_TRUE(output->discard().ok());
    EXPECT_EQ(content_of(target("small/tessera.safetensors")), before);
  }
  lose();
  run(source_, "small", replacing());
  EXPECT_EQ(content_of(target("small/tessera.safetensors")), before);
  EXPECT_FALSE(fs::exists(target("small.part")));
}

TEST_F(Output, OnlyWhatTheNewModelHasAsWellIsReplaced) {
  fs::copy(source_, target("source"));
  dir_.put("source/vocabulary.txt", "a");
  const std::string source = target("source");
  run(source, "small", options_);
  run(source, "small", replacing());
  for (const char* name : {"notes.txt", ".git", "pytorch_model.bin"}) {
    dir_.put(std::string("small/") + name, "mine");
    expect_message(compress(source, target("small"), replacing()).status(),
                   {"small: expected nothing but", name});
    expect_message(export_dense(source, target("small"), {.existing = Existing::kReplace}).status(),
                   {"small: expected nothing but", name});
    EXPECT_EQ(content_of(target("small/") + name), "mine");
    EXPECT_FALSE(fs::exists(target("small.part")));
    fs::remove(target("small/") + name);
  }
  // One that comes while the run is at work.
  CompressOptions late = replacing();
  late.on_progress = [&](const std::string& what, int64_t, int64_t) {
    if (what == "writing") dir_.put("small/late.txt", "mine");
    return true;
  };
  expect_message(compress(source, target("small"), late).status(), {"late.txt"});
  EXPECT_TRUE(fs::exists(target("small/late.txt")));
}

TEST_F(Output, ADirectoryMayBeNamedInSeveralWays) {
  for (const char* name : {"small/", "small/.", "small/./", "small//"}) {
    run(source_, name, options_);
    EXPECT_TRUE(fs::exists(target("small/tessera.safetensors"))) << name;
    EXPECT_FALSE(fs::exists(target("small.part"))) << name;
    fs::remove_all(target("small"));
  }
  EXPECT_EQ(plain_path("/"), "/");
  EXPECT_EQ(plain_path("d.."), "d..");
  EXPECT_EQ(plain_path("."), fs::current_path());
  EXPECT_EQ(plain_path("./"), fs::current_path());
  EXPECT_EQ(plain_path("none/.."), fs::current_path());
}

}  // namespace
}  // namespace tessera
