"""Engines over HTTP: rows equal those of the local target, and no server loses or repeats a row."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from drafter_trainer.distillation import servers
from drafter_trainer.distillation.collect import collect_completions
from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.distillation.prompts import Prompt
from drafter_trainer.distillation.requests import Completion, Request, Requests
from drafter_trainer.distillation.server_kinds import SERVER_KINDS
from drafter_trainer.distillation.servers import ServerEngine
from drafter_trainer.distillation.store import RowStore
from drafter_trainer.errors import InputError
from tests.conftest import make_model
from tests.distillation.completion_server import CompletionServer, Mishap
from tests.distillation.conftest import make_requests, stored_rows

BATCH = 4
KEY = "sk-planted-7f3a91"


def engine_of(
    urls: Sequence[str], tokenizer: PreTrainedTokenizerFast, kind: str = "vllm", **given: Any
) -> ServerEngine:
    """Make an engine that waits for nothing long."""
    settings = {"concurrency": 3, "patience": 600.0, "backoff": 0.05} | given
    return ServerEngine(SERVER_KINDS[kind]("tests/tiny-target", tokenizer), urls, **settings)


def run(requests: Requests, engine: Any, folder: Path) -> RowStore:
    store = RowStore(folder)
    collect_completions(requests, engine, store, BATCH, "English", [0, 1, 2])
    return store


def keys(requests: Requests) -> set[str]:
    return {request.key for request in requests}


@pytest.fixture(scope="module")
def requests(prompts: list[Prompt]) -> Requests:
    return make_requests(prompts[:8], [0.0, 1.0], 1, 0, 8)


def serve(target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Iterator[CompletionServer]:
    """A server without errors, unless a test sets `mishap`."""
    with CompletionServer(target_model, tokenizer) as running:
        yield running


server, other = pytest.fixture(serve, name="server"), pytest.fixture(serve, name="other")


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of each rest of a run without requests in flight, on a clock that only rests advance."""
    taken, sleep = [], asyncio.sleep

    async def rest(seconds: float) -> None:
        taken.append(seconds)
        await sleep(0)

    monkeypatch.setattr(servers, "time", SimpleNamespace(monotonic=lambda: sum(taken)))
    monkeypatch.setattr(servers.asyncio, "sleep", rest)
    return taken


@pytest.mark.parametrize("kind", ["vllm", "sglang", "llamacpp"])
def test_greedy_rows_are_those_of_the_local_target(server, requests, target_model, tokenizer, kind) -> None:
    """Prevent ids shifted or left out, log-probabilities in another order, a lost end token."""
    greedy = [request for request in requests if request.temperature == 0]
    free = TransformersEngine(target_model, tokenizer.pad_token_id).complete_batch(greedy)
    target_model.generation_config.eos_token_id = free[0].completion_ids[4]
    server.engine = local = TransformersEngine(target_model, tokenizer.pad_token_id)
    expected = dict(zip(greedy, local.complete_batch(greedy)))
    answered: dict[Request, Completion] = {}
    for group, completions in engine_of([server.url], tokenizer, kind).complete([greedy]):
        answered |= dict(zip(group, completions))
    assert answered.keys() == set(greedy)
    for request, completion in answered.items():
        assert completion.completion_ids == expected[request].completion_ids
        assert completion.finish_reason == expected[request].finish_reason
        assert not completion.retokenized
        if completion.topk_logprobs is not None:
            assert completion.topk_ids[:, 0].tolist() == completion.completion_ids
            np.testing.assert_allclose(completion.topk_logprobs, expected[request].topk_logprobs, atol=1e-4)
            (alone,) = local.complete_batch([request])  # a batch may swap two equally likely ids
            np.testing.assert_array_equal(completion.topk_ids, alone.topk_ids)
    assert {completion.finish_reason for completion in expected.values()} == {"stop", "length"}
    # llama.cpp reports nothing of tokens that end inside a character.
    bare = [completion.topk_logprobs is None for completion in answered.values()]
    assert set(bare) == ({True, False} if kind == "llamacpp" else {False})


def test_completions_end_where_the_target_is_told_to_stop(tmp_path, server, requests, tokenizer) -> None:
    """Prevent completions that go on after a stop string, such as the end of a line."""
    engine = engine_of([server.url], tokenizer)
    free = stored_rows(run(requests, engine, tmp_path / "free"))
    stop = free[0]["response_ids"][3]
    store = RowStore(tmp_path / "stopped")
    collect_completions(requests, engine, store, BATCH, "English", [0, 1, 2], end_ids=[stop])
    stopped = stored_rows(store)
    assert stopped != free
    for row, whole in zip(stopped, free, strict=True):
        ids = whole["response_ids"]
        length = ids.index(stop) + 1 if stop in ids else len(ids)
        assert row["response_ids"] == ids[:length]
        assert row["topk_ids"] == whole["topk_ids"][:length]
        assert row["finish_reason"] == ("stop" if stop in ids else whole["finish_reason"])


def test_a_server_whose_rows_are_wrong_is_rejected_at_once(tmp_path, server, requests, tokenizer, monkeypatch) -> None:
    """Prevent logits, another model's log-probabilities or lost tokens in the store."""

    def shift(reply: dict[str, Any]) -> None:
        tops = reply["choices"][0]["logprobs"]["top_logprobs"]
        tops[:] = tops[1:] + tops[:1]

    def lose(reply: dict[str, Any]) -> None:
        for values in reply["choices"][0]["logprobs"].values():
            values.pop()

    def add_start(reply: dict[str, Any]) -> None:
        reply["usage"]["prompt_tokens"] += 1

    faults = {
        lambda reply: None: r"sum to \S+, expected at most 1",  # raw logits
        shift: r"\d of the 8 tokens of a greedy completion are not the most likely",
        lose: "it generated 8 tokens, but 7 were received",
        add_start: r"it read a prompt of \d+ tokens, but \d+ were sent",
    }
    write = server.reply
    for number, (spoil, said) in enumerate(faults.items()):
        server.logprobs_mode = "raw_logits" if number == 0 else "raw_logprobs"

        def spoiled(path: str, body: dict[str, Any], spoil: Any = spoil) -> dict[str, Any]:
            reply = write(path, body)
            spoil(reply)
            return reply

        monkeypatch.setattr(server, "reply", spoiled)
        with pytest.raises(InputError, match=rf"{server.url} does not return the target's completions: .*{said}"):
            run(requests, engine_of([server.url], tokenizer), tmp_path)
    assert not RowStore(tmp_path).keys()


SAMPLING = {"temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty"}


@pytest.mark.parametrize("kind", ["vllm", "sglang", "llamacpp"])
def test_every_sampling_setting_is_stated(tokenizer: PreTrainedTokenizerFast, requests: Requests, kind: str) -> None:
    """Prevent a server's defaults, taken from the target's generation_config.json, from narrowing the sampling."""
    asked = list(requests)
    body = SERVER_KINDS[kind]("served-name", tokenizer).body(asked[-1])
    sampling = body.get("sampling_params", body)
    assert sampling.keys() >= SAMPLING | {"repeat_penalty" if kind == "llamacpp" else "repetition_penalty"}
    assert sampling["temperature"] == asked[-1].temperature
    assert (sampling["top_p"], sampling["min_p"]) == (1.0, 0.0)
    assert sampling["top_k"] == (-1 if kind == "sglang" else 0)
    seeds = {SERVER_KINDS["vllm"]("served-name", tokenizer).body(request)["seed"] for request in requests}
    assert len(seeds) == len(requests)
    assert all(0 <= seed < 1 << 31 for seed in seeds)


MISHAPS: dict[str, Mishap] = {
    "dies": lambda number, body: "die" if number == 5 else None,
    "hangs up": lambda number, body: "hang up" if number % 3 == 1 else None,
    "stalls": lambda number, body: "stall" if number == 4 else None,
    "is full": lambda number, body: "429" if number in (2, 3, 9) else None,
    "fails": lambda number, body: "500" if number in (1, 2, 6, 7) else None,
    "talks nonsense": lambda number, body: "garbage" if number in (1, 5, 6) else None,
}


def compared(store: RowStore) -> list[list[Any]]:
    columns = ("key", "response_ids", "finish_reason", "engine", "retokenized")
    return [[row[column] for column in columns] for row in stored_rows(store)]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, tokenizer, requests: Requests) -> list[list[Any]]:
    """The rows of a server without errors."""
    with CompletionServer(make_model(tokenizer), tokenizer) as running:
        return compared(run(requests, engine_of([running.url], tokenizer), tmp_path_factory.mktemp("calm")))


@pytest.mark.parametrize("mishap", MISHAPS)
def test_whatever_a_server_does_the_rows_are_the_same(
    tmp_path, server, other, requests, tokenizer, calm, monkeypatch, mishap
) -> None:
    """Prevent rows that are lost or repeated, or that come from a faulty reply."""
    server.mishap = MISHAPS[mishap]
    monkeypatch.setattr(servers, "_TIMEOUT", 2.0 if mishap == "stalls" else 600.0)
    store = run(requests, engine_of([server.url, other.url], tokenizer), tmp_path / "servers")
    assert store.keys() == keys(requests)
    assert not store.drops()
    assert compared(store) == calm


def test_a_server_that_comes_back_is_asked_again(server, other, requests, tokenizer, monkeypatch) -> None:
    """Prevent a server that was restarted from standing idle for the rest of the run."""
    monkeypatch.setattr(servers, "_LONGEST_REST", 0.1)
    server.stop()
    back = threading.Event()
    server.mishap = lambda number, body: back.set() if number > 1 else None  # the first one tries it
    other.mishap = lambda number, body: None if number <= 7 or back.wait() else "500"
    engine = engine_of([server.url, other.url], tokenizer, concurrency=1)
    completions = engine.complete([[request] for request in requests])
    for _ in range(6):
        next(completions)
    assert not server.received
    server.start()
    rest = [request.key for group, _ in completions for request in group]
    assert len(rest) == len(requests) - 6
    assert server.answered


def test_a_server_is_left_alone_as_long_as_it_asks(server, requests, tokenizer, rests) -> None:
    """Prevent requests to an overloaded server, which keep it overloaded."""
    server.mishap, server.retry_after = lambda number, body: "429" if number == 1 else None, "7"
    engine = engine_of([server.url], tokenizer, concurrency=1)
    assert len(list(engine.complete([list(requests)[:3]]))) == 1
    assert rests == [7.0]


def test_never_more_than_allowed_is_in_flight_or_read_ahead(server, other, requests, tokenizer) -> None:
    """Prevent a run that floods its servers, uses only one, or reads all requests at once."""
    taken = answered = 0

    def batches() -> Iterator[list[Request]]:
        nonlocal taken
        for batch in requests.batches(BATCH):
            assert taken - answered <= 2 * 3 + 2 * BATCH
            taken += len(batch)
            yield batch

    gate = threading.Barrier(6)
    server.mishap = other.mishap = lambda number, body: None if number > 3 or gate.wait() >= 0 else "500"
    for group, _ in engine_of([server.url, other.url], tokenizer).complete(batches()):
        answered += len(group)
    assert answered == taken == len(requests)
    assert server.most_at_once == other.most_at_once == 3


def test_an_interrupt_keeps_what_was_answered_and_asks_for_the_rest(tmp_path, server, requests, tokenizer) -> None:
    """Prevent Ctrl-C from losing completions that fill no shard yet, and a resumed run from repeating them."""
    server.mishap = lambda number, body: os.kill(os.getpid(), signal.SIGINT) if number == 7 else None
    # A shell that starts the tests in the background has it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(requests, engine_of([server.url], tokenizer, concurrency=1), tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    stored = RowStore(tmp_path).keys()
    assert len(stored) == 6  # a batch and a half
    server.settle()
    server.answered.clear()
    store = run(requests, engine_of([server.url], tokenizer), tmp_path)
    assert store.keys() == keys(requests)
    missing = [request for request in requests if request.key not in stored]
    assert len(server.answered) == len(missing)
    asked = {(prompt, temperature) for prompt, temperature, _ in server.answered}
    assert asked == {(request.prompt_ids, request.temperature) for request in missing}
    server.answered.clear()
    run(requests, engine_of([server.url], tokenizer), tmp_path)
    assert not server.answered


def test_when_all_servers_are_gone_the_run_ends_with_one_line(tmp_path, server, requests, tokenizer, rests) -> None:
    """Prevent a run that waits forever, and one that discards earlier completions."""
    server.mishap = lambda number, body: "die" if number == 12 else None
    engine = engine_of([server.url], tokenizer, patience=0.6, concurrency=1)
    with pytest.raises(InputError, match=r"no server was available for 0\.6 s .*completions so far are stored"):
        run(requests, engine, tmp_path)
    assert len(RowStore(tmp_path).keys()) == 11
    assert sum(rests) == pytest.approx(0.6)


def test_what_servers_refuse_for_good_is_dropped_and_counted(tmp_path, server, requests, tokenizer) -> None:
    """Prevent one prompt that is too long for the servers from ending a run, or from endless retries."""
    lengths = [len(request.prompt_ids) for request in requests]
    longest = max(lengths)
    server.mishap = lambda number, body: "400" if len(body["prompt"]) == longest else None
    store = run(requests, engine_of([server.url], tokenizer), tmp_path)
    assert store.drops() == {"rejected by the servers with status 400 (English)": lengths.count(longest)}
    assert store.keys() == keys(requests)
    assert store.count()["rows"] == len(requests) - lengths.count(longest)
    before = len(server.received)
    run(requests, engine_of([server.url], tokenizer), tmp_path)
    assert len(server.received) == before


def test_when_everything_is_rejected_nothing_is_dropped(tmp_path, server, requests, tokenizer) -> None:
    """Prevent a setting that servers reject from marking a whole corpus as dropped."""
    server.mishap = lambda number, body: "400"
    with pytest.raises(InputError, match=r"the first 4 requests were all rejected .*status 400: .*too many tokens"):
        run(requests, engine_of([server.url], tokenizer), tmp_path)
    assert not RowStore(tmp_path).keys()


def test_a_request_at_which_servers_fail_is_given_up(tmp_path, server, requests, tokenizer) -> None:
    """Prevent endless retries of a prompt that makes the servers fail."""
    bad = list(next(iter(requests)).prompt_ids)
    server.mishap = lambda number, body: "500" if body["prompt"] == bad and body["temperature"] == 0 else None
    store = run(requests, engine_of([server.url], tokenizer, concurrency=2), tmp_path)
    assert store.drops() == {"given up after 5 failures (English)": 1}
    assert store.keys() == keys(requests)
    assert sum(body["prompt"] == bad and body["temperature"] == 0 for body in server.received) == 5


@pytest.mark.parametrize("status", ["400", "401", "500", "503", None])
def test_the_key_reaches_the_servers_and_nothing_else(
    tmp_path, server, requests, tokenizer, monkeypatch, caplog, capsys, rests, status
) -> None:
    """Prevent a key that a server quotes in its refusal from reaching errors, logs or files."""
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    caplog.set_level(logging.DEBUG)
    server.mishap = lambda number, body: status if status != "400" or number > 3 else None
    engine = engine_of([server.url], tokenizer, patience=0.3)
    said = ""
    try:
        run(requests, engine, tmp_path)
    except InputError as error:
        said = f"{error} {error.__cause__} {error.__context__}"
    assert bool(said) == (status in ("401", "500", "503"))
    assert status not in ("401", "500", "503") or "***" in said
    assert server.authorizations == {f"Bearer {KEY}"}
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    printed = capsys.readouterr()
    assert KEY not in said + caplog.text + printed.out + printed.err + repr(vars(engine.kind))
    assert KEY.encode() not in files


@pytest.mark.parametrize(
    ("url", "key"),
    [(url, "secret") for url in ("127.0.0.1:8000", "ftp://host", "http://", "http://me:secret@host", "http://[::1")]
    + [("http://127.0.0.1:9", "secret\x07bell"), ("http://127.0.0.1:9", "secreté")],
)
def test_addresses_and_keys_are_checked(tokenizer, monkeypatch, url, key) -> None:
    """Prevent waiting for a mistyped address, recording its password, and quoting a key that no header carries."""
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(InputError, match="address" if key == "secret" else "OPENAI_API_KEY") as raised:
        engine_of([url], tokenizer)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("mode", ["raw_logprobs", "processed_logprobs"])
def test_log_probabilities_that_are_not_raw_are_left_out(server, prompts, tokenizer, mode) -> None:
    """Prevent training on distributions that the server divided by the temperature before it reported them."""
    server.logprobs_mode = mode
    requests = make_requests(prompts[:3], [0.0, 0.5, 1.0], 1, 0, 8)
    completions: dict[Request, Completion] = {}
    for group, given in engine_of([server.url], tokenizer).complete([requests]):
        completions |= dict(zip(group, given))
    assert len(completions) == 9
    for request, completion in completions.items():
        assert (completion.topk_logprobs is None) == (mode != "raw_logprobs" and request.temperature == 0.5)
        assert completion.completion_ids
    assert sum(body["max_tokens"] == 1 for body in server.received) == 2
