"""llama.cpp's own server out of the wheel `xllamacpp`, with tiny models; `make test-engines` takes real ones."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from drafter_trainer.hub.export.gguf_file import write_gguf
from drafter_trainer.pipeline.export import export_drafter
from drafter_trainer.serving.commands import llamacpp_command
from drafter_trainer.serving.engines import RunningEngine, start_engine
from drafter_trainer.targets import Target
from tests.drafters.loop.conftest import PROMPTS
from tests.serving.served import check_killed, check_rows

pytestmark = pytest.mark.skipif(find_spec("xllamacpp") is None, reason="there is no wheel of it for this machine")
TOKENS = 24
WORDS = ["--threads", "1", "--ctx-size", "1024", "--parallel", "2"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, published: Path, target: Target) -> tuple[str, str]:
    """The target and the drafter in llama.cpp's format."""
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(Path(target.path), "float32", None, folder / "target.gguf")
    given = {"output_dir": folder, "engines": ["llamacpp"], "gguf_dtype": "float32"}
    export_drafter(published, target, target_gguf=folder / "target.gguf", **given)
    return str(folder / "target.gguf"), str(folder / "drafter.gguf")


Start = Callable[..., AbstractContextManager[RunningEngine]]


@pytest.fixture
def start(files: tuple[str, str], free_port: int) -> Start:
    """Start the server with what drafts."""

    def starting(**drafts: object) -> AbstractContextManager[RunningEngine]:
        command = llamacpp_command(files[0], **drafts)
        return start_engine("llamacpp", files[0], command, free_port, sys.executable, WORDS)

    return starting


def test_exported_drafter_changes_no_output(start: Start, files: tuple[str, str], target: Target) -> None:
    """`drafter.gguf` must load, be accepted, and leave greedy output as it is, with n-grams before it too."""
    ends = set(target.end_ids(target.load_tokenizer()))
    network = {"drafter_gguf": files[1], "draft_length": 3}
    texts = []
    for drafts in ({}, network, network | {"ngram_length": 4}):
        with start(**drafts) as running:
            texts.append([running.client.complete(prompt, TOKENS, ends).token_ids for prompt in PROMPTS])
            counts = running.client.counts()
        assert (counts.accepted > 0) == bool(drafts)
        assert counts.passes + counts.accepted == sum(map(len, texts[-1]))
        assert sum(counts.by_position) == counts.accepted
    assert texts[0] == texts[1] == texts[2]


def test_rows_are_the_targets(start: Start, target: Target, target_model: PreTrainedModel) -> None:
    """Ids that a server leaves out, cuts or shifts are rows that teach another model, and nothing else shows it."""
    with start() as running:
        check_rows("llamacpp", running.url, target, target_model)


def test_server_killed_in_the_middle_loses_no_row(start: Start, target: Target, target_model: PreTrainedModel) -> None:
    """What a server was asked when it died must be asked again, once."""
    check_killed("llamacpp", start, "", target, target_model)
