// Prints the first batches of a training as JSON, one a line, so that another program can train on
// the very same ones:
//   tune_batches MODEL TASK DATA COUNT BATCH BATCH_TOKENS MAX_TOKENS
// The names are those of Batch; what `tessera tune` reads with the same settings and seed 0 is the
// same.
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "io/checkpoint.h"
#include "io/model_directory.h"
#include "model/architecture.h"
#include "tune/batch.h"

namespace tessera {
namespace {

nlohmann::json to_json(const Batch& batch) {
  return {{"ids", batch.ids},   {"type_ids", batch.type_ids}, {"offsets", batch.offsets},
          {"rows", batch.rows}, {"labels", batch.labels},     {"values", batch.values}};
}

Status print(char** arguments) {
  const std::optional<TuneTask> task = parse<TuneTask>(arguments[2]);
  if (!task) return invalid_input("TASK: expected " + names<TuneTask>());
  TuneOptions options{.task = *task, .data = {arguments[3]}};
  options.batch = std::atoi(arguments[5]);
  options.batch_tokens = std::atoi(arguments[6]);
  options.max_tokens = std::atoi(arguments[7]);
  TESSERA_ASSIGN_OR_RETURN(const ModelDirectory home, find_model(arguments[1]));
  TESSERA_ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::open(home.transformer));
  TESSERA_ASSIGN_OR_RETURN(const Architecture architecture, read_architecture(checkpoint));
  TESSERA_ASSIGN_OR_RETURN(const auto batches, read_batches(home, architecture, options));
  for (int64_t number = 0; number < std::atoi(arguments[4]); ++number)
    std::printf("%s\n", to_json(batches->batch(number)).dump().c_str());
  return {};
}

}  // namespace
}  // namespace tessera

int main(int count, char** arguments) {
  if (count != 8) {
    std::fprintf(stderr, "usage: %s MODEL TASK DATA COUNT BATCH BATCH_TOKENS MAX_TOKENS\n",
                 arguments[0]);
    return 2;
  }
  const tessera::Status status = tessera::print(arguments);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.message().c_str());
  return status.ok() ? 0 : 1;
}
