"""The content and the metadata of the card, for every kind of drafter."""

import copy
import dataclasses
import json
import os
import random
import re
import runpy
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, RepoCard

from drafter_trainer import publish
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.drafters.loop.settings import LoopSettings
from drafter_trainer.hub.card import render_card
from drafter_trainer.languages import LANGUAGES
from drafter_trainer.results import PLAIN, find_method
from drafter_trainer.targets import Target
from tests.conftest import change_json
from tests.hub.conftest import NAME, results_for
from tests.loopback_hub import read_card
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
            "chat_template_kwargs": {"enable_thinking": False},
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
KINDS = {"whole": DESCRIPTION, "adapter": ADAPTER, "n-gram only": NGRAM_ONLY}
RESULTS = {"results.json": results_for(DESCRIPTION.name)}


def with_drafter(results: dict[str, dict] = RESULTS, **changes: object) -> dict[str, dict]:
    results = copy.deepcopy(results)
    results["results.json"]["runs"][0]["methods"][1] |= changes
    return results


def with_first_run(**changes: object) -> dict[str, dict]:
    results = copy.deepcopy(RESULTS)
    results["results.json"]["runs"][0] |= changes
    return results


def section(card: str, title: str) -> str:
    return card.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def code_blocks(card: str) -> list[str]:
    return [block.partition("```")[0] for block in card.split("```python\n")[1:]]


@pytest.mark.parametrize(
    ("title", "expected"),
    {
        "Speed": [
            *("1.23x (1.11-1.34)", "a processor (2 threads)", "float32", "batch 1", "4/4", "greedy"),
            "with `bench.py --config c.yaml` at commit `0123abc`, target tests/tiny-target@1",
            "![Acceptance by position in the draft](acceptance.png)",
        ],
        "Training data": [
            "wmt16: [wmt/wmt16](https://huggingface.co/datasets/wmt/wmt16), revision c0ffee, license unknown |",
            "| distill: train | prompts 50, rows 200, dropped empty completion (English) 3 |",
        ],
        "Hyperparameters": ["| finetune: learning rate | 0.001 |", "| distill: temperatures | 0; 0.7 |"],
        "License": ["`mit`, which follows from the license of"],
    }.items(),
)
def test_card_has_the_facts_of_its_files(title: str, expected: list[str]) -> None:
    """A figure without its setting, or a corpus without its revision, cannot be reproduced."""
    text = section(render_card(DESCRIPTION, RESULTS, "alice/x", "mit"), title)
    assert [part for part in expected if part not in text] == []


@pytest.mark.parametrize(
    ("value", "count", "headline", "verdict"),
    [
        (1.2, 8, "target is 1.20 times as fast as with plain decoding (de-en translation, greedy).", "faster"),
        (0.7, 8, "is slower than with plain decoding** (de-en translation, greedy): 0.70 times", "**slower**"),
        (1.0, 8, "(de-en translation, greedy): the difference is within noise.", "within noise"),
        (1.2, 4, "(de-en translation, greedy), but on only 4 questions, which are too few", "too few questions"),
    ],
)
def test_card_states_where_the_drafter_helps(value: float, count: int, headline: str, verdict: str) -> None:
    """A card must not praise a drafter that slows the target down, or one with too few measurements."""
    results = with_first_run(questions={"source": "sample", "count": count, "sha256": "0"})
    low, high = value - 0.1, value + 0.1
    card = render_card(
        DESCRIPTION, with_drafter(results, speedup={"value": value, "low": low, "high": high}), "alice/x", None
    )
    assert headline in card
    where = " ".join(section(card, "Where it helps").split())  # without the padding of the cells
    assert f"| {value:.2f}x ({low:.2f}-{high:.2f}) | - | {verdict} |" in where
    assert where.count("German to English | translation | greedy") == 1


def test_where_it_helps_has_every_results_file() -> None:
    """A card with only its best run hides where the drafter is slower, or slower than prompt lookup."""
    results = with_first_run(task="story", pair="en-de", temperature=1.0, seed=3)["results.json"]
    plain = results["runs"][0]["methods"][0]
    for length, value in ((5, 1.4), (10, 1.2)):
        speedup = {"value": value, "low": value - 0.1, "high": value + 0.1}
        results["runs"][0]["methods"].insert(1, plain | {"name": f"prompt lookup, {length}", "speedup": speedup})
    card = render_card(DESCRIPTION, RESULTS | {"tasks/story/results.json": results}, "alice/x", None)
    where = " ".join(section(card, "Where it helps").split())
    assert "German to English | translation | greedy | 8 | 1.23x (1.11-1.34) | - | faster" in where
    assert "English to German | story | T = 1, seed 3 | 8 | 1.23x (1.11-1.34) | 1.40x (1.30-1.50) | faster" in where
    assert "### results.json" in card
    assert "### tasks/story/results.json" in card


@pytest.mark.parametrize("description", KINDS.values(), ids=KINDS)
def test_card_without_results_states_no_speed(description: DrafterDescription) -> None:
    """Before its benchmark a drafter has no numbers, and its card must not suggest any."""
    card = render_card(description, {}, "alice/x", None)
    assert "Not measured yet" in section(card, "Speed")
    assert "Unknown: no license was named" in section(card, "License")
    for absent in ("x (", "model-index", "acceptance.png", "None", "times as fast"):
        assert absent not in card


@pytest.mark.parametrize("description", KINDS.values(), ids=KINDS)
def test_usage_is_python(description: DrafterDescription) -> None:
    """Code that people copy must at least compile, and name the repository."""
    blocks = code_blocks(render_card(description, RESULTS, "alice/x", None))
    assert blocks
    for block in blocks:
        compile(block, "card", "exec")
        assert '"alice/x"' in block
    assert ('return_tensors="pt", enable_thinking=False)' in blocks[0]) == bool(description.training)


@pytest.mark.parametrize(("description", "own"), [(DESCRIPTION, "AutoModelForCausalLM, "), (ADAPTER, "")])
def test_a_multimodal_target_is_loaded_by_its_own_class(description: DrafterDescription, own: str) -> None:
    """`AutoModelForCausalLM` does not load Mistral 3, so the card's first lines would fail."""
    description = dataclasses.replace(description, prompting={"auto_class": "AutoModelForImageTextToText"})
    lines = code_blocks(render_card(description, {}, "alice/x", None))[0]
    assert f'target = AutoModelForImageTextToText.from_pretrained("{description.target}")' in lines
    assert f"from transformers import {own}AutoModelForImageTextToText, AutoTokenizer\n" in lines


def test_code_on_the_card_runs(trained: Path, target: Target, tmp_path: Path) -> None:
    """A published card shows three ways to use the drafter, and each must work as it is printed."""
    publish(trained, target, tmp_path / NAME)
    # Under the name on the card. A Llama takes no token types.
    place = shutil.copytree(target.path, tmp_path / target.name)
    change_json(place / "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])
    blocks = code_blocks((tmp_path / NAME / "README.md").read_text(encoding="utf-8"))
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
        ({"equal": 4, "prompts": 4, "divergences": []}, ["4 of 4 outputs equal those of plain decoding, token for"]),
        ({"equal": 2, "prompts": 4, "divergences": DIVERGENCES}, ["2 of 4 outputs equal", "0.125"]),
        (None, ["sampled; single sampled outputs cannot be compared"]),
    ],
    ids=["equal", "divergent", "sampled"],
)
def test_losslessness_is_counted(lossless: dict | None, expected: list[str]) -> None:
    """The card must state how many outputs differ from plain decoding's, and by how much the logits differ there."""
    text = section(render_card(DESCRIPTION, with_drafter(losslessness=lossless), "alice/x", None), "Losslessness")
    assert all(part in text for part in expected)


# Metadata

TARGET_PAGE = "https://huggingface.co/tests/tiny-target"
WHOLE = {
    "base_model": "tests/tiny-target",
    "base_model_revision": "rev0",
    "library_name": "transformers",
    "pipeline_tag": "text-generation",
    "language": ["de", "en"],
    "datasets": ["wmt/wmt16"],
    "tags": ["speculative-decoding", "assisted-generation", "draft-model", "assistant-model"],
}


@pytest.mark.parametrize(
    ("kind", "license", "expected"),
    [
        ("whole", None, WHOLE),
        ("whole", "other", WHOLE | {"license": "other", "license_link": TARGET_PAGE}),
        ("adapter", "mit", WHOLE | {"license": "mit", "library_name": "peft"}),
        ("n-gram only", "mit", {key: WHOLE[key] for key in WHOLE if key != "datasets"} | {"license": "mit"}),
    ],
)
def test_metadata_key_by_key(kind: str, license: str | None, expected: dict[str, Any]) -> None:
    """A wrong or missing key misleads a search on the Hub."""
    assert ModelCard(render_card(KINDS[kind], {}, "alice/x", license)).data.to_dict() == expected


def test_the_hubs_validation_passes() -> None:
    """A card that the Hub rejects fails the push of the whole drafter; a planted error must be rejected here too."""
    for description in (*KINDS.values(), dataclasses.replace(DESCRIPTION, training={})):
        for license in (None, "apache-2.0", "other"):
            card = render_card(description, RESULTS, "alice/x", license)
            assert read_card(card.encode())[1] == []
    wrong = card.replace("base_model: tests/tiny-target", "base_model:\n  id: tests/tiny-target")
    assert "base_model" in read_card(wrong.encode())[1][0]


def test_model_index_has_the_figures_of_the_results() -> None:
    """The figures on the Hub must be those of the results file, without rounding.

    Runs whose target fails its task are left out, and so are runs of engines, several of which would have one key.
    """
    results = ModelCard(render_card(DESCRIPTION, RESULTS, "alice/x", None)).data.eval_results
    figures = {"speedup": 1.234, "speedup_low": 1.111, "speedup_high": 1.345, "mean_accepted_tokens": 1.765}
    assert {result.metric_type: result.metric_value for result in results} == figures
    for result in results:
        dataset = (result.dataset_type, result.dataset_config, result.dataset_revision)
        assert dataset == ("sample", "de-en", "0")
        settings = {"file": "results.json", "task": "translation", "temperature": 0.0, "seed": 0}
        assert settings.items() <= result.metric_args.items()
    plain, drafter = RESULTS["results.json"]["runs"][0]["methods"]
    for change in (
        {"methods": [plain | {"looping_share": 0.5}, drafter]},
        {"engine": {"name": "vllm", "version": "0.32.0", "requests_at_once": 1}},
    ):
        card = ModelCard(render_card(DESCRIPTION, with_first_run(**change), "alice/x", None))
        assert card.data.eval_results is None


LINES = ["", "---", "a: b", "\n---\n", "| x |", "{{ 1 }}", "{% if %}", "- x", "#", "'", '"', "\x00", "\u2028"]
ODD = [None, True, float("nan"), -1e300, [], {}, [[1], {"a": None}], {"\n---\n": ["---"]}]


@pytest.mark.parametrize("value", [*LINES, *ODD], ids=repr)
def test_card_is_well_formed_with_any_value(value: Any) -> None:
    """A fact of training, or a hand-written note, must not end the metadata or truncate the card."""
    description = copy.deepcopy(DESCRIPTION)
    line = value if isinstance(value, str) else "mit"
    description.training["finetune"] = {"fact": value, line: value}
    text = render_card(description, {}, "alice/x", line, line)
    data, errors = read_card(text.encode())
    assert errors == []
    assert data["base_model"] == "tests/tiny-target"
    assert RepoCard(text).data.to_dict()["pipeline_tag"] == "text-generation"


CARDS = sorted(path.parent for path in (Path(__file__).parents[2] / "hub_cards").glob("*/results.json"))
# Numbers that are not measurements: papers, releases, names, and text that is the same on every card.
PROSE = [
    *("arXiv 2406.16758", "abs/2406.16758", "{2406.16758}", "{2605.30580}", "arXiv 2211.17192", "abs/2211.17192"),
    *("{2024}", "{2026}", "yi2024fastmultilingual", "paudel2026acrosslanguages", "transformers (5.23)", "SHA-256"),
    *("95 % bootstrap interval", "below 30", "(95 %)", "batch size 1", "Batch size 1", "batch 1", "includes 1"),
    *("float32", "max_new_tokens=128"),
    *(language.probe for language in LANGUAGES.values()),
]
# Not on a card; among hundreds of figures, any number would be found.
UNSHOWN = {"prompts", "acceptance_by_position", "time_split"}
UNSHOWN |= {"calibration", "sampling_calibration", "pass_milliseconds", "sampling_pass_milliseconds"}
Leaf = tuple[str, Any]  # the last key that leads to a value, and the value


def leaves(value: Any, name: str = "") -> Iterator[Leaf]:
    """Yield all values and keys of a document."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield name, key
            if key == "divergences":  # "2 of 16 outputs differ"
                yield name, len(entry)
            # A count of prompts has the name of the list of prompts.
            if key not in UNSHOWN or isinstance(entry, int):
                yield from leaves(entry, key)
    elif isinstance(value, list):
        for entry in value:
            yield from leaves(entry, name)
    else:
        yield name, value


def derived(run: dict[str, Any]) -> Iterator[Leaf]:
    """Yield the figures that a card computes for an engine: tokens/s over plain, first token in milliseconds."""
    plain = find_method(run, PLAIN)
    for method in run["methods"] if "engine" in run else ():
        yield "", method["tokens_per_second"] / plain["tokens_per_second"]
        yield from (("", share) for share in method["acceptance_by_position"])
        yield "", round(1000 * statistics.median(prompt["first_pass_seconds"] for prompt in method["prompts"]))


def unknown_numbers(card: str, documents: list[dict[str, Any]]) -> list[str]:
    """List the numbers of a card that no document has, in any rounding."""
    found = [leaf for document in documents for leaf in leaves(document)]
    for document in documents:  # "Sampled with 3 seeds" counts runs
        found.append(("", len({run["seed"] for run in document.get("runs", ()) if run["temperature"] > 0})))
        found += [leaf for run in document.get("runs", ()) for leaf in derived(run)]
    # The "+" of a commit with changed files is written in words.
    texts = {value.removesuffix("+") for _, value in found if isinstance(value, str) and re.search(r"\d", value)}
    for phrase in sorted({*PROSE, *texts}, key=len, reverse=True):
        card = re.sub(rf"(?<![\w.]){re.escape(phrase)}(?![\w.]*\w)", " ", card)
    numbers = {value for _, value in found if isinstance(value, int | float) and not isinstance(value, bool)}
    percent = ("_share", "acceptance_rate")
    shares = {f"{value:.0%}" for name, value in found if name.endswith(percent) and value is not None}
    return [
        text
        for text in re.findall(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?%?", card)
        if text not in shares and not any(_is_rounded(text, abs(number)) for number in numbers)
    ]


def _is_rounded(text: str, number: float) -> bool:
    decimals = len(text.partition(".")[2])
    if not decimals and "e" not in text:
        return text == f"{number:.0f}" and number == int(number)  # too many would round to a whole number
    return text in (repr(number), f"{number:.4g}", f"{number:.{decimals}f}")


def randomized(value: Any, draw: random.Random) -> Any:
    """Replace all numbers but 0 by random ones; shares stay shares."""
    if isinstance(value, dict):
        return {key: randomized(entry, draw) for key, entry in value.items()}
    if isinstance(value, list):
        return [randomized(entry, draw) for entry in value]
    if not value or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return draw.randint(1001, 9999)
    return draw.uniform(0.1, 0.9) if value < 1 else draw.uniform(11, 99)


def test_rendering_adds_no_number() -> None:
    """With random figures in the files, a number that comes from the code or the template is found."""
    results = {name: randomized(RESULTS["results.json"], random.Random(seed)) for seed, name in enumerate("ab")}
    for method in (method for each in results.values() for method in each["runs"][0]["methods"]):
        method["losslessness"]["equal"] = method["losslessness"]["prompts"]  # a difference would be another number
    documents = [*results.values(), dataclasses.asdict(DESCRIPTION)]
    assert unknown_numbers(render_card(DESCRIPTION, results, "alice/x", "mit"), documents) == []
    planted = render_card(DESCRIPTION, results, "alice/x", "mit", notes="Saves 6 hours, or 61 %, or 1.23x.")
    assert unknown_numbers(planted, documents) == ["6", "61", "1.23"]


@pytest.mark.parametrize("folder", CARDS, ids=lambda folder: folder.name)
def test_every_number_is_in_a_file(folder: Path) -> None:
    """A card must have no figure that was typed by hand, or is left from an earlier benchmark."""
    paths = [folder / "drafter.json", folder / "card.json", *sorted(folder.rglob("results.json"))]
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    assert unknown_numbers((folder / "README.md").read_text(encoding="utf-8"), documents) == []
