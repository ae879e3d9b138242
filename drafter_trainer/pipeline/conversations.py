"""Prompts and conversations of a user's own, as the target's chat template renders them."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence

from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora.conversations import Conversation, conversation_of_row
from drafter_trainer.corpora.sources import Source
from drafter_trainer.errors import RefusedConversationError
from drafter_trainer.targets import Target


def read_conversations(
    source: Source, split: str, target: Target
) -> Iterator[tuple[str, str, Callable[[], Sequence[int]]]]:
    """Read prompts and conversations as `PromptMaker.conversations` takes them.

    Args:
        source (`Source`): Rows of `prompt`, or of `messages`, with `system`, `tools` and `chat_template_kwargs`.
        split (`str`): "train" or "validation".
        target (`Target`): Its template renders them.
    Yields:
        Of each row its id, its text, and what renders it.
    """
    chats: dict[str, ChatTokenizer] = {}
    for row in source.read(split):
        place = row["source_id"]
        if "prompt" in row and not isinstance(row["prompt"], list):
            row = row | {"messages": [{"role": "user", "content": row["prompt"]}]}
        elif "prompt" in row:  # a conversation, as TRL calls it
            row = row | {"messages": row["prompt"]}
        spoken = conversation_of_row(place, row)
        while spoken.messages and spoken.messages[-1]["role"] == "assistant":
            spoken.messages.pop()
        variables = row.get("chat_template_kwargs") or {}
        key = json.dumps(variables, sort_keys=True)
        if key not in chats:
            variables = (target.chat_template_kwargs or {}) | variables
            chats[key] = dataclasses.replace(target, chat_template_kwargs=variables).load_chat()
        yield place, spoken.text(), functools.partial(_encode, chats[key], spoken)


def _encode(chat: ChatTokenizer, spoken: Conversation) -> list[int]:
    if not spoken.messages:
        raise RefusedConversationError("nobody asks anything")
    return chat.encode(spoken.messages, spoken.tools, add_generation_prompt=True)
