"""Networks, tables and costs for tests, and a published, tuned drafter."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from drafter_trainer import publish
from drafter_trainer.decoding.rounds import decode
from drafter_trainer.drafters.compatibility import hash_tokenizer
from drafter_trainer.drafters.description import FILE_NAME
from drafter_trainer.drafters.loop.drafting import DraftingLoop
from drafter_trainer.drafters.loop.generate import attach_loop
from drafter_trainer.drafters.loop.network import LeanNetwork
from drafter_trainer.drafters.loop.settings import HIGHEST_ORDER, LOOKUP_BINS, NETWORK_BINS, NGRAM_BINS, LoopSettings
from drafter_trainer.drafters.loop.sources import NgramTable
from drafter_trainer.drafters.ngram import count_table
from drafter_trainer.drafters.saving import complete_folder, describe_drafter
from drafter_trainer.drafters.vocabulary import choose_ids, count_ids
from drafter_trainer.languages import get_pair
from drafter_trainer.targets import Target
from drafter_trainer.tuning.search import Candidate
from tests.conftest import change_json, make_model
from tests.decoding.drafts import partly_agreeing
from tests.decoding.lossless import PROMPTS

CPU = torch.device("cpu")
FLAT = [10.0] * 17  # a pass takes ten milliseconds whatever its tokens: every draft pays


def calibration(lookup: float = 0.8, ngram: float = 0.5, network: float = 0.6) -> dict[str, list[float]]:
    """Make a calibration with the same probability in all bins of a source."""
    return {
        "lookup": [lookup] * LOOKUP_BINS,
        "ngram": [ngram] * (HIGHEST_ORDER * NGRAM_BINS),
        "network": [network] * NETWORK_BINS,
    }


def make_settings(costs: Sequence[float] = FLAT, step: float = 0.01, **changes: Any) -> LoopSettings:
    """Make settings for a machine with these costs, with one calibration for greedy decoding and sampling."""
    trust = changes.pop("calibration", calibration())
    values = {"calibration": trust, "sampling_calibration": trust, "longest_draft": 4} | changes
    return LoopSettings(pass_milliseconds={"cpu": list(costs)}, step_milliseconds={"cpu": step}, **values)


class Clock:
    """A clock that the test advances; each call also advances it by `pace`."""

    def __init__(self, pace: float = 0.0) -> None:
        self.seconds, self.pace = 0.0, pace

    def __call__(self) -> float:
        self.seconds += self.pace
        return self.seconds


class FakeNetwork:
    """A network with hand-written logits: successors of a text share nearly all probability. It records its reads."""

    draft_ids = None
    prompt_window: int | None = None

    def __init__(self, successor: Callable[[list[int]], Any], size: int = 50, limit: int = 10_000) -> None:
        self.successor, self.size, self.limit = successor, size, limit
        self.known: list[int] = []
        self.reads: list[list[int]] = []

    def crop(self, length: int) -> None:
        del self.known[length:]

    def read(self, token_ids: list[int]) -> torch.Tensor:
        """Record the tokens and return logits."""
        assert token_ids, "nothing to read"
        self.reads.append(list(token_ids))
        self.known += token_ids
        logits = torch.full((self.size,), -30.0)
        logits[self.successor(self.known)] = 0.0
        return logits


def make_loop(
    settings: LoopSettings,
    network: Any = None,
    slots: dict | None = None,
    size: int = 50,
    clock: Callable[[], float] | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> DraftingLoop:
    """Make a loop on the processor, by default with a clock that stands still."""
    table = None if slots is None else NgramTable(slots)
    return DraftingLoop(network, table, settings, CPU, size, clock or Clock(), lambda: tokenizer)


def with_loop(
    drafter: PreTrainedModel,
    settings: LoopSettings,
    slots: dict | None = None,
    draft_ids: torch.Tensor | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> PreTrainedModel:
    network = LeanNetwork(drafter, draft_ids)
    attach_loop(drafter, make_loop(settings, network, slots, drafter.config.vocab_size, tokenizer=tokenizer))
    return drafter


def note_sources(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    right, counts = DraftingLoop.draft, Counter[str]()

    def noting(self: DraftingLoop, *given: Any, **named: Any):
        draft = right(self, *given, **named)
        counts.update(proposal.source for proposal in draft)
        return draft

    monkeypatch.setattr(DraftingLoop, "draft", noting)
    return counts


SLIDING = ["sliding_attention", "sliding_attention", "full_attention"]


def greedy_answers(target_model: PreTrainedModel, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """Decode prompts plainly, beyond their end tokens; the answers come without them."""
    return [decode(target_model, prompt, {"eos_token_id": None}, 0.0, 0, tokens).output_ids for prompt in prompts]


def publish_tuned(
    folder: Path,
    name: str,
    drafter: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    choice: Candidate,
    target: Target,
    **given: Any,
) -> Path:
    """Publish a drafter as finetuning and tuning leave it; return the folder `drafter` in `folder`."""
    tuned, pair = folder / "tuned", get_pair("de-en")
    drafter.save_pretrained(tuned)
    files = choice.files(hash_tokenizer(tokenizer, pair.probes))
    description = describe_drafter(name, target, (), pair, loop=choice.settings.to_dict())
    complete_folder(tuned, description, tokenizer, files)
    return Path(publish(tuned, target, folder / "drafter", **given).location)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast, target: Target) -> Path:
    """A published folder with draft vocabulary, table and settings; leave it as it is."""
    target_model = make_model(tokenizer)
    answers = greedy_answers(target_model, PROMPTS[:2], 24)
    ids = choose_ids(count_ids(answers, len(tokenizer)), 40, [tokenizer.eos_token_id])
    choice = Candidate(make_settings(longest_draft=5), ids, count_table(answers, (1, 2, 3)))
    drafter, folder = partly_agreeing(target_model, 0.01), tmp_path_factory.mktemp("published")
    return publish_tuned(folder, "tiny-drafter-de-en", drafter, tokenizer, choice, target)


CHEAP = ["lookup", "ngram"]


@pytest.fixture(scope="session")
def without_network(published: Path, target: Target, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same drafter, published without its network."""
    to = tmp_path_factory.mktemp("ngram") / "drafter"
    return Path(publish(published, target, to, name="tiny-ngram-de-en", sources=CHEAP).location)


def describe(folder: Path, **changes: Any) -> None:
    change_json(folder / FILE_NAME, **changes)


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Publish another file in the place of one that the loop reads."""
    (folder / name).write_bytes(content)
    files = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))["files"]
    describe(folder, files=files | {name: hashlib.sha256(content).hexdigest()})
