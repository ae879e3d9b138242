"""Calibration on completions with known acceptance, and tuning without a network: texts, orders, size of a table."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from drafter_trainer.corpora.decontamination import OVERLAP
from drafter_trainer.decoding import replay
from drafter_trainer.decoding.metrics import Round
from drafter_trainer.decoding.replay import Costs, Replay
from drafter_trainer.drafters.loop.networkless import NetworklessDrafter
from drafter_trainer.drafters.loop.settings import NETWORK_BINS, NGRAM_BINS, default_calibration
from drafter_trainer.drafters.loop.sources import NgramTable
from drafter_trainer.drafters.ngram import count_table
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target
from drafter_trainer.tuning.calibration import calibrate
from drafter_trainer.tuning.completions import HeldOut, load_completions, without_held_out
from drafter_trainer.tuning.search import Candidate, Tuning
from tests.drafters.loop.conftest import FakeNetwork

SURE = NETWORK_BINS - 1  # bin of a network that gives one token nearly all probability


def completion_of(response: list[int], temperature: float = 0.0, chances: list | None = None) -> HeldOut:
    chances = chances or [{token: 1.0} for token in response]
    size = max(map(len, chances))
    padded = [list(entry.items()) + [(0, 1e-9)] * (size - len(entry)) for entry in chances]
    ids = np.array([[token for token, _ in entry] for entry in padded], dtype=np.int32)
    logprobs = np.log(np.array([[share for _, share in entry] for entry in padded], dtype=np.float32))
    return HeldOut([1, 2], response, 128, temperature, ids, logprobs)


def leaned(accepted: float, count: int, share: float) -> float:
    """Return the value of a bin after some observations; the default counts like four more."""
    return (accepted + 4 * share) / (count + 4)


def test_network_is_trusted_as_often_as_it_was_right() -> None:
    """The network proposed two of the four tokens: a wrong bin or count misjudges every draft."""
    network = FakeNetwork(lambda known: known[-1] + 1)
    calibration = calibrate([completion_of([3, 4, 9, 7])], None, network)
    before = default_calibration()["network"]
    assert calibration["network"][SURE] == pytest.approx(leaned(2, 4, before[SURE]))
    assert calibration["network"][:SURE] == pytest.approx(before[:SURE])


def test_lookup_and_table_are_asked_at_every_token() -> None:
    """The bins must be those of the loop: length of the match, or order and share."""
    table = NgramTable(count_table([[2, 3], [2, 3], [2, 8]], (1,), min_share=0.0))
    calibration = calibrate([completion_of([1, 2, 3, 2, 9])], table, None)
    before = default_calibration()
    # "1" comes up again and is followed by 2; "1 2" was followed by 1, now by 3; "2" by 3, now by 9.
    assert calibration["lookup"][0] == pytest.approx(leaned(1, 2, before["lookup"][0]))
    assert calibration["lookup"][1] == pytest.approx(leaned(0, 1, before["lookup"][1]))
    # The table gives 3 after 2 a share of (2 - 1/2) / 3. It is asked after the prompt, after "1 2" and "3 2".
    place = int(0.5 * NGRAM_BINS)
    assert calibration["ngram"][place] == pytest.approx(leaned(1, 3, before["ngram"][place]))


def test_sampled_tokens_count_by_their_chance() -> None:
    """A token with q = 1 is accepted with p, one drawn from q with Σ min(p, q); the completion is only a sample."""
    chances = [{3: 0.5, 4: 0.3}, {4: 0.25, 5: 0.7}]
    calibration = calibrate([completion_of([4, 5], 1.0, chances)], None, FakeNetwork(lambda known: [3, 4]))
    # q gives 3 and 4 a half each: min(p, q) is 0.5 + 0.3, then 0.25.
    place = NETWORK_BINS // 2
    before = default_calibration()["network"][place]
    assert calibration["network"][place] == pytest.approx(leaned(0.8 + 0.25, 2, before), abs=1e-3)


def test_folder_without_completions_is_rejected(target: Target, tmp_path: Path) -> None:
    """Settings that were tuned on no completions would look tuned."""
    with pytest.raises(InputError, match=r"has 0 completions and 0 held-out greedy ones .*: distill with"):
        load_completions(tmp_path, target, 10)


def test_texts_with_a_held_out_completion_are_not_counted() -> None:
    """A table that was counted on a held-out completion, inside a longer one, would look better than it is."""
    sentence = list(range(20, 40))
    part, other = [5, 6, *sentence[:OVERLAP], 7], [5, 6, *sentence[: OVERLAP - 1], 7]
    assert without_held_out([sentence, part, other, [3]], [completion_of(sentence)]) == [other, [3]]


SIZE = 120
COSTS = Costs(10.0, 20.0, [10.0, *[10.5] * 8], [10.0, *[10.5] * 8], 0.0)  # every draft that has a chance pays
TRIALS = ["table counted on", "table orders", "table bytes", "longest draft", "sources"]


@pytest.fixture(autouse=True)
def standing_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafting takes no time, whatever else this machine does."""
    monkeypatch.setattr(replay.time, "perf_counter", lambda: 0.0)


def tune(
    answers: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
    held_out: Sequence[Sequence[int]],
    sources: Sequence[str] = ("ngram",),
    size: int = 1 << 21,
    other_task: Sequence[Sequence[int]] = (),
) -> tuple[Tuning, Candidate]:
    """Tune a drafter without a network on hand-written completions; no speedup may exceed the tokens per pass."""
    model = NetworklessDrafter.for_vocabulary(SIZE)
    greedy, other = ([completion_of(list(ids)) for ids in task] for task in (held_out, other_task))
    given = {"sources": sources, "table_bytes": size, "other_tasks": [other] if other else []}
    search = Tuning(model, answers, texts, greedy, [], COSTS, [0], **given)
    choice = search.run()
    assert all(trial["speedup"] <= trial["tokens_per_pass"] for trial in search.trials)
    return search, choice


def tried(search: Tuning, what: str) -> dict[str, float]:
    """Return what a pass yielded in each trial of a question."""
    return {trial["value"]: trial["tokens_per_pass"] for trial in search.trials if trial["what"] == what}


def sentences(rule: np.ndarray, count: int, seed: int, certain: float = 0.9) -> list[list[int]]:
    """Write texts in which a token's follower is nearly always that of a rule."""
    choose = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        text = [int(choose.integers(1, SIZE))]
        for _ in range(24):
            text.append(int(rule[text[-1]] if choose.random() < certain else choose.integers(1, SIZE)))
        texts.append(text)
    return texts


def rule(seed: int) -> np.ndarray:
    """Draw what follows each token; 0 ends a text and follows none."""
    return np.concatenate(([0], 1 + np.random.default_rng(seed).permutation(SIZE - 1)))


def test_order_is_the_one_that_held_out_answers_need() -> None:
    """On counted texts the highest order always wins; here the third token back decides the next one."""
    follows = rule(0)

    def text(seed: int) -> list[int]:
        tokens = []
        for first in 3 + np.random.default_rng(seed).permutation(SIZE - 3):
            tokens += [int(first), 1, 2, int(follows[first])]
        return tokens

    search, choice = tune([text(seed) for seed in range(3)], [], [text(9)[:100], text(10)[:100]])
    yields = tried(search, "table orders")
    assert list(yields) == [f"1 to {most}" for most in range(1, 6)]
    assert yields["1 to 3"] > 1.2 * yields["1 to 2"]
    assert max(choice.slots) >= 3
    assert search.counted(choice) == {
        "counted_on": "completions",
        "completions": 3,
        "tokens_of_completions": 3 * 4 * (SIZE - 3),
        "highest_order": max(choice.slots),
        "entries": sum(int(np.count_nonzero(hashes)) for hashes, *_ in choice.slots.values()),
    }


def test_every_question_without_a_network_is_asked() -> None:
    """A trial of weights or draft vocabularies that are not there fails, or is recorded as if it meant something."""
    answers = sentences(rule(0), 40, 0)
    search, choice = tune(answers, [], sentences(rule(0), 4, 1), ["ngram", "lookup"], 1 << 16)
    assert list(dict.fromkeys(trial["what"] for trial in search.trials)) == TRIALS
    assert {trial["step_milliseconds"] for trial in search.trials} == {0.0}
    assert list(tried(search, "table counted on")) == ["completions"]
    assert list(tried(search, "table bytes")) == ["4096", "16384", "65536"]
    # Lookup without a table is no drafter, so it is not tried.
    assert list(tried(search, "sources")) == ["['lookup', 'ngram']", "['ngram']"]
    assert choice.slots is not None
    assert choice.draft_ids is None


@pytest.mark.parametrize("level", [1.0, 0.8])
@pytest.mark.parametrize(("gain", "chosen"), [(1.01, ["lookup", "ngram"]), (1.05, ["ngram"])])
def test_a_source_is_left_out_where_it_clearly_costs(monkeypatch, caplog, gain, chosen, level) -> None:
    """Noise of a few completions must not remove a source, and a drafter that does not pay is named as such."""

    def replayed(self: Tuning, choice: Candidate, *_) -> Replay:
        speedup = level * (1.0 if "lookup" in choice.settings.sources else gain)
        return Replay(2, 20.0, 0.0, 20.0 * speedup, [Round(1, 1, False)])

    monkeypatch.setattr(Tuning, "_replay", replayed)
    answers = sentences(rule(0), 4, 0)
    search, choice = tune(answers, [], answers, ["lookup", "ngram"])
    assert choice.settings.sources == chosen
    assert search.speedup == pytest.approx(level * (1.0 if "lookup" in chosen else gain))
    assert ("no setting is faster than plain decoding" in caplog.text) == (level < 1)


def test_mixture_keeps_what_answers_bring() -> None:
    """Twice as much text, with equal weight, displaces the target's completions from a small table."""
    answers, texts = sentences(rule(1), 100, 2), sentences(rule(3), 200, 4)
    task, other = sentences(rule(1), 12, 5), sentences(rule(3), 12, 6)
    size = 3072 + 13 * 300
    on_task = tried(tune(answers, texts, task, size=size)[0], "table counted on")
    on_text = tried(tune(answers, texts, other, size=size)[0], "table counted on")
    alike, weighed = "completions and texts", "4 times completions, and texts"
    assert list(on_task) == list(on_text) == ["completions", alike, weighed]
    assert on_task[weighed] > 0.8 * on_task["completions"]
    assert on_task[weighed] > 2 * on_task[alike]
    assert on_text[alike] > on_text[weighed] > 1.02 * on_text["completions"]


def test_every_task_counts() -> None:
    """A table that is best for what was distilled, and knows nothing of another task, must not be chosen."""
    answers, texts = sentences(rule(1), 100, 2), sentences(rule(3), 200, 4)
    task, other = sentences(rule(1), 12, 5), sentences(rule(3), 12, 6)
    alone, chosen_alone = tune(answers, texts, task)
    both, chosen = tune(answers, texts, task, other_task=other)
    assert tried(both, "table counted on")["completions"] < 0.8 * tried(alone, "table counted on")["completions"]
    assert "completions" in chosen_alone.counted_on
    assert "texts" in chosen.counted_on
    assert both.speedup < alone.speedup
