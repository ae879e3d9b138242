"""The card, asserted by its content."""

import copy

import pytest
from huggingface_hub import ModelCard

from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.drafters.loop.settings import LoopSettings
from drafter_trainer.hub.card import render_card
from tests.hub.conftest import results_for

DESCRIPTION = DrafterDescription(
    name="tiny-drafter-de-en",
    target="tests/tiny-target",
    target_revision="1",
    tokenizer_sha256="0" * 64,
    pair="de-en",
    draft_length=5,
    training={"finetune": {"train_rows": 7, "learning_rate": 0.001}},
    loop=LoopSettings(sources=["lookup", "network"], longest_draft=9).to_dict(),
    versions={"torch": "2.13.0"},
)


def test_metadata_is_what_the_hub_finds_it_by() -> None:
    """A card without base model, language and tags is found by nobody."""
    card = ModelCard(render_card(DESCRIPTION, results_for(DESCRIPTION.name), "alice/tiny-drafter-de-en", "apache-2.0"))
    data = card.data.to_dict()
    assert set(data) == {
        "base_model", "language", "library_name", "license", "pipeline_tag", "tags", "model-index"
    }  # fmt: skip
    assert data["base_model"] == "tests/tiny-target"
    assert data["language"] == ["de", "en"]
    assert data["library_name"] == "transformers"
    assert data["license"] == "apache-2.0"
    assert data["pipeline_tag"] == "text-generation"
    assert {"speculative-decoding", "draft-model", "assistant-model"} <= set(data["tags"])
    figures = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert figures == {"speedup": 1.234, "mean_accepted_tokens": 1.765}


def test_numbers_come_from_the_results() -> None:
    """What the results hold must stand on the card: figure, interval, device, command."""
    text = render_card(DESCRIPTION, results_for(DESCRIPTION.name), "alice/x", None)
    for expected in ("1.23x (1.11-1.34)", "a processor (2 threads)", "bench.py --config c.yaml", "4/4", "0123abc"):
        assert expected in text
    assert "1.23 times as fast as plain decoding" in text


def test_card_judges_nothing_by_a_handful_of_questions() -> None:
    """The interval of four questions is too narrow, and a verdict from it is a guess."""
    results = copy.deepcopy(results_for(DESCRIPTION.name))
    results["runs"][0]["questions"]["count"] = 4
    text = render_card(DESCRIPTION, results, "alice/x", None)
    assert "1.23 times as fast as plain decoding here, greedy, on 4 questions, too few for a verdict" in text
    assert "makes the target faster" not in text


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ({"value": 0.7, "low": 0.6, "high": 0.8}, "**The drafter loses to plain decoding here, greedy**"),
        ({"value": 1.0, "low": 0.9, "high": 1.1}, "No difference from plain decoding can be told here"),
    ],
)
def test_card_says_when_the_drafter_does_not_help(interval: dict[str, float], expected: str) -> None:
    """A drafter that slows the target down must not be praised."""
    results = copy.deepcopy(results_for(DESCRIPTION.name))
    results["runs"][0]["methods"][1]["speedup"] = interval
    assert expected in render_card(DESCRIPTION, results, "alice/x", None)


def test_card_without_results_states_no_speed() -> None:
    """Before its benchmark a drafter has no numbers, and its card must not suggest any."""
    text = render_card(DESCRIPTION, None, "alice/x", None)
    assert "Not measured yet" in text
    assert "x (" not in text
    assert "model-index" not in text


def test_usage_lines_are_python() -> None:
    """Lines that people copy must at least compile."""
    text = render_card(DESCRIPTION, None, "alice/x", None)
    code = text.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert 'from_pretrained("alice/x"' in code


def test_card_says_how_it_drafts() -> None:
    """Whoever is asked to trust remote code must read what it is, and what becomes of the drafter without it."""
    text = render_card(DESCRIPTION, None, "alice/x", None)
    drafted = "up to 9 tokens at a time, from what followed the same tokens earlier in the text, or from its network"
    assert drafted in text
    assert "trust_remote_code=True" in text
    assert "draft in transformers' own loop" in text
