"""A server of the tiny target that speaks each kind's protocol over HTTP, and fails on command."""

import codecs
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.distillation.requests import Completion, Request
from tests.distillation.conftest import REQUEST

Mishap = Callable[[int, dict[str, Any]], str | None]
# transformers serve returns 422 for other keys, except for those it ignores, such as logprobs.
_TRANSFORMERS_KEYS = {"model", "prompt", "generation_config", "max_tokens", "seed", "stream"}


class CompletionServer:
    """A server of the tiny target on its own port.

    `mishap` is told the number of a request, from 1, and its JSON, and names what goes wrong: "die", "hang up",
    "stall", "garbage", or a status.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, mishap: Mishap | None = None
    ) -> None:
        self.engine = TransformersEngine(model, tokenizer.pad_token_id)
        self.tokenizer = tokenizer
        self.mishap = mishap or (lambda number, body: None)
        # vLLM's option: also "processed_logprobs", divided by the temperature, or "raw_logits"
        self.logprobs_mode = "raw_logprobs"
        self.retry_after: str | None = None
        self.authorizations: set[str | None] = set()
        self.received: list[dict[str, Any]] = []
        self.answered: list[tuple[tuple[int, ...], float, int]] = []  # prompt, temperature and seed
        self.most_at_once = 0
        self._at_once = 0
        self._port = 0
        self._counting, self._thinking, self.closed = threading.Lock(), threading.Lock(), threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The address, which stays the same after a restart."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self.closed.clear()
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", self._port), type("_Handler", (_Handler,), {"owner": self}), bind_and_activate=True
        )
        self._server.daemon_threads, self._server.block_on_close = True, False
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if not self.closed.is_set():
            self.closed.set()
            self._server.shutdown()
            self._server.server_close()

    def settle(self) -> None:
        """Wait until no request is in flight: those that a client has cancelled are still completed."""
        while self._at_once:
            time.sleep(0.01)

    @contextmanager
    def counted(self, body: dict[str, Any]) -> Iterator[int]:
        with self._counting:
            self.received.append(body)
            number = len(self.received)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield number
        finally:
            with self._counting:
                self._at_once -= 1

    def reply(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = self._request(body)
        with self._thinking:
            (completion,) = self.engine.complete_batch([request])
        if request.max_new_tokens > 1:  # no probe
            self.answered.append((request.prompt_ids, request.temperature, request.seed))
        if self.logprobs_mode == "raw_logits":
            completion = replace(completion, topk_logprobs=completion.topk_logprobs + 40)
        elif self.logprobs_mode == "processed_logprobs" and request.temperature not in (0.0, 1.0):
            scaled = completion.topk_logprobs / request.temperature
            completion = replace(completion, topk_logprobs=scaled - np.log(np.exp(scaled).sum(axis=-1, keepdims=True)))
        if "generation_config" in body:
            return self._text(completion)
        if path == "/completion":
            return self._llamacpp(completion, request, body)
        return {"/v1/completions": _write_vllm, "/generate": _write_sglang}[path](completion, len(request.prompt_ids))

    def _request(self, body: dict[str, Any]) -> Request:
        prompt = body.get("prompt", body.get("input_ids"))
        sampling = body.get("sampling_params", body)
        if "generation_config" in body:
            assert body.keys() <= _TRANSFORMERS_KEYS
            sampling = body | json.loads(body["generation_config"])
            sampling["temperature"] *= sampling["do_sample"]
            prompt = self.tokenizer(prompt)["input_ids"]
        return replace(
            REQUEST,
            prompt_ids=tuple(prompt),
            temperature=sampling["temperature"],
            seed=sampling.get("seed", sampling.get("sampling_seed")),
            max_new_tokens=sampling.get("max_tokens", sampling.get("max_new_tokens", sampling.get("n_predict"))),
        )

    def _text(self, completion: Completion) -> dict[str, Any]:
        text = self.tokenizer.decode(completion.completion_ids, skip_special_tokens=True)
        return {"choices": [{"text": text, "index": 0, "finish_reason": completion.finish_reason}]}

    def _llamacpp(self, completion: Completion, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """Return llama-server's reply, without log-probabilities of tokens that end inside a character."""
        characters, said = codecs.getincrementaldecoder("utf-8")("replace"), []
        for token, top in _pairs(completion):
            characters.decode(_bytes_of(self.tokenizer, token))
            if not characters.getstate()[0]:
                tops = [{"id": i, "logprob": p} for i, p in top]
                said.append({"id": token, "logprob": -1.0, "top_logprobs": tops})
        reply = {
            "content": "…",
            "tokens": completion.completion_ids if body.get("return_tokens") else [],
            "stop_type": {"stop": "eos", "length": "limit"}[completion.finish_reason],
            "truncated": False,
            "tokens_evaluated": len(request.prompt_ids),
            "tokens_predicted": len(completion.completion_ids),
        }
        return reply | ({"completion_probabilities": said} if said else {})


def _pairs(completion: Completion) -> Iterator[tuple[int, list[tuple[int, float]]]]:
    for token, ids, values in zip(
        completion.completion_ids, completion.topk_ids.tolist(), completion.topk_logprobs.tolist()
    ):
        yield token, list(zip(ids, values))


def _bytes_of(tokenizer: PreTrainedTokenizerFast, token: int) -> bytes:
    letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
    return bytes(letters[letter] for letter in tokenizer.convert_ids_to_tokens(token))


def _write_vllm(completion: Completion, prompt_tokens: int) -> dict[str, Any]:
    # The sampled token comes first, in addition to the 20 if it is not one of them; they are in no order.
    tops = [{f"token_id:{token}": -50.0} | {f"token_id:{i}": p for i, p in top} for token, top in _pairs(completion)]
    said = {"tokens": [f"token_id:{token}" for token in completion.completion_ids], "top_logprobs": tops}
    return {
        "choices": [{"index": 0, "text": "…", "logprobs": said, "finish_reason": completion.finish_reason}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": len(completion.completion_ids)},
    }


def _write_sglang(completion: Completion, prompt_tokens: int) -> dict[str, Any]:
    return {
        "text": "…",
        "meta_info": {
            "finish_reason": {"type": completion.finish_reason},
            "prompt_tokens": prompt_tokens,
            "completion_tokens": len(completion.completion_ids),
            "output_token_logprobs": [[-1.0, token, None] for token, _ in _pairs(completion)],
            "output_top_logprobs": [[[p, i, None] for i, p in top] for _, top in _pairs(completion)],
        },
    }


class _Handler(BaseHTTPRequestHandler):
    owner: CompletionServer
    protocol_version = "HTTP/1.1"
    # With Nagle's algorithm, a body sent after its headers waits some 40 ms for a delayed acknowledgement.
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        owner = self.owner
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        owner.authorizations.add(self.headers.get("Authorization"))
        with owner.counted(body) as number:
            mishap = owner.mishap(number, body)
            if mishap == "die":
                threading.Thread(target=owner.stop, daemon=True).start()
            if mishap in ("die", "stall"):
                owner.closed.wait()
            if owner.closed.is_set() or mishap == "hang up":
                self.close_connection = True
                return
            status = int(mishap) if mishap and mishap.isdigit() else 200
            quoted = f"what came with {self.headers.get('Authorization')}\nhas too many tokens"
            said = json.dumps(owner.reply(self.path, body)) if status == 200 else json.dumps({"error": quoted})
            written = b'{"choices": [{"text": 3' if mishap == "garbage" else said.encode()
        # Counted as ended before the client can read the reply, since it then sends the next request.
        self.send_response(status)
        self.send_header("Content-Length", str(len(written)))
        if owner.retry_after is not None and status != 200:
            self.send_header("Retry-After", owner.retry_after)
        try:
            self.end_headers()
            self.wfile.write(written)
        except ConnectionError:  # the client has given up
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Log nothing."""
