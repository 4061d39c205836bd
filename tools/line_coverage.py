#!/usr/bin/env python3
"""Adds up what gcov says (JSON documents, one a line, on standard input) for the sources in some folders.

    gcov --json-format --stdout *.gcda | tools/line_coverage.py [--least PERCENT] FOLDER...

Prints a line for every file and for every folder; fails where a folder is below PERCENT.
"""

import argparse
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def read_counts(documents):
    """Gives {path below the root: {line: runs}}."""
    counts = {}
    for document in documents:
        report = json.loads(document)
        for file in report["files"]:
            path = (pathlib.Path(report["current_working_directory"]) / file["file"]).resolve()
            if not path.is_relative_to(ROOT):
                continue
            lines = counts.setdefault(path.relative_to(ROOT).as_posix(), {})
            for line in file["lines"]:
                number = line["line_number"]
                lines[number] = lines.get(number, 0) + line["count"]
    return counts


def is_measured(path):
    name = pathlib.Path(path).name
    return not name.endswith(("_test.cc", "_bench.cc", "testing.h"))


def row(name, ran, total):
    percent = 100 * ran / total if total else 100.0
    print(f"{name:44} {ran:6} of {total:6} lines  {percent:6.1f}%")
    return percent


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--least", type=float, default=0)
    parser.add_argument("folders", nargs="+")
    arguments = parser.parse_args()
    counts = read_counts(line for line in sys.stdin if line.strip())
    passed = True
    totals = []
    for folder in arguments.folders:
        files = {path: lines for path, lines in counts.items() if path.startswith(folder + "/") and is_measured(path)}
        for path in sorted(files):
            row(path, sum(runs > 0 for runs in files[path].values()), len(files[path]))
        ran = sum(runs > 0 for lines in files.values() for runs in lines.values())
        totals.append((folder, ran, sum(map(len, files.values()))))
    for folder, ran, total in totals:
        if not total:
            sys.exit(f"{folder}: expected lines that gcov knows, found none")
        passed &= row(folder, ran, total) >= arguments.least
    if not passed:
        sys.exit(f"Expected at least {arguments.least:g}% in every folder.")


if __name__ == "__main__":
    main()
