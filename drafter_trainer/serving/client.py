"""A client of vLLM's and llama.cpp's servers: completions as they stream, and the servers' own counts of drafts."""

import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from drafter_trainer.errors import InputError

ENGINES = VLLM, LLAMACPP = ("vllm", "llamacpp")
_PATIENCE = 600  # seconds without a byte
_SAMPLE = re.compile(r"^(?:vllm|llamacpp):(\w+)(?:\{(.*)\})? ([-+.\w]+)$", re.MULTILINE)
_POSITION = re.compile(r'\bposition="(\d+)"')
_GREEDY = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


@dataclass(frozen=True)
class TimedCompletion:
    """A streamed completion.

    Args:
        token_ids (`list[int]`): Its tokens, the end token included.
        first_seconds (`float`): Time from the request to its first token.
        seconds (`float`): Time from the request to its last token.
    """

    token_ids: list[int]
    first_seconds: float
    seconds: float


@dataclass(frozen=True)
class DraftCounts:
    """What a server has counted of all its requests.

    Args:
        passes (`int`): Passes of the target, each counted once for every request in it.
        drafted (`int`): Tokens that it has verified.
        accepted (`int`): Those of them that it accepted.
        by_position (`tuple[int, ...]`): Accepted tokens at each position of a draft.
    """

    passes: int
    drafted: int
    accepted: int
    by_position: tuple[int, ...] = ()

    def __sub__(self, earlier: "DraftCounts") -> "DraftCounts":
        before = earlier.by_position + (0,) * (len(self.by_position) - len(earlier.by_position))
        return DraftCounts(
            self.passes - earlier.passes,
            self.drafted - earlier.drafted,
            self.accepted - earlier.accepted,
            tuple(now - then for now, then in zip(self.by_position, before)),
        )

    def __str__(self) -> str:
        return f"{self.accepted} of {self.drafted} drafted tokens accepted"


def read_counts(metrics: str) -> DraftCounts:
    """Read a server's counts out of its `/metrics`, over all engines of the server.

    vLLM times every pass of every request: the first as time to the first token, the others as time between tokens.
    llama.cpp counts no passes of requests; each yields one token besides those that were accepted.

    Args:
        metrics (`str`): In the text format of Prometheus.
    """
    totals: dict[str, float] = {}
    positions: dict[int, float] = {}
    for name, labels, value in _SAMPLE.findall(metrics):
        if name == "spec_decode_num_accepted_tokens_per_pos_total":
            position = int(_POSITION.search(labels).group(1))
            positions[position] = positions.get(position, 0.0) + float(value)
        else:
            totals[name] = totals.get(name, 0.0) + float(value)
    accepted = totals.get("spec_decode_num_accepted_tokens_total", 0.0)
    if "time_to_first_token_seconds_count" in totals:
        passes = totals["time_to_first_token_seconds_count"] + totals.get("inter_token_latency_seconds_count", 0.0)
    else:
        passes = totals.get("tokens_predicted_total", 0.0) - accepted
    by_position = [positions.get(place, 0.0) for place in range(max(positions, default=-1) + 1)]
    drafted = totals.get("spec_decode_num_draft_tokens_total", 0.0)
    return DraftCounts(int(passes), int(drafted), int(accepted), tuple(map(int, by_position)))


class EngineClient:
    """A client of one server; `model` is the target as the server names it."""

    def __init__(self, engine: str, url: str, model: str) -> None:
        self.engine, self.url, self.model = engine, url, model

    def is_ready(self) -> bool:
        """Return whether the server answers its health check."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                return True
        except (OSError, http.client.HTTPException):
            return False

    def version(self) -> str:
        place, key = ("/version", "version") if self.engine == VLLM else ("/props", "build_info")
        return str(json.loads(self._read(place)).get(key, ""))

    def counts(self) -> DraftCounts:
        return read_counts(self._read("/metrics"))

    def chat(self, message: str, tokens: int) -> None:
        """Let the server answer a user's message, greedily and beyond its end tokens."""
        request = {"model": self.model, "messages": [{"role": "user", "content": message}], "temperature": 0.0}
        self._post("/v1/chat/completions", request | {"max_tokens": tokens, "ignore_eos": True})

    def complete(
        self, prompt_ids: Sequence[int], tokens: int, end_ids: Collection[int] = (), stop: Sequence[str] = ()
    ) -> TimedCompletion:
        """Complete a prompt greedily, and time its first and its last token.

        Args:
            prompt_ids (`Sequence[int]`): The prompt; its parts that were read before are read again.
            stop (`Sequence[str]`): The characters of those that are no end tokens of the checkpoint: llama.cpp is told
                text, not ids.
        Raises:
            InputError: If the server refuses, or sends no token.
        """
        if self.engine == VLLM:
            request = {"model": self.model, "max_tokens": tokens, "return_token_ids": True, "repetition_penalty": 1.0}
            request |= {"stop_token_ids": sorted(end_ids), "stream": True}
            found = self._stream(_GREEDY | request | {"prompt": [*prompt_ids]})
        else:
            request = {"n_predict": tokens, "samplers": ["temperature"], "return_tokens": True, "cache_prompt": False}
            found = self._wait(_GREEDY | request | {"stop": [*stop], "prompt": [*prompt_ids]})
        if not found.token_ids:
            raise InputError(f"{self.engine} completed a prompt of {len(prompt_ids)} tokens with none")
        return found

    def margin(self, prompt_ids: Sequence[int]) -> float | None:
        """Return by how much the target prefers its likeliest next token to the second, in logits.

        Returns:
            `float`, or `None` where llama.cpp gives no log-probabilities: inside a character.
        """
        request = {"prompt": [*prompt_ids], "temperature": 0.0}
        if self.engine == VLLM:
            request |= {"model": self.model, "max_tokens": 1, "logprobs": 2, "return_tokens_as_token_ids": True}
            (choice,) = self._post("/v1/completions", request)["choices"]
            found = sorted(choice["logprobs"]["top_logprobs"][0].values(), reverse=True)
        else:
            reply = self._post("/completion", request | {"n_predict": 1, "n_probs": 2, "cache_prompt": False})
            said = reply.get("completion_probabilities")
            found = [top["logprob"] for top in said[0]["top_logprobs"]] if said else []
        return found[0] - found[1] if len(found) > 1 else None

    def _stream(self, request: dict) -> TimedCompletion:
        """Time a completion of vLLM by its events."""
        ids, started, first, last = [], time.perf_counter(), 0.0, 0.0
        for event in self._events("/v1/completions", request):
            if new := event["choices"][0].get("token_ids"):
                ids += new
                last = time.perf_counter() - started
                first = first or last
        return TimedCompletion(ids, first, last)

    def _wait(self, request: dict) -> TimedCompletion:
        """Time a completion of llama.cpp by what it says of it: its events leave out ids within a character."""
        started = time.perf_counter()
        reply = self._post("/completion", request)
        seconds = time.perf_counter() - started
        return TimedCompletion(reply["tokens"], max(seconds - reply["timings"]["predicted_ms"] / 1000, 0.0), seconds)

    def _events(self, path: str, request: dict) -> Iterator[dict]:
        """Send a request, and read the events of the reply."""
        with self._open(path, request) as reply:
            for line in reply:
                kind, _, said = line.decode().strip().partition(":")
                if kind == "error" or said.lstrip().startswith('{"error"'):
                    raise InputError(f"{self.engine} broke off a completion: {said[:300]}")
                if kind == "data" and said.strip() != "[DONE]":
                    yield json.loads(said)

    def _post(self, path: str, request: dict) -> dict:
        with self._open(path, request) as reply:
            return json.load(reply)

    def _read(self, path: str) -> str:
        with self._open(path) as reply:
            return reply.read().decode()

    @contextmanager
    def _open(self, path: str, content: dict | None = None) -> Iterator[http.client.HTTPResponse]:
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE) as reply:
                yield reply
        except urllib.error.HTTPError as error:
            said = " ".join(error.read().decode(errors="replace").split())
            raise InputError(f"{self.engine} refused a request ({error.code}): {said[:300]}") from error
        except (OSError, http.client.HTTPException) as error:
            raise InputError(f"{self.engine} did not answer, or broke off: {error!r}") from error
