"""Rows are reused by what they are, whatever the settings were that made them."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from drafter_trainer import distill
from drafter_trainer.distillation.prompts import corpus_prompts
from drafter_trainer.distillation.store import RowStore
from drafter_trainer.errors import InputError
from drafter_trainer.languages import get_pair
from drafter_trainer.runs import finished_step, read_step
from drafter_trainer.targets import Target
from drafter_trainer.training.rows import load_rows
from tests.conftest import make_model
from tests.distillation.completion_server import CompletionServer
from tests.distillation.conftest import sample_prompts, stored_rows
from tests.recipes.test_distill_servers import options, refuse_to_load
from tests.recipes.test_whole_way import recipe_main


def test_more_is_answered_and_nothing_twice(tmp_path, target_folder, target, monkeypatch) -> None:
    """Prevent refusing answers for a batch size or a name, and training on rows that nobody asks for."""

    def distill(*more: str) -> list[dict]:
        recipe_main("distill")(options(target_folder, tmp_path, *more))
        return stored_rows(RowStore(tmp_path / "distill" / "train"))

    first = distill()
    fingerprint = read_step(tmp_path / "distill")["fingerprint"]
    elsewhere = ("--servers", "http://127.0.0.1:9")
    with monkeypatch.context() as patched:
        patched.setattr(Target, "load_model", refuse_to_load)
        for same in (("--batch_size", "1"), ("--target_model", f"tests/renamed={target_folder}"), elsewhere):
            assert distill(*same) == first
    assert finished_step(tmp_path / "distill", "")["fingerprint"] == fingerprint

    more = ("--temperatures", "0", "1", "2", "--max_samples", "7", "2", "--target", f"tests/renamed={target_folder}")
    rows = distill(*more)
    assert len(rows) == 7 + 2 * 7
    assert [row for row in rows if row["key"] in {each["key"] for each in first}] == first
    assert len({row["key"] for row in rows}) == len(rows)
    assert len(load_rows(tmp_path / "distill" / "train", target)) == 21
    assert read_step(tmp_path / "distill")["fingerprint"] != fingerprint

    (tmp_path / "distill" / "train" / "rows-000-000001.parquet").unlink()
    assert distill(*more) == rows  # though the record says finished
    for fewer, said in (
        ((), r"temperatures: then \[0.0, 1.0, 2.0\], now \[0.0\].* and 1\d of its rows are not requested now"),
        ((*more, "--max_new_tokens", "9"), "max_new_tokens: then 8, now 9, and 2"),
        ((*more, "--dtype", "bfloat16"), "dtype: then float32, now bfloat16"),
    ):
        with pytest.raises(InputError, match=said):
            distill(*fewer)
    assert distill(*more) == rows


def test_stored_answers_are_scored(tmp_path, target_folder, target, tokenizer) -> None:
    """Prevent answers from being asked again because the server that gave them gave no log-probabilities."""
    with CompletionServer(make_model(tokenizer), tokenizer) as server:
        servers = ("--engine", "transformers", "--servers", server.url)
        recipe_main("distill")(options(target_folder, tmp_path, *servers))
    bare = stored_rows(RowStore(tmp_path / "distill" / "train"))
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


def test_prompts_beyond_the_context_are_dropped(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Prevent rows that no target can have answered, and a traceback from within the model."""
    folder, lengths = tmp_path / "target", sorted(len(prompt.prompt_ids) for prompt in sample_prompts(tokenizer, 6))
    context = lengths[-2] + 3
    make_model(tokenizer, max_position_embeddings=context).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    recipe_main("distill")(options(folder, tmp_path))
    rows = stored_rows(RowStore(tmp_path / "distill" / "train"))
    assert all(len(row["prompt_ids"]) + row["max_new_tokens"] <= context for row in rows)
    assert {row["max_new_tokens"] for row in rows} >= {3, 8}
    dropped = read_step(tmp_path / "distill")["facts"]["train"]["dropped"]
    assert dropped == {"prompt that fills the target's context (English)": 6 - len(rows)}
