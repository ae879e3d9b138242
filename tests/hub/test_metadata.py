"""A card's metadata, key by key, and back from the card to the results."""

import copy
import dataclasses
from typing import Any

import pytest
from huggingface_hub import ModelCard

from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.hub.card import render_card
from tests.hub.test_card import ADAPTER, DESCRIPTION, NGRAM_ONLY, RESULTS
from tests.hub.test_card_numbers import CARDS
from tests.loopback_hub import read_card


def metadata(description: DrafterDescription, measurements: dict[str, Any], license: str | None) -> dict[str, Any]:
    return ModelCard(render_card(description, measurements, "alice/x", license)).data.to_dict()


def test_metadata_key_by_key() -> None:
    """Nobody finds a card without base model, language and tags."""
    data = metadata(DESCRIPTION, RESULTS, "apache-2.0")
    del data["model-index"]
    assert data == {
        "base_model": "tests/tiny-target",
        "base_model_revision": "rev0",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "language": ["de", "en"],
        "license": "apache-2.0",
        "datasets": ["wmt/wmt16"],
        "tags": ["speculative-decoding", "assisted-generation", "draft-model", "assistant-model"],
    }


@pytest.mark.parametrize(
    ("description", "license", "expected", "absent"),
    [
        pytest.param(DESCRIPTION, None, {}, {"license", "license_link"}, id="unknown license"),
        pytest.param(
            DESCRIPTION,
            "other",
            {"license": "other", "license_link": "https://huggingface.co/tests/tiny-target"},
            set(),
            id="other license",
        ),
        pytest.param(ADAPTER, "mit", {"library_name": "peft", "base_model": "tests/tiny-target"}, set(), id="adapter"),
        pytest.param(NGRAM_ONLY, "mit", {"library_name": "transformers"}, {"datasets"}, id="n-gram only"),
    ],
)
def test_metadata_follow_the_kind_of_drafter(description, license, expected, absent) -> None:
    """A wrong or missing key misleads a search."""
    data = metadata(description, {}, license)
    assert expected.items() <= data.items()
    assert not data.keys() & (absent | {"model-index"})


def read_evaluations(card: str) -> dict[tuple, float]:
    """Read from a card each figure by file, pair, task, questions, temperature, seed and name."""
    found = {}
    for result in ModelCard(card).data.eval_results or []:
        given = result.metric_args
        place = (given["file"], result.dataset_config, given["task"], result.dataset_type, result.dataset_revision)
        key = (*place, given["temperature"], given["seed"], result.metric_type)
        assert key not in found
        found[key] = result.metric_value
    return found


def test_the_hubs_validation_passes() -> None:
    """A card that the Hub rejects fails the push of the whole drafter; a planted error must be rejected here too."""
    cards = [
        render_card(description, measurements, "alice/x", license)
        for description in (DESCRIPTION, ADAPTER, NGRAM_ONLY, dataclasses.replace(DESCRIPTION, training={}))
        for measurements in ({}, RESULTS)
        for license in (None, "apache-2.0", "other")
    ]
    cards += [(folder / "README.md").read_text(encoding="utf-8") for folder in CARDS]
    assert [read_card(card.encode())[1] for card in cards] == len(cards) * [[]]
    wrong = cards[0].replace("base_model: tests/tiny-target", "base_model:\n  id: tests/tiny-target")
    assert "base_model" in read_card(wrong.encode())[1][0]


def test_model_index_holds_the_figures_of_the_results() -> None:
    """The figures on the Hub must be those of the results file, without rounding.

    Runs whose target fails its task are left out, and so are runs of engines, several of which would have one key.
    """
    place = ("results.json", "de-en", "translation", "sample", "0", 0.0, 0)
    figures = {"speedup": 1.234, "speedup_low": 1.111, "speedup_high": 1.345, "mean_accepted_tokens": 1.765}
    expected = {(*place, name): value for name, value in figures.items()}
    assert read_evaluations(render_card(DESCRIPTION, RESULTS, "alice/x", None)) == expected
    for change in ({"looping_share": 0.5}, None):
        results = copy.deepcopy(RESULTS)
        (run,) = results["results.json"]["runs"]
        run["methods"][0] |= change or {}
        run |= {} if change else {"engine": {"name": "vllm", "version": "0.32.0", "requests_at_once": 1}}
        assert read_evaluations(render_card(DESCRIPTION, results, "alice/x", None)) == {}
