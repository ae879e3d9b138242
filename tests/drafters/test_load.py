"""Loading a published drafter."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from drafter_trainer.decoding.metrics import Round
from drafter_trainer.decoding.rounds import decode
from drafter_trainer.drafters.compatibility import hash_tokenizer
from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription
from drafter_trainer.drafters.load import describe_drafter, identify_drafter, load_drafter
from drafter_trainer.drafters.loop.settings import NETWORK_BINS, LoopSettings, default_calibration
from drafter_trainer.errors import IncompatibleTokenizerError, InputError
from drafter_trainer.languages import get_pair
from tests.conftest import make_model

PAIR = get_pair("de-en")
DRAFT_LENGTH = 3
PROMPT = [9, 33, 120, 7, 250, 61]


def write_drafter(folder: Path, model: PreTrainedModel, tokenizer, pair: str = "de-en") -> Path:
    """Write a drafter's folder with the files that publishing writes."""
    model.generation_config = GenerationConfig(
        num_assistant_tokens=DRAFT_LENGTH,
        num_assistant_tokens_schedule="constant",
        assistant_confidence_threshold=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    description = DrafterDescription(
        name="tiny-target-drafter-de-en",
        target="tests/tiny-target",
        target_revision="0",
        tokenizer_sha256=hash_tokenizer(tokenizer, get_pair(pair).probes),
        pair=pair,
        draft_length=DRAFT_LENGTH,
        loop=LoopSettings(
            sources=["network"],
            longest_draft=DRAFT_LENGTH,
            calibration=default_calibration() | {"network": [0.9] * NETWORK_BINS},
            pass_milliseconds={"cpu": [10.0] * (DRAFT_LENGTH + 1)},
        ).to_dict(),
    )
    (folder / FILE_NAME).write_text(description.to_json(), encoding="utf-8")
    return folder


def swap_two_tokens(folder: Path) -> None:
    """Give a folder's tokenizer two tokens with each other's ids."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary["m"], vocabulary["n"] = vocabulary["n"], vocabulary["m"]
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, tokenizer) -> Path:
    """A published drafter that guesses all that the tiny target says: it has the same weights."""
    return write_drafter(tmp_path / "drafter", make_model(tokenizer), tokenizer)


def test_drafter_is_ready_for_generate(folder: Path, target_model: PreTrainedModel, tokenizer) -> None:
    """Defaults instead of the published settings (20 tokens, threshold 0.4, a schedule) draft at another speed."""
    drafter = load_drafter(str(folder), target_model, tokenizer)
    settings = drafter.generation_config
    assert settings.num_assistant_tokens == DRAFT_LENGTH
    assert settings.num_assistant_tokens_schedule == "constant"
    assert settings.assistant_confidence_threshold == 0.0
    assert settings.eos_token_id == tokenizer.eos_token_id
    assert not drafter.training
    decoding = decode(target_model, PROMPT, {"assistant_model": drafter}, 0.0, 0, 2 * (DRAFT_LENGTH + 1))
    assert decoding.rounds == 2 * [Round(DRAFT_LENGTH, DRAFT_LENGTH, rejected=False)]


def test_drafter_takes_the_targets_dtype(folder: Path, target_model: PreTrainedModel, tokenizer) -> None:
    """A drafter left in the stored fp32 takes twice the time for each draft."""
    assert load_drafter(str(folder), target_model, tokenizer).dtype == torch.float32
    assert load_drafter(str(folder), target_model.to(torch.bfloat16), tokenizer).dtype == torch.bfloat16


def test_drafter_goes_to_the_targets_device(folder: Path, target_model: PreTrainedModel, tokenizer) -> None:
    """A drafter left on the processor beside a target on an accelerator is slower than no drafter."""
    drafter = load_drafter(str(folder), target_model.to("meta"), tokenizer)
    assert {weight.device.type for weight in drafter.parameters()} == {"meta"}


def test_tokenizer_is_found_where_the_target_came_from(folder: Path, target_folder: Path) -> None:
    """Whoever leaves the tokenizer out must get the check all the same."""
    target_model = AutoModelForCausalLM.from_pretrained(target_folder)
    assert load_drafter(str(folder), target_model).generation_config.num_assistant_tokens == DRAFT_LENGTH


def test_other_tokenizer_where_the_target_came_from_is_refused(
    folder: Path, tmp_path: Path, tokenizer, target_model: PreTrainedModel
) -> None:
    """The check must look at the target's tokenizer, not at the drafter's own copy."""
    target_model.save_pretrained(tmp_path / "target")
    tokenizer.save_pretrained(tmp_path / "target")
    swap_two_tokens(tmp_path / "target")
    with pytest.raises(IncompatibleTokenizerError, match="2 tokens"):
        load_drafter(str(folder), AutoModelForCausalLM.from_pretrained(tmp_path / "target"))


def test_target_without_a_place_needs_its_tokenizer(folder: Path, target_model: PreTrainedModel) -> None:
    """A target made in process came from nowhere: ask for its tokenizer instead of failing over an empty name."""
    with pytest.raises(InputError, match=r"no tokenizer of the target at ''.*give it as tokenizer"):
        load_drafter(str(folder), target_model)


def test_other_tokenizer_is_refused_by_content(folder: Path, tmp_path: Path, target_model, tokenizer) -> None:
    """Two tokens that changed places leave the size alone and make garbage of every draft."""
    tokenizer.save_pretrained(tmp_path / "other")
    swap_two_tokens(tmp_path / "other")
    other = AutoTokenizer.from_pretrained(tmp_path / "other")
    with pytest.raises(IncompatibleTokenizerError, match=r"2 tokens .* the first is 'm'"):
        load_drafter(str(folder), target_model, other)


def test_description_of_another_tokenizer_is_refused(folder: Path, target_model, tokenizer) -> None:
    """A copy of the right tokenizer beside weights that were trained with another one proves nothing."""
    description = dataclasses.replace(describe_drafter(str(folder)), tokenizer_sha256="0" * 64)
    (folder / FILE_NAME).write_text(description.to_json(), encoding="utf-8")
    with pytest.raises(IncompatibleTokenizerError, match="trained with another tokenizer"):
        load_drafter(str(folder), target_model, tokenizer)


def test_probes_are_those_of_the_drafters_pair(tmp_path: Path, target_model, tokenizer) -> None:
    """A hash over other probes than publishing took would refuse every drafter of another pair."""
    folder = write_drafter(tmp_path, make_model(tokenizer, layers=1), tokenizer, pair="ru-en")
    assert load_drafter(str(folder), target_model, tokenizer).config.num_hidden_layers == 1


def test_other_vocabulary_size_is_refused(tmp_path: Path, target_model, tokenizer) -> None:
    """A head with padding rows passes every comparison of tokenizers and fails within generate."""
    model = make_model(tokenizer, layers=1)
    model.resize_token_embeddings(len(tokenizer) + 16)
    write_drafter(tmp_path, model, tokenizer)
    with pytest.raises(InputError, match="vocabulary of 416, the target one of 400"):
        load_drafter(str(tmp_path), target_model, tokenizer)


def test_folder_without_description_is_refused(folder: Path, target_model, tokenizer) -> None:
    """Any model's folder would pass for a drafter, with the defaults of transformers."""
    (folder / FILE_NAME).unlink()
    with pytest.raises(InputError, match=f"{folder} has no drafter.json"):
        load_drafter(str(folder), target_model, tokenizer)


@pytest.mark.parametrize("damage", ["none", "cut"])
def test_unreadable_weights_are_refused(folder: Path, target_model, tokenizer, damage: str) -> None:
    """A half copied folder must end in one line that names it."""
    weights = folder / "model.safetensors"
    if damage == "none":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(InputError, match=f"{folder} cannot be loaded") as caught:
        load_drafter(str(folder), target_model, tokenizer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nobody/no-such-drafter", "/no/such/folder", "runs/some/drafter", "no such name"])
def test_missing_drafter_is_refused(target_model, tokenizer, name: str) -> None:
    """A typing error, or a Hub out of reach, must end in one line and not in a traceback of the client."""
    with pytest.raises(InputError, match=f"{name} is neither a folder nor a published drafter") as caught:
        load_drafter(name, target_model, tokenizer)
    assert "\n" not in str(caught.value)


def test_folder_alone_works_with_transformers(folder: Path, target_model: PreTrainedModel) -> None:
    """Users load a drafter by the one line they know: the published settings must come with it."""
    drafter = AutoModelForCausalLM.from_pretrained(folder)
    drafted = decode(target_model, PROMPT, {"assistant_model": drafter}, 0.0, 0, 2 * (DRAFT_LENGTH + 1))
    plain = decode(target_model, PROMPT, {}, 0.0, 0, 2 * (DRAFT_LENGTH + 1))
    assert drafted.output_ids == plain.output_ids
    assert drafted.rounds == 2 * [Round(DRAFT_LENGTH, DRAFT_LENGTH, rejected=False)]


def test_drafter_is_identified_by_its_weights(folder: Path, tmp_path: Path, tokenizer) -> None:
    """Results of one drafter must not pass for those of another one in the same place."""
    same = write_drafter(tmp_path / "same", make_model(tokenizer), tokenizer)
    other = write_drafter(tmp_path / "other", make_model(tokenizer, seed=1), tokenizer)
    assert identify_drafter(str(folder)) == identify_drafter(str(same)) != identify_drafter(str(other))
