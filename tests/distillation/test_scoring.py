"""Scoring: of completions without log-probabilities, of existing text, and of a real server's text."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.import_utils import is_serve_available

from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora.decontamination import Decontaminator
from drafter_trainer.corpora.reading import Document
from drafter_trainer.corpora.sample import sample_rows
from drafter_trainer.distillation import scoring
from drafter_trainer.distillation.collect import collect_completions
from drafter_trainer.distillation.engines import TextEngine, TransformersEngine
from drafter_trainer.distillation.prompts import Prompt, PromptMaker
from drafter_trainer.distillation.requests import TOP_K, Requests
from drafter_trainer.distillation.scoring import Scorer
from drafter_trainer.distillation.server_kinds import SERVER_KINDS
from drafter_trainer.distillation.servers import ServerEngine
from drafter_trainer.distillation.store import RowStore
from drafter_trainer.serving.engines import start_engine
from tests.distillation.conftest import PAIR, make_requests, stored_rows
from tests.distillation.test_engines import logprobs_of


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
    texts = [(request.prompt_ids, completion.completion_ids) for request, completion in zip(requests, noted)]
    scores = Scorer(target_model, tokenizer.pad_token_id).score(texts)
    for (ids, logprobs), expected in zip(scores, noted, strict=True):
        np.testing.assert_array_equal(ids, expected.topk_ids)
        np.testing.assert_allclose(logprobs, expected.topk_logprobs, atol=1e-4)


def test_what_a_server_gave_is_kept(tmp_path, target_model, tokenizer, prompts) -> None:
    """Prevent local log-probabilities from replacing those of the servers."""
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


ENGLISH = PAIR.target
TEXTS = [row["en"] for row in list(sample_rows("train"))[:12]]
LENGTH = 16
NOTHING = Decontaminator([])


def pieces(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    decontaminator: Decontaminator = NOTHING,
    limit: int | None = None,
    max_new_tokens: int = LENGTH,
) -> tuple[list[Prompt], Counter]:
    """Split texts into pieces of up to 16 tokens; return them and the counts of drops."""
    make = PromptMaker(ChatTokenizer(tokenizer), decontaminator, limit)
    documents = [Document(f"text/{number}", text) for number, text in enumerate(texts)]
    return list(make.texts(documents, "text", ENGLISH, max_new_tokens)), make.drops


def run(requests: Requests, scorer: Scorer, folder: Path) -> RowStore:
    store = RowStore(folder)
    collect_completions(requests, TextEngine(), store, 4, "English", [0, 1, 2])
    scorer.score_store(store)
    return store


@pytest.fixture
def requests(tokenizer: PreTrainedTokenizerFast) -> Requests:
    return make_requests(pieces(tokenizer, TEXTS)[0], [None], 3, 5, LENGTH)


@pytest.fixture
def scorer(target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Scorer:
    return Scorer(target_model, tokenizer.pad_token_id)


def test_pieces_are_the_text_and_nothing_else(tokenizer: PreTrainedTokenizerFast) -> None:
    """Prevent tokens lost between pieces, an added end token, and a start token in the text."""
    found, drops = pieces(tokenizer, TEXTS)
    assert {prompt.prompt_ids for prompt in found} == {(tokenizer.bos_token_id,)}
    assert max(len(prompt.completion_ids) for prompt in found) == LENGTH
    for number, text in enumerate(TEXTS):
        own = [prompt.completion_ids for prompt in found if prompt.source_id.startswith(f"text/{number}/")]
        assert [len(piece) for piece in own[:-1]] == [LENGTH] * (len(own) - 1)
        assert tokenizer.decode([token for piece in own for token in piece]) == text
    assert drops == {}


def test_repeated_and_contaminated_text_is_dropped_and_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    """Prevent two rows with one key, which the store takes for damage, and evaluation text in training."""
    found, drops = pieces(
        tokenizer, [TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[2]], decontaminator=Decontaminator([(TEXTS[1], True)])
    )
    alone, _ = pieces(tokenizer, [TEXTS[0], TEXTS[2]])
    assert [prompt.completion_ids for prompt in found] == [prompt.completion_ids for prompt in alone]
    reasons = {reason.split(" (")[0]: count for reason, count in drops.items()}
    assert reasons.pop("repeated text") == len(pieces(tokenizer, TEXTS[:1])[0])
    assert sum(reasons.values()) == 1


def test_rows_hold_the_text_and_what_the_target_thinks_of_it(tmp_path, requests, scorer) -> None:
    """Prevent scores of a wrong position or text, and text that is marked as a completion."""
    rows = {row["key"]: row for row in stored_rows(run(requests, scorer, tmp_path))}
    assert len(rows) == len(requests)
    for request in requests:
        row = rows[request.key]
        assert (tuple(row["prompt_ids"]), tuple(row["response_ids"])) == (request.prompt_ids, request.completion_ids)
        assert (row["engine"], row["temperature"], row["retokenized"]) == ("text", None, False)
        assert row["finish_reason"] == ("length" if len(row["response_ids"]) == LENGTH else "stop")
        expected = logprobs_of(scorer.model, request, row["response_ids"]).topk(TOP_K).values
        scored = torch.from_numpy(np.array(row["topk_logprobs"], np.float64))
        torch.testing.assert_close(scored, expected, atol=2e-2, rtol=0)  # stored in half precision


COMMAND = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]


@pytest.mark.skipif(not is_serve_available(), reason="needs transformers[serving]")
def test_text_from_a_real_server_becomes_scored_rows(tmp_path, free_port, target, prompts, tokenizer) -> None:
    """Prevent settings that the real server rejects, ignores or fills in."""
    model = AutoModelForCausalLM.from_pretrained(target.path)
    requests = make_requests(prompts[:3], [0.0, 1.0], 1, 0, 12)
    scorer = Scorer(model, tokenizer.pad_token_id)
    store, words, on_cpu = RowStore(tmp_path), [*COMMAND, target.path], ["--device", "cpu"]
    with start_engine("vllm", target.path, words, free_port, options=on_cpu) as running:  # it has the same endpoints
        kind = SERVER_KINDS["transformers"](target.path, tokenizer)
        engine = ServerEngine(kind, [f"{running.url}/v1"], concurrency=2, patience=600)
        collect_completions(requests, engine, store, 4, "English", tokenizer.all_special_ids)
    scorer.score_store(store)
    assert store.keys() == {request.key for request in requests}
    assert not store.drops()
    rows = {row["key"]: row for row in stored_rows(store)}
    local = TransformersEngine(model, tokenizer.pad_token_id)
    for request in requests:
        row = rows[request.key]
        assert row["retokenized"]
        expected = logprobs_of(model, request, row["response_ids"]).topk(TOP_K).values
        np.testing.assert_allclose(row["topk_logprobs"], expected, atol=0.02)  # stored in fp16
        (greedy,) = local.complete_batch([replace(request, temperature=0.0)])
        said, local_says = (
            tokenizer.decode(ids, skip_special_tokens=True) for ids in (row["response_ids"], greedy.completion_ids)
        )
        # The server ignores a temperature without do_sample: the completion at T = 1 would be the greedy one.
        assert (said == local_says) == (request.temperature == 0)
