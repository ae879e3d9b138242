"""The real `transformers serve` on the tiny target: text becomes flagged rows, which the local target scores."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from transformers import AutoModelForCausalLM
from transformers.utils.import_utils import is_serve_available

from drafter_trainer.distillation.collect import collect_completions
from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.distillation.requests import TOP_K
from drafter_trainer.distillation.scoring import Scorer
from drafter_trainer.distillation.server_kinds import SERVER_KINDS
from drafter_trainer.distillation.servers import ServerEngine
from drafter_trainer.distillation.store import RowStore
from drafter_trainer.serving.engines import start_engine
from tests.distillation.conftest import make_requests, stored_rows
from tests.distillation.test_engines import logprobs_of

pytestmark = pytest.mark.skipif(not is_serve_available(), reason="needs transformers[serving]")


COMMAND = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]


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
