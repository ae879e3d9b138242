"""Telling a finetune from the target that a drafter was made for."""

from pathlib import Path

import pytest
from transformers import PreTrainedModel

from drafter_trainer.drafters.adapters import add_adapter
from drafter_trainer.drafters.compatibility import find_difference
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.targets import hash_folder
from tests.conftest import make_model, make_tokenizer

TARGET = "org/target"
COMMIT = "0123456789" * 4


def described(target: str = TARGET, revision: str = COMMIT) -> DrafterDescription:
    return DrafterDescription("tiny", target, revision, "0" * 64, "de-en", 5)


def named(model: PreTrainedModel, place: str) -> PreTrainedModel:
    model.name_or_path = place
    return model


def test_folder_is_told_by_its_weights(target_folder: Path, target_model: PreTrainedModel, tmp_path: Path) -> None:
    """A finetune beside its original has the same name or none: only what lies in the folder tells them apart."""
    original = described(revision=hash_folder(target_folder))
    assert find_difference(named(target_model, str(target_folder)), original) is None
    make_model_in(tmp_path, seed=5)
    said = find_difference(named(target_model, str(tmp_path)), original)
    assert said == f"in {tmp_path} has other weights than org/target at {original.target_revision}"


def make_model_in(folder: Path, seed: int) -> None:
    make_model(make_tokenizer(), layers=1, seed=seed).save_pretrained(folder)


@pytest.mark.parametrize(
    ("place", "revision", "said"),
    [
        *(("somebody/finetune", revision, f"is somebody/finetune, not {TARGET}") for revision in (COMMIT, "sha256:0")),
        ("somebody/finetune", "tiny-wheel==1.5", f"is somebody/finetune, not {TARGET}"),
        # Made in process, or from a folder that is gone: from nowhere that has a name.
        *(
            (place, COMMIT, None)
            for place in (TARGET, "Org/Target", "", "/no/longer/there", "runs/a/b", "no such name")
        ),
    ],
)
def test_finetune_is_told_by_its_name(target_model, place, revision, said) -> None:
    """Somebody's finetune on the Hub has the original's tokenizer, and passes every other check."""
    assert find_difference(named(target_model, place), described(revision=revision)) == said


def test_an_adapter_over_the_target_is_told(target_model: PreTrainedModel) -> None:
    """A LoRA finetune has the original's name, files and tokenizer, and other outputs."""
    adapted = add_adapter(named(target_model, TARGET), rank=2, alpha=4)
    for model in (adapted, adapted.base_model.model):  # as peft wraps it, and as transformers loads one into a model
        assert find_difference(model, described()) == f"has an adapter (default), unlike {TARGET} at {COMMIT}"
