"""Find a drafter's settings on held-out answers: vocabulary, table, lengths, sources."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from drafter_trainer.decoding.metrics import acceptance_rate, mean_accepted_tokens
from drafter_trainer.decoding.replay import Costs, Replay, SimulatedClock, replay
from drafter_trainer.drafters.loop.drafting import DraftingLoop
from drafter_trainer.drafters.loop.ngram import NgramTable
from drafter_trainer.drafters.loop.policy import NETWORK, NGRAM, SOURCES
from drafter_trainer.drafters.loop.repository import build_network
from drafter_trainer.drafters.loop.settings import LoopSettings
from drafter_trainer.drafters.ngram import Slots, count_table
from drafter_trainer.drafters.vocabulary import choose_ids, count_ids, coverage
from drafter_trainer.tuning.answers import typical_prompt
from drafter_trainer.tuning.calibration import HeldOut, calibrate
from drafter_trainer.tuning.costs import measure_step

_SIZES = (2048, 4096, 8192, 16384)
_ORDERS = (1, 2, 3)
_LONGEST = (4, 8, 12, 16, 24)
_GAINS = (0.1, 0.2, 0.4, 0.8)
_STEP_REPEATS = 30


@dataclass(frozen=True)
class Choice:
    """Hold one way to set a drafter up.

    Args:
        settings (`LoopSettings`): Of the loop.
        draft_ids (`torch.Tensor`, *optional*): Draft vocabulary; all ids if left out.
        slots (`dict`, *optional*): N-gram table.
    """

    settings: LoopSettings
    draft_ids: torch.Tensor | None = None
    slots: Slots | None = None


@dataclass
class Tuning:
    """Search for the choice with the highest speedup on replayed greedy answers, one thing after the other.

    Each choice is calibrated on every second of the answers and tried on the others.

    Args:
        draft_model (`PreTrainedModel`): The trained drafter, on its device.
        train_answers (`Sequence[Sequence[int]]`): Answers that vocabulary and tables are counted on.
        texts (`Sequence[Sequence[int]]`): More text that tables may be counted on.
        greedy (`Sequence[HeldOut]`): Held-out greedy answers.
        sampled (`Sequence[HeldOut]`): Held-out answers that were sampled; without them sampling is not calibrated.
        costs (`Costs`): Of the machine; the step is measured for each choice.
        end_ids (`Sequence[int]`): Ids that end an answer: always in the draft vocabulary.
        trained_ids (`torch.Tensor`, *optional*): The draft vocabulary that the drafter was trained with; all ids if
            left out. A smaller one may be chosen.
    """

    draft_model: PreTrainedModel
    train_answers: Sequence[Sequence[int]]
    texts: Sequence[Sequence[int]]
    greedy: Sequence[HeldOut]
    sampled: Sequence[HeldOut]
    costs: Costs
    end_ids: Sequence[int]
    trained_ids: torch.Tensor | None = None
    trials: list[dict[str, Any]] = field(default_factory=list)
    speedup: float = 0.0

    def __post_init__(self) -> None:
        self._fitted, self._tried = (
            (self.greedy[::2], self.greedy[1::2]) if len(self.greedy) > 1 else 2 * [self.greedy]
        )
        self._prepared = None
        vocabulary = self.draft_model.config.vocab_size
        self._counts = count_ids(self.train_answers, vocabulary)
        if self.trained_ids is not None:
            self._counts[np.setdiff1d(np.arange(vocabulary), self.trained_ids)] = 0
        self._held_out_counts = count_ids((answer.response_ids for answer in self.greedy), vocabulary)

    def run(self) -> Choice:
        """Search; `trials` then holds every trial with what it gave."""
        device = self.draft_model.device.type
        curves = {device: list(self.costs.passes)}, {device: list(self.costs.sampling_passes)}
        choice = Choice(LoopSettings(pass_milliseconds=curves[0], sampling_pass_milliseconds=curves[1]))
        with tqdm(unit="trial", desc="tuning") as bar:
            self._bar = bar
            choice = self._best("weights", [(kind, self._with_weights(choice, kind)) for kind in self._weights()])
            choice = self._best("draft vocabulary", self._vocabularies(choice))
            choice = self._best("table counted on", self._tables(choice))
            choice = self._best("table orders", self._orders(choice))
            choice = self._best("network gain", self._each(choice, "network_gain", _GAINS))
            most = len(self.costs.passes) - 1
            longest = [length for length in _LONGEST if length < most] + [most]
            choice = self._best("longest draft", self._each(choice, "longest_draft", longest))
            choice = self._best("sources", self._each(choice, "sources", self._subsets(choice)))
        return self._finish(choice)

    def _weights(self) -> list[str]:
        return ["native", "int8"] if self.draft_model.device.type == "cpu" else ["native"]

    def _with_weights(self, choice: Choice, kind: str) -> Choice:
        return dataclasses.replace(self._set(choice, int8=kind == "int8"), draft_ids=self.trained_ids)

    def _vocabularies(self, choice: Choice) -> list[tuple[str, Choice]]:
        most = self.draft_model.config.vocab_size if self.trained_ids is None else len(self.trained_ids)
        sizes = [size for size in _SIZES if size < most]
        ids = [(size, choose_ids(self._counts, size, self.end_ids)) for size in sizes] + [(most, self.trained_ids)]
        return [(str(size), dataclasses.replace(choice, draft_ids=chosen)) for size, chosen in ids]

    def _tables(self, choice: Choice) -> list[tuple[str, Choice]]:
        tables = {"nothing": None, "answers": count_table(self.train_answers, _ORDERS)}
        if self.texts:
            tables["answers and texts"] = count_table([*self.train_answers, *self.texts], _ORDERS)
        return [(what, dataclasses.replace(choice, slots=table)) for what, table in tables.items()]

    @staticmethod
    def _subsets(choice: Choice) -> list[list[str]]:
        sources = [source for source in SOURCES if source != NGRAM or choice.slots is not None]
        return [sources, *([source for source in sources if source != left_out] for left_out in sources)]

    @staticmethod
    def _orders(choice: Choice) -> list[tuple[str, Choice]]:
        if choice.slots is None:
            return [("none", choice)]
        orders = {f"1 to {most}": {order: choice.slots[order] for order in _ORDERS[:most]} for most in _ORDERS}
        return [(name, dataclasses.replace(choice, slots=table)) for name, table in orders.items()]

    @staticmethod
    def _set(choice: Choice, **changes: Any) -> Choice:
        return dataclasses.replace(choice, settings=dataclasses.replace(choice.settings, **changes))

    def _each(self, choice: Choice, name: str, values: Sequence[Any]) -> list[tuple[str, Choice]]:
        return [(str(value), self._set(choice, **{name: value})) for value in values]

    def _best(self, what: str, choices: Sequence[tuple[Any, Choice]]) -> Choice:
        tried = []
        for value, choice in choices:
            choice, result, step = self._try(choice)
            self.trials.append(
                {
                    "what": what,
                    "value": str(value),
                    "speedup": result.speedup,
                    "tokens_per_pass": mean_accepted_tokens(result.tokens, len(result.rounds)),
                    "acceptance_rate": acceptance_rate(result.rounds),
                    "drafting_milliseconds": result.drafting_milliseconds / len(result.rounds),
                    "step_milliseconds": step,
                    "coverage": self._coverage(choice),
                }
            )
            tried.append((result.speedup, choice))
            self.speedup = max(speedup for speedup, _ in tried)
            self._bar.update()
            self._bar.set_postfix_str(f"{what} {value}: {result.speedup:.2f}x", refresh=False)
        return max(tried, key=lambda entry: entry[0])[1]

    def _coverage(self, choice: Choice) -> float:
        return 1.0 if choice.draft_ids is None else coverage(choice.draft_ids, self._held_out_counts)

    def _try(self, choice: Choice) -> tuple[Choice, Replay, float]:
        """Replay; the choice then starts from the yield that this gave."""
        network, table, step, calibration = self._prepare(choice)
        device = self.draft_model.device.type
        choice = self._set(choice, step_milliseconds={device: step}, calibration=calibration)
        result = self._replay(choice, network, table)
        choice = self._set(choice, tokens_per_pass=mean_accepted_tokens(result.tokens, len(result.rounds)))
        return choice, result, step

    def _prepare(self, choice: Choice) -> tuple[Any, NgramTable | None, float, dict[str, list[float]]]:
        """Build network and table, measure the step and calibrate, once for choices that differ in the rest alone."""
        made_of = (choice.settings.int8, choice.draft_ids, choice.slots)
        if self._prepared is None or any(one is not other for one, other in zip(made_of, self._prepared[0])):
            network = build_network(self.draft_model, choice.draft_ids, choice.settings.int8)
            step = measure_step(network, typical_prompt(self.greedy), _STEP_REPEATS)
            table = None if choice.slots is None else NgramTable(choice.slots)
            self._prepared = made_of, (network, table, step, calibrate(self._fitted, table, network))
        return self._prepared[1]

    def _replay(self, choice: Choice, network, table: NgramTable | None) -> Replay:
        clock, vocabulary = SimulatedClock(), self.draft_model.config.vocab_size
        loop = DraftingLoop(network, table, choice.settings, self.draft_model.device, vocabulary, clock)
        return replay(loop, map(HeldOut.known, self._tried), self.costs, clock, self.end_ids)

    def _finish(self, choice: Choice) -> Choice:
        if NGRAM not in choice.settings.sources:
            choice = dataclasses.replace(choice, slots=None)
        table = None if choice.slots is None else NgramTable(choice.slots)
        network = None
        if NETWORK in choice.settings.sources:
            network = build_network(self.draft_model, choice.draft_ids, choice.settings.int8)
        changes = {"calibration": calibrate(self.greedy, table, network)}
        if self.sampled:
            changes["sampling_calibration"] = calibrate(self.sampled, table, network)
        return self._set(choice, **changes)
