"""Tokens that end a text, compared with transformers' stopping criteria, and sampling without them."""

from collections import Counter

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, StopStringCriteria

from drafter_trainer.corpora.sample import sample_rows
from drafter_trainer.drafters.loop.calls import EndingIds, endings_of
from tests.decoding.drafts import partly_agreeing
from tests.decoding.lossless import (
    IMPROBABLE,
    TOY_DRAFT_LENGTH,
    TOY_PROMPT,
    WRONG_SAMPLES,
    chance_of_these_answers,
    check_sampled,
    exact_chances,
    sample,
)
from tests.drafters.loop.conftest import make_settings, with_loop


def bytes_of_sentencepiece() -> PreTrainedTokenizerFast:
    """Train a tokenizer as Gemma and Llama 2 have it: a mark for spaces, and bytes for what is unknown."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", "<pad>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator((row["de"] for row in sample_rows("train")), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>")


def letters() -> PreTrainedTokenizerFast:
    """Make a tokenizer of a letter for each token of the toy target."""
    vocabulary = {letter: token for token, letter in enumerate("abcdefghijkl")}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece", "letters"])
def test_endings_are_where_transformers_ends(tokenizer: PreTrainedTokenizerFast, kind: str) -> None:
    """Prevent missed stop strings, and drafts that end without one."""
    if kind != "bytes":
        tokenizer = bytes_of_sentencepiece() if kind == "sentencepiece" else letters()
    text = "Der Zug kommt später an: 8 € für die Rückfahrt nach Köln. 電車が遅れ"
    stops = ["kommt spä", "r", " Rück", "€", "n: 8", "ckf", "電車が", "Köln."]
    if kind == "letters":
        text, stops = "abcabdabcabbacdefghdabcd", ["abd", "b", "cab", "gh", "dabc"]
    size, ids = len(tokenizer), tokenizer(text, add_special_tokens=False)["input_ids"]
    found = 0
    for chosen in (stops, *([stop] for stop in stops)):
        criterion = StopStringCriteria(tokenizer, chosen)
        endings = endings_of(frozenset(chosen), frozenset(), tokenizer)
        for length in range(len(ids)):
            context = torch.tensor([ids[:length]], dtype=torch.int64).expand(size, -1)
            ends = criterion(torch.cat((context, torch.arange(size)[:, None]), dim=-1), None)
            after = endings.after(endings.tail(ids[:length]))
            assert [token in after for token in range(size)] == ends.tolist(), (
                chosen,
                tokenizer.decode(ids[:length]),
            )
            found += ids[length] in after
    assert found > len(stops)


STOPS = ["g", "ch", "db", "l"]  # tokens 6 and 11, and pairs; the prompt ends in "c"


@pytest.fixture
def stopping(toy_target: PreTrainedModel) -> tuple[dict, dict[tuple[int, ...], float]]:
    """Arguments for the toy target to stop at these strings, and the chances of what it writes then."""
    tokenizer = letters()
    chances: Counter[tuple[int, ...]] = Counter()
    start = tokenizer.decode(TOY_PROMPT)[-1]
    for answer, chance in exact_chances(toy_target, 1.0).items():
        for size in range(1, len(answer) + 1):
            if any((start + tokenizer.decode(answer[:size])).endswith(stop) for stop in STOPS):
                break
        chances[answer[:size]] += chance
    settings = make_settings(sources=["network"], longest_draft=TOY_DRAFT_LENGTH)
    drafter = with_loop(partly_agreeing(toy_target, 0.1), settings, tokenizer=tokenizer)
    return {"assistant_model": drafter, "stop_strings": STOPS, "tokenizer": tokenizer}, chances


def test_sampled_answers_with_stop_strings_have_the_targets_distribution(toy_target, stopping) -> None:
    """Prevent a bias against tokens that end the text."""
    given, chances = stopping
    check_sampled(toy_target, given, chances=chances)


def test_draft_that_ends_for_what_was_drawn_is_noticed(toy_target, stopping, monkeypatch) -> None:
    """The test above must fail if such tokens are sampled and then left out."""
    monkeypatch.setattr(EndingIds, "mask", lambda self, logits: logits)
    given, chances = stopping
    answers, _ = sample(toy_target, given, 1.0, WRONG_SAMPLES)
    assert chance_of_these_answers(answers, chances) < IMPROBABLE / 1000
