"""The part of a prompt that a drafter's network reads: its first token and its last ones.

Language models attend to the first token of a text wherever they have nothing else to attend to (an attention sink,
Xiao et al., arXiv 2309.17453). A window without that token takes from a network what it learned as part of its target.
"""

from collections.abc import Sequence


def count_skipped(prompt_length: int, window: int | None) -> int:
    """Return the number of tokens that the network skips behind the first token of a prompt.

    Args:
        prompt_length (`int`): Number of tokens of the prompt.
        window (`int`, *optional*): Number of last tokens that the network reads besides the first; all if left
            out.
    """
    return max(0, prompt_length - 1 - window) if window else 0


def unread_part(tokens: Sequence[int], read: int, skipped: int) -> tuple[int, list[int]]:
    """Return what the network has yet to read of a text.

    Args:
        tokens (`Sequence[int]`): The whole text.
        read (`int`): Number of its tokens that were read or skipped before.
        skipped (`int`): Number of tokens skipped behind the first one.
    Returns:
        `(int, list[int])`: The length of the network's cache that stays, and the tokens to read behind it.
    """
    if read <= skipped:
        return 0, [*tokens[:1], *tokens[1 + skipped :]]
    return read - skipped, list(tokens[read:])


def cut_prompt(prompt_ids: Sequence[int], window: int | None) -> list[int]:
    """Return the tokens of a prompt that the network reads."""
    return unread_part(prompt_ids, 0, count_skipped(len(prompt_ids), window))[1]
