"""Trains a checkpoint with torch, transformers and torch.optim.AdamW on batches that are given: for each line of
standard input, a question as JSON, it prints the answer as JSON. It says what `tessera tune` computes in other words.

Question: model, task, batches (a file of JSON lines: ids, type_ids, offsets, rows, labels, values), steps, threads,
learning_rate, weight_decay, warmup. Answer: losses, norms and seconds of all steps, peak_bytes; or error.
"""

import json
import resource
import sys
import time

import torch
import transformers
from torch.nn import functional

CLASSES = {
    "causal_lm": "AutoModelForCausalLM", "masked_lm": "AutoModelForMaskedLM", "embeddings": "AutoModel",
    "classification": "AutoModelForSequenceClassification", "regression": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification", "question_answering": "AutoModelForQuestionAnswering",
}


class PaddedBatch:
    """Sequences as transformers reads them: padded behind their ends, with a mask."""

    def __init__(self, batch, padding, takes_types):
        offsets = batch["offsets"]
        self.spans = list(zip(offsets, offsets[1:]))
        width = max(end - begin for begin, end in self.spans)
        self.mask = torch.tensor([[1] * (end - begin) + [0] * (width - end + begin) for begin, end in self.spans])
        self.inputs = {"input_ids": self.padded(batch["ids"], width, padding), "attention_mask": self.mask}
        if takes_types and batch["type_ids"]:
            self.inputs["token_type_ids"] = self.padded(batch["type_ids"], width, 0)
        self.rows = torch.tensor(batch["rows"], dtype=torch.long)
        self.labels = torch.tensor(batch["labels"])
        self.values = torch.tensor(batch["values"])

    def padded(self, values, width, padding):
        return torch.tensor([values[begin:end] + [padding] * (width - end + begin) for begin, end in self.spans])

    def without_padding(self, x):
        return x[self.mask.bool()]


def mean_vectors(batch, states):
    weights = batch.mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)


def answer_loss(batch, starts, ends):
    """A distribution over the tokens of each sequence, of the first and the last row of the answer."""
    hidden = batch.mask == 0
    both = torch.stack([starts.masked_fill(hidden, -torch.inf), ends.masked_fill(hidden, -torch.inf)], 1)
    return functional.cross_entropy(both.flatten(0, 1), batch.labels)


def loss_of(task, model, batch):
    output = model(**batch.inputs)
    if task in ("causal_lm", "masked_lm", "token_classification"):
        return functional.cross_entropy(batch.without_padding(output.logits)[batch.rows], batch.labels)
    if task == "classification":
        return functional.cross_entropy(output.logits, batch.labels)
    if task == "regression":
        return functional.mse_loss(output.logits[:, 0], batch.values)
    if task == "question_answering":
        return answer_loss(batch, output.start_logits, output.end_logits)
    vectors = mean_vectors(batch, output.last_hidden_state)
    return functional.mse_loss(functional.cosine_similarity(vectors[0::2], vectors[1::2]), batch.values)


def groups(model, weight_decay):
    """Matrices and tables decay, biases and norms do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [{"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
            {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0}]


def rate(question, step):
    """Of the peak: a linear rise whose first step is not 0, and a linear fall."""
    steps = question["steps"]
    warm = round(question["warmup"] * steps)
    return (step + 1) / warm if step < warm else 1 - (step - warm) / (steps - warm)


def train(question):
    torch.set_num_threads(question["threads"])
    model = getattr(transformers, CLASSES[question["task"]]).from_pretrained(question["model"], dtype=torch.float32)
    model.eval()  # without dropout
    takes_types = getattr(model.config, "type_vocab_size", 0) > 0
    padding = model.config.pad_token_id or 0
    with open(question["batches"], encoding="utf-8") as file:
        batches = [PaddedBatch(json.loads(line), padding, takes_types) for line in file]
    optimizer = torch.optim.AdamW(groups(model, question["weight_decay"]), lr=question["learning_rate"])
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    answer = {"losses": [], "norms": [], "seconds": [], "torch": torch.__version__, "transformers": transformers.__version__}
    for step in range(question["steps"]):
        begin = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = question["learning_rate"] * rate(question, step)
        loss = loss_of(question["task"], model, batches[step])
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        answer["losses"].append(loss.item())
        answer["norms"].append(norm.item())
        answer["seconds"].append(time.perf_counter() - begin)
    answer["peak_bytes"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return answer


def answer_to(question):
    try:
        return train(question)
    except Exception as error:  # whatever a model's code raises, the others are measured
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(answer_to(json.loads(line))), flush=True)
