"""The text of a request, with the state of its drafting."""

from dataclasses import dataclass, field

import numpy as np

from drafter_trainer.decoding.metrics import count_shared
from drafter_trainer.drafters.loop.policy import AcceptanceEstimator, RatioEstimator
from drafter_trainer.drafters.loop.sources import TAIL, PromptLookup, Proposal, count_skipped, unread_part
from drafter_trainer.serving.network import Piece, Span

_INDEXED_AT_ONCE = 2048  # tokens of a text in one step: about 5 ms


@dataclass(eq=False)
class RequestText:
    """A request's text. An engine moves requests between rows without ids, so a text is identified by its content.

    Args:
        estimator (`AcceptanceEstimator`): Acceptance of each source's tokens in this text.
        gain (`RatioEstimator`): Tokens gained by running the network in this text.
        window (`int`, *optional*): Number of tokens at the end of the prompt that the network reads, in addition to
            the first token; the whole prompt if left out.
    """

    estimator: AcceptanceEstimator
    gain: RatioEstimator
    window: int | None = None
    tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    lookup: PromptLookup = field(default_factory=PromptLookup)
    remembered: int = 0  # tokens of prompt and output that are in the memory, or are not the target's own
    draft: list[Proposal] = field(default_factory=list)
    limit: int = 0  # maximum draft length in this step
    reach: float = 1.0  # probability that the whole draft is accepted
    asked: float = 0.0  # expected number of the network's tokens that are needed
    rounds: int = 0
    grown: int = 0  # tokens of the latest round; 0 if its draft is not known
    accepted: int = 0  # accepted tokens of the latest round
    slot: int | None = None  # index of its network cache
    cached: int = 0  # tokens of text and draft that the network has read
    shared: int = 0  # tokens of which the network has the target's keys and values
    outside: int = 0  # tokens of the prompt between its first one and the network's window
    row: int = 0  # row in the latest step
    seen: int = 0  # number of the latest step with this text

    def continues_in(self, row: np.ndarray) -> bool:
        """Return whether a row begins with this text."""
        size = len(self.tokens)
        # The last token differs in nearly every other text, and is compared at once.
        return (
            size <= len(row)
            and (size == 0 or row[size - 1] == self.tokens[-1])
            and np.array_equal(row[:size], self.tokens)
        )

    def follow(self, row: np.ndarray, step: int) -> None:
        """Take the tokens of a row that begins with this text, and learn how much of the draft was accepted."""
        known, drafted = len(self.tokens), len(self.draft)
        new = row[known:].tolist()
        if known == 0:
            self.outside = count_skipped(len(row), self.window)
            self.remembered = len(row)
        elif self.seen < step - 1 and len(new) > drafted + 1:  # the next turn of a chat whose request had ended
            self.remembered = len(row)
        accepted = count_shared([proposal.token for proposal in self.draft], new)
        self.grown = self.accepted = 0
        if 0 < len(new) <= drafted + 1:  # otherwise there were steps without this drafter in between
            for place, proposal in enumerate(self.draft[: min(accepted + 1, len(new))]):
                self.estimator.observe(proposal.source, proposal.bin, place < accepted)
            self.gain.observe(sum(proposal.gained for proposal in self.draft[:accepted]), self.asked)
            self.grown, self.accepted = len(new), accepted
            self.rounds += 1
        self.cached = min(self.cached, known + accepted)
        self.tokens, self.seen = row.copy(), step
        indexed = len(self.lookup.tokens)
        self.lookup.extend(self.tokens[indexed : indexed + _INDEXED_AT_ONCE].tolist())
        self.draft, self.reach, self.asked = [], 1.0, 0.0

    @property
    def is_indexed(self) -> bool:
        """Whether the whole text is in the lookup's index, which takes several steps for a long prompt."""
        return len(self.lookup.tokens) == len(self.tokens)

    def tail(self) -> list[int]:
        """Return the last tokens of text and draft, as many as a source reads."""
        return self.tokens[-TAIL:].tolist() + [proposal.token for proposal in self.draft]

    @property
    def skipped(self) -> int:
        """Number of tokens after the first one that the network does not see."""
        return 0 if self.shared else self.outside

    def __len__(self) -> int:
        return len(self.tokens) + len(self.draft)

    def unread_size(self) -> int:
        """Return the number of tokens of text and draft that the network has not read, at least one."""
        return len(self) - max(min(self.cached, len(self) - 1), self.skipped)

    def share(self) -> Span:
        """Return the positions whose keys and values the network takes from the target."""
        start = self.shared
        self.shared = self.cached = len(self.tokens) - 1  # the target has not read the last token
        return Span(self.slot, self.row, start, self.shared)

    def unread(self) -> Piece:
        """Return the tokens of text and draft that the network has not read, at least one."""
        read = min(self.cached, len(self) - 1)
        drafted = [proposal.token for proposal in self.draft[max(0, read - len(self.tokens)) :]]
        start, tokens = unread_part(self.tokens, read, self.skipped)
        return Piece(self.slot, start, [int(token) for token in tokens] + drafted)
