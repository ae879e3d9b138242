"""The router's benchmark as a user launches it, on a tiny target with untrained drafters."""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from drafter_trainer.errors import InputError
from drafter_trainer.results import read_results
from tests.conftest import make_model
from tests.drafters.test_load import write_drafter
from tests.recipes.test_tasks import recipe_main

PAIRS = ("de-en", "fr-en")


@pytest.fixture
def drafters(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Published drafters of two pairs."""
    return [str(write_drafter(tmp_path / pair, make_model(tokenizer, layers=1), tokenizer, pair)) for pair in PAIRS]


def route(target_folder: Path, drafters: list[str], out: Path, *options: str) -> None:
    """Measure."""
    where = ["--target_model", str(target_folder), "--target_name", "tests/tiny-target", "--dtype", "float32"]
    recipe_main("route")([*where, "--drafters", *drafters, "--out", str(out), "--max_new_tokens", "6", *options])


def test_router_is_held_against_knowing_the_language(
    tmp_path: Path, target_folder: Path, drafters: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Pairs measured in runs of their own would hide what switching between drafters costs."""
    out = tmp_path / "route"
    route(target_folder, drafters, out, "--max_questions", "2")
    mixed, *alone = read_results(out / "results.json")["runs"]
    assert [run["pair"] for run in (mixed, *alone)] == ["de-en fr-en", "de-en", "fr-en"]
    assert [method["name"] for method in mixed["methods"]] == ["plain", "drafter", "router"]
    asked = [prompt["question_id"].partition("/")[0] for prompt in mixed["methods"][0]["prompts"]]
    assert asked == ["de-en", "fr-en", "de-en", "fr-en"]
    assert {run["questions"]["count"] for run in alone} == {2}
    assert {method["losslessness"]["equal"] for method in mixed["methods"]} == {4}
    assert "over knowing the language" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        (
            ["Translate German to English: Hallo.", "Hello?"],
            "mixed.jsonl, line 2: the prompt is no translation of de-en",
        ),
        (
            ["Translate Russian to English: Привет."],
            "mixed.jsonl, line 1: the prompt is no translation of de-en, fr-en",
        ),
        (["Translate German to English: Hallo."], "mixed.jsonl: no questions for fr-en"),
    ],
)
def test_questions_of_no_drafter_are_refused(
    tmp_path: Path, target_folder: Path, drafters: list[str], prompts: list[str], said: str
) -> None:
    """A question whose right drafter is not there cannot be held against it."""
    path = tmp_path / "mixed.jsonl"
    rows = [json.dumps({"question_id": number, "turns": [prompt]}) for number, prompt in enumerate(prompts)]
    path.write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(InputError, match=said):
        route(target_folder, drafters, tmp_path / "out", "--questions", str(path))
    assert not (tmp_path / "out").exists()
