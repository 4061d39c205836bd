#!/usr/bin/env python3
"""Runs one other engine on a BERT checkpoint and prints its times as JSON; compare.py starts it.

onnxruntime and openvino get the graph as exporters write it, onnxruntime-fused the operators that ONNX
Runtime's own BERT optimiser puts in; torch is written with its fastest functions. All in f32.
"""

import argparse
import json
import os
import time

import numpy as np
from safetensors.numpy import load_file


class Checkpoint:
    def __init__(self, directory):
        with open(f"{directory}/config.json", encoding="utf-8") as file:
            config = json.load(file)
        self.directory = directory
        self.layers, self.heads = config["num_hidden_layers"], config["num_attention_heads"]
        self.width, self.epsilon = config["hidden_size"], config["layer_norm_eps"]
        self.tensors = load_file(f"{directory}/model.safetensors")

    def linear(self, name):
        """[inputs, outputs] and the bias."""
        return np.ascontiguousarray(self.tensors[f"{name}.weight"].T), self.tensors[f"{name}.bias"]

    def query_key_value(self, layer):
        parts = [self.linear(f"encoder.layer.{layer}.attention.self.{name}") for name in ("query", "key", "value")]
        return np.concatenate([w for w, _ in parts], 1), np.concatenate([b for _, b in parts])

    def norm(self, name):
        return self.tensors[f"{name}.LayerNorm.weight"], self.tensors[f"{name}.LayerNorm.bias"]


class Graph:
    """An ONNX graph under construction; a value is its name."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def constant(self, value):
        from onnx import numpy_helper
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, operator, *inputs, domain="", **attributes):
        from onnx import helper
        name = f"v{len(self.nodes)}"
        inputs = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        self.nodes.append(helper.make_node(operator, inputs, [name], domain=domain, **attributes))
        return name

    def fused(self, operator, *inputs, **attributes):
        return self.add(operator, *inputs, domain="com.microsoft", **attributes)

    def save(self, path, ids_shape, output, output_shape):
        import onnx
        from onnx import TensorProto, helper
        self.nodes.append(helper.make_node("Identity", [output], ["hidden"]))
        graph = helper.make_graph(
            self.nodes, "bert", [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ids_shape)],
            [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, output_shape)], self.constants)
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)


def export(bert, ids_shape, path, fused):
    graph, shape = Graph(), [*ids_shape, bert.width]
    heads_shape = np.array([*ids_shape, bert.heads, -1])

    def linear(x, name):
        weight, bias = bert.linear(name)
        return graph.add("Add", graph.add("MatMul", x, weight), bias)

    def skip_norm(x, name, skip):
        """norm(dense(x) + skip)"""
        scale, shift = bert.norm(name)
        if fused:
            weight, bias = bert.linear(f"{name}.dense")
            return graph.fused("SkipLayerNormalization", graph.add("MatMul", x, weight), skip, scale, shift, bias,
                               epsilon=bert.epsilon)
        return graph.add("LayerNormalization", graph.add("Add", linear(x, f"{name}.dense"), skip), scale, shift,
                         epsilon=bert.epsilon)

    def attention(x, layer):
        if fused:
            return graph.fused("Attention", x, *bert.query_key_value(layer), num_heads=bert.heads)
        q, k, v = (graph.add("Reshape", linear(x, f"encoder.layer.{layer}.attention.self.{name}"), heads_shape)
                   for name in ("query", "key", "value"))
        scores = graph.add("MatMul", graph.add("Transpose", q, perm=[0, 2, 1, 3]),
                           graph.add("Transpose", k, perm=[0, 2, 3, 1]))
        scores = graph.add("Div", scores, np.float32(np.sqrt(bert.width / bert.heads)))
        mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), graph.add("Transpose", v, perm=[0, 2, 1, 3]))
        return graph.add("Reshape", graph.add("Transpose", mixed, perm=[0, 2, 1, 3]), np.array(shape))

    tables = {name: bert.tensors[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")}
    x = graph.add("Gather", tables["word"], "input_ids")
    x = graph.add("Add", x, tables["position"][:ids_shape[1]] + tables["token_type"][0])
    x = graph.add("LayerNormalization", x, *bert.norm("embeddings"), epsilon=bert.epsilon)
    for i in range(bert.layers):
        at = f"encoder.layer.{i}"
        x = skip_norm(attention(x, i), f"{at}.attention.output", x)
        weight, bias = bert.linear(f"{at}.intermediate.dense")
        inner = graph.add("MatMul", x, weight)
        inner = graph.fused("BiasGelu", inner, bias) if fused else graph.add("Gelu", graph.add("Add", inner, bias))
        x = skip_norm(inner, f"{at}.output", x)
    graph.save(path, ids_shape, x, shape)


def exported(bert, ids, fused):
    path = f"{bert.directory}/{'fused' if fused else 'plain'}-{ids.shape[0]}x{ids.shape[1]}.onnx"
    if not os.path.exists(path):
        export(bert, ids.shape, path + ".part", fused)
        os.replace(path + ".part", path)
    return path


def onnxruntime_engine(bert, ids, threads, fused=False):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(exported(bert, ids, fused), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(["hidden"], {"input_ids": ids})[0], onnxruntime.__version__


def openvino_engine(bert, ids, threads):
    import openvino
    # Without the hint it computes in bf16 where the CPU has it.
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(exported(bert, ids, False), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda: request.infer({"input_ids": ids}, share_inputs=True)["hidden"], openvino.__version__.split("-")[0]


def torch_engine(bert, ids, threads):
    import torch
    import torch.nn.functional as f
    torch.set_num_threads(threads)
    t = {name: torch.from_numpy(value) for name, value in bert.tensors.items()}
    qkv = [tuple(torch.from_numpy(np.ascontiguousarray(part.T)) for part in bert.query_key_value(i))
           for i in range(bert.layers)]
    ids = torch.from_numpy(ids)

    def norm(x, name):
        return f.layer_norm(x, (bert.width,), t[f"{name}.LayerNorm.weight"], t[f"{name}.LayerNorm.bias"], bert.epsilon)

    def linear(x, name):
        return f.linear(x, t[f"{name}.weight"], t[f"{name}.bias"])

    def run():
        positions = t["embeddings.position_embeddings.weight"][:ids.shape[1]]
        types = t["embeddings.token_type_embeddings.weight"][0]
        x = norm(t["embeddings.word_embeddings.weight"][ids] + positions + types, "embeddings")
        for i in range(bert.layers):
            at = f"encoder.layer.{i}"
            q, k, v = f.linear(x, *qkv[i]).unflatten(2, (3, bert.heads, -1)).permute(2, 0, 3, 1, 4)
            mixed = f.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = norm(linear(mixed, f"{at}.attention.output.dense") + x, f"{at}.attention.output")
            inner = f.gelu(linear(x, f"{at}.intermediate.dense"))
            x = norm(linear(inner, f"{at}.output.dense") + x, f"{at}.output")
        return x.numpy()

    return torch.inference_mode()(run), torch.__version__


ENGINES = {
    "onnxruntime": onnxruntime_engine,
    "onnxruntime-fused": lambda *args: onnxruntime_engine(*args, fused=True),
    "openvino": openvino_engine,
    "torch": torch_engine,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("checkpoint")
    parser.add_argument("cases", help="JSON in the form of tessera dump, one case")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--output", help="write the last hidden state there (.npy)")
    args = parser.parse_args()
    with open(args.cases, encoding="utf-8") as file:
        ids = np.array(json.load(file)["cases"][0]["input_ids"], dtype=np.int64)
    run, version = ENGINES[args.engine](Checkpoint(args.checkpoint), ids, args.threads)
    for _ in range(max(1, args.warm_up)):
        hidden = run()
    times = []
    for _ in range(args.samples):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    if args.output:
        np.save(args.output, hidden)
    print(json.dumps({"version": version, "milliseconds": times}))


if __name__ == "__main__":
    main()
