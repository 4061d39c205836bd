#!/usr/bin/env python3
"""Writes a checkpoint of a published shape with random weights, to measure loading and speed.

    tools/make_random_checkpoint.py llama-1.1b build/llama-1.1b --dtype bf16 --shards 2

The directory is a Hugging Face one (config.json and safetensors), without a tokenizer. Matrices and
biases are normal with deviation 0.02, weights of norms lie around 1. The values depend on the seed
and the tensor's place alone, so every dtype and sharding holds the same ones, rounded. Tensors are
written block by block, so that memory stays small. Needs numpy.
"""

import argparse
import json
import os
import struct

import numpy as np

BLOCK_VALUES = 1 << 24


def bert(layers, width, heads, inner):
    config = {
        "architectures": ["BertModel"], "model_type": "bert", "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "intermediate_size": inner, "vocab_size": 30522, "hidden_act": "gelu",
        "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0,
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
    }

    def linear(name, outputs, inputs):
        return [(f"{name}.weight", [outputs, inputs]), (f"{name}.bias", [outputs])]

    def norm(name):
        return [(f"{name}.LayerNorm.weight", [width]), (f"{name}.LayerNorm.bias", [width])]

    tensors = [(f"embeddings.{name}_embeddings.weight", [rows, width])
               for name, rows in (("word", 30522), ("position", 512), ("token_type", 2))] + norm("embeddings")
    for i in range(layers):
        at = f"encoder.layer.{i}"
        for name in ("query", "key", "value"):
            tensors += linear(f"{at}.attention.self.{name}", width, width)
        tensors += linear(f"{at}.attention.output.dense", width, width) + norm(f"{at}.attention.output")
        tensors += linear(f"{at}.intermediate.dense", inner, width)
        tensors += linear(f"{at}.output.dense", width, inner) + norm(f"{at}.output")
    return config, tensors + linear("pooler.dense", width, width)


def gpt2(layers, width, heads):
    config = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": width, "n_layer": layers,
        "n_head": heads, "n_positions": 1024, "n_ctx": 1024, "vocab_size": 50257, "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new", "bos_token_id": 50256, "eos_token_id": 50256, "tie_word_embeddings": True,
    }

    def both(name, weight):
        return [(f"transformer.{name}.weight", weight), (f"transformer.{name}.bias", weight[-1:])]

    tensors = [("transformer.wte.weight", [50257, width]), ("transformer.wpe.weight", [1024, width])]
    for i in range(layers):  # these matrices are [inputs, outputs]
        tensors += both(f"h.{i}.ln_1", [width]) + both(f"h.{i}.attn.c_attn", [width, 3 * width])
        tensors += both(f"h.{i}.attn.c_proj", [width, width]) + both(f"h.{i}.ln_2", [width])
        tensors += both(f"h.{i}.mlp.c_fc", [width, 4 * width]) + both(f"h.{i}.mlp.c_proj", [4 * width, width])
    return config, tensors + both("ln_f", [width])


def llama(layers, width, heads, kv_heads, inner):
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "intermediate_size": inner, "vocab_size": 32000, "hidden_act": "silu", "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "bos_token_id": 1,
        "eos_token_id": 2,
    }
    kv_width = width // heads * kv_heads
    tensors = [("model.embed_tokens.weight", [32000, width])]
    for i in range(layers):
        at = f"model.layers.{i}"
        tensors += [(f"{at}.self_attn.{name}_proj.weight", shape) for name, shape in (
            ("q", [width, width]), ("k", [kv_width, width]), ("v", [kv_width, width]), ("o", [width, width]))]
        tensors += [(f"{at}.mlp.{name}_proj.weight", shape) for name, shape in (
            ("gate", [inner, width]), ("up", [inner, width]), ("down", [width, inner]))]
        tensors += [(f"{at}.{name}_layernorm.weight", [width]) for name in ("input", "post_attention")]
    return config, tensors + [("model.norm.weight", [width]), ("lm_head.weight", [32000, width])]


SHAPES = {
    "minilm": lambda: bert(6, 384, 12, 1536),
    "bert-base": lambda: bert(12, 768, 12, 3072),
    "bert-large": lambda: bert(24, 1024, 16, 4096),
    "transformer-800": lambda: bert(2, 800, 4, 200),
    "gpt2": lambda: gpt2(12, 768, 12),
    "gpt2-medium": lambda: gpt2(24, 1024, 16),
    "llama-1.1b": lambda: llama(22, 2048, 32, 4, 5632),
    "llama-0.1b-kv12": lambda: llama(12, 768, 12, 12, 2048),
    "llama-0.1b-kv2": lambda: llama(12, 768, 12, 2, 2048),
    "llama-0.1b-kv1": lambda: llama(12, 768, 12, 1, 2048),
}
# name: (bytes, name in safetensors, name in config.json)
DTYPES = {"f32": (4, "F32", "float32"), "f16": (2, "F16", "float16"), "bf16": (2, "BF16", "bfloat16")}


def is_norm_weight(name, shape):
    return len(shape) == 1 and name.endswith("weight")


def encode(values, dtype):
    if dtype == "f32":
        return values.astype("<f4")
    if dtype == "f16":
        return values.astype("<f2")
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")  # to nearest, ties to even


def write_tensor(file, tensor, seed, dtype):
    name, shape = tensor
    generator = np.random.default_rng(seed)
    left = int(np.prod(shape))
    while left > 0:
        values = generator.standard_normal(min(left, BLOCK_VALUES), dtype=np.float32) * np.float32(0.02)
        if is_norm_weight(name, shape):
            values += np.float32(1)
        file.write(encode(values, dtype).tobytes())
        left -= len(values)


def write_shard(path, tensors, args):
    """tensors: (number in the model, (name, shape)). Returns the bytes of data."""
    width, label, _ = DTYPES[args.dtype]
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for _, (name, shape) in tensors:
        end = offset + width * int(np.prod(shape))
        header[name] = {"dtype": label, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for number, tensor in tensors:
            write_tensor(file, tensor, [args.seed, number], args.dtype)
    return offset


def split(tensors, shards):
    """Runs of tensors of about equal size."""
    total, done = sum(int(np.prod(shape)) for _, shape in tensors), 0
    parts = [[] for _ in range(shards)]
    for number, (name, shape) in enumerate(tensors):
        parts[min(shards - 1, done * shards // total)].append((number, (name, shape)))
        done += int(np.prod(shape))
    return [part for part in parts if part]


def write_checkpoint(args):
    config, tensors = SHAPES[args.shape]()
    os.makedirs(args.out, exist_ok=True)
    parts = split(tensors, args.shards)
    index, total = {}, 0
    for i, part in enumerate(parts, 1):
        file = "model.safetensors" if len(parts) == 1 else f"model-{i:05}-of-{len(parts):05}.safetensors"
        total += write_shard(f"{args.out}/{file}", part, args)
        index.update({name: file for _, (name, _) in part})
        print(f"{args.out}/{file}: {len(part)} tensors", flush=True)
    if len(parts) > 1:
        with open(f"{args.out}/model.safetensors.index.json", "w", encoding="utf-8") as file:
            json.dump({"metadata": {"total_size": total}, "weight_map": index}, file, indent=1)
    with open(f"{args.out}/config.json", "w", encoding="utf-8") as file:
        json.dump({**config, "torch_dtype": DTYPES[args.dtype][2]}, file, indent=1)
    print(f"{args.shape}, {total // DTYPES[args.dtype][0]:,} values, {total / 1e6:.0f} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out", help="directory, made if it is not there")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.shards < 1:
        parser.error(f"--shards: expected at least 1, found {args.shards}")
    write_checkpoint(args)


if __name__ == "__main__":
    main()
