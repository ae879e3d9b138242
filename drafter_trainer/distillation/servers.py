"""An engine that uses any number of servers over HTTP; some servers may be slow, overloaded or down."""

import asyncio
import logging
import math
import os
import random
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2  # the client of huggingface_hub

from drafter_trainer.distillation.collect import check_completion
from drafter_trainer.distillation.engines import Group
from drafter_trainer.distillation.requests import Completion, Failure, Request
from drafter_trainer.distillation.server_kinds import ServerKind
from drafter_trainer.errors import InputError

_REJECTED = (400, 413, 422)  # HTTP status codes of requests that the server can never complete
_TIMEOUT = 600.0  # seconds to wait for a completion
_CONNECT_TIMEOUT = 10.0  # seconds
_LONGEST_REST = 30.0  # seconds
_ATTEMPTS = 5  # for a request that makes servers fail
_logger = logging.getLogger(__name__)


class ServerEngine:
    """An engine that sends many requests at once to servers over HTTP.

    A server that fails is not used for a time, by exponential backoff with full jitter (Brooker, "Exponential Backoff
    And Jitter", AWS Architecture Blog). Then it gets one request at a time until it completes one. The other servers
    get its requests meanwhile. The servers' API key is read from OPENAI_API_KEY.

    Args:
        concurrency (`int`, *optional*, defaults to `32`): Maximum number of requests in flight at each server.
        patience (`float`, *optional*, defaults to `600.0`): Seconds without any available server, after which an error
            is raised.
        backoff (`float`, *optional*, defaults to `1.0`): Maximum seconds of the first pause, doubled at each failure.
    """

    def __init__(
        self,
        kind: ServerKind,
        urls: Sequence[str],
        concurrency: int = 32,
        patience: float = 600.0,
        backoff: float = 1.0,
    ) -> None:
        self.name = f"server:{kind.name}"
        self.kind = kind
        self.urls = [_checked_url(url) for url in urls]
        self.concurrency = concurrency
        self.patience = patience
        self.backoff = backoff
        self._key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise InputError(
                "OPENAI_API_KEY has characters that are not allowed in an HTTP header: set it again, or unset it"
            )

    def complete(self, batches: Iterable[Sequence[Request]]) -> Iterator[Group]:
        """Complete every request once, in the order of arrival, in groups of a batch's size."""
        with suppress(RuntimeError):  # the expected case: no running loop
            asyncio.get_running_loop()
            raise InputError(
                "servers cannot be used in a thread that runs an event loop, such as a notebook's: call "
                "await asyncio.to_thread(distill, ...)"
            )
        with asyncio.Runner() as runner:
            client = httpx2.AsyncClient(
                headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
                timeout=httpx2.Timeout(None, connect=_CONNECT_TIMEOUT),
                # Close idle connections before servers do (uvicorn: 5 s); otherwise a request may fail.
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2.0),
            )
            run = _Run(self, [_Server(url, self.kind, client, self._key) for url in self.urls], batches)
            try:
                while group := runner.run(run.next_group()):
                    yield tuple(zip(*group))
            except (InputError, KeyboardInterrupt):
                if run.finished:
                    yield tuple(zip(*run.finished))
                raise
            finally:
                runner.run(run.cancel())
                runner.run(client.aclose())


@dataclass(eq=False)
class _ServerError(Exception):
    """An error of a server; another server, or the same server later, may complete the request.

    Args:
        by_request (`bool`): Whether the request may be the cause.
        retry_after (`float`, *optional*, defaults to `0.0`): Seconds that the server asks to wait.
    """

    reason: str
    by_request: bool
    retry_after: float = 0.0


@dataclass(eq=False)
class _Server:
    """A server and its state. No message may contain its API key."""

    url: str
    kind: ServerKind
    client: httpx2.AsyncClient
    key: str
    in_flight: int = 0
    failures: int = 0  # in a row
    rests_until: float = 0.0
    raw: bool | None = None  # whether its log-probabilities are of the raw distribution, if known
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def complete(self, request: Request, body: dict[str, Any]) -> Completion | Failure:
        """Send a request with its JSON.

        Returns:
            `Completion`, without log-probabilities if the server's are not of the raw distribution, or `Failure`.
        Raises:
            _ServerError: If another server, or this one later, may complete the request.
            InputError: If the server can never complete anything, as with a wrong key.
        """
        # At temperatures 0 and 1, the reported distribution is the raw one.
        raw = not self.kind.gives_logprobs or request.temperature in (0.0, 1.0) or await self._reports_raw(request)
        completion = await self._post(request, body)
        keep = raw or isinstance(completion, Failure)
        return completion if keep else replace(completion, topk_ids=None, topk_logprobs=None)

    async def _reports_raw(self, request: Request) -> bool:
        """Return whether the server computes its log-probabilities before it divides logits by the temperature.

        vLLM does so unless it is started with --logprobs-mode processed_logprobs, SGLang only with
        SGLANG_RETURN_ORIGINAL_LOGPROB=1, and llama.cpp always. Replies do not state it, so two requests of one token
        are compared: if divided by a temperature of 0.25, the top 20 log-probabilities have four times the range.
        """
        async with self.lock:
            if self.raw is None:
                spreads = []
                for temperature in (1.0, 0.25):
                    probe = replace(request, temperature=temperature, max_new_tokens=1)
                    completion = await self._post(probe, self.kind.body(probe))
                    if isinstance(completion, Failure) or not completion.completion_ids or completion.topk_ids is None:
                        return False  # the next request tries again
                    spreads.append(completion.topk_logprobs[0, 0] - completion.topk_logprobs[0, -1])
                self.raw = bool(spreads[1] < 2 * spreads[0])
                if not self.raw:
                    _logger.warning(
                        "%s divides logits by the temperature: log-probabilities are stored only for 0 and 1",
                        self.url,
                    )
        return self.raw

    async def _post(self, request: Request, body: dict[str, Any]) -> Completion | Failure:
        try:
            async with asyncio.timeout(_TIMEOUT):
                response = await self.client.post(self.url + self.kind.path, json=body)
        except TimeoutError as error:
            raise _ServerError(f"no reply within {_TIMEOUT:g} s", by_request=True) from error
        except httpx2.RequestError as error:
            raise _ServerError(f"{type(error).__name__} {self._clean(str(error))}", by_request=False) from error
        status = response.status_code
        if status == 200:
            try:
                completion = self.kind.read(response.json(), request)
                if isinstance(completion, Completion):
                    check_completion(request, completion)
                return completion
            except InputError as error:
                raise InputError(
                    f"{self.url} does not return the target's completions: {error}; start it with the target's "
                    "checkpoint and its default log-probabilities, or leave it out"
                ) from error
            except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
                reason = f"not a reply of {self.kind.name} ({self._clean(repr(error))})"
                raise _ServerError(reason, by_request=True) from error
        message = self._clean(f"{response.reason_phrase} {response.text}")
        if status in _REJECTED:
            return Failure(f"rejected by the servers with status {status}", message)
        if status in (408, 429) or status >= 500:
            wait = response.headers.get("Retry-After", "").strip()  # seconds; a date is ignored
            retry_after = float(wait) if wait.isdecimal() else 0.0
            raise _ServerError(f"{status} {message}", by_request=status == 500, retry_after=retry_after)
        raise InputError(f"{self.url}{self.kind.path} returns {status} {message}")

    def _clean(self, message: str) -> str:
        """Return a message as one short line without the API key, which a server may quote."""
        line = " ".join(message.split())
        return (line.replace(self.key, "***") if self.key else line)[:200]


@dataclass
class _Entry:
    """A request to send."""

    request: Request
    body: dict[str, Any]
    failures: int = 0  # server failures that the request may have caused


class _Run:
    """The requests of one call of `ServerEngine.complete`, and their assignment to servers."""

    def __init__(self, engine: ServerEngine, servers: list[_Server], batches: Iterable[Sequence[Request]]) -> None:
        self.engine = engine
        self.servers = servers
        self.finished: list[tuple[Request, Completion | Failure]] = []
        self._entries = self._read(batches)
        self._read_all = False
        self._retries: deque[_Entry] = deque()
        self._tasks: dict[asyncio.Task[Completion | Failure], tuple[_Server, _Entry]] = {}
        self._size = 1
        self._down_since: float | None = None  # time since which all servers fail
        self._last_failure = ""

    def _read(self, batches: Iterable[Sequence[Request]]) -> Iterator[_Entry]:
        for batch in batches:
            self._size = max(self._size, len(batch))
            for request in batch:
                body = self.engine.kind.body(request)
                if isinstance(body, Failure):
                    self.finished.append((request, body))
                else:
                    yield _Entry(request, body)

    async def next_group(self) -> list[tuple[Request, Completion | Failure]]:
        """Wait for a group of completions of the size of a batch. The last group may be smaller; then it is empty."""
        while len(self.finished) < self._size:
            self._send()
            if self._read_all and not self._retries and not self._tasks:
                break
            await self._wait()
        group, self.finished = self.finished[: self._size], self.finished[self._size :]
        return group

    async def cancel(self) -> None:
        """Cancel the requests in flight."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _send(self) -> None:
        """Send requests to servers with free capacity, and one request to each server whose pause has ended."""
        rested = [server for server in self.servers if server.rests_until <= time.monotonic()]
        while free := [each for each in rested if each.in_flight < (1 if each.failures else self.engine.concurrency)]:
            entry = self._retries.popleft() if self._retries else next(self._entries, None)
            if entry is None:
                self._read_all = True
                return
            server = min(free, key=lambda server: (server.failures, server.in_flight))
            server.in_flight += 1
            task = asyncio.create_task(server.complete(entry.request, entry.body))
            self._tasks[task] = (server, entry)

    async def _wait(self) -> None:
        """Wait until a request or a server's pause ends; raise an error if all servers are down for too long."""
        now = time.monotonic()
        ends = [server.rests_until for server in self.servers if server.rests_until > now]
        if self._tasks:
            rest = min(ends) - now if ends else None
            done, _ = await asyncio.wait(self._tasks, timeout=rest, return_when=asyncio.FIRST_COMPLETED)
            self._handle(done)
        elif ends:
            end = math.inf if self._down_since is None else self._down_since + self.engine.patience
            await asyncio.sleep(min(*ends, end) - now)
            if time.monotonic() >= end:
                raise InputError(
                    f"no server was available for {self.engine.patience:g} s (last error: {self._last_failure}): the "
                    "completions so far are stored; run again when a server is available"
                )

    def _handle(self, done: Iterable[asyncio.Task[Completion | Failure]]) -> None:
        errors = []
        for task in done:
            server, entry = self._tasks.pop(task)
            server.in_flight -= 1
            error = task.exception()
            if error is None:
                self.finished.append((entry.request, task.result()))
                if server.failures:
                    _logger.warning("%s is available again", server.url)
                server.failures = 0
                self._down_since = None
            elif isinstance(error, _ServerError):
                self._set_aside(server, error)
                entry.failures += error.by_request
                if entry.failures == _ATTEMPTS:
                    failure = Failure(f"given up after {_ATTEMPTS} failures", error.reason)
                    self.finished.append((entry.request, failure))
                else:
                    self._retries.append(entry)
            else:
                errors.append(error)
        if errors:
            raise errors[0]

    def _set_aside(self, server: _Server, error: _ServerError) -> None:
        now = time.monotonic()
        if server.rests_until <= now:  # otherwise another request has failed for the same reason
            rest = min(_LONGEST_REST, self.engine.backoff * 2 ** min(server.failures, 10))
            server.rests_until = now + max(error.retry_after, random.uniform(0.0, rest))
            server.failures += 1
            _logger.warning("%s is paused: %s", server.url, error.reason)
        self._last_failure = f"{server.url}: {error.reason}"
        if self._down_since is None and all(other.failures for other in self.servers):
            self._down_since = now


def _checked_url(url: str) -> str:
    """Return a server's address without `/v1`."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise InputError("a server's address is not a URL: expected http://127.0.0.1:8000 or the like") from error
    if "@" in url:
        raise InputError("a server's address contains a password: set OPENAI_API_KEY in the environment instead")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InputError(f"{url} is not a server's address: expected http://127.0.0.1:8000 or the like")
    return url.rstrip("/").removesuffix("/v1")
