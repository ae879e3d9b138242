"""Scripts of benchmarks/: the GPU script, the router's speed, and the tables of the paper."""

import json
import os
import statistics
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest
import torch
import yaml

from benchmarks import gpu
from benchmarks.paper.table1 import PAPER as PAPER_FILE
from benchmarks.paper.table1 import paper_tables
from benchmarks.paper.transfer import (
    EXAMPLES,
    ask_table,
    few_shot_prompt,
    look_up,
    make_questions,
    read_aligned,
    replay_source,
)
from benchmarks.router_speed import main
from drafter_trainer.corpora.sample import sample_rows
from drafter_trainer.decoding.metrics import Round
from drafter_trainer.drafters.loop.sources import NgramTable
from drafter_trainer.drafters.ngram import count_table
from drafter_trainer.errors import InputError
from drafter_trainer.languages import get_pair, translation_prompt
from drafter_trainer.results import read_results
from tests.benchmark.made import make_results, make_run
from tests.conftest import make_model
from tests.drafters.test_load import write_drafter

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    out = tmp_path_factory.mktemp("gpu")
    gpu.main(["costs", "training", "--device", "cpu", "--tiny", "--out", str(out)])
    return {name: json.loads((out / f"gpu_{name}.json").read_text(encoding="utf-8")) for name in ("costs", "training")}


def test_scripted_acceptance_is_what_was_asked_for(measured: dict[str, dict]) -> None:
    """A script that loses its place in the text would time drafts that are all rejected, whatever α says."""
    figures = measured["costs"]["figures"]
    assert [entry["α"] for entry in figures] == list(gpu.ALPHAS)
    accepted = [entry["α of the drafts"] for entry in figures]
    assert accepted == sorted(accepted)
    assert accepted[0] < 0.6
    assert accepted[-1] > 0.75
    passes = [entry["tokens per pass"] for entry in figures]
    assert passes == sorted(passes)
    assert passes[-1] > 2.5
    assert all(entry["timed"] > 0 for entry in figures)


def test_without_cuda_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """A run on a processor by mistake would leave a GPU's results file with a processor's times."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main(["costs", "--out", str(tmp_path)])
    assert "there is no CUDA device: run this on a GPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def run_script(tmp_path: Path, *arguments: str, fails: str = "nothing") -> tuple[subprocess.CompletedProcess, str]:
    """Run the script with an interpreter that only notes its commands, and fails where one has a word."""
    python, called = tmp_path / "python", tmp_path / "called"
    python.write_text(f'#!/bin/sh\necho "$@" >> {called}\ncase "$*" in *{fails}*) exit 3;; esac\n', encoding="utf-8")
    python.chmod(0o755)
    done = subprocess.run(
        [SCRIPT, *arguments], env=os.environ | {"PYTHON": str(python)}, capture_output=True, text=True, check=False
    )
    return done, called.read_text(encoding="utf-8") if called.exists() else ""


def test_every_part_runs_though_one_fails(tmp_path: Path) -> None:
    """Minutes on a GPU are dear: a failed test must neither hide the measurements nor pass for success."""
    out = tmp_path / "out"
    done, called = run_script(tmp_path, "--out", str(out), fails="tests/gpu")
    assert done.returncode == 2
    assert f"error: failed: tests (logs in {out})" in done.stderr
    words = [line.split() for line in called.splitlines()]
    assert [line[:2] for line in words[:3]] == [["-m", "pytest"], ["-m", "benchmarks.gpu"], ["-m", "benchmarks.gpu"]]
    for word in (word for line in words for word in line if word.split("/")[0] in ("recipes", "hub_cards", "tests")):
        assert (ROOT / word).exists(), word
    assert {path.name for path in out.iterdir()} == {"tests.log", "costs.log", "training.log", "benchmark.log"}


PAIRS = ("de-en", "fr-en")


def test_router_is_compared_with_the_known_language(tmp_path, target_folder, tokenizer, capsys) -> None:
    """Separate runs for each pair would hide the cost of switching between drafters."""
    config, out = tmp_path / "tiny.yaml", tmp_path / "route"
    values = {"target_model": f"tests/tiny-target={target_folder}", "dtype": "float32"}
    config.write_text(yaml.safe_dump(values | {"pair": "de-en"}), encoding="utf-8")
    drafters = [write_drafter(tmp_path / pair, make_model(tokenizer, layers=1), tokenizer, pair) for pair in PAIRS]
    named = ["--config", str(config), "--drafters", *map(str, drafters), "--out", str(out)]
    main([*named, "--max_questions", "2", "--max_new_tokens", "6"])
    mixed, *alone = read_results(out / "results.json")["runs"]
    assert [run["pair"] for run in (mixed, *alone)] == ["de-en fr-en", "de-en", "fr-en"]
    assert [method["name"] for method in mixed["methods"]] == ["plain", "drafter", "router"]
    asked = [prompt["question_id"].partition("/")[0] for prompt in mixed["methods"][0]["prompts"]]
    assert asked == ["de-en", "fr-en", "de-en", "fr-en"]
    assert {run["questions"]["count"] for run in alone} == {2}
    assert {method["losslessness"]["equal"] for method in mixed["methods"]} == {4}
    assert "over knowing the language" in capsys.readouterr().out


PAPER = json.loads(PAPER_FILE.read_text(encoding="utf-8"))
SMALL = {
    "source": "A paper, Table 9",
    "target": "a target",
    "drafter": "a drafter",
    "device": "a device",
    "pairs": ["de-en", "fr-en"],
    "rows": [
        {"method": "theirs", "counterpart": None, "greedy": ["1.0", "2.0", "1.5"], "sampled": [None, None, None]},
        {"method": "PLD", "counterpart": "prompt lookup", "greedy": ["1.1", "1.2", "1.1"], "sampled": ["3", "4", "5"]},
        {"method": "SpS", "counterpart": "drafter", "greedy": ["7", "8", "7.5"], "sampled": ["1", "2", "1.5"]},
    ],
}


def made(pair: str, drafter: float, **runs: Any) -> dict[str, Any]:
    """Results of a drafter that is `drafter` times as fast, greedily and with two seeds."""
    plain = [2.0] * 8
    own = [2.0 / drafter] * 8
    greedy = {"plain": plain, "prompt lookup, 5": [1.0] * 8, "prompt lookup, 10": [0.5] * 8}
    greedy |= {"drafter, stock loop": [4.0] * 8, "drafter without network": [1.6] * 8, "drafter": own}
    sampled = [
        make_run({"plain": plain, "drafter": [seconds] * 8}, temperature=1.0, seed=seed, pair=pair)
        for seed, seconds in enumerate((1.0, 0.5))
    ]
    return make_results(make_run(greedy, pair=pair), *sampled)


def rows(text: str) -> dict[tuple[str, str], list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {(row[0], row[1]): row[2:] for row in table}


def test_numbers_are_in_the_rows_and_columns_of_their_counterparts() -> None:
    """A number in another pair's column, or of another draft length, is a wrong comparison."""
    text = paper_tables(SMALL, [made("fr-en", 4.0), made("de-en", 2.0)])
    greedy, sampled = text.split("### ")[1:]
    found = rows(greedy)
    assert found["paper", "theirs"] == ["1.0", "2.0", "1.5"]
    best = "4.00x (4.00-4.00)"
    assert found["here", "prompt lookup"] == [best, best, "4.00x"]
    assert found["here", "drafter"] == ["2.00x (2.00-2.00)", "4.00x (4.00-4.00)", "3.00x"]
    assert found["here", "drafter, stock loop"][0] == "0.50x (0.50-0.50)"
    assert found["here", "drafter without network"][2] == "1.25x"
    assert ("here", "plain") not in found
    # The baseline's nine tokens for ten make the paper's ratio larger by a ninth.
    assert found["here", "drafter, by the paper's script"] == ["2.22x", "4.44x", "3.33x"]
    found = rows(sampled)
    assert found["paper", "theirs"] == ["-", "-", "-"]
    assert found["here", "prompt lookup"] == ["-", "-", "-"]
    assert found["here", "drafter"] == ["3.00x (2.00-4.00)", "3.00x (2.00-4.00)", "3.00x"]
    assert list(rows(greedy))[2:5] == [("paper", "theirs"), ("paper", "PLD"), ("here", "prompt lookup")]


@pytest.mark.parametrize("row", PAPER["rows"], ids=lambda row: row["method"])
def test_copied_numbers_have_the_printed_mean(row: dict[str, Any]) -> None:
    """An error in copying changes the mean, which the paper prints too."""
    for cells in (row["greedy"], row["sampled"]):
        assert len(cells) == len(PAPER["pairs"]) + 1
        if None in cells:
            assert set(cells) == {None}
            continue
        *values, mean = (float(cell.split(" ± ")[0]) for cell in cells)
        assert statistics.mean(values) == pytest.approx(mean, abs=0.0101)


TEMPLATE = ROOT / "recipes" / "configs" / "gemma-3-270m" / "chat_template.jinja"
END = 1


def test_prompts_of_any_pair_have_the_form_of_the_template() -> None:
    """A drafter was trained with the form of the template: another form would be measured as another language."""
    text, pair = TEMPLATE.read_text(encoding="utf-8"), get_pair("fr-en")
    shown = [row for row in sample_rows("train") if row["fr"] in text]
    examples = [(row["fr"], row["en"]) for row in sorted(shown, key=lambda row: text.index(row["fr"]))]
    composed = few_shot_prompt(pair, examples, "Bonjour.")

    def render(message: str) -> str:
        messages = [{"role": "user", "content": message}]
        return jinja2.Template(text).render(messages=messages, bos_token="<bos>")

    assert len(examples) == EXAMPLES
    assert render(translation_prompt(pair, "Bonjour.")) == "<bos>" + composed
    assert render(composed) == "<bos>" + composed


def test_prompts_show_examples_where_the_template_has_none(tmp_path: Path) -> None:
    """Without examples the target does not translate; with the wrong references the scores are 0."""
    source, reference = ([f"{code}{number}" for number in range(7)] for code in ("es", "en"))
    for code, texts in {"es": source, "en": reference, "it": source[:-1]}.items():
        (tmp_path / f"{code}.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    lines = read_aligned(tmp_path, get_pair("es-en"))
    assert lines == list(zip(source, reference))
    asked, *_ = make_questions(get_pair("es-en"), lines[:EXAMPLES], lines[EXAMPLES:])
    assert (asked.prompt, asked.reference) == (few_shot_prompt(get_pair("es-en"), lines[:5], "es5"), "en5")
    asked, *_ = make_questions(get_pair("de-en"), lines[:EXAMPLES], lines[EXAMPLES:])
    assert asked.prompt == "Translate German to English: es5"
    with pytest.raises(InputError, match=r"en-it has 7 and 6 lines: align them"):
        read_aligned(tmp_path, get_pair("en-it"))


def test_rounds_of_lookup_and_table_are_those_of_the_target() -> None:
    """A draft past the end, or a corrected token that is not counted, would change the tokens per pass."""
    prompt, completion = [7, 8, 9, 5, 7], [8, 9, 4, 7, 8, END]
    # 7 was followed by 8 and 9, then by 5 instead of 4; "9 4" is new; so is "4 7", but 7 was followed by 8.
    assert replay_source(look_up, [(prompt, completion)], 3, {END}) == [
        Round(3, 2, rejected=True),
        Round(0, 0, rejected=False),
        Round(3, 1, rejected=True),
    ]
    table = NgramTable(count_table([[*prompt, *completion]], [1]))
    known, *_ = replay_source(ask_table(table), [([7], [8, 9, 4, 7])], 5, {END})
    assert known.drafted == 3  # the length limit leaves no more
