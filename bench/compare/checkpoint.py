"""A checkpoint of the measured shapes as numpy arrays, in one form for every engine's converter."""

import json
import pathlib
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load_file


@dataclass
class Linear:
    weight: np.ndarray  # [outputs, inputs]
    bias: np.ndarray | None


@dataclass
class Norm:
    scale: np.ndarray
    shift: np.ndarray | None  # None: RMS norm


@dataclass
class Layer:
    query: Linear
    key: Linear
    value: Linear
    attention_output: Linear
    attention_norm: Norm
    ffn_norm: Norm
    ffn_gate: Linear | None
    ffn_in: Linear
    ffn_out: Linear

    def query_key_value(self):
        parts = [self.query, self.key, self.value]
        bias = None if parts[0].bias is None else np.concatenate([p.bias for p in parts])
        return Linear(np.concatenate([p.weight for p in parts]), bias)


class Checkpoint:
    """bert: norms behind the blocks; gpt2, llama: before them, with a final one and a head."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.config = c = json.loads((self.directory / "config.json").read_text())
        self.kind = c["model_type"]
        self.layers = c.get("num_hidden_layers", c.get("n_layer"))
        self.heads = c.get("num_attention_heads", c.get("n_head"))
        self.kv_heads = c.get("num_key_value_heads", self.heads)
        self.width = c.get("hidden_size", c.get("n_embd"))
        self.head_size = self.width // self.heads
        self.inner = c.get("intermediate_size", 4 * self.width)
        self.vocabulary = c["vocab_size"]
        self.positions = c.get("max_position_embeddings", c.get("n_positions"))
        self.epsilon = c.get("layer_norm_eps", c.get("layer_norm_epsilon", c.get("rms_norm_eps")))
        self.rope_theta = c.get("rope_theta", c.get("rope_parameters", {}).get("rope_theta", 10000.0))
        self._tensors = None

    @property
    def tensors(self):
        if self._tensors is None:
            found = load_file(self.directory / "model.safetensors")
            self._tensors = {name: value.astype(np.float32, copy=False) for name, value in found.items()}
        return self._tensors

    def release(self):
        """Gives the memory of the arrays back that no engine has kept."""
        self._tensors = None

    @property
    def is_decoder(self):
        return self.kind != "bert"

    # Dense FLOPs, as multiplications and additions.
    def layer_flops_per_token(self):
        kv_width = self.kv_heads * self.head_size
        ffn = (3 if self.kind == "llama" else 2) * self.width * self.inner
        return 2 * self.layers * (2 * self.width * self.width + 2 * self.width * kv_width + ffn)

    def head_flops_per_token(self):
        return 2 * self.vocabulary * self.width if self.is_decoder else 0

    def attention_flops(self, pairs):
        """pairs: of a query and a key it sees, over all sequences."""
        return 4 * self.layers * self.width * pairs

    def weight_bytes(self, bytes_per_value=4):
        """Of the matrices that every token meets."""
        return (self.layer_flops_per_token() + self.head_flops_per_token()) // 2 * bytes_per_value

    def outputs(self):
        """Of the same, all together: the scales that one for each output makes."""
        kv_width = self.kv_heads * self.head_size
        ffn = (2 if self.kind == "llama" else 1) * self.inner + self.width
        return self.layers * (2 * self.width + 2 * kv_width + ffn) + (self.vocabulary if self.is_decoder else 0)

    def linear(self, name, transposed=False):
        weight = self.tensors[f"{name}.weight"]
        return Linear(np.ascontiguousarray(weight.T) if transposed else weight, self.tensors.get(f"{name}.bias"))

    def norm(self, name):
        return Norm(self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias"))

    def layer(self, i):
        return getattr(self, f"_{self.kind}_layer")(i)

    def _bert_layer(self, i):
        at = f"encoder.layer.{i}"
        own = f"{at}.attention.self"
        return Layer(*(self.linear(f"{own}.{name}") for name in ("query", "key", "value")),
                     self.linear(f"{at}.attention.output.dense"), self.norm(f"{at}.attention.output.LayerNorm"),
                     self.norm(f"{at}.output.LayerNorm"), None, self.linear(f"{at}.intermediate.dense"),
                     self.linear(f"{at}.output.dense"))

    def _gpt2_layer(self, i):
        at = f"transformer.h.{i}"
        fused = self.linear(f"{at}.attn.c_attn", transposed=True)
        qkv = [Linear(w, b) for w, b in zip(np.split(fused.weight, 3), np.split(fused.bias, 3))]
        return Layer(*qkv, self.linear(f"{at}.attn.c_proj", transposed=True), self.norm(f"{at}.ln_1"),
                     self.norm(f"{at}.ln_2"), None, self.linear(f"{at}.mlp.c_fc", transposed=True),
                     self.linear(f"{at}.mlp.c_proj", transposed=True))

    def _llama_layer(self, i):
        at = f"model.layers.{i}"
        q, k, v, o = (self.linear(f"{at}.self_attn.{name}_proj") for name in "qkvo")
        gate, up, down = (self.linear(f"{at}.mlp.{name}_proj") for name in ("gate", "up", "down"))
        return Layer(q, k, v, o, self.norm(f"{at}.input_layernorm"), self.norm(f"{at}.post_attention_layernorm"), gate,
                     up, down)

    def word_embeddings(self):
        names = {"bert": "embeddings.word_embeddings.weight", "gpt2": "transformer.wte.weight",
                 "llama": "model.embed_tokens.weight"}
        return self.tensors[names[self.kind]]

    def position_embeddings(self):
        names = {"bert": "embeddings.position_embeddings.weight", "gpt2": "transformer.wpe.weight"}
        return self.tensors[names[self.kind]]

    def type_embeddings(self):
        return self.tensors["embeddings.token_type_embeddings.weight"]

    def final_norm(self):
        names = {"bert": "embeddings.LayerNorm", "gpt2": "transformer.ln_f", "llama": "model.norm"}
        return self.norm(names[self.kind])

    def head_weight(self):
        return self.tensors.get("lm_head.weight", self.word_embeddings())

    def rotary(self, positions):
        """Cosines and sines, [positions, head_size / 2]."""
        frequencies = self.rope_theta ** (-np.arange(0, self.head_size, 2, dtype=np.float64) / self.head_size)
        angles = np.arange(positions)[:, None] * frequencies
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
