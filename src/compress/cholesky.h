#pragma once

#include <cstdint>

#include "base/team.h"

// Symmetric positive definite systems in f64, row-major, by LAPACK on blocks of fixed sizes that a
// team shares out. LAPACK itself must work on the thread that calls it alone, see LapackThreads;
// the results then do not depend on the team, but on the CPU, by whose kernels sums are ordered.
namespace tessera {

// Holds LAPACK to one thread a call while it lives, where the system's LAPACK has threads of its
// own; the last one puts back what was set before.
class LapackThreads {
 public:
  LapackThreads();
  ~LapackThreads();
  LapackThreads(const LapackThreads&) = delete;
  LapackThreads& operator=(const LapackThreads&) = delete;
};

// A = L L^T in the lower triangle of a [n, n]; the upper triangle is neither read nor written.
// False where A is not positive definite.
bool factor_cholesky(double* a, int64_t n, Team& team);
// The same on the calling thread, as within a team's work.
bool factor_cholesky(double* a, int64_t n);
// x_r := A^-1 x_r for each of `count` rows of n values, by the factor, on the calling thread.
void solve_cholesky(const double* l, int64_t n, double* x, int64_t count);
// L^-T, upper triangular with zeros below, into x [n, n].
void invert_factor(const double* l, int64_t n, double* x, Team& team);
// X X^T, for X of invert_factor the inverse of A, whole, into `inverse` [n, n].
void multiply_by_transpose(const double* x, int64_t n, double* inverse, Team& team);

// c[i][j] -= sum_k a[i][k] b[j][k] for i < m, j < n, k < depth, with rows *_stride apart, on the
// calling thread.
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
