"""Drafts for all requests of an engine's step, from lookup, n-gram table and network.

Whatever the batch, a token is drafted where it is worth its time. The engine yields R tokens a millisecond; a token
that is reached and accepted with probability P is drafted if P > R * (what one token more takes), where both change
with the batch: the more requests share a step, the more a token has to promise. `loop.policy` says the same of one
sequence.
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
from drafter_trainer.serving.costs import StepCosts
from drafter_trainer.serving.network import BatchedNetwork
from drafter_trainer.serving.paged_cache import PagedCache
from drafter_trainer.serving.texts import RequestText

_KEPT_STEPS = 64  # a preempted request comes back within some of them
_SMOOTHING = 0.05
_BUDGET = 0.05  # of a step's time for lookup and table
_ASK_ANYHOW = 16  # rounds, after which a network that brought nothing is asked again
_DEAR = 0.5  # ... unless a token must promise more than this
_MORE_TOKENS = 0.1  # of the network's step, for each token more that it reads, until it was measured
_ROUNDS = 32.0  # of a request, until some have ended: reading its prompt pays off over them
_BALANCE_MEMORY = 0.99
_TRIED_STEPS, _RESTED_STEPS = 64, 512


class BatchDrafter:
    """The drafter for all requests of an engine's step.

    Args:
        settings (`LoopSettings`): Sources, calibration, and the costs that are assumed until the clock has told them.
        device (`str`): Kind of device that the engine runs on, "cpu" or "cuda".
        end_ids (`Collection[int]`): Ids behind which nothing is drafted.
        clock (callable, *optional*): Tells seconds; `None` goes by the stored costs alone, so that the same texts are
            drafted alike in every run.
        memory (`CompletionMemory`, *optional*): Of what the target wrote before. A request's text goes into it
            with the first step that is without the request.
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
        self.settings = settings
        self.clock = clock
        self.memory = memory
        self._looks_up = LOOKUP in settings.sources
        sources = {NGRAM: self.table, MEMORY: memory if self._looks_up else None}
        self._sources = {name: source for name, source in sources.items() if source is not None}
        self._end_ids = frozenset(end_ids)
        self.costs = StepCosts(settings.passes(device))
        step = settings.step(device)
        self._network_costs = StepCosts([step * (1 + _MORE_TOKENS * more) for more in range(8)])
        self._rounds_per_text = _ROUNDS
        self._cache: PagedCache | None = None  # of this step
        self._texts: list[RequestText] = []
        self._rows: list[RequestText] = []  # of the last step
        self._free_slots = list(range(network.slots)) if network is not None else []
        self._tokens_per_text = self._drafted_per_text = settings.tokens_per_pass
        steps = 0.0 if self.network is None else settings.tokens_per_pass
        self._own_share = steps * step / self.costs(1 + self._drafted_per_text)  # drafting's time, of a step's
        self._step = 0
        self._returned_at: float | None = None
        self._own_milliseconds = 0.0
        self._drafted = 0  # tokens in the last step
        self._balance, self._balanced_steps = 0.0, 0
        self._rest, self._rested_rows = 0, 0

    def draft(
        self, rows: Sequence[np.ndarray], limits: Sequence[int], cache: PagedCache | None = None
    ) -> list[list[int]]:
        """Draft what may follow each text.

        Args:
            rows (`Sequence[np.ndarray]`): Prompt and output so far of each request, in any order.
            limits (`Sequence[int]`): Tokens that may be drafted for each; 0 where a prompt has not been read yet.
            cache (`PagedCache`, *optional*): The target's keys and values of all tokens of these rows but the last
                ones, for a network that attends to them.
        Returns:
            `list[list[int]]`: Token ids for each row, none where a draft would cost more than it yields.
        """
        self._step += 1
        if self._rest > 0 and len(rows) > self._rested_rows // 2:  # for fewer requests it may pay
            self._rest -= 1
            self._returned_at = None
            return [[] for _ in rows]
        started = self.clock() if self.clock is not None else 0.0
        self._cache = cache
        before = self._rows
        self._rows = self._match(rows)
        self._learn(before, started)
        self._own_milliseconds = 0.0
        rate = self._rate()
        price = rate * self.costs.slope
        self._deadline = started + _BUDGET * self.costs(len(rows)) / 1000
        for row, (text, limit) in enumerate(zip(self._rows, limits)):
            text.row, text.limit = row, limit
        growing = [text for text in self._rows if text.limit > 0]
        first = self._step % max(len(growing), 1)  # where time is short, others come first in the next step
        growing = growing[first:] + growing[:first]
        while growing:
            proposals = [self._propose(text) for text in growing]
            if self.network is not None:
                self._ask_network(growing, proposals, rate, price)
            growing = [text for text, proposal in zip(growing, proposals) if self._take(text, proposal, price)]
        self._drafted = sum(len(text.draft) for text in self._rows)
        if self.clock is not None:
            self._returned_at = self.clock()
            self._own_milliseconds = 1000 * (self._returned_at - started)
        return [[proposal.token for proposal in text.draft] for text in self._rows]

    def _match(self, rows: Sequence[np.ndarray]) -> list[RequestText]:
        """Find each row's text, or begin one."""
        found: list[RequestText | None] = [None] * len(rows)
        left = set(self._texts)
        for place, (row, text) in enumerate(zip(rows, self._rows)):  # most stay where they were
            if text in left and text.continues_in(row):
                found[place] = text
                left.discard(text)
        for place, row in enumerate(rows):
            if found[place] is None:
                fitting = [text for text in left if text.continues_in(row)]
                if fitting:
                    found[place] = max(fitting, key=lambda text: len(text.tokens))
                    left.discard(found[place])
                else:
                    found[place] = self._begin_text()
                    self._texts.append(found[place])
        for text, row in zip(found, rows):
            text.follow(row, self._step)
        if len(self._texts) > len(rows):
            if self.memory is not None:
                self._remember([text for text in self._texts if text.seen < self._step])
            gone = [text for text in self._texts if text.seen + _KEPT_STEPS < self._step]
            for text in gone:
                self._release(text)
                if text.rounds:
                    self._rounds_per_text += _SMOOTHING * (text.rounds - self._rounds_per_text)
            self._texts = [text for text in self._texts if text.seen + _KEPT_STEPS >= self._step]
        return found

    def _remember(self, left: list[RequestText]) -> None:
        """Add to the memory what was written in requests that have left the batch, perhaps to come back."""
        for text in left:
            if text.remembered < len(text.tokens):
                ids = text.tokens.tolist()
                self.memory.remember(ids[: text.remembered], ids[text.remembered :])
                text.remembered = len(ids)

    def _begin_text(self) -> RequestText:
        window = None if self.network is None else self.network.prompt_window
        calibration = self.settings.calibration
        if self.memory is not None:
            calibration = calibration | {MEMORY: self.memory.calibration(calibration[LOOKUP], sampling=False)}
        return RequestText(AcceptanceEstimator(calibration), network_gain(self.settings.network_gain), window)

    def _learn(self, before: list[RequestText], started: float) -> None:
        """Learn what the step took and yielded, where it decoded the same requests as the one before."""
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
        self._balance = _BALANCE_MEMORY * self._balance + accepted - self._rate() * spent
        self._balanced_steps += 1
        if self._balanced_steps >= _TRIED_STEPS and self._balance < 0:
            self._balance, self._balanced_steps = 0.0, 0
            self._rest, self._rested_rows = _RESTED_STEPS, texts

    def _rate(self) -> float:
        """Return R: tokens that the engine yields in a millisecond with as many requests as now, drafting included."""
        texts = max(len(self._rows), 1)
        drafting = self._tokens_per_text / self.costs(texts * (1 + self._drafted_per_text)) / (1 + self._own_share)
        return texts * max(drafting, 1 / self.costs(texts))  # where drafts brought less, none are drafted

    def _propose(self, text: RequestText) -> Proposal | None:
        """Ask lookup, table and memory."""
        if self.clock is not None and self.clock() > self._deadline:
            return None
        sources = {LOOKUP: text.lookup} if self._looks_up and text.is_indexed else {}
        return propose_surest(text.estimator, sources | self._sources, text.tail())

    def _take(self, text: RequestText, proposal: Proposal | None, price: float) -> bool:
        """Draft a token where it pays; tell whether the draft may grow on."""
        if proposal is None or text.reach * proposal.probability <= price:
            return False
        text.draft.append(proposal)
        text.reach *= proposal.probability
        return len(text.draft) < text.limit and proposal.token not in self._end_ids

    def _ask_network(
        self, texts: list[RequestText], proposals: list[Proposal | None], rate: float, price: float
    ) -> None:
        """Replace proposals by the network's where it is surer, for the texts for which its time is worth it.

        A token more that it reads takes its time, and a prompt is read once for all rounds of its request.
        """
        chosen, worth = [], -rate * self._network_costs(0)
        for place, (text, proposal) in enumerate(zip(texts, proposals)):
            shares = self._shares(text)
            if not shares and len(text) - text.skipped > self.network.limit:
                continue
            needed = text.reach * (1 - (0.0 if proposal is None else proposal.probability))
            long_ago = text.rounds % _ASK_ANYHOW == _ASK_ANYHOW - 1
            ask_anyhow = proposal is None and not text.draft and long_ago and price < _DEAR
            promise = needed if ask_anyhow else needed * max(text.gain() - price, 0.0)
            tokens = 1 if shares else 1 + (text.unread_size() - 1) / self._rounds_per_text
            promise -= rate * self._network_costs.slope * tokens
            if promise > 0 and self._has_slot(text):
                worth += promise
                chosen.append((place, needed))
        if worth <= 0:
            return
        started = self.clock() if self.clock is not None else 0.0
        chosen.sort(key=lambda each: texts[each[0]].slot)  # caches that lie side by side are read without a copy
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
            seconds = self.clock() - started
            self._deadline += seconds  # what it takes was weighed against what it brings
            self._network_costs.observe(tokens, 1000 * seconds)

    def _shares(self, text: RequestText) -> bool:
        """Return whether the network attends to the target's keys and values of a text."""
        return self._cache is not None and len(text) <= self.network.limit

    def _has_slot(self, text: RequestText) -> bool:
        """Give a text one of the network's caches, of a text that is not in this step if none is free."""
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
