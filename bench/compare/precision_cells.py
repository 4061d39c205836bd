"""Cells of one precision below f32, where engines differ and each one's error is measured, against torch in f32."""

import json
import sys

import numpy as np

from cells import Cell, round_medians, times_row
from common import CACHE, HERE, call, compressed, say
from engines import PRECISIONS
from suite import DECODERS_ONLY
from turns import OTHERS_ALLOWED, EngineError, Peer, Tessera

READING_SECONDS = 0.3
BITS = {"bf16": 16, "int8": 8, "int4": 4, "w8": 8, "w4": 4}


class PrecisionCell(Cell):
    def __init__(self, args, machine, checkpoint, case, threads, precision):
        super().__init__(args, machine, checkpoint, case, threads)
        self.precision, self.left_out, self.reader = precision, {}, None
        self.peers = [name for name in PRECISIONS[precision] if name in args.peers and
                      (checkpoint.is_decoder or name not in DECODERS_ONLY)]

    def name(self):
        return f"{self.model}, {self.case['name']}, {self.precision}, {self.threads} threads"

    def key(self):
        return [*super().key(), self.args.prune_tiles]

    def resident_bytes(self):
        # torch packs integers twice, for few rows and for many.
        return (len(self.peers) + 1) * self.checkpoint.weight_bytes() * BITS[self.precision] // 32

    def tessera(self, name, precision, directory=None):
        return Tessera(self.args.tessera, directory or self.checkpoint.directory, self.threads, CACHE, name,
                       ["--dtype", precision])

    def is_pruned_too(self):
        return self.model == "bert-base" and self.args.prune_tiles > 0

    def pruned(self):
        share = self.args.prune_tiles
        target = CACHE / "pruned" / f"{self.model}-tiles-{share}"
        target.parent.mkdir(exist_ok=True)
        return compressed(self.args.tessera, self.checkpoint.directory, target, "--prune-tiles", share)

    def engines(self, folder):
        own = [self.tessera("tessera", self.precision), self.tessera("tessera f32", "f32")]
        if self.is_pruned_too():
            own.append(self.tessera(f"tessera, {self.args.prune_tiles:.0%} of tiles pruned", self.precision, self.pruned()))
        return own + [self.peer(name, self.precision, folder) for name in self.peers]

    def output(self, engine, path):
        """None also of an engine that fails, which the report names."""
        try:
            return super().output(engine, path)
        except EngineError as error:
            self.left_out[engine.name] = str(error).splitlines()[-1]
            say(f"  left out: {error}")
            return None

    def reference(self, engine, folder):
        try:
            return engine.result(self.case, folder / "reference.npy")
        finally:
            engine.close()

    def compare(self, engines, folder):
        """Each engine's errors; who does no such case is left out."""
        found = self.outputs(engines, folder)
        dense = self.reference(self.peer("torch", "f32", folder), folder)
        pruned = self.reference(self.tessera("reference", "f32", self.pruned()), folder) if self.is_pruned_too() else None
        return {name: self.errors(output, pruned if "pruned" in name else dense) for name, output in found.items()}

    def errors(self, found, expected):
        if found.shape != expected.shape:
            raise EngineError(f"expected an output of shape {expected.shape}, found {found.shape}")
        if self.case["kind"] == "decode":
            return {"difference": float(np.mean(found != expected))}
        apart = np.abs(found - expected) / np.abs(expected).max()
        return {"difference": float(apart.max()), "mean_difference": float(apart.mean()),
                "cosine": float(min(map(cosine, self.vectors(found), self.vectors(expected))))}

    def vectors(self, output):
        """What is used of an output: the mean of a text's states as its embedding, or the logits."""
        if self.case["kind"] == "prefill":
            return output
        ends = np.cumsum([len(ids) for ids in self.case["ids"]])
        return [part.mean(0) for part in np.split(output.astype(np.float64), ends[:-1])]

    def time(self, engines):
        if self.case["kind"] != "decode":
            return super().time(engines)
        # As many bytes as the weights have, so that caches help it as they help an engine.
        bytes_ = self.checkpoint.weight_bytes() * BITS[self.precision] // 32
        self.reader = Peer("reader", [sys.executable, str(HERE / "reader.py"), str(bytes_), str(self.threads)])
        try:
            return super().time(engines)
        finally:
            self.reader.close()

    def turn(self, engine):
        """While tokens are generated, with the bandwidth before and behind: it drifts on a machine that is shared."""
        if self.case["kind"] != "decode":
            return super().turn(engine)
        before = self.reader.ask({"seconds": READING_SECONDS})
        turn = super().turn(engine)
        behind = self.reader.ask({"seconds": READING_SECONDS})
        return {**turn, "bandwidth": (before["gb_per_s"] + behind["gb_per_s"]) / 2}

    def summary(self, turns, errors):
        medians = round_medians(turns)
        peers = [times for name, times in medians.items() if name in self.peers]
        fastest = np.min(peers, axis=0) if peers else np.full(self.args.rounds, np.nan)
        rows = []
        for name, times in medians.items():
            row = {"engine": name, **times_row(turns[name]), "ratio": float(np.median(times / fastest)),
                   "speedup_over_f32": float(np.median(medians["tessera f32"] / times)), **errors[name],
                   "amx": turns[name][0].get("amx")}
            if self.case["kind"] == "decode":
                row.update(self.reading(name, turns[name], times))
            rows.append(row)
        return {"model": self.model, "case": self.case["name"], "kind": self.case["kind"], "threads": self.threads,
                "precision": self.precision, "others_allowed": OTHERS_ALLOWED, "peers": self.peers,
                "left_out": self.left_out, "engines": sorted(rows, key=lambda row: row["median_ms"])}

    def reading(self, name, turns, times):
        """How fast weights are read: all that every token meets, with their scales, once a step."""
        bytes_ = turns[0]["weight_bytes"] if name in self.peers else self.own_weight_bytes(
            "f32" if name == "tessera f32" else self.precision)
        batch = len(self.case["ids"])
        row = {"tokens_per_second": float(np.median(1e3 * batch / times))}
        if bytes_ is not None:
            speeds = bytes_ / times / 1e6
            row.update(bits_per_weight=8 * bytes_ / self.checkpoint.weight_bytes(1), gb_per_s=float(np.median(speeds)),
                       of_bandwidth=float(np.median(speeds / [turn["bandwidth"] for turn in turns])))
        return row

    def own_weight_bytes(self, precision):
        plan = json.loads(call(self.args.tessera, "inspect", self.checkpoint.directory, "--dtype", precision, "--threads",
                               self.threads, "--json"))["plan"]
        layers = sum((group["last"] - group["first"] + 1) * sum(one["bytes"] for one in group["linear"].values())
                     for group in plan["layers"])
        return layers + plan["head"]["bytes"]


def cosine(a, b):
    a, b = (np.asarray(one, np.float64) for one in (a, b))
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
