#pragma once

#include <torch/types.h>

#include <cstdint>

namespace tessera::training {

// A matrix of a product as it lies in memory: row-major, rows `stride` floats apart.
struct Operand {
  const float* data = nullptr;
  int64_t stride = 0;
  enum class Read { kAsStored, kTransposed } read = Read::kAsStored;
};

//   c = alpha a b + beta c
// a: [rows, depth], b: [depth, cols], as they are read; c: [rows, cols], apart from both. With beta
// 0 what c holds is not read.
struct Product {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t depth = 0;
  Operand a;
  Operand b;
  float* c = nullptr;
  int64_t c_stride = 0;
  float alpha = 1;
  float beta = 0;
};

// By oneDNN, on all threads of OpenMP or inside of a parallel region by the calling thread;
// products of very few numbers by a kernel of ours, by the calling thread. Throws c10::Error. Equal
// products of equal numbers of threads give equal bits.
void multiply(const Product& product);

// A matrix of f32 whose rows lie one after another.
Operand read(const torch::Tensor& matrix, Operand::Read how = Operand::Read::kAsStored);
// a b in a matrix of its own.
torch::Tensor product(int64_t rows, int64_t cols, int64_t depth, const Operand& a,
                      const Operand& b);

}  // namespace tessera::training
