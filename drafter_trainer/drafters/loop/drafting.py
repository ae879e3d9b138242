"""The drafting loop: one call of the drafter's `generate`, from the verified text to a draft."""

import time
from collections.abc import Callable, Collection

import torch

from .calls import NO_ENDING, Call, EndingIds, Endings, TokenizerLoader
from .network import LeanNetwork
from .network_kinds import StockNetwork
from .policy import AcceptanceEstimator, CostModel, best_length, extension_pays, least_reach, network_gain, throughput
from .settings import LoopSettings
from .sources import (
    FILLER,
    LOOKUP,
    MEMORY,
    NETWORK,
    NGRAM,
    TAIL,
    DraftSource,
    NetworkSource,
    NgramTable,
    PromptLookup,
    Proposal,
    propose_surest,
)

_STEP_SMOOTHING = 0.1
_SAMPLED_TOKENS = 1.5  # tokens per target pass that sampling starts from
_ASK_ANYHOW = 16  # a network that gained nothing is asked again every 16 rounds


class DraftingLoop:
    """The drafting loop for one target, on one device, and one sequence at a time.

    Args:
        vocabulary (`int`): Size of the target's vocabulary.
        clock (callable, *optional*): Returns seconds, with which greedy drafting learns the costs of passes and steps.
            `None` uses only the stored costs, so that the same text gets the same drafts in every run.
        load_tokenizer (callable, *optional*): Returns the target's tokenizer, which stop strings need, or `None`.
    """

    def __init__(
        self,
        network: LeanNetwork | StockNetwork | None,
        table: NgramTable | None,
        settings: LoopSettings,
        device: torch.device,
        vocabulary: int,
        clock: Callable[[], float] | None = time.perf_counter,
        load_tokenizer: TokenizerLoader = lambda: None,
    ) -> None:
        self.settings = settings
        self.network = network if NETWORK in settings.sources else None
        self.table = table if NGRAM in settings.sources else None
        self.device = device
        self.vocabulary = vocabulary
        self.clock = clock
        self.load_tokenizer = load_tokenizer
        self.draft_ids = None if network is None else network.draft_ids
        self.memory = None  # a `CompletionMemory`, if `load_drafter` was given one
        self.call: Call | None = None  # of the target, kept by `generate` from round to round
        self._network_source = None if self.network is None else NetworkSource(self.network, vocabulary)
        self._stored_step = self._clocked_step = settings.step(device.type)
        self._stored_curves = [CostModel(settings.passes(device.type, sampling)) for sampling in (False, True)]
        self._clocked_curve = CostModel(settings.passes(device.type))
        self._returned_at: float | None = None
        self._begin([], sampling=False)

    def draft(
        self,
        verified: list[int],
        limit: int,
        process: Callable[[list[int], torch.Tensor], torch.Tensor] | None = None,
        sampling: bool = False,
        end_ids: Collection[int] = (),
        endings: Endings | None = None,
        cache=None,
    ) -> list[Proposal]:
        """Draft the continuation of a text.

        Args:
            verified (`list[int]`): Prompt and output so far.
            limit (`int`): Maximum number of drafted tokens.
            process (callable, *optional*): The target's processors, from `(context, logits of shape (vocabulary,))`
                to logits.
            end_ids, endings (*optional*): Tokens after which, and before which, a draft ends.
            cache (`transformers.Cache`, *optional*): The target's keys and values of all tokens but the last one.
        Returns:
            `list[Proposal]`, empty if a draft would cost more than it yields.
        """
        self._follow(verified, sampling)
        if cache is not None and self._network_source is not None:
            self._network_source.share(cache, verified)
        limit = min(limit, self.settings.longest_draft, self._curve.longest - 1)
        if endings is not None and process is None:
            process = _unprocessed  # logits over the whole vocabulary, as endings are
        self._asked = 0.0
        rate = self._rate()
        draft: list[Proposal] = []
        reach: list[float] = []
        least = 0
        ending, tail = NO_ENDING, b"" if endings is None else endings.tail(verified)
        while len(draft) < limit:
            reached = reach[-1] if reach else 1.0
            if draft and reached < least_reach(len(draft), limit, self._curve, rate):
                break
            if endings is not None:
                ending = endings.after(tail)
            proposal = self._propose(draft, reached, rate, limit, process, ending)
            if proposal is None:
                break
            draft.append(proposal)
            if endings is not None:
                tail += endings.text(proposal.token)
            reach.append(reached * proposal.probability)
            if proposal.scores is not None:
                least = len(draft)  # a sampled token must stay
            if proposal.token in end_ids:
                break
        # No fillers with stop strings, which a filler could complete, nor for plain decoding, which has no clock.
        longest = limit if endings is None and self.settings.sources else len(draft)
        length = best_length(reach, longest, self._curve, rate, least)
        self._draft = (draft + [Proposal(verified[-1], FILLER, 0.0)] * (length - len(draft)))[:length]
        if self._clocked:
            self._returned_at = self.clock()
        return self._draft

    def forget(self) -> None:
        """Begin a new text, even if the next text continues this one, as a chat's next turn may."""
        self._begin([], self._sampling)

    def _follow(self, verified: list[int], sampling: bool) -> None:
        """Learn how much of the last draft was accepted, or begin a new text if `verified` does not continue it."""
        old, draft = self._verified, self._draft
        grown = len(verified) - len(old)
        continues = 0 < grown <= len(draft) + 1 and verified[: len(old)] == old and sampling == self._sampling
        if not old or not continues:  # a prompt of one token continues nothing
            self._begin(verified, sampling)
            return
        new = verified[len(old) :]
        gained = 0
        for proposal, token in zip(draft, new):
            accepted = proposal.token == token
            if proposal.source != FILLER:
                self._estimator.observe(proposal.source, proposal.bin, accepted)
            gained += accepted and proposal.gained
            if not accepted:
                break
        self._gain.observe(gained, self._asked)
        if self._clocked and self._rounds > 0:  # the first pass reads the prompt too
            self._curve.observe(len(draft) + 1, 1000 * (self.clock() - self._returned_at))
        self._rate.observe(grown, self._curve(len(draft) + 1))
        self._rounds += 1
        self._lookup.extend(new)
        if self._network_source is not None:
            self._network_source.follow(verified, len(old))
        self._verified = list(verified)

    def _begin(self, verified: list[int], sampling: bool) -> None:
        settings = self.settings
        self._verified, self._draft, self._sampling, self._rounds = list(verified), [], sampling, 0
        # Sampling uses the stored costs, so that the same seed samples the same tokens.
        self._clocked = self.clock is not None and not sampling
        self._curve = self._clocked_curve if self._clocked else self._stored_curves[sampling]
        calibration = settings.sampling_calibration if sampling else settings.calibration
        if self.memory is not None:
            calibration = calibration | {MEMORY: self.memory.calibration(calibration[LOOKUP], sampling)}
        self._estimator = AcceptanceEstimator(calibration)
        # No lower bound with a clock: it corrects only the times of lengths that were tried, and all other lengths
        # would look slow next to plain decoding.
        least = 0.0 if self._clocked else 1 / self._curve(1)
        self._rate = throughput(_SAMPLED_TOKENS if sampling else settings.tokens_per_pass, self._curve, least)
        self._gain = network_gain(settings.network_gain)
        self._lookup = PromptLookup()
        self._lookup.extend(verified)
        # Without lookup only one source is compared: the memory is not asked either.
        sources = {LOOKUP: self._lookup, NGRAM: self.table, MEMORY: self.memory}
        sources = sources if LOOKUP in settings.sources else {NGRAM: self.table}
        self._quick_sources: dict[str, DraftSource] = {
            name: source for name, source in sources.items() if source is not None
        }
        if self._network_source is not None:
            self._network_source.begin(len(verified))

    def _propose(self, draft, reached, rate, limit, process, ending: EndingIds) -> Proposal | None:
        """Ask the quick sources, and the network if its gain is worth a step; return the proposal to be drafted."""
        drafted = [proposal.token for proposal in draft]
        best = propose_surest(self._estimator, self._quick_sources, self._verified[-TAIL:] + drafted)
        if best is not None and best.token in ending:
            return None
        network = self._network_source
        if network is None or not network.has_room(len(self._verified) + len(drafted)):
            return best
        needed = reached * (1 - (0.0 if best is None else best.probability))
        ask_anyhow = best is None and not draft and self._rounds % _ASK_ANYHOW == 0
        step = self._clocked_step if self._clocked else self._stored_step
        if not ask_anyhow and needed * self._gain() <= rate * step:
            return best
        started = self.clock() if self._clocked else None
        self._asked += needed
        proposed = network.propose(self._verified + drafted, process, self._sampling, ending)
        if started is not None and network.unread == 1:
            elapsed = 1000 * (self.clock() - started)
            self._clocked_step += _STEP_SMOOTHING * (min(elapsed, 4 * self._clocked_step) - self._clocked_step)
        if proposed is None:
            return best
        token, bin_ = proposed
        probability = self._estimator.probability(NETWORK, bin_)
        if best is not None and best.probability >= probability:
            return best
        if token in ending:
            return None
        # Decided by the likeliest token: to drop a token after it was sampled would bias the output.
        if self._sampling and not extension_pays(len(draft), limit, reached, probability, self._curve, rate):
            return None
        gained = best is None or best.token != token
        return Proposal(token, NETWORK, probability, bin_, network.scores, gained)


def _unprocessed(context: list[int], logits: torch.Tensor) -> torch.Tensor:
    return logits
