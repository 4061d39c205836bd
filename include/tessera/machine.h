#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tessera/export.h"
#include "tessera/status.h"

// What this machine can do at most: the roof that `tessera bench --roofline` holds a model against,
// and the crossovers by which a plan chooses. Measured on request, kept in a file, never measured
// again in silence.
namespace tessera {

struct ReadSpeed {
  int32_t streams = 1;  // runs of memory that each thread reads side by side
  bool huge_pages = false;
  double gb_per_s = 0;  // 10^9 bytes, all threads
};

// At one number of threads. 0 where the CPU lacks the instructions.
struct MachineSpeeds {
  int32_t threads = 1;
  double f32_gflops = 0;   // multiplications and additions, in registers
  double bf16_gflops = 0;  // dot products of bf16 pairs
  double int8_gflops = 0;  // dot products of four bytes
  std::vector<ReadSpeed> reads = {};
  double read_gb_per_s = 0;  // the best of them
};

// Up to so many keys one softmax pass over whole score rows is faster than an online one.
struct AttentionCrossover {
  int32_t head_size = 0;
  int32_t on_the_fly_up_to_keys = 0;
};

struct TESSERA_API MachineTable {
  std::string cpu = {};
  int64_t l1_data_bytes = 0, l2_bytes = 0, l3_bytes = 0;  // 0: unknown
  std::vector<MachineSpeeds> speeds = {};                 // by number of threads, ascending
  std::vector<AttentionCrossover> crossovers = {};        // by head size, ascending

  // The measured speeds of so many threads, else null.
  const MachineSpeeds* at(int32_t threads) const;
};

struct MachineOptions {
  std::vector<int32_t> threads = {};  // empty: 1 and every CPU this process may use
  double seconds = 0.3;               // a measurement, each the best of several parts
  int64_t read_bytes = 0;             // 0: four times the last cache, from 256 MB to 1 GB
  int32_t most_keys = 4096;           // the longest attention tried for the crossovers
  std::function<bool(int64_t done, int64_t total)> on_progress = {};  // false cancels (kCancelled)
};

TESSERA_API Result<MachineTable> measure_machine(const MachineOptions& options = {});

// $TESSERA_MACHINE, else machine.json in tessera's folder of $XDG_CACHE_HOME or ~/.cache; empty
// where the environment names no home.
TESSERA_API std::string machine_table_path();
// kNotFound: nothing was kept. kInvalidInput: the file is no machine table, or of another CPU.
TESSERA_API Result<MachineTable> read_machine_table(const std::string& path);
// Makes the folder; replaces the file whole.
TESSERA_API Status write_machine_table(const MachineTable& table, const std::string& path);
TESSERA_API std::string machine_table_json(const MachineTable& table);

}  // namespace tessera
