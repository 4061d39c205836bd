"""What is measured: models, cases, and how much arithmetic and memory traffic each case needs at least."""

import random

ENCODERS = ["minilm", "bert-base", "bert-large"]
DECODERS = ["gpt2", "gpt2-medium", "llama-1.1b"]
DECODERS_ONLY = ["llama.cpp"]
# Drawn once, with mean 100; every engine but Tessera computes the padding up to the longest.
RAGGED = [12, 20, 28, 36, 44, 56, 68, 80, 92, 104, 116, 132, 150, 180, 214, 268]
PREFILL_TOKENS = 512
NEW_TOKENS = 64
# Sequences that a quantiser may look at to find the ranges of activations.
CALIBRATION_ROWS = 16


def encoder_cases(quick):
    shapes = {"1x128": [128], "1x384": [384], "8x128": [128] * 8, "32x32": [32] * 32, "ragged": RAGGED}
    return {"1x128": [128]} if quick else shapes


def random_ids(checkpoint, seed):
    draw = random.Random(seed)
    return lambda lengths: [[draw.randrange(checkpoint.vocabulary) for _ in range(n)] for n in lengths]


def make_cases(checkpoint, quick, ids=None, calibration=None):
    """ids, calibration: from lengths to sequences; else random ones. The same for every engine."""
    ids = ids or random_ids(checkpoint, 1)
    calibration = calibration or random_ids(checkpoint, 2)
    if not checkpoint.is_decoder:
        cases = [{"name": name, "kind": "encode", "ids": ids(lengths)} for name, lengths in encoder_cases(quick).items()]
    else:
        length, new = (64, 8) if quick else (PREFILL_TOKENS, NEW_TOKENS)
        length, cases = min(length, checkpoint.positions - new), []
        for batch in [1] if quick else [1, 4]:
            prompt = ids([length] * batch)
            cases.append({"name": f"prefill {batch}x{length}", "kind": "prefill", "ids": prompt})
            cases.append({"name": f"decode {batch}x{new}", "kind": "decode", "ids": prompt, "new_tokens": new})
    for case in cases:
        rows = max(CALIBRATION_ROWS, len(case["ids"]))
        case["calibration"] = calibration([max(map(len, case["ids"]))] * rows)
    return cases


def work(checkpoint, case):
    """FLOPs and bytes of one sample: dense products and the attention that is visible; weights read once, and for a step
    of decoding the keys and values of half the new tokens beside the prompt's."""
    lengths = [len(ids) for ids in case["ids"]]
    flops_per_token = checkpoint.layer_flops_per_token()
    head = checkpoint.head_flops_per_token() * len(lengths)
    if case["kind"] == "decode":
        keys = sum(n + case["new_tokens"] // 2 for n in lengths)
        kv_bytes = 2 * keys * checkpoint.layers * checkpoint.kv_heads * checkpoint.head_size * 4
        return (flops_per_token * len(lengths) + head + checkpoint.attention_flops(keys),
                checkpoint.weight_bytes() + kv_bytes)
    pairs = sum(n * (n + 1) // 2 if checkpoint.is_decoder else n * n for n in lengths)
    return flops_per_token * sum(lengths) + head + checkpoint.attention_flops(pairs), checkpoint.weight_bytes()
