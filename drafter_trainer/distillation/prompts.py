"""What the target is asked: prompts from corpora, in a file that a million of them may fill."""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from drafter_trainer.atomic import write_whole
from drafter_trainer.corpora import Sentence
from drafter_trainer.corpora.decontamination import Decontaminator
from drafter_trainer.errors import DamagedStoreError, InputError
from drafter_trainer.languages import Pair, translation_prompt
from drafter_trainer.targets import encode_prompt

START_TOKEN = "start_token"  # the corpus that the target writes by itself
_PROMPTS = pa.schema(
    [
        ("prompt_ids", pa.list_(pa.int32())),
        ("source_id", pa.string()),
        ("corpus", pa.string()),
        ("repetition", pa.int32()),
    ]
)
_AT_ONCE = 4096


@dataclass(frozen=True)
class Prompt:
    """Hold a prompt as the target reads it, and where it came from.

    Args:
        prompt_ids (`tuple[int, ...]`): The prompt, chat template included.
        source_id, corpus (`str`): Where it came from.
        repetition (`int`): How many prompts before it are the same.
    """

    prompt_ids: tuple[int, ...]
    source_id: str
    corpus: str
    repetition: int = 0


def translation_prompts(
    sentences: Iterable[Sentence],
    corpus: str,
    pair: Pair,
    tokenizer: PreTrainedTokenizerBase,
    decontaminator: Decontaminator,
    limit: int | None,
    drops: Counter[str],
    seen: set[int],
) -> Iterator[Prompt]:
    """Ask for the translation of sentences that no evaluation question holds, each once.

    Args:
        limit (`int`, *optional*): Stop after so many prompts.
        drops (`Counter[str]`): Gains what was left out, under "reason (language)".
        seen (`set[int]`): Hashes of the prompts that were there before, of any corpus; gains those of this one.
    Raises:
        InputError: If no sentence is left.
    """
    count = 0
    for sentence in sentences:
        if limit is not None and count == limit:
            break
        reason = decontaminator.reason(sentence.text)
        prompt_ids = tuple(encode_prompt(tokenizer, translation_prompt(pair, sentence.text)))
        if reason is None and hash(prompt_ids) in seen:
            reason = "repeated prompt"
        if reason is not None:
            drops[f"{reason} ({pair.source.name})"] += 1
            continue
        seen.add(hash(prompt_ids))
        count += 1
        yield Prompt(prompt_ids, sentence.source_id, corpus)
    if not count:
        raise InputError(
            f"corpus {corpus} gives no prompts for {pair} (left out: {dict(drops) or 'nothing'}): a file gives 2 % of "
            "its sentences to validation, so some hundred are needed"
        )


def start_token_prompts(tokenizer: PreTrainedTokenizerBase, token: str | None, count: int | None) -> Iterator[Prompt]:
    """Let the target write by itself: prompts of nothing but a start token.

    They are all alike, and numbered, so that each gets a seed of its own.

    Args:
        token (`str`, *optional*): The start token; the tokenizer's bos if left out.
        count (`int`): How many texts.
    Raises:
        InputError: If there is no such token, or no count.
    """
    start_id = tokenizer.bos_token_id if token is None else tokenizer.get_vocab().get(token)
    if start_id is None:
        raise InputError(f"the tokenizer has no start token {token or ''}: name one of its tokens with --start_token")
    if count is None:
        raise InputError("corpus start_token has no end: give --max_samples and --max_validation_samples")
    return (Prompt((start_id,), f"{START_TOKEN}/{number}", START_TOKEN, number) for number in range(count))


def write_prompts(prompts: Iterable[Prompt], path: Path, drops: Counter[str]) -> None:
    """Write prompts to a file that appears whole or not at all; a million stay out of memory.

    Args:
        drops (`Counter[str]`): What was left out by the time all prompts are read; kept in the file.
    """

    def write(partial: Path) -> None:
        with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_file(file, _PROMPTS) as writer:
            remaining = iter(prompts)
            while chunk := [asdict(prompt) for prompt in itertools.islice(remaining, _AT_ONCE)]:
                writer.write_batch(pa.RecordBatch.from_pylist(chunk, _PROMPTS))
            last = pa.RecordBatch.from_pylist([], _PROMPTS)
            writer.write_batch(last, custom_metadata={"dropped": json.dumps(drops)})

    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, write)


def load_prompts(path: Path) -> tuple[pa.Table, Counter[str]]:
    """Map what `write_prompts` wrote into memory.

    Returns:
        `tuple` of the prompts, with a column for each field of `Prompt`, and of what was left out.
    Raises:
        DamagedStoreError: If the file is damaged.
    """
    try:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        said = file.get_batch_with_custom_metadata(file.num_record_batches - 1).custom_metadata
        return file.read_all(), Counter(json.loads(said[b"dropped"]))
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedStoreError(f"{path} is damaged ({error}): delete it and run distill.py again") from error
