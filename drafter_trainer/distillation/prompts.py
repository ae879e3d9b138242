"""Prompts of a distillation: reading from user data or a corpus, filtering, and storage in a file."""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from drafter_trainer.atomic import write_whole
from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora.catalog import STORIES
from drafter_trainer.corpora.conversations import Conversation, conversation_of_row
from drafter_trainer.corpora.decontamination import Decontaminator
from drafter_trainer.corpora.reading import Document, Sentence, describe_corpus, read_sentences, read_texts
from drafter_trainer.corpora.sample import sample_stories
from drafter_trainer.corpora.user_data import PROMPT_COLUMNS, TEXT_COLUMNS, open_user_data
from drafter_trainer.errors import DamagedStoreError, InputError, RefusedConversationError
from drafter_trainer.languages import Language, Pair, story_prompt, translation_prompt
from drafter_trainer.targets import Target

ANY_LANGUAGE = "any language"  # name of an unknown language
# Settings that change rows but not their keys: all rows of a store must have the same values of them.
FIXED = frozenset({"drop_looping", "dtype"})
_NOT_OF_PROMPTS = FIXED | {"engine", "samples", "seed", "server_kind", "stop", "teacher_forcing", "temperatures"}
_COLUMNS = pa.schema(
    [
        ("prompt_ids", pa.list_(pa.int32())),
        ("source_id", pa.string()),
        ("corpus", pa.string()),
        ("response_ids", pa.list_(pa.int32())),
    ]
)
_CHUNK = 4096  # prompts written at once


@dataclass(frozen=True)
class Prompt:
    """The token ids of a prompt, and its origin.

    Args:
        completion_ids (`tuple[int, ...]`, *optional*): Existing text, which is scored instead of a completion.
    """

    prompt_ids: tuple[int, ...]
    source_id: str
    corpus: str
    completion_ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class PromptSource:
    """A source of prompts.

    Args:
        make (callable): Function from a split, "train" or "validation", and its `PromptMaker` to prompts.
        facts (`dict[str, str]`): Description of the source in the step's record.
    """

    name: str
    make: Callable[[str, "PromptMaker"], Iterator[Prompt]]
    facts: dict[str, str]


class PromptMaker:
    """A maker of the prompts of one split, without duplicates and without evaluation questions.

    Args:
        limit (`int`, *optional*): Maximum number of prompts, or of texts with a new piece, of each corpus.
    Attributes:
        drops (`Counter[str]`): Number of dropped prompts by "reason (language)".
    """

    def __init__(self, chat: ChatTokenizer, decontaminator: Decontaminator, limit: int | None = None) -> None:
        self.drops: Counter[str] = Counter()
        self._chat = chat
        self._decontaminator = decontaminator
        self._limit = limit
        self._seen: set[int] = set()  # hashes of the prompts and texts of all corpora

    def conversations(
        self,
        entries: Iterable[tuple[str, str, Callable[[], Sequence[int]]]],
        corpus: str,
        language: Language | None = None,
    ) -> Iterator[Prompt]:
        """Make prompts of conversations.

        Args:
            entries (`Iterable[tuple[str, str, Callable]]`): The id of each conversation, the text to decontaminate,
                and a function that returns its token ids.
        """

        def make(source_id: str, encode: Callable[[], Sequence[int]]) -> list[Prompt]:
            return [Prompt(tuple(encode()), source_id, corpus)]

        made = ((text, functools.partial(make, source_id, encode)) for source_id, text, encode in entries)
        return self._filter(made, "repeated prompt", language)

    def translations(self, sentences: Iterable[Sentence], corpus: str, pair: Pair) -> Iterator[Prompt]:
        """Make prompts that ask for the translation of sentences."""
        prompts = self.conversations(
            ((each.source_id, each.text, self._encoder(translation_prompt(pair, each.text))) for each in sentences),
            corpus,
            pair.source,
        )
        return self._at_least_one(prompts, f"corpus {corpus} has no prompts for {pair}")

    def stories(self, subjects: Iterable[tuple[str, dict[str, str]]], language: Language) -> Iterator[Prompt]:
        """Make prompts that ask for stories in a language."""
        # Only the subject is decontaminated: the rest of the prompt is the same in an evaluation.
        entries = (
            (story_id, "\n".join(subject.values()), self._encoder(story_prompt(language, subject)))
            for story_id, subject in subjects
        )
        return self.conversations(entries, STORIES, language)

    def texts(
        self,
        documents: Iterable[Document],
        corpus: str,
        language: Language | None,
        max_new_tokens: int,
    ) -> Iterator[Prompt]:
        """Split texts into pieces that are scored as if the target had generated them after a start token.

        A piece has no context. No end token is added, since the target might continue after the end of the text.

        Args:
            max_new_tokens (`int`): Maximum number of tokens of a piece.
        """
        tokenizer = self._chat.tokenizer
        start_id = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        if start_id is None:
            raise InputError("the tokenizer has neither bos_token nor eos_token: set one in its tokenizer_config.json")

        def split(document: Document) -> list[Prompt]:
            ids = tuple(self._chat.encode_text(document.text))
            return [
                Prompt((start_id,), f"{document.source_id}/{start}", corpus, ids[start : start + max_new_tokens])
                for start in range(0, len(ids), max_new_tokens)
            ]

        made = ((document.text, functools.partial(split, document)) for document in documents)
        pieces = self._filter(made, "repeated text", language)
        return self._at_least_one(pieces, f"corpus {corpus} has no text in {_name(language)}")

    def _filter(
        self, entries: Iterable[tuple[str, Callable[[], list[Prompt]]]], repeated: str, language: Language | None
    ) -> Iterator[Prompt]:
        """Yield the prompts of entries; an entry is a text to decontaminate and a function that makes its prompts."""
        name = _name(language)
        count = 0
        for text, make in entries:
            if count == self._limit:
                break
            try:
                reason = self._decontaminator.reason(text)
                prompts = [] if reason else make()
            except RefusedConversationError as error:
                reason, prompts = error.reason, []
            if reason:
                self.drops[f"{reason} ({name})"] += 1
            before = len(self._seen)
            for prompt in prompts:
                content = hash(prompt.completion_ids or prompt.prompt_ids)
                if content in self._seen:
                    self.drops[f"{repeated} ({name})"] += 1
                    continue
                self._seen.add(content)
                yield prompt
            count += len(self._seen) > before

    def _at_least_one(self, prompts: Iterator[Prompt], message: str) -> Iterator[Prompt]:
        first = next(prompts, None)
        if first is None:
            raise InputError(
                f"{message} (dropped: {dict(self.drops) or 'none'}): a file needs a few hundred lines, since 2 % of "
                "them become the validation split"
            )
        yield first
        yield from prompts

    def _encoder(self, prompt: str) -> Callable[[], Sequence[int]]:
        return functools.partial(self._chat.encode_prompt, prompt)


def _name(language: Language | None) -> str:
    return language.name if language else ANY_LANGUAGE


def open_prompts(data: Any, target: Target, language: Language | None) -> list[PromptSource]:
    """Open a user's prompts; see `corpora.user_data.open_user_data`. A list of `PromptSource` is returned as it is."""
    return _open(
        data,
        PROMPT_COLUMNS,
        lambda maker, rows, name: maker.conversations(_read_conversations(rows, target), name, language),
    )


def open_texts(data: Any, language: Language | None, length: int) -> list[PromptSource]:
    """Open a user's texts, to be scored in pieces of up to `length` tokens; see `open_prompts`."""

    def make(maker: PromptMaker, rows: Iterator[dict[str, Any]], name: str) -> Iterator[Prompt]:
        documents = (Document(row["source_id"], row["text"]) for row in rows if row["text"].strip())
        return maker.texts(documents, name, language, length)

    return _open(data, TEXT_COLUMNS, make)


def _open(
    data: Any, columns: Sequence[str], make: Callable[[PromptMaker, Iterator[dict[str, Any]], str], Iterator[Prompt]]
) -> list[PromptSource]:
    if isinstance(data, list) and data and all(isinstance(each, PromptSource) for each in data):
        return data
    opened = open_user_data(data, columns)
    return [PromptSource(opened.name, lambda split, maker: make(maker, opened.read(split), opened.name), opened.facts)]


def corpus_prompts(name: str, pair: Pair) -> PromptSource:
    """Return prompts that ask for translations of a corpus' sentences, or for `stories`."""

    def make(split: str, maker: PromptMaker) -> Iterator[Prompt]:
        if name == STORIES:
            return maker.stories(sample_stories(split), pair.target)
        return maker.translations(read_sentences(name, pair, split, maker.drops), name, pair)

    return PromptSource(name, make, describe_corpus(name))


def corpus_texts(name: str, language: Language, length: int) -> PromptSource:
    """Return a corpus' text in one language, in pieces of up to `length` tokens."""

    def make(split: str, maker: PromptMaker) -> Iterator[Prompt]:
        return maker.texts(read_texts(name, language, split, maker.drops), name, language, length)

    return PromptSource(name, make, describe_corpus(name))


def _read_conversations(
    rows: Iterator[dict[str, Any]], target: Target
) -> Iterator[tuple[str, str, Callable[[], Sequence[int]]]]:
    """Yield the entries of `PromptMaker.conversations`."""
    chats: dict[str, ChatTokenizer] = {}
    for row in rows:
        if isinstance(row.get("prompt"), str):
            row["messages"] = [{"role": "user", "content": row["prompt"]}]
        elif "prompt" in row:  # TRL's name for a conversation
            row["messages"] = row["prompt"]
        conversation = conversation_of_row(row["source_id"], row)
        while conversation.messages and conversation.messages[-1]["role"] == "assistant":
            conversation.messages.pop()
        variables = row.get("chat_template_kwargs") or {}
        key = json.dumps(variables, sort_keys=True)
        if key not in chats:
            variables = {**(target.chat_template_kwargs or {}), **variables}
            chats[key] = dataclasses.replace(target, chat_template_kwargs=variables).load_chat()
        yield row["source_id"], conversation.text(), functools.partial(_encode, chats[key], conversation)


def _encode(chat: ChatTokenizer, conversation: Conversation) -> list[int]:
    if not conversation.messages:
        raise RefusedConversationError("no user message")
    return chat.encode(conversation.messages, conversation.tools, add_generation_prompt=True)


def prompts_file(settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Return the name of the file of prompts, with a hash of the settings that determine the prompts."""
    own = {key: value for key, value in settings.items() if key not in _NOT_OF_PROMPTS}
    if settings.get("engine") == "text":
        own["engine"] = "text"  # pieces of text, of up to `max_new_tokens` tokens
    else:
        own.pop("max_new_tokens", None)
    content = json.dumps([own, dict(inputs)], sort_keys=True, default=str)
    return f"prompts-{hashlib.sha256(content.encode()).hexdigest()[:16]}.arrow"


def prompt_table(prompts: Iterable[Prompt]) -> pa.Table:
    """Make a table of prompts, with the columns of their file."""
    return pa.Table.from_pylist([dict(zip(_COLUMNS.names, astuple(prompt))) for prompt in prompts], _COLUMNS)


def write_prompts(prompts: Iterable[Prompt], path: Path, drops: Counter[str]) -> None:
    """Write prompts to a file atomically, without keeping all of them in memory.

    Args:
        drops (`Counter[str]`): Counts of dropped prompts. It is complete after the last prompt, and is stored too.
    """

    def write(partial: Path) -> None:
        with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_file(file, _COLUMNS) as writer:
            remaining = iter(prompts)
            while chunk := [*itertools.islice(remaining, _CHUNK)]:
                writer.write_table(prompt_table(chunk))
            last = pa.RecordBatch.from_pylist([], _COLUMNS)
            writer.write_batch(last, custom_metadata={"dropped": json.dumps(drops)})

    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, write)


def load_prompts(path: Path) -> tuple[pa.Table, Counter[str]]:
    """Map a file of prompts into memory; return the table, and the counts of dropped prompts."""
    try:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        metadata = file.get_batch_with_custom_metadata(file.num_record_batches - 1).custom_metadata
        return file.read_all(), Counter(json.loads(metadata[b"dropped"]))
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedStoreError(f"{path} is damaged ({error}): delete it and distill again") from error
