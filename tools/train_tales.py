"""Trains models/tales: a Llama-type decoder with grouped-query attention and its byte-level BPE.

    pip install torch transformers tokenizers safetensors numpy
    python tools/train_tales.py DATA_DIR OUT_DIR --state STATE_DIR

DATA_DIR holds train.txt and valid.txt, one paragraph a line. The run is resumable: STATE_DIR keeps
the tokenizer, the encoded text and the newest checkpoint, and the same command goes on from there.
The matrices are trained with Muon, everything else with AdamW; the learning rate is warmed up, held,
and falls linearly over the last --decay share of the steps, so --steps may be changed while it is
still held. OUT_DIR gets the f16 checkpoint in Hugging Face layout and training.json (settings,
losses, score); it is written only at the end.
"""

import argparse
import json
import math
import os
import time

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("out")
    parser.add_argument("--state", required=True, help="folder for what a resumed run needs")
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--decay", type=float, default=0.4, help="share of the steps in which the rate falls")
    parser.add_argument("--batch", type=int, default=8, help="sequences a step")
    parser.add_argument("--context", type=int, default=512, help="tokens a sequence")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--ffn", type=int, default=688)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def train_tokenizer(text, vocab_size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        text.splitlines(),
        trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet,
                            show_progress=False))
    return tokenizer


def prepare_text(args):
    """The tokenizer, and train and valid as arrays of ids; made once, then read from the state folder."""
    texts = {split: open(f"{args.data}/{split}.txt", encoding="utf-8").read() for split in ("train", "valid")}
    tokenizer_path, ids_path = f"{args.state}/tokenizer.json", f"{args.state}/ids.npz"
    if os.path.exists(ids_path):
        return Tokenizer.from_file(tokenizer_path), dict(np.load(ids_path)), texts
    tokenizer = train_tokenizer(texts["train"], args.vocab)
    tokenizer.save(tokenizer_path)
    ids = {split: np.array([i for line in text.splitlines() for i in tokenizer.encode(line + "\n").ids], dtype=np.int64)
           for split, text in texts.items()}
    np.savez(ids_path, **ids)
    return tokenizer, ids, texts


def build_model(args):
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=args.vocab, hidden_size=args.width, num_hidden_layers=args.layers, num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads, intermediate_size=args.ffn, max_position_embeddings=args.context,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=0))


def build_optimizers(model, args):
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    embeddings = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" in name]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    muon = torch.optim.Muon(matrices, lr=args.rate, weight_decay=args.weight_decay, momentum=0.95,
                            adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW([{"params": embeddings, "weight_decay": args.weight_decay},
                              {"params": vectors, "weight_decay": 0.0}], lr=args.rate, betas=(0.9, 0.95))
    return [muon, adam]


def bits_per_byte(model, ids, byte_count, context, stride, limit=None):
    """Every token but the first of the text is predicted once, from a window that moves by `stride`: with
    stride = context the windows do not overlap, with less each token has at least context - stride before it."""
    model.eval()
    nats, count = 0.0, 0
    end = len(ids) - 1 if limit is None else min(len(ids) - 1, limit)
    with torch.no_grad():
        for start in range(0, end, stride):
            last = min(start + stride, end)
            first = max(0, last - context) if start > 0 else 0
            window = torch.tensor(ids[first:last + 1])[None]
            new = last - start
            logits = model(window[:, :-1]).logits[0, -new:]
            nats += torch.nn.functional.cross_entropy(logits, window[0, -new:], reduction="sum").item()
            count += new
    model.train()
    return nats / count / math.log(2) * len(ids) / byte_count


def rate_at(step, args):
    hold_until = args.steps * (1 - args.decay)
    warm = min(1.0, (step + 1) / 100)
    fall = 1.0 if step < hold_until else (args.steps - step) / (args.steps - hold_until)
    return args.rate * warm * max(fall, 0.01)


def save_state(path, model, optimizers, step, seconds, log):
    torch.save({"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step,
                "seconds": seconds, "log": log}, path + ".tmp")
    os.replace(path + ".tmp", path)


def train(args):
    os.makedirs(args.state, exist_ok=True)
    tokenizer, ids, texts = prepare_text(args)
    valid_bytes = len(texts["valid"].encode())
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    model = build_model(args)
    optimizers = build_optimizers(model, args)
    state_path, step, seconds, log = f"{args.state}/checkpoint.pt", 0, 0.0, []
    if os.path.exists(state_path):
        state = torch.load(state_path)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        step, seconds, log = state["step"], state["seconds"], state["log"]
        print(f"resumed at step {step}", flush=True)
    started = time.time() - seconds
    while step < args.steps:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, args)
                if group["weight_decay"] > 0:  # the state of a resumed run brings its own
                    group["weight_decay"] = args.weight_decay
        # Seeded by the step, so that a resumed run draws what an uninterrupted one would have drawn.
        at = np.random.default_rng([args.seed, step]).integers(0, len(ids["train"]) - args.context - 1, args.batch)
        batch = torch.tensor(np.stack([ids["train"][i:i + args.context + 1] for i in at]))
        logits = model(batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.view(-1, args.vocab), batch[:, 1:].reshape(-1))
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        if step % 10 == 0:
            print(f"step {step} {time.time() - started:.0f}s train {loss.item():.3f}", flush=True)
        if step % 100 == 0:
            score = bits_per_byte(model, ids["valid"], valid_bytes, args.context, args.context, limit=40000)
            log.append({"step": step, "train_nats_per_token": round(loss.item(), 4), "valid_bits_per_byte": round(score, 4)})
            print(f"step {step} epoch {step * args.batch * args.context / len(ids['train']):.2f} "
                  f"valid {score:.4f} bits/byte", flush=True)
            save_state(state_path, model, optimizers, step, time.time() - started, log)
    return tokenizer, model, ids, valid_bytes, log, time.time() - started


def main():
    args = arguments()
    tokenizer, model, ids, valid_bytes, log, seconds = train(args)
    # Scored as it is shipped: rounded to f16, multiplied in f32.
    shipped = model.half().float()
    scores = {f"stride {stride}": round(bits_per_byte(shipped, ids["valid"], valid_bytes, args.context, stride), 4)
              for stride in (args.context, args.context // 4)}
    print(f"bits/byte on the whole validation split: {scores}", flush=True)
    model.half().save_pretrained(args.out)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT,
                            bos_token=END_OF_TEXT).save_pretrained(args.out)
    settings = {k: v for k, v in vars(args).items() if k not in ("data", "out", "state")}
    with open(f"{args.out}/training.json", "w") as file:
        json.dump({"settings": settings, "seconds": round(seconds), "parameters": model.num_parameters(),
                   "train_tokens": len(ids["train"]), "valid_bits_per_byte": scores, "log": log}, file, indent=1)


if __name__ == "__main__":
    main()
