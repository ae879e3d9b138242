"""Prompts, from sentences to a file, and requests in batches."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora.decontamination import Decontaminator
from drafter_trainer.corpora.reading import Document, Sentence
from drafter_trainer.distillation.prompts import Prompt, PromptMaker, load_prompts, write_prompts
from drafter_trainer.distillation.requests import Requests
from drafter_trainer.errors import DamagedStoreError, InputError
from drafter_trainer.languages import get_pair
from tests.conftest import make_tokenizer
from tests.distillation.conftest import PAIR, REQUEST, make_requests

GERMAN = [
    "Der Zug nach Bremen fährt heute von einem anderen Gleis ab.",
    "Sie hat den Schlüssel auf dem Küchentisch vergessen.",
    "Morgen soll es im ganzen Land regnen.",
    "Das Museum bleibt bis zum Sommer geschlossen.",
]


NOTHING = Decontaminator([])


def sentences(texts: list[str]) -> list[Sentence]:
    return [Sentence(f"corpus/{number}", text) for number, text in enumerate(texts)]


@pytest.mark.parametrize("start", ["<|start|>", "<|end|>"])
def test_text_follows_bos_or_else_eos(start: str) -> None:
    """Prevent text that cannot be scored for a target without bos, such as Qwen's."""
    tokenizer = make_tokenizer()
    tokenizer.bos_token = start if start == tokenizer.bos_token else None
    make, documents = PromptMaker(ChatTokenizer(tokenizer), NOTHING), [Document("text/1", GERMAN[0])]
    (prompt,) = make.texts(documents, "text", None, 400)
    assert prompt.prompt_ids == (tokenizer.convert_tokens_to_ids(start),)


def test_repeated_and_contaminated_prompts_are_dropped_and_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    """Prevent evaluation questions from reaching the training rows, and drops that are not counted."""
    question = "Zwölf kleine Katzen saßen gestern Abend auf dem alten Zaun vor unserem gelben Haus"
    texts = [GERMAN[0], GERMAN[2], GERMAN[0], f" {GERMAN[0]} ", f"Und dann: {question}, sagte er.", GERMAN[1]]
    make = PromptMaker(ChatTokenizer(tokenizer), Decontaminator([(question, True), (GERMAN[2].upper(), True)]))
    prompts = list(make.translations(sentences(texts), "corpus", PAIR))
    assert [prompt.source_id for prompt in prompts] == ["corpus/0", "corpus/5"]
    assert make.drops == {"repeated prompt (German)": 2, "overlap (German)": 1, "exact match (German)": 1}


def test_prompts_are_the_chat_template_of_the_translation_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    """Prevent training on prompts that no user writes: a template applied twice, a start token too many."""
    (prompt,) = PromptMaker(ChatTokenizer(tokenizer), NOTHING).translations(sentences(GERMAN[:1]), "corpus", PAIR)
    said = f"<|user|>Translate German to English: {GERMAN[0]}<|end|><|assistant|>"
    assert tokenizer.decode(prompt.prompt_ids) == said


def test_stories_are_asked_in_their_language_and_kept_clean(tokenizer: PreTrainedTokenizerFast) -> None:
    """Prevent subjects of evaluation stories, in any language, from reaching the training rows."""
    subjects = [
        ("one", {"en": "a fox", "de": "einen Fuchs"}),
        ("two", {"en": "a goat", "de": "eine Ziege"}),
        ("three", {"en": "a fox", "de": "einen Fuchs"}),
    ]
    make = PromptMaker(ChatTokenizer(tokenizer), Decontaminator([("A goat!", True)]))
    (prompt,) = make.stories(subjects, get_pair("en-de").target)
    said = "<|user|>Schreibe auf Deutsch eine kurze Geschichte über einen Fuchs.<|end|><|assistant|>"
    assert (tokenizer.decode(prompt.prompt_ids), prompt.source_id, prompt.corpus) == (said, "one", "stories")
    assert make.drops == {"exact match (German)": 1, "repeated prompt (German)": 1}


def test_no_prompts_is_an_error_that_says_what_was_dropped(tokenizer: PreTrainedTokenizerFast) -> None:
    """Prevent a run that ends well and leaves nothing."""
    make = PromptMaker(ChatTokenizer(tokenizer), Decontaminator([(GERMAN[0], True)]))
    with pytest.raises(InputError, match=r"corpus tiny has no prompts for de-en.*exact match \(German\)': 1"):
        next(make.translations(sentences(GERMAN[:1]), "tiny", PAIR))


def test_prompts_come_back_with_what_was_dropped(tmp_path: Path) -> None:
    """Prevent a resumed run from reading its corpora again to find its place, or from forgetting its drops."""
    drops: Counter[str] = Counter()

    def read() -> Iterator[Prompt]:
        for number in range(10_000):
            drops["exact match (German)"] += number % 2
            yield Prompt((5, 6, number), f"corpus/{number}", "corpus")

    write_prompts(read(), tmp_path / "prompts.arrow", drops)
    prompts, dropped = load_prompts(tmp_path / "prompts.arrow")
    assert prompts.num_rows == 10_000
    assert prompts.slice(7, 1).to_pylist() == [
        {"prompt_ids": [5, 6, 7], "source_id": "corpus/7", "corpus": "corpus", "response_ids": None}
    ]
    assert dropped == {"exact match (German)": 5000}


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.98])
def test_a_truncated_file_is_named_with_what_to_do(tmp_path: Path, kept: float) -> None:
    """Prevent prompts from being lost where a disk or a copy cut the file."""
    path = tmp_path / "prompts.arrow"
    write_prompts((Prompt((5, number), str(number), "corpus") for number in range(5000)), path, Counter())
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DamagedStoreError, match=r"prompts\.arrow is damaged .*delete it and distill again"):
        load_prompts(path)


def ask(prompts: list[Prompt], temperatures: list[float], samples: int, seed: int = 0) -> Requests:
    return make_requests(prompts, temperatures, samples, seed, 16)


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("target", "tests/other-target"),
        ("target_revision", "abd"),
        ("prompt_ids", (5, 6, 8)),
        ("temperature", 0.71),
        ("seed", 4),
        ("max_new_tokens", 17),
    ],
)
def test_key_changes_with_what_decides_the_completion_alone(field: str, other: Any) -> None:
    """Prevent the reuse of another request's completion, and two completions of a repeated sentence."""
    assert replace(REQUEST, **{field: other}).key != REQUEST.key
    assert replace(REQUEST, source_id="other", corpus="other", pair="other").key == REQUEST.key


def test_key_stays_the_same_from_version_to_version() -> None:
    """Prevent a change of the keys, after which all stored rows would be generated again."""
    identity = (
        '{"max_new_tokens": 16, "prompt_ids": [5, 6, 7], "revision": "abc", '
        '"sampling": {"temperature": 0.7, "top_k": 0, "top_p": 1.0}, "seed": 3, "target": "tests/tiny-target"}'
    )
    assert REQUEST.key == hashlib.sha256(identity.encode()).hexdigest()


@pytest.mark.parametrize("samples", [1, 4])
def test_greedy_is_asked_once(prompts: list[Prompt], samples: int) -> None:
    """Prevent several greedy samples of a prompt, which are equal."""
    requests = ask(prompts[:3], [0.0, 0.7], samples, seed=9)
    asked = Counter(request.temperature for request in requests)
    assert asked == {0.0: 3, 0.7: 3 * samples}
    assert {request.seed for request in requests if request.temperature == 0} == {0}


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_batches_out(prompts: list[Prompt], processes: int) -> None:
    """Prevent a batch that two processes complete, or none, and two temperatures in one batch."""
    requests = ask(prompts, [0.0, 0.3, 1.0], 2)
    whole = list(requests.batches(5))
    # 12 greedy completions and 24 at each other temperature, in batches of 5
    assert [len(batch) for batch in whole] == [5, 5, 2, *([5, 5, 5, 5, 4] * 2)]
    assert all(len({request.temperature for request in batch}) == 1 for batch in whole)
    assert Counter(request.key for batch in whole for request in batch) == Counter(each.key for each in requests)
    shares = [list(requests.batches(5, (rank, processes))) for rank in range(processes)]
    assert [shares[number % processes][number // processes] for number in range(len(whole))] == whole
    assert sum(map(len, shares)) == len(whole)
