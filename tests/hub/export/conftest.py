"""A published drafter to export."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from tests.conftest import tiny_model
from tests.drafters.test_load import write_drafter


@pytest.fixture
def drafter(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Folder of a published drafter with more query heads than key heads, and no two norms alike."""
    sizes = {"vocab_size": len(tokenizer), "num_hidden_layers": 2, "max_position_embeddings": 512}
    model = tiny_model("llama", 5, norms=1.0, **sizes, tie_word_embeddings=True)
    return write_drafter(tmp_path / "drafter", model, tokenizer)
