"""Cells of f32, where every engine must compute the same."""

import sys

import numpy as np

from cells import Cell, round_medians, times_row
from common import CACHE
from suite import DECODERS_ONLY, work
from turns import OTHERS_ALLOWED, Tessera


class DenseCell(Cell):
    def engines(self, folder):
        peers = [self.peer(name, "f32", folder) for name in self.args.peers
                 if self.checkpoint.is_decoder or name not in DECODERS_ONLY]
        return [Tessera(self.args.tessera, self.checkpoint.directory, self.threads, CACHE), *peers]

    def compare(self, engines, folder):
        """Each engine's difference to torch (or the first that does such a case); who does not is left out."""
        results = self.outputs(engines, folder)
        expected = results.get("torch", next(iter(results.values())))
        apart = {}
        for name, found in results.items():
            if found.shape != expected.shape:
                sys.exit(f"{name}: expected an output of shape {expected.shape}, found {found.shape}")
            apart[name] = float(np.mean(found != expected) if self.case["kind"] == "decode" else
                                np.abs(found - expected).max() / np.abs(expected).max())
        return apart

    def summary(self, turns, apart):
        medians = round_medians(turns)
        fastest = np.min([times for name, times in medians.items() if name != "tessera"], axis=0)
        flops, bytes_ = work(self.checkpoint, self.case)
        peak, bandwidth = self.machine["gflops"][str(self.threads)], self.machine["gb_per_s"][str(self.threads)]
        bound_ms = 1e3 * max(flops / peak, bytes_ / bandwidth) / 1e9
        rows = [{"engine": name, **times_row(turns[name]), "ratio": float(np.median(times / fastest)),
                 "fraction_of_bound": float(bound_ms / np.median(times)), "difference": apart[name]}
                for name, times in medians.items()]
        return {"model": self.model, "case": self.case["name"], "kind": self.case["kind"], "threads": self.threads,
                "flops": flops, "bytes": bytes_, "bound_ms": bound_ms, "others_allowed": OTHERS_ALLOWED,
                "engines": sorted(rows, key=lambda row: row["median_ms"])}
