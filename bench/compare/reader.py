#!/usr/bin/env python3
"""Reads memory as fast as numpy does, to say what the machine allows now; speaks as worker.py does.

    reader.py BYTES THREADS
    {"seconds": 0.3} -> {"gb_per_s": ...}: the median pass over so many bytes, each of which is read once
"""

import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np


def main():
    bytes_, threads = map(int, sys.argv[1:])
    words = np.ones(max(1, bytes_ // 8), np.int64)
    parts = np.array_split(words, threads)
    with ThreadPoolExecutor(threads) as pool:
        for line in sys.stdin:
            passes, begin = [], time.perf_counter()
            while time.perf_counter() - begin < json.loads(line)["seconds"]:
                start = time.perf_counter()
                list(pool.map(np.bitwise_xor.reduce, parts))
                passes.append(time.perf_counter() - start)
            print(json.dumps({"gb_per_s": words.nbytes / statistics.median(passes) / 1e9}), flush=True)


if __name__ == "__main__":
    main()
