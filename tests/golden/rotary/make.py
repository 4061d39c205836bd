#!/usr/bin/env python3
"""Writes the reference outputs beside this file with transformers 5.24 and torch on the CPU:

    tests/golden/rotary/make.py

model.safetensors holds the weights of one tiny model, and what all families need of them; cases.json a configuration, a
prompt and its greedy continuation for each way in which positions or a family's keys are written; logits.safetensors the
logits of each prompt's tokens. A case that transformers gives up has its error in place of outputs.
"""

import json
import pathlib
import tempfile

import torch
import transformers
from huggingface_hub.errors import StrictDataclassFieldValidationError
from safetensors.torch import save_file

FOLDER = pathlib.Path(__file__).parent
NEW_TOKENS = 12
WEIGHT = 0.6  # large enough for peaked attention, which positions then decide
SIZES = {"vocab_size": 24, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 32, "tie_word_embeddings": False,
         "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0, 1.1, 1.3, 1.6], "long_factor": [1.5, 2.0, 3.0, 5.0]}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LINEAR = {"type": "linear", "factor": 4.0}
DYNAMIC = {"type": "dynamic", "factor": 3.0}
OF_TYPES = {"full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}}

# Name, model_type, tokens of the prompt, keys beside SIZES.
CASES = [
    ("default", "llama", 20, {}),
    ("theta", "llama", 20, {"rope_theta": 77.0}),
    ("theta-in-parameters", "llama", 20, {"rope_theta": 77.0, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    ("theta-null", "llama", 20, {"rope_theta": None}),
    ("linear", "llama", 20, {"rope_scaling": LINEAR}),
    ("linear-in-parameters", "llama", 20, {"rope_parameters": {**LINEAR, "rope_theta": 500.0}}),
    ("linear-below-1", "llama", 20, {"rope_scaling": {"type": "linear", "factor": 0.5}}),
    ("both-spellings", "llama", 20, {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rope_scaling": LINEAR}),
    ("both-spellings-and-theta", "llama", 20,
     {"rope_theta": 77.0, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rope_scaling": LINEAR}),
    ("empty-scaling", "llama", 20, {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rope_scaling": {}}),
    ("both-types", "llama", 20, {"rope_scaling": {**LINEAR, "rope_type": "default"}}),
    ("type-null", "llama", 20, {"rope_scaling": {"type": None, "factor": 4.0}}),
    ("unknown-type", "llama", 20, {"rope_scaling": {"type": "su", "factor": 4.0}}),
    ("linear-without-factor", "llama", 20, {"rope_scaling": {"type": "linear"}}),
    ("linear-null-factor", "llama", 20, {"rope_scaling": {"type": "linear", "factor": None}}),
    ("dynamic-within", "llama", 20, {"rope_scaling": DYNAMIC}),
    ("dynamic-beyond", "llama", 50, {"rope_scaling": DYNAMIC}),
    ("dynamic-crossing", "llama", 26, {"rope_scaling": DYNAMIC}),
    ("dynamic-without-factor", "llama", 20, {"rope_scaling": {"type": "dynamic"}}),
    ("yarn", "llama", 20, {"rope_scaling": YARN}),
    ("yarn-beyond", "llama", 40, {"rope_scaling": YARN, "rope_theta": 100.0}),
    ("yarn-ramp", "llama", 20, {"rope_theta": 50.0, "rope_scaling": {**YARN, "beta_fast": 4, "beta_slow": 0.5}}),
    ("yarn-not-truncated", "llama", 20,
     {"rope_theta": 50.0, "rope_scaling": {**YARN, "beta_fast": 4, "beta_slow": 0.5, "truncate": False}}),
    ("yarn-null-truncate", "llama", 20,
     {"rope_theta": 50.0, "rope_scaling": {**YARN, "beta_fast": 4, "beta_slow": 0.5, "truncate": None}}),
    ("yarn-mscale", "llama", 20, {"rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.9}}),
    ("yarn-one-mscale", "llama", 20, {"rope_scaling": {**YARN, "mscale": 0.7}}),
    ("yarn-attention-factor", "llama", 20, {"rope_scaling": {**YARN, "attention_factor": 1.4, "mscale": 0.7, "mscale_all_dim": 1.9}}),
    ("yarn-nulls", "llama", 20, {"rope_scaling": {**YARN, "factor": None, "attention_factor": None, "beta_fast": None, "beta_slow": 0}}),
    ("yarn-original-beside", "llama", 20, {"rope_theta": 50.0, "original_max_position_embeddings": 8,
                                           "rope_scaling": {**YARN, "beta_fast": 4, "beta_slow": 0.5}}),
    ("yarn-without-original", "llama", 20, {"rope_theta": 50.0, "rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": 4}}),
    ("yarn-without-factor", "llama", 20, {"rope_scaling": {"type": "yarn"}}),
    ("longrope-within", "llama", 14, {"rope_scaling": {**LONGROPE, "original_max_position_embeddings": 16}, "max_position_embeddings": 64}),
    ("longrope-beyond", "llama", 20, {"rope_scaling": {**LONGROPE, "original_max_position_embeddings": 16}, "max_position_embeddings": 64}),
    ("longrope-crossing", "llama", 10, {"rope_scaling": {**LONGROPE, "original_max_position_embeddings": 16}, "max_position_embeddings": 64}),
    ("longrope-original-beside", "llama", 20,
     {"original_max_position_embeddings": 24, "rope_scaling": {**LONGROPE, "original_max_position_embeddings": 16}}),
    ("longrope-factor", "llama", 20, {"rope_scaling": {**LONGROPE, "factor": 9.0, "original_max_position_embeddings": 16}}),
    ("longrope-attention-factor", "llama", 20, {"rope_scaling": {**LONGROPE, "factor": 9.0, "attention_factor": 1.3}}),
    ("longrope-without-factors", "llama", 20, {"rope_scaling": {"type": "longrope", "factor": 2.0}}),
    ("llama3", "llama", 20, {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 16}}),
    ("llama3-without-original", "llama", 20, {"rope_scaling": LLAMA3}),
    ("llama3-original-beside", "llama", 20,
     {"original_max_position_embeddings": 8, "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 16}}),
    ("llama3-without-low", "llama", 20, {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0}}),
    ("proportional", "llama", 20, {"rope_parameters": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "factor": 2.0}}),
    ("share-of-default", "llama", 20, {"partial_rotary_factor": 0.5}),
    ("share-of-linear", "llama", 20, {"rope_scaling": LINEAR, "partial_rotary_factor": 0.5}),
    ("odd-share-of-linear", "llama", 20, {"rope_scaling": LINEAR, "partial_rotary_factor": 0.9}),
    ("settings-of-types", "llama", 20, {"rope_parameters": OF_TYPES}),
    ("settings-of-types-qwen3", "qwen3", 20, {"rope_parameters": OF_TYPES}),
    ("yarn-mistral", "mistral", 20, {"rope_scaling": YARN}),
    ("attention-bias-mistral", "mistral", 20, {"attention_bias": True, "mlp_bias": True}),
    ("window-mistral", "mistral", 20, {"sliding_window": 6}),
    ("layer-types-mistral", "mistral", 20, {"sliding_window": 6, "layer_types": ["full_attention", "sliding_attention"]}),
    ("null-layer-types-mistral", "mistral", 20, {"sliding_window": 6, "layer_types": None}),
    ("kv-heads-null-mistral", "mistral", 20, {"num_key_value_heads": None}),
    ("yarn-qwen2", "qwen2", 20, {"rope_scaling": YARN}),
    ("biases-qwen2", "qwen2", 20, {"attention_bias": True, "mlp_bias": True}),
    ("window-unused-qwen2", "qwen2", 20, {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 6}),
    ("older-layer-type-qwen2", "qwen2", 20,
     {"layer_types": ["attention", "sliding_attention"], "sliding_window": 6, "use_sliding_window": True}),
    ("eps-null-qwen2", "qwen2", 20, {"rms_norm_eps": None}),
    ("dynamic-qwen3", "qwen3", 40, {"rope_scaling": DYNAMIC}),
    ("longrope-qwen3", "qwen3", 12, {"rope_scaling": {**LONGROPE, "original_max_position_embeddings": 16}}),
    ("mlp-bias-qwen3", "qwen3", 20, {"mlp_bias": True}),
]

# What the message must name where transformers gives up.
REFUSED = {
    "theta-null": "rope_theta",
    "type-null": "rope_scaling: type",
    "unknown-type": "su",
    "linear-without-factor": "factor",
    "linear-null-factor": "factor",
    "dynamic-without-factor": "factor",
    "yarn-without-factor": "factor",
    "longrope-without-factors": "long_factor",
    "llama3-without-low": "low_freq_factor",
    "share-of-linear": "partial_rotary_factor",
    "settings-of-types-qwen3": "full_attention",
    "kv-heads-null-mistral": "num_key_value_heads",
    "window-unused-qwen2": "use_sliding_window",
    "eps-null-qwen2": "rms_norm_eps",
}


def weights():
    """Of the family with biases and of the one with norms of heads together: each takes its own."""
    generator = torch.Generator().manual_seed(5)
    config = transformers.Qwen3Config(**SIZES, attention_bias=True)
    shapes = {name: value.shape for name, value in transformers.Qwen3ForCausalLM(config).state_dict().items()}
    tensors = {}
    for name, shape in shapes.items():
        if name.endswith("o_proj.bias"):
            continue
        values = torch.randn(shape, generator=generator)
        tensors[name] = 1 + 0.3 * values if name.endswith("norm.weight") else WEIGHT * values
    return tensors


def prompt(tokens):
    return [(7 * i * i + 3 * i + 5) % SIZES["vocab_size"] for i in range(tokens)]


def run(folder, tokens):
    """Models that are loaded anew: dynamic positions remember the sequences before."""
    def load():
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()

    ids = torch.tensor([prompt(tokens)])
    with torch.no_grad():
        logits = load()(ids).logits[0]
        out = load().generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW_TOKENS,
                              return_dict_in_generate=True, output_scores=True)
    best = torch.stack(out.scores)[:, 0].topk(2).values
    margin = (best[:, 0] - best[:, 1]).min().item()
    assert margin > 1e-3, f"a continuation that rounding could change: {margin}"
    return logits, out.sequences[0, tokens:].tolist()


def main():
    transformers.logging.set_verbosity_error()
    tensors = weights()
    save_file(tensors, FOLDER / "model.safetensors")
    cases, logits = [], {}
    for name, model_type, tokens, keys in CASES:
        config = {"model_type": model_type, "architectures": [model_type.capitalize() + "ForCausalLM"], **SIZES, **keys}
        case = {"name": name, "config": config, "prompt": prompt(tokens)}
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "config.json").write_text(json.dumps(config))
            save_file(tensors, pathlib.Path(folder) / "model.safetensors", metadata={"format": "pt"})
            try:
                logits[name], case["continuation"] = run(folder, tokens)
            except (KeyError, TypeError, RuntimeError, StrictDataclassFieldValidationError) as error:
                case["error"] = f"{type(error).__name__}: {error}".split("\n")[0]
                case["names"] = REFUSED[name]
        print(name, case.get("error", case.get("continuation")))
        cases.append(case)
    lines = ",\n".join(json.dumps(case) for case in cases)
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    (FOLDER / "cases.json").write_text(f'{{"made_with": {json.dumps(versions)}, "cases": [\n{lines}\n]}}\n')
    save_file({name: value.contiguous() for name, value in logits.items()}, FOLDER / "logits.safetensors")


if __name__ == "__main__":
    main()
