#!/usr/bin/env python3
"""Checks that every #include follows an arrow of the architecture.

    tools/check_includes.py [ROOT]      prints a line for each include that does not; exit code 1 if any
    tools/check_includes.py --self-test

The table below is the architecture: a folder includes itself and what it has an arrow to, and what that
has an arrow to. Third-party headers stand in .cc files only, so that our headers stay light.
"""

import pathlib
import re
import sys
import tempfile

ARROWS = {
    "base": [],
    "formats": ["base"],
    "kernels": ["formats"],
    "io": ["formats"],
    "tokenizer": ["io"],
    "linear": ["kernels"],
    "attention": ["kernels"],
    "pruning": ["kernels", "io"],
    "plan": ["linear", "attention", "pruning", "io"],
    "model": ["plan", "io"],
    "runtime": ["model", "tokenizer"],
    "plot": ["base"],
    "evaluate": ["runtime"],
    "compress": ["evaluate"],
    "report": ["compress", "plot"],
    "tune": ["compress", "plot"],
    "c": ["report", "tune"],
    "simulate": ["base"],
}
# Families are strangers to each other, but for the vocabulary of an epilogue, what packs rows, and the loops and
# the epilogue that products of the same panels share.
FAMILY_ARROWS = {
    "matmul": ["activation"],
    "tile_matmul": ["activation", "transpose"],
    "tile_int8_matmul": ["activation", "tile_matmul"],
    "csr_matmul": ["activation", "transpose"],
    "int8_matmul": ["activation", "matmul"],
    "group_matmul": ["activation", "matmul"],
    "bf16_matmul": ["activation", "matmul"],
}
# The public headers and the folders, with all that include them, that give them their code.
PUBLIC = {
    "export.h": "base",
    "names.h": "base",
    "status.h": "base",
    "version.h": "base",
    "chat.h": "runtime",
    "tokenizer.h": "tokenizer",
    "records.h": "io",
    "machine.h": "plan",
    "pruning.h": "pruning",
    "model.h": "model",
    "engine.h": "runtime",
    "tasks.h": "runtime",
    "embedder.h": "runtime",
    "evaluate.h": "evaluate",
    "search.h": "evaluate",
    "compress.h": "compress",
    "report.h": "report",
    "tune.h": "tune",
    "tessera.h": "c",
}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
TEST_FILE = re.compile(r"(^|_)(test|bench|fuzz)\.cc$")
TEST_HEADER = re.compile(r"(^|_)(testing|bench)\.h$")
# Compiled for one instruction set: an inline function shared with other files could be linked from
# here and run on a CPU without it.
ISA_FILE = re.compile(r"(^|_)(avx2|avx512(_[a-z0-9]+)?|amx)\.(cc|h)$")
C_HEADERS = {"math.h", "stddef.h", "stdint.h", "string.h", "float.h"}
STANDARD_IN_HEADERS = re.compile(r"^[a-z_0-9]+$|^immintrin\.h$|^(%s)$" % "|".join(map(re.escape, sorted(C_HEADERS))))


def reach(folder):
    found, waiting = set(), [folder]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += ARROWS.get(name, [])
    return found


def refuse_angle(path, included):
    # Training works on the tensors of libtorch throughout; nothing outside of this folder includes its headers.
    if path.parent.name == "torch" and included == "torch/types.h":
        return None
    if ISA_FILE.search(path.name):
        if included != "immintrin.h" and included not in C_HEADERS:
            return "files of one instruction set include <immintrin.h> and C headers only"
    elif path.suffix == ".h" and not STANDARD_IN_HEADERS.match(included) and not TEST_HEADER.search(path.name):
        return "third-party and system headers stand in .cc files only"
    return None


def refuse_kernel(path, family, included):
    """The rules inside src/kernels; family is None for the files that stand above the families."""
    parts = included.split("/")
    if ISA_FILE.search(path.name):
        own = parts[1] == family or parts[1] in FAMILY_ARROWS.get(family, []) or parts[1].startswith("vector_math")
        return None if own else "files of one instruction set include their family and kernels/vector_math*.h only"
    if family is None or len(parts) == 2 or TEST_FILE.search(path.name):
        return None
    if parts[1] != family and parts[1] not in FAMILY_ARROWS.get(family, []):
        return f"no arrow from kernels/{family} to kernels/{parts[1]}"
    return None


def refuse_in_src(path, parts, included):
    folder = parts[1]
    if folder not in ARROWS:
        return f"src/{folder} is not in the table of tools/check_includes.py"
    target = included.split("/")[0]
    family = parts[2] if folder == "kernels" and len(parts) > 3 else None
    if ISA_FILE.search(path.name) and target != "kernels":
        return "files of one instruction set include their family and kernels/vector_math*.h only"
    if target == "tessera":
        owner = PUBLIC.get(included.split("/", 1)[1])
        return None if owner in reach(folder) else f"no arrow from {folder} to this public header"
    if target == "kernels" and folder == "kernels":
        return refuse_kernel(path, family, included)
    if target not in reach(folder) and not (TEST_FILE.search(path.name) and target == "kernels"):
        return f"no arrow from {folder} to {target}"
    return None


def refuse(root, path, style, included):
    """Why the file may not include this, or None."""
    parts = path.relative_to(root).parts
    if style == "<":
        return refuse_angle(path, included)
    if parts[0] == "include":
        return None if included.startswith("tessera/") else "the public headers include std and tessera/ only"
    if parts[0] == "apps":
        own = (root / "apps" / included).exists()
        return None if own or included.startswith("tessera/") else "programs include tessera/ and their own headers only"
    if parts[0] == "src":
        return refuse_in_src(path, parts, included)
    return None


def violations(root):
    for top in ("include", "src", "apps", "bench", "fuzz", "tests"):
        for path in sorted((root / top).rglob("*")):
            if path.suffix not in (".h", ".cc", ".cu", ".inc"):
                continue
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                match = INCLUDE.match(line)
                reason = match and refuse(root, path, match[1], match[2])
                if reason:
                    yield f"{path.relative_to(root)}:{number}: {match[2]}: {reason}"


GOOD = [
    ("src/base/status.h", '#include "tessera/status.h"'),
    ("src/kernels/norm/test.cc", '#include "kernels/testing.h"'),
    ("src/kernels/tile_bench.h", "#include <benchmark/benchmark.h>"),
    ("src/kernels/norm/avx2.cc", "#include <immintrin.h>"),
    ("src/kernels/norm/avx2.cc", '#include "kernels/norm/norm.h"'),
    ("src/model/bert.cc", '#include "kernels/norm/norm.h"'),
    ("src/io/config.cc", "#include <nlohmann/json.hpp>"),
    ("apps/cli/run.cc", '#include "tessera/engine.h"'),
    ("src/tune/torch/network.h", "#include <torch/types.h>"),
]
BAD = [
    ("src/base/team.cc", '#include "formats/panels.h"'),
    ("src/io/config.cc", '#include "kernels/family.h"'),
    ("src/linear/dense.cc", '#include "attention/method.h"'),
    ("src/model/bert.cc", '#include "tokenizer/tokenizer.h"'),
    ("src/attention/flash.cc", '#include "tessera/model.h"'),
    ("src/io/config.h", "#include <nlohmann/json.hpp>"),
    ("src/kernels/norm/avx2.cc", "#include <vector>"),
    ("src/kernels/vector_math_avx2.h", "#include <vector>"),
    ("src/kernels/norm/avx512_bf16.cc", '#include "base/dtype.h"'),
    ("src/kernels/norm/ref.cc", '#include "kernels/softmax/softmax.h"'),
    ("src/surprise/a.cc", '#include "base/dtype.h"'),
    ("include/tessera/model.h", '#include "base/dtype.h"'),
    ("include/tessera/model.h", "#include <fmt/format.h>"),
    ("apps/cli/run.cc", '#include "runtime/sampling.h"'),
    ("src/tune/batch.h", "#include <torch/types.h>"),
]


def self_test():
    for expected, examples in ((0, GOOD), (1, BAD)):
        for name, line in examples:
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder) / name
                path.parent.mkdir(parents=True)
                path.write_text(line + "\n", encoding="utf-8")
                found = list(violations(pathlib.Path(folder)))
                assert len(found) == expected, f"{name}: {line}: expected {expected} complaints, found {found}"
    print(f"{len(GOOD)} good and {len(BAD)} bad includes told apart")


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return 0
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent).resolve()
    found = list(violations(root))
    print("\n".join(found) or "every include follows an arrow")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
