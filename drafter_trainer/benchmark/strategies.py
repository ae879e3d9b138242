"""The strategies that `drafter-trainer language` compares, and their names in results."""

from dataclasses import dataclass

from drafter_trainer.drafters.loop.policy import NETWORK, NGRAM, SOURCES


@dataclass(frozen=True)
class Strategy:
    """A kind of drafter for one language.

    Args:
        sources (`tuple[str, ...]`): What it may draft with.
        rows (`tuple[str, ...]`): Folders of a run whose rows its network is finetuned on.
    """

    method: str
    sources: tuple[str, ...]
    rows: tuple[str, ...] = ()


FILE_NAME = "strategies.json"  # beside a card: what each took and promised
HYBRID = "hybrid"
# The first four as in arXiv 2605.30580, which does not join them. The hybrid has the best of the networks.
STRATEGIES = {
    "table": Strategy("n-gram table", (NGRAM,)),
    "task": Strategy("network of answers", (NETWORK,), ("distill",)),
    "text": Strategy("network of text", (NETWORK,), ("text",)),
    "both": Strategy("network of both", (NETWORK,), ("distill", "text")),
    HYBRID: Strategy("hybrid", SOURCES),
}
