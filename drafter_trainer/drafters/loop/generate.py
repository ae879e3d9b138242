"""A drafter's `generate`, which transformers' assisted decoding calls once a round.

These files are `custom_generate/` in the drafter's repository: `from_pretrained(..., trust_remote_code=True)` replaces
the model's own `generate` by the one below. For assisted decoding it drafts with the drafting loop; otherwise it calls
the model's own.
"""

import re
import types
from pathlib import Path

import torch
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase
from transformers.generation.utils import GenerateDecoderOnlyOutput
from transformers.utils import cached_file

from .build import build_loop
from .calls import CACHE, Call, calling_loop
from .drafting import DraftingLoop


def generate(model, input_ids=None, generation_config=None, logits_processor=None, max_new_tokens=None, **kwargs):
    """Draft tokens for assisted decoding.

    Assisted decoding marks the target's `generation_config` as its assistant's.

    Returns:
        `GenerateDecoderOnlyOutput` with `sequences` of shape `(1, tokens + drafted)` and one entry for each drafted
        token in `scores`: the logits of shape `(1, vocabulary)` of the q that it was sampled from, or `NoScores` if no
        token was sampled. It has no cache, because the loop keeps its own.
    """
    if not getattr(generation_config, "is_assistant", False):
        named = {"input_ids": input_ids, "max_new_tokens": max_new_tokens}
        kwargs |= {name: value for name, value in named.items() if value is not None}
        kwargs |= {"generation_config": generation_config, "logits_processor": logits_processor}
        return type(model).generate(model, **kwargs)
    embeds = kwargs.get("inputs_embeds")
    return draft_round(loop_of(model), input_ids, generation_config, logits_processor, max_new_tokens, embeds)


def draft_round(
    loop: DraftingLoop, input_ids, generation_config, logits_processor, max_new_tokens, inputs_embeds=None
):
    """Draft one round with a loop, and return the output of `generate`."""
    sampling = bool(generation_config.do_sample)
    processors = list(logits_processor or ())
    if loop.call is None or loop.call.settings is not generation_config:
        loop.call = Call.read(generation_config, processors, inputs_embeds, loop.load_tokenizer)
        criteria = calling_loop().get("stopping_criteria")
        if loop.memory is not None and criteria is not None:
            loop.memory.listen(criteria, input_ids.shape[1], sampling)
    call = loop.call
    if not call.drafts:
        return GenerateDecoderOnlyOutput(sequences=input_ids, scores=(NoScores(),))
    process = None
    if processors:

        def process(context: list[int], logits: torch.Tensor) -> torch.Tensor:
            ids, scores = torch.tensor([context], device=logits.device), logits[None]
            for processor in processors:
                scores = processor(ids, scores)
            return scores[0]

    # The call that builds the loop still gets the stock loop's draft length. Assisted decoding itself cuts off tokens
    # beyond the target's length limit.
    limit = loop.settings.longest_draft if max_new_tokens == loop.stock_draft_length else max_new_tokens
    if call.max_length is not None:
        limit = max(min(limit, call.max_length - input_ids.shape[1] - 1), 0)
    cache = None
    if loop.network is not None and loop.network.kv_sharing_layers:
        cache = calling_loop().get("model_kwargs", {}).get(CACHE)
    draft = loop.draft(input_ids[0].tolist(), limit, process, sampling, call.end_ids, call.endings, cache)
    tokens = torch.tensor([[proposal.token for proposal in draft]], dtype=input_ids.dtype, device=input_ids.device)
    scores = (NoScores(),)
    sampled = any(proposal.scores is not None for proposal in draft)
    if sampled or (draft and generation_config.assistant_ensemble_weight is not None):
        scores = tuple(_scores(proposal, loop.vocabulary, input_ids.device) for proposal in draft)
    return GenerateDecoderOnlyOutput(sequences=torch.cat((input_ids, tokens), dim=-1), scores=scores)


class NoScores:
    """The scores of a draft without sampled tokens: stacked by torch they are `None`.

    Assisted decoding (transformers 5.23) gets candidates without scores from prompt lookup. It then samples its own
    tokens and keeps the draft as far as both agree, which accepts a certain token with p(token). It accepts an empty
    draft too; with scores, an empty draft fails.
    """

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        """Return `None` for every function of torch."""
        return None


def attach_loop(model, loop: DraftingLoop) -> None:
    """Make a drafter draft with a loop."""
    model._drafting_loop = loop
    # With trusted remote code, transformers does the same with these files.
    model.generate = types.MethodType(generate, model)
    # Read by the next call of the target's generate.
    loop.stock_draft_length = model.generation_config.num_assistant_tokens
    set_draft_length(model.generation_config, loop.settings.longest_draft)


def set_draft_length(settings: GenerationConfig, tokens: int) -> None:
    """Set a constant draft length of assisted decoding.

    The default threshold is 0.4, and the default schedule may change between releases.
    """
    settings.num_assistant_tokens = tokens
    settings.num_assistant_tokens_schedule = "constant"
    settings.assistant_confidence_threshold = 0.0


def loop_of(model) -> DraftingLoop:
    """Return the drafter's loop, built from its repository in the first call.

    Raises:
        ValueError: If the repository does not fit, or the drafter was moved to another device.
    """
    loop = getattr(model, "_drafting_loop", None)
    if loop is None:
        loop = build_loop(model, lambda name: _find(model, name), load_tokenizer=lambda: _load_tokenizer(model))
        attach_loop(model, loop)
    if loop.device != model.device:
        raise ValueError(f"the drafter drafted on {loop.device} and is on {model.device} now: load it again there")
    return loop


def _find(model, name: str) -> Path | None:
    # transformers copies these source files out of the repository, not the data next to them.
    if Path(model.name_or_path).is_dir():
        path = Path(model.name_or_path) / name
        return path if path.is_file() else None
    path = cached_file(model.name_or_path, name, revision=_commit(), _raise_exceptions_for_missing_entries=False)
    return None if path is None else Path(path)


def _load_tokenizer(model) -> PreTrainedTokenizerBase | None:
    try:
        return AutoTokenizer.from_pretrained(model.name_or_path, revision=_commit())
    except (OSError, ValueError):
        return None


def _commit() -> str | None:
    # transformers copies these files into a folder named after the commit, which the model does not know.
    return next((part for part in Path(__file__).parts if re.fullmatch("[0-9a-f]{40}", part)), None)


def _scores(proposal, vocabulary: int, device: torch.device) -> torch.Tensor:
    if proposal.scores is not None:
        return proposal.scores[None].float()
    certain = torch.full((1, vocabulary), float("-inf"), device=device)
    certain[0, proposal.token] = 0.0
    return certain
