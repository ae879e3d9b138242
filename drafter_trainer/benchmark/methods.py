"""The methods that a benchmark compares: where each takes its drafts from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

from drafter_trainer.drafters.load import with_network, with_sources, with_stock_loop
from drafter_trainer.drafters.loop.generate import loop_of
from drafter_trainer.drafters.loop.policy import NETWORK, NGRAM
from drafter_trainer.errors import InputError
from drafter_trainer.results import DRAFTER, PLAIN, PRETRAINED, PROMPT_LOOKUP


@dataclass(frozen=True)
class Method:
    """Describe one method.

    Args:
        draft_length (`int`): Tokens drafted in one round, at most; 0 for plain decoding.
        draft_arguments (`dict`): What `generate` is told beside the sampling settings.
        lossy (`bool`): Whether its sampled answers have another distribution than the target's.
    """

    name: str
    draft_length: int = 0
    draft_arguments: dict[str, Any] = field(default_factory=dict)
    lossy: bool = False


def build_methods(
    drafter: PreTrainedModel,
    pretrained_drafter: PreTrainedModel | None,
    prompt_lookup_tokens: Sequence[int],
    without: Sequence[str] = (),
    stock_draft_length: int | None = None,
    alone: Sequence[str] = (),
    others: Mapping[str, PreTrainedModel] | None = None,
) -> list[Method]:
    """List the methods of a table, plain decoding first.

    Args:
        pretrained_drafter (`PreTrainedModel`, *optional*): The same before finetuning; it drafts with the same loop
            and table.
        without (`Sequence[str]`): Sources, each of which is left out in a method, if the drafter asks it at all.
        stock_draft_length (`int`, *optional*): Adds the drafter in the stock loop, with drafts of this length.
        alone (`Sequence[str]`): Sources, each of which is all that the drafter asks in a method.
        others (`Mapping[str, PreTrainedModel]`, *optional*): Other drafters, by the names that they get in the table.
    """
    methods = [Method(PLAIN)]
    for tokens in prompt_lookup_tokens:
        name = PROMPT_LOOKUP if len(prompt_lookup_tokens) == 1 else f"{PROMPT_LOOKUP}, {tokens}"
        methods.append(Method(name, tokens, {"prompt_lookup_num_tokens": tokens}))
    if stock_draft_length is not None:
        methods.append(_assisted(f"{DRAFTER}, stock loop", with_stock_loop(drafter, stock_draft_length)))
    if pretrained_drafter is not None:
        methods.append(_assisted(PRETRAINED, with_network(drafter, pretrained_drafter)))
    loop = loop_of(drafter)
    for source in alone:
        if source == NGRAM and loop.table is None:
            raise InputError("the drafter has no n-gram table to draft alone: leave ngram out")
        only = with_sources(drafter, [source])
        if source == NETWORK and loop_of(only).network is None:
            raise InputError("the drafter has no network to draft alone: leave network out")
        methods.append(_assisted(f"{DRAFTER}, {source} alone", only))
    sources = loop.settings.sources
    for source in without:
        if source in sources:
            rest = with_sources(drafter, [other for other in sources if other != source])
            methods.append(_assisted(f"{DRAFTER} without {source}", rest))
    taken = {DRAFTER, *(method.name for method in methods)}
    for name, other in (others or {}).items():
        if name in taken:
            raise InputError(f"{name} is the name of a method already: give that drafter another name")
        methods.append(_assisted(name, other))
    return [*methods, _assisted(DRAFTER, drafter)]


def _assisted(name: str, drafter: PreTrainedModel) -> Method:
    return Method(name, drafter.generation_config.num_assistant_tokens, {"assistant_model": drafter})
