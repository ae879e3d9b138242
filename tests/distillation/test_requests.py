"""Which answers the target is asked for, and in which batches."""

import hashlib
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from drafter_trainer.distillation.prompts import Prompt
from drafter_trainer.distillation.requests import Requests
from tests.distillation.conftest import REQUEST, make_requests


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
def test_key_changes_with_what_decides_the_answer_alone(field: str, other: Any) -> None:
    """Prevent an answer to another question from being taken, and a repeated sentence from being asked twice."""
    assert replace(REQUEST, **{field: other}).key != REQUEST.key
    assert replace(REQUEST, source_id="other", corpus="other", pair="other").key == REQUEST.key


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


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_batches_out(prompts: list[Prompt], processes: int) -> None:
    """Prevent a batch that two processes answer, or none does, and rows of a neighbor's temperature."""
    requests = ask(prompts, [0.0, 0.3, 1.0], 2)
    whole = list(requests.batches(5))
    # 12 greedy answers and 24 at each other temperature, in batches of 5
    assert [len(batch) for batch in whole] == [5, 5, 2, *([5, 5, 5, 5, 4] * 2)]
    assert all(len({request.temperature for request in batch}) == 1 for batch in whole)
    assert Counter(request.key for batch in whole for request in batch) == Counter(each.key for each in requests)
    shares = [list(requests.batches(5, (rank, processes))) for rank in range(processes)]
    assert [shares[number % processes][number // processes] for number in range(len(whole))] == whole
    assert sum(map(len, shares)) == len(whole)
