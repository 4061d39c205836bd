"""The tables and plots of what `precisions` measured."""

import math

from report import format_ms, plots

WORDS = {"bf16": "bf16", "int8": "int8: weights and rows of 8 bits", "int4": "int4: weights of 4 bits, rows of 8 bits",
         "w8": "w8: weights of 8 bits alone", "w4": "w4: weights of 4 bits alone"}


def precisions_of(cells):
    return [name for name in WORDS if any(cell["precision"] == name for cell in cells)]


def number(value, form):
    return "–" if value is None or math.isnan(value) else format(value, form)


def table(columns, rows):
    return ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|", *("| " + " | ".join(row) + " |" for row in rows)]


def error(row):
    return number(row.get("difference"), ".1e") if row else "–"


def ms(row):
    return format_ms(row["median_ms"]) if row else "–"


def rows_of(cell):
    """Tessera's, f32's, every other of Tessera's, and the fastest peer's."""
    rows = {row["engine"]: row for row in cell["engines"]}
    peers = [row for row in cell["engines"] if row["engine"] in cell["peers"]]
    return rows.get("tessera"), [row for name, row in rows.items() if name.startswith("tessera,")], peers[0] if peers else None


def summary_rows(cell):
    tessera, variants, peer = rows_of(cell)
    for row, name in [(tessera, cell["model"]), *((row, cell["model"] + row["engine"].removeprefix("tessera")) for row in variants)]:
        yield [name, cell["case"], str(cell["threads"]), ms(row), number(row and row["speedup_over_f32"], ".2f"),
               peer["engine"] if peer else "–", ms(peer), number(row and row["ratio"], ".2f"), error(row), error(peer)]


def summary_table(cells):
    return table(["model", "case", "threads", "Tessera ms", "times as fast as its f32", "fastest peer", "its ms", "ratio",
                  "error", "its error"], [row for cell in cells for row in summary_rows(cell)])


def decode_row(row, name):
    return [name, number(row["tokens_per_second"], ".1f"), number(row.get("bits_per_weight"), ".2f"),
            number(row.get("gb_per_s"), ".1f"), number(row.get("of_bandwidth"), ".0%")]


def decode_table(cells):
    """Of all precisions in one, so that they can be compared."""
    rows = [[cell["model"], cell["case"], cell["precision"], *decode_row(row, row["engine"])]
            for cell in cells if cell["kind"] == "decode" for row in cell["engines"] if row["engine"] != "tessera f32"]
    columns = ["model", "case", "precision", "engine", "tokens/s", "bits per weight", "GB/s of weights", "of the bandwidth"]
    return ["## Generating", "", *table(columns, rows), ""] if rows else []


def errors_table(cells):
    """Each engine's errors over all cells that have them."""
    rows = []
    for cell in cells:
        for row in cell["engines"]:
            if "cosine" in row and row["engine"] != "tessera f32":
                rows.append([cell["model"], cell["case"], cell["precision"], row["engine"], error(row),
                             number(row["mean_difference"], ".1e"), number(max(0.0, 1 - row["cosine"]), ".1e")])
    columns = ["model", "case", "precision", "engine", "largest", "mean", "1 - cosine"]
    return ["## Errors", "", *table(columns, rows), ""] if rows else []


def times_table(cell):
    busy = cell["others_allowed"]
    rows = [[row["engine"] + (" (busy)" if row["others"] > busy else ""), format_ms(row["median_ms"]), format_ms(row["p10_ms"]),
             format_ms(row["p90_ms"]), number(row["ratio"], ".2f"), number(row["speedup_over_f32"], ".2f"), error(row)]
            for row in cell["engines"]]
    title = f"### {cell['model']}, {cell['case']}, {cell['precision']}, {cell['threads']} thread{'s' * (cell['threads'] > 1)}"
    unit = "a step of all sequences" if cell["kind"] == "decode" else "a pass"
    left_out = [f"Left out: {name} ({reason})." for name, reason in cell["left_out"].items()]
    return [title, "", *table(["engine", f"median ms, {unit}", "p10", "p90", "ratio", "times as fast as Tessera's f32", "error"],
                              rows), "", *(line for reason in left_out for line in (reason, ""))]


def amx_line(cells):
    used = sorted({row["engine"] for cell in cells for row in cell["engines"] if row["amx"]})
    return "Peers that had asked for AMX and were granted it: " + (", ".join(used) if used else "none") + "."


def tables(cells):
    lines = []
    for precision in precisions_of(cells):
        lines += [f"## {WORDS[precision]}", "", *summary_table([c for c in cells if c["precision"] == precision]), ""]
    return lines + decode_table(cells) + errors_table(cells)


def picture(path, precision):
    return path.with_name(f"{path.stem}-{precision}.svg")


def markdown(report, path):
    cells, m = report["cells"], report["machine"]
    lines = [f"# {report['title']}", "",
             f"Made by `{report['command']}` on {report['cpu']}, {report['cpus']} cores, {report['date']}. "
             f"Instruction sets: {m['instruction_sets']}. {amx_line(cells)} Peaks measured in the same run: {m['summary']}.", "",
             "Engines take turns; the others sleep. A time is the median over the rounds of a round's median; the ratio is the "
             "median over the rounds of an engine's time over that of the fastest peer (any engine but Tessera) of the same "
             "precision in the same round, below 1 is faster. *Times as fast as its f32*: Tessera's own f32 took its turn in "
             "the same rounds. Peers are dense also where Tessera is pruned. `(busy)`: another process took more than "
             f"{report['others_allowed']:.0%} of the cores in every try.", "",
             "Errors are against torch in f32 on the same inputs, relative to the largest value of its output: the largest, and "
             "the mean; a pruned model's against itself in f32. The cosine is that of the mean of a text's states (its "
             "embedding), of several texts the worst, or of the logits behind a prompt. Of generated tokens the error is the "
             "share that differs, which says little where weights are random, since one early difference changes all that "
             "follow. Models in the shapes' names have random weights.", "",
             "While tokens are generated, reading as many bytes as the weights have is timed before and behind each turn (the median pass), and *of "
             "the bandwidth* is what the engine reads of weights a second over the mean of both. *Bits per weight* count all matrices that a token meets, the head and the scales included, as the engine keeps them.", "",
             "llama.cpp's files of 8 and 4 bits (Q8_0, Q4_0) stand with int8 and int4, since it multiplies by rows of 8 bits, "
             "and also with w8 and w4, since they are what its users have. Its AMX kernels fault in this version, so AMX is "
             "always refused to it.", "",
             "Versions: " + ", ".join(f"{k} {v}" for k, v in report["versions"].items()) + ".", ""]
    for precision in precisions_of(cells):
        lines += [f"![{precision}: time of Tessera over that of the fastest peer]({picture(path, precision).name})", ""]
    lines += tables(cells) + ["## Every engine's times", ""]
    for cell in cells:
        lines += times_table(cell)
    return "\n".join(lines)


def plot(report, path):
    for precision in precisions_of(report["cells"]):
        groups = [(f"{cell['model']}, {cell['case']}, {cell['threads']} thr.",
                   {row["engine"]: row["ratio"] for row in cell["engines"] if not math.isnan(row["ratio"])})
                  for cell in report["cells"] if cell["precision"] == precision]
        groups = [group for group in groups if group[1]]
        if groups:
            plots.dots(picture(path, precision), groups, highlight="tessera", x_label="time / time of the fastest peer (log scale)",
                       title=f"{WORDS[precision]}; {report['machine']['instruction_sets']}", x_log=True, reference=1.0)
