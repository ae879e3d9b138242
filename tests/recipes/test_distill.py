"""The recipe of distillation: at servers, on text and on stories, and its rows when the settings change."""

from pathlib import Path
from typing import Any

import pytest

from drafter_trainer import distill
from drafter_trainer.corpora.sample import sample_rows, sample_stories
from drafter_trainer.distillation.prompts import corpus_prompts
from drafter_trainer.distillation.store import RowStore
from drafter_trainer.errors import InputError
from drafter_trainer.languages import get_pair
from drafter_trainer.runs import finished_step, read_step
from drafter_trainer.targets import Target
from drafter_trainer.training.rows import load_rows
from drafter_trainer.tuning.completions import load_completions
from tests.conftest import make_model
from tests.distillation.completion_server import CompletionServer
from tests.distillation.conftest import sample_prompts, stored_rows
from tests.recipes.test_whole_way import options as options_of
from tests.recipes.test_whole_way import recipe_main


def run_distill(target_folder: Path, folder: Path, *more: str) -> list[dict]:
    """Run the recipe in a folder; return its training rows."""
    given = {"dtype": "float32", "corpus": "sample", "max_samples": "6 2", "temperatures": "0.0"}
    given |= {"max_new_tokens": "8", "batch_size": "4"}
    recipe_main("distill")(options_of(target_folder, folder, *more, **given))
    return stored_rows(RowStore(folder / "distill" / "train"))


def refuse_to_load(*_: Any) -> None:
    pytest.fail("the target's weights were loaded")


def test_servers_answer_without_the_targets_weights(tmp_path, target_folder, tokenizer, monkeypatch) -> None:
    """Prevent a machine that only asks servers from loading, or needing room for, seventy billion parameters."""
    monkeypatch.setattr(Target, "load_model", refuse_to_load)
    with CompletionServer(make_model(tokenizer), tokenizer) as server:
        rows = run_distill(target_folder, tmp_path, "--servers", server.url)
    facts = read_step(tmp_path / "distill")["facts"]["train"]
    assert (facts["rows"], facts["retokenized"], facts["dropped"]) == (6, 0, {})
    assert sum(facts["languages"].values()) == 6
    assert {"looping", "duplicates", "cut_by_length"} <= facts.keys()
    assert all(row["topk_logprobs"] for row in rows)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--engine", "sglang"), "engine must be transformers or vllm unless servers are given, got sglang"),
        (("--engine", "ollama", "--servers", "http://h"), "engine must be the kind of the servers, one of"),
        (("--servers", "h:8000"), "is not a server's address"),
        (("--pair", "nl"), "ask for translations: give a pair, such as --pair en-nl, or --prompts"),
    ],
)
def test_mistakes_are_found_before_anything_is_done(tmp_path, target_folder, given, message) -> None:
    """Prevent a mistyped option from being taken for another engine, or found out after the corpus is read."""
    with pytest.raises(InputError, match=message):
        run_distill(target_folder, tmp_path, *given)
    assert not list(tmp_path.rglob("*.parquet"))


def test_text_is_not_tuned_on(tmp_path: Path, target_folder: Path, target: Target) -> None:
    """Prevent settings from being chosen on text that passes for the target's own greedy completions."""
    lines = [row["en"] for split in ("train", "validation") for row in sample_rows(split)]
    (tmp_path / "english.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run_distill(target_folder, tmp_path, "--corpus", f"file:{tmp_path}/english.txt", "--engine", "text")
    with pytest.raises(InputError, match="0 held-out greedy ones"):
        load_completions(tmp_path / "distill", target, 10)


def test_stories_are_completed(tmp_path: Path, target_folder: Path) -> None:
    """Prevent stories of one split from being those of another, and a pair without a corpus from having none."""
    run_distill(target_folder, tmp_path, "--corpus", "stories", "--pair", "en-haw")
    for split, count in (("train", 6), ("validation", 2)):
        rows = stored_rows(RowStore(tmp_path / "distill" / split))
        assert {row["source_id"] for row in rows} == {number for number, _ in list(sample_stories(split))[:count]}
        assert {(row["corpus"], row["pair"]) for row in rows} == {("stories", "en-haw")}


def test_more_is_completed_and_nothing_twice(tmp_path, target_folder, target, monkeypatch) -> None:
    """Prevent refusing completions for a batch size or a name, and training on rows that nobody asks for."""
    first = run_distill(target_folder, tmp_path)
    fingerprint = read_step(tmp_path / "distill")["fingerprint"]
    elsewhere = ("--servers", "http://127.0.0.1:9")
    with monkeypatch.context() as patched:
        patched.setattr(Target, "load_model", refuse_to_load)
        for same in (("--batch_size", "1"), ("--target_model", f"tests/renamed={target_folder}"), elsewhere):
            assert run_distill(target_folder, tmp_path, *same) == first
    assert finished_step(tmp_path / "distill", "")["fingerprint"] == fingerprint

    more = ("--temperatures", "0", "1", "2", "--max_samples", "7", "2", "--target", f"tests/renamed={target_folder}")
    rows = run_distill(target_folder, tmp_path, *more)
    assert len(rows) == 7 + 2 * 7
    assert [row for row in rows if row["key"] in {each["key"] for each in first}] == first
    assert len({row["key"] for row in rows}) == len(rows)
    assert len(load_rows(tmp_path / "distill" / "train", target)) == 21
    assert read_step(tmp_path / "distill")["fingerprint"] != fingerprint

    (tmp_path / "distill" / "train" / "rows-000-000001.parquet").unlink()
    assert run_distill(target_folder, tmp_path, *more) == rows  # though the record says finished
    for fewer, said in (
        ((), r"temperatures: then \[0.0, 1.0, 2.0\], now \[0.0\].* and 1\d of its rows are not requested now"),
        ((*more, "--max_new_tokens", "9"), "max_new_tokens: then 8, now 9, and 2"),
        ((*more, "--dtype", "bfloat16"), "dtype: then float32, now bfloat16"),
    ):
        with pytest.raises(InputError, match=said):
            run_distill(target_folder, tmp_path, *fewer)
    assert run_distill(target_folder, tmp_path, *more) == rows


def test_stored_completions_are_scored(tmp_path, target_folder, target, tokenizer) -> None:
    """Prevent completions from being asked again because their server gave no log-probabilities."""
    with CompletionServer(make_model(tokenizer), tokenizer) as server:
        bare = run_distill(target_folder, tmp_path, "--engine", "transformers", "--servers", server.url)
    distill(
        target,
        [corpus_prompts("sample", get_pair("de-en"))],
        output_dir=tmp_path / "distill",
        temperatures=[0.0],
        max_new_tokens=8,
        languages="de-en",
        max_prompts=6,
        max_validation_prompts=2,
        evaluation_questions=["sample"],
        teacher_forcing=True,
        dtype="float32",
    )
    scored = stored_rows(RowStore(tmp_path / "distill" / "train"))
    for before, now in zip(bare, scored, strict=True):
        assert (before["topk_logprobs"], before["retokenized"]) == (None, True)
        assert len(now["topk_logprobs"]) == len(now["response_ids"])
        assert before | {name: now[name] for name in ("topk_ids", "topk_logprobs")} == now
    assert read_step(tmp_path / "distill")["facts"]["train"]["without_logprobs"] == 0


def test_prompts_beyond_the_context_are_dropped(tmp_path: Path, tokenizer) -> None:
    """Prevent rows that no target can have answered, and a traceback from within the model."""
    folder, lengths = tmp_path / "target", sorted(len(prompt.prompt_ids) for prompt in sample_prompts(tokenizer, 6))
    context = lengths[-2] + 3
    make_model(tokenizer, max_position_embeddings=context).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    rows = run_distill(folder, tmp_path)
    assert all(len(row["prompt_ids"]) + row["max_new_tokens"] <= context for row in rows)
    assert {row["max_new_tokens"] for row in rows} >= {3, 8}
    dropped = read_step(tmp_path / "distill")["facts"]["train"]["dropped"]
    assert dropped == {"prompt that fills the target's context (English)": 6 - len(rows)}
