#include "compress/cholesky.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace tessera {
namespace {

typedef double Pair __attribute__((vector_size(16)));

constexpr int64_t kBlock = 32;   // columns of a panel: few enough for plain loops within
constexpr int64_t kDepth = 256;  // so that a block of b, kBlock x kDepth, lies in half an L2
constexpr int64_t kRows = 4, kCols = 2;  // sums in registers: 8 pairs of 16

Pair load(const double* source) {
  Pair pair;
  std::memcpy(&pair, source, sizeof(pair));
  return pair;
}

double sum(Pair pair) { return pair[0] + pair[1]; }

void subtract_tile(const Update& u, int64_t i, int64_t j, int64_t first, int64_t depth) {
  Pair sums[kRows][kCols] = {};
  const double* a = u.a + i * u.a_stride + first;
  const double* b = u.b + j * u.b_stride + first;
  int64_t k = 0;
  for (; k + 2 <= depth; k += 2) {
    const Pair b0 = load(b + k), b1 = load(b + u.b_stride + k);
    for (int64_t r = 0; r < kRows; ++r) {
      const Pair left = load(a + r * u.a_stride + k);
      sums[r][0] += left * b0;
      sums[r][1] += left * b1;
    }
  }
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t s = 0; s < kCols; ++s) {
      double total = sum(sums[r][s]);
      if (k < depth) total += a[r * u.a_stride + k] * b[s * u.b_stride + k];
      u.c[(i + r) * u.c_stride + j + s] -= total;
    }
  }
}

void subtract_one(const Update& u, int64_t i, int64_t j, int64_t first, int64_t depth) {
  const double* a = u.a + i * u.a_stride + first;
  const double* b = u.b + j * u.b_stride + first;
  Pair pairs = {};
  int64_t k = 0;
  for (; k + 2 <= depth; k += 2) pairs += load(a + k) * load(b + k);
  double total = sum(pairs);
  if (k < depth) total += a[k] * b[k];
  u.c[i * u.c_stride + j] -= total;
}

void in_parts(Team* team, int64_t total, const std::function<void(Range)>& work) {
  if (team == nullptr) {
    work({0, total});
  } else {
    team->parallel_for(total, 1, work);
  }
}

// The p-th block in an order of which every half has as much work, where early blocks have more.
int64_t mixed(int64_t p, int64_t blocks) { return p % 2 == 0 ? p / 2 : blocks - 1 - p / 2; }

// The diagonal block at j, from what is left of it.
bool factor_block(double* a, int64_t n, int64_t j, int64_t width) {
  for (int64_t r = j; r < j + width; ++r) {
    for (int64_t c = j; c <= r; ++c) {
      double value = a[r * n + c];
      for (int64_t k = j; k < c; ++k) value -= a[r * n + k] * a[c * n + k];
      if (c < r) {
        a[r * n + c] = value / a[c * n + c];
      } else if (!(value > 0) || !std::isfinite(value)) {
        return false;
      } else {
        a[r * n + c] = std::sqrt(value);
      }
    }
  }
  return true;
}

// row[0 .. width) := the solution x of x L^T = row, with the block of L at (j, j).
void solve_block(const double* l, int64_t n, int64_t j, int64_t width, double* row) {
  for (int64_t c = 0; c < width; ++c) {
    const double* line = l + (j + c) * n + j;
    double value = row[c];
    for (int64_t k = 0; k < c; ++k) value -= row[k] * line[k];
    row[c] = value / line[c];
  }
}

// x [count, n] := the solution of x L^T = x, of which row r is zero before column zeros(r).
struct Forward {
  const double* l = nullptr;
  int64_t n = 0;
  double* x = nullptr;
  Range rows;
};
void solve_forward(const Forward& f, int64_t first) {
  for (int64_t j = first; j < f.n; j += kBlock) {
    const int64_t width = std::min(kBlock, f.n - j);
    double* target = f.x + f.rows.begin * f.n;
    subtract_product({.a = target + first,
                      .a_stride = f.n,
                      .m = f.rows.size(),
                      .b = f.l + j * f.n + first,
                      .b_stride = f.n,
                      .n = width,
                      .depth = j - first,
                      .c = target + j,
                      .c_stride = f.n});
    for (int64_t r = f.rows.begin; r < f.rows.end; ++r)
      solve_block(f.l, f.n, j, width, f.x + r * f.n + j);
  }
}

}  // namespace

void subtract_product(const Update& u) {
  for (int64_t first = 0; first < u.depth; first += kDepth) {
    const int64_t depth = std::min(kDepth, u.depth - first);
    int64_t i = 0;
    for (; i + kRows <= u.m; i += kRows) {
      int64_t j = 0;
      for (; j + kCols <= u.n; j += kCols) subtract_tile(u, i, j, first, depth);
      for (; j < u.n; ++j) {
        for (int64_t r = 0; r < kRows; ++r) subtract_one(u, i + r, j, first, depth);
      }
    }
    for (; i < u.m; ++i) {
      for (int64_t j = 0; j < u.n; ++j) subtract_one(u, i, j, first, depth);
    }
  }
}

bool factor_cholesky(double* a, int64_t n, Team* team) {
  for (int64_t j = 0; j < n; j += kBlock) {
    const int64_t width = std::min(kBlock, n - j);
    const Update panel{
        .a_stride = n, .b = a + j * n, .b_stride = n, .n = width, .depth = j, .c_stride = n};
    // Above the diagonal of the block lies what must not be touched.
    for (int64_t r = j; r < j + width; ++r) {
      Update row = panel;
      row.a = a + r * n;
      row.m = 1;
      row.n = r - j + 1;
      row.c = a + r * n + j;
      subtract_product(row);
    }
    if (!factor_block(a, n, j, width)) return false;
    const int64_t below = j + width;
    in_parts(team, n - below, [&](Range part) {
      Update rows = panel;
      rows.a = a + (below + part.begin) * n;
      rows.m = part.size();
      rows.c = a + (below + part.begin) * n + j;
      subtract_product(rows);
      for (int64_t r = below + part.begin; r < below + part.end; ++r)
        solve_block(a, n, j, width, a + r * n + j);
    });
  }
  return true;
}

void solve_cholesky(const double* l, int64_t n, double* x, int64_t count) {
  solve_forward({l, n, x, {0, count}}, 0);
  for (int64_t k = n - 1; k >= 0; --k) {
    const double* line = l + k * n;
    for (int64_t r = 0; r < count; ++r) {
      double* row = x + r * n;
      const double value = row[k] /= line[k];
      for (int64_t c = 0; c < k; ++c) row[c] -= value * line[c];
    }
  }
}

// The solution X of X L^T = 1, whose rows are zero before the diagonal.
void invert_factor(const double* l, int64_t n, double* x, Team* team) {
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  in_parts(team, blocks, [&](Range part) {
    for (int64_t p = part.begin; p < part.end; ++p) {
      const int64_t block = mixed(p, blocks);
      const Range rows{block * kBlock, std::min(n, (block + 1) * kBlock)};
      std::fill(x + rows.begin * n, x + rows.end * n, 0.0);
      for (int64_t r = rows.begin; r < rows.end; ++r) x[r * n + r] = 1;
      solve_forward({l, n, x, rows}, rows.begin);
    }
  });
}

void multiply_by_transpose(const double* x, int64_t n, double* inverse, Team* team) {
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  in_parts(team, blocks, [&](Range part) {
    for (int64_t p = part.begin; p < part.end; ++p) {
      const int64_t block = mixed(p, blocks);
      const int64_t i = block * kBlock, height = std::min(kBlock, n - i);
      std::fill(inverse + i * n, inverse + (i + height) * n, 0.0);
      subtract_product({.a = x + i * n + i,
                        .a_stride = n,
                        .m = height,
                        .b = x + i,
                        .b_stride = n,
                        .n = i + height,
                        .depth = n - i,
                        .c = inverse + i * n,
                        .c_stride = n});
    }
  });
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) inverse[i * n + j] = -inverse[i * n + j];
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i + 1; j < n; ++j) inverse[i * n + j] = inverse[j * n + i];
  }
}

}  // namespace tessera
