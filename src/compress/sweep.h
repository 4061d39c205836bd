#pragma once

#include <cstdint>
#include <functional>

#include "base/status.h"
#include "base/team.h"
#include "compress/mask.h"
#include "compress/statistics.h"

namespace tessera {

// What stays of a weight, row[input] of an output. row: all of its weights; those before input are
// final, and `input` and those of its group have taken up the errors of all before them.
using Stay = std::function<double(int64_t output, int64_t input, const double* row)>;

// Replaces every weight of W by what stays of it, input by input, and spreads each error over the
// weights behind it so that (W - W') H (W - W')^T grows least (Hassibi & Stork 1993; in a fixed
// order for all outputs: GPTQ, Frantar et al. 2022, and SparseGPT 2023):
//   e = (w_j - stay(w_j)) / R_jj,  w_k -= e R_kj for k > j,  with H^-1 = R R^T, R lower triangular
// hessian: null where each weight is alone; its root is made where it has none. group: inputs that
// `stay` looks at ahead where it comes to the first of them, 0: all. `stay` is called by several
// threads, for one output by one and in order. The result does not depend on the team.
// kInvalidInput where H is not positive definite.
Status sweep(Hessian* hessian, int64_t group, const Stay& stay, Weight& weight, Team& team);

}  // namespace tessera
