#!/usr/bin/env python3
"""Fits the planner's cost model to measurements and prints src/plan/coefficients.inc.

    for isa in avx2 avx512 avx512_vnni amx; do
        TESSERA_ISA=$isa linear_bench 30 cost 1 > $isa.jsonl
    done
    tessera machine --threads 1 --no-keep --json > machine.json
    tools/fit_cost_model.py --machine machine.json -- *.jsonl > src/plan/coefficients.inc

A product of one thread takes rows * (multiplied a + inputs b + outputs c) nanoseconds. For each form, numbers and
instruction set a, b and c >= 0 have the least sum of squared relative errors from the least time of each measured
shape: other processes can only make a product slower. Measured several times, a product counts with its least, and
the machine with its best. The largest relative error of the fit is printed as the deviation, and as a comment how far
the medians were above the least: how busy the machine was. Only the standard library is needed.
"""

import argparse
import itertools
import json
import statistics
import sys

# The instruction set of a kernel's row, as in src/base/isa.h.
ISAS = {"avx2": "kAvx2", "avx512": "kAvx512", "avx512_vnni": "kAvx512Vnni", "avx512_bf16": "kAvx512Bf16", "amx": "kAmx"}
FORMS = {
    "dense": "kDense",
    "tiles 16x16": "kTiles",
    "tiles 8x16": "kNarrowTiles",
    "tiles 16x1": "kSingleInputs",
    "elements": "kSingleWeights",
}
NUMBERS = {"f32": "kF32", "bf16": "kBF16", "int8": "kInt8", "int4": "kInt4", "w8": "kW8", "w4": "kW4"}
# What this machine could not measure: (form, numbers, isa), what it is like, how many times as fast it is, and where
# that comes from. With AMX half of the tiles took 2.6 times as long as all of dense bf16 and 0.94 to 1.25 times as long as
# dense int8; without, they take 0.52 and 0.5 to 0.7.
DERIVED = [
    (("kDense", "kBF16Rows", "avx512_bf16"), ("kDense", "kBF16", "avx512"), 235 / 115, "AMD Zen 4: 235 beside 115 GFLOP/s"),
    (("kDense", "kBF16Rows", "amx"), ("kDense", "kBF16", "avx512"), 2.6 / 0.52, "Sapphire Rapids"),
    (("kDense", "kInt8", "amx"), ("kDense", "kInt8", "avx512_vnni"), 2, "Sapphire Rapids"),
]
HEADER = """\
// Made by tools/fit_cost_model.py, which says how; nanoseconds of one core, see cost_model.h.
//   TESSERA_COST_MACHINE(cpu, its peak of f32 in GFLOP/s, its reads of memory in GB/s)
//   TESSERA_COST(form, numbers, instruction set, multiply, input, output, largest deviation)
// clang-format off"""


def solve(rows, targets):
    """Least squares by the normal equations; None where these have no single solution."""
    n = len(rows[0])
    matrix = [
        [sum(r[i] * r[j] for r in rows) for j in range(n)] + [sum(r[i] * t for r, t in zip(rows, targets))]
        for i in range(n)
    ]
    for i in range(n):
        pivot = max(range(i, n), key=lambda k: abs(matrix[k][i]))
        if abs(matrix[pivot][i]) < 1e-12:
            return None
        matrix[i], matrix[pivot] = matrix[pivot], matrix[i]
        for k in range(n):
            if k != i:
                factor = matrix[k][i] / matrix[i][i]
                matrix[k] = [x - factor * y for x, y in zip(matrix[k], matrix[i])]
    return [matrix[i][n] / matrix[i][i] for i in range(n)]


def fit(points):
    """a, b, c >= 0 and the largest relative error; points: (features, nanoseconds)."""
    best = None
    for size in (1, 2, 3):
        for chosen in itertools.combinations(range(3), size):
            if 0 not in chosen or size > len(points):
                continue
            # Each feature in units of the first point's, so that the equations are well scaled.
            unit = [points[0][0][i] for i in chosen]
            rows = [[f[i] / u / t for i, u in zip(chosen, unit)] for f, t in points]
            scale = max(max(row) for row in rows)
            found = solve([[x / scale for x in row] for row in rows], [1.0] * len(rows))
            if found is None or min(found) < 0:
                continue
            values = [0.0, 0.0, 0.0]
            for i, u, value in zip(chosen, unit, found):
                values[i] = value / scale / u
            errors = [sum(v * x for v, x in zip(values, f)) / t - 1 for f, t in points]
            square = sum(e * e for e in errors)
            if best is None or square < best[0]:
                best = (square, values, max(abs(e) for e in errors))
    return best[1], best[2]


def isa_of(record):
    row = record["kernel"].rsplit(":", 1)[-1]
    return row if row in ISAS else record["isa"]


def read(paths):
    """Least time and spread of each product by (form, numbers, isa)."""
    groups = {}
    for path in paths:
        with open(path, encoding="utf-8") as lines:
            for record in map(json.loads, lines):
                if record["format"] not in FORMS or record["dtype"] not in NUMBERS:
                    continue
                numbers = NUMBERS[record["dtype"]]
                if "bf16_matmul" in record["kernel"]:
                    numbers = "kBF16Rows"
                key = (FORMS[record["format"]], numbers, isa_of(record))
                shape = (record["rows"], record["inputs"], record["outputs"], record["multiplied"])
                products = groups.setdefault(key, {})
                least, spreads = products.get(shape, (float("inf"), []))
                products[shape] = (
                    min(least, record["least_microseconds"] * 1e3),
                    spreads + [record["microseconds"] / record["least_microseconds"] - 1],
                )
    return groups


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machine", nargs="+", required=True, help="what `tessera machine --json` printed")
    parser.add_argument("measurements", nargs="+", help="what `linear_bench ROUNDS cost 1` printed")
    options = parser.parse_args()
    alone = []
    for path in options.machine:
        with open(path, encoding="utf-8") as file:
            machine = json.load(file)
        alone.append(next(speeds for speeds in machine["speeds"] if speeds["threads"] == 1))
    peak = max(speeds["peak_gflops"]["f32"] for speeds in alone)
    reads = max(speeds["read_gb_per_s"] for speeds in alone)
    print(HEADER)
    print(f'TESSERA_COST_MACHINE("{machine["cpu"]}", {peak:.1f}, {reads:.1f})')
    groups = read(options.measurements)
    isas = list(ISAS)
    fits = {}
    for key in sorted(groups, key=lambda key: (key[0], key[1], isas.index(key[2]))):
        form, numbers, isa = key
        points = []
        for (rows, inputs, outputs, multiplied), (least, _) in groups[key].items():
            points.append(([rows * multiplied, rows * inputs, rows * outputs], least))
        (a, b, c), deviation = fit(points)
        spread = statistics.median(s for _, spreads in groups[key].values() for s in spreads)
        print(
            f"TESSERA_COST({form}, {numbers}, {ISAS[isa]}, {a:.3g}, {b:.3g}, {c:.3g}, {deviation:.3f})"
            f"  // {len(points)} products, medians {100 * spread:.0f}% above the least"
        )
        fits[key] = (a, b, c, deviation)
    for (form, numbers, isa), source, factor, why in DERIVED:
        a, b, c, deviation = fits[source]
        print(
            f"TESSERA_COST({form}, {numbers}, {ISAS[isa]}, {a / factor:.3g}, {b / factor:.3g}, {c / factor:.3g}, {deviation:.3f})"
            f"  // not measured here; {why}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
