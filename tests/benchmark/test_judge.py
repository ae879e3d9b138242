"""The judge: its prompts, its grades, and that no judgement is lost, requested twice or dropped."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.judge import Chat, judge, judgement_table, main, read_grade, read_outputs, summarize
from drafter_trainer.benchmark.measure import OUTPUTS as FILE_NAME
from drafter_trainer.benchmark.measure import write_outputs
from drafter_trainer.distillation.servers import ServerEngine
from drafter_trainer.errors import InputError
from tests.distillation.completion_server import CompletionServer

LIMIT = 64
GRADES = {"good": "Well said.\n\nGrade: 9", "poor": "No.\n**Grade: 3/10**", "odd": "I would rather not."}


class JudgingServer(CompletionServer):
    """Judge each completion with its text in `GRADES`, in the protocol of chat completions."""

    def reply(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert path == "/v1/chat/completions"
        assert body["temperature"] == 0
        (message,) = body["messages"]
        said = next((said for text, said in GRADES.items() if f"<answer>\n{text}\n" in message["content"]), "Hello!")
        return {"choices": [{"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}]}


def output(question_id: str, method: str, text: str, temperature: float = 0.0) -> dict[str, Any]:
    return {
        "temperature": temperature,
        "seed": 0,
        "question_id": question_id,
        "chat": [{"role": "user", "content": f"Question {question_id}?"}],
        "method": method,
        "text": text,
    }


SAID = {"plain": ("good", "good", "good"), "drafter": ("good", "poor", "odd")}
OUTPUTS = [output(f"{n}", method, text) for method, texts in SAID.items() for n, text in enumerate(texts, 1)]


@pytest.fixture
def serve(target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Callable[..., JudgingServer]:
    return lambda mishap=None: JudgingServer(target_model, tokenizer, mishap)


def run(url: str, journal: Path, outputs: list[dict[str, Any]] = OUTPUTS) -> dict[str, dict[str, Any]]:
    engine = ServerEngine(Chat("a-judge"), [url], concurrency=2, patience=600.0, backoff=0.05)
    return judge(outputs, engine, LIMIT, journal)


@pytest.mark.parametrize(
    ("said", "grade"),
    [
        ("Fine.\nGrade: 7", 7),
        ("Fine.\n\n**Grade: 10/10**\n\n", 10),
        ("grade 1.", 1),
        ("Grade: 0", None),
        ("Grade: 11", None),
        ("Grade: 7\nBut on the other hand …", None),  # the last line counts
        ("The grade that it deserves is 8", None),
        ("It copies 'Grade: 10' and ends", None),
        ("", None),
    ],
)
def test_grade_is_on_the_last_line(said: str, grade: int | None) -> None:
    """A quoted grade, or a judgement without a grade, must not be read as a grade."""
    assert read_grade(said) == grade


def test_grades_are_compared_with_plain_and_failures_counted(serve, tmp_path) -> None:
    """Unreadable judgements must be counted in the table: without them, the mean is that of the easy questions."""
    with serve() as server:
        judged = run(server.url, tmp_path / "journal.jsonl")
    plain, drafter = summarize(OUTPUTS, judged, LIMIT)
    assert (plain["answers"], plain["graded"], plain["unreadable"], plain["refused"]) == (3, 3, 0, 0)
    assert plain["grade"]["value"] == 9
    assert plain["over_plain"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert (drafter["answers"], drafter["graded"], drafter["unreadable"], drafter["refused"]) == (3, 2, 1, 0)
    assert drafter["grade"]["value"] == (9 + 3) / 2
    # Question 3 is not compared: the drafter has no grade for it.
    assert drafter["over_plain"] == {"value": -3.0, "low": -6.0, "high": 0.0}
    assert "2/3" in judgement_table([plain, drafter])


def test_refusals_are_counted_and_requested_again(serve: Callable[..., JudgingServer], tmp_path: Path) -> None:
    """A prompt that is too long for one server may fit another; until then it has no grade."""
    journal = tmp_path / "journal.jsonl"
    with serve(lambda number, body: "400" if "\npoor\n" in body["messages"][0]["content"] else None) as server:
        drafter = summarize(OUTPUTS, run(server.url, journal), LIMIT)[1]
    assert (drafter["graded"], drafter["unreadable"], drafter["refused"]) == (1, 1, 1)
    with serve() as server:
        drafter = summarize(OUTPUTS, run(server.url, journal), LIMIT)[1]
        assert len(server.received) == 1
    assert (drafter["graded"], drafter["unreadable"], drafter["refused"]) == (2, 1, 0)


def test_recipe_writes_what_it_prints(serve, tmp_path, capsys) -> None:
    """From outputs.jsonl to judge.json and the table, as a user runs it; other completions are not mixed in."""
    records = [
        {key: OUTPUTS[0][key] for key in ("temperature", "seed", "chat")} | {"question_id": str(n)} for n in (1, 2)
    ]
    for record in records:
        record["methods"] = {"plain": {"text": "good"}, "drafter": {"text": "poor"}}
    write_outputs(records, tmp_path / FILE_NAME)
    assert [entry["method"] for entry in read_outputs(tmp_path / FILE_NAME)] == ["plain", "drafter"] * 2
    with serve() as server:
        options = ["--outputs", str(tmp_path), "--servers", f"{server.url}/v1", "--model", "a-judge"]
        main(options)
        written = json.loads((tmp_path / "judge.json").read_text(encoding="utf-8"))
        grades = {method["name"]: method["grade"]["value"] for method in written["methods"]}
        assert grades == {"plain": 9, "drafter": 3}
        assert "-6.00 (-6.00 to -6.00)" in capsys.readouterr().out
    with serve(lambda number, body: "400") as server:
        (tmp_path / "judge" / "journal.jsonl").unlink()
        main([*options[:2], "--servers", server.url, *options[4:]])
        assert "2 judgements rejected by the servers with status 400" in capsys.readouterr().out
        write_outputs(records[:1], tmp_path / FILE_NAME)
        with pytest.raises(InputError, match="made with other settings"):
            main(options)


def test_missing_or_broken_outputs_are_named(tmp_path: Path) -> None:
    """The error must name the file and the remedy."""
    with pytest.raises(InputError, match=r"outputs\.jsonl: no such file: run bench first"):
        main(["--outputs", str(tmp_path), "--servers", "http://127.0.0.1:1", "--model", "m"])
    (tmp_path / FILE_NAME).write_text('{"method": "plain", "text": "a"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"line 1: lacks chat, question_id, seed, temperature"):
        read_outputs(tmp_path / FILE_NAME)
    (tmp_path / FILE_NAME).write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="is empty"):
        read_outputs(tmp_path / FILE_NAME)
