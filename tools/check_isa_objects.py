#!/usr/bin/env python3
"""Checks that objects of one instruction set share no code with others: tools/check_isa_objects.py BUILD_FOLDER

An inline function or an instance of a template is a weak symbol of every object that uses it, and the linker takes any
of them. One that was compiled for AVX-512 would then run where the CPU has none.
"""

import pathlib
import re
import subprocess
import sys

OBJECT = re.compile(r"/(avx2|avx512(_[a-z0-9]+)?|amx)\.cc\.o$")
WEAK = re.compile(r"^[0-9a-f ]* [WVu] (.*)$")
# A pointer to the runtime's function, no code, and the same in every object.
SAME_ANYWHERE = re.compile(r"^DW\.ref\.")


def weak_symbols(path):
    lines = subprocess.run(["nm", "-C", path], check=True, capture_output=True, text=True).stdout.splitlines()
    symbols = (match[1] for match in map(WEAK.match, lines) if match)
    return [symbol for symbol in symbols if not SAME_ANYWHERE.match(symbol)]


def main():
    objects = sorted(path for path in map(str, pathlib.Path(sys.argv[1]).rglob("*.cc.o")) if OBJECT.search(path))
    found = [(path, symbol) for path in objects for symbol in weak_symbols(path)]
    for path, symbol in found:
        print(f"{path}: weak symbol {symbol}")
    print(f"{len(objects)} objects of one instruction set, {len(found)} weak symbols")
    return 1 if found or not objects else 0


if __name__ == "__main__":
    sys.exit(main())
