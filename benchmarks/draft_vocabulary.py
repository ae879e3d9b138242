"""Time of a drafter's step over all of its target's ids, and over the most frequent ones only.

    python benchmarks/draft_vocabulary.py --config recipes/configs/gemma-3-270m/de-en.yaml \
        --rows runs/gemma-3-270m-drafter-*-en/distill

Each vocabulary is chosen on the training completions of a distillation and filled up with the tokenizer's lowest ids,
as in finetuning. Its coverage is counted on the held-out completions. The drafter has the configured shape and random
weights, because the time of a step does not depend on the weights. The sizes are measured by turns, and before every
step the processor's caches are in the state after a target pass.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from reporting import RESULTS, report

from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.drafters.loop.network_kinds import build_network
from drafter_trainer.drafters.vocabulary import choose_ids, count_ids, coverage
from drafter_trainer.tuning.completions import HeldOut, load_completions, typical_prompt
from drafter_trainer.tuning.costs import measure_step, take_turn, untrained_network

ROUNDS, STEPS, ANSWERS = 5, 20, 40


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, nargs="+", required=True, help="Folders of self-distilled rows")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1 << 15, 1 << 13, 1 << 11], help="Beside all ids")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options, configured = parser.parse_known_args()
    (_, where, shape, _), _ = parse_arguments("predict", configured, __doc__)
    target = where.resolve()
    target_model = target.load_model(where.dtype, torch.device("cpu"))
    draft_model, _ = untrained_network(shape.widths(), target_model, draft_vocabulary=0, int8=False)
    vocabulary = draft_model.config.vocab_size
    answers = {folder: load_completions(folder, target, ANSWERS) for folder in options.rows}
    prompt = typical_prompt(next(iter(answers.values()))[1])
    sizes = [vocabulary, *(size for size in options.sizes if size < vocabulary)]
    networks = {
        (size, int8): build_network(draft_model, torch.arange(size) if size < vocabulary else None, int8)
        for size in sizes
        for int8 in (False, True)
    }
    steps: dict[tuple[int, bool], list[float]] = {key: [] for key in networks}
    plain = []
    for _ in range(ROUNDS):
        plain.append(take_turn(target_model, draft_model, prompt, 1).plain)
        for key, network in networks.items():
            steps[key].append(measure_step(network, prompt, STEPS))
    token = statistics.median(plain)
    special = target.load_tokenizer().all_special_ids
    known = {
        folder.parent.name.rpartition("drafter-")[2]: covered(train, held_out, sizes, vocabulary, special)
        for folder, (train, held_out, _) in answers.items()
    }
    figures: list[dict[str, Any]] = []
    fastest = {}
    for size in sizes:
        native, int8 = (statistics.median(steps[size, kind]) for kind in (False, True))
        fastest[size] = min(native, int8)
        figures.append(
            {
                "ids": size,
                f"step in {where.dtype}, ms": native,
                "step in int8, ms": int8,
                "faster one, % of the target's token": 100 * fastest[size] / token,
            }
            | {f"% covered, {pair}": 100 * shares[size] for pair, shares in known.items()}
        )
    ratios = {f"a step over all ids / over {size:,}": fastest[sizes[0]] / fastest[size] for size in sizes[1:]}
    report("draft_vocabulary", figures, ratios | {f"milliseconds of a token of {target.identity}": token}, options.out)


def covered(
    train: list[list[int]], held_out: list[HeldOut], sizes: list[int], vocabulary: int, always: list[int]
) -> dict[int, float]:
    """Compute the share of held-out tokens that a draft vocabulary of each size contains."""
    counts = count_ids(train, vocabulary)
    asked = count_ids((answer.response_ids for answer in held_out), vocabulary)
    return {size: coverage(choose_ids(counts, size, always, fill=True), asked) for size in sizes}


if __name__ == "__main__":
    main()
