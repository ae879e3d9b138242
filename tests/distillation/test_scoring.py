"""Log-probabilities that are given afterwards are those that the engine would have noted."""

from dataclasses import replace

import numpy as np
import pytest

from drafter_trainer.distillation import scoring
from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.distillation.scoring import Scorer
from drafter_trainer.distillation.store import RowStore
from tests.distillation.conftest import make_requests


@pytest.mark.parametrize("logits", [1, 400 * 40, 1 << 28])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_teacher_gives_what_the_engine_notes(
    target_model, tokenizer, prompts, monkeypatch, temperature, logits
) -> None:
    """Prevent scores that are shifted by one, disturbed by padding, given to another row, or divided by T."""
    monkeypatch.setattr(scoring, "_LOGITS", logits)
    asked = make_requests(prompts, [temperature], 1, 0, 12)
    requests = [replace(request, max_new_tokens=1 + number % 12) for number, request in enumerate(asked)]
    noted = TransformersEngine(target_model, tokenizer.pad_token_id).complete_batch(requests)
    texts = [(request.prompt_ids, answer.completion_ids) for request, answer in zip(requests, noted)]
    scores = Scorer(target_model, tokenizer.pad_token_id).score(texts)
    for (ids, logprobs), expected in zip(scores, noted, strict=True):
        np.testing.assert_array_equal(ids, expected.topk_ids)
        np.testing.assert_allclose(logprobs, expected.topk_logprobs, atol=1e-4)


def test_what_a_server_gave_is_kept(tmp_path, target_model, tokenizer, prompts) -> None:
    """Prevent the local copy's numbers from replacing those of the target that answered."""
    requests = list(make_requests(prompts[:3], [0.0], 1, 0, 4))
    rows = list(zip(requests, TransformersEngine(target_model, tokenizer.pad_token_id).complete_batch(requests)))
    rows[1] = (rows[1][0], replace(rows[1][1], topk_logprobs=rows[1][1].topk_logprobs - 5))
    bare = replace(rows[2][1], topk_ids=None, topk_logprobs=None)
    store = RowStore(tmp_path)
    store.write([*rows[:2], (rows[2][0], bare)], "server:vllm")
    (before,) = store.tables()
    Scorer(target_model, tokenizer.pad_token_id).score_store(store)
    (after,) = store.tables()
    assert after.slice(0, 2) == before.slice(0, 2)
    assert (before["topk_logprobs"].null_count, after["topk_logprobs"].null_count) == (1, 0)
    assert after.drop(["topk_ids", "topk_logprobs"]) == before.drop(["topk_ids", "topk_logprobs"])
