"""Let any number of servers answer, of which some may be slow, full or gone."""

import asyncio
import logging
import math
import os
import random
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx2

from drafter_trainer.distillation.requests import Request
from drafter_trainer.distillation.server import Server, ServerError, checked_url
from drafter_trainer.distillation.server_kinds import ServerKind
from drafter_trainer.distillation.store import Completion, Failure
from drafter_trainer.errors import InputError

_LONGEST_REST = 30.0  # seconds
_ATTEMPTS = 5  # of a request at which servers fail that answer otherwise
_CONNECT_TIMEOUT = 10.0  # seconds
_logger = logging.getLogger(__name__)


class ServerEngine:
    """An engine that sends many requests at once to servers over HTTP.

    A server that fails is set aside for a while that grows, with full jitter (Brooker, "Exponential Backoff And
    Jitter", AWS Architecture Blog), and then asked one request at a time until it answers; what it was asked goes to
    the others. The key of the servers, if they want one, is the environment's OPENAI_API_KEY and nothing else.

    Args:
        concurrency (`int`, *optional*, defaults to `32`): Requests in flight at each server, at most.
        patience (`float`, *optional*, defaults to `600.0`): Seconds without any server after which the run ends.
        backoff (`float`, *optional*, defaults to `1.0`): Seconds of the first rest, at most; each next is twice that.
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
        self.urls = [checked_url(url) for url in urls]
        self.concurrency = concurrency
        self.patience = patience
        self.backoff = backoff
        self._key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise InputError("OPENAI_API_KEY holds characters that no header carries: set it anew, or unset it")

    def complete(
        self, batches: Iterable[Sequence[Request]]
    ) -> Iterator[tuple[Sequence[Request], Sequence[Completion | Failure]]]:
        """Completion every request once, in the order in which the answers come, in groups of a batch's size."""
        with suppress(RuntimeError):  # as it must be
            asyncio.get_running_loop()
            raise InputError(
                "servers cannot be asked in a thread that runs an event loop, as a notebook's does: call "
                "await asyncio.to_thread(distill, ...)"
            )
        with asyncio.Runner() as runner:
            client = httpx2.AsyncClient(
                headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
                timeout=httpx2.Timeout(None, connect=_CONNECT_TIMEOUT),
                # Idle connections are given up before servers do (uvicorn: 5 s): one closed meanwhile fails.
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2.0),
            )
            servers = [Server(url, self.kind, client, self._key) for url in self.urls]
            run = _Run(self, servers, batches)
            try:
                while group := runner.run(run.collect()):
                    yield tuple(zip(*group))
            except (InputError, KeyboardInterrupt):
                if run.finished:
                    yield tuple(zip(*run.finished))
                raise
            finally:
                runner.run(run.give_up())
                runner.run(client.aclose())


@dataclass
class _Question:
    request: Request
    body: dict[str, Any]
    failures: int = 0  # that the request itself may have caused


class _Run:
    """The requests of one call, assigned to servers, and their completions."""

    def __init__(self, engine: ServerEngine, servers: list[Server], batches: Iterable[Sequence[Request]]) -> None:
        self.engine = engine
        self.servers = servers
        self.finished: list[tuple[Request, Completion | Failure]] = []
        self._questions = self._take(batches)
        self._taken_all = False
        self._waiting: deque[_Question] = deque()  # to be asked again
        self._tasks: dict[asyncio.Task[Completion | Failure], tuple[Server, _Question]] = {}
        self._size = 1
        self._gone_since: float | None = None
        self._last_failure = ""

    def _take(self, batches: Iterable[Sequence[Request]]) -> Iterator[_Question]:
        for batch in batches:
            self._size = max(self._size, len(batch))
            for request in batch:
                body = self.engine.kind.body(request)
                if isinstance(body, Failure):
                    self.finished.append((request, body))
                else:
                    yield _Question(request, body)

    async def collect(self) -> list[tuple[Request, Completion | Failure]]:
        """Wait for as many answers as a batch has requests; fewer are the last ones, and none the end."""
        while len(self.finished) < self._size:
            self._ask()
            if self._taken_all and not self._waiting and not self._tasks:
                break
            await self._wait()
        group, self.finished = self.finished[: self._size], self.finished[self._size :]
        return group

    async def give_up(self) -> None:
        """Leave what is in flight."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ask(self) -> None:
        """Give requests to servers that have room, and one to each that has rested after a failure."""
        rested = [server for server in self.servers if server.rests_until <= time.monotonic()]
        while free := [each for each in rested if each.in_flight < (1 if each.failures else self.engine.concurrency)]:
            question = self._waiting.popleft() if self._waiting else next(self._questions, None)
            if question is None:
                self._taken_all = True
                return
            server = min(free, key=lambda server: (server.failures, server.in_flight))
            server.in_flight += 1
            work = server.complete(question.request, question.body)
            self._tasks[asyncio.create_task(work)] = (server, question)

    async def _wait(self) -> None:
        """Wait until a request has ended or a server has rested, or until nothing can be hoped for."""
        now = time.monotonic()
        ends = [server.rests_until for server in self.servers if server.rests_until > now]
        if self._tasks:
            rest = min(ends) - now if ends else None
            done, _ = await asyncio.wait(self._tasks, timeout=rest, return_when=asyncio.FIRST_COMPLETED)
            self._note(done)
        elif ends:
            end = math.inf if self._gone_since is None else self._gone_since + self.engine.patience
            await asyncio.sleep(min(*ends, end) - now)
            if time.monotonic() >= end:
                raise InputError(
                    f"no server has answered for {self.engine.patience:g} s (the last: {self._last_failure}): what "
                    "was answered is kept; run again when one of them is up"
                )

    def _note(self, done: Iterable[asyncio.Task[Completion | Failure]]) -> None:
        ended = [(task, *self._tasks.pop(task)) for task in done]
        errors = []
        for task, server, question in ended:
            server.in_flight -= 1
            error = task.exception()
            if error is None:
                self.finished.append((question.request, task.result()))
                if server.failures:
                    _logger.warning("%s answers again", server.url)
                server.failures = 0
                self._gone_since = None
            elif isinstance(error, ServerError):
                self._set_aside(server, error)
                self._ask_again(question, error)
            else:
                errors.append(error)
        if errors:
            raise errors[0]

    def _set_aside(self, server: Server, failure: ServerError) -> None:
        now = time.monotonic()
        if server.rests_until <= now:  # the others of its requests fail with this one
            rest = min(_LONGEST_REST, self.engine.backoff * 2 ** min(server.failures, 10))
            server.rests_until = now + max(failure.retry_after, random.uniform(0.0, rest))
            server.failures += 1
            _logger.warning("%s is set aside: %s", server.url, failure.reason)
        self._last_failure = f"{server.url}: {failure.reason}"
        if self._gone_since is None and all(other.failures for other in self.servers):
            self._gone_since = now

    def _ask_again(self, question: _Question, failure: ServerError) -> None:
        question.failures += failure.by_request
        if question.failures == _ATTEMPTS:
            self.finished.append((question.request, Failure(f"given up after {_ATTEMPTS} failures", failure.reason)))
        else:
            self._waiting.append(question)
