"""What the target is asked: prompts from corpora, in a file that a million of them may fill."""

import functools
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import pyarrow as pa

from drafter_trainer.atomic import write_whole
from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora import STORIES, Document, Sentence
from drafter_trainer.corpora.decontamination import Decontaminator
from drafter_trainer.errors import DamagedStoreError, InputError, RefusedConversationError
from drafter_trainer.languages import Language, Pair, story_prompt, translation_prompt

ANY_LANGUAGE = "any language"  # of what is dropped, where nobody named one
PROMPTS = pa.schema(
    [
        ("prompt_ids", pa.list_(pa.int32())),
        ("source_id", pa.string()),
        ("corpus", pa.string()),
        ("response_ids", pa.list_(pa.int32())),
    ]
)
_AT_ONCE = 4096


@dataclass(frozen=True)
class Prompt:
    """A prompt as the target reads it, and its origin.

    Args:
        completion_ids (`tuple[int, ...]`, *optional*): Text to score in place of a completion.
    """

    prompt_ids: tuple[int, ...]
    source_id: str
    corpus: str
    completion_ids: tuple[int, ...] | None = None


class PromptMaker:
    """The prompts of one split, without duplicates and without evaluation questions.

    Args:
        limit (`int`, *optional*): Stop after so many prompts of a corpus, or texts of which something is new.
    Attributes:
        drops (`Counter[str]`): What was left out, under "reason (language)".
    """

    def __init__(self, chat: ChatTokenizer, decontaminator: Decontaminator, limit: int | None = None) -> None:
        self.drops: Counter[str] = Counter()
        self._chat = chat
        self._decontaminator = decontaminator
        self._limit = limit
        self._seen: set[int] = set()  # hashes of what there was, in any corpus

    def translations(self, sentences: Iterable[Sentence], corpus: str, pair: Pair) -> Iterator[Prompt]:
        """Ask for the translation of sentences."""
        asked = ((each.source_id, each.text, translation_prompt(pair, each.text)) for each in sentences)
        count = 0
        for prompt in self._clean(asked, corpus, pair.source):
            count += 1
            yield prompt
        if not count:
            raise InputError(
                f"corpus {corpus} gives no prompts for {pair} (left out: {dict(self.drops) or 'nothing'}): a file "
                "gives 2 % of its sentences to validation, so some hundred are needed"
            )

    def stories(self, subjects: Iterable[tuple[str, dict[str, str]]], language: Language) -> Iterator[Prompt]:
        """Ask for stories in a language."""
        # Apart from its subject every prompt is the same, also as one of an evaluation.
        asked = ((story_id, "\n".join(told.values()), story_prompt(language, told)) for story_id, told in subjects)
        yield from self._clean(asked, STORIES, language)

    def texts(
        self,
        documents: Iterable[Document],
        corpus: str,
        language: Language | None,
        start_token: str | None,
        max_new_tokens: int,
    ) -> Iterator[Prompt]:
        """Cut text to pieces that are scored as if the target had written them behind a start token.

        A piece knows nothing of the one before it, and no end token is added: where a line ends says nothing about
        where the target would.

        Args:
            max_new_tokens (`int`): Tokens of a piece at most.
        """
        tokenizer, count = self._chat.tokenizer, 0
        start_id = tokenizer.bos_token_id if start_token is None else tokenizer.get_vocab().get(start_token)
        if start_id is None:
            raise InputError(
                f"the tokenizer has no start token {start_token or ''}: name one of its tokens as start_token"
            )
        for document in documents:
            if count == self._limit:
                break
            if (reason := self._decontaminator.reason(document.text)) is not None:
                self._drop(reason, language)
                continue
            ids = self._chat.encode_text(document.text)
            before = len(self._seen)
            for start in range(0, len(ids), max_new_tokens):
                piece = tuple(ids[start : start + max_new_tokens])
                if hash(piece) in self._seen:
                    self._drop("repeated text", language)
                    continue
                self._seen.add(hash(piece))
                yield Prompt((start_id,), f"{document.source_id}/{start}", corpus, completion_ids=piece)
            count += len(self._seen) > before
        if not count:
            named = language.name if language else ANY_LANGUAGE
            raise InputError(
                f"corpus {corpus} gives no text in {named} (left out: {dict(self.drops) or 'nothing'}): a file gives "
                "2 % of its lines to validation, so some hundred are needed"
            )

    def _clean(self, asked: Iterable[tuple[str, str, str]], corpus: str, language: Language) -> Iterator[Prompt]:
        rendered = (
            (place, text, functools.partial(self._chat.encode_prompt, prompt)) for place, text, prompt in asked
        )
        return self.conversations(rendered, corpus, language)

    def conversations(
        self,
        asked: Iterable[tuple[str, str, Callable[[], Sequence[int]]]],
        corpus: str,
        language: Language | None = None,
    ) -> Iterator[Prompt]:
        """Ask for the completion of conversations.

        Args:
            asked (`Iterable[tuple[str, str, Callable]]`): Of each its id, the text that no evaluation may hold, and
                what renders its token ids.
        """
        count = 0
        for source_id, text, render in asked:
            if count == self._limit:
                break
            if (reason := self._decontaminator.reason(text)) is not None:
                self._drop(reason, language)
                continue
            try:
                prompt_ids = tuple(render())
            except RefusedConversationError as error:
                self._drop(error.reason, language)
                continue
            if hash(prompt_ids) in self._seen:
                self._drop("repeated prompt", language)
                continue
            self._seen.add(hash(prompt_ids))
            count += 1
            yield Prompt(prompt_ids, source_id, corpus)

    def _drop(self, reason: str, language: Language | None) -> None:
        self.drops[f"{reason} ({language.name if language else ANY_LANGUAGE})"] += 1


def prompt_table(prompts: Iterable[Prompt]) -> pa.Table:
    """Make a table of prompts, with the columns of their file."""
    return pa.Table.from_pylist([dict(zip(PROMPTS.names, astuple(prompt))) for prompt in prompts], PROMPTS)


def write_prompts(prompts: Iterable[Prompt], path: Path, drops: Counter[str]) -> None:
    """Write prompts to a file that appears whole or not at all; a million stay out of memory.

    Args:
        drops (`Counter[str]`): What was left out by the time all prompts are read; kept in the file.
    """

    def write(partial: Path) -> None:
        with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_file(file, PROMPTS) as writer:
            remaining = iter(prompts)
            while chunk := [*itertools.islice(remaining, _AT_ONCE)]:
                writer.write_table(prompt_table(chunk))
            last = pa.RecordBatch.from_pylist([], PROMPTS)
            writer.write_batch(last, custom_metadata={"dropped": json.dumps(drops)})

    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, write)


def load_prompts(path: Path) -> tuple[pa.Table, Counter[str]]:
    """Map what `write_prompts` wrote into memory.

    Returns:
        `tuple` of the prompts, with a column for each field of `Prompt`, and of what was left out.
    """
    try:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        said = file.get_batch_with_custom_metadata(file.num_record_batches - 1).custom_metadata
        return file.read_all(), Counter(json.loads(said[b"dropped"]))
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedStoreError(f"{path} is damaged ({error}): delete it and distill again") from error
