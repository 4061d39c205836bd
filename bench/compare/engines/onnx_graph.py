"""Writes the checkpoint as an ONNX graph: plain, as exporters write it, or with ONNX Runtime's own fused operators; with
matrices of f32, or as ONNX Runtime's own quantiser packs them in groups of 4 or 8 bits."""

import os
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

GROUP = 32


class Graph:
    """An ONNX graph under construction; a value is its name."""

    def __init__(self):
        self.nodes, self.constants, self.inputs = [], [], []

    def constant(self, value):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def input(self, name, dtype, shape):
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def add(self, operator, *inputs, domain="", outputs=1, **attributes):
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        inputs = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        self.nodes.append(helper.make_node(operator, inputs, names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def fused(self, operator, *inputs, **attributes):
        return self.add(operator, *inputs, domain="com.microsoft", **attributes)

    def save(self, path, output, shape):
        self.nodes.append(helper.make_node("Identity", [output], ["output"]))
        graph = helper.make_graph(self.nodes, "model", self.inputs,
                                  [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)], self.constants)
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        # One file may not pass 2 GB.
        onnx.save(model, path, save_as_external_data=True, location=os.path.basename(path) + ".data", size_threshold=4096)


@dataclass(frozen=True)
class Form:
    fused: bool = False
    bits: int = 32  # of the matrices: 32, 8 or 4
    accuracy: int = 1  # of MatMulNBits: 1 computes in f32, 4 with rows of 8 bits

    def name(self):
        groups = "" if self.bits == 32 else f"-{self.bits}bits-{'f32' if self.accuracy == 1 else 'int8'}"
        return ("fused" if self.fused else "plain") + groups


def packed_in_groups(weight, bits):
    """Of [outputs, inputs]: integers [outputs, groups, bytes of a group] and scales [outputs, groups], around 2^(bits-1)."""
    from onnxruntime.capi import _pybind_state as own
    outputs, inputs = weight.shape
    groups = (inputs + GROUP - 1) // GROUP
    values = np.zeros((outputs, groups, GROUP * bits // 8), np.uint8)
    scales, zeros = np.zeros(outputs * groups, np.float32), np.zeros(outputs * ((groups * bits + 7) // 8), np.uint8)
    pack = own.quantize_matmul_4bits if bits == 4 else own.quantize_matmul_8bits
    pack(values, np.ascontiguousarray(weight.T), scales, zeros, GROUP, outputs, inputs, True)
    return values, scales.reshape(outputs, groups)


class Exporter:
    def __init__(self, checkpoint, batch, length, masked, form):
        self.c, self.g, self.form, self.is_fused = checkpoint, Graph(), form, form.fused
        self.batch, self.length = batch, length
        self.ids = self.g.input("ids", TensorProto.INT64, [batch, length])
        self.mask = None
        if masked and fused:
            self.mask = self.g.input("mask", TensorProto.INT32, [batch, length])
        elif masked:
            self.mask = self.g.input("mask", TensorProto.FLOAT, [batch, 1, 1, length])

    def product(self, x, weight):
        if self.form.bits == 32:
            return self.g.add("MatMul", x, weight.T)
        outputs, inputs = weight.shape
        values, scales = packed_in_groups(weight, self.form.bits)
        return self.g.fused("MatMulNBits", x, values, scales, K=inputs, N=outputs, bits=self.form.bits, block_size=GROUP,
                            accuracy_level=self.form.accuracy)

    def linear(self, x, linear):
        y = self.product(x, linear.weight)
        return y if linear.bias is None else self.g.add("Add", y, linear.bias)

    def norm(self, x, norm):
        if norm.shift is not None:
            return self.g.add("LayerNormalization", x, norm.scale, norm.shift, epsilon=self.c.epsilon)
        if self.is_fused:
            return self.g.add("SimplifiedLayerNormalization", x, norm.scale, epsilon=self.c.epsilon)
        square = self.g.add("ReduceMean", self.g.add("Mul", x, x), np.array([-1]), keepdims=1)
        root = self.g.add("Sqrt", self.g.add("Add", square, np.float32(self.c.epsilon)))
        return self.g.add("Mul", self.g.add("Div", x, root), norm.scale)

    def skip_norm(self, x, linear, skip, norm):
        """norm(linear(x) + skip)"""
        if self.is_fused:
            return self.g.fused("SkipLayerNormalization", self.product(x, linear.weight), skip, norm.scale,
                                norm.shift, linear.bias, epsilon=self.c.epsilon)
        return self.norm(self.g.add("Add", self.linear(x, linear), skip), norm)

    def heads(self, x, count):
        return self.g.add("Transpose", self.g.add("Reshape", x, np.array([self.batch, self.length, count, -1])),
                          perm=[0, 2, 1, 3])

    def rotate(self, x):
        cosines, sines = (np.concatenate([t, t], 1) for t in self.c.rotary(self.length))
        first, second = self.g.add("Split", x, outputs=2, axis=3, num_outputs=2)
        turned = self.g.add("Concat", self.g.add("Neg", second), first, axis=3)
        return self.g.add("Add", self.g.add("Mul", x, cosines), self.g.add("Mul", turned, sines))

    def plain_attention(self, x, layer):
        g, c = self.g, self.c
        q, k, v = (self.heads(self.linear(x, part), count) for part, count in
                   ((layer.query, c.heads), (layer.key, c.kv_heads), (layer.value, c.kv_heads)))
        if c.kind == "llama":
            q, k = self.rotate(q), self.rotate(k)
        if c.kv_heads != c.heads:
            group = c.heads // c.kv_heads
            grouped = np.array([self.batch, c.kv_heads, group, self.length, c.head_size])
            k, v = (g.add("Reshape", g.add("Expand", g.add("Unsqueeze", part, np.array([2])), grouped),
                          np.array([self.batch, c.heads, self.length, c.head_size])) for part in (k, v))
        scores = g.add("MatMul", q, g.add("Transpose", k, perm=[0, 1, 3, 2]))
        scores = g.add("Mul", scores, np.float32(c.head_size**-0.5))
        if c.is_decoder:
            scores = g.add("Add", scores, np.triu(np.full((self.length, self.length), -1e9, np.float32), 1))
        elif self.mask is not None:
            scores = g.add("Add", scores, self.mask)
        mixed = g.add("MatMul", g.add("Softmax", scores, axis=-1), v)
        return g.add("Reshape", g.add("Transpose", mixed, perm=[0, 2, 1, 3]),
                     np.array([self.batch, self.length, c.width]))

    def fused_attention(self, x, layer):
        g, c = self.g, self.c
        if c.kind != "llama":
            qkv = layer.query_key_value()
            mask = [] if self.mask is None else [self.mask]
            return g.fused("Attention", x, qkv.weight.T, qkv.bias, *mask, num_heads=c.heads,
                           unidirectional=int(c.is_decoder))
        q, k, v = (self.linear(x, part) for part in (layer.query, layer.key, layer.value))
        past = np.zeros((self.batch, c.kv_heads, 0, c.head_size), np.float32)
        cosines, sines = c.rotary(self.length)
        last = np.full(self.batch, self.length - 1, np.int32)
        return g.fused("GroupQueryAttention", q, k, v, past, past, last, np.array(self.length, np.int32), cosines, sines,
                       num_heads=c.heads, kv_num_heads=c.kv_heads, do_rotary=1, outputs=3)[0]

    def attention(self, x, layer):
        return self.fused_attention(x, layer) if self.is_fused else self.plain_attention(x, layer)

    def activated(self, x, linear):
        g = self.g
        if self.c.kind == "llama":
            y = self.linear(x, linear)
            return g.add("Mul", y, g.add("Sigmoid", y))
        y = self.product(x, linear.weight)
        if self.is_fused:
            return g.fused("FastGelu" if self.c.is_decoder else "BiasGelu", y, linear.bias)
        return g.add("Gelu", g.add("Add", y, linear.bias), approximate="tanh" if self.c.is_decoder else "none")

    def bert(self):
        g, c = self.g, self.c
        x = g.add("Gather", c.word_embeddings(), self.ids)
        x = g.add("Add", x, c.position_embeddings()[:self.length] + c.type_embeddings()[0])
        x = self.norm(x, c.final_norm())
        for i in range(c.layers):
            layer = c.layer(i)
            x = self.skip_norm(self.attention(x, layer), layer.attention_output, x, layer.attention_norm)
            x = self.skip_norm(self.activated(x, layer.ffn_in), layer.ffn_out, x, layer.ffn_norm)
        return x, [self.batch, self.length, c.width]

    def decoder(self):
        g, c = self.g, self.c
        x = g.add("Gather", c.word_embeddings(), self.ids)
        if c.kind == "gpt2":
            x = g.add("Add", x, c.position_embeddings()[:self.length])
        for i in range(c.layers):
            layer = c.layer(i)
            mixed = self.attention(self.norm(x, layer.attention_norm), layer)
            x = g.add("Add", x, self.linear(mixed, layer.attention_output))
            y = self.norm(x, layer.ffn_norm)
            if layer.ffn_gate is None:
                inner = self.activated(y, layer.ffn_in)
            else:
                inner = g.add("Mul", self.activated(y, layer.ffn_gate), self.linear(y, layer.ffn_in))
            x = g.add("Add", x, self.linear(inner, layer.ffn_out))
        last = g.add("Gather", self.norm(x, c.final_norm()), np.array(self.length - 1), axis=1)
        return self.product(last, c.head_weight()), [self.batch, c.vocabulary]


def exported(checkpoint, case, form):
    """The path of the graph for a case's shapes, which is written if it is not there."""
    lengths = [len(ids) for ids in case["ids"]]
    batch, length = len(lengths), max(lengths)
    masked = min(lengths) < length
    name = f"{form.name()}-{batch}x{length}{'-masked' if masked else ''}.onnx"
    path = checkpoint.directory / "onnx" / name
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        exporter = Exporter(checkpoint, batch, length, masked, form)
        part = path.with_suffix(".part")
        output, shape = exporter.decoder() if checkpoint.is_decoder else exporter.bert()
        part.unlink(missing_ok=True)
        path.with_suffix(".part.data").unlink(missing_ok=True)
        exporter.g.save(str(part), output, shape)
        os.replace(part, path)
    return path
