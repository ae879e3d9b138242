"""Self-distilled rows as answers: what is counted on, and what settings are chosen on."""

from pathlib import Path

import numpy as np

from drafter_trainer.distillation.store import RowStore
from drafter_trainer.errors import InputError
from drafter_trainer.tuning.calibration import HeldOut

_COLUMNS = ["prompt_ids", "response_ids", "temperature", "topk_ids", "topk_logprobs"]


def load_answers(folder: Path, limit: int) -> tuple[list[list[int]], list[HeldOut], list[HeldOut]]:
    """Load the answers of a distillation.

    Args:
        folder (`Path`): With `train` and `validation`.
        limit (`int`): Held-out answers of each kind at most.
    Returns:
        `tuple` of the training answers, the held-out greedy ones, and the held-out ones at the highest temperature.
    Raises:
        InputError: If there are no held-out greedy answers, or they lack the target's log-probabilities.
        DamagedStoreError: If a shard is damaged.
    """
    train = [
        response
        for table in RowStore(folder / "train").tables(["response_ids"])
        for response in table["response_ids"].to_pylist()
    ]
    held_out = [
        HeldOut(
            row["prompt_ids"],
            row["response_ids"],
            row["temperature"],
            np.array(row["topk_ids"], np.int32),
            np.array(row["topk_logprobs"], np.float32),
        )
        for table in RowStore(folder / "validation").tables(_COLUMNS)
        for row in table.to_pylist()
        if row["topk_ids"] is not None
    ]
    greedy = [answer for answer in held_out if answer.temperature == 0]
    highest = max((answer.temperature for answer in held_out), default=0.0)
    if not train or not greedy:
        raise InputError(
            f"{folder} has {len(train)} answers and {len(greedy)} held-out greedy ones with log-probabilities: distil "
            "with --temperatures 0 and more, and some validation prompts"
        )
    sampled = [answer for answer in held_out if answer.temperature == highest > 0]
    return train, greedy[:limit], (sampled or greedy)[:limit]
