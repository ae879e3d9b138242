"""Start an engine with a drafter, and find out at once whether the drafter is of any use to it."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import drafter_trainer
from drafter_trainer.errors import InputError
from drafter_trainer.serving.client import ENGINES, LLAMACPP, VLLM, DraftCounts, EngineClient
from drafter_trainer.serving.commands import (
    DRAFTER_GGUF,
    LLAMA_SERVER,
    NETWORK,
    PARTS,
    WHOLE,
    choose_draft_length,
    llamacpp_command,
    mixes_attention,
    template_words,
    vllm_command,
    vllm_config,
)
from drafter_trainer.serving.drafter import open_for_engine
from drafter_trainer.targets import split_revision

PROBE_TOKENS = 128  # of one completion, after which the acceptance is judged
LEAST_ACCEPTANCE = 0.01  # of the drafted tokens; random tokens are accepted less often
_START_SECONDS = 3600  # large weights are read for long
_LLAMACPP_SERVER = "drafter_trainer.serving.llamacpp_server"
_logger = logging.getLogger(__name__)


class RunningEngine:
    """A server that was started here; `process` is the first of a process group."""

    def __init__(self, process: subprocess.Popen, client: EngineClient) -> None:
        self.process, self.client = process, client
        # Where this process is killed, its own `stop` is never called. The guard is out of the reach of a Ctrl-C.
        guard = [sys.executable, str(Path(__file__).with_name("guard.py")), str(process.pid)]
        self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, start_new_session=True)

    @property
    def url(self) -> str:
        return self.client.url

    def wait_until_ready(self) -> None:
        """Wait for the server.

        Raises:
            InputError: If it ends, or does not get ready in time.
        """
        engine, end = self.client.engine, time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise InputError(f"{engine} ended with status {self.process.returncode}: see what it said above")
            if self.client.is_ready():
                return
            time.sleep(0.5)
        raise InputError(f"{engine} was not ready after {_START_SECONDS} s: see what it said above")

    def check_acceptance(self, prompts: Sequence[str]) -> DraftCounts:
        """Let the server answer prompts, and count what becomes of its drafts.

        Raises:
            InputError: If nothing is drafted, or next to nothing accepted: the engine would be slower than without.
        """
        before = self.client.counts()
        for prompt in prompts:
            self.client.chat(prompt, max(PROBE_TOKENS // len(prompts), 1))
        found = self.client.counts() - before
        if found.accepted < max(1, LEAST_ACCEPTANCE * found.drafted):
            what = f"{found}" if found.drafted else "nothing was drafted"
            raise InputError(
                f"the drafter is misconfigured in {self.client.engine}: {what} in {PROBE_TOKENS} tokens of its own "
                "kind of text. Name the target that it was trained for, and see what the engine said of it"
            )
        return found

    def stop(self) -> None:
        """End the server and all its processes: vLLM's engine and workers outlive a server that is killed."""
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self._guard.kill()
        self._guard.communicate()


@contextmanager
def start_engine(
    engine: str,
    target: str,
    command: Sequence[str],
    port: int = 8000,
    python: str | None = None,
    options: Sequence[str] = (),
) -> Iterator[RunningEngine]:
    """Start an engine, wait until it is ready, and stop it on the way out.

    Args:
        target (`str`): As the command names it.
        command (`Sequence[str]`): As `serving.commands` writes it.
        python (`str`, *optional*): For llama.cpp the interpreter of an environment that has `xllamacpp`, whose server
            takes the place of `llama-server`.
        options (`Sequence[str]`, *optional*): More words for the engine's command line.
    Raises:
        InputError: If the engine does not start; it is stopped then.
    """
    words = [*command]
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise InputError(f"port {port} is taken by another server: stop it, or name another port")
    if words[0] == LLAMA_SERVER and python is not None:
        words[:1] = [python, "-m", _LLAMACPP_SERVER]
    words += ["--metrics"] if engine == LLAMACPP else []
    words += ["--host", "127.0.0.1", "--port", str(port), *options]
    _logger.info("%s", " ".join(words))
    # An engine's own environment need not have this package installed.
    path = os.pathsep.join(
        filter(None, [str(Path(drafter_trainer.__file__).parents[1]), os.environ.get("PYTHONPATH")])
    )
    try:
        process = subprocess.Popen(words, env=os.environ | {"PYTHONPATH": path}, start_new_session=True)
    except FileNotFoundError as error:
        raise InputError(f"{words[0]} is not installed here: install {engine}, or name its place") from error
    running = RunningEngine(process, EngineClient(engine, f"http://127.0.0.1:{port}", target))
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


@contextmanager
def serve(
    target: str,
    drafter: str,
    engine: str = VLLM,
    part: str = WHOLE,
    draft_length: int | None = None,
    drafter_gguf: str | None = None,
    port: int = 8000,
    python: str | None = None,
    options: Sequence[str] = (),
) -> Iterator[RunningEngine]:
    """Start an engine with a drafter, checked on the first hundred tokens, and stop it on the way out.

    Args:
        target (`str`): Hub id (`ID@REVISION` for a revision) or folder of the target; for llama.cpp its GGUF file.
        drafter (`str`): Hub id or folder of the published drafter. A base model is served with its chat template.
        engine (`str`, *optional*, defaults to `"vllm"`): Engine, "vllm" or "llamacpp".
        part (`str`, *optional*, defaults to `"whole"`): What drafts in vLLM: the "whole" drafter or its "network"
            alone. llama.cpp drafts with the network.
        draft_length (`int`, *optional*): Maximum draft length, in tokens; by tuning and acceptance if left out.
        drafter_gguf (`str`, *optional*): For llama.cpp the drafter.gguf that export wrote; that in the drafter's
            folder, which may be the export's, if left out.
        port (`int`, *optional*, defaults to 8000): Port of the server, which listens on this machine alone unless
            the engine's options say otherwise.
        python (`str`, *optional*): The interpreter of the environment that has vLLM, this one if left out; or
            `xllamacpp`, without which `llama-server` is started.
        options (`Sequence[str]`, *optional*): More words for the engine's command line.
    Raises:
        InputError: If an argument cannot be used, the engine does not start, or drafts in vain; it is stopped then.
    """
    if engine not in ENGINES or part not in PARTS:
        raise InputError(f"engine must be {' or '.join(ENGINES)} and part {' or '.join(PARTS)}, got {engine}, {part}")
    # vLLM's own loader takes nothing from the target.
    repository = open_for_engine(drafter, compact=(engine, part) != (VLLM, NETWORK))
    description, commit = repository.description, repository.commit
    place, pinned = split_revision(target)
    if engine == VLLM:
        own = str(Path(drafter).resolve()) if commit is None else drafter
        length = draft_length or choose_draft_length(description, part)
        config = vllm_config(own, length, commit, part, mixes_attention(repository.find("config.json")))
        command = vllm_command(python or sys.executable, place, config)
        command += ["--revision", pinned] if pinned else []
    else:
        exported = Path(drafter) / DRAFTER_GGUF
        if drafter_gguf is None and not exported.is_file():
            raise InputError(f"llama.cpp reads GGUF: export {drafter} for llamacpp, and name the export's folder")
        length = draft_length or choose_draft_length(description, NETWORK)
        command = llamacpp_command(target, drafter_gguf or str(exported), length)
    if engine == VLLM and (template := description.prompting.get("chat_template")):
        command += template_words(engine, description, repository.find(template).parent)
    with start_engine(engine, place, command, port, python, options) as running:
        if stop := description.prompting.get("stop"):
            _logger.info("answers end at %s: requests give it as stop", ", ".join(map(repr, stop)))
        _logger.info("%s: %s", running.url, running.check_acceptance([description.example]))
        yield running
