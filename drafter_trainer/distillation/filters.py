"""Which answers are not worth training on."""

from collections.abc import Collection

from drafter_trainer.distillation.store import Answer


def reason_to_drop(answer: Answer, special_ids: Collection[int]) -> str | None:
    """Return why an answer is dropped, or `None`.

    Answers cut by the length limit stay: their tokens are the target's own, and no end token is made up for them.

    Args:
        special_ids (`Collection[int]`): Ids that show no text, such as the end token.
    """
    return "empty answer" if all(token in special_ids for token in answer.response_ids) else None
