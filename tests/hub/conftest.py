"""A run whose finetuning is finished, for publishing."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from drafter_trainer.hub.publish import Publishing, publish_run
from drafter_trainer.results import DRAFTER, PLAIN, find_method
from drafter_trainer.runs import Run, Step
from drafter_trainer.targets import Target
from tests.benchmark.made import make_results
from tests.benchmark.made import make_run as make_measured_run
from tests.conftest import make_model


@pytest.fixture
def run_folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    return make_run(tmp_path / "run", tokenizer)


def make_run(folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int = 3) -> Path:
    """Leave what finetuning leaves of a drafter of random weights."""
    with Step(folder / "finetune", "finetune", {"learning_rate": 1e-3}, {}) as step:
        make_model(tokenizer, layers=1, seed=seed).save_pretrained(folder / "finetune")
        tokenizer.save_pretrained(folder / "finetune")
        step.facts["train_rows"] = 7
    # What a Trainer leaves beside the drafter, and what must not be published
    (folder / "finetune" / "training_args.bin").write_bytes(b"hf_secret")
    (folder / "finetune" / "checkpoint-1").mkdir()
    (folder / "finetune" / "checkpoint-1" / "optimizer.pt").write_bytes(b"state")
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
    model = make_model(tokenizer, layers=1, seed=3)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(make_model(tokenizer).get_input_embeddings().weight)
    model.save_pretrained(make_run(folder / "run", tokenizer) / "finetune")
    publishing = Publishing(to=str(folder / "compact"), format="compact")
    return Path(publish_run(Run("tiny-drafter-de-en", folder / "run", "de-en"), target, "auto", publishing).place)
