"""A memory of a target's completions, from which a drafter drafts text that the target writes again.

The memory holds the latest completions, each after the end of its prompt, up to a number of tokens; the oldest are
overwritten. For each of four run lengths, a hash table stores the position after the latest occurrence of a run of
tokens. The tokens before this position are compared with the run. If a newer run has overwritten the slot, a shorter
run is looked up. So memory and time do not grow with the number of completions.
"""

import contextlib
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from drafter_trainer.atomic import write_whole
from drafter_trainer.drafters.compatibility import hash_tokenizer
from drafter_trainer.drafters.loop.sources import hash_context
from drafter_trainer.drafters.ngram import hash_contexts
from drafter_trainer.errors import IncompatibleTokenizerError, InputError

ORDERS = (16, 8, 4, 2)  # tokens of the runs, the longest first; each is a bin of the calibration
_FORMAT = "1"
_FEWEST_TOKENS = 1024
_END = -1  # after each completion
_PRIOR_COUNT = 4.0
_MOST_COUNT = 2000.0  # tokens; above it, counts are halved, so that recent completions weigh more
_PAUSED: ContextVar[bool] = ContextVar("memory_paused", default=False)


class CompletionMemory:
    """A memory of the target's completions, as a source of drafts.

    A drafter that is loaded with a memory drafts from it and adds every completion to it. Several drafters of a target
    may share a memory. The acceptance of the memory's tokens is counted from the completions, separately for greedy
    decoding and for sampling. No measurement uses a memory.

    Args:
        max_tokens (`int`, *optional*, defaults to `100_000`): Maximum number of tokens in the memory, including 16 of
            each prompt. A token takes 36 to 68 bytes.
    Raises:
        InputError: If `max_tokens` is below 1,024.
    """

    def __init__(self, max_tokens: int = 100_000) -> None:
        if max_tokens < _FEWEST_TOKENS:
            raise InputError(f"max_tokens of a memory must be {_FEWEST_TOKENS} or more, got {max_tokens}")
        self.max_tokens = max_tokens
        self.tokenizer_sha256: str | None = None  # of the tokenizer whose ids it holds
        self.added = 0  # number of tokens, overwritten ones included
        self._tokens = np.full(max_tokens, _END, np.int32)
        self._next = 0  # position of the next completion
        size = 1 << (2 * max_tokens - 1).bit_length()
        self._slots = [np.zeros(size, np.int32) for _ in ORDERS]  # positions; no run ends before position 0
        self._counts = np.zeros((2, len(ORDERS), 2))  # greedy and sampled: tokens accepted and judged, by order
        self._open: set[_OpenText] = set()
        self._lock = threading.RLock()  # reentrant: a finalizer may run within a method

    def propose(self, context: Sequence[int]) -> tuple[int, int] | None:
        """Propose the token after the latest occurrence of the longest stored run; see `DraftSource`."""
        if _PAUSED.get():
            return None
        context = list(context)
        for bin_, (order, slots) in enumerate(zip(ORDERS, self._slots)):
            run = context[-order:]
            if len(run) < order:
                continue
            position = slots.item(hash_context(run) & (len(slots) - 1))
            occurred = position and self._tokens[position - order : position].tolist() == run
            if occurred and (token := self._tokens.item(position)) != _END:
                return token, bin_
        return None

    def calibration(self, lookup: Sequence[float], sampling: bool) -> list[float]:
        """Return the probability that a token is accepted, for each bin; prompt lookup's calibration is the prior."""
        return [
            float((accepted + _PRIOR_COUNT * lookup[min(order, len(lookup)) - 1]) / (judged + _PRIOR_COUNT))
            for order, (accepted, judged) in zip(ORDERS, self._counts[int(sampling)])
        ]

    def remember(self, prompt_ids: Sequence[int], completion_ids: Sequence[int], sampling: bool = False) -> None:
        """Add a completion, and count the tokens that the memory would have drafted correctly.

        Args:
            prompt_ids (`Sequence[int]`): The prompt, of which the last 16 tokens are kept.
            completion_ids (`Sequence[int]`): The target's tokens, the last of which may be an end token.
            sampling (`bool`, *optional*, defaults to `False`): Whether the completion was sampled.
        """
        if not len(completion_ids):
            return
        text = np.array([*prompt_ids[-ORDERS[0] :], *completion_ids], np.int32)
        with self._lock:
            self._count(text, len(text) - len(completion_ids), sampling)
            self._add(text)
            self.added += len(completion_ids)

    def listen(self, criteria: StoppingCriteriaList, prompt_length: int, sampling: bool) -> None:
        """Remember the completion of a call of the target's `generate` when the call ends, also after an error.

        The call gets one more criterion, which never stops it.
        """
        if _PAUSED.get():
            return
        self._remember_open()
        text = _OpenText(prompt_length, sampling)
        listener = _Listener(text)
        with self._lock:
            self._open.add(text)
        weakref.finalize(listener, self._close, text)
        criteria.append(listener)

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Set the tokenizer whose ids the memory holds; raise an error if it holds ids of another tokenizer."""
        sha256 = hash_tokenizer(tokenizer, ())
        if self.tokenizer_sha256 not in (None, sha256):
            raise IncompatibleTokenizerError(
                "the memory holds the ids of another tokenizer than the target's: give each target a CompletionMemory "
                "of its own"
            )
        self.tokenizer_sha256 = sha256

    def save(self, path: str | Path) -> None:
        """Write the memory to a file, which appears whole or not at all.

        Raises:
            InputError: If the tokenizer is unknown, because no drafter was loaded with the memory.
        """
        if self.tokenizer_sha256 is None:
            raise InputError("the memory's tokenizer is unknown: load a drafter with the memory before you save it")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._remember_open()
        with self._lock:
            tensors = {"tokens": np.roll(self._tokens, -self._next), "counts": self._counts.copy()}
        metadata = {"format": _FORMAT, "tokenizer_sha256": self.tokenizer_sha256}
        write_whole(path, lambda partial: save_file(tensors, partial, metadata))

    @classmethod
    def load(cls, path: str | Path, max_tokens: int | None = None) -> "CompletionMemory":
        """Read a memory that `save` wrote.

        Args:
            max_tokens (`int`, *optional*): New maximum number of tokens; defaults to the earlier maximum. If it is
                smaller, the oldest completions are dropped.
        Raises:
            InputError: If there is no such file, or it is not a memory.
        """
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                tokens, counts = file.get_tensor("tokens"), file.get_tensor("counts")
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} is not a memory ({error}): give the file that save wrote") from error
        memory = cls(max_tokens or max(len(tokens), _FEWEST_TOKENS))
        whole = tokens.dtype == np.int32 and tokens.ndim == 1 and counts.shape == memory._counts.shape
        if metadata.get("format") != _FORMAT or not whole:
            raise InputError(f"{path} is not a memory of format {_FORMAT}: start a new one")
        memory.tokenizer_sha256 = metadata.get("tokenizer_sha256")
        for text in np.split(tokens, np.flatnonzero(tokens < 0)):
            memory._add(text[text >= 0])
        memory._counts[:] = counts
        return memory

    def __len__(self) -> int:
        """Return the number of tokens in the memory."""
        return int(np.count_nonzero(self._tokens != _END))

    def _count(self, text: np.ndarray, start: int, sampling: bool) -> None:
        """Count the tokens from `start` on that the memory would have drafted, and those that would be correct."""
        undecided = np.arange(len(text)) >= start
        counts = self._counts[int(sampling)]
        for order, slots, count in zip(ORDERS, self._slots, counts):
            if len(text) <= order:
                continue
            runs = sliding_window_view(text, order)[:-1]
            positions = slots[_slots_of(runs, slots)]
            stored = self._tokens[positions[:, None] - np.arange(order, 0, -1)]
            proposed = self._tokens[positions]
            judged = (positions > 0) & (proposed != _END) & (stored == runs).all(axis=1) & undecided[order:]
            count += np.count_nonzero(judged & (proposed == text[order:])), np.count_nonzero(judged)
            undecided[order:] &= ~judged
        counts[counts[:, 1] > _MOST_COUNT] /= 2

    def _add(self, text: np.ndarray) -> None:
        """Write a whole text over the oldest texts, at the beginning if it does not fit before the end."""
        if not len(text):
            return
        text = text[-(self.max_tokens - 1) :]
        if self._next + len(text) >= self.max_tokens:
            self._tokens[self._next :] = _END
            self._next = 0
        start, end = self._next, self._next + len(text)
        self._tokens[start:end] = text
        self._tokens[end] = _END
        self._next = end + 1
        for order, slots in zip(ORDERS, self._slots):
            if len(text) > order:  # of equal slots the last is kept
                slots[_slots_of(sliding_window_view(text, order)[:-1], slots)] = np.arange(start + order, end)

    def _remember_open(self) -> None:
        """Remember the tokens so far of texts that are unfinished, or that an exception keeps alive."""
        with self._lock:
            for text in list(self._open):  # a finalizer may close a text meanwhile, on this thread
                self._take(text)

    def _close(self, text: "_OpenText") -> None:
        with self._lock:
            self._open.discard(text)
            self._take(text)

    def _take(self, text: "_OpenText") -> None:
        """Remember the tokens of a text that are new since the last time."""
        ids, taken = [] if text.ids is None else text.ids.tolist(), text.taken
        text.taken = max(taken, len(ids))
        self.remember(ids[:taken], ids[taken:], text.sampling)


@contextlib.contextmanager
def memories_paused() -> Iterator[None]:
    """Let no drafter draft from its memory or add to it, for measurements."""
    token = _PAUSED.set(True)
    try:
        yield
    finally:
        _PAUSED.reset(token)


@dataclass(eq=False)
class _OpenText:
    """A text that `generate` may still be writing; `taken` counts its tokens in the prompt or in the memory."""

    taken: int
    sampling: bool
    ids: torch.Tensor | None = None


class _Listener(StoppingCriteria):
    """A criterion that stores the text of a call of `generate` after each round, and never stops it."""

    def __init__(self, text: _OpenText) -> None:
        self._text = text

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        """Store the text."""
        self._text.ids = input_ids[0]
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _slots_of(runs: np.ndarray, slots: np.ndarray) -> np.ndarray:
    return (hash_contexts(runs) & np.uint64(len(slots) - 1)).astype(np.int64)
