#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Times OpenVINO GenAI on a GGUF file: for each line "prompt generated depth" of stdin it prints one JSON line with the
# tokens a second, as `hydralm bench` counts them. The model is loaded once. Prompts are random ids, new ones each time,
# and nothing of a prompt is kept for the next. Keys and values are f16.
#   PYTHONPATH=... openvino_genai_bench.py MODEL.gguf THREADS PA|SDPA
import json
import random
import sys

import numpy as np
import openvino
import openvino_genai as genai

VOCABULARY = 30000  # ids that SmolLM2 has


def load(model, threads, backend):
    properties = {
        "INFERENCE_NUM_THREADS": threads, "KV_CACHE_PRECISION": "f16", "PERFORMANCE_HINT": "LATENCY",
        "ATTENTION_BACKEND": backend}
    if backend == "PA":
        scheduler = genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        scheduler.max_num_batched_tokens = 1 << 16
        properties["scheduler_config"] = scheduler
    return genai.LLMPipeline(model, "CPU", **properties)


def generate(pipeline, prompt, tokens):
    ids = np.array([[random.randrange(VOCABULARY) for _ in range(prompt)]], dtype=np.int64)
    inputs = genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
    config = genai.GenerationConfig()
    config.max_new_tokens = tokens
    config.ignore_eos = True
    config.do_sample = False
    return pipeline.generate(inputs, config).perf_metrics


def rate(pipeline, prompt, generated, depth):
    if prompt:
        return prompt / generate(pipeline, prompt, 1).get_ttft().mean * 1e3
    return 1e3 / generate(pipeline, max(depth, 1), generated + 1).get_tpot().mean


def main():
    model, threads, backend = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    random.seed(1)
    pipeline = load(model, threads, backend)
    generate(pipeline, 64, 8)
    print(json.dumps({"ready": openvino.__version__}), flush=True)
    for line in sys.stdin:
        prompt, generated, depth = map(int, line.split())
        print(json.dumps({"tok_per_s": rate(pipeline, prompt, generated, depth)}), flush=True)


if __name__ == "__main__":
    main()
