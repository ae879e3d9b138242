"""The distillation loop: it resumes without lost or repeated rows, and filters completions."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerFast

from drafter_trainer.corpora.sample import sample_rows
from drafter_trainer.distillation.collect import collect_completions, reason_to_drop, survey
from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.distillation.prompts import Prompt
from drafter_trainer.distillation.requests import TOP_K, Completion, Failure, Request, Requests
from drafter_trainer.distillation.store import RowStore
from drafter_trainer.errors import DamagedStoreError
from tests.distillation.conftest import REQUEST, make_requests, stored_rows

BATCH = 5
END = 2


class RecordingEngine:
    """An engine that records the keys of its requests, and is interrupted after a number of batches."""

    name = "transformers"

    def __init__(self, engine: Any, batches: int | None = None) -> None:
        self.engine = engine
        self.batches = batches
        self.asked: list[str] = []

    def complete(self, batches: Iterable[Sequence[Request]]) -> Iterator[tuple[Sequence[Request], list[Completion]]]:
        for batch in batches:
            yield batch, self._complete(batch)

    def _complete(self, requests: Sequence[Request]) -> list[Completion]:
        if self.batches == 0:
            raise KeyboardInterrupt
        if self.batches is not None:
            self.batches -= 1
        self.asked += [request.key for request in requests]
        return self.engine.complete_batch(requests)


class DrawingEngine:
    """An engine without a model, a third of whose completions are empty."""

    name = "transformers"

    def complete_batch(self, requests: Sequence[Request]) -> list[Completion]:
        return [self._complete(np.random.default_rng(int(request.key[:15], 16))) for request in requests]

    def _complete(self, random: np.random.Generator) -> Completion:
        drawn = random.integers(5, 400, 4).tolist()
        response = [END] if drawn[0] % 3 == 0 else [*drawn, END]
        topk = random.permutation(400)[:TOP_K][None].repeat(len(response), axis=0)
        topk[:, 0] = response
        return Completion(response, topk, np.full((len(response), TOP_K), -4.0), "stop")


def run(requests: Requests, engine: Any, folder: Path, process: tuple[int, int] = (0, 1)) -> RecordingEngine:
    """Distill into a folder as process `(rank, processes)`; return the engine, which records requests."""
    recording = engine if isinstance(engine, RecordingEngine) else RecordingEngine(engine)
    collect_completions(requests, recording, RowStore(folder, process[0]), BATCH, "English", [0, 1, END], process)
    return recording


@pytest.fixture
def requests(prompts: list[Prompt]) -> Requests:
    """Four batches of greedy and eight of sampled completions."""
    return make_requests(prompts, [0.0, 0.7, 1.0], 2, 0, 8)


@pytest.mark.parametrize("batches", [0, 7])
def test_an_interrupted_run_goes_on_where_it_was(tmp_path, requests, engine, batches) -> None:
    """Prevent an interrupt from losing, repeating or changing rows, and rows under another's key."""
    assert len(list(requests.batches(BATCH))) == 13
    assert sorted(run(requests, engine, tmp_path / "whole").asked) == sorted(request.key for request in requests)
    rows = {row["key"]: row for row in stored_rows(RowStore(tmp_path / "whole"))}
    for request in requests:
        row = rows[request.key]
        assert (tuple(row["prompt_ids"]), row["seed"]) == (request.prompt_ids, request.seed)
        if request.temperature == 0:
            assert row["response_ids"] == [step[0] for step in row["topk_ids"]]
    first = RecordingEngine(engine, batches)
    with pytest.raises(KeyboardInterrupt):
        run(requests, first, tmp_path / "interrupted")
    assert {row["key"] for row in stored_rows(RowStore(tmp_path / "interrupted"))} == set(first.asked)
    (tmp_path / "interrupted").mkdir(exist_ok=True)
    (tmp_path / "interrupted" / ".partial-rows-000-000009.parquet").write_bytes(b"half")  # left by a killed process
    second = run(requests, engine, tmp_path / "interrupted")
    assert sorted(first.asked + second.asked) == sorted(request.key for request in requests)
    assert stored_rows(RowStore(tmp_path / "interrupted")) == stored_rows(RowStore(tmp_path / "whole"))


@pytest.mark.parametrize("call", [1, 5])
@pytest.mark.parametrize("kept", ["rows", "dropped"])
def test_an_interrupt_between_rows_and_drops_changes_nothing(tmp_path, requests, monkeypatch, kept, call) -> None:
    """Prevent a partly stored batch from losing the rest or being stored twice, and empty rows in training."""
    run(requests, DrawingEngine(), tmp_path / "whole")
    lost = {"rows": "write_dropped", "dropped": "write"}[kept]
    write = getattr(RowStore, lost)
    calls = []

    def interrupt(store: RowStore, rows: list, *given: Any) -> None:
        calls.extend([rows] if rows else [])
        if len(calls) == call:
            raise KeyboardInterrupt
        write(store, rows, *given)

    monkeypatch.setattr(RowStore, lost, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(requests, DrawingEngine(), tmp_path / "interrupted")
    monkeypatch.undo()
    run(requests, DrawingEngine(), tmp_path / "interrupted")
    whole, interrupted = RowStore(tmp_path / "whole"), RowStore(tmp_path / "interrupted")
    assert stored_rows(interrupted) == stored_rows(whole)
    empty = [request for request in requests if DrawingEngine().complete_batch([request])[0].completion_ids == [END]]
    assert interrupted.drops() == whole.drops() == {"empty completion (English)": len(empty)}
    assert interrupted.keys() == whole.keys()


def test_a_deleted_shard_is_asked_for_again(tmp_path: Path, requests: Requests, engine: TransformersEngine) -> None:
    """Prevent the advice of the error, to delete a damaged shard and go on, from giving other rows than before."""
    run(requests, engine, tmp_path)
    store = RowStore(tmp_path)
    before = stored_rows(store)
    damaged = store.shards()[6]
    keys = pq.read_table(damaged)["key"].to_pylist()
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(DamagedStoreError, match=damaged.name):
        run(requests, engine, tmp_path)
    damaged.unlink()
    assert sorted(run(requests, engine, tmp_path).asked) == sorted(keys)
    assert stored_rows(store) == before


def test_two_processes_give_the_rows_of_one(tmp_path: Path, requests: Requests, engine: TransformersEngine) -> None:
    """Prevent processes from repeating or omitting requests, or from sampling other tokens."""
    run(requests, engine, tmp_path / "one")
    asked = [run(requests, engine, tmp_path / "two", (rank, 2)).asked for rank in (0, 1)]
    assert all(asked)
    assert set(asked[0]).isdisjoint(asked[1])
    assert stored_rows(RowStore(tmp_path / "two")) == stored_rows(RowStore(tmp_path / "one"))


LOOP = [7, *([8, 9] * 12)]


@pytest.mark.parametrize(
    ("completion", "drop_looping", "reason"),
    [
        (Completion([END], None, None, "stop"), False, "empty completion"),
        (Completion(LOOP, None, None, "length"), False, None),
        (Completion(LOOP, None, None, "length"), True, "repetition loop"),
        (Completion([*range(5, 40), END], None, None, "stop"), True, None),
        (Failure("refused with status 400", "too long"), False, "refused with status 400"),
    ],
)
def test_loops_are_dropped_only_where_that_is_asked_for(completion, drop_looping, reason) -> None:
    """Prevent looping completions, which are the target's own, from being dropped by default."""
    assert reason_to_drop(completion, {0, 1, END}, drop_looping) == reason


def test_survey_counts_and_drops_nothing(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Prevent loops, repetitions, retokenized text and a wrong language from going unnoticed."""
    store = RowStore(tmp_path)
    said = [tokenizer(row["en"])["input_ids"] for row in list(sample_rows("train"))[:6]]
    german = tokenizer(next(iter(sample_rows("train")))["de"])["input_ids"]
    completions = [
        *(Completion([*ids, END], None, None, "stop") for ids in said),
        Completion([*german, END], None, None, "stop"),
        Completion(LOOP, None, None, "length"),
        Completion(LOOP, None, None, "length", retokenized=True),
    ]
    rows = [(replace(REQUEST, seed=number), completion) for number, completion in enumerate(completions)]
    store.write(rows[:4], "server:vllm")
    store.write(rows[4:], "server:vllm")
    found = survey(store, tokenizer)
    languages = found.pop("languages")
    assert found == {"looping": 2, "duplicates": 1, "retokenized": 1}
    assert sum(languages.values()) == len(rows)
    assert (languages["en"], languages["de"]) >= (5, 1)
    assert store.count()["rows"] == len(rows)
