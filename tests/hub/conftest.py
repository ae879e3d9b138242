"""A run whose finetuning is finished, for publishing."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from drafter_trainer.runs import Step
from tests.benchmark.made import PROVENANCE
from tests.conftest import make_model


@pytest.fixture
def run_folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Folder of a run with a drafter of random weights in it."""
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
    prompt = {"tokens": 13, "characters": 52, "retokenised": 12, "seconds": 0.9, "looping": False}
    prompt |= {"target_passes": 8, "drafted": 0, "accepted": 0}
    method = {
        "draft_length": 0,
        "speedup_without_loops": None,
        "paper_script_ratio": 1.1,
        "slower_share": 0.25,
        "tokens": 100,
        "seconds": 7.0,
        "tokens_per_second": 14.3,
        "characters_per_second": 57.1,
        "looping_share": 0.0,
        "target_passes": 60,
        "acceptance_rate": None,
        "alpha": None,
        "mean_accepted_tokens": 1.0,
        "acceptance_by_position": [],
        "losslessness": {"equal": 4, "prompts": 4, "divergences": []},
        "prompts": [prompt | {"question_id": f"q{number}"} for number in range(8)],
    }
    plain = method | {"name": "plain", "speedup": {"value": 1.0, "low": 1.0, "high": 1.0}}
    drafter = method | {
        "name": "drafter",
        "draft_length": 5,
        "alpha": 0.4321,
        "mean_accepted_tokens": 1.765,
        "acceptance_by_position": [0.625, 0.375],
        "speedup": {"value": 1.234, "low": 1.111, "high": 1.345},
    }
    return {
        "schema_version": 1,
        "provenance": PROVENANCE | {"drafter": name, "drafter_fingerprint": fingerprint},
        "runs": [
            {
                "pair": "de-en",
                "task": "translation",
                "temperature": 0.0,
                "seed": 0,
                "draft_length": 5,
                "dtype": "float32",
                "max_new_tokens": 128,
                "questions": {"source": "sample", "count": 8, "sha256": "0"},
                "methods": [plain, drafter],
            }
        ],
    }
