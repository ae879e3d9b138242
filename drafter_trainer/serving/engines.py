"""Start an engine with a drafter, and find out at once whether the drafter is of any use to it."""

import json
import logging
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import drafter_trainer
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.errors import InputError
from drafter_trainer.serving.drafter import describe_whole_drafter
from drafter_trainer.serving.vllm import PROPOSER

ENGINES = ("vllm", "llamacpp")
WHOLE, NETWORK = PARTS = ("whole", "network")
PROBE_TOKENS = 128  # of one completion, after which the acceptance is judged
LEAST_ACCEPTANCE = 0.01  # of the drafted tokens; random tokens are accepted less often
_LONGEST_WHOLE, _LONGEST_NETWORK = 12, 8
_STEP_SHARE = 0.1  # of a verification pass: one step of the network with what an engine does around it
_UNKNOWN_ALPHA = 0.55
_START_SECONDS = 900
_COUNTER = re.compile(r"^vllm:spec_decode_num_(draft_tokens|accepted_tokens)_total(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Acceptance:
    """What became of drafted tokens.

    Args:
        drafted (`int`): Tokens that the engine has verified.
        accepted (`int`): Those of them that stand in the output.
    """

    drafted: int
    accepted: int

    def __str__(self) -> str:
        return f"{self.accepted} of {self.drafted} drafted tokens accepted"


def choose_draft_length(description: DrafterDescription, part: str) -> int:
    """Choose how many tokens an engine drafts in one round at most.

    The stock loop's length in `drafter.json` is that of transformers on the machine that tuned it, often 1. The whole
    drafter drafts less where less pays, and is given the length that tuning found for its loop, 12 at most. The
    network alone drafts the length n that maximizes (1 - α^(n+1)) / ((1 - α)(1 + n c)) for the expected α of its
    finetuning and steps that take a tenth of a verification pass.

    Args:
        part (`str`): "whole" or "network", see `vllm_config`.
    Source: Leviathan et al., arXiv 2211.17192, theorem 3.8
    """
    if part == WHOLE:
        return min(int(description.loop.get("longest_draft", _LONGEST_WHOLE)), _LONGEST_WHOLE)
    alpha = description.training.get("finetune", {}).get("eval_expected_alpha", _UNKNOWN_ALPHA)
    alpha = min(max(float(alpha), 0.0), 0.99)
    return max(
        range(1, _LONGEST_NETWORK + 1),
        key=lambda tokens: (1 - alpha ** (tokens + 1)) / ((1 - alpha) * (1 + tokens * _STEP_SHARE)),
    )


def vllm_config(
    drafter: str, draft_length: int, revision: str | None = None, part: str = WHOLE
) -> dict[str, dict[str, object]]:
    """Return vLLM's settings for a drafter, by the names of its options.

    Args:
        drafter (`str`): Hub id or folder.
        draft_length (`int`): Tokens drafted in one round at most.
        revision (`str`, *optional*): Commit on the Hub.
        part (`str`, *optional*, defaults to `"whole"`): "whole" drafts with lookup, table and network, through
            `serving.vllm.DrafterProposer`; "network" with the network alone, as vLLM's own `draft_model`.
    """
    if part == NETWORK:
        own = {"method": "draft_model", "model": drafter} | ({"revision": revision} if revision else {})
        return {"speculative_config": own | {"num_speculative_tokens": draft_length}}
    return {
        "speculative_config": {"method": "custom_class", "model": PROPOSER, "num_speculative_tokens": draft_length},
        "additional_config": {"drafter": drafter} | ({"drafter_revision": revision} if revision else {}),
    }


def vllm_command(python: str, target: str, config: dict[str, dict[str, object]]) -> list[str]:
    """Return the words that start vLLM's server; `vllm serve` does the same where it is installed whole."""
    words = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", target]
    for name, value in config.items():
        words += [f"--{name.replace('_', '-')}", json.dumps(value)]
    return words


def llamacpp_command(target_gguf: str, drafter_gguf: str, draft_length: int) -> list[str]:
    """Return the words that start llama.cpp's server with a drafter's network."""
    words = ["llama-server", "--model", target_gguf, "--spec-type", "draft-simple", "--spec-draft-model", drafter_gguf]
    return [*words, "--spec-draft-n-max", str(draft_length)]


class RunningEngine:
    """A server that was started here.

    Args:
        engine (`str`): One of `ENGINES`.
        process (`subprocess.Popen`): The server.
        url (`str`): Its address.
        model (`str`): The target, as the server names it.
    """

    def __init__(self, engine: str, process: subprocess.Popen, url: str, model: str) -> None:
        self.engine, self.process, self.url, self.model = engine, process, url, model

    def wait_until_ready(self, seconds: float = _START_SECONDS) -> None:
        """Wait for the server.

        Raises:
            InputError: If it ends, or does not get ready in time.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise InputError(f"{self.engine} ended with status {self.process.returncode}: see what it said above")
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        raise InputError(f"{self.engine} was not ready after {seconds:.0f} s: see what it said above")

    def complete(self, prompt: str, tokens: int) -> dict:
        """Let the server answer a user's message, greedily and beyond its end tokens, and return its reply."""
        request = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0.0}
        request |= {"max_tokens": tokens, "ignore_eos": True}
        return self._post("/v1/chat/completions", request)

    def check_acceptance(self, prompts: Sequence[str], tokens: int = PROBE_TOKENS) -> Acceptance:
        """Let the server answer prompts, and count what becomes of its drafts.

        Raises:
            InputError: If nothing is drafted, or next to nothing accepted: the engine would be slower than without.
        """
        before = self._counted()
        drafted = accepted = 0
        for prompt in prompts:
            timings = self.complete(prompt, max(tokens // len(prompts), 1)).get("timings", {})
            drafted += timings.get("draft_n", 0)
            accepted += timings.get("draft_n_accepted", 0)
        if self.engine == "vllm":
            after = self._counted()
            drafted, accepted = after.drafted - before.drafted, after.accepted - before.accepted
        found = Acceptance(drafted, accepted)
        if found.accepted < max(1, LEAST_ACCEPTANCE * found.drafted):
            what = f"{found}" if found.drafted else "nothing was drafted"
            raise InputError(
                f"the drafter is misconfigured in {self.engine}: {what} in {tokens} tokens of its own kind of text. "
                "Name the target that it was trained for, and see what the engine said of it"
            )
        return found

    def stop(self) -> None:
        """End the server."""
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _counted(self) -> Acceptance:
        if self.engine != "vllm":  # llama.cpp counts in each reply
            return Acceptance(0, 0)
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as reply:
            counters = dict(_COUNTER.findall(reply.read().decode()))
        return Acceptance(*(int(float(counters.get(name, 0))) for name in ("draft_tokens", "accepted_tokens")))

    def _post(self, path: str, content: dict) -> dict:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", json.dumps(content).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=600) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            said = " ".join(error.read().decode(errors="replace").split())
            raise InputError(f"{self.engine} refused a request ({error.code}): {said[:300]}") from error
        except (urllib.error.URLError, OSError) as error:
            raise InputError(f"{self.engine} did not answer: {error}") from error


@contextmanager
def serve(
    target: str,
    drafter: str,
    engine: str = "vllm",
    part: str = WHOLE,
    draft_length: int | None = None,
    drafter_gguf: str | None = None,
    port: int = 8000,
    python: str = sys.executable,
    options: Sequence[str] = (),
) -> Iterator[RunningEngine]:
    """Start an engine with a drafter, checked on the first hundred tokens, and stop it on the way out.

    Args:
        target (`str`): Hub id or folder of the target; for llama.cpp its GGUF file.
        drafter (`str`): Hub id or folder of the published drafter.
        engine (`str`, *optional*, defaults to `"vllm"`): "vllm" or "llamacpp".
        part (`str`, *optional*, defaults to `"whole"`): See `vllm_config`. llama.cpp drafts with the network alone.
        draft_length (`int`, *optional*): Tokens drafted in one round at most; see `choose_draft_length`.
        drafter_gguf (`str`, *optional*): For llama.cpp the drafter's file that `export` wrote.
        port (`int`, *optional*, defaults to 8000): Where the server listens, on this machine alone unless `options`
            say otherwise.
        python (`str`, *optional*): The interpreter of the environment that has vLLM.
        options (`Sequence[str]`, *optional*): More words for the engine's command line.
    Raises:
        InputError: If an argument cannot be used, the engine does not start, or drafts in vain; it is stopped then.
    """
    if engine not in ENGINES or part not in PARTS:
        raise InputError(f"engine must be {' or '.join(ENGINES)} and part {' or '.join(PARTS)}, got {engine}, {part}")
    description, commit = describe_whole_drafter(drafter)
    if engine == "vllm":
        place = str(Path(drafter).resolve()) if commit is None else drafter
        length = draft_length or choose_draft_length(description, part)
        command = vllm_command(python, target, vllm_config(place, length, commit, part))
    else:
        if drafter_gguf is None:
            raise InputError("llama.cpp reads GGUF: export the drafter for llamacpp, and name its drafter.gguf")
        length = draft_length or choose_draft_length(description, NETWORK)
        command = llamacpp_command(target, drafter_gguf, length)
    command += ["--host", "127.0.0.1", "--port", str(port), *options]
    _logger.info("%s", " ".join(command))
    # An engine's own environment need not have this package installed.
    path = os.pathsep.join(
        filter(None, [str(Path(drafter_trainer.__file__).parents[1]), os.environ.get("PYTHONPATH")])
    )
    try:
        process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path})
    except FileNotFoundError as error:
        raise InputError(f"{command[0]} is not installed here: install {engine}, or name its place") from error
    running = RunningEngine(engine, process, f"http://127.0.0.1:{port}", target)
    try:
        running.wait_until_ready()
        _logger.info("%s: %s", running.url, running.check_acceptance([description.example]))
        yield running
    finally:
        running.stop()
