"""Requests of the tiny target, shared by the tests of distillation."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora.decontamination import Decontaminator
from drafter_trainer.corpora.reading import read_sentences
from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.distillation.prompts import Prompt, PromptMaker, prompt_table
from drafter_trainer.distillation.requests import Request, Requests
from drafter_trainer.distillation.store import RowStore
from drafter_trainer.languages import get_pair
from drafter_trainer.targets import Target

PAIR, TARGET = get_pair("de-en"), Target("tests/tiny-target", "abc", "org/tiny-target")
REQUEST = Request(
    prompt_ids=(5, 6, 7),
    temperature=0.7,
    seed=3,
    max_new_tokens=16,
    source_id="sample/1",
    corpus="sample",
    pair="de-en",
    target="tests/tiny-target",
    target_revision="abc",
)


def sample_prompts(tokenizer: PreTrainedTokenizerFast, count: int) -> list[Prompt]:
    """Make prompts for the translation of the sample's first sentences."""
    sentences = read_sentences("sample", PAIR, "train")
    return list(
        PromptMaker(ChatTokenizer(tokenizer), Decontaminator([]), count).translations(sentences, "sample", PAIR)
    )


def make_requests(
    prompts: Sequence[Prompt], temperatures: Sequence[float | None], samples: int, seed: int, max_new_tokens: int
) -> Requests:
    """Make requests of prompts to the tiny target."""
    return Requests(prompt_table(prompts), temperatures, samples, seed, max_new_tokens, PAIR, TARGET)


def stored_rows(store: RowStore) -> list[dict[str, Any]]:
    """Read every row of a store, in the order of the keys."""
    tables = list(store.tables())
    return pa.concat_tables(tables).sort_by("key").to_pylist() if tables else []


@pytest.fixture(scope="session")
def prompts(tokenizer: PreTrainedTokenizerFast) -> list[Prompt]:
    return sample_prompts(tokenizer, 12)


@pytest.fixture
def engine(target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> TransformersEngine:
    """An engine over the tiny target, whose generation configuration a test may set."""
    return TransformersEngine(target_model, tokenizer.pad_token_id)
