#include "compress/cholesky.h"

#include <cblas.h>
#include <f77blas.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <mutex>

namespace tessera {
namespace {

// Rows and columns of a block: deep enough for products at full speed, and few enough that 3072
// are two dozen units to share out.
constexpr int64_t kBlock = 128;

blasint size_of(int64_t n) { return static_cast<blasint>(n); }

std::mutex threads_mutex;
int threads_users = 0, threads_before = 1;

// Blocks in order, each by the member that is free.
void share_out(Team& team, int64_t blocks, const std::function<void(int64_t)>& work) {
  std::atomic<int64_t> next{0};
  team.run([&](Team::Member&) {
    for (int64_t block = next++; block < blocks; block = next++) work(block);
  });
}

int64_t blocks_of(int64_t n) { return (n + kBlock - 1) / kBlock; }

// LAPACK's columns are our rows, so that its upper triangle is our lower one.
bool factor(double* a, int64_t size, int64_t stride) {
  char triangle = 'U';
  blasint n = size_of(size), lead = size_of(stride), info = 0;
  BLASFUNC(dpotrf)(&triangle, &n, a, &lead, &info);
  if (info != 0) return false;
  for (int64_t i = 0; i < size; ++i) {
    if (!std::isfinite(a[i * stride + i])) return false;  // a value that is no number, passed on
  }
  return true;
}

}  // namespace

LapackThreads::LapackThreads() {
  const std::lock_guard lock(threads_mutex);
  if (threads_users++ > 0) return;
  threads_before = openblas_get_num_threads();
  if (threads_before > 1) openblas_set_num_threads(1);
}

LapackThreads::~LapackThreads() {
  const std::lock_guard lock(threads_mutex);
  if (--threads_users == 0 && threads_before > 1) openblas_set_num_threads(threads_before);
}

void subtract_product(const Update& u) {
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, size_of(u.m), size_of(u.n), size_of(u.depth),
              -1, u.a, size_of(u.a_stride), u.b, size_of(u.b_stride), 1, u.c, size_of(u.c_stride));
}

bool factor_cholesky(double* a, int64_t n) { return factor(a, n, n); }

bool factor_cholesky(double* a, int64_t n, Team& team) {
  for (int64_t j = 0; j < n; j += kBlock) {
    const int64_t width = std::min(kBlock, n - j);
    double* panel = a + j * n;
    cblas_dsyrk(CblasRowMajor, CblasLower, CblasNoTrans, size_of(width), size_of(j), -1, panel,
                size_of(n), 1, panel + j, size_of(n));
    if (!factor(panel + j, width, n)) return false;
    const int64_t below = j + width;
    share_out(team, blocks_of(n - below), [&](int64_t block) {
      const int64_t i = below + block * kBlock, height = std::min(kBlock, n - i);
      double* rows = a + i * n;
      subtract_product({.a = rows,
                        .a_stride = n,
                        .m = height,
                        .b = panel,
                        .b_stride = n,
                        .n = width,
                        .depth = j,
                        .c = rows + j,
                        .c_stride = n});
      cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, size_of(height),
                  size_of(width), 1, panel + j, size_of(n), rows + j, size_of(n));
    });
  }
  return true;
}

void solve_cholesky(const double* l, int64_t n, double* x, int64_t count) {
  char triangle = 'U';
  blasint size = size_of(n), rows = size_of(count), info = 0;
  BLASFUNC(dpotrs)(&triangle, &size, &rows, const_cast<double*>(l), &size, x, &size, &info);
}

// Rows of the solution X of X L^T = 1 are zero before the diagonal.
void invert_factor(const double* l, int64_t n, double* x, Team& team) {
  share_out(team, blocks_of(n), [&](int64_t block) {
    const int64_t i = block * kBlock, height = std::min(kBlock, n - i);
    double* rows = x + i * n;
    std::fill(rows, rows + height * n, 0.0);
    for (int64_t r = 0; r < height; ++r) rows[r * n + i + r] = 1;
    cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, size_of(height),
                size_of(n - i), 1, l + i * n + i, size_of(n), rows + i, size_of(n));
  });
}

void multiply_by_transpose(const double* x, int64_t n, double* inverse, Team& team) {
  share_out(team, blocks_of(n), [&](int64_t block) {
    const int64_t i = block * kBlock, height = std::min(kBlock, n - i);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, size_of(height), size_of(i + height),
                size_of(n - i), 1, x + i * n + i, size_of(n), x + i, size_of(n), 0, inverse + i * n,
                size_of(n));
  });
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i + 1; j < n; ++j) inverse[i * n + j] = inverse[j * n + i];
  }
}

}  // namespace tessera
