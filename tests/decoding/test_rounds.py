"""The recorded rounds, for drafts whose acceptance is known."""

import pytest
import torch
from transformers import PreTrainedModel
from transformers.generation.candidate_generator import (
    AssistedCandidateGenerator,
    CandidateGenerator,
    PromptLookupCandidateGenerator,
)

from drafter_trainer.decoding.metrics import Round, acceptance_rate, alpha, mean_accepted_tokens
from drafter_trainer.decoding.rounds import Decoding, decode
from tests.decoding.drafts import COUNTING, agreeing, disagreeing, partly_agreeing, set_draft_length, successor_model
from tests.decoding.lossless import PROMPTS


def counting(eos_token_id: int | None = None, wrong: tuple[int, ...] = ()) -> PreTrainedModel:
    """Make a model that counts: 5 after 4, 0 after 15; it repeats each token of `wrong`."""
    successors = [token if token in wrong else follower for token, follower in enumerate(COUNTING)]
    return successor_model(successors, eos_token_id)


def drafting(drafter: PreTrainedModel, draft_length: int) -> dict[str, PreTrainedModel]:
    return {"assistant_model": set_draft_length(drafter, draft_length)}


def assert_whole(decoding: Decoding) -> None:
    """Check that the output consists of the accepted tokens and of one token for each target pass."""
    own = len(decoding.output_ids) - sum(round_.accepted for round_ in decoding.rounds)
    # The last pass yields no token of its own if the output ended within the accepted tokens.
    assert own in (len(decoding.rounds), len(decoding.rounds) - 1)
    for round_ in decoding.rounds:
        assert 0 <= round_.accepted <= round_.drafted
        assert not (round_.rejected and round_.accepted == round_.drafted)
    for round_ in decoding.rounds[:-1]:
        assert round_.rejected == (round_.accepted < round_.drafted)


def test_sometimes_accepted() -> None:
    """Every kind of round by hand: an off-by-one error would be published as another acceptance."""
    decoding = decode(counting(), [1], drafting(counting(wrong=(5, 7, 0)), 4), 0.0, 0, 17)
    assert decoding.output_ids == [*range(2, 16), 0, 1, 2]
    assert decoding.rounds == [
        Round(4, 4, rejected=False),  # 2 3 4 5, and 6
        Round(4, 1, rejected=True),  # 7, not 7; 8
        Round(4, 4, rejected=False),  # 9 10 11 12, and 13
        Round(4, 3, rejected=True),  # 14 15 0, not 0; 1
        Round(0, 0, rejected=False),  # 2: one token was left, which is the target's
    ]
    assert alpha(decoding.rounds) == 12 / 14
    assert acceptance_rate(decoding.rounds) == 12 / 16
    assert mean_accepted_tokens(17, len(decoding.rounds)) == 17 / 5


@pytest.mark.parametrize(
    ("eos_token_id", "wrong", "expected"),
    [
        pytest.param(6, (), [Round(4, 4, False)], id="the target's own token after a whole draft"),
        pytest.param(9, (), [Round(4, 4, False), Round(3, 3, False)], id="drafted and accepted"),
        pytest.param(7, (), [Round(4, 4, False), Round(1, 1, False)], id="the first drafted token"),
        pytest.param(9, (8,), [Round(4, 4, False), Round(4, 2, True)], id="against a wrong draft"),
        pytest.param(7, (6,), [Round(4, 4, False), Round(4, 0, True)], id="against the first drafted token"),
        pytest.param(2, (1,), [Round(4, 0, True)], id="at once"),
    ],
)
def test_round_cut_by_the_end_of_text(eos_token_id: int, wrong: tuple[int, ...], expected: list[Round]) -> None:
    """The last round counts accepted tokens, and a rejection only if there was one: outputs are short."""
    decoding = decode(counting(eos_token_id), [1], drafting(counting(wrong=wrong), 4), 0.0, 0, 40)
    assert decoding.output_ids == list(range(2, eos_token_id + 1))
    assert decoding.rounds == expected
    assert_whole(decoding)


@pytest.mark.parametrize(
    ("prompt", "limit", "expected"),
    [
        ([*range(1, 10), 1], 4, Round(8, 4, rejected=False)),  # within the accepted tokens: nothing was rejected
        ([*range(1, 10), 1], 8, Round(8, 8, rejected=False)),
        ([1, 2, 3, 9, 9, 9, 1], 3, Round(5, 2, rejected=True)),  # with the token that replaced the draft
    ],
)
def test_round_cut_by_the_limit(prompt: list[int], limit: int, expected: Round) -> None:
    """Prompt lookup drafts past the limit: tokens after the limit are neither accepted nor rejected."""
    decoding = decode(counting(), prompt, {"prompt_lookup_num_tokens": expected.drafted}, 0.0, 0, limit)
    assert decoding.output_ids == list(range(2, 2 + limit))
    assert decoding.rounds == [expected]
    assert_whole(decoding)


def test_plain_decoding_is_one_pass_for_each_token(target_model: PreTrainedModel) -> None:
    """The baseline uses the same recorder: another pass, or a draft, would change every ratio."""
    for temperature in (0.0, 1.0):
        decoding = decode(target_model, PROMPTS[1], {}, temperature, 0, 12)
        assert 0 < len(decoding.output_ids) <= 12
        assert decoding.rounds == len(decoding.output_ids) * [Round(0, 0, rejected=False)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("make_drafter", "low", "high"),
    [
        pytest.param(agreeing, 1, 1, id="agreeing"),
        pytest.param(disagreeing, 0, 0.2, id="disagreeing"),
        pytest.param(lambda target_model: partly_agreeing(target_model, 0.015), 0.2, 0.9, id="partly agreeing"),
        pytest.param(None, 0, 1, id="prompt lookup"),
    ],
)
def test_counts_are_those_of_the_loop_itself(target_model, monkeypatch, make_drafter, low, high, temperature) -> None:
    """The recorder infers the rounds from outside: a change in transformers' loop would make it count wrong."""
    seen: list[tuple[int, int]] = []

    def observe(generator: CandidateGenerator, input_ids: torch.Tensor, scores: torch.Tensor, matches: int) -> None:
        seen.append((scores.shape[1] - 1, int(matches)))

    monkeypatch.setattr(AssistedCandidateGenerator, "update_candidate_strategy", observe)
    monkeypatch.setattr(PromptLookupCandidateGenerator, "update_candidate_strategy", observe)
    arguments = drafting(make_drafter(target_model), 4) if make_drafter else {"prompt_lookup_num_tokens": 4}
    rounds: list[Round] = []
    for seed, prompt in enumerate(PROMPTS[:3]):
        seen.clear()
        decoding = decode(target_model, prompt, arguments, temperature, seed, 20)
        assert_whole(decoding)
        assert [round_.drafted for round_ in decoding.rounds] == [drafted for drafted, _ in seen]
        assert [round_.accepted for round_ in decoding.rounds[:-1]] == [matches for _, matches in seen[:-1]]
        # At the end of the output, the loop subtracts one token from its last count, accepted or the target's own.
        assert decoding.rounds[-1].accepted - seen[-1][1] in (0, 1)
        rounds += decoding.rounds
    assert low <= alpha(rounds) <= high  # all three kinds of rounds were compared


def test_recorder_leaves_the_target_alone(target_model: PreTrainedModel) -> None:
    """A hook that stays, also after a failure of the drafter, would record every later pass of the target."""
    drafter, passes = agreeing(target_model), []

    def fail(*_: object) -> None:
        passes.append(1)
        if len(passes) == 4:
            raise RuntimeError("no memory left")

    drafter.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no memory left"):
        decode(target_model, PROMPTS[0], drafting(drafter, 2), 0.0, 0, 12)
    assert not target_model._forward_pre_hooks
    again = decode(target_model, PROMPTS[0], drafting(agreeing(target_model), 2), 0.0, 0, 6)
    assert again.rounds == 2 * [Round(2, 2, rejected=False)]
    assert not target_model._forward_pre_hooks
    assert not target_model._forward_hooks


def test_time_of_all_passes_is_split_between_drafter_and_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missed pass makes a method look faster; the drafter's time must not count as the target's."""
    now, target_model, drafter = [0.0], counting(), counting()
    monkeypatch.setattr("time.perf_counter", lambda: sum(now))
    target_model.register_forward_pre_hook(lambda *_: now.append(3.0))
    drafter.register_forward_pre_hook(lambda *_: now.append(2.0))
    assert decode(target_model, [1], {}, 0.0, 0, 4).seconds == pytest.approx(4 * 3.0)
    decoding = decode(target_model, [1], drafting(drafter, 3), 0.0, 0, 8)
    assert len(decoding.rounds) == 2
    assert decoding.verification_seconds == pytest.approx(2 * 3.0)
    assert decoding.draft_seconds == pytest.approx(2 * 3 * 2.0)
    assert decoding.seconds == pytest.approx(2 * 3.0 + 2 * 3 * 2.0)


def test_seed_alone_decides_what_is_sampled(target_model: PreTrainedModel) -> None:
    """A repeated benchmark with the same seeds must sample the same outputs, whatever ran before."""
    first = decode(target_model, PROMPTS[0], {}, 1.0, 7, 20)
    torch.rand(3)
    assert decode(target_model, PROMPTS[0], {}, 1.0, 7, 20).output_ids == first.output_ids
    others = [decode(target_model, PROMPTS[0], {}, 1.0, seed, 20).output_ids for seed in range(3)]
    assert any(output != first.output_ids for output in others)
