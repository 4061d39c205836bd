#!/usr/bin/env python3
"""Cascade pruning once more, in NumPy and f64, from the definitions alone: checks what the program found.

    tessera dump MODEL --cases CASES --pruning SCHEDULE --trace TRACE -o DUMP
    tests/oracle/cascade.py MODEL SCHEDULE CASES DUMP TRACE

MODEL is a BERT or a GPT-2 in f32. Alive tokens and heads must be the same in every layer of every sequence, importance
and logits and states agree within 1e-4 of their largest value. Exit code 1 at the first difference, 77 without NumPy.
"""

import json
import math
import pathlib
import sys

try:
    import numpy as np
except ImportError:
    print("NumPy is needed: python3-numpy")
    sys.exit(77)


def tensors_of(path):
    data = pathlib.Path(path).read_bytes()
    size = int.from_bytes(data[:8], "little")
    types = {"F32": np.float32, "I32": np.int32}
    return {name: np.frombuffer(data[8 + size + entry["data_offsets"][0]:8 + size + entry["data_offsets"][1]],
                                types[entry["dtype"]]).reshape(entry["shape"]).astype(np.float64)
            for name, entry in json.loads(data[8:8 + size]).items() if name != "__metadata__"}


def norm(x, weight, bias, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred ** 2).mean(-1, keepdims=True) + epsilon) * weight + bias


def gelu(x, kind):
    if kind == "gelu_new":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


class Model:
    """Embedding, the parts of a layer and the head of either family, weights as [inputs, outputs]."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        raw = tensors_of(folder / "model.safetensors")
        self.causal = self.config["model_type"] == "gpt2"
        prefixes = ("transformer.",) if self.causal else ("bert.",)
        self.w = {name.removeprefix(prefix): value for prefix in prefixes for name, value in raw.items()}
        get = self.config.get
        self.layers = get("n_layer") if self.causal else get("num_hidden_layers")
        self.heads = get("n_head") if self.causal else get("num_attention_heads")
        self.positions = get("n_positions") if self.causal else get("max_position_embeddings")
        self.epsilon = get("layer_norm_epsilon") if self.causal else get("layer_norm_eps")
        self.reads_first = "pooler.dense.weight" in self.w and "classifier.weight" in self.w
        self.act = get("activation_function") if self.causal else get("hidden_act")

    def norm(self, x, name):
        return norm(x, self.w[name + ".weight"], self.w[name + ".bias"], self.epsilon)

    def linear(self, x, name):
        weight = self.w[name + ".weight"]
        return x @ (weight if self.causal else weight.T) + self.w[name + ".bias"]

    def embed(self, ids, types):
        if self.causal:
            return self.w["wte.weight"][ids] + self.w["wpe.weight"][:len(ids)]
        e = "embeddings."
        return self.norm(self.w[e + "word_embeddings.weight"][ids] + self.w[e + "position_embeddings.weight"][:len(ids)]
                         + self.w[e + "token_type_embeddings.weight"][types], e + "LayerNorm")

    def attend(self, x, layer, alive_heads):
        """Probabilities [heads, queries, keys] and each head's output [heads, queries, size], of heads alive."""
        if self.causal:
            q, k, v = np.split(self.linear(self.norm(x, f"h.{layer}.ln_1"), f"h.{layer}.attn.c_attn"), 3, -1)
        else:
            q, k, v = (self.linear(x, f"encoder.layer.{layer}.attention.self.{n}") for n in ("query", "key", "value"))
        q, k, v = (m.reshape(len(x), self.heads, -1).swapaxes(0, 1)[alive_heads] for m in (q, k, v))
        scores = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1])
        if self.causal:
            scores = np.where(np.tril(np.ones(scores.shape[1:], bool)), scores, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        return p, p @ v

    def leave(self, x, layer, context):
        """context: [queries, heads * size], zero where heads are gone."""
        if self.causal:
            x = x + self.linear(context, f"h.{layer}.attn.c_proj")
            inner = gelu(self.linear(self.norm(x, f"h.{layer}.ln_2"), f"h.{layer}.mlp.c_fc"), self.act)
            return x + self.linear(inner, f"h.{layer}.mlp.c_proj")
        name = f"encoder.layer.{layer}."
        x = self.norm(x + self.linear(context, name + "attention.output.dense"), name + "attention.output.LayerNorm")
        inner = gelu(self.linear(x, name + "intermediate.dense"), self.act)
        return self.norm(x + self.linear(inner, name + "output.dense"), name + "output.LayerNorm")


def kept(entry, base):
    return int(entry) if isinstance(entry, int) and entry > 1 else math.floor(entry * base + 1e-9)


def best(scores, count):
    return np.sort(np.argsort(-scores, kind="stable")[:count])


def run(model, schedule, ids, types):
    """What the layers had, as the trace has it, and the states behind each: the definitions, one layer after another."""
    n, protect, x = len(ids), schedule.get("protect", {}), model.embed(ids, types)
    stays = np.zeros(n, bool)
    stays[:max(protect.get("first", 0), model.reads_first)] = stays[max(n - protect.get("last", 0), 0):] = True
    stays |= np.isin(ids, protect.get("ids", []))
    base = model.positions if schedule.get("base") == "positions" else n
    alive, heads = np.arange(n), np.arange(model.heads)
    scores, head_scores, records, states = np.zeros(n), np.zeros(model.heads), [], [x]
    for layer in range(model.layers):
        least = max(schedule.get("minimum", 1), stays.sum())
        count = min(len(alive), max(kept(schedule.get("tokens", [1] * model.layers)[layer], base), least))
        alive = alive[best(np.where(stays, np.inf, scores)[alive], count)]
        if "heads" in schedule:
            count = min(len(heads), max(kept(schedule["heads"][layer], model.heads), 1))
            heads = heads[best(head_scores[heads], count)]
        p, out = model.attend(x[alive], layer, heads)
        mass = p.sum((0, 1))
        if schedule.get("scale") == "queries":
            mass = mass / (np.arange(len(alive), 0, -1) if model.causal else len(alive))
        decay = schedule.get("decay", 1)
        scores[alive] = decay * scores[alive] + mass
        head_scores[heads] = decay * head_scores[heads] + np.abs(out).sum((1, 2))
        context = np.zeros((len(alive), model.heads, out.shape[-1]))
        context[:, heads] = out.swapaxes(0, 1)
        x = x.copy()
        x[alive] = model.leave(x[alive], layer, context.reshape(len(alive), -1))
        states.append(x)
        records.append({"layer": layer, "tokens": alive, "importance": scores[alive], "heads": heads,
                        "head_importance": head_scores[heads]})
    return records, states


def logits_of(model, states):
    if model.causal:
        states[-1] = model.norm(states[-1], "ln_f")
        return {"logits": states[-1] @ model.w["wte.weight"].T}
    if "qa_outputs.weight" in model.w:
        both = model.linear(states[-1], "qa_outputs")
        return {"start_logits": both[:, 0], "end_logits": both[:, 1]}
    if model.reads_first:
        return {"logits": model.linear(np.tanh(model.linear(states[-1][0], "pooler.dense")), "classifier")}
    return {"logits": model.linear(states[-1], "classifier")} if "classifier.weight" in model.w else {}


def same(name, found, expected):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        sys.exit(f"{name}: expected the shape {expected.shape}, found {found.shape}")
    limit = 1e-4 * max(np.abs(expected).max(initial=0), 1e-30)
    if not np.abs(found - expected).max(initial=0) <= limit:
        sys.exit(f"{name}: expected {expected}, found {found}")


def main(folder, schedule, cases, dump, trace):
    model, schedule = Model(pathlib.Path(folder)), json.loads(pathlib.Path(schedule).read_text())
    dump, compared = tensors_of(dump), 0
    lines = [json.loads(line) for line in pathlib.Path(trace).read_text().splitlines()][1:]
    found = {(line["sequence"], line["layer"]): line for line in lines}
    sequence = 0
    for case in json.loads(pathlib.Path(cases).read_text())["cases"]:
        for row, ids in enumerate(case["input_ids"]):
            ids = ids[:sum(case.get("attention_mask", [[1] * len(ids)] * (row + 1))[row])]
            types = case.get("token_type_ids", [[0] * len(ids)] * (row + 1))[row][:len(ids)]
            records, states = run(model, schedule, np.array(ids), np.array(types))
            for record in records:
                line = found.pop((sequence, record["layer"]))
                for key, expected in record.items():
                    if key in line:
                        same(f"{case['name']} {row}: layer {record['layer']}: {key}", line[key], expected)
            tensors = logits_of(model, states) | {f"hidden.{i}": x for i, x in enumerate(states)}
            for key, expected in tensors.items():
                values = dump[f"{case['name']}.{key}"][row]
                same(f"{case['name']} {row}: {key}", values[:len(expected)], expected)
                compared += 1
            sequence += 1
    if found:
        sys.exit(f"trace: expected no records of other sequences and layers, found {sorted(found)[:3]}")
    print(f"{sequence} sequences: {compared} tensors and {len(lines)} records are as they should be")


if __name__ == "__main__":
    main(*sys.argv[1:])
