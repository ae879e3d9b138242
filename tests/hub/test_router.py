"""The router: the right drafter for each prompt, chosen once in a call, and always the target's own output."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.decoding.metrics import Round, alpha
from drafter_trainer.decoding.rounds import decode
from drafter_trainer.drafters.adapters import add_adapter
from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription
from drafter_trainer.drafters.load import load_drafter, with_sources
from drafter_trainer.drafters.loop.drafting import DraftingLoop
from drafter_trainer.drafters.loop.generate import loop_of
from drafter_trainer.drafters.loop.sources import LOOKUP, NGRAM
from drafter_trainer.drafters.repository import Repository
from drafter_trainer.errors import IncompatibleTokenizerError, InputError
from drafter_trainer.hub.prompt_task import PromptTask
from drafter_trainer.hub.router import LOOKUP_ONLY, WITHOUT_NETWORK, DrafterRouter, Route, RoutedDrafter, Speedups
from drafter_trainer.languages import LANGUAGES, get_pair, story_prompt, translation_prompt
from drafter_trainer.results import DRAFTER, PLAIN
from tests.conftest import make_model, make_tokenizer
from tests.decoding.drafts import add_noise, agreeing, disagreeing, partly_agreeing
from tests.decoding.lossless import (
    IMPROBABLE,
    SAMPLES,
    TOY_DRAFT_LENGTH,
    chance_of_these_answers,
    check_greedy,
    exact_chances,
    sample,
)
from tests.drafters.loop.conftest import calibration, make_settings, with_loop
from tests.drafters.test_load import write_drafter
from tests.hub.conftest import results_for

TOKENS = 16
Run = tuple[str, float, dict[str, float]]  # task, temperature, speedups by method


def change(folder: Path, **changes: object) -> None:
    description = dataclasses.replace(DrafterDescription.read(folder), **changes)
    (folder / FILE_NAME).write_text(description.to_json(), encoding="utf-8")


def write_results(folder: Path, *runs: Run) -> None:
    results = results_for("tiny", DrafterDescription.read(folder).fingerprint())
    (like,) = results["runs"]
    plain, drafter = like["methods"]
    results["runs"] = []
    for task, temperature, speedups in runs:
        intervals = {name: {"value": value, "low": value, "high": value} for name, value in speedups.items()}
        methods = [drafter | {"name": name, "speedup": interval} for name, interval in intervals.items()]
        results["runs"].append(like | {"task": task, "temperature": temperature, "methods": [plain, *methods]})
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")


def make_folder(
    folder: Path, tokenizer: PreTrainedTokenizerFast, pair: str, *runs: Run, model: PreTrainedModel | None = None
) -> str:
    write_drafter(folder, model or make_model(tokenizer, layers=1, seed=3), tokenizer, pair)
    if runs:
        write_results(folder, *runs)
    return str(folder)


def prompt(tokenizer: PreTrainedTokenizerFast, pair: str) -> list[int]:
    return ChatTokenizer(tokenizer).encode_prompt(translation_prompt(get_pair(pair), get_pair(pair).source.probe))


def chosen(router: DrafterRouter, ids: list[int], sampling: bool = False) -> tuple[str, str]:
    choice = router.choose(ids, sampling)
    return Path(choice.drafter).name, choice.variant


# Which drafter


def test_each_pair_has_its_drafter(tmp_path: Path, target_model: PreTrainedModel, tokenizer) -> None:
    """A user names drafters once, and need not think of languages again."""
    folders = [make_folder(tmp_path / pair, tokenizer, pair) for pair in ("de-en", "fr-en", "ja-en", "en-de")]
    router = DrafterRouter.from_hub(target_model, folders, tokenizer)
    for pair in ("de-en", "fr-en", "ja-en", "en-de"):
        assert chosen(router, prompt(tokenizer, pair)) == (pair, DRAFTER)
    # From Russian to English: the n-grams of English help.
    assert chosen(router, prompt(tokenizer, "ru-en")) == ("de-en", WITHOUT_NETWORK)
    assert chosen(router, prompt(tokenizer, "de-ru")) == ("de-en", LOOKUP_ONLY)
    # The answer is expected in the language of the question.
    assert chosen(router, ChatTokenizer(tokenizer).encode_prompt(LANGUAGES["de"].probe)) == ("en-de", WITHOUT_NETWORK)
    dutch = ChatTokenizer(tokenizer).encode_prompt("De trein vertrekt vandaag een uur later.")
    assert chosen(router, dutch) == ("de-en", LOOKUP_ONLY)


def measured(whole: float, without: float | None = None, task: str = "translation", temperature: float = 0.0) -> Run:
    return task, temperature, {DRAFTER: whole} | ({WITHOUT_NETWORK: without} if without else {})


SLOW, FAST, TABLE = [measured(1.2, 1.1)], [measured(1.9, 1.4)], [measured(1.3, 1.8)]
SAMPLED = [measured(1.2), *(measured(speedup, temperature=1.0) for speedup in (0.9, 0.8, 1.0))]
STORIES = [measured(3.0), measured(1.1, 1.3, "story")]
# Drafters with their measurements, the language of the prompt, whether the target samples, and the expected choice
CHOICES = {
    "fastest drafter": ({"slow": SLOW, "fast": FAST, "table": TABLE}, "de-en", False, ("fast", DRAFTER)),
    "without network, if faster": ({"slow": SLOW, "table": TABLE}, "de-en", False, ("table", WITHOUT_NETWORK)),
    "only drafter": ({"slow": SLOW}, "de-en", False, ("slow", DRAFTER)),
    "none, if slower": ({"slow": [measured(0.9, 0.95)]}, "de-en", False, ("slow", PLAIN)),
    "unmeasured before slower": ({"slow": [measured(0.9, 0.95)], "new": []}, "de-en", False, ("new", DRAFTER)),
    "fast part of a slow one": ({"slow": [measured(0.9, 1.05)]}, "de-en", False, ("slow", WITHOUT_NETWORK)),
    "greedy": ({"greedy": [measured(1.9)], "both": SAMPLED}, "de-en", False, ("greedy", DRAFTER)),
    "greedy when sampling": ({"greedy": [measured(1.9)], "both": SAMPLED}, "de-en", True, ("greedy", DRAFTER)),
    "slower when sampled": ({"both": SAMPLED}, "de-en", True, ("both", PLAIN)),
    "by task": ({"translates": [measured(3.0)], "both": STORIES}, "en", False, ("both", WITHOUT_NETWORK)),
    "other language": ({"translates": [measured(3.0)], "both": STORIES}, "de", False, ("translates", LOOKUP_ONLY)),
    "other task": ({"translates": [measured(3.0)]}, "en", False, ("translates", WITHOUT_NETWORK)),
}
SUBJECT = {"en": "a lighthouse keeper", "de": "eine Leuchtturmwärterin, die im Lampenraum einen Brief findet"}


@pytest.mark.parametrize(("given", "asked", "sampling", "expected"), CHOICES.values(), ids=CHOICES)
def test_choice_follows_the_measurements(
    tmp_path, target_model, tokenizer, given: dict[str, list[Run]], asked: str, sampling: bool, expected
) -> None:
    """A drafter that was slower, or fast at another task or temperature, slows its user down."""
    folders = [make_folder(tmp_path / name, tokenizer, "de-en", *runs) for name, runs in given.items()]
    router = DrafterRouter.from_hub(target_model, folders, tokenizer)
    if asked == "de-en":
        ids = prompt(tokenizer, asked)
    else:
        ids = ChatTokenizer(tokenizer).encode_prompt(story_prompt(LANGUAGES[asked], SUBJECT))
    assert chosen(router, ids, sampling) == expected
    if expected[1] == PLAIN and not sampling:
        assert {round_.drafted for round_ in check_greedy(target_model, router, [ids], TOKENS)} == {0}


# In the target's generate


def make_route(name: str, pair: str, drafter: PreTrainedModel, speedups: Speedups | None = None) -> Route:
    """Make a route of a drafter that has no folder."""
    parts = {WITHOUT_NETWORK: [LOOKUP, NGRAM], LOOKUP_ONLY: [LOOKUP], PLAIN: []}
    loops = {variant: loop_of(with_sources(drafter, sources)) for variant, sources in parts.items()}
    return Route(name, "tests/toy", get_pair(pair), {DRAFTER: loop_of(drafter)} | loops, speedups or {})


@pytest.fixture
def router(target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> DrafterRouter:
    """Drafters that are always, sometimes and never right, of different draft lengths."""
    makers = {
        "de-en": (agreeing, 3),
        "fr-en": (lambda model: partly_agreeing(model, 0.015), 5),
        "ja-en": (disagreeing, 2),
    }
    routes = [
        make_route(pair, pair, with_loop(make(target_model), make_settings(longest_draft=length), tokenizer=tokenizer))
        for pair, (make, length) in makers.items()
    ]
    return DrafterRouter(target_model, routes, tokenizer)


def test_greedy_output_is_the_targets(router: DrafterRouter, target_model: PreTrainedModel, tokenizer) -> None:
    """A drafter that is changed between prompts, or drafts after another text, must not change the output."""
    rounds: dict[str, list[Round]] = {}
    for pair in ("de-en", "fr-en", "de-en", "ja-en", "ru-en", "de-ru", "fr-en", "de-en"):
        ids = prompt(tokenizer, pair)
        plain = decode(target_model, ids, {"eos_token_id": None}, 0.0, 0, TOKENS)
        routed = decode(target_model, ids, {"assistant_model": router, "eos_token_id": None}, 0.0, 0, TOKENS)
        assert routed.output_ids == plain.output_ids, pair
        rounds.setdefault(f"{router.chosen.drafter} {router.chosen.variant}", []).extend(routed.rounds)
    whole = {"de-en drafter", "fr-en drafter", "ja-en drafter"}
    assert set(rounds) == whole | {f"de-en {WITHOUT_NETWORK}", f"de-en {LOOKUP_ONLY}"}
    # All of them drafted, each at its own rate.
    assert alpha(rounds["de-en drafter"]) > 0.8  # lookup may be wrong
    assert max(round_.drafted for round_ in rounds["fr-en drafter"]) == 5
    assert alpha(rounds["ja-en drafter"]) < alpha(rounds["fr-en drafter"]) < alpha(rounds["de-en drafter"])


def test_options_of_a_call_reach_the_chosen_drafter(router, target_model, tokenizer) -> None:
    """A drafter that does not know of stop strings or embeddings drafts past them."""
    ids = torch.tensor([prompt(tokenizer, "de-en")])
    given = {"max_new_tokens": TOKENS, "do_sample": False, "eos_token_id": None, "tokenizer": tokenizer}
    plain = target_model.generate(ids, **given)
    written = {tokenizer.decode(token).strip() for token in plain[0, ids.shape[1] :]} - {""}
    stops = sorted(text for text in written if text.isprintable() and "\ufffd" not in text)
    assert len(stops) >= 3
    for stop in stops:
        ended = target_model.generate(ids, **given, stop_strings=stop)
        assert torch.equal(target_model.generate(ids, **given, stop_strings=stop, assistant_model=router), ended)
    embeds = target_model.get_input_embeddings()(ids).detach()
    with pytest.warns(UserWarning, match="nothing is drafted in this call"):
        output = target_model.generate(inputs_embeds=embeds, **given, assistant_model=router)
    assert torch.equal(output, plain[:, ids.shape[1] :])


class TakingTurns:
    """A reader that returns another task for each prompt."""

    def __init__(self, *pairs: str) -> None:
        self.tasks = [PromptTask(get_pair(pair).source, get_pair(pair).target, True) for pair in pairs]
        self.reads = 0

    def read(self, prompt_ids: Sequence[int]) -> PromptTask:
        self.reads += 1
        return self.tasks[self.reads % len(self.tasks)]


@pytest.fixture
def toy_router(toy_target: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> DrafterRouter:
    """Two drafters that are right in different places, a third with lookup only, and one that drafts nothing."""
    trust = calibration() | {"lookup": [0.3, *[0.7] * 7], "network": [0.2] * 8 + [0.6] * 12}
    settings = make_settings(sources=["lookup", "network"], longest_draft=TOY_DRAFT_LENGTH, calibration=trust)
    slow = {(PromptTask(LANGUAGES["ru"], LANGUAGES["en"], True), True): {DRAFTER: 0.5}}
    drafters = [with_loop(partly_agreeing(toy_target, 0.25, seed), settings) for seed in (0, 1, 2)]
    routes = [
        make_route("first", "de-en", drafters[0]),
        make_route("second", "fr-en", drafters[1]),
        make_route("slow", "ru-en", drafters[2], slow),
    ]
    router = DrafterRouter(toy_target, routes, tokenizer)
    router.reader = TakingTurns("de-en", "fr-en", "ru-en", "zh-ja")
    return router


def test_sampled_output_has_the_targets_distribution(toy_target, toy_router, monkeypatch) -> None:
    """Drafts of one drafter that are verified with the distribution of another change the target's output."""
    right, choices = DrafterRouter.choose, set()

    def noting(self: DrafterRouter, *given: object) -> RoutedDrafter:
        choice = right(self, *given)
        choices.add((choice.drafter, choice.variant))
        return choice

    monkeypatch.setattr(DrafterRouter, "choose", noting)
    answers, rounds = sample(toy_target, {"assistant_model": toy_router}, 1.0, SAMPLES)
    assert chance_of_these_answers(answers, exact_chances(toy_target, 1.0)) > IMPROBABLE
    assert choices == {("first", DRAFTER), ("second", DRAFTER), ("first", PLAIN), ("first", LOOKUP_ONLY)}
    assert 0.1 < alpha(rounds) < 0.9  # drafts were accepted and rejected


def test_the_choice_is_made_once_in_a_call(router, target_model, tokenizer, monkeypatch) -> None:
    """A choice in each round takes time, and the completion so far could change it."""
    forgotten: list[DraftingLoop] = []
    right = DraftingLoop.forget
    monkeypatch.setattr(DraftingLoop, "forget", lambda self: (forgotten.append(self), right(self)))
    router.reader = turns = TakingTurns("fr-en", "de-en")
    ids = prompt(tokenizer, "ja-en")
    given = {"assistant_model": router, "eos_token_id": None}
    for call in (1, 2, 3):  # the same prompt in another call
        assert len(decode(target_model, ids, given, 0.0, 0, TOKENS).rounds) > 1
        assert turns.reads == len(forgotten) == call
    assert forgotten[0] is forgotten[2] is router.routes[0].loops[DRAFTER]
    assert forgotten[1] is router.routes[1].loops[DRAFTER]


# Adapters over one base


def write_adapter(folder: Path, base: str, tokenizer: PreTrainedTokenizerFast, pair: str, seed: int) -> str:
    """Write an adapter with random weights over a base drafter."""
    torch.manual_seed(seed)
    model = add_adapter(AutoModelForCausalLM.from_pretrained(base), 2, 4)
    add_noise((weight for name, weight in model.named_parameters() if "lora_" in name), 0.2, seed)
    model.save_pretrained(folder)
    whole = folder.parent / f"{folder.name}-whole"
    write_drafter(whole, make_model(tokenizer, layers=1), tokenizer, pair)
    tokenizer.save_pretrained(folder)
    (folder / FILE_NAME).write_bytes((whole / FILE_NAME).read_bytes())
    change(folder, adapter_of={"drafter": base, "revision": Repository.open(base).identity})
    return str(folder)


def test_adapters_share_their_base(tmp_path: Path, target_model: PreTrainedModel, tokenizer) -> None:
    """One base in memory for all languages is the purpose of adapters, and each must draft as it does by itself."""
    base = make_folder(tmp_path / "base", tokenizer, "de-en", model=partly_agreeing(target_model, 0.01))
    folders = [
        write_adapter(tmp_path / pair, base, tokenizer, pair, seed) for seed, pair in enumerate(("de-en", "fr-en"))
    ]
    folders.append(make_folder(tmp_path / "ja-en", tokenizer, "ja-en", model=make_model(tokenizer, seed=8)))
    router = DrafterRouter.from_hub(target_model, folders, tokenizer)
    first, second, other = (route.loops[DRAFTER].network for route in router.routes)
    assert first.embeddings is second.embeddings
    assert first.head.weight is second.head.weight
    assert not torch.equal(first.layers[0].query_key_value.weight, second.layers[0].query_key_value.weight)
    for folder, network in zip(folders, (first, second, other)):
        alone = loop_of(load_drafter(folder, target_model, tokenizer)).network
        for ids in ([9, 33, 120], [9, 33, 120, 7]):
            network.crop(0)
            alone.crop(0)
            torch.testing.assert_close(network.read(ids), alone.read(ids), atol=0, rtol=0)
    for pair in ("de-en", "fr-en", "ja-en", "de-en"):
        check_greedy(target_model, router, [prompt(tokenizer, pair)], TOKENS)
        assert Path(router.chosen.drafter).name == pair


# Errors


def test_drafters_that_do_not_fit_are_rejected(tmp_path: Path, target_model: PreTrainedModel, tokenizer) -> None:
    """A drafter for another tokenizer or target would draft garbage without an error."""
    folder, other = (make_folder(tmp_path / pair, tokenizer, pair) for pair in ("de-en", "fr-en"))
    change(Path(other), target="tests/other-target")
    with pytest.raises(IncompatibleTokenizerError):
        DrafterRouter.from_hub(target_model, [folder], make_tokenizer(380))
    for folders, message in (
        ([folder, other], r"was trained for tests/tiny-target, .* for tests/other-target: give drafters"),
        ([str(tmp_path / "no-such-drafter")], "no-such-drafter is neither a folder nor a published drafter"),
        ([], "a router needs at least one drafter"),
    ):
        with pytest.raises(InputError, match=message):
            DrafterRouter.from_hub(target_model, folders, tokenizer)


def test_results_of_an_earlier_drafter_are_ignored(tmp_path, target_model, tokenizer) -> None:
    """A retrained drafter next to its old results would be chosen for the speed of its predecessor."""
    folders = [make_folder(tmp_path / name, tokenizer, "de-en", measured(9.0)) for name in ("first", "second")]
    write_results(Path(folders[0]), measured(2.0))
    change(Path(folders[1]), draft_length=2)
    router = DrafterRouter.from_hub(target_model, folders, tokenizer)
    assert chosen(router, prompt(tokenizer, "de-en")) == ("first", DRAFTER)


def test_a_router_generates_no_text_itself(router: DrafterRouter) -> None:
    """It looks like a model, but has no output of its own."""
    with pytest.raises(InputError, match=r"pass it to .* as assistant_model"):
        router.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3)
