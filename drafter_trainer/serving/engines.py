"""Start an engine with a drafter, and check that its drafts are accepted."""

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
    vllm_command,
    vllm_config,
)
from drafter_trainer.serving.vllm import open_for_engine
from drafter_trainer.targets import split_revision

PROBE_TOKENS = 128  # tokens that are generated to measure the acceptance
LEAST_ACCEPTANCE = 0.01  # share of the drafted tokens; random tokens are accepted less often
_START_SECONDS = 3600  # reading large weights takes long
_STOP_SECONDS = 60
_logger = logging.getLogger(__name__)


class RunningEngine:
    """A server that this process started; `process` leads the server's process group."""

    def __init__(self, process: subprocess.Popen, client: EngineClient) -> None:
        self.process, self.client = process, client
        # The guard ends the server if this process is killed. It has a session of its own, so Ctrl-C does not end it.
        guard = [sys.executable, str(Path(__file__).with_name("guard.py")), str(process.pid), str(_STOP_SECONDS)]
        self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, start_new_session=True)

    @property
    def url(self) -> str:
        return self.client.url

    def wait_until_ready(self) -> None:
        """Wait for the server; raise an `InputError` if it ends, or is not ready in an hour."""
        engine, end = self.client.engine, time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise InputError(f"{engine} ended with status {self.process.returncode}: see its messages above")
            if self.client.is_ready():
                return
            time.sleep(0.5)
        raise InputError(f"{engine} was not ready after {_START_SECONDS} s: see its messages above")

    def check_acceptance(self, prompts: Sequence[str]) -> DraftCounts:
        """Generate responses to prompts, and count drafted and accepted tokens.

        Raises:
            InputError: If hardly any drafted tokens are accepted: the engine would be slower than without a drafter.
        """
        before = self.client.counts()
        for prompt in prompts:
            self.client.chat(prompt, max(PROBE_TOKENS // len(prompts), 1))
        found = self.client.counts() - before
        if found.accepted < max(1, LEAST_ACCEPTANCE * found.drafted):
            counts = f"{found}" if found.drafted else "nothing was drafted"
            raise InputError(
                f"the drafter is misconfigured in {self.client.engine}: {counts} in {PROBE_TOKENS} tokens of its "
                "task. Give the target that it was trained for, and see the engine's messages"
            )
        return found

    def stop(self) -> None:
        """End the server and all its processes: vLLM's engine and workers go on if only the server is killed."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
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
    """Start an engine, wait until it is ready, and stop it on exit.

    Args:
        target (`str`): The target's name in the command.
        command (`Sequence[str]`): A command line of `serving.commands`.
        python (`str`, *optional*): For llama.cpp, the interpreter of an environment with `xllamacpp`; its server
            replaces `llama-server`.
        options (`Sequence[str]`, *optional*): Further arguments for the engine's command line.
    Raises:
        InputError: If the engine does not start.
    """
    words = [*command]
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise InputError(f"port {port} is used by another server: stop it, or give another port")
    if words[0] == LLAMA_SERVER and python is not None:
        words[:1] = [python, "-m", "drafter_trainer.serving.llamacpp_server"]
    words += ["--metrics"] if engine == LLAMACPP else []
    words += ["--host", "127.0.0.1", "--port", str(port), *options]
    _logger.info("%s", " ".join(words))
    # This package may not be installed in the engine's environment.
    path = str(Path(drafter_trainer.__file__).parents[1])
    path = os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH")]))
    try:
        process = subprocess.Popen(words, env=os.environ | {"PYTHONPATH": path}, start_new_session=True)
    except FileNotFoundError as error:
        raise InputError(f"{words[0]} is not installed here: install {engine}, or give its path") from error
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
    """Start an engine with a drafter, check that drafts are accepted, and stop the engine on exit.

    Args:
        target (`str`): Hub id (`ID@REVISION` for a revision) or folder of the target; for llama.cpp its GGUF file.
        drafter (`str`): Hub id or folder of the published drafter. If the target is a base model, the drafter's chat
            template is used.
        engine (`str`, *optional*, defaults to `"vllm"`): Engine, "vllm" or "llamacpp".
        part (`str`, *optional*, defaults to `"whole"`): In vLLM, the part of the drafter that drafts: "whole", or
            "network" only. llama.cpp always drafts with the network.
        draft_length (`int`, *optional*): Maximum draft length in tokens; by default from tuning and acceptance.
        drafter_gguf (`str`, *optional*): For llama.cpp, the exported drafter.gguf; by default the file in the
            drafter's folder, which may be the folder of the export.
        port (`int`, *optional*, defaults to 8000): Port of the server. The server listens on the loopback interface
            unless `options` set another host.
        python (`str`, *optional*): Interpreter of the environment with vLLM (this one by default) or `xllamacpp`
            (`llama-server` by default).
        options (`Sequence[str]`, *optional*): Further arguments for the engine's command line.
    Raises:
        InputError: If an argument cannot be used, the engine does not start, or no drafts are accepted.
    """
    if engine not in ENGINES or part not in PARTS:
        raise InputError(f"engine must be {' or '.join(ENGINES)} and part {' or '.join(PARTS)}, got {engine}, {part}")
    # vLLM's own loader cannot add the target's embeddings to a compact drafter.
    repository = open_for_engine(drafter, compact=(engine, part) != (VLLM, NETWORK))
    description, commit = repository.description, repository.commit
    place, revision = split_revision(target)
    if engine == VLLM:
        own = str(Path(drafter).resolve()) if commit is None else drafter
        length = draft_length or choose_draft_length(description, part)
        config = vllm_config(own, length, commit, part, mixes_attention(repository.find("config.json")))
        command = vllm_command(python or sys.executable, place, config)
        command += ["--revision", revision] if revision else []
        if template := description.prompting.get("chat_template"):  # llama.cpp does not start with this template
            command += ["--chat-template", str(repository.find(template).absolute())]
    else:
        exported = Path(drafter) / DRAFTER_GGUF
        if drafter_gguf is None and not exported.is_file():
            raise InputError(f"llama.cpp reads GGUF: export {drafter} for llamacpp, and give the export's folder")
        length = draft_length or choose_draft_length(description, NETWORK)
        command = llamacpp_command(target, drafter_gguf or str(exported), length)
    with start_engine(engine, place, command, port, python, options) as running:
        if stop := description.prompting.get("stop"):
            _logger.info("completions end at %s: give it as stop in requests", ", ".join(map(repr, stop)))
        _logger.info("%s: %s", running.url, running.check_acceptance([description.example]))
        yield running
