"""Which answers the target is asked for, and in which batches."""

import hashlib
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from drafter_trainer.corpora import Sentence
from drafter_trainer.corpora.decontamination import Decontaminator
from drafter_trainer.distillation.requests import (
    Prompt,
    Request,
    build_requests,
    cut_batches,
    start_token_prompts,
    translation_prompts,
)
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target
from tests.distillation.conftest import PAIR, REQUEST

TARGET = Target("tests/tiny-target", "abc", "nowhere")
GERMAN = [
    "Der Zug nach Bremen fährt heute von einem anderen Gleis ab.",
    "Sie hat den Schlüssel auf dem Küchentisch vergessen.",
    "Morgen soll es im ganzen Land regnen.",
    "Das Museum bleibt bis zum Sommer geschlossen.",
]


def ask(prompts: list[Prompt], temperatures: list[float], samples: int, seed: int = 0) -> list[Request]:
    """Build requests of the tiny target."""
    return build_requests(prompts, temperatures, samples, seed, 16, PAIR, TARGET)


def sentences(texts: list[str]) -> list[Sentence]:
    """Number texts as a corpus does."""
    return [Sentence(f"corpus/{number}", text) for number, text in enumerate(texts)]


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
def test_key_changes_with_what_decides_the_answer(field: str, other: Any) -> None:
    """Prevent an answer to another question from being taken for the one that is asked."""
    assert replace(REQUEST, **{field: other}).key != REQUEST.key


@pytest.mark.parametrize("field", ["source_id", "corpus", "pair"])
def test_key_ignores_where_the_prompt_came_from(field: str) -> None:
    """Prevent the same work from being done twice because two corpora hold the same sentence."""
    assert replace(REQUEST, **{field: "other"}).key == REQUEST.key


def test_key_stays_the_same_from_version_to_version() -> None:
    """Prevent a change of the key's spelling, after which everything that is stored would be asked anew."""
    identity = (
        '{"max_new_tokens": 16, "prompt_ids": [5, 6, 7], "revision": "abc", '
        '"sampling": {"temperature": 0.7, "top_k": 0, "top_p": 1.0}, "seed": 3, "target": "tests/tiny-target"}'
    )
    assert REQUEST.key == hashlib.sha256(identity.encode()).hexdigest()


@pytest.mark.parametrize("samples", [1, 4])
def test_greedy_is_asked_once(prompts: list[Prompt], samples: int) -> None:
    """Prevent greedy answers, which are all alike, from being paid for once a sample."""
    requests = ask(prompts[:3], [0.0, 0.7], samples, seed=9)
    asked = Counter(request.temperature for request in requests)
    assert asked == {0.0: 3, 0.7: 3 * samples}
    assert {request.seed for request in requests if request.temperature == 0} == {0}


def test_samples_of_a_prompt_have_seeds_of_their_own(prompts: list[Prompt]) -> None:
    """Prevent several samples of a prompt from being one sample stored under one key."""
    requests = ask(prompts[:2], [0.7], 3, seed=9)
    seeds = {prompt.prompt_ids: set() for prompt in prompts[:2]}
    for request in requests:
        seeds[request.prompt_ids].add(request.seed)
    assert list(seeds.values()) == [{9, 10, 11}, {9, 10, 11}]
    assert len({request.key for request in requests}) == 6


def test_requests_say_what_was_asked_and_whence(prompts: list[Prompt]) -> None:
    """Prevent rows that cannot be traced to their corpus, pair, target and settings."""
    (request,) = ask(prompts[:1], [0.3], 1, seed=5)
    assert request == Request(
        prompts[0].prompt_ids, 0.3, 5, 16, prompts[0].source_id, "sample", "de-en", TARGET.name, TARGET.revision
    )


def test_start_token_prompts_get_different_seeds(tokenizer: PreTrainedTokenizerFast) -> None:
    """Prevent a thousand texts from the start token from being one text: their prompts are all alike."""
    prompts = start_token_prompts(tokenizer, None, 5)
    assert {prompt.prompt_ids for prompt in prompts} == {(tokenizer.bos_token_id,)}
    requests = ask(prompts, [1.0], 2, seed=7)
    assert sorted(request.seed for request in requests) == list(range(7, 17))
    assert len({request.source_id for request in requests}) == 5


def test_start_token_may_be_any_token(tokenizer: PreTrainedTokenizerFast) -> None:
    """Prevent a chosen start token from being replaced by bos, and a wrong name from being taken for unk."""
    (prompt,) = start_token_prompts(tokenizer, "<|user|>", 1)
    assert prompt.prompt_ids == (tokenizer.convert_tokens_to_ids("<|user|>"),)
    with pytest.raises(InputError, match=r"no start token <\|nobody\|>.*--start_token"):
        start_token_prompts(tokenizer, "<|nobody|>", 1)


def test_start_token_needs_a_number(tokenizer: PreTrainedTokenizerFast) -> None:
    """Prevent a run that never ends: the target can write by itself for ever."""
    with pytest.raises(InputError, match="--max_samples"):
        start_token_prompts(tokenizer, None, None)


def test_repeated_and_contaminated_prompts_are_dropped_and_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    """Prevent evaluation questions from reaching the training rows, and drops that nobody hears of."""
    question = "Zwölf kleine Katzen saßen gestern Abend auf dem alten Zaun vor unserem gelben Haus"
    texts = [GERMAN[0], GERMAN[2], GERMAN[0], f" {GERMAN[0]} ", f"Und dann: {question}, sagte er.", GERMAN[1]]
    drops: Counter[str] = Counter()
    prompts = translation_prompts(
        sentences(texts),
        "corpus",
        PAIR,
        tokenizer,
        Decontaminator([(question, True), (GERMAN[2].upper(), True)]),
        None,
        drops,
    )
    assert [prompt.source_id for prompt in prompts] == ["corpus/0", "corpus/5"]
    assert drops == {"repeated prompt (German)": 2, "overlap (German)": 1, "exact match (German)": 1}


def test_prompts_are_the_chat_template_of_the_translation_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    """Prevent training on prompts that no user writes: a template applied twice, a start token too many."""
    (prompt,) = translation_prompts(
        sentences(GERMAN[:1]), "corpus", PAIR, tokenizer, Decontaminator([]), None, Counter()
    )
    said = f"<|user|>Translate German to English: {GERMAN[0]}<|end|><|assistant|>"
    assert tokenizer.decode(prompt.prompt_ids) == said


def test_limit_counts_prompts_that_are_kept(tokenizer: PreTrainedTokenizerFast) -> None:
    """Prevent a limit of n from giving fewer than n prompts where some are dropped."""
    texts = [GERMAN[0], GERMAN[0], *GERMAN[1:]]
    prompts = translation_prompts(sentences(texts), "corpus", PAIR, tokenizer, Decontaminator([]), 3, Counter())
    assert [prompt.source_id for prompt in prompts] == ["corpus/0", "corpus/2", "corpus/3"]


def test_no_prompts_is_an_error_that_says_what_was_dropped(tokenizer: PreTrainedTokenizerFast) -> None:
    """Prevent a run that ends well and leaves nothing."""
    with pytest.raises(InputError, match=r"corpus tiny gives no prompts for de-en.*exact match \(German\)': 1"):
        translation_prompts(
            sentences(GERMAN[:1]), "tiny", PAIR, tokenizer, Decontaminator([(GERMAN[0], True)]), None, Counter()
        )


def test_batches_depend_on_the_set_of_requests_alone(prompts: list[Prompt]) -> None:
    """Prevent a resumed run from forming other batches, whose answers would differ from the first run's."""
    requests = ask(prompts, [0.0, 0.3, 1.0], 2)
    first = cut_batches(requests, 5)
    for seed in range(5):
        shuffled = random.Random(seed).sample(requests, len(requests))
        assert cut_batches(shuffled, 5) == first


def test_batches_hold_one_temperature_and_every_request_once(prompts: list[Prompt]) -> None:
    """Prevent rows sampled at a neighbour's temperature, and rows that are lost at the end of a temperature."""
    requests = ask(prompts, [0.0, 0.3, 1.0], 2)
    batches = cut_batches(requests, 5)
    assert all(len({request.temperature for request in batch}) == 1 for batch in batches)
    assert Counter(request.key for batch in batches for request in batch) == Counter(
        request.key for request in requests
    )
    # 12 greedy answers and 24 at each other temperature, in batches of 5
    assert [len(batch) for batch in batches] == [5, 5, 2, *([5, 5, 5, 5, 4] * 2)]


def test_batches_hold_prompts_of_similar_length(prompts: list[Prompt]) -> None:
    """Prevent a short prompt from being padded to the longest of the corpus."""
    assert len({len(prompt.prompt_ids) for prompt in prompts}) > 3
    lengths = [len(request.prompt_ids) for batch in cut_batches(ask(prompts, [0.3], 2), 5) for request in batch]
    assert lengths == sorted(lengths)
