"""A client of vLLM's and llama.cpp's servers: timed completions, and the servers' own counts of drafted tokens."""

import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

from drafter_trainer.decoding.metrics import count_shared
from drafter_trainer.errors import InputError

ENGINES = VLLM, LLAMACPP = ("vllm", "llamacpp")
_TIMEOUT = 600  # seconds without a byte
_SAMPLE = re.compile(r"^(?:vllm|llamacpp):(\w+)(?:\{(.*)\})? ([-+.\w]+)$", re.MULTILINE)
_POSITION = re.compile(r'\bposition="(\d+)"')
_GREEDY = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
_WARM_UP_TOKENS = 16
_COUNTER_DELAY = 0.5  # seconds: vLLM counts a step after it has sent the step's tokens


class TimedCompletion(NamedTuple):
    """Tokens of a completion, with the end token, and the seconds from the request to the first and last token."""

    token_ids: list[int]
    first_seconds: float
    seconds: float


@dataclass(frozen=True)
class DraftCounts:
    """A server's counts over all its requests."""

    passes: int  # target passes, each counted once for each of its requests
    drafted: int  # drafted tokens that were verified
    accepted: int
    by_position: tuple[int, ...] = ()  # accepted tokens at each position of a draft

    def __sub__(self, earlier: "DraftCounts") -> "DraftCounts":
        positions = zip_longest(self.by_position, earlier.by_position, fillvalue=0)
        drafted, accepted = self.drafted - earlier.drafted, self.accepted - earlier.accepted
        return DraftCounts(
            self.passes - earlier.passes, drafted, accepted, tuple(now - then for now, then in positions)
        )

    def __str__(self) -> str:
        return f"{self.accepted} of {self.drafted} drafted tokens accepted"


def read_counts(metrics: str) -> DraftCounts:
    """Read the counts of a server from its `/metrics`, in the text format of Prometheus.

    vLLM times every target pass of a request: the first as time to first token, the others as inter-token latency.
    llama.cpp does not count passes; each pass yields one token more than it accepts.
    """
    totals: Counter[str] = Counter()
    positions: Counter[int] = Counter()
    for name, labels, value in _SAMPLE.findall(metrics):
        totals[name] += float(value)
        if name == "spec_decode_num_accepted_tokens_per_pos_total":
            positions[int(_POSITION.search(labels).group(1))] += float(value)
    accepted = totals["spec_decode_num_accepted_tokens_total"]
    passes = totals["time_to_first_token_seconds_count"] + totals["inter_token_latency_seconds_count"]
    passes = passes or totals["tokens_predicted_total"] - accepted
    by_position = tuple(int(positions[place]) for place in range(max(positions, default=-1) + 1))
    return DraftCounts(int(passes), int(totals["spec_decode_num_draft_tokens_total"]), int(accepted), by_position)


class EngineClient:
    """A client of one server; `model` is the target's name in the server."""

    def __init__(self, engine: str, url: str, model: str) -> None:
        self.engine, self.url, self.model = engine, url, model

    def is_ready(self) -> bool:
        """Return whether the server's health check succeeds."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                return True
        except (OSError, http.client.HTTPException):
            return False

    def version(self) -> str:
        """Return the engine's version."""
        path, key = ("/version", "version") if self.engine == VLLM else ("/props", "build_info")
        return str(json.loads(self._read(path)).get(key, ""))

    def counts(self) -> DraftCounts:
        """Return the server's counts."""
        return read_counts(self._read("/metrics"))

    def chat(self, message: str, tokens: int) -> None:
        """Generate a greedy response to a message, past its end tokens."""
        request = {"model": self.model, "messages": [{"role": "user", "content": message}], "temperature": 0.0}
        self._read("/v1/chat/completions", request | {"max_tokens": tokens, "ignore_eos": True})

    def complete(
        self, prompt_ids: Sequence[int], tokens: int, end_ids: Collection[int] = (), stop: Sequence[str] = ()
    ) -> TimedCompletion:
        """Complete a prompt greedily, without cached prefixes, and time the first and the last token.

        `stop` has the texts of `end_ids` that are not end tokens of the checkpoint: llama.cpp takes text, not ids.
        """
        if self.engine == VLLM:
            request = {"model": self.model, "max_tokens": tokens, "return_token_ids": True, "repetition_penalty": 1.0}
            request |= {"stop_token_ids": sorted(end_ids), "stream": True}
            found = self._stream(_GREEDY | request | {"prompt": [*prompt_ids]})
        else:
            # Not streamed: llama.cpp's events leave out tokens that end inside a character.
            request = {"n_predict": tokens, "samplers": ["temperature"], "return_tokens": True, "cache_prompt": False}
            started = time.perf_counter()
            reply = self._read("/completion", _GREEDY | request | {"stop": [*stop], "prompt": [*prompt_ids]})
            seconds, reply = time.perf_counter() - started, json.loads(reply)
            first = max(seconds - reply["timings"]["predicted_ms"] / 1000, 0.0)
            found = TimedCompletion(reply["tokens"], first, seconds)
        if not found.token_ids:
            raise InputError(f"{self.engine} generated no tokens for a prompt of {len(prompt_ids)} tokens")
        return found

    def margin(self, prompt_ids: Sequence[int]) -> float | None:
        """Return the difference between the logits of the target's two most likely next tokens.

        It is `None` inside a character, where llama.cpp gives no log-probabilities.
        """
        request = {"prompt": [*prompt_ids], "temperature": 0.0}
        if self.engine == VLLM:
            request |= {"model": self.model, "max_tokens": 1, "logprobs": 2, "return_tokens_as_token_ids": True}
            (choice,) = json.loads(self._read("/v1/completions", request))["choices"]
            found = sorted(choice["logprobs"]["top_logprobs"][0].values(), reverse=True)
        else:
            request |= {"n_predict": 1, "n_probs": 2, "cache_prompt": False}
            tokens = json.loads(self._read("/completion", request)).get("completion_probabilities")
            found = [top["logprob"] for top in tokens[0]["top_logprobs"]] if tokens else []
        return found[0] - found[1] if len(found) > 1 else None

    def _stream(self, request: dict) -> TimedCompletion:
        """Time a completion of vLLM by the events of its stream."""
        ids, started, first, last = [], time.perf_counter(), 0.0, 0.0
        with self._open("/v1/completions", request) as response:
            for line in response:
                kind, _, data = (part.strip() for part in line.decode().partition(":"))
                if kind == "error" or data.startswith('{"error"'):
                    raise InputError(f"{self.engine} stopped a completion with an error: {data[:300]}")
                if kind != "data" or data == "[DONE]":
                    continue
                if new := json.loads(data)["choices"][0].get("token_ids"):
                    ids += new
                    last = time.perf_counter() - started
                    first = first or last
        return TimedCompletion(ids, first, last)

    def _read(self, path: str, request: dict | None = None) -> str:
        with self._open(path, request) as response:
            return response.read().decode()

    @contextmanager
    def _open(self, path: str, content: dict | None = None) -> Iterator[http.client.HTTPResponse]:
        """Send a request, by POST if it has content."""
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
                yield response
        except urllib.error.HTTPError as error:
            reason = " ".join(error.read().decode(errors="replace").split())
            raise InputError(f"{self.engine} rejected a request ({error.code}): {reason[:300]}") from error
        except (OSError, http.client.HTTPException) as error:
            raise InputError(f"{self.engine} did not respond, or its response ended early: {error!r}") from error


class Workload(NamedTuple):
    """The prompts that every server completes, by question id, and the limits of their completions."""

    prompts: Mapping[str, list[int]]
    tokens: int
    end_ids: frozenset[int]
    stop: tuple[str, ...] = ()


def measure_server(
    client: EngineClient,
    method: str,
    workload: Workload,
    concurrencies: Sequence[int],
    plain: Callable[[int], Mapping[str, list[int]]] | None = None,
) -> Iterator[dict[str, Any]]:
    """Complete all prompts, once for each number of concurrent requests.

    Args:
        method (`str`): Name of the server's method, for the records.
        plain (callable, *optional*): Returns plain decoding's token ids by question for a number of concurrent
            requests; outputs are compared with them.
    Yields:
        `dict`: A record for each number of requests: `method`, `requests_at_once`, `version`, `seconds`, `counts`, and
        `prompts` with `question_id`, `token_ids`, `seconds`, `first_pass_seconds` and `divergence`.
    """
    prompts, *limits = workload
    delay = _COUNTER_DELAY if client.engine == VLLM else 0.0
    client.complete(next(iter(prompts.values())), _WARM_UP_TOKENS, *limits[1:])
    for number in concurrencies:
        time.sleep(delay)
        before, started = client.counts(), time.perf_counter()
        with ThreadPoolExecutor(number) as pool:
            completions = list(pool.map(lambda ids: client.complete(ids, *limits), prompts.values()))
        seconds = time.perf_counter() - started
        time.sleep(delay)
        counts = client.counts() - before
        expected, records = plain(number) if plain else {}, []
        for (question, prompt), (token_ids, first_seconds, last_seconds) in zip(prompts.items(), completions):
            other, divergence = expected.get(question, token_ids), None
            if other != token_ids:
                position = count_shared(other, token_ids)
                divergence = {"position": position, "margin": client.margin(prompt + other[:position])}
            record = {"question_id": question, "token_ids": token_ids, "seconds": last_seconds}
            records.append(record | {"first_pass_seconds": first_seconds, "divergence": divergence})
        record = {"method": method, "requests_at_once": number, "version": client.version(), "seconds": seconds}
        yield record | {"counts": asdict(counts), "prompts": records}
