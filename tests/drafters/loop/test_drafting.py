"""The drafting loop, with hand-written sources and a clock that the test advances."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from drafter_trainer.drafters.loop.settings import LoopSettings
from drafter_trainer.drafters.loop.sources import Proposal
from drafter_trainer.drafters.ngram import count_table
from tests.drafters.loop.conftest import FLAT, Clock, FakeNetwork, calibration, make_loop, make_settings

LINEAR = [10.0 + 4.0 * tokens for tokens in range(17)]  # each token more costs as much as it must bring
DEAR = [10.0 + 15.0 * tokens for tokens in range(17)]
UNEVEN = [10.0, 30.0, 30.0, 5.0, 30.0]  # a pass over four tokens takes less time than one over two
TEXT = [20, 21, 22, 23, 24, 20, 21]  # lookup says 22, 23, 24, 20, …


def successor(known: list[int]) -> int:
    return (known[-1] + 1) % 50


def tokens_of(draft: list[Proposal]) -> list[int]:
    return [proposal.token for proposal in draft]


def sources_of(draft: list[Proposal]) -> list[str]:
    return [proposal.source for proposal in draft]


class Game:
    """A loop, its target's text, and a clock that each pass advances by its cost."""

    def __init__(
        self, known: list[int], settings: LoopSettings, network: Any = None, costs: Sequence[float] | None = None
    ) -> None:
        self.known, self.costs, self.clock = list(known), costs or settings.pass_milliseconds["cpu"], Clock()
        self.loop = make_loop(settings, network, clock=self.clock)

    def draft(self, **given: Any) -> list[Proposal]:
        self.last = self.loop.draft(list(self.known), 16, **given)
        return self.last

    def say(self, *tokens: int) -> None:
        self.clock.seconds += self.costs[len(self.last)] / 1000
        self.known += tokens

    def play(self, follow: Callable[[list[int]], int], rounds: int, **given: Any) -> list[list[Proposal]]:
        drafts = []
        for _ in range(rounds):
            drafts.append(self.draft(**given))
            new = [follow(self.known)]
            for token in tokens_of(self.last):
                if token != new[-1]:
                    break
                new.append(follow(self.known + new))
            self.say(*new)
        return drafts


# Which source


@pytest.mark.parametrize(("source", "token"), [("lookup", 22), ("ngram", 40), ("network", 30)])
def test_source_with_the_highest_probability_drafts(source: str, token: int) -> None:
    """Prevent a fixed order of the sources, with which a worse source would draft."""
    torch.manual_seed(0)
    trust = calibration(**dict.fromkeys(("lookup", "ngram", "network"), 0.4) | {source: 0.9})
    for sampling in (False, True):
        network, slots = FakeNetwork(lambda known: 30), count_table([[21, 40]], (1,))
        first = make_loop(make_settings(calibration=trust), network, slots).draft(TEXT, 4, sampling=sampling)[0]
        assert (first.source, first.token, first.probability) == (source, token, 0.9)
        assert (first.scores is not None) == (sampling and source == "network")


def test_draft_goes_on_from_its_own_tokens() -> None:
    """Prevent sources from ignoring the draft, which would repeat the same token."""
    lookup = make_loop(make_settings(sources=["lookup"])).draft(TEXT, 4)
    assert tokens_of(lookup) == [22, 23, 24, 20]
    slots = count_table([[21, 40, 41, 42]], (1, 2, 3))
    ngram = make_loop(make_settings(sources=["ngram"]), None, slots).draft(TEXT, 4)
    assert tokens_of(ngram) == [40, 41, 42]  # nothing follows 42
    network = make_loop(make_settings(sources=["network"]), FakeNetwork(successor)).draft(TEXT, 4)
    assert tokens_of(network) == [22, 23, 24, 25]


def test_network_is_spared_where_another_source_is_sure() -> None:
    """Prevent steps of the network for tokens that another source is sure of."""
    network = FakeNetwork(successor)
    trust = calibration(lookup=0.95, network=0.9)
    loop = make_loop(make_settings(step=3.0, calibration=trust), network)
    assert sources_of(loop.draft(TEXT, 4)) == ["lookup"] * 4
    assert network.reads == []
    loop.draft([1, 2, 3], 4)
    assert len(network.reads) > 0


def test_draft_ids_are_the_targets() -> None:
    """Prevent indices of the draft vocabulary from being taken for token ids."""
    network = FakeNetwork(lambda known: 2, size=3)
    network.draft_ids = torch.tensor([7, 11, 13])
    for sampling in (False, True):
        loop = make_loop(make_settings(sources=["network"]), network)
        draft = loop.draft([1, 2], 1, sampling=sampling)
        assert tokens_of(draft) == [13]
    scores = draft[0].scores
    assert scores.shape == (50,)
    assert scores.softmax(-1)[13] > 0.99
    assert scores.isfinite().nonzero()[:, 0].tolist() == [7, 11, 13]


def test_processors_see_the_context_and_decide() -> None:
    """Prevent drafts that the target's processors exclude, and a q that the token was not sampled from."""
    seen = []

    def process(context: list[int], logits: torch.Tensor) -> torch.Tensor:
        seen.append((list(context), logits.shape))
        forbidden = torch.full_like(logits, float("-inf"))
        forbidden[context[-1] + 2] = 0.0
        return forbidden

    network = FakeNetwork(lambda known: 1, size=2)
    network.draft_ids = torch.tensor([4, 5])
    for sampling in (False, True):
        loop = make_loop(make_settings(sources=["network"]), network)
        draft = loop.draft([1, 2], 2, process, sampling)
        assert tokens_of(draft) == [4, 6]
        assert seen == [([1, 2], (50,)), ([1, 2, 4], (50,))]
        seen.clear()
    assert [proposal.scores.argmax().item() for proposal in draft] == [4, 6]


# How long


def test_drafts_fall_to_nothing_where_none_is_accepted() -> None:
    """Prevent drafts, and their cost, on a text where none is accepted."""
    settings = make_settings(LINEAR, sources=["lookup"], calibration=calibration(lookup=0.6))
    game, choose, lengths = Game([1, 2, 3, 1, 2, 3], settings), random.Random(0), []
    for _ in range(60):
        draft = tokens_of(game.draft())
        lengths.append(len(draft))
        game.say(choose.choice([token for token in (1, 2, 3) if token not in draft[:1]]))
    assert max(lengths[:3]) >= 1
    assert lengths[-20:] == [0] * 20


@pytest.mark.parametrize(("limit", "longest", "costs"), [(3, 8, 17), (8, 3, 17), (8, 8, 4)])
def test_drafts_stay_within_every_limit(limit: int, longest: int, costs: int) -> None:
    """Prevent drafts beyond the limit of the output, of the settings, or of the measured passes."""
    for sampling in (False, True):
        settings = make_settings(FLAT[:costs], sources=["lookup"], longest_draft=longest)
        assert len(make_loop(settings).draft([5, 5, 5, 5], limit, sampling=sampling)) == 3


@pytest.mark.parametrize("sampling", [False, True])
def test_nothing_is_drafted_behind_the_end_or_where_nothing_pays(sampling: bool) -> None:
    """Prevent steps for tokens after an end token, and drafts that are not worth the longer verification pass."""
    network = FakeNetwork(successor)
    loop = make_loop(make_settings(sources=["network"], longest_draft=6), network)
    assert tokens_of(loop.draft([1, 2], 6, sampling=sampling, end_ids=(5, 40))) == [3, 4, 5]
    assert len(network.reads) == 3
    for settings, network in (
        (make_settings(LINEAR, sources=["lookup"]), None),  # knows nothing of the text
        (make_settings(LINEAR, sources=["network"], calibration=calibration(network=0.0)), FakeNetwork(successor)),
        (make_settings(LINEAR, sources=["network"]), FakeNetwork(successor, limit=3)),  # beyond its context
    ):
        loop = make_loop(settings, network)
        assert loop.draft([1, 2, 3, 9, 8], 8, sampling=sampling) == []
        assert loop.draft([1, 2, 3, 9, 8, 7], 1, sampling=sampling) == []


def test_fillers_come_where_more_tokens_take_less_time() -> None:
    """Prevent drafts of a length at which a pass takes longer than over more tokens, as on some machines."""
    loop = make_loop(make_settings(UNEVEN, sources=["lookup"], calibration=calibration(lookup=0.0)))
    draft = loop.draft([1, 2, 3], 4)
    assert sources_of(draft) == ["filler"] * 3
    assert tokens_of(draft) == [3] * 3
    draft = make_loop(make_settings(UNEVEN, sources=["lookup"])).draft([1, 2, 3, 1], 4)
    assert sources_of(draft) == ["lookup"] * 3
    assert all(proposal.scores is None for proposal in draft)


def test_what_was_drawn_stays() -> None:
    """Prevent biased output: a sampled token must not be dropped because of its value."""
    # The second token pays only with those behind it, and how likely they are depends on what it is.
    costs = [10.0, 10.0, 30.0, 31.0, 32.0]
    trust = calibration() | {"network": [0.02] * 10 + [0.95] * 10}

    def wavering(known: list[int]) -> list[int]:
        return [4, 5] if known[-1] % 2 else [*range(8)]

    kept: dict[tuple[int, ...], set[bool]] = {}
    lengths = set()
    for seed in range(200):
        torch.manual_seed(seed)
        drawn: list[int] = []
        loop = make_loop(make_settings(costs, sources=["network"], calibration=trust), FakeNetwork(wavering))
        source = loop._network_source
        propose = source.propose

        def noted(*given: Any, propose=propose, drawn=drawn):
            token, bin_ = propose(*given)
            drawn.append(token)
            return token, bin_

        source.propose = noted
        draft = tokens_of(loop.draft([1, 2, 5], 4, sampling=True))
        assert draft == drawn[: len(draft)]
        for place in range(len(drawn)):
            kept.setdefault(tuple(drawn[:place]), set()).add(place < len(draft))
        lengths.add(len(draft))
    assert lengths == {1, 2, 3, 4}
    # Behind the same tokens the next one is kept always or never, whatever it is.
    assert all(len(decisions) == 1 for decisions in kept.values())
    assert {True} in kept.values()
    assert {False} in kept.values()


def test_scores_outlive_the_next_step() -> None:
    """Prevent the q of all tokens from being that of the last one, since a captured step reuses its output."""
    network, logits = FakeNetwork(successor), torch.zeros(50)
    read = network.read
    network.read = lambda token_ids: logits.copy_(read(token_ids))  # the same tensor each time
    torch.manual_seed(0)
    draft = make_loop(make_settings(sources=["network"]), network).draft([1, 2], 4, sampling=True)
    assert tokens_of(draft) == [3, 4, 5, 6]
    assert [proposal.scores.argmax().item() for proposal in draft] == [3, 4, 5, 6]


# From round to round


def test_each_token_is_read_once() -> None:
    """Prevent the network from reading the whole text again in each round."""
    network = FakeNetwork(successor)
    game = Game([3, 4, 5], make_settings(sources=["network"]), network)
    drafts = game.play(lambda known: (known[-1] + 1 + (len(known) % 6 == 0)) % 50, 12)
    assert network.reads[0] == [3, 4, 5]
    assert network.known[: len(game.known) - 1] == game.known[: len(network.known)]
    # Each token of a draft is asked for once, reading what is new: what was rejected is read and forgotten, the rest
    # is read once.
    assert len(network.reads) == sum(map(len, drafts))
    text = sum(1 for place in range(len(game.known)) if place < len(network.known))
    rejected = sum(map(len, network.reads)) - text
    assert 0 < rejected <= sum(len(draft) - 1 for draft in drafts) / 2


def test_another_prompt_begins_anew() -> None:
    """Prevent text and acceptance of one completion from influencing the next one."""
    trust = calibration(lookup=0.6, network=0.5)
    make = lambda: Game(TEXT, make_settings(LINEAR, calibration=trust), FakeNetwork(successor))  # noqa: E731
    game = make()
    used = game.loop
    game.play(lambda known: (known[-1] + 3) % 50, 15)
    for prompt in ([9, 8, 20], [9, 8], [9, 8, 20, 31, 40]):
        assert used.draft(list(prompt), 4) == make().loop.draft(list(prompt), 4)
        assert used.network.known[: len(prompt)] == prompt
    # The same prompt again, and the prompt sampled, are answers of their own too.
    for _ in range(2):
        assert used.draft([9, 8], 4) == make().loop.draft([9, 8], 4)
    again = used.draft([9, 8, 9], 4, sampling=True)
    torch.manual_seed(1)
    expected = make().loop.draft([9, 8, 9], 4, sampling=True)
    assert [proposal.probability for proposal in again] == [proposal.probability for proposal in expected]


def test_sampled_lengths_do_not_depend_on_the_clock() -> None:
    """Prevent sampled drafts from depending on the clock: a seed must give the same completion again."""
    lengths = []
    for pace in (0.001, 0.5):
        clock = Clock()
        loop = make_loop(make_settings(LINEAR, sources=["network"]), FakeNetwork(successor), clock=clock)
        torch.manual_seed(0)
        known = [1, 2, 3]
        for _ in range(20):
            draft = loop.draft(list(known), 8, sampling=True)
            clock.seconds += pace
            lengths.append(len(draft))
            known += [*tokens_of(draft), 0]
    assert lengths[:20] == lengths[20:]


def test_what_is_forgotten_is_read_anew() -> None:
    """Prevent the time between two turns of a chat from counting as one slow pass."""
    network = FakeNetwork(successor)
    game = Game([20, 21, 22], make_settings(sources=["network"]), network)
    game.play(successor, 2)
    game.clock.seconds += 3600
    game.loop.forget()
    game.known.append(successor(game.known))
    network.reads.clear()
    drafted = tokens_of(game.draft())
    assert network.reads[0] == game.known
    fresh = Game(game.known, make_settings(sources=["network"]), FakeNetwork(successor))
    assert drafted == tokens_of(fresh.draft())


def test_a_network_reads_no_more_of_a_prompt_than_its_window() -> None:
    """Prevent a long prompt from costing the network, and its window from moving or from losing the first token."""
    network = FakeNetwork(successor, limit=13)  # the whole prompt would not fit in
    network.prompt_window = 3
    game = Game(list(range(10, 30)), make_settings(sources=["network"]), network)
    drafts = game.play(successor, 2)
    assert network.reads[0] == [10, 27, 28, 29]
    assert network.known[:8] == [10, 27, 28, 29, 30, 31, 32, 33]
    assert [tokens_of(draft) for draft in drafts] == [[30, 31, 32, 33], [35, 36, 37, 38]]
    game.loop.draft([1, 2, 3, 4, 5, 6], 16)
    assert network.known[:4] == [1, 4, 5, 6]


def test_fillers_are_in_no_belief() -> None:
    """Prevent fillers from changing the estimate of a source."""
    loop = make_loop(make_settings(UNEVEN, sources=["lookup"], calibration=calibration(lookup=0.6)))
    known = [1, 2, 3]
    for number in range(12):
        draft = loop.draft(list(known), 4)
        assert sources_of(draft) == ["filler"] * 3
        # Rejected, but for the first time, where all stand in the text by chance
        known += [*[3] * 3, 19] if number == 0 else [20 + number]
    (first, *_) = loop.draft([*known, 1], 4)
    assert (first.source, first.token, first.probability) == ("lookup", 2, 0.6)


def test_first_pass_is_no_measure() -> None:
    """Prevent the pass that reads the prompt from changing the cost of later passes."""
    game = Game([1, 2, 3], make_settings(sources=["network"]), FakeNetwork(successor))
    game.play(successor, 1)
    game.clock.seconds += 5.0
    assert [len(draft) for draft in game.play(successor, 2)] == [4, 4]


@pytest.mark.parametrize(
    ("sources", "known", "text", "drafts", "least", "last"),
    [
        # In another language. Every sixteenth round still, or it would never be found that another text has begun.
        (["network"], [1, 2], lambda known: (known[-1] + 7) % 50, successor, 30, 4),
        # Lookup would have drafted the same.
        (["lookup", "network"], [1, 2, 3, 4, 1], *2 * [lambda known: known[-1] % 4 + 1], 5, 0),
    ],
)
def test_network_that_brings_nothing_is_asked_seldom(sources, known, text, drafts, least, last) -> None:
    """Prevent a step in every round on a text where the network gains nothing."""
    trust = calibration(lookup=0.3, network=0.6)
    settings = make_settings(sources=sources, longest_draft=1, calibration=trust, step=0.5)
    network = FakeNetwork(successor)
    game, asked = Game(known, settings, network, FLAT), []

    def slow(known: list[int]) -> int:
        game.clock.seconds += 0.0005
        return drafts(known)

    network.successor = slow
    for _ in range(5):
        before = len(network.reads)
        game.play(text, 64)
        asked.append(len(network.reads) - before)
    assert asked[0] > least
    assert asked[-1] == last


def test_sampling_goes_by_its_own_curve() -> None:
    """Prevent greedy costs from deciding the length of sampled drafts."""
    given = {"sources": ["network"], "sampling_pass_milliseconds": {"cpu": DEAR}}
    for sampling in (False, True):
        loop = make_loop(make_settings(LINEAR, **given), FakeNetwork(successor))
        assert (loop.draft([1, 2, 3, 9, 8], 8, sampling=sampling) == []) == sampling


def test_cost_of_passes_is_learned_from_the_clock() -> None:
    """Prevent too long drafts on a machine where verification takes longer than during tuning."""
    settings = make_settings(LINEAR, sources=["network"], longest_draft=8, calibration=calibration(network=0.7))
    lengths = []
    for costs in (LINEAR, DEAR):
        game, choose = Game([1, 2], settings, FakeNetwork(successor), costs), random.Random(0)
        drafts = game.play(lambda known, choose=choose: (known[-1] + (1 if choose.random() < 0.7 else 2)) % 50, 60)
        lengths.append([len(draft) for draft in drafts])
    assert lengths[0][0] == lengths[1][0] > 0
    assert min(lengths[0]) > 0
    assert lengths[1][-5:] == [0] * 5
