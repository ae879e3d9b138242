"""The figures of acceptance as a module of `evaluate`, which loads it from its folder without the network.

    acceptance = evaluate.load("drafter_trainer/benchmark/acceptance")
    acceptance.compute(drafted=[4, 4], accepted=[4, 1], rejected=[False, True])

    both = evaluate.combine([acceptance, another])
    both.add_batch(drafted=…, accepted=…, rejected=…, predictions=…, references=…)
    both.compute()

Combined modules are given their columns with `add` or `add_batch`: `compute` of 0.4.6 hands every column on to every
module.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from drafter_trainer.decoding import metrics

_INPUTS = """
Args:
    drafted (`list[int]`): Tokens that were drafted in each round, one round for each pass of the target.
    accepted (`list[int]`): How many of them stand in the output.
    rejected (`list[bool]`): Whether the target chose another token than the draft.
    tokens (`int`, *optional*): Tokens of all outputs; accepted ones and one for each round if left out, which is one
        too many for each output whose end or length limit fell among the accepted ones.
Returns:
    `dict` with `acceptance_rate`, `alpha`, `mean_accepted_tokens` and `acceptance_by_position`, as
    `drafter_trainer.decoding.metrics` defines them.
"""


class Acceptance(evaluate.Metric):
    """How many drafted tokens a target accepted, over the rounds of speculative decoding."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="Leviathan et al., Fast Inference from Transformers via Speculative Decoding, arXiv 2211.17192",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "drafted": datasets.Value("int64"),
                    "accepted": datasets.Value("int64"),
                    "rejected": datasets.Value("bool"),
                }
            ),
        )

    def _compute(
        self, drafted: Sequence[int], accepted: Sequence[int], rejected: Sequence[bool], tokens: int | None = None
    ) -> dict[str, Any]:
        rounds = [metrics.Round(*columns) for columns in zip(drafted, accepted, rejected)]
        if tokens is None:
            tokens = sum(round_.accepted for round_ in rounds) + len(rounds)
        return {
            "acceptance_rate": metrics.acceptance_rate(rounds),
            "alpha": metrics.alpha(rounds),
            "mean_accepted_tokens": metrics.mean_accepted_tokens(tokens, len(rounds)),
            "acceptance_by_position": metrics.acceptance_by_position(rounds),
        }
