"""The acceptance metrics as a module of `evaluate`, loaded from its folder without the network.

    acceptance = evaluate.load("drafter_trainer/benchmark/acceptance")
    acceptance.compute(drafted=[4, 4], accepted=[4, 1], rejected=[False, True])

Give combined modules (`evaluate.combine`) their columns with `add` or `add_batch`: `compute` of evaluate 0.4.6 passes
every column to every module.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from drafter_trainer.decoding import metrics

_INPUTS = """
Args:
    drafted (`list[int]`): Number of tokens drafted in each round, one round for each target pass.
    accepted (`list[int]`): Number of these tokens in the output.
    rejected (`list[bool]`): Whether the target chose another token than the draft.
    tokens (`int`, *optional*): Number of tokens of all outputs. Defaults to the accepted tokens plus one for each
        round, which is one too many for each output that ends within an accepted draft.
Returns:
    `dict` with `acceptance_rate`, `alpha`, `mean_accepted_tokens` and `acceptance_by_position`, as
    `drafter_trainer.decoding.metrics` defines them.
"""


class Acceptance(evaluate.Metric):
    """Acceptance of drafted tokens, over the rounds of speculative decoding."""

    def _info(self) -> evaluate.MetricInfo:
        types = {"drafted": "int64", "accepted": "int64", "rejected": "bool"}
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="Leviathan et al., Fast Inference from Transformers via Speculative Decoding, arXiv 2211.17192",
            inputs_description=_INPUTS,
            features=datasets.Features({name: datasets.Value(dtype) for name, dtype in types.items()}),
        )

    def _compute(
        self, drafted: Sequence[int], accepted: Sequence[int], rejected: Sequence[bool], tokens: int | None = None
    ) -> dict[str, Any]:
        rounds = [metrics.Round(*columns) for columns in zip(drafted, accepted, rejected)]
        total = sum(accepted) + len(rounds) if tokens is None else tokens
        return metrics.acceptance_figures(rounds, total)
