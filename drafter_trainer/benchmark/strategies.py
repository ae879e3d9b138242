"""The ways to a drafter for one language, as `recipes/drafter.py` makes them and results name them."""

from dataclasses import dataclass

from drafter_trainer.drafters.loop.policy import NETWORK, NGRAM, SOURCES


@dataclass(frozen=True)
class Strategy:
    """Describe one way.

    Args:
        method (`str`): What it is called in results.
        sources (`tuple[str, ...]`): What it may draft with.
        rows (`tuple[str, ...]`): Folders of a run whose rows its network is finetuned on.
        adapter (`bool`): Whether a LoRA adapter over a base drafter is finetuned, where there is one.
    """

    method: str
    sources: tuple[str, ...]
    rows: tuple[str, ...] = ()
    adapter: bool = False


FILE_NAME = "strategies.json"  # beside a card: what each took and promised
HYBRID = "hybrid"
# The first four as in arXiv 2605.30580, which does not join them. The hybrid has the best of the networks.
STRATEGIES = {
    "table": Strategy("n-gram table", (NGRAM,)),
    "task": Strategy("network of answers", (NETWORK,), ("distill",)),
    "text": Strategy("network of text", (NETWORK,), ("text",)),
    "both": Strategy("network of both", (NETWORK,), ("distill", "text")),
    "adapter": Strategy("adapter over a base", (NETWORK,), ("distill", "text"), adapter=True),
    HYBRID: Strategy("hybrid", SOURCES),
}
