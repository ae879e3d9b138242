"""Measurements on one GPU: the costs of the models of arXiv 2406.16758, and the speed of finetuning.

    python -m benchmarks.gpu costs training --out benchmarks/results

`benchmarks/gpu.sh` runs this script after the tests and before the benchmark of the bundled drafter. All weights are
random, so that nothing has to be downloaded:

- `costs`: a target with the shape of Vicuna 7B and a drafter with the shape of Vicuna 68M (arXiv 2406.16758). It
  measures the target passes, the drafter's step with and without its CUDA graph, and the overhead of this drafting
  loop and of transformers' own loop. These times give a speedup for each acceptance rate. Then each drafted token is
  accepted with this probability, and the speedup is timed.
- `training`: tokens per second of `DrafterTrainer`, for drafters of Gemma 3 270M and of Vicuna 7B.

Writes gpu_costs.json and gpu_training.json. `--device cpu --tiny` runs the same code with tiny shapes.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    TrainerCallback,
)

from benchmarks.loop_overhead import attach_confident_loop, measure_overhead
from benchmarks.reporting import RESULTS, report
from drafter_trainer.decoding.metrics import alpha as measured_alpha
from drafter_trainer.decoding.metrics import mean_accepted_tokens
from drafter_trainer.decoding.rounds import decode
from drafter_trainer.drafters.initialization import draft_config, from_scratch
from drafter_trainer.drafters.loop.network_kinds import build_network
from drafter_trainer.training.arguments import DrafterTrainingArguments
from drafter_trainer.training.collators import SelfDistilledCollator
from drafter_trainer.training.trainers import DrafterTrainer
from drafter_trainer.tuning.costs import best_draft_length, expected_speedup, measure_costs

ALPHAS = (0.3, 0.5, 0.7, 0.9)
DRAFT_LENGTH, LONGEST = 5, 8
TOP_K = 20


@dataclass(frozen=True)
class Training:
    """A finetuning whose speed is measured.

    Args:
        config (`PretrainedConfig`): Configuration of the drafter.
        prompt, completion (`int`): Tokens of each row.
        tokens (`int`): Tokens of a batch.
        draft_vocabulary (`int`): Size of the draft vocabulary; 0 for all ids.
        prompt_window (`int`): Number of tokens at the end of the prompt that are read; 0 for all.
        freeze_embeddings (`bool`): Whether embeddings and head are frozen.
    """

    config: PretrainedConfig
    prompt: int
    completion: int
    tokens: int
    draft_vocabulary: int = 0
    prompt_window: int = 0
    freeze_embeddings: bool = False


def vicuna_config(tiny: bool) -> LlamaConfig:
    """Return the shape of Vicuna 7B v1.3."""
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    if not tiny:
        shape = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    return LlamaConfig(
        vocab_size=512 if tiny else 32000,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        **shape,
    )


def vicuna_drafter_config(tiny: bool) -> PretrainedConfig:
    """Return the shape of Vicuna 68M, the paper's drafter."""
    layers, hidden, intermediate, heads = (1, 32, 64, 4) if tiny else (2, 768, 3072, 12)
    widths = {"hidden_size": hidden, "intermediate_size": intermediate}
    return draft_config(vicuna_config(tiny), layers, num_attention_heads=heads, num_key_value_heads=heads, **widths)


def gemma_drafter_config(tiny: bool) -> PretrainedConfig:
    """Return the shape of the bundled drafter of Gemma 3 270M: four of its layers."""
    shape = {"hidden_size": 32, "intermediate_size": 64, "head_dim": 8, "vocab_size": 512}
    if not tiny:
        shape = {"hidden_size": 640, "intermediate_size": 2048, "head_dim": 256, "vocab_size": 262144}
    return Gemma3TextConfig(
        num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=1, max_position_embeddings=2048, **shape
    )


def random_model(config: PretrainedConfig, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """Make a model with random weights on its device."""
    torch.manual_seed(0)
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def follow_successors(model: PreTrainedModel) -> list[int]:
    """Let a model continue every token with one certain successor, at the cost of all its layers.

    Layers add zeros to the embeddings, and the head's row of each successor is its predecessor's embedding. So
    rounding cannot decide between two tokens, and a script can compute the target's next token.

    Returns:
        `list[int]`: The successor of each id; all ids are one cycle.
    """
    size = model.config.vocab_size
    cycle = random.Random(0).sample(range(size), size)
    successors = [0] * size
    for token, following in zip(cycle, cycle[1:] + cycle[:1]):
        successors[token] = following
    with torch.no_grad():
        for layer in model.get_decoder().layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embeddings = model.get_input_embeddings().weight
        embeddings.normal_()
        model.get_output_embeddings().weight[torch.tensor(successors, device=embeddings.device)] = embeddings
    return successors


def script(read: Callable[[list[int]], torch.Tensor], successors: Sequence[int], chance: float) -> Callable:
    """Let a network run its forward pass, but draft the target's token with some probability."""
    coin = random.Random(0)

    @torch.inference_mode()
    def scripted(token_ids: list[int]) -> torch.Tensor:
        logits = read(token_ids).zero_()
        token = successors[token_ids[-1]]
        logits[token if coin.random() < chance else successors[token]] = 30.0
        return logits

    return scripted


def measure_regime(device: torch.device, tiny: bool, out: Path) -> None:
    """Measure the costs of the paper's target and drafter, and the speedup at scripted acceptance rates."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    target_model = random_model(vicuna_config(tiny), device, dtype)
    successors = follow_successors(target_model)
    draft_model = from_scratch(vicuna_drafter_config(tiny)).to(device, dtype).eval()
    prompt = list(range(3, 35 if tiny else 131))
    new_tokens, repeats = (32, 1) if tiny else (256, 3)

    network = build_network(draft_model, None, int8=False)
    costs = measure_costs(target_model, draft_model, network, prompt, LONGEST, repeats)
    attach_confident_loop(draft_model, network)
    overhead = measure_overhead(target_model, draft_model, [prompt])

    plain = decode(target_model, prompt, {}, 0.0, 0, new_tokens)
    figures = []
    for chance in ALPHAS:
        network = build_network(draft_model, None, int8=False)
        network.read = script(network.read, successors, chance)
        attach_confident_loop(draft_model, network, DRAFT_LENGTH)
        drafting = {"assistant_model": draft_model}
        decode(target_model, prompt, drafting, 0.0, 0, 2 * DRAFT_LENGTH)  # captures the graph
        drafted = decode(target_model, prompt, drafting, 0.0, 0, new_tokens)
        if drafted.output_ids != plain.output_ids:
            sys.exit(f"error: drafted output differs from plain decoding's at α = {chance}: drafting is not lossless")
        length = best_draft_length(chance, costs)
        figures.append(
            {
                "α": chance,
                "best draft": length,
                "forecast at the best": expected_speedup(chance, length, costs),
                f"forecast at {DRAFT_LENGTH}": expected_speedup(chance, DRAFT_LENGTH, costs),
                "timed": plain.seconds / drafted.seconds,
                "α of the drafts": measured_alpha(drafted.rounds),
                "tokens per pass": mean_accepted_tokens(len(drafted.output_ids), len(drafted.rounds)),
            }
        )
    ratios = {
        "plain decoding, ms a token": costs.plain,
        **{f"pass over {length + 1} tokens, ms": costs.passes[length] for length in (1, DRAFT_LENGTH, LONGEST)},
        "drafter's step, ms": costs.step,
        "drafter's step / plain decoding": costs.step / costs.plain,
        "this loop beside forward passes, ms a drafted token": overhead["this_loop"],
        "transformers' loop beside forward passes, ms a drafted token": overhead["stock_loop"],
    }
    if costs.step_without_graph is not None:
        ratios["drafter's step without its graph, ms"] = costs.step_without_graph
    report("gpu_costs", figures, ratios, out)


class _Clock(TrainerCallback):
    """A clock of the steps after the warm-up."""

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up
        self.seconds = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step in (self.warm_up, state.max_steps):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds = time.perf_counter() - self.seconds


def measure_training(device: torch.device, tiny: bool, out: Path) -> None:
    """Measure the tokens per second of finetuning on the target's top 20."""
    vicuna = Training(vicuna_drafter_config(tiny), prompt=60, completion=200, tokens=16384)
    gemma = Training(
        gemma_drafter_config(tiny),
        prompt=230,
        completion=22,
        tokens=16384,
        draft_vocabulary=256 if tiny else 12288,
        prompt_window=64,
        freeze_embeddings=True,
    )
    report(
        "gpu_training",
        [
            {"drafter of": name} | _time_training(setup, device, tiny)
            for name, setup in (("Gemma 3 270M", gemma), ("Vicuna 7B", vicuna))
        ],
        {},
        out,
    )


def _time_training(setup: Training, device: torch.device, tiny: bool) -> dict[str, Any]:
    on_gpu, warm_up, steps = device.type == "cuda", (1 if tiny else 5), (2 if tiny else 30)
    # In addition to the window, the network reads the prompt's first token.
    read = setup.completion + min(setup.prompt, setup.prompt_window + 1 if setup.prompt_window else setup.prompt)
    batch = max(1, (read * 2 if tiny else setup.tokens) // read)
    torch.manual_seed(0)
    drafter = from_scratch(setup.config)
    if setup.freeze_embeddings:
        drafter.get_input_embeddings().requires_grad_(False)
        drafter.get_output_embeddings().requires_grad_(False)
    ids = torch.arange(setup.draft_vocabulary) if setup.draft_vocabulary else None
    clock = _Clock(warm_up)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        trainer = DrafterTrainer(
            drafter,
            DrafterTrainingArguments(
                folder,
                loss_type="topk_kl",
                max_length=1024,
                prompt_window=setup.prompt_window,
                per_device_train_batch_size=batch,
                max_steps=warm_up + steps,
                save_strategy="no",
                eval_strategy="no",
                load_best_model_at_end=False,
                report_to=[],
                bf16=on_gpu,
                use_cpu=not on_gpu,
                disable_tqdm=True,
            ),
            data_collator=SelfDistilledCollator(0, 1024, setup.prompt_window or None),
            train_dataset=_rows(setup, batch),
            draft_ids=ids,
            callbacks=[clock],
        )
        trainer.train()
    return {
        "tokens a batch": batch * read,
        "supervised tokens/s": batch * setup.completion * steps / clock.seconds,
        "tokens read/s": batch * read * steps / clock.seconds,
        "peak GiB": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0,
    }


def _rows(setup: Training, count: int) -> Dataset:
    """Make rows of random ids with a top k."""
    generator = torch.Generator().manual_seed(0)
    size = setup.draft_vocabulary or setup.config.vocab_size

    def ids(*shape: int) -> list:
        return torch.randint(size, shape, generator=generator).tolist()

    return Dataset.from_dict(
        {
            "prompt_ids": ids(count, setup.prompt),
            "response_ids": ids(count, setup.completion),
            "topk_ids": ids(count, setup.completion, TOP_K),
            "topk_logprobs": torch.full((count, setup.completion, TOP_K), -4.0).tolist(),
        }
    )


PARTS = {"costs": measure_regime, "training": measure_training}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS, help="Measurements, in this order")
    parser.add_argument("--device", default="cuda", help="Device, such as cuda or cpu")
    parser.add_argument("--tiny", action="store_true", help="Tiny shapes, to try the script")
    parser.add_argument("--out", type=Path, default=RESULTS, help="Folder of the results")
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device: run this on a GPU, or try it with --device cpu --tiny")
    for part in options.parts:
        PARTS[part](device, options.tiny, options.out)


if __name__ == "__main__":
    main()
