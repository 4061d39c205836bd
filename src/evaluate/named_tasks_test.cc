#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "runtime/testing.h"
#include "tessera/evaluate.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

std::string path_of(const std::string& name, const std::string& data,
                    const std::string& split = "test") {
  const Result<EvaluationTask> task = named_task(name, data, split);
  return task.ok() ? task->data.paths.at(0) : task.status().message();
}

TEST(NamedTasks, TakeAFileWhateverItsName) {
  const std::string folder = testing::tiny_llama().write("named_tasks");
  for (const char* name : {"/enwik8", "/corpus.md", "/text.txt"}) {
    const std::string file = folder + name;
    std::ofstream(file) << "text";
    EXPECT_EQ(path_of("perplexity", file), file);
    EXPECT_EQ(path_of("squad", file, "dev"), file);
    EXPECT_EQ(named_task("agreement", file)->split, "");
  }
  fs::create_directory(folder + "/folder.txt");
  EXPECT_EQ(path_of("perplexity", folder + "/folder.txt"), folder + "/folder.txt/test.txt");
  // What is not there.
  EXPECT_EQ(path_of("perplexity", folder + "/no.txt"), folder + "/no.txt");
  EXPECT_EQ(path_of("perplexity", folder + "/no", "dev"), folder + "/no/dev.txt");
}

TEST(NamedTasks, HaveTheSplitsThatThereAre) {
  for (const char* name : {"cranfield", "squad"}) {
    EXPECT_TRUE(named_task(name, "data").ok());
    EXPECT_EQ(path_of(name, "data", "dev"),
              std::string(name) + ": expected the split test, found \"dev\"");
  }
}

}  // namespace
}  // namespace tessera
