#!/usr/bin/env python3
"""Cascade pruning once more, in NumPy and f64, from the definitions alone: checks what the program found.

    tessera dump MODEL --cases CASES --pruning SCHEDULE --trace TRACE -o DUMP
    tests/oracle/cascade.py MODEL SCHEDULE CASES DUMP TRACE

MODEL is a BERT or a GPT-2 in f32. Alive tokens and heads must be the same in every layer of every sequence and step, as
must generated ids; importance, states and logits agree within 1e-4 of their largest value. Exit code 1 at the first
difference.
"""

import json
import math
import pathlib
import sys

import numpy as np
from models import Model, tensors_of


def count(entry, base):
    return int(entry) if isinstance(entry, int) and entry > 1 else math.floor(entry * base + 1e-9)


def best(names, scores, number):
    return np.sort(names[np.argsort(-scores[names], kind="stable")[:number]])


class Cascade:
    """A sequence: what is alive in each layer, with its keys and values, and how important all was so far."""

    def __init__(self, model, schedule, prompt):
        self.model, self.schedule, self.prompt, self.ids = model, schedule, prompt, np.zeros(0, int)
        self.scores, self.head_scores, self.heads = np.zeros(0), np.zeros(model.heads), [np.arange(model.heads)] * model.layers
        self.alive, self.cache, self.records, self.states = [np.zeros(0, int)] * model.layers, {}, [], []

    def run(self, ids, types, step, generates):
        model, s, first = self.model, self.schedule, len(self.ids)
        self.ids, rows = np.append(self.ids, ids), np.arange(first, first + len(ids))
        n, protect, self.scores = len(self.ids), s.get("protect", {}), np.append(self.scores, np.zeros(len(ids)))
        place, stays = np.arange(n), np.isin(self.ids, protect.get("ids", []))
        stays |= (place < max(protect.get("first", 0), model.classifies)) | (
            (place >= self.prompt - protect.get("last", 0)) & (place < self.prompt))
        if generates:
            stays |= place >= n - max(protect.get("newest", 0), 1)
        base = {"positions": model.positions, "prompt": self.prompt}.get(s.get("base"), n)
        prefill = s.get("prefill", "prune") if generates else "prune"
        whole = step < {"prune": 0, "score": 1, "skip": 2}[prefill]
        x, alive, heads = model.embed(np.asarray(ids), types, first), place, np.arange(model.heads)
        self.states = [x]
        for layer in range(model.layers):
            alive = np.intersect1d(alive, np.union1d(self.alive[layer], rows))
            heads = np.intersect1d(heads, self.heads[layer])
            if not whole and (step or layer):  # the first layer of a text has no scores to go by
                number = max(count(s.get("tokens", [1] * model.layers)[layer], base), s.get("minimum", 1), stays.sum())
                alive = best(alive, np.where(stays, np.inf, self.scores), number)
                if "heads" in s and self.head_scores.any():
                    heads = best(heads, self.head_scores, max(count(s["heads"][layer], model.heads), 1))
            self.alive[layer], self.heads[layer] = alive, heads
            here = np.intersect1d(rows, alive)
            q, k, v = model.project(x[here - first], layer)
            for row, key, value in zip(here, k, v):
                self.cache[layer, row] = key, value
            k, v = (np.array([self.cache[layer, j][part] for j in alive]) for part in (0, 1))
            p = np.einsum("qhd,khd->hqk", q, k)[heads] / math.sqrt(q.shape[-1])
            sees = alive[None] <= here[:, None] if model.gpt else np.ones((len(here), len(alive)), bool)
            p = np.where(sees, np.exp(p - np.where(sees, p, -np.inf).max(-1, keepdims=True)), 0)
            p /= p.sum(-1, keepdims=True)
            out = np.zeros(q.shape)
            out[:, heads] = np.einsum("hqk,khd->qhd", p, v[:, heads])
            if step > 0 or prefill != "skip":
                mass = p.sum((0, 1)) / (np.maximum(sees.sum(0), 1) if s.get("scale") == "queries" else 1)
                self.scores[self.alive[0]] *= s.get("decay", 1)
                self.scores[alive] += mass
                self.head_scores = self.head_scores + np.abs(out).sum((0, 2))
            x = x.copy()
            x[here - first] = model.leave(x[here - first], layer, out.reshape(len(here), -1))
            self.states.append(x)
            self.records.append({"step": step, "layer": layer, "tokens": alive, "importance": self.scores[alive],
                                 "heads": heads, "head_importance": self.head_scores[heads]})
        return model.head(x)


def same(name, found, expected):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    limit = 1e-4 * np.abs(expected).max(initial=1e-30)
    if found.shape != expected.shape or not np.abs(found - expected).max(initial=0) <= limit:
        sys.exit(f"{name}: expected {expected}, found {found}")


def main(folder, schedule, cases, dump, trace):
    model, schedule, dump = Model(pathlib.Path(folder)), json.loads(pathlib.Path(schedule).read_text()), tensors_of(dump)
    lines = [json.loads(line) for line in pathlib.Path(trace).read_text().splitlines()][1:]
    found, sequence = {(line["sequence"], line["step"], line["layer"]): line for line in lines}, 0
    for case in json.loads(pathlib.Path(cases).read_text())["cases"]:
        for row, ids in enumerate(case["input_ids"]):
            name, steps = case["name"], case.get("new_tokens", 0)
            length = sum(case["attention_mask"][row]) if "attention_mask" in case else len(ids)
            types = np.array(case["token_type_ids"][row][:length]) if "token_type_ids" in case else np.zeros(length, int)
            cascade = Cascade(model, schedule, length)
            logits = cascade.run(ids[:length], types, 0, steps > 0)
            tensors = {} if steps else logits | {f"hidden.{i}": x for i, x in enumerate(cascade.states)}
            if model.gpt and not steps:
                tensors[f"hidden.{model.layers}"] = model.norm(cascade.states[-1], "ln_f")
            for key, expected in tensors.items():
                values = dump[f"{name}.{key}"][row]
                same(f"{name} {row}: {key}", values[:length] if values.ndim == 2 or "_" in key else values, expected)
            for step in range(steps):
                same(f"{name} {row}: ids", dump[f"{name}.ids"][row][step], logits["logits"][-1].argmax())
                if step + 1 < steps:
                    logits = cascade.run([logits["logits"][-1].argmax()], None, step + 1, True)
            for record in cascade.records:
                line = found.pop((sequence, record["step"], record["layer"]))
                for key in record.keys() & line.keys():
                    same(f"{name} {row}: step {record['step']}, layer {record['layer']}: {key}", line[key], record[key])
            sequence += 1
    if found:
        sys.exit(f"trace: expected no more records, found {sorted(found)[:3]}")
    print(f"{sequence} sequences and {len(lines)} records are as they should be")


if __name__ == "__main__":
    main(*sys.argv[1:])
