"""A published drafter to export."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests.conftest import make_model
from tests.drafters.test_load import write_drafter


@pytest.fixture
def drafter(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Folder of a published drafter with more query heads than key heads, and no two norms alike."""
    model = make_model(tokenizer, layers=2, seed=5)
    for name, weight in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    return write_drafter(tmp_path / "drafter", model, tokenizer)
