"""What is dropped, and what is only counted."""

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from drafter_trainer.corpora.sample import sample_rows
from drafter_trainer.distillation.collect import reason_to_drop, survey
from drafter_trainer.distillation.requests import Completion, Failure
from drafter_trainer.distillation.store import RowStore
from tests.distillation.conftest import REQUEST

END = 2
LOOP = [7, *([8, 9] * 12)]


@pytest.mark.parametrize(
    ("answer", "drop_looping", "reason"),
    [
        (Completion([END], None, None, "stop"), False, "empty completion"),
        (Completion(LOOP, None, None, "length"), False, None),
        (Completion(LOOP, None, None, "length"), True, "repetition loop"),
        (Completion([*range(5, 40), END], None, None, "stop"), True, None),
        (Failure("refused with status 400", "too long"), False, "refused with status 400"),
    ],
)
def test_loops_are_dropped_only_where_that_is_asked_for(answer, drop_looping, reason) -> None:
    """Prevent what the target says again when it is asked again from missing in training unasked."""
    assert reason_to_drop(answer, {0, 1, END}, drop_looping) == reason


def test_survey_counts_and_drops_nothing(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Prevent loops, repetitions, retokenized text and a wrong language from going unnoticed."""
    store = RowStore(tmp_path)
    said = [tokenizer(row["en"])["input_ids"] for row in list(sample_rows("train"))[:6]]
    german = tokenizer(next(iter(sample_rows("train")))["de"])["input_ids"]
    answers = [
        *(Completion([*ids, END], None, None, "stop") for ids in said),
        Completion([*german, END], None, None, "stop"),
        Completion(LOOP, None, None, "length"),
        Completion(LOOP, None, None, "length", retokenized=True),
    ]
    rows = [(replace(REQUEST, seed=number), answer) for number, answer in enumerate(answers)]
    store.write(rows[:4], "server:vllm")
    store.write(rows[4:], "server:vllm")
    found = survey(store, tokenizer)
    languages = found.pop("languages")
    assert found == {"looping": 2, "duplicates": 1, "retokenized": 1}
    assert sum(languages.values()) == len(rows)
    assert (languages["en"], languages["de"]) >= (5, 1)
    assert store.count()["rows"] == len(rows)
