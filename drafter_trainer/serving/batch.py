"""Drafts for all requests of an engine's step, from lookup, n-gram table, memory and network.

The engine yields R tokens per millisecond. P is the probability that a token and all drafted tokens before it are
accepted. The token is drafted if P > R * (time of one more token in a step). R and this time change with the batch:
the more requests share a step, the higher P must be. `loop.policy` is the same rule for one sequence.
"""

import heapq
import time
from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch

from drafter_trainer.drafters.loop.policy import AcceptanceEstimator, network_gain
from drafter_trainer.drafters.loop.settings import NETWORK_BINS, LoopSettings, bin_of
from drafter_trainer.drafters.loop.sources import LOOKUP, MEMORY, NETWORK, NGRAM, NgramTable, Proposal, propose_surest
from drafter_trainer.drafters.memory import CompletionMemory
from drafter_trainer.serving.network import BatchedNetwork
from drafter_trainer.serving.texts import RequestText
from drafter_trainer.serving.vllm_cache import PagedLayer

_KEPT_STEPS = 64  # steps that the text of a preempted request is kept
_SMOOTHING = 0.05
_BUDGET = 0.05  # of a step's time for lookup and table
_EXPLORATION_ROUNDS = 16  # rounds after which a network without accepted tokens is run again,
_EXPLORATION_PRICE = 0.5  # unless a token must have a higher probability
_MORE_TOKENS = 0.1  # time of each further token relative to a network's step, until it is measured
_ROUNDS = 32.0  # assumed rounds of a request, until some requests have ended: reading a prompt pays off over them
_BALANCE_DECAY = 0.99
_TRIED_STEPS, _PAUSED_STEPS = 64, 512
_COST_DECAY = 0.98  # factor to the weight of an observed step for each later step
_PRIOR_WEIGHT = 0.1
_LEVEL_SMOOTHING = 0.2
_MOST_DEVIATION = 2.0  # factor to the expected time of a step; beyond it, the step was interrupted


class LinearCostModel:
    """The time of a step as a line in the number of its tokens, learned from the clock.

    The line is fitted by least squares to the latest steps and to two points of the stored line, scaled to the level
    of these steps. The two points determine the slope while all steps have the same number of tokens. Entry n of the
    stored `milliseconds` is the time of a step over n + 1 tokens.
    """

    def __init__(self, milliseconds: Sequence[float]) -> None:
        first, last, tokens = milliseconds[0], milliseconds[-1], len(milliseconds)
        slope = max((last - first) / max(tokens - 1, 1), 1e-4 * first)
        points = np.array([[1.0, 1.0], [1.0, float(max(tokens, 2))]])
        self._prior = _PRIOR_WEIGHT * points.T @ points
        self._line = self._stored = np.array([first - slope, slope])
        self._level: float | None = None
        self._products, self._targets = np.zeros((2, 2)), np.zeros(2)

    @property
    def slope(self) -> float:
        """Milliseconds of one more token."""
        return float(self._line[1])

    def __call__(self, tokens: float) -> float:
        """Return the milliseconds of a step."""
        return float(self._line[0] + self._line[1] * tokens)

    def observe(self, tokens: int, milliseconds: float) -> None:
        """Learn from the time of a step."""
        row = np.array([1.0, float(tokens)])
        stored = float(row @ self._stored)
        if self._level is None:
            self._level = milliseconds / stored
            self._line = self._level * self._stored
        expected = self(tokens)
        milliseconds = min(max(milliseconds, expected / _MOST_DEVIATION), expected * _MOST_DEVIATION)
        self._level += _LEVEL_SMOOTHING * (milliseconds / stored - self._level)
        self._products = _COST_DECAY * self._products + np.outer(row, row)
        self._targets = _COST_DECAY * self._targets + row * milliseconds
        targets = self._targets + self._prior @ (self._level * self._stored)
        fixed, slope = np.linalg.solve(self._products + self._prior, targets)
        # Noise must not make tokens free, or the fixed part negative.
        self._line = np.array([max(fixed, 0.0), max(slope, 1e-4 * milliseconds)])


class BatchDrafter:
    """The drafter for all requests of an engine's step.

    Args:
        settings (`LoopSettings`): Sources, calibration, and the costs that are assumed until they are measured.
        device (`str`): Kind of the engine's device, "cpu" or "cuda".
        end_ids (`Collection[int]`): Ids after which nothing is drafted.
        clock (callable, *optional*): Returns seconds. With `None` only the stored costs are used, so that the same
            texts get the same drafts in every run.
        memory (`CompletionMemory`, *optional*): A memory of the target's completions. A request's text is added in
            the first step without this request.
    """

    def __init__(
        self,
        network: BatchedNetwork | None,
        table: NgramTable | None,
        settings: LoopSettings,
        device: str,
        end_ids: Collection[int] = (),
        clock: Callable[[], float] | None = time.perf_counter,
        memory: CompletionMemory | None = None,
    ) -> None:
        self.network = network if NETWORK in settings.sources else None
        self.table = table if NGRAM in settings.sources else None
        self.settings, self.clock, self.memory = settings, clock, memory
        self._looks_up = LOOKUP in settings.sources
        sources = {NGRAM: self.table, MEMORY: memory if self._looks_up else None}
        self._sources = {name: source for name, source in sources.items() if source is not None}
        self._end_ids = frozenset(end_ids)
        step, tokens_per_pass = settings.step(device), settings.tokens_per_pass
        self.costs = LinearCostModel(settings.passes(device))
        self._network_costs = LinearCostModel([step * (1 + _MORE_TOKENS * more) for more in range(8)])
        self._rounds_per_text = _ROUNDS
        self._cache: Sequence[PagedLayer] | None = None  # of this step
        self._texts: list[RequestText] = []
        self._rows: list[RequestText] = []  # of the last step
        self._free_slots = list(range(network.slots)) if network is not None else []
        self._tokens_per_text = self._drafted_per_text = tokens_per_pass
        # Share of drafting in the time of a step
        self._own_share = 0.0 if self.network is None else tokens_per_pass * step / self.costs(1 + tokens_per_pass)
        self._step = 0
        self._returned_at: float | None = None
        self._own_milliseconds = 0.0
        self._drafted = 0  # tokens in the last step
        self._balance, self._balanced_steps = 0.0, 0
        self._pause, self._paused_rows = 0, 0

    def draft(
        self, rows: Sequence[np.ndarray], limits: Sequence[int], cache: Sequence[PagedLayer] | None = None
    ) -> list[list[int]]:
        """Draft the next tokens of each text.

        Args:
            rows (`Sequence[np.ndarray]`): Prompt and output so far of each request, in any order.
            limits (`Sequence[int]`): Maximum draft length of each; 0 while a prompt is being read.
            cache (`Sequence[PagedLayer]`, *optional*): The target's keys and values of all tokens of these rows except
                the last ones, for a network that attends to them.
        Returns:
            `list[list[int]]`: Token ids for each row; empty if a draft would cost more than it yields.
        """
        self._step += 1
        if self._pause > 0 and len(rows) > self._paused_rows // 2:  # drafting may pay for fewer requests
            self._pause -= 1
            self._returned_at = None
            return [[] for _ in rows]
        started, before = self._now(), self._rows
        self._cache = cache
        self._rows = self._match(rows)
        self._learn(before, started)
        self._own_milliseconds = 0.0
        rate = self._rate()
        price = rate * self.costs.slope
        self._deadline = started + _BUDGET * self.costs(len(rows)) / 1000
        for row, (text, limit) in enumerate(zip(self._rows, limits)):
            text.row, text.limit = row, limit
        growing = [text for text in self._rows if text.limit > 0]
        first = self._step % max(len(growing), 1)  # if time is short, other texts come first in the next step
        growing = growing[first:] + growing[:first]
        while growing:
            proposals = [self._propose(text) for text in growing]
            if self.network is not None:
                self._ask_network(growing, proposals, rate, price)
            growing = [text for text, proposal in zip(growing, proposals) if self._take(text, proposal, price)]
        self._drafted = sum(len(text.draft) for text in self._rows)
        if self.clock is not None:
            self._returned_at = self._now()
            self._own_milliseconds = 1000 * (self._returned_at - started)
        return [[proposal.token for proposal in text.draft] for text in self._rows]

    def _now(self) -> float:
        return 0.0 if self.clock is None else self.clock()

    def _match(self, rows: Sequence[np.ndarray]) -> list[RequestText]:
        """Find or create the text of each row, and forget texts without a row."""
        left, found = set(self._texts), {}
        for place, (row, text) in enumerate(zip(rows, self._rows)):  # most texts stay in their row
            if text in left and text.continues_in(row):
                found[place] = text
                left.discard(text)
        for place, row in enumerate(rows):
            if place not in found:
                fitting = [text for text in left if text.continues_in(row)]
                found[place] = max(fitting, key=lambda text: len(text.tokens)) if fitting else self._begin_text()
                left.discard(found[place])
        for place, row in enumerate(rows):
            found[place].follow(row, self._step)
        for text in [text for text in self._texts if text.seen < self._step]:  # ended or preempted
            if self.memory is not None and text.remembered < len(text.tokens):
                ids = text.tokens.tolist()
                self.memory.remember(ids[: text.remembered], ids[text.remembered :])
                text.remembered = len(ids)
            if text.seen + _KEPT_STEPS < self._step:
                self._release(text)
                self._texts.remove(text)
                if text.rounds:
                    self._rounds_per_text += _SMOOTHING * (text.rounds - self._rounds_per_text)
        return [found[place] for place in range(len(rows))]

    def _begin_text(self) -> RequestText:
        window = None if self.network is None else self.network.prompt_window
        calibration = self.settings.calibration
        if self.memory is not None:
            calibration = calibration | {MEMORY: self.memory.calibration(calibration[LOOKUP], sampling=False)}
        gain = network_gain(self.settings.network_gain)
        self._texts.append(RequestText(AcceptanceEstimator(calibration), gain, window))
        return self._texts[-1]

    def _learn(self, before: list[RequestText], started: float) -> None:
        """Learn time and yield of a step that decoded the same requests as the step before."""
        if not self._rows or {*before} != {*self._rows} or any(text.grown == 0 for text in self._rows):
            return
        texts, drafted = len(self._rows), self._drafted
        grown = sum(text.grown for text in self._rows)
        self._tokens_per_text += _SMOOTHING * (grown / texts - self._tokens_per_text)
        self._drafted_per_text += _SMOOTHING * (drafted / texts - self._drafted_per_text)
        self._own_share += _SMOOTHING * (self._own_milliseconds / self.costs(texts + drafted) - self._own_share)
        if self._returned_at is None:
            return
        self.costs.observe(texts + drafted, 1000 * (started - self._returned_at))
        spent = self._own_milliseconds + self.costs.slope * drafted
        accepted = sum(text.accepted for text in self._rows)
        self._balance = _BALANCE_DECAY * self._balance + accepted - self._rate() * spent
        self._balanced_steps += 1
        if self._balanced_steps >= _TRIED_STEPS and self._balance < 0:
            self._balance, self._balanced_steps = 0.0, 0
            self._pause, self._paused_rows = _PAUSED_STEPS, texts

    def _rate(self) -> float:
        """Return R, the engine's tokens per millisecond with the current number of requests, drafting included."""
        texts = max(len(self._rows), 1)
        drafting = self._tokens_per_text / self.costs(texts * (1 + self._drafted_per_text)) / (1 + self._own_share)
        return texts * max(drafting, 1 / self.costs(texts))  # at least the rate of plain decoding

    def _propose(self, text: RequestText) -> Proposal | None:
        """Get a proposal from lookup, table and memory, while there is time."""
        if self._now() > self._deadline:
            return None
        sources = {LOOKUP: text.lookup} if self._looks_up and text.is_indexed else {}
        return propose_surest(text.estimator, sources | self._sources, text.tail())

    def _take(self, text: RequestText, proposal: Proposal | None, price: float) -> bool:
        """Draft a token if it pays; return whether the draft may grow further."""
        if proposal is None or text.reach * proposal.probability <= price:
            return False
        text.draft.append(proposal)
        text.reach *= proposal.probability
        return len(text.draft) < text.limit and proposal.token not in self._end_ids

    def _ask_network(
        self, texts: list[RequestText], proposals: list[Proposal | None], rate: float, price: float
    ) -> None:
        """Replace proposals by more probable ones of the network, for texts where the network's time pays off.

        Each token that the network reads takes time; the time of a prompt is spread over all rounds of its request.
        """
        chosen, worth = [], -rate * self._network_costs(0)
        for place, (text, proposal) in enumerate(zip(texts, proposals)):
            shares = self._shares(text)
            if not shares and len(text) - text.skipped > self.network.limit:
                continue
            needed = text.reach * (1 - (0.0 if proposal is None else proposal.probability))
            explores = text.rounds % _EXPLORATION_ROUNDS == _EXPLORATION_ROUNDS - 1 and price < _EXPLORATION_PRICE
            explores = explores and proposal is None and not text.draft
            tokens = 1 if shares else 1 + (text.unread_size() - 1) / self._rounds_per_text
            promise = needed if explores else needed * max(text.gain() - price, 0.0)
            promise -= rate * self._network_costs.slope * tokens
            if promise > 0 and self._has_slot(text):
                worth += promise
                chosen.append((place, needed))
        if worth <= 0:
            return
        started = self._now()
        chosen.sort(key=lambda each: texts[each[0]].slot)  # consecutive caches are read without a copy
        spans, pieces = [], []
        for place, needed in chosen:
            text = texts[place]
            text.asked += needed
            if self._shares(text) and text.shared < len(text.tokens) - 1:
                spans.append(text.share())
            pieces.append(text.unread())
        if spans:
            self.network.share_batch(self._cache, spans)
        shares, entries = torch.softmax(self.network.read_batch(pieces), dim=-1).max(dim=-1)
        draft_ids = self.network.draft_ids
        entries = entries if draft_ids is None else draft_ids[entries]
        for (place, _), share, token in zip(chosen, shares.tolist(), entries.tolist()):
            text, other = texts[place], proposals[place]
            text.cached = len(text)
            bin_ = bin_of(share, NETWORK_BINS)
            probability = text.estimator.probability(NETWORK, bin_)
            if other is None or probability > other.probability:
                gained = other is None or other.token != token
                proposals[place] = Proposal(token, NETWORK, probability, bin_, gained=gained)
        tokens = sum(len(piece.tokens) for piece in pieces)
        if self.clock is None:
            self._own_milliseconds += self._network_costs(tokens)
        else:
            seconds = self._now() - started
            self._deadline += seconds  # the network's time does not count towards the budget
            self._network_costs.observe(tokens, 1000 * seconds)

    def _shares(self, text: RequestText) -> bool:
        """Return whether the network attends to the target's keys and values of a text."""
        return self._cache is not None and len(text) <= self.network.limit

    def _has_slot(self, text: RequestText) -> bool:
        """Give a text one of the network's caches, if necessary that of a text without a row in this step."""
        if text.slot is None:
            idle = [other for other in self._texts if other.slot is not None and other.seen < self._step]
            if not self._free_slots and idle:
                self._release(min(idle, key=lambda other: other.seen))
            if self._free_slots:
                text.slot = heapq.heappop(self._free_slots)  # the lowest
        return text.slot is not None

    def _release(self, text: RequestText) -> None:
        if text.slot is not None:
            heapq.heappush(self._free_slots, text.slot)
            text.slot, text.cached, text.shared = None, 0, 0
