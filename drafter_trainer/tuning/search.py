"""Search a drafter's settings on held-out completions: draft vocabulary, n-gram table, draft length, sources."""

import itertools
import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from drafter_trainer.benchmark.report import markdown_table
from drafter_trainer.decoding.metrics import mean_accepted_tokens
from drafter_trainer.decoding.replay import Costs, Replay, SimulatedClock, replay
from drafter_trainer.decoding.target_cache import TargetTexts
from drafter_trainer.drafters.loop.build import TABLE, VOCABULARY
from drafter_trainer.drafters.loop.drafting import DraftingLoop
from drafter_trainer.drafters.loop.network_kinds import build_network
from drafter_trainer.drafters.loop.settings import HIGHEST_ORDER, LoopSettings
from drafter_trainer.drafters.loop.sources import LOOKUP, NETWORK, NGRAM, SOURCES, NgramTable
from drafter_trainer.drafters.ngram import LEAST_BYTES, Entries, Slots, build_table, count_entries, table_bytes
from drafter_trainer.drafters.vocabulary import choose_ids, count_ids, vocabulary_bytes
from drafter_trainer.tuning.calibration import calibrate
from drafter_trainer.tuning.completions import HeldOut, typical_prompt
from drafter_trainer.tuning.costs import measure_step

TRIALS = "trials.json"
_logger = logging.getLogger(__name__)
_SIZES = (2048, 4096, 8192, 16384)
_ORDERS = range(1, HIGHEST_ORDER + 1)
_DIVISORS = (16, 4, 1)  # of the largest table's bytes
_WEIGHT = 4  # of a completion relative to a text: there may be many more texts
_LONGEST = (4, 8, 12, 16, 24)
_GAINS = (0.1, 0.2, 0.4, 0.8)
_STEP_REPEATS = 30
# The smallest speedup for which lookup or a table is left out. Both cost almost nothing and are used only if they
# promise a gain. A smaller difference on a few held-out completions is noise.
_LEAST_GAIN = 1.02


@dataclass(frozen=True)
class Candidate:
    """A candidate for the drafter's settings."""

    settings: LoopSettings
    draft_ids: torch.Tensor | None = None  # draft vocabulary; all ids if `None`
    slots: Slots | None = None  # of the n-gram table
    counted_on: str = "nothing"  # the texts on which the table was counted

    def change(self, **settings: Any) -> "Candidate":
        """Return a candidate with some settings changed."""
        return replace(self, settings=replace(self.settings, **settings))

    def files(self, tokenizer_sha256: str) -> dict[str, bytes]:
        """Return the draft vocabulary and the n-gram table, if any, by file name."""
        files = {}
        if self.draft_ids is not None and NETWORK in self.settings.sources:
            files[VOCABULARY] = vocabulary_bytes(self.draft_ids)
        if self.slots is not None and NGRAM in self.settings.sources:
            files[TABLE] = table_bytes(self.slots, tokenizer_sha256)
        return files


@dataclass
class Tuning:
    """A search for the settings with the highest speedup on replayed greedy completions, one setting at a time.

    A candidate is calibrated on every second completion and replayed on the others. With several tasks, the
    geometric mean of their speedups counts, so that a gain on one task does not hide a larger loss on another. Tokens
    per target pass are averaged in the same way.
    """

    draft_model: PreTrainedModel  # or a `NetworklessDrafter`, on its device
    train_completions: Sequence[Sequence[int]]  # for the counts of vocabulary and tables
    texts: Sequence[Sequence[int]]  # more text for the counts of tables
    greedy: Sequence[HeldOut]
    sampled: Sequence[HeldOut]  # if empty, sampling is not calibrated
    costs: Costs  # of the machine; the network's step is measured for each candidate
    end_ids: Sequence[int]  # always in the draft vocabulary
    trained_ids: torch.Tensor | None = None  # draft vocabulary of training, all ids if `None`; smaller ones are tried
    sources: Sequence[str] = SOURCES  # sources to choose from; without the network, a table is always chosen
    table_bytes: int = 1 << 21  # maximum size of a table's file
    other_tasks: Sequence[Sequence[HeldOut]] = ()  # greedy completions of each other task
    target: TargetTexts | None = None  # reads the completions for a network that attends to the target's keys
    trials: list[dict[str, Any]] = field(default_factory=list)
    speedup: float = 0.0

    def __post_init__(self) -> None:
        self._tasks = [self.greedy, *self.other_tasks]
        self._prepared = None
        self._entries: dict[str, dict[int, Entries]] = {}
        self._device = self.draft_model.device.type

    def run(self) -> Candidate:
        """Search the settings; `trials` gets a record of each trial."""
        sources = [source for source in SOURCES if source in self.sources]
        curves = {"pass_milliseconds": {self._device: list(self.costs.passes)}}
        curves["sampling_pass_milliseconds"] = {self._device: list(self.costs.sampling_passes)}
        choice = Candidate(LoopSettings(sources, **curves), self.trained_ids)
        with tqdm(unit="trial", desc="tuning") as self._bar:
            if NETWORK in sources:
                weights = [("native", choice.change(int8=False)), ("int8", choice.change(int8=True))]
                choice = self._best("weights", weights if self._device == "cpu" else weights[:1])
                choice = self._best("draft vocabulary", self._vocabularies(choice))
            if NGRAM in sources:
                choice = self._best("table counted on", self._tables(choice))
            if choice.slots is not None:
                orders = [(f"1 to {most}", self._with_table(choice, most, self.table_bytes)) for most in _ORDERS]
                choice = self._best("table orders", orders)
                sizes = [max(self.table_bytes // divisor, LEAST_BYTES) for divisor in _DIVISORS]
                order = max(choice.slots)
                choice = self._best("table bytes", [(size, self._with_table(choice, order, size)) for size in sizes])
            if NETWORK in sources:
                choice = self._best_of("network gain", choice, "network_gain", _GAINS)
            most = len(self.costs.passes) - 1
            longest = [length for length in _LONGEST if length < most] + [most]
            choice = self._best_of("longest draft", choice, "longest_draft", longest)
            kept = [source for source in sources if source != NGRAM or choice.slots is not None]
            subsets = [kept, *([source for source in kept if source != left_out] for left_out in kept)]
            subsets = [subset for subset in subsets if subset and (NETWORK in sources or NGRAM in subset)]
            choice = self._best_of("sources", choice, "sources", subsets)
        if self.speedup < 1:
            _logger.warning(
                "no setting is faster than plain decoding on this machine: the best one reaches %.2fx. Train the "
                "drafter longer, or leave it out",
                self.speedup,
            )
        return self._finish(choice)

    def counted(self, choice: Candidate) -> dict[str, Any]:
        """Describe the table of a candidate: the texts on which it was counted, its orders and its entries."""
        counts: dict[str, Any] = {"counted_on": choice.counted_on}
        for name, texts in (("completions", self.train_completions), ("texts", self.texts)):
            if name in choice.counted_on:
                counts |= {name: len(texts), f"tokens_of_{name}": sum(map(len, texts))}
        entries = {order: int(np.count_nonzero(hashes)) for order, (hashes, *_) in choice.slots.items()}
        return counts | {"highest_order": max(entries), "entries": sum(entries.values())}

    def _vocabularies(self, choice: Candidate) -> list[tuple[int, Candidate]]:
        most = vocabulary = self.draft_model.config.vocab_size
        counts = count_ids(self.train_completions, vocabulary)
        if self.trained_ids is not None:
            counts[np.setdiff1d(np.arange(vocabulary), self.trained_ids)] = 0
            most = len(self.trained_ids)
        smaller = [(size, choose_ids(counts, size, self.end_ids)) for size in _SIZES if size < most]
        return [(size, replace(choice, draft_ids=ids)) for size, ids in [*smaller, (most, self.trained_ids)]]

    def _tables(self, choice: Candidate) -> list[tuple[str, Candidate]]:
        completions, texts = list(self.train_completions), list(self.texts)
        counted = {"completions": completions, "texts": texts}
        if completions and texts:
            counted = {
                "completions": completions,
                "completions and texts": completions + texts,
                f"{_WEIGHT} times completions, and texts": _WEIGHT * completions + texts,
            }
        self._entries = {name: count_entries(rows, _ORDERS) for name, rows in counted.items() if rows}
        tables = [("nothing", choice)] if NETWORK in self.sources else []
        for name, entries in self._entries.items():
            tables.append((name, replace(choice, slots=build_table(entries, self.table_bytes), counted_on=name)))
        return tables

    def _with_table(self, choice: Candidate, highest: int, size: int) -> Candidate:
        entries = self._entries[choice.counted_on]
        return replace(choice, slots=build_table({order: entries[order] for order in range(1, highest + 1)}, size))

    def _best_of(self, name: str, choice: Candidate, setting: str, values: Sequence[Any]) -> Candidate:
        """Return the best candidate over the values of one of the loop's settings."""
        return self._best(name, [(value, choice.change(**{setting: value})) for value in values])

    def _best(self, name: str, choices: Sequence[tuple[Any, Candidate]]) -> Candidate:
        tried = []
        for value, choice in choices:
            network, table, step, calibration = self._prepare(choice)
            choice = choice.change(step_milliseconds={self._device: step}, calibration=calibration)
            tasks = [task[1::2] if len(task) > 1 else task for task in self._tasks]
            results = [self._replay(choice, network, table, task) for task in tasks]
            choice = choice.change(tokens_per_pass=_tokens_per_pass(results))
            speedup = statistics.geometric_mean(result.speedup for result in results)
            rounds = sum(len(result.rounds) for result in results)
            self.trials.append(
                {
                    "what": name,
                    "value": str(value),
                    "speedup": speedup,
                    "tokens_per_pass": statistics.geometric_mean(_tokens_per_pass([result]) for result in results),
                    "drafting_milliseconds": sum(result.drafting_milliseconds for result in results) / rounds,
                    "step_milliseconds": step,
                }
            )
            has_table = choice.slots is not None and NGRAM in choice.settings.sources
            left_out = (NGRAM in self.sources and not has_table) + (
                LOOKUP in self.sources and LOOKUP not in choice.settings.sources
            )
            tried.append((speedup / _LEAST_GAIN**left_out, speedup, choice))
            self._bar.update()
            self._bar.set_postfix_str(f"{name} {value}: {speedup:.2f}x", refresh=False)
        _, self.speedup, best = max(tried, key=lambda entry: entry[0])
        return best

    def _prepare(self, choice: Candidate) -> tuple[Any, NgramTable | None, float, dict[str, list[float]]]:
        """Build network and table, time the step and calibrate; reuse the result while only other settings change."""
        parts = (choice.settings.int8, choice.draft_ids, choice.slots)
        if self._prepared is None or any(part is not other for part, other in zip(parts, self._prepared[0])):
            network, table = self._build(choice)
            step = 0.0 if network is None else measure_step(network, typical_prompt(self.greedy), _STEP_REPEATS)
            fitted = [completion for task in self._tasks for completion in task[::2]]
            self._prepared = parts, (network, table, step, calibrate(fitted, table, network, self.target))
        return self._prepared[1]

    def _build(self, choice: Candidate) -> tuple[Any, NgramTable | None]:
        network = build_network(self.draft_model, choice.draft_ids, choice.settings.int8)
        return network, None if choice.slots is None else NgramTable(choice.slots)

    def _replay(self, choice: Candidate, network, table: NgramTable | None, task: Sequence[HeldOut]) -> Replay:
        clock, vocabulary = SimulatedClock(), self.draft_model.config.vocab_size
        loop = DraftingLoop(network, table, choice.settings, self.draft_model.device, vocabulary, clock)
        return replay(loop, map(HeldOut.for_replay, task), self.costs, clock, self.end_ids, self.target)

    def _finish(self, choice: Candidate) -> Candidate:
        """Calibrate the chosen candidate on all completions."""
        if NGRAM not in choice.settings.sources:
            choice = replace(choice, slots=None, counted_on="nothing")
        network, table = self._build(choice)
        network = network if NETWORK in choice.settings.sources else None
        changes = {"calibration": calibrate(itertools.chain(*self._tasks), table, network, self.target)}
        if self.sampled:
            changes["sampling_calibration"] = calibrate(self.sampled, table, network, self.target)
        return choice.change(**changes)


def _tokens_per_pass(results: Sequence[Replay]) -> float:
    tokens, rounds = sum(result.tokens for result in results), sum(len(result.rounds) for result in results)
    return mean_accepted_tokens(tokens, rounds)


def trials_table(trials: list[dict[str, Any]]) -> str:
    """Render the trials; the best one of each setting is marked."""
    best = {}
    for trial in trials:
        best[trial["what"]] = max(best.get(trial["what"], 0.0), trial["speedup"])
    rows = [
        [
            trial["what"],
            trial["value"] + (" *" if trial["speedup"] == best[trial["what"]] else ""),
            f"{trial['speedup']:.2f}x",
            f"{trial['tokens_per_pass']:.2f}",
            f"{trial['drafting_milliseconds']:.1f}",
            f"{trial['step_milliseconds']:.2f}",
        ]
        for trial in trials
    ]
    header = ["setting", "value", "speedup", "tokens per pass", "drafting, ms per round", "step, ms"]
    return markdown_table(header, rows)
