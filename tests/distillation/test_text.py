"""Text that is there already, as rows: cut to pieces, scored by the target, stored like answers."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora.decontamination import Decontaminator
from drafter_trainer.corpora.reading import Document
from drafter_trainer.corpora.sample import sample_rows
from drafter_trainer.distillation.collect import collect_completions
from drafter_trainer.distillation.engines import TextEngine
from drafter_trainer.distillation.prompts import Prompt, PromptMaker
from drafter_trainer.distillation.requests import TOP_K, Requests
from drafter_trainer.distillation.scoring import Scorer
from drafter_trainer.distillation.store import RowStore
from tests.distillation.conftest import PAIR, make_requests, stored_rows
from tests.distillation.test_engines import logprobs_of

ENGLISH = PAIR.target
TEXTS = [row["en"] for row in list(sample_rows("train"))[:12]]
LENGTH = 16
NOTHING = Decontaminator([])


def pieces(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    decontaminator: Decontaminator = NOTHING,
    limit: int | None = None,
    max_new_tokens: int = LENGTH,
) -> tuple[list[Prompt], Counter]:
    """Cut texts to pieces of 16 tokens at most; return them and what was dropped."""
    make = PromptMaker(ChatTokenizer(tokenizer), decontaminator, limit)
    documents = [Document(f"text/{number}", text) for number, text in enumerate(texts)]
    return list(make.texts(documents, "text", ENGLISH, max_new_tokens)), make.drops


def run(requests: Requests, scorer: Scorer, folder: Path) -> RowStore:
    store = RowStore(folder)
    collect_completions(requests, TextEngine(), store, 4, "English", [0, 1, 2])
    scorer.score_store(store)
    return store


@pytest.fixture
def requests(tokenizer: PreTrainedTokenizerFast) -> Requests:
    return make_requests(pieces(tokenizer, TEXTS)[0], [None], 3, 5, LENGTH)


@pytest.fixture
def scorer(target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Scorer:
    return Scorer(target_model, tokenizer.pad_token_id)


def test_pieces_are_the_text_and_nothing_else(tokenizer: PreTrainedTokenizerFast) -> None:
    """Prevent tokens that are lost at a cut, an end token that nobody wrote, and a start token in the text."""
    found, drops = pieces(tokenizer, TEXTS)
    assert {prompt.prompt_ids for prompt in found} == {(tokenizer.bos_token_id,)}
    assert max(len(prompt.completion_ids) for prompt in found) == LENGTH
    for number, text in enumerate(TEXTS):
        own = [prompt.completion_ids for prompt in found if prompt.source_id.startswith(f"text/{number}/")]
        assert [len(piece) for piece in own[:-1]] == [LENGTH] * (len(own) - 1)
        assert tokenizer.decode([token for piece in own for token in piece]) == text
    assert drops == {}


def test_repeated_and_contaminated_text_is_dropped_and_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    """Prevent two rows with one key, which the store takes for damage, and evaluation text in training."""
    found, drops = pieces(
        tokenizer, [TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[2]], decontaminator=Decontaminator([(TEXTS[1], True)])
    )
    alone, _ = pieces(tokenizer, [TEXTS[0], TEXTS[2]])
    assert [prompt.completion_ids for prompt in found] == [prompt.completion_ids for prompt in alone]
    reasons = {reason.split(" (")[0]: count for reason, count in drops.items()}
    assert reasons.pop("repeated text") == len(pieces(tokenizer, TEXTS[:1])[0])
    assert sum(reasons.values()) == 1


def test_rows_hold_the_text_and_what_the_target_thinks_of_it(tmp_path, requests, scorer) -> None:
    """Prevent scores that are shifted by one, or of another text, and text that passes for the target's own answer."""
    rows = {row["key"]: row for row in stored_rows(run(requests, scorer, tmp_path))}
    assert len(rows) == len(requests)
    for request in requests:
        row = rows[request.key]
        assert (tuple(row["prompt_ids"]), tuple(row["response_ids"])) == (request.prompt_ids, request.completion_ids)
        assert (row["engine"], row["temperature"], row["retokenized"]) == ("text", None, False)
        assert row["finish_reason"] == ("length" if len(row["response_ids"]) == LENGTH else "stop")
        expected = logprobs_of(scorer.model, request, row["response_ids"]).topk(TOP_K).values
        scored = torch.from_numpy(np.array(row["topk_logprobs"], np.float64))
        torch.testing.assert_close(scored, expected, atol=2e-2, rtol=0)  # stored in half precision
