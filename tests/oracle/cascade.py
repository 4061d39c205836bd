#!/usr/bin/env python3
"""Cascade pruning once more, in NumPy and f64, from the definitions alone: checks what the program found.

    tessera dump MODEL --cases CASES --pruning SCHEDULE --trace TRACE -o DUMP
    tests/oracle/cascade.py MODEL SCHEDULE CASES DUMP TRACE

MODEL is a BERT or a GPT-2 in f32. What is alive and generated, and what is read of keys and values with how many refetches,
is the same; importance, states and logits agree within 1e-4 of their largest, or 1e-3 where keys are rounded, as a number
half way between two integers becomes either. Exit code 1 at the first difference.
"""

import json
import math
import sys
from pathlib import Path
import numpy as np

def tensors_of(path):
    data = Path(path).read_bytes()
    size, types = int.from_bytes(data[:8], "little"), {"F32": "<f4", "I32": "<i4", "I64": "<i8"}
    return {name: np.frombuffer(data[8 + size:][slice(*entry["data_offsets"])], types[entry["dtype"]]).reshape(entry["shape"])
            .astype(np.float64) for name, entry in json.loads(data[8:8 + size]).items() if name != "__metadata__"}

class Model:
    def __init__(self, folder):
        c = json.loads(Path(folder, "config.json").read_text())
        self.gpt, self.tanh = c["model_type"] == "gpt2", "gelu_new" in c.values()
        self.w = {name.removeprefix("bert.").removeprefix("transformer."): w
                  for name, w in tensors_of(f"{folder}/model.safetensors").items()}
        self.layers, self.heads, self.positions, self.epsilon = (c[key] for key in (
            ("n_layer", "n_head", "n_positions", "layer_norm_epsilon") if self.gpt else
            ("num_hidden_layers", "num_attention_heads", "max_position_embeddings", "layer_norm_eps")))
        self.classifies = {"pooler.dense.weight", "classifier.weight"} <= self.w.keys()

    def norm(self, x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + self.epsilon)
        return x * self.w[name + ".weight"] + self.w[name + ".bias"]

    def linear(self, x, name):
        return x @ (self.w[name + ".weight"] if self.gpt else self.w[name + ".weight"].T) + self.w[name + ".bias"]

    def ffn(self, x, enter, leave):
        x = self.linear(x, enter)
        erf = np.tanh((2 / math.pi)**0.5 * (x + 0.044715 * x**3)) if self.tanh else np.vectorize(math.erf)(x / 2**0.5)
        return self.linear(0.5 * x * (1 + erf), leave)

    def project(self, x, layer):  # queries, keys and values
        parts = (np.split(self.linear(self.norm(x, f"h.{layer}.ln_1"), f"h.{layer}.attn.c_attn"), 3, -1) if self.gpt else
                 [self.linear(x, f"encoder.layer.{layer}.attention.self.{name}") for name in ("query", "key", "value")])
        return [part.reshape(len(x), self.heads, -1) for part in parts]

    def leave(self, x, layer, context):
        name = f"h.{layer}." if self.gpt else f"encoder.layer.{layer}."
        if self.gpt:
            x = x + self.linear(context, name + "attn.c_proj")
            return x + self.ffn(self.norm(x, name + "ln_2"), name + "mlp.c_fc", name + "mlp.c_proj")
        x = self.norm(x + self.linear(context, name + "attention.output.dense"), name + "attention.output.LayerNorm")
        return self.norm(x + self.ffn(x, name + "intermediate.dense", name + "output.dense"), name + "output.LayerNorm")

    def head(self, x):
        if self.gpt:
            x = self.norm(x, "ln_f")
            return {f"hidden.{self.layers}": x, "logits": x @ self.w["wte.weight"].T}
        if "qa_outputs.weight" in self.w:
            return dict(zip(("start_logits", "end_logits"), self.linear(x, "qa_outputs").T))
        x = np.tanh(self.linear(x[0], "pooler.dense")) if self.classifies else x
        return {"logits": self.linear(x, "classifier")} if "classifier.weight" in self.w else {}

def count(entry, base):
    return entry if isinstance(entry, int) and entry > 1 else math.floor(entry * base + 1e-9)

def largest(x, number):  # of equal ones the first
    return np.argsort(np.argsort(-x, kind="stable"), kind="stable") < max(number, 1)

def softmax(q, k, sees):
    x = np.exp(np.where(sees, np.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1]), -np.inf))
    return x / x.sum(-1, keepdims=True)

def rounded(x, bits, lower=0):  # what integers of so many bits stand for, and what without their lower ones
    scale = np.abs(x).max(-1, keepdims=True) / (2**(bits - 1) - 1)
    q = np.rint(x / scale)
    return scale * q, scale * (q // 2**lower * 2**lower + (2**lower - 1) / 2)

def same(name, found, expected, tolerance=1e-4):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max(initial=1e-30), err_msg=name)

def check(model, s, case, row, dump, trace):
    """Runs a row of a case, and compares it with what the dump and, by step and layer, the trace have of it."""
    mask = case.get("attention_mask", np.ones_like(case["input_ids"]))[row]
    name, steps, prompt, new = case["name"], case.get("new_tokens", 0), sum(mask), np.array(case["input_ids"][row])[:sum(mask)]
    protect = {"ids": [], "first": 0, "last": 0, "newest": 1} | s.get("protect", {})
    whole = {"prune": 0, "score": 1, "skip": 2}[s.get("prefill", "prune") if steps else "prune"]  # steps that nothing leaves in
    upper, lower = map(int, (s.get("key_bits", "32") + "+0").split("+")[:2])  # 32 bits are as good as the numbers
    value_bits, refetch = s.get("value_bits", 8) if upper < 32 else 32, {"below": 0.05} | s.get("refetch", {})
    tokens, heads = np.ones((model.layers, prompt + steps), bool), np.ones((model.layers, model.heads), bool)
    ids, scores, head_scores, cache, every = new[:0], np.zeros(0), np.zeros(model.heads), {}, [1] * model.layers
    for step in range(max(steps, 1)):
        first, ids, scores = len(ids), np.append(ids, new), np.append(scores, np.zeros(len(new)))
        n, places, alive, live = len(ids), np.arange(len(ids)), np.ones(len(ids), bool), np.ones(model.heads, bool)
        base = {"positions": model.positions, "prompt": prompt}.get(s.get("base"), n)
        stays = np.isin(ids, protect["ids"]) | (places < max(protect["first"], model.classifies)) | (
            (places >= prompt - protect["last"]) & (places < prompt)) | ((steps > 0) & (places >= n - max(protect["newest"], 1)))
        states = [model.w["wte.weight"][new] + model.w["wpe.weight"][first:n] if steps else dump[f"{name}.hidden.0"][row][:n]]
        for layer in range(model.layers):
            # What the layer below has in this step and this one had in the step before; of these the most important.
            alive, live = alive & tokens[layer, :n], live & heads[layer]
            if step >= whole and step + layer > 0:
                number = max(count(s["tokens"][layer], base), s.get("minimum", 1), stays.sum()) if "tokens" in s else n
                alive &= largest(np.where(alive, np.where(stays, np.inf, scores), -np.inf), number)
                live &= largest(np.where(live, head_scores, -np.inf), count(s.get("heads", every)[layer], model.heads))
            tokens[layer, :n], heads[layer], here = alive, live, alive[first:, None]
            q, k, v = model.project(states[-1], layer)
            new_kept = np.array([*rounded(k, upper + lower, lower), rounded(v, value_bits)[0]])
            k, k_upper, v = cache[layer] = np.append(cache[layer], new_kept, 1) if step else new_kept
            sees, keys, size = alive & (~model.gpt | (places <= places[first:, None])), alive.sum(), q.shape[-1]
            p, fetched, read = softmax(q, k, sees | ~here), np.zeros(model.heads, bool), True
            if step:  # A generated token reads the lower bits of keys where it must, and the values that weigh most.
                p_upper, values = softmax(q, k_upper, sees), s.get("values", every)
                below = refetch["below"] / (keys if refetch.get("scale") == "length" else 1)
                fetched = (p_upper.max((1, 2)) < below) & (lower > 0) & live
                p = np.where(fetched[:, None, None], p, p_upper)
                read = sees & (p >= values["threshold"] * p.max(-1, keepdims=True) if isinstance(values, dict) else
                               largest(p, count(values[layer], keys)))
            p = p * (here & live[:, None, None])
            out, values_read = np.einsum("hqk,khd->qhd", p * read, v), (p * read > 0).sum()
            if step or whole < 2:
                by = np.maximum((sees & here).sum(0), 1) if s.get("scale") == "queries" else 1
                scores, head_scores = s.get("decay", 1) * scores + p.sum((0, 1)) / by, head_scores + np.abs(out).sum((0, 2))
            states.append(np.where(here, model.leave(states[-1], layer, out.reshape(len(new), -1)), states[-1]))
            found = {"tokens": np.flatnonzero(alive), "heads": np.flatnonzero(live), "importance": scores[alive],
                     "head_importance": head_scores[live], "refetched": fetched.sum(), "key_numbers": keys * size * live.sum(),
                     "key_bits": keys * size * (upper * live.sum() + lower * fetched.sum()),
                     "value_numbers": values_read * size, "value_bits": values_read * size * value_bits}
            line = trace.pop((step, layer))
            for key in line.keys() & found.keys():
                same(f"{name} {row}: step {step}, layer {layer}: {key}", line[key], found[key], 1e-3 if upper < 32 else 1e-4)
        results = {f"hidden.{i}": x for i, x in enumerate(states)} | model.head(states[-1])
        new = results["logits"][-1:].argmax(-1) if steps else new
    for key, x in ({"ids": np.append(ids[prompt:], new)} if steps else results).items():
        same(f"{name} {row}: {key}", dump[f"{name}.{key}"][row][:len(x)], x)
    same(f"{name} {row}: records that are left", len(trace), 0)

def main(folder, schedule, cases, dump, trace):
    model, schedule, dump = Model(folder), json.loads(Path(schedule).read_text()), tensors_of(dump)
    lines = [x | (x["reads"] if x["step"] else {}) for x in map(json.loads, Path(trace).read_text().splitlines()[1:])]
    rows = [(case, row) for case in json.loads(Path(cases).read_text())["cases"] for row in range(len(case["input_ids"]))]
    for i, (case, row) in enumerate(rows):
        check(model, schedule, case, row, dump, {(x["step"], x["layer"]): x for x in lines if x["sequence"] == i})
    print(f"{len(rows)} sequences and {len(lines)} records are as they should be")
if __name__ == "__main__": main(*sys.argv[1:])
