#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "base/team.h"
#include "compress/matrix.h"
#include "compress/statistics.h"
#include "tessera/compress.h"

namespace tessera {

// Whether passes left a matrix as a matrix has to be: sizes as before, finite values, and nothing
// where the mask or the integers have nothing.
Status verify(const Matrix& matrix);

// Fills the matrix's output error.
Status measure_output_error(const InputStatistics& statistics, Team& team, Matrix& matrix);

// Reports the matrix in the format that it is written in, whose invariants are checked.
Result<MatrixReport> report_of(const Matrix& matrix);

}  // namespace tessera
