"""One server: how it is asked over HTTP, and what may go wrong."""

import asyncio
import logging
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2  # the client of huggingface_hub

from drafter_trainer.distillation.checks import check_completion
from drafter_trainer.distillation.requests import Request
from drafter_trainer.distillation.server_kinds import ServerKind
from drafter_trainer.distillation.store import Completion, Failure, is_cut_short
from drafter_trainer.errors import InputError

_REFUSED = (400, 413, 422)  # the request itself cannot be answered
_TIMEOUT = 600.0  # seconds to wait for an answer
_logger = logging.getLogger(__name__)


@dataclass(eq=False)
class ServerError(Exception):
    """Raise when a server gave no answer; another, or the same one later, may.

    Args:
        by_request (`bool`): Whether the request may be the cause.
        retry_after (`float`, *optional*, defaults to `0.0`): Seconds that the server asks for.
    """

    reason: str
    by_request: bool
    retry_after: float = 0.0


@dataclass(eq=False)
class Server:
    """One server and its state: requests in flight, failures, time of the next try.

    Args:
        key (`str`): Their key, which no message may show; empty if they want none.
    """

    url: str
    kind: ServerKind
    client: httpx2.AsyncClient
    key: str
    in_flight: int = 0
    failures: int = 0  # in a row
    rests_until: float = 0.0
    raw: bool | None = None  # whether its log-probabilities are of the raw distribution, when that is known
    cuts_short: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def complete(self, request: Request, body: dict[str, Any]) -> Completion | Failure:
        """Ask a request, of which `body` is the JSON.

        Returns:
            `Completion`, without log-probabilities if the server's are not of the raw distribution, or `Failure`.
        Raises:
            ServerError: If another server, or this one later, may answer.
            InputError: If it will never answer anything, as with a wrong key; the message shows no key.
        """
        # At temperatures 0 and 1 the distribution that is reported and the raw one are the same.
        raw = not self.kind.gives_logprobs or request.temperature in (0.0, 1.0) or await self._reports_raw(request)
        answer = await self._post(request, body)
        return answer if raw or isinstance(answer, Failure) else replace(answer, topk_ids=None, topk_logprobs=None)

    async def _reports_raw(self, request: Request) -> bool:
        """Tell whether it reports log-probabilities before it divides by the temperature.

        vLLM does by default, and not with --logprobs-mode processed_logprobs; SGLang does not by default, and does
        with SGLANG_RETURN_ORIGINAL_LOGPROB=1; llama.cpp does. No reply says how the server was started, so it is
        asked for one token twice: at temperature 0.25 the top 20 of a divided distribution spread four times as far.
        """
        async with self.lock:
            if self.raw is None:
                spreads = []
                for temperature in (1.0, 0.25):
                    probe = replace(request, temperature=temperature, max_new_tokens=1)
                    answer = await self._post(probe, self.kind.body(probe))
                    if isinstance(answer, Failure) or not answer.completion_ids or answer.topk_logprobs is None:
                        return False  # the next request tells
                    spreads.append(answer.topk_logprobs[0, 0] - answer.topk_logprobs[0, -1])
                self.raw = bool(spreads[1] < 2 * spreads[0])
                if not self.raw:
                    _logger.warning(
                        "%s reports log-probabilities after division by the temperature: only those of temperatures 0 "
                        "and 1 are kept",
                        self.url,
                    )
        return self.raw

    async def _post(self, request: Request, body: dict[str, Any]) -> Completion | Failure:
        try:
            async with asyncio.timeout(_TIMEOUT):
                response = await self.client.post(self.url + self.kind.path, json=body)
        except TimeoutError as error:
            raise ServerError(f"no answer within {_TIMEOUT:g} s", by_request=True) from error
        except httpx2.RequestError as error:
            raise ServerError(f"{type(error).__name__} {self._clean(str(error))}", by_request=False) from error
        status = response.status_code
        if status == 200:
            try:
                return self._checked(request, self.kind.read(response.json(), request))
            except InputError as error:
                raise InputError(
                    f"{self.url} gives answers that are not the target's: {error}; start it with the target's "
                    "checkpoint and the log-probabilities that it reports by default, or leave it out"
                ) from error
            except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
                reason = f"a reply that is none of {self.kind.name} ({self._clean(repr(error))})"
                raise ServerError(reason, by_request=True) from error
        said = self._clean(f"{response.reason_phrase} {response.text}")
        if status in _REFUSED:
            return Failure(f"refused by the servers with status {status}", said)
        if status in (408, 429) or status >= 500:
            wait = response.headers.get("Retry-After", "").strip()  # seconds; a date is not waited for
            retry_after = float(wait) if wait.isdecimal() else 0.0
            raise ServerError(f"{status} {said}", by_request=status == 500, retry_after=retry_after)
        raise InputError(f"{self.url}{self.kind.path} answers {status} {said}")

    def _checked(self, request: Request, answer: Completion | Failure) -> Completion | Failure:
        """Check an answer, and say once if this server's context is what ends long ones."""
        if isinstance(answer, Completion):
            check_completion(request, answer)
            if is_cut_short(request, answer) and not self.cuts_short:
                self.cuts_short = True
                _logger.warning(
                    "%s cut an answer after %d of %d tokens, at its own context: such rows say so in max_new_tokens",
                    self.url,
                    len(answer.completion_ids),
                    request.max_new_tokens,
                )
        return answer

    def _clean(self, said: str) -> str:
        """Put what was said on one short line without the key, which servers quote when they refuse it."""
        line = " ".join(said.split())
        return (line.replace(self.key, "***") if self.key else line)[:200]


def checked_url(url: str) -> str:
    """Return a server's address without `/v1`."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise InputError("a server's address is no URL: give one such as http://127.0.0.1:8000") from error
    if "@" in url:
        raise InputError("a server's address holds a password: give its key as OPENAI_API_KEY in the environment")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InputError(f"server {url} is no address: give one such as http://127.0.0.1:8000")
    return url.rstrip("/").removesuffix("/v1")
