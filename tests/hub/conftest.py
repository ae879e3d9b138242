"""A drafter as training leaves it, for publishing."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from drafter_trainer import publish
from drafter_trainer.drafters.saving import complete_folder, describe_drafter
from drafter_trainer.languages import get_pair
from drafter_trainer.results import DRAFTER, PLAIN, find_method
from drafter_trainer.targets import Target
from tests.benchmark.made import make_results
from tests.benchmark.made import make_run as make_measured_run
from tests.conftest import make_model
from tests.drafters.loop.conftest import published  # noqa: F401

NAME = "tiny-drafter-de-en"


@pytest.fixture
def trained(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, target: Target) -> Path:
    return make_drafter(tmp_path / "run" / "drafter", tokenizer, target)


def make_drafter(folder: Path, tokenizer: PreTrainedTokenizerFast, target: Target, seed: int = 3) -> Path:
    """Leave the files that training leaves of a drafter of random weights."""
    make_model(tokenizer, layers=1, seed=seed).save_pretrained(folder)
    training = {"finetune": {"train_rows": 7, "learning_rate": 1e-3}}
    complete_folder(folder, describe_drafter(NAME, target, (), get_pair("de-en"), training=training), tokenizer, {})
    # Files of a Trainer that must not be published
    (folder / "training_args.bin").write_bytes(b"hf_secret")
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1" / "optimizer.pt").write_bytes(b"state")
    return folder


def results_for(name: str, fingerprint: str = "") -> dict:
    """Results of made-up measurements of a drafter, as `results.json` holds them."""
    run = make_measured_run({PLAIN: [2.0] * 8, DRAFTER: [1.0] * 8}, draft_length=5)
    run["questions"]["source"] = "sample"
    for method in run["methods"]:
        method["losslessness"] = {"equal": 4, "prompts": 4, "divergences": []}
    find_method(run, DRAFTER).update(
        draft_length=5,
        alpha=0.4321,
        mean_accepted_tokens=1.765,
        acceptance_by_position=[0.625, 0.375],
        speedup={"value": 1.234, "low": 1.111, "high": 1.345},
    )
    return make_results(run, drafter=name, drafter_fingerprint=fingerprint)


def publish_compact(folder: Path, tokenizer: PreTrainedTokenizerFast, target: Target) -> Path:
    """Publish a compact drafter, which has the target's embeddings; return its folder."""
    model, trained = make_model(tokenizer, layers=1, seed=3), make_drafter(folder / "trained", tokenizer, target)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(make_model(tokenizer).get_input_embeddings().weight)
    model.save_pretrained(trained)
    return Path(publish(trained, target, folder / "compact", format="compact").location)
