"""The client of the engines' servers, against replies as vLLM 0.32 and llama.cpp send them."""

import http.server
import json
import threading
from collections.abc import Iterator
from typing import ClassVar

import pytest

from drafter_trainer.errors import InputError
from drafter_trainer.serving.client import DraftCounts, EngineClient, read_counts

VLLM_METRICS = """\
# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="a {b}"} 12.0
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="a {b}"} 5.0
vllm:spec_decode_num_accepted_tokens_total{engine="1",model_name="a {b}"} 1.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="a {b}",position="0"} 3.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="1",model_name="a {b}",position="0"} 1.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="a {b}",position="1"} 2.0
vllm:spec_decode_num_accepted_tokens_created{engine="0",model_name="a {b}"} 1.7e+09
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="a {b}"} 2.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="a {b}"} 2.0
vllm:inter_token_latency_seconds_count{engine="0",model_name="a {b}"} 9.0
"""
LLAMACPP_METRICS = """\
# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total 30
llamacpp:spec_decode_num_draft_tokens_total 20
llamacpp:spec_decode_num_accepted_tokens_total 12
llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="0"} 8
llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="1"} 4
"""


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (VLLM_METRICS, DraftCounts(11, 12, 6, (4, 2))),
        (LLAMACPP_METRICS, DraftCounts(18, 20, 12, (8, 4))),
        ("vllm:time_to_first_token_seconds_count 3.0\n", DraftCounts(3, 0, 0)),  # a server without a drafter
    ],
)
def test_counts_are_the_servers(metrics: str, expected: DraftCounts) -> None:
    """A counter that is missed, counted twice, or of one engine only, falsifies every published figure."""
    assert read_counts(metrics) == expected


def test_counts_of_a_measurement_are_differences() -> None:
    """The drafts of the warm-up do not count; later readings may have more positions."""
    before, after = DraftCounts(5, 4, 2, (2,)), DraftCounts(9, 10, 5, (3, 2))
    assert after - before == DraftCounts(4, 6, 3, (1, 2))
    assert str(after - before) == "3 of 6 drafted tokens accepted"


class Replies(http.server.BaseHTTPRequestHandler):
    """A server with a reply for each path, which keeps the requests."""

    replies: ClassVar[dict[str, str]] = {}
    asked: ClassVar[dict[str, dict]] = {}

    def log_message(self, *words: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        self.asked[self.path] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reply = self.replies.get(self.path)
        self.send_response(400 if reply is None else 200)
        self.end_headers()
        self.wfile.write((reply or "no\nsuch path").encode())


@pytest.fixture
def url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Replies)
    Replies.replies.clear()
    Replies.asked.clear()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def events(*chunks: object) -> str:
    return "".join(f"data: {json.dumps(each)}\n\n" for each in chunks) + "data: [DONE]\n\n"


def test_completion_of_vllm_is_its_ids_to_the_end(url: str) -> None:
    """All chunks make one completion, and the target's generation settings must not change it."""
    chunks = [{"choices": [{"text": "x", "token_ids": ids}]} for ids in ([5, 6], [], [7])]
    Replies.replies["/v1/completions"] = events(*chunks, {"choices": [{"text": "", "token_ids": None}]})
    found = EngineClient("vllm", url, "target").complete([1, 2], 8, {9, 3})
    assert found.token_ids == [5, 6, 7]
    assert 0 < found.first_seconds <= found.seconds
    asked = Replies.asked["/v1/completions"]
    assert asked["prompt"] == [1, 2]
    assert (asked["max_tokens"], asked["stop_token_ids"], asked["temperature"]) == (8, [3, 9], 0.0)
    assert asked["stream"]
    assert asked["repetition_penalty"] == 1.0


def test_completion_of_llamacpp_is_read_whole(url: str) -> None:
    """Its events lack ids that end inside a character, so the time to the first token comes from its timings."""
    Replies.replies["/completion"] = json.dumps({"tokens": [5, 9], "timings": {"predicted_ms": 0.001}})
    found = EngineClient("llamacpp", url, "target").complete([1, 2], 8, {9}, ["\n"])
    assert found.token_ids == [5, 9]
    assert found.seconds - found.first_seconds == pytest.approx(1e-6)
    asked = Replies.asked["/completion"]
    assert (asked["n_predict"], asked["stop"], asked["cache_prompt"]) == (8, ["\n"], False)


def test_margin_is_that_of_the_two_likeliest(url: str) -> None:
    """A margin of other tokens would excuse a wrong output."""
    logprobs = {"top_logprobs": [{"token_id:4": -2.0, "token_id:3": -0.5, "token_id:8": -3.0}]}
    Replies.replies["/v1/completions"] = json.dumps({"choices": [{"logprobs": logprobs}]})
    assert EngineClient("vllm", url, "target").margin([1]) == 1.5
    tops = [{"id": 3, "logprob": -0.5}, {"id": 4, "logprob": -0.75}]
    Replies.replies["/completion"] = json.dumps({"completion_probabilities": [{"top_logprobs": tops}]})
    assert EngineClient("llamacpp", url, "target").margin([1]) == 0.25
    Replies.replies["/completion"] = json.dumps({"tokens": [3]})  # inside a character
    assert EngineClient("llamacpp", url, "target").margin([1]) is None


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (None, r"vllm rejected a request \(400\): no such path"),
        (events(), "generated no tokens for a prompt of 2 tokens"),
        ('data: {"error": {"message": "out of memory"}}\n\n', "stopped a completion with an error.*out of memory"),
    ],
)
def test_failed_request_is_an_error(url: str, reply: str | None, message: str) -> None:
    """Otherwise a failed request counts as an empty completion, the fastest of all."""
    if reply is not None:
        Replies.replies["/v1/completions"] = reply
    with pytest.raises(InputError, match=message):
        EngineClient("vllm", url, "target").complete([1, 2], 8)
