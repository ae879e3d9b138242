"""Tokenizers compared by content, targets told from their finetunes, and vocabularies of other sizes."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from drafter_trainer.decoding.metrics import alpha
from drafter_trainer.drafters.adapters import add_adapter
from drafter_trainer.drafters.compatibility import (
    check_tokenizers,
    find_difference,
    fit_vocabulary,
    harmless_difference,
    hash_tokenizer,
)
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.drafters.load import load_drafter, with_stock_loop
from drafter_trainer.drafters.loop.generate import loop_of
from drafter_trainer.drafters.loop.networkless import NetworklessDrafter
from drafter_trainer.errors import IncompatibleTokenizerError, InputError
from drafter_trainer.languages import get_pair
from drafter_trainer.targets import hash_folder
from tests.conftest import make_model, make_tokenizer
from tests.decoding.drafts import partly_agreeing
from tests.decoding.lossless import TOY_SIZE, check_greedy, check_sampled
from tests.drafters.loop.conftest import make_settings, with_loop
from tests.drafters.test_load import write_drafter

PROBES = get_pair("de-en").probes


def change(tokenizer: PreTrainedTokenizerFast, edit: Callable[[dict[str, Any]], None], **special: str):
    """Make a tokenizer whose `tokenizer.json` differs by an edit, and its special tokens by what is given."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    edit(content)
    names = {"pad_token": "<|pad|>", "bos_token": "<|start|>", "eos_token": "<|end|>"} | special
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)), **names)


def swap(content: dict[str, Any]) -> None:
    vocabulary = content["model"]["vocab"]
    vocabulary["m"], vocabulary["n"] = vocabulary["n"], vocabulary["m"]


def drop_merges(content: dict[str, Any]) -> None:
    content["model"]["merges"] = content["model"]["merges"][: len(content["model"]["merges"]) // 2]


LOWERCASE = {"normalizer": {"type": "Lowercase"}}
DIFFERENT = [
    pytest.param(swap, {}, r"2 tokens .* the first is 'm' with id \d+ in the drafter's and", id="swapped tokens"),
    pytest.param(dict, {"eos_token": "<|user|>"}, "the drafter's eos_token_id is 3, the target's 2", id="eos"),
    pytest.param(dict, {"bos_token": "<|end|>"}, "the drafter's bos_token_id is 2, the target's 1", id="bos"),
    pytest.param(dict, {"unk_token": "<|end|>"}, "the drafter's unk_token_id is 2, the target's None", id="unk"),
    pytest.param(drop_merges, {}, "splits 'Die Straßenbahn", id="merges"),
    pytest.param(lambda content: content.update(LOWERCASE), {}, "splits 'Die Straßenbahn", id="normalizer"),
]


@pytest.mark.parametrize(("edit", "special", "named"), DIFFERENT)
def test_difference_is_refused_and_named(tokenizer, edit, special: dict[str, str], named: str) -> None:
    """Prevent useless drafts: the sizes are the same, and transformers compares nothing else."""
    other = change(tokenizer, edit, **special)
    assert len(other) == len(tokenizer)
    assert hash_tokenizer(other, PROBES) != hash_tokenizer(tokenizer, PROBES)  # else nobody would look further
    with pytest.raises(IncompatibleTokenizerError, match=named) as caught:
        check_tokenizers(tokenizer, other, PROBES)
    assert "train a drafter for this target" in str(caught.value)
    if not special:
        with pytest.raises(IncompatibleTokenizerError, match=named):
            harmless_difference(tokenizer, other, PROBES)
        return
    assert re.search(named, harmless_difference(tokenizer, other, PROBES))
    other.add_tokens(["<|tool|>"])
    said = harmless_difference(other, tokenizer, PROBES)
    assert re.match(r"the drafter's tokenizer differs .* 1 tokens.*'<\|tool\|>' with id None .*; the drafter's ", said)


def test_equal_tokenizers_pass(tokenizer, tmp_path) -> None:
    """A tokenizer made anew, with other padding and chat template, drafts just as well, and so does a saved copy."""
    other = make_tokenizer()
    other.padding_side = "right"
    other.truncation_side = "left"
    other.chat_template = "{{ messages[0]['content'] }}"
    other.pad_token = "<|end|>"
    other.model_max_length = 17
    tokenizer.save_pretrained(tmp_path)
    for same in (other, PreTrainedTokenizerFast.from_pretrained(tmp_path)):
        check_tokenizers(tokenizer, same, PROBES)
        assert hash_tokenizer(same, PROBES) == hash_tokenizer(tokenizer, PROBES)


def test_probes_look_into_the_drafters_languages(tokenizer) -> None:
    """A rule that touches one language alone shows on a probe in that language, and on no English one."""
    ss = {"type": "Replace", "pattern": {"String": "ß"}, "content": "ss"}
    other = change(tokenizer, lambda content: content.update(normalizer=ss))
    german, english = get_pair("de-en").probes
    check_tokenizers(tokenizer, other, [english])
    assert hash_tokenizer(tokenizer, [english]) == hash_tokenizer(other, [english])
    with pytest.raises(IncompatibleTokenizerError, match="splits 'Die Straßenbahn"):
        check_tokenizers(tokenizer, other, [english, german])
    assert hash_tokenizer(tokenizer, [german]) != hash_tokenizer(other, [german])


# The target that the drafter was trained for

TARGET = "org/target"
COMMIT = "0123456789" * 4


def difference(model: PreTrainedModel, place: str, revision: str = COMMIT) -> str | None:
    """Compare a model from a place with the target that a drafter describes."""
    model.name_or_path = place
    return find_difference(model, DrafterDescription("tiny", TARGET, revision, "0" * 64, "de-en", 5))


def test_folder_is_told_by_its_weights(target_folder: Path, target_model: PreTrainedModel, tmp_path: Path) -> None:
    """A finetune beside its original has the same name or none: only what lies in the folder tells them apart."""
    revision = hash_folder(target_folder)
    assert difference(target_model, str(target_folder), revision) is None
    make_model(make_tokenizer(), layers=1, seed=5).save_pretrained(tmp_path)
    said = f"in {tmp_path} has other weights than org/target at {revision}"
    assert difference(target_model, str(tmp_path), revision) == said


@pytest.mark.parametrize(
    ("place", "revision", "said"),
    [
        *(("somebody/finetune", revision, f"is somebody/finetune, not {TARGET}") for revision in (COMMIT, "sha256:0")),
        ("somebody/finetune", "tiny-wheel==1.5", f"is somebody/finetune, not {TARGET}"),
        # Made in process, or from a folder that is gone: from nowhere that has a name.
        *(
            (place, COMMIT, None)
            for place in (TARGET, "Org/Target", "", "/no/longer/there", "runs/a/b", "no such name")
        ),
    ],
)
def test_finetune_is_told_by_its_name(target_model, place, revision, said) -> None:
    """Somebody's finetune on the Hub has the original's tokenizer, and passes every other check."""
    assert difference(target_model, place, revision) == said


def test_an_adapter_over_the_target_is_told(target_model: PreTrainedModel) -> None:
    """A LoRA finetune has the original's name, files and tokenizer, and other outputs."""
    adapted = add_adapter(target_model, rank=2, alpha=4)
    for model in (adapted, adapted.base_model.model):  # as peft wraps it, and as transformers loads one into a model
        assert difference(model, TARGET) == f"has an adapter (default), unlike {TARGET} at {COMMIT}"


# Padded vocabularies


def padded(model: PreTrainedModel, size: int) -> PreTrainedModel:
    """Give a model another number of rows, as the models of a family have them."""
    torch.manual_seed(1)
    model.resize_token_embeddings(size, mean_resizing=False)
    return model


@pytest.mark.parametrize(("trained", "size"), [(400, 448), (448, 416)], ids=str)
def test_greedy_output_with_another_padding(tmp_path: Path, tokenizer, trained: int, size: int) -> None:
    """transformers takes another size for another tokenizer; and a drafter of padding ids drafts for nothing."""
    target_model = padded(make_model(tokenizer), size)
    drafter = padded(partly_agreeing(make_model(tokenizer), 0.01), trained)
    drafter = load_drafter(str(write_drafter(tmp_path, drafter, tokenizer)), target_model, tokenizer)
    loop, draft_ids = loop_of(drafter), loop_of(drafter).network.draft_ids
    assert (drafter.config.vocab_size, loop.vocabulary, len(drafter.lm_head.weight)) == (size, size, size)
    assert (draft_ids is None) == (trained > size)
    rounds = [*check_greedy(target_model, drafter), *check_greedy(target_model, with_stock_loop(drafter, 3))]
    assert 0.2 < alpha(rounds) < 1


def test_sampled_answers_have_the_targets_distribution(toy_target: PreTrainedModel) -> None:
    """Prevent a q with ids that the drafter cannot sample, which biases the output."""
    known = TOY_SIZE - 3  # the last three are in the prompt, and among the target's answers
    drafter = padded(partly_agreeing(toy_target, 0.1), known)
    fit_vocabulary(drafter, TOY_SIZE)
    settings = make_settings(sources=["network"], longest_draft=2)
    with_loop(drafter, settings, draft_ids=torch.arange(known))
    check_sampled(toy_target, {"assistant_model": drafter}, high=0.95)


def test_drafter_without_a_network_takes_the_size() -> None:
    """It has no rows; what transformers compares is the number alone."""
    drafter = NetworklessDrafter.for_vocabulary(262_144)
    fit_vocabulary(drafter, 262_208)
    assert drafter.config.vocab_size == 262_208


def test_vocabulary_that_lacks_tokens_is_refused(tmp_path: Path, target_model: PreTrainedModel, tokenizer) -> None:
    """What is missing is no padding then: the drafter was cut down, and its ids may be of anything."""
    folder = write_drafter(tmp_path, padded(make_model(tokenizer, layers=1), 390), tokenizer)
    with pytest.raises(InputError, match="vocabulary of 390 ids, the target of 400 and their tokenizer of 400"):
        load_drafter(str(folder), target_model, tokenizer)
