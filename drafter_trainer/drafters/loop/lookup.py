"""Prompt lookup without a scan: where did the last few tokens stand before?"""

from .settings import LOOKUP_BINS

LONGEST = LOOKUP_BINS  # the calibration has a bin for each length


class SuffixIndex:
    """Find the longest suffix of a text that occurred in it before, in time that does not grow with the text.

    Every run of 1 to 8 tokens is kept with the position behind its latest occurrence, so a new token costs eight
    entries and a question eight at most.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._behind: list[dict[tuple[int, ...], int]] = [{} for _ in range(LONGEST)]

    def extend(self, tokens: list[int]) -> None:
        """Append tokens to the text."""
        for token in tokens:
            # What ends here gets its successor only now: a suffix must not find itself.
            end = len(self.tokens)
            for size in range(1, min(LONGEST, end) + 1):
                self._behind[size - 1][tuple(self.tokens[end - size :])] = end
            self.tokens.append(token)

    def next_token(self, draft: list[int]) -> tuple[int, int] | None:
        """Say what followed the longest suffix of text and draft when it stood in the text before.

        Args:
            draft (`list[int]`): Tokens behind the text that are not certain yet.
        Returns:
            `tuple` of the token and its bin in the calibration, one for each length of the suffix; `None` if
            not even the last token occurred.
        """
        tail = (self.tokens[-LONGEST:] + draft)[-LONGEST:]
        for size in range(len(tail), 0, -1):
            position = self._behind[size - 1].get(tuple(tail[-size:]))
            if position is not None:
                return self.tokens[position], size - 1
        return None
