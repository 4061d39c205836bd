#!/usr/bin/env python3
"""What `tessera eval` says, computed with transformers and torch in the plainest way.

    bench/evaluate/reference.py perplexity MODEL TEXT [--window N] [--stride N] [--lines N]
    bench/evaluate/reference.py cranfield MODEL DATA
    bench/evaluate/reference.py stsb MODEL DATA [--split test] [--tessera PROGRAM] [--rounds 3]

Needs torch and transformers. `stsb` embeds as sentence-transformers' encode() does: sentences sorted by length, batches
of 32, padded, mean pooling, normalised. With --tessera it runs the program in turns with that loop and prints
the ratio of their times; both read, tokenize and embed, and neither counts loading the model.
"""

import argparse
import json
import math
import pathlib
import re
import statistics
import subprocess
import time

import numpy as np
import torch
import transformers


class Encoder:
    def __init__(self, directory):
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        self.model = transformers.AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
        settings = pathlib.Path(directory) / "sentence_bert_config.json"
        self.limit = json.loads(settings.read_text())["max_seq_length"] if settings.exists() else 512

    @torch.inference_mode()
    def encode(self, texts, batch=32):
        order = np.argsort([-len(text) for text in texts], kind="stable")
        vectors = [None] * len(texts)
        for begin in range(0, len(order), batch):
            members = order[begin:begin + batch]
            inputs = self.tokenizer([texts[i] for i in members], padding=True, truncation=True, max_length=self.limit,
                                    return_tensors="pt")
            hidden = self.model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1).float()
            pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            for i, vector in zip(members, torch.nn.functional.normalize(pooled, dim=1)):
                vectors[i] = vector.numpy()
        return np.stack(vectors)


@torch.inference_mode()
def perplexity(arguments):
    """The loop of transformers' guide "Perplexity of fixed-length models", and the sum without its approximation."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    text = pathlib.Path(arguments.text).read_bytes().decode()
    if arguments.lines:
        text = "".join(text.splitlines(keepends=True)[:arguments.lines])
    ids = tokenizer(text, return_tensors="pt", verbose=False).input_ids
    window = arguments.window or model.config.max_position_embeddings
    stride = arguments.stride or max(1, window // 2)
    tokens, end = ids.size(1), 0
    guide, exact, scored = [0.0, 0], 0.0, 0
    for begin in range(0, tokens, stride):
        new, end = min(begin + window, tokens) - end, min(begin + window, tokens)
        part = ids[:, begin:end]
        targets = part.clone()
        targets[:, :-new] = -100
        loss = model(part, labels=targets).loss.item()
        labels = int((targets[:, 1:] != -100).sum())
        guide[0] += loss * (int((targets != -100).sum()) - 1)
        guide[1] += int((targets != -100).sum()) - 1
        exact, scored = exact + loss * labels, scored + labels
        if end == tokens:
            break
    data = text.encode()
    print(json.dumps({"window": window, "stride": stride, "tokens": tokens, "scored_tokens": scored,
                      "words": len(data.split()), "bytes": len(data), "perplexity": math.exp(exact / scored),
                      "bits_per_byte": exact / scored * (tokens - 1) / math.log(2) / len(data),
                      "perplexity_of_the_guide": math.exp(guide[0] / guide[1])}))


def cranfield(arguments):
    folder, encoder = pathlib.Path(arguments.data), Encoder(arguments.model)

    def items(file, item, *tags):
        xml = (folder / file).read_text(encoding="utf-8")
        for body in re.findall(f"<{item}>(.*?)</{item}>", xml, re.DOTALL):
            found = [re.search(f"<{tag}>(.*?)</{tag}>", body, re.DOTALL) for tag in tags]
            yield [match[1].strip().replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") if match else ""
                   for match in found]

    documents = [(number, text or title) for number, text, title in
                 items("cran.all.1400.xml", "doc", "docno", "text", "title")]
    queries = [text for _, text in items("cran.qry.xml", "top", "num", "title")]
    judged = {}
    for line in (folder / "cranqrel.trec.txt").read_text().splitlines():
        query, _, document, relevance = line.split()
        judged.setdefault(int(query), {})[document] = float(relevance)
    vectors = encoder.encode([text for _, text in documents]).astype(np.float64)
    asked = encoder.encode(queries).astype(np.float64)
    scores = {"ndcg@10": [], "recall@10": [], "recall@100": []}
    for number, vector in enumerate(asked, 1):
        relevant = {key: value for key, value in judged.get(number, {}).items() if value > 0}
        if not relevant:
            continue
        order = [documents[i][0] for i in np.argsort(-(vectors @ vector), kind="stable")]
        gain = sum(relevant.get(key, 0) / math.log2(rank + 2) for rank, key in enumerate(order[:10]))
        ideal = sorted(relevant.values(), reverse=True)[:10]
        scores["ndcg@10"].append(gain / sum(value / math.log2(rank + 2) for rank, value in enumerate(ideal)))
        for depth in (10, 100):
            scores[f"recall@{depth}"].append(sum(key in relevant for key in order[:depth]) / len(relevant))
    print(json.dumps({"queries": len(scores["ndcg@10"]), **{key: float(np.mean(values)) for key, values in scores.items()}}))


def ranks(values):
    order, found = np.argsort(values, kind="stable"), np.empty(len(values))
    found[order] = np.arange(1, len(values) + 1)
    for value in np.unique(values):
        found[values == value] = found[values == value].mean()
    return found


def stsb(arguments):
    rows = [line.rstrip("\n").split("\t") for line in
            open(f"{arguments.data}/STS-B_sts-{arguments.split}.csv", encoding="utf-8")]
    encoder, scores = Encoder(arguments.model), np.array([float(row[4]) for row in rows])
    texts = [text for row in rows for text in row[5:7]]
    times, theirs, ratios = [], [], []
    for _ in range(arguments.rounds):
        start = time.perf_counter()
        vectors = encoder.encode(texts)
        times.append(time.perf_counter() - start)
        if arguments.tessera:
            out = subprocess.run([arguments.tessera, "eval", arguments.model, "--task", "stsb", "--data", arguments.data,
                                  "--split", arguments.split, "--threads", str(arguments.threads), "--resamples", "0",
                                  "--json"], check=True, capture_output=True, text=True).stdout
            theirs.append(json.loads(out)["seconds"])
            ratios.append(times[-1] / theirs[-1])
    similarity = (vectors[0::2].astype(np.float64) * vectors[1::2]).sum(1)
    result = {"sentences": len(texts), "threads": torch.get_num_threads(),
              "spearman": float(np.corrcoef(ranks(similarity), ranks(scores))[0, 1]),
              "pearson": float(np.corrcoef(similarity, scores)[0, 1]), "torch_seconds": times}
    if theirs:
        result |= {"tessera_seconds": theirs, "times_as_fast": statistics.median(ratios)}
    print(json.dumps(result))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    tasks = parser.add_subparsers(required=True)
    for name, run, data in (("perplexity", perplexity, "text"), ("cranfield", cranfield, "data"), ("stsb", stsb, "data")):
        task = tasks.add_parser(name)
        task.add_argument("model")
        task.add_argument(data)
        task.set_defaults(run=run)
        if name == "perplexity":
            for option in ("--window", "--stride", "--lines"):
                task.add_argument(option, type=int, default=0)
        if name == "stsb":
            task.add_argument("--split", default="test")
            task.add_argument("--tessera")
            task.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
