"""A call of the target's `generate`, as its drafter sees it: whether to draft, and the tokens that end a draft.

transformers 5.23 looks for stop strings at the end of an accepted block, not inside of it. The token that completes
one must therefore be the target's own, which is always the last token of its block.
"""

import bisect
import functools
import inspect
import itertools
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import transformers
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.generation.logits_process import (
    SynthIDTextWatermarkLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)
from transformers.generation.stopping_criteria import (
    EosTokenCriteria,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StopStringCriteria,
)

_VERSION = tuple(map(int, transformers.__version__.split(".")[:2]))
CACHE = "cache" if _VERSION >= (5, 24) else "past_key_values"  # name of a model's argument for keys and values
TokenizerLoader = Callable[[], PreTrainedTokenizerBase | None]

# These processors depend on their earlier calls. Verification also calls them with drafts that are then rejected.
_STATEFUL_PROCESSORS = (UnbatchedClassifierFreeGuidanceLogitsProcessor, SynthIDTextWatermarkLogitsProcessor)
_REPLACEMENT = "\ufffd"  # the decoded form of an incomplete character
_LEADING = "abcdef"


@dataclass(frozen=True)
class Call:
    """A call of the target's `generate`.

    Assisted decoding copies the settings once a call and passes the copy in every round, so `settings` identifies it.
    """

    settings: GenerationConfig
    drafts: bool = True
    end_ids: frozenset[int] = frozenset()  # tokens after which nothing is drafted
    endings: "Endings | None" = None  # tokens before which a draft ends
    max_length: int | None = None  # of prompt and output together, by the caller's own criterion

    @classmethod
    def read(
        cls,
        settings: GenerationConfig,
        processors: Sequence[Any],
        inputs_embeds: torch.Tensor | None,
        load_tokenizer: TokenizerLoader,
    ) -> "Call":
        """Read the settings of the call, including those that transformers does not pass to an assistant.

        Raises:
            ValueError: If the target would read a part of the prompt twice, or never end.
        Warns:
            UserWarning: If drafts could change the output, with the reason.
        """
        caller = calling_loop()
        _check_cache(caller)
        end_ids = frozenset(_listed(settings.eos_token_id))
        stop_strings, ending_ids, lengths, reasons = set(_listed(settings.stop_strings)), set(), [], []
        if inputs_embeds is not None:
            reasons.append("a drafter does not know the tokens of a prompt that is given as inputs_embeds")
        for processor in processors:
            module = type(processor).__module__
            if isinstance(processor, _STATEFUL_PROCESSORS) or not module.startswith("transformers."):
                reasons.append(f"{type(processor).__name__} may depend on its earlier calls, and drafts add calls")
        for criterion in caller.get("stopping_criteria", ()):
            if type(criterion) is StopStringCriteria:
                stop_strings.update(criterion.stop_strings)
            elif type(criterion) is EosTokenCriteria:
                ending_ids.update(criterion.eos_token_id.tolist())
            elif type(criterion) is MaxLengthCriteria:
                lengths.append(criterion.max_length)
                if lengths[-1] > (limit := caller["generation_config"].max_length):
                    raise ValueError(
                        f"a MaxLengthCriteria lets generate continue to {lengths[-1]} tokens, but max_length or "
                        f"max_new_tokens to {limit}: assisted decoding would never end, so give only one of them"
                    )
            elif type(criterion) is not MaxTimeCriteria:
                reasons.append(
                    f"{type(criterion).__name__} is called after each round, not after each token (stop_strings and "
                    "eos_token_id are checked within rounds too)"
                )
        ending_ids -= end_ids
        endings = None
        if not reasons and (stop_strings or ending_ids):
            tokenizer = load_tokenizer() if stop_strings else None
            if stop_strings and tokenizer is None:
                reasons.append("without the target's tokenizer the tokens that complete a stop string are unknown")
            else:
                endings = endings_of(frozenset(stop_strings), frozenset(ending_ids), tokenizer)
        if reasons:
            message = "nothing is drafted in this call of generate, which is as fast as without a drafter: "
            warnings.warn(message + "; ".join(reasons), stacklevel=2)
        return cls(settings, not reasons, end_ids, endings, min(lengths, default=None))


def calling_loop() -> dict[str, Any]:
    """Return the variables of the assisted decoding that is calling, or `{}` if another loop is calling.

    transformers 5.23 passes neither stopping criteria nor cache to an assistant. With criteria or a cache of the
    user's own, the output would be wrong without an error.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != "_assisted_decoding":
        frame = frame.f_back
    return {} if frame is None else frame.f_locals


def _check_cache(caller: dict[str, Any]) -> None:
    """Raise an error if the target's cache already holds a part of the prompt that would be read again."""
    if "outputs" not in caller or caller["outputs"] is not None:  # not the first pass of this call
        return
    inputs = caller["model_kwargs"]
    cache, positions = inputs.get(CACHE), inputs.get("position_ids")
    cached = 0 if cache is None else cache.get_seq_length()
    # Positions are those of the whole text, even if only the tokens of a new turn are passed.
    if cached and (positions is None or positions.shape[-1] == caller["input_ids"].shape[1]):
        raise ValueError(
            f"generate got {CACHE} with {cached} tokens of the prompt, which assisted decoding would read again: pass "
            f"only the tokens of the new turn, with the attention mask of the whole text, or no {CACHE}"
        )


def _listed(value: Any) -> list[Any]:
    """Return the entries of a setting that may be `None`, a value or a collection of values."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple, set)) else [value]


class TokenTexts(NamedTuple):
    """The bytes that each token of a vocabulary adds to a text: by id, and in ascending order."""

    by_id: dict[int, bytes]
    ascending: list[tuple[bytes, int]]

    def starting_with(self, start: bytes) -> list[int]:
        """Return the tokens whose text starts with `start`."""
        rest = itertools.islice(self.ascending, bisect.bisect_left(self.ascending, (start,)), None)
        return [token for _, token in itertools.takewhile(lambda entry: entry[0].startswith(start), rest)]


class Endings:
    """The tokens that end a text: some ids, and the tokens that complete a stop string."""

    def __init__(self, stop_strings: Iterable[str], ids: Iterable[int], texts: TokenTexts) -> None:
        stops = [stop.encode() for stop in stop_strings]
        self._texts = texts
        self._longest = max(map(len, stops), default=0)
        # Every proper prefix of a stop string, with the rest of the string
        self._begun = [(stop[:size], stop[size:]) for stop in stops for size in range(1, len(stop))]
        self._always = {token for token, text in texts.by_id.items() if any(stop in text for stop in stops)} | set(ids)
        self._by_missing: dict[tuple[bytes, ...], EndingIds] = {}

    def text(self, token: int) -> bytes:
        """Return the bytes that a token adds to the text."""
        return self._texts.by_id.get(token, b"")

    def tail(self, token_ids: list[int]) -> bytes:
        """Return the end of a text, long enough to contain every stop string that a token could complete."""
        tail = b""
        for token in reversed(token_ids):
            if len(tail) >= self._longest - 1:
                break
            tail = self.text(token) + tail
        return tail

    def after(self, tail: bytes) -> "EndingIds":
        """Return the tokens that end a text if they follow this tail."""
        missing = tuple(rest for begun, rest in self._begun if tail.endswith(begun))
        if missing not in self._by_missing:
            completing = itertools.chain.from_iterable(map(self._texts.starting_with, missing))
            self._by_missing[missing] = EndingIds(self._always.union(completing))
        return self._by_missing[missing]


class EndingIds:
    """The tokens that would end one text."""

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


NO_ENDING = EndingIds()


@functools.lru_cache(maxsize=8)  # services pass the same stop strings in each call
def endings_of(
    stop_strings: frozenset[str], ids: frozenset[int], tokenizer: PreTrainedTokenizerBase | None
) -> Endings:
    """Return the tokens that end a text; the tokenizer is needed only for stop strings."""
    return Endings(stop_strings, ids, texts_of(tokenizer) if stop_strings else TokenTexts({}, []))


@functools.lru_cache(maxsize=2)
def texts_of(tokenizer: PreTrainedTokenizerBase) -> TokenTexts:
    """Return the bytes that each token of a tokenizer adds to a text.

    Each token is decoded after other text, since decoding strips a leading space. Texts are bytes, since a token may
    end inside a character.
    """
    leading = tokenizer.convert_ids_to_tokens(tokenizer(_LEADING, add_special_tokens=False)["input_ids"])
    bytes_of = {character: byte for byte, character in bytes_to_unicode().items()}
    by_id = {}
    for token, token_id in tokenizer.get_vocab().items():
        text = tokenizer.convert_tokens_to_string([*leading, token])
        text = text[text.index(_LEADING) + len(_LEADING) :]
        if _REPLACEMENT not in text:
            by_id[token_id] = text.encode()
        elif byte := re.fullmatch("<0x([0-9A-Fa-f]{2})>", token):  # a byte of a SentencePiece vocabulary
            by_id[token_id] = bytes.fromhex(byte[1])
        else:  # a token of a byte-level vocabulary, or a text that contains the replacement character itself
            is_byte_level = all(character in bytes_of for character in token)
            by_id[token_id] = bytes(map(bytes_of.get, token)) if is_byte_level else text.encode()
    return TokenTexts(by_id, sorted((text, token_id) for token_id, text in by_id.items()))
