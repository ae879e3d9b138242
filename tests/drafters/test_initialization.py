"""The weights that a drafter starts from, and the search of the target's layers that it gets."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from drafter_trainer.drafters.initialization import create_drafter, draft_config, from_layers, setup_of
from drafter_trainer.drafters.layer_search import search_layers
from drafter_trainer.errors import IncompatibleTokenizerError, InputError
from drafter_trainer.languages import get_pair
from drafter_trainer.targets import Target
from tests.conftest import change_json, make_model, make_tokenizer, tiny_model, tiny_vision_model
from tests.drafters.test_load import swap_two_tokens

PROBES = get_pair("de-en").probes
IDS = torch.tensor([[9, 33, 120, 7, 250, 61]])


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits


def make_checkpoint(folder: Path, model: PreTrainedModel, tokenizer) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def assert_equal_layers(drafter: PreTrainedModel, target_model: PreTrainedModel, chosen: list[int]) -> None:
    assert len(drafter.model.layers) == len(chosen)
    for own, layer in zip(drafter.model.layers, chosen):
        expected = target_model.model.layers[layer].state_dict()
        for name, weight in own.state_dict().items():
            assert torch.equal(weight, expected[name]), f"layer {layer}: {name}"


@pytest.fixture
def untied(tokenizer) -> PreTrainedModel:
    return make_model(tokenizer, seed=7, tie_word_embeddings=False)


def test_scratch_takes_nothing_from_the_target(target: Target, target_model: PreTrainedModel, tokenizer) -> None:
    """Weights that come from the target would make "scratch" a comparison with itself."""
    torch.manual_seed(3)
    drafter = create_drafter(target, "scratch", num_hidden_layers=2, hidden_size=16)
    assert drafter.config.num_hidden_layers == 2
    assert drafter.get_input_embeddings().weight.shape == (len(tokenizer), 16)
    assert drafter.dtype == torch.float32
    torch.manual_seed(3)
    same_width = create_drafter(target, "scratch", num_hidden_layers=2)
    expected = target_model.state_dict()
    for name, weight in same_width.state_dict().items():
        assert "norm" in name or not torch.equal(weight, expected[name]), name


def test_embeddings_are_the_targets(target: Target, target_model: PreTrainedModel) -> None:
    """Embeddings that are copied into a head no longer tied, or not at all, would train another model than asked."""
    with pytest.raises(
        InputError, match=r"a drafter from scratch .* other widths than the target: leave hidden_size out"
    ):
        create_drafter(target, "embeddings", num_hidden_layers=1, hidden_size=16)
    drafter = create_drafter(target, "embeddings", num_hidden_layers=1)
    assert torch.equal(drafter.get_input_embeddings().weight, target_model.get_input_embeddings().weight)
    assert drafter.get_output_embeddings().weight is drafter.get_input_embeddings().weight
    assert drafter.dtype == torch.float32
    expected = target_model.model.layers[0].state_dict()
    for name, weight in drafter.model.layers[0].state_dict().items():
        assert "norm" in name or not torch.equal(weight, expected[name]), name


def test_all_layers_give_the_target_itself(target, target_model, untied) -> None:
    """One weight left out of the copy (a norm, the head) would show in the logits, and in nothing else."""
    drafter = create_drafter(target, "layers", num_hidden_layers=4, layers=[0, 1, 2, 3])
    assert torch.equal(logits(drafter), logits(target_model))
    assert torch.equal(logits(from_layers(untied, [0, 1, 2, 3])), logits(untied))


@pytest.mark.parametrize(
    ("given", "meant"),
    [([3, 0], [3, 0]), ([0, -1], [0, 3]), ([2], [2]), ([1, 1, -2], [1, 1, 2])],
)
def test_layers_come_in_the_order_given(target_model: PreTrainedModel, given: list[int], meant: list[int]) -> None:
    """Layers in another order, or counted from the wrong end, would be a worse start that nothing else shows."""
    drafter = from_layers(target_model, given)
    assert_equal_layers(drafter, target_model, meant)
    assert torch.equal(drafter.model.norm.weight, target_model.model.norm.weight)
    assert torch.equal(drafter.get_input_embeddings().weight, target_model.get_input_embeddings().weight)


def test_layers_keep_their_kind_of_attention() -> None:
    """A layer trained on the whole text would otherwise see a window, with other rotations: the first layers' kind."""
    kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    target_model = tiny_model(
        "gemma3_text", vocab_size=300, num_hidden_layers=5, sliding_window=3, layer_types=kinds, pad_token_id=0
    )
    drafter = from_layers(target_model, [2, -2])
    assert drafter.config.layer_types == ["full_attention", "sliding_attention"]
    assert target_model.config.layer_types == kinds  # the target's stays as it was
    whole = from_layers(target_model, range(5))
    assert torch.equal(logits(whole), logits(target_model))


def test_checkpoint_is_loaded_in_fp32_with_the_targets_ids(tmp_path: Path, target: Target, tokenizer) -> None:
    """Half precision would lose small updates; special ids that public checkpoints misstate end drafts too late."""
    stored = make_model(tokenizer, layers=1, seed=5, hidden_size=16).to(torch.bfloat16)
    for config in (stored.config, stored.generation_config):
        config.bos_token_id, config.eos_token_id, config.pad_token_id = 11, 12, 13
    drafter = create_drafter(target, make_checkpoint(tmp_path, stored, tokenizer))
    assert drafter.dtype == torch.float32
    expected = stored.state_dict()
    assert drafter.state_dict().keys() == expected.keys()
    for name, weight in drafter.state_dict().items():
        assert torch.equal(weight, expected[name].float()), name
    for config in (drafter.config, drafter.generation_config):
        assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 0)


@pytest.mark.parametrize("more", [16, -16])
def test_checkpoint_of_another_padding_is_fitted(tmp_path: Path, tokenizer, more: int) -> None:
    """Siblings of one tokenizer have embeddings of several sizes: rejecting them would leave Gemma 3 and Qwen out."""
    known = len(tokenizer)
    target_model, sibling = make_model(tokenizer), make_model(tokenizer, layers=2, seed=5, hidden_size=16)
    (sibling if more > 0 else target_model).resize_token_embeddings(known + abs(more), mean_resizing=False)
    target = Target("tests/padded", "0", make_checkpoint(tmp_path / "target", target_model, tokenizer))
    drafter = create_drafter(target, make_checkpoint(tmp_path / "sibling", sibling, tokenizer))
    assert drafter.config.vocab_size == len(drafter.get_input_embeddings().weight) == target_model.config.vocab_size
    assert torch.equal(logits(drafter)[..., :known], logits(sibling)[..., :known])


def test_some_layers_of_a_sibling(tmp_path: Path, target: Target, tokenizer) -> None:
    """A sibling of 1B parameters is too slow a drafter as a whole; some of its layers must be its own."""
    sibling = make_model(tokenizer, layers=4, seed=5, hidden_size=16)
    checkpoint = make_checkpoint(tmp_path, sibling, tokenizer)
    assert_equal_layers(create_drafter(target, checkpoint, layers=[0, -1]), sibling, [0, 3])
    assert_equal_layers(create_drafter(target, checkpoint, num_hidden_layers=3), sibling, [0, 1, 2])
    assert_equal_layers(create_drafter(target, checkpoint), sibling, [0, 1, 2, 3])


def test_sibling_with_other_added_tokens_is_taken(tmp_path: Path, target: Target, tokenizer) -> None:
    """A base model lacks the chat's tokens of the target and ends otherwise; its vocabulary of text is the same."""
    base = make_tokenizer()
    base.add_tokens(["<|tool|>"])
    base.eos_token = "<|start|>"
    checkpoint = make_checkpoint(tmp_path, make_model(base, layers=1), base)
    drafter = create_drafter(target, checkpoint)
    assert drafter.config.vocab_size == len(tokenizer)
    assert drafter.config.eos_token_id == tokenizer.eos_token_id


def test_checkpoint_of_another_tokenizer_is_rejected(tmp_path: Path, target: Target, tokenizer) -> None:
    """An equal vocabulary size with other tokens drafts garbage, which only shows as a slow target."""
    checkpoint = make_checkpoint(tmp_path, make_model(tokenizer, layers=1), tokenizer)
    swap_two_tokens(tmp_path)
    with pytest.raises(IncompatibleTokenizerError, match="differs from the target's in 2 tokens"):
        create_drafter(target, checkpoint)


def test_known_sibling_is_taken_by_name(tmp_path, target, tokenizer, monkeypatch) -> None:
    """Whoever does not know which model shares the target's tokenizer gets it, or a line that says what to do."""
    sibling = make_model(tokenizer, layers=1, seed=5, hidden_size=16)
    known = make_checkpoint(tmp_path, sibling, tokenizer)
    with pytest.raises(InputError, match="no sibling of tests/tiny-target is known"):
        create_drafter(target, "sibling")
    monkeypatch.setattr("drafter_trainer.drafters.initialization.SIBLINGS", {known: (target.name,)})
    drafter = create_drafter(target, "sibling")
    assert torch.equal(logits(drafter), logits(sibling))
    assert setup_of(drafter).initialization == known


def test_layers_of_a_quantized_target_are_rejected(tmp_path, target_folder, monkeypatch) -> None:
    """FP8 weights without their scales are other weights, and a drafter that says it is quantized does not load."""
    shutil.copytree(target_folder, tmp_path, dirs_exist_ok=True)
    change_json(tmp_path / "config.json", quantization_config={"quant_method": "fp8"})
    monkeypatch.setattr(Target, "load_model", lambda *_: pytest.fail("the target's weights were loaded"))
    target = Target("tests/quantized", "0", str(tmp_path))
    with pytest.raises(InputError, match="tests/quantized are quantized"):
        create_drafter(target)
    assert "quantization_config" not in create_drafter(target, "scratch").config.to_dict()


def test_layers_of_a_multimodal_target(tmp_path: Path, tokenizer) -> None:
    """The text part of a multimodal checkpoint lies under other names, and its drafter is a text model."""
    model = tiny_vision_model(len(tokenizer))
    target = Target("tests/multimodal", "0", make_checkpoint(tmp_path, model, tokenizer))
    drafter = create_drafter(target, layers=[0, 1, 2, 3])
    assert drafter.config.model_type == "gemma3_text"
    torch.testing.assert_close(logits(drafter), logits(model), atol=1e-5, rtol=0)


WEIGHTS = "model.safetensors"
DAMAGES = {
    "nothing there": shutil.rmtree,
    "empty": lambda folder: [path.unlink() for path in folder.iterdir()],
    "no tokenizer": lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "cut weights": lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1000]),
    "bad config": lambda folder: (folder / "config.json").write_text("{", encoding="utf-8"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_unreadable_checkpoint_is_rejected(tmp_path: Path, target: Target, tokenizer, damage: Callable) -> None:
    """A wrong path or a half copied folder must end in one line, not in a traceback out of a library."""
    folder = make_checkpoint(tmp_path / "checkpoint", make_model(tokenizer, layers=1), tokenizer)
    damage(Path(folder))
    with pytest.raises(InputError) as caught:
        create_drafter(target, folder)
    assert str(caught.value).startswith(f"{folder} is neither")


@pytest.mark.parametrize("way", ["scratch", "embeddings", "layers"])
def test_frozen_embeddings_leave_the_layers_to_train(tmp_path, target, untied, tokenizer, way) -> None:
    """Too much frozen trains nothing; too little spends memory, or trains an untied head unnoticed."""
    given = {"initialization": way, "num_hidden_layers": 1, "layers": [0]}
    of_untied = Target("tests/untied", "0", make_checkpoint(tmp_path, untied, tokenizer))
    matrices = {"model.embed_tokens.weight"}, {"model.embed_tokens.weight", "lm_head.weight"}
    for each, expected in zip((target, of_untied), matrices):
        frozen = create_drafter(each, freeze_embeddings=True, **given).named_parameters()
        assert {name for name, weight in frozen if not weight.requires_grad} == expected
        assert all(weight.requires_grad for weight in create_drafter(each, **given).parameters())


def test_draft_vocabulary_below_zero_is_rejected(target_model: PreTrainedModel) -> None:
    """It would fail only in training, after the distillation."""
    with pytest.raises(InputError, match=r"draft_vocabulary must be at least 0 \(0 for all ids\), got -3"):
        create_drafter(target_model, draft_vocabulary=-3)


def test_layers_that_do_not_exist_are_rejected(target_model: PreTrainedModel) -> None:
    """A layer that does not exist must not become a random one."""
    for layers in ([], [0, 4], [-5, 0]):
        with pytest.raises(InputError, match="layers"):
            from_layers(target_model, layers)


# The configuration

SMALL = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 8}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
SMALL |= {"bos_token_id": 3, "eos_token_id": 4, "pad_token_id": 5}


@pytest.mark.parametrize("family", [LlamaConfig, GemmaConfig, Qwen3Config, Gemma3TextConfig])
@pytest.mark.parametrize("layers", [1, 8])
def test_drafter_is_the_target_with_fewer_layers(family: type[PretrainedConfig], layers: int) -> None:
    """Other ids make a drafter useless, and lists shared with the target would shrink the target."""
    target_config = family(**SMALL)
    before, types = copy.deepcopy(target_config.to_dict()), getattr(target_config, "layer_types", None)
    config = draft_config(target_config, layers)
    assert (type(config), config.num_hidden_layers) == (family, layers)
    for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "hidden_size"):
        assert getattr(config, name) == getattr(target_config, name), name
    if types:
        assert config.layer_types == types[:layers]
    model = AutoModelForCausalLM.from_config(config)
    assert len(model.model.layers) == layers
    assert model(input_ids=torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 50)
    narrow = draft_config(target_config, layers, hidden_size=16, intermediate_size=24)
    for each in (config, narrow):
        each.rope_parameters["marked"] = 1
        if types:
            each.layer_types[0] = "marked"
    assert target_config.to_dict() == before


def test_other_heads_divide_the_width_among_them() -> None:
    """The target's head width under another number of heads would give attention of an unforeseen size."""
    target_config = LlamaConfig(**SMALL)
    assert draft_config(target_config, 1, num_attention_heads=2).head_dim == 16
    assert draft_config(target_config, 1, hidden_size=64, num_attention_heads=8).head_dim == 8
    assert draft_config(target_config, 1, num_attention_heads=2, head_dim=12).head_dim == 12
    assert draft_config(target_config, 1).head_dim == target_config.head_dim


@pytest.mark.parametrize(
    ("family", "widths", "named"),
    [
        # transformers accepts these and fails in the first forward pass.
        (LlamaConfig, {"num_attention_heads": 1}, "num_attention_heads 1 is no multiple of num_key_value_heads 2"),
        (LlamaConfig, {"num_key_value_heads": 3}, "num_attention_heads 4 is no multiple of num_key_value_heads 3"),
        (LlamaConfig, {"num_attention_heads": 6}, "not a multiple of the number of attention heads"),
        (Gemma3TextConfig, {"num_hidden_layers": 9}, r"`num_hidden_layers` \(9\) must be equal to the number of"),
    ],
)
def test_impossible_shape_is_rejected(family: type[PretrainedConfig], widths: dict[str, int], named: str) -> None:
    """A shape that no model of the family has must end in a line that names it, not in a traceback."""
    with pytest.raises(InputError, match=named):
        draft_config(family(**SMALL), **{"num_hidden_layers": 2, **widths})


LAYERS = 5


@pytest.fixture
def searched(tokenizer) -> PreTrainedModel:
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    given = {"vocab_size": len(tokenizer), "num_hidden_layers": LAYERS, "layer_types": kinds}
    model = tiny_model("gemma3_text", **given, initializer_range=0.02)
    for layer in (1, 3):  # nothing is added to what they are given
        for matrix in (model.model.layers[layer].self_attn.o_proj, model.model.layers[layer].mlp.down_proj):
            torch.nn.init.zeros_(matrix.weight)
    return model


def greedy_rows(model: PreTrainedModel) -> list[dict[str, list[int]]]:
    rows = []
    for prompt in ([5, 6, 7, 8], [20, 21], [30, 31, 32, 33, 34, 35]):
        ids = model.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False, eos_token_id=None)[0].tolist()
        rows.append({"prompt_ids": prompt, "response_ids": ids[len(prompt) :]})
    return rows


def test_layers_that_do_nothing_go_first_and_the_target_stays_whole(searched: PreTrainedModel) -> None:
    """Prevent layers that matter from being removed, and a search from leaving the target without its layers."""
    rows = greedy_rows(searched)
    layers, config = list(searched.model.layers), searched.config.to_dict()
    before = searched(input_ids=torch.tensor([[5, 6, 7]])).logits
    assert search_layers(searched, rows, 3, batch_size=2) == [0, 2, 4]
    assert search_layers(searched, rows, LAYERS) == [0, 1, 2, 3, 4]
    assert list(searched.model.layers) == layers
    assert searched.config.to_dict() == config
    assert torch.equal(searched(input_ids=torch.tensor([[5, 6, 7]])).logits, before)


def test_bad_searches_are_rejected(searched: PreTrainedModel) -> None:
    """An empty comparison would choose layers by nothing."""
    with pytest.raises(InputError, match="has 5 layers to choose from"):
        search_layers(searched, greedy_rows(searched), 6)
    with pytest.raises(InputError, match="no rows with a prompt and a completion"):
        search_layers(searched, [{"prompt_ids": [5], "response_ids": []}], 2)
