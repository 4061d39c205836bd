"""The plots of the benchmarks, drawn by `tessera plot` like those of every other command."""

import json
import os
import pathlib
import subprocess
import sys

# TESSERA names another program than the one that quickstart builds.
PROGRAM = os.environ.get("TESSERA", str(pathlib.Path(__file__).resolve().parent.parent / "build/release/bin/tessera"))


def draw(path, plot):
    """plot: as docs/verbs/plot.md says."""
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([PROGRAM, "plot", "-", "-o", str(path)], input=json.dumps(plot), text=True, check=False,
                          stderr=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(f"{PROGRAM} plot: {done.stderr.strip()}")


def dots(path, groups, highlight, x_label, title, x_log=False, reference=None):
    """groups: [(label, {series: x})], a line each, from above; the highlighted series lies over the others."""
    names = [highlight] + sorted({name for _, values in groups for name in values} - {highlight})
    series = [{"name": name, "points": [[values[name], y] for y, (_, values) in enumerate(groups) if name in values]}
              for name in names]
    x = {"label": x_label, "log": x_log}
    if reference is not None:
        x["reference"] = reference
    draw(path, {"title": title, "panels": [{"x": x, "y": {"categories": [label for label, _ in groups]}, "series": series}]})


def lines(path, series, x_label, y_label, title, x_log=False, y_log=False, reference=None):
    """series: {name: [(x, y)]}"""
    y = {"label": y_label, "log": y_log}
    if reference is not None:
        y["reference"] = reference
    draw(path, {"title": title, "panels": [{
        "x": {"label": x_label, "log": x_log}, "y": y,
        "series": [{"name": name, "style": "line", "points": [list(point) for point in points]}
                   for name, points in series.items()]}]})
