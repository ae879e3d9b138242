"""Tokens that a draft must end before, because they complete a stop string.

transformers looks for stop strings at the end of what a round accepted, not inside of it (5.23). The token that
completes one must therefore be the target's own, which is always the last of its round.
"""

import bisect
import functools
import itertools
import re
from collections.abc import Iterable
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

_REPLACEMENT = "\ufffd"  # what decoding shows of a character that is not whole
_LEADING = "abcdef"


class TokenTexts(NamedTuple):
    """The texts of a vocabulary.

    Args:
        by_id (`dict[int, bytes]`): What each token adds to a text, which may be a part of a character.
        ascending (`list[tuple[bytes, int]]`): The same by text.
    """

    by_id: dict[int, bytes]
    ascending: list[tuple[bytes, int]]

    def starting_with(self, start: bytes) -> list[int]:
        """Return the tokens whose text starts with `start`."""
        places = range(bisect.bisect_left(self.ascending, (start,)), len(self.ascending))
        starting = itertools.takewhile(lambda place: self.ascending[place][0].startswith(start), places)
        return [self.ascending[place][1] for place in starting]


class Endings:
    """The tokens that end a text, wherever it stands.

    Args:
        stop_strings (`Iterable[str]`): Texts that end it as soon as they are whole.
        ids (`Iterable[int]`): Tokens that end it always.
        texts (`TokenTexts`): Of the target's tokenizer.
    """

    def __init__(self, stop_strings: Iterable[str], ids: Iterable[int], texts: TokenTexts) -> None:
        stops = [stop.encode() for stop in stop_strings]
        self._texts = texts
        self._longest = max(map(len, stops), default=0)
        # Each way to have begun a stop string, with what is still missing
        self._begun = [(stop[:size], stop[size:]) for stop in stops for size in range(1, len(stop))]
        self._always = {token for token, text in texts.by_id.items() if any(stop in text for stop in stops)} | set(ids)
        self._found: dict[tuple[bytes, ...], EndingIds] = {}

    def text(self, token: int) -> bytes:
        """Return what a token adds to the text."""
        return self._texts.by_id.get(token, b"")

    def tail(self, known: list[int]) -> bytes:
        """Return the end of a text: enough of it to tell what would complete a stop string."""
        tail = b""
        for token in reversed(known):
            if len(tail) >= self._longest - 1:
                break
            tail = self.text(token) + tail
        return tail

    def behind(self, tail: bytes) -> "EndingIds":
        """Return the tokens that end a text with this tail."""
        missing = tuple(rest for begun, rest in self._begun if tail.endswith(begun))
        if missing not in self._found:
            completing = itertools.chain.from_iterable(map(self._texts.starting_with, missing))
            self._found[missing] = EndingIds(self._always.union(completing))
        return self._found[missing]


class EndingIds:
    """The tokens that end one text."""

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self._ids = frozenset(ids)
        self._index = torch.tensor(sorted(self._ids), dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, token: int) -> bool:
        return token in self._ids

    def mask(self, logits: torch.Tensor) -> torch.Tensor:
        """Return logits of shape `(vocabulary,)` with which none of these tokens can be drawn."""
        self._index = self._index.to(logits.device)
        return logits.index_fill(0, self._index, float("-inf"))


@functools.lru_cache(maxsize=8)
def endings_of(
    stop_strings: frozenset[str], ids: frozenset[int], tokenizer: PreTrainedTokenizerBase | None
) -> Endings:
    """Find what ends a text; kept, as services pass the same stop strings each time, which need the tokenizer."""
    return Endings(stop_strings, ids, texts_of(tokenizer) if stop_strings else TokenTexts({}, []))


@functools.lru_cache(maxsize=2)
def texts_of(tokenizer: PreTrainedTokenizerBase) -> TokenTexts:
    """Find what each token of a tokenizer adds to a text.

    Behind other text, since decoding strips a leading space; as bytes, since tokens end inside of characters.
    """
    leading = tokenizer.convert_ids_to_tokens(tokenizer(_LEADING, add_special_tokens=False)["input_ids"])
    bytes_of = {character: byte for byte, character in bytes_to_unicode().items()}
    by_id = {}
    for token, token_id in tokenizer.get_vocab().items():
        text = tokenizer.convert_tokens_to_string([*leading, token])
        text = text[text.index(_LEADING) + len(_LEADING) :]
        if _REPLACEMENT not in text:
            by_id[token_id] = text.encode()
        elif found := re.fullmatch("<0x([0-9A-Fa-f]{2})>", token):  # a byte of a SentencePiece vocabulary
            by_id[token_id] = bytes.fromhex(found[1])
        else:  # a token of a byte-level one, or a text that has this very character
            known = all(character in bytes_of for character in token)
            by_id[token_id] = bytes(map(bytes_of.get, token)) if known else text.encode()
    return TokenTexts(by_id, sorted((text, token_id) for token_id, text in by_id.items()))
