#!/usr/bin/env python3
"""Holds one engine; `run` starts it and speaks with it in lines of JSON.

    worker.py ENGINE PRECISION CHECKPOINT CASES.json THREADS
    {"case": "1x128", "seconds": 1.5, "samples": 3} -> {"version": ..., "milliseconds": [...]}: at least so many samples;
                                                       with 0 of both, one that is not counted: caches and clocks
    {"case": "1x128", "output": "x.npy"}            -> {"version": ...}: what the engine computes, for comparison
    Beside "version" stand "weight_bytes", of the matrices that every token meets, where the engine tells, and "amx",
    whether it has asked for AMX and may use it.
    An engine that does not do such a case answers {"skipped": true}, a failure is {"error": ...}.
"""

import json
import os
import sys
import time

import numpy as np

import amx
from checkpoint import Checkpoint
from engines import engine_class


class Worker:
    def __init__(self, name, precision, directory, cases, threads):
        self.cases = {case["name"]: case for case in json.load(open(cases, encoding="utf-8"))["cases"]}
        self.checkpoint = Checkpoint(directory)
        self.engine = engine_class(name)(self.checkpoint, threads, precision)
        self.name, self.run = None, None

    def started(self, name):
        if self.name != name:
            self.run = None  # before the next one takes its memory
            self.run, self.name = self.engine.start(self.cases[name]), name
            self.checkpoint.release()
            if self.run is not None:
                self.run.sample()
        return self.run

    def about(self):
        return {"version": self.engine.version, "weight_bytes": self.engine.weight_bytes, "amx": amx.is_granted()}

    def answer(self, command):
        run = self.started(command["case"])
        if run is None:
            return {"skipped": True}
        if "output" in command:
            np.save(command["output"], run.result())
            return self.about()
        if command["samples"] == 0:
            run.sample()
        seconds, begin = [], time.perf_counter()
        while len(seconds) < command["samples"] or time.perf_counter() - begin < command["seconds"]:
            seconds += run.sample()
        return {**self.about(), "milliseconds": [1e3 * s for s in seconds]}


def main():
    # What the engines print must not stand between our lines.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    name, precision, directory, cases, threads = sys.argv[1:]
    worker = None
    for line in sys.stdin:
        try:
            worker = worker or Worker(name, precision, directory, cases, int(threads))
            answer = worker.answer(json.loads(line))
        except Exception as error:  # whatever an engine throws is its answer
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
