"""The recipe of distillation where servers answer."""

from pathlib import Path
from typing import Any

import pytest

from drafter_trainer.distillation.store import RowStore
from drafter_trainer.errors import InputError
from drafter_trainer.runs import read_step
from drafter_trainer.targets import Target
from tests.conftest import make_model
from tests.distillation.completion_server import CompletionServer
from tests.distillation.conftest import stored_rows
from tests.recipes.test_whole_way import options as options_of
from tests.recipes.test_whole_way import recipe_main


def options(target_folder: Path, folder: Path, *more: str) -> list[str]:
    given = {"dtype": "float32", "corpus": "sample", "max_samples": "6 2", "temperatures": "0.0"}
    return options_of(target_folder, folder, *more, **given, max_new_tokens="8", batch_size="4")


def refuse_to_load(*_: Any) -> None:
    pytest.fail("the target's weights were loaded")


def test_servers_answer_without_the_targets_weights(tmp_path, target_folder, tokenizer, monkeypatch) -> None:
    """Prevent a machine that only asks servers from loading, or needing room for, seventy billion parameters."""
    monkeypatch.setattr(Target, "load_model", refuse_to_load)
    with CompletionServer(make_model(tokenizer), tokenizer) as server:
        servers = ("--servers", server.url)
        recipe_main("distill")(options(target_folder, tmp_path, *servers))
    facts = read_step(tmp_path / "distill")["facts"]["train"]
    assert (facts["rows"], facts["retokenized"], facts["dropped"]) == (6, 0, {})
    assert sum(facts["languages"].values()) == 6
    assert {"looping", "duplicates", "cut_by_length"} <= facts.keys()
    assert all(row["topk_logprobs"] for row in stored_rows(RowStore(tmp_path / "distill" / "train")))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--engine", "sglang"), "engine must be transformers or vllm, or give servers; got sglang"),
        (
            ("--engine", "ollama", "--servers", "http://h"),
            "engine must be the kind of the servers, one of",
        ),
        (("--servers", "h:8000"), "is not an address"),
        (("--pair", "nl"), "sentences of a corpus are translated: give a pair, such as --pair en-nl, or --prompts"),
    ],
)
def test_mistakes_are_said_before_anything_is_done(tmp_path, target_folder, given, message) -> None:
    """Prevent a mistyped option from being taken for another engine, or found out after the corpus is read."""
    with pytest.raises(InputError, match=message):
        recipe_main("distill")(options(target_folder, tmp_path, *given))
    assert not list(tmp_path.rglob("*.parquet"))
