"""A drafter that is a table: from a text file to a published folder, with nothing trained."""

import hashlib
import shutil
from pathlib import Path

import pytest

from drafter_trainer.corpora.sample import sample_rows
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.drafters.loop.repository import TABLE
from drafter_trainer.errors import InputError
from drafter_trainer.runs import finished_step
from tests.recipes.test_whole_way import options as options_of
from tests.recipes.test_whole_way import recipe_main

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
