"""What drafting would bring, from what a machine takes: before anyone trains.

With α the chance that one token is accepted, whatever its position, a round with k drafted tokens yields
(1 - α^(k+1)) / (1 - α) tokens (Leviathan et al., arXiv 2211.17192, equation 1).
"""

from collections.abc import Collection, Sequence
from typing import Any

from transformers import PreTrainedModel

from drafter_trainer.benchmark.report import markdown_table
from drafter_trainer.decoding.metrics import mean_accepted_tokens
from drafter_trainer.decoding.replay import Costs, SimulatedClock, replay
from drafter_trainer.decoding.target_cache import TargetTexts
from drafter_trainer.drafters.loop.drafting import DraftingLoop
from drafter_trainer.drafters.loop.generate import loop_of
from drafter_trainer.tuning.calibration import HeldOut

_ALPHAS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def expected_tokens(alpha: float, draft_length: int) -> float:
    """Compute how many tokens a round yields, the target's own included."""
    return sum(alpha**position for position in range(draft_length + 1))


def expected_speedup(alpha: float, draft_length: int, costs: Costs) -> float:
    """Compute the speedup over plain decoding, at most the tokens that a round yields."""
    return expected_tokens(alpha, draft_length) * (
        costs.plain / (costs.passes[draft_length] + draft_length * costs.step)
    )


def best_draft_length(alpha: float, costs: Costs) -> int:
    """Find the draft length with the highest speedup."""
    return max(range(1, len(costs.passes)), key=lambda length: expected_speedup(alpha, length, costs))


def break_even(costs: Costs) -> float | None:
    """Find the α, to three digits, from which drafting is faster than plain decoding; `None` where none is."""
    for alpha in (step / 1000 for step in range(1001)):
        if expected_speedup(alpha, best_draft_length(alpha, costs), costs) >= 1:
            return alpha
    return None


def forecast_table(costs: Costs) -> str:
    """Render what each acceptance brings, with the best draft length."""
    rows = []
    for alpha in _ALPHAS:
        length = best_draft_length(alpha, costs)
        tokens, speedup = expected_tokens(alpha, length), expected_speedup(alpha, length, costs)
        rows.append([f"{alpha:.1f}", str(length), f"{tokens:.2f}", f"{speedup:.2f}x"])
    return markdown_table(["α", "best draft", "tokens per pass", "speedup"], rows)


def forecast_drafter(
    drafter: PreTrainedModel,
    answers: Sequence[HeldOut],
    costs: Costs,
    end_ids: Collection[int],
    target: TargetTexts | None = None,
) -> dict[str, Any]:
    """Replay a trained drafter on held-out greedy answers.

    Args:
        drafter (`PreTrainedModel`): As `load_drafter` returned it.
        costs (`Costs`): Of this machine, with passes of the drafter's longest draft.
        end_ids (`Collection[int]`): Ids that end an answer.
        target (`TargetTexts`, *optional*): Reads the answers for a network that attends to the target's keys.
    Returns:
        `dict` with `speedup` over plain decoding, `tokens_per_pass`, `drafting_milliseconds` a round, and `answers`.
    """
    own, clock = loop_of(drafter), SimulatedClock()
    loop = DraftingLoop(own.network, own.table, own.settings, own.device, own.vocabulary, clock)
    result = replay(loop, map(HeldOut.known, answers), costs, clock, end_ids, target)
    return {
        "speedup": result.speedup,
        "tokens_per_pass": mean_accepted_tokens(result.tokens, len(result.rounds)),
        "drafting_milliseconds": result.drafting_milliseconds / len(result.rounds),
        "answers": len(answers),
    }
