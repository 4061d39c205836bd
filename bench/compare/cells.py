"""A cell is one case of a model at a number of threads: the engines' outputs are compared, then they are timed in turns.
Cells that are done are kept."""

import hashlib
import json
import os
import pathlib
import sys
import tempfile

import numpy as np

from common import CACHE, HERE, say
from programs import digest
from turns import EngineError, Peer

QUANTILES = {"median_ms": 0.5, "p10_ms": 0.1, "p90_ms": 0.9}


class Cell:
    """Subclasses say which engines, how their outputs are judged and what a row says."""

    def __init__(self, args, machine, checkpoint, case, threads):
        self.args, self.machine, self.checkpoint, self.case, self.threads = args, machine, checkpoint, case, threads
        self.model = checkpoint.directory.name

    def name(self):
        return f"{self.model}, {self.case['name']}, {self.threads} threads"

    def key(self):
        """What decides the result."""
        return [digest(self.args.tessera), (HERE / "requirements.txt").read_text(), self.case, self.args.rounds,
                self.args.seconds, self.args.samples, self.args.peers, self.args.no_amx]

    def path(self):
        name = hashlib.sha256(json.dumps(self.key()).encode()).hexdigest()[:12]
        words = self.name().replace(" threads", "").replace(", ", "-").replace(" ", "-")
        return CACHE / "cells" / f"{words}-{name}.json"

    def peer(self, name, precision, folder):
        return Peer(name, [sys.executable, str(HERE / "worker.py"), name, precision, str(self.checkpoint.directory),
                           str(folder / "cases.json"), str(self.threads)])

    def measure(self):
        with tempfile.TemporaryDirectory(dir=CACHE) as name:
            folder = pathlib.Path(name)
            (folder / "cases.json").write_text(json.dumps({"cases": [self.case]}))
            engines = self.engines(folder)
            try:
                judged = self.compare(engines, folder)
                timed = [engine for engine in engines if engine.name in judged]
                return self.summary(self.time(timed), judged)
            except EngineError as error:
                sys.exit(str(error))
            finally:
                for engine in engines:
                    engine.close()

    def resident_bytes(self):
        """What all engines hold together at least."""
        return len(self.args.peers) * self.checkpoint.weight_bytes()

    # Engines that cannot all stay in memory start anew each turn.
    def is_large(self):
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return 2.5 * self.resident_bytes() > 0.7 * available

    def outputs(self, engines, folder):
        """Of the engines that do such a case."""
        found = {}
        for engine in engines:
            output = self.output(engine, folder / "output.npy")
            if self.is_large():
                engine.close()
            if output is not None:
                found[engine.name] = output
        return found

    def output(self, engine, path):
        return engine.result(self.case, path)

    def time(self, engines):
        turns = {engine.name: [] for engine in engines}
        for i in range(self.args.rounds):
            # Every second round goes backwards, so that no engine always follows the same one.
            for engine in engines if i % 2 == 0 else reversed(engines):
                turns[engine.name].append(self.turn(engine))
                if self.is_large():
                    engine.close()
        return turns

    def turn(self, engine):
        return engine.time(self.case, self.args.seconds, self.args.samples)

    def result(self):
        path = self.path()
        if path.exists() and not self.args.fresh:
            return json.loads(path.read_text())
        if self.args.kept:
            return None
        say(self.name())
        cell = self.measure()
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(cell))
        part.replace(path)
        for row in cell["engines"]:
            say(f"  {row['engine']:18} {row['median_ms']:10.2f} ms  {row['ratio']:.3f}  {row['difference']:.1e}")
        return cell


def round_medians(turns):
    """Of each engine, a time a round."""
    return {name: np.array([np.median(turn["milliseconds"]) for turn in own]) for name, own in turns.items()}


def times_row(turns):
    """What a row says about the times of one engine's turns."""
    row = {name: float(np.median([np.quantile(turn["milliseconds"], share) for turn in turns]))
           for name, share in QUANTILES.items()}
    return {"version": turns[0]["version"], **row, "others": max(turn["others"] for turn in turns)}
