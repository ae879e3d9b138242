"""The loop's settings, as `drafter.json` holds them."""

import json
from typing import Any

import pytest

from drafter_trainer.drafters.loop.settings import HIGHEST_ORDER, LOOKUP_BINS, NETWORK_BINS, NGRAM_BINS, LoopSettings

CALIBRATION = {
    "lookup": [0.1] * LOOKUP_BINS,
    "ngram": [0.2] * (HIGHEST_ORDER * NGRAM_BINS),
    "network": [0.3] * NETWORK_BINS,
}
SETTINGS = LoopSettings(
    sources=["network", "lookup"],
    longest_draft=7,
    tokens_per_pass=2.25,
    network_gain=0.5,
    int8=True,
    calibration=CALIBRATION,
    sampling_calibration=CALIBRATION | {"lookup": [1.0, *[0.0] * (LOOKUP_BINS - 1)]},
    pass_milliseconds={"cpu": [30.0, 31.5], "cuda": [8.0, 8.0, 8.5]},
    sampling_pass_milliseconds={"cpu": [40.0, 43.5]},
    step_milliseconds={"cpu": 1.25},
)


def changed(**changes: Any) -> dict[str, Any]:
    return json.loads(json.dumps(SETTINGS.to_dict())) | changes


def test_settings_are_read_as_they_were_written() -> None:
    """Prevent settings from being lost, and accept a drafter that was never tuned."""
    assert LoopSettings.from_dict(changed(), "here") == SETTINGS
    assert LoopSettings.from_dict(json.loads(json.dumps(LoopSettings().to_dict())), "here") == LoopSettings()
    assert LoopSettings.from_dict({}, "here") == LoopSettings()
    assert LoopSettings.from_dict({"longest_draft": 3}, "here") == LoopSettings(longest_draft=3)
    assert LoopSettings.from_dict({"parallel": True}, "here") == LoopSettings()  # a removed setting


def test_measured_costs_come_before_generic_ones() -> None:
    """The time of a pass on another kind of device says nothing of this one."""
    assert SETTINGS.passes("cpu") == [30.0, 31.5]
    assert SETTINGS.passes("cpu", sampling=True) == [40.0, 43.5]
    assert SETTINGS.step("cpu") == 1.25
    assert SETTINGS.passes("cuda") == SETTINGS.passes("cuda", sampling=True) == [8.0, 8.0, 8.5]
    assert SETTINGS.step("cuda") > 0  # generic
    for device in ("cpu", "cuda", "mps"):
        passes, step = LoopSettings().passes(device), LoopSettings().step(device)
        assert len(passes) > LoopSettings().longest_draft
        assert min(passes) > 0
        assert 0 < step < passes[0]


def test_drafters_tuned_for_fewer_orders_are_read() -> None:
    """Those that are published already know how far to trust three orders, and must go on loading as they are."""
    before = {name: CALIBRATION | {"ngram": [0.3] * 30} for name in ("calibration", "sampling_calibration")}
    settings = LoopSettings.from_dict(changed(**before), "here")
    assert (settings.ngram_orders, LoopSettings().ngram_orders) == (3, HIGHEST_ORDER)
    assert settings.to_dict() == changed(**before)


NEVER = None, "1", [{}], {"cpu": [None, 1]}  # values that no setting has


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], '"loop" is no object'),
        (changed(draft_tree=1, beam=2), "unknown settings beam, draft_tree: use the release that wrote them"),
        (changed(calibration=CALIBRATION | {"lookup": [0.1]}), "calibration must be .*'lookup': 8.* tune the drafter"),
        (changed(calibration=CALIBRATION | {"ngram": [0.1] * 35}), "calibration must be"),
        (changed(sampling_calibration={}), "sampling_calibration must be"),
        (changed(calibration=CALIBRATION | {"lookup": [1.5] * LOOKUP_BINS}), "calibration must be .* from 0 to 1"),
        (changed(sources=["lookup", "oracle"]), "sources must be a list of"),
        (changed(longest_draft=0), "longest_draft must be 1 to 1000"),
        *((changed(**{name: value}), "") for name in SETTINGS.to_dict() for value in NEVER),
        *(
            (changed(**{name: value}), "")
            for name in ("longest_draft", "tokens_per_pass", "network_gain")
            for value in (1e300, 10**400, float("nan"), float("inf"))
        ),
        (changed(calibration=CALIBRATION | {"network": [float("inf")] * NETWORK_BINS}), "calibration must be"),
        (changed(pass_milliseconds={"cpu": [1.0, float("nan")]}), ""),
        (changed(tokens_per_pass=0.5), "tokens_per_pass must be 1 or more"),
        (changed(network_gain=-1.0), "network_gain must be 0 or more"),
        (changed(step_milliseconds={"cpu": -1.0}), "step_milliseconds must be 0 or more"),
        (changed(pass_milliseconds={"cpu": 5}), "a setting is of the wrong type"),
        (changed(pass_milliseconds={"cuda": [8.0]}), "pass_milliseconds must be two values or more"),
        (changed(sampling_pass_milliseconds={"cpu": [8.0]}), "pass_milliseconds must be .* sampling_pass"),
    ],
)
def test_what_the_loop_cannot_use_is_refused(values: Any, message: str) -> None:
    """Prevent an index error during generation: a wrong setting is named when it is read."""
    with pytest.raises(ValueError, match=f"here: {message}"):
        LoopSettings.from_dict(values, "here")
