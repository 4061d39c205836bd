"""Every plot of the benchmarks: labelled axes with units, colours that the colour-blind can tell apart, SVG."""

import pathlib

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import ScalarFormatter  # noqa: E402

# Okabe and Ito, with markers so that colour is never alone.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#B8A800"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]

plt.rcParams.update({"svg.hashsalt": "tessera", "svg.fonttype": "none", "font.size": 10, "axes.grid": True,
                     "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False})


def style(i):
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}


def save(figure, path):
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def plain_log(axis):
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_formatter(ScalarFormatter())


def dots(path, groups, highlight, x_label, title, x_log=False, reference=None):
    """groups: [(label, {series: x})], a line each, from above."""
    names = [highlight] + sorted({name for _, values in groups for name in values} - {highlight})
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.3 * len(groups)))
    for i, name in reversed(list(enumerate(names))):
        points = [(values[name], y) for y, (_, values) in enumerate(groups) if name in values]
        axes.plot(*zip(*points), linestyle="", label=name, zorder=3 + (i == 0), markersize=9 if i == 0 else 6, **style(i))
    if reference is not None:
        axes.axvline(reference, color="#666666", linewidth=1)
    axes.set_yticks(range(len(groups)), [label for label, _ in groups])
    axes.invert_yaxis()
    if x_log:
        axes.set_xscale("log")
        axes.set_xticks([x for x in (0.25, 0.5, 0.75, 0.9, 1, 1.25, 1.5, 2, 3, 5, 10) if axes.get_xlim()[0] <= x <= axes.get_xlim()[1]])
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(lambda *_: "")
    axes.set_xlabel(x_label)
    axes.set_title(title, loc="left")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    save(figure, path)


def lines(path, series, x_label, y_label, title, x_log=False, y_log=False, reference=None):
    """series: {name: [(x, y)]}"""
    figure, axes = plt.subplots(figsize=(7, 4.2))
    for i, (name, points) in enumerate(series.items()):
        axes.plot(*zip(*sorted(points)), label=name, markersize=5, linewidth=1.5, **style(i))
    if reference is not None:
        axes.axhline(reference, color="#666666", linewidth=1)
    for is_log, set_scale, axis in ((x_log, axes.set_xscale, axes.xaxis), (y_log, axes.set_yscale, axes.yaxis)):
        if is_log:
            set_scale("log", base=2 if axis is axes.xaxis else 10)
            axis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, loc="left")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    save(figure, path)
