"""A request's text, and what drafting has learned of it."""

from dataclasses import dataclass, field

import numpy as np

from drafter_trainer.drafters.loop.policy import AcceptanceEstimator, RatioEstimator
from drafter_trainer.drafters.loop.sources import TAIL, PromptLookup, Proposal, count_skipped, unread_part
from drafter_trainer.serving.network import Piece, Span

_INDEXED_AT_ONCE = 2048  # tokens of a text in one step: some 5 ms


@dataclass(eq=False)
class RequestText:
    """One request's text, and what drafting has learned of it.

    An engine names no requests and moves them from row to row; a text is found again by its content.

    Args:
        estimator (`AcceptanceEstimator`): How likely each source's tokens are accepted in this text.
        gain (`RatioEstimator`): What asking the network brings in this text.
        window (`int`, *optional*): Number of last tokens of the prompt that the network reads, besides the
            first one; all if left out.
    """

    estimator: AcceptanceEstimator
    gain: RatioEstimator
    window: int | None = None
    tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    lookup: PromptLookup = field(default_factory=PromptLookup)
    remembered: int = 0  # tokens of prompt and output that are in the memory, or were given
    draft: list[Proposal] = field(default_factory=list)
    limit: int = 0
    reach: float = 1.0
    asked: float = 0.0
    rounds: int = 0
    grown: int = 0
    accepted: int = 0
    slot: int | None = None
    cached: int = 0  # tokens of text and draft that the network has read
    shared: int = 0  # tokens of which the network has the target's keys and values
    outside: int = 0  # tokens of the prompt before the network's window, behind the first one
    row: int = 0  # in the latest step
    seen: int = 0  # number of the step

    def continues_in(self, row: np.ndarray) -> bool:
        """Tell whether a row begins with this text."""
        size = len(self.tokens)
        # The last token differs in nearly every other text, and is compared at once.
        return (
            size <= len(row)
            and (size == 0 or row[size - 1] == self.tokens[-1])
            and np.array_equal(row[:size], self.tokens)
        )

    def follow(self, row: np.ndarray, step: int) -> None:
        """Take over a row of a step that begins with this text, and learn what became of the draft."""
        known = len(self.tokens)
        if known == 0:
            self.outside = count_skipped(len(row), self.window)
            self.remembered = len(row)
        new = row[known:].tolist()
        if self.seen < step - 1 and len(new) > len(self.draft) + 1:  # it had ended: this is a chat's next turn
            self.remembered = len(row)
        self.grown, self.accepted, self.seen = len(new), 0, step
        if 0 < len(new) <= len(self.draft) + 1:
            gained = 0
            for proposal, token in zip(self.draft, new):
                accepted = proposal.token == token
                self.estimator.observe(proposal.source, proposal.bin, accepted)
                if not accepted:
                    break
                self.accepted += 1
                gained += proposal.gained
            self.gain.observe(gained, self.asked)
            self.rounds += 1
        else:  # other steps passed: nobody knows what was drafted there
            self.grown = 0
        if self.cached > known:
            right = (proposal.token == token for proposal, token in zip(self.draft[: self.cached - known], new))
            self.cached = known + next(
                (place for place, is_right in enumerate(right) if not is_right), min(self.cached - known, len(new))
            )
        self.tokens = row.copy()
        behind = len(self.lookup.tokens)
        self.lookup.extend(self.tokens[behind : behind + _INDEXED_AT_ONCE].tolist())
        self.draft, self.reach, self.asked = [], 1.0, 0.0

    @property
    def is_indexed(self) -> bool:
        """Whether the whole text is in the lookup's index, which takes several steps for a long prompt."""
        return len(self.lookup.tokens) == len(self.tokens)

    def tail(self) -> list[int]:
        """Return the last tokens of text and draft, at least as many as table and memory compare."""
        return self.tokens[-TAIL:].tolist() + [proposal.token for proposal in self.draft]

    @property
    def skipped(self) -> int:
        """Tokens of the prompt that the network does not see, behind the first one."""
        return 0 if self.shared else self.outside

    def __len__(self) -> int:
        return len(self.tokens) + len(self.draft)

    def unread_size(self) -> int:
        """Return the number of tokens that the network has not read of text and draft, one at least."""
        return len(self) - max(min(self.cached, len(self) - 1), self.skipped)

    def share(self) -> Span:
        """Let the network see the target's keys and values of the text; return those that it has not yet."""
        start = self.shared
        self.shared = self.cached = len(self.tokens) - 1  # the target has not read the last token
        return Span(self.slot, self.row, start, self.shared)

    def unread(self) -> Piece:
        """Return what the network has not read of text and draft, one token at least."""
        read = min(self.cached, len(self) - 1)
        drafted = [proposal.token for proposal in self.draft[max(0, read - len(self.tokens)) :]]
        start, tokens = unread_part(self.tokens, read, self.skipped)
        return Piece(self.slot, start, [int(token) for token in tokens] + drafted)
