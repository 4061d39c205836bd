"""The table and the plot of what was measured."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import plots  # noqa: E402


def format_ms(value):
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cell_rows(cell):
    unit = "step" if cell["kind"] == "decode" else "pass"
    for row in cell["engines"]:
        flag = " (busy)" if row["others"] > cell["others_allowed"] else ""
        yield (f"| {row['engine']}{flag} | {format_ms(row['median_ms'])} | {format_ms(row['p10_ms'])} | "
               f"{format_ms(row['p90_ms'])} | {row['ratio']:.2f} | {row['fraction_of_bound']:.0%} | "
               f"{row['difference']:.1e} |"), unit


def summary_table(cells):
    lines = ["| model | case | threads | Tessera ms | fastest peer | its ms | ratio |", "|---|---|---|---|---|---|---|"]
    for cell in cells:
        rows = {row["engine"]: row for row in cell["engines"]}
        own = rows.pop("tessera")
        best = min(rows.values(), key=lambda row: row["median_ms"])
        lines.append(f"| {cell['model']} | {cell['case']} | {cell['threads']} | {format_ms(own['median_ms'])} | "
                     f"{best['engine']} | {format_ms(best['median_ms'])} | {own['ratio']:.2f} |")
    return lines


def markdown(report, plot):
    m = report["machine"]
    lines = [f"# {report['title']}", "",
             f"Made by `{report['command']}` on {report['cpu']}, {report['cpus']} cores, {report['date']}. "
             f"Peaks measured in the same run: {m['summary']}. Instruction sets: {m['instruction_sets']}.", "",
             "Engines take turns; the others sleep. A time is the median over the rounds of a round's median; the ratio is "
             "the median over the rounds of an engine's time over that of the fastest peer (any engine but Tessera) in the "
             "same round, below 1 is faster. The bound is the larger of the case's FLOPs over the measured peak and its "
             "bytes over the measured bandwidth; padding does not count. The difference is largest over largest against "
             "torch (for decoding: the share of tokens that differ). `(busy)`: another process took more than "
             f"{report['others_allowed']:.0%} of the cores in every try.", "",
             "Versions: " + ", ".join(f"{k} {v}" for k, v in report["versions"].items()) + ".", "",
             f"![time of Tessera over that of the fastest peer]({plot})", "", "## Against the fastest peer", ""]
    lines += summary_table(report["cells"]) + ["", "## Every engine", ""]
    for cell in report["cells"]:
        unit = "a step of all sequences" if cell["kind"] == "decode" else "a pass"
        lines += [f"### {cell['model']}, {cell['case']}, {cell['threads']} thread{'s' if cell['threads'] > 1 else ''}", "",
                  f"| engine | median ms, {unit} | p10 | p90 | ratio | of the bound | difference |",
                  "|---|---|---|---|---|---|---|", *(line for line, _ in cell_rows(cell)), ""]
    return "\n".join(lines)


def plot(report, path):
    groups = [(f"{cell['model']}, {cell['case']}, {cell['threads']} thr.",
               {row["engine"]: row["ratio"] for row in cell["engines"]}) for cell in report["cells"]]
    plots.dots(path, groups, highlight="tessera", x_label="time / time of the fastest peer (log scale)",
               title=report["title"], x_log=True, reference=1.0)
