"""Find a drafter's settings on held-out answers: vocabulary, table, lengths, sources."""

import dataclasses
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from drafter_trainer.decoding.metrics import mean_accepted_tokens
from drafter_trainer.decoding.replay import Costs, Replay, SimulatedClock, replay
from drafter_trainer.decoding.target_cache import TargetTexts
from drafter_trainer.drafters.loop.drafting import DraftingLoop
from drafter_trainer.drafters.loop.ngram import NgramTable
from drafter_trainer.drafters.loop.policy import LOOKUP, NETWORK, NGRAM, SOURCES
from drafter_trainer.drafters.loop.repository import build_network
from drafter_trainer.drafters.loop.settings import HIGHEST_ORDER, LoopSettings
from drafter_trainer.drafters.ngram import LEAST_BYTES, Entries, Slots, build_table, count_entries
from drafter_trainer.drafters.vocabulary import choose_ids, count_ids
from drafter_trainer.tuning.answers import typical_prompt
from drafter_trainer.tuning.calibration import HeldOut, calibrate
from drafter_trainer.tuning.costs import measure_step

_SIZES = (2048, 4096, 8192, 16384)
_ORDERS = range(1, HIGHEST_ORDER + 1)
_SMALLER = (16, 4, 1)
_TIMES = 4  # answers are counted so often beside texts, of which there may be many more
_LONGEST = (4, 8, 12, 16, 24)
_GAINS = (0.1, 0.2, 0.4, 0.8)
_STEP_REPEATS = 30
# Of the speedup, what doing without lookup or a table has to bring: both cost next to nothing and are asked only where
# they promise a gain, and a few held-out answers cannot tell so little from noise.
_LEAST_GAIN = 1.02


@dataclass(frozen=True)
class Candidate:
    """A candidate for the drafter's settings.

    Args:
        draft_ids (`torch.Tensor`, *optional*): Draft vocabulary; all ids if left out.
        counted_on (`str`, *optional*, defaults to `"nothing"`): What it was counted on.
    """

    settings: LoopSettings
    draft_ids: torch.Tensor | None = None
    slots: Slots | None = None
    counted_on: str = "nothing"


@dataclass
class Tuning:
    """Search for the choice with the highest speedup on replayed greedy answers, one thing after the other.

    Each choice is calibrated on every second of the answers and tried on the others. Of several tasks the geometric
    mean of their speedups counts: what one of them gains may not be lost twice by another. Their tokens per pass are
    averaged in the same way.

    Args:
        draft_model (`PreTrainedModel`): The trained drafter, or a `NetworklessDrafter`, on its device.
        train_answers (`Sequence[Sequence[int]]`): Answers that vocabulary and tables are counted on.
        texts (`Sequence[Sequence[int]]`): More text that tables may be counted on.
        sampled (`Sequence[HeldOut]`): Held-out answers that were sampled; without them sampling is not calibrated.
        costs (`Costs`): Of the machine; the step is measured for each choice.
        end_ids (`Sequence[int]`): Ids that end an answer: always in the draft vocabulary.
        trained_ids (`torch.Tensor`, *optional*): The draft vocabulary that the drafter was trained with; all ids if
            left out. A smaller one may be chosen.
        sources (`Sequence[str]`, *optional*, defaults to all): Which may be asked. Without the network a table is
            always chosen: there is nothing else to publish.
        table_bytes (`int`, *optional*, defaults to 2 MiB): Largest file of a table.
        other_tasks (`Sequence[Sequence[HeldOut]]`, *optional*): Held-out greedy answers of each other task.
        target (`TargetTexts`, *optional*): Reads the answers for a network that attends to the target's keys.
    """

    draft_model: PreTrainedModel
    train_answers: Sequence[Sequence[int]]
    texts: Sequence[Sequence[int]]
    greedy: Sequence[HeldOut]
    sampled: Sequence[HeldOut]
    costs: Costs
    end_ids: Sequence[int]
    trained_ids: torch.Tensor | None = None
    sources: Sequence[str] = SOURCES
    table_bytes: int = 1 << 21
    other_tasks: Sequence[Sequence[HeldOut]] = ()
    target: TargetTexts | None = None
    trials: list[dict[str, Any]] = field(default_factory=list)
    speedup: float = 0.0

    def __post_init__(self) -> None:
        self._tasks = [self.greedy, *self.other_tasks]
        self._fitted = [answer for task in self._tasks for answer in task[::2]]
        self._tried = [task[1::2] if len(task) > 1 else task for task in self._tasks]
        self._prepared = None
        self._entries: dict[str, dict[int, Entries]] = {}
        vocabulary = self.draft_model.config.vocab_size
        self._counts = count_ids(self.train_answers, vocabulary)
        if self.trained_ids is not None:
            self._counts[np.setdiff1d(np.arange(vocabulary), self.trained_ids)] = 0

    def run(self) -> Candidate:
        """Search; `trials` then holds every trial with what it gave."""
        device = self.draft_model.device.type
        curves = {device: list(self.costs.passes)}, {device: list(self.costs.sampling_passes)}
        choice = Candidate(
            LoopSettings(self._asked(), pass_milliseconds=curves[0], sampling_pass_milliseconds=curves[1])
        )
        with tqdm(unit="trial", desc="tuning") as bar:
            self._bar = bar
            if NETWORK in self.sources:
                choice = self._best("weights", [(kind, self._with_weights(choice, kind)) for kind in self._weights()])
                choice = self._best("draft vocabulary", self._vocabularies(choice))
            if NGRAM in self.sources:
                choice = self._best("table counted on", self._tables(choice))
            if choice.slots is not None:
                choice = self._best("table orders", self._orders(choice))
                choice = self._best("table bytes", self._sizes(choice))
            if NETWORK in self.sources:
                choice = self._best("network gain", self._each(choice, "network_gain", _GAINS))
            most = len(self.costs.passes) - 1
            longest = [length for length in _LONGEST if length < most] + [most]
            choice = self._best("longest draft", self._each(choice, "longest_draft", longest))
            choice = self._best("sources", self._each(choice, "sources", self._subsets(choice)))
        return self._finish(choice)

    def counted(self, choice: Candidate) -> dict[str, Any]:
        """Say what the table of a choice was counted on, how much of it, and what was kept."""
        said: dict[str, Any] = {"counted_on": choice.counted_on}
        for name, texts in (("answers", self.train_answers), ("texts", self.texts)):
            if name in choice.counted_on:
                said |= {name: len(texts), f"tokens_of_{name}": sum(map(len, texts))}
        entries = {order: int(np.count_nonzero(hashes)) for order, (hashes, *_) in choice.slots.items()}
        return said | {"highest_order": max(entries), "entries": sum(entries.values())}

    def _asked(self) -> list[str]:
        return [source for source in SOURCES if source in self.sources]

    def _weights(self) -> list[str]:
        return ["native", "int8"] if self.draft_model.device.type == "cpu" else ["native"]

    def _with_weights(self, choice: Candidate, kind: str) -> Candidate:
        return dataclasses.replace(self._set(choice, int8=kind == "int8"), draft_ids=self.trained_ids)

    def _vocabularies(self, choice: Candidate) -> list[tuple[str, Candidate]]:
        most = self.draft_model.config.vocab_size if self.trained_ids is None else len(self.trained_ids)
        sizes = [size for size in _SIZES if size < most]
        ids = [(size, choose_ids(self._counts, size, self.end_ids)) for size in sizes] + [(most, self.trained_ids)]
        return [(str(size), dataclasses.replace(choice, draft_ids=chosen)) for size, chosen in ids]

    def _tables(self, choice: Candidate) -> list[tuple[str, Candidate]]:
        answers, texts = list(self.train_answers), list(self.texts)
        counted = {"answers": answers, "texts": texts}
        if answers and texts:
            counted = {
                "answers": answers,
                "answers and texts": answers + texts,
                f"{_TIMES} times answers, and texts": _TIMES * answers + texts,
            }
        self._entries = {what: count_entries(rows, _ORDERS) for what, rows in counted.items() if rows}
        tables = [("nothing", choice)] if NETWORK in self.sources else []
        for what, entries in self._entries.items():
            slots = build_table(entries, self.table_bytes)
            tables.append((what, dataclasses.replace(choice, slots=slots, counted_on=what)))
        return tables

    def _subsets(self, choice: Candidate) -> list[list[str]]:
        sources = [source for source in self._asked() if source != NGRAM or choice.slots is not None]
        subsets = [sources, *([source for source in sources if source != left_out] for left_out in sources)]
        return [subset for subset in subsets if subset and (NETWORK in self.sources or NGRAM in subset)]

    def _orders(self, choice: Candidate) -> list[tuple[str, Candidate]]:
        return [(f"1 to {most}", self._with_table(choice, most, self.table_bytes)) for most in _ORDERS]

    def _sizes(self, choice: Candidate) -> list[tuple[str, Candidate]]:
        sizes = [max(self.table_bytes // divisor, LEAST_BYTES) for divisor in _SMALLER]
        return [(str(size), self._with_table(choice, max(choice.slots), size)) for size in sizes]

    def _with_table(self, choice: Candidate, highest: int, size: int) -> Candidate:
        entries = self._entries[choice.counted_on]
        slots = build_table({order: entries[order] for order in range(1, highest + 1)}, size)
        return dataclasses.replace(choice, slots=slots)

    @staticmethod
    def _set(choice: Candidate, **changes: Any) -> Candidate:
        return dataclasses.replace(choice, settings=dataclasses.replace(choice.settings, **changes))

    def _each(self, choice: Candidate, name: str, values: Sequence[Any]) -> list[tuple[str, Candidate]]:
        return [(str(value), self._set(choice, **{name: value})) for value in values]

    def _best(self, what: str, choices: Sequence[tuple[Any, Candidate]]) -> Candidate:
        tried = []
        for value, choice in choices:
            choice, results, step = self._try(choice)
            speedup = statistics.geometric_mean(result.speedup for result in results)
            rounds = [round_ for result in results for round_ in result.rounds]
            self.trials.append(
                {
                    "what": what,
                    "value": str(value),
                    "speedup": speedup,
                    "tokens_per_pass": statistics.geometric_mean(_tokens_per_pass([result]) for result in results),
                    "drafting_milliseconds": sum(result.drafting_milliseconds for result in results) / len(rounds),
                    "step_milliseconds": step,
                }
            )
            tried.append((speedup, choice))
            self._bar.update()
            self._bar.set_postfix_str(f"{what} {value}: {speedup:.2f}x", refresh=False)
        self.speedup, best = max(tried, key=lambda entry: entry[0] / _LEAST_GAIN ** self._left_out(entry[1]))
        return best

    def _left_out(self, choice: Candidate) -> int:
        """Count which of lookup and table a choice does without."""
        table = choice.slots is not None and NGRAM in choice.settings.sources
        return (NGRAM in self.sources and not table) + (
            LOOKUP in self.sources and LOOKUP not in choice.settings.sources
        )

    def _try(self, choice: Candidate) -> tuple[Candidate, list[Replay], float]:
        """Replay each task; the choice then starts from the yield that this gave."""
        network, table, step, calibration = self._prepare(choice)
        device = self.draft_model.device.type
        choice = self._set(choice, step_milliseconds={device: step}, calibration=calibration)
        results = [self._replay(choice, network, table, task) for task in self._tried]
        return self._set(choice, tokens_per_pass=_tokens_per_pass(results)), results, step

    def _prepare(self, choice: Candidate) -> tuple[Any, NgramTable | None, float, dict[str, list[float]]]:
        """Build network and table, measure the step and calibrate, once for choices that differ in the rest alone."""
        made_of = (choice.settings.int8, choice.draft_ids, choice.slots)
        if self._prepared is None or any(one is not other for one, other in zip(made_of, self._prepared[0])):
            network = self._network(choice)
            step = 0.0
            if network is not None:
                step = measure_step(network, typical_prompt(self.greedy), _STEP_REPEATS)
            table = None if choice.slots is None else NgramTable(choice.slots)
            self._prepared = made_of, (network, table, step, calibrate(self._fitted, table, network, self.target))
        return self._prepared[1]

    def _network(self, choice: Candidate):
        return build_network(self.draft_model, choice.draft_ids, choice.settings.int8)

    def _replay(self, choice: Candidate, network, table: NgramTable | None, task: Sequence[HeldOut]) -> Replay:
        clock, vocabulary = SimulatedClock(), self.draft_model.config.vocab_size
        loop = DraftingLoop(network, table, choice.settings, self.draft_model.device, vocabulary, clock)
        return replay(loop, map(HeldOut.known, task), self.costs, clock, self.end_ids, self.target)

    def _finish(self, choice: Candidate) -> Candidate:
        if NGRAM not in choice.settings.sources:
            choice = dataclasses.replace(choice, slots=None, counted_on="nothing")
        table = None if choice.slots is None else NgramTable(choice.slots)
        network = None
        if NETWORK in choice.settings.sources:
            network = self._network(choice)
        changes = {"calibration": calibrate(itertools.chain(*self._tasks), table, network, self.target)}
        if self.sampled:
            changes["sampling_calibration"] = calibrate(self.sampled, table, network, self.target)
        return self._set(choice, **changes)


def _tokens_per_pass(results: Sequence[Replay]) -> float:
    tokens, rounds = sum(result.tokens for result in results), sum(len(result.rounds) for result in results)
    return mean_accepted_tokens(tokens, rounds)
