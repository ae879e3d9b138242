"""The content of the card, for every kind of drafter."""

import copy
import dataclasses
import os
import runpy
import shutil
from pathlib import Path

import pytest

from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.drafters.loop.settings import LoopSettings
from drafter_trainer.hub.card import render_card
from drafter_trainer.hub.publish import Publishing, publish_run
from drafter_trainer.runs import Run
from drafter_trainer.targets import Target
from tests.conftest import change_json
from tests.hub.conftest import results_for
from tests.processes import Running

DESCRIPTION = DrafterDescription(
    name="tiny-drafter-de-en",
    target="tests/tiny-target",
    target_revision="rev0",
    tokenizer_sha256="0" * 64,
    pair="de-en",
    draft_length=5,
    training={
        "distill": {
            "train": {"prompts": 50, "rows": 200, "dropped": {"empty completion (English)": 3}},
            "corpora": [{"name": "wmt16", "repo": "wmt/wmt16", "revision": "c0ffee", "licence": "unknown"}],
            "temperatures": [0.0, 0.7],
        },
        "finetune": {"initialization": "layers", "train_rows": 7, "learning_rate": 0.001},
    },
    loop=LoopSettings(sources=["lookup", "network"], longest_draft=9).to_dict(),
    versions={"drafter_trainer": "0.1.0", "torch": "2.13.0"},
)
ADAPTER = dataclasses.replace(DESCRIPTION, adapter_of={"drafter": "alice/base", "revision": "ba5e"})
# Published for its table only: nothing was trained.
NGRAM_ONLY = dataclasses.replace(
    DESCRIPTION, training={}, loop=LoopSettings(sources=["lookup", "ngram"], longest_draft=9).to_dict()
)
RESULTS = {"results.json": results_for(DESCRIPTION.name)}


def with_first_run(**changes: object) -> dict[str, dict]:
    results = copy.deepcopy(RESULTS)
    results["results.json"]["runs"][0] |= changes
    return results


def section(card: str, title: str) -> str:
    return card.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def code_blocks(card: str) -> list[str]:
    return [block.partition("```")[0] for block in card.split("```python\n")[1:]]


def test_numbers_come_from_the_results() -> None:
    """The card must have the figures of the results, with interval, device, settings, command and commit."""
    speed = section(render_card(DESCRIPTION, RESULTS, "alice/x", None), "Speed")
    for expected in ("1.23x (1.11-1.34)", "a processor (2 threads)", "float32", "batch 1", "4/4", "greedy"):
        assert expected in speed
    assert "with `bench.py --config c.yaml` at commit `0123abc`, target tests/tiny-target@1" in speed
    assert "![Acceptance by position in the draft](acceptance.png)" in speed


@pytest.mark.parametrize(
    ("value", "count", "headline", "verdict"),
    [
        (1.2, 8, "the target is 1.20 times as fast as with plain decoding (de-en translation, greedy).", "faster"),
        (
            0.7,
            8,
            "is slower than with plain decoding** (de-en translation, greedy): 0.70 times as fast.",
            "**slower**",
        ),
        (1.0, 8, "(de-en translation, greedy): the difference is within noise.", "within noise"),
        (1.2, 4, "(de-en translation, greedy), but on only 4 questions, too few for a verdict.", "too few questions"),
    ],
)
def test_card_states_where_the_drafter_helps(value: float, count: int, headline: str, verdict: str) -> None:
    """A card must not praise a drafter that slows the target down, or one with too few measurements."""
    results = with_first_run(questions={"source": "sample", "count": count, "sha256": "0"})
    low, high = value - 0.1, value + 0.1
    results["results.json"]["runs"][0]["methods"][1]["speedup"] = {"value": value, "low": low, "high": high}
    card = render_card(DESCRIPTION, results, "alice/x", None)
    assert headline in card
    where = " ".join(section(card, "Where it helps").split())  # without the padding of the cells
    assert f"| {value:.2f}x ({low:.2f}-{high:.2f}) | - | {verdict} |" in where
    assert where.count("German to English | translation | greedy") == 1


def test_where_it_helps_has_every_results_file() -> None:
    """A card with only its best run hides where the drafter is slower, or slower than prompt lookup."""
    results = with_first_run(task="story", pair="en-de", temperature=1.0, seed=3)["results.json"]
    lookups = [
        results["runs"][0]["methods"][0] | {"name": f"prompt lookup, {length}", "speedup": speedup}
        for length, speedup in (
            (5, {"value": 1.4, "low": 1.3, "high": 1.5}),
            (10, {"value": 1.2, "low": 1.1, "high": 1.3}),
        )
    ]
    results["runs"][0]["methods"][1:1] = lookups
    card = render_card(DESCRIPTION, RESULTS | {"tasks/story/results.json": results}, "alice/x", None)
    where = " ".join(section(card, "Where it helps").split())
    assert "German to English | translation | greedy | 8 | 1.23x (1.11-1.34) | - | faster" in where
    row = "English to German | story | T = 1, seed 3 | 8 | 1.23x (1.11-1.34) | 1.40x (1.30-1.50) | faster"
    assert row in where
    assert "### results.json" in card
    assert "### tasks/story/results.json" in card


def test_training_data_have_revisions_and_counts() -> None:
    """The training data decide where a drafter helps; without revision and count nobody can find the same data."""
    card = render_card(DESCRIPTION, {}, "alice/x", None)
    data = section(card, "Training data")
    link = "[wmt/wmt16](https://huggingface.co/datasets/wmt/wmt16), revision c0ffee, license unknown"
    assert f"| distill: corpus | wmt16: {link} |" in data
    assert "| distill: train | prompts 50, rows 200, dropped empty completion (English) 3 |" in data
    hyperparameters = section(card, "Hyperparameters")
    assert "| finetune: learning rate | 0.001 |" in hyperparameters
    assert "| distill: temperatures | 0; 0.7 |" in hyperparameters
    assert "prompts 50" not in hyperparameters


@pytest.mark.parametrize("description", [DESCRIPTION, ADAPTER, NGRAM_ONLY], ids=["whole", "adapter", "n-gram only"])
def test_card_without_results_states_no_speed(description: DrafterDescription) -> None:
    """Before its benchmark a drafter has no numbers, and its card must not suggest any."""
    card = render_card(description, {}, "alice/x", None)
    assert "Not measured yet" in section(card, "Speed")
    assert "has not been measured yet" in card
    for absent in ("x (", "model-index", "acceptance.png", "None", "times as fast"):
        assert absent not in card


@pytest.mark.parametrize("description", [DESCRIPTION, ADAPTER, NGRAM_ONLY], ids=["whole", "adapter", "n-gram only"])
def test_usage_lines_are_python(description: DrafterDescription) -> None:
    """Code that people copy must at least compile, and name the repository."""
    blocks = code_blocks(render_card(description, RESULTS, "alice/x", None))
    assert blocks
    for block in blocks:
        compile(block, "card", "exec")
        assert '"alice/x"' in block
    training = {"distill": {"chat_template_kwargs": {"enable_thinking": False}}}
    card = render_card(dataclasses.replace(description, training=training), RESULTS, "alice/x", None)
    assert 'return_tensors="pt", enable_thinking=False)' in card
    assert "| distill: chat template kwargs | enable thinking False |" in card


def test_a_multimodal_target_is_loaded_by_its_own_class() -> None:
    """`AutoModelForCausalLM` does not load Mistral 3, so the card's first lines would fail."""
    prompting = {"auto_class": "AutoModelForImageTextToText"}
    for description in (DESCRIPTION, ADAPTER):
        lines = code_blocks(render_card(dataclasses.replace(description, prompting=prompting), {}, "alice/x", None))[0]
        assert f'target = AutoModelForImageTextToText.from_pretrained("{description.target}")' in lines
        own = "AutoModelForCausalLM, " * (description is DESCRIPTION)
        assert f"from transformers import {own}AutoModelForImageTextToText, AutoTokenizer\n" in lines


@pytest.mark.parametrize(
    ("license", "expected"),
    [
        ("mit", "`mit`, which follows from the license of"),
        ("other", "so the target's own terms, on its page, apply"),
        (None, "Unknown: none was given"),
    ],
)
def test_license_is_stated_or_unknown(license: str | None, expected: str) -> None:
    """A missing license could be read as permission."""
    assert expected in section(render_card(DESCRIPTION, {}, "alice/x", license), "License")


def test_code_on_the_card_runs(run_folder: Path, target: Target, tmp_path: Path) -> None:
    """A published card shows three ways to use the drafter, and each must work as it is printed."""
    run = Run("tiny-drafter-de-en", run_folder, "de-en")
    publish_run(run, target, "float32", Publishing(to=str(tmp_path / run.name)))
    # Under the name on the card. A Llama takes no token types.
    place = shutil.copytree(target.path, tmp_path / target.name)
    change_json(place / "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])
    blocks = code_blocks((tmp_path / run.name / "README.md").read_text(encoding="utf-8"))
    assert len(blocks) == 3
    check = """
plain = target.generate(**inputs, max_new_tokens=128)
assert plain.tolist() == output.tolist()
assert drafter.generate.__module__ != "transformers.generation.utils"
assert plain.tolist() == target.generate(**inputs, assistant_model=drafter, max_new_tokens=128).tolist()
"""
    (tmp_path / "use.py").write_text("\n".join([blocks[0], check, blocks[1], check, blocks[2], "assert answer"]))
    Running(run_script, str(tmp_path), environment=os.environ | {"HF_HOME": str(tmp_path / "home")}).result()


def run_script(folder: str) -> None:
    os.chdir(folder)
    runpy.run_path("use.py", run_name="__main__")


DIVERGENCES = [{"question_id": f"q{margin}", "position": 3, "margin": margin} for margin in (0.0625, 0.125)]


@pytest.mark.parametrize(
    ("lossless", "expected"),
    [
        ({"equal": 4, "prompts": 4, "divergences": []}, ["4 of 4 outputs equal plain decoding's, token for token."]),
        (
            {"equal": 2, "prompts": 4, "divergences": DIVERGENCES},
            ["2 of 4 outputs equal plain decoding's; where", "0.125"],
        ),
        (None, ["sampled, where single outputs cannot be compared"]),
    ],
    ids=["equal", "divergent", "sampled"],
)
def test_losslessness_is_counted(lossless: dict | None, expected: list[str]) -> None:
    """The card must state how many outputs differ from plain decoding's, and by how much the logits differ there."""
    results = copy.deepcopy(RESULTS)
    results["results.json"]["runs"][0]["methods"][1]["losslessness"] = lossless
    text = section(render_card(DESCRIPTION, results, "alice/x", None), "Losslessness")
    assert all(part in text for part in expected)
