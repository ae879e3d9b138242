"""An assistant model for several languages, which chooses a drafter for each prompt."""

import dataclasses
import gc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import mean

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.utils import GenerateDecoderOnlyOutput

from drafter_trainer.corpora.tasks import TRANSLATION
from drafter_trainer.drafters.load import load_drafter, load_target_tokenizer, with_sources
from drafter_trainer.drafters.loop.drafting import DraftingLoop
from drafter_trainer.drafters.loop.generate import draft_round, loop_of, set_draft_length
from drafter_trainer.drafters.loop.network import LeanNetwork
from drafter_trainer.drafters.loop.sources import LOOKUP, NETWORK
from drafter_trainer.drafters.repository import Repository
from drafter_trainer.errors import InputError
from drafter_trainer.hub.prompt_task import PromptReader, PromptTask
from drafter_trainer.languages import Pair, get_pair
from drafter_trainer.results import DRAFTER, PLAIN, RESULTS, read_results

# Variants of a drafter, named as the benchmark's methods are.
WITHOUT_NETWORK = f"{DRAFTER} without {NETWORK}"
LOOKUP_ONLY = f"{DRAFTER}, {LOOKUP} alone"

Condition = tuple[PromptTask, bool]  # of a measurement: the task, and whether the target sampled
Speedups = dict[Condition, dict[str, float]]  # mean speedup by variant


@dataclass(frozen=True)
class Route:
    """A drafter that a router may choose.

    Args:
        loops (`dict[str, DraftingLoop]`): Its drafting loop by variant: the whole drafter, the drafter without its
            network, lookup only, and `plain`, which drafts nothing.
        speedups (`dict`, *optional*): Its measured speedups by condition and variant.
    """

    name: str
    target: str
    pair: Pair
    loops: dict[str, DraftingLoop]
    speedups: Speedups = field(default_factory=dict)

    @classmethod
    def of(cls, repository: Repository, drafter: PreTrainedModel) -> "Route":
        """Make the route of a drafter that `load_drafter` returned; route and drafter share a drafting loop."""
        description, loop = repository.description, loop_of(drafter)
        sources = {
            WITHOUT_NETWORK: [source for source in loop.settings.sources if source != NETWORK],
            LOOKUP_ONLY: [LOOKUP],
            PLAIN: [],
        }
        loops = {DRAFTER: loop} | {name: loop_of(with_sources(drafter, chosen)) for name, chosen in sources.items()}
        return cls(repository.name, description.target, description.language_pair, loops, _read_speedups(repository))


def _read_speedups(repository: Repository) -> Speedups:
    path = repository.find(RESULTS)
    results = read_results(path) if path else None
    # `load_drafter` has warned if the results belong to an earlier version.
    if not results or results["provenance"].get("drafter_fingerprint") != repository.description.fingerprint():
        return {}
    found: dict[Condition, dict[str, list[float]]] = {}
    for run in results["runs"]:
        pair, is_translation = get_pair(run["pair"]), run["task"] == TRANSLATION
        task = PromptTask(pair.source if is_translation else None, pair.target, is_translation)
        figures = found.setdefault((task, run["temperature"] > 0), {})
        for method in run["methods"]:
            if method["name"] in (DRAFTER, WITHOUT_NETWORK, LOOKUP_ONLY):
                figures.setdefault(method["name"], []).append(method["speedup"]["value"])
    return {condition: {name: mean(values) for name, values in of.items()} for condition, of in found.items()}


@dataclass(frozen=True)
class RoutedDrafter:
    """The drafter that was chosen for a prompt.

    Args:
        drafter (`str`): Hub id or folder of the drafter.
        variant (`str`): The sources that draft; see `Route.loops`.
    """

    drafter: str
    variant: str
    loop: DraftingLoop


class DrafterRouter:
    """A router that chooses a drafter for each prompt, from several drafters of one target.

    Pass it as `target.generate(assistant_model=router)`. In each call it chooses:

    1. The variant with the highest measured speedup on prompts of the same kind, if it is faster than plain decoding.
       Prompts of the same kind are translations of the same pair, or other tasks with completions in the same
       language. A variant is a drafter with or without its network.
    2. Otherwise the first drafter of the same pair that has not been measured yet.
    3. Otherwise plain decoding, if all measured variants were slower.
    4. Otherwise lookup and n-gram table of the first drafter for the completion's language, or lookup only.

    If the target samples, measurements with sampling are preferred, otherwise greedy ones. The router does not
    consider the machine of a measurement. It reads instructions in English only: a prompt with instructions in another
    language may get a slower drafter, but the completion is the same.

    A router keeps the state of the current text, so each thread needs its own router.

    Args:
        target_model (`PreTrainedModel`): The target.
        routes (`Sequence[Route]`): The drafters, loaded for this target.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): The target's tokenizer; loaded from the target's repository
            by default.
    Raises:
        InputError: If there are no drafters, or one of the drafters is for another target.
    """

    def __init__(
        self,
        target_model: PreTrainedModel,
        routes: Sequence[Route],
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        if not routes:
            raise InputError("a router needs at least one drafter: give Hub ids or folders")
        for route in routes:
            if route.target != routes[0].target:
                raise InputError(
                    f"{routes[0].name} was trained for {routes[0].target}, {route.name} for {route.target}: give "
                    "drafters of one target"
                )
        self.routes = tuple(routes)
        self.chosen: RoutedDrafter | None = None
        self.reader = PromptReader(
            tokenizer or load_target_tokenizer(target_model),
            [language for route in self.routes for language in route.pair.languages],
        )
        # The attributes that assisted decoding reads from its assistant (transformers 5.23).
        self.config, self.device = target_model.config, target_model.device
        self.generation_config = GenerationConfig()
        longest = max(route.loops[DRAFTER].settings.longest_draft for route in self.routes)
        set_draft_length(self.generation_config, longest)
        self._call: GenerationConfig | None = None

    @classmethod
    def from_hub(
        cls,
        target_model: PreTrainedModel,
        drafters: Sequence[str],
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> "DrafterRouter":
        """Load drafters and make a router of them.

        LoRA adapters of one base drafter share the embeddings in memory, and the head if their draft vocabularies are
        the same. Their merged layers stay in memory, so that a change of drafter takes no time.

        Args:
            target_model (`PreTrainedModel`): The target.
            drafters (`Sequence[str]`): Hub ids or folders of published drafters for this target.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): The target's tokenizer; loaded from the target's
                repository by default.
        Raises:
            InputError: If there are no drafters, a drafter cannot be loaded (see `load_drafter`), or a drafter is for
                another target.
        """
        routes: list[Route] = []
        tokenizer = tokenizer or load_target_tokenizer(target_model)
        for name in dict.fromkeys(drafters):
            repository = Repository.open(name)
            routes.append(Route.of(repository, load_drafter(name, target_model, tokenizer, repository.commit)))
            _share_weights(routes)
            gc.collect()  # the stock model and the loop's generate reference each other
        return cls(target_model, routes, tokenizer)

    def choose(self, prompt_ids: Sequence[int], sampling: bool = False) -> RoutedDrafter:
        """Choose the drafter for a prompt.

        Args:
            prompt_ids (`Sequence[int]`): Token ids of the prompt, with the chat template applied.
            sampling (`bool`, *optional*, defaults to `False`): Whether the target samples.
        Returns:
            `RoutedDrafter`: The drafter and its variant.
        """
        task = self.reader.read(prompt_ids)
        measured = self._measured(task, sampling) or self._measured(task, not sampling)
        speedup, fastest, variant = max(measured, key=lambda entry: entry[0], default=(0.0, None, ""))
        if speedup > 1:
            return _choice(fastest, variant)
        answering = [route for route in self.routes if route.pair.target == task.answer]
        tried = [route for _, route, _ in measured]
        for route in answering:
            if task.is_translation and route.pair.source == task.source and route not in tried:
                return _choice(route, DRAFTER)
        if measured:
            return _choice(self.routes[0], PLAIN)
        return _choice(answering[0], WITHOUT_NETWORK) if answering else _choice(self.routes[0], LOOKUP_ONLY)

    def _measured(self, task: PromptTask, sampling: bool) -> list[tuple[float, Route, str]]:
        """List speedups with their route and variant."""
        if not task.is_translation:
            task = dataclasses.replace(task, source=None)
        return [
            (speedup, route, variant)
            for route in self.routes
            for variant, speedup in route.speedups.get((task, sampling), {}).items()
        ]

    def generate(
        self, input_ids=None, generation_config=None, logits_processor=None, max_new_tokens=None, **kwargs
    ) -> GenerateDecoderOnlyOutput:
        """Draft for assisted decoding; see `drafters.loop.generate.generate`."""
        if not getattr(generation_config, "is_assistant", False):
            raise InputError("a router generates no text itself: pass it to target.generate as assistant_model")
        # Assisted decoding copies its settings once a call, and passes this copy in every round.
        if generation_config is not self._call:
            self._call = generation_config
            self.chosen = self.choose(input_ids[0].tolist(), bool(generation_config.do_sample))
            self.chosen.loop.forget()
        loop, embeds = self.chosen.loop, kwargs.get("inputs_embeds")
        return draft_round(loop, input_ids, generation_config, logits_processor, max_new_tokens, embeds)

    def _supports_logits_to_keep(self) -> bool:
        return False


def _choice(route: Route, variant: str) -> RoutedDrafter:
    return RoutedDrafter(route.name, variant, route.loops[variant])


def _share_weights(routes: Iterable[Route]) -> None:
    """Store equal embeddings and heads once.

    It is called before the first forward pass: a captured CUDA graph would still read the earlier weights.
    """
    stored: list[torch.Tensor] = []

    def shared(weight: torch.Tensor) -> torch.Tensor:
        for other in stored:
            alike = (other.dtype, other.shape) == (weight.dtype, weight.shape)
            if other is weight or (alike and torch.equal(other, weight)):
                return other
        stored.append(weight)
        return weight

    for route in routes:
        network = route.loops[DRAFTER].network
        if isinstance(network, LeanNetwork):
            network.embeddings, network.head.weight = shared(network.embeddings), shared(network.head.weight)
