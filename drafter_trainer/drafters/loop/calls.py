"""What one call of the target's `generate` asks of its drafter: when to draft nothing, and what to end before."""

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase
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

from .endings import Endings, endings_of

TokenizerLoader = Callable[[], PreTrainedTokenizerBase | None]

# They go by their earlier calls, and verification calls them with drafted tokens that it then rejects.
_WITH_MEMORY = (UnbatchedClassifierFreeGuidanceLogitsProcessor, SynthIDTextWatermarkLogitsProcessor)


@dataclass(frozen=True)
class Call:
    """A call of the target's `generate`, as its drafter sees it.

    Args:
        settings (`GenerationConfig`): Assisted decoding copies its settings once a call and passes that copy in every
            round, so that it tells calls apart.
        end_ids (`frozenset[int]`): Tokens behind which nothing is drafted.
        endings (`Endings`, *optional*): Tokens that a draft ends before.
        max_length (`int`, *optional*): Tokens of prompt and output together, where the caller's own criterion ends.
    """

    settings: GenerationConfig
    drafts: bool = True
    end_ids: frozenset[int] = frozenset()
    endings: Endings | None = None
    max_length: int | None = None

    @classmethod
    def read(
        cls,
        settings: GenerationConfig,
        processors: Sequence[Any],
        inputs_embeds: torch.Tensor | None,
        load_tokenizer: TokenizerLoader,
    ) -> "Call":
        """Read what the call says, and find out what transformers does not hand to an assistant.

        Args:
            settings (`GenerationConfig`): The target's, as assisted decoding passes it.
            inputs_embeds (`torch.Tensor`, *optional*): The prompt, if it is given as embeddings.
            load_tokenizer (callable): Returns the target's tokenizer, `None` where there is none; called for stop
                strings alone.
        Raises:
            ValueError: If the target would read a part of the prompt twice, or never end.
        Warns:
            UserWarning: If nothing can be drafted without changing the output: with the reason.
        """
        caller = calling_loop()
        _check_cache(caller)
        end_ids = frozenset(_listed(settings.eos_token_id))
        stop_strings, ending_ids, lengths = set(_listed(settings.stop_strings)), set(), []
        reasons = []
        if inputs_embeds is not None:
            reasons.append("a drafter does not know the tokens of a prompt that is given as inputs_embeds")
        for processor in processors:
            if isinstance(processor, _WITH_MEMORY) or not _is_of_transformers(processor):
                reasons.append(f"{type(processor).__name__} may go by its earlier calls, and drafts add calls")
        for criterion in caller.get("stopping_criteria", ()):
            if type(criterion) is StopStringCriteria:
                stop_strings.update(criterion.stop_strings)
            elif type(criterion) is EosTokenCriteria:
                ending_ids.update(criterion.eos_token_id.tolist())
            elif type(criterion) is MaxLengthCriteria:
                _check_length(criterion.max_length, caller["generation_config"].max_length)
                lengths.append(criterion.max_length)
            elif type(criterion) is not MaxTimeCriteria:
                reasons.append(
                    f"{type(criterion).__name__} is asked after each round, not after each token (stop_strings and "
                    "eos_token_id hold within rounds too)"
                )
        ending_ids -= end_ids
        endings = None
        if not reasons and (stop_strings or ending_ids):
            tokenizer = load_tokenizer() if stop_strings else None
            if stop_strings and tokenizer is None:
                reasons.append("without the target's tokenizer nobody knows which tokens complete a stop string")
            else:
                endings = endings_of(frozenset(stop_strings), frozenset(ending_ids), tokenizer)
        if reasons:
            warnings.warn(
                "nothing is drafted in this call of generate, which is as fast as without a drafter: "
                + "; ".join(reasons),
                stacklevel=2,
            )
        return cls(settings, not reasons, end_ids, endings, min(lengths, default=None))


def calling_loop() -> dict[str, Any]:
    """Return the variables of the assisted decoding that is calling, `{}` where another loop does.

    It hands an assistant neither its stopping criteria nor its cache (transformers 5.23), and goes wrong in silence
    where they are the user's own.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != "_assisted_decoding":
        frame = frame.f_back
    return {} if frame is None else frame.f_locals


def _check_cache(caller: dict[str, Any]) -> None:
    if "outputs" not in caller or caller["outputs"] is not None:  # something was read in this call
        return
    given = caller["model_kwargs"]
    cache, positions = given.get("past_key_values"), given.get("position_ids")
    cached = 0 if cache is None else cache.get_seq_length()
    # Positions are those of the whole text, even where the tokens are those of a new turn alone.
    if cached and (positions is None or positions.shape[-1] == caller["input_ids"].shape[1]):
        raise ValueError(
            f"generate was given past_key_values that hold {cached} tokens of the prompt, which assisted decoding "
            "reads once more behind them: pass the tokens of the new turn alone, with the attention mask of the whole "
            "text, or no past_key_values"
        )


def _check_length(own: int, limit: int) -> None:
    if own > limit:
        raise ValueError(
            f"a MaxLengthCriteria lets generate go on to {own} tokens, its max_length or max_new_tokens to {limit}, "
            "where assisted decoding would stand still for ever: give one of them"
        )


def _is_of_transformers(processor: Any) -> bool:
    return type(processor).__module__.startswith("transformers.")


def _listed(value: Any) -> list[Any]:
    """Return the entries of a setting that may be one, several or none."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple, set)) else [value]
