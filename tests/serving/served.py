"""Rows from real servers, compared with the target's own."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from transformers import PreTrainedModel

from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.distillation.requests import Request
from drafter_trainer.distillation.server_kinds import SERVER_KINDS
from drafter_trainer.distillation.servers import ServerEngine
from drafter_trainer.targets import Target
from tests.distillation.test_engines import logprobs_of

# In languages whose characters are several tokens, for which servers leave out log-probabilities.
DISTILLED = ["Write one sentence in Japanese about the sea.", "Answer with five emoji: 🚂🌊🍣", "Was ist ein Zug?"]
TOKENS = 24


def requests_of(target: Target, texts: Sequence[str]) -> list[Request]:
    chat = target.load_chat()
    request = Request((), 0.0, 0, TOKENS, "", "sample", "de-en", target.name, target.revision)
    return [
        replace(request, prompt_ids=tuple(chat.encode_prompt(text)), source_id=str(number))
        for number, text in enumerate(texts)
    ]


def check_rows(engine: str, url: str, target: Target, model: PreTrainedModel) -> int:
    """Compare a server's rows with the target's; return how many had log-probabilities."""
    tokenizer = target.load_tokenizer()
    served = ServerEngine(SERVER_KINDS[engine](target.path, tokenizer), [url], concurrency=2, patience=60)
    ((asked, completions),) = served.complete([requests_of(target, DISTILLED)])
    local, scored = TransformersEngine(model, tokenizer.pad_token_id), 0
    for one, completion in zip(asked, completions):
        (expected,) = local.complete_batch([one])
        assert list(completion.completion_ids) == list(expected.completion_ids)
        if completion.topk_logprobs is not None:  # llama.cpp gives none if a token ends inside a character
            scores = logprobs_of(model, one, list(completion.completion_ids)).topk(20)
            np.testing.assert_allclose(completion.topk_logprobs, scores.values, atol=0.05)
            assert np.asarray(completion.topk_ids)[:, 0].tolist() == list(completion.completion_ids)
            scored += 1
    return scored
