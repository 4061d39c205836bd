"""The tables and the plot of what bench/compare/eviction measured."""

import datetime
import pathlib

import plots
from common import write_report
from eviction_cells import DECAY
from turns import OTHERS_ALLOWED


def row_cells(row):
    if "error" in row:
        return [f"does not run: {row['error']}"]
    perplexity = f"{row['perplexity']:.2f}" if "perplexity" in row else ""
    if "keys" not in row:
        return ["", "", perplexity]
    keys, size = row["keys"], row["bytes"]
    least, most = f"{keys['least']:.0f}", f"{keys['most']:.0f}"
    return [f"{keys['prompt']:.0f}", least if least == most else f"{least} to {most}", perplexity, f"{row['prompt_ms']:.1f}",
            f"{row['tokens_per_second']:.0f}", f"{row['of_dense']:.2f}", f"{size['most'] / 1e6:.2f}", f"{size['last'] / 1e6:.2f}"]


def tables(cells):
    lines = []
    for cell in cells:
        lines += [f"## {cell['model']}: a prompt of {cell['prompt']} tokens, {cell['new_tokens']} generated", ""]
        if cell["dense"]["tokens"]:
            lines += [f"The dense engines generate the same {cell['dense']['same']} of {cell['dense']['tokens']} tokens.", ""]
        if cell["others"] > OTHERS_ALLOWED:
            lines += [f"Other processes took up to {cell['others']:.0%} of the cores in a round.", ""]
        for budget in sorted({row["budget"] for row in cell["rows"]}):
            lines += [f"### {'Dense' if budget == 0 else f'{budget} tokens'}", "",
                      "| engine | policy | keys, prompt | keys, generating | perplexity | prompt ms | tokens/s | of its dense "
                      "| MB, most | MB, last |", "|---" * 10 + "|"]
            lines += [f"| {row['engine']} | {row['name']} | " + " | ".join(row_cells(row)) + " |"
                      for row in cell["rows"] if row["budget"] == budget]
            lines.append("")
    return lines


def pictures(args, path, cells):
    """Perplexity over the budget, but for sums alone, which are far from all others."""
    plots.PROGRAM = args.tessera
    lines = []
    for cell in cells:
        series = {}
        for row in cell["rows"]:
            if row["budget"] and "perplexity" in row and row["name"] != "sums alone":
                series.setdefault(f"{row['engine']}: {row['name']}", []).append((row["budget"], row["perplexity"]))
        if series:
            picture = path.with_suffix(".svg")
            dense = next(row["perplexity"] for row in cell["rows"] if row["budget"] == 0)
            plots.lines(picture, series, "tokens in each layer", "perplexity", f"{cell['model']}: the reference is dense", reference=dense)
            lines += [f"![perplexity over the budget, {cell['model']}]({picture.name})", ""]
    return lines


EXPLANATION = f"""\
Keys are those that a layer holds, on average over the layers: while the prompt is read, and while tokens are generated, from the second one on.
OpenVINO GenAI evicts whole blocks of 32 tokens, for the first time behind the first generated token, so that up to 32 tokens more than the
budget are there. Cascade pruning evicts single tokens, in the prompt as well where not "prompts whole"; its first layer reads a prompt whole.

Perplexity is that of the second halves of overlapping windows of a text, predicted token by token behind the first halves as prompts; random
weights have none. Times are medians of rounds in which all policies take turns, each in a process of its own; "of its dense" is the
median of the rounds' tokens/s over those of the same engine's dense run. MB are 10^6 bytes of pages of 64 tokens (Tessera) and blocks of 32
(OpenVINO) in f32: the most that all layers hold at a time, and what they hold at the end.

"First" and "newest" are tokens that always stay, "sums alone" protects nothing; "decay" multiplies sums by {DECAY} in each layer and step;
"no sums" keeps a window and the first tokens. OpenVINO's areas are multiples of 32; NORM_SUM divides sums of attention by the steps that a token was
there; a SnapKV window of 8 sums over the last 8 queries of the prompt, "no SnapKV" over all."""


def write(args, machine, command, cells):
    versions = {row["version"] for cell in cells for row in cell["rows"] if row.get("version")}
    path = pathlib.Path(args.output)
    text = ["# Budgets for the cache, beside OpenVINO GenAI's eviction", "",
            f"Made by `{command}` on {machine['cpu']}, {args.threads} threads, {datetime.date.today().isoformat()}; OpenVINO GenAI "
            f"{', '.join(sorted(versions))}.", "", EXPLANATION, "", *pictures(args, path, cells), *tables(cells)]
    write_report(path, {"command": command, "cpu": machine["cpu"], "threads": args.threads, "cells": cells}, "\n".join(text))
