#include "tessera/version.h"
#include "tune/backend.h"
#include "tune/torch/training.h"

extern "C" __attribute__((visibility("default"))) const tessera::TuneBackend*
tessera_tune_backend();

const tessera::TuneBackend* tessera_tune_backend() {
  static const tessera::TuneBackend kBackend{tessera::version(), tessera::training::run_training};
  return &kBackend;
}
