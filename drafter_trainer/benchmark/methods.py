"""The methods that a benchmark compares: where each takes its drafts from."""

from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

PLAIN = "plain"
PROMPT_LOOKUP = "prompt lookup"
PRETRAINED = "drafter before finetuning"
DRAFTER = "drafter"


@dataclass(frozen=True)
class Method:
    """Describe one method.

    Args:
        name (`str`): As it stands in the table.
        draft_length (`int`): Tokens drafted in one round; 0 for plain decoding.
        draft_arguments (`dict`): What `generate` is told beside the sampling settings.
    """

    name: str
    draft_length: int = 0
    draft_arguments: dict[str, Any] = field(default_factory=dict)


def build_methods(
    drafter: PreTrainedModel, pretrained_drafter: PreTrainedModel | None, prompt_lookup_tokens: int
) -> list[Method]:
    """List what is always in the table, plain decoding first.

    The drafter before finetuning drafts as many tokens as the finetuned one, whatever its own configuration says.

    Args:
        drafter (`PreTrainedModel`): The published drafter; its `generation_config` tells its draft length.
        pretrained_drafter (`PreTrainedModel`, *optional*): The same before finetuning.
        prompt_lookup_tokens (`int`): Tokens that prompt lookup drafts.
    """
    draft_length = drafter.generation_config.num_assistant_tokens
    methods = [
        Method(PLAIN),
        Method(PROMPT_LOOKUP, prompt_lookup_tokens, {"prompt_lookup_num_tokens": prompt_lookup_tokens}),
    ]
    if pretrained_drafter is not None:
        pretrained_drafter.generation_config = drafter.generation_config
        methods.append(Method(PRETRAINED, draft_length, {"assistant_model": pretrained_drafter}))
    return [*methods, Method(DRAFTER, draft_length, {"assistant_model": drafter})]
