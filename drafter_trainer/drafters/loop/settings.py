"""What a drafter's repository tells the loop: `drafter.json`'s "loop" and the files beside it."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

LOOKUP_BINS = 8
NGRAM_BINS = 10
NETWORK_BINS = 20
HIGHEST_ORDER = 5
# Until a machine was measured: an accelerator reads its weights once whatever the tokens; a processor also multiplies.
_GENERIC = {"cpu": [1.0, 1.0, 1.4, 1.6, 1.65, 1.7, 1.75, 1.8, 1.9, 2.0, 2.1, 2.2, 2.35, 2.5, 2.65, 2.8, 3.0]}
_FLAT = [1.0 + 0.005 * tokens for tokens in range(17)]
_GENERIC_PASS, _GENERIC_STEP = 30.0, 1.5
# No machine and no text needs more; a draft of a billion tokens would be weighed for ever.
_LONGEST_DRAFT, _MOST = 1000, 1e9


def default_calibration() -> dict[str, list[float]]:
    """Return what is assumed before the drafter is tuned."""
    return {
        "lookup": [0.2, 0.4, 0.55, 0.65, 0.7, 0.75, 0.8, 0.85],
        "ngram": [0.7 * (bin_ + 0.5) / NGRAM_BINS for _ in range(HIGHEST_ORDER) for bin_ in range(NGRAM_BINS)],
        "network": [0.9 * (bin_ + 0.5) / NETWORK_BINS for bin_ in range(NETWORK_BINS)],
    }


def bin_of(share: float, bins: int) -> int:
    """Return the number of the bin of a share between 0 and 1, of `bins` equal ones."""
    return min(int(share * bins), bins - 1)


@dataclass(frozen=True)
class LoopSettings:
    """The settings of the loop, as tuning finds them.

    Args:
        sources (`list[str]`): Which of lookup, ngram and network are asked.
        longest_draft (`int`): Tokens drafted in one round at most.
        tokens_per_pass (`float`): What a pass yielded on the validation split.
        network_gain (`float`): Tokens that asking the network yields where no other source knows one.
        int8 (`bool`): Multiply with int8 weights on a CPU.
        calibration (`dict[str, list[float]]`): For greedy decoding the probability of acceptance by source and bin.
        sampling_calibration (`dict[str, list[float]]`): The same for sampling.
        pass_milliseconds (`dict[str, list[float]]`): By kind of device ("cpu", "cuda"): entry n is a pass of the
            target over n + 1 tokens, all that decoding does around it included.
        sampling_pass_milliseconds (`dict[str, list[float]]`): The same when sampling, which takes more for each token.
        step_milliseconds (`dict[str, float]`): By kind of device: one step of the network.
    """

    sources: list[str] = field(default_factory=lambda: ["lookup", "ngram", "network"])
    longest_draft: int = 12
    tokens_per_pass: float = 1.5
    network_gain: float = 0.3
    int8: bool = False
    calibration: dict[str, list[float]] = field(default_factory=default_calibration)
    sampling_calibration: dict[str, list[float]] = field(default_factory=default_calibration)
    pass_milliseconds: dict[str, list[float]] = field(default_factory=dict)
    sampling_pass_milliseconds: dict[str, list[float]] = field(default_factory=dict)
    step_milliseconds: dict[str, float] = field(default_factory=dict)

    def passes(self, device: str, sampling: bool = False) -> list[float]:
        """Return the milliseconds of passes on a kind of device, measured or else generic."""
        generic = [_GENERIC_PASS * share for share in _GENERIC.get(device, _FLAT)]
        greedy = self.pass_milliseconds.get(device, generic)
        return self.sampling_pass_milliseconds.get(device, greedy) if sampling else greedy

    def step(self, device: str) -> float:
        """Return the milliseconds of one step on a kind of device, measured or else generic."""
        return self.step_milliseconds.get(device, _GENERIC_STEP)

    @property
    def ngram_orders(self) -> int:
        """Highest order of a table that both calibrations know how far to trust."""
        return min(len(self.calibration["ngram"]), len(self.sampling_calibration["ngram"])) // NGRAM_BINS

    def to_dict(self) -> dict[str, Any]:
        """Return it as it stands in `drafter.json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any, place: str) -> "LoopSettings":
        """Read it.

        Raises:
            ValueError: If a key is unknown or a value has another shape than the loop needs; the message names it.
        """
        if not isinstance(values, dict):
            raise ValueError(f'{place}: "loop" is no object: tune or publish the drafter again')
        values = {name: value for name, value in values.items() if name != "parallel"}  # of earlier releases
        known = {entry.name for entry in fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise ValueError(f"{place}: unknown settings {', '.join(unknown)}: use the release that wrote them")
        settings = cls(**values)
        try:
            settings._check(place)
        except (AttributeError, TypeError) as error:
            raise ValueError(f"{place}: a setting is of the wrong type ({error}): tune the drafter again") from error
        return settings

    def _check(self, place: str) -> None:
        bins = {source: len(shares) for source, shares in default_calibration().items()}
        for name in ("calibration", "sampling_calibration"):
            calibration = getattr(self, name)
            entries = {source: len(shares) for source, shares in calibration.items()}
            # Drafters that were tuned when tables had fewer orders have fewer bins.
            orders, rest = divmod(entries.get("ngram", 0), NGRAM_BINS)
            fewer = {"ngram": entries["ngram"]} if rest == 0 and 0 < orders <= HIGHEST_ORDER else {}
            if entries != bins | fewer:
                raise ValueError(f"{place}: {name} needs {bins} entries: tune the drafter again")
            if not all(0 <= share <= 1 for shares in calibration.values() for share in shares):
                raise ValueError(f"{place}: {name} has entries outside 0 to 1: tune the drafter again")
        if unknown := sorted(set(self.sources) - bins.keys()):
            raise ValueError(f"{place}: unknown sources {', '.join(unknown)}: known are {', '.join(bins)}")
        if not isinstance(self.sources, list):
            raise ValueError(f"{place}: sources is no list: tune the drafter again")
        if not isinstance(self.int8, bool):
            raise ValueError(f"{place}: int8 is {self.int8!r}, must be true or false")
        if not isinstance(self.longest_draft, int) or not 1 <= self.longest_draft <= _LONGEST_DRAFT:
            raise ValueError(f"{place}: longest_draft is {self.longest_draft}, must be 1 or more, to {_LONGEST_DRAFT}")
        if not 1 <= self.tokens_per_pass < _MOST:
            raise ValueError(f"{place}: tokens_per_pass is {self.tokens_per_pass}, must be 1 or more")
        if not 0 <= self.network_gain < _MOST:
            raise ValueError(f"{place}: network_gain is {self.network_gain}, must be 0 or more")
        for name in ("pass_milliseconds", "sampling_pass_milliseconds"):
            for device, curve in getattr(self, name).items():
                if len(curve) < 2 or not all(0 < taken < _MOST for taken in curve):
                    raise ValueError(f"{place}: {name} of {device} needs two times or more, all above 0")
        for device, taken in self.step_milliseconds.items():
            if not 0 <= taken < _MOST:
                raise ValueError(f"{place}: step_milliseconds of {device} is {taken}, must be 0 or more")
