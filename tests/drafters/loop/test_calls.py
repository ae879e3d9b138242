"""Arguments of `generate`: with a drafter the output is the same, or nothing is drafted, or an error says why."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    DynamicCache,
    EosTokenCriteria,
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
    SynthIDTextWatermarkingConfig,
)
from transformers.generation.streamers import BaseStreamer

from drafter_trainer.drafters.loop.calls import CACHE
from tests.drafters.loop.conftest import make_settings, note_sources, with_loop

TOKENS = 24
TEXT = "Wann kommt der Zug? Er kommt später an, wegen Sturm: um 9 Uhr. Bis morgen, schöne Grüße! Ende"
PROMPT_TEXT = "Wann kommt der Zug? Er"
PAD = 0
Row = Callable[[PreTrainedModel, PreTrainedTokenizerFast], dict[str, Any]]


def prompt_of(tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    return tokenizer(PROMPT_TEXT, return_tensors="pt")["input_ids"]


def row(**given: Any) -> Row:
    return lambda target_model, tokenizer: given


def writing(**given: Any) -> Row:
    """Let the target write `TEXT`, whatever its weights say."""

    def make(target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
        ids = tokenizer(TEXT)["input_ids"]
        start = len(tokenizer(PROMPT_TEXT)["input_ids"])
        assert ids[:start] == prompt_of(tokenizer)[0].tolist()
        values = {name: value(tokenizer) if callable(value) else value for name, value in given.items()}
        return values | {
            "prefix_allowed_tokens_fn": lambda _, known: [ids[min(len(known), len(ids) - 1)]],
            "tokenizer": tokenizer,
        }

    return make


def criteria(*own: StoppingCriteria) -> StoppingCriteriaList:
    return StoppingCriteriaList(own)


def later_id(tokenizer: PreTrainedTokenizerFast) -> int:
    return tokenizer(TEXT)["input_ids"][len(prompt_of(tokenizer)[0]) + 7]


def padded(target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, **given: Any) -> dict[str, Any]:
    ids = prompt_of(tokenizer)
    pads = torch.full((1, 5), PAD)
    mask = torch.cat((torch.zeros_like(pads), torch.ones_like(ids)), dim=-1)
    return {"input_ids": torch.cat((pads, ids), dim=-1), "attention_mask": mask} | given


def cached(target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, whole: bool) -> dict[str, Any]:
    """Pass the cache of an earlier turn, with the tokens of the whole text or of the new turn alone."""
    ids, cache = prompt_of(tokenizer), DynamicCache(config=target_model.config)
    with torch.no_grad():
        target_model(input_ids=ids[:, :5], **{CACHE: cache})
    return {
        "input_ids": ids if whole else ids[:, 5:],
        "attention_mask": torch.ones_like(ids),
        CACHE: cache,
    }


def embedded(target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, beside: bool) -> dict[str, Any]:
    ids = prompt_of(tokenizer)
    embeds = target_model.get_input_embeddings()(ids).detach()
    return {"inputs_embeds": embeds} | ({"input_ids": ids} if beside else {"input_ids": None})


class Noting(list, BaseStreamer):
    """A streamer that keeps what it is given."""

    def put(self, value: torch.Tensor) -> None:
        self += value.flatten().tolist()

    def end(self) -> None:
        self.append(-1)


DRAFTED = {
    "nothing": row(),
    "max_length": row(max_new_tokens=None, max_length=40),
    "max_time": row(max_time=1000.0),
    "end ids": writing(eos_token_id=lambda tokenizer: [2, later_id(tokenizer)]),
    "stop string": writing(stop_strings="später"),
    "stop string begun in the prompt": writing(stop_strings=["g? Er kom"]),
    "stop strings": writing(stop_strings=["Ende", "wegen", "Gruß", "."]),
    "empty stop string": writing(stop_strings=["Uhr", ""]),
    "stop string in the text, which goes on": writing(stop_strings=["Zug"]),
    "StopStringCriteria": writing(
        stopping_criteria=lambda tokenizer: criteria(StopStringCriteria(tokenizer, ["Uhr", "Sturm"]))
    ),
    "EosTokenCriteria": writing(stopping_criteria=lambda tokenizer: criteria(EosTokenCriteria(later_id(tokenizer)))),
    "MaxLengthCriteria": row(max_new_tokens=None, max_length=60, stopping_criteria=criteria(MaxLengthCriteria(30))),
    "repetition_penalty": row(repetition_penalty=1.5),
    "sequence_bias": row(sequence_bias=[[[token], 5.0] for token in range(30, 60)]),
    "min_new_tokens": row(min_new_tokens=12, eos_token_id=list(range(50, 200))),
    "prefix_allowed_tokens_fn": row(prefix_allowed_tokens_fn=lambda _, ids: [(ids[-1].item() * 7 + 1) % 400, 5]),
    "left padding": padded,
    "left padding and a penalty": lambda *given: padded(*given, repetition_penalty=1.5),
    "new turn behind a cache": lambda *given: cached(*given, whole=False),
    "scores and logits": row(output_scores=True, output_logits=True),
    "streamer": lambda *given: {"streamer": Noting()},
}


class Counting(LogitsProcessor):
    """A processor that depends on the number of its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        scores[:, self.calls % 5 :: 5] = -float("inf")  # in place, as users write it
        return scores


class Fifth(StoppingCriteria):
    """A criterion that ends at each fifth token."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **given: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), input_ids.shape[1] % 5 == 0)


UNDRAFTED = {
    "embeddings": (lambda *given: embedded(*given, beside=False), "inputs_embeds"),
    "embeddings beside tokens": (lambda *given: embedded(*given, beside=True), "inputs_embeds"),
    "guidance": (row(guidance_scale=1.5), "UnbatchedClassifierFreeGuidanceLogitsProcessor"),
    "watermark with memory": (
        row(watermarking_config=SynthIDTextWatermarkingConfig(keys=list(range(20)), ngram_len=3)),
        "SynthIDText",
    ),
    "own processor": (lambda *given: {"logits_processor": LogitsProcessorList([Counting()])}, "Counting"),
    "own criterion": (row(stopping_criteria=criteria(Fifth())), "Fifth"),
}
REFUSED = {
    "cache of the whole text": (lambda *given: cached(*given, whole=True), f"{CACHE} with 5 tokens"),
    "two lengths": (
        row(stopping_criteria=criteria(MaxLengthCriteria(90))),
        "lets generate continue to 90 tokens",
    ),
    "several outputs": (row(num_return_sequences=2, do_sample=True), "num_return_sequences has to be 1"),
    "batch": (row(input_ids=torch.tensor([[5, 6], [7, 8]])), "only supported for batch_size = 1"),
}


@pytest.fixture
def drafter(target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A drafter that is always right, so that its drafts contain every token that must end the text."""
    settings = make_settings(sources=["lookup", "network"])
    draft_ids = torch.tensor(sorted({*range(0, 400, 2), *tokenizer(TEXT)["input_ids"]}))
    return with_loop(copy.deepcopy(target_model), settings, None, draft_ids, tokenizer)


def run(target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, make: Row, **more: Any) -> dict[str, Any]:
    given = {"input_ids": prompt_of(tokenizer), "max_new_tokens": TOKENS, "do_sample": False}
    given = given | more | make(target_model, tokenizer)
    torch.manual_seed(0)
    output = target_model.generate(**given, return_dict_in_generate=True)
    found = {name: output.get(name) for name in ("sequences", "scores", "logits")}
    return {"streamed": given.get("streamer", [])} | {name: each for name, each in found.items() if each is not None}


def check_equal(drafted: dict[str, Any], plain: dict[str, Any]) -> None:
    assert drafted["sequences"].tolist() == plain["sequences"].tolist()
    assert drafted.keys() == plain.keys()
    assert drafted["streamed"] == plain["streamed"]
    for name in drafted.keys() - {"streamed"}:
        torch.testing.assert_close(drafted[name], plain[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sampling", [False, True], ids=["greedy", "sampled"])
@pytest.mark.parametrize("make", DRAFTED.values(), ids=DRAFTED)
def test_output_is_the_targets_where_drafts_are_made(
    target_model, tokenizer, drafter, monkeypatch, make, sampling
) -> None:
    """Prevent a rule that ends or changes the text from being ignored within a draft. Sampling has one output here."""
    more = {"do_sample": True, "top_k": 1} if sampling else {}
    plain = run(target_model, tokenizer, make, **more)
    counts = note_sources(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        drafted = run(target_model, tokenizer, make, assistant_model=drafter, **more)
    check_equal(drafted, plain)
    assert sum(counts.values()) > 0 or make is DRAFTED["empty stop string"]


@pytest.mark.parametrize("sampling", [False, True], ids=["greedy", "sampled"])
@pytest.mark.parametrize(("make", "reason"), UNDRAFTED.values(), ids=UNDRAFTED)
def test_nothing_is_drafted_where_drafts_would_change_the_output(
    target_model, tokenizer, drafter, monkeypatch, make, reason, sampling
) -> None:
    """Prevent a silent change of the output; the same seed samples the same, and a warning has the reason."""
    plain = run(target_model, tokenizer, make, do_sample=sampling)
    counts = note_sources(monkeypatch)
    with pytest.warns(UserWarning, match=f"^nothing is drafted in this call.*{reason}") as caught:
        drafted = run(target_model, tokenizer, make, do_sample=sampling, assistant_model=drafter)
    check_equal(drafted, plain)
    assert sum(counts.values()) == 0
    assert len([warning for warning in caught if "nothing is drafted" in str(warning.message)]) == 1


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_right_is_refused(target_model, tokenizer, drafter, make, message) -> None:
    """Prevent wrong output of assisted decoding itself, which an empty draft does not avoid."""
    with pytest.raises(ValueError, match=message) as caught:
        run(target_model, tokenizer, make, assistant_model=drafter)
    assert "\n" not in str(caught.value)


def test_without_a_tokenizer_stop_strings_are_obeyed(target_model, tokenizer) -> None:
    """Without a tokenizer the tokens that complete a stop string are unknown, so nothing is drafted."""
    drafter = with_loop(copy.deepcopy(target_model), make_settings())
    make = DRAFTED["stop strings"]
    with pytest.warns(UserWarning, match="without the target's tokenizer"):
        drafted = run(target_model, tokenizer, make, assistant_model=drafter)
    check_equal(drafted, run(target_model, tokenizer, make))
