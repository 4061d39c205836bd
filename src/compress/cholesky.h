#pragma once

#include <cstdint>

#include "base/team.h"

// Symmetric positive definite systems in f64, row-major, by blocks that stay in the caches. team:
// null where the calling thread works alone, as it must within a team's work. The results do not
// depend on it.
namespace tessera {

// A = L L^T in the lower triangle of a [n, n]; the upper triangle is neither read nor written.
// False where A is not positive definite.
bool factor_cholesky(double* a, int64_t n, Team* team);
// x_r := A^-1 x_r for each of `count` rows of n values, by the factor.
void solve_cholesky(const double* l, int64_t n, double* x, int64_t count);
// L^-T, upper triangular with zeros below, into x [n, n].
void invert_factor(const double* l, int64_t n, double* x, Team* team);
// X X^T, for X of invert_factor the inverse of A, whole, into `inverse` [n, n].
void multiply_by_transpose(const double* x, int64_t n, double* inverse, Team* team);

// The kernel of all: c[i][j] -= sum_k a[i][k] b[j][k] for i < m, j < n, k < depth, with rows
// *_stride apart. Sums in f64 in an order that depends on the sizes alone.
struct Update {
  const double* a = nullptr;
  int64_t a_stride = 0;
  int64_t m = 0;
  const double* b = nullptr;
  int64_t b_stride = 0;
  int64_t n = 0;
  int64_t depth = 0;
  double* c = nullptr;
  int64_t c_stride = 0;
};
void subtract_product(const Update& update);

}  // namespace tessera
