#!/usr/bin/env python3
"""Measures Tessera's tokenizer beside the `tokenizers` package over the lines of a text.

    cmake -B build -DTESSERA_BENCHMARKS=ON && ninja -C build tokenizer_bench
    python3 bench/compare/tokenizers.py TEXT DIRECTORY [DIRECTORY ...] --bench build/bin/tokenizer_bench

Each DIRECTORY has a tokenizer.json. First all token ids must be equal. Then both encode all lines in
turns, on one thread and on two, so that the machine's moods meet both: Tessera by encode_all, the package
by encode_batch_fast, which gives no offsets either, and with its threads set before it starts. Both have
encoded the text once before, as caches are part of both. A column is the median over the rounds, the
ratio the median over the rounds of Tessera's speed / the package's in the same round. Needs the package
tokenizers (`pip install tokenizers`). Exit code 1 when ids differ.
"""

import argparse
import array
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile


class Peer:
    """A process that encodes the text once for every line it is written, and answers the seconds."""

    def __init__(self, command, environment=None):
        self.process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **(environment or {})})

    def seconds(self, threads):
        self.process.stdin.write(f"{threads}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args[0]} ended with {self.process.wait()}")
        return float(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def serve_package(directory, text, ids_file):
    """The other side of a Peer: the package. Its number of threads is that of RAYON_NUM_THREADS."""
    import time

    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(pathlib.Path(directory) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    lines = read_lines(text)
    encodings = tokenizer.encode_batch_fast(lines)
    if ids_file:
        with open(ids_file, "wb") as file:
            for encoding in encodings:
                file.write(array.array("i", encoding.ids).tobytes())
    del encodings
    for _ in sys.stdin:
        start = time.perf_counter()
        encodings = tokenizer.encode_batch_fast(lines)
        seconds = time.perf_counter() - start
        del encodings
        print(f"{seconds:.6f}", flush=True)


def read_lines(path):
    lines = pathlib.Path(path).read_bytes().decode().split("\n")
    return lines if lines[-1] else lines[:-1]


def environment_of(threads):
    return {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false"}


def compare(directory, arguments, scratch):
    """The rows of one tokenizer, by number of threads."""
    ours, theirs = scratch / "tessera", scratch / "package"
    package = [arguments.python, __file__, arguments.text, directory, "--serve"]
    tessera = Peer([arguments.bench, directory, arguments.text, ours])
    peers = {threads: Peer([*package, *(["--ids", theirs] if threads == 1 else [])], environment_of(threads))
             for threads in arguments.threads}
    rows = []
    megabytes = os.path.getsize(arguments.text) / 1e6
    for threads, peer in peers.items():
        times = []
        for _ in range(arguments.rounds):
            times.append((tessera.seconds(threads), peer.seconds(threads)))
        rows.append({
            "tokenizer": pathlib.Path(directory).name, "threads": threads, "rounds": arguments.rounds,
            "tessera_mb_per_s": megabytes / statistics.median(a for a, _ in times),
            "tokenizers_mb_per_s": megabytes / statistics.median(b for _, b in times),
            "ratio": statistics.median(b / a for a, b in times),
            "ratio_least": min(b / a for a, b in times), "ratio_most": max(b / a for a, b in times)})
    for peer in [tessera, *peers.values()]:
        peer.close()
    if ours.read_bytes() != theirs.read_bytes():
        sys.exit(f"{directory}: the ids differ")
    for row in rows:
        row["tokens"] = ours.stat().st_size // 4
        row["ids_equal"] = True
    return rows


def print_table(rows):
    print(f"{'tokenizer':24} {'threads':>7} {'tokens':>9} {'tessera':>9} {'tokenizers':>10}  ratio (least to most)")
    for row in rows:
        print(f"{row['tokenizer']:24} {row['threads']:7} {row['tokens']:9} {row['tessera_mb_per_s']:9.1f} "
              f"{row['tokenizers_mb_per_s']:10.1f}  {row['ratio']:.2f} ({row['ratio_least']:.2f} to "
              f"{row['ratio_most']:.2f})")
    print("Speeds in MB/s of text; the ids of all tokens are equal.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", help="UTF-8 text whose lines are encoded")
    parser.add_argument("directories", nargs="+", metavar="DIRECTORY", help="of a tokenizer.json")
    parser.add_argument("--bench", default="build/bin/tokenizer_bench", help="Tessera's program")
    parser.add_argument("--python", default=sys.executable, help="a Python that has the package tokenizers")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--ids", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        # The directory of this file must not hide the package of the same name.
        here = pathlib.Path(__file__).resolve().parent
        sys.path[:] = [path for path in sys.path if pathlib.Path(path or ".").resolve() != here]
        serve_package(arguments.directories[0], arguments.text, arguments.ids)
        return
    rows = []
    for directory in arguments.directories:
        with tempfile.TemporaryDirectory() as scratch:
            rows += compare(directory, arguments, pathlib.Path(scratch))
    if arguments.json:
        print(json.dumps({"machine": platform.processor() or platform.machine(), "cpus": os.cpu_count(),
                          "text_bytes": os.path.getsize(arguments.text), "rows": rows}, indent=2))
    else:
        print_table(rows)


if __name__ == "__main__":
    main()
