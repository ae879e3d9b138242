"""The settings of the drafting loop: "loop" in a repository's `drafter.json`."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

LOOKUP_BINS = 8
NGRAM_BINS = 10
NETWORK_BINS = 20
HIGHEST_ORDER = 5
# Costs of a machine that was not measured. An accelerator mostly reads weights, once for any number of tokens; on a
# processor, multiplication takes time too.
_GENERIC = {"cpu": [1.0, 1.0, 1.4, 1.6, 1.65, 1.7, 1.75, 1.8, 1.9, 2.0, 2.1, 2.2, 2.35, 2.5, 2.65, 2.8, 3.0]}
_FLAT = [1.0 + 0.005 * tokens for tokens in range(17)]
_GENERIC_PASS, _GENERIC_STEP = 30.0, 1.5
_LONGEST_DRAFT, _MOST = 1000, 1e9  # larger values are mistakes, and would take for ever


def default_calibration() -> dict[str, list[float]]:
    """Return the probabilities of acceptance that are assumed before a drafter is tuned, by source and bin."""
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
        sources (`list[str]`): The draft sources: any of lookup, ngram and network.
        longest_draft (`int`): Maximum number of tokens drafted in one round.
        tokens_per_pass (`float`): Tokens per target pass on the validation split.
        network_gain (`float`): Accepted tokens that the network adds each time that no other source has a proposal.
        int8 (`bool`): Whether to multiply with int8 weights on a CPU.
        calibration (`dict[str, list[float]]`): Probability of acceptance by source and bin, in greedy decoding.
        sampling_calibration (`dict[str, list[float]]`): The same for sampling.
        pass_milliseconds (`dict[str, list[float]]`): By type of device ("cpu", "cuda"): entry n is the time of a round
            that verifies n drafted tokens, without drafting.
        sampling_pass_milliseconds (`dict[str, list[float]]`): The same for sampling.
        step_milliseconds (`dict[str, float]`): By type of device: the time of one step of the network.
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
        """Return the milliseconds of passes on a type of device, measured or else generic."""
        generic = [_GENERIC_PASS * share for share in _GENERIC.get(device, _FLAT)]
        greedy = self.pass_milliseconds.get(device, generic)
        return self.sampling_pass_milliseconds.get(device, greedy) if sampling else greedy

    def step(self, device: str) -> float:
        """Return the milliseconds of one step on a type of device, measured or else generic."""
        return self.step_milliseconds.get(device, _GENERIC_STEP)

    @property
    def ngram_orders(self) -> int:
        """Highest order of a table that is in both calibrations."""
        return min(len(self.calibration["ngram"]), len(self.sampling_calibration["ngram"])) // NGRAM_BINS

    def to_dict(self) -> dict[str, Any]:
        """Return the "loop" object of `drafter.json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any, file: str) -> "LoopSettings":
        """Read the "loop" object of `drafter.json`.

        Raises:
            ValueError: If a key is unknown, or a value has the wrong type or range; the message begins with `file`.
        """
        if not isinstance(values, dict):
            raise ValueError(f'{file}: "loop" is no object: tune or publish the drafter again')
        values = {name: value for name, value in values.items() if name != "parallel"}  # of earlier releases
        if unknown := sorted(values.keys() - {entry.name for entry in fields(cls)}):
            raise ValueError(f"{file}: unknown settings {', '.join(unknown)}: use the release that wrote them")
        settings = cls(**values)
        try:
            reason = settings._invalid_setting()
        except (AttributeError, TypeError) as error:
            raise ValueError(f"{file}: a setting is of the wrong type ({error}): tune the drafter again") from error
        if reason:
            raise ValueError(f"{file}: {reason}: tune the drafter again")
        return settings

    def _invalid_setting(self) -> str | None:
        """Describe the first invalid setting, `None` if all settings are valid."""
        bins = {source: len(shares) for source, shares in default_calibration().items()}
        passes = [*self.pass_milliseconds.values(), *self.sampling_pass_milliseconds.values()]
        checks = {
            "sources": (isinstance(self.sources, list) and set(self.sources) <= bins.keys(), f"a list of {[*bins]}"),
            "int8": (isinstance(self.int8, bool), "true or false"),
            "longest_draft": (
                isinstance(self.longest_draft, int) and 1 <= self.longest_draft <= _LONGEST_DRAFT,
                f"1 to {_LONGEST_DRAFT}",
            ),
            "tokens_per_pass": (1 <= self.tokens_per_pass < _MOST, "1 or more"),
            "network_gain": (0 <= self.network_gain < _MOST, "0 or more"),
            "pass_milliseconds": (
                all(len(curve) > 1 and all(0 < taken < _MOST for taken in curve) for curve in passes),
                "two values or more for each device, all above 0, also in sampling_pass_milliseconds",
            ),
            "step_milliseconds": (all(0 <= taken < _MOST for taken in self.step_milliseconds.values()), "0 or more"),
        }
        for name in ("calibration", "sampling_calibration"):
            shares = getattr(self, name)
            entries = {source: len(values) for source, values in shares.items()}
            # Drafters of earlier releases, whose tables had fewer orders, have fewer bins.
            orders, rest = divmod(entries.get("ngram", 0), NGRAM_BINS)
            fewer = {"ngram": entries["ngram"]} if rest == 0 and 0 < orders <= HIGHEST_ORDER else {}
            fits = entries == bins | fewer and all(0 <= share <= 1 for values in shares.values() for share in values)
            checks[name] = fits, f"{bins} probabilities from 0 to 1"
        reasons = (f"{name} must be {expected}" for name, (fits, expected) in checks.items() if not fits)
        return next(reasons, None)
