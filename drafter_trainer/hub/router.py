"""The router: one assistant for all languages, which drafts each prompt as was measured fastest for it."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.utils import GenerateDecoderOnlyOutput

from drafter_trainer.drafters.load import load_drafter, load_target_tokenizer
from drafter_trainer.drafters.loop.drafting import DraftingLoop
from drafter_trainer.drafters.loop.generate import draft_round, set_draft_length
from drafter_trainer.errors import InputError
from drafter_trainer.hub.request import PromptReader, PromptTask
from drafter_trainer.hub.route import LOOKUP_ALONE, WITHOUT_NETWORK, Route, share_weights
from drafter_trainer.repository import Repository
from drafter_trainer.results import DRAFTER, PLAIN


@dataclass(frozen=True)
class RoutedDrafter:
    """The drafter that was chosen for a prompt.

    Args:
        drafter (`str`): Hub id or folder of the drafter.
        way (`str`): Which of its ways, see `Route.ways`.
    """

    drafter: str
    way: str
    loop: DraftingLoop


class DrafterRouter:
    """A set of drafters of which one is chosen for each prompt.

    Passed as `target.generate(assistant_model=router)`, it chooses once a call, when the prompt comes:

    1. Of all that was measured on requests like this one (the pair of a translation; otherwise other tasks in the
       answer's language), the fastest, if it was faster than plain decoding: a drafter, or its lookup and n-grams.
    2. Else a drafter of the pair that was not measured yet, the first that was named.
    3. Else nothing, if what was measured was slower than plain decoding.
    4. Else lookup and the n-grams of the first drafter that answers in the same language; else lookup alone.

    Measurements of sampling are taken when the target samples, those of greedy decoding when it does not, and the
    others where there are none; on which machine they were made is not asked. What a prompt tells is said in
    `read_task`; a request that is not in English, to translate or to answer in another language, is not understood,
    and gets a slower drafter, never another answer.

    It keeps what it has read of the current text, so one router serves one call of `generate` at a time: threads need
    one each.

    Args:
        target_model (`PreTrainedModel`): The target.
        routes (`Sequence[Route]`): The drafters, loaded for it; see `Route.of`.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): The target's; loaded from where the target came from if
            left out.
    Raises:
        InputError: If there are no drafters, or they are not all for this target.
    """

    def __init__(
        self,
        target_model: PreTrainedModel,
        routes: Sequence[Route],
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        _check_routes(routes)
        self.routes = tuple(routes)
        self.chosen: RoutedDrafter | None = None
        self.reader = PromptReader(
            tokenizer or load_target_tokenizer(target_model),
            [language for route in self.routes for language in route.pair.languages],
        )
        # What assisted decoding reads of its assistant (transformers 5.23), beside `generate` and what follows it.
        self.config, self.device = target_model.config, target_model.device
        self.generation_config = GenerationConfig()
        set_draft_length(
            self.generation_config, max(route.ways[DRAFTER].settings.longest_draft for route in self.routes)
        )
        self._call: GenerationConfig | None = None

    @classmethod
    def from_hub(
        cls,
        target_model: PreTrainedModel,
        drafters: Sequence[str],
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> "DrafterRouter":
        """Load drafters and route between them.

        Of each drafter it keeps the loop and no stock model. Adapters over one base share its embeddings, and its head
        where they have one draft vocabulary; the layers are each adapter's own, so that switching takes no time.

        Args:
            target_model (`PreTrainedModel`): The target.
            drafters (`Sequence[str]`): Hub ids or folders of published drafters for this target.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): The target's; loaded from where the target came from if
                left out.
        Raises:
            InputError: If there are no drafters, one cannot be loaded (see `load_drafter`), or they are not all for
                this target.
        """
        routes = []
        tokenizer = tokenizer or load_target_tokenizer(target_model)
        for name in dict.fromkeys(drafters):
            commit = Repository.open(name).commit
            routes.append(Route.of(name, load_drafter(name, target_model, tokenizer, commit), commit))
            share_weights(routes)
            gc.collect()  # the stock model and the loop's generate refer to each other
        return cls(target_model, routes, tokenizer)

    def choose(self, prompt_ids: Sequence[int], sampling: bool = False) -> RoutedDrafter:
        """Choose what drafts a prompt.

        Args:
            prompt_ids (`Sequence[int]`): As `generate` gets them, chat template included.
            sampling (`bool`, *optional*, defaults to `False`): Whether the target samples.
        """
        request = self.reader.read(prompt_ids)
        measured = self._measured(request, sampling) or self._measured(request, not sampling)
        if measured:
            speedup, route, way = max(measured, key=lambda entry: entry[0])
            if speedup > 1:
                return _choice(route, way)
        answering = [route for route in self.routes if route.pair.target == request.answer]
        tried = [route for _, route, _ in measured]
        for route in answering:
            if request.is_translation and route.pair.source == request.source and route not in tried:
                return _choice(route, DRAFTER)
        if measured:
            return _choice(self.routes[0], PLAIN)
        return _choice(answering[0], WITHOUT_NETWORK) if answering else _choice(self.routes[0], LOOKUP_ALONE)

    def _measured(self, request: PromptTask, sampling: bool) -> list[tuple[float, Route, str]]:
        return [
            (speedup, route, way)
            for route in self.routes
            for way, speedup in route.speedups(request, sampling).items()
        ]

    def generate(
        self, input_ids=None, generation_config=None, logits_processor=None, max_new_tokens=None, **kwargs
    ) -> GenerateDecoderOnlyOutput:
        """Draft for assisted decoding; see `drafters.loop.generate.generate`."""
        if not getattr(generation_config, "is_assistant", False):
            raise InputError("a router answers nothing itself: pass it to target.generate as assistant_model")
        # Assisted decoding copies its settings once a call and passes that copy in every round.
        if generation_config is not self._call:
            self._call = generation_config
            self.chosen = self.choose(input_ids[0].tolist(), bool(generation_config.do_sample))
            self.chosen.loop.forget()
        loop, embeds = self.chosen.loop, kwargs.get("inputs_embeds")
        return draft_round(loop, input_ids, generation_config, logits_processor, max_new_tokens, embeds)

    def _supports_logits_to_keep(self) -> bool:
        return False


def _check_routes(routes: Sequence[Route]) -> None:
    if not routes:
        raise InputError("a router needs drafters: name one or more, as Hub ids or folders")
    first = routes[0]
    for route in routes:
        if route.target != first.target:
            raise InputError(
                f"{first.name} was trained for {first.target}, {route.name} for {route.target}: name drafters of one "
                "target"
            )


def _choice(route: Route, way: str) -> RoutedDrafter:
    return RoutedDrafter(route.name, way, route.ways[way])
