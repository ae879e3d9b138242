"""Drafters from text: all strategies of one command, measured side by side, and a table with nothing trained."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml

from drafter_trainer.cli import language
from drafter_trainer.cli.language import FILE_NAME, HYBRID, STRATEGIES
from drafter_trainer.corpora.sample import sample_rows
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.drafters.loop.build import TABLE
from drafter_trainer.errors import InputError
from drafter_trainer.results import DRAFTER, PLAIN, PROMPT_LOOKUP, read_results
from drafter_trainer.runs import finished_step
from tests.recipes.test_whole_way import TINY, recipe_main
from tests.recipes.test_whole_way import options as options_of

NAME = "tiny-drafter-en-de"


def make(config: Path, *options: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, count in (("TEXTS", 20), ("PILOT", 8), ("HELD_OUT", 6), ("HELD_OUT_STORIES", 3)):
            patch.setattr(language, name, count)
        within = language.prompts_within
        patch.setattr(language, "prompts_within", lambda *given: min(within(*given), 40))
        recipe_main("drafter")(["--config", str(config), "--pair", "deu", "--minutes", "1", *options])


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, target_folder: Path) -> Path:
    """A configuration of tiny drafters, with a text in German beside it."""
    folder = tmp_path_factory.mktemp("language")
    values = {name: value for name, value in TINY.items() if name not in ("pair", "tune.corpus")} | {
        "target_model": f"tests/tiny-target={target_folder}",
        "drafter_name": "tiny-drafter-{pair}",
        "run_folder": str(folder / "run"),
        "finetune.initialization": "layers",
        "bench.temperatures": [0.0],
        "bench.max_questions": 2,
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    for code in ("de", "fr"):
        lines = [row[code] for split in ("train", "validation") for row in sample_rows(split)]
        (folder / f"{code}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "tiny.yaml"


@pytest.fixture(scope="module")
def run(config: Path) -> Path:
    make(config, "--corpus", f"file:{config.parent}/de.txt", "--to", str(config.parent / "published"))
    return config.parent / "run"


def test_every_strategy_is_measured_on_both_tasks(run: Path) -> None:
    """A way that is left out of one table may be the fastest for it."""
    speedups = {
        name: json.loads((place / "tune" / "step.json").read_text())["facts"]["speedup_on_validation"]
        for name, place in places(run).items()
    }
    best = max(speedups, key=lambda name: (speedups[name], name == HYBRID))
    said = json.loads((run / FILE_NAME).read_text(encoding="utf-8"))
    assert said["published"] == best
    assert {name: each["speedup_on_validation"] for name, each in said["strategies"].items()} == speedups
    for rows in ("text", "distill"):  # whichever of them the published one learned from
        assert said["collected"][rows] == json.loads((run / rows / "step.json").read_text())["facts"]
    assert all(said["strategies"][name]["bytes"] > 0 for name in ("table", "task"))
    others = {STRATEGIES[name].method for name in speedups if name != best}
    for task, file in (("translation", "results.json"), ("story", "tasks/story/results.json")):
        results = read_results(places(run)[best] / file)
        (measured,) = results["runs"]
        assert measured["task"] == task
        assert {method["name"] for method in measured["methods"]} == {PLAIN, PROMPT_LOOKUP, DRAFTER} | others
        assert all(method["losslessness"]["equal"] == 2 for method in measured["methods"] if method["name"] != PLAIN)
        assert results["provenance"]["drafter"] == NAME


def test_strategies_learn_from_what_they_are_named_for(run: Path) -> None:
    """Networks that have seen the same rows would make a comparison of nothing."""
    rows, weights = {}, {}
    for name, place in places(run).items():
        tuned = DrafterDescription.read(place / "drafter")
        assert set(tuned.loop["sources"]) <= set(STRATEGIES[name].sources)
        rows[name] = {step for step in ("distill", "text") if step in tuned.training}
        if name != "table":
            weights[name] = (place / "drafter" / "model.safetensors").read_bytes()
    assert (rows["task"], rows["text"], rows["both"]) == ({"distill"}, {"text"}, {"distill", "text"})
    assert len({weights[name] for name in ("task", "text", "both")}) == 3
    network = json.loads((run / FILE_NAME).read_text(encoding="utf-8"))["strategies"][HYBRID]["network"]
    assert weights[HYBRID] == weights[network]
    assert not [*run.rglob("checkpoint-*")]


def test_useless_text_publishes_nothing(config: Path, tmp_path: Path) -> None:
    """What is wrong with a text is said before the target is asked anything."""
    (tmp_path / "text.txt").write_text("Das ist eine Zeile.\n" * 100_000, encoding="utf-8")
    given = ("--corpus", f"file:{tmp_path}/text.txt", "--to", str(tmp_path / "published"))
    with pytest.raises(InputError, match="99,999 of 100,000 lines repeat an earlier line"):
        make(config, *given, "--run_folder", str(tmp_path / "run"))
    assert not (tmp_path / "published").exists()


def places(run: Path) -> dict[str, Path]:
    return {name: run if name == HYBRID else run / "strategies" / name for name in STRATEGIES}


SIZE = 1 << 21


def options(folder: Path, target_folder: Path, text: Path, *more: str) -> list[str]:
    given = {"corpus": f"file:{text}", "draft_length": "4", "sources": "lookup ngram"}
    return options_of(target_folder, folder / "run", *more, **given)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = [row[language] for row in sample_rows("train") for language in ("en", "de", "fr")]
    lines.append(next(iter(sample_rows("test")))["de"])  # an evaluation question, which no table may know
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, target_folder: Path, text: Path) -> Path:
    """Where a drafter was tuned and published from text alone."""
    folder = tmp_path_factory.mktemp("ngram-drafter")
    recipe_main("tune")(options(folder, target_folder, text))
    return folder


def test_text_alone_gives_a_drafter(folder: Path, text: Path) -> None:
    """Whoever has text and no time must not be asked for a training."""
    assert sorted(path.name for path in (folder / "run").iterdir()) == ["drafter", "tune"]
    description = DrafterDescription.read(folder / "run" / "drafter")
    assert set(description.files) == {TABLE}
    assert (folder / "run" / "drafter" / TABLE).stat().st_size <= SIZE
    assert "ngram" in description.loop["sources"]
    assert "network" not in description.loop["sources"]
    assert list(description.training) == ["tune"]
    said = description.training["tune"]
    assert said["tried_on"].endswith(" continuations of held-out text")
    table = said["table"]
    held_out = sum(1 for _ in text.open(encoding="utf-8")) - table["texts"]
    assert 0 < held_out < table["texts"] / 10  # no line that settings were tried on was counted
    assert table["tokens_of_texts"] > 5 * table["texts"]
    (corpus,) = said["corpora"]
    assert corpus == {"name": "file:text.txt", "sha256": hashlib.sha256(text.read_bytes()).hexdigest()}
    assert table["counted_on"] == "texts"
    assert sum(said["dropped"].values()) == 1


def test_interrupted_tuning_leaves_the_drafter(folder, target_folder, text, tmp_path, monkeypatch) -> None:
    """A drafter that is half tuned would be published, or the tuned one would be lost."""
    run = Path(shutil.copytree(folder / "run", tmp_path / "run"))
    files = {path: path.read_bytes() for path in (run / "drafter").rglob("*") if path.is_file()}
    shutil.rmtree(run / "tune")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("drafter_trainer.pipeline.tune.complete_folder", interrupt)
        with pytest.raises(KeyboardInterrupt):
            recipe_main("tune")(options(tmp_path, target_folder, text))
    assert {path: path.read_bytes() for path in (run / "drafter").rglob("*") if path.is_file()} == files
    assert sorted(path.name for path in run.iterdir()) == ["drafter", "tune"]
    with pytest.raises(InputError, match="was interrupted"):
        finished_step(run / "tune", "tune again")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--sources", "lookup"], "lookup alone needs no drafter"),
        (["--data", "nowhere"], r"no finished step in nowhere: distill first, or name another folder as data, or"),
    ],
)
def test_mistaken_options_are_refused(target_folder, text, tmp_path, more, message) -> None:
    """What cannot become a drafter must be said before the target is timed."""
    with pytest.raises(InputError, match=message):
        recipe_main("tune")(options(tmp_path, target_folder, text, *more))
    assert not (tmp_path / "run" / "drafter").exists()
