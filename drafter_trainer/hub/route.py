"""A drafter as the router sees it: the ways in which it can draft, and how fast each was measured."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean

import torch
from transformers import PreTrainedModel

from drafter_trainer.corpora.tasks import TRANSLATION
from drafter_trainer.drafters.load import with_sources
from drafter_trainer.drafters.loop.drafting import DraftingLoop
from drafter_trainer.drafters.loop.generate import loop_of
from drafter_trainer.drafters.loop.network import LeanNetwork
from drafter_trainer.drafters.loop.policy import LOOKUP, NETWORK
from drafter_trainer.hub.request import PromptTask
from drafter_trainer.languages import Pair, get_pair
from drafter_trainer.repository import Repository
from drafter_trainer.results import DRAFTER, PLAIN, RESULTS, read_results

# Named as the benchmark's methods are.
WITHOUT_NETWORK = f"{DRAFTER} without {NETWORK}"
LOOKUP_ALONE = f"{DRAFTER}, {LOOKUP} alone"


@dataclass(frozen=True)
class Measurement:
    """A speedup out of `results.json`.

    Args:
        is_translation (`bool`): Whether they were translations, or another task in the pair's target language.
    """

    way: str
    pair: Pair
    is_translation: bool
    sampling: bool
    speedup: float

    def is_of(self, request: PromptTask, sampling: bool) -> bool:
        """Tell whether it was measured on requests like this one."""
        if (self.is_translation, self.sampling) != (request.is_translation, sampling):
            return False
        if self.is_translation:
            return (self.pair.source, self.pair.target) == (request.source, request.answer)
        return self.pair.target == request.answer


@dataclass(frozen=True)
class Route:
    """A drafter that a router may choose; see `Route.of`.

    Args:
        ways (`dict[str, DraftingLoop]`): Its loop, with all its sources, without its network, with lookup alone, and
            with none: `plain`, which drafts nothing.
    """

    name: str
    target: str
    pair: Pair
    ways: dict[str, DraftingLoop]
    measurements: tuple[Measurement, ...]

    @classmethod
    def of(cls, name: str, drafter: PreTrainedModel, revision: str | None = None) -> "Route":
        """Take a drafter that is loaded already.

        Args:
            drafter (`PreTrainedModel`): As `load_drafter` returned it. The route shares its loop.
        """
        repository = Repository.open(name, revision)
        description = repository.description
        loop = loop_of(drafter)
        rest = [source for source in loop.settings.sources if source != NETWORK]
        parts = {WITHOUT_NETWORK: rest, LOOKUP_ALONE: [LOOKUP], PLAIN: []}
        ways = {DRAFTER: loop} | {way: loop_of(with_sources(drafter, sources)) for way, sources in parts.items()}
        measurements = _read_measurements(repository, ways)
        return cls(name, description.target, description.asked, ways, measurements)

    def speedups(self, request: PromptTask, sampling: bool) -> dict[str, float]:
        """Return the mean speedup of each of its ways on requests like this one."""
        found: dict[str, list[float]] = {}
        for measurement in self.measurements:
            if measurement.is_of(request, sampling):
                found.setdefault(measurement.way, []).append(measurement.speedup)
        return {way: mean(values) for way, values in found.items()}


def _read_measurements(repository: Repository, ways: Iterable[str]) -> tuple[Measurement, ...]:
    path = repository.find(RESULTS)
    if path is None:
        return ()
    results = read_results(path)
    if results["provenance"].get("drafter_fingerprint") != repository.description.fingerprint():
        return ()  # of what it was before, as loading it has said
    return tuple(
        Measurement(
            method["name"],
            get_pair(run["pair"]),
            run["task"] == TRANSLATION,
            run["temperature"] > 0,
            method["speedup"]["value"],
        )
        for run in results["runs"]
        for method in run["methods"]
        if method["name"] in ways and method["name"] != PLAIN
    )


def share_weights(routes: Iterable[Route]) -> None:
    """Keep embeddings and heads that are equal once, as those of adapters over one base are.

    Networks must be fresh: a step that was captured as a graph goes on reading the weights that it was captured with.
    """
    kept: list[torch.Tensor] = []
    for route in routes:
        network = route.ways[DRAFTER].network
        if isinstance(network, LeanNetwork):
            network.embeddings = _kept(network.embeddings, kept)
            network.head.weight = _kept(network.head.weight, kept)


def _kept(weight: torch.Tensor, kept: list[torch.Tensor]) -> torch.Tensor:
    for other in kept:
        alike = (other.dtype, other.shape) == (weight.dtype, weight.shape)
        if other is weight or (alike and torch.equal(other, weight)):
            return other
    kept.append(weight)
    return weight
