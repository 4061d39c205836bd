"""The parts of a BERT and of a GPT-2 in NumPy and f64, from a directory of the Hugging Face format in f32."""

import json
import math
import pathlib

import numpy as np


def tensors_of(path):
    data = pathlib.Path(path).read_bytes()
    size = int.from_bytes(data[:8], "little")
    return {name: np.frombuffer(data[8 + size:][slice(*entry["data_offsets"])], {"F32": "<f4", "I32": "<i4"}[entry["dtype"]])
            .reshape(entry["shape"]).astype(np.float64)
            for name, entry in json.loads(data[8:8 + size]).items() if name != "__metadata__"}


class Model:
    def __init__(self, folder):
        c = self.config = json.loads((folder / "config.json").read_text())
        self.gpt = c["model_type"] == "gpt2"
        prefix = "transformer." if self.gpt else "bert."
        self.w = {name.removeprefix(prefix): w for name, w in tensors_of(folder / "model.safetensors").items()}
        self.layers, self.heads, self.positions, self.epsilon, self.act = (c[key] for key in (
            ("n_layer", "n_head", "n_positions", "layer_norm_epsilon", "activation_function") if self.gpt else
            ("num_hidden_layers", "num_attention_heads", "max_position_embeddings", "layer_norm_eps", "hidden_act")))
        self.classifies = {"pooler.dense.weight", "classifier.weight"} <= self.w.keys()

    def norm(self, x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + self.epsilon)
        return x * self.w[name + ".weight"] + self.w[name + ".bias"]

    def linear(self, x, name):
        return x @ (self.w[name + ".weight"] if self.gpt else self.w[name + ".weight"].T) + self.w[name + ".bias"]

    def ffn(self, x, enter, leave):
        x = self.linear(x, enter)
        gelu = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)) if self.act == "gelu_new" else (
            np.vectorize(math.erf)(x / math.sqrt(2)))
        return self.linear(0.5 * x * (1 + gelu), leave)

    def embed(self, ids, types, first):
        if self.gpt:
            return self.w["wte.weight"][ids] + self.w["wpe.weight"][first:first + len(ids)]
        parts = (("word", ids), ("position", slice(len(ids))), ("token_type", types))
        return self.norm(sum(self.w[f"embeddings.{n}_embeddings.weight"][i] for n, i in parts), "embeddings.LayerNorm")

    def project(self, x, layer):
        """Queries, keys and values, [rows, heads, size] each."""
        parts = (np.split(self.linear(self.norm(x, f"h.{layer}.ln_1"), f"h.{layer}.attn.c_attn"), 3, -1) if self.gpt else
                 [self.linear(x, f"encoder.layer.{layer}.attention.self.{name}") for name in ("query", "key", "value")])
        return [part.reshape(len(x), self.heads, -1) for part in parts]

    def leave(self, x, layer, context):
        if self.gpt:
            x, name = x + self.linear(context, f"h.{layer}.attn.c_proj"), f"h.{layer}."
            return x + self.ffn(self.norm(x, name + "ln_2"), name + "mlp.c_fc", name + "mlp.c_proj")
        name = f"encoder.layer.{layer}."
        x = self.norm(x + self.linear(context, name + "attention.output.dense"), name + "attention.output.LayerNorm")
        return self.norm(x + self.ffn(x, name + "intermediate.dense", name + "output.dense"), name + "output.LayerNorm")

    def head(self, x):
        if self.gpt:
            return {"logits": self.norm(x, "ln_f") @ self.w["wte.weight"].T}
        if "qa_outputs.weight" in self.w:
            return dict(zip(("start_logits", "end_logits"), self.linear(x, "qa_outputs").T))
        x = np.tanh(self.linear(x[0], "pooler.dense")) if self.classifies else x
        return {"logits": self.linear(x, "classifier")} if "classifier.weight" in self.w else {}
