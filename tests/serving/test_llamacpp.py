"""llama.cpp's own server out of the wheel `xllamacpp`, with tiny models; `make test-engines` takes real ones."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from drafter_trainer.hub.export.gguf_file import write_gguf
from drafter_trainer.pipeline.engine_benchmark import benchmark_engine
from drafter_trainer.results import find_method
from drafter_trainer.serving.commands import llamacpp_command
from drafter_trainer.serving.engines import RunningEngine, start_engine
from drafter_trainer.targets import Target
from tests.serving.served import check_killed, check_rows

pytestmark = pytest.mark.skipif(find_spec("xllamacpp") is None, reason="there is no wheel of it for this machine")
TOKENS = 24
WORDS = ["--threads", "1", "--ctx-size", "1024", "--parallel", "2"]


@pytest.fixture(scope="module")
def target_gguf(tmp_path_factory: pytest.TempPathFactory, target: Target) -> str:
    """The target in llama.cpp's format."""
    path = tmp_path_factory.mktemp("gguf") / "target.gguf"
    write_gguf(Path(target.path), "float32", None, path)
    return str(path)


Start = Callable[..., AbstractContextManager[RunningEngine]]


@pytest.fixture
def start(target_gguf: str, free_port: int) -> Start:
    """Start the server without a drafter."""

    def starting() -> AbstractContextManager[RunningEngine]:
        command = llamacpp_command(target_gguf)
        return start_engine("llamacpp", target_gguf, command, free_port, sys.executable, WORDS)

    return starting


def test_benchmark_of_the_exported_drafter(target_gguf: str, published: Path, target: Target, tmp_path: Path) -> None:
    """`drafter.gguf` must load, be accepted, and leave greedy output as it is; the counts are the server's own."""
    asked = [{"prompt": f"Wo ist Zug {number}?"} for number in range(4)]
    given = {"output_dir": tmp_path, "languages": "de-en", "max_new_tokens": TOKENS, "requests_at_once": [1, 2]}
    given |= {"prompt_lookup_tokens": [4], "target_gguf": target_gguf, "python": sys.executable}
    results = benchmark_engine(published, target, asked, engine="llamacpp", options=["--threads", "1"], **given)
    alone, together = results["runs"]
    assert (alone["dtype"], alone["engine"]["requests_at_once"]) == ("f32", 1)
    for method in alone["methods"]:
        assert method["losslessness"]["equal"] == len(asked), method["name"]
    for run in (alone, together):
        plain, network = (find_method(run, name) for name in ("plain", "drafter, network alone"))
        assert plain["mean_accepted_tokens"] == 1
        assert network["mean_accepted_tokens"] > 1
        assert sum(network["acceptance_by_position"]) == pytest.approx(network["mean_accepted_tokens"] - 1)
        assert 0 < network["prompts"][0]["first_pass_seconds"] < network["prompts"][0]["seconds"]


def test_rows_are_the_targets(start: Start, target: Target, target_model: PreTrainedModel) -> None:
    """Ids that a server leaves out, cuts or shifts are rows that teach another model, and nothing else shows it."""
    with start() as running:
        check_rows("llamacpp", running.url, target, target_model)


def test_server_killed_in_the_middle_loses_no_row(start: Start, target: Target, target_model: PreTrainedModel) -> None:
    """What a server was asked when it died must be asked again, once."""
    check_killed("llamacpp", start, "", target, target_model)
