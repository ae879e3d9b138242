"""The recipes as a user launches them, on a tiny target: text to published drafter, and every way to go wrong."""

import functools
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from drafter_trainer.benchmark.report import speedup_tables
from drafter_trainer.cli import predict
from drafter_trainer.corpora.files import read_json_lines
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.errors import InputError
from drafter_trainer.results import read_results

ROOT = Path(__file__).parents[2]
TINY = {
    "pair": "de-en",
    "drafter_name": "tiny-drafter-de-en",
    "dtype": "float32",
    "use_cpu": True,
    "disable_tqdm": True,
    "num_hidden_layers": 1,
    "initialization": "layers:0",
    "finetune.initialization": "pretrain",
    "pretrain.corpus": ["sample"],
    "pretrain.max_length": 32,
    "pretrain.max_samples": [20, 10],
    "num_train_epochs": 1,
    "learning_rate": 1.0e-3,
    "distill.corpus": ["sample"],
    "distill.max_samples": [12, 4],
    "distill.temperatures": [0.0, 1.0],
    "distill.max_new_tokens": 8,
    "distill.batch_size": 8,
    "finetune.draft_vocabulary": 128,
    "tune.draft_length": 4,
    "tune.corpus": ["sample"],
    "bench.max_questions": [3, 2],
    "bench.temperatures": [0.0, 1.0],
    "bench.max_new_tokens": 8,
}


def recipe_main(recipe: str) -> Callable[[list[str]], None]:
    """Load a recipe's `main` from its file; as a package recipes cannot be imported."""
    specification = importlib.util.spec_from_file_location(f"recipe_{recipe}", ROOT / "recipes" / f"{recipe}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.main


def options(target_folder: Path, folder: Path, *more: str, **given: str) -> list[str]:
    """Name the tiny target, a run folder, and what else is given."""
    named = {"pair": "de-en", "drafter_name": "tiny-drafter-de-en", "run_folder": str(folder)}
    named |= {"target_model": f"tests/tiny-target={target_folder}"} | given
    return [*(word for name, value in named.items() for word in (f"--{name}", *value.split())), *more]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, target_folder: Path) -> Path:
    """A configuration of the tiny drafter, in a folder where it may leave its run."""
    folder = tmp_path_factory.mktemp("whole-way")
    values = TINY | {
        "target_model": f"tests/tiny-target={target_folder}",
        "run_folder": str(folder / "run"),
        "to": str(folder / "published"),
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(config: Path) -> Path:
    """The folder of a run that went the whole way in this process."""
    for recipe in ("pretrain", "distill", "finetune", "tune", "bench", "publish"):
        recipe_main(recipe)(["--config", str(config)])
    return config.parent / "run"


def test_forecast_before_and_after_training(run, config, tmp_path, monkeypatch, capsys) -> None:
    """Whether a drafter will pay on a machine must be known before days go into it."""
    quick = functools.partial(predict.predict, max_completions=3, longest_draft=3, repeats=1)
    monkeypatch.setattr(predict, "predict", quick)
    recipe_main("predict")(["--config", str(config), "--output_dir", str(tmp_path)])
    said = json.loads((tmp_path / "predict.json").read_text(encoding="utf-8"))
    assert len(said["costs"]["passes"]) == 4
    assert min(said["costs"]["passes"]) > 0 < said["costs"]["step"]
    assert "| α   |" in capsys.readouterr().out
    assert "forecast" not in said
    recipe_main("predict")(["--config", str(config), "--output_dir", str(tmp_path), "--drafter", str(run / "drafter")])
    forecast = json.loads((tmp_path / "predict.json").read_text(encoding="utf-8"))["forecast"]
    assert 1 <= forecast["tokens_per_pass"] <= 17
    assert forecast["speedup"] > 0
    assert forecast["answers"] > 0
    given = ["--drafter", str(run / "drafter"), "--questions", "sample", "--max_new_tokens", "6"]
    recipe_main("predict")(["--config", str(config), "--output_dir", str(tmp_path), *given])
    forecast = json.loads((tmp_path / "predict.json").read_text(encoding="utf-8"))["forecast"]
    assert (forecast["of"], forecast["answers"]) == ("sample", 3)
    assert 1 <= forecast["tokens_per_pass"] <= 6
    with pytest.raises(InputError, match="give --drafter"):
        recipe_main("predict")(["--config", str(config), "--questions", "sample"])


def test_baselines_are_trained_on_the_same_rows_and_measured_beside(run: Path, config: Path, tmp_path: Path) -> None:
    """A baseline that is left out, or that changes the text without being marked, makes the comparison a lie."""
    options = ["--config", str(config), "--output_dir", str(tmp_path)]
    options += ["--baselines", "lookahead", "medusa", "eagle", "early_exit", "alone:lookup", "alone:network"]
    with pytest.raises(InputError, match=r"no finished step in .*medusa: train it with recipes/medusa.py first"):
        recipe_main("bench")(options)
    for baseline in ("medusa", "eagle"):
        for _ in range(2):  # not done again
            recipe_main(baseline)(["--config", str(config), "--draft_vocabulary", "128"])
        assert {"model.safetensors", "draft_vocabulary.safetensors", "baseline.json"} <= {
            path.name for path in (run / baseline).iterdir()
        }
    recipe_main("bench")(options)
    results = read_results(tmp_path / "results.json")
    assert [(entry["temperature"], entry["questions"]["count"]) for entry in results["runs"]] == [
        (0.0, 3),
        *[(1.0, 2)] * 3,
    ]
    for entry in results["runs"]:
        methods = {method["name"]: method for method in entry["methods"]}
        assert methods["plain"]["speedup"] == {"value": 1.0, "low": 1.0, "high": 1.0}
        assert list(methods)[2:] == [
            "drafter before finetuning",
            "drafter, lookup alone",
            "drafter, network alone",
            "Lookahead",
            "Medusa",
            "EAGLE",
            "early exit after 2 layers",
            "drafter",
        ]
        lossy = [name for name, method in methods.items() if method["lossy"]]
        assert lossy == (["Medusa"] if entry["temperature"] else [])
        if not entry["temperature"]:
            assert all(method["losslessness"]["equal"] == 3 for method in methods.values())
    assert speedup_tables(results).count("| lossy ") == 3  # one for each seed


def test_second_run_reuses_every_step(run: Path, config: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Hours of distillation or training must not be done again because a command was repeated."""
    caplog.set_level("INFO")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    for recipe in ("pretrain", "distill", "finetune", "tune", "bench"):
        recipe_main(recipe)(["--config", str(config)])
        assert "finished before" in caplog.text, recipe
        caplog.clear()
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_published_drafter_names_all_that_it_was_made_from(run: Path) -> None:
    """A card is rendered from drafter.json: what the steps do not record there is not on it."""
    description = DrafterDescription.read(run.parent / "published")
    assert (description.name, description.pair) == ("tiny-drafter-de-en", "de-en")
    training = description.training
    assert list(training) == ["pretrain", "distill", "finetune", "tune"]
    assert training["pretrain"]["corpora"][0]["name"] == training["distill"]["corpora"][0]["name"] == "sample"
    assert (training["distill"]["train"]["rows"], training["distill"]["temperatures"]) == (24, [0.0, 1.0])
    assert training["finetune"] | {"initialization": "pretrain", "train_rows": 24} == training["finetune"]
    assert training["finetune"]["finetuning_tokens"] > 0
    assert training["tune"] == json.loads((run / "tune" / "step.json").read_text(encoding="utf-8"))["facts"]


def mistaken(config: Path, tmp_path: Path, recipe: str, *options: str) -> None:
    """Run a recipe in a run folder of its own, in which nothing may be left half-written."""
    fresh = tmp_path / "fresh"
    options = ("--config", str(config), "--run_folder", str(fresh), *options)
    if recipe == "publish":
        options += ("--to", str(fresh / "published"))
    try:
        recipe_main(recipe)(list(options))
    finally:
        assert [path.name for path in fresh.rglob("*") if path.is_file() and path.name != "step.json"] == []


def test_steps_out_of_order_say_which_comes_first(config: Path, tmp_path: Path) -> None:
    """Whoever begins in the middle must be told where to begin."""
    with pytest.raises(InputError, match=r"distill(\.py)? first"):
        mistaken(config, tmp_path, "finetune")
    for recipe in ("tune", "publish"):
        with pytest.raises(InputError, match=r"finetune(\.py)? first"):
            mistaken(config, tmp_path, recipe)
    with pytest.raises(InputError, match=r"has 0 completions"):
        mistaken(config, tmp_path, "predict", "--drafter", str(tmp_path))
    with pytest.raises(InputError, match="train one, or give --drafter"):
        mistaken(config, tmp_path, "bench")


def test_layers_that_nobody_names_are_searched(run: Path, config: Path, tmp_path: Path) -> None:
    """The first layers of a target learn more slowly than those that its own completions choose."""
    values = {"base": str(config), "finetune.initialization": "layers", "num_hidden_layers": 2}
    (tmp_path / "layers.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    given = ["--config", str(tmp_path / "layers.yaml"), "--run_folder", str(tmp_path), "--data", str(run / "distill")]
    recipe_main("finetune")(given)
    facts = json.loads((tmp_path / "finetune" / "step.json").read_text(encoding="utf-8"))["facts"]
    assert (facts["initial_layers"][0], len(facts["initial_layers"])) == (0, 2)
    assert (tmp_path / "drafter" / "drafter.json").is_file()


CONVERSATION = (
    '{"question_id": 1, "category": "writing", "turns": ["Write.", "Shorter."]}\n'
    '{"question_id": 2, "category": "qa", "turns": ["Why?"]}\n'
)


def bench(run: Path, config: Path, folder: Path, *options: str) -> None:
    """Measure the published drafter in a run folder of its own."""
    where = ["--config", str(config), "--drafter", str(run.parent / "published"), "--run_folder", str(folder)]
    where += ["--temperatures", "0.0", "--max_questions", "3"]
    recipe_main("bench")([*where, *options])


def test_another_task_has_results_of_its_own(run: Path, config: Path, tmp_path: Path) -> None:
    """Stories in RUN_FOLDER/results.json would be published in the drafter's card as its translations."""
    bench(run, config, tmp_path, "--task", "story")
    (story,) = read_results(tmp_path / "tasks" / "story" / "results.json")["runs"]
    assert (story["task"], story["questions"]["count"]) == ("story", 3)
    assert [prompt["question_id"] for prompt in story["methods"][0]["prompts"]] == ["story-01", "story-02", "story-03"]
    assert "quality" not in story["methods"][0]
    assert not (tmp_path / "results.json").exists()
    bench(run, config, tmp_path)
    (translation,) = read_results(tmp_path / "results.json")["runs"]
    assert translation["task"] == "translation"
    assert {method["quality"]["answers"] for method in translation["methods"]} == {3}
    # Greedy answers are equal, and so are their scores.
    assert len({(method["quality"]["chrf"], method["quality"]["bleu"]) for method in translation["methods"]}) == 1


def test_conversation_is_kept_turn_by_turn(run: Path, config: Path, tmp_path: Path, caplog) -> None:
    """Answers asked for after the measurement come from its journal; hours must not be measured again for them."""
    caplog.set_level("INFO")
    questions = tmp_path / "questions.jsonl"
    questions.write_text(CONVERSATION, encoding="utf-8")
    options = ["--task", "conversation", "--questions", str(questions)]
    bench(run, config, tmp_path, *options)
    folder = tmp_path / "tasks" / "conversation"
    (folder / "outputs.jsonl").unlink()  # as an earlier release left it
    before = (folder / "results.json").stat().st_mtime_ns
    bench(run, config, tmp_path, *options)
    assert "finished before" in caplog.text
    assert (folder / "results.json").stat().st_mtime_ns == before
    outputs = [row for _, row in read_json_lines(folder / "outputs.jsonl")]
    methods = [method["name"] for method in read_results(folder / "results.json")["runs"][0]["methods"]]
    assert [(output["question_id"], output["method"]) for output in outputs] == [
        (question, method) for question in ("1/1", "1/2") for method in methods
    ]
    first, second = outputs[0], outputs[len(methods)]
    assert [message["content"] for message in second["chat"]] == ["Write.", first["text"], "Shorter."]
