"""What the tests of real servers share: the rows that a server distills, held against the target's own."""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import psutil
import torch
from transformers import PreTrainedModel

from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.distillation.requests import Request
from drafter_trainer.distillation.server_kinds import SERVER_KINDS
from drafter_trainer.distillation.servers import ServerEngine
from drafter_trainer.serving.engines import RunningEngine
from drafter_trainer.targets import Target
from tests.distillation.test_engines import logprobs_of

# In languages whose characters are several tokens: what a server leaves out of its log-probabilities shows here alone.
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
    ((asked, answers),) = served.answers([requests_of(target, DISTILLED)])
    local, scored = TransformersEngine(model, tokenizer.pad_token_id), 0
    for one, answer in zip(asked, answers):
        (expected,) = local.answer([one])
        assert list(answer.response_ids) == list(expected.response_ids)
        if answer.topk_logprobs is not None:  # llama.cpp gives none where a token ends inside a character
            scores = logprobs_of(model, one, list(answer.response_ids)).topk(20)
            np.testing.assert_allclose(answer.topk_logprobs, scores.values, atol=0.05)
            assert np.asarray(answer.topk_ids)[:, 0].tolist() == list(answer.response_ids)
            scored += 1
    return scored


def check_killed(
    engine: str,
    start: Callable[[], AbstractContextManager[RunningEngine]],
    path: str,
    target: Target,
    model: PreTrainedModel,
    check: Callable[[RunningEngine], None] = lambda running: None,
) -> None:
    """Kill a server when it has answered one of its requests, start it again, and check that each has its own row.

    Args:
        start (callable): Starts the server, at the same address each time.
        path (`str`): Behind the server's address.
        check (callable, *optional*): Gets the server before it is killed.
    """
    tokenizer = target.load_tokenizer()
    requests = requests_of(target, [f"{text} {number}" for number in range(4) for text in DISTILLED])
    with start() as running:
        check(running)
        kind = SERVER_KINDS[engine](target.path, tokenizer)
        served = ServerEngine(kind, [f"{running.url}{path}"], concurrency=2, patience=600, backoff=0.2)
        groups = served.answers([[one] for one in requests])
        answered = [next(groups)]
        process = psutil.Process(running.process.pid)
        for each in (process, *process.children(recursive=True)):  # vLLM's engine is a process of its own
            each.kill()
        running.process.wait()
        ended = threading.Event()
        ready = threading.Thread(target=_serve_until, args=(start, ended))
        ready.start()
        try:
            answered += groups
        finally:
            ended.set()
            ready.join()
    pairs = [pair for group, said in answered for pair in zip(group, said)]
    assert sorted(one.source_id for one, _ in pairs) == sorted(one.source_id for one in requests)
    ends = target.end_ids(tokenizer)
    for one, answer in pairs:
        ids = list(answer.response_ids)
        assert len(ids) == TOKENS or ids[-1] in ends
        scores = logprobs_of(model, one, ids)
        chosen = scores.gather(-1, torch.tensor(ids)[:, None])[:, 0]
        assert (scores.max(dim=-1).values - chosen).max() < 0.05  # a server's caches may be in half precision


def _serve_until(start: Callable[[], AbstractContextManager[RunningEngine]], ended: threading.Event) -> None:
    with start():
        ended.wait()
