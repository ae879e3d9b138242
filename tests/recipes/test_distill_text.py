"""The recipe of distillation on text that is there already, and on stories, up to a finetuning on both."""

from pathlib import Path

import pytest

from drafter_trainer.corpora.sample import sample_rows, sample_stories
from drafter_trainer.distillation.store import RowStore
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target
from drafter_trainer.tuning.completions import load_completions
from tests.distillation.conftest import stored_rows
from tests.recipes.test_distill_servers import options
from tests.recipes.test_whole_way import recipe_main


def distill(target_folder: Path, folder: Path, corpus: str, *more: str) -> None:
    recipe_main("distill")(options(target_folder, folder, "--corpus", corpus, *more))


@pytest.fixture
def english(tmp_path: Path) -> Path:
    path = tmp_path / "english.txt"
    rows = [row["en"] for split in ("train", "validation") for row in sample_rows(split)]
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def test_text_is_not_tuned_on(tmp_path: Path, target_folder: Path, target: Target, english: Path) -> None:
    """Prevent settings from being chosen on text that passes for the target's own greedy answers."""
    distill(target_folder, tmp_path / "run", f"file:{english}", "--engine", "text")
    with pytest.raises(InputError, match="0 held-out greedy ones"):
        load_completions(tmp_path / "run" / "distill", target, 10)


def test_stories_are_answered(tmp_path: Path, target_folder: Path) -> None:
    """Prevent stories of one split from being those of another, and a direction without a corpus from having none."""
    distill(target_folder, tmp_path / "run", "stories", "--pair", "en-haw")
    for split, count in (("train", 6), ("validation", 2)):
        rows = stored_rows(RowStore(tmp_path / "run" / "distill" / split))
        assert {row["source_id"] for row in rows} == {number for number, _ in list(sample_stories(split))[:count]}
        assert {(row["corpus"], row["pair"]) for row in rows} == {("stories", "en-haw")}
