"""Tasks and conversations as a user launches them, on a tiny target."""

from pathlib import Path

import pytest
import yaml

from drafter_trainer.corpora.files import read_json_lines
from drafter_trainer.results import read_results
from tests.drafters.loop.conftest import published
from tests.recipes.test_whole_way import recipe_main

__all__ = ["published"]  # a fixture, for pytest to find

NAME = "tiny-drafter-de-en"
CONVERSATION = (
    '{"question_id": 1, "category": "writing", "turns": ["Write.", "Shorter."]}\n'
    '{"question_id": 2, "category": "qa", "turns": ["Why?"]}\n'
)


@pytest.fixture
def config(tmp_path: Path, target_folder: Path) -> Path:
    """What every measurement here has in common."""
    values = {"target_model": f"tests/tiny-target={target_folder}", "dtype": "float32"}
    values |= {"bench.temperatures": [0.0], "bench.max_questions": 3, "bench.max_new_tokens": 8}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def bench(config: Path, published: Path, *options: str) -> None:
    where = ["--config", str(config), "--drafter", str(published), "--drafter_name", NAME, "--pair", "de-en"]
    recipe_main("bench")([*where, "--run_folder", str(config.parent / "run"), *options])


def test_another_task_has_results_of_its_own(config: Path, published: Path) -> None:
    """Stories in RUN_FOLDER/results.json would be published in the drafter's card as its translations."""
    bench(config, published, "--task", "story")
    run = config.parent / "run"
    (story,) = read_results(run / "tasks" / "story" / "results.json")["runs"]
    assert (story["task"], story["questions"]["count"]) == ("story", 3)
    assert [prompt["question_id"] for prompt in story["methods"][0]["prompts"]] == ["story-01", "story-02", "story-03"]
    assert "quality" not in story["methods"][0]
    assert not (run / "results.json").exists()
    bench(config, published)
    (translation,) = read_results(run / "results.json")["runs"]
    assert translation["task"] == "translation"
    assert {method["quality"]["answers"] for method in translation["methods"]} == {3}
    # Greedy answers are equal, and so are their scores.
    assert len({(method["quality"]["chrf"], method["quality"]["bleu"]) for method in translation["methods"]}) == 1


def test_conversation_is_kept_turn_by_turn(config: Path, published: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Answers asked for after the measurement come from its journal; hours must not be measured again for them."""
    caplog.set_level("INFO")
    questions = config.parent / "questions.jsonl"
    questions.write_text(CONVERSATION, encoding="utf-8")
    options = ["--task", "conversation", "--questions", str(questions)]
    bench(config, published, *options)
    folder = config.parent / "run" / "tasks" / "conversation"
    (folder / "outputs.jsonl").unlink()  # as an earlier release left it
    before = (folder / "results.json").stat().st_mtime_ns
    bench(config, published, *options)
    assert "finished before" in caplog.text
    assert (folder / "results.json").stat().st_mtime_ns == before
    outputs = [row for _, row in read_json_lines(folder / "outputs.jsonl")]
    methods = [method["name"] for method in read_results(folder / "results.json")["runs"][0]["methods"]]
    assert [(output["question_id"], output["method"]) for output in outputs] == [
        (question, method) for question in ("1/1", "1/2") for method in methods
    ]
    first, second = outputs[0], outputs[len(methods)]
    assert [message["content"] for message in second["chat"]] == ["Write.", first["text"], "Shorter."]
