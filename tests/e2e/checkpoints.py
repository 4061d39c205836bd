"""Tiny checkpoints with random weights, so that the program can be tested without any download."""

import json
import math
import os
import random
import struct


def write_safetensors(path, shapes, seed):
    """Writes f32 tensors of the given shapes; norm weights are near 1, all else small and random."""
    generator = random.Random(seed)
    header, blobs, offset = {}, [], 0
    for name, shape in shapes.items():
        count = 1
        for size in shape:
            count *= size
        centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
        blob = struct.pack(f"<{count}f", *(centre + generator.gauss(0, 0.4) for _ in range(count)))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + len(blob)]}
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def read_safetensors(path):
    """Gives {name: (dtype, shape)} and checks that the offsets fill the file."""
    with open(path, "rb") as file:
        data = file.read()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    assert 8 + length + end == len(data), f"{path}: tensors end at {8 + length + end}, the file at {len(data)}"
    return {name: (entry["dtype"], entry["shape"]) for name, entry in header.items()}


def read_rows(path, name):
    """The rows of an f32 tensor: its last axis, one after another."""
    with open(path, "rb") as file:
        data = file.read()
    (length,) = struct.unpack("<Q", data[:8])
    entry = json.loads(data[8 : 8 + length])[name]
    assert entry["dtype"] == "F32", f"{name}: expected F32, found {entry['dtype']}"
    begin, end = (8 + length + offset for offset in entry["data_offsets"])
    values, width = struct.unpack(f"<{(end - begin) // 4}f", data[begin:end]), entry["shape"][-1]
    return [list(values[i : i + width]) for i in range(0, len(values), width)]


CODES = {"F32": "f", "F16": "e", "I32": "i", "I16": "h", "U16": "H", "I8": "b", "U8": "B", "BOOL": "?"}


def read_tensors(path):
    """Gives {name: (shape, numbers in their order)}."""
    with open(path, "rb") as file:
        data = file.read()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    return {name: (entry["shape"], struct.unpack(f"<{math.prod(entry['shape'])}{CODES[entry['dtype']]}",
                                                 data[8 + length:][slice(*entry["data_offsets"])]))
            for name, entry in header.items()}


def write_json(directory, name, value):
    with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
        json.dump(value, file)


def byte_characters():
    """The printable characters that byte-level BPE writes for the bytes 0..255."""
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table, spare = [], 0
    for byte in range(256):
        if byte in printable:
            table.append(chr(byte))
        else:
            table.append(chr(256 + spare))
            spare += 1
    return table


def byte_tokenizer():
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {character: i for i, character in enumerate(byte_characters())},
            "merges": [],
        },
    }


def word_tokenizer(vocabulary):
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
            for i, text in enumerate(specials)
        ],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                     {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}},
                     {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
            "special_tokens": {text: {"id": text, "ids": [specials.index(text)], "tokens": [text]}
                               for text in ("[CLS]", "[SEP]")},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {text: i for i, text in enumerate(vocabulary)}},
    }


def make_decoder(directory, context=1 << 20, tokenizer=True):
    """A Llama of two layers over bytes."""
    os.makedirs(directory)
    width, ffn, heads, kv_heads, size, vocabulary, layers = 32, 64, 4, 2, 8, 256, 2
    write_json(directory, "config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width,
        "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": size, "vocab_size": vocabulary, "hidden_act": "silu",
        "max_position_embeddings": context, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": True, "torch_dtype": "float32", "bos_token_id": None, "eos_token_id": None,
    })
    shapes = {"model.embed_tokens.weight": (vocabulary, width), "model.norm.weight": (width,)}
    for i in range(layers):
        layer = f"model.layers.{i}."
        shapes |= {
            layer + "input_layernorm.weight": (width,),
            layer + "post_attention_layernorm.weight": (width,),
            layer + "self_attn.q_proj.weight": (heads * size, width),
            layer + "self_attn.k_proj.weight": (kv_heads * size, width),
            layer + "self_attn.v_proj.weight": (kv_heads * size, width),
            layer + "self_attn.o_proj.weight": (width, heads * size),
            layer + "mlp.gate_proj.weight": (ffn, width),
            layer + "mlp.up_proj.weight": (ffn, width),
            layer + "mlp.down_proj.weight": (width, ffn),
        }
    write_safetensors(os.path.join(directory, "model.safetensors"), shapes, seed=1)
    if tokenizer:
        write_json(directory, "tokenizer.json", byte_tokenizer())
    return directory


def make_encoder(directory, context=48, layers=1):
    """A BERT of a layer or more that knows the letters."""
    os.makedirs(directory)
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *("##" + letter for letter in letters)]
    width, ffn, heads = 32, 64, 4
    write_json(directory, "config.json", {
        "architectures": ["BertModel"], "model_type": "bert", "hidden_size": width, "intermediate_size": ffn,
        "num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": len(vocabulary),
        "type_vocab_size": 2, "max_position_embeddings": context, "hidden_act": "gelu",
        "layer_norm_eps": 1e-12, "pad_token_id": 0, "torch_dtype": "float32",
    })
    shapes = {
        "embeddings.word_embeddings.weight": (len(vocabulary), width),
        "embeddings.position_embeddings.weight": (context, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "pooler.dense.weight": (width, width),
        "pooler.dense.bias": (width,),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in (f"encoder.layer.{i}." for i in range(layers)):
        norms += [layer + "attention.output.LayerNorm", layer + "output.LayerNorm"]
        for name, (outputs, inputs) in {
            "attention.self.query": (width, width), "attention.self.key": (width, width),
            "attention.self.value": (width, width), "attention.output.dense": (width, width),
            "intermediate.dense": (ffn, width), "output.dense": (width, ffn),
        }.items():
            shapes |= {f"{layer}{name}.weight": (outputs, inputs), f"{layer}{name}.bias": (outputs,)}
    for name in norms:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    write_safetensors(os.path.join(directory, "model.safetensors"), shapes, seed=2)
    write_json(directory, "tokenizer.json", word_tokenizer(vocabulary))
    return directory


def make_gpt2(directory, layers=3):
    """A GPT-2 without a tokenizer."""
    os.makedirs(directory)
    width, heads, vocabulary, positions = 32, 4, 60, 64
    write_json(directory, "config.json", {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": width, "n_head": heads, "n_layer": layers,
        "n_positions": positions, "vocab_size": vocabulary, "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5, "torch_dtype": "float32",
    })
    shapes = {"wte.weight": (vocabulary, width), "wpe.weight": (positions, width)}
    norms = ["ln_f"]
    for layer in (f"h.{i}." for i in range(layers)):
        norms += [layer + "ln_1", layer + "ln_2"]
        for name, (inputs, outputs) in {
            "attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width),
            "mlp.c_fc": (width, 4 * width), "mlp.c_proj": (4 * width, width),
        }.items():
            shapes |= {f"{layer}{name}.weight": (inputs, outputs), f"{layer}{name}.bias": (outputs,)}
    for name in norms:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    write_safetensors(os.path.join(directory, "model.safetensors"),
                      {"transformer." + name: shape for name, shape in shapes.items()}, seed=3)
    return directory
