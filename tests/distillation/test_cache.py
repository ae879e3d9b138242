"""The cache of a running batch: what the model reads from it is what was written for the row."""

import pytest
import torch
from transformers import Lfm2Config, Lfm2ForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from drafter_trainer.distillation import cache
from drafter_trainer.distillation.cache import RoomyLayer, roomy_cache

ROWS, HEADS, WIDTH = 3, 2, 4
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}


def states(tokens: int, rows: int = ROWS) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw keys and values."""
    keys, values = torch.randn(2, rows, HEADS, tokens, WIDTH)
    return keys, values


def filled(tokens: int, rows: int = ROWS) -> RoomyLayer:
    """A layer that has read prompts."""
    layer = RoomyLayer()
    layer.update(*states(tokens, rows))
    return layer


@pytest.fixture(autouse=True)
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let buffers be full after four tokens."""
    torch.manual_seed(0)
    monkeypatch.setattr(cache, "_ROOM", 4)


def test_tokens_stand_behind_each_other_as_in_the_librarys_layer() -> None:
    """Prevent a column that is overwritten, left out or lost when the buffers are full."""
    roomy, plain = RoomyLayer(), DynamicLayer()
    for tokens in (5, *[1] * 11, 9, 3):
        new = states(tokens)
        for said, expected in zip(roomy.update(*new), plain.update(*new)):
            torch.testing.assert_close(said, expected, rtol=0, atol=0)
        assert roomy.get_seq_length() == plain.get_seq_length()
        assert roomy.get_mask_sizes(1) == plain.get_mask_sizes(1)


def test_a_prompt_takes_its_row_and_no_other() -> None:
    """Prevent a prompt that is put at other columns or heads than it was read at, or over a neighbour's."""
    layer, read = filled(6), filled(4, rows=2)
    layer.update(*states(1))
    before = layer.keys.clone(), layer.values.clone()
    layer.put(torch.tensor([2, 0]), read, torch.tensor([0, 1]))
    for now, old, new in zip((layer.keys, layer.values), before, (read.keys, read.values)):
        assert torch.equal(now[1], old[1])
        assert torch.equal(now[2, :, -4:], new[0])
        assert torch.equal(now[0, :, -4:], new[1])
    column = states(1)
    keys, _ = layer.update(*column)
    assert torch.equal(keys[2, :, -5:], torch.cat([read.keys[0], column[0][2]], dim=-2))


def test_a_shared_beginning_moves_up_to_each_rows_rest() -> None:
    """Prevent padding from staying between the beginning of a prompt and its rest, or a beginning from being lost."""
    prefix, rest = states(3, rows=1), states(4)
    layer = RoomyLayer()
    layer.update(*(part.expand(ROWS, -1, -1, -1) for part in prefix))
    layer.update(*rest)
    layer.close_gaps(3, [2, 0, 3])
    for now, first, behind in zip((layer.keys, layer.values), prefix, rest):
        for row, gap in enumerate([2, 0, 3]):
            assert torch.equal(now[row, :, gap:], torch.cat([first[0], behind[row, :, gap:]], dim=-2))


def windowed_model() -> PreTrainedModel:
    """A model whose layers see eight tokens."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=400, num_hidden_layers=2, sliding_window=8, head_dim=8, initializer_range=0.3, **SIZES
    )
    return MistralForCausalLM(config).eval()


def recurrent_model() -> PreTrainedModel:
    """A model of which one layer has a state in place of columns."""
    torch.manual_seed(0)
    config = Lfm2Config(
        vocab_size=400,
        num_hidden_layers=2,
        layer_types=["conv", "full_attention"],
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **SIZES,
    )
    return Lfm2ForCausalLM(config).eval()


def test_only_attention_layers_are_replaced() -> None:
    """Prevent a recurrent state from being taken for keys and values."""
    assert [type(layer) is RoomyLayer for layer in roomy_cache(windowed_model()).layers] == [True, True]
    assert [type(layer) is RoomyLayer for layer in roomy_cache(recurrent_model()).layers] == [False, True]
