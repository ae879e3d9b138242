"""Where prompts come from: a user's own rows, or a task's template over a corpus by name."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora import STORIES, Document, describe_corpus, read_sentences, read_texts
from drafter_trainer.corpora.conversations import Conversation, conversation_of_row
from drafter_trainer.corpora.sample import sample_stories
from drafter_trainer.corpora.sources import PROMPT_COLUMNS, TEXT_COLUMNS, Source, read_source
from drafter_trainer.distillation.prompts import Prompt, PromptMaker
from drafter_trainer.errors import RefusedConversationError
from drafter_trainer.languages import Language, Pair
from drafter_trainer.targets import Target


@dataclass(frozen=True)
class PromptSource:
    """Prompts of one origin.

    Args:
        make (callable): From a split, "train" or "validation", and its `PromptMaker` to the prompts.
        facts (`dict[str, str]`): What is recorded of it.
    """

    name: str
    make: Callable[[str, PromptMaker], Iterator[Prompt]]
    facts: dict[str, str]


def prompts_of(data: Any, target: Target, language: Language | None) -> list[PromptSource]:
    """Open prompts that a user of the library gives; see `corpora.sources.read_source`."""
    if isinstance(data, list) and data and all(isinstance(each, PromptSource) for each in data):
        return data
    source = read_source(data, PROMPT_COLUMNS)

    def make(split: str, maker: PromptMaker) -> Iterator[Prompt]:
        return maker.conversations(_read_conversations(source, split, target), source.name, language)

    return [PromptSource(source.name, make, source.facts)]


def texts_of(data: Any, language: Language | None, start_token: str | None, length: int) -> list[PromptSource]:
    """Open texts that a user of the library gives, to be scored in pieces of `length` tokens at most."""
    if isinstance(data, list) and data and all(isinstance(each, PromptSource) for each in data):
        return data
    source = read_source(data, TEXT_COLUMNS)

    def make(split: str, maker: PromptMaker) -> Iterator[Prompt]:
        rows = (Document(row["source_id"], row["text"]) for row in source.read(split) if row["text"].strip())
        return maker.texts(rows, source.name, language, start_token, length)

    return [PromptSource(source.name, make, source.facts)]


def corpus_prompts(name: str, pair: Pair) -> PromptSource:
    """Ask for translations of a corpus' sentences, or for `stories`."""

    def make(split: str, maker: PromptMaker) -> Iterator[Prompt]:
        if name == STORIES:
            return maker.stories(sample_stories(split), pair.target)
        return maker.translations(read_sentences(name, pair, split, maker.drops), name, pair)

    return PromptSource(name, make, describe_corpus(name))


def corpus_texts(name: str, language: Language, length: int) -> PromptSource:
    """Take a corpus' text in one language, in pieces of `length` tokens at most; see `corpus_prompts`."""

    def make(split: str, maker: PromptMaker) -> Iterator[Prompt]:
        documents = read_texts(name, language, split, maker.drops)
        return maker.texts(documents, name, language, None, length)

    return PromptSource(name, make, describe_corpus(name))


def _read_conversations(
    source: Source, split: str, target: Target
) -> Iterator[tuple[str, str, Callable[[], Sequence[int]]]]:
    """Yield of each row its id, its text, and what renders it."""
    chats: dict[str, ChatTokenizer] = {}
    for row in source.read(split):
        place = row["source_id"]
        if isinstance(row.get("prompt"), str):
            row = row | {"messages": [{"role": "user", "content": row["prompt"]}]}
        elif "prompt" in row:  # a conversation, as TRL calls it
            row = row | {"messages": row["prompt"]}
        spoken = conversation_of_row(place, row)
        while spoken.messages and spoken.messages[-1]["role"] == "assistant":
            spoken.messages.pop()
        variables = row.get("chat_template_kwargs") or {}
        key = json.dumps(variables, sort_keys=True)
        if key not in chats:
            variables = {**(target.chat_template_kwargs or {}), **variables}
            chats[key] = dataclasses.replace(target, chat_template_kwargs=variables).load_chat()
        yield place, spoken.text(), functools.partial(_render, chats[key], spoken)


def _render(chat: ChatTokenizer, spoken: Conversation) -> list[int]:
    if not spoken.messages:
        raise RefusedConversationError("nobody asks anything")
    return chat.encode(spoken.messages, spoken.tools, add_generation_prompt=True)
