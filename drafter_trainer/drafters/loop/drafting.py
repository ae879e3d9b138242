"""The drafting loop: what one call of the drafter's `generate` does."""

import math
import time
from collections.abc import Callable, Collection

import torch

from .calls import Call, EndingIds, Endings, TokenizerLoader
from .network import LeanNetwork
from .policy import AcceptanceEstimator, CostModel, best_length, extension_pays, least_reach, network_gain, throughput
from .settings import NETWORK_BINS, LoopSettings, bin_of
from .sources import (
    FILLER,
    LOOKUP,
    MEMORY,
    NETWORK,
    NGRAM,
    TAIL,
    NgramTable,
    PromptLookup,
    Proposal,
    count_skipped,
    propose_surest,
    unread_part,
)
from .stock import StockNetwork

_STEP_SMOOTHING = 0.1
_SAMPLED_TOKENS = 1.5  # what a pass yields when sampling, until it is known of an answer
_ASK_ANYHOW = 16  # rounds, after which a network that brought nothing is asked again
_NO_ENDINGS = EndingIds()


class DraftingLoop:
    """The drafting loop for one target and one sequence at a time.

    Args:
        settings (`LoopSettings`): Sources, lengths, calibration and costs.
        device (`torch.device`): Where target and network run.
        clock (callable, *optional*): Tells seconds, from which greedy drafting learns what passes and steps take;
            `None` lets it go by the stored costs alone, so that the same text is drafted alike in every run.
        load_tokenizer (callable, *optional*): Returns the target's tokenizer, or `None`; without it nothing is drafted
            where there are stop strings.
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
        self.memory = None  # a `CompletionMemory`, where `load_drafter` was given one
        self.call: Call | None = None  # of the target, kept by `generate` from round to round
        self._stored_step = self._clocked_step = settings.step(device.type)
        self._stored_curves = [CostModel(settings.passes(device.type, sampling)) for sampling in (False, True)]
        self._clocked_curve = CostModel(settings.passes(device.type))
        self.draft_ids = None if network is None else network.draft_ids
        self._ids = None if self.draft_ids is None else self.draft_ids.tolist()
        self._known: list[int] = []
        self._draft: list[Proposal] = []
        self._returned_at: float | None = None
        self._begin(sampling=False)

    def draft(
        self,
        known: list[int],
        limit: int,
        process: Callable[[list[int], torch.Tensor], torch.Tensor] | None = None,
        sampling: bool = False,
        end_ids: Collection[int] = (),
        endings: Endings | None = None,
        cache=None,
    ) -> list[Proposal]:
        """Draft what may follow.

        Args:
            known (`list[int]`): Prompt and output so far.
            limit (`int`): Draft so many tokens at most.
            process (callable, *optional*): The target's processors, from `(context, logits of shape (vocabulary,))`
                to logits; left out where there are none.
            end_ids (`Collection[int]`): Ids behind which nothing is drafted.
            endings (`Endings`, *optional*): Tokens that are not drafted, nor anything behind them.
            cache (`transformers.Cache`, *optional*): The target's keys and values of all tokens but the last one,
                for a network that attends to them.
        Returns:
            `list[Proposal]`, empty where a draft would cost more than it yields.
        """
        self._follow(known, sampling)
        if cache is not None and self.network is not None and self.network.share(cache, self._shared, len(known) - 1):
            self._shared, self._skipped, self._read = len(known) - 1, 0, known[:-1]
        limit = min(limit, self.settings.longest_draft, self._curve.longest - 1)
        if endings is not None and process is None:
            process = _unprocessed  # over the whole vocabulary, as endings are
        self._asked = 0.0
        rate = self._rate()
        draft: list[Proposal] = []
        reach: list[float] = []
        least = 0
        ending, tail = _NO_ENDINGS, b"" if endings is None else endings.tail(known)
        while len(draft) < limit:
            reached = reach[-1] if reach else 1.0
            if draft and reached < least_reach(len(draft), limit, self._curve, rate):
                break
            if endings is not None:
                ending = endings.behind(tail)
            proposal = self._propose(draft, reached, rate, limit, process, ending)
            if proposal is None:
                break
            draft.append(proposal)
            if endings is not None:
                tail += endings.text(proposal.token)
            reach.append(reached * proposal.probability)
            if proposal.scores is not None:
                least = len(draft)  # what was drawn must stay
            if proposal.token in end_ids:
                break
        # A filler may be what completes a stop string, and plain decoding is not to depend on the clock.
        fills = endings is None and bool(self.settings.sources)
        longest = limit if fills else len(draft)
        length = best_length(reach, longest, self._curve, rate, least)
        self._draft = (draft + [Proposal(known[-1], FILLER, 0.0)] * (length - len(draft)))[:length]
        if self._clocked:
            self._returned_at = self.clock()
        return self._draft

    def forget(self) -> None:
        """Begin anew, even if the next text goes on where the last one ended, as a chat's next turn may."""
        self._known, self._draft = [], []
        self._begin(self._sampling)

    def _follow(self, known: list[int], sampling: bool) -> None:
        """Learn what became of the last draft, or begin anew where `known` does not continue it."""
        old, draft = self._known, self._draft
        grown = len(known) - len(old)
        continues = 0 < grown <= len(draft) + 1 and known[: len(old)] == old and sampling == self._sampling
        if not old or not continues:  # a prompt of one token follows nothing
            self._begin(sampling)
            self._lookup.extend(known)
            self._known = list(known)
            window = None if self.network is None else self.network.prompt_window
            self._skipped = count_skipped(len(known), window)
            return
        new = known[len(old) :]
        gained = 0
        for proposal, token in zip(draft, new):
            accepted = proposal.token == token
            if proposal.source != FILLER:
                self._belief.observe(proposal.source, proposal.bin, accepted)
            gained += accepted and proposal.gained
            if not accepted:
                break
        self._gain.observe(gained, self._asked)
        if self._clocked and self._rounds > 0:  # the first pass reads the prompt too
            self._curve.observe(len(draft) + 1, 1000 * (self.clock() - self._returned_at))
        self._rate.observe(grown, self._curve(len(draft) + 1))
        self._rounds += 1
        self._lookup.extend(new)
        kept = len(old)
        while kept < min(len(self._read), len(known)) and self._read[kept] == known[kept]:
            kept += 1
        del self._read[kept:]
        self._known = list(known)

    def _begin(self, sampling: bool) -> None:
        settings = self.settings
        self._sampling = sampling
        # Sampling goes by what is stored, so that the same seed draws the same tokens whatever the clock says.
        self._clocked = self.clock is not None and not sampling
        self._curve = self._clocked_curve if self._clocked else self._stored_curves[sampling]
        calibration = settings.sampling_calibration if sampling else settings.calibration
        if self.memory is not None:
            calibration = calibration | {MEMORY: self.memory.calibration(calibration[LOOKUP], sampling)}
        self._belief = AcceptanceEstimator(calibration)
        # No least rate with a clock: as it corrects what was tried alone, untried lengths look dear beside none.
        least = 0.0 if self._clocked else 1 / self._curve(1)
        self._rate = throughput(_SAMPLED_TOKENS if sampling else settings.tokens_per_pass, self._curve, least)
        self._gain = network_gain(settings.network_gain)
        self._lookup = PromptLookup()
        # Without lookup only one source is compared: the memory is not asked either.
        sources = {LOOKUP: self._lookup, NGRAM: self.table, MEMORY: self.memory}
        if LOOKUP not in settings.sources:
            sources = {NGRAM: self.table}
        self._sources = {name: source for name, source in sources.items() if source is not None}
        self._read: list[int] = []
        self._shared = 0  # tokens of which the network has the target's keys and values
        self._skipped = 0  # tokens of the prompt before the network's window, behind the first one
        self._rounds = 0

    def _propose(self, draft, reached, rate, limit, process, ending: EndingIds) -> Proposal | None:
        best = self._cheap(draft)
        if best is not None and best.token in ending:
            return None
        context = self._known + [proposal.token for proposal in draft]
        if self.network is None or len(context) - self._skipped >= self.network.limit:
            return best
        needed = reached * (1 - (0.0 if best is None else best.probability))
        ask_anyhow = best is None and not draft and self._rounds % _ASK_ANYHOW == 0
        step = self._clocked_step if self._clocked else self._stored_step
        if not ask_anyhow and needed * self._gain() <= rate * step:
            return best
        started = self.clock() if self._clocked else None
        logits, unread = self._read_network(context)
        self._asked += needed
        token, share, scores = self._ask_network(context, logits, process, ending)
        if started is not None and unread == 1:
            elapsed = 1000 * (self.clock() - started)
            self._clocked_step += _STEP_SMOOTHING * (min(elapsed, 4 * self._clocked_step) - self._clocked_step)
        if math.isnan(share):  # processors that leave nothing of the draft vocabulary
            return best
        bin_ = bin_of(share, NETWORK_BINS)
        probability = self._belief.probability(NETWORK, bin_)
        if best is not None and best.probability >= probability:
            return best
        if token in ending:
            return None
        if self._sampling and not extension_pays(len(draft), limit, reached, probability, self._curve, rate):
            return None  # before it is known what was drawn: to drop it for what it is would make its q a lie
        return Proposal(token, NETWORK, probability, bin_, scores, gained=best is None or best.token != token)

    def _cheap(self, draft: list[Proposal]) -> Proposal | None:
        """Ask lookup, table and memory, which cost next to nothing."""
        tail = self._known[-TAIL:] + [proposal.token for proposal in draft]
        return propose_surest(self._belief, self._sources, tail)

    def _read_network(self, context: list[int]) -> tuple[torch.Tensor, int]:
        """Let the network read a text; return its logits, and the number of tokens that were unread."""
        # Where the target wrote what a shortened draft had left out, all was read before, and the logits are gone.
        cached, unread = unread_part(context, min(len(self._read), len(context) - 1), self._skipped)
        self.network.crop(cached)
        logits = self.network.read(unread)
        self._read = list(context)
        return logits, len(unread)

    def _ask_network(
        self, context: list[int], logits: torch.Tensor, process, ending: EndingIds
    ) -> tuple[int, float, torch.Tensor | None]:
        """Return a token, the probability of the likeliest one, and the logits if the token was drawn from them."""
        draws = self._sampling
        if process is not None:
            logits = process(context, self._widen(logits))
        # A draft must not end for what was drawn, which would make its q a lie: so it is never drawn.
        if draws and ending and (draws := int(logits.argmax()) not in ending):
            logits = ending.mask(logits)
        q = torch.softmax(logits, dim=-1)
        share, likeliest = q.max(dim=-1)
        # One draw from q: of exponential variables with these rates, each is the first with its probability.
        entry = (q / torch.empty_like(q).exponential_()).argmax() if draws else likeliest
        # All in one transfer: an accelerator is waited for each time. Floats hold ids up to 2^24.
        share, likeliest, entry = torch.stack((share.float(), likeliest.float(), entry.float())).tolist()
        wide = process is not None or self._ids is None
        token = int(entry) if wide else self._ids[int(entry)]
        if not draws:
            return token, share, None
        return token, share, self._widen(logits) if process is None else logits

    def _widen(self, logits: torch.Tensor) -> torch.Tensor:
        """Return logits over the whole vocabulary, in a tensor of their own."""
        if self.network.draft_ids is None:
            return logits.clone()
        wide = logits.new_full((self.vocabulary,), float("-inf"))
        return wide.index_copy_(0, self.network.draft_ids, logits)


def _unprocessed(context: list[int], logits: torch.Tensor) -> torch.Tensor:
    return logits
