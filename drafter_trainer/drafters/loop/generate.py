"""A drafter's `generate`, which transformers' assisted decoding calls once a round.

These files are `custom_generate/` in the drafter's repository: `from_pretrained(..., trust_remote_code=True)` puts
`generate` below in place of the model's own. Called by assisted decoding it drafts with lookup, n-gram table and a
lean network, whichever promises most; called by anybody else it is the model's own.
"""

import re
import types
from pathlib import Path

import torch
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase
from transformers.generation.utils import GenerateDecoderOnlyOutput
from transformers.utils import cached_file

from .calls import Call, calling_loop
from .drafting import DraftingLoop
from .repository import build_loop


def generate(model, input_ids=None, generation_config=None, logits_processor=None, max_new_tokens=None, **kwargs):
    """Draft tokens for assisted decoding.

    Args:
        input_ids (`torch.Tensor` of shape `(1, tokens)`): Prompt and output so far.
        generation_config (`GenerationConfig`): The target's, marked by assisted decoding as its assistant's.
        max_new_tokens (`int`): Tokens that may be drafted.
    Returns:
        `GenerateDecoderOnlyOutput` with `sequences` of shape `(1, tokens + drafted)` and one entry a drafted token
        in `scores`: the logits of shape `(1, vocabulary)` of the q that it was drawn from, or `NoScores` where no
        token was drawn and none are read. `past_key_values` is `None`: the loop keeps its own.
    """
    if not getattr(generation_config, "is_assistant", False):
        if input_ids is not None:
            kwargs["input_ids"] = input_ids
        if max_new_tokens is not None:
            kwargs["max_new_tokens"] = max_new_tokens
        return type(model).generate(
            model, generation_config=generation_config, logits_processor=logits_processor, **kwargs
        )
    embeds = kwargs.get("inputs_embeds")
    return draft_round(loop_of(model), input_ids, generation_config, logits_processor, max_new_tokens, embeds)


def draft_round(
    loop: DraftingLoop, input_ids, generation_config, logits_processor, max_new_tokens, inputs_embeds=None
):
    """Draft one round with a loop; see `generate`, whose answer to assisted decoding it is."""
    sampling = bool(generation_config.do_sample)
    processors = list(logits_processor or ())
    if loop.call is None or loop.call.settings is not generation_config:
        loop.call = Call.read(generation_config, processors, inputs_embeds, loop.load_tokenizer)
        criteria = calling_loop().get("stopping_criteria")
        if loop.memory is not None and criteria is not None:
            loop.memory.listen(criteria, input_ids.shape[1], sampling)
    call = loop.call
    if not call.drafts:
        return GenerateDecoderOnlyOutput(sequences=input_ids, scores=(NoScores(),), past_key_values=None)
    process = None
    if processors:

        def process(context: list[int], logits: torch.Tensor) -> torch.Tensor:
            ids, scores = torch.tensor([context], device=logits.device), logits[None]
            for processor in processors:
                scores = processor(ids, scores)
            return scores[0]

    # In the call that builds the loop, assisted decoding still asks for the stock loop's draft length at most. What
    # passes the target's length limit it cuts off itself.
    limit = loop.settings.longest_draft if max_new_tokens == loop.stock_draft_length else max_new_tokens
    if call.max_length is not None:
        limit = max(min(limit, call.max_length - input_ids.shape[1] - 1), 0)
    cache = None
    if loop.network is not None and loop.network.kv_sharing_layers:
        cache = calling_loop().get("model_kwargs", {}).get("past_key_values")
    draft = loop.draft(input_ids[0].tolist(), limit, process, sampling, call.end_ids, call.endings, cache)
    tokens = torch.tensor([[proposal.token for proposal in draft]], dtype=input_ids.dtype, device=input_ids.device)
    scores = (NoScores(),)
    drawn = any(proposal.scores is not None for proposal in draft)
    if drawn or (draft and generation_config.assistant_ensemble_weight is not None):
        scores = tuple(_scores(proposal, loop.vocabulary, input_ids.device) for proposal in draft)
    return GenerateDecoderOnlyOutput(
        sequences=torch.cat((input_ids, tokens), dim=-1), scores=scores, past_key_values=None
    )


class NoScores:
    """Stand in for the scores of a draft of which no token was drawn: stacked by torch it is `None`.

    Candidates without scores are what assisted decoding takes from prompt lookup. It samples its own tokens then and
    keeps the draft as far as they agree, which accepts a certain token with p(token) as it should, and an empty draft
    too: with scores an empty one breaks it, and every sampling round would have to verify something (transformers
    5.23).
    """

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        """Be nothing, whatever is made of it."""
        return None


def attach_loop(model, loop: DraftingLoop) -> None:
    """Make a drafter draft with a loop."""
    model._drafting_loop = loop
    # Where remote code is trusted, transformers does the same with these files.
    model.generate = types.MethodType(generate, model)
    # Read by the next call of the target's generate.
    loop.stock_draft_length = model.generation_config.num_assistant_tokens
    set_draft_length(model.generation_config, loop.settings.longest_draft)


def set_draft_length(settings: GenerationConfig, tokens: int) -> None:
    """Let assisted decoding ask for so many tokens in each round, neither fewer nor more as it goes on.

    A threshold left out would mean 0.4, and a schedule left to its default may change between releases.
    """
    settings.num_assistant_tokens = tokens
    settings.num_assistant_tokens_schedule = "constant"
    settings.assistant_confidence_threshold = 0.0


def loop_of(model) -> DraftingLoop:
    """Return the drafter's loop, built from its repository at the first call.

    Raises:
        ValueError: If the repository does not fit, or the drafter has moved to another device since.
    """
    loop = getattr(model, "_drafting_loop", None)
    if loop is None:
        loop = build_loop(model, lambda name: _find(model, name), load_tokenizer=lambda: _load_tokenizer(model))
        attach_loop(model, loop)
    if loop.device != model.device:
        raise ValueError(f"the drafter drafted on {loop.device} and is on {model.device} now: load it anew there")
    return loop


def _find(model, name: str) -> Path | None:
    # transformers copies these source files away from the repository, not the data beside them.
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
    # These files are copied into a folder with the commit's name, which the model does not remember.
    return next((part for part in Path(__file__).parts if re.fullmatch("[0-9a-f]{40}", part)), None)


def _scores(proposal, vocabulary: int, device: torch.device) -> torch.Tensor:
    if proposal.scores is not None:
        return proposal.scores[None].float()
    certain = torch.full((1, vocabulary), float("-inf"), device=device)
    certain[0, proposal.token] = 0.0
    return certain
