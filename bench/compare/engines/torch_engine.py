"""PyTorch, written with its fastest functions: one product for Q, K and V, fused attention, a static cache."""

import time

import numpy as np
import torch
import torch.nn.functional as f

from checkpoint import Linear

from .torch_linear import make_linear, rows_type


class Engine:
    def __init__(self, checkpoint, threads, precision="f32"):
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.c, self.version, self.precision = checkpoint, torch.__version__, precision
        self.type, self.weight_bytes = rows_type(precision), 0
        self.layers = [Layer(self, checkpoint.layer(i)) for i in range(checkpoint.layers)]
        self.words = self.table(checkpoint.word_embeddings())
        self.norm_weights = self.norm_of(checkpoint.final_norm())
        if checkpoint.kind == "llama":
            self.cosines, self.sines = (self.table(np.concatenate([t, t], 1)) for t in checkpoint.rotary(2048))
        else:
            self.positions = self.table(checkpoint.position_embeddings())
        self.types = self.table(checkpoint.type_embeddings())[0] if checkpoint.kind == "bert" else None
        self.head = self.linear(Linear(checkpoint.head_weight(), None)) if checkpoint.is_decoder else None

    def table(self, array):
        return torch.from_numpy(array).to(self.type)

    def linear(self, linear):
        made = make_linear(linear, self.precision)
        self.weight_bytes += made.bytes
        return made

    def norm_of(self, norm):
        return tuple(None if a is None else self.table(a) for a in (norm.scale, norm.shift))

    def start(self, case):
        return {"encode": Encode, "prefill": Prefill, "decode": Decode}[case["kind"]](self, case)

    def norm(self, x, weights):
        scale, shift = weights
        if self.c.kind == "llama":
            return f.rms_norm(x, (self.c.width,), scale, self.c.epsilon)
        return f.layer_norm(x, (self.c.width,), scale, shift, self.c.epsilon)

    def bert(self, ids, mask):
        c = self.c
        x = self.norm(self.words[ids] + self.positions[:ids.shape[1]] + self.types, self.norm_weights)
        for layer in self.layers:
            q, k, v = layer.qkv(x).unflatten(2, (3, c.heads, -1)).permute(2, 0, 3, 1, 4)
            mixed = f.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
            x = self.norm(layer.out(mixed) + x, layer.norms[0])
            x = self.norm(layer.ffn_out(f.gelu(layer.ffn_in(x))) + x, layer.norms[1])
        return x

    def rotate(self, x, begin):
        end = begin + x.shape[2]
        half = x.shape[3] // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], -1)
        return x * self.cosines[begin:end] + turned * self.sines[begin:end]

    def decoder(self, ids, cache, begin):
        """Logits of the last position; fills cache[layer] = (keys, values) from position `begin` on."""
        c, end = self.c, begin + ids.shape[1]
        x = self.words[ids]
        if c.kind == "gpt2":
            x = x + self.positions[begin:end]
        for layer, (keys, values) in zip(self.layers, cache):
            parts = layer.qkv(self.norm(x, layer.norms[0])).unflatten(2, (-1, c.head_size)).transpose(1, 2)
            q, k, v = parts.split([c.heads, c.kv_heads, c.kv_heads], 1)
            if c.kind == "llama":
                q, k = self.rotate(q, begin), self.rotate(k, begin)
            keys[:, :, begin:end], values[:, :, begin:end] = k, v
            mixed = f.scaled_dot_product_attention(q, keys[:, :, :end], values[:, :, :end], is_causal=ids.shape[1] > 1,
                                                   enable_gqa=c.heads != c.kv_heads)
            x = x + layer.out(mixed.transpose(1, 2).flatten(2))
            y = self.norm(x, layer.norms[1])
            inner = f.gelu(layer.ffn_in(y), approximate="tanh") if layer.gate is None else (
                f.silu(layer.gate(y)) * layer.ffn_in(y))
            x = x + layer.ffn_out(inner)
        return self.head(self.norm(x[:, -1], self.norm_weights))

    def make_cache(self, batch, length):
        shape = (batch, self.c.kv_heads, length, self.c.head_size)
        return [(torch.zeros(shape, dtype=self.type), torch.zeros(shape, dtype=self.type)) for _ in self.layers]


class Layer:
    def __init__(self, engine, layer):
        self.qkv = engine.linear(layer.query_key_value())
        self.out, self.ffn_in, self.ffn_out = map(engine.linear, (layer.attention_output, layer.ffn_in, layer.ffn_out))
        self.gate = None if layer.ffn_gate is None else engine.linear(layer.ffn_gate)
        self.norms = [engine.norm_of(norm) for norm in (layer.attention_norm, layer.ffn_norm)]


class Encode:
    def __init__(self, engine, case):
        self.engine, self.lengths = engine, [len(ids) for ids in case["ids"]]
        longest = max(self.lengths)
        self.ids = torch.zeros((len(self.lengths), longest), dtype=torch.int64)
        for row, ids in zip(self.ids, case["ids"]):
            row[:len(ids)] = torch.tensor(ids)
        self.mask = None
        if min(self.lengths) < longest:
            self.mask = torch.arange(longest)[None] < torch.tensor(self.lengths)[:, None]
            self.mask = self.mask[:, None, None]

    def sample(self):
        start = time.perf_counter()
        self.hidden = self.engine.bert(self.ids, self.mask)
        return [time.perf_counter() - start]

    def result(self):
        return np.concatenate([h[:n].float().numpy() for h, n in zip(self.hidden, self.lengths)])


class Prefill:
    def __init__(self, engine, case):
        self.engine, self.ids = engine, torch.tensor(case["ids"])
        self.cache = engine.make_cache(*self.ids.shape)

    def sample(self):
        start = time.perf_counter()
        self.logits = self.engine.decoder(self.ids, self.cache, 0)
        return [time.perf_counter() - start]

    def result(self):
        return self.logits.float().numpy()


class Decode:
    def __init__(self, engine, case):
        self.engine, self.ids, self.new = engine, torch.tensor(case["ids"]), case["new_tokens"]
        self.cache = engine.make_cache(len(self.ids), self.ids.shape[1] + self.new)

    def sample(self):
        logits, times, chosen = self.engine.decoder(self.ids, self.cache, 0), [], []
        for i in range(self.new):
            chosen.append(logits.argmax(-1))
            if i + 1 == self.new:
                break
            start = time.perf_counter()
            logits = self.engine.decoder(chosen[-1][:, None], self.cache, self.ids.shape[1] + i)
            logits.argmax(-1)
            times.append(time.perf_counter() - start)
        self.chosen = torch.stack(chosen, 1)
        return times

    def result(self):
        return self.chosen.numpy()
