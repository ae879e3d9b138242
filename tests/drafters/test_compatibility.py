"""Tokenizers compared by what they do."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from drafter_trainer.drafters.compatibility import check_tokenizers, harmless_difference, hash_tokenizer
from drafter_trainer.errors import IncompatibleTokenizerError
from drafter_trainer.languages import get_pair
from tests.conftest import make_tokenizer

PROBES = get_pair("de-en").probes


def change(tokenizer: PreTrainedTokenizerFast, edit: Callable[[dict[str, Any]], None], **special: str):
    """Make a tokenizer whose `tokenizer.json` differs by an edit, and its special tokens by what is given."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    edit(content)
    names = {"pad_token": "<|pad|>", "bos_token": "<|start|>", "eos_token": "<|end|>"} | special
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)), **names)


def nothing(content: dict[str, Any]) -> None:
    """Leave it as it is."""


def swap(content: dict[str, Any]) -> None:
    vocabulary = content["model"]["vocab"]
    vocabulary["m"], vocabulary["n"] = vocabulary["n"], vocabulary["m"]


def drop_merges(content: dict[str, Any]) -> None:
    content["model"]["merges"] = content["model"]["merges"][: len(content["model"]["merges"]) // 2]


def lowercase(content: dict[str, Any]) -> None:
    content["normalizer"] = {"type": "Lowercase"}


def write_ss(content: dict[str, Any]) -> None:
    content["normalizer"] = {"type": "Replace", "pattern": {"String": "ß"}, "content": "ss"}


DIFFERENT = [
    pytest.param(swap, {}, r"2 tokens .* the first is 'm' with id \d+ in the drafter's and", id="swapped tokens"),
    pytest.param(nothing, {"eos_token": "<|user|>"}, "the drafter's eos_token_id is 3, the target's 2", id="eos"),
    pytest.param(nothing, {"bos_token": "<|end|>"}, "the drafter's bos_token_id is 2, the target's 1", id="bos"),
    pytest.param(nothing, {"unk_token": "<|end|>"}, "the drafter's unk_token_id is 2, the target's None", id="unk"),
    pytest.param(drop_merges, {}, "splits 'Die Straßenbahn", id="merges"),
    pytest.param(lowercase, {}, "splits 'Die Straßenbahn", id="normalizer"),
]


@pytest.mark.parametrize(("edit", "special", "named"), DIFFERENT)
def test_difference_is_refused_and_named(tokenizer, edit, special: dict[str, str], named: str) -> None:
    """All have the same size, which is all that transformers compares: the drafts would be garbage."""
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
    other = change(tokenizer, write_ss)
    german, english = get_pair("de-en").probes
    check_tokenizers(tokenizer, other, [english])
    assert hash_tokenizer(tokenizer, [english]) == hash_tokenizer(other, [english])
    with pytest.raises(IncompatibleTokenizerError, match="splits 'Die Straßenbahn"):
        check_tokenizers(tokenizer, other, [english, german])
    assert hash_tokenizer(tokenizer, [german]) != hash_tokenizer(other, [german])
