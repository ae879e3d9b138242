"""Self-distilled rows with made-up distributions, shared by the tests of training."""

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import PreTrainedModel

from drafter_trainer.training.arguments import DrafterTrainingArguments, PretrainingArguments
from drafter_trainer.training.collators import SelfDistilledCollator
from tests.conftest import tiny_model

VOCABULARY = 60
COLLATOR = SelfDistilledCollator(pad_id=0, max_length=64)


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what `datasets` caches out of the user's home."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))


def make_draft_model(seed: int = 0) -> PreTrainedModel:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return tiny_model("llama", seed, vocab_size=VOCABULARY, max_position_embeddings=64, initializer_range=0.2, **sizes)


def make_rows(count: int, seed: int = 0, k: int = 20) -> list[dict[str, Any]]:
    """Make rows whose prompts and completions have very different lengths, 1 to 30 tokens each."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number in range(count):
        prompt, response = torch.randint(1, 31, (2,), generator=generator).tolist()
        if number % 4 == 0:
            response = 1  # next to much longer ones in every batch of four
        logprobs, ids = (
            torch.randn(response, VOCABULARY, generator=generator).mul(2).log_softmax(dim=-1).topk(k, dim=-1)
        )
        rows.append(
            {
                "key": f"row{number}",
                "prompt_ids": torch.randint(1, VOCABULARY, (prompt,), generator=generator).tolist(),
                "response_ids": ids[:, 0].tolist(),
                "topk_ids": ids.tolist(),
                "topk_logprobs": logprobs.half().tolist(),
            }
        )
    return rows


QUIET = {"use_cpu": True, "dataloader_pin_memory": False, "disable_tqdm": True, "logging_steps": 1}
QUIET |= {"save_strategy": "no", "eval_strategy": "no", "load_best_model_at_end": False}
# So that a tiny drafter knows a few rows by heart.
BY_HEART = {"per_device_train_batch_size": 4, "learning_rate": 1e-2, "lr_scheduler_type": "constant"}


def finetuning_arguments(folder: Path, **given: Any) -> DrafterTrainingArguments:
    """Arguments of a silent run on the processor that by default saves and evaluates nothing."""
    return DrafterTrainingArguments(output_dir=str(folder), **QUIET | given)


def pretraining_arguments(folder: Path, **given: Any) -> PretrainingArguments:
    return PretrainingArguments(output_dir=str(folder), **QUIET | given)
