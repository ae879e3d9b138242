"""Compact drafters."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from drafter_trainer.drafters.compact import COMPACT, embeddings_and_head, read_compact, write_compact
from drafter_trainer.drafters.initialization import create_drafter
from drafter_trainer.drafters.load import load_drafter
from drafter_trainer.errors import InputError
from tests.conftest import tiny_model
from tests.decoding.lossless import check_greedy
from tests.hub.conftest import publish_compact

FAMILIES = ["llama", "gemma3_text", "qwen3"]


def make(family: str, layers: int, width: int = 32) -> PreTrainedModel:
    """Make a tiny model whose pad token is no id of a vocabulary of one."""
    sizes = {"vocab_size": 60, "hidden_size": width, "num_hidden_layers": layers, "pad_token_id": 3}
    return tiny_model(family, layers, tie_word_embeddings=True, **sizes)


def make_pair(family: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Make a target, and a drafter of one layer that has its embeddings and head."""
    target, drafter = make(family, 2), make(family, 1)
    with torch.no_grad():
        drafter.get_input_embeddings().weight.copy_(target.get_input_embeddings().weight)
    return target, drafter


def test_compact_repository_is_published_and_drafts(tmp_path, tokenizer, target, target_model) -> None:
    """Prevent a compact repository from carrying what is the target's, or from changing the target's output."""
    place = publish_compact(tmp_path, tokenizer, target)
    assert (place / COMPACT).is_file()
    assert not {"model.safetensors", "tokenizer.json"} & {path.name for path in place.iterdir()}
    loaded, ids = load_drafter(str(place), target_model, tokenizer), torch.tensor([[5, 6, 7, 8]])
    check_greedy(target_model, loaded, ids.tolist(), 20)
    start = create_drafter(target, str(place))
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    assert start.num_parameters(only_trainable=True) == whole.num_parameters()
    assert start.get_output_embeddings().weight is start.get_input_embeddings().weight
    assert start.get_input_embeddings().weight.data_ptr() != target_model.get_input_embeddings().weight.data_ptr()
    with torch.inference_mode():
        assert torch.allclose(start.eval()(ids).logits, loaded(input_ids=ids).logits, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_compact_drafter_says_what_the_whole_one_says(family: str, tmp_path: Path) -> None:
    """Prevent lost or misplaced weights, embeddings without their scale, and a copy of the target's."""
    target, drafter = make_pair(family)
    write_compact(drafter, target, tmp_path)
    loaded = read_compact(tmp_path, *embeddings_and_head(target), torch.float32)
    assert loaded.get_input_embeddings().weight.data_ptr() == target.get_input_embeddings().weight.data_ptr()
    assert loaded.config.vocab_size == target.config.vocab_size
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.inference_mode():
        expected, found = drafter(ids).logits, loaded.eval()(ids).logits
    # int8 rounds each weight by 1/254 of its row's largest at most.
    assert (found - expected).abs().mean() < 0.02 * expected.abs().mean()
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


def test_int4_halves_the_file_and_is_as_near_as_its_steps_allow(tmp_path: Path) -> None:
    """Prevent pairs of int4 values from being swapped or shifted, or a group from getting another one's scale."""
    target, drafter = make("llama", 2, width=64), make("llama", 1, width=64)
    with torch.no_grad():
        drafter.get_input_embeddings().weight.copy_(target.get_input_embeddings().weight)
        for index, weight in enumerate(drafter.model.layers.parameters()):
            weight.mul_(1 + index)  # no two matrices have like scales
    for bits in (8, 4):
        write_compact(drafter, target, tmp_path / str(bits), bits)
    sizes = [(tmp_path / bits / COMPACT).stat().st_size for bits in ("8", "4")]
    assert sizes[1] < 0.62 * sizes[0]
    loaded = read_compact(tmp_path / "4", *embeddings_and_head(target), torch.float32)
    for (name, weight), (_, own) in zip(loaded.named_parameters(), drafter.named_parameters()):
        if weight.dim() == 2 and "layers" in name:
            # Steps are largest / 7 at most: uniform rounding errs by a twelfth of their square on average.
            assert (weight - own).square().mean() < 0.012 * own.square().mean(), name
        else:
            assert torch.equal(weight, own), name


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Prevent embeddings that were trained from being replaced by the target's in silence, and others from ending in a
    traceback: of another width, quantized, or of other layers than the configuration says."""
    target, drafter = make_pair("llama")
    write_compact(drafter, target, tmp_path)
    with pytest.raises(InputError, match="use its stock format"):
        read_compact(tmp_path, *embeddings_and_head(make("llama", 2, width=64)), torch.float32)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"num_hidden_layers": 1', '"num_hidden_layers": 2'))
    with pytest.raises(RuntimeError, match=f"{COMPACT} and config.json differ in model.layers.1"):
        read_compact(tmp_path, *embeddings_and_head(target), torch.float32)
    with torch.no_grad():
        drafter.get_input_embeddings().weight[3] += 0.5
    with pytest.raises(InputError, match="the drafter's embeddings are not the target's"):
        write_compact(drafter, target, tmp_path)
