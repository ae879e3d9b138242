"""The methods that a benchmark compares, each with its source of drafts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

from drafter_trainer.drafters.load import with_network, with_sources, with_stock_loop
from drafter_trainer.drafters.loop.generate import loop_of
from drafter_trainer.drafters.loop.sources import NETWORK, NGRAM
from drafter_trainer.errors import InputError
from drafter_trainer.results import DRAFTER, PLAIN, PRETRAINED, PROMPT_LOOKUP


@dataclass(frozen=True)
class Method:
    """A decoding method.

    Args:
        draft_length (`int`): Maximum number of tokens drafted in one round; 0 for plain decoding.
        draft_arguments (`dict`): Arguments of `generate` in addition to the sampling settings.
        lossy (`bool`): Whether its sampled completions have another distribution than the target's.
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
    """List the methods of a table: plain decoding first, the drafter last.

    Args:
        pretrained_drafter (`PreTrainedModel`, *optional*): The drafter before finetuning; it drafts with the same loop
            and table.
        without (`Sequence[str]`): Draft sources; each source that the drafter has adds the drafter without it.
        stock_draft_length (`int`, *optional*): Adds the drafter in transformers' own loop with this draft length.
        alone (`Sequence[str]`): Draft sources; each adds the drafter with this source only.
        others (`Mapping[str, PreTrainedModel]`, *optional*): Other drafters, by their names in the table.
    """
    added: list[tuple[str, PreTrainedModel]] = []
    if stock_draft_length is not None:
        added.append((f"{DRAFTER}, stock loop", with_stock_loop(drafter, stock_draft_length)))
    if pretrained_drafter is not None:
        added.append((PRETRAINED, with_network(drafter, pretrained_drafter)))
    loop = loop_of(drafter)
    for source in alone:
        if source == NGRAM and loop.table is None:
            raise InputError("the drafter has no n-gram table to draft alone: leave ngram out")
        only = with_sources(drafter, [source])
        if source == NETWORK and loop_of(only).network is None:
            raise InputError("the drafter has no network to draft alone: leave network out")
        added.append((f"{DRAFTER}, {source} alone", only))
    sources = loop.settings.sources
    for source in without:
        if source in sources:
            rest = with_sources(drafter, [other for other in sources if other != source])
            added.append((f"{DRAFTER} without {source}", rest))
    lookups = [
        Method(
            PROMPT_LOOKUP if len(prompt_lookup_tokens) == 1 else f"{PROMPT_LOOKUP}, {tokens}",
            tokens,
            {"prompt_lookup_num_tokens": tokens},
        )
        for tokens in prompt_lookup_tokens
    ]
    drafters = [
        Method(name, model.generation_config.num_assistant_tokens, {"assistant_model": model})
        for name, model in [*added, *(others or {}).items(), (DRAFTER, drafter)]
    ]
    return [Method(PLAIN), *lookups, *drafters]
