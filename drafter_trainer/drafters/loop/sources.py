"""The sources of drafts: prompt lookup, an n-gram table, and the network.

The drafting loop, calibration and serving call `propose` of every source. A new source implements `DraftSource`. It
needs a name here, bins in `settings.default_calibration`, and an entry in the sources of `DraftingLoop` and of
`serving.batch.BatchDrafter`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import safe_open

from .calls import NO_ENDING, EndingIds
from .policy import AcceptanceEstimator
from .settings import LOOKUP_BINS, NETWORK_BINS, NGRAM_BINS, bin_of

LOOKUP, NGRAM, NETWORK = SOURCES = ("lookup", "ngram", "network")
MEMORY = "memory"  # of earlier completions, if `load_drafter` was given one
FILLER = "filler"  # tokens without a source: verifying a few more tokens can take less time
TAIL = 16  # maximum number of tokens of a text that a source reads
TABLE_FORMAT = "1"
HASH_MULTIPLIER = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class DraftSource(Protocol):
    """A source of drafts."""

    def propose(self, context: Sequence[int]) -> tuple[int, int] | None:
        """Propose the next token of a text.

        Args:
            context (`Sequence[int]`): The text and the tokens drafted so far, or at least the last `TAIL` of them.
        Returns:
            `tuple` of the token and its bin in the source's calibration; `None` if the source has no proposal.
        """


@dataclass(frozen=True)
class Proposal:
    """A drafted token."""

    token: int
    source: str
    probability: float  # that the target accepts it, as estimated before it was sampled
    bin: int = 0  # in the source's calibration
    scores: torch.Tensor | None = None  # if the token was sampled, the logits of its q, of shape `(vocabulary,)`
    gained: bool = False  # whether only the network proposed it


def propose_surest(
    estimator: AcceptanceEstimator, sources: Mapping[str, DraftSource], context: Sequence[int]
) -> Proposal | None:
    """Return the proposal that is most likely accepted; of equally likely ones, that of the first source."""
    proposals = [
        (estimator.probability(name, proposed[1]), name, proposed)
        for name, source in sources.items()
        if (proposed := source.propose(context)) is not None
    ]
    if not proposals:
        return None
    probability, name, (token, bin_) = max(proposals, key=itemgetter(0))
    return Proposal(token, name, probability, bin_)


class PromptLookup:
    """Prompt lookup: the token that followed the latest occurrence of the text's longest repeated suffix.

    Every run of 1 to 8 tokens is stored with the position after its latest occurrence. So a new token costs eight
    entries, and a proposal at most eight look-ups. The bin is the length of the suffix.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._positions: list[dict[tuple[int, ...], int]] = [{} for _ in range(LOOKUP_BINS)]

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens to the text."""
        for token in tokens:
            # The run that ends here is stored only now that it has a successor: a suffix must not find itself.
            end = len(self.tokens)
            for size in range(1, min(LOOKUP_BINS, end) + 1):
                self._positions[size - 1][tuple(self.tokens[end - size :])] = end
            self.tokens.append(token)

    def propose(self, context: Sequence[int]) -> tuple[int, int] | None:
        """Propose the next token; see `DraftSource`."""
        tail = tuple(context[-LOOKUP_BINS:])
        for size in range(len(tail), 0, -1):
            position = self._positions[size - 1].get(tail[-size:])
            if position is not None:
                return self.tokens[position], size - 1
        return None


def hash_context(context: Sequence[int]) -> int:
    """Hash a run of token ids to 64 bits, never to 0, which marks an empty slot."""
    mixed = len(context)
    for token in context:
        mixed = ((mixed ^ (token + 1)) * HASH_MULTIPLIER) & _MASK
        mixed ^= mixed >> 29
    return mixed or 1


class NgramTable:
    """An n-gram table: the token that followed each short run of tokens most often.

    The slots of an order are an open-addressing hash table, at most half full: the slot of a run is its hash modulo
    the number of slots, or one of the next slots. The bin holds the order and the token's share of all followers.

    Args:
        slots (`dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]`): For each order (tokens of context) the hashes
            (uint64, 0 where a slot is empty), the tokens (int32) and their shares (uint8, in 255ths).
    """

    def __init__(self, slots: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
        self._slots = slots
        self.orders = sorted(slots, reverse=True)

    @classmethod
    def read(cls, path: Path, vocabulary: int, tokenizer_sha256: str) -> "NgramTable":
        """Read a table.

        Raises:
            ValueError: If it was counted with another tokenizer or vocabulary.
            SafetensorError: If the file is damaged.
        """
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if (format_ := metadata.get("format")) != TABLE_FORMAT:
                raise ValueError(f"{path} has format {format_}, expected {TABLE_FORMAT}: count the table again")
            if metadata.get("tokenizer_sha256") != tokenizer_sha256:
                raise ValueError(f"{path} was counted with another tokenizer: count it again with the target's")
            slots = {
                int(order): tuple(file.get_tensor(f"{name}.{order}") for name in ("hashes", "tokens", "shares"))
                for order in metadata.get("orders", "").split(",")
            }
        for order, (hashes, tokens, shares) in slots.items():
            # A search ends at an empty slot.
            if not len(hashes) == len(tokens) == len(shares) or len(hashes) & (len(hashes) - 1) or hashes.all():
                raise ValueError(f"{path}: the slots of order {order} have wrong lengths: count the table again")
            if len(tokens) and not 0 <= tokens.min() <= tokens.max() < vocabulary:
                raise ValueError(f"{path} has ids outside the vocabulary of {vocabulary}: it is for another tokenizer")
        return cls({order: (hashes.view(np.uint64), *rest) for order, (hashes, *rest) in slots.items()})

    def propose(self, context: Sequence[int]) -> tuple[int, int] | None:
        """Propose the next token; see `DraftSource`."""
        for order in self.orders:
            if order > len(context):
                continue
            hashes, tokens, shares = self._slots[order]
            wanted = hash_context(context[-order:])
            slot = wanted & (len(hashes) - 1)
            while (stored := hashes.item(slot)) != 0:
                if stored == wanted:
                    bin_ = (order - 1) * NGRAM_BINS + bin_of(shares.item(slot) / 255, NGRAM_BINS)
                    return tokens.item(slot), bin_
                slot = (slot + 1) & (len(hashes) - 1)
        return None


class NetworkSource:
    """The drafter's network as a source: it reads a growing text, and proposes the likeliest token or samples a token.

    The size of the target's vocabulary is needed for sampling and processors.
    """

    def __init__(self, network: Any, vocabulary: int = 0) -> None:
        self.network, self._vocabulary = network, vocabulary
        self._ids = None if network.draft_ids is None else network.draft_ids.tolist()
        self.probabilities: torch.Tensor | None = None  # q of the last proposal, of shape `(draft vocabulary,)`
        self.scores: torch.Tensor | None = None  # if it was sampled, its logits, of shape `(vocabulary,)`
        self.unread = 0  # tokens that the last proposal had to read
        self.begin(0)

    def begin(self, prompt_length: int) -> None:
        """Begin a new text."""
        self._read: list[int] = []  # the tokens of text and draft that were read or skipped
        self._shared = 0  # tokens for which the network has the target's keys and values
        self._skipped = count_skipped(prompt_length, self.network.prompt_window)

    def follow(self, verified: list[int], same: int) -> None:
        """Drop the draft's tokens that are not in the text, whose first `same` tokens are as before."""
        while same < min(len(self._read), len(verified)) and self._read[same] == verified[same]:
            same += 1
        del self._read[same:]

    def share(self, cache: Any, verified: list[int]) -> None:
        """Use the target's keys and values of all tokens of a text but the last, if the network was trained so."""
        if self.network.share(cache, self._shared, len(verified) - 1):
            self._shared, self._skipped, self._read = len(verified) - 1, 0, verified[:-1]

    def has_room(self, length: int) -> bool:
        """Return whether a text of this length fits into the network's context."""
        return length - self._skipped < self.network.limit

    def propose(
        self,
        context: list[int],
        process: Callable[[list[int], torch.Tensor], torch.Tensor] | None = None,
        samples: bool = False,
        ending: EndingIds = NO_ENDING,
    ) -> tuple[int, int] | None:
        """Propose the next token of the whole text; see `DraftSource`.

        Tokens in `ending` are not sampled, since to drop a token after it was sampled would bias the output. If the
        likeliest token is in `ending`, it is proposed. `None` if processors exclude the whole draft vocabulary.
        """
        if not self.has_room(len(context)):
            return None
        # Everything was read before if the target wrote the tokens that a shortened draft had left out.
        cached, unread = unread_part(context, min(len(self._read), len(context) - 1), self._skipped)
        self.network.crop(cached)
        logits = self.network.read(unread)
        self._read, self.unread = list(context), len(unread)
        if process is not None:
            logits = process(context, self._widen(logits))
        if samples and ending and (samples := int(logits.argmax()) not in ending):
            logits = ending.mask(logits)
        self.probabilities = q = torch.softmax(logits, dim=-1)
        share, entry = q.max(dim=-1)
        if samples:  # the index of the largest q / exponential variable has the distribution q
            entry = (q / torch.empty_like(q).exponential_()).argmax()
        # One transfer, since each transfer waits for the accelerator; floats hold ids up to 2^24.
        share, entry = torch.stack((share.float(), entry.float())).tolist()
        if math.isnan(share):
            return None
        wide = process is not None or self._ids is None
        self.scores = None
        if samples:
            self.scores = self._widen(logits) if process is None else logits
        return int(entry) if wide else self._ids[int(entry)], bin_of(share, NETWORK_BINS)

    def _widen(self, logits: torch.Tensor) -> torch.Tensor:
        """Return logits over the whole vocabulary, in a tensor of their own."""
        if self.network.draft_ids is None:
            return logits.clone()
        wide = logits.new_full((self._vocabulary,), float("-inf"))
        return wide.index_copy_(0, self.network.draft_ids, logits)


def count_skipped(prompt_length: int, window: int | None) -> int:
    """Return the number of tokens of a prompt, after its first one, that the network does not read.

    The network reads the first token and the last `window` ones, or the whole prompt without a window. Models attend
    to the first token if nothing else is relevant (an attention sink, Xiao et al., arXiv 2309.17453), so it is kept.
    """
    return max(0, prompt_length - 1 - window) if window else 0


def unread_part(tokens: Sequence[int], read: int, skipped: int) -> tuple[int, list[int]]:
    """Return the length of the network's cache that stays, and the tokens of a text to read after it.

    The first `read` tokens of the text were read or skipped before; `skipped` tokens after the first are skipped.
    """
    if read <= skipped:
        return 0, [*tokens[:1], *tokens[1 + skipped :]]
    return read - skipped, list(tokens[read:])


def cut_prompt(prompt_ids: Sequence[int], window: int | None) -> list[int]:
    """Return the tokens of a prompt that the network reads."""
    return unread_part(prompt_ids, 0, count_skipped(len(prompt_ids), window))[1]
