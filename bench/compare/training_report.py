"""The tables of what bench/compare/training measured."""

import datetime
import pathlib

from common import write_report
from training_cells import DECAY, STEPS, WARMUP


def explanation(args):
    return f"""\
Both train in f32, with AdamW and the same batches, settings and order, without dropout. torch is asked through transformers with its
default attention, and reads sequences padded to the longest of their batch; Tessera reads them without padding.

Losses: {STEPS} steps from the same checkpoint at a rate of at most {args.rate:g}, which rises over {WARMUP:.0%} of the steps and then falls to 0, with a
weight decay of {DECAY} of matrices and gradients of a length of at most 1. The checkpoints are tiny and their weights large on purpose, so
that an error shows at once; the rate is small so that rounding does not grow from step to step. The difference is the largest of any step, of
the loss and of the length of its gradient, relative to torch's.

Speed: encoders of published shapes with random weights learn the cosines of pairs of texts, all weights, token tables too. A step is from
the batch to the new weights, a median of {args.rounds} turns of {args.steps - 1} steps, each in a process of its own; "speed of torch" and "time of dense" are medians
of the ratios within turns. Memory is the most that the process had, with its libraries."""


def loss_table(losses):
    if not losses:
        return []
    lines = [f"## Losses of {STEPS} steps", "", "| model | task | first loss | last loss | difference | of gradients |", "|---" * 6 + "|"]
    for row in sorted(losses, key=lambda row: "error" in row):
        cells = [f"does not run: {row['error']}", "", "", ""] if "error" in row else [
            f"{row['first_loss']:.4f}", f"{row['last_loss']:.4f}", f"{row['difference']:.1e}", f"{row['norm_difference']:.1e}"]
        lines.append(f"| {row['model']} | {row['task'].replace('_', ' ')} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def speed_tables(speeds):
    lines = ["## Time and memory of a step", ""] if speeds else []
    for cell in speeds:
        lines += [f"### {cell['model']}, {cell['case']} tokens", "",
                  "| | step ms | tokens/s | speed of torch | time of dense | MB, most |", "|---" * 6 + "|"]
        lines += [f"| {row['way']} | {row['step_ms']:.0f} | {1e3 * cell['tokens'] / row['step_ms']:.0f} | {row['of_torch']:.2f} | "
                  f"{row['of_dense']:.2f} | {row['peak_bytes'] / 1e6:.0f} |" for row in cell["rows"]]
        lines.append("")
    return lines


def cpu():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "an unknown CPU")


def write(args, command, losses, speeds):
    versions = sorted({f"torch {row['torch']}, transformers {row['transformers']}" for row in [*losses, *speeds] if "torch" in row})
    text = ["# Training, beside torch and transformers", "",
            f"Made by `{command}` on {cpu()}, {args.threads} threads, {datetime.date.today().isoformat()}; {'; '.join(versions)}.", "",
            explanation(args), "", *loss_table(losses), *speed_tables(speeds)]
    write_report(pathlib.Path(args.output), {"command": command, "cpu": cpu(), "threads": args.threads, "losses": losses, "speeds": speeds},
                 "\n".join(text))
