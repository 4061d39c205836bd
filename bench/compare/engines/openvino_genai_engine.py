"""OpenVINO GenAI's continuous batching, which evicts blocks of the cache. A process for each question, since the pipeline
prints and may end the program: `openvino_genai_engine.py < QUESTION > ANSWER`, both JSON.

    {"model": DIR, "threads": 2, "prompts": [[ids], ...], "new_tokens": 64, "batch": 1, "eviction": null or
     {"start": 32, "recent": 32, "most": 128, "sums": "NORM_SUM", "window": 8}}
    -> {"version": ..., "ids": [[...], ...], "log_probabilities": [[...], ...], "seconds": [...], "blocks": [...]}

`seconds` are of the pipeline's steps, the first of which reads the prompts; `blocks` of 32 tokens are those that all
sequences have in a layer during each step.
"""

import json
import sys
import time

import numpy as np
import openvino
import openvino_genai

BLOCK = 32


def scheduler(question):
    batch, longest = question["batch"], max(map(len, question["prompts"]))
    made = openvino_genai.SchedulerConfig()
    # Prompts are read whole: otherwise the sums over all queries would be those of a prompt's last part.
    made.max_num_batched_tokens = batch * longest
    made.num_kv_blocks = batch * (-(-(longest + question["new_tokens"]) // BLOCK) + 1)
    if eviction := question["eviction"]:
        made.use_cache_eviction = True
        made.cache_eviction_config = openvino_genai.CacheEvictionConfig(
            eviction["start"], eviction["recent"], eviction["most"],
            getattr(openvino_genai.AggregationMode, eviction["sums"]), False, eviction["window"])
    return made


def greedy(question):
    made = openvino_genai.GenerationConfig()
    made.max_new_tokens, made.ignore_eos, made.do_sample, made.logprobs = question["new_tokens"], True, False, 1
    made.set_eos_token_id(0)
    return made


def answer(question):
    config = scheduler(question)
    settings = {"INFERENCE_NUM_THREADS": question["threads"], "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32",
                "KV_CACHE_PRECISION": "f32"}
    pipeline = openvino_genai.ContinuousBatchingPipeline(question["model"], config, "CPU", settings)
    found = {"version": openvino_genai.__version__.split("-")[0], "ids": [], "log_probabilities": [], "seconds": [], "blocks": []}
    prompts, batch = question["prompts"], question["batch"]
    for begin in range(0, len(prompts), batch):
        handles = [pipeline.add_request(begin + i, openvino.Tensor(np.array([ids], np.int64)), greedy(question))
                   for i, ids in enumerate(prompts[begin:begin + batch])]
        while pipeline.has_non_finished_requests():
            start = time.perf_counter()
            pipeline.step()
            found["seconds"].append(time.perf_counter() - start)
            found["blocks"].append(round(pipeline.get_metrics().cache_usage * config.num_kv_blocks / 100))
        for handle in handles:
            output = handle.read_all()[0]
            found["ids"].append(list(output.generated_ids))
            found["log_probabilities"].append(list(output.generated_log_probs))
    return found


def main():
    try:
        found = answer(json.load(sys.stdin))
    except RuntimeError as error:
        found = {"error": str(error).strip().splitlines()[-1]}
    print("\n" + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
